/* The processor's state in which a kernel is entered, for each of the entries there are. */
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"

#define MULTIBOOT_BOOT_MAGIC 0x2badb002u
#define CR0_PE 0x1ull
#define CR0_ET 0x10ull
#define CR0_PG 0x80000000ull
#define CR4_PAE 0x20ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull

#define PTE_PRESENT 0x1ull
#define PTE_WRITE 0x2ull
#define PTE_ACCESSED 0x20ull
#define PTE_DIRTY 0x40ull
#define PTE_LARGE 0x80ull

/* Selectors of the boot protocol: __BOOT_CS, __BOOT_DS; and a TSS, for the entries that want TR usable. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TSS 0x20

int boot_put(struct machine *machine, gpa_t gpa, const void *bytes, uint64_t n, const char *what)
{
	if (machine_dma_write(machine, gpa, bytes, n))
		return 0;
	return boot_fail(-ENOSPC, "no guest memory at 0x%llx for the %s (%llu bytes): give the VM more memory",
			 (unsigned long long)gpa, what, (unsigned long long)n);
}

/* A descriptor from a hidden part: the inverse of a segment load. */
static uint64_t descriptor(const struct cpu_segment *seg)
{
	uint64_t limit = seg->access & SEG_ACCESS_G ? seg->limit >> 12 : seg->limit;

	return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | (uint64_t)(seg->access & 0xf0ff) << 40 |
	       (limit & 0xf0000) << 32 | (seg->base & 0xff000000) << 32;
}

static int put_gdt(struct machine *machine, struct cpu_state *bsp, const struct cpu_segment *code, gpa_t at)
{
	const struct cpu_segment data = {
		.limit = 0xffffffff, .access = 0xc093, .selector = BOOT_DS, /* G, D, P, S, read/write, accessed */
	};
	const struct cpu_segment tss = {.limit = 0x67, .access = 0x008b, .selector = BOOT_TSS};
	uint64_t gdt[BOOT_GDT_BYTES / 8] = {0};

	bsp->seg[SEG_CS] = *code;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		if (i != SEG_CS)
			bsp->seg[i] = data;
	}
	bsp->tr = tss;
	bsp->ldtr = (struct cpu_segment){.limit = 0xffff, .access = 0x0082};
	gdt[BOOT_CS / 8] = descriptor(code);
	gdt[BOOT_DS / 8] = descriptor(&data);
	gdt[BOOT_TSS / 8] = descriptor(&tss);
	bsp->gdtr = (struct cpu_dtable){.base = at, .limit = sizeof(gdt) - 1};
	bsp->idtr = (struct cpu_dtable){.base = 0, .limit = 0};
	return boot_put(machine, at, gdt, sizeof(gdt), "descriptor table");
}

/*
 * Memory types as firmware leaves them (SDM vol. 3, 12.11): write-back by default, uncached from the PCI hole to 4 GiB. A
 * Linux kernel that finds the MTRRs off also leaves the PAT alone.
 */
static void memory_types(struct machine *machine, struct cpu_state *bsp)
{
	const uint64_t enable = 1u << 11, write_back = 6, uncached = 0, hole = 1ull << 31;
	uint64_t phys_mask = (1ull << machine_cpuid(machine)->phys_bits) - 1;

	bsp->mtrr_def_type = enable | write_back;
	bsp->mtrr_var[0] = hole | uncached;
	bsp->mtrr_var[1] = (phys_mask & ~(hole - 1)) | enable;
}

static int enter_flat(struct machine *machine, struct cpu_state *bsp, gpa_t entry, gpa_t gdt)
{
	const struct cpu_segment code = {.limit = 0xffffffff, .access = 0xc09b, .selector = BOOT_CS};

	cpu_state_reset(bsp, 0);
	memory_types(machine, bsp);
	bsp->cr0 = CR0_PE | CR0_ET;
	bsp->cr3 = 0;
	bsp->cr4 = 0;
	bsp->efer = 0;
	bsp->rflags = 2;
	memset(bsp->gpr, 0, sizeof(bsp->gpr));
	bsp->rip = entry;
	return put_gdt(machine, bsp, &code, gdt);
}

int entry_boot32(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t zero_page)
{
	int rc = enter_flat(machine, ret_bsp, entry, BOOT_GDT_GPA);

	ret_bsp->gpr[GPR_RSI] = zero_page;
	return rc;
}

int entry_pvh(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t start_info)
{
	int rc = enter_flat(machine, ret_bsp, entry, BOOT_GDT_GPA);

	ret_bsp->gpr[GPR_RBX] = start_info;
	return rc;
}

int entry_multiboot(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t info, gpa_t gdt)
{
	int rc = enter_flat(machine, ret_bsp, entry, gdt);

	ret_bsp->gpr[GPR_RAX] = MULTIBOOT_BOOT_MAGIC;
	ret_bsp->gpr[GPR_RBX] = info;
	return rc;
}

int entry_long_mode(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t zero_page)
{
	const struct cpu_segment code = {.limit = 0xffffffff, .access = 0xa09b, .selector = BOOT_CS}; /* G, L */
	uint64_t table[6][512] = {{0}};
	const uint64_t flags = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED;
	int rc;

	/* [0] PML4, [1] PDPT, [2..5] a directory of 2 MiB pages for each of the first four GiB. */
	table[0][0] = (BOOT_PAGE_TABLES_GPA + 0x1000) | flags;
	for (unsigned i = 0; i < 4; i++)
		table[1][i] = (BOOT_PAGE_TABLES_GPA + 0x2000 + i * 0x1000ull) | flags;
	for (unsigned i = 0; i < 4 * 512; i++)
		table[2 + i / 512][i % 512] = (uint64_t)i << 21 | flags | PTE_LARGE | PTE_DIRTY;
	rc = boot_put(machine, BOOT_PAGE_TABLES_GPA, table, sizeof(table), "page tables");
	if (rc < 0)
		return rc;

	cpu_state_reset(ret_bsp, 0);
	memory_types(machine, ret_bsp);
	ret_bsp->cr0 = CR0_PE | CR0_ET | CR0_PG;
	ret_bsp->cr3 = BOOT_PAGE_TABLES_GPA;
	ret_bsp->cr4 = CR4_PAE;
	ret_bsp->efer = EFER_LME | EFER_LMA;
	ret_bsp->rflags = 2;
	memset(ret_bsp->gpr, 0, sizeof(ret_bsp->gpr));
	ret_bsp->gpr[GPR_RSI] = zero_page;
	ret_bsp->rip = entry;
	return put_gdt(machine, ret_bsp, &code, BOOT_GDT_GPA);
}
