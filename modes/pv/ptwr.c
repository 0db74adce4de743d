/*
 * Stores to page tables: a guest maps its tables read-only, but may store to them as if they were writable, and the monitor
 * carries the store out. (Xen does so for level 1 alone. GNU Mach 1.8 stores to a table of level 2 once.) There is no second interpreter for that: the translator runs the one instruction
 * against a copy of the table, and what it changed there is then checked and counted like any update.
 */
#include "modes/pv/private.h"

bool pv_store_begin(struct pv_vcpu *p, gva_t gva)
{
	const struct cpu_state *cs = bt_monitor_state(p->v);
	const struct pv_frame *f = NULL;
	uint64_t entry = 0, *table;
	unsigned index;
	mfn_t l1, mfn = 0;

	if (!p->in_kernel)
		return false;
	pv_lock(p);
	if (pv_find_l1(p, gva, &l1, &index)) {
		entry = ((uint64_t *)(void *)pv_frame_host(p->domain, l1))[index];
		mfn = (entry & PTE_FRAME) >> GUEST_PAGE_SHIFT;
		f = entry & PTE_P && !(entry & PTE_W) ? pv_frame_of(p->domain, mfn) : NULL;
	}
	if (!f || !f->typed || !pv_is_table(f->type)) {
		pv_unlock(p);
		return false;
	}
	table = (uint64_t *)(void *)pv_frame_host(p->domain, mfn);
	memcpy(p->store->before, table, GUEST_PAGE_SIZE);
	pv_unlock(p);
	memcpy(p->store->after, p->store->before, GUEST_PAGE_SIZE);
	p->store->active = true;
	p->store->gva = gva;
	p->store->mfn = mfn;
	p->store->rip = cs->rip;
	p->store->rflags = bt_monitor_rflags(p->v);
	memcpy(p->store->gpr, cs->gpr, sizeof(cs->gpr));
	p->domain->stats.page_table_stores++;
	bt_monitor_redirect(p->v, gva, (uint8_t *)p->store->after);
	return true;
}

void pv_store_drop(struct pv_vcpu *p)
{
	p->store->active = false;
	bt_monitor_redirect_end(p->v);
}

/*
 * Another vCPU, or a page walk that sets A and D, may have changed the entry since: A and D that came meanwhile are kept
 * where the store did not mean them; any other change is as if it had come right behind this instruction's store.
 */
static int commit(struct pv_vcpu *p, unsigned index)
{
	const uint64_t *table = (const uint64_t *)(const void *)pv_frame_host(p->domain, p->store->mfn);
	uint64_t before = p->store->before[index], after = p->store->after[index], came = table[index] & ~before & (PTE_A | PTE_D);

	if (after & PTE_P && !((before ^ after) & PTE_FRAME))
		after |= came;
	return pv_set_entry(p, p->store->mfn, index, after, false);
}

/* The instruction has not been. */
static void undo(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	memcpy(cs->gpr, p->store->gpr, sizeof(cs->gpr));
	cs->rip = p->store->rip;
	bt_monitor_set_rflags(p->v, p->store->rflags);
}

bool pv_store_end(struct pv_vcpu *p)
{
	const struct pv_frame *f;
	int rc = 0;

	pv_store_drop(p);
	pv_lock(p);
	f = pv_frame_of(p->domain, p->store->mfn);
	if (!f || !f->typed || !pv_is_table(f->type))
		rc = -XEN_EINVAL;
	for (unsigned i = 0; !rc && i < 512; i++)
		if (p->store->before[i] != p->store->after[i])
			rc = commit(p, i);
	pv_unlock(p);
	if (rc)
		undo(p);
	return !rc;
}
