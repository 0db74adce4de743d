/* Descriptor tables: the guest's frames, checked, below the monitor's own flat segments. */
#include "modes/pv/private.h"

#define DESC_P (1ull << 47)
#define DESC_S (1ull << 44)
#define DESC_DPL (3ull << 45)
#define DESC_TYPE (15ull << 40)

/*
 * Code and data at privilege 3, and nothing else: gates and system segments would lead elsewhere. Not present: harmless.
 */
bool pv_descriptor_ok(uint64_t *descriptor)
{
	uint64_t d = *descriptor;

	if (!(d & DESC_P))
		return true;
	if (!(d & DESC_S))
		return !(d & DESC_TYPE); /* type 0 is the second half of something that was not let in either */
	*descriptor = d | DESC_DPL;
	return true;
}

/* ---- GDT -------------------------------------------------------------------------------- */

static uint64_t *tables_l1(const struct pv_vcpu *p)
{
	uint64_t *t = (uint64_t *)(void *)pv_frame_host(p->domain, p->domain->tables_l1);

	return t + p->index * (PV_GDT_PAGES + PV_LDT_PAGES);
}

void pv_map_gdt(struct pv_vcpu *p)
{
	uint64_t *t = tables_l1(p);

	for (unsigned i = 0; i < PV_GDT_PAGES; i++) {
		mfn_t mfn = i < FIRST_RESERVED_GDT_PAGE ? p->gdt_frame[i] : i == FIRST_RESERVED_GDT_PAGE ? p->domain->gdt_page : 0;

		t[i] = mfn ? mfn << GUEST_PAGE_SHIFT | PTE_P | PTE_W | PTE_A | PTE_D : 0;
		bt_monitor_flush_page(p->v, pv_tables_va(p) + i * GUEST_PAGE_SIZE);
	}
}

int pv_set_gdt_frames_of(struct pv_vcpu *p, struct pv_vcpu *of, const uint64_t *frames, unsigned n)
{
	int rc = 0;
	unsigned i;

	for (i = 0; i < n && !rc; i++)
		rc = pv_get_typed(p, frames[i], PV_TYPE_SEGDESC);
	if (rc) {
		while (--i > 0)
			pv_put_typed(p, frames[i - 1]);
		return rc;
	}
	for (i = 0; i < FIRST_RESERVED_GDT_PAGE; i++) {
		if (of->gdt_frame[i])
			pv_put_typed(p, of->gdt_frame[i]);
		of->gdt_frame[i] = i < n ? frames[i] : 0;
	}
	pv_map_gdt(of);
	return 0;
}

int pv_set_gdt_frames(struct pv_vcpu *p, const uint64_t *frames, unsigned n) { return pv_set_gdt_frames_of(p, p, frames, n); }

long pv_set_gdt(struct pv_vcpu *p, gva_t list, uint64_t entries)
{
	uint64_t frames[FIRST_RESERVED_GDT_PAGE];
	unsigned n = (unsigned)((entries + 511) / 512);
	int rc;

	if (entries > FIRST_RESERVED_GDT_ENTRY)
		return -XEN_EINVAL;
	if (n && !bt_monitor_read(p->v, list, frames, n * (unsigned)sizeof(frames[0])))
		return -XEN_EFAULT;
	pv_lock(p);
	rc = pv_set_gdt_frames(p, frames, n);
	pv_unlock(p);
	return rc;
}

long pv_update_descriptor(struct pv_vcpu *p, uint64_t address, uint64_t descriptor)
{
	mfn_t mfn = address >> GUEST_PAGE_SHIFT;
	struct pv_frame *f;
	enum pv_type type;
	int rc;

	if (address & 7 || !pv_descriptor_ok(&descriptor))
		return -XEN_EINVAL;
	pv_lock(p);
	f = pv_frame_of(p->domain, mfn);
	type = f && f->typed && f->type == PV_TYPE_SEGDESC ? PV_TYPE_SEGDESC : PV_TYPE_WRITABLE;
	rc = pv_get_typed(p, mfn, type);
	if (!rc) {
		__atomic_store_n((uint64_t *)(void *)(pv_frame_host(p->domain, mfn) + (address & ~GUEST_PAGE_MASK)), descriptor,
				 __ATOMIC_SEQ_CST);
		pv_put_typed(p, mfn);
	}
	pv_unlock(p);
	return rc;
}

/* ---- LDT ------------------------------------------------------------------------------------ */

/* All at once: each frame becomes a part of a table, or it is left unmapped, and its selectors fault. */
int pv_set_ldt(struct pv_vcpu *p, gva_t gva, uint64_t entries)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint64_t *t = tables_l1(p) + PV_GDT_PAGES;
	unsigned pages = (unsigned)((entries * 8 + GUEST_PAGE_SIZE - 1) / GUEST_PAGE_SIZE);
	gva_t at = pv_tables_va(p) + PV_GDT_PAGES * GUEST_PAGE_SIZE;

	if (entries > 8192 || gva & ~GUEST_PAGE_MASK || pages > PV_LDT_PAGES)
		return -XEN_EINVAL;
	for (unsigned i = 0; i < PV_LDT_PAGES; i++) {
		unsigned index;
		mfn_t table;
		uint64_t entry = 0;

		if (t[i])
			pv_put_typed(p, (t[i] & PTE_FRAME) >> GUEST_PAGE_SHIFT);
		t[i] = 0;
		if (i < pages && pv_find_l1(p, gva + i * GUEST_PAGE_SIZE, &table, &index))
			entry = ((uint64_t *)(void *)pv_frame_host(p->domain, table))[index];
		if (entry & PTE_P && !pv_get_typed(p, (entry & PTE_FRAME) >> GUEST_PAGE_SHIFT, PV_TYPE_SEGDESC))
			t[i] = (entry & PTE_FRAME) | PTE_P | PTE_W | PTE_A | PTE_D;
		bt_monitor_flush_page(p->v, at + i * GUEST_PAGE_SIZE);
	}
	cs->ldtr = (struct cpu_segment){.selector = entries ? 8 : 0, .base = at, .limit = entries ? (uint32_t)(entries * 8 - 1) : 0,
					.access = entries ? 0x82 : 0};
	return 0;
}
