/* Local APIC: what a vCPU asks at every interrupt. No libc, no vector registers: translated code's helpers call it. */
#include "machine/devices/lapic_private.h"
#include "machine/private.h"

/* Callers may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

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
void lapic_recheck(struct lapic *l)
{
	struct machine *m = l->machine;
	if (atomic_load_explicit(&l->attention, memory_order_acquire) && pending_slow(l) && m->hooks.kick)
		m->hooks.kick(m->hooks.opaque, l->index);
}

void lapic_eoi(struct lapic *l)
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
	lapic_recheck(l);
}

void lapic_set_tpr(struct lapic *l, uint8_t tpr)
{
	atomic_store_explicit(&l->tpr, tpr, memory_order_relaxed);
	ppr_update(l);
	lapic_recheck(l);
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
void lapic_accept(struct lapic *l, uint8_t vector, bool level)
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
		lapic_accept(l, vector, level);
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
		/* An engine that owns the LAPICs knows how LINT1 is programmed. */
		if (machine->hooks.msi || !(lapic_base(l) & LAPIC_BASE_ENABLE))
			event_set(l, MACHINE_VCPU_NMI);
		else if (!(lint1 & LVT_MASKED))
			receive(l, LVT_MODE(lint1), (uint8_t)lint1, false);
	}
}

/* ---- interprocessor interrupts -------------------------------------------------------- */

void lapic_send_ipi(struct lapic *l, uint64_t icr)
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

/* ---- KVM's paravirtual interfaces ----------------------------------------------------------- */

unsigned machine_send_ipis(struct machine *m, unsigned vcpu, uint32_t first, uint64_t lo, uint64_t hi, unsigned bits, uint32_t icr)
{
	enum lapic_delivery mode = icr >> 8 & 7;
	unsigned taken = 0;

	m->lapic[vcpu].ipis++;
	if (mode == LAPIC_FIXED && (icr & 0xff) < 16)
		return 0;
	for (unsigned i = 0; i < m->config.vcpus; i++) {
		uint64_t at = (uint64_t)i - first; /* ids are indices; those before `first` are far beyond */
		uint64_t set = at < bits ? lo >> at : at < 2 * bits ? hi >> (at - bits) : 0;
		if (set & 1)
			taken += receive(&m->lapic[i], mode, (uint8_t)icr, false);
	}
	return taken;
}

void machine_vcpu_unhalt(struct machine *m, unsigned vcpu)
{
	if (vcpu < m->config.vcpus)
		event_set(&m->lapic[vcpu], MACHINE_VCPU_UNHALT);
}

bool machine_vcpu_is_running(struct machine *m, unsigned vcpu)
{
	return vcpu < m->config.vcpus && atomic_load(&m->lapic[vcpu].waiting) == LAPIC_RUNS;
}

bool machine_eoi_may_wait(struct machine *m, unsigned vcpu, unsigned vector)
{
	const struct lapic *l = &m->lapic[vcpu];
	uint64_t bit = (uint64_t)1 << (vector & 63);

	if (vector && (!(l->isr[vector >> 6] & bit) || highest(l->isr) != (int)vector ||
		       atomic_load_explicit(&l->tmr[vector >> 6], memory_order_relaxed) & bit))
		return false;
	return irr_highest(l) < 0;
}

void machine_eoi(struct machine *m, unsigned vcpu) { lapic_eoi(&m->lapic[vcpu]); }

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

/* Looks for what is expected soon. True: it came, and nobody had to be woken, nor the clock to be set. */
static bool look_for_end(struct machine *machine, struct lapic *l, bool interrupts, uint64_t began)
{
	uint64_t window_ns = spin_window_ns(&l->spin);
	while (window_ns > 0 && clock_host_ns() - began < window_ns) {
		uint64_t deadline = atomic_load(&l->timer_deadline);
		if (deadline != CLOCK_NEVER)
			lapic_timer_check(l, machine_clock_ns(machine));
		for (unsigned i = 0; i < 16; i++)
			__builtin_ia32_pause();
		if (wait_over(l, interrupts))
			return true;
	}
	return false;
}

static void sleep_until_over(struct machine *machine, struct lapic *l, bool interrupts)
{
	uint64_t deadline = atomic_load(&l->timer_deadline);
	if (!l->slack_set)
		machine_no_timer_slack();
	l->slack_set = true;
	/*
	 * The clock thread need not wake for our timer. But to tell it so, and to ask it again afterwards, costs more than
	 * it to wake in vain now and then: only one whose timers end its sleeps does.
	 */
	if (deadline != CLOCK_NEVER && !l->woken_early)
		clock_release(machine, deadline);
	l->woken_early = true;
	while (!wait_over(l, interrupts)) {
		deadline = atomic_load(&l->timer_deadline);
		uint64_t now = deadline == CLOCK_NEVER ? 0 : machine_clock_ns(machine);
		if (now >= deadline) {
			lapic_timer_check(l, now);
			l->woken_early = false;
		} else {
			wait_once(machine, l, interrupts, deadline);
		}
	}
}

void machine_vcpu_wait_for(struct machine *machine, unsigned vcpu, bool interrupts)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (!wait_over(l, interrupts)) {
		uint64_t began = clock_host_ns();
		atomic_fetch_add_explicit(&l->halts, 1, memory_order_relaxed);
		/* From here on our timer is ours. */
		atomic_store(&l->waiting, LAPIC_AWAKE);
		if (!look_for_end(machine, l, interrupts, began))
			sleep_until_over(machine, l, interrupts);
		atomic_store(&l->waiting, LAPIC_RUNS);
		uint64_t deadline = atomic_load(&l->timer_deadline);
		if (deadline != CLOCK_NEVER)
			clock_need(machine, deadline);
		spin_learn(&l->spin, clock_host_ns() - began);
	}
	atomic_store(&l->wake_word, 0);
}

void machine_vcpu_wait(struct machine *machine, unsigned vcpu)
{
	machine_vcpu_wait_for(machine, vcpu, true);
}
