/*
 * bench/spike/locality STEPS COMMAND…: single-steps a program and counts how often the page an access touches differs
 * from the one that a one-page cache would hold, by base register and by site; with a two-bit predictor for each site,
 * since a miss that is foreseen costs little.
 */
#include <capstone/capstone.h>
#include <err.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SITES (1u << 18)

struct operand {
	int base, index; /* x86_reg */
	int64_t disp;
	int scale;
	bool read, write, stack; /* stack: implicit push or pop */
	bool rip;
};
struct site {
	uint64_t rip;
	unsigned length, operands;
	struct operand op[2];
	uint8_t predict[2][4]; /* [operand][scheme]: 0 and 1 foresee a hit, 2 and 3 a miss */
	uint64_t page[2];      /* by site */
};

enum { BY_BASE, BY_SITE, STACK_ONLY, SCHEMES };
static const char *const scheme_name[SCHEMES] = { "by base register", "by site", "rsp and rbp alone" };
static struct { uint64_t accesses, misses, wrong; } count[SCHEMES];
static struct { uint64_t accesses, misses, wrong; } reg_count[X86_REG_ENDING];
static uint64_t near_page[X86_REG_ENDING][2];
static struct site sites[SITES];
static uint64_t instructions, with_memory, stack_accesses;

static uint64_t reg(const struct user_regs_struct *r, int id)
{
	switch (id) {
	case X86_REG_RAX: return r->rax;
	case X86_REG_RCX: return r->rcx;
	case X86_REG_RDX: return r->rdx;
	case X86_REG_RBX: return r->rbx;
	case X86_REG_RSP: return r->rsp;
	case X86_REG_RBP: return r->rbp;
	case X86_REG_RSI: return r->rsi;
	case X86_REG_RDI: return r->rdi;
	case X86_REG_R8: return r->r8;
	case X86_REG_R9: return r->r9;
	case X86_REG_R10: return r->r10;
	case X86_REG_R11: return r->r11;
	case X86_REG_R12: return r->r12;
	case X86_REG_R13: return r->r13;
	case X86_REG_R14: return r->r14;
	case X86_REG_R15: return r->r15;
	default: return 0;
	}
}

static void decode(csh cs, pid_t pid, struct site *s)
{
	uint8_t bytes[16];
	struct iovec mine = { bytes, sizeof(bytes) }, his = { (void *)s->rip, sizeof(bytes) };
	ssize_t n = process_vm_readv(pid, &mine, 1, &his, 1, 0);
	cs_insn *insn = NULL;

	s->operands = 0;
	if (n <= 0 || !cs_disasm(cs, bytes, n, s->rip, 1, &insn))
		return;
	s->length = insn->size;
	cs_x86 *x = &insn->detail->x86;
	for (int i = 0; i < x->op_count && s->operands < 2; i++) {
		cs_x86_op *o = &x->operands[i];
		if (o->type != X86_OP_MEM || insn->id == X86_INS_LEA || insn->id == X86_INS_NOP)
			continue;
		bool rip = o->mem.base == X86_REG_RIP;
		s->op[s->operands++] = (struct operand){
			.base = rip ? X86_REG_RIP : (int)o->mem.base, .index = o->mem.index, .disp = o->mem.disp,
			.scale = o->mem.scale, .read = o->access & CS_AC_READ, .write = o->access & CS_AC_WRITE, .rip = rip,
		};
	}
	bool push = insn->id == X86_INS_PUSH || insn->id == X86_INS_CALL;
	if ((push || insn->id == X86_INS_POP || insn->id == X86_INS_RET) && s->operands < 2)
		s->op[s->operands++] = (struct operand){ .base = X86_REG_RSP, .disp = push ? -8 : 0, .scale = 1,
							 .write = push, .read = !push, .stack = true };
	cs_free(insn, 1);
}

static bool predict_wrong(uint8_t *p, bool miss)
{
	bool wrong = (*p >= 2) != miss;
	if (miss && *p < 3)
		++*p;
	else if (!miss && *p)
		--*p;
	return wrong;
}

static void step(csh cs, pid_t pid, const struct user_regs_struct *r)
{
	struct site *s = &sites[(r->rip * 0x9e3779b97f4a7c15u) >> 46];

	if (s->rip != r->rip) {
		memset(s, 0, sizeof(*s));
		s->rip = r->rip;
		decode(cs, pid, s);
	}
	instructions++;
	with_memory += s->operands > 0;
	for (unsigned i = 0; i < s->operands; i++) {
		struct operand *o = &s->op[i];
		uint64_t a = o->rip ? s->rip + s->length + o->disp
				    : reg(r, o->base) + reg(r, o->index) * o->scale + o->disp;
		uint64_t page = a >> 12;
		bool sp = o->base == X86_REG_RSP || o->base == X86_REG_RBP;
		bool miss[SCHEMES] = { near_page[o->base][o->write] != page, s->page[i] != page, false };

		near_page[o->base][o->write] = page;
		s->page[i] = page;
		stack_accesses += o->base == X86_REG_RSP;
		miss[STACK_ONLY] = miss[BY_BASE];
		for (int k = 0; k < SCHEMES; k++) {
			if (k == STACK_ONLY && !sp)
				continue;
			bool wrong = predict_wrong(&s->predict[i][k], miss[k]);
			count[k].accesses++;
			count[k].misses += miss[k];
			count[k].wrong += wrong;
			if (k == BY_BASE) {
				reg_count[o->base].accesses++;
				reg_count[o->base].misses += miss[k];
				reg_count[o->base].wrong += wrong;
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct user_regs_struct r;
	csh cs;
	int status;

	if (argc < 3)
		errx(2, "usage: locality STEPS COMMAND [ARGUMENT …]");
	uint64_t steps = strtoull(argv[1], NULL, 0);
	pid_t pid = fork();
	if (pid < 0)
		err(1, "locality: fork");
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execvp(argv[2], argv + 2);
		err(127, "locality: %s", argv[2]);
	}
	if (cs_open(CS_ARCH_X86, CS_MODE_64, &cs) || cs_option(cs, CS_OPT_DETAIL, CS_OPT_ON))
		errx(1, "locality: capstone does not start");
	waitpid(pid, &status, 0);
	while (!WIFEXITED(status) && !WIFSIGNALED(status) && instructions < steps) {
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		step(cs, pid, &r);
		int sig = WSTOPSIG(status);
		if (ptrace(PTRACE_SINGLESTEP, pid, 0, sig == SIGTRAP || sig == SIGSTOP ? 0 : sig) < 0)
			break;
		waitpid(pid, &status, 0);
	}
	if (!WIFEXITED(status) && !WIFSIGNALED(status))
		kill(pid, SIGKILL);
	printf("%lu instructions, %.2f of them with memory, %.2f accesses each off rsp\n", instructions,
	       (double)with_memory / instructions, (double)stack_accesses / instructions);
	printf("%-20s %10s %8s %14s\n", "one page cached", "accesses", "misses", "not foreseen");
	for (int k = 0; k < SCHEMES; k++)
		printf("%-20s %10lu %7.2f%% %13.2f%%\n", scheme_name[k], count[k].accesses,
		       100.0 * count[k].misses / count[k].accesses, 100.0 * count[k].wrong / count[k].accesses);
	for (int i = 1; i < X86_REG_ENDING; i++)
		if (reg_count[i].accesses)
			printf("  base %-13s %10lu %7.2f%% %13.2f%%\n", cs_reg_name(cs, i), reg_count[i].accesses,
			       100.0 * reg_count[i].misses / reg_count[i].accesses,
			       100.0 * reg_count[i].wrong / reg_count[i].accesses);
	cs_close(&cs);
	return 0;
}
