/* What the machine's Xen devices (machine/xen) need of the domain: granted pages, event channels, the store. */
#include <errno.h>

#include "machine/xen/xen.h"
#include "modes/pv/private.h"
#include "modes/pv/store.h"

#define ENTRIES_IN_FRAME (GUEST_PAGE_SIZE / sizeof(grant_entry_v1_t))

/* ---- grants (grant_table.h, version 1): under the domain's lock ------------------------------ */

static grant_entry_v1_t *entry_of(const struct pv_domain *d, uint32_t reference)
{
	if (reference >= d->grants.frames * ENTRIES_IN_FRAME)
		return NULL;
	return (grant_entry_v1_t *)(void *)pv_frame_host(d, d->grants.frame[reference / ENTRIES_IN_FRAME]) + reference % ENTRIES_IN_FRAME;
}

/* Marks it in use, so that its guest cannot end it; what it grants is read once it is. False: it is no such grant. */
static bool begin_use(grant_entry_v1_t *entry, bool write, mfn_t *ret_mfn)
{
	uint32_t head = __atomic_load_n((uint32_t *)(void *)entry, __ATOMIC_ACQUIRE); /* flags and domain together */

	for (;;) {
		uint16_t flags = (uint16_t)head;

		if ((flags & GTF_type_mask) != GTF_permit_access || flags & GTF_sub_page || head >> 16 != 0 || (write && flags & GTF_readonly))
			return false;
		if (__atomic_compare_exchange_n((uint32_t *)(void *)entry, &head, head | GTF_reading | (write ? GTF_writing : 0u), false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			break;
	}
	*ret_mfn = __atomic_load_n(&entry->frame, __ATOMIC_ACQUIRE);
	return true;
}

/* As many of the marks as nobody needs any more. */
static void end_use(grant_entry_v1_t *entry, const struct pv_grant_uses *uses)
{
	uint16_t marks = (uint16_t)((uses->writers ? 0 : GTF_writing) | (uses->all ? 0 : GTF_reading));

	__atomic_fetch_and(&entry->flags, (uint16_t)~marks, __ATOMIC_SEQ_CST);
}

static int map_locked(struct pv_domain *d, uint32_t reference, bool write, struct xen_page *ret_page)
{
	grant_entry_v1_t *entry = entry_of(d, reference);
	struct pv_grant_uses *uses = &d->grants.uses[reference];
	struct pv_vcpu *any = d->vcpu[0];
	mfn_t mfn;
	int rc;

	if (!entry)
		return -EINVAL;
	if (uses->all == UINT16_MAX)
		return -ENOSPC;
	if (!begin_use(entry, write, &mfn))
		return -EINVAL;
	/* A page that we write to is none that the guest's page tables are in, for as long as we do. */
	rc = write ? pv_get_typed(any, mfn, PV_TYPE_WRITABLE) : pv_get_frame(any, mfn);
	if (rc) {
		end_use(entry, uses);
		return -EINVAL;
	}
	uses->all++;
	uses->writers = (uint16_t)(uses->writers + write);
	*ret_page = (struct xen_page){
		.host = pv_frame_host(d, mfn), .gpa = mfn << GUEST_PAGE_SHIFT, .reference = reference, .writable = write};
	return 0;
}

static int map(void *opaque, uint32_t reference, bool write, struct xen_page *ret_page)
{
	struct pv_domain *d = opaque;
	int rc;

	pv_lock_outside(d);
	rc = map_locked(d, reference, write, ret_page);
	pv_unlock_outside(d);
	return rc;
}

static void unmap(void *opaque, const struct xen_page *page)
{
	struct pv_domain *d = opaque;
	struct pv_grant_uses *uses = &d->grants.uses[page->reference];
	mfn_t mfn = page->gpa >> GUEST_PAGE_SHIFT;

	pv_lock_outside(d);
	uses->all--;
	uses->writers = (uint16_t)(uses->writers - page->writable);
	if (page->writable)
		pv_put_typed(d->vcpu[0], mfn);
	else
		pv_put_frame(d, mfn);
	end_use(entry_of(d, page->reference), uses);
	pv_unlock_outside(d);
}

static void written(void *opaque, const struct xen_page *page)
{
	struct pv_domain *d = opaque;

	machine_dma_written(d->machine, page->gpa, GUEST_PAGE_SIZE);
}

/* ---- event channels, the store -------------------------------------------------------------------- */

static int bind(void *opaque, uint32_t port, void (*notify)(void *opaque), void *notify_opaque)
{
	return pv_event_bind(opaque, port, notify, notify_opaque) ? 0 : -EINVAL;
}

static void unbind(void *opaque, uint32_t port, void *notify_opaque) { pv_event_unbind(opaque, port, notify_opaque); }

static void raise_event(void *opaque, uint32_t port, void *notify_opaque)
{
	struct pv_domain *d = opaque;

	/* One that the guest has closed and made something else of is not ours; it may know its own events from spurious ones. */
	if (d->port[port].state == EVTCHNSTAT_interdomain && d->port[port].opaque == notify_opaque)
		pv_event_raise(d, port);
}

static int set(void *opaque, const char *path, bool guest_owns, const char *value)
{
	const struct pv_domain *d = opaque;

	return pv_store_set(d->xenstore, path, guest_owns, "%s", value);
}

static char *get(void *opaque, const char *path)
{
	const struct pv_domain *d = opaque;

	return pv_store_get(d->xenstore, path);
}

static int watch(void *opaque, const char *path, void (*fn)(void *opaque, const char *path), void *fn_opaque)
{
	const struct pv_domain *d = opaque;

	return pv_store_watch(d->xenstore, path, fn, fn_opaque);
}

int pv_devices_start(struct pv_domain *d)
{
	const struct xen_host host = {.opaque = d, .map = map, .written = written, .unmap = unmap, .bind = bind, .unbind = unbind,
				      .raise = raise_event, .set = set, .get = get, .watch = watch};

	free(d->grants.uses);
	d->grants.uses = calloc(PV_GRANT_FRAMES * ENTRIES_IN_FRAME, sizeof(d->grants.uses[0]));
	return d->grants.uses ? machine_xen_start(d->machine, &host) : -ENOMEM;
}
