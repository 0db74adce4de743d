/*
 * A disk for a block front end (io/blkif.h, the x86_64 protocol), over whatever its bytes are in (machine/block).
 *
 * feature-persistent is not offered: to us a granted page costs a look at a table, and a front end with persistent grants copies
 * every byte once more. One that keeps to the same pages anyway is served as well.
 */
#include <errno.h>
#include <string.h>

#include "machine/block/disk.h"
#include "machine/xen/abi.h"
#include "machine/xen/bus.h"

#define SEGMENTS_MAX 256u /* in an indirect request */
#define RING_ORDER_MAX 4u
#define SEGMENTS_IN_PAGE (XEN_PAGE / sizeof(struct blkif_request_segment))
#define SECTORS_IN_PAGE (XEN_PAGE / BLOCK_SECTOR)
#define BUDGET 256u /* requests in a row, before the doorbell is looked at */
/* Of a discard, in sectors: bounds what one request may take. */
#define DISCARD_SECTORS_MAX (1u << 21)

_Static_assert(sizeof(union blkif_sring_entry) == 112, "the x86_64 protocol");
_Static_assert(SEGMENTS_MAX <= SEGMENTS_IN_PAGE, "one indirect page is enough");

/* A guest's request on its way. Owned by the worker. */
struct blk_request {
	struct block_request io;
	struct xen_blk *blk;
	struct blk_request *next;
	uint64_t id, began_ns;
	uint8_t operation; /* in the answer */
	bool then_write;   /* a flush goes before it */
	unsigned segments;
	struct xen_page page[SEGMENTS_MAX];
	uint8_t first[SEGMENTS_MAX], sectors[SEGMENTS_MAX];
	struct iovec iov[SEGMENTS_MAX];
};

struct xen_blk {
	struct xen_device dev;
	struct disk disk;
	struct xen_ring ring;
	bool barrier; /* one is in flight: nothing passes it */
	struct blk_request *spare, *parked;
};

static struct xen_blk *blk_of(struct xen_device *dev) { return CONTAINER_OF(dev, struct xen_blk, dev); }

/* ---- the end of a request: on the worker, under dev.lock -------------------------------------- */

static void answer(struct xen_blk *blk, uint64_t id, uint8_t operation, int16_t status)
{
	const struct blkif_response response = {.id = id, .operation = operation, .status = status};

	if (status == BLKIF_RSP_ERROR)
		blk->disk.stat[DISK_ERRORS]++;
	xen_ring_answer(&blk->ring, &response, sizeof(response));
	if (xen_ring_push(&blk->ring))
		xen_raise(&blk->dev, blk->dev.port);
}

/* The guest's pages are its own again. */
static void release(struct blk_request *r, bool written)
{
	const struct xen_host *host = &r->blk->dev.host;

	while (r->segments) {
		const struct xen_page *page = &r->page[--r->segments];

		if (written)
			host->written(host->opaque, page);
		host->unmap(host->opaque, page);
	}
	r->next = r->blk->spare;
	r->blk->spare = r;
}

static void on_done(struct block_request *io, int result)
{
	struct blk_request *r = CONTAINER_OF(io, struct blk_request, io);
	struct xen_blk *blk = r->blk;
	bool help = false;

	if (!result)
		disk_count(&blk->disk, io->op, io->bytes, r->began_ns);
	else
		help = disk_failed(&blk->disk, io, -result);
	pthread_mutex_lock(&blk->dev.lock);
	if (help) {
		struct blk_request **end = &blk->parked;

		while (*end)
			end = &(*end)->next;
		r->next = NULL;
		*end = r;
		blk->barrier = false;
		blk->dev.stalled = true;
	} else if (!result && r->then_write) {
		r->then_write = false;
		io->op = BLOCK_WRITE;
		pthread_mutex_unlock(&blk->dev.lock);
		block_submit(blk->disk.block, io);
		return;
	} else {
		if (r->operation == BLKIF_OP_WRITE_BARRIER)
			blk->barrier = false;
		release(r, io->op == BLOCK_READ);
		answer(blk, r->id, r->operation, result ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY);
	}
	xen_landed(&blk->dev);
	pthread_mutex_unlock(&blk->dev.lock);
	if (help)
		disk_tell(&blk->disk, -result);
}

/* More may wait behind what was just finished, a barrier for one. */
static void on_batch_done(void *opaque)
{
	struct xen_blk *blk = opaque;

	worker_ring(&blk->dev.worker);
}

/* ---- its beginning: under dev.lock ---------------------------------------------------------------- */

static struct blk_request *new_request(struct xen_blk *blk, uint64_t id, uint8_t operation)
{
	struct blk_request *r = blk->spare;

	if (r)
		blk->spare = r->next;
	else
		r = malloc(sizeof(*r));
	BUG_ON(!r); /* some KiB, and no more of them than the ring has entries */
	r->io = (struct block_request){.done = on_done, .iov = r->iov};
	r->blk = blk;
	r->next = NULL;
	r->id = id;
	r->began_ns = disk_now_ns();
	r->operation = operation;
	r->then_write = false;
	r->segments = 0;
	return r;
}

/* Anew each time it is tried: a back end uses it up. */
static void fill_iov(struct blk_request *r)
{
	for (unsigned i = 0; i < r->segments; i++)
		r->iov[i] = (struct iovec){r->page[i].host + r->first[i] * BLOCK_SECTOR, r->sectors[i] * BLOCK_SECTOR};
	r->io.iov_count = r->segments;
}

/* Takes the pages. False: one is not to be had, or a segment is none. */
static bool take_segments(struct blk_request *r, const struct blkif_request_segment *segment, unsigned n, bool to_guest)
{
	const struct xen_host *host = &r->blk->dev.host;

	for (unsigned i = 0; i < n; i++) {
		unsigned first = segment[i].first_sect, last = segment[i].last_sect;
		struct xen_page *page = &r->page[i];

		if (first > last || last >= SECTORS_IN_PAGE || host->map(host->opaque, segment[i].gref, to_guest, page))
			return false;
		r->segments++;
		r->first[i] = (uint8_t)first;
		r->sectors[i] = (uint8_t)(last - first + 1);
		r->io.bytes += r->sectors[i] * BLOCK_SECTOR;
	}
	fill_iov(r);
	return true;
}

/* BLKIF_RSP_OKAY: it is ready to be submitted. */
static int16_t prepare_transfer(struct blk_request *r, uint8_t op, uint64_t sector, const struct blkif_request_segment *segment, unsigned n)
{
	struct xen_blk *blk = r->blk;
	bool flushes = op == BLKIF_OP_FLUSH_DISKCACHE || op == BLKIF_OP_WRITE_BARRIER;

	if (op != BLKIF_OP_READ && blk->disk.block->info.readonly)
		return BLKIF_RSP_ERROR;
	if (!take_segments(r, segment, n, op == BLKIF_OP_READ))
		return BLKIF_RSP_ERROR;
	if (!n && !flushes)
		return BLKIF_RSP_ERROR;
	if (n && !disk_in_range(&blk->disk, sector, r->io.bytes / BLOCK_SECTOR))
		return BLKIF_RSP_ERROR;
	r->io.op = op == BLKIF_OP_READ ? BLOCK_READ : flushes ? BLOCK_FLUSH : BLOCK_WRITE;
	r->then_write = flushes && n;
	r->io.offset = n ? sector * BLOCK_SECTOR : 0;
	r->io.sync = blk->disk.writes_through || op == BLKIF_OP_WRITE_BARRIER;
	return BLKIF_RSP_OKAY;
}

static int16_t prepare_indirect(struct blk_request *r, const struct blkif_request_indirect *q)
{
	const struct xen_host *host = &r->blk->dev.host;
	struct blkif_request_segment segment[SEGMENTS_MAX];
	struct xen_page page;

	if (!q->nr_segments || q->nr_segments > SEGMENTS_MAX || (q->indirect_op != BLKIF_OP_READ && q->indirect_op != BLKIF_OP_WRITE) ||
	    host->map(host->opaque, q->indirect_grefs[0], false, &page))
		return BLKIF_RSP_ERROR;
	memcpy(segment, page.host, q->nr_segments * sizeof(segment[0]));
	/* What was copied is what counts. */
	__asm__ volatile("" ::: "memory");
	host->unmap(host->opaque, &page);
	return prepare_transfer(r, q->indirect_op, q->sector_number, segment, q->nr_segments);
}

static int16_t prepare_discard(struct blk_request *r, const struct blkif_request_discard *q)
{
	struct xen_blk *blk = r->blk;

	if (!blk->disk.block->info.can_discard || q->flag & BLKIF_DISCARD_SECURE)
		return BLKIF_RSP_EOPNOTSUPP;
	if (blk->disk.block->info.readonly || !q->nr_sectors || q->nr_sectors > DISCARD_SECTORS_MAX ||
	    !disk_in_range(&blk->disk, q->sector_number, q->nr_sectors))
		return BLKIF_RSP_ERROR;
	r->io.op = BLOCK_DISCARD;
	r->io.offset = q->sector_number * BLOCK_SECTOR;
	r->io.bytes = q->nr_sectors * BLOCK_SECTOR;
	r->io.sync = blk->disk.writes_through;
	return BLKIF_RSP_OKAY;
}

/* What the guest asks, from a copy of its request. NULL: it has been answered. */
static struct blk_request *begin(struct xen_blk *blk, const struct blkif_request *q)
{
	struct blk_request *r = new_request(blk, q->id, q->operation);
	int16_t status = BLKIF_RSP_EOPNOTSUPP;

	switch (q->operation) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
	case BLKIF_OP_WRITE_BARRIER:
	case BLKIF_OP_FLUSH_DISKCACHE:
		status = q->nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST
				 ? BLKIF_RSP_ERROR
				 : prepare_transfer(r, q->operation, q->sector_number, q->seg, q->nr_segments);
		break;
	case BLKIF_OP_INDIRECT: {
		struct blkif_request_indirect indirect;

		memcpy(&indirect, q, sizeof(indirect));
		r->id = indirect.id;
		r->operation = indirect.indirect_op; /* what the front end expects to hear of */
		status = prepare_indirect(r, &indirect);
		break;
	}
	case BLKIF_OP_DISCARD: {
		struct blkif_request_discard discard;

		memcpy(&discard, q, sizeof(discard));
		status = prepare_discard(r, &discard);
		break;
	}
	default: break;
	}
	if (status == BLKIF_RSP_OKAY)
		return r;
	release(r, false);
	answer(blk, r->id, r->operation, status);
	return NULL;
}

/* Under dev.lock: the next request to submit; NULL: none now. *ret_more: the bell need not ring for the rest. */
static struct blk_request *next(struct xen_blk *blk, bool *ret_more)
{
	struct blk_request *r = NULL;
	struct blkif_request q;

	*ret_more = false;
	while (!r && xen_may_work(&blk->dev) && !blk->barrier) {
		int waiting = xen_ring_waiting(&blk->ring);

		if (waiting < 0) {
			xen_broken(&blk->dev, "its ring has more requests than places");
			return NULL;
		}
		if (blk->parked) {
			r = blk->parked;
			blk->parked = r->next;
			fill_iov(r);
			blk->barrier = r->operation == BLKIF_OP_WRITE_BARRIER;
			break;
		}
		if (!waiting) {
			*ret_more = xen_ring_sleep(&blk->ring, 1);
			return NULL;
		}
		xen_ring_peek(&blk->ring, 0, &q, sizeof(q));
		if (q.operation == BLKIF_OP_WRITE_BARRIER && blk->dev.in_flight)
			return NULL; /* its turn comes when all before it have ended */
		xen_ring_take(&blk->ring, 1);
		r = begin(blk, &q);
		blk->barrier = r && q.operation == BLKIF_OP_WRITE_BARRIER;
	}
	if (r)
		blk->dev.in_flight++;
	return r;
}

static void work(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);
	struct blk_request *r = NULL;
	bool more = true;

	for (unsigned i = 0; i < BUDGET && (r || more); i++) {
		pthread_mutex_lock(&dev->lock);
		r = next(blk, &more);
		pthread_mutex_unlock(&dev->lock);
		if (r)
			block_submit(blk->disk.block, &r->io);
	}
	block_commit(blk->disk.block);
	/* The front end does not ring for what is left. */
	if (r || more)
		worker_ring(&dev->worker);
}

/* ---- its life in the store ------------------------------------------------------------------------------ */

static void announce(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);
	bool readonly = blk->disk.block->info.readonly;

	xen_tell_front(dev, "virtual-device", "%u", dev->number); /* Linux's wants it */
	xen_tell_front(dev, "device-type", "disk");
	xen_tell(dev, "dev", "xvd%c", (int)('a' + (dev->number >> 28 ? dev->number >> 8 & 0xff : dev->number >> 4 & 15)));
	xen_tell(dev, "removable", "0");
	xen_tell(dev, "bootable", "1");
	xen_tell(dev, "mode", readonly ? "r" : "w");
	xen_tell(dev, "device-type", "disk");
	xen_tell(dev, "type", "file");
	xen_tell(dev, "max-ring-page-order", "%u", RING_ORDER_MAX);
	xen_tell(dev, "feature-max-indirect-segments", "%u", SEGMENTS_MAX);
	xen_tell(dev, "feature-persistent", "0");
	xen_tell(dev, "feature-barrier", "%u", !readonly && !blk->disk.writes_through);
	xen_tell(dev, "feature-flush-cache", "%u", !readonly && !blk->disk.writes_through);
	xen_tell(dev, "feature-discard", "%u", !readonly && blk->disk.block->info.can_discard);
	xen_tell(dev, "discard-granularity", "%u", blk->disk.block->info.physical);
	xen_tell(dev, "discard-alignment", "0");
	xen_tell(dev, "discard-secure", "0");
}

static void describe(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);

	xen_tell(dev, "sectors", "%llu", (unsigned long long)blk->disk.sectors);
	xen_tell(dev, "info", "%u", blk->disk.block->info.readonly ? VDISK_READONLY : 0);
	xen_tell(dev, "sector-size", "%u", BLOCK_SECTOR);
	xen_tell(dev, "physical-sector-size", "%u", blk->disk.block->info.physical);
}

static bool other_protocol(struct xen_device *dev)
{
	char path[96], *protocol;
	bool other;

	snprintf(path, sizeof(path), "%s/protocol", dev->front);
	protocol = dev->host.get(dev->host.opaque, path);
	other = protocol && strcmp(protocol, "x86_64-abi") != 0;
	free(protocol);
	return other;
}

static int connect_front(struct xen_device *dev, const char **ret_why)
{
	struct xen_blk *blk = blk_of(dev);
	uint32_t reference[XEN_RING_PAGES_MAX];
	uint64_t order = 0, value;
	char name[32];
	int rc;

	if (other_protocol(dev)) {
		*ret_why = "its ring is not of the x86_64 protocol";
		return -EPROTO;
	}
	xen_front_number(dev, "ring-page-order", UINT64_MAX, &order);
	if (order > RING_ORDER_MAX) {
		*ret_why = "its ring has too many pages";
		return -EINVAL;
	}
	for (unsigned i = 0; i < 1u << order; i++) {
		snprintf(name, sizeof(name), "ring-ref%u", i);
		if (!xen_front_number(dev, name, UINT32_MAX, &value) &&
		    (order || !xen_front_number(dev, "ring-ref", UINT32_MAX, &value))) {
			*ret_why = "it does not say where its ring is";
			return -EINVAL;
		}
		reference[i] = (uint32_t)value;
	}
	rc = xen_ring_connect(&blk->ring, &dev->host, reference, 1u << order, sizeof(union blkif_sring_entry));
	if (rc) {
		*ret_why = "its ring is in no memory that it has granted, or makes no sense";
		return rc;
	}
	rc = xen_bind(dev, "event-channel", &dev->port, ret_why);
	if (rc)
		xen_ring_disconnect(&blk->ring, &dev->host);
	return rc;
}

static void disconnect(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);

	while (blk->parked) {
		struct blk_request *r = blk->parked;

		blk->parked = r->next;
		release(r, false);
	}
	blk->barrier = false;
	xen_unbind(dev, &dev->port);
	xen_ring_disconnect(&blk->ring, &dev->host);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static int prepare(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);

	return block_attach(blk->disk.block, &dev->worker, on_batch_done, blk);
}

static void retire(struct xen_device *dev) { block_detach(blk_of(dev)->disk.block); }

static void free_list(struct blk_request *list)
{
	while (list) {
		struct blk_request *r = list;

		list = r->next;
		free(r);
	}
}

static void destroy(struct xen_device *dev)
{
	struct xen_blk *blk = blk_of(dev);

	disk_close(&blk->disk);
	free_list(blk->spare);
	free_list(blk->parked);
	free(blk);
}

static size_t stats(struct xen_device *dev, struct machine_stat *ret_rows, size_t max)
{
	return disk_stats(&blk_of(dev)->disk, ret_rows, max);
}

#define BLK_OPS                                                                                                                        \
	.type = "vbd", .announce = announce, .describe = describe, .connect = connect_front, .disconnect = disconnect, .work = work,    \
	.prepare = prepare, .retire = retire, .destroy = destroy, .stats = stats
static const struct xen_ops blk_ops = {.name = "xen-blk", BLK_OPS};
/* A plain disk that is never written; by a name of its own, since errors are counted by disks. */
static const struct xen_ops cdrom_ops = {.name = "xen-cdrom", BLK_OPS};

/* xvda, xvdb, ... (vbd-interface.7): 16 minor numbers each. */
static unsigned next_number(const struct machine *machine)
{
	unsigned n = 0;

	for (const struct machine_device *node = machine->devices; node; node = node->next)
		n += !strcmp(node->name, blk_ops.name) || !strcmp(node->name, cdrom_ops.name);
	return n < 16 ? 202u << 8 | n << 4 : 1u << 28 | n << 8;
}

int xen_blk_add(struct machine *machine, const struct machine_disk *disk, bool cdrom, const char **ret_error)
{
	struct machine_disk what = *disk;
	struct xen_blk *blk;
	int rc;

	if (!disk->path[0])
		return block_fail(-ENOTSUP, ret_error, "a Xen domain's CD-ROM is a disk, not a drive: it needs a disc");
	what.readonly = disk->readonly || cdrom;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return block_fail(-ENOMEM, ret_error, "no memory for a disk");
	blk->dev.ops = cdrom ? &cdrom_ops : &blk_ops;
	blk->dev.number = next_number(machine);
	rc = disk_open(&blk->disk, machine, &what, blk->dev.ops->name, cdrom ? "xen_cdrom" : "xen_blk", ret_error);
	if (!rc && (rc = xen_device_init(&blk->dev, machine)) < 0)
		block_fail(rc, ret_error, "disk %s: %s", disk->path, strerror(-rc));
	if (rc)
		destroy(&blk->dev);
	return rc;
}
