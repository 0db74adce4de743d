/* Page tables of the test kernels: a PML4 entry of its own for tests, and accesses that report how they went. */
#include "cpu.h"

#define ARENA 0x1000000ull
#define ARENA_END 0x1c00000ull

extern uint64_t boot_pml4[512];
void page_free_all(void);

uint8_t *const large_page = (uint8_t *)0x1c00000;
static uint64_t arena = ARENA;

void *pages_alloc(unsigned n)
{
	void *p = (void *)arena;

	if (arena + n * PAGE > ARENA_END) {
		test_error(__FILE__, __LINE__, "out of pages");
		return (void *)ARENA;
	}
	arena += n * PAGE;
	memset(p, 0, n * PAGE);
	return p;
}

void *page_alloc(void) { return pages_alloc(1); }
void page_free_all(void) { arena = ARENA; }

uint64_t *entry_of(uint64_t va, unsigned level)
{
	uint64_t *table = (uint64_t *)(cr3_get() & PTE_ADDR);

	for (unsigned l = 4; l > 0; l--) {
		uint64_t *e = &table[va >> (3 + 9 * l) & 511];

		if (l == level)
			return e;
		if (!(*e & PTE_P) || (*e & PTE_PS))
			return NULL;
		table = (uint64_t *)(*e & PTE_ADDR);
	}
	return NULL;
}

uint64_t *map_at(uint64_t va, uint64_t pa, uint64_t flags, unsigned level)
{
	uint64_t *table = (uint64_t *)(cr3_get() & PTE_ADDR), *e;

	for (unsigned l = 4;; l--) {
		e = &table[va >> (3 + 9 * l) & 511];
		if (l == level)
			break;
		if (!(*e & PTE_P) || (*e & PTE_PS))
			*e = (uint64_t)page_alloc() | PTE_P | PTE_W | PTE_U;
		table = (uint64_t *)(*e & PTE_ADDR);
	}
	*e = pa | flags | (level > 1 ? PTE_PS : 0);
	invlpg(va);
	return e;
}

uint64_t *map(uint64_t va, const void *page, uint64_t flags) { return map_at(va, (uint64_t)page, flags, 1); }

void unmap_test_area(void)
{
	uint64_t cr4 = cr4_get();

	boot_pml4[TEST_VA >> 39 & 511] = 0;
	cr3_set((uint64_t)boot_pml4);
	cr4_set(cr4 ^ CR4_PGE); /* global ones too */
	cr4_set(cr4);
}

/* ---- accesses ---------------------------------------------------------------------------------- */

CODE(access_r1, "movb (%rdi), %al\n\t" DONE);
CODE(access_r2, "movw (%rdi), %ax\n\t" DONE);
CODE(access_r4, "movl (%rdi), %eax\n\t" DONE);
CODE(access_r8, "movq (%rdi), %rax\n\t" DONE);
CODE(access_w1, "movb %sil, (%rdi)\n\t" DONE);
CODE(access_w2, "movw %si, (%rdi)\n\t" DONE);
CODE(access_w4, "movl %esi, (%rdi)\n\t" DONE);
CODE(access_w8, "movq %rsi, (%rdi)\n\t" DONE);

uint64_t last_cr2, last_value;

static uint64_t access_at(struct regs r, uint64_t va)
{
	uint64_t rip = r.rip, ex;

	r.rdi = va;
	r.rsi = 0x1122334455667788;
	ex = run_regs(&r);
	last_cr2 = r.cr2;
	last_value = r.rax;
	if (ex != EX_DONE && r.rip != rip)
		test_failure(__FILE__, __LINE__, "%s came with rip 0x%lx, not the access's 0x%lx", ex_name(ex), r.rip, rip);
	return ex;
}

static const void *reader(unsigned bytes)
{
	return bytes == 1 ? access_r1 : bytes == 2 ? access_r2 : bytes == 4 ? access_r4 : access_r8;
}

static const void *writer(unsigned bytes)
{
	return bytes == 1 ? access_w1 : bytes == 2 ? access_w2 : bytes == 4 ? access_w4 : access_w8;
}

uint64_t read0(uint64_t va, unsigned bytes) { return access_at(regs0(reader(bytes)), va); }
uint64_t write0(uint64_t va, unsigned bytes) { return access_at(regs0(writer(bytes)), va); }
uint64_t read3(uint64_t va, unsigned bytes) { return access_at(regs3(reader(bytes)), va); }
uint64_t write3(uint64_t va, unsigned bytes) { return access_at(regs3(writer(bytes)), va); }

static uint64_t exec_at(struct regs r)
{
	uint64_t ex = run_regs(&r);

	last_cr2 = r.cr2;
	last_value = r.rax;
	return ex;
}

uint64_t exec0(uint64_t va) { return exec_at(regs0((const void *)va)); }
uint64_t exec3(uint64_t va) { return exec_at(regs3((const void *)va)); }
