/*
 * Host signals raised by translated code: faults that an instruction emitted as itself ran into (divide error, SIMD and
 * x87 exceptions, misaligned SSE operands, opcodes the host lacks), and the poll's deliberate fault after a kick.
 */
#include "modes/bt/run.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define ALTSTACK_BYTES (64u << 10)

static __thread struct bt_vcpu *current;

static const int greg_of[] = {
	[GPR_RAX] = REG_RAX, [GPR_RCX] = REG_RCX, [GPR_RDX] = REG_RDX, [GPR_RBX] = REG_RBX, [GPR_RSP] = REG_R13,
	[GPR_RBP] = REG_RBP, [GPR_RSI] = REG_RSI, [GPR_RDI] = REG_RDI, [GPR_R8] = REG_R8,   [GPR_R9] = REG_R9,
	[GPR_R10] = REG_R10, [GPR_R11] = REG_R11, [GPR_R12] = REG_R12,
};

static void take_registers(struct bt_vcpu *v, const greg_t *g, bool flags_in_host)
{
	for (unsigned i = 0; i < ARRAY_SIZE(greg_of); i++)
		v->cs.gpr[i] = (uint64_t)g[greg_of[i]];
	if (flags_in_host) {
		uint64_t f = (uint64_t)g[REG_EFL];
		v->flags_ax = (f & 0xd5) << 8 | (f >> 11 & 1);
	}
}

static void leave_code(struct bt_vcpu *v, greg_t *g, enum bt_exit_reason reason)
{
	v->exit_reason = (uint8_t)reason;
	g[REG_RDI] = (greg_t)(uintptr_t)v;
	g[REG_RIP] = (greg_t)(uintptr_t)v->vm->thunk.leave;
	g[REG_EFL] &= ~(greg_t)0x400;
}

static bool in_nowhere(const struct bt_vcpu *v, uint64_t host)
{
	return host - (uintptr_t)v->vm->nowhere < BT_NOWHERE_BYTES;
}

static void guest_fault(struct bt_vcpu *v, greg_t *g, const struct bt_tb *tb, const struct bt_insn_map *m)
{
	unsigned vector = (unsigned)g[REG_TRAPNO];

	take_registers(v, g, m->flags & BT_MAP_FLAGS_HOST);
	for (unsigned i = 0; i < 2; i++) {
		unsigned parked = m->flags >> (BT_MAP_PARKED_SHIFT + 3 * i) & 7;
		if (parked)
			v->cs.gpr[parked] = v->tmp[i];
	}
	v->cs.rip = tb->rip + m->guest;
	if (vector == VEC_XM && !(v->cs.cr4 & CR4_OSXMMEXCPT))
		vector = VEC_UD;
	switch (vector) {
	case VEC_DE:
	case VEC_UD:
	case VEC_MF:
	case VEC_XM:
	case VEC_GP:
	case VEC_SS:
	case VEC_AC:
		v->cs.exception_pending = 1;
		v->cs.exception_vector = (uint8_t)(vector == VEC_AC || vector == VEC_SS ? VEC_GP : vector);
		v->cs.exception_has_error = vector == VEC_GP || vector == VEC_SS || vector == VEC_AC;
		v->cs.exception_error = 0;
		leave_code(v, g, BT_EXIT_EXCEPTION);
		break;
	case VEC_PF:
		if (in_nowhere(v, (uint64_t)g[REG_CR2])) {
			/* An empty slot: the address is not canonical. */
			v->cs.exception_pending = 1;
			v->cs.exception_vector =
				(uint64_t)g[REG_CR2] - (uintptr_t)v->vm->nowhere < BT_NOWHERE_BYTES / 2 ? VEC_GP : VEC_SS;
			v->cs.exception_has_error = 1;
			v->cs.exception_error = 0;
			leave_code(v, g, BT_EXIT_EXCEPTION);
			break;
		}
		/* fall through */
	default:
		v->fail_message = "translated code touched host memory it was not given";
		leave_code(v, g, BT_EXIT_FAIL);
	}
}

static void poll_fault(struct bt_vcpu *v, greg_t *g, const struct bt_tb *tb, const struct bt_insn_map *m)
{
	v->stats.polls++;
	take_registers(v, g, m->flags & BT_MAP_FLAGS_HOST);
	if ((m->flags & BT_MAP_POLL_HERE) == BT_MAP_POLL_HERE)
		v->cs.rip = tb->rip + m->guest;
	else
		v->cs.rip = m->guest == 0xff ? (uint64_t)g[REG_R15] : tb->exits[m->guest].rip;
	leave_code(v, g, BT_EXIT_RESUME);
}

static bool in_translated_code(struct bt_vcpu *v, const uint8_t *pc)
{
	const struct bt_cache *c = &v->vm->cache;

	return v->in_code && pc >= c->exec && pc < c->exec + BT_CACHE_BYTES;
}

const uint8_t *bt_untail(struct bt_vm *vm, const uint8_t *pc)
{
	for (unsigned i = 0; i < BT_TAIL_HASH; i++)
		for (const struct bt_tail *t = vm->cache.tails[i]; t; t = t->next)
			if (pc >= t->exec && pc < t->exec + t->bytes)
				return t->site + ((const struct bt_site *)(const void *)t->site)->back - 1;
	return pc;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	const uint8_t *pc = (const uint8_t *)(uintptr_t)g[REG_RIP];
	struct bt_vcpu *v = current;
	const struct bt_insn_map *m;
	struct bt_tb *tb;

	if (v && in_translated_code(v, pc)) {
		if (!bt_tb_of(v->vm, pc))
			pc = bt_untail(v->vm, pc);
		if (bt_rip_of(v->vm, pc, &tb, &m)) {
			if (m->flags & BT_MAP_POLL)
				poll_fault(v, g, tb, m);
			else
				guest_fault(v, g, tb, m);
			return;
		}
	}
	/* Not the guest's doing: die as if there were no handler, at the same instruction. */
	signal(sig, SIG_DFL);
}

/* Somebody wants to know where this thread is. */
static void on_sample(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;

	if (current)
		bt_profile_note(current, (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP]);
}

int bt_signals_install(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigfillset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], &sa, NULL) < 0)
			return -errno;
	sa.sa_sigaction = on_sample;
	sa.sa_flags |= SA_RESTART;
	return sigaction(BT_PROFILE_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

int bt_signals_thread(struct bt_vcpu *v)
{
	static __thread bool done;

	current = v;
	if (done)
		return 0;
	void *p = mmap(NULL, ALTSTACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	stack_t ss = {.ss_sp = p, .ss_size = ALTSTACK_BYTES};
	if (sigaltstack(&ss, NULL) < 0)
		return -errno;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, BT_PROFILE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	v->tid = (int)gettid();
	done = true;
	return 0;
}
