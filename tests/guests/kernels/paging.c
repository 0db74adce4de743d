/* 4-level paging: permissions, error codes, A and D bits, stale and flushed translations (SDM vol. 3, chapter 4). */
#include "k.h"

#define VA TEST_VA

CODE(just_done, DONE);

static uint8_t *code_page(void)
{
	uint8_t *p = page_alloc();

	memcpy(p, just_done, 2); /* int $0xf0 */
	return p;
}

/* ---- permissions ------------------------------------------------------------------------- */

/* One mapping against every kind of access; columns r0 w0 x0 r3 w3 x3. */
static void try_all(uint64_t va, unsigned line, const uint64_t want[6])
{
	uint64_t (*const how[6])(uint64_t) = {NULL};
	(void)how;
	for (unsigned i = 0; i < 6; i++) {
		uint64_t got = i == 0 ? read0(va, 8) : i == 1 ? write0(va, 8) : i == 2 ? exec0(va) :
			       i == 3 ? read3(va, 8) : i == 4 ? write3(va, 8) : exec3(va);
		static const char *const names[] = {"read at 0", "write at 0", "fetch at 0", "read at 3", "write at 3", "fetch at 3"};

		memcpy((void *)large_page, just_done, 2);
		if (got != want[i])
			test_failure(__FILE__, (int)line, "%s: %s, not %s", names[i], ex_name(got), ex_name(want[i]));
		if (got != EX_DONE && (got >> 32 & 0xff) == VEC_PF && last_cr2 != va)
			test_failure(__FILE__, (int)line, "%s: cr2 0x%lx, not 0x%lx", names[i], last_cr2, va);
	}
}

#define R0 EX_PF(0)
#define W0 EX_PF(PF_W)
#define X0 EX_PF(PF_I)
#define R3 EX_PF(PF_U)
#define W3 EX_PF(PF_U | PF_W)
#define X3 EX_PF(PF_U | PF_I)
#define P(ex) ((ex) | PF_P)
#define PR(ex) ((ex) | PF_P | PF_RSVD)

static void permission_rows(unsigned level)
{
	static const struct {
		uint64_t flags;
		uint64_t want[6];
	} rows[] = {
		{0, {R0, W0, X0, R3, W3, X3}},
		{PTE_W | PTE_U | PTE_NX, {R0, W0, X0, R3, W3, X3}}, /* not present: the rest does not matter */
		{PTE_P, {0, P(W0), 0, P(R3), P(W3), P(X3)}},
		{PTE_P | PTE_W, {0, 0, 0, P(R3), P(W3), P(X3)}},
		{PTE_P | PTE_U, {0, P(W0), 0, 0, P(W3), 0}},
		{PTE_P | PTE_W | PTE_U, {0, 0, 0, 0, 0, 0}},
		{PTE_P | PTE_NX, {0, P(W0), P(X0), P(R3), P(W3), P(X3)}},
		{PTE_P | PTE_W | PTE_U | PTE_NX, {0, 0, P(X0), 0, 0, P(X3)}},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		memcpy(large_page, just_done, 2);
		map_at(VA, level == 3 ? 0 : (uint64_t)large_page, rows[i].flags, level);
		try_all(VA + (level == 3 ? (uint64_t)large_page : 0), i, rows[i].want);
	}
}

static void permissions_4k(void) { permission_rows(1); }
static void permissions_2m(void) { permission_rows(2); }

static void permissions_1g(void)
{
	if (!cpu_has(0x80000001, 3, 26)) {
		test_skip("no 1 GiB pages");
		return;
	}
	permission_rows(3);
}

/* The upper levels' W, U and NX count as much as the leaf's. */
static void permissions_of_upper_levels(void)
{
	uint8_t *page = code_page();

	for (unsigned level = 2; level <= 4; level++) {
		uint64_t *e;

		map(VA, page, PTE_P | PTE_W | PTE_U);
		e = entry_of(VA, level);
		*e &= ~PTE_W;
		invlpg(VA);
		EXPECT(write0(VA, 1), P(W0));
		EXPECT(write3(VA, 1), P(W3));
		EXPECT(read3(VA, 1), EX_DONE);
		*e = (*e | PTE_W) & ~PTE_U;
		invlpg(VA);
		EXPECT(write0(VA, 1), EX_DONE);
		EXPECT(read3(VA, 1), P(R3));
		*e |= PTE_U | PTE_NX;
		memcpy(page, just_done, 2);
		invlpg(VA);
		EXPECT(exec0(VA), P(X0));
		EXPECT(exec3(VA), P(X3));
		EXPECT(read3(VA, 1), EX_DONE);
		*e &= ~(PTE_NX | PTE_P);
		invlpg(VA);
		EXPECT(read0(VA, 1), R0);
		EXPECT(exec3(VA), X3);
		*e |= PTE_P;
		invlpg(VA);
		EXPECT(exec3(VA), EX_DONE);
	}
}

static void write_protect_off(void)
{
	uint8_t *page = page_alloc();
	uint64_t *e = map(VA, page, PTE_P | PTE_U);

	EXPECT(write0(VA, 4), P(W0));
	cr0_set(cr0_get() & ~CR0_WP);
	EXPECT(write0(VA, 4), EX_DONE);
	EXPECT(write3(VA, 4), P(W3));
	SAME(*(uint32_t *)page, 0x55667788);
	CHECK(*e & PTE_D);
	cr0_set(cr0_get() | CR0_WP);
	EXPECT(write0(VA, 4), P(W0));
}

static void nx_off(void)
{
	uint8_t *page = code_page();

	map(VA, page, PTE_P | PTE_U);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	EXPECT(exec0(VA), EX_DONE);
	map(VA, page, PTE_P | PTE_U | PTE_NX); /* now a reserved bit */
	EXPECT(read0(VA, 1), PR(R0));
	EXPECT(exec3(VA), PR(R3)); /* no I bit without NXE and SMEP */
	map(VA, page, 0);
	EXPECT(exec0(VA), R0);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	map(VA, page, PTE_P | PTE_U | PTE_NX);
	EXPECT(exec0(VA), P(X0));
}

static void smep(void)
{
	uint8_t *page = code_page();
	struct regs r;

	if (!cpu_has(7, 1, 7)) {
		test_skip("no SMEP");
		return;
	}
	map(VA, page, PTE_P | PTE_W | PTE_U);
	map(VA + PAGE, page, PTE_P | PTE_W);
	EXPECT(exec0(VA), EX_DONE);
	cr4_set(cr4_get() | CR4_SMEP);
	EXPECT(exec0(VA), P(X0));
	SAME(last_cr2, VA);
	EXPECT(exec0(VA + PAGE), EX_DONE);
	EXPECT(exec3(VA), EX_DONE);
	EXPECT(exec3(VA + PAGE), P(X3));
	/* Without NXE, SMEP alone brings the I bit. */
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	EXPECT(exec0(VA), P(X0));
	EXPECT(exec0(VA + 2 * PAGE), X0);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	/* One supervisor level is enough for a supervisor page. */
	*entry_of(VA, 3) &= ~PTE_U;
	invlpg(VA);
	EXPECT(exec0(VA), EX_DONE);
	cr4_set(cr4_get() & ~CR4_SMEP);
	r = regs0(just_done);
	EXPECT(run_regs(&r), EX_DONE);
}

static unsigned phys_bits(void)
{
	uint32_t r[4];

	cpuid(0x80000008, 0, r);
	return r[0] & 0xff;
}

static void reserved_bits(void)
{
	uint8_t *page = page_alloc();
	uint64_t top = 1ull << phys_bits();
	unsigned level;

	if (phys_bits() < 52)
		for (level = 1; level <= 4; level++) {
			uint64_t *e;

			map(VA, page, PTE_P | PTE_W | PTE_U);
			e = entry_of(VA, level);
			*e |= top;
			invlpg(VA);
			EXPECT(read0(VA, 1), PR(R0));
			EXPECT(write3(VA, 1), PR(W3));
			EXPECT(exec0(VA), PR(X0));
			*e &= ~top;
			invlpg(VA);
			EXPECT(read0(VA, 1), EX_DONE);
			/* Ignored bits are ignored. */
			*e |= 0x7ff0000000000000ull & ~(0x7full << 52) & ~(0xfull << 59);
			*e |= 1ull << 52 | 1ull << 58 | 1ull << 9;
			invlpg(VA);
			EXPECT(read0(VA, 1), EX_DONE);
			*e &= ~(1ull << 52 | 1ull << 58 | 1ull << 9);
		}
	map_at(VA, (uint64_t)large_page | 1 << 13, PTE_P | PTE_W, 2);
	EXPECT(read0(VA, 1), PR(R0));
	map_at(VA, (uint64_t)large_page | 1 << 12, PTE_P | PTE_W, 2); /* PAT */
	EXPECT(read0(VA, 1), EX_DONE);
	if (cpu_has(0x80000001, 3, 26)) {
		map_at(VA, 1 << 29, PTE_P | PTE_W, 3);
		EXPECT(read0(VA, 1), PR(R0));
		map_at(VA, 0, PTE_P | PTE_W, 3);
		EXPECT(read0(VA + 0x200000, 1), EX_DONE);
	}
	map(VA, page, PTE_P | PTE_W);
	unmap_test_area();
	map(VA, page, PTE_P | PTE_W);
	*entry_of(VA, 4) |= PTE_PS; /* must be 0 there */
	invlpg(VA);
	EXPECT(read0(VA, 1), PR(R0));
	*entry_of(VA, 4) &= ~PTE_PS;
}

/* ---- accessed and dirty ---------------------------------------------------------------------- */

#define AD (PTE_A | PTE_D)

static void ad_by_read_write_fetch(void)
{
	for (unsigned level = 1; level <= 3; level++) {
		uint64_t va = VA, *e;

		if (level == 3 && !cpu_has(0x80000001, 3, 26))
			continue;
		unmap_test_area();
		memcpy(large_page, just_done, 2);
		if (level == 3)
			va += (uint64_t)large_page;
		e = map_at(VA, level == 3 ? 0 : (uint64_t)large_page, PTE_P | PTE_W | PTE_U, level);
		for (unsigned l = level + 1; l <= 4; l++)
			SAME(*entry_of(VA, l) & AD, 0);
		EXPECT(read0(va, 1), EX_DONE);
		SAME(*e & AD, PTE_A);
		for (unsigned l = level + 1; l <= 4; l++)
			SAME(*entry_of(VA, l) & AD, PTE_A);
		*e &= ~AD;
		invlpg(va);
		EXPECT(exec0(va), EX_DONE);
		SAME(*e & AD, PTE_A);
		*e &= ~AD;
		invlpg(va);
		EXPECT(write3(va, 1), EX_DONE);
		SAME(*e & AD, AD);
		/* A read first: the write must still set D. */
		*e &= ~AD;
		invlpg(va);
		EXPECT(read3(va, 8), EX_DONE);
		SAME(*e & AD, PTE_A);
		EXPECT(write3(va, 8), EX_DONE);
		SAME(*e & AD, AD);
		for (unsigned l = level + 1; l <= 4; l++)
			SAME(*entry_of(VA, l) & PTE_D, 0);
	}
}

static void ad_not_by_faults(void)
{
	uint8_t *page = code_page();
	uint64_t *e = map(VA, page, PTE_P);

	EXPECT(write0(VA, 1), P(W0));
	EXPECT(read3(VA, 1), P(R3));
	EXPECT(exec3(VA), P(X3));
	SAME(*e & PTE_D, 0);
	e = map(VA, page, PTE_P | PTE_W | PTE_U | PTE_NX);
	EXPECT(exec0(VA), P(X0));
	SAME(*e & PTE_D, 0);
	/* A read-modify-write that faults has written nothing. */
	EXPECT(read0(VA, 1), EX_DONE);
	SAME(*e & AD, PTE_A);
}

CODE(rmw_add, "addl $1, (%rdi)\n\t" DONE);
CODE(rmw_cmpxchg, "mov $-1, %eax\n\tlock cmpxchgl %ecx, (%rdi)\n\t" DONE); /* fails: writes back what was there */
CODE(rmw_bt, "btl $1, (%rdi)\n\t" DONE);
CODE(rmw_cmp, "cmpl $1, (%rdi)\n\t" DONE);
CODE(rmw_push, "mov %rdi, %rsp\n\tpush %rax\n\t" DONE);
CODE(rmw_prefetch, "prefetcht0 (%rdi)\n\t" DONE);

static void d_by_instruction(void)
{
	static const struct {
		const void *code;
		uint64_t offset, want;
		const char *name;
	} rows[] = {
		{rmw_add, 0, AD, "add"},
		{rmw_cmpxchg, 0, AD, "failing cmpxchg"},
		{rmw_bt, 0, PTE_A, "bt"},
		{rmw_cmp, 0, PTE_A, "cmp"},
		{rmw_push, 8, AD, "push"},
	};
	uint8_t *page = page_alloc();

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t *e = map(VA, page, PTE_P | PTE_W | PTE_U);

		EXPECT(run0(rows[i].code, VA + rows[i].offset), EX_DONE);
		if ((*e & AD) != rows[i].want)
			test_failure(__FILE__, __LINE__, "%s: A and D 0x%lx, not 0x%lx", rows[i].name, *e & AD, rows[i].want);
		/* And the second time round, on a clean page that is in the TLB. */
		*e &= ~AD;
		invlpg(VA);
		EXPECT(read0(VA, 1), EX_DONE);
		EXPECT(run0(rows[i].code, VA + rows[i].offset), EX_DONE);
		SAME(*e & AD, rows[i].want);
	}
}

/* ---- translations that changed ----------------------------------------------------------------- */

static void invlpg_makes_it_fresh(void)
{
	uint32_t *a = page_alloc(), *b = page_alloc();
	uint64_t *e = map(VA, a, PTE_P | PTE_W | PTE_U);

	*a = 1;
	*b = 2;
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 1);
	*e = (uint64_t)b | PTE_P | PTE_W | PTE_U;
	invlpg(VA + 123);
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	EXPECT(write3(VA, 4), EX_DONE);
	SAME(*b, 0x55667788);
	SAME(*a, 1);
	*e &= ~PTE_W;
	invlpg(VA);
	EXPECT(write0(VA, 4), P(W0));
	*e &= ~PTE_U;
	invlpg(VA);
	EXPECT(read3(VA, 4), P(R3));
	*e = 0;
	invlpg(VA);
	EXPECT(read0(VA, 4), R0);
	/* More rights need no flush: a spurious fault would retry. */
	*e = (uint64_t)a | PTE_P;
	EXPECT(read0(VA, 4), EX_DONE);
	*e |= PTE_W | PTE_U;
	EXPECT(write3(VA, 4), EX_DONE);
}

static void cr3_flushes_all_but_global(void)
{
	uint32_t *a = page_alloc(), *b = page_alloc();
	uint64_t *plain, *global;

	cr4_set(cr4_get() | CR4_PGE);
	*a = 1;
	*b = 2;
	plain = map(VA, a, PTE_P | PTE_W);
	global = map(VA + PAGE, a, PTE_P | PTE_W | PTE_G);
	EXPECT(read0(VA, 4), EX_DONE);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	*plain = (uint64_t)b | PTE_P | PTE_W;
	*global = (uint64_t)b | PTE_P | PTE_W | PTE_G;
	cr3_set(cr3_get());
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	/* Old or new are both right for the global one; invlpg and PGE settle it. */
	invlpg(VA + PAGE);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	*global = (uint64_t)a | PTE_P | PTE_W | PTE_G;
	cr4_set(cr4_get() & ~CR4_PGE);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	SAME((uint32_t)last_value, 1);
	*global = 0;
	*plain = 0;
	cr3_set(cr3_get()); /* G means nothing without PGE */
	EXPECT(read0(VA, 4), R0);
	EXPECT(read0(VA + PAGE, 4), R0);
}

static void cr3_switches_spaces(void)
{
	uint64_t *other = page_alloc(), old = cr3_get();
	uint32_t *a = page_alloc(), *b = page_alloc();

	*a = 1;
	*b = 2;
	memcpy(other, (void *)old, PAGE);
	map(VA, a, PTE_P | PTE_W);
	other[TEST_VA >> 39 & 511] = 0;
	for (int i = 0; i < 3; i++) {
		cr3_set((uint64_t)other);
		if (i == 0)
			map(VA, b, PTE_P | PTE_W);
		EXPECT(read0(VA, 4), EX_DONE);
		SAME((uint32_t)last_value, 2);
		cr3_set(old);
		EXPECT(read0(VA, 4), EX_DONE);
		SAME((uint32_t)last_value, 1);
	}
}

/* An upper entry is swapped: everything below it changes. */
static void upper_entry_changes(void)
{
	uint32_t *a = page_alloc(), *b = page_alloc();
	uint64_t *pd, *other_pt = page_alloc();

	*a = 1;
	*b = 2;
	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, a, PTE_P | PTE_W);
	other_pt[0] = (uint64_t)b | PTE_P | PTE_W;
	other_pt[1] = (uint64_t)b | PTE_P | PTE_W;
	EXPECT(read0(VA, 4), EX_DONE);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	pd = entry_of(VA, 2);
	*pd = (uint64_t)other_pt | PTE_P | PTE_W;
	invlpg(VA);
	invlpg(VA + PAGE);
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	/* 4 KiB pages become one of 2 MiB and the reverse; one invlpg is enough for a large page. */
	*(uint32_t *)large_page = 3;
	*(uint32_t *)(large_page + PAGE) = 4;
	*pd = (uint64_t)large_page | PTE_P | PTE_W | PTE_PS;
	invlpg(VA);
	invlpg(VA + PAGE);
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 3);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	SAME((uint32_t)last_value, 4);
	*pd = (uint64_t)other_pt | PTE_P | PTE_W;
	invlpg(VA + 0x123456);
	EXPECT(read0(VA, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
	EXPECT(read0(VA + PAGE, 4), EX_DONE);
	SAME((uint32_t)last_value, 2);
}

/* The page table is mapped and edited through the mapping that it makes itself. */
static void table_edits_itself(void)
{
	uint64_t *a = page_alloc(), *pt;

	map(VA, a, PTE_P | PTE_W);
	pt = entry_of(VA, 1);
	map(VA + PAGE, (void *)((uint64_t)pt & PTE_ADDR), PTE_P | PTE_W);
	SAME(((volatile uint64_t *)(VA + PAGE))[1] & ~AD, ((uint64_t)pt & PTE_ADDR) | PTE_P | PTE_W);
	for (unsigned i = 2; i < 512; i++) {
		((volatile uint64_t *)(VA + PAGE))[i] = (uint64_t)a | PTE_P | PTE_W;
		*(volatile uint64_t *)(VA + i * PAGE) = i;
		SAME(*a, i);
	}
	/* The table's own D bit: set by the writes above, through the mapping in itself. */
	SAME(((volatile uint64_t *)(VA + PAGE))[1] & AD, AD);
}

/* The page of the running code loses its execute permission. */
CODE(under_feet, "andq $-2, (%rdi)\n\tinvlpg (%rsi)\n\tunder_feet_next: nop\n\t" DONE);
LABEL(under_feet_next);

static void code_unmapped_under_feet(void)
{
	uint8_t *page = page_alloc();
	struct regs r;
	uint64_t *e = map(VA, page, PTE_P | PTE_W);
	uint64_t next = VA + (uint64_t)(under_feet_next - under_feet);

	memcpy(page, under_feet, 32);
	r = regs0((void *)VA);
	r.rdi = (uint64_t)e;
	r.rsi = VA;
	EXPECT(run_regs(&r), X0);
	SAME(r.rip, next);
	SAME(r.cr2, next);
	*e |= PTE_P;
	EXPECT(exec0(next), EX_DONE);
}

/* The same with its translation going elsewhere: the next instruction is the other page's. */
static void code_moved_under_feet(void)
{
	uint8_t *page = page_alloc(), *other = page_alloc();
	static const uint8_t swap[] = {0x48, 0x89, 0x17, 0x0f, 0x01, 0x3e, 0xb0, 0x01, 0xcd, 0xf0}; /* mov %rdx,(%rdi); invlpg (%rsi); mov $1,%al; int */
	struct regs r;
	uint64_t *e = map(VA, page, PTE_P | PTE_W);

	memcpy(page, swap, sizeof(swap));
	memcpy(other, swap, sizeof(swap));
	other[7] = 2; /* the immediate */
	for (unsigned i = 0; i < 4; i++) {
		r = regs0((void *)VA);
		r.rdi = (uint64_t)e;
		r.rsi = VA;
		r.rdx = (uint64_t)(i & 1 ? page : other) | PTE_P | PTE_W;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax & 0xff, i & 1 ? 1 : 2);
	}
}

/*
 * Edits and flushes between two accesses of one piece of straight code: rdi is the address, rsi its entry, rdx the new
 * entry, r8 another root.
 */
CODE(in_loads, "mov (%rdi), %rax\n\tmov %rdx, (%rsi)\n\tinvlpg (%rdi)\n\tmov (%rdi), %rcx\n\t" DONE);
CODE(in_loads_cr3, "mov %cr3, %r9\n\tmov (%rdi), %rax\n\tmov %rdx, (%rsi)\n\tmov %r9, %cr3\n\tmov (%rdi), %rcx\n\t" DONE);
CODE(in_other_root, "mov %cr3, %r9\n\tmov (%rdi), %rax\n\tmov %r8, %cr3\n\tmov (%rdi), %rcx\n\tmov %r9, %cr3\n\tmov (%rdi), %rbx\n\t" DONE);
CODE(in_pushes, "mov %rsp, %rbp\n\tlea 0x800(%rdi), %rsp\n\tpush %rdx\n\tmov %rdx, (%rsi)\n\tinvlpg (%rdi)\n\tpush %rdi\n\tpop %rcx\n\tpop %rax\n\tmov %rbp, %rsp\n\t" DONE);
CODE(in_stores, "movl $1, 64(%rdi)\n\tmovl $2, 68(%rdi)\n\tmov %rdx, (%rsi)\n\tinvlpg (%rdi)\n\tmovl $3, 64(%rdi)\n\tmovl $4, 68(%rdi)\n\t" DONE);
CODE(in_calls, "lea 0x10(%rdi), %rbx\n\tcall *%rbx\n\tmov %eax, %ecx\n\tmov %rdx, (%rsi)\n\tinvlpg (%rdi)\n\tcall *%rbx\n\t" DONE);
CODE(in_wp, "mov %cr0, %rax\n\tmov %rax, %rbx\n\tand $~0x10000, %rbx\n\tmov %rbx, %cr0\n\tmovl $5, (%rdi)\n\tmov %rax, %cr0\n\tin_wp_at: movl $6, (%rdi)\n\t" DONE);
CODE(in_ro, "movl $1, (%rdi)\n\tmov %rdx, (%rsi)\n\tinvlpg (%rdi)\n\tin_ro_at: movl $2, (%rdi)\n\t" DONE);
CODE(in_gone, "mov %rsp, %rbp\n\tlea 0x800(%rdi), %rsp\n\tpush %rax\n\tpush %rax\n\tmovq $0, (%rsi)\n\tinvlpg (%rdi)\n\tin_gone_at: push %rax\n\t" DONE);
LABEL(in_wp_at);
LABEL(in_ro_at);
LABEL(in_gone_at);

static struct regs edit(const void *code, uint64_t *entry, const void *to, uint64_t flags)
{
	struct regs r = regs0(code);

	r.rdi = VA;
	r.rsi = (uint64_t)entry;
	r.rdx = (uint64_t)to | flags;
	return r;
}

static void edits_within_a_block(void)
{
	uint64_t *a = page_alloc(), *b = page_alloc(), *other = page_alloc(), old = cr3_get(), *e;
	struct regs r;

	for (int i = 0; i < 3; i++) {
		*a = 1;
		*b = 2;
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_loads, e, b, PTE_P | PTE_W);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 1);
		SAME(r.rcx, 2);
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_loads_cr3, e, b, PTE_P | PTE_W);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 1);
		SAME(r.rcx, 2);
		/* Pushes before go to one page, those behind to the other: what is popped last is what b has there. */
		e = map(VA, a, PTE_P | PTE_W);
		b[0x7f8 / 8] = 0xbb;
		r = edit(in_pushes, e, b, PTE_P | PTE_W);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rcx, VA);
		SAME(r.rax, 0xbb);
		SAME(a[0x7f8 / 8], (uint64_t)b | PTE_P | PTE_W);
		SAME(b[0x7f0 / 8], VA);
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_stores, e, b, PTE_P | PTE_W);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(a[8], 0x200000001);
		SAME(b[8], 0x400000003);
		memcpy((uint8_t *)a + 0x10, "\xb8\x0a\x00\x00\x00\xc3", 6);
		memcpy((uint8_t *)b + 0x10, "\xb8\x0b\x00\x00\x00\xc3", 6);
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_calls, e, b, PTE_P | PTE_W);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rcx, 0xa);
		SAME(r.rax, 0xb);
		/* Rights that go away. */
		map(VA, a, PTE_P);
		r = edit(in_wp, e, a, 0);
		EXPECT(run_regs(&r), EX_PF(PF_P | PF_W));
		SAME(r.rip, (uint64_t)in_wp_at);
		SAME((uint32_t)*a, 5);
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_ro, e, a, PTE_P);
		EXPECT(run_regs(&r), EX_PF(PF_P | PF_W));
		SAME(r.rip, (uint64_t)in_ro_at);
		e = map(VA, a, PTE_P | PTE_W);
		r = edit(in_gone, e, a, 0);
		EXPECT(run_regs(&r), EX_PF(PF_W));
		SAME(r.rip, (uint64_t)in_gone_at);
		SAME(r.rsp, VA + 0x7f0);
	}
	/* Two roots. */
	memcpy(other, (void *)old, PAGE);
	other[TEST_VA >> 39 & 511] = 0;
	*a = 1;
	map(VA, a, PTE_P | PTE_W);
	cr3_set((uint64_t)other);
	map(VA, b, PTE_P | PTE_W);
	cr3_set(old);
	for (int i = 0; i < 3; i++) {
		r = edit(in_other_root, entry_of(VA, 1), a, 0);
		r.r8 = (uint64_t)other;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, *a);
		SAME(r.rcx, *b);
		SAME(r.rbx, *a);
		CHECK(*a != *b);
	}
}

/* What ring 0 found in the TLB is not for ring 3, and the reverse; through one site. */
CODE(in_both, "mov (%rdi), %rax\n\tmov 8(%rdi), %rcx\n\t" DONE);

static void one_site_at_two_rings(void)
{
	uint64_t *a = page_alloc();

	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, a, PTE_P | PTE_W | PTE_U);
	for (int i = 0; i < 5; i++) {
		EXPECT(run0(in_both, VA), EX_DONE);
		EXPECT(run3(in_both, VA), P(R3));
		EXPECT(run3(in_both, VA + PAGE), EX_DONE);
		EXPECT(run3(in_both, VA), P(R3));
		EXPECT(run0(in_both, VA + PAGE), EX_DONE);
		EXPECT(run0(in_both, VA), EX_DONE);
	}
}

CODE(jumps, "jmp *%rdi");

/* Where the kernel has just jumped, a program may not: indirect jumps find their targets by what others found. */
static void indirect_jumps_into_the_kernel(void)
{
	uint8_t *supervisor = code_page(), *both = code_page();

	map(VA, supervisor, PTE_P);
	map(VA + PAGE, both, PTE_P | PTE_U);
	for (int i = 0; i < 5; i++) {
		EXPECT(run0(jumps, VA), EX_DONE);
		EXPECT(run3(jumps, VA), P(X3));
		EXPECT(run3(jumps, VA + PAGE), EX_DONE);
		EXPECT(run0(jumps, VA), EX_DONE);
	}
	if (cr4_get() & CR4_SMEP)
		EXPECT(run0(jumps, VA + PAGE), P(X0));
}

static void highest_and_lowest_addresses(void)
{
	uint64_t *pml4 = (uint64_t *)cr3_get(), low_end = 0x00007ffffffff000, high = 0xffff800000000000, top = 0xfffffffffffff000;
	uint64_t saved255 = pml4[255], saved256 = pml4[256], saved511 = pml4[511];
	uint32_t *a = page_alloc();

	*a = 7;
	pml4[255] = pml4[256] = pml4[511] = 0;
	map(low_end, a, PTE_P | PTE_W | PTE_U);
	map(high, a, PTE_P | PTE_W | PTE_U);
	map(top, a, PTE_P | PTE_W | PTE_U);
	EXPECT(read3(low_end, 4), EX_DONE);
	SAME((uint32_t)last_value, 7);
	EXPECT(read0(high, 4), EX_DONE);
	SAME((uint32_t)last_value, 7);
	EXPECT(read0(top + 0xff8, 8), EX_DONE);
	EXPECT(read0(low_end + 0xff8, 8), EX_DONE);
	EXPECT(read0(low_end + 0xffc, 8), EX_GP(0)); /* its end is not canonical */
	EXPECT(read0(0x0000800000000000, 1), EX_GP(0));
	EXPECT(write0(0xffff7fffffffffff, 1), EX_GP(0));
	EXPECT(read0(0x8000000000000000, 8), EX_GP(0));
	pml4[255] = saved255;
	pml4[256] = saved256;
	pml4[511] = saved511;
	cr3_set(cr3_get());
}

TESTS({"permissions of 4 KiB pages", permissions_4k}, {"permissions of 2 MiB pages", permissions_2m},
      {"permissions of 1 GiB pages", permissions_1g}, {"permissions of upper levels", permissions_of_upper_levels},
      {"CR0.WP off", write_protect_off}, {"EFER.NXE off", nx_off}, {"SMEP", smep}, {"reserved bits", reserved_bits},
      {"A and D by read, write, fetch", ad_by_read_write_fetch}, {"A and D after faults", ad_not_by_faults},
      {"D by instruction", d_by_instruction}, {"invlpg", invlpg_makes_it_fresh},
      {"CR3 load and global pages", cr3_flushes_all_but_global}, {"CR3 switch between spaces", cr3_switches_spaces},
      {"an upper entry changes", upper_entry_changes}, {"a page table that maps itself", table_edits_itself},
      {"code unmapped under the feet", code_unmapped_under_feet}, {"code moved under the feet", code_moved_under_feet},
      {"edits within a block", edits_within_a_block}, {"one site at two rings", one_site_at_two_rings},
      {"indirect jumps into the kernel", indirect_jumps_into_the_kernel},
      {"ends of the address space", highest_and_lowest_addresses});
