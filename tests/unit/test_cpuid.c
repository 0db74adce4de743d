/* The CPUID model: nothing the host lacks, nothing the engines cannot give, and a topology that adds up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <cpuid.h>

#include "machine/cpuid.h"

static struct cpuid_model model;

static void build(unsigned vcpus, bool paravirt, bool hardware)
{
	const struct cpuid_config config = {
		.vcpus = vcpus, .tsc_khz = 2000000, .paravirt = paravirt, .hardware = hardware,
	};

	cpuid_model_build(&model, &config);
}

static void guest(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	cpuid_query(&model, 0, 0, 1, leaf, subleaf, r);
}

static void host(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
}

static void test_no_feature_beyond_the_host(void **state)
{
	/* Features by leaf and register, and what the engines emulate whatever the host has. */
	static const struct {
		uint32_t leaf, subleaf;
		unsigned reg;
		uint32_t emulated;
	} rows[] = {
		{1, 0, 2, 1u << 21 | 1u << 24 | 1u << 31}, {1, 0, 3, 1u << 28}, {7, 0, 1, 1u << 1},
		{7, 0, 2, 1u << 2}, {7, 0, 3, 0}, {7, 1, 0, 0}, {0xd, 0, 0, 0}, {0xd, 1, 0, 0},
		{0x80000001, 0, 2, 1u << 1}, {0x80000001, 0, 3, 0}, {0x80000008, 0, 1, 0}, {0x80000021, 0, 0, 0},
	};
	uint32_t g[4], h[4];
	unsigned i;

	build(4, true, true);
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		guest(rows[i].leaf, rows[i].subleaf, g);
		host(rows[i].leaf, rows[i].subleaf, h);
		assert_int_equal(g[rows[i].reg] & ~h[rows[i].reg] & ~rows[i].emulated, 0);
	}
}

static void test_what_no_engine_gives(void **state)
{
	uint32_t r[4];

	build(2, true, false);
	guest(1, 0, r);
	assert_int_equal(r[2] & (1u << 3 | 1u << 5 | 1u << 17), 0); /* mwait, vmx, pcid */
	assert_true(r[2] & 1u << 31);
	guest(7, 0, r);
	assert_int_equal(r[1] & (1u << 4 | 1u << 10 | 1u << 11 | 1u << 16 | 1u << 20), 0); /* tsx, invpcid, avx512f, smap */
	assert_int_equal(r[2] & (1u << 3 | 1u << 7 | 1u << 16), 0);			      /* pku, shstk, la57 */
	guest(0xd, 1, r);
	assert_int_equal(r[0] & 8, 0); /* xsaves */
	guest(0x80000001, 0, r);
	assert_int_equal(r[2] & 1u << 2, 0); /* svm */
}

static void test_dynamic_fields(void **state)
{
	uint32_t r[4];

	build(4, true, false);
	cpuid_query(&model, 3, 0, 1, 1, 0, r);
	assert_int_equal(r[1] >> 24, 3);
	assert_int_equal(r[2] & 1u << 27, 0);
	cpuid_query(&model, 3, 1u << 18, 1, 1, 0, r);
	assert_true(r[2] & 1u << 27); /* OSXSAVE follows CR4 */
	cpuid_query(&model, 3, 0, 3, 0xd, 0, r);
	assert_int_equal(r[1], 576);
	if (model.xcr0_mask & 4) {
		cpuid_query(&model, 3, 0, 7, 0xd, 0, r);
		assert_int_equal(r[1], model.xsave_bytes);
		assert_int_equal(r[2], model.xsave_bytes);
	}
}

static void test_topology(void **state)
{
	static const struct {
		unsigned vcpus, shift;
	} rows[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {16, 4}};
	uint32_t r[4];
	unsigned i;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		build(rows[i].vcpus, true, false);
		cpuid_query(&model, rows[i].vcpus - 1, 0, 1, 0xb, 1, r);
		assert_int_equal(r[0], rows[i].shift);
		assert_int_equal(r[1], rows[i].vcpus);
		assert_int_equal(r[3], rows[i].vcpus - 1);
		assert_true((rows[i].vcpus - 1) >> rows[i].shift == 0); /* all in one package */
		cpuid_query(&model, 0, 0, 1, 0xb, 0, r);
		assert_int_equal(r[1], 1); /* one thread a core */
		guest(1, 0, r);
		assert_int_equal(r[1] >> 16 & 0xff, rows[i].vcpus);
		assert_int_equal(!!(r[3] & 1u << 28), rows[i].vcpus > 1);
	}
}

static void test_paravirt_leaves(void **state)
{
	uint32_t r[4];

	build(1, true, false);
	guest(0x40000000, 0, r);
	assert_int_equal(r[0], 0x40000001);
	assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
	guest(0x40000001, 0, r);
	assert_int_equal(r[0], 1u << 0 | 1u << 1 | 1u << 3 | 1u << 24);
	build(1, false, false);
	guest(0x40000000, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void test_unknown_leaves_are_zero(void **state)
{
	uint32_t r[4];

	build(1, true, false);
	guest(0x8fffffff, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	guest(0x1f, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	guest(0xd, 7, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_feature_beyond_the_host),
		cmocka_unit_test(test_what_no_engine_gives),
		cmocka_unit_test(test_dynamic_fields),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_paravirt_leaves),
		cmocka_unit_test(test_unknown_leaves_are_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
