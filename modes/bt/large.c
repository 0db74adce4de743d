/*
 * Large host pages under the translations, their tables and guest RAM.
 *
 * Guests with much code and data (compilers, interpreters) otherwise spend more on the host's TLB misses than on the
 * translator. Anonymous memory gets large pages by MADV_HUGEPAGE; a memfd only where shmem_enabled allows it, which is
 * rarely so: MADV_COLLAPSE (Linux 6.1) asks for a single one at a time and heeds no such setting. Code is collapsed before
 * its first byte is written; RAM when a 2 MiB region turns out to be in use, so that a small guest stays small.
 */
#include "modes/bt/large.h"

#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Without libc: vector registers are the guest's here. 0 or -errno. */
static int collapse(uint8_t *at)
{
	long rc;

	__asm__ volatile("syscall"
			 : "=a"(rc)
			 : "a"(SYS_madvise), "D"(at), "S"((long)BT_LARGE_BYTES), "d"((long)MADV_COLLAPSE)
			 : "rcx", "r11", "memory");
	return (int)rc;
}

uint8_t *bt_large_code(uint8_t *done, const uint8_t *end, const uint8_t *limit)
{
	while (done < end && done + BT_LARGE_BYTES <= limit) {
		*(volatile uint8_t *)done = *done; /* a region without a single page cannot be collapsed */
		(void)collapse(done);             /* small pages do as well */
		done += BT_LARGE_BYTES;
	}
	return done;
}

void bt_large_ram(struct bt_large *l, uint8_t *host)
{
	uint64_t off = (uint64_t)(host - l->ram) & ~(uint64_t)(BT_LARGE_BYTES - 1);
	uint8_t *count = &l->fills[off / BT_LARGE_BYTES];

	if (off + BT_LARGE_BYTES > l->bytes || *count == BT_LARGE_DONE || l->failures >= BT_LARGE_FAILURES)
		return;
	if (__atomic_add_fetch(count, 1, __ATOMIC_RELAXED) != BT_LARGE_FILLS)
		return;
	*count = BT_LARGE_DONE;
	/* Where the host has no large page to give, every attempt costs it a search. */
	if (collapse(l->ram + off) < 0)
		__atomic_add_fetch(&l->failures, 1, __ATOMIC_RELAXED);
	else
		__atomic_add_fetch(&l->regions, 1, __ATOMIC_RELAXED);
}

void bt_large_discarded(struct bt_large *l, const uint8_t *host, uint64_t n)
{
	uint64_t from = (uint64_t)(host - l->ram), to = from + n;

	for (uint64_t at = from & ~(uint64_t)(BT_LARGE_BYTES - 1); at < to && at + BT_LARGE_BYTES <= l->bytes; at += BT_LARGE_BYTES)
		__atomic_store_n(&l->fills[at / BT_LARGE_BYTES], at >= from && at + BT_LARGE_BYTES <= to ? 0 : BT_LARGE_DONE, __ATOMIC_RELAXED);
}
