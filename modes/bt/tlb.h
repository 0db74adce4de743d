/* Filling the software TLB; what may be done without filling is in the header, for the C fast paths. */
#ifndef BT_TLB_H
#define BT_TLB_H

#include "modes/bt/cache.h"

enum bt_tlb_result {
	BT_TLB_DIRECT, /* the entry is filled, *ret_host is the host address of gva */
	BT_TLB_CODE,   /* a write to a page with translated code: *ret_host, after bt_code_written */
	BT_TLB_MMIO,   /* *ret_gpa only */
};

static inline unsigned bt_tlb_index(gva_t gva) { return (unsigned)(gva >> GUEST_PAGE_SHIFT) & (BT_TLB_ENTRIES - 1); }

/* Host address of [gva, gva+n) if the TLB grants it now; NULL otherwise. */
static inline uint8_t *bt_tlb_hit(struct bt_vcpu *v, gva_t gva, unsigned n, bool write, enum bt_mmu mmu)
{
	struct bt_tlb_entry *e = &v->tlb[mmu][bt_tlb_index(gva)];
	uint64_t off = gva + (write ? e->write : e->read);

	return off <= GUEST_PAGE_SIZE - n ? e->host + off : NULL;
}

void bt_tlb_init(struct bt_vcpu *v);
/* Empties the slots in front of the TLB: they may hold what an entry no longer does. */
void bt_slots_clear(struct bt_vcpu *v);
/* Walks for gva, fills its entry; raises #PF. gva must be canonical; the access must not cross the page. */
enum bt_tlb_result bt_tlb_fill(struct bt_vcpu *v, gva_t gva, bool write, enum bt_mmu mmu, uint8_t **ret_host,
			       gpa_t *ret_gpa);

/* After an access of this vCPU's own that a device may have taken as an order to map memory in or out. */
static inline void bt_map_sync(struct bt_vcpu *v)
{
	if (v->map_changed) {
		v->map_changed = false;
		bt_tlb_flush(v, true);
	}
}

#endif
