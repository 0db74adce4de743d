/* Fast system calls, swapgs, and the bases of fs and gs. */
#include "k.h"

#define HOLE 0x8000000000000000ul
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

CODE(u_syscall, "syscall\n\tu_syscall_end: " DONE);
CODE(k_entry, "mov %ss, %edx\n\tmov %cs, %esi\n\tpushf\n\tpop %rdi\n\t" DONE);
CODE(k_entry32, "mov $0x32, %eax\n\t" DONE);
CODE(u_syscall32, ".code32\n\tsyscall\n\tu_syscall32_end: " DONE ".code64\n\t");
CODE(k_sysret, "sysretq\n\t");
CODE(k_sysretl, "sysretl\n\t");
CODE(u_target, "mov %ss, %edx\n\tmov %cs, %esi\n\tpushf\n\tpop %rdi\n\t" DONE);
CODE(u_sysenter, "sysenter\n\tu_sysenter_end: " DONE);
CODE(k_sysexit, "sysexitq\n\t");
LABEL(u_syscall_end);
LABEL(u_syscall32_end);

static uint64_t saved[4];

static void setup(void)
{
	static bool once;

	if (!once)
		for (unsigned i = 0; i < 4; i++)
			saved[i] = rdmsr(MSR_STAR + i);
	once = true;
	wrmsr(MSR_STAR, (uint64_t)(SEL_USER32) << 48 | (uint64_t)SEL_CODE64 << 32);
	wrmsr(MSR_LSTAR, (uint64_t)k_entry);
	wrmsr(MSR_CSTAR, (uint64_t)k_entry32);
	wrmsr(MSR_SFMASK, 0);
}

/* ---- syscall ----------------------------------------------------------------------------- */

static void syscall_from_ring_3(void)
{
	struct regs r;

	setup();
	r = regs3(u_syscall);
	uint64_t rsp = r.rsp;
	r.rsp = rsp;
	r.rflags |= FLAG_CF | FLAG_DF | FLAG_IF | FLAG_ID;
	wrmsr(MSR_SFMASK, FLAG_DF | FLAG_IF);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rcx, (uint64_t)u_syscall_end);
	SAME(r.r11, FLAG_CF | FLAG_DF | FLAG_IF | FLAG_ID | FLAGS_FIXED);
	SAME(r.rsp, rsp);
	SAME(r.rip - (uint64_t)k_entry < 32, 1);
	SAME(r.cs, SEL_CODE64);
	SAME(r.ss, SEL_DATA);
	SAME(r.rdx & 0xffff, SEL_DATA);
	SAME(r.rdi, FLAG_CF | FLAG_ID | FLAGS_FIXED);
	/* From ring 0 as well. */
	EXPECT(run0(u_syscall, 0), EX_DONE);
	/* RF is cleared in r11; the mask takes any flag. */
	wrmsr(MSR_SFMASK, 0xffffffff);
	r = regs3(u_syscall);
	r.rflags |= FLAG_CF | FLAG_AC | FLAG_OF | FLAG_RF | FLAG_ID;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.r11, FLAG_CF | FLAG_AC | FLAG_OF | FLAG_ID | FLAGS_FIXED);
	SAME(r.rdi, FLAGS_FIXED);
}

static void syscall_disabled(void)
{
	setup();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ul);
	EXPECT(run3(u_syscall, 0), EX_UD);
	EXPECT(run0(u_syscall, 0), EX_UD);
	EXPECT(run0(k_sysret, 0), EX_UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	EXPECT(run3(u_syscall, 0), EX_DONE);
}

static void syscall_from_compatibility_mode(void)
{
	struct regs r;

	setup();
	r = regs3(u_syscall32);
	r.cs = SEL_USER32;
	if (cpu_is_amd()) {
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 0x32);
		SAME(r.rcx, (uint64_t)u_syscall32_end);
		SAME(r.cs, SEL_CODE64);
	} else {
		EXPECT(run_regs(&r), EX_UD);
	}
}

/* The selectors are STAR's, whatever its low bits; the hidden parts are fixed, whatever the descriptors. */
static void syscall_loads_fixed_segments(void)
{
	uint64_t *gdt = cpu_gdt(), code = gdt[SEL_TEST / 8], data = gdt[SEL_TEST / 8 + 1];
	struct regs r;

	setup();
	wrmsr(MSR_STAR, (uint64_t)SEL_USER32 << 48 | (uint64_t)(SEL_TEST | 3) << 32);
	gdt[SEL_TEST / 8] = 0;
	gdt[SEL_TEST / 8 + 1] = 0;
	r = regs3(u_syscall);
	/* VECTOR_DONE's gate leads back to SEL_CODE64 with all in order again. */
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.cs, SEL_TEST);
	SAME(r.ss, SEL_TEST + 8);
	gdt[SEL_TEST / 8] = code;
	gdt[SEL_TEST / 8 + 1] = data;
}

/* ---- sysret ---------------------------------------------------------------------------------- */

static void sysret_to_ring_3(void)
{
	struct regs r;

	setup();
	r = regs0(k_sysret);
	uint64_t rsp = regs3(u_target).rsp;
	r.rsp = rsp;
	r.rcx = (uint64_t)u_target;
	r.r11 = FLAG_CF | FLAG_IF | FLAG_ID | FLAG_RF | 0x20000; /* VM */
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.cs, SEL_USER64);
	SAME(r.ss, SEL_USER_DATA);
	SAME(r.rdx & 0xffff, SEL_USER_DATA);
	SAME(r.rsp, rsp);
	SAME(r.rdi, FLAG_CF | FLAG_IF | FLAG_ID | FLAGS_FIXED);
	r = regs0(k_sysretl);
	r.rsp = rsp;
	r.rcx = (uint64_t)u_target | 0xffff00000000ul;
	r.r11 = FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.cs, SEL_USER32);
	SAME(r.ss, SEL_USER_DATA);
	r = regs3(k_sysret);
	r.rcx = (uint64_t)u_target;
	EXPECT(run_regs(&r), EX_GP(0));
}

static void sysret_not_canonical(void)
{
	struct regs r;

	setup();
	r = regs0(k_sysret);
	r.rcx = HOLE;
	r.r11 = FLAGS_FIXED;
	EXPECT(run_regs(&r), EX_GP(0));
	if (cpu_is_amd()) { /* the target faults, at ring 3 (APM vol. 3, SYSRET) */
		SAME(r.cs, SEL_USER64);
		SAME(r.rip, HOLE);
	} else { /* the instruction faults, at ring 0 (SDM vol. 2, SYSRET) */
		SAME(r.cs, SEL_CODE64);
		SAME(r.rip, (uint64_t)k_sysret);
	}
}

static void there_and_back(void)
{
	/* syscall, the kernel counts in rax and returns, a thousand times. */
	extern char loop_user[], loop_kernel[];
	__asm__(".pushsection .user\n\tloop_user: mov $1000, %ebx\n\t1: syscall\n\tdec %ebx\n\tjnz 1b\n\t" DONE
		"loop_kernel: inc %rax\n\tsysretq\n\t.popsection");
	struct regs r;

	setup();
	wrmsr(MSR_LSTAR, (uint64_t)loop_kernel);
	wrmsr(MSR_SFMASK, FLAG_IF);
	r = regs3(loop_user);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 1000);
	SAME(r.cs, SEL_USER64);
	CHECK(r.rflags & FLAG_IF);
}

static void msrs(void)
{
	uint64_t v;

	setup();
	EXPECT(wrmsr_try(MSR_LSTAR, HOLE), EX_GP(0));
	EXPECT(wrmsr_try(MSR_CSTAR, HOLE), EX_GP(0));
	EXPECT(wrmsr_try(MSR_FS_BASE, HOLE), EX_GP(0));
	EXPECT(wrmsr_try(MSR_GS_BASE, HOLE), EX_GP(0));
	EXPECT(wrmsr_try(MSR_KERNEL_GS_BASE, HOLE), EX_GP(0));
	EXPECT(wrmsr_try(MSR_LSTAR, 0xffff800000001234), EX_DONE);
	EXPECT(rdmsr_try(MSR_LSTAR, &v), EX_DONE);
	SAME(v, 0xffff800000001234);
	EXPECT(rdmsr_try(MSR_STAR, &v), EX_DONE);
	SAME(v >> 32, (uint64_t)SEL_USER32 << 16 | SEL_CODE64);
	setup();
}

/* ---- sysenter ------------------------------------------------------------------------------------ */

static void sysenter(void)
{
	struct regs r;

	wrmsr(0x174, SEL_CODE64);
	wrmsr(0x175, cpu_stack(0) - 512);
	wrmsr(0x176, (uint64_t)k_entry);
	r = regs3(u_sysenter);
	r.rflags |= FLAG_IF;
	if (cpu_is_amd()) { /* legacy mode only (APM vol. 3, SYSENTER) */
		EXPECT(run_regs(&r), EX_UD);
		EXPECT(run0(k_sysexit, 0), EX_UD);
	} else {
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rip - (uint64_t)k_entry < 32, 1);
		SAME(r.cs, SEL_CODE64);
		SAME(r.rsp, cpu_stack(0) - 512);
		CHECK(!(r.rflags & FLAG_IF));
		r = regs0(k_sysexit);
		r.rdx = (uint64_t)u_target;
		r.rcx = regs3(u_target).rsp;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.cs, SEL_CODE64 + 32 + 3);
		wrmsr(0x174, 0);
		r = regs3(u_sysenter);
		EXPECT(run_regs(&r), EX_GP(0));
	}
	wrmsr(0x174, 0);
}

/* ---- bases of fs and gs ----------------------------------------------------------------------------- */

CODE(b_swapgs, "swapgs\n\t" DONE);
CODE(b_load_gs, "mov %gs:8, %rax\n\t" DONE);
CODE(b_load_fs, "mov %fs:(%rdi), %rax\n\t" DONE);
CODE(b_load_gs32, "mov %gs:(%edi), %rax\n\t" DONE);
CODE(b_rdfs, "rdfsbase %rax\n\t" DONE);
CODE(b_rdfs32, "mov $-1, %rax\n\trdfsbase %eax\n\t" DONE);
CODE(b_rdgs, "rdgsbase %rax\n\t" DONE);
CODE(b_wrfs, "wrfsbase %rdi\n\t" DONE);
CODE(b_wrfs32, "wrfsbase %edi\n\t" DONE);
CODE(b_wrgs, "wrgsbase %rdi\n\t" DONE);
CODE(b_lea, ".byte 0x65\n\tlea 8(%rdi), %rax\n\t" DONE);
CODE(b_fs, "mov %edi, %fs\n\t" DONE);

static void swapgs_and_bases(void)
{
	uint64_t *a = page_alloc(), *b = page_alloc();
	struct regs r;

	a[1] = 0xa;
	b[1] = 0xb;
	wrmsr(MSR_GS_BASE, (uint64_t)a);
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)b);
	r = regs0(b_load_gs);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xa);
	EXPECT(run0(b_swapgs, 0), EX_DONE);
	SAME(rdmsr(MSR_GS_BASE), (uint64_t)b);
	SAME(rdmsr(MSR_KERNEL_GS_BASE), (uint64_t)a);
	r = regs0(b_load_gs);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xb);
	wrmsr(MSR_FS_BASE, (uint64_t)a - 0x1000);
	r = regs0(b_load_fs);
	r.rdi = 0x1008;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xa);
	/* A negative offset, and a sum that is not canonical or wraps to one that is. */
	wrmsr(MSR_FS_BASE, 0x7fffffffffff);
	EXPECT(run0(b_load_fs, 0x1000), EX_GP(0));
	wrmsr(MSR_FS_BASE, (uint64_t)a + 0x1000);
	r = regs0(b_load_fs);
	r.rdi = (uint64_t)-0xff8;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xa);
	/* A 32-bit address is cut before the base is added. */
	wrmsr(MSR_GS_BASE, (uint64_t)a);
	r = regs0(b_load_gs32);
	r.rdi = 0x1100000008;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xa);
	r = regs0(b_lea); /* no base in lea */
	r.rdi = 0x100;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x108);
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);
}

static void fsgsbase(void)
{
	struct regs r;

	if (!cpu_has(7, 1, 0)) {
		test_skip("no FSGSBASE");
		return;
	}
	EXPECT(run0(b_rdfs, 0), EX_UD);
	EXPECT(run3(b_wrgs, 0), EX_UD);
	cr4_set(cr4_get() | CR4_FSGSBASE);
	EXPECT(run3(b_wrfs, 0x123456789abc), EX_DONE);
	SAME(rdmsr(MSR_FS_BASE), 0x123456789abc);
	r = regs3(b_rdfs);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x123456789abc);
	r = regs3(b_rdfs32);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x56789abc);
	EXPECT(run3(b_wrfs32, 0x1122334455667788), EX_DONE);
	SAME(rdmsr(MSR_FS_BASE), 0x55667788);
	EXPECT(run3(b_wrgs, 0xffff800000000000), EX_DONE);
	SAME(rdmsr(MSR_GS_BASE), 0xffff800000000000);
	r = regs3(b_rdgs);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xffff800000000000);
	EXPECT(run3(b_wrgs, HOLE), EX_GP(0));
	EXPECT(run0(b_wrfs, HOLE), EX_GP(0));
	cr4_set(cr4_get() & ~CR4_FSGSBASE);
	EXPECT(run3(b_rdgs, 0), EX_UD);
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);
}

/* A selector load takes the descriptor's 32-bit base; a flat one clears what the MSR held. */
static void selector_loads(void)
{
	uint64_t *gdt = cpu_gdt();

	wrmsr(MSR_FS_BASE, 0x123456789abc);
	gdt[SEL_TEST / 8] = 0x00cff3000000fffful | 0x3456ul << 16 | 0x12ul << 32 | 0xabul << 56;
	EXPECT(run0(b_fs, SEL_TEST), EX_DONE);
	SAME(rdmsr(MSR_FS_BASE), 0xab123456);
	wrmsr(MSR_FS_BASE, 0x123456789abc);
	EXPECT(run0(b_fs, SEL_USER_DATA), EX_DONE);
	SAME(rdmsr(MSR_FS_BASE), 0);
	gdt[SEL_TEST / 8] = 0;
	EXPECT(run0(b_fs, 0), EX_DONE);
}

TESTS({"syscall", syscall_from_ring_3}, {"syscall and sysret without EFER.SCE", syscall_disabled},
      {"syscall from compatibility mode", syscall_from_compatibility_mode}, {"syscall's segments", syscall_loads_fixed_segments},
      {"sysret", sysret_to_ring_3}, {"sysret to an address that is not canonical", sysret_not_canonical}, {"a thousand calls", there_and_back},
      {"their MSRs", msrs}, {"sysenter", sysenter}, {"swapgs and bases", swapgs_and_bases}, {"FSGSBASE", fsgsbase},
      {"selector loads set the base", selector_loads});
