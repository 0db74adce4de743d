/* Memory workloads: the C library's memcpy and memset, and a plain sum over more than the caches' near levels. */
#include <string.h>

#include "guest.h"

enum {
	BLOCK = 1 << 20,
	SUM_BYTES = 4 << 20,
};

static uint8_t *from, *to;
static uint64_t *words;

static void blocks_prepare(void)
{
	from = guest_alloc(BLOCK);
	to = guest_alloc(BLOCK);
}

static uint64_t memcpy_run(uint64_t operations)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < operations; i++) {
		from[i % BLOCK] = (uint8_t)i;
		memcpy(to, from, BLOCK);
		MEMORY_USED();
		sum += to[i % BLOCK];
	}
	return sum;
}

static uint64_t memset_run(uint64_t operations)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < operations; i++) {
		memset(to, (int)i, BLOCK);
		MEMORY_USED();
		sum += to[i % BLOCK];
	}
	return sum;
}

static void sum_prepare(void)
{
	words = guest_alloc(SUM_BYTES);
}

static uint64_t sum_run(uint64_t operations)
{
	uint64_t sum = 0;

	while (operations--) {
		for (size_t i = 0; i < SUM_BYTES / sizeof(*words); i++)
			sum += words[i];
		MEMORY_USED();
	}
	return sum;
}

const struct workload memory_workloads[] = {
    {"memcpy", "memory", BLOCK >> 10, "KiB", blocks_prepare, memcpy_run},
    {"memset", "memory", BLOCK >> 10, "KiB", blocks_prepare, memset_run},
    {"sum", "memory", SUM_BYTES >> 10, "KiB", sum_prepare, sum_run},
    {0},
};
