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
		{1, 0, 2, 1u << 21 | 1u << 24 | 1u << 31}, {1, 0, 3, 1u << 28}, {7, 0, 1, 1u << 1 | 1u << 20},
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
	assert_int_equal(r[1] & (1u << 4 | 1u << 10 | 1u << 11 | 1u << 16), 0); /* tsx, invpcid, avx512f */
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
	assert_int_equal(r[0], KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 |
				       KVM_FEATURE_CLOCKSOURCE_STABLE | KVM_FEATURE_STEAL_TIME | KVM_FEATURE_PV_EOI |
				       KVM_FEATURE_PV_UNHALT | KVM_FEATURE_PV_TLB_FLUSH | KVM_FEATURE_PV_SEND_IPI |
				       KVM_FEATURE_PV_SCHED_YIELD);
	build(1, false, false);
	guest(0x40000000, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

/* ---- other hosts, from tables --------------------------------------------------------------- */

struct row {
	uint32_t leaf, subleaf, r[4];
};

/* What a Sapphire Rapids says, leaves that matter only. */
static const struct row intel_host[] = {
	{0, 0, {0x20, 0x756e6547, 0x6c65746e, 0x49656e69}},
	{1, 0, {0x000806f8, 0x00800800, 0xfffaba1f, 0xbfebfbff}},
	{2, 0, {0x00feff01, 0xf0, 0, 0}},
	{4, 0, {0x7c004121, 0x02c0003f, 0x3f, 0}},
	{4, 1, {0x7c004122, 0x01c0003f, 0x3f, 0}},
	{4, 2, {0x7c004143, 0x03c0003f, 0x7ff, 0}},
	{4, 3, {0x7c0fc163, 0x0380003f, 0x1bfff, 4}},
	{7, 0, {2, 0xf3bfb7ff, 0xfb417ffe, 0xffdd4432}},
	{7, 1, {0x1c30, 0, 0, 0}},
	{0xd, 0, {0x602e7, 0x2b00, 0x2b00, 0}},
	{0xd, 1, {0x1f, 0x2980, 0x1900, 0}},
	{0xd, 2, {0x100, 0x240, 0, 0}},
	{0x80000000, 0, {0x80000008, 0, 0, 0}},
	{0x80000001, 0, {0, 0, 0x121, 0x2c100800}},
	{0x80000006, 0, {0, 0, 0x08007040, 0}},
	{0x80000007, 0, {0, 0, 0, 0x100}},
	{0x80000008, 0, {0x3934, 0x200, 0, 0}},
	{0, 0, {0}},
};

/* The least of x86-64: no XSAVE at all. */
static const struct row plain_host[] = {
	{0, 0, {1, 0x68747541, 0x444d4163, 0x69746e65}},
	{1, 0, {0x00000f48, 0x800, 1u << 26, 0x078bfbff}},
	{0x80000000, 0, {0x80000008, 0x68747541, 0x444d4163, 0x69746e65}},
	{0x80000001, 0, {0xf48, 0, 0, 0xe1d3fbff}},
	{0x80000008, 0, {0x3028, 0, 0, 0}},
	{0, 0, {0}},
};

static void table_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct row *row = opaque;
	int i;

	for (; row->r[0] | row->r[1] | row->r[2] | row->r[3]; row++) {
		if (row->leaf == leaf && row->subleaf == subleaf)
			break;
	}
	for (i = 0; i < 4; i++)
		r[i] = row->r[i];
}

static void build_for(const struct row *rows, uint64_t xcr0)
{
	const struct cpuid_host host_table = {.cpuid = table_cpuid, .opaque = (void *)rows, .xcr0 = xcr0};
	const struct cpuid_config config = {.vcpus = 2, .tsc_khz = 2000000, .paravirt = true};

	cpuid_model_build_for(&model, &config, &host_table);
}

/* By name: on, off, and what cannot be. */
static void test_features_by_name(void **state)
{
	const struct cpuid_host host_table = {.cpuid = table_cpuid, .opaque = (void *)intel_host, .xcr0 = 0x602e7};
	uint8_t wish[CPU_FEATURE_COUNT] = {0};
	const struct cpuid_config config = {.vcpus = 1, .tsc_khz = 2000000, .features = wish};
	char why[160];
	uint32_t r[4];

	assert_true(cpuid_features_check_for(wish, &host_table, why, sizeof(why)));
	wish[CPU_FEATURE_pcid] = wish[CPU_FEATURE_smap] = wish[CPU_FEATURE_avx2] = CPU_FEATURE_ON;
	wish[CPU_FEATURE_x2apic] = wish[CPU_FEATURE_erms] = CPU_FEATURE_OFF;
	assert_true(cpuid_features_check_for(wish, &host_table, why, sizeof(why)));
	cpuid_model_build_for(&model, &config, &host_table);
	guest(1, 0, r);
	assert_true(r[2] & 1u << 17);
	assert_false(r[2] & 1u << 21);
	guest(7, 0, r);
	assert_true(r[1] & 1u << 20);
	assert_true(r[1] & 1u << 5);
	assert_false(r[1] & 1u << 9);
	assert_false(r[1] & 1u << 10); /* invpcid was not asked for */

	wish[CPU_FEATURE_avx] = CPU_FEATURE_OFF;
	assert_false(cpuid_features_check_for(wish, &host_table, why, sizeof(why)));
	assert_string_equal(why, "cpu.features.avx2: it needs another feature that is switched off (xsave, avx)");
	wish[CPU_FEATURE_avx2] = CPU_FEATURE_DEFAULT;
	cpuid_model_build_for(&model, &config, &host_table);
	guest(1, 0, r);
	assert_int_equal(r[2] & (1u << 12 | 1u << 28 | 1u << 29), 0); /* fma, avx, f16c */
	guest(7, 0, r);
	assert_false(r[1] & 1u << 5);
	assert_int_equal(model.xcr0_mask, 3);

	wish[CPU_FEATURE_sse4a] = CPU_FEATURE_ON; /* AMD's */
	assert_false(cpuid_features_check_for(wish, &host_table, why, sizeof(why)));
	assert_string_equal(why, "cpu.features.sse4a: this host's processor does not have it; leave it out, or choose a host that has it");
}

static void test_intel_host(void **state)
{
	uint32_t r[4];

	build_for(intel_host, 0x602e7);
	assert_int_equal(model.xcr0_mask, 7); /* no AVX-512, PKRU or AMX */
	assert_int_equal(model.xsave_bytes, 832);
	assert_int_equal(model.phys_bits, 52);
	guest(0, 0, r);
	assert_int_equal(r[0], 0xd);
	guest(7, 0, r);
	assert_int_equal(r[1] & 0xdc230000u, 0); /* AVX-512 */
	assert_true(r[1] & 1u << 5);		 /* AVX2 */
	assert_true(r[3] & 1u << 29);		 /* IA32_ARCH_CAPABILITIES says what it is immune to */
	assert_int_equal(r[3] & 1u << 26, 0);	 /* no IBPB to pay for */
	guest(7, 1, r);
	assert_int_equal(r[0], 0x1c00);
	guest(4, 0, r);
	assert_int_equal(r[0] >> 14 & 0xfff, 0); /* own first-level caches */
	guest(4, 3, r);
	assert_int_equal(r[0] >> 14 & 0xfff, 1); /* a shared last level */
	guest(0x80000008, 0, r);
	assert_int_equal(r[0], 0x3034); /* 48-bit linear addresses though the host has 57 */
	guest(0x80000021, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void test_plain_host(void **state)
{
	uint32_t r[4];

	build_for(plain_host, 0);
	guest(1, 0, r);
	assert_int_equal(r[2] & (1u << 26 | 1u << 28), 0);
	guest(0xd, 0, r);
	assert_int_equal(r[0], 0);
	guest(0x80000001, 0, r);
	assert_int_equal(r[3] & 3u << 30, 0); /* 3DNow! is nobody's any more */
	guest(0x80000021, 0, r);
	assert_true(r[0] & 1u << 8);
	assert_int_equal(model.phys_bits, 40);
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
		cmocka_unit_test(test_features_by_name), cmocka_unit_test(test_intel_host),
		cmocka_unit_test(test_plain_host),
		cmocka_unit_test(test_unknown_leaves_are_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
