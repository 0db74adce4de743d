/* Guest memory as a debugger sees it: by linear address through the tables a vCPU uses now, leaving no trace in them. */
#include "vm/private.h"

#include <string.h>

#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LMA (1ull << 10)
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

/* What one step of a walk led to. */
enum step { STEP_NONE, STEP_TABLE, STEP_PAGE };

static enum step entry_read(struct vm *vm, gpa_t at, unsigned bytes, uint64_t *ret)
{
	*ret = 0;
	return machine_dma_read(vm->machine, at, ret, bytes) && *ret & PTE_P ? STEP_TABLE : STEP_NONE;
}

static void add_rights(struct vm_translation *t, uint64_t entry, bool first)
{
	t->writable = (first || t->writable) && entry & PTE_W;
	t->user = (first || t->user) && entry & PTE_U;
	t->executable = (first || t->executable) && !(entry & PTE_NX);
}

/* 32-bit paging (SDM vol. 3, 4.3). */
static bool walk32(struct vm *vm, const struct cpu_state *cs, gva_t gva, struct vm_translation *ret)
{
	uint64_t entry;

	if (!entry_read(vm, (cs->cr3 & 0xfffff000u) + (gva >> 22 & 1023) * 4, 4, &entry))
		return false;
	add_rights(ret, entry, true);
	if (entry & PTE_PS && cs->cr4 & CR4_PSE) {
		ret->page_bytes = 4u << 20;
		ret->gpa = (entry & 0xffc00000u) | (entry >> 13 & 0xff) << 32 | (gva & 0x3fffff);
		return true;
	}
	if (!entry_read(vm, (entry & 0xfffff000u) + (gva >> 12 & 1023) * 4, 4, &entry))
		return false;
	add_rights(ret, entry, false);
	ret->page_bytes = 4096;
	ret->gpa = (entry & 0xfffff000u) | (gva & 0xfff);
	return true;
}

/* PAE, 4-level and 5-level paging (SDM vol. 3, 4.4 and 4.5). */
static bool walk64(struct vm *vm, const struct cpu_state *cs, gva_t gva, struct vm_translation *ret)
{
	bool long_mode = cs->efer & EFER_LMA;
	unsigned shift = !long_mode ? 30 : cs->cr4 & CR4_LA57 ? 48 : 39;
	uint64_t table = cs->cr3 & (long_mode ? PTE_ADDR : 0xffffffe0u), entry;

	for (bool first = true;; shift -= 9) {
		if (!entry_read(vm, table + (gva >> shift & 511) * 8, 8, &entry))
			return false;
		if (long_mode || shift < 30) { /* PAE's pointers have no rights */
			add_rights(ret, entry, first);
			first = false;
		}
		if (shift == 12 || (entry & PTE_PS && (shift == 21 || (shift == 30 && long_mode)))) {
			ret->page_bytes = 1ull << shift;
			ret->gpa = (entry & PTE_ADDR & ~(ret->page_bytes - 1)) | (gva & (ret->page_bytes - 1));
			return true;
		}
		table = entry & PTE_ADDR;
	}
}

bool vm_translate(struct vm *vm, const struct cpu_state *cs, gva_t gva, struct vm_translation *ret)
{
	unsigned bits = cs->cr4 & CR4_LA57 ? 57 : 48;
	bool mapped = true;

	*ret = (struct vm_translation){.gpa = gva, .page_bytes = 4096, .writable = true, .user = true, .executable = true};
	if (cs->efer & EFER_LMA && (uint64_t)((int64_t)(gva << (64 - bits)) >> (64 - bits)) != gva)
		return false;
	if (!(cs->efer & EFER_LMA))
		gva = ret->gpa = (uint32_t)gva;
	if (cs->cr0 & CR0_PG)
		mapped = cs->cr4 & CR4_PAE ? walk64(vm, cs, gva, ret) : walk32(vm, cs, gva, ret);
	if (!machine_a20(vm->machine))
		ret->gpa &= ~(gpa_t)(1u << 20);
	return mapped;
}

/* One run within a page and a region: host memory, or NULL where an access could have effects (MMIO), or nothing is, or ROM is to be written. */
static uint8_t *host_of(struct vm *vm, gpa_t gpa, size_t *n, bool write)
{
	const struct ram_region *r = machine_ram_find(vm->machine, gpa);
	size_t in_page = 4096 - (gpa & 4095);

	if (!r || (write && r->readonly))
		return NULL;
	if (*n > in_page)
		*n = in_page;
	return r->host + (gpa - r->gpa);
}

size_t vm_read_physical(struct vm *vm, gpa_t gpa, void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t part = n - done;
		const uint8_t *host = host_of(vm, gpa + done, &part, false);
		if (!host)
			break;
		memcpy((uint8_t *)buf + done, host, part);
		done += part;
	}
	return done;
}

size_t vm_write_physical(struct vm *vm, gpa_t gpa, const void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t part = n - done;
		uint8_t *host = host_of(vm, gpa + done, &part, true);
		if (!host)
			break;
		memcpy(host, (const uint8_t *)buf + done, part);
		vm->mode->ram_written(vm->engine, gpa + done, part);
		done += part;
	}
	return done;
}

static size_t linear(struct vm *vm, const struct cpu_state *cs, gva_t gva, void *buf, size_t n, bool write)
{
	size_t done = 0;

	while (done < n) {
		struct vm_translation t;
		size_t part = 4096 - ((gva + done) & 4095), moved;
		if (part > n - done)
			part = n - done;
		if (!vm_translate(vm, cs, gva + done, &t))
			break;
		moved = write ? vm_write_physical(vm, t.gpa, (uint8_t *)buf + done, part)
			      : vm_read_physical(vm, t.gpa, (uint8_t *)buf + done, part);
		done += moved;
		if (moved < part)
			break;
	}
	return done;
}

size_t vm_read_linear(struct vm *vm, const struct cpu_state *cs, gva_t gva, void *buf, size_t n)
{
	return linear(vm, cs, gva, buf, n, false);
}

size_t vm_write_linear(struct vm *vm, const struct cpu_state *cs, gva_t gva, const void *buf, size_t n)
{
	return linear(vm, cs, gva, (void *)(uintptr_t)buf, n, true);
}

struct cpu_state *vm_state_alloc(void)
{
	return aligned_alloc(64, (sizeof(struct cpu_state) + 63) & ~(size_t)63);
}
