/* The local APIC's timer: one-shot, periodic and TSC-deadline. */
#include "machine/devices/lapic_private.h"
#include "machine/private.h"

/* Callers may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

#define TIMER_MODE(lvt) ((lvt) >> 17 & 3)
#define TIMER_PERIODIC 1u
#define TIMER_TSC_DEADLINE 2u
/* A guest's periodic timer may ask for any rate; the host does not follow beyond this. */
#define PERIOD_MIN_NS 20000u

static inline unsigned timer_divisor(const struct lapic *l)
{
	unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);
	return code == 7 ? 1 : 2u << code;
}

/* The bus clock ticks in nanoseconds. */
_Static_assert(LAPIC_BUS_HZ == 1000000000ull, "timer arithmetic");
static inline uint64_t timer_ns(const struct lapic *l, uint32_t count) { return (uint64_t)count * timer_divisor(l); }

/* Takes the running timer away. */
void lapic_timer_stop(struct lapic *l)
{
	mlock_lock(&l->timer_lock);
	atomic_store(&l->timer_tsc, 0);
	atomic_store(&l->timer_period, 0);
	atomic_store(&l->timer_deadline, CLOCK_NEVER);
	mlock_unlock(&l->timer_lock);
}

static void timer_expired(struct lapic *l)
{
	uint32_t lvt = relaxed32(&l->timer_vector);
	atomic_fetch_add_explicit(&l->timer_fires, 1, memory_order_relaxed);
	if (!(lvt & LVT_MASKED) && (lapic_base(l) & LAPIC_BASE_ENABLE))
		lapic_accept(l, (uint8_t)lvt, false);
}

/* The clock thread's turn, or the vCPU's own when it sleeps. */
void lapic_timer_check(struct lapic *l, uint64_t now)
{
	uint64_t next = CLOCK_NEVER;

	if (atomic_load(&l->timer_deadline) > now)
		return;
	/* The guest may be about to stop or set it anew: either this interrupt comes before that, or not at all. */
	mlock_lock(&l->timer_lock);
	uint64_t deadline = atomic_load(&l->timer_deadline);
	if (deadline <= now) {
		uint64_t period = atomic_load(&l->timer_period);
		if (period) /* missed periods are lost, as with a timer whose interrupt is still in IRR */
			next = deadline + ((now - deadline) / period + 1) * period;
		atomic_store(&l->timer_deadline, next);
		atomic_store(&l->timer_tsc, 0);
		timer_expired(l);
	}
	mlock_unlock(&l->timer_lock);
}

static void timer_start(struct lapic *l, uint64_t deadline)
{
	l->timer_arms++;
	atomic_store(&l->timer_deadline, deadline);
	clock_need(l->machine, deadline);
}

void lapic_timer_write_initial(struct lapic *l, uint32_t count)
{
	if (TIMER_MODE(l->lvt_timer) == TIMER_TSC_DEADLINE)
		return;
	lapic_timer_stop(l);
	l->initial_count = count;
	if (!count)
		return;
	uint64_t ns = timer_ns(l, count);
	if (TIMER_MODE(l->lvt_timer) == TIMER_PERIODIC)
		atomic_store(&l->timer_period, ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns);
	timer_start(l, machine_clock_ns(l->machine) + ns);
}

uint32_t lapic_timer_current(struct lapic *l)
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

void lapic_timer_write_tsc(struct lapic *l, uint64_t tsc)
{
	if (TIMER_MODE(l->lvt_timer) != TIMER_TSC_DEADLINE)
		return;
	if (!tsc) {
		lapic_timer_stop(l);
		return;
	}
	/* A deadline that is being replaced must not fire in between with the new value's name on it. */
	lapic_timer_stop(l);
	atomic_store(&l->timer_tsc, tsc);
	if (tsc <= clock_guest_tsc(l->machine)) {
		atomic_store(&l->timer_tsc, 0);
		l->timer_arms++;
		timer_expired(l);
		return;
	}
	timer_start(l, clock_tsc_deadline_ns(l->machine, tsc));
}

void lapic_timer_write_divide(struct lapic *l, uint32_t value)
{
	mlock_lock(&l->timer_lock);
	uint32_t left = lapic_timer_current(l);
	l->divide = value & 0xb;
	if (left) {
		/* The count goes on from where it is, at the new rate. */
		uint64_t ns = timer_ns(l, left);
		if (atomic_load(&l->timer_period)) {
			uint64_t period = timer_ns(l, l->initial_count);
			atomic_store(&l->timer_period, period < PERIOD_MIN_NS ? PERIOD_MIN_NS : period);
		}
		timer_start(l, machine_clock_ns(l->machine) + ns);
	}
	mlock_unlock(&l->timer_lock);
}

void lapic_timer_write_lvt(struct lapic *l, uint32_t value)
{
	uint32_t old = l->lvt_timer;
	l->lvt_timer = value;
	mlock_lock(&l->timer_lock);
	atomic_store_explicit(&l->timer_vector, value & (LVT_MASKED | 0xff), memory_order_relaxed);
	mlock_unlock(&l->timer_lock);
	if (TIMER_MODE(old) == TIMER_MODE(value))
		return;
	if (TIMER_MODE(old) == TIMER_TSC_DEADLINE || TIMER_MODE(value) == TIMER_TSC_DEADLINE) {
		lapic_timer_stop(l);
	} else if (TIMER_MODE(value) == TIMER_PERIODIC && l->initial_count) {
		uint64_t ns = timer_ns(l, l->initial_count);
		atomic_store(&l->timer_period, ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns);
	} else {
		atomic_store(&l->timer_period, 0);
	}
}

void lapic_timer_restore(struct lapic *l, uint32_t current, uint64_t tsc)
{
	lapic_timer_stop(l);
	atomic_store_explicit(&l->timer_vector, l->lvt_timer & (LVT_MASKED | 0xff), memory_order_relaxed);
	if (TIMER_MODE(l->lvt_timer) == TIMER_TSC_DEADLINE) {
		lapic_timer_write_tsc(l, tsc);
		return;
	}
	bool again = TIMER_MODE(l->lvt_timer) == TIMER_PERIODIC;
	if (!l->initial_count || (!current && !again))
		return;
	if (!current)
		current = l->initial_count;
	if (again) {
		uint64_t period = timer_ns(l, l->initial_count);
		atomic_store(&l->timer_period, period < PERIOD_MIN_NS ? PERIOD_MIN_NS : period);
	}
	timer_start(l, machine_clock_ns(l->machine) + timer_ns(l, current));
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
			lapic_timer_check(&machine->lapic[i], now);
	return lapic_timers_next(machine);
}
