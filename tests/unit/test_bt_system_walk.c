/* Page walks over hand-built tables: results, error codes, accessed and dirty bits, in every paging mode. */
#include "tests/unit/bt_system_env.h"

#include <string.h>

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

#define T4 0x400000u /* tables of this file: four pages */
#define PAGE 0x500000ull

static struct env env;

static int setup(void **state)
{
	const char *why = env_start(&env);

	if (why)
		print_error("%s\n", why);
	return why ? -1 : 0;
}

static int teardown(void **state)
{
	env_stop(&env);
	return 0;
}

/* One 4 KiB page at linear `gva` in 4-level tables, with these bits at every level. */
static void map4k(gva_t gva, uint64_t pml4e, uint64_t pdpte, uint64_t pde, uint64_t pte)
{
	memset(env.ram + T4, 0, 4 * 4096);
	put64(&env, T4 + (gva >> 39 & 511) * 8, (T4 + 0x1000) | pml4e);
	put64(&env, T4 + 0x1000 + (gva >> 30 & 511) * 8, (T4 + 0x2000) | pdpte);
	put64(&env, T4 + 0x2000 + (gva >> 21 & 511) * 8, (T4 + 0x3000) | pde);
	put64(&env, T4 + 0x3000 + (gva >> 12 & 511) * 8, PAGE | pte);
	env.v->cs.cr3 = T4;
}

#define GVA 0xffff812345678000ull
#define PTE_AT (T4 + 0x3000 + (GVA >> 12 & 511) * 8)
#define PML4E_AT (T4 + (GVA >> 39 & 511) * 8)

static uint32_t fault(gva_t gva, enum bt_want want, enum bt_mmu mmu)
{
	struct bt_walk w;

	assert_false(bt_walk(env.v, gva, want, mmu, &w));
	return w.error;
}

static struct bt_walk good(gva_t gva, enum bt_want want, enum bt_mmu mmu)
{
	struct bt_walk w;

	assert_true(bt_walk(env.v, gva, want, mmu, &w));
	return w;
}

static void test_long_read_sets_accessed_only(void **state)
{
	struct bt_walk w;

	env_long_mode(&env, 0);
	map4k(GVA, P | W, P | W, P | W, P | W | G);
	w = good(GVA + 0xabc, BT_WANT_READ, BT_MMU_KERNEL);
	assert_int_equal(w.gpa, PAGE);
	assert_false(w.writable); /* not until D is set: the first write must be seen */
	assert_false(w.user);
	assert_true(w.global);
	assert_false(w.large);
	assert_true(w.executable);
	assert_int_equal(get64(&env, PTE_AT) & (A | D), A);
	assert_int_equal(get64(&env, PML4E_AT) & A, A);
	w = good(GVA, BT_WANT_WRITE, BT_MMU_KERNEL);
	assert_true(w.writable);
	assert_int_equal(get64(&env, PTE_AT) & (A | D), A | D);
	w = good(GVA, BT_WANT_READ, BT_MMU_KERNEL);
	assert_true(w.writable);
}

static void test_long_not_present_at_each_level(void **state)
{
	env_long_mode(&env, 0);
	map4k(GVA, 0, P, P, P);
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL), 0);
	map4k(GVA, P | W | U, 0, P, P);
	assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_USER), PF_W | PF_U);
	map4k(GVA, P, P, 0, P);
	assert_int_equal(fault(GVA, BT_WANT_EXEC, BT_MMU_USER), PF_I | PF_U);
	map4k(GVA, P, P, P, 0);
	assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_KERNEL), PF_W);
	assert_int_equal(get64(&env, PML4E_AT) & A, 0);
}

static void test_long_write_protection(void **state)
{
	env_long_mode(&env, 0);
	map4k(GVA, P | W | U, P | W | U, P | U, P | W | U); /* one level read-only is enough */
	assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_USER), PF_P | PF_W | PF_U);
	assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_KERNEL), PF_P | PF_W);
	assert_int_equal(get64(&env, PTE_AT) & (A | D), 0);
	env.v->cs.cr0 &= ~(uint64_t)CR0_WP;
	assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_USER), PF_P | PF_W | PF_U);
	assert_true(good(GVA, BT_WANT_WRITE, BT_MMU_KERNEL).writable);
}

static void test_long_user_supervisor(void **state)
{
	env_long_mode(&env, 0);
	map4k(GVA, P | W | U, P | W, P | W | U, P | W | U);
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_USER), PF_P | PF_U);
	map4k(GVA, P | W | U, P | W | U, P | W | U, P | W | U);
	assert_true(good(GVA, BT_WANT_READ, BT_MMU_USER).user);
	assert_int_equal(good(GVA, BT_WANT_READ, BT_MMU_KERNEL).gpa, PAGE);
	/* SMAP: the kernel may not, unless AC says so (then mmu is KERNEL). */
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL_SMAP), PF_P);
}

static void test_long_execution(void **state)
{
	env_long_mode(&env, 0);
	map4k(GVA, P | W | U | NX, P | W | U, P | W | U, P | W | U);
	assert_int_equal(fault(GVA, BT_WANT_EXEC, BT_MMU_KERNEL), PF_P | PF_I);
	assert_false(good(GVA, BT_WANT_READ, BT_MMU_KERNEL).executable);
	map4k(GVA, P | W | U, P | W | U, P | W | U, P | W | U);
	assert_true(good(GVA, BT_WANT_EXEC, BT_MMU_KERNEL).executable);
	env.v->cs.cr4 |= CR4_SMEP;
	assert_int_equal(fault(GVA, BT_WANT_EXEC, BT_MMU_KERNEL), PF_P | PF_I);
	assert_true(good(GVA, BT_WANT_EXEC, BT_MMU_USER).executable);
	/* Without NXE the bit is reserved, and without NXE and SMEP fetches do not say that they are. */
	env.v->cs.cr4 &= ~(uint64_t)CR4_SMEP;
	env.v->cs.efer &= ~(uint64_t)EFER_NXE;
	map4k(GVA, P | W | U, P | W | U, P | W | U, P | W | U | NX);
	assert_int_equal(fault(GVA, BT_WANT_EXEC, BT_MMU_KERNEL), PF_P | PF_RSVD);
}

static void test_long_reserved_bits(void **state)
{
	env_long_mode(&env, 0);
	map4k(GVA, P | W | PS, P | W, P | W, P | W); /* PS in a PML4 entry */
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL), PF_P | PF_RSVD);
	if (env.v->sys.cpuid->phys_bits < 52) {
		map4k(GVA, P | W, P | W, P | W, P | W | 1ull << env.v->sys.cpuid->phys_bits);
		assert_int_equal(fault(GVA, BT_WANT_WRITE, BT_MMU_USER), PF_P | PF_RSVD | PF_W | PF_U);
	}
}

static void test_long_large_pages(void **state)
{
	struct bt_walk w;

	env_long_mode(&env, 0);
	map4k(GVA, P | W, P | W, P | W, 0);
	put64(&env, T4 + 0x2000 + (GVA >> 21 & 511) * 8, 0x600000 | P | W | PS);
	w = good(GVA, BT_WANT_WRITE, BT_MMU_KERNEL);
	assert_int_equal(w.gpa, 0x600000 + (GVA & 0x1ff000));
	assert_true(w.large && w.writable);
	put64(&env, T4 + 0x2000 + (GVA >> 21 & 511) * 8, 0x602000 | P | W | PS); /* bits 20:13 are reserved */
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL), PF_P | PF_RSVD);
	put64(&env, T4 + 0x2000 + (GVA >> 21 & 511) * 8, 0x601000 | P | W | PS); /* bit 12 is PAT */
	assert_int_equal(good(GVA, BT_WANT_READ, BT_MMU_KERNEL).gpa, 0x600000 + (GVA & 0x1ff000));
	put64(&env, T4 + 0x1000 + (GVA >> 30 & 511) * 8, 0x40000000 | P | W | PS | A | D);
	w = good(GVA, BT_WANT_READ, BT_MMU_KERNEL);
	assert_int_equal(w.gpa, 0x40000000 + (GVA & 0x3ffff000));
	assert_true(w.large && w.writable);
}

static void test_tables_outside_ram(void **state)
{
	env_long_mode(&env, 0);
	env.v->cs.cr3 = 0xfee00000; /* the local APIC's page: no walk may read devices */
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL), 0);
	map4k(GVA, P | W, P | W, P | W, P | W);
	put64(&env, PML4E_AT, 0x8000000000ull | P | W);
	assert_int_equal(fault(GVA, BT_WANT_READ, BT_MMU_KERNEL), 0);
}

static void test_pae(void **state)
{
	const gva_t gva = 0xc1234000;
	struct bt_walk w;

	env_protected(&env, 0);
	env.v->cs.cr0 |= CR0_PG;
	env.v->cs.cr4 = CR4_PAE | CR4_PGE;
	env.v->cs.efer = EFER_NXE;
	env.v->cs.cr3 = T4 + 0x20; /* 32-byte aligned is enough */
	memset(env.ram + T4, 0, 4 * 4096);
	assert_int_equal(fault(gva, BT_WANT_WRITE, BT_MMU_USER), PF_W | PF_U);
	put64(&env, T4 + 0x20 + 3 * 8, (T4 + 0x1000) | P);
	put64(&env, T4 + 0x1000 + (gva >> 21 & 511) * 8, (T4 + 0x2000) | P | W);
	put64(&env, T4 + 0x2000 + (gva >> 12 & 511) * 8, PAGE | P | W | NX);
	w = good(gva, BT_WANT_WRITE, BT_MMU_KERNEL);
	assert_int_equal(w.gpa, PAGE);
	assert_true(w.writable);
	assert_false(w.executable);
	assert_int_equal(get64(&env, T4 + 0x20 + 3 * 8) & A, 0); /* directory pointers have no A bit */
	assert_int_equal(fault(gva, BT_WANT_READ, BT_MMU_USER), PF_P | PF_U);
	put64(&env, T4 + 0x1000 + (gva >> 21 & 511) * 8, 0x800000 | P | W | U | PS);
	assert_int_equal(good(gva, BT_WANT_READ, BT_MMU_USER).gpa, 0x800000 + (gva & 0x1ff000));
}

static void test_32bit(void **state)
{
	const gva_t gva = 0xc0123000;
	struct bt_walk w;

	env_protected(&env, 0);
	env.v->cs.cr0 |= CR0_PG;
	env.v->cs.cr3 = T4;
	memset(env.ram + T4, 0, 2 * 4096);
	assert_int_equal(fault(gva, BT_WANT_EXEC, BT_MMU_USER), PF_U); /* no NXE, no SMEP: no I bit */
	put32(&env, T4 + (gva >> 22) * 4, (T4 + 0x1000) | P | U);
	put32(&env, T4 + 0x1000 + (gva >> 12 & 1023) * 4, (uint32_t)(PAGE | P | W | U));
	assert_int_equal(fault(gva, BT_WANT_WRITE, BT_MMU_USER), PF_P | PF_W | PF_U);
	w = good(gva, BT_WANT_READ, BT_MMU_USER);
	assert_int_equal(w.gpa, PAGE);
	assert_int_equal(get32(&env, T4 + (gva >> 22) * 4) & (A | D), A);
	assert_int_equal(get32(&env, T4 + 0x1000 + (gva >> 12 & 1023) * 4) & (A | D), A);
	/* A 4 MiB page only with CR4.PSE; PSE-36 puts address bits 32.. into bits 13.. */
	put32(&env, T4 + (gva >> 22) * 4, 0x00c00000 | P | W | U | PS | 1u << 13);
	env.v->cs.cr4 |= CR4_PSE;
	w = good(gva, BT_WANT_WRITE, BT_MMU_USER);
	assert_int_equal(w.gpa, 0x100c00000ull + (gva & 0x3ff000));
	assert_true(w.large && w.writable);
}

static void test_paging_off(void **state)
{
	struct bt_walk w;

	env_protected(&env, 0);
	w = good(0x12345678, BT_WANT_WRITE, BT_MMU_USER);
	assert_int_equal(w.gpa, 0x12345000);
	assert_true(w.writable && w.executable && w.user);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_read_sets_accessed_only),
		cmocka_unit_test(test_long_not_present_at_each_level),
		cmocka_unit_test(test_long_write_protection),
		cmocka_unit_test(test_long_user_supervisor),
		cmocka_unit_test(test_long_execution),
		cmocka_unit_test(test_long_reserved_bits),
		cmocka_unit_test(test_long_large_pages),
		cmocka_unit_test(test_tables_outside_ram),
		cmocka_unit_test(test_pae),
		cmocka_unit_test(test_32bit),
		cmocka_unit_test(test_paging_off),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
