/* Runs single instructions on the host's processor, in a traced child. */
#include "tests/unit/bt_host.h"

#include <asm/ldt.h>
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEM_BYTES (0x1000 + HOST_DATA_BYTES)
#define CS_64 0x33
#define CS_32 0x23
#define CS_16 0x07 /* LDT entry 0, RPL 3 */

/* A second mapping of pages that are shared already: no memfd, which some hosts forbid to be executable. */
static void alias(const struct host *h, uint64_t at, size_t offset, size_t bytes, int prot)
{
	void *want = (void *)(uintptr_t)at;

	if (mremap(h->code + offset, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, want) != want || mprotect(want, bytes, prot))
		_exit(2);
}

/* A 16-bit code segment that starts at HOST_BASE. Not every kernel has modify_ldt. */
static bool make_code16(void)
{
	struct user_desc desc = {
		.entry_number = 0, .base_addr = HOST_BASE, .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_CODE,
	};

	return syscall(SYS_modify_ldt, 1, &desc, sizeof(desc)) == 0;
}

static _Noreturn void child_main(const struct host *h)
{
	static char stack[65536] __attribute__((aligned(64)));
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) || sigaltstack(&alt, NULL))
		_exit(3);
	alias(h, HOST_CODE, 0, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC);
	alias(h, HOST_DATA, 0x1000, HOST_DATA_BYTES, PROT_READ | PROT_WRITE);
	alias(h, HOST_CONST, 0x1000, HOST_DATA_BYTES, PROT_READ);
	_Static_assert(HOST_DATA_END < HOST_CONST, "a hole between the data pages and their read-only alias");
	raise(make_code16() ? SIGUSR1 : SIGUSR2);
	_exit(4);
}

/* Tracer and child take turns: on one processor a turn costs a tenth of what waking another one does. */
static void stay_on_one_cpu(cpu_set_t *ret_before)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	if (sched_getaffinity(0, sizeof(*ret_before), ret_before) || cpu < 0)
		return;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

/* The XSAVE image (SDM vol. 1, 13.4): x87 at 32, SSE at 160, state bits at 512, the upper halves of AVX at 576. */
static bool read_vectors(struct host *h)
{
	struct iovec iov = { h->xstate, sizeof(h->xstate) };
	uint64_t present;

	if (ptrace(PTRACE_GETREGSET, h->pid, NT_X86_XSTATE, &iov))
		return false;
	h->xstate_bytes = iov.iov_len;
	memcpy(&present, h->xstate + 512, 8);
	present |= iov.iov_len >= 576 + 256 ? 7 : 3;
	memcpy(h->xstate + 512, &present, 8);
	for (unsigned i = 0; i < 16 * 4; i++) {
		float f = (float)i * 1.5f - 20;

		memcpy(h->xstate + 160 + i * 4, &f, 4);
		if (present & 4)
			memcpy(h->xstate + 576 + i * 4, &f, 4);
	}
	return true;
}

void host_reset_vectors(struct host *h)
{
	struct iovec iov = { h->xstate, h->xstate_bytes };

	ptrace(PTRACE_SETREGSET, h->pid, NT_X86_XSTATE, &iov);
}

const char *host_start(struct host *h)
{
	int status = 0;

	*h = (struct host){ .pid = -1 };
	h->code = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (h->code == MAP_FAILED)
		return "no memory";
	h->data = h->code + 0x1000;
	stay_on_one_cpu(&h->cpus_before);
	h->pid = fork();
	if (h->pid < 0)
		return "no fork";
	if (h->pid == 0)
		child_main(h);
	if (waitpid(h->pid, &status, 0) != h->pid || !WIFSTOPPED(status)) {
		h->pid = -1;
		return "no ptrace or no executable shared memory here";
	}
	h->has_bits[0] = WSTOPSIG(status) == SIGUSR1;
	if (ptrace(PTRACE_GETREGS, h->pid, NULL, &h->base) || !read_vectors(h)) {
		host_stop(h);
		return "ptrace cannot read registers here";
	}
	h->has_bits[1] = h->has_bits[2] = true;
	h->base.orig_rax = -1;
	return NULL;
}

void host_stop(struct host *h)
{
	sched_setaffinity(0, sizeof(h->cpus_before), &h->cpus_before);
	if (h->pid > 0) {
		kill(h->pid, SIGKILL);
		waitpid(h->pid, NULL, 0);
	}
	if (h->code && h->code != MAP_FAILED)
		munmap(h->code, MEM_BYTES);
	h->pid = -1;
	h->code = NULL;
}

void host_place(struct host *h, const uint8_t *code, unsigned n, enum bt_bits bits)
{
	struct user_regs_struct *r = &h->regs;
	uint64_t start = HOST_CODE_END - n, addr = HOST_DATA + 0x1000;

	memcpy(h->code + 0x1000 - n, code, n);
	*r = h->base;
	r->rax = -1; /* no such system call */
	r->rbx = r->rcx = r->rdx = r->rsi = r->rdi = r->rbp = r->rsp = addr;
	r->r8 = r->r9 = r->r10 = r->r11 = r->r12 = r->r13 = r->r14 = r->r15 = addr;
	r->eflags = 0x202;
	r->rip = bits == BT_BITS_16 ? start - HOST_BASE : start;
	r->cs = bits == BT_BITS_64 ? CS_64 : bits == BT_BITS_32 ? CS_32 : CS_16;
	r->ss = 0x2b;
	r->ds = r->es = bits == BT_BITS_64 ? 0 : 0x2b;
	r->fs = r->gs = 0;
	r->fs_base = r->gs_base = 0;
}

enum host_outcome host_step(struct host *h)
{
	uint64_t start = h->regs.rip, boundary = HOST_CODE_END;
	siginfo_t info;
	int status = 0;

	if (ptrace(PTRACE_SETREGS, h->pid, NULL, &h->regs) || ptrace(PTRACE_SINGLESTEP, h->pid, NULL, NULL) ||
	    waitpid(h->pid, &status, 0) != h->pid || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_GETREGS, h->pid, NULL, &h->regs) || ptrace(PTRACE_GETSIGINFO, h->pid, NULL, &info)) {
		fprintf(stderr, "# the traced child is lost: %s, wait status %#x\n", strerror(errno), status);
		return HOST_TRAP_GONE;
	}
	h->signal = WSTOPSIG(status);
	if (h->signal == SIGTRAP || h->regs.rip != start)
		return HOST_RAN; /* after mov ss the trap comes an instruction late, as a fault at the boundary */
	h->fault_address = (uintptr_t)info.si_addr;
	h->general_protection = info.si_code == SI_KERNEL;
	if (h->signal == SIGILL)
		return HOST_UD;
	if (h->signal == SIGSEGV && info.si_code != SI_KERNEL && h->fault_address == boundary)
		return HOST_FETCH;
	return HOST_FAULT;
}
