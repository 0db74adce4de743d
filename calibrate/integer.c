/* Loops in general registers: integer code, copies, a chase through many pages. */
#include "calibrate/measure.h"

static uint32_t table[256];
static uint64_t (*volatile steps[4])(uint64_t x);
/* What a loop computed goes here, so that it is computed. */
static volatile uint64_t sink;

__attribute__((noinline)) static uint64_t step_add(uint64_t x)
{
	return x + 0x9e3779b97f4a7c15;
}
__attribute__((noinline)) static uint64_t step_fold(uint64_t x)
{
	return x ^ x >> 29;
}
__attribute__((noinline)) static uint64_t step_scale(uint64_t x)
{
	return x * 0x2545f4914f6cdd1d + 1;
}
__attribute__((noinline)) static uint64_t step_turn(uint64_t x)
{
	return x << 13 | x >> 51;
}

const char *integer_prepare(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (unsigned bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		table[i] = c;
	}
	steps[0] = step_add;
	steps[1] = step_fold;
	steps[2] = step_scale;
	steps[3] = step_turn;
	return NULL;
}

/* A look-up and a branch that depends on data each time, a call every fourth, an indirect one every sixteenth. */
uint64_t integer_run(uint64_t operations)
{
	uint64_t begin = ticks(), x = 88172645463325252ull;
	uint32_t crc = ~0u;

	for (uint64_t i = 0; i < operations; i++) {
		crc = table[(crc ^ (uint32_t)x) & 255] ^ crc >> 8;
		if (crc & 64)
			x += crc;
		else
			x ^= x << 7;
		if (!(i & 3))
			x = step_scale(x);
		if (!(i & 15))
			x = steps[x >> 33 & 3](x);
	}
	sink = x + crc;
	return ticks() - begin;
}

/* code.S: functions as an array of their bytes. */
extern const uint8_t code_functions[];

void code_walk(uint64_t first, uint64_t operations, uint8_t *data)
{
	for (uint64_t i = 0; i < operations; i++) {
		uint64_t x = (first + i) * 0x9e3779b97f4a7c15ull;
		uint64_t (*function)(uint64_t, uint8_t *) =
			(uint64_t(*)(uint64_t, uint8_t *))(uintptr_t)(code_functions + (x >> 58) * CODE_FUNCTION_BYTES);

		sink = function(x, data);
	}
}

uint64_t code_run(uint64_t operations)
{
	uint64_t begin = ticks();

	code_walk(0, operations, arena());
	return ticks() - begin;
}

#define COPY_LINES (256ul * 1024 / 64)

uint64_t memory_run(uint64_t operations)
{
	uint64_t *from = (uint64_t *)(void *)arena(), *to = from + COPY_LINES * 8;
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++) {
		uint64_t at = i % COPY_LINES * 8;

		for (unsigned k = 0; k < 8; k++)
			to[at + k] = from[at + k];
		__asm__ __volatile__("" ::: "memory");
	}
	return ticks() - begin;
}

/* One pointer in each page, at changing lines so that a cache's sets are used evenly; the order is a single cycle. */
const char *tlb_prepare(void)
{
	uint8_t *base = arena();
	static uint16_t order[TLB_PAGES];
	uint64_t seed = 1;

	for (unsigned i = 0; i < TLB_PAGES; i++)
		order[i] = (uint16_t)i;
	for (unsigned i = TLB_PAGES - 1; i > 0; i--) {
		unsigned j;
		uint16_t swap = order[i];

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		j = (unsigned)(seed >> 33) % (i + 1);
		order[i] = order[j];
		order[j] = swap;
	}
	for (unsigned i = 0; i < TLB_PAGES; i++) {
		unsigned page = order[i], next = order[(i + 1) % TLB_PAGES];

		*(void **)(void *)(base + page * PAGE_BYTES + page % 64 * 64) = base + next * PAGE_BYTES + next % 64 * 64;
	}
	return NULL;
}

uint64_t tlb_run(uint64_t operations)
{
	uint8_t *base = arena();
	void *at = base;
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		at = *(void **)at;
	sink = (uint64_t)at;
	return ticks() - begin;
}
