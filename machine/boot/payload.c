/* LZ4 legacy frames, the form in which Debian's kernels are packed: parsed, checked and inflated on all processors. */
#include <lz4.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "machine/boot/private.h"

/* LZ4 "legacy frame" (lz4_Frame_format.md): magic, then blocks of { u32 packed size, data } of 8 MiB each, independent
   of each other. The kernel's build appends the inflated size as a u32 (scripts/Makefile.lib, size_append). */
#define LZ4_LEGACY_MAGIC 0x184c2102u

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

bool payload_parse(struct payload *ret_payload, const uint8_t *data, size_t n)
{
	struct payload payload = {0};
	size_t at = 4;

	if (n < 12 || get32(data) != LZ4_LEGACY_MAGIC)
		return false;
	payload.size = get32(data + n - 4);
	n -= 4;
	while (at < n) {
		uint32_t packed;

		if (n - at < 4 || payload.blocks == PAYLOAD_MAX_BLOCKS)
			return false;
		packed = get32(data + at);
		at += 4;
		if (packed == 0 || packed > (uint32_t)LZ4_COMPRESSBOUND(PAYLOAD_BLOCK) || packed > n - at)
			return false;
		payload.block[payload.blocks] = data + at;
		payload.packed[payload.blocks++] = packed;
		at += packed;
	}
	if (payload.size == 0 || (payload.size + PAYLOAD_BLOCK - 1) / PAYLOAD_BLOCK != payload.blocks)
		return false;
	*ret_payload = payload;
	return true;
}

static uint32_t block_bytes(const struct payload *payload, unsigned i)
{
	uint64_t left = payload->size - (uint64_t)i * PAYLOAD_BLOCK;

	return left < PAYLOAD_BLOCK ? (uint32_t)left : PAYLOAD_BLOCK;
}

bool payload_head(const struct payload *payload, uint8_t *ret_buf, size_t n)
{
	if (n > block_bytes(payload, 0))
		return false;
	return LZ4_decompress_safe_partial((const char *)payload->block[0], (char *)ret_buf, (int)payload->packed[0], (int)n,
					   (int)n) == (int)n;
}

struct inflate_job {
	const struct payload *payload;
	uint8_t *buf;
	unsigned next; /* atomic: the next block nobody works on */
	bool failed;   /* atomic */
};

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/*
 * Guest RAM is fresh: a fault for each page takes three times as long as the unpacking. Large pages (Linux 6.1; one needs a
 * small page to begin with), or else one call for a block, are cheaper, and every thread pays for its own. A host kernel
 * before 5.14 knows neither, and faults.
 */
static void populate(uint8_t *to, size_t n)
{
	uintptr_t large = ((uintptr_t)to + MACHINE_LARGE_PAGE - 1) & ~(uintptr_t)(MACHINE_LARGE_PAGE - 1);

	for (; large + MACHINE_LARGE_PAGE <= (uintptr_t)to + n; large += MACHINE_LARGE_PAGE) {
		*(volatile uint8_t *)large = 0;
		if (madvise((void *)large, MACHINE_LARGE_PAGE, MADV_COLLAPSE) < 0)
			break;
	}
#ifdef MADV_POPULATE_WRITE
	uintptr_t begin = (uintptr_t)to & GUEST_PAGE_MASK, end = ((uintptr_t)to + n) & GUEST_PAGE_MASK;

	if (end > begin)
		(void)madvise((void *)begin, end - begin, MADV_POPULATE_WRITE);
#endif
}

static void *inflate_worker(void *opaque)
{
	struct inflate_job *job = opaque;
	const struct payload *payload = job->payload;

	for (;;) {
		unsigned i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
		uint8_t *to;
		uint32_t n;

		if (i >= payload->blocks)
			return NULL;
		to = job->buf + (uint64_t)i * PAYLOAD_BLOCK;
		n = block_bytes(payload, i);
		populate(to, n);
		if (LZ4_decompress_safe((const char *)payload->block[i], (char *)to, (int)payload->packed[i], (int)n) != (int)n)
			__atomic_store_n(&job->failed, true, __ATOMIC_RELAXED);
	}
}

bool payload_inflate(const struct payload *payload, uint8_t *ret_buf)
{
	struct inflate_job job = {.payload = payload, .buf = ret_buf};
	pthread_t thread[7];
	unsigned threads = 0, want = 1;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		want = (unsigned)CPU_COUNT(&cpus);
	if (want > payload->blocks)
		want = payload->blocks;
	/* This thread works too; a helper that cannot be had only costs time. */
	while (threads + 1 < want && threads < ARRAY_SIZE(thread)) {
		if (pthread_create(&thread[threads], NULL, inflate_worker, &job) != 0)
			break;
		threads++;
	}
	inflate_worker(&job);
	while (threads > 0)
		pthread_join(thread[--threads], NULL);
	return !__atomic_load_n(&job.failed, __ATOMIC_RELAXED);
}
