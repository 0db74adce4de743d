/* Slow paths of the futex mutex, and futex waits by raw system calls. */
#include <errno.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "machine/lock.h"

/* Callers may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

static long raw_futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout, uint32_t value3)
{
	long ret;
	register long r10 __asm__("r10") = (long)timeout;
	register long r8 __asm__("r8") = 0;
	register long r9 __asm__("r9") = value3;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"((long)SYS_futex), "D"(word), "S"((long)op), "d"((long)value), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

int machine_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t monotonic_ns)
{
	struct timespec until = { .tv_sec = (time_t)(monotonic_ns / 1000000000u),
				  .tv_nsec = (long)(monotonic_ns % 1000000000u) };
	return (int)raw_futex(word, FUTEX_WAIT_BITSET_PRIVATE, expected, monotonic_ns == UINT64_MAX ? NULL : &until,
			      FUTEX_BITSET_MATCH_ANY);
}

void machine_futex_wake(_Atomic uint32_t *word, unsigned waiters)
{
	raw_futex(word, FUTEX_WAKE_PRIVATE, waiters, NULL, 0);
}

void mlock_lock_slow(struct mlock *lock)
{
	/* The holder is usually out again within a microsecond. */
	for (int spin = 0; spin < 100; spin++) {
		uint32_t expected = 0;
		if (atomic_compare_exchange_weak_explicit(&lock->state, &expected, 1, memory_order_acquire,
							  memory_order_relaxed))
			return;
		__builtin_ia32_pause();
	}
	while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
		machine_futex_wait(&lock->state, 2, UINT64_MAX);
}

void mlock_unlock_slow(struct mlock *lock)
{
	machine_futex_wake(&lock->state, 1);
}

void machine_no_timer_slack(void)
{
	long ret;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"((long)SYS_prctl), "D"((long)PR_SET_TIMERSLACK), "S"(1l)
			 : "rcx", "r11", "memory");
	(void)ret;
}
