/* Integer workloads, the short loops: sorting, recursion, a table-driven CRC, indirect calls, a pointer chase. */
#include <stdlib.h>
#include <string.h>

#include "guest.h"

enum {
	SORT_ITEMS = 400000,
	FIB_OF = 24,
	FIB_CALLS = 150049, /* fib(24) makes so many calls of fib */
	CRC_BYTES = 65536,
	INDIRECT_CALLS = 10000,
	CHASE_BYTES = 4 << 20,
	CHASE_NODES = CHASE_BYTES / 64,
};

static int *sort_items;

static void sort_prepare(void)
{
	sort_items = guest_alloc(SORT_ITEMS * sizeof(int));
}

static int compare(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

static uint64_t sort_run(uint64_t operations)
{
	uint64_t hash = 0;
	uint32_t seed = 1;

	while (operations--) {
		for (int i = 0; i < SORT_ITEMS; i++)
			sort_items[i] = (int)guest_random(&seed);
		qsort(sort_items, SORT_ITEMS, sizeof(int), compare);
		for (int i = 0; i < SORT_ITEMS; i += 1000)
			hash = guest_mix(hash, (uint64_t)sort_items[i]);
	}
	return hash;
}

/* GCC would unroll the recursion several levels deep. */
__attribute__((noinline, optimize("no-optimize-sibling-calls", "no-inline"))) static uint64_t fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t fib_run(uint64_t operations)
{
	uint64_t sum = 0;

	while (operations--) {
		uint64_t n = FIB_OF;

		OPAQUE(n);
		sum += fib(n);
	}
	return sum;
}

static uint32_t crc_table[256];
static uint8_t *crc_data;

static void crc_prepare(void)
{
	uint32_t seed = 2;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		crc_table[i] = c;
	}
	crc_data = guest_alloc(CRC_BYTES);
	for (int i = 0; i < CRC_BYTES; i++)
		crc_data[i] = (uint8_t)guest_random(&seed);
}

static uint64_t crc_run(uint64_t operations)
{
	uint32_t crc = ~0u;

	while (operations--) {
		for (int i = 0; i < CRC_BYTES; i++)
			crc = crc_table[(crc ^ crc_data[i]) & 255] ^ crc >> 8;
	}
	return crc;
}

typedef uint64_t step_fn(uint64_t x);

#define STEP(n, expression)                                                                                            \
	static uint64_t step##n(uint64_t x)                                                                            \
	{                                                                                                              \
		return expression;                                                                                     \
	}
STEP(0, x + 0x9e3779b9)
STEP(1, x ^ x >> 7)
STEP(2, x * 5 + 1)
STEP(3, x << 3 | x >> 61)
STEP(4, x - 0x7f4a7c15)
STEP(5, ~x + 3)
STEP(6, x ^ x << 9)
STEP(7, x * 9 + 7)

/* Not const, so that the calls stay indirect. */
static step_fn *steps[] = {step0, step1, step2, step3, step4, step5, step6, step7};

static uint64_t indirect_run(uint64_t operations)
{
	uint64_t x = 1;

	MEMORY_USED();
	while (operations--) {
		for (int i = 0; i < INDIRECT_CALLS; i++)
			x = steps[(x >> 11 ^ (uint64_t)i) & 7](x);
	}
	return x;
}

struct node {
	struct node *next;
	uint64_t value;
	uint64_t unused[6];
};

static struct node *chase_nodes;

static void chase_prepare(void)
{
	static uint32_t order[CHASE_NODES];
	uint32_t seed = 3;

	chase_nodes = guest_alloc(CHASE_BYTES);
	for (uint32_t i = 0; i < CHASE_NODES; i++)
		order[i] = i;
	for (uint32_t i = CHASE_NODES - 1; i > 0; i--) {
		uint32_t j = guest_random(&seed) % (i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	for (uint32_t i = 0; i < CHASE_NODES; i++) {
		chase_nodes[order[i]].next = &chase_nodes[order[(i + 1) % CHASE_NODES]];
		chase_nodes[order[i]].value = i;
	}
}

static uint64_t chase_run(uint64_t operations)
{
	struct node *node = chase_nodes;
	uint64_t sum = 0;

	while (operations--) {
		for (int i = 0; i < CHASE_NODES; i++) {
			sum += node->value;
			node = node->next;
		}
	}
	return sum;
}

const struct workload integer_workloads[] = {
    {"qsort", "integer", SORT_ITEMS, "int", sort_prepare, sort_run},
    {"fib", "integer", FIB_CALLS, "call", NULL, fib_run},
    {"crc32", "integer", CRC_BYTES, "byte", crc_prepare, crc_run},
    {"indirect", "integer", INDIRECT_CALLS, "call", NULL, indirect_run},
    {"chase", "integer", CHASE_NODES, "load", chase_prepare, chase_run},
    {0},
};
