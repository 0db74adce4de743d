/* How fast the host's time stamp counter runs. */
#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#include "machine/clock.h"

struct tsc_sample {
	uint64_t tsc, ns;
};

/* A pair read as close together as any of several tries: the counter in the middle of the shortest bracket. */
static struct tsc_sample sample_pair(void)
{
	struct tsc_sample best = { 0, 0 };
	uint64_t shortest = UINT64_MAX;
	for (int i = 0; i < 32; i++) {
		unsigned aux;
		uint64_t before = __rdtscp(&aux);
		uint64_t ns = clock_host_ns();
		uint64_t after = __rdtscp(&aux);
		if (after - before < shortest) {
			shortest = after - before;
			best = (struct tsc_sample){ before + shortest / 2, ns };
		}
	}
	return best;
}

static uint64_t khz_between(struct tsc_sample a, struct tsc_sample b)
{
	uint64_t ns = b.ns - a.ns;
	return ns ? (uint64_t)(((unsigned __int128)(b.tsc - a.tsc) * 1000000u + ns / 2) / ns) : 0;
}

static void sleep_ns(long ns)
{
	struct timespec ts = { 0, ns };
	nanosleep(&ts, NULL);
}

/* What the processor or its hypervisor says: CPUID 0x15 (crystal and ratio), 0x40000010 (kHz). 0: nothing. */
static uint64_t khz_by_cpuid(void)
{
	unsigned a, b, c, d;
	if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
		return (uint64_t)c * b / a / 1000;
	__cpuid(1, a, b, c, d);
	if (!(c & 1u << 31))
		return 0;
	__cpuid(0x40000000, a, b, c, d);
	if (a < 0x40000010 || a > 0x400000ff)
		return 0;
	__cpuid(0x40000010, a, b, c, d);
	return a;
}

static bool within_ppm(uint64_t a, uint64_t b, uint64_t ppm)
{
	uint64_t diff = a > b ? a - b : b - a;
	return diff <= b / 1000000 * ppm + 1;
}

/*
 * Guests are measured against CLOCK_MONOTONIC, so that clock decides: a figure from CPUID is taken when a short
 * measurement (good to some 50 ppm) agrees with it, else a longer one counts (good to some 10 ppm).
 */
uint64_t clock_measure_tsc_khz(void)
{
	uint64_t said = khz_by_cpuid();
	struct tsc_sample start = sample_pair();
	if (said) {
		sleep_ns(1500000);
		if (within_ppm(khz_between(start, sample_pair()), said, 150))
			return said;
	}
	sleep_ns(6000000);
	uint64_t measured = khz_between(start, sample_pair());
	return measured ? measured : 1000000;
}
