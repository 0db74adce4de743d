/* A virtio device: what is common to all of them, behind the PCI transport. */
#ifndef MACHINE_VIRTIO_VIRTIO_H
#define MACHINE_VIRTIO_VIRTIO_H

#include <pthread.h>

#include "machine/private.h"
#include "machine/virtio/queue.h"
#include "machine/virtio/worker.h"

#define VIRTIO_QUEUES 32 /* a disk has 16, a console a pair for each port; bits of a uint32_t */

/* Device status (virtio 1.2, 2.1). */
#define VIRTIO_ACKNOWLEDGE 1u
#define VIRTIO_DRIVER 2u
#define VIRTIO_DRIVER_OK 4u
#define VIRTIO_FEATURES_OK 8u
#define VIRTIO_NEEDS_RESET 64u
#define VIRTIO_FAILED 128u

/* Feature bits of every device here. */
#define VIRTIO_RING_INDIRECT_DESC (1ull << 28)
#define VIRTIO_RING_EVENT_IDX (1ull << 29)
#define VIRTIO_VERSION_1 (1ull << 32)

struct virtio_device;

/* A request between virtio_take and virtio_complete. */
struct virtio_request {
	struct virtio_device *dev;
	unsigned queue;
	struct virtio_request *next; /* the device type's while it has the request */
	struct virtq_chain chain;
};

struct virtio_ops {
	const char *name; /* "virtio-blk" */
	uint16_t id;      /* virtio device id */
	uint16_t pci_class;
	/*
	 * On the worker, no lock held: there may be requests in this queue. Takes what it wants with virtio_take. True: it
	 * took all there were, and wants to be called for the next one. False: it left some (or wants none now) and will
	 * look by itself: the driver is asked not to kick until virtio_kicks_on.
	 */
	bool (*work)(struct virtio_device *dev, unsigned queue);
	/*
	 * Or, for devices that answer at once: serves one request on the worker, which may block. Returns how many bytes of
	 * the chain's writable buffers it wrote. Instead of `work`.
	 */
	uint32_t (*serve)(struct virtio_device *dev, unsigned queue, const struct virtq_chain *chain);
	/*
	 * Or, for devices that wait for much that changes all the time: the worker's whole life, until worker.quit. It waits
	 * for worker.doorbell too, and touches queues and guest memory only under dev->lock while virtio_may_work.
	 */
	void (*loop)(struct virtio_device *dev);
	/*
	 * With nothing in flight it waits for its queues alone, and so may look for the next request instead of sleeping
	 * (worker_look).
	 */
	bool looks;
	/* Optional. Before the worker's thread starts: adds events of the device's own to dev->worker.base. 0 or -errno. */
	int (*prepare)(struct virtio_device *dev);
	/* Optional. The worker's thread has ended, or never began: frees what `prepare` added, if it came to that. */
	void (*retire)(struct virtio_device *dev);
	/* Optional. On the worker, no lock held: it was rung, by a driver or by worker_ring, and queues are looked at next. */
	void (*rung)(struct virtio_device *dev);
	/* Optional. The device was reset; no request is under way. Under dev->lock (and perhaps the machine's): note it only. */
	void (*reset)(struct virtio_device *dev);
	/* Optional. The driver wrote [at, at + size) of the configuration. Under the machine lock. */
	void (*config_write)(struct virtio_device *dev, uint64_t at, uint64_t value, unsigned size);
	/* Frees what the device type owns, the structure that holds `dev` included. The worker's thread has ended. */
	void (*destroy)(struct virtio_device *dev);
	/* Optional. Under the machine lock. */
	size_t (*stats)(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max);
};

/*
 * Lock order: machine lock, then `lock`. Registers change under both; the worker takes `lock` to touch a queue, and none
 * while it serves. Between virtio_take and virtio_complete guest memory is in use: a pause waits until no request is there,
 * and a reset is only over (status reads 0) then. While paused nothing is taken.
 */
struct virtio_device {
	const struct virtio_ops *ops;
	unsigned queues; /* at most VIRTIO_QUEUES */
	struct machine *machine;
	struct machine_device node;
	struct pci_device pci;
	struct worker worker;
	struct doorbell bell[VIRTIO_QUEUES]; /* all ring the worker */

	uint64_t features; /* offered */
	const uint8_t *config; /* device configuration; changes under the machine lock, then virtio_config_changed */
	size_t config_bytes;

	pthread_mutex_t lock;
	pthread_cond_t idle; /* nothing in flight any more */

	uint8_t status;
	uint64_t driver_features;
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t config_generation;
	uint8_t isr;
	struct virtq queue[VIRTIO_QUEUES];
	uint32_t generation; /* of resets: interrupts of an older one are dropped */
	unsigned in_flight;
	uint32_t to_signal; /* queues with completions that the driver was not told of yet; the worker's */
	unsigned budget;    /* of requests in `work`, so that no queue starves another, nor the doorbell; the worker's */
	bool reset_pending;
	bool paused;
	bool stalled; /* something is parked: nothing is taken until the machine goes on after a pause */
	unsigned complaints; /* logged so far */
	struct virtio_request *parked, *spare;

	/* PCI transport: offset of the capability that reaches the BAR through configuration space. */
	uint8_t cfg_cap;
	_Atomic uint64_t requests, interrupts, kicks;
};

/*
 * Readies `dev` (zeroed, with ops, queues, features and config set), puts it on the PCI bus, registers it with the machine
 * and starts its worker. On success the machine calls ops->destroy in the end; on failure nothing was registered and the
 * caller frees. 0 or -errno.
 */
int virtio_device_init(struct virtio_device *dev, struct machine *machine);

/* ---- for device types: on the worker, no lock held ------------------------------- */

/* The next request; NULL: there is none now. A ring that makes no sense stops the device. */
struct virtio_request *virtio_take(struct virtio_device *dev, unsigned queue);
/* Gives it back, with how many bytes of its writable buffers were written. Then virtio_signal, once for many. */
void virtio_complete(struct virtio_request *request, uint32_t written);
/*
 * Not now: the device stops, guest memory is left alone, and once the machine has been paused and goes on, virtio_take
 * returns it again, before others of its queue.
 */
void virtio_park(struct virtio_request *request);
/* Interrupts the driver for what was completed, where it wants that. After `work` this happens by itself. */
void virtio_signal(struct virtio_device *dev);
/* Behind a `work` that said false. True: there are requests already, perhaps without a kick. */
bool virtio_kicks_on(struct virtio_device *dev, unsigned queue);
/* Under dev->lock: the queues may be used now. */
bool virtio_may_work(const struct virtio_device *dev);
/* queue[queue].error says that it is broken: the device stops, and the driver and the log are told. */
void virtio_broken(struct virtio_device *dev, unsigned queue);
/* Whether the driver took this feature. */
bool virtio_has_feature(struct virtio_device *dev, unsigned bit);
/* Any thread, no lock held: dev->config is not what it was. */
void virtio_config_changed(struct virtio_device *dev);

/* ---- between device.c and pci.c; under the machine lock -------------------------- */

int virtio_pci_init(struct virtio_device *dev);
/* Nobody rings the worker any more. Not under the machine lock. */
void virtio_pci_unlink(struct virtio_device *dev);
/* Interrupts for a queue's or the configuration's vector. */
void virtio_pci_interrupt(struct virtio_device *dev, uint16_t vector, uint8_t isr_bit);
void virtio_status_write(struct virtio_device *dev, uint8_t status);
uint8_t virtio_status_read(struct virtio_device *dev);
void virtio_queue_enable(struct virtio_device *dev, unsigned queue);
/* Any thread. */
void virtio_kick(struct virtio_device *dev, unsigned queue);

#endif
