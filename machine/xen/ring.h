/*
 * A ring shared with a front end (io/ring.h), seen from behind. Its pages need not be neighbours, so that entries are copied
 * out and in; and what was copied out is what is checked.
 */
#ifndef MACHINE_XEN_RING_H
#define MACHINE_XEN_RING_H

#include "machine/xen/xen.h"

#define XEN_RING_PAGES_MAX 16u

struct xen_ring {
	struct xen_page page[XEN_RING_PAGES_MAX];
	unsigned pages; /* 0: not connected */
	unsigned entry_bytes;
	uint32_t entries; /* a power of two */
	uint32_t taken, answered; /* counts of requests and of responses; the guest sees those of answers that were pushed */
};

/* `pages` (a power of two) references. 0, or -EINVAL: a grant that is none, or indices that cannot be. Nothing is left behind then. */
int xen_ring_connect(struct xen_ring *ring, const struct xen_host *host, const uint32_t *references, unsigned pages,
		     unsigned entry_bytes);
/* Fine if it is not connected. */
void xen_ring_disconnect(struct xen_ring *ring, const struct xen_host *host);
/* How many requests wait. -EPROTO: more than there can be. */
int xen_ring_waiting(const struct xen_ring *ring);
/* The request `ahead` of the next one: fewer than what waits. */
void xen_ring_peek(const struct xen_ring *ring, uint32_t ahead, void *ret_request, unsigned bytes);
static inline void xen_ring_take(struct xen_ring *ring, unsigned n) { ring->taken += n; }
/* A response in the next place. There is room for as many as were taken. */
void xen_ring_answer(struct xen_ring *ring, const void *response, unsigned bytes);
/* The guest sees the answers. True: it wants an event for them. */
bool xen_ring_push(struct xen_ring *ring);
/* Asks for an event when there are `more` requests than taken. True: there are already. */
bool xen_ring_sleep(struct xen_ring *ring, uint32_t more);

#endif
