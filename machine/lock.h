/* A futex mutex that touches no vector register and no libc, so that translated code's helpers may take it. */
#ifndef MACHINE_LOCK_H
#define MACHINE_LOCK_H

#include <stdatomic.h>

#include "machine/types.h"

/* 0: free, 1: held, 2: held and somebody sleeps. All zero is a free lock. */
struct mlock {
	_Atomic uint32_t state;
};

void mlock_lock_slow(struct mlock *lock);
void mlock_unlock_slow(struct mlock *lock);

static inline void mlock_lock(struct mlock *lock)
{
	uint32_t expected = 0;
	if (__builtin_expect(!atomic_compare_exchange_strong_explicit(&lock->state, &expected, 1, memory_order_acquire,
								      memory_order_relaxed), 0))
		mlock_lock_slow(lock);
}

static inline void mlock_unlock(struct mlock *lock)
{
	if (__builtin_expect(atomic_exchange_explicit(&lock->state, 0, memory_order_release) != 1, 0))
		mlock_unlock_slow(lock);
}

static inline bool mlock_is_held(struct mlock *lock)
{
	return atomic_load_explicit(&lock->state, memory_order_relaxed) != 0;
}

/*
 * Sleeps while *word == expected, until futex_wake or the absolute CLOCK_MONOTONIC time (UINT64_MAX: for ever).
 * 0, or -ETIMEDOUT, -EAGAIN, -EINTR. No libc, no vector registers.
 */
int machine_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t monotonic_ns);
void machine_futex_wake(_Atomic uint32_t *word, unsigned waiters);

/* The calling thread's timed waits end on time, not up to 50 us later. */
void machine_no_timer_slack(void);

#endif
