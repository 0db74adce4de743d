/* A device behind Xen's bus: its life in the store (io/xenbus.h), whatever it does. Nobody outside machine/ includes this. */
#ifndef MACHINE_XEN_BUS_H
#define MACHINE_XEN_BUS_H

#include <pthread.h>

#include "machine/private.h"
#include "machine/virtio/worker.h"
#include "machine/xen/ring.h"

struct xen_device;

struct xen_ops {
	const char *name; /* "xen-blk" */
	const char *type; /* in the store: "vbd" */
	bool connects_late; /* the front end has left its words only when it calls itself connected */
	/* Under dev->lock: puts into the store what the front end may know before it says a word; and what when it is connected. */
	void (*announce)(struct xen_device *dev);
	void (*describe)(struct xen_device *dev);
	/* On the worker, under dev->lock: rings and port as the front end says. 0, or -errno and *ret_why says what is wrong. */
	int (*connect)(struct xen_device *dev, const char **ret_why);
	/* The same, nothing in flight: away with them. Any thread. */
	void (*disconnect)(struct xen_device *dev);
	/* On the worker, no lock held: there may be requests. */
	void (*work)(struct xen_device *dev);
	/* Or the worker's whole life, as virtio_ops.loop; it calls xen_attend. */
	void (*loop)(struct xen_device *dev);
	/* As virtio_ops has them. */
	int (*prepare)(struct xen_device *dev);
	void (*retire)(struct xen_device *dev);
	void (*destroy)(struct xen_device *dev);
	size_t (*stats)(struct xen_device *dev, struct machine_stat *ret_rows, size_t max);
};

/*
 * Threads: the worker does all of it. `lock` is held around every use of rings and of guest memory that is not in flight, so
 * that who holds it (a pause, a reset) knows that there is none. Machine lock, then `lock`; the host is called under it.
 */
struct xen_device {
	const struct xen_ops *ops;
	struct machine *machine;
	struct machine_device node;
	struct worker worker;
	struct xen_host host; /* valid while started */
	unsigned number;      /* the front end's, in the store */
	char front[64], back[64];

	pthread_mutex_t lock;
	pthread_cond_t idle; /* nothing in flight any more */
	bool started;	     /* the domain is there */
	bool paused;
	bool stalled; /* something waits for help: nothing is taken until the machine goes on after a pause */
	bool connected;
	bool closing; /* disconnects once nothing is in flight; with next_state then */
	unsigned state, next_state; /* enum xenbus_state, as we have told it */
	unsigned in_flight, complaints;
	uint32_t port;
	_Atomic bool front_changed; /* since the worker looked */
};

/* As virtio_device_init. */
int xen_device_init(struct xen_device *dev, struct machine *machine);
/* On the worker: does what the front end's state asks for. */
void xen_attend(struct xen_device *dev);
/* Under dev->lock. */
static inline bool xen_may_work(const struct xen_device *dev)
{
	return dev->started && dev->connected && !dev->closing && !dev->paused && !dev->stalled;
}
/* Under dev->lock, in ops->connect: of the front end's nodes. False: it is not there, or no number up to max. */
bool xen_front_number(struct xen_device *dev, const char *name, uint64_t max, uint64_t *ret_value);
/* In ops->announce and describe: a node of ours. */
__attribute__((format(printf, 3, 4))) void xen_tell(struct xen_device *dev, const char *name, const char *format, ...);
/* The same in the front end's folder, where it is the guest's. */
__attribute__((format(printf, 3, 4))) void xen_tell_front(struct xen_device *dev, const char *name, const char *format, ...);
/* Under dev->lock: a request has ended. */
void xen_landed(struct xen_device *dev);
/* Under dev->lock: the front end does not keep to the protocol. The device stops until its driver starts anew. */
void xen_broken(struct xen_device *dev, const char *why);
/* Under dev->lock: connects the port that the front end names; -errno and *ret_why. */
int xen_bind(struct xen_device *dev, const char *name, uint32_t *ret_port, const char **ret_why);
void xen_raise(struct xen_device *dev, uint32_t port);
void xen_unbind(struct xen_device *dev, uint32_t *port);

/* A disk (blk.c) or a NIC on this back end (net.c), which is its own from here on, also on failure. As machine_add_disk. */
int xen_blk_add(struct machine *machine, const struct machine_disk *disk, bool cdrom, const char **ret_error);
struct net_backend;
int xen_net_add(struct machine *machine, const struct machine_nic *nic, struct net_backend *be, const char **ret_error);
int xen_net_set(struct machine *machine, unsigned number, const struct machine_nic_change *change);

#endif
