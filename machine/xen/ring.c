/* Rings of requests and responses, from the back end's side (io/ring.h). */
#include "machine/xen/ring.h"

#include <errno.h>
#include <string.h>

#include "machine/xen/abi.h"

#define HEADER_BYTES offsetof(struct blkif_sring, ring) /* of any ring */
_Static_assert(HEADER_BYTES == 64 && HEADER_BYTES == offsetof(struct netif_tx_sring, ring), "one header for all");

/* The first page's head. */
static struct blkif_sring *head(const struct xen_ring *ring) { return (struct blkif_sring *)(void *)ring->page[0].host; }

static uint32_t load(const uint32_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }

void xen_ring_disconnect(struct xen_ring *ring, const struct xen_host *host)
{
	while (ring->pages)
		host->unmap(host->opaque, &ring->page[--ring->pages]);
}

int xen_ring_connect(struct xen_ring *ring, const struct xen_host *host, const uint32_t *references, unsigned pages,
		     unsigned entry_bytes)
{
	int rc = 0;

	*ring = (struct xen_ring){.entry_bytes = entry_bytes};
	while (!rc && ring->pages < pages) {
		rc = host->map(host->opaque, references[ring->pages], true, &ring->page[ring->pages]);
		ring->pages += !rc;
	}
	if (!rc) {
		uint32_t room = (uint32_t)((pages * XEN_PAGE - HEADER_BYTES) / entry_bytes);

		ring->entries = 1u << (31 - __builtin_clz(room));
		/* One that another back end has served before goes on where that one ended. */
		ring->taken = ring->answered = load(&head(ring)->rsp_prod);
		rc = xen_ring_waiting(ring) < 0 ? -EINVAL : 0;
	}
	if (rc)
		xen_ring_disconnect(ring, host);
	return rc;
}

int xen_ring_waiting(const struct xen_ring *ring)
{
	uint32_t produced = load(&head(ring)->req_prod);

	/* Each place holds a request until it is answered. */
	if (produced - ring->answered > ring->entries || produced - ring->taken > ring->entries)
		return -EPROTO;
	return (int)(produced - ring->taken);
}

static void copy(const struct xen_ring *ring, uint32_t index, void *entry, unsigned bytes, bool out)
{
	unsigned at = (unsigned)HEADER_BYTES + (index & (ring->entries - 1)) * ring->entry_bytes;

	for (unsigned done = 0; done < bytes;) {
		unsigned in_page = (at + done) % XEN_PAGE, n = XEN_PAGE - in_page;
		uint8_t *place = ring->page[(at + done) / XEN_PAGE].host + in_page;

		n = n < bytes - done ? n : bytes - done;
		if (out)
			memcpy((uint8_t *)entry + done, place, n);
		else
			memcpy(place, (const uint8_t *)entry + done, n);
		done += n;
	}
	/* What was read is not read again behind the caller's checks. */
	__asm__ volatile("" ::: "memory");
}

void xen_ring_peek(const struct xen_ring *ring, uint32_t ahead, void *ret_request, unsigned bytes)
{
	copy(ring, ring->taken + ahead, ret_request, bytes, true);
}

void xen_ring_answer(struct xen_ring *ring, const void *response, unsigned bytes)
{
	BUG_ON(ring->answered == ring->taken);
	copy(ring, ring->answered++, (void *)(uintptr_t)response, bytes, false);
}

bool xen_ring_push(struct xen_ring *ring)
{
	struct blkif_sring *s = head(ring);
	uint32_t old = s->rsp_prod;

	__atomic_store_n(&s->rsp_prod, ring->answered, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return ring->answered - load(&s->rsp_event) < ring->answered - old;
}

bool xen_ring_sleep(struct xen_ring *ring, uint32_t more)
{
	struct blkif_sring *s = head(ring);

	__atomic_store_n(&s->req_event, ring->taken + more, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	/* An index that cannot be is work too: it is for who looks at it. */
	return load(&s->req_prod) - ring->taken >= more;
}
