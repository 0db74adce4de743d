/* Virtual time, device timers and the clock thread. */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "machine/private.h"

/* Who asks for the time or arms a timer may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

uint64_t clock_host_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t machine_clock_ns(const struct machine *machine)
{
	const struct machine_clock *c = &machine->clock;
	for (;;) {
		uint32_t seq = atomic_load(&c->seq);
		uint64_t now = atomic_load(&c->paused) ? atomic_load(&c->stopped_at)
						       : clock_host_ns() - atomic_load(&c->base_ns);
		if (!(seq & 1) && seq == atomic_load(&c->seq))
			return now;
	}
}

uint64_t machine_tsc_offset(const struct machine *machine)
{
	return atomic_load_explicit(&machine->clock.tsc_offset, memory_order_relaxed);
}

uint64_t machine_tsc_khz(const struct machine *machine) { return machine->clock.tsc_khz; }

uint64_t clock_guest_tsc(struct machine *machine)
{
	if (atomic_load_explicit(&machine->clock.paused, memory_order_relaxed))
		return machine->clock.tsc_stopped_at;
	return __builtin_ia32_rdtsc() + machine_tsc_offset(machine);
}

uint64_t clock_tsc_deadline_ns(struct machine *machine, uint64_t guest_tsc)
{
	uint64_t now = machine_clock_ns(machine);
	uint64_t tsc = clock_guest_tsc(machine);
	if (guest_tsc <= tsc)
		return now;
	unsigned __int128 ns = (unsigned __int128)(guest_tsc - tsc) * 1000000u / machine->clock.tsc_khz;
	/* Anything beyond centuries is never. */
	return ns > UINT64_MAX / 4 ? CLOCK_NEVER : now + (uint64_t)ns;
}

/* ---- the timerfd that the clock thread sleeps in ------------------------------ */

static uint64_t host_deadline(const struct machine_clock *c, uint64_t deadline)
{
	if (deadline == CLOCK_NEVER || atomic_load(&c->paused))
		return CLOCK_NEVER;
	uint64_t at = atomic_load(&c->base_ns) + deadline;
	return at < deadline ? CLOCK_NEVER : at;
}

uint64_t clock_host_deadline(const struct machine *machine, uint64_t deadline)
{
	return host_deadline(&machine->clock, deadline);
}

/* Under arm_lock. A raw system call, because callers may hold guest vector state. */
static void timerfd_arm(struct machine_clock *c, uint64_t host_ns)
{
	struct itimerspec its;
	its.it_interval.tv_sec = its.it_interval.tv_nsec = 0;
	its.it_value.tv_sec = its.it_value.tv_nsec = 0;
	/* Zero would disarm; times beyond the kernel's reach are never. */
	if (host_ns != CLOCK_NEVER && host_ns < (uint64_t)INT64_MAX) {
		its.it_value.tv_sec = (time_t)(host_ns / 1000000000u);
		its.it_value.tv_nsec = (long)(host_ns % 1000000000u);
		if (!host_ns)
			its.it_value.tv_nsec = 1;
	}
	/* Before the call: a timer that expires at once must find it here to take it away. */
	atomic_store(&c->armed_ns, host_ns);
	long ret, fd = c->timerfd;
	/* Nothing but the instruction may come between: a call in an operand would lose the register. */
	register long r10 __asm__("r10") = 0;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"((long)SYS_timerfd_settime), "D"(fd), "S"((long)TFD_TIMER_ABSTIME), "d"(&its),
			   "r"(r10)
			 : "rcx", "r11", "memory");
	(void)ret;
	atomic_fetch_add_explicit(&c->rearms, 1, memory_order_relaxed);
}

void clock_need(struct machine *machine, uint64_t deadline)
{
	struct machine_clock *c = &machine->clock;
	/*
	 * The deadline was published before this load, and the clock thread sets armed_ns to never before it looks at
	 * deadlines: one of the two sees the other.
	 */
	uint64_t at = host_deadline(c, deadline);
	if (at >= atomic_load(&c->armed_ns))
		return;
	mlock_lock(&c->arm_lock);
	if (at < atomic_load(&c->armed_ns))
		timerfd_arm(c, at);
	mlock_unlock(&c->arm_lock);
}

static uint64_t earliest_deadline(struct machine *machine)
{
	uint64_t timers = atomic_load(&machine->clock.timers_next);
	uint64_t lapics = lapic_timers_next(machine);
	return timers < lapics ? timers : lapics;
}

void clock_release(struct machine *machine, uint64_t deadline)
{
	struct machine_clock *c = &machine->clock;
	if (host_deadline(c, deadline) > atomic_load(&c->armed_ns))
		return; /* armed for something else */
	mlock_lock(&c->arm_lock);
	/* First, so that who publishes an earlier deadline after the look below waits for the lock and arms it. */
	atomic_store(&c->armed_ns, CLOCK_NEVER);
	timerfd_arm(c, host_deadline(c, earliest_deadline(machine)));
	mlock_unlock(&c->arm_lock);
}

/* ---- timers --------------------------------------------------------------------- */

void clock_timer_init(struct clock_timer *timer, void (*fire)(void *opaque), void *opaque)
{
	timer->fire = fire;
	timer->opaque = opaque;
	timer->deadline = CLOCK_NEVER;
	timer->next = NULL;
}

static void timers_publish(struct machine_clock *c)
{
	atomic_store(&c->timers_next, c->timers ? c->timers->deadline : CLOCK_NEVER);
}

static void timer_unlink(struct machine_clock *c, struct clock_timer *timer)
{
	if (timer->deadline == CLOCK_NEVER)
		return;
	struct clock_timer **link = &c->timers;
	while (*link && *link != timer)
		link = &(*link)->next;
	BUG_ON(!*link);
	*link = timer->next;
	timer->next = NULL;
	timer->deadline = CLOCK_NEVER;
}

void clock_timer_arm(struct machine *machine, struct clock_timer *timer, uint64_t deadline)
{
	struct machine_clock *c = &machine->clock;
	timer_unlink(c, timer);
	if (deadline != CLOCK_NEVER) {
		struct clock_timer **link = &c->timers;
		while (*link && (*link)->deadline <= deadline)
			link = &(*link)->next;
		timer->deadline = deadline;
		timer->next = *link;
		*link = timer;
	}
	timers_publish(c);
	clock_need(machine, deadline);
}

void clock_timer_cancel(struct machine *machine, struct clock_timer *timer)
{
	timer_unlink(&machine->clock, timer);
	timers_publish(&machine->clock);
}

static void timers_run(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	machine_lock(machine);
	/* A device that keeps rearming in the past gets one turn for each wake-up. */
	uint64_t now = machine_clock_ns(machine);
	for (unsigned turns = 0; c->timers && c->timers->deadline <= now && turns < 64; turns++) {
		struct clock_timer *timer = c->timers;
		timer_unlink(c, timer);
		timer->fire(timer->opaque);
	}
	timers_publish(c);
	machine_unlock(machine);
}

static void *clock_thread(void *opaque)
{
	struct machine *machine = opaque;
	struct machine_clock *c = &machine->clock;
	prctl(PR_SET_NAME, "clock");
	while (!atomic_load(&c->quit)) {
		uint64_t expirations;
		if (read(c->timerfd, &expirations, sizeof(expirations)) < 0 && errno != EINTR && errno != EAGAIN)
			break;
		atomic_fetch_add_explicit(&c->wakeups, 1, memory_order_relaxed);
		mlock_lock(&c->arm_lock);
		atomic_store(&c->armed_ns, CLOCK_NEVER);
		mlock_unlock(&c->arm_lock);
		uint64_t now = machine_clock_ns(machine);
		if (!atomic_load(&c->paused)) {
			lapic_timers_run(machine, now);
			if (atomic_load(&c->timers_next) <= now)
				timers_run(machine);
		}
		clock_need(machine, earliest_deadline(machine));
	}
	return NULL;
}

/* ---- lifecycle --------------------------------------------------------------------- */

int clock_init(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	atomic_store(&c->armed_ns, CLOCK_NEVER);
	atomic_store(&c->timers_next, CLOCK_NEVER);
	c->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (c->timerfd < 0)
		return -errno;
	c->tsc_khz = clock_measure_tsc_khz();
	atomic_store(&c->base_ns, clock_host_ns());
	atomic_store(&c->tsc_offset, 0 - __builtin_ia32_rdtsc());
	return 0;
}

int clock_start(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	int rc = -pthread_create(&c->thread, NULL, clock_thread, machine);
	c->thread_started = !rc;
	return rc;
}

void clock_finish(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	if (c->thread_started) {
		atomic_store(&c->quit, true);
		mlock_lock(&c->arm_lock);
		timerfd_arm(c, 0);
		mlock_unlock(&c->arm_lock);
		pthread_join(c->thread, NULL);
		c->thread_started = false;
	}
	if (c->timerfd >= 0)
		close(c->timerfd);
	c->timerfd = -1;
}

void clock_pause(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	if (atomic_load(&c->paused))
		return;
	atomic_fetch_add(&c->seq, 1);
	c->tsc_stopped_at = __builtin_ia32_rdtsc() + machine_tsc_offset(machine);
	atomic_store(&c->stopped_at, clock_host_ns() - atomic_load(&c->base_ns));
	atomic_store(&c->paused, true);
	atomic_fetch_add(&c->seq, 1);
}

void clock_resume(struct machine *machine)
{
	struct machine_clock *c = &machine->clock;
	if (!atomic_load(&c->paused))
		return;
	atomic_fetch_add(&c->seq, 1);
	atomic_store(&c->base_ns, clock_host_ns() - atomic_load(&c->stopped_at));
	atomic_store(&c->tsc_offset, c->tsc_stopped_at - __builtin_ia32_rdtsc());
	atomic_store(&c->paused, false);
	atomic_fetch_add(&c->seq, 1);
	mlock_lock(&c->arm_lock);
	atomic_store(&c->armed_ns, CLOCK_NEVER);
	timerfd_arm(c, host_deadline(c, earliest_deadline(machine)));
	mlock_unlock(&c->arm_lock);
}
