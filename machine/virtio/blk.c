/* virtio-blk (virtio 1.2, 5.2) over whatever the disk's bytes are in (machine/block). */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "machine/block/disk.h"
#include "machine/virtio/virtio.h"
#include "machine/xen/bus.h"

#define SEG_MAX (VIRTQ_SEGMENTS - 2) /* beside the request's header and status */
#define RANGES_MAX 16		     /* in a discard or write-zeroes request */
/* Of a discard, in sectors: bounds what one request may take. */
#define RANGE_SECTORS_MAX (1u << 21)
#define QUEUES_MAX 16u
/* Completions between two looks at whether the driver wants to hear of them, while requests still come. */
#define SIGNAL_EVERY 8
struct virtio_blk {
	struct virtio_device dev;
	struct virtio_blk_config config;
	struct disk disk;
	char id[VIRTIO_BLK_ID_BYTES];
	/* The worker's. */
	struct blk_request *spare;
	unsigned unsignalled;
};

/* A guest's request on its way. Owned by the worker. */
struct blk_request {
	struct block_request io;
	struct virtio_blk *blk;
	struct virtio_request *request;
	struct blk_request *next;
	uint64_t began_ns, bytes;
	uint32_t type;
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	unsigned ranges, range_at;
	struct iovec iov[VIRTQ_SEGMENTS];
};

/* ---- the end of a request: on the worker ---------------------------------------- */

static void answer(struct virtio_blk *blk, struct virtio_request *request, uint8_t status, uint32_t written)
{
	const struct virtq_chain *chain = &request->chain;

	if (status == VIRTIO_BLK_S_IOERR)
		blk->disk.stat[DISK_ERRORS]++;
	/* Without room for a status there is no way to answer. */
	if (chain->writable_bytes > 0) {
		virtq_chain_write(blk->dev.machine, chain, chain->writable_bytes - 1, &status, 1);
		written++;
	}
	virtio_complete(request, written);
	if (++blk->unsignalled >= SIGNAL_EVERY) {
		blk->unsignalled = 0;
		virtio_signal(&blk->dev);
	}
}

static bool next_range(struct blk_request *r);

static void on_done(struct block_request *io, int result)
{
	struct blk_request *r = CONTAINER_OF(io, struct blk_request, io);
	struct virtio_blk *blk = r->blk;
	struct virtio_request *request = r->request;
	uint32_t written = 0;

	if (result == 0 && r->ranges && next_range(r))
		return;
	if (result == 0) {
		disk_count(&blk->disk, io->op, r->bytes, r->began_ns);
		if (r->type == VIRTIO_BLK_T_IN) {
			virtq_chain_written(blk->dev.machine, &request->chain, 0, r->bytes);
			written = (uint32_t)r->bytes;
		}
	}
	r->next = blk->spare;
	blk->spare = r;
	if (result == 0) {
		answer(blk, request, VIRTIO_BLK_S_OK, written);
	} else if (disk_failed(&blk->disk, io, -result)) {
		virtio_park(request);
		disk_tell(&blk->disk, -result);
	} else {
		answer(blk, request, VIRTIO_BLK_S_IOERR, 0);
	}
}

static void on_batch_done(void *opaque)
{
	struct virtio_blk *blk = opaque;

	blk->unsignalled = 0;
	virtio_signal(&blk->dev);
}

/* ---- its beginning ------------------------------------------------------------------ */

static struct blk_request *new_request(struct virtio_blk *blk, struct virtio_request *request, uint32_t type)
{
	struct blk_request *r = blk->spare;

	if (r)
		blk->spare = r->next;
	else
		r = malloc(sizeof(*r));
	BUG_ON(!r); /* some KiB, and no more of them than rings have entries */
	r->io = (struct block_request){.done = on_done, .iov = r->iov};
	r->blk = blk;
	r->request = request;
	r->type = type;
	r->bytes = 0;
	r->ranges = r->range_at = 0;
	r->began_ns = disk_now_ns();
	return r;
}

static uint8_t transfer(struct virtio_blk *blk, struct virtio_request *request, const struct virtio_blk_outhdr *header)
{
	const struct virtq_chain *chain = &request->chain;
	bool to_guest = header->type == VIRTIO_BLK_T_IN;
	uint64_t skip = to_guest ? 0 : sizeof(*header), n = to_guest ? chain->writable_bytes - 1 : chain->readable_bytes - skip;
	struct blk_request *r;

	if (n % BLOCK_SECTOR != 0 || !disk_in_range(&blk->disk, header->sector, n / BLOCK_SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (!to_guest && blk->disk.block->info.readonly)
		return VIRTIO_BLK_S_IOERR;
	r = new_request(blk, request, header->type);
	r->bytes = r->io.bytes = n;
	r->io.op = to_guest ? BLOCK_READ : BLOCK_WRITE;
	r->io.offset = header->sector * BLOCK_SECTOR;
	r->io.iov_count = virtq_chain_iovec(chain, to_guest, skip, n, r->iov);
	/* A driver that does not know how to flush takes a write for a lasting one. */
	r->io.sync = !virtio_has_feature(&blk->dev, VIRTIO_BLK_F_FLUSH);
	block_submit(blk->disk.block, &r->io);
	return VIRTIO_BLK_S_OK;
}

static uint8_t flush(struct virtio_blk *blk, struct virtio_request *request)
{
	struct blk_request *r = new_request(blk, request, VIRTIO_BLK_T_FLUSH);

	r->io.op = BLOCK_FLUSH;
	block_submit(blk->disk.block, &r->io);
	return VIRTIO_BLK_S_OK;
}

/* Ranges one after the other. False: that was the last one. */
static bool next_range(struct blk_request *r)
{
	const struct virtio_blk_discard_write_zeroes *range = &r->range[r->range_at];

	if (r->range_at == r->ranges)
		return false;
	r->range_at++;
	r->io.op = r->type == VIRTIO_BLK_T_DISCARD ? BLOCK_DISCARD : BLOCK_ZERO;
	r->io.unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	r->io.sync = !virtio_has_feature(&r->blk->dev, VIRTIO_BLK_F_FLUSH);
	r->io.offset = range->sector * BLOCK_SECTOR;
	r->io.bytes = (uint64_t)range->num_sectors * BLOCK_SECTOR;
	r->io.iov = r->iov;
	r->io.iov_count = 0;
	r->bytes += r->io.bytes;
	block_submit(r->blk->disk.block, &r->io);
	return true;
}

static uint8_t ranges(struct virtio_blk *blk, struct virtio_request *request, uint32_t type)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	uint64_t n = request->chain.readable_bytes - sizeof(struct virtio_blk_outhdr);
	bool discard = type == VIRTIO_BLK_T_DISCARD;
	struct blk_request *r;

	if (!blk->disk.block->info.can_discard)
		return VIRTIO_BLK_S_UNSUPP;
	if (n == 0 || n % sizeof(range[0]) != 0 || n > sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	virtq_chain_read(&request->chain, sizeof(struct virtio_blk_outhdr), range, n);
	n /= sizeof(range[0]);
	for (unsigned i = 0; i < n; i++) {
		if (range[i].flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (discard && range[i].flags != 0))
			return VIRTIO_BLK_S_UNSUPP;
		if (range[i].num_sectors > RANGE_SECTORS_MAX || !disk_in_range(&blk->disk, range[i].sector, range[i].num_sectors))
			return VIRTIO_BLK_S_IOERR;
	}
	r = new_request(blk, request, type);
	memcpy(r->range, range, n * sizeof(range[0]));
	r->ranges = (unsigned)n;
	next_range(r);
	return VIRTIO_BLK_S_OK;
}

static void get_id(struct virtio_blk *blk, struct virtio_request *request)
{
	uint64_t n = request->chain.writable_bytes - 1;

	if (n > sizeof(blk->id))
		n = sizeof(blk->id);
	virtq_chain_write(blk->dev.machine, &request->chain, 0, blk->id, n);
	answer(blk, request, VIRTIO_BLK_S_OK, (uint32_t)n);
}

static void begin(struct virtio_blk *blk, struct virtio_request *request)
{
	struct virtio_blk_outhdr header;
	uint8_t status = VIRTIO_BLK_S_IOERR;

	if (request->chain.writable_bytes > 0 && virtq_chain_read(&request->chain, 0, &header, sizeof(header)) == sizeof(header)) {
		switch (header.type) {
		case VIRTIO_BLK_T_IN:
		case VIRTIO_BLK_T_OUT: status = transfer(blk, request, &header); break;
		case VIRTIO_BLK_T_FLUSH: status = flush(blk, request); break;
		case VIRTIO_BLK_T_DISCARD:
		case VIRTIO_BLK_T_WRITE_ZEROES: status = ranges(blk, request, header.type); break;
		case VIRTIO_BLK_T_GET_ID: get_id(blk, request); return;
		default: status = VIRTIO_BLK_S_UNSUPP; break;
		}
	}
	if (status != VIRTIO_BLK_S_OK)
		answer(blk, request, status, 0);
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);
	struct virtio_request *request;

	while ((request = virtio_take(dev, queue)))
		begin(blk, request);
	block_commit(blk->disk.block);
	blk->unsignalled = 0;
	return true;
}

/* ---- life --------------------------------------------------------------------- */

static int prepare(struct virtio_device *dev)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);

	return block_attach(blk->disk.block, &dev->worker, on_batch_done, blk);
}

static void retire(struct virtio_device *dev) { block_detach(CONTAINER_OF(dev, struct virtio_blk, dev)->disk.block); }

static void destroy(struct virtio_device *dev)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);

	disk_close(&blk->disk);
	while (blk->spare) {
		struct blk_request *r = blk->spare;

		blk->spare = r->next;
		free(r);
	}
	free(blk);
}

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	return disk_stats(&CONTAINER_OF(dev, struct virtio_blk, dev)->disk, ret_rows, max);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = 2,
	.pci_class = 0x0100, /* mass storage, as firmware expects of a disk */
	.work = work,
	.looks = true,
	.prepare = prepare,
	.retire = retire,
	.destroy = destroy,
	.stats = stats,
};

static void fill_config(struct virtio_blk *blk)
{
	struct virtio_blk_config *config = &blk->config;

	config->capacity = blk->disk.sectors;
	config->seg_max = SEG_MAX;
	config->blk_size = BLOCK_SECTOR;
	config->physical_block_exp = (uint8_t)__builtin_ctz(blk->disk.block->info.physical / BLOCK_SECTOR);
	config->min_io_size = 1;
	config->opt_io_size = 0;
	config->wce = !blk->disk.writes_through;
	config->num_queues = (uint16_t)blk->dev.queues;
	config->max_discard_sectors = RANGE_SECTORS_MAX;
	config->max_discard_seg = RANGES_MAX;
	config->discard_sector_alignment = 8;
	config->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
	config->max_write_zeroes_seg = RANGES_MAX;
	config->write_zeroes_may_unmap = 1;
	blk->dev.config = (const uint8_t *)config;
	blk->dev.config_bytes = sizeof(*config);
	blk->dev.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY;
	/* Without it there is no cache that would need flushing: every write is a lasting one. */
	if (!blk->disk.writes_through)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_FLUSH;
	if (blk->dev.queues > 1)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_MQ;
	if (blk->disk.block->info.readonly)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_RO;
	if (blk->disk.block->info.can_discard)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

/* A serial number: the disk's own, or one that stays the same for it, the end of its file's name. */
static void fill_id(struct virtio_blk *blk, const struct machine_disk *disk)
{
	const char *slash = strrchr(disk->path, '/'), *name = slash ? slash + 1 : disk->path;
	size_t n;

	if (disk->serial)
		name = disk->serial;
	n = strlen(name);
	if (n > sizeof(blk->id)) {
		name += n - sizeof(blk->id);
		n = sizeof(blk->id);
	}
	memcpy(blk->id, name, n);
}

static int virtio_blk_add(struct machine *machine, const struct machine_disk *disk, const char **ret_error)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int rc;

	if (!blk)
		return block_fail(-ENOMEM, ret_error, "no memory for a disk");
	rc = disk_open(&blk->disk, machine, disk, blk_ops.name, "virtio_blk", ret_error);
	if (rc < 0)
		goto fail;
	blk->dev.machine = machine;
	blk->dev.ops = &blk_ops;
	blk->dev.queues = machine_vcpus(machine) < QUEUES_MAX ? machine_vcpus(machine) : QUEUES_MAX;
	fill_config(blk);
	fill_id(blk, disk);
	rc = virtio_device_init(&blk->dev, machine);
	if (rc < 0) {
		block_fail(rc, ret_error, "disk %s finds no place on the PCI bus: %s", disk->path, strerror(-rc));
		goto fail;
	}
	return 0;
fail:
	destroy(&blk->dev);
	return rc;
}

int machine_add_disk(struct machine *machine, const struct machine_disk *disk, const char **ret_error)
{
	return machine->config.xen ? xen_blk_add(machine, disk, false, ret_error) : virtio_blk_add(machine, disk, ret_error);
}
