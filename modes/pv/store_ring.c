/* The store's ring (io/xs_wire.h): requests out of it, answers and watch events into it. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "modes/pv/private.h"
#include "modes/pv/store.h"

struct pv_store_ring {
	struct pv_domain *domain;
	struct pv_store *store;
	pthread_mutex_t lock;
	/* The request that is being read. */
	struct xsd_sockmsg header;
	char payload[XENSTORE_PAYLOAD_MAX + 1];
	size_t got;
	bool broken; /* the guest has left the protocol */
};

/* Up to n bytes of requests. Indices are the guest's: a distance that cannot be ends the connection. */
static size_t take(struct pv_store_ring *r, void *to, size_t n)
{
	volatile struct xenstore_domain_interface *ring = r->domain->store_ring;
	uint32_t cons = ring->req_cons, there = __atomic_load_n(&ring->req_prod, __ATOMIC_ACQUIRE) - cons;

	if (there > XENSTORE_RING_SIZE) {
		r->broken = true;
		ring->error = XENSTORE_ERROR_RINGIDX;
		return 0;
	}
	if (n > there)
		n = there;
	for (size_t i = 0; i < n; i++)
		((char *)to)[i] = ring->req[MASK_XENSTORE_IDX(cons + i)];
	__atomic_store_n(&ring->req_cons, cons + (uint32_t)n, __ATOMIC_RELEASE);
	return n;
}

/* Answers into what room there is. */
static bool flush(struct pv_store_ring *r)
{
	volatile struct xenstore_domain_interface *ring = r->domain->store_ring;
	uint32_t prod = ring->rsp_prod, used = prod - __atomic_load_n(&ring->rsp_cons, __ATOMIC_ACQUIRE);
	char buf[XENSTORE_RING_SIZE];
	size_t n = used > XENSTORE_RING_SIZE ? 0 : pv_store_output(r->store, buf, XENSTORE_RING_SIZE - used);

	for (size_t i = 0; i < n; i++)
		ring->rsp[MASK_XENSTORE_IDX(prod + i)] = buf[i];
	__atomic_store_n(&ring->rsp_prod, prod + (uint32_t)n, __ATOMIC_RELEASE);
	return n;
}

/* One whole request, if the rest of it is there. */
static bool next_request(struct pv_store_ring *r)
{
	if (r->got < sizeof(r->header))
		r->got += take(r, (char *)&r->header + r->got, sizeof(r->header) - r->got);
	if (r->got < sizeof(r->header))
		return false;
	if (r->header.len > XENSTORE_PAYLOAD_MAX) {
		r->broken = true;
		r->domain->store_ring->error = XENSTORE_ERROR_PROTO;
		return false;
	}
	size_t have = r->got - sizeof(r->header);
	size_t n = take(r, r->payload + have, r->header.len - have);
	r->got += n;
	if (have + n < r->header.len)
		return false;
	r->payload[r->header.len] = '\0';
	r->got = 0;
	return true;
}

static void serve(void *opaque)
{
	struct pv_store_ring *r = opaque;
	uint32_t cons = r->domain->store_ring->req_cons;
	bool changed = false;

	pthread_mutex_lock(&r->lock);
	while (!r->broken && next_request(r)) {
		struct xsd_sockmsg header = r->header;

		/* Watches of back ends may have something to say meanwhile. */
		pthread_mutex_unlock(&r->lock);
		pv_store_request(r->store, &header, r->payload);
		pthread_mutex_lock(&r->lock);
	}
	changed = flush(r) || cons != r->domain->store_ring->req_cons;
	pthread_mutex_unlock(&r->lock);
	if (changed)
		pv_event_raise(r->domain, r->domain->store_port);
}

static void on_output(void *opaque)
{
	struct pv_store_ring *r = opaque;

	pthread_mutex_lock(&r->lock);
	bool changed = flush(r);
	pthread_mutex_unlock(&r->lock);
	if (changed)
		pv_event_raise(r->domain, r->domain->store_port);
}

/* What xl's tool stack leaves for a guest to find (Xen's docs/misc/xenstore-paths.pandoc). */
static int fill(struct pv_domain *d, struct pv_store *s)
{
	static const char *const own[] = {"control/shutdown", "control/platform-feature-multiprocessor-suspend", "data", "drivers", "feature", "attr",
					  "error", "device", "messages", "memory/video"};
	char path[64];
	int rc = pv_store_set(s, "/local/domain/1", false, "%s", "");

	for (size_t i = 0; !rc && i < ARRAY_SIZE(own); i++) {
		snprintf(path, sizeof(path), "/local/domain/1/%s", own[i]);
		rc = pv_store_set(s, path, true, "%s", "");
	}
	if (!rc)
		rc = pv_store_set(s, "/local/domain/1/domid", false, "%u", PV_DOMAIN_ID);
	if (!rc)
		rc = pv_store_set(s, "/local/domain/1/name", false, "%s", "guest");
	if (!rc)
		rc = pv_store_set(s, "/local/domain/1/memory/static-max", false, "%llu", (unsigned long long)d->max_pages * 4);
	if (!rc)
		rc = pv_store_set(s, "/local/domain/1/memory/target", false, "%llu", (unsigned long long)d->max_pages * 4);
	for (unsigned i = 0; !rc && i < d->vcpus; i++) {
		snprintf(path, sizeof(path), "/local/domain/1/cpu/%u/availability", i);
		rc = pv_store_set(s, path, false, "online");
	}
	return rc;
}

int pv_store_ring_start(struct pv_domain *d, struct pv_store *store)
{
	struct pv_store_ring *r = d->store_reader;
	int rc;

	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			return -ENOMEM;
		pthread_mutex_init(&r->lock, NULL);
		d->store_reader = r;
	}
	r->domain = d;
	r->store = store;
	r->got = 0;
	r->broken = false;
	pv_store_on_output(store, NULL, NULL);
	rc = pv_store_clear(store);
	if (!rc)
		rc = fill(d, store);
	if (rc)
		return rc;
	d->store_ring->server_features = XENSTORE_SERVER_FEATURE_ERROR;
	d->store_port = pv_event_connect(d, serve, r);
	pv_store_on_output(store, on_output, r);
	return 0;
}
