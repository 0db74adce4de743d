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

static void slot_clear(struct bt_vcpu *v, unsigned mmu, unsigned k)
{
	const struct bt_slot empty = {BT_SLOT_EMPTY, v->vm->nowhere + (k == GPR_RSP || k == GPR_RBP ? BT_NOWHERE_BYTES / 2 : 0)};

	v->slot[mmu][0][k] = v->slot[mmu][1][k] = empty;
}

/* Kernels have but the stack's (emit_mem.c), which every switch of address spaces then is the cheaper for. */
void bt_slots_clear(struct bt_vcpu *v)
{
	for (unsigned k = 0; k < BT_SLOTS; k++)
		slot_clear(v, BT_MMU_USER, k);
	slot_clear(v, BT_MMU_KERNEL, GPR_RSP);
	slot_clear(v, BT_MMU_KERNEL_SMAP, GPR_RSP);
	slot_clear(v, BT_MMU_GUEST, GPR_RSP);
}

void bt_tlb_init(struct bt_vcpu *v)
{
	v->slot_budget = BT_SLOT_BUDGET;
	v->loop_warm = 1;
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		for (unsigned k = 0; k < BT_SLOTS; k++)
			slot_clear(v, m, k);
		for (unsigned i = 0; i < BT_TLB_ENTRIES; i++)
			entry_clear(&v->tlb[m][i], i);
		v->tlb_used_count[m][0] = v->tlb_used_count[m][1] = 0;
	}
}

static gpa_t a20_masked(struct bt_vcpu *v, gpa_t gpa)
{
	return machine_a20(v->machine) ? gpa : gpa & ~(gpa_t)(1u << 20);
}

/* Puts an entry on the list it belongs to; its BT_TLB_LISTED bits. */
static uint64_t list_entry(struct bt_vcpu *v, unsigned mmu, unsigned index, bool global)
{
	uint64_t listed = v->tlb[mmu][index].info & (BT_TLB_LISTED | BT_TLB_LISTED_GLOBAL);

	if (listed & BT_TLB_LISTED || (global && listed))
		return listed;
	v->tlb_used[mmu][global][v->tlb_used_count[mmu][global]++] = (uint16_t)index;
	return listed | (global ? BT_TLB_LISTED_GLOBAL : BT_TLB_LISTED);
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
	if (__builtin_expect(v->redirect_host && page == v->redirect_gva, 0)) {
		*ret_host = v->redirect_host + (gva & ~GUEST_PAGE_MASK);
		return BT_TLB_DIRECT;
	}
	if (!bt_walk(v, gva, write ? BT_WANT_WRITE : BT_WANT_READ, mmu, &w))
		bt_raise_pf(v, gva, w.error);
	gpa = a20_masked(v, w.gpa & GUEST_PAGE_MASK);
	*ret_gpa = gpa | (gva & ~GUEST_PAGE_MASK);
	r = machine_ram_find(v->machine, gpa);
	if (!r || (write && r->readonly))
		return BT_TLB_MMIO;
	uint8_t *host = r->host + (gpa - r->gpa);
	*ret_host = host + (gva & ~GUEST_PAGE_MASK);

	if ((uint64_t)(host - v->vm->large.ram) < v->vm->large.bytes)
		bt_large_ram(&v->vm->large, host);
	bool code = bt_page_has_code(v->vm, gpa);
	unsigned watched = bt_debug_data_in_page(v, gva);
	uint64_t listed = list_entry(v, mmu, index, w.global);
	e->read = watched & BT_DEBUG_READ ? invalid_tag(index) : -page;
	e->write = w.writable && !r->readonly && !code && !watched ? -page : invalid_tag(index);
	e->host = host;
	e->info = gpa | listed | (w.user ? BT_TLB_USER : 0) | (w.global ? BT_TLB_GLOBAL : 0) | (w.large ? BT_TLB_LARGE : 0);
	if (w.large)
		v->tlb_large_regions |= 1ull << (gva >> 30 & 63);
	/* Somebody may have begun to translate from the page meanwhile, and found no tag here to take away. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!code && bt_page_has_code(v->vm, gpa)) {
		e->write = invalid_tag(index);
		code = true;
	}
	return write && code ? BT_TLB_CODE : BT_TLB_DIRECT;
}

/* Empties the entries of one list; those that stand on the other as well stay there, empty. */
static void flush_list(struct bt_vcpu *v, unsigned mmu, bool global)
{
	uint64_t other = global ? BT_TLB_LISTED : BT_TLB_LISTED_GLOBAL;

	for (uint32_t i = 0; i < v->tlb_used_count[mmu][global]; i++) {
		unsigned index = v->tlb_used[mmu][global][i];
		struct bt_tlb_entry *e = &v->tlb[mmu][index];
		uint64_t listed = e->info & other;
		entry_clear(e, index);
		e->info = listed;
	}
	v->tlb_used_count[mmu][global] = 0;
}

void bt_tlb_flush(struct bt_vcpu *v, bool globals_too)
{
	v->stats.tlb_flush++;
	v->stats.tlb_flush_all += globals_too;
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		flush_list(v, m, false);
		if (globals_too)
			flush_list(v, m, true);
	}
	if (globals_too) {
		v->tlb_large_regions = 0;
		bt_tlb_forget(v, -1);
	}
	bt_itlb_flush(v, globals_too);
}

void bt_tlb_flush_mmu(struct bt_vcpu *v, enum bt_mmu mmu)
{
	v->stats.tlb_flush++;
	bt_slots_clear(v);
	flush_list(v, mmu, false);
	flush_list(v, mmu, true);
	bt_itlb_flush_half(v, mmu == BT_MMU_USER);
}

/* ---- address spaces (PCID; SDM vol. 3, 4.10) ------------------------------------------------- */

void bt_tlb_forget(struct bt_vcpu *v, int pcid)
{
	for (unsigned i = 0; i < BT_CONTEXTS; i++)
		if (pcid < 0 || v->context[i].pcid == pcid)
			v->context[i].valid = false;
}

static struct bt_context *context_of(struct bt_vcpu *v, unsigned pcid)
{
	for (unsigned i = 0; i < BT_CONTEXTS; i++)
		if (v->context[i].valid && v->context[i].pcid == pcid)
			return &v->context[i];
	return NULL;
}

static struct bt_context *context_free(struct bt_vcpu *v)
{
	struct bt_context *best = &v->context[0];

	for (unsigned i = 0; i < BT_CONTEXTS; i++) {
		struct bt_context *c = &v->context[i];
		if (!c->valid)
			return c;
		if (v->context_age - c->age > v->context_age - best->age)
			best = c;
	}
	return best;
}

/* The newest entries, should there be too many. */
static void put_away(struct bt_vcpu *v, unsigned pcid)
{
	struct bt_context *c = context_of(v, pcid);

	if (!c)
		c = context_free(v);
	c->pcid = (uint16_t)pcid;
	c->valid = true;
	c->age = ++v->context_age;
	c->count = 0;
	for (unsigned m = 0; m < BT_MMU_COUNT; m++) {
		for (uint32_t i = v->tlb_used_count[m][0]; i-- > 0 && c->count < BT_CONTEXT_ENTRIES;) {
			unsigned index = v->tlb_used[m][0][i];
			const struct bt_tlb_entry *e = &v->tlb[m][index];
			if (!e->host || e->info & BT_TLB_GLOBAL)
				continue;
			c->entry[c->count].index = (uint16_t)index;
			c->entry[c->count].mmu = (uint8_t)m;
			c->entry[c->count++].e = *e;
		}
	}
	c->local_count = 0;
	if (v->itlb_local_count > BT_ITLB_LISTED)
		return; /* nobody knows which */
	for (uint32_t i = v->itlb_local_count; i-- > 0 && c->local_count < BT_CONTEXT_LOCAL;) {
		unsigned slot = v->itlb_local[i];
		if (!v->itlb[slot])
			continue;
		c->local[c->local_count].slot = (uint16_t)slot;
		c->local[c->local_count++].id = v->itlb[slot];
	}
}

/* A page may have got translations, and a supervisor's mode may be another, since the entries were put away. */
static void fetch_back(struct bt_vcpu *v, struct bt_context *c)
{
	for (uint32_t i = c->count; i-- > 0;) {
		struct bt_tlb_entry *e = &v->tlb[c->entry[i].mmu][c->entry[i].index];
		uint64_t listed;
		if (e->host)
			continue; /* a global one */
		listed = list_entry(v, c->entry[i].mmu, c->entry[i].index, false);
		*e = c->entry[i].e;
		e->info = (e->info & ~(uint64_t)(BT_TLB_LISTED | BT_TLB_LISTED_GLOBAL)) | listed;
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < c->count; i++) {
		struct bt_tlb_entry *e = &v->tlb[c->entry[i].mmu][c->entry[i].index];
		if (bt_page_has_code(v->vm, e->info & GUEST_PAGE_MASK))
			e->write = invalid_tag(c->entry[i].index);
	}
	for (uint32_t i = 0; i < c->local_count && v->itlb_local_count < BT_ITLB_LISTED; i++) {
		unsigned slot = c->local[i].slot;
		if (v->itlb[slot] || v->vm->cache.pages[c->local[i].id].key != v->itlb_key[slot >= BT_ITLB_ENTRIES / 2])
			continue;
		v->itlb[slot] = c->local[i].id;
		v->itlb_local[v->itlb_local_count++] = (uint16_t)slot;
	}
	c->valid = false; /* what it has is in use: it changes from here on */
	v->stats.pcid_hits++;
}

void bt_tlb_switch(struct bt_vcpu *v, unsigned from, unsigned to, bool forget_to)
{
	struct bt_context *c;

	if (forget_to)
		bt_tlb_forget(v, (int)to);
	if (from == to) {
		if (forget_to)
			bt_tlb_flush(v, false);
		return;
	}
	put_away(v, from);
	bt_tlb_flush(v, false);
	c = context_of(v, to);
	if (c)
		fetch_back(v, c);
}

/* Calls fn for every entry that may be filled. */
static void for_each_entry(struct bt_vcpu *v, void (*fn)(struct bt_tlb_entry *e, unsigned index, uint64_t arg), uint64_t arg)
{
	for (unsigned m = 0; m < BT_MMU_COUNT; m++)
		for (unsigned g = 0; g < 2; g++)
			for (uint32_t i = 0; i < v->tlb_used_count[m][g]; i++) {
				unsigned index = v->tlb_used[m][g][i];
				fn(&v->tlb[m][index], index, arg);
			}
}

static void entry_drop(struct bt_tlb_entry *e, unsigned index)
{
	uint64_t listed = e->info & (BT_TLB_LISTED | BT_TLB_LISTED_GLOBAL);

	entry_clear(e, index);
	e->info = listed;
}

/* One invlpg drops all of a large page, of up to 1 GiB. */
static void drop_large(struct bt_tlb_entry *e, unsigned index, uint64_t gva)
{
	if (e->info & BT_TLB_LARGE && -e->read >> 30 == gva >> 30)
		entry_drop(e, index);
}

void bt_tlb_flush_page(struct bt_vcpu *v, gva_t gva)
{
	unsigned index = bt_tlb_index(gva);

	v->stats.tlb_flush_page++;
	bt_slots_clear(v);
	for (unsigned m = 0; m < BT_MMU_COUNT; m++)
		if (-v->tlb[m][index].read == (gva & GUEST_PAGE_MASK))
			entry_drop(&v->tlb[m][index], index);
	bt_itlb_flush_page(v, gva);
	if (v->tlb_large_regions >> (gva >> 30 & 63) & 1) {
		for_each_entry(v, drop_large, gva);
		bt_itlb_flush(v, true);
	}
}

static void protect(struct bt_tlb_entry *e, unsigned index, uint64_t gpa)
{
	if ((e->info & GUEST_PAGE_MASK) == gpa)
		e->write = invalid_tag(index);
}

static void protect_any(struct bt_tlb_entry *e, unsigned index, uint64_t arg)
{
	(void)arg;
	e->write = invalid_tag(index);
}

void bt_tlb_protect(struct bt_vcpu *v, gpa_t gpa)
{
	bt_slots_clear(v);
	for_each_entry(v, protect, gpa);
}

void bt_tlb_protect_all(struct bt_vcpu *v)
{
	bt_slots_clear(v);
	for_each_entry(v, protect_any, 0);
}
