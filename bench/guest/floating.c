/* Floating point workloads in plain C (SSE2): n bodies, a matrix multiplication. */
#include <math.h>
#include <string.h>

#include "guest.h"

enum {
	BODIES = 5,
	NBODY_STEPS = 1000,
	SIZE = 96,
};

struct body {
	double at[3], speed[3], mass;
};

static void advance(struct body *b, double dt)
{
	for (int i = 0; i < BODIES; i++) {
		for (int j = i + 1; j < BODIES; j++) {
			double d[3], square = 0, pull;

			for (int k = 0; k < 3; k++) {
				d[k] = b[i].at[k] - b[j].at[k];
				square += d[k] * d[k];
			}
			pull = dt / (square * sqrt(square));
			for (int k = 0; k < 3; k++) {
				b[i].speed[k] -= d[k] * b[j].mass * pull;
				b[j].speed[k] += d[k] * b[i].mass * pull;
			}
		}
	}
	for (int i = 0; i < BODIES; i++) {
		for (int k = 0; k < 3; k++)
			b[i].at[k] += dt * b[i].speed[k];
	}
}

static uint64_t bits(double value)
{
	uint64_t result;

	memcpy(&result, &value, sizeof(result));
	return result;
}

static uint64_t nbody_run(uint64_t operations)
{
	struct body b[BODIES];
	uint64_t hash = 0;

	/* A heavy one in the middle, the others around it. */
	for (int i = 0; i < BODIES; i++) {
		double far = i * 5.0;

		b[i] = (struct body){{far, far * 0.3, -far * 0.1}, {0, 0, 0}, i ? 0.01 * i : 39.5};
		if (i)
			b[i].speed[1] = sqrt(39.5 / far);
	}
	while (operations--) {
		for (int i = 0; i < NBODY_STEPS; i++)
			advance(b, 0.001);
	}
	for (int i = 0; i < BODIES; i++)
		hash = guest_mix(hash, bits(b[i].at[0]));
	return hash;
}

static double left[SIZE][SIZE], right[SIZE][SIZE], product[SIZE][SIZE];

static void matrix_prepare(void)
{
	uint32_t seed = 7;

	for (int i = 0; i < SIZE; i++) {
		for (int j = 0; j < SIZE; j++) {
			left[i][j] = guest_random(&seed) / 1e7;
			right[i][j] = guest_random(&seed) / 1e7;
		}
	}
}

static uint64_t matrix_run(uint64_t operations)
{
	uint64_t hash = 0;

	while (operations--) {
		memset(product, 0, sizeof(product));
		for (int i = 0; i < SIZE; i++) {
			for (int k = 0; k < SIZE; k++) {
				double factor = left[i][k];

				for (int j = 0; j < SIZE; j++)
					product[i][j] += factor * right[k][j];
			}
		}
		hash = guest_mix(hash, bits(product[operations % SIZE][7]));
	}
	return hash;
}

const struct workload floating_workloads[] = {
    {"nbody", "float", NBODY_STEPS, "step", NULL, nbody_run},
    {"matrix", "float", SIZE *SIZE *SIZE, "madd", matrix_prepare, matrix_run},
    {0},
};
