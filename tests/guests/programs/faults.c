/*
 * What a program sees of the processor when things go wrong: signals, their codes, trap numbers and registers, single
 * stepping, vector state over signals and switches. Run natively and in a guest, it must print the same.
 */
#include <immintrin.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define NONCANONICAL 0x800000000000ull
#define ARITHMETIC 0xcd5 /* CF PF AF ZF SF DF OF */

static sigjmp_buf back;
static volatile struct {
	int sig, code;
	long long trap, error, flags, rcx, rsi, rdi, rdx, rip_offset;
} seen;
static volatile uint64_t fault_code; /* where the case's code is */
static uint8_t *readonly, *page;     /* a page each; nothing is mapped behind `page` */

static void on_signal(int sig, siginfo_t *info, void *context)
{
	const greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	seen.sig = sig;
	seen.code = info->si_code;
	seen.trap = g[REG_TRAPNO];
	seen.error = g[REG_ERR];
	seen.flags = g[REG_EFL] & ARITHMETIC;
	seen.rcx = g[REG_RCX];
	seen.rsi = g[REG_RSI];
	seen.rdi = g[REG_RDI];
	seen.rdx = g[REG_RDX];
	siglongjmp(back, 1);
}

/* ---- one instruction each that may fault ---------------------------------------------------- */

#define CASE(name, ...) \
	static void name(void) { __asm__ volatile(__VA_ARGS__); }

CASE(divide_by_zero, "xor %%ecx, %%ecx; mov $1, %%eax; cdq; idiv %%ecx" ::: "rax", "rcx", "rdx")
CASE(divide_overflow, "mov $-1, %%ecx; mov $0x80000000, %%eax; cdq; idiv %%ecx" ::: "rax", "rcx", "rdx")
CASE(read_null, "mov 8, %%al" ::: "rax")
CASE(write_readonly, "movb $1, (%0)" ::"r"(readonly) : "memory")
CASE(write_across_end, "movq $1, 4092(%0)" ::"r"(page) : "memory")
CASE(read_across_end, "mov 4093(%0), %%eax" ::"r"(page) : "rax")
CASE(add_across_end, "addq $1, 4090(%0)" ::"r"(page) : "memory")
CASE(lock_across_end, "lock addl $1, 4094(%0)" ::"r"(page) : "memory")
CASE(read_noncanonical, "mov (%0), %%al" ::"r"(NONCANONICAL) : "rax")
CASE(push_noncanonical, "mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; mov %%rbx, %%rsp" ::"r"(NONCANONICAL << 1) : "rbx")
CASE(pushf_readonly, "mov %%rsp, %%rbx; lea 64(%0), %%rsp; pushf; mov %%rbx, %%rsp" ::"r"(readonly) : "rbx")
CASE(call_readonly_stack,
     "mov %%rsp, %%rbx; lea 64(%0), %%rsp; call 1f; 1: mov %%rbx, %%rsp" ::"r"(readonly) : "rbx", "memory")
CASE(execute_data, "call *%0" ::"r"(page) : "memory")
CASE(jump_noncanonical, "jmp *%0" ::"r"(NONCANONICAL))
CASE(jump_kernel, "jmp *%0" ::"r"(0xffff800000000000))
CASE(read_kernel, "mov (%0), %%al" ::"r"(0xffff800000000000) : "rax")
CASE(ud2, "ud2")
CASE(int3, "int3")
CASE(int1, ".byte 0xf1")
CASE(int_0x90, "int $0x90")
CASE(into, ".byte 0xce")
CASE(hlt, "hlt")
CASE(cli, "cli")
CASE(in_byte, "in $0x80, %%al" ::: "rax")
CASE(out_string, "mov $0x80, %%edx; mov %0, %%rsi; outsb" ::"r"(page) : "rdx", "rsi")
CASE(rdmsr, "mov $0x10, %%ecx; rdmsr" ::: "rax", "rcx", "rdx")
CASE(read_cr0, "mov %%cr0, %%rax" ::: "rax")
CASE(read_dr7, "mov %%dr7, %%rax" ::: "rax")
CASE(lgdt, "lgdt (%0)" ::"r"(page))
CASE(invlpg, "invlpg (%0)" ::"r"(page))
CASE(swapgs, "swapgs")
CASE(sysretq, "sysretq")
CASE(iretq_to_kernel, "push $0; push $0; push $2; push $8; push $0; iretq")
CASE(clac, "clac")
CASE(rdpmc, "xor %%ecx, %%ecx; rdpmc" ::: "rax", "rcx", "rdx")
CASE(ds_bad, "mov $0x1234, %%eax; mov %%eax, %%ds" ::: "rax")
CASE(ds_null, "xor %%eax, %%eax; mov %%eax, %%ds" ::: "rax")
CASE(es_kernel, "mov $0x10, %%eax; mov %%eax, %%es" ::: "rax")
CASE(ss_null, "xor %%eax, %%eax; mov %%eax, %%ss" ::: "rax")
CASE(lock_register, ".byte 0xf0, 0x01, 0xc0")
CASE(too_long, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
CASE(movaps_misaligned, "movaps 1(%0), %%xmm0" ::"r"(page) : "xmm0")
CASE(movdqu_across_end, "movdqu 4090(%0), %%xmm0" ::"r"(page) : "xmm0")
CASE(xrstor_misaligned, "mov $7, %%eax; xor %%edx, %%edx; xrstor 1(%0)" ::"r"(page) : "rax", "rdx")
CASE(fxrstor_misaligned, "fxrstor 8(%0)" ::"r"(page))
CASE(cmpxchg16b_misaligned, "cmpxchg16b 8(%0)" ::"r"(page) : "rax", "rbx", "rcx", "rdx", "memory")
CASE(movs_into_end, "mov %0, %%rsi; lea 4000(%0), %%rdi; mov $200, %%ecx; rep movsb" ::"r"(page) : "rsi", "rdi", "rcx", "memory")
CASE(movs_down_into_null, "std; mov %0, %%rsi; mov $3, %%edi; mov $9, %%ecx; rep movsb; cld" ::"r"(page) : "rsi", "rdi", "rcx", "memory")
CASE(scas_into_end,
     "mov $0x77, %%al; lea 4090(%0), %%rdi; mov $100, %%ecx; repne scasb" ::"r"(page) : "rax", "rdi", "rcx")
CASE(flags_carry, "mov $-1, %%edx; add $1, %%edx; mov 8, %%eax" ::: "rax", "rdx")
CASE(flags_overflow, "mov $0x7fffffff, %%edx; add $1, %%edx; mov 8, %%eax" ::: "rax", "rdx")
CASE(flags_kept_by_lea, "xor %%edx, %%edx; stc; lea 1(%%rdx), %%rdx; mov 8, %%eax" ::: "rax", "rdx")
CASE(syscall_keeps_carry, "stc; mov $39, %%eax; syscall; jnc 1f; ud2; 1:" ::: "rax", "rcx", "r11")
CASE(fs_base, "rdfsbase %%rax; wrfsbase %%rax" ::: "rax")

static void mxcsr_reserved(void)
{
	uint32_t mxcsr = 0xffffffff;

	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

static void sse_divide_by_zero(void)
{
	uint32_t mxcsr = 0x1f80 & ~0x200u;

	__asm__ volatile("ldmxcsr %0; xorps %%xmm1, %%xmm1; mov $0x3f800000, %%eax; movd %%eax, %%xmm0; divss %%xmm1, %%xmm0"
			 : : "m"(mxcsr) : "rax", "xmm0", "xmm1");
}

static void x87_divide_by_zero(void)
{
	uint16_t control = 0x37b;

	__asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(control));
}

static const struct {
	const char *name;
	void (*run)(void);
	int registers; /* bits: 1 flags, 2 rcx rsi rdi, 4 rdx */
} cases[] = {
#define ROW(name, registers) {#name, name, registers}
	ROW(divide_by_zero, 0), ROW(divide_overflow, 0), ROW(read_null, 0), ROW(write_readonly, 0),
	ROW(write_across_end, 0), ROW(read_across_end, 0), ROW(add_across_end, 0), ROW(lock_across_end, 0),
	ROW(read_noncanonical, 0), ROW(push_noncanonical, 0), ROW(pushf_readonly, 0), ROW(call_readonly_stack, 0),
	ROW(execute_data, 0), ROW(jump_noncanonical, 0), ROW(jump_kernel, 0), ROW(read_kernel, 0), ROW(ud2, 0),
	ROW(int3, 0), ROW(int1, 0), ROW(int_0x90, 0), ROW(into, 0), ROW(hlt, 0), ROW(cli, 0), ROW(in_byte, 0),
	ROW(out_string, 0), ROW(rdmsr, 0), ROW(read_cr0, 0), ROW(read_dr7, 0), ROW(lgdt, 0), ROW(invlpg, 0),
	ROW(swapgs, 0), ROW(sysretq, 0), ROW(iretq_to_kernel, 0), ROW(clac, 0), ROW(rdpmc, 0), ROW(ds_bad, 0),
	ROW(ds_null, 0), ROW(es_kernel, 0), ROW(ss_null, 0), ROW(lock_register, 0), ROW(too_long, 0),
	ROW(movaps_misaligned, 0), ROW(movdqu_across_end, 0), ROW(xrstor_misaligned, 0), ROW(fxrstor_misaligned, 0),
	ROW(cmpxchg16b_misaligned, 0), ROW(movs_into_end, 2), ROW(movs_down_into_null, 3), ROW(scas_into_end, 2),
	ROW(flags_carry, 5), ROW(flags_overflow, 5), ROW(flags_kept_by_lea, 5), ROW(syscall_keeps_carry, 0),
	ROW(fs_base, 0), ROW(mxcsr_reserved, 0), ROW(sse_divide_by_zero, 0), ROW(x87_divide_by_zero, 0),
#undef ROW
};

static void run_case(unsigned i)
{
	uint32_t mxcsr = 0x1f80;

	seen.sig = 0;
	if (!sigsetjmp(back, 1))
		cases[i].run();
	__asm__ volatile("cld; fninit; ldmxcsr %0" : : "m"(mxcsr));
	if (!seen.sig) {
		printf("%s: no signal\n", cases[i].name);
		return;
	}
	printf("%s: signal %d code %d trap %lld error %llx", cases[i].name, seen.sig, seen.code, seen.trap, seen.error);
	if (cases[i].registers & 1)
		printf(" flags %llx", seen.flags);
	if (cases[i].registers & 2) /* page addresses differ from run to run */
		printf(" rcx %lld rsi %llx rdi %llx", seen.rcx, seen.rsi & 0xfff, seen.rdi & 0xfff);
	if (cases[i].registers & 4)
		printf(" rdx %llx", seen.rdx);
	printf("\n");
}

/* ---- single steps ------------------------------------------------------------------------------ */

static volatile int steps;

static void on_step(int sig) { steps++; }

static void single_steps(void)
{
	struct sigaction trap = {.sa_handler = on_step};

	sigaction(SIGTRAP, &trap, NULL);
	__asm__ volatile("pushf; orq $0x100, (%%rsp); popf; nop; mov %%rsp, %%rax; xor %%eax, %%eax; cpuid;"
			 "pushf; andq $~0x100, (%%rsp); popf; nop" : : : "rax", "rbx", "rcx", "rdx", "memory");
	printf("steps: %d\n", steps);
	steps = 0;
	__asm__ volatile("mov %0, %%rdi; mov $5, %%ecx; pushf; orq $0x100, (%%rsp); popf; rep stosb;"
			 "pushf; andq $~0x100, (%%rsp); popf; nop" : : "r"(page) : "rdi", "rcx", "memory");
	printf("steps of rep stosb: %d\n", steps);
	steps = 0;
	__asm__ volatile("mov $39, %%eax; pushf; orq $0x100, (%%rsp); popf; syscall;"
			 "pushf; andq $~0x100, (%%rsp); popf; nop" : : : "rax", "rcx", "r11", "memory");
	printf("steps over syscall: %d\n", steps);
}

static void traced_steps(void)
{
	struct user_regs_struct regs;
	int status, n = 0;
	pid_t child = fork();

	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(1);
		__asm__ volatile("int3; mov $39, %%eax; syscall; mov $10, %%ecx; 1: loop 1b; int3" : : : "rax", "rcx", "r11");
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (!WIFSTOPPED(status)) {
		printf("ptrace: not available\n");
		return;
	}
	do {
		ptrace(PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
		n++;
		if (!WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, child, 0, &regs))
			break;
	} while ((ptrace(PTRACE_PEEKTEXT, child, (void *)regs.rip, 0) & 0xff) != 0xcc);
	printf("ptrace: %d steps\n", n);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

/* ---- vector state -------------------------------------------------------------------------------- */

static void on_alarm(int sig)
{
	/* Whatever a handler does to the registers must not reach what it interrupted. */
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15; fninit; fldpi" : : : "xmm0", "xmm15");
}

/* Two processes on one processor, with signals, each with its own values in every register: none may change. */
static void vector_state(void)
{
	struct sigaction alarm_action = {.sa_handler = on_alarm};
	uint64_t want[8][4], got[8][4];
	cpu_set_t one;
	int status, wrong = 0, i;
	pid_t child;

	if (!__builtin_cpu_supports("avx2")) {
		printf("vector state: no AVX2\n");
		return;
	}
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	sigaction(SIGALRM, &alarm_action, NULL);
	child = fork();
	for (i = 0; i < 32; i++)
		want[i / 4][i % 4] = (uint64_t)(i + 1) * 0x0101010101010101 + (child ? 0 : 0x8000000000000000);
	for (i = 0; i < 2000; i++) {
		if (i % 100 == 0)
			raise(SIGALRM);
		__asm__ volatile(
			"vmovdqu (%0), %%ymm8; vmovdqu 32(%0), %%ymm9; vmovdqu 64(%0), %%ymm10; vmovdqu 96(%0), %%ymm11;"
			"vmovdqu 128(%0), %%ymm12; vmovdqu 160(%0), %%ymm13; vmovdqu 192(%0), %%ymm14; vmovdqu 224(%0), %%ymm15;"
			"mov $24, %%eax; syscall;" /* sched_yield */
			"vmovdqu %%ymm8, (%1); vmovdqu %%ymm9, 32(%1); vmovdqu %%ymm10, 64(%1); vmovdqu %%ymm11, 96(%1);"
			"vmovdqu %%ymm12, 128(%1); vmovdqu %%ymm13, 160(%1); vmovdqu %%ymm14, 192(%1); vmovdqu %%ymm15, 224(%1);"
			"vzeroupper"
			: : "r"(want), "r"(got)
			: "rax", "rcx", "r11", "memory", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
		wrong += memcmp(want, got, sizeof(want)) != 0;
	}
	if (!child)
		_exit(wrong != 0);
	waitpid(child, &status, 0);
	printf("vector state: %d wrong here, child %d\n", wrong, status);
}

__attribute__((target("avx2"))) static void gather(void)
{
	static int table[64], out[8];
	__m256i index;
	int i, sum = 0;

	if (!__builtin_cpu_supports("avx2")) {
		printf("gather: no AVX2\n");
		return;
	}
	for (i = 0; i < 64; i++)
		table[i] = i * i;
	__asm__ volatile("vpcmpeqd %%ymm1, %%ymm1, %%ymm1; vpsrld $31, %%ymm1, %0; vpslld $4, %0, %0" : "=x"(index) : : "xmm1");
	__asm__ volatile("vpcmpeqd %%ymm2, %%ymm2, %%ymm2; vpgatherdd %%ymm2, 8(%1, %2, 2), %%ymm0; vmovdqu %%ymm0, (%0);"
			 "vzeroupper" : : "r"(out), "r"(table), "x"(index) : "xmm0", "xmm2", "memory");
	for (i = 0; i < 8; i++)
		sum += out[i];
	printf("gather: %d\n", sum);
}

/* ---- code that changes ------------------------------------------------------------------------------ */

static void changing_code(void)
{
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long sum = 0;
	int i;

	if (code == MAP_FAILED) {
		printf("changing code: no writable code\n");
		return;
	}
	for (i = 0; i < 5000; i++) {
		code[0] = 0xb8; /* mov eax, i; ret */
		memcpy(code + 1, &i, 4);
		code[5] = 0xc3;
		sum += ((int (*)(void))code)();
	}
	/* An instruction that changes the one behind it: mov byte [rip + 1], 7; mov al, 3; ret */
	memcpy(code, (const uint8_t[]){0x31, 0xc0, 0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 3, 0xc3}, 12);
	printf("changing code: %ld %d\n", sum, ((int (*)(void))code)());
}

int main(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
	unsigned i;

	setvbuf(stdout, NULL, _IONBF, 0);
	sigaltstack(&stack, NULL);
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	readonly = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		run_case(i);
	gather();
	changing_code();
	vector_state();
	single_steps();
	traced_steps();
	printf("end\n");
	return 0;
}
