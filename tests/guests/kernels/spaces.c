/* What keeps address spaces apart: SMAP with stac and clac, PCID with its TLB that outlives a switch, INVPCID. */
#include "k.h"

#define EBX 1
#define ECX 2
#define CR4_PCIDE (1ul << 17)
#define CR4_SMAP (1ul << 21)
#define CR3_KEEP (1ul << 63)
#define VA TEST_VA

/* ---- SMAP -------------------------------------------------------------------------------------- */

static bool smap_on(void)
{
	if (!cpu_has(7, EBX, 20)) {
		test_skip("no SMAP");
		return false;
	}
	cr4_set(cr4_get() | CR4_SMAP);
	return true;
}

static void smap_off(void) { cr4_set(cr4_get() & ~CR4_SMAP); }

CODE(s_open, "stac\n\tmov (%rdi), %rax\n\tclac\n\ts_open_at: mov (%rdi), %rcx\n\t" DONE);
CODE(s_store, "stac\n\tmovq $7, (%rdi)\n\taddq $1, (%rdi)\n\tclac\n\ts_store_at: movq $9, (%rdi)\n\t" DONE);
CODE(s_plain, "mov (%rdi), %rax\n\tadd %rax, %rax\n\t" DONE);
CODE(s_popf, "pushf\n\torl $0x40000, (%rsp)\n\tpopf\n\tmov (%rdi), %rax\n\tpushf\n\tandl $~0x40000, (%rsp)\n\tpopf\n\ts_popf_at: mov (%rdi), %rcx\n\t" DONE);
CODE(s_rep, "cld\n\tstac\n\tmov %rdi, %rsi\n\tlea 64(%rdi), %rdi\n\tmov $64, %ecx\n\trep movsb\n\tclac\n\tmov $8, %ecx\n\ts_rep_at: rep movsb\n\t" DONE);
CODE(s_flags, "stc\n\tstac\n\tsbb %rax, %rax\n\tstc\n\tclac\n\tsbb %rcx, %rcx\n\t" DONE);
CODE(s_loop, "mov $1000, %ecx\n\t1: stac\n\taddq $1, (%rdi)\n\tclac\n\tadd (%rsi), %rax\n\tloop 1b\n\t" DONE);
CODE(s_across, "stac\n\tmov 0xffc(%rdi), %rax\n\tmovl $5, 0xffe(%rdi)\n\tclac\n\ts_across_at: mov 0xffc(%rdi), %rcx\n\t" DONE);
CODE(s_stac, "stac\n\t" DONE);
CODE(s_clac, "clac\n\t" DONE);
LABEL(s_open_at);
LABEL(s_store_at);
LABEL(s_popf_at);
LABEL(s_rep_at);
LABEL(s_across_at);

static struct regs at_va(const void *code)
{
	struct regs r = regs0(code);

	r.rdi = VA;
	return r;
}

static void smap_keeps_user_pages_out(void)
{
	uint64_t *page = page_alloc(), *own = page_alloc();
	struct regs r;

	map(VA, page, PTE_P | PTE_W | PTE_U);
	map(VA + PAGE, own, PTE_P | PTE_W);
	EXPECT(read0(VA, 8), EX_DONE);
	if (!smap_on())
		return;
	EXPECT(read0(VA, 8), EX_PF(PF_P));
	SAME(last_cr2, VA);
	EXPECT(write0(VA, 8), EX_PF(PF_P | PF_W));
	EXPECT(read3(VA, 8), EX_DONE);
	EXPECT(write3(VA, 8), EX_DONE);
	EXPECT(read0(VA, 1), EX_PF(PF_P));
	EXPECT(read0(VA + PAGE, 8), EX_DONE);
	EXPECT(write0(VA + PAGE, 8), EX_DONE);
	/* The same code with AC and without it. */
	for (unsigned i = 0; i < 4; i++) {
		r = at_va(s_plain);
		page[0] = 21;
		r.rflags |= i & 1 ? FLAG_AC : 0;
		EXPECT(run_regs(&r), i & 1 ? EX_DONE : EX_PF(PF_P));
		SAME(r.rflags & FLAG_AC, i & 1 ? FLAG_AC : 0);
		if (i & 1)
			SAME(r.rax, 42);
	}
	smap_off();
	EXPECT(read0(VA, 8), EX_DONE);
}

static void stac_and_clac(void)
{
	uint64_t *page = pages_alloc(2), *own = page_alloc();
	struct regs r;

	map(VA, page, PTE_P | PTE_W | PTE_U);
	map(VA + PAGE, (char *)page + PAGE, PTE_P | PTE_W | PTE_U);
	if (!smap_on())
		return;
	for (unsigned i = 0; i < 3; i++) {
		page[0] = 0x1234;
		r = at_va(s_open);
		EXPECT(run_regs(&r), EX_PF(PF_P));
		SAME(r.rax, 0x1234);
		SAME(r.rip, (uint64_t)s_open_at);
		SAME(r.rflags & FLAG_AC, 0);
		r = at_va(s_store);
		EXPECT(run_regs(&r), EX_PF(PF_P | PF_W));
		SAME(r.rip, (uint64_t)s_store_at);
		SAME(page[0], 8);
		r = at_va(s_popf);
		EXPECT(run_regs(&r), EX_PF(PF_P));
		SAME(r.rip, (uint64_t)s_popf_at);
		SAME(r.rax, 8);
		r = at_va(s_rep);
		EXPECT(run_regs(&r), EX_PF(PF_P));
		SAME(r.rip, (uint64_t)s_rep_at);
		SAME(r.rcx, 8);
		SAME(page[8], 8);
		r = at_va(s_across);
		EXPECT(run_regs(&r), EX_PF(PF_P));
		SAME(r.rip, (uint64_t)s_across_at);
		SAME(*(uint32_t *)((char *)page + 0xffe), 5);
	}
	r = at_va(s_flags);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, ~0ul);
	SAME(r.rcx, ~0ul);
	/* User and supervisor pages in turn. */
	page[0] = 0;
	own[0] = 3;
	map(VA + 2 * PAGE, own, PTE_P | PTE_W);
	r = at_va(s_loop);
	r.rsi = VA + 2 * PAGE;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(page[0], 1000);
	SAME(r.rax, 3000);
	EXPECT(run3(s_stac, 0), EX_UD);
	EXPECT(run3(s_clac, 0), EX_UD);
	smap_off();
	r = regs0(s_stac);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rflags & FLAG_AC, FLAG_AC);
}

/* ---- PCID ------------------------------------------------------------------------------------------- */

CODE(p_cr4, "mov %rdi, %cr4\n\t" DONE);
CODE(p_cr3, "mov %rdi, %cr3\n\t" DONE);
CODE(p_invpcid, "invpcid (%rdi), %rsi\n\t" DONE);
CODE(p_one, "mov $1, %eax\n\t" DONE);
CODE(p_two, "mov $2, %eax\n\t" DONE);

static uint64_t home; /* cr3 */

/* A copy of the present address space, with VA of its own. */
static uint64_t space_new(const void *page, uint64_t flags)
{
	uint64_t *root = page_alloc();

	memcpy(root, (void *)(home & PTE_ADDR), PAGE);
	cr3_set((uint64_t)root);
	map(VA, page, flags);
	cr3_set(home);
	return (uint64_t)root;
}

static bool pcid_on(void)
{
	home = cr3_get();
	if (!cpu_has(1, ECX, 17)) {
		test_skip("no PCID");
		return false;
	}
	return true;
}

static uint64_t value_at(uint64_t va) { return *(volatile uint64_t *)va; }

static void go(uint64_t root, unsigned pcid, bool keep) { cr3_set(root | pcid | (keep ? CR3_KEEP : 0)); }

static void leave_pcids(void)
{
	cr3_set(home);
	cr4_set(cr4_get() & ~CR4_PCIDE);
}

static void switching_spaces(void)
{
	uint64_t *one = page_alloc(), *two = page_alloc(), *three = page_alloc(), a, b, *pte;

	if (!pcid_on())
		return;
	one[0] = 1;
	two[0] = 2;
	three[0] = 3;
	a = space_new(one, PTE_P | PTE_W);
	b = space_new(two, PTE_P | PTE_W);
	cr4_set(cr4_get() | CR4_PCIDE);
	for (unsigned i = 0; i < 50; i++) {
		go(a, 1, true);
		SAME(value_at(VA), 1);
		go(b, 2, true);
		SAME(value_at(VA), 2);
		if (i % 16 == 15) {
			go(a, 3, false);
			SAME(value_at(VA), 1);
			go(b, 1, false); /* a PCID is what its flush makes of it */
			SAME(value_at(VA), 2);
			go(a, 1, false);
		}
	}
	/* A changed entry counts after a switch that flushes, and after invlpg. */
	go(a, 1, true);
	SAME(value_at(VA), 1);
	pte = entry_of(VA, 1);
	*pte = (uint64_t)three | PTE_P | PTE_W;
	go(b, 2, true);
	SAME(value_at(VA), 2);
	go(a, 1, false);
	SAME(value_at(VA), 3);
	*pte = (uint64_t)one | PTE_P | PTE_W;
	invlpg(VA);
	go(b, 2, true);
	go(a, 1, true);
	SAME(value_at(VA), 1);
	/* More of them than anybody remembers. */
	for (unsigned i = 4; i < 40; i++) {
		go(i & 1 ? a : b, i, false);
		SAME(value_at(VA), i & 1 ? 1 : 2);
	}
	for (unsigned i = 4; i < 40; i++) {
		go(i & 1 ? a : b, i, true);
		SAME(value_at(VA), i & 1 ? 1 : 2);
	}
	leave_pcids();
}

static void code_in_spaces(void)
{
	uint8_t *one = page_alloc(), *two = page_alloc();
	uint64_t a, b;
	struct regs r;

	if (!pcid_on())
		return;
	memcpy(one, p_one, 16);
	memcpy(two, p_two, 16);
	a = space_new(one, PTE_P | PTE_W | PTE_U);
	b = space_new(two, PTE_P | PTE_W | PTE_U);
	cr4_set(cr4_get() | CR4_PCIDE);
	for (unsigned i = 0; i < 20; i++) {
		go(i & 1 ? b : a, 1 + (i & 1), true);
		r = i & 2 ? regs3((void *)VA) : regs0((void *)VA);
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, i & 1 ? 2 : 1);
	}
	/* A page that was written in one space becomes code in the other, and is written again by what the first kept. */
	go(a, 1, true);
	map(VA + PAGE, one, PTE_P | PTE_W);
	for (unsigned i = 0; i < 10; i++) {
		go(a, 1, true);
		((volatile uint8_t *)VA)[1] = (uint8_t)(0x30 + i);
		((volatile uint8_t *)VA + PAGE)[2] = 0;
		go(home & PTE_ADDR, 4, true);
		r = regs0(one); /* identity-mapped */
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 0x30 + i);
	}
	leave_pcids();
}

static uint64_t invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
	uint64_t descriptor[2] = {pcid, address};
	struct regs r = regs0(p_invpcid);

	r.rdi = (uint64_t)descriptor;
	r.rsi = type;
	return run_regs(&r);
}

static void invalidating(void)
{
	uint64_t *one = page_alloc(), *two = page_alloc(), a, *pte, descriptor[2] = {0};
	struct regs r;

	if (!pcid_on() || !cpu_has(7, EBX, 10))
		return;
	one[0] = 1;
	two[0] = 2;
	a = space_new(one, PTE_P | PTE_W);
	EXPECT(invpcid(0, 5, VA), EX_GP(0)); /* no PCIDE yet */
	EXPECT(invpcid(2, 0, 0), EX_DONE);
	cr4_set(cr4_get() | CR4_PCIDE);
	/* From another space, and from the same: by address, by space, all. */
	for (unsigned type = 0; type < 4; type++)
		for (unsigned inside = 0; inside < 2; inside++) {
			go(a, 1, false);
			pte = entry_of(VA, 1);
			*pte = (uint64_t)one | PTE_P | PTE_W | (type == 2 ? PTE_G : 0);
			invlpg(VA);
			SAME(value_at(VA), 1);
			if (!inside)
				go(home & PTE_ADDR, 0, true);
			*pte = (uint64_t)two | PTE_P | PTE_W;
			EXPECT(invpcid(type, type < 2 ? 1 : 0, type ? 0 : VA), EX_DONE);
			if (!inside)
				go(a, 1, true);
			SAME(value_at(VA), 2);
		}
	EXPECT(invpcid(4, 0, 0), EX_GP(0));
	EXPECT(invpcid(~0ul, 0, 0), EX_GP(0));
	EXPECT(invpcid(1, 0x1000, 0), EX_GP(0));
	EXPECT(invpcid(0, 1, 1ul << 47), EX_GP(0));
	EXPECT(invpcid(3, 0, 0), EX_DONE);
	r = regs3(p_invpcid);
	r.rdi = (uint64_t)descriptor;
	EXPECT(run_regs(&r), EX_GP(0));
	leave_pcids();
}

static void control_bits(void)
{
	struct regs r;

	if (!pcid_on())
		return;
	cr3_set(home | 8); /* PWT: low bits must be clear when PCIDE is set */
	EXPECT(run0(p_cr4, cr4_get() | CR4_PCIDE), EX_GP(0));
	cr3_set(home);
	EXPECT(run0(p_cr3, home | CR3_KEEP), EX_GP(0));
	EXPECT(run0(p_cr4, cr4_get() | CR4_PCIDE), EX_DONE);
	EXPECT(run0(p_cr3, home | 0xfff | CR3_KEEP), EX_DONE);
	SAME(cr3_get(), home | 0xfff);
	EXPECT(run0(p_cr3, home | 1ul << 62), EX_GP(0));
	r = regs0(p_cr3);
	r.rdi = home;
	EXPECT(run_regs(&r), EX_DONE);
	leave_pcids();
	SAME(cr3_get(), home);
}

TESTS({"SMAP keeps user pages out", smap_keeps_user_pages_out}, {"stac and clac", stac_and_clac}, {"switching spaces", switching_spaces},
      {"code in spaces", code_in_spaces}, {"invalidating", invalidating}, {"PCID's control bits", control_bits});
