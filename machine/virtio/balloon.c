/* virtio-balloon (virtio 1.2, 5.5): memory that the guest gives back to the host, and what it says of the rest. */
#include <errno.h>
#include <event2/event.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/virtio/virtio.h"

#define INFLATE 0u
#define DEFLATE 1u
#define PAGE 4096u
/* Pages that one request gives back at most; Linux offers 256. The rest of a longer one is not taken. */
#define PAGES_MAX 16384u

enum role { ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORT, ROLE_NONE };

struct balloon {
	struct virtio_device dev;
	struct virtio_balloon_config config; /* changes under the machine lock */
	struct event *timer;
	struct virtq_chain chain; /* the worker's scratch */
	uint32_t pages[PAGES_MAX];
	_Atomic bool asked; /* somebody wants new figures */
	_Atomic unsigned period_s;
	unsigned timer_s; /* what the timer runs at; the worker's */
	_Atomic uint64_t inflated, reported; /* bytes, in all */
	pthread_mutex_t lock; /* innermost: the figures */
	struct machine_balloon_figures figures;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Drivers number the queues of what they know: behind one that they do not, the others close up. */
static enum role role_of(struct balloon *b, unsigned queue)
{
	static const struct {
		unsigned feature;
		enum role role;
	} more[] = {{VIRTIO_BALLOON_F_STATS_VQ, ROLE_STATS}, {VIRTIO_BALLOON_F_REPORTING, ROLE_REPORT}};
	unsigned at = DEFLATE;

	if (queue <= DEFLATE)
		return queue == INFLATE ? ROLE_INFLATE : ROLE_DEFLATE;
	for (size_t i = 0; i < ARRAY_SIZE(more); i++)
		if (virtio_has_feature(&b->dev, more[i].feature) && ++at == queue)
			return more[i].role;
	return ROLE_NONE;
}

/* ---- memory that comes back ---------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

/* Runs of neighbours at once: each call into the host's kernel costs more than the page. */
static void inflate(struct balloon *b, const struct virtq_chain *chain)
{
	size_t n = virtq_chain_read(chain, 0, b->pages, sizeof(b->pages)) / sizeof(b->pages[0]);

	qsort(b->pages, n, sizeof(b->pages[0]), by_number);
	for (size_t i = 0, next; i < n; i = next) {
		for (next = i + 1; next < n && b->pages[next] - b->pages[next - 1] <= 1;)
			next++;
		b->inflated += machine_ram_discard(b->dev.machine, (gpa_t)b->pages[i] * PAGE,
						   ((uint64_t)b->pages[next - 1] - b->pages[i] + 1) * PAGE);
	}
}

/* What the guest will not read before it has written it. */
static void take_report(struct balloon *b, const struct virtq_chain *chain)
{
	for (unsigned i = 0; i < chain->writable; i++) {
		const struct virtq_segment *seg = &chain->segment[chain->readable + i];

		b->reported += machine_ram_discard(b->dev.machine, seg->gpa, seg->bytes);
	}
}

/* ---- figures -------------------------------------------------------------------------------- */

static void take_figures(struct balloon *b, const struct virtq_chain *chain)
{
	struct machine_balloon_figures figures = {.time_ns = now_ns()};
	struct virtio_balloon_stat stat;

	for (uint64_t at = 0; virtq_chain_read(chain, at, &stat, sizeof(stat)) == sizeof(stat) && at < 64 * sizeof(stat); at += sizeof(stat))
		if (stat.tag < MACHINE_BALLOON_FIGURES) {
			figures.present |= 1u << stat.tag;
			figures.value[stat.tag] = stat.val;
		}
	pthread_mutex_lock(&b->lock);
	b->figures = figures;
	pthread_mutex_unlock(&b->lock);
}

/*
 * The driver's buffer with its figures stays in the ring until somebody wants new ones: giving it back is the question.
 * So nothing is under way meanwhile, and all there is to know of the device is in the ring. True: it is empty.
 */
static bool serve_figures(struct balloon *b, unsigned queue)
{
	struct virtq *q = &b->dev.queue[queue];
	enum virtq_result result;
	bool asked = atomic_exchange(&b->asked, false);

	pthread_mutex_lock(&b->dev.lock);
	result = virtio_may_work(&b->dev) ? virtq_pop(q, &b->chain) : VIRTQ_EMPTY;
	if (result == VIRTQ_CHAIN) {
		take_figures(b, &b->chain);
		if (asked) {
			virtq_push(q, b->chain.head, 0);
			b->dev.to_signal |= 1u << queue;
		} else {
			virtq_unpop(q, 1);
		}
	}
	pthread_mutex_unlock(&b->dev.lock);
	if (result == VIRTQ_BROKEN)
		virtio_broken(&b->dev, queue);
	return result == VIRTQ_EMPTY || (result == VIRTQ_CHAIN && asked);
}

static void on_timer(evutil_socket_t fd, short what, void *opaque)
{
	struct balloon *b = opaque;

	atomic_store(&b->asked, true);
	worker_ring(&b->dev.worker);
}

static void take_period(struct balloon *b)
{
	unsigned period = atomic_load(&b->period_s);
	struct timeval tv = {(time_t)period, 0};

	if (period == b->timer_s)
		return;
	b->timer_s = period;
	event_del(b->timer);
	if (period)
		event_add(b->timer, &tv);
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);
	enum role role = role_of(b, queue);
	struct virtio_request *request;

	take_period(b);
	if (role == ROLE_STATS)
		return serve_figures(b, queue);
	while ((request = virtio_take(dev, queue))) {
		if (role == ROLE_INFLATE)
			inflate(b, &request->chain);
		else if (role == ROLE_REPORT)
			take_report(b, &request->chain);
		virtio_complete(request, 0);
	}
	return true;
}

/* ---- life ------------------------------------------------------------------------------------- */

/* The driver says how many pages it has given. Under the machine lock. */
static void config_write(struct virtio_device *dev, uint64_t at, uint64_t value, unsigned size)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	if (at != offsetof(struct virtio_balloon_config, actual) || size != sizeof(b->config.actual))
		return;
	b->config.actual = (uint32_t)value;
	machine_tell(dev->machine, MACHINE_EVENT_BALLOON, 0);
}

/* Under dev.lock. What was given belongs to the guest again. */
static void reset(struct virtio_device *dev)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	b->config.actual = 0;
	pthread_mutex_lock(&b->lock);
	b->figures = (struct machine_balloon_figures){0};
	pthread_mutex_unlock(&b->lock);
}

static int prepare(struct virtio_device *dev)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	b->timer = event_new(dev->worker.base, -1, EV_PERSIST, on_timer, b);
	return b->timer ? 0 : -ENOMEM;
}

static void retire(struct virtio_device *dev)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	if (b->timer)
		event_free(b->timer);
	b->timer = NULL;
}

static void destroy(struct virtio_device *dev)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	pthread_mutex_destroy(&b->lock);
	free(b);
}

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	struct balloon *b = CONTAINER_OF(dev, struct balloon, dev);

	if (max < 2)
		return 0;
	ret_rows[0] = (struct machine_stat){"virtio_balloon_inflated_bytes", b->inflated};
	ret_rows[1] = (struct machine_stat){"virtio_balloon_reported_bytes", b->reported};
	return 2;
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = 5,
	.pci_class = 0x00ff,
	.work = work,
	.prepare = prepare,
	.retire = retire,
	.reset = reset,
	.config_write = config_write,
	.destroy = destroy,
	.stats = stats,
};

static struct balloon *find_balloon(struct machine *machine)
{
	for (struct machine_device *node = machine->devices; node; node = node->next)
		if (strcmp(node->name, balloon_ops.name) == 0)
			return CONTAINER_OF((struct virtio_device *)node->opaque, struct balloon, dev);
	return NULL;
}

static uint32_t pages_to_give(struct machine *machine, uint64_t guest_bytes)
{
	uint64_t ram = machine_ram_bytes(machine);

	return guest_bytes < ram ? (uint32_t)((ram - guest_bytes) / PAGE) : 0;
}

int machine_add_balloon(struct machine *machine, const struct machine_balloon *config, const char **ret_error)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int rc;

	if (!b) {
		*ret_error = "no memory for the balloon";
		return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	b->config.num_pages = pages_to_give(machine, config->guest_bytes);
	b->period_s = config->stats_seconds;
	b->dev.ops = &balloon_ops;
	b->dev.queues = config->free_page_reporting ? 4 : 3;
	b->dev.config = (const uint8_t *)&b->config;
	b->dev.config_bytes = offsetof(struct virtio_balloon_config, free_page_hint_cmd_id);
	b->dev.features = 1ull << VIRTIO_BALLOON_F_STATS_VQ;
	if (config->deflate_on_oom)
		b->dev.features |= 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
	if (config->free_page_reporting)
		b->dev.features |= 1ull << VIRTIO_BALLOON_F_REPORTING;
	rc = virtio_device_init(&b->dev, machine);
	if (rc < 0) {
		*ret_error = "the balloon finds no place on the PCI bus";
		destroy(&b->dev);
	}
	return rc;
}

bool machine_balloon_set(struct machine *machine, uint64_t guest_bytes)
{
	struct balloon *b = find_balloon(machine);

	if (!b)
		return false;
	machine_lock(machine);
	b->config.num_pages = pages_to_give(machine, guest_bytes);
	machine_unlock(machine);
	virtio_config_changed(&b->dev);
	return true;
}

bool machine_balloon_get(struct machine *machine, struct machine_balloon_state *ret_state)
{
	struct balloon *b = find_balloon(machine);

	if (!b)
		return false;
	machine_lock(machine);
	ret_state->guest_bytes = machine_ram_bytes(machine);
	ret_state->wished_bytes = ret_state->guest_bytes - (uint64_t)b->config.num_pages * PAGE;
	/* The driver's word, so anything. */
	ret_state->guest_bytes -= (uint64_t)b->config.actual * PAGE < ret_state->guest_bytes ? (uint64_t)b->config.actual * PAGE : 0;
	machine_unlock(machine);
	pthread_mutex_lock(&b->lock);
	ret_state->figures = b->figures;
	pthread_mutex_unlock(&b->lock);
	return true;
}

bool machine_balloon_ask(struct machine *machine, int period_s)
{
	struct balloon *b = find_balloon(machine);

	if (!b)
		return false;
	if (period_s >= 0)
		atomic_store(&b->period_s, (unsigned)period_s);
	atomic_store(&b->asked, true);
	worker_ring(&b->dev.worker);
	return true;
}
