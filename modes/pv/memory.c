/* What a guest asks of its memory, its grant table, and of devices that it does not have (memory.h, grant_table.h, physdev.h). */
#include "modes/pv/private.h"

/* ---- reservation: the domain's lock is held -------------------------------------------- */

static mfn_t take(struct pv_domain *d)
{
	if (d->pages >= d->max_pages)
		return MFN_NONE;
	for (mfn_t i = 0; i < d->frames; i++) {
		mfn_t mfn = d->free_hint + i < d->frames ? d->free_hint + i : d->free_hint + i - d->frames;

		if (!d->frame[mfn].free)
			continue;
		d->frame[mfn] = (struct pv_frame){.guest = true};
		memset(pv_frame_host(d, mfn), 0, GUEST_PAGE_SIZE);
		d->free_hint = mfn;
		d->pages++;
		return mfn;
	}
	return MFN_NONE;
}

static bool one_extent(struct pv_vcpu *p, unsigned cmd, gva_t at)
{
	struct pv_domain *d = p->domain;
	uint64_t frame;
	mfn_t mfn;
	bool ok;

	if (!bt_monitor_read(p->v, at, &frame, sizeof(frame)))
		return false;
	pv_lock(p);
	if (cmd == XENMEM_decrease_reservation) {
		ok = !pv_give_up(d, frame);
		pv_unlock(p);
		return ok;
	}
	mfn = take(d);
	if (mfn != MFN_NONE)
		d->m2p[mfn] = cmd == XENMEM_populate_physmap ? frame : ~0ull;
	pv_unlock(p);
	if (mfn == MFN_NONE)
		return false;
	bt_monitor_written(p->v, mfn << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
	return bt_monitor_write(p->v, at, &mfn, sizeof(mfn));
}

/* How many were done: single frames; there is no promise of runs of them. */
static long reservation(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	struct xen_memory_reservation r;
	uint64_t i;

	if (!bt_monitor_read(p->v, arg, &r, sizeof(r)))
		return -XEN_EFAULT;
	if (r.domid != DOMID_SELF && r.domid != PV_DOMAIN_ID)
		return -XEN_ESRCH;
	if (r.extent_order)
		return 0;
	if (cmd == XENMEM_increase_reservation && !r.extent_start.p)
		return 0;
	for (i = 0; i < r.nr_extents && i < p->domain->frames; i++)
		if (!one_extent(p, cmd, (gva_t)(uintptr_t)r.extent_start.p + i * sizeof(xen_pfn_t)))
			break;
	return (long)i;
}

/* ---- maps --------------------------------------------------------------------------------- */

struct e820_entry {
	uint64_t address, bytes;
	uint32_t type;
} __attribute__((packed));

static long memory_map(struct pv_vcpu *p, gva_t arg)
{
	const struct e820_entry ram = {0, p->domain->max_pages << GUEST_PAGE_SHIFT, 1};
	struct xen_memory_map m;

	if (!bt_monitor_read(p->v, arg, &m, sizeof(m)))
		return -XEN_EFAULT;
	if (m.nr_entries && !bt_monitor_write(p->v, (gva_t)(uintptr_t)m.buffer.p, &ram, sizeof(ram)))
		return -XEN_EFAULT;
	m.nr_entries = m.nr_entries ? 1 : 0;
	return bt_monitor_write(p->v, arg, &m, sizeof(m)) ? 0 : -XEN_EFAULT;
}

static long machphys_mapping(struct pv_vcpu *p, gva_t arg)
{
	const struct xen_machphys_mapping m = {MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_START + p->domain->m2p_bytes, p->domain->frames - 1};

	return bt_monitor_write(p->v, arg, &m, sizeof(m)) ? 0 : -XEN_EFAULT;
}

static long of_self(struct pv_vcpu *p, gva_t arg, uint64_t value)
{
	domid_t domain;

	if (!bt_monitor_read(p->v, arg, &domain, sizeof(domain)))
		return -XEN_EFAULT;
	return domain == DOMID_SELF || domain == PV_DOMAIN_ID ? (long)value : -XEN_ESRCH;
}

long pv_memory_op(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	const struct pv_domain *d = p->domain;

	switch (cmd & 0x3f) {
	case XENMEM_increase_reservation:
	case XENMEM_decrease_reservation:
	case XENMEM_populate_physmap: return reservation(p, cmd & 0x3f, arg);
	case XENMEM_maximum_ram_page: return (long)d->frames - 1;
	case XENMEM_current_reservation: return of_self(p, arg, d->pages);
	case XENMEM_maximum_reservation: return of_self(p, arg, d->max_pages);
	case XENMEM_maximum_gpfn: return of_self(p, arg, d->shared->arch.max_pfn);
	case XENMEM_memory_map: return memory_map(p, arg);
	case XENMEM_machphys_mapping: return machphys_mapping(p, arg);
	case XENMEM_machine_memory_map:
	case XENMEM_set_memory_map: return -XEN_EPERM;
	default: return -XEN_ENOSYS;
	}
}

/* ---- grant table: version 1, read by our back ends --------------------------------------------- */

static long grant_setup(struct pv_vcpu *p, gva_t arg)
{
	struct pv_domain *d = p->domain;
	struct gnttab_setup_table s;

	if (!bt_monitor_read(p->v, arg, &s, sizeof(s)))
		return -XEN_EFAULT;
	s.status = GNTST_okay;
	pv_lock(p);
	if (s.dom != DOMID_SELF && s.dom != PV_DOMAIN_ID)
		s.status = GNTST_bad_domain;
	else if (s.nr_frames > PV_GRANT_FRAMES)
		s.status = GNTST_general_error;
	for (unsigned i = d->grants.frames; s.status == GNTST_okay && i < s.nr_frames; i++) {
		d->grants.frame[i] = pv_pool_take(d, true);
		d->grants.frames = i + 1;
	}
	pv_unlock(p);
	for (unsigned i = 0; s.status == GNTST_okay && i < s.nr_frames; i++)
		if (!bt_monitor_write(p->v, (gva_t)(uintptr_t)(s.frame_list.p + i), &d->grants.frame[i], sizeof(mfn_t)))
			return -XEN_EFAULT;
	return bt_monitor_write(p->v, arg, &s, sizeof(s)) ? 0 : -XEN_EFAULT;
}

static long grant_size(struct pv_vcpu *p, gva_t arg)
{
	struct gnttab_query_size q;

	if (!bt_monitor_read(p->v, arg, &q, sizeof(q)))
		return -XEN_EFAULT;
	q.status = q.dom == DOMID_SELF || q.dom == PV_DOMAIN_ID ? GNTST_okay : GNTST_bad_domain;
	q.nr_frames = p->domain->grants.frames;
	q.max_nr_frames = PV_GRANT_FRAMES;
	return bt_monitor_write(p->v, arg, &q, sizeof(q)) ? 0 : -XEN_EFAULT;
}

static long grant_version(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	struct gnttab_set_version set;
	struct gnttab_get_version get;

	if (cmd == GNTTABOP_get_version) {
		if (!bt_monitor_read(p->v, arg, &get, sizeof(get)))
			return -XEN_EFAULT;
		if (get.dom != DOMID_SELF && get.dom != PV_DOMAIN_ID)
			return -XEN_ESRCH;
		get.version = 1;
		return bt_monitor_write(p->v, arg, &get, sizeof(get)) ? 0 : -XEN_EFAULT;
	}
	if (!bt_monitor_read(p->v, arg, &set, sizeof(set)))
		return -XEN_EFAULT;
	if (set.version != 1)
		return set.version == 2 ? -XEN_ENOSYS : -XEN_EINVAL;
	return 0;
}

long pv_grant_op(struct pv_vcpu *p, unsigned cmd, gva_t arg, unsigned count)
{
	switch (cmd) {
	case GNTTABOP_setup_table: return count == 1 ? grant_setup(p, arg) : count ? -XEN_EINVAL : 0;
	case GNTTABOP_query_size: return count == 1 ? grant_size(p, arg) : -XEN_EINVAL;
	case GNTTABOP_set_version:
	case GNTTABOP_get_version: return count == 1 ? grant_version(p, cmd, arg) : -XEN_EINVAL;
	default: return -XEN_ENOSYS; /* mapping what others grant: there are no others */
	}
}

/* ---- physical devices ------------------------------------------------------------------------------ */

long pv_physdev_op(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	struct physdev_set_iopl iopl;

	switch (cmd) {
	case PHYSDEVOP_set_iopl:
		if (!bt_monitor_read(p->v, arg, &iopl, sizeof(iopl)))
			return -XEN_EFAULT;
		return iopl.iopl > 3 ? -XEN_EINVAL : 0; /* behind every port is nothing anyhow */
	case PHYSDEVOP_set_iobitmap: return 0;
	default: return -XEN_ENOSYS;
	}
}
