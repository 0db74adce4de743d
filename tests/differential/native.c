/*
 * The native side: a child process with the world mapped, whose signal handler puts a case's whole state into the
 * signal frame and lets sigreturn load it; the fault that ends the case comes back to the same handler with everything
 * in the frame again. A seccomp filter keeps code that runs astray from making system calls.
 *
 * This file is compiled without stack protector: while a case runs, the FS base is the case's.
 */
#include "tests/differential/case.h"

#include <asm/ldt.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define ALTSTACK_BYTES (128u << 10)
#define TIMEOUT_TICKS 2 /* of 4 ms of the child's own time */

struct request {
	uint32_t first, count;
};

struct shared {
	volatile bool has_ldt;
	volatile uint32_t running; /* the case that a dead child died of */
	struct diff_case cases[NATIVE_SLOTS + 1]; /* the last one is native_run's */
	struct outcome outcomes[NATIVE_SLOTS + 1];
};

struct native {
	struct shared *shared;
	uint8_t *window; /* the physical pages */
	int fd;          /* their memfd */
	int socket;
	pid_t pid;
	struct request request; /* under way */
};

/* ---- in the child ---------------------------------------------------------------------------- */

enum phase { IDLE, STARTING, RUNNING };

static struct {
	volatile enum phase phase;
	const struct diff_case *in;
	struct outcome *out;
	uint8_t *window;
	uint64_t fs_base; /* the child's own */
	uint64_t gs_base; /* the case's, while the handler runs */
	volatile unsigned ticks;
	gregset_t harness;
	sigset_t harness_mask;
} child;

static const int greg_of[GPR_COUNT] = {
	[GPR_RAX] = REG_RAX, [GPR_RCX] = REG_RCX, [GPR_RDX] = REG_RDX, [GPR_RBX] = REG_RBX, [GPR_RSP] = REG_RSP,
	[GPR_RBP] = REG_RBP, [GPR_RSI] = REG_RSI, [GPR_RDI] = REG_RDI, [GPR_R8] = REG_R8,   [GPR_R9] = REG_R9,
	[GPR_R10] = REG_R10, [GPR_R11] = REG_R11, [GPR_R12] = REG_R12, [GPR_R13] = REG_R13, [GPR_R14] = REG_R14,
	[GPR_R15] = REG_R15,
};

static inline uint64_t read_fs(void)
{
	uint64_t v;
	__asm__ volatile("rdfsbase %0" : "=r"(v));
	return v;
}
static inline uint64_t read_gs(void)
{
	uint64_t v;
	__asm__ volatile("rdgsbase %0" : "=r"(v));
	return v;
}
static inline void write_fs(uint64_t v) { __asm__ volatile("wrfsbase %0" : : "r"(v) : "memory"); }
static inline void write_gs(uint64_t v) { __asm__ volatile("wrgsbase %0" : : "r"(v) : "memory"); }

static unsigned data_selector(void) { return child.in->bits == 16 ? SEL_DS16 : SEL_USER_DS; }

/* Segment registers as the case has them; the rest comes from the frame. */
static void back_to_case(uint64_t fs_base)
{
	if (child.in->bits != 64) { /* a null selector would fault there */
		__asm__ volatile("mov %0, %%gs; mov %0, %%fs" : : "r"(data_selector()));
		return;
	}
	write_gs(child.gs_base);
	write_fs(fs_base);
}

static void load_case(ucontext_t *uc)
{
	const struct cpu *cpu = &child.in->cpu;
	greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;

	memcpy(child.harness, g, sizeof(gregset_t));
	child.harness_mask = uc->uc_sigmask;
	for (unsigned i = 0; i < GPR_COUNT; i++)
		g[greg_of[i]] = (greg_t)cpu->gpr[i];
	g[REG_RIP] = (greg_t)cpu->rip;
	g[REG_EFL] = (greg_t)(cpu->rflags | (child.in->trace ? 0x100 : 0));
	g[REG_CSGSFS] = (greg_t)((uint64_t)data_selector() << 48 | cpu->cs);
	memcpy(fp, cpu->xsave, XSAVE_FX_BYTES);
	memcpy(fp + XSAVE_HEADER, cpu->xsave + XSAVE_HEADER, XSAVE_BYTES - XSAVE_HEADER);
	sigdelset(&uc->uc_sigmask, SIGVTALRM);
	child.ticks = 0;
	child.phase = RUNNING;
	/* Compatibility mode looks at these; in 64-bit mode, reading them shows them. Code that strays may change them. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(data_selector()));
	child.gs_base = cpu->gs_base;
	back_to_case(cpu->fs_base);
}

static void store_outcome(ucontext_t *uc, uint64_t fs_base)
{
	struct outcome *o = child.out;
	greg_t *g = uc->uc_mcontext.gregs;
	const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;

	for (unsigned i = 0; i < GPR_COUNT; i++)
		o->cpu.gpr[i] = (uint64_t)g[greg_of[i]];
	if (child.in->bits == 16) /* the rest is where the kernel's stack for returning to such code was (espfix) */
		o->cpu.gpr[GPR_RSP] = (uint32_t)o->cpu.gpr[GPR_RSP];
	o->cpu.rip = (uint64_t)g[REG_RIP];
	o->cpu.rflags = (uint64_t)g[REG_EFL];
	o->cpu.cs = (uint64_t)g[REG_CSGSFS] & 0xffff;
	o->cpu.fs_base = fs_base;
	o->cpu.gs_base = child.gs_base;
	memset(o->cpu.xsave, 0, XSAVE_BYTES);
	memcpy(o->cpu.xsave, fp, XSAVE_FX_BYTES);
	memcpy(o->cpu.xsave + XSAVE_HEADER, fp + XSAVE_HEADER, XSAVE_BYTES - XSAVE_HEADER);
	o->vector = (uint8_t)g[REG_TRAPNO];
	o->error = (uint32_t)g[REG_ERR];
	o->cr2 = (uint64_t)g[REG_CR2];
}

static void back_to_harness(ucontext_t *uc)
{
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
	uint32_t mxcsr = 0x1f80;

	memcpy(uc->uc_mcontext.gregs, child.harness, sizeof(gregset_t));
	uc->uc_mcontext.gregs[REG_RIP] += 2; /* behind ud2 */
	uc->uc_sigmask = child.harness_mask;
	memset(fp + XSAVE_HEADER, 0, 8);
	memcpy(fp + 24, &mxcsr, 4);
	child.phase = IDLE;
}

static uint8_t *window_at(uint64_t gva)
{
	for (unsigned i = 0; i < WORLD_PAGES; i++)
		if (world_pages[i].gva == (gva & ~0xfffull))
			return child.window + world_pages[i].phys * GUEST_PAGE_SIZE + (gva & 0xfff);
	return NULL;
}

static void note_step(uint64_t rip)
{
	struct outcome *o = child.out;

	if (o->steps == OUTCOME_STEPS)
		return;
	o->step[o->steps].rip = rip;
	for (unsigned i = 0; i < 16; i++) {
		const uint8_t *p = window_at(code_base(child.in) + rip + i);
		o->step[o->steps].bytes[i] = p ? *p : 0;
	}
	/* A repeated instruction is noted once. */
	if (!o->steps || memcmp(&o->step[o->steps - 1], &o->step[o->steps], sizeof(o->step[0])))
		o->steps++;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t fs_base = read_fs();

	child.gs_base = read_gs();
	__asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
	write_fs(child.fs_base);
	__builtin_ia32_writeeflags_u64(0x202); /* no NT, AC or ID left over */
	switch (child.phase) {
	case STARTING:
		if (sig == SIGILL) {
			load_case(uc);
			if (child.in->trace)
				note_step(child.in->cpu.rip);
			return;
		}
		break;
	case RUNNING:
		if (sig == SIGVTALRM && ++child.ticks < TIMEOUT_TICKS) {
			back_to_case(fs_base);
			return;
		}
		if (sig == SIGTRAP && child.in->trace && uc->uc_mcontext.gregs[REG_TRAPNO] == 1 && info->si_code == TRAP_TRACE) {
			note_step((uint64_t)uc->uc_mcontext.gregs[REG_RIP]);
			uc->uc_mcontext.gregs[REG_EFL] |= 0x100;
			back_to_case(fs_base);
			return;
		}
		store_outcome(uc, fs_base);
		child.out->kind = sig == SIGVTALRM ? OUTCOME_TIMEOUT : sig == SIGSYS ? OUTCOME_SYSCALL : OUTCOME_EXCEPTION;
		back_to_harness(uc);
		return;
	case IDLE: break;
	}
	signal(sig, SIG_DFL); /* our own bug: die of it */
}

static void __attribute__((noinline)) run_case(const struct diff_case *c, struct outcome *out)
{
	memcpy(child.window, c->mem, sizeof(c->mem));
	child.in = c;
	child.out = out;
	out->steps = 0;
	child.phase = STARTING;
	__asm__ volatile("ud2" : : : "memory", "cc", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
			 "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
			 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	memcpy(out->mem, child.window, sizeof(out->mem));
}

/* The page at GVA_TOP32 is in the gap between AddressSanitizer's shadows, which it maps lest anybody uses it: it has no other use. */
#ifdef __SANITIZE_ADDRESS__
#define PLACE(gva) ((gva) == GVA_TOP32 ? MAP_FIXED : MAP_FIXED_NOREPLACE)
#else
#define PLACE(gva) MAP_FIXED_NOREPLACE
#endif

static void map_world(int fd)
{
	for (unsigned i = 0; i < WORLD_PAGES; i++) {
		const struct world_page *p = &world_pages[i];
		int prot = PROT_READ | (p->write ? PROT_WRITE : 0) | (p->exec ? PROT_EXEC : 0);
		void *at = mmap((void *)(uintptr_t)p->gva, GUEST_PAGE_SIZE, prot, MAP_SHARED | PLACE(p->gva) | MAP_POPULATE, fd,
				p->phys * (off_t)GUEST_PAGE_SIZE);
		if (at != (void *)(uintptr_t)p->gva) {
			fprintf(stderr, "# native: cannot map a page at 0x%llx: %s\n", (unsigned long long)p->gva, strerror(errno));
			_exit(3);
		}
	}
}

/* For 16-bit code. False: the kernel has no LDTs. */
static bool local_segments(void)
{
	struct user_desc code = {.entry_number = 0, .base_addr = GVA_CODE, .limit = 0xfffff, .contents = 2, .limit_in_pages = 1,
				 .useable = 1};
	struct user_desc data = {.entry_number = 1, .base_addr = GVA_D0, .limit = 0xfffff, .limit_in_pages = 1, .useable = 1};

	return !syscall(SYS_modify_ldt, 1, &code, sizeof(code)) && !syscall(SYS_modify_ldt, 1, &data, sizeof(data));
}

/* System calls only from the program itself, which lies above 4 GiB, and only those it needs. */
static int no_system_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 7),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(filter), filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) ? -errno : 0;
}

static _Noreturn void child_main(struct native *n)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGVTALRM};
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct itimerval timer = {.it_interval.tv_usec = 4000, .it_value.tv_usec = 4000};
	sigset_t set;
	stack_t ss = {.ss_size = ALTSTACK_BYTES};
	const struct rlimit no_core = {0, 0};
	struct request request;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &no_core);
	child.fs_base = read_fs();
	child.window = n->window;
	map_world(n->fd);
	n->shared->has_ldt = local_segments();
	ss.ss_sp = mmap(NULL, ALTSTACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&ss, NULL);
	sigfillset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGVTALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setitimer(ITIMER_VIRTUAL, &timer, NULL);
	if (no_system_calls() < 0)
		_exit(4);
	while (read(n->socket, &request, sizeof(request)) == (ssize_t)sizeof(request)) {
		for (uint32_t i = request.first; i < request.first + request.count && i <= NATIVE_SLOTS; i++) {
			n->shared->running = i;
			run_case(&n->shared->cases[i], &n->shared->outcomes[i]);
		}
		if (write(n->socket, &request, sizeof(request)) != (ssize_t)sizeof(request))
			break;
	}
	_exit(0);
}

/* ---- in the parent ------------------------------------------------------------------------------ */

static const char *child_start(struct native *n)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return "no socket pair";
	fflush(NULL);
	n->pid = fork();
	if (n->pid < 0)
		return "fork failed";
	if (n->pid == 0) {
		close(pair[0]);
		n->socket = pair[1];
		child_main(n);
	}
	close(pair[1]);
	n->socket = pair[0];
	return NULL;
}

static void child_end(struct native *n)
{
	if (n->pid > 0) {
		close(n->socket);
		kill(n->pid, SIGKILL);
		waitpid(n->pid, NULL, 0);
		n->pid = 0;
	}
}

const char *native_start(struct native **ret_native)
{
	struct native *n = calloc(1, sizeof(*n));
	const char *why;

	if (!n)
		return "no memory";
	n->fd = (int)syscall(SYS_memfd_create, "differential", 0x11u); /* CLOEXEC | EXEC */
	if (n->fd < 0)
		n->fd = (int)syscall(SYS_memfd_create, "differential", 1u);
	if (n->fd < 0 || ftruncate(n->fd, PHYS_PAGES * GUEST_PAGE_SIZE) < 0)
		return "no memfd for the world";
	n->window = mmap(NULL, PHYS_PAGES * GUEST_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, n->fd, 0);
	n->shared = mmap(NULL, sizeof(*n->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (n->window == MAP_FAILED || n->shared == MAP_FAILED)
		return "no memory";
	why = child_start(n);
	if (why)
		return why;
	*ret_native = n;
	/* Does it answer? */
	struct request answer;
	native_begin(n, 0, 0);
	if (read(n->socket, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		return "the native side cannot map its pages, or has no FSGSBASE or seccomp";
	return NULL;
}

void native_stop(struct native *n)
{
	if (!n)
		return;
	child_end(n);
	munmap(n->window, PHYS_PAGES * GUEST_PAGE_SIZE);
	munmap(n->shared, sizeof(*n->shared));
	close(n->fd);
	free(n);
}

struct diff_case *native_case(struct native *n, unsigned i) { return &n->shared->cases[i]; }
const struct outcome *native_outcome(struct native *n, unsigned i) { return &n->shared->outcomes[i]; }

void native_begin(struct native *n, unsigned first, unsigned count)
{
	const struct request request = {first, count};

	n->request = request;
	if (write(n->socket, &request, sizeof(request)) != (ssize_t)sizeof(request))
		fprintf(stderr, "# native: the child is gone\n");
}

void native_wait(struct native *n)
{
	struct request answer;

	while (read(n->socket, &answer, sizeof(answer)) != (ssize_t)sizeof(answer)) {
		/* Dead: the case that it died of is lost, the rest goes to another child. */
		uint32_t at = n->shared->running, end = n->request.first + n->request.count;
		child_end(n);
		if (child_start(n) || at < n->request.first || at >= end) {
			fprintf(stderr, "# native: the child died and cannot be replaced\n");
			exit(2);
		}
		n->shared->outcomes[at].kind = OUTCOME_LOST;
		native_begin(n, at + 1, end - at - 1);
	}
}

const struct outcome *native_run(struct native *n, const struct diff_case *c)
{
	n->shared->cases[NATIVE_SLOTS] = *c;
	native_begin(n, NATIVE_SLOTS, 1);
	native_wait(n);
	return &n->shared->outcomes[NATIVE_SLOTS];
}

bool native_has_ldt(struct native *n) { return n->shared->has_ldt; }

bool native_own_memory(struct native *n, uint64_t gva)
{
	char name[64], line[512];
	unsigned long long lo, hi;
	bool found = false;
	FILE *f;

	for (unsigned i = 0; i < WORLD_PAGES; i++)
		if (world_pages[i].gva == (gva & ~0xfffull))
			return false;
	snprintf(name, sizeof(name), "/proc/%d/maps", (int)n->pid);
	f = fopen(name, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx-%llx", &lo, &hi) == 2 && gva >= lo && gva < hi)
			found = true;
	fclose(f);
	return found;
}
