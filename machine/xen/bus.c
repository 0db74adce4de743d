/* The life of a Xen device: states in the store by which back end and front end find each other, and part. */
#include "machine/xen/bus.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "machine/xen/abi.h"

/* A guest can misbehave for ever; the log has better uses. */
#define COMPLAINTS_MAX 5
#define PATH_BYTES 128

/* ---- the store: under dev->lock ------------------------------------------------------------- */

static void tell(struct xen_device *dev, bool front, const char *name, const char *format, va_list ap)
{
	char path[PATH_BYTES], value[96];

	vsnprintf(value, sizeof(value), format, ap);
	snprintf(path, sizeof(path), "%s/%s", front ? dev->front : dev->back, name);
	dev->host.set(dev->host.opaque, path, front, value);
}

void xen_tell(struct xen_device *dev, const char *name, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	tell(dev, false, name, format, ap);
	va_end(ap);
}

void xen_tell_front(struct xen_device *dev, const char *name, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	tell(dev, true, name, format, ap);
	va_end(ap);
}

bool xen_front_number(struct xen_device *dev, const char *name, uint64_t max, uint64_t *ret_value)
{
	char path[PATH_BYTES], *end = NULL, *text;
	uint64_t value;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dev->front, name);
	text = dev->host.get(dev->host.opaque, path);
	if (!text)
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	ok = text[0] >= '0' && text[0] <= '9' && !*end && !errno && value <= max;
	free(text);
	if (ok)
		*ret_value = value;
	return ok;
}

static void set_state(struct xen_device *dev, enum xenbus_state state)
{
	dev->state = state;
	xen_tell(dev, "state", "%u", (unsigned)state);
}

/* ---- connecting, parting: under dev->lock --------------------------------------------------------- */

static void part(struct xen_device *dev)
{
	if (dev->connected)
		dev->ops->disconnect(dev);
	dev->connected = dev->closing = false;
	dev->stalled = false;
	set_state(dev, (enum xenbus_state)dev->next_state);
}

/* Now, or when what is in flight has landed. */
static void part_with(struct xen_device *dev, enum xenbus_state state)
{
	dev->next_state = state;
	dev->closing = true;
	if (!dev->in_flight)
		part(dev);
}

void xen_landed(struct xen_device *dev)
{
	if (--dev->in_flight)
		return;
	if (dev->closing && dev->started) {
		part(dev);
		worker_ring(&dev->worker); /* what the front end said meanwhile */
	}
	pthread_cond_broadcast(&dev->idle);
}

static void complain(struct xen_device *dev, const char *why)
{
	if (dev->complaints++ < COMPLAINTS_MAX)
		fprintf(stderr, "%s %u: the guest's front end is not served: %s%s\n", dev->ops->name, dev->number, why,
			dev->complaints == COMPLAINTS_MAX ? " (and no more of these will be told)" : "");
}

void xen_broken(struct xen_device *dev, const char *why)
{
	if (dev->closing)
		return;
	complain(dev, why);
	part_with(dev, XenbusStateClosing);
}

static void on_event(void *opaque)
{
	struct xen_device *dev = opaque;

	worker_ring(&dev->worker);
}

int xen_bind(struct xen_device *dev, const char *name, uint32_t *ret_port, const char **ret_why)
{
	uint64_t port;

	if (!xen_front_number(dev, name, UINT32_MAX, &port) || dev->host.bind(dev->host.opaque, (uint32_t)port, on_event, dev)) {
		*ret_why = "its event channel is none that waits for us";
		return -EINVAL;
	}
	*ret_port = (uint32_t)port;
	return 0;
}

void xen_unbind(struct xen_device *dev, uint32_t *port)
{
	if (*port)
		dev->host.unbind(dev->host.opaque, *port, dev);
	*port = 0;
}

void xen_raise(struct xen_device *dev, uint32_t port) { dev->host.raise(dev->host.opaque, port, dev); }

static void try_connect(struct xen_device *dev)
{
	const char *why = "";

	if (dev->ops->connect(dev, &why)) {
		complain(dev, why);
		set_state(dev, XenbusStateClosing);
		return;
	}
	dev->connected = true;
	dev->ops->describe(dev);
	set_state(dev, XenbusStateConnected);
}

static void follow(struct xen_device *dev)
{
	uint64_t front = XenbusStateUnknown;

	xen_front_number(dev, "state", XenbusStateReconfigured, &front);
	switch (front) {
	case XenbusStateInitialising:
		if (dev->connected)
			part_with(dev, XenbusStateInitWait);
		else if (dev->state != XenbusStateInitWait)
			set_state(dev, XenbusStateInitWait);
		break;
	case XenbusStateInitialised:
	case XenbusStateConnected:
		if (dev->state == XenbusStateInitWait && (!dev->ops->connects_late || front == XenbusStateConnected))
			try_connect(dev);
		break;
	case XenbusStateClosing:
		if (dev->connected)
			part_with(dev, XenbusStateClosing);
		else if (dev->state != XenbusStateClosing && dev->state != XenbusStateClosed)
			set_state(dev, XenbusStateClosing);
		break;
	case XenbusStateClosed:
	case XenbusStateUnknown:
		if (dev->connected)
			part_with(dev, XenbusStateClosed);
		else if (dev->state != XenbusStateClosed)
			set_state(dev, XenbusStateClosed);
		break;
	default: break;
	}
}

void xen_attend(struct xen_device *dev)
{
	pthread_mutex_lock(&dev->lock);
	/* What waits for a pause to end, or for the last request in flight, is looked at then. */
	if (dev->started && !dev->paused && !dev->closing && atomic_exchange(&dev->front_changed, false))
		follow(dev);
	pthread_mutex_unlock(&dev->lock);
}

/* ---- the worker ------------------------------------------------------------------------------------ */

static void on_work(void *opaque)
{
	struct xen_device *dev = opaque;

	do {
		xen_attend(dev);
		dev->ops->work(dev);
	} while (dev->in_flight == 0 && worker_look(&dev->worker));
}

static void own_loop(void *opaque)
{
	struct xen_device *dev = opaque;

	dev->ops->loop(dev);
}

static void on_change(void *opaque, const char *path)
{
	struct xen_device *dev = opaque;

	(void)path;
	atomic_store(&dev->front_changed, true);
	worker_ring(&dev->worker);
}

/* ---- the machine's lifecycle ---------------------------------------------------------------------------- */

static void on_reset(void *opaque)
{
	struct xen_device *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	/* machine_reset has paused us. */
	BUG_ON(dev->in_flight);
	if (dev->connected)
		dev->ops->disconnect(dev);
	dev->started = dev->connected = dev->closing = dev->stalled = false;
	pthread_mutex_unlock(&dev->lock);
}

static void on_pause(void *opaque, bool paused)
{
	struct xen_device *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	dev->paused = paused;
	if (!paused)
		dev->stalled = false;
	while (paused && dev->in_flight)
		pthread_cond_wait(&dev->idle, &dev->lock);
	pthread_mutex_unlock(&dev->lock);
	if (!paused)
		worker_ring(&dev->worker);
}

static void finish(struct xen_device *dev)
{
	worker_stop(&dev->worker);
	if (dev->ops->retire)
		dev->ops->retire(dev);
	worker_finish(&dev->worker);
	pthread_cond_destroy(&dev->idle);
	pthread_mutex_destroy(&dev->lock);
}

/* The domain may be gone by now: it is not told of anything. */
static void on_destroy(void *opaque)
{
	struct xen_device *dev = opaque;

	on_pause(dev, true);
	finish(dev);
	dev->ops->destroy(dev);
}

static size_t on_stats(void *opaque, struct machine_stat *ret_rows, size_t max)
{
	struct xen_device *dev = opaque;

	return dev->ops->stats(dev, ret_rows, max);
}

int xen_device_init(struct xen_device *dev, struct machine *machine)
{
	int rc;

	dev->machine = machine;
	pthread_mutex_init(&dev->lock, NULL);
	pthread_cond_init(&dev->idle, NULL);
	snprintf(dev->front, sizeof(dev->front), "/local/domain/%u/device/%s/%u", XEN_FRONT_DOMAIN, dev->ops->type, dev->number);
	snprintf(dev->back, sizeof(dev->back), "/local/domain/0/backend/%s/%u/%u", dev->ops->type, XEN_FRONT_DOMAIN, dev->number);
	rc = worker_init(&dev->worker, on_work, dev);
	spin_init(&dev->worker.spin, machine_spin_most_ns(machine, 1));
	if (dev->ops->loop)
		dev->worker.loop = own_loop;
	if (!rc && dev->ops->prepare)
		rc = dev->ops->prepare(dev);
	if (!rc)
		rc = worker_run(&dev->worker, dev->ops->name);
	if (rc) {
		finish(dev);
		return rc;
	}
	dev->node = (struct machine_device){
		.name = dev->ops->name,
		.reset = on_reset,
		.destroy = on_destroy,
		.stats = on_stats,
		.pause = on_pause,
		.opaque = dev,
	};
	machine_register_device(machine, &dev->node);
	return 0;
}

/* What a tool stack leaves for both ends (Xen's docs/misc/xenstore-paths.pandoc). */
static int start(struct xen_device *dev, const struct xen_host *host)
{
	char path[PATH_BYTES], value[96];
	const struct {
		const char *folder, *name;
		bool guest_owns;
		const char *value;
	} nodes[] = {
		{dev->back, "frontend", false, dev->front},
		{dev->back, "frontend-id", false, "1"},
		{dev->back, "online", false, "1"},
		{dev->front, "backend", true, dev->back},
		{dev->front, "backend-id", true, "0"},
		{dev->front, "state", true, "1"},
	};
	int rc = host->set(host->opaque, dev->front, true, "");

	pthread_mutex_lock(&dev->lock);
	dev->host = *host;
	for (size_t i = 0; !rc && i < ARRAY_SIZE(nodes); i++) {
		snprintf(path, sizeof(path), "%s/%s", nodes[i].folder, nodes[i].name);
		snprintf(value, sizeof(value), "%s", nodes[i].value);
		rc = host->set(host->opaque, path, nodes[i].guest_owns, value);
	}
	if (!rc) {
		dev->ops->announce(dev);
		set_state(dev, XenbusStateInitWait);
		dev->started = true;
		atomic_store(&dev->front_changed, false);
	}
	pthread_mutex_unlock(&dev->lock);
	if (!rc)
		rc = host->watch(host->opaque, dev->front, on_change, dev);
	return rc;
}

int machine_xen_start(struct machine *machine, const struct xen_host *host)
{
	int rc = 0;

	for (const struct machine_device *node = machine->devices; node && !rc; node = node->next)
		if (node->destroy == on_destroy)
			rc = start(node->opaque, host);
	return rc;
}
