/* Virtual time and timers. */
#ifndef MACHINE_CLOCK_H
#define MACHINE_CLOCK_H

#include <pthread.h>
#include <stdatomic.h>

#include "machine/lock.h"
#include "machine/types.h"

struct machine;

#define CLOCK_NEVER UINT64_MAX

/* Owned by the device, zeroed and clock_timer_init before use; cancel before freeing. */
struct clock_timer {
	void (*fire)(void *opaque); /* on the clock thread, under the machine lock; may arm it again */
	void *opaque;
	uint64_t deadline; /* machine_clock_ns; CLOCK_NEVER when not armed */
	struct clock_timer *next;
};

struct machine_clock {
	/* Virtual time: monotonic - base while running, `stopped_at` while paused. Read through seq. */
	_Atomic uint32_t seq;
	_Atomic bool paused;
	_Atomic uint64_t base_ns;    /* CLOCK_MONOTONIC at virtual 0 */
	_Atomic uint64_t stopped_at; /* virtual ns */
	_Atomic uint64_t tsc_offset;
	uint64_t tsc_stopped_at;     /* guest TSC at pause */
	uint64_t tsc_khz;

	struct clock_timer *timers;   /* sorted by deadline; machine lock */
	_Atomic uint64_t timers_next; /* deadline of the first */

	/* The clock thread sleeps in this timerfd, which whoever has an earlier deadline moves. */
	int timerfd;
	struct mlock arm_lock;
	_Atomic uint64_t armed_ns; /* CLOCK_MONOTONIC; CLOCK_NEVER: disarmed */
	_Atomic bool quit;
	bool thread_started;
	pthread_t thread;
	_Atomic uint64_t wakeups, rearms;
};

void clock_timer_init(struct clock_timer *timer, void (*fire)(void *opaque), void *opaque);
/* Fires once at machine_clock_ns() == deadline or soon after; rearming moves it. Under the machine lock. */
void clock_timer_arm(struct machine *machine, struct clock_timer *timer, uint64_t deadline);
void clock_timer_cancel(struct machine *machine, struct clock_timer *timer);
static inline bool clock_timer_armed(const struct clock_timer *timer) { return timer->deadline != CLOCK_NEVER; }

int clock_init(struct machine *machine);
int clock_start(struct machine *machine);
/* Joins the clock thread; not under the machine lock. */
void clock_finish(struct machine *machine);
void clock_pause(struct machine *machine);
void clock_resume(struct machine *machine);

/* Wakes the clock thread no later than this virtual time. [lock-free], no vector registers */
void clock_need(struct machine *machine, uint64_t deadline);
/* As clock_need for something that nobody waits for any more: the thread may sleep longer. */
void clock_release(struct machine *machine, uint64_t deadline);

uint64_t clock_host_ns(void); /* CLOCK_MONOTONIC */
/* When that virtual time comes, in CLOCK_MONOTONIC; CLOCK_NEVER while paused. */
uint64_t clock_host_deadline(const struct machine *machine, uint64_t deadline);
/* The host TSC's rate in kHz; sleeps some milliseconds. */
uint64_t clock_measure_tsc_khz(void);
uint64_t clock_guest_tsc(struct machine *machine);
/* Virtual time at which the guest's TSC reads this; now when it has passed. */
uint64_t clock_tsc_deadline_ns(struct machine *machine, uint64_t guest_tsc);
/* Ticks of a clock of `hz` in `ns`, and back (rounded up), without overflow. */
static inline uint64_t clock_ns_to_ticks(uint64_t ns, uint64_t hz)
{
	return (uint64_t)((unsigned __int128)ns * hz / 1000000000u);
}
static inline uint64_t clock_ticks_to_ns(uint64_t ticks, uint64_t hz)
{
	return (uint64_t)(((unsigned __int128)ticks * 1000000000u + hz - 1) / hz);
}

#endif
