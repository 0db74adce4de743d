/* Local APIC: what a vCPU asks at every interrupt. No libc, no vector registers: translated code's helpers call it. */
#include <string.h>

#include "machine/private.h"

/* Callers may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

#define SVR_ENABLE 0x100u
#define LVT_MASKED 0x10000u
#define LVT_MODE(lvt) ((enum lapic_delivery)((lvt) >> 8 & 7))
#define TIMER_MODE(lvt) ((lvt) >> 17 & 3)
#define TIMER_PERIODIC 1u
#define TIMER_TSC_DEADLINE 2u
#define LAPIC_VERSION 0x00050014u /* six LVT entries, no EOI-broadcast suppression */
#define ESR_SEND_VECTOR 0x20u
#define ESR_RECEIVE_VECTOR 0x40u
#define ESR_REGISTER 0x80u
/* A guest's periodic timer may ask for any rate; the host does not follow beyond this. */
#define PERIOD_MIN_NS 20000u

static inline uint32_t relaxed32(const _Atomic uint32_t *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline uint64_t lapic_base(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed);
}
static inline bool lapic_x2(const struct lapic *l) { return lapic_base(l) & LAPIC_BASE_X2APIC; }

/* ---- pending and priority ------------------------------------------------------- */

static inline int highest(const uint64_t set[4])
{
	for (int i = 3; i >= 0; i--)
		if (set[i])
			return i * 64 + 63 - __builtin_clzll(set[i]);
	return -1;
}

static inline int irr_highest(const struct lapic *l)
{
	for (int i = 3; i >= 0; i--) {
		uint64_t word = atomic_load(&l->irr[i]);
		if (word)
			return i * 64 + 63 - __builtin_clzll(word);
	}
	return -1;
}

static void ppr_update(struct lapic *l)
{
	int isr = highest(l->isr);
	uint8_t tpr = atomic_load_explicit(&l->tpr, memory_order_relaxed);
	uint8_t service = isr < 0 ? 0 : (uint8_t)(isr & 0xf0);
	atomic_store_explicit(&l->ppr, (tpr & 0xf0) >= service ? tpr : service, memory_order_relaxed);
}

/* The vector to deliver now, or -1. */
static inline int deliverable(const struct lapic *l)
{
	int vector = irr_highest(l);
	uint8_t ppr = atomic_load_explicit(&l->ppr, memory_order_relaxed);
	return vector >= 0 && (vector & 0xf0) > (ppr & 0xf0) ? vector : -1;
}

/* LINT0 passes the 8259's output on: virtual-wire mode, or an APIC that is off (SDM 11.5.1, 11.4.3). */
static inline bool extint_wanted(const struct lapic *l)
{
	if (atomic_load(&l->extint_message))
		return true;
	if (!atomic_load(&l->extint_line))
		return false;
	if (!(lapic_base(l) & LAPIC_BASE_ENABLE))
		return l->index == 0;
	uint32_t lint0 = relaxed32(&l->lvt_lint[0]);
	return !(lint0 & LVT_MASKED) && LVT_MODE(lint0) == LAPIC_EXTINT;
}

static bool pending_slow(struct lapic *l)
{
	/* Cleared before looking: what comes after the look sets it again. */
	uint32_t seen = atomic_exchange(&l->attention, 0), keep = 0;
	bool pending = false;
	if (seen & LAPIC_ATTENTION_IRR) {
		int vector = irr_highest(l);
		if (vector >= 0)
			keep |= LAPIC_ATTENTION_IRR;
		pending = deliverable(l) >= 0;
	}
	if (seen & LAPIC_ATTENTION_EXTINT) {
		if (atomic_load(&l->extint_line) || atomic_load(&l->extint_message))
			keep |= LAPIC_ATTENTION_EXTINT;
		pending |= extint_wanted(l);
	}
	if (keep)
		atomic_fetch_or(&l->attention, keep);
	return pending;
}

bool machine_intr_pending(struct machine *machine, unsigned vcpu)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (__builtin_expect(!atomic_load_explicit(&l->attention, memory_order_acquire), 1))
		return false;
	return pending_slow(l);
}

int machine_intr_ack(struct machine *machine, unsigned vcpu)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (extint_wanted(l)) {
		machine_lock(machine);
		int vector = -1;
		/* Again, now that nobody else can take it. */
		if (extint_wanted(l)) {
			atomic_store(&l->extint_message, false);
			vector = pic_ack(&machine->pic);
		}
		machine_unlock(machine);
		if (vector >= 0)
			return vector;
	}
	int vector = deliverable(l);
	if (vector < 0)
		return -1;
	uint64_t bit = (uint64_t)1 << (vector & 63);
	atomic_fetch_and(&l->irr[vector >> 6], ~bit);
	l->isr[vector >> 6] |= bit;
	atomic_store_explicit(&l->ppr, (uint8_t)(vector & 0xf0), memory_order_relaxed);
	l->accepted++;
	return vector;
}

/* Priority went down: what waited may be deliverable. */
static void recheck(struct lapic *l)
{
	struct machine *m = l->machine;
	if (atomic_load_explicit(&l->attention, memory_order_acquire) && pending_slow(l) && m->hooks.kick)
		m->hooks.kick(m->hooks.opaque, l->index);
}

static void lapic_eoi(struct lapic *l)
{
	l->eois++;
	int vector = highest(l->isr);
	if (vector < 0)
		return;
	uint64_t bit = (uint64_t)1 << (vector & 63);
	l->isr[vector >> 6] &= ~bit;
	ppr_update(l);
	if (atomic_load_explicit(&l->tmr[vector >> 6], memory_order_relaxed) & bit)
		ioapic_eoi(l->machine, (uint8_t)vector);
	recheck(l);
}

static void lapic_set_tpr(struct lapic *l, uint8_t tpr)
{
	atomic_store_explicit(&l->tpr, tpr, memory_order_relaxed);
	ppr_update(l);
	recheck(l);
}

uint8_t machine_tpr_get(struct machine *machine, unsigned vcpu)
{
	return atomic_load_explicit(&machine->lapic[vcpu].tpr, memory_order_relaxed) >> 4;
}

void machine_tpr_set(struct machine *machine, unsigned vcpu, uint8_t cr8)
{
	lapic_set_tpr(&machine->lapic[vcpu], (uint8_t)(cr8 << 4));
}

/* ---- sleeping and waking --------------------------------------------------------- */

void machine_vcpu_wake(struct machine *machine, unsigned vcpu)
{
	struct lapic *l = &machine->lapic[vcpu];
	atomic_store(&l->wake_word, 1);
	if (atomic_load(&l->waiting) == LAPIC_SLEEPS)
		machine_futex_wake(&l->wake_word, 1);
}

/* Something was made pending for this vCPU. A waiting one looks for itself when it wakes. */
static void notify(struct lapic *l)
{
	struct machine *m = l->machine;
	switch (atomic_load(&l->waiting)) {
	case LAPIC_AWAKE: return;
	case LAPIC_SLEEPS: machine_vcpu_wake(m, l->index); return;
	default:
		if (m->hooks.kick)
			m->hooks.kick(m->hooks.opaque, l->index);
	}
}

bool machine_vcpu_has_work(struct machine *machine, unsigned vcpu)
{
	struct lapic *l = &machine->lapic[vcpu];
	return atomic_load(&l->events) || deliverable(l) >= 0 || extint_wanted(l);
}

unsigned machine_vcpu_events(struct machine *machine, unsigned vcpu)
{
	return atomic_load_explicit(&machine->lapic[vcpu].events, memory_order_acquire);
}

unsigned machine_vcpu_take_events(struct machine *machine, unsigned vcpu, uint8_t *ret_sipi_vector)
{
	struct lapic *l = &machine->lapic[vcpu];
	unsigned events = atomic_exchange(&l->events, 0);
	if (events & MACHINE_VCPU_INIT)
		lapic_reset(l, true);
	if ((events & MACHINE_VCPU_SIPI) && ret_sipi_vector)
		*ret_sipi_vector = atomic_load(&l->sipi_vector);
	return events;
}

static void event_set(struct lapic *l, uint32_t event)
{
	atomic_fetch_or(&l->events, event);
	notify(l);
}

/* ---- accepting --------------------------------------------------------------------- */

/* A fixed interrupt for this LAPIC, which is enabled. */
static void accept(struct lapic *l, uint8_t vector, bool level)
{
	uint64_t bit = (uint64_t)1 << (vector & 63);
	if (vector < 16) {
		atomic_fetch_or(&l->esr_pending, ESR_RECEIVE_VECTOR);
		return;
	}
	_Atomic uint64_t *tmr = &l->tmr[vector >> 6];
	bool was_level = atomic_load_explicit(tmr, memory_order_relaxed) & bit;
	if (level && !was_level)
		atomic_fetch_or(tmr, bit);
	else if (!level && was_level)
		atomic_fetch_and(tmr, ~bit);
	atomic_fetch_or(&l->irr[vector >> 6], bit);
	atomic_fetch_or(&l->attention, LAPIC_ATTENTION_IRR);
	notify(l);
}

static inline bool lapic_software_enabled(const struct lapic *l)
{
	return (lapic_base(l) & LAPIC_BASE_ENABLE) && (relaxed32(&l->svr) & SVR_ENABLE);
}

/* True when this LAPIC took the message. */
static bool receive(struct lapic *l, enum lapic_delivery mode, uint8_t vector, bool level)
{
	if (!(lapic_base(l) & LAPIC_BASE_ENABLE))
		return false;
	switch (mode) {
	case LAPIC_FIXED:
	case LAPIC_LOWEST:
		if (!lapic_software_enabled(l))
			return false;
		accept(l, vector, level);
		return true;
	case LAPIC_SMI: event_set(l, MACHINE_VCPU_SMI); return true;
	case LAPIC_NMI: event_set(l, MACHINE_VCPU_NMI); return true;
	case LAPIC_INIT: event_set(l, MACHINE_VCPU_INIT); return true;
	case LAPIC_SIPI:
		atomic_store(&l->sipi_vector, vector);
		event_set(l, MACHINE_VCPU_SIPI);
		return true;
	case LAPIC_EXTINT:
		atomic_store(&l->extint_message, true);
		atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		notify(l);
		return true;
	}
	return false;
}

/* SDM 11.6.2. `dest` is 8 bits from xAPIC senders, MSIs and the IOAPIC, 32 from x2APIC senders. */
static bool addressed(const struct lapic *l, uint32_t dest, bool logical)
{
	if (!logical)
		return dest == l->id || dest == 0xff || dest == UINT32_MAX;
	uint32_t ldr = relaxed32(&l->ldr);
	if (lapic_x2(l))
		return dest == UINT32_MAX || (dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff));
	uint32_t mine = ldr >> 24;
	if (relaxed32(&l->dfr) >> 28 == 0xf)
		return dest & mine & 0xff;
	return ((dest >> 4 & 0xf) == 0xf || (dest >> 4 & 0xf) == mine >> 4) && (dest & mine & 0xf);
}

bool lapic_bus_deliver(struct machine *machine, uint32_t dest, bool logical, enum lapic_delivery mode, uint8_t vector,
		       bool level)
{
	struct lapic *best = NULL;
	bool taken = false;
	for (unsigned i = 0; i < machine->config.vcpus; i++) {
		struct lapic *l = &machine->lapic[i];
		if (!addressed(l, dest, logical))
			continue;
		if (mode != LAPIC_LOWEST) {
			taken |= receive(l, mode, vector, level);
			continue;
		}
		if (!lapic_software_enabled(l))
			continue;
		if (!best || (atomic_load_explicit(&l->ppr, memory_order_relaxed) >> 4) <
				     (atomic_load_explicit(&best->ppr, memory_order_relaxed) >> 4))
			best = l;
	}
	return best ? receive(best, LAPIC_FIXED, vector, level) : taken;
}

void lapic_pic_output(struct machine *machine, bool level)
{
	for (unsigned i = 0; i < machine->config.vcpus; i++) {
		struct lapic *l = &machine->lapic[i];
		bool was = atomic_exchange(&l->extint_line, level);
		if (!level || was)
			continue;
		uint32_t lint0 = relaxed32(&l->lvt_lint[0]);
		atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		if (!(lapic_base(l) & LAPIC_BASE_ENABLE) || (!(lint0 & LVT_MASKED) && LVT_MODE(lint0) == LAPIC_EXTINT)) {
			if (extint_wanted(l))
				notify(l);
		} else if (!(lint0 & LVT_MASKED)) {
			receive(l, LVT_MODE(lint0), (uint8_t)lint0, false);
		}
	}
}

void lapic_lint1_pulse(struct machine *machine)
{
	for (unsigned i = 0; i < machine->config.vcpus; i++) {
		struct lapic *l = &machine->lapic[i];
		uint32_t lint1 = relaxed32(&l->lvt_lint[1]);
		if (!(lapic_base(l) & LAPIC_BASE_ENABLE))
			event_set(l, MACHINE_VCPU_NMI);
		else if (!(lint1 & LVT_MASKED))
			receive(l, LVT_MODE(lint1), (uint8_t)lint1, false);
	}
}

/* ---- interprocessor interrupts -------------------------------------------------------- */

static void send_ipi(struct lapic *l, uint64_t icr)
{
	struct machine *m = l->machine;
	enum lapic_delivery mode = icr >> 8 & 7;
	uint8_t vector = (uint8_t)icr;
	unsigned shorthand = icr >> 18 & 3;
	l->ipis++;
	/* INIT level de-assert only set arbitration ids on old processors. */
	if (mode == LAPIC_INIT && (icr & 0xc000) == 0x8000)
		return;
	if ((mode == LAPIC_FIXED || mode == LAPIC_LOWEST) && vector < 16) {
		atomic_fetch_or(&l->esr_pending, ESR_SEND_VECTOR);
		return;
	}
	switch (shorthand) {
	case 0:
		lapic_bus_deliver(m, lapic_x2(l) ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56), icr & 0x800, mode,
				  vector, false);
		break;
	case 1: receive(l, mode, vector, false); break;
	default:
		for (unsigned i = 0; i < m->config.vcpus; i++)
			if (shorthand == 2 || i != l->index)
				receive(&m->lapic[i], mode, vector, false);
	}
}

/* ---- timer --------------------------------------------------------------------------------- */

static inline unsigned timer_divisor(const struct lapic *l)
{
	unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);
	return code == 7 ? 1 : 2u << code;
}

/* The bus clock ticks in nanoseconds. */
_Static_assert(LAPIC_BUS_HZ == 1000000000ull, "timer arithmetic");
static inline uint64_t timer_ns(const struct lapic *l, uint32_t count) { return (uint64_t)count * timer_divisor(l); }

/* Takes the running timer away. */
static void timer_stop(struct lapic *l)
{
	atomic_store(&l->timer_tsc, 0);
	atomic_store(&l->timer_period, 0);
	atomic_store(&l->timer_deadline, CLOCK_NEVER);
}

static void timer_expired(struct lapic *l)
{
	uint32_t lvt = relaxed32(&l->timer_vector);
	atomic_fetch_add_explicit(&l->timer_fires, 1, memory_order_relaxed);
	if (!(lvt & LVT_MASKED) && (lapic_base(l) & LAPIC_BASE_ENABLE))
		accept(l, (uint8_t)lvt, false);
}

/* Fires a timer that is due. Any thread: whoever swaps the deadline away does it. */
static void timer_check(struct lapic *l, uint64_t now)
{
	uint64_t deadline = atomic_load(&l->timer_deadline);
	if (deadline > now)
		return;
	uint64_t tsc = atomic_load(&l->timer_tsc), period = atomic_load(&l->timer_period), next = CLOCK_NEVER;
	if (period) /* missed periods are lost, as with a timer whose interrupt is still in IRR */
		next = deadline + ((now - deadline) / period + 1) * period;
	if (!atomic_compare_exchange_strong(&l->timer_deadline, &deadline, next))
		return;
	if (tsc)
		atomic_compare_exchange_strong(&l->timer_tsc, &tsc, 0);
	timer_expired(l);
}

static void timer_start(struct lapic *l, uint64_t deadline)
{
	l->timer_arms++;
	atomic_store(&l->timer_deadline, deadline);
	clock_need(l->machine, deadline);
}

static void timer_write_initial(struct lapic *l, uint32_t count)
{
	if (TIMER_MODE(l->lvt_timer) == TIMER_TSC_DEADLINE)
		return;
	timer_stop(l);
	l->initial_count = count;
	if (!count)
		return;
	uint64_t ns = timer_ns(l, count);
	if (TIMER_MODE(l->lvt_timer) == TIMER_PERIODIC)
		atomic_store(&l->timer_period, ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns);
	timer_start(l, machine_clock_ns(l->machine) + ns);
}

static uint32_t timer_current(struct lapic *l)
{
	uint64_t deadline = atomic_load(&l->timer_deadline);
	if (deadline == CLOCK_NEVER || TIMER_MODE(l->lvt_timer) == TIMER_TSC_DEADLINE)
		return 0;
	uint64_t now = machine_clock_ns(l->machine), period = atomic_load(&l->timer_period), left;
	if (deadline > now)
		left = deadline - now;
	else if (period)
		left = period - (now - deadline) % period;
	else
		return 0;
	uint64_t count = left / timer_divisor(l);
	return count > l->initial_count ? l->initial_count : (uint32_t)count;
}

static void timer_write_tsc(struct lapic *l, uint64_t tsc)
{
	if (TIMER_MODE(l->lvt_timer) != TIMER_TSC_DEADLINE)
		return;
	if (!tsc) {
		timer_stop(l);
		return;
	}
	/* A deadline that is being replaced must not fire in between with the new value's name on it. */
	atomic_store(&l->timer_deadline, CLOCK_NEVER);
	atomic_store(&l->timer_tsc, tsc);
	if (tsc <= clock_guest_tsc(l->machine)) {
		atomic_store(&l->timer_tsc, 0);
		l->timer_arms++;
		timer_expired(l);
		return;
	}
	timer_start(l, clock_tsc_deadline_ns(l->machine, tsc));
}

static void timer_write_divide(struct lapic *l, uint32_t value)
{
	uint32_t left = timer_current(l);
	l->divide = value & 0xb;
	if (!left)
		return;
	/* The count goes on from where it is, at the new rate. */
	uint64_t ns = timer_ns(l, left);
	if (atomic_load(&l->timer_period)) {
		uint64_t period = timer_ns(l, l->initial_count);
		atomic_store(&l->timer_period, period < PERIOD_MIN_NS ? PERIOD_MIN_NS : period);
	}
	timer_start(l, machine_clock_ns(l->machine) + ns);
}

static void timer_write_lvt(struct lapic *l, uint32_t value)
{
	uint32_t old = l->lvt_timer;
	l->lvt_timer = value;
	atomic_store_explicit(&l->timer_vector, value & (LVT_MASKED | 0xff), memory_order_relaxed);
	if (TIMER_MODE(old) == TIMER_MODE(value))
		return;
	if (TIMER_MODE(old) == TIMER_TSC_DEADLINE || TIMER_MODE(value) == TIMER_TSC_DEADLINE) {
		timer_stop(l);
	} else if (TIMER_MODE(value) == TIMER_PERIODIC && l->initial_count) {
		uint64_t ns = timer_ns(l, l->initial_count);
		atomic_store(&l->timer_period, ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns);
	} else {
		atomic_store(&l->timer_period, 0);
	}
}

uint64_t lapic_timers_next(struct machine *machine)
{
	uint64_t next = CLOCK_NEVER;
	for (unsigned i = 0; i < machine->config.vcpus; i++) {
		struct lapic *l = &machine->lapic[i];
		uint64_t deadline = atomic_load(&l->timer_deadline);
		if (deadline < next && !atomic_load(&l->waiting))
			next = deadline;
	}
	return next;
}

uint64_t lapic_timers_run(struct machine *machine, uint64_t now)
{
	for (unsigned i = 0; i < machine->config.vcpus; i++)
		if (!atomic_load(&machine->lapic[i].waiting))
			timer_check(&machine->lapic[i], now);
	return lapic_timers_next(machine);
}

/* ---- halting ---------------------------------------------------------------------------------- */

static bool wait_over(struct lapic *l, bool interrupts)
{
	if (atomic_load(&l->wake_word) || atomic_load(&l->events))
		return true;
	return interrupts && (deliverable(l) >= 0 || extint_wanted(l));
}

/* Sleeps once, unless something came while it was getting ready. */
static void wait_once(struct machine *machine, struct lapic *l, bool interrupts, uint64_t deadline)
{
	atomic_store(&l->waiting, LAPIC_SLEEPS);
	if (!wait_over(l, interrupts))
		machine_futex_wait(&l->wake_word, 0, clock_host_deadline(machine, deadline));
	atomic_store(&l->waiting, LAPIC_AWAKE);
}

void machine_vcpu_wait_for(struct machine *machine, unsigned vcpu, bool interrupts)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (!wait_over(l, interrupts)) {
		atomic_fetch_add_explicit(&l->halts, 1, memory_order_relaxed);
		if (!l->slack_set)
			machine_no_timer_slack();
		l->slack_set = true;
		/* From here on our timer is ours: the clock thread need not wake for it. */
		atomic_store(&l->waiting, LAPIC_AWAKE);
		uint64_t deadline = atomic_load(&l->timer_deadline);
		if (deadline != CLOCK_NEVER)
			clock_release(machine, deadline);
		while (!wait_over(l, interrupts)) {
			deadline = atomic_load(&l->timer_deadline);
			uint64_t now = deadline == CLOCK_NEVER ? 0 : machine_clock_ns(machine);
			if (now >= deadline)
				timer_check(l, now);
			else
				wait_once(machine, l, interrupts, deadline);
		}
		atomic_store(&l->waiting, LAPIC_RUNS);
		deadline = atomic_load(&l->timer_deadline);
		if (deadline != CLOCK_NEVER)
			clock_need(machine, deadline);
	}
	atomic_store(&l->wake_word, 0);
}

void machine_vcpu_wait(struct machine *machine, unsigned vcpu)
{
	machine_vcpu_wait_for(machine, vcpu, true);
}

/* ---- registers ------------------------------------------------------------------------------------ */

/* Registers by number: the xAPIC offset / 16, which is also the MSR - 0x800. */
enum lapic_register {
	REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b,
	REG_RRD = 0x0c, REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20,
	REG_ESR = 0x28, REG_ICR = 0x30, REG_ICR_HIGH = 0x31, REG_LVT_TIMER = 0x32, REG_LVT_THERMAL = 0x33,
	REG_LVT_PERF = 0x34, REG_LVT_LINT0 = 0x35, REG_LVT_LINT1 = 0x36, REG_LVT_ERROR = 0x37, REG_INITIAL = 0x38,
	REG_CURRENT = 0x39, REG_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f,
};

static uint32_t set_word(const uint64_t set[4], unsigned i) { return (uint32_t)(set[i / 2] >> (i % 2) * 32); }
static uint32_t atomic_word(const _Atomic uint64_t set[4], unsigned i)
{
	return (uint32_t)(atomic_load_explicit(&set[i / 2], memory_order_relaxed) >> (i % 2) * 32);
}

/* False: there is no such register to read. */
static bool register_read(struct lapic *l, unsigned reg, uint32_t *ret)
{
	switch (reg) {
	case REG_ID: *ret = lapic_x2(l) ? l->id : l->id << 24; return true;
	case REG_VERSION: *ret = LAPIC_VERSION; return true;
	case REG_TPR: *ret = atomic_load_explicit(&l->tpr, memory_order_relaxed); return true;
	case REG_PPR: *ret = atomic_load_explicit(&l->ppr, memory_order_relaxed); return true;
	case REG_LDR: *ret = relaxed32(&l->ldr); return true;
	case REG_SVR: *ret = relaxed32(&l->svr); return true;
	case REG_ISR ... REG_ISR + 7: *ret = set_word(l->isr, reg - REG_ISR); return true;
	case REG_TMR ... REG_TMR + 7: *ret = atomic_word(l->tmr, reg - REG_TMR); return true;
	case REG_IRR ... REG_IRR + 7: *ret = atomic_word(l->irr, reg - REG_IRR); return true;
	case REG_ESR: *ret = l->esr; return true;
	case REG_ICR: *ret = (uint32_t)l->icr; return true;
	case REG_LVT_TIMER: *ret = l->lvt_timer; return true;
	case REG_LVT_THERMAL: *ret = l->lvt_thermal; return true;
	case REG_LVT_PERF: *ret = l->lvt_perf; return true;
	case REG_LVT_LINT0: *ret = relaxed32(&l->lvt_lint[0]); return true;
	case REG_LVT_LINT1: *ret = relaxed32(&l->lvt_lint[1]); return true;
	case REG_LVT_ERROR: *ret = l->lvt_error; return true;
	case REG_INITIAL: *ret = l->initial_count; return true;
	case REG_CURRENT: *ret = timer_current(l); return true;
	case REG_DIVIDE: *ret = l->divide; return true;
	default: break;
	}
	if (lapic_x2(l))
		return false;
	switch (reg) {
	case REG_APR: case REG_RRD: *ret = 0; return true;
	case REG_DFR: *ret = relaxed32(&l->dfr); return true;
	case REG_ICR_HIGH: *ret = (uint32_t)(l->icr >> 32); return true;
	default: return false;
	}
}

static void svr_write(struct lapic *l, uint32_t value)
{
	atomic_store_explicit(&l->svr, value & 0x1ff, memory_order_relaxed);
	if (value & SVR_ENABLE)
		return;
	/* Switched off by software: every LVT entry is masked (SDM 11.4.7.2). */
	timer_write_lvt(l, l->lvt_timer | LVT_MASKED);
	l->lvt_thermal |= LVT_MASKED;
	l->lvt_perf |= LVT_MASKED;
	l->lvt_error |= LVT_MASKED;
	atomic_fetch_or(&l->lvt_lint[0], LVT_MASKED);
	atomic_fetch_or(&l->lvt_lint[1], LVT_MASKED);
}

static void lint_write(struct lapic *l, unsigned pin, uint32_t value)
{
	atomic_store(&l->lvt_lint[pin], value & 0x1a7ff);
	if (pin == 0 && atomic_load(&l->extint_line)) {
		atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		recheck(l);
	}
}

static bool register_write(struct lapic *l, unsigned reg, uint32_t value)
{
	uint32_t masked = relaxed32(&l->svr) & SVR_ENABLE ? 0 : LVT_MASKED;
	switch (reg) {
	case REG_TPR: lapic_set_tpr(l, (uint8_t)value); return true;
	case REG_EOI: lapic_eoi(l); return true;
	case REG_SVR: svr_write(l, value); return true;
	case REG_ESR: l->esr = atomic_exchange(&l->esr_pending, 0); return true;
	case REG_LVT_TIMER: timer_write_lvt(l, (value & 0x700ff) | masked); return true;
	case REG_LVT_THERMAL: l->lvt_thermal = (value & 0x107ff) | masked; return true;
	case REG_LVT_PERF: l->lvt_perf = (value & 0x107ff) | masked; return true;
	case REG_LVT_LINT0: lint_write(l, 0, value | masked); return true;
	case REG_LVT_LINT1: lint_write(l, 1, value | masked); return true;
	case REG_LVT_ERROR: l->lvt_error = (value & 0x100ff) | masked; return true;
	case REG_INITIAL: timer_write_initial(l, value); return true;
	case REG_DIVIDE: timer_write_divide(l, value); return true;
	default: break;
	}
	if (lapic_x2(l))
		return false;
	switch (reg) {
	case REG_LDR: atomic_store_explicit(&l->ldr, value & 0xff000000u, memory_order_relaxed); return true;
	case REG_DFR: atomic_store_explicit(&l->dfr, value | 0x0fffffffu, memory_order_relaxed); return true;
	case REG_ICR_HIGH: l->icr = (l->icr & 0xffffffffu) | (uint64_t)(value & 0xff000000u) << 32; return true;
	case REG_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (value & ~0x1000u); /* never busy */
		send_ipi(l, l->icr);
		return true;
	case REG_ID: case REG_APR: case REG_RRD: return true; /* ids are fixed */
	default: return false;
	}
}

uint32_t lapic_mmio_read(struct lapic *l, unsigned offset)
{
	uint32_t value = 0;
	if (offset & 15)
		return 0;
	if (!register_read(l, offset >> 4, &value))
		atomic_fetch_or(&l->esr_pending, ESR_REGISTER);
	return value;
}

void lapic_mmio_write(struct lapic *l, unsigned offset, uint32_t value)
{
	if (!register_write(l, offset >> 4, value))
		atomic_fetch_or(&l->esr_pending, ESR_REGISTER);
}

/* ---- MSRs --------------------------------------------------------------------------------------------- */

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC 0x800u

static void x2apic_enter(struct lapic *l)
{
	atomic_store_explicit(&l->ldr, (l->id >> 4) << 16 | 1u << (l->id & 15), memory_order_relaxed);
	l->icr = 0;
}

static bool base_write(struct lapic *l, uint64_t value)
{
	uint64_t old = lapic_base(l), max = (uint64_t)1 << l->machine->cpuid.phys_bits;
	uint64_t reserved = 0x2ff | ~(max - 1);
	bool was_x2 = old & LAPIC_BASE_X2APIC, was_on = old & LAPIC_BASE_ENABLE;
	bool x2 = value & LAPIC_BASE_X2APIC, on = value & LAPIC_BASE_ENABLE;
	/* SDM 11.12.5: x2APIC is entered from xAPIC and left only by switching off. */
	if ((value & reserved) || (x2 && !on) || (x2 && !was_on) || (was_x2 && on && !x2))
		return false;
	atomic_store(&l->base, value);
	if (!on && was_on) {
		lapic_reset(l, true);
		atomic_store(&l->base, value);
	} else if (x2 && !was_x2) {
		x2apic_enter(l);
	}
	return true;
}

bool machine_apic_msr_read(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t *ret_value)
{
	struct lapic *l = &machine->lapic[vcpu];
	uint32_t value;
	if (msr == MSR_APIC_BASE) {
		*ret_value = lapic_base(l);
		return true;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*ret_value = atomic_load(&l->timer_tsc);
		return true;
	}
	if (msr - MSR_X2APIC > 0xff || !lapic_x2(l))
		return false;
	if (msr == MSR_X2APIC + REG_ICR) {
		*ret_value = l->icr;
		return true;
	}
	if (!register_read(l, msr - MSR_X2APIC, &value))
		return false;
	*ret_value = value;
	return true;
}

bool machine_apic_msr_write(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t value)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (msr == MSR_TSC_DEADLINE) {
		timer_write_tsc(l, value);
		return true;
	}
	if (msr == MSR_APIC_BASE)
		return base_write(l, value);
	unsigned reg = msr - MSR_X2APIC;
	if (reg > 0xff || !lapic_x2(l))
		return false;
	switch (reg) {
	case REG_EOI:
		if (value)
			return false;
		lapic_eoi(l);
		return true;
	case REG_ICR:
		l->icr = value & ~0x1000ull;
		send_ipi(l, value);
		return true;
	case REG_SELF_IPI:
		if (value >> 8)
			return false;
		send_ipi(l, value | 1u << 18);
		return true;
	case REG_TPR:
		if (value >> 8)
			return false;
		break;
	case REG_ESR:
		if (value)
			return false;
		break;
	default: break;
	}
	return !(value >> 32) && register_write(l, reg, (uint32_t)value);
}

/* ---- lifecycle ------------------------------------------------------------------------------------------ */

void lapic_reset(struct lapic *l, bool init)
{
	timer_stop(l);
	atomic_store(&l->attention, 0);
	for (int i = 0; i < 4; i++) {
		atomic_store(&l->irr[i], 0);
		atomic_store(&l->tmr[i], 0);
		l->isr[i] = 0;
	}
	atomic_store(&l->tpr, 0);
	atomic_store(&l->ppr, 0);
	atomic_store(&l->svr, 0xff);
	atomic_store(&l->dfr, UINT32_MAX);
	atomic_store(&l->lvt_lint[0], LVT_MASKED);
	atomic_store(&l->lvt_lint[1], LVT_MASKED);
	l->lvt_timer = l->lvt_thermal = l->lvt_perf = l->lvt_error = LVT_MASKED;
	atomic_store(&l->timer_vector, LVT_MASKED);
	atomic_store(&l->esr_pending, 0);
	atomic_store(&l->extint_message, false);
	l->esr = 0;
	l->icr = 0;
	l->divide = 0;
	l->initial_count = 0;
	atomic_store(&l->ldr, 0);
	if (init) {
		if (lapic_x2(l))
			x2apic_enter(l);
		if (atomic_load(&l->extint_line))
			atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		return;
	}
	atomic_store(&l->events, 0);
	atomic_store(&l->extint_line, false);
	atomic_store(&l->wake_word, 0);
	atomic_store(&l->base, LAPIC_BASE | LAPIC_BASE_ENABLE | (l->index == 0 ? LAPIC_BASE_BSP : 0));
}

void lapic_init(struct lapic *l, struct machine *machine, unsigned index)
{
	l->machine = machine;
	l->index = index;
	l->id = index;
	lapic_reset(l, false);
}
