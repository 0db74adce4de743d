/* The AVX2 and FMA workload; the only file that is compiled for them. */
#include <immintrin.h>
#include <string.h>

#include "guest.h"

enum {
	ITEMS = 4096,
	PASSES = 16,
};

static float *x, *y;

static void saxpy_prepare(void)
{
	uint32_t seed = 8;

	x = guest_alloc(ITEMS * sizeof(float));
	y = guest_alloc(ITEMS * sizeof(float));
	for (int i = 0; i < ITEMS; i++)
		x[i] = (float)guest_random(&seed) / 1e7f;
}

static uint64_t saxpy_run(uint64_t operations)
{
	uint64_t hash = 0;

	for (int i = 0; i < ITEMS; i++)
		y[i] = (float)i;
	while (operations--) {
		for (int pass = 0; pass < PASSES; pass++) {
			/* Alternating, so that nothing grows out of range. */
			__m256 a = _mm256_set1_ps(pass & 1 ? -0.25f : 0.25f);

			for (int i = 0; i < ITEMS; i += 8) {
				__m256 sum = _mm256_fmadd_ps(a, _mm256_load_ps(x + i), _mm256_load_ps(y + i));

				_mm256_store_ps(y + i, sum);
			}
			MEMORY_USED();
		}
	}
	for (int i = 0; i < ITEMS; i += 100) {
		uint32_t bits;

		memcpy(&bits, &y[i], sizeof(bits));
		hash = guest_mix(hash, bits);
	}
	return hash;
}

const struct workload vector_workloads[] = {
    {"saxpy", "avx2", ITEMS *PASSES, "madd", saxpy_prepare, saxpy_run},
    {0},
};
