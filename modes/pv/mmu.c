/*
 * Page tables of a guest that sees machine frames: every frame has a count of uses and, while somebody needs it, one type;
 * a table's type stands for its entries' having been checked and counted. So a table is never writable to its guest, and
 * no entry names a frame that is not the domain's. (The rules are Xen's: xen.h says what mmu_update and mmuext_op do.)
 */
#include "modes/pv/private.h"

#define ENTRIES 512u
/* Of entries at each level: what a guest may not set. Bits 52..58 of level 1 are its own; protection keys are not offered. */
#define DISALLOWED_L1 (0x180ull & ~0x180ull)
#define DISALLOWED_UPPER PTE_PS
#define RESERVED 0x000ff00000000000ull /* beyond any frame of ours; checked through the frame too */

uint8_t *pv_frame_host(const struct pv_domain *d, mfn_t mfn)
{
	gpa_t gpa = mfn << GUEST_PAGE_SHIFT;

	for (unsigned i = 0; i < d->regions; i++)
		if (gpa - d->region[i].gpa < d->region[i].bytes)
			return d->region[i].host + (gpa - d->region[i].gpa);
	return NULL;
}

mfn_t pv_pool_take(struct pv_domain *d, bool shared)
{
	mfn_t mfn = d->pool_next++;

	BUG_ON(mfn >= d->pool_end);
	memset(pv_frame_host(d, mfn), 0, GUEST_PAGE_SIZE);
	d->frame[mfn] = (struct pv_frame){.guest = shared, .shared = shared};
	return mfn;
}

static uint64_t *table_of(const struct pv_domain *d, mfn_t mfn) { return (uint64_t *)(void *)pv_frame_host(d, mfn); }
static mfn_t frame_in(uint64_t entry) { return (entry & PTE_FRAME) >> GUEST_PAGE_SHIFT; }

/* ---- counts ------------------------------------------------------------------------------- */

int pv_get_frame(struct pv_vcpu *p, mfn_t mfn)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);

	if (!f)
		return -XEN_EINVAL;
	if (f->uses == UINT32_MAX)
		return -XEN_EBUSY;
	f->uses++;
	return 0;
}

static void let_go(struct pv_domain *d, struct pv_frame *f)
{
	*f = (struct pv_frame){.free = true};
	d->pages--;
}

void pv_put_frame(struct pv_domain *d, mfn_t mfn)
{
	struct pv_frame *f = pv_frame_of(d, mfn);

	BUG_ON(!f || !f->uses);
	if (--f->uses == 0 && f->given_up)
		let_go(d, f);
}

int pv_give_up(struct pv_domain *d, mfn_t mfn)
{
	struct pv_frame *f = pv_frame_of(d, mfn);

	if (!f || f->shared || f->given_up)
		return -XEN_EINVAL;
	d->m2p[mfn] = ~0ull;
	f->given_up = true;
	if (!f->uses)
		let_go(d, f);
	return 0;
}

/* ---- entries --------------------------------------------------------------------------------- */

int pv_get_l1e(struct pv_vcpu *p, uint64_t entry)
{
	if (!(entry & PTE_P))
		return 0;
	if (entry & RESERVED)
		return -XEN_EINVAL;
	if (entry & PTE_W)
		return pv_get_typed(p, frame_in(entry), PV_TYPE_WRITABLE);
	return pv_get_frame(p, frame_in(entry));
}

void pv_put_l1e(struct pv_vcpu *p, uint64_t entry)
{
	if (!(entry & PTE_P))
		return;
	if (entry & PTE_W)
		pv_put_typed(p, frame_in(entry));
	else
		pv_put_frame(p->domain, frame_in(entry));
}

/*
 * What becomes of a guest's entry. Its kernel runs at privilege 3 too, so everything is for privilege 3; mappings that were
 * not are marked, and stay out of what survives a switch between the guest's kernel and user.
 */
static uint64_t adjust(uint64_t entry, unsigned level)
{
	if (!(entry & PTE_P))
		return entry;
	if (level > 1)
		return entry | PTE_U;
	if (!(entry & PTE_U))
		entry |= PV_PTE_GUEST_KERNEL;
	if (!(entry & PV_PTE_GUEST_KERNEL))
		entry |= PTE_G;
	else
		entry &= ~PTE_G;
	return entry | PTE_U;
}

static int get_entry(struct pv_vcpu *p, uint64_t entry, unsigned level)
{
	if (level == 1)
		return pv_get_l1e(p, entry);
	if (!(entry & PTE_P))
		return 0;
	if (entry & (RESERVED | DISALLOWED_UPPER))
		return -XEN_EINVAL;
	return pv_get_typed(p, frame_in(entry), (enum pv_type)(PV_TYPE_L1 + level - 2));
}

static void put_entry(struct pv_vcpu *p, uint64_t entry, unsigned level)
{
	if (level == 1)
		pv_put_l1e(p, entry);
	else if (entry & PTE_P)
		pv_put_typed(p, frame_in(entry));
}

static bool reserved_slot(unsigned level, unsigned index)
{
	return level == 4 && index >= PV_SLOT_FIRST && index <= PV_SLOT_LAST;
}

void pv_fill_root(struct pv_domain *d, mfn_t mfn)
{
	uint64_t *t = table_of(d, mfn);

	for (unsigned i = PV_SLOT_FIRST; i <= PV_SLOT_LAST; i++)
		t[i] = 0;
	t[PV_SLOT_M2P] = d->m2p_l3 << GUEST_PAGE_SHIFT | PTE_P | PTE_U | PTE_A;
	t[PV_SLOT_TABLES] = d->tables_l3 << GUEST_PAGE_SHIFT | PTE_P | PTE_W | PTE_A;
}

static void drop_entries(struct pv_vcpu *p, mfn_t mfn, unsigned level, unsigned n)
{
	uint64_t *t = table_of(p->domain, mfn);

	for (unsigned i = 0; i < n; i++)
		if (!reserved_slot(level, i))
			put_entry(p, t[i], level);
}

/* The frame's type is the table's already, so that it cannot become writable meanwhile. */
static int validate_table(struct pv_vcpu *p, mfn_t mfn, unsigned level)
{
	uint64_t *t = table_of(p->domain, mfn);
	int rc = 0;

	for (unsigned i = 0; i < ENTRIES; i++) {
		if (reserved_slot(level, i) || !(t[i] & PTE_P))
			continue;
		uint64_t entry = adjust(t[i], level);

		rc = get_entry(p, entry, level);
		if (rc) {
			drop_entries(p, mfn, level, i);
			return rc;
		}
		if (entry != t[i])
			t[i] = entry;
	}
	if (level == 4)
		pv_fill_root(p->domain, mfn);
	return 0;
}

static int validate_descriptors(struct pv_vcpu *p, mfn_t mfn)
{
	uint64_t *t = table_of(p->domain, mfn);

	for (unsigned i = 0; i < ENTRIES; i++)
		if (!pv_descriptor_ok(&t[i]))
			return -XEN_EINVAL;
	return 0;
}

/* ---- types -------------------------------------------------------------------------------------- */

static int become(struct pv_vcpu *p, mfn_t mfn, struct pv_frame *f, enum pv_type type)
{
	int rc = 0;

	if (f->shared && type != PV_TYPE_WRITABLE)
		return -XEN_EINVAL;
	/* Who could write to it may still do so through what is cached. */
	if (f->type == PV_TYPE_WRITABLE && type != PV_TYPE_WRITABLE)
		bt_monitor_protect(p->v, mfn << GUEST_PAGE_SHIFT);
	f->type = (uint8_t)type;
	f->typed = 1;
	if (pv_is_table(type))
		rc = validate_table(p, mfn, type - PV_TYPE_L1 + 1);
	else if (type == PV_TYPE_SEGDESC)
		rc = validate_descriptors(p, mfn);
	if (rc) {
		f->typed = 0;
		f->type = PV_TYPE_NONE;
	}
	return rc;
}

int pv_get_typed(struct pv_vcpu *p, mfn_t mfn, enum pv_type type)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);
	int rc = pv_get_frame(p, mfn);

	if (rc)
		return rc;
	if (f->typed && f->type != type)
		rc = -XEN_EINVAL;
	else if (f->typed)
		f->typed++;
	else
		rc = become(p, mfn, f, type);
	if (rc)
		pv_put_frame(p->domain, mfn);
	return rc;
}

void pv_put_typed(struct pv_vcpu *p, mfn_t mfn)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);

	BUG_ON(!f || !f->typed);
	if (f->typed == 1 && pv_is_table(f->type)) {
		unsigned level = f->type - PV_TYPE_L1 + 1u;
		uint64_t *t = table_of(p->domain, mfn);

		drop_entries(p, mfn, level, ENTRIES);
		/* What a guest finds in a former top-level table is what it put there. */
		for (unsigned i = PV_SLOT_FIRST; level == 4 && i <= PV_SLOT_LAST; i++)
			t[i] = 0;
	}
	f->typed--;
	pv_put_frame(p->domain, mfn);
}

/* ---- changing an entry ----------------------------------------------------------------------------- */

#define AD (PTE_A | PTE_D)

/* Page walks set A and D meanwhile, atomically. */
static void store_entry(uint64_t *at, uint64_t value, bool keep_ad)
{
	uint64_t old = __atomic_load_n(at, __ATOMIC_RELAXED);

	if (!keep_ad) {
		__atomic_store_n(at, value, __ATOMIC_SEQ_CST);
		return;
	}
	while (!__atomic_compare_exchange_n(at, &old, value | (old & AD), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}

/* Same frame, same rights: nothing to count. */
static bool same_use(uint64_t a, uint64_t b, unsigned level)
{
	uint64_t matters = PTE_FRAME | PTE_P | (level == 1 ? PTE_W : DISALLOWED_UPPER);

	return !((a ^ b) & matters) && !(b & RESERVED);
}

int pv_set_entry(struct pv_vcpu *p, mfn_t table, unsigned index, uint64_t value, bool keep_ad)
{
	struct pv_frame *f = pv_frame_of(p->domain, table);
	uint64_t *at = table_of(p->domain, table) + index, old = *at;
	unsigned level;
	int rc;

	if (!f || !f->typed || !pv_is_table(f->type))
		return -XEN_EINVAL;
	level = f->type - PV_TYPE_L1 + 1u;
	if (reserved_slot(level, index))
		return -XEN_EINVAL;
	value = adjust(value, level);
	if (!same_use(old, value, level)) {
		rc = get_entry(p, value, level);
		if (rc)
			return rc;
		store_entry(at, value, keep_ad);
		put_entry(p, old, level);
	} else {
		store_entry(at, value, keep_ad);
	}
	bt_monitor_written(p->v, table << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
	return 0;
}

bool pv_find_l1(struct pv_vcpu *p, gva_t gva, mfn_t *ret_table, unsigned *ret_index)
{
	mfn_t table = p->kernel_root;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t entry = table_of(p->domain, table)[gva >> shift & 511];

		if (!(entry & PTE_P) || entry & PTE_PS || (shift == 39 && reserved_slot(4, gva >> 39 & 511)))
			return false;
		table = frame_in(entry);
	}
	*ret_table = table;
	*ret_index = gva >> 12 & 511;
	return true;
}

/* ---- HYPERVISOR_mmu_update --------------------------------------------------------------------------- */

static int update_m2p(struct pv_vcpu *p, mfn_t mfn, uint64_t pfn)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);

	if (!f || f->shared)
		return -XEN_EINVAL;
	p->domain->m2p[mfn] = pfn;
	return 0;
}

/* A table's entry, or eight bytes of any other page of the domain's. */
static int update_one(struct pv_vcpu *p, uint64_t ptr, uint64_t value)
{
	mfn_t mfn = (ptr & ~7ull) >> GUEST_PAGE_SHIFT;
	struct pv_frame *f = pv_frame_of(p->domain, mfn);
	unsigned index = ptr >> 3 & 511, kind = ptr & 3;
	int rc;

	if (kind == MMU_MACHPHYS_UPDATE)
		return update_m2p(p, mfn, value);
	if (!f || ptr & 4)
		return -XEN_EINVAL;
	if (f->typed && pv_is_table(f->type))
		return pv_set_entry(p, mfn, index, value, kind == MMU_PT_UPDATE_PRESERVE_AD);
	rc = pv_get_typed(p, mfn, PV_TYPE_WRITABLE);
	if (rc)
		return rc;
	__atomic_store_n(table_of(p->domain, mfn) + index, value, __ATOMIC_SEQ_CST);
	bt_monitor_written(p->v, mfn << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
	pv_put_typed(p, mfn);
	return 0;
}

static long write_done(struct pv_vcpu *p, gva_t done, uint32_t count, long rc)
{
	if (done && !bt_monitor_write(p->v, done, &count, sizeof(count)))
		return -XEN_EFAULT;
	return rc;
}

static bool is_self(uint64_t domain) { return (domain & 0xffff) == DOMID_SELF || (domain & 0xffff) == 0; }

long pv_mmu_update(struct pv_vcpu *p, gva_t requests, uint64_t count, gva_t done, uint64_t domain)
{
	uint32_t i;
	long rc = 0;

	/* Its upper half may name whose tables these are: those of a guest that somebody builds. */
	if (!is_self(domain) || domain >> 16)
		return -XEN_ESRCH;
	for (i = 0; i < (uint32_t)count; i++) {
		struct mmu_update u;

		if (!bt_monitor_read(p->v, requests + i * sizeof(u), &u, sizeof(u))) {
			rc = -XEN_EFAULT;
			break;
		}
		pv_lock(p);
		rc = update_one(p, u.ptr, u.val);
		pv_unlock(p);
		p->domain->stats.mmu_updates++;
		if (rc)
			break;
	}
	return write_done(p, done, i, rc);
}

/* ---- HYPERVISOR_update_va_mapping ------------------------------------------------------------------------ */

/* The vCPUs that a flag word means: a bitmap in the guest's memory, or all. */
static int flush_mask(struct pv_vcpu *p, gva_t bitmap, uint64_t *ret_mask)
{
	*ret_mask = 0;
	if (!bt_monitor_read(p->v, bitmap, ret_mask, (p->domain->vcpus + 7) / 8))
		return -XEN_EFAULT;
	return 0;
}

static void flush_vcpus(struct pv_vcpu *p, uint64_t mask)
{
	if (mask >> p->index & 1)
		bt_monitor_flush(p->v, BT_SPACE_USER | BT_SPACE_KERNEL);
	mask &= ((1ull << p->domain->vcpus) - 1) & ~(1ull << p->index);
	if (mask)
		bt_monitor_flush_others(p->v, mask);
}

static int flush_after(struct pv_vcpu *p, gva_t gva, uint64_t flags)
{
	uint64_t kind = flags & UVMF_FLUSHTYPE_MASK, where = flags & ~UVMF_FLUSHTYPE_MASK, mask = 1ull << p->index;
	int rc = 0;

	if (kind != UVMF_TLB_FLUSH && kind != UVMF_INVLPG)
		return 0;
	if (where == UVMF_ALL)
		mask = ~0ull;
	else if (where != UVMF_LOCAL)
		rc = flush_mask(p, where, &mask);
	if (rc)
		return rc;
	if (kind == UVMF_INVLPG && mask >> p->index & 1) {
		bt_monitor_flush_page(p->v, gva);
		mask &= ~(1ull << p->index);
	}
	flush_vcpus(p, mask);
	return 0;
}

long pv_update_va_mapping(struct pv_vcpu *p, gva_t gva, uint64_t entry, uint64_t flags)
{
	unsigned index;
	mfn_t table;
	int rc = -XEN_EINVAL;

	pv_lock(p);
	if (pv_find_l1(p, gva, &table, &index))
		rc = pv_set_entry(p, table, index, entry, false);
	pv_unlock(p);
	if (!rc)
		rc = flush_after(p, gva, flags);
	return rc;
}

long pv_update_va_mapping_other(struct pv_vcpu *p, gva_t gva, uint64_t entry, uint64_t flags, uint64_t domain)
{
	return is_self(domain) ? pv_update_va_mapping(p, gva, entry, flags) : -XEN_ESRCH;
}

/* ---- HYPERVISOR_mmuext_op ----------------------------------------------------------------------------------- */

static int pin(struct pv_vcpu *p, mfn_t mfn, enum pv_type type)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);
	int rc = pv_get_typed(p, mfn, type);

	if (rc)
		return rc;
	if (f->pinned) {
		pv_put_typed(p, mfn);
		return -XEN_EINVAL;
	}
	f->pinned = true;
	return 0;
}

static int unpin(struct pv_vcpu *p, mfn_t mfn)
{
	struct pv_frame *f = pv_frame_of(p->domain, mfn);

	if (!f || !f->pinned)
		return -XEN_EINVAL;
	f->pinned = false;
	pv_put_typed(p, mfn);
	return 0;
}

void pv_load_root(struct pv_vcpu *p)
{
	bt_monitor_state(p->v)->cr3 = (p->in_kernel ? p->kernel_root : p->user_root) << GUEST_PAGE_SHIFT;
}

static int new_root(struct pv_vcpu *p, mfn_t mfn, bool user)
{
	mfn_t *root = user ? &p->user_root : &p->kernel_root, old = *root;
	int rc = 0;

	if (mfn || !user) /* no table at all is one that no user code can run on */
		rc = pv_get_typed(p, mfn, PV_TYPE_L4);
	if (rc)
		return rc;
	*root = mfn;
	if (old)
		pv_put_typed(p, old);
	pv_load_root(p);
	bt_monitor_flush(p->v, user ? BT_SPACE_USER : BT_SPACE_KERNEL);
	return 0;
}

static int clear_or_copy(struct pv_vcpu *p, mfn_t to, mfn_t from, bool copy)
{
	int rc = copy ? pv_get_frame(p, from) : 0;

	if (rc)
		return rc;
	rc = pv_get_typed(p, to, PV_TYPE_WRITABLE);
	if (!rc) {
		if (copy)
			memmove(pv_frame_host(p->domain, to), pv_frame_host(p->domain, from), GUEST_PAGE_SIZE);
		else
			memset(pv_frame_host(p->domain, to), 0, GUEST_PAGE_SIZE);
		bt_monitor_written(p->v, to << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
		pv_put_typed(p, to);
	}
	if (copy)
		pv_put_frame(p->domain, from);
	return rc;
}

/* Those that change counts, under the lock. */
static int ext_locked(struct pv_vcpu *p, const struct mmuext_op *op)
{
	switch (op->cmd) {
	case MMUEXT_PIN_L1_TABLE: return pin(p, op->arg1.mfn, PV_TYPE_L1);
	case MMUEXT_PIN_L2_TABLE: return pin(p, op->arg1.mfn, PV_TYPE_L2);
	case MMUEXT_PIN_L3_TABLE: return pin(p, op->arg1.mfn, PV_TYPE_L3);
	case MMUEXT_PIN_L4_TABLE: return pin(p, op->arg1.mfn, PV_TYPE_L4);
	case MMUEXT_UNPIN_TABLE: return unpin(p, op->arg1.mfn);
	case MMUEXT_NEW_BASEPTR: return new_root(p, op->arg1.mfn, false);
	case MMUEXT_NEW_USER_BASEPTR: return new_root(p, op->arg1.mfn, true);
	case MMUEXT_SET_LDT: return pv_set_ldt(p, op->arg1.linear_addr, op->arg2.nr_ents);
	case MMUEXT_CLEAR_PAGE: return clear_or_copy(p, op->arg1.mfn, 0, false);
	case MMUEXT_COPY_PAGE: return clear_or_copy(p, op->arg1.mfn, op->arg2.src_mfn, true);
	default: return -XEN_ENOSYS;
	}
}

int pv_mmuext_one(struct pv_vcpu *p, const struct mmuext_op *op)
{
	uint64_t mask = ~0ull;
	int rc = 0;

	switch (op->cmd) {
	case MMUEXT_TLB_FLUSH_LOCAL: bt_monitor_flush(p->v, BT_SPACE_USER | BT_SPACE_KERNEL); return 0;
	case MMUEXT_INVLPG_LOCAL: bt_monitor_flush_page(p->v, op->arg1.linear_addr); return 0;
	case MMUEXT_TLB_FLUSH_MULTI:
	case MMUEXT_INVLPG_MULTI:
		rc = flush_mask(p, (gva_t)(uintptr_t)op->arg2.vcpumask.p, &mask);
		if (rc)
			return rc;
		break;
	case MMUEXT_TLB_FLUSH_ALL:
	case MMUEXT_INVLPG_ALL: break;
	case MMUEXT_FLUSH_CACHE: return 0; /* guest memory is coherent */
	case MMUEXT_FLUSH_CACHE_GLOBAL: return -XEN_EINVAL; /* for who has devices */
	default:
		pv_lock(p);
		rc = ext_locked(p, op);
		pv_unlock(p);
		return rc;
	}
	if ((op->cmd == MMUEXT_INVLPG_MULTI || op->cmd == MMUEXT_INVLPG_ALL) && mask >> p->index & 1) {
		bt_monitor_flush_page(p->v, op->arg1.linear_addr);
		mask &= ~(1ull << p->index);
	}
	flush_vcpus(p, mask);
	return 0;
}

long pv_mmuext_op(struct pv_vcpu *p, gva_t ops, uint64_t count, gva_t done, uint64_t domain)
{
	uint32_t i;
	long rc = 0;

	if (!is_self(domain))
		return (domain & 0xffff) == DOMID_IO || (domain & 0xffff) == DOMID_XEN ? -XEN_EPERM : -XEN_ESRCH;
	for (i = 0; i < (uint32_t)count; i++) {
		struct mmuext_op op;

		if (!bt_monitor_read(p->v, ops + i * sizeof(op), &op, sizeof(op))) {
			rc = -XEN_EFAULT;
			break;
		}
		rc = pv_mmuext_one(p, &op);
		if (rc)
			break;
	}
	return write_done(p, done, i, rc);
}
