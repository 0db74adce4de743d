/* Loops in vector registers: scalar doubles, and four floats at once. SSE2, which every x86-64 processor has. */
#include "calibrate/measure.h"

typedef float floats __attribute__((vector_size(16)));

#define VECTORS 256

static floats left[VECTORS], right[VECTORS];
static volatile double sink;

uint64_t floating_run(uint64_t operations)
{
	uint64_t begin = ticks();
	double x = 0.5, y = 1.25, z = 0;

	for (uint64_t i = 0; i < operations; i++) {
		x = x * 0.75 + y * 0.125;
		y = y * 0.5 + 1.0 / (x + 1.5);
		z += x - y;
	}
	sink = z;
	return ticks() - begin;
}

const char *vector_prepare(void)
{
	for (unsigned i = 0; i < VECTORS; i++) {
		float f = (float)i;

		left[i] = (floats){f, f + 1, f + 2, f + 3};
		right[i] = (floats){1, 2, 3, 4};
	}
	return NULL;
}

uint64_t vector_run(uint64_t operations)
{
	const floats scale = {0.5f, 0.25f, 0.125f, 1.5f};
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++) {
		unsigned at = i % VECTORS;

		right[at] = left[at] * scale + right[at];
		__asm__ __volatile__("" ::: "memory");
	}
	return ticks() - begin;
}
