/* The dispatcher: from the run loop into translations and back, events between instructions, leaving helpers. */
#include "modes/bt/run.h"

#include "modes/bt/helper.h"
#include "modes/bt/monitor.h"
#include "modes/bt/sync.h"
#include "modes/bt/tlb.h"

/* ---- libc-free byte operations, under the names that private.h gives gcc ------------- */

void *bt_memcpy(void *dst, const void *src, size_t n);
void *bt_memset(void *dst, int byte, size_t n);
void *bt_memmove(void *dst, const void *src, size_t n);
int bt_memcmp(const void *a, const void *b, size_t n);

void *bt_memcpy(void *dst, const void *src, size_t n)
{
	bt_copy(dst, src, n);
	return dst;
}

void *bt_memset(void *dst, int byte, size_t n)
{
	bt_fill(dst, byte, n);
	return dst;
}

void *bt_memmove(void *dst, const void *src, size_t n)
{
	uint8_t *d = dst;
	const uint8_t *s = src;

	if (d <= s)
		bt_copy(dst, src, n);
	else
		while (n--)
			d[n] = s[n];
	return dst;
}

int bt_memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

/* ---- leaving ----------------------------------------------------------------------------- */

/* The instruction an address in translated code belongs to; false when it is none of a TB's. */
bool bt_rip_of(struct bt_vm *vm, const uint8_t *host, struct bt_tb **ret_tb, const struct bt_insn_map **ret_map)
{
	struct bt_tb *tb = bt_tb_of(vm, host);
	unsigned off, i, first;

	if (!tb || !tb->map_count)
		return false;
	if (host >= tb->cold && host < tb->cold + tb->cold_bytes) {
		off = (unsigned)(host - tb->cold);
		first = tb->map_hot;
		i = tb->map_count;
	} else {
		off = (unsigned)(host - tb->exec);
		first = 0;
		i = tb->map_hot;
	}
	if (i == first)
		return false;
	for (i--; i > first && tb->map[i].host > off; i--)
		;
	*ret_tb = tb;
	*ret_map = &tb->map[i];
	return true;
}

/* A slow path ran: cs.rip is that of the instruction whose access it serves. */
static void find_rip(struct bt_vcpu *v)
{
	const struct bt_site *site = (const struct bt_site *)(const void *)v->site;
	const struct bt_insn_map *m;
	struct bt_tb *tb;

	if (!site)
		return;
	v->site = NULL;
	BUG_ON(!bt_rip_of(v->vm, (const uint8_t *)site + site->back - 1, &tb, &m));
	while (m > tb->map && m->flags & BT_MAP_POLL)
		m--;
	v->cs.rip = tb->rip + m->guest;
}

/* AddressSanitizer is to forget the frames that are abandoned between here and `end`: their red zones are no more. */
#ifdef __SANITIZE_ADDRESS__
#define ASAN_SHADOW 0x7fff8000ul
__attribute__((no_sanitize_address)) static void abandon_frames(const void *end)
{
	uintptr_t from = (uintptr_t)__builtin_frame_address(0) & ~63ul, to = (uintptr_t)end;

	bt_fill((void *)((from >> 3) + ASAN_SHADOW), 0, (to - from) >> 3);
}
/* It also calls its library before what does not return, which uses vector registers. */
__attribute__((no_sanitize_address, noipa)) static void jump_back(void **guard) { __builtin_longjmp(guard, 1); }
#else
static void abandon_frames(const void *end) { (void)end; }
static inline void jump_back(void **guard) { __builtin_longjmp(guard, 1); }
#endif

static BT_NORETURN void leave(struct bt_vcpu *v, enum bt_exit_reason reason)
{
	find_rip(v);
	v->translating = false;
	if (v->holds_lock)
		bt_unlock(v);
	v->exit_reason = (uint8_t)reason;
	abandon_frames(v->guard ? v->guard[2] : (const void *)v); /* [2]: the stack pointer of __builtin_setjmp */
	if (v->guard)
		jump_back(v->guard);
	BUG_ON(!v->in_code);
	v->vm->thunk.leave(v);
}

static BT_NORETURN void raise_any(struct bt_vcpu *v, enum bt_vector vector, bool has_error, uint32_t error)
{
	v->cs.exception_pending = 1;
	v->cs.exception_vector = (uint8_t)vector;
	v->cs.exception_has_error = has_error;
	v->cs.exception_error = error;
	leave(v, BT_EXIT_EXCEPTION);
}

void bt_raise(struct bt_vcpu *v, enum bt_vector vector) { raise_any(v, vector, false, 0); }
void bt_raise_error(struct bt_vcpu *v, enum bt_vector vector, uint32_t error) { raise_any(v, vector, true, error); }

void bt_raise_pf(struct bt_vcpu *v, gva_t gva, uint32_t error)
{
	v->cs.cr2 = gva;
	v->stats.page_faults++;
	raise_any(v, VEC_PF, true, error);
}

void bt_fail(struct bt_vcpu *v, const char *message)
{
	v->fail_message = message;
	leave(v, BT_EXIT_FAIL);
}

void bt_halt(struct bt_vcpu *v)
{
	v->cs.activity = CPU_HALTED;
	v->stats.halts++;
	leave(v, BT_EXIT_HALT);
}

void bt_restart(struct bt_vcpu *v) { leave(v, BT_EXIT_RESUME); }

static bool interrupt_due(struct bt_vcpu *v)
{
	if (v->vm->monitor)
		return v->vm->monitor->pending(v);
	return v->cs.rflags & RFLAGS_IF && machine_intr_pending(v->machine, v->index);
}

/* The run loop has something to do before the next instruction. */
static bool must_leave(struct bt_vcpu *v)
{
	if (v->kicked || v->one_active || v->debug.hits || (v->cs.rflags & RFLAGS_TF))
		return true;
	if (v->debug.exec && bt_debug_exec_point(v, bt_debug_rip(v)))
		return true;
	if (v->cs.nmi_pending && !v->cs.nmi_blocked) /* an iret has just let it in */
		return true;
	if (interrupt_due(v))
		return true;
	v->cs.interrupt_shadow = 0; /* nothing was waiting: it has had its effect */
	return false;
}

void bt_resume(struct bt_vcpu *v)
{
	struct bt_tb *tb;

	if (v->guard || must_leave(v))
		leave(v, BT_EXIT_RESUME);
	tb = bt_tb_get(v);
	abandon_frames(v);
	v->vm->thunk.reenter(v, tb->exec + tb->mem_entry);
}

void bt_code_changed(struct bt_vcpu *v)
{
	v->code_hit = false;
	v->cs.rip = bt_next_rip(v, v->op_insn);
	bt_resume(v);
}

int bt_guard(struct bt_vcpu *v, void (*fn)(struct bt_vcpu *v, void *arg), void *arg)
{
	void *here[5], **outer = v->guard;

	v->guard = here;
	if (__builtin_setjmp(here)) {
		v->guard = outer;
		return 1;
	}
	fn(v, arg);
	v->guard = outer;
	return 0;
}

/* ---- called by the thunks ---------------------------------------------------------------------- */

const void *bt_do_lookup(struct bt_vcpu *v, uint64_t rip)
{
	struct bt_tb *tb;

	v->cs.rip = rip;
	v->op_insn = NULL;
	v->stats.lookups++;
	if (must_leave(v))
		leave(v, BT_EXIT_RESUME);
	tb = bt_tb_get(v);
	return tb->exec + tb->mem_entry;
}

const void *bt_do_link(struct bt_vcpu *v, struct bt_exit *x)
{
	struct bt_vm *vm = v->vm;
	uint64_t flushes = vm->cache.flushes;
	struct bt_tb *tb;

	v->cs.rip = x->rip;
	v->op_insn = NULL;
	v->stats.links++;
	if (must_leave(v))
		leave(v, BT_EXIT_RESUME);
	tb = bt_tb_get(v);
	/* An unguarded link holds only inside one mapping of one page. */
	if (flushes == vm->cache.flushes && (x->guard || tb->page_id == x->tb->page_id)) {
		bt_lock(v);
		bt_link(vm, x, tb);
		bt_unlock(v);
	}
	return tb->exec + tb->mem_entry;
}

/* ---- mode bits ------------------------------------------------------------------------------------- */

void bt_mode_changed(struct bt_vcpu *v)
{
	const struct cpu_state *cs = &v->cs;
	uint32_t key = 0;
	bool real = bt_real_mode(v), vm86 = bt_vm86(v);

	/* SS's, as on hardware: CS's low bits mean nothing between setting CR0.PE and the far jump behind it. */
	v->cpl = real ? 0 : vm86 ? 3 : cs->seg[SEG_SS].access >> SEG_ACCESS_DPL_SHIFT & 3;
	v->mmu = v->cpl == 3 ? v->guest_kernel ? BT_MMU_GUEST : BT_MMU_USER
		 : cs->cr4 & CR4_SMAP && !(cs->rflags & RFLAGS_AC) ? BT_MMU_KERNEL_SMAP : BT_MMU_KERNEL;
	if (bt_code64(v)) {
		key |= KEY_BITS64 | KEY_FLAT;
	} else {
		key |= cs->seg[SEG_CS].access & SEG_ACCESS_DB ? KEY_BITS32 : 0;
		key |= cs->seg[SEG_SS].access & SEG_ACCESS_DB ? KEY_SS32 : 0;
		key |= bt_segments_key(v);
	}
	/* AC is not part of it: see enum bt_mmu. */
	uint32_t mmu = v->cpl == 3 ? v->mmu : cs->cr4 & CR4_SMAP ? BT_MMU_KERNEL_SMAP : BT_MMU_KERNEL;
	key |= (uint32_t)v->cpl << KEY_CPL_SHIFT | mmu << KEY_MMU_SHIFT;
	key |= cs->cr0 & (CR0_TS | CR0_EM) ? KEY_FPU_NM : 0;
	key |= cs->cr0 & CR0_TS ? KEY_TS : 0;
	key |= cs->cr0 & CR0_EM || !(cs->cr4 & CR4_OSFXSR) ? KEY_SSE_OFF : 0;
	key |= !(cs->cr4 & CR4_OSXSAVE) || (cs->xcr0 & 6) != 6 ? KEY_AVX_OFF : 0;
	key |= vm86 ? KEY_VM86 : 0;
	key |= real ? KEY_REAL : 0;
	key |= v->cpl == 0 ? KEY_IOPL_OK : 0;
	key |= v->cpl == 3 && cs->cr0 & CR0_AM && cs->rflags & RFLAGS_AC ? KEY_AC : 0;
	key |= v->one_active ? KEY_ONE : 0;
	v->tb_key = key;
	/* Ids of code pages stand for a mode too: another mode at the same privilege empties that half of the itlb. */
	bool user = bt_user_half(v);
	key &= ~KEY_ONE;
	if (v->itlb_key[user] != key) {
		v->itlb_key[user] = key;
		bt_fill(v->itlb + (user ? BT_ITLB_ENTRIES / 2 : 0), 0, sizeof(v->itlb) / 2);
	}
	if (user && !v->user_seen && !vm86) {
		v->user_seen = true;
		bt_note_first_user(v->vm);
	}
}

/* ---- between instructions ------------------------------------------------------------------------------ */

static void take_init(struct bt_vcpu *v)
{
	/* The registers of x87, SSE and AVX, which it leaves alone, are in the host's now. */
	cpu_state_init(&v->cs, v->index);
	bt_tlb_flush(v, true);
	bt_set_rflags(v, v->cs.rflags);
	bt_mode_changed(v);
	bt_debug_registers(v);
}

static void take_events(struct bt_vcpu *v)
{
	uint8_t sipi = 0;
	unsigned events = machine_vcpu_take_events(v->machine, v->index, &sipi);

	if (events & MACHINE_VCPU_INIT)
		take_init(v);
	if (events & MACHINE_VCPU_SIPI && v->cs.activity == CPU_WAIT_SIPI) {
		v->cs.seg[SEG_CS].selector = (uint16_t)(sipi << 8);
		v->cs.seg[SEG_CS].base = (uint64_t)sipi << 12;
		v->cs.rip = 0;
		v->cs.activity = CPU_RUNNING;
		bt_mode_changed(v);
	}
	if (events & MACHINE_VCPU_NMI)
		v->cs.nmi_pending = 1;
	if (events & MACHINE_VCPU_UNHALT)
		v->pv.unhalted = true;
}

static bool deliver_exception(struct bt_vcpu *v)
{
	unsigned vector = v->cs.exception_vector;
	bool has_error = v->cs.exception_has_error;

	v->cs.exception_pending = 0;
	v->stats.exceptions++;
	return bt_deliver(v, vector, has_error, v->cs.exception_error, false, v->cs.rip);
}

/* Queues #DB; what it is for is in DR6 already. */
static void raise_db(struct bt_vcpu *v)
{
	v->cs.exception_pending = 1;
	v->cs.exception_vector = VEC_DB;
	v->cs.exception_has_error = 0;
}

/* Delivers what is due before the next instruction. False: triple fault. */
static bool deliver_events(struct bt_vcpu *v)
{
	if (v->cs.exception_pending)
		return deliver_exception(v);
	if (v->vm->monitor) {
		v->stats.interrupts += v->vm->monitor->pending(v);
		return v->vm->monitor->interrupt(v);
	}
	/* Nobody wants to step into the timer's interrupt each time; a processor that sleeps has nothing else to step into. */
	if (v->cs.interrupt_shadow || (v->debug.step && v->cs.activity == CPU_RUNNING))
		return true;
	if (v->cs.nmi_pending && !v->cs.nmi_blocked) {
		v->cs.nmi_pending = 0;
		v->cs.nmi_blocked = 1;
		v->cs.activity = CPU_RUNNING;
		return bt_deliver(v, VEC_NMI, false, 0, false, v->cs.rip);
	}
	if (v->cs.rflags & RFLAGS_IF && machine_intr_pending(v->machine, v->index)) {
		bt_pv_eoi_settle(v);
		int vector = machine_intr_ack(v->machine, v->index);
		if (vector < 0)
			return true;
		v->cs.activity = CPU_RUNNING;
		v->stats.interrupts++;
		if (v->cs.kvm_pv_eoi)
			bt_pv_eoi_offer(v, (unsigned)vector);
		return bt_deliver(v, (unsigned)vector, false, 0, false, v->cs.rip);
	}
	return true;
}

/* Data points that the instruction hit trap behind it, unless it had no effect. */
static void take_hits(struct bt_vcpu *v)
{
	if (!v->debug.hits)
		return;
	v->code_hit = false;
	if (v->exit_reason == BT_EXIT_EXCEPTION || v->exit_reason == BT_EXIT_FAIL) {
		v->debug.hits = 0;
	} else if (v->debug.hits & BT_HIT_GUEST) {
		v->cs.dr6 |= v->debug.hits & BT_HIT_GUEST;
		v->debug.hits &= ~BT_HIT_GUEST;
		raise_db(v);
	}
}

/*
 * Before the next instruction, events being delivered: whether the debugger is to be told. The guest's own point there
 * is a fault, which is queued.
 */
static bool debug_stops(struct bt_vcpu *v)
{
	unsigned hits = bt_debug_exec_at(v, bt_debug_rip(v));

	if (v->debug.stepped || v->debug.hits & BT_HIT_DEBUGGER)
		return true;
	if (v->cs.activity != CPU_RUNNING)
		return false;
	if (hits & BT_HIT_DEBUGGER && !v->debug.step)
		return true;
	hits &= BT_HIT_GUEST;
	if (hits) {
		v->cs.dr6 |= hits;
		raise_db(v);
	}
	return false;
}

static void get_tb(struct bt_vcpu *v, void *arg) { *(struct bt_tb **)arg = bt_tb_get(v); }

/* Runs translated code until it leaves. */
static void run_code(struct bt_vcpu *v)
{
	struct bt_tb *tb = NULL;
	bool trap = v->cs.rflags & RFLAGS_TF, resumed = v->cs.rflags & RFLAGS_RF;

	v->one_active = v->run_one || v->cs.interrupt_shadow || trap || v->debug.step ||
			(v->debug.exec && bt_debug_exec_point(v, bt_debug_rip(v)));
	v->run_one = false;
	if (v->one_active)
		v->tb_key |= KEY_ONE;
	v->exit_reason = BT_EXIT_NONE;
	v->no_trap = false;
	if (!bt_guard(v, get_tb, &tb)) {
		v->cs.interrupt_shadow = 0;
		v->in_code = true;
		v->vm->thunk.enter(v, tb->exec + tb->mem_entry);
		v->in_code = false;
		if (v->holds_lock) { /* a fault between code_write and its commit */
			v->bounce_host = NULL;
			bt_unlock(v);
		}
		if (trap && !v->no_trap && v->exit_reason != BT_EXIT_EXCEPTION && v->exit_reason != BT_EXIT_FAIL) {
			v->cs.dr6 |= 1u << 14; /* BS */
			raise_db(v);
		}
	}
	/* RF was for that instruction, unless it starts over. (An iret takes a new one.) */
	if (resumed && v->exit_reason == BT_EXIT_RESUME && !v->run_one && !v->want_flush)
		v->cs.rflags &= ~(uint64_t)RFLAGS_RF;
	take_hits(v);
	v->one_active = false;
	v->tb_key &= ~KEY_ONE;
}

static bool debugged(const struct bt_vcpu *v) { return v->debug.exec || v->debug.stepped || v->debug.hits; }

static enum mode_exit_reason run_loop(struct bt_vcpu *v)
{
	for (;;) {
		v->kicked = 0;
		v->poll = &v->poll_word;
		bt_sync_point(v);
		if (v->stop) {
			v->stop = 0;
			return MODE_EXIT_INTERRUPTED;
		}
		bt_written_take(v);
		if (v->want_flush) {
			v->want_flush = false;
			bt_cache_flush_all(v);
		}
		bt_pv_look(v);
		if (v->vm->monitor)
			v->vm->monitor->attend(v);
		else if (machine_vcpu_events(v->machine, v->index))
			take_events(v);
		if (v->cs.activity == CPU_WAIT_SIPI)
			return MODE_EXIT_HALT;
		if (v->debug.hits & BT_HIT_DEBUGGER)
			return MODE_EXIT_DEBUG;
		bool asleep = v->cs.activity == CPU_HALTED;
		if (!deliver_events(v)) {
			v->cs.activity = CPU_SHUTDOWN;
			return MODE_EXIT_SHUTDOWN;
		}
		if (v->debug.step && asleep && v->cs.activity == CPU_RUNNING)
			v->debug.stepped = true;
		if (debugged(v)) {
			if (debug_stops(v))
				return MODE_EXIT_DEBUG;
			if (v->cs.exception_pending)
				continue;
		}
		if (v->cs.activity == CPU_HALTED && !v->pv.unhalted)
			return MODE_EXIT_HALT;
		if (v->cs.activity == CPU_HALTED) {
			v->cs.activity = CPU_RUNNING;
			v->pv.unhalted = false;
		}
		run_code(v);
		if (v->exit_reason == BT_EXIT_FAIL)
			return MODE_EXIT_ERROR;
		v->debug.stepped = v->debug.step && !v->run_one && !v->want_flush; /* those start it over */
	}
}

enum mode_exit_reason bt_run(struct bt_vcpu *v)
{
	enum mode_exit_reason reason;

	bt_sync_enter(v);
	bt_pv_enter(v);
	reason = run_loop(v);
	bt_pv_leave(v);
	bt_sync_leave(v);
	return reason;
}
