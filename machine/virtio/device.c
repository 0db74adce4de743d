/* Status, reset and the worker thread of a virtio device, whatever it does. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "machine/virtio/virtio.h"

#define ISR_QUEUE 1u
#define ISR_CONFIG 2u
/* A guest can break its rings for ever; the log has better uses. */
#define COMPLAINTS_MAX 5

/* Under `lock`, not busy. */
static void reset_now(struct virtio_device *dev)
{
	dev->status = 0;
	dev->driver_features = 0;
	dev->feature_select = 0;
	dev->driver_feature_select = 0;
	dev->queue_select = 0;
	dev->config_vector = 0xffff;
	dev->isr = 0;
	dev->kicked = 0;
	dev->reset_pending = false;
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		virtq_reset(&dev->queue[i], dev->machine);
}

/* Under both locks. Completions that are under way belong to the past from here on. */
static void reset_begin(struct virtio_device *dev)
{
	dev->generation++;
	if (dev->busy)
		dev->reset_pending = true;
	else
		reset_now(dev);
}

/* Under `lock`: the device stops until it is reset; the caller raises the configuration interrupt. */
static void needs_reset(struct virtio_device *dev, unsigned queue, const char *why)
{
	if (dev->status & VIRTIO_NEEDS_RESET)
		return;
	dev->status |= VIRTIO_NEEDS_RESET;
	if (dev->complaints++ < COMPLAINTS_MAX)
		fprintf(stderr, "%s in PCI slot %u: the guest broke queue %u (%s); the device waits for a reset\n", dev->ops->name,
			dev->pci.slot, queue, why);
}

static bool may_work(const struct virtio_device *dev)
{
	return (dev->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)) == VIRTIO_DRIVER_OK &&
	       !dev->reset_pending && !dev->paused;
}

/* ---- registers: under the machine lock ------------------------------------------- */

uint8_t virtio_status_read(struct virtio_device *dev)
{
	uint8_t status;

	pthread_mutex_lock(&dev->lock);
	status = dev->status;
	/* A reset that is not over must not look like one that is. */
	if (dev->reset_pending && status == 0)
		status = VIRTIO_FAILED;
	pthread_mutex_unlock(&dev->lock);
	return status;
}

void virtio_status_write(struct virtio_device *dev, uint8_t status)
{
	pthread_mutex_lock(&dev->lock);
	if (status == 0) {
		reset_begin(dev);
	} else if (!dev->reset_pending) {
		uint8_t kept = dev->status & VIRTIO_NEEDS_RESET;

		/* Features are final only if we can live with them. */
		if ((status & VIRTIO_FEATURES_OK) && !(dev->status & VIRTIO_FEATURES_OK) &&
		    ((dev->driver_features & ~dev->features) != 0 || !(dev->driver_features & VIRTIO_VERSION_1)))
			status &= (uint8_t)~VIRTIO_FEATURES_OK;
		if (!(status & VIRTIO_FEATURES_OK))
			status &= (uint8_t)~VIRTIO_DRIVER_OK;
		dev->status = (uint8_t)((status & ~VIRTIO_NEEDS_RESET) | kept);
		/* Requests may already wait. */
		if (may_work(dev)) {
			dev->kicked = (1u << dev->ops->queues) - 1;
			pthread_cond_signal(&dev->work);
		}
	}
	pthread_mutex_unlock(&dev->lock);
	if (status == 0)
		pci_intx_set(&dev->pci, false);
}

void virtio_queue_enable(struct virtio_device *dev, unsigned queue)
{
	struct virtq *q = &dev->queue[queue];
	bool bad;

	pthread_mutex_lock(&dev->lock);
	bad = !q->enabled && !virtq_enable(q, dev->driver_features & VIRTIO_RING_EVENT_IDX);
	if (bad)
		needs_reset(dev, queue, q->error);
	pthread_mutex_unlock(&dev->lock);
	if (bad)
		virtio_pci_interrupt(dev, dev->config_vector, ISR_CONFIG);
}

void virtio_kick(struct virtio_device *dev, unsigned queue)
{
	if (queue >= dev->ops->queues)
		return;
	pthread_mutex_lock(&dev->lock);
	dev->kicks++;
	dev->kicked |= 1u << queue;
	pthread_cond_signal(&dev->work);
	pthread_mutex_unlock(&dev->lock);
}

/* ---- the worker ---------------------------------------------------------------------- */

/* Under no lock. An interrupt that belongs to a device since reset is dropped. */
static void interrupt(struct virtio_device *dev, uint32_t generation, uint16_t vector, uint8_t isr_bit)
{
	machine_lock(dev->machine);
	/* Only changes under the machine lock. */
	if (dev->generation == generation) {
		dev->interrupts++;
		virtio_pci_interrupt(dev, vector, isr_bit);
	}
	machine_unlock(dev->machine);
}

/* Under `lock`, which it lets go while it serves. True: something was done, and there may be more. */
static bool serve_one(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain)
{
	struct virtq *q = &dev->queue[queue];
	uint32_t generation = dev->generation, written;
	uint16_t vector = q->vector;
	enum virtq_result result;
	bool wanted;

	result = virtq_pop(q, chain);
	if (result == VIRTQ_EMPTY)
		return false;
	if (result == VIRTQ_BROKEN) {
		vector = dev->config_vector;
		needs_reset(dev, queue, q->error);
		pthread_mutex_unlock(&dev->lock);
		interrupt(dev, generation, vector, ISR_CONFIG);
		pthread_mutex_lock(&dev->lock);
		return false;
	}
	dev->busy = true;
	pthread_mutex_unlock(&dev->lock);
	written = dev->ops->serve(dev, queue, chain);
	pthread_mutex_lock(&dev->lock);
	dev->busy = false;
	dev->requests++;
	if (dev->reset_pending) {
		reset_now(dev);
		pthread_cond_broadcast(&dev->idle);
		return false;
	}
	virtq_push(q, chain->head, written);
	wanted = virtq_wants_interrupt(q);
	pthread_cond_broadcast(&dev->idle);
	if (wanted) {
		pthread_mutex_unlock(&dev->lock);
		interrupt(dev, generation, vector, ISR_QUEUE);
		pthread_mutex_lock(&dev->lock);
	}
	return true;
}

static void serve_queue(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain)
{
	struct virtq *q = &dev->queue[queue];

	do {
		virtq_kicks_off(q);
		while (may_work(dev) && serve_one(dev, queue, chain))
			;
		/* Paused or to be reset: what waits is looked at again afterwards. */
		if (!may_work(dev)) {
			dev->kicked |= 1u << queue;
			return;
		}
	} while (virtq_kicks_on(q));
}

static void *worker_main(void *opaque)
{
	struct virtio_device *dev = opaque;
	struct virtq_chain *chain = malloc(sizeof(*chain));

	BUG_ON(!chain);
	pthread_mutex_lock(&dev->lock);
	while (!dev->quit) {
		uint32_t kicked = dev->kicked;

		if (!may_work(dev) || kicked == 0) {
			pthread_cond_wait(&dev->work, &dev->lock);
			continue;
		}
		dev->kicked = 0;
		for (unsigned i = 0; i < dev->ops->queues; i++) {
			if (kicked & (1u << i))
				serve_queue(dev, i, chain);
		}
	}
	pthread_mutex_unlock(&dev->lock);
	free(chain);
	return NULL;
}

/* ---- the machine's lifecycle ------------------------------------------------------------ */

static void on_reset(void *opaque)
{
	struct virtio_device *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	reset_begin(dev);
	/* The worker is not busy while it waits for the machine lock, which we hold. */
	while (dev->busy)
		pthread_cond_wait(&dev->idle, &dev->lock);
	reset_now(dev);
	pthread_mutex_unlock(&dev->lock);
	pci_intx_set(&dev->pci, false);
}

static void on_pause(void *opaque, bool paused)
{
	struct virtio_device *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	dev->paused = paused;
	while (paused && dev->busy)
		pthread_cond_wait(&dev->idle, &dev->lock);
	pthread_cond_signal(&dev->work);
	pthread_mutex_unlock(&dev->lock);
}

static void stop_worker(struct virtio_device *dev)
{
	if (!dev->worker_started)
		return;
	pthread_mutex_lock(&dev->lock);
	dev->quit = true;
	dev->paused = true;
	pthread_cond_signal(&dev->work);
	pthread_mutex_unlock(&dev->lock);
	pthread_join(dev->worker, NULL);
	dev->worker_started = false;
}

static void on_destroy(void *opaque)
{
	struct virtio_device *dev = opaque;

	stop_worker(dev);
	pci_unregister(&dev->pci);
	pthread_cond_destroy(&dev->work);
	pthread_cond_destroy(&dev->idle);
	pthread_mutex_destroy(&dev->lock);
	dev->ops->destroy(dev);
}

static size_t on_stats(void *opaque, struct machine_stat *ret_rows, size_t max)
{
	struct virtio_device *dev = opaque;

	return dev->ops->stats ? dev->ops->stats(dev, ret_rows, max) : 0;
}

static int start_worker(struct virtio_device *dev)
{
	sigset_t all, old;
	int rc;

	/* Signals are the vCPU threads' and the main thread's. */
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* the sandbox asks every thread to drop its capabilities by it */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&dev->worker, NULL, worker_main, dev);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0)
		return -rc;
	dev->worker_started = true;
	return 0;
}

int virtio_device_init(struct virtio_device *dev, struct machine *machine)
{
	int rc;

	BUG_ON(dev->ops->queues > VIRTIO_QUEUES);
	dev->machine = machine;
	dev->features |= VIRTIO_VERSION_1 | VIRTIO_RING_EVENT_IDX | VIRTIO_RING_INDIRECT_DESC;
	pthread_mutex_init(&dev->lock, NULL);
	pthread_cond_init(&dev->work, NULL);
	pthread_cond_init(&dev->idle, NULL);
	reset_now(dev);
	rc = virtio_pci_init(dev);
	if (rc < 0)
		goto fail;
	rc = start_worker(dev);
	if (rc < 0) {
		pci_unregister(&dev->pci);
		goto fail;
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
fail:
	pthread_cond_destroy(&dev->work);
	pthread_cond_destroy(&dev->idle);
	pthread_mutex_destroy(&dev->lock);
	return rc;
}
