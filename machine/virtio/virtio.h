/* A virtio device: what is common to all of them, behind the PCI transport. */
#ifndef MACHINE_VIRTIO_VIRTIO_H
#define MACHINE_VIRTIO_VIRTIO_H

#include <pthread.h>

#include "machine/private.h"
#include "machine/virtio/queue.h"

#define VIRTIO_QUEUES 4

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

struct virtio_ops {
	const char *name; /* "virtio-blk" */
	uint16_t id;      /* virtio device id */
	uint16_t pci_class;
	unsigned queues;
	/*
	 * Serves one request on the device's worker thread, without any lock held: it may block. Returns how many bytes
	 * of the chain's writable buffers it wrote.
	 */
	uint32_t (*serve)(struct virtio_device *dev, unsigned queue, const struct virtq_chain *chain);
	/* Frees what the device type owns, the structure that holds `dev` included. */
	void (*destroy)(struct virtio_device *dev);
	/* Optional. Under the machine lock. */
	size_t (*stats)(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max);
};

/*
 * Lock order: machine lock, then `lock`. Registers change under both; the worker takes `lock` to touch a queue, and none
 * while it serves a request. A reset that comes while a request is being served is only over (status reads 0) when that
 * request is: nothing is written to guest memory after it.
 */
struct virtio_device {
	const struct virtio_ops *ops;
	struct machine *machine;
	struct machine_device node;
	struct pci_device pci;

	uint64_t features; /* offered */
	const uint8_t *config; /* device configuration, constant */
	size_t config_bytes;

	pthread_mutex_t lock;
	pthread_cond_t work; /* to the worker: kicked, paused, quit */
	pthread_cond_t idle; /* from the worker: not busy any more */
	pthread_t worker;
	bool worker_started;

	uint8_t status;
	uint64_t driver_features;
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t isr;
	struct virtq queue[VIRTIO_QUEUES];
	uint32_t kicked;     /* queues to look at */
	uint32_t generation; /* of resets: completions of an older one are dropped */
	bool busy;           /* the worker serves a request: guest memory is in use */
	bool reset_pending;
	bool paused, quit;
	unsigned complaints; /* logged so far */

	/* PCI transport: offset of the capability that reaches the BAR through configuration space. */
	uint8_t cfg_cap;
	uint64_t requests, interrupts, kicks;
};

/*
 * Readies `dev` (zeroed, with ops, features and config set), puts it on the PCI bus, registers it with the machine and
 * starts its worker. On success the machine calls ops->destroy in the end; on failure nothing was registered and the
 * caller frees. 0 or -errno.
 */
int virtio_device_init(struct virtio_device *dev, struct machine *machine);

/* ---- between device.c and pci.c; under the machine lock -------------------------- */

int virtio_pci_init(struct virtio_device *dev);
/* Interrupts for a queue's or the configuration's vector. */
void virtio_pci_interrupt(struct virtio_device *dev, uint16_t vector, uint8_t isr_bit);
void virtio_status_write(struct virtio_device *dev, uint8_t status);
uint8_t virtio_status_read(struct virtio_device *dev);
void virtio_queue_enable(struct virtio_device *dev, unsigned queue);
void virtio_kick(struct virtio_device *dev, unsigned queue);

#endif
