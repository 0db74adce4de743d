/*
 * The store: a tree of small values that guest and back ends meet in (Xen's docs/misc/xenstore.txt and xenstore-paths), with
 * permissions, watches and transactions. Everything runs on ordinary threads ("outside"), under the store's own lock.
 */
#ifndef PV_STORE_H
#define PV_STORE_H

#include "machine/types.h"

struct pv_domain;
struct pv_store;

#define PV_STORE_VALUE_MAX 4096u

int pv_store_create(struct pv_store **ret_store);
/* NULL is fine. */
void pv_store_destroy(struct pv_store *store);
/* Forgets everything, back ends' watches too. Before the guest runs, or between its runs. 0 or -ENOMEM. */
int pv_store_clear(struct pv_store *store);
/* wake is called, without the store's lock, when something waits for the guest that did not come from its own request. */
void pv_store_on_output(struct pv_store *store, void (*wake)(void *opaque), void *opaque);

/* store_ring.c: connects it to the domain's ring, with what a guest finds in it at its start. 0 or -errno. */
int pv_store_ring_start(struct pv_domain *d, struct pv_store *store);

/* ---- for back ends ------------------------------------------------------------------------ */

/* Sets a value, making parents; `guest_may_write`: the node is the guest's own, else it may read it. 0 or -errno. */
int pv_store_set(struct pv_store *store, const char *path, bool guest_may_write, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* A copy of the value with a 0 behind it (free), NULL: there is none. */
char *pv_store_get(struct pv_store *store, const char *path);
/* fn is called after each change at or below path, without the store's lock, on the thread that made it. For good. */
int pv_store_watch(struct pv_store *store, const char *path, void (*fn)(void *opaque, const char *path), void *opaque);

/* ---- the protocol, for the ring and for tests ----------------------------------------------------- */

/*
 * Answers one request of the guest's (header and payload as in io/xs_wire.h, `n` bytes of payload, at most
 * PV_STORE_VALUE_MAX). The answer, and watch events, wait for pv_store_output.
 */
struct xsd_sockmsg;
void pv_store_request(struct pv_store *store, const struct xsd_sockmsg *header, const char *payload);
/* Takes up to `max` bytes of what waits for the guest. */
size_t pv_store_output(struct pv_store *store, void *buf, size_t max);

#endif
