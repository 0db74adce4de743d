/* The software TLB's entries: filling, flushing, and taking write permission away. */
#include "modes/bt/tlb.h"

/* The negated address of a page with another index: (address + tag) can then never be an offset in a page. */
static uint64_t invalid_tag(unsigned index) { return -((uint64_t)(index ^ 1) << GUEST_PAGE_SHIFT); }

static void entry_clear(struct bt_tlb_entry *e, unsigned index)
{
	e->read = e->write = invalid_tag(index);
	e->host = NULL;
	e->info = 0;
}

void bt_slots_clear(struct bt_vcpu *v)
{
	uint8_t *nowhere = v->vm->nowhere;

	for (unsigned i = 0; i < BT_MMU_COUNT * 2; i++) {
		struct bt_slot *s = v->slot[i / 2][i % 2];
		for (unsigned k = 0; k < BT_SLOTS; k++) {
			s[k].tag = BT_SLOT_EMPTY;
			s[k].host = k == GPR_RSP || k == GPR_RBP ? nowhere + BT_NOWHERE_BYTES / 2 : nowhere;
		}
	}
}

void bt_tlb_init(struct bt_vcpu *v)
{
	v->slot_budget = BT_SLOT_BUDGET;
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		for (unsigned i = 0; i < BT_TLB_ENTRIES; i++)
			entry_clear(&v->tlb[m][i], i);
		v->tlb_used_count[m] = 0;
	}
}

static gpa_t a20_masked(struct bt_vcpu *v, gpa_t gpa)
{
	return machine_a20(v->machine) ? gpa : gpa & ~(gpa_t)(1u << 20);
}

enum bt_tlb_result bt_tlb_fill(struct bt_vcpu *v, gva_t gva, bool write, enum bt_mmu mmu, uint8_t **ret_host,
			       gpa_t *ret_gpa)
{
	unsigned index = bt_tlb_index(gva);
	struct bt_tlb_entry *e = &v->tlb[mmu][index];
	gva_t page = gva & GUEST_PAGE_MASK;
	const struct ram_region *r;
	struct bt_walk w;
	gpa_t gpa;

	v->stats.tlb_miss++;
	if (!bt_walk(v, gva, write ? BT_WANT_WRITE : BT_WANT_READ, mmu, &w))
		bt_raise_pf(v, gva, w.error);
	gpa = a20_masked(v, w.gpa & GUEST_PAGE_MASK);
	*ret_gpa = gpa | (gva & ~GUEST_PAGE_MASK);
	r = machine_ram_find(v->machine, gpa);
	if (!r || (write && r->readonly))
		return BT_TLB_MMIO;
	uint8_t *host = r->host + (gpa - r->gpa);
	*ret_host = host + (gva & ~GUEST_PAGE_MASK);

	bool code = bt_page_has_code(v->vm, gpa);
	if (e->read == invalid_tag(index) && e->write == invalid_tag(index) && !e->host)
		v->tlb_used[mmu][v->tlb_used_count[mmu]++] = (uint16_t)index;
	e->read = -page;
	e->write = w.writable && !r->readonly && !code ? -page : invalid_tag(index);
	e->host = host;
	e->info = gpa | (w.global ? BT_TLB_GLOBAL : 0) | (w.large ? BT_TLB_LARGE : 0);
	/* Somebody may have begun to translate from the page meanwhile, and found no tag here to take away. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!code && bt_page_has_code(v->vm, gpa)) {
		e->write = invalid_tag(index);
		code = true;
	}
	return write && code ? BT_TLB_CODE : BT_TLB_DIRECT;
}

void bt_tlb_flush(struct bt_vcpu *v, bool globals_too)
{
	v->stats.tlb_flush++;
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		uint32_t kept = 0;
		for (uint32_t i = 0; i < v->tlb_used_count[m]; i++) {
			unsigned index = v->tlb_used[m][i];
			struct bt_tlb_entry *e = &v->tlb[m][index];
			if (!globals_too && (e->info & BT_TLB_GLOBAL))
				v->tlb_used[m][kept++] = (uint16_t)index;
			else
				entry_clear(e, index);
		}
		v->tlb_used_count[m] = kept;
	}
	bt_itlb_flush(v, globals_too);
}

void bt_tlb_flush_page(struct bt_vcpu *v, gva_t gva)
{
	gva_t page = gva & GUEST_PAGE_MASK;
	bool large = false;

	v->stats.tlb_flush_page++;
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		uint32_t kept = 0;
		for (uint32_t i = 0; i < v->tlb_used_count[m]; i++) {
			unsigned index = v->tlb_used[m][i];
			struct bt_tlb_entry *e = &v->tlb[m][index];
			gva_t mapped = -e->read;
			/* One invlpg drops all of a large page, of up to 1 GiB. */
			bool part = (e->info & BT_TLB_LARGE) && mapped >> 30 == gva >> 30;
			large |= part;
			if (mapped == page || part)
				entry_clear(e, index);
			else
				v->tlb_used[m][kept++] = (uint16_t)index;
		}
		v->tlb_used_count[m] = kept;
	}
	if (large)
		bt_itlb_flush(v, true);
	else
		bt_itlb_flush_page(v, gva);
}

void bt_tlb_protect(struct bt_vcpu *v, gpa_t gpa)
{
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++)
		for (uint32_t i = 0; i < v->tlb_used_count[m]; i++) {
			unsigned index = v->tlb_used[m][i];
			struct bt_tlb_entry *e = &v->tlb[m][index];
			if ((e->info & GUEST_PAGE_MASK) == gpa)
				e->write = invalid_tag(index);
		}
}

void bt_tlb_protect_all(struct bt_vcpu *v)
{
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++)
		for (uint32_t i = 0; i < v->tlb_used_count[m]; i++)
			v->tlb[m][v->tlb_used[m][i]].write = invalid_tag(v->tlb_used[m][i]);
}
