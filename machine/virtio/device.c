/* Status, reset and the worker thread of a virtio device, whatever it does. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "machine/virtio/virtio.h"

#define ISR_QUEUE 1u
#define ISR_CONFIG 2u
/* A guest can break its rings for ever; the log has better uses. */
#define COMPLAINTS_MAX 5

/* What one round of the worker takes before it looks at the other queues and its doorbell again. */
#define ROUND_BUDGET 512

static void free_requests(struct virtio_request **list)
{
	while (*list) {
		struct virtio_request *request = *list;

		*list = request->next;
		free(request);
	}
}

/* Under `lock`, nothing in flight. */
static void reset_now(struct virtio_device *dev)
{
	dev->status = 0;
	dev->driver_features = 0;
	dev->feature_select = 0;
	dev->driver_feature_select = 0;
	dev->queue_select = 0;
	dev->config_vector = 0xffff;
	dev->isr = 0;
	dev->to_signal = 0;
	dev->reset_pending = false;
	dev->stalled = false;
	free_requests(&dev->parked);
	free_requests(&dev->spare);
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		virtq_reset(&dev->queue[i], dev->machine);
	if (dev->ops->reset)
		dev->ops->reset(dev);
}

/* Under both locks. Completions that are under way belong to the past from here on. */
static void reset_begin(struct virtio_device *dev)
{
	dev->generation++;
	if (dev->in_flight)
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

bool virtio_may_work(const struct virtio_device *dev)
{
	return (dev->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)) == VIRTIO_DRIVER_OK &&
	       !dev->reset_pending && !dev->paused && !dev->stalled;
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
		if (virtio_may_work(dev))
			worker_ring(&dev->worker);
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
	if (queue >= dev->queues)
		return;
	dev->kicks++;
	worker_ring(&dev->worker);
}

/* ---- requests: on the worker --------------------------------------------------------- */

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

/* Under `lock`. The oldest parked one of this queue. */
static struct virtio_request *unpark(struct virtio_device *dev, unsigned queue)
{
	for (struct virtio_request **at = &dev->parked; *at; at = &(*at)->next) {
		struct virtio_request *request = *at;

		if (request->queue != queue)
			continue;
		*at = request->next;
		request->next = NULL;
		return request;
	}
	return NULL;
}

static bool has_parked(const struct virtio_device *dev, unsigned queue)
{
	for (const struct virtio_request *request = dev->parked; request; request = request->next)
		if (request->queue == queue)
			return true;
	return false;
}

/* Under `lock`. From the ring; NULL: none, or it is broken and the device stops. */
static struct virtio_request *pop(struct virtio_device *dev, unsigned queue, bool *ret_broken)
{
	struct virtq *q = &dev->queue[queue];
	struct virtio_request *request = dev->spare;

	if (!virtq_pending(q))
		return NULL;
	if (request)
		dev->spare = request->next;
	else
		request = malloc(sizeof(*request));
	BUG_ON(!request); /* some KiB, and no more of them than rings have entries */
	request->dev = dev;
	request->queue = queue;
	request->next = NULL;
	if (virtq_pop(q, &request->chain) == VIRTQ_CHAIN)
		return request;
	request->next = dev->spare;
	dev->spare = request;
	if (q->error) {
		needs_reset(dev, queue, q->error);
		*ret_broken = true;
	}
	return NULL;
}

struct virtio_request *virtio_take(struct virtio_device *dev, unsigned queue)
{
	struct virtio_request *request = NULL;
	bool is_broken = false;
	uint32_t generation;
	uint16_t vector;

	pthread_mutex_lock(&dev->lock);
	if (virtio_may_work(dev) && dev->budget > 0) {
		request = unpark(dev, queue);
		if (!request)
			request = pop(dev, queue, &is_broken);
	}
	if (request) {
		dev->in_flight++;
		dev->budget--;
	}
	generation = dev->generation;
	vector = dev->config_vector;
	pthread_mutex_unlock(&dev->lock);
	if (is_broken)
		interrupt(dev, generation, vector, ISR_CONFIG);
	return request;
}

/* Under `lock`. */
static void landed(struct virtio_device *dev)
{
	if (--dev->in_flight > 0)
		return;
	if (dev->reset_pending)
		reset_now(dev);
	pthread_cond_broadcast(&dev->idle);
}

void virtio_complete(struct virtio_request *request, uint32_t written)
{
	struct virtio_device *dev = request->dev;

	pthread_mutex_lock(&dev->lock);
	if (!dev->reset_pending) {
		virtq_push(&dev->queue[request->queue], request->chain.head, written);
		dev->to_signal |= 1u << request->queue;
	}
	request->next = dev->spare;
	dev->spare = request;
	dev->requests++;
	landed(dev);
	pthread_mutex_unlock(&dev->lock);
}

void virtio_park(struct virtio_request *request)
{
	struct virtio_device *dev = request->dev;
	struct virtio_request **end = &dev->parked;

	pthread_mutex_lock(&dev->lock);
	while (*end)
		end = &(*end)->next;
	request->next = NULL;
	*end = request;
	dev->stalled = true;
	landed(dev);
	pthread_mutex_unlock(&dev->lock);
}

void virtio_signal(struct virtio_device *dev)
{
	uint16_t vector[VIRTIO_QUEUES];
	uint32_t generation;
	unsigned count = 0;

	pthread_mutex_lock(&dev->lock);
	generation = dev->generation;
	for (unsigned i = 0; i < dev->queues && !dev->reset_pending; i++)
		if (dev->to_signal & 1u << i && virtq_wants_interrupt(&dev->queue[i])) {
			/* By eventfd under `lock`, under which a reset begins: nothing is raised after one. */
			if (pci_msix_signal(&dev->pci, dev->queue[i].vector))
				dev->interrupts++;
			else
				vector[count++] = dev->queue[i].vector;
		}
	dev->to_signal = 0;
	pthread_mutex_unlock(&dev->lock);
	for (unsigned i = 0; i < count; i++)
		interrupt(dev, generation, vector[i], ISR_QUEUE);
}

void virtio_broken(struct virtio_device *dev, unsigned queue)
{
	uint32_t generation;
	uint16_t vector;

	pthread_mutex_lock(&dev->lock);
	generation = dev->generation;
	vector = dev->config_vector;
	/* A reset that came meanwhile has mended it. */
	if (dev->queue[queue].error)
		needs_reset(dev, queue, dev->queue[queue].error);
	pthread_mutex_unlock(&dev->lock);
	interrupt(dev, generation, vector, ISR_CONFIG);
}

bool virtio_kicks_on(struct virtio_device *dev, unsigned queue)
{
	bool more;

	pthread_mutex_lock(&dev->lock);
	more = virtio_may_work(dev) && virtq_kicks_on(&dev->queue[queue]);
	pthread_mutex_unlock(&dev->lock);
	return more;
}

bool virtio_has_feature(struct virtio_device *dev, unsigned bit)
{
	bool has;

	pthread_mutex_lock(&dev->lock);
	has = dev->driver_features >> bit & 1;
	pthread_mutex_unlock(&dev->lock);
	return has;
}

void virtio_config_changed(struct virtio_device *dev)
{
	machine_lock(dev->machine);
	dev->config_generation++;
	if (dev->status & VIRTIO_DRIVER_OK)
		virtio_pci_interrupt(dev, dev->config_vector, ISR_CONFIG);
	machine_unlock(dev->machine);
}

/* For devices with `serve`. */
static bool serve_all(struct virtio_device *dev, unsigned queue)
{
	struct virtio_request *request;

	while ((request = virtio_take(dev, queue)))
		virtio_complete(request, dev->ops->serve(dev, queue, &request->chain));
	return true;
}

static void serve_queue(struct virtio_device *dev, unsigned queue)
{
	struct virtq *q = &dev->queue[queue];
	bool wanted, drained;

	pthread_mutex_lock(&dev->lock);
	wanted = virtio_may_work(dev) && (virtq_pending(q) || has_parked(dev, queue));
	if (wanted)
		virtq_kicks_off(q);
	dev->budget = ROUND_BUDGET;
	pthread_mutex_unlock(&dev->lock);
	if (!wanted)
		return;
	drained = dev->ops->work ? dev->ops->work(dev, queue) : serve_all(dev, queue);
	dev->budget = UINT_MAX;
	virtio_signal(dev);
	/* What came meanwhile is for the next round, behind the other queues. */
	if (drained && virtio_kicks_on(dev, queue))
		worker_ring(&dev->worker);
}

static void on_work(void *opaque)
{
	struct virtio_device *dev = opaque;

	if (dev->ops->rung)
		dev->ops->rung(dev);
	/* Nobody but virtio_kick rings for what the kernel rings for itself: there is nothing to look at then. */
	do
		for (unsigned i = 0; i < dev->queues; i++)
			serve_queue(dev, i);
	while (dev->ops->looks && dev->in_flight == 0 && !dev->machine->hooks.doorbell && worker_look(&dev->worker));
}

static void own_loop(void *opaque)
{
	struct virtio_device *dev = opaque;

	dev->ops->loop(dev);
}

/* ---- the machine's lifecycle ------------------------------------------------------------ */

static void on_reset(void *opaque)
{
	struct virtio_device *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	/* machine_reset has paused us: one could not wait for the worker here, since it may want the machine lock. */
	BUG_ON(dev->in_flight);
	reset_begin(dev);
	pthread_mutex_unlock(&dev->lock);
	pci_intx_set(&dev->pci, false);
}

static void on_pause(void *opaque, bool paused)
{
	struct virtio_device *dev = opaque;

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

static void finish(struct virtio_device *dev)
{
	worker_stop(&dev->worker);
	if (dev->ops->retire)
		dev->ops->retire(dev);
	worker_finish(&dev->worker);
	free_requests(&dev->parked);
	free_requests(&dev->spare);
	pthread_cond_destroy(&dev->idle);
	pthread_mutex_destroy(&dev->lock);
}

static void on_destroy(void *opaque)
{
	struct virtio_device *dev = opaque;

	/* What is in flight ends; nothing new begins. */
	on_pause(dev, true);
	virtio_pci_unlink(dev);
	finish(dev);
	pci_unregister(&dev->pci);
	dev->ops->destroy(dev);
}

static size_t on_stats(void *opaque, struct machine_stat *ret_rows, size_t max)
{
	struct virtio_device *dev = opaque;

	return dev->ops->stats ? dev->ops->stats(dev, ret_rows, max) : 0;
}

int virtio_device_init(struct virtio_device *dev, struct machine *machine)
{
	int rc;

	BUG_ON(dev->queues > VIRTIO_QUEUES);
	dev->machine = machine;
	dev->features |= VIRTIO_VERSION_1 | VIRTIO_RING_EVENT_IDX | VIRTIO_RING_INDIRECT_DESC;
	pthread_mutex_init(&dev->lock, NULL);
	pthread_cond_init(&dev->idle, NULL);
	dev->budget = UINT_MAX;
	reset_now(dev);
	rc = worker_init(&dev->worker, on_work, dev);
	spin_init(&dev->worker.spin, machine_spin_most_ns(machine, 1));
	if (rc == 0)
		rc = virtio_pci_init(dev);
	if (rc < 0)
		goto fail;
	if (dev->ops->loop)
		dev->worker.loop = own_loop;
	if (dev->ops->prepare)
		rc = dev->ops->prepare(dev);
	if (rc == 0)
		rc = worker_run(&dev->worker, dev->ops->name);
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
	finish(dev);
	return rc;
}
