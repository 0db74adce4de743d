/* virtio-blk (virtio 1.2, 5.2) over a raw file or a block device. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "machine/virtio/virtio.h"

#define SECTOR 512u
#define SEG_MAX (VIRTQ_SEGMENTS - 2) /* beside the request's header and status */
#define RANGES_MAX 16		     /* in a discard or write-zeroes request */
/* Of a discard, in sectors: bounds what one request may take. */
#define RANGE_SECTORS_MAX (1u << 21)
#define ZERO_BYTES 65536u

_Static_assert(VIRTQ_SEGMENTS <= IOV_MAX, "one preadv for a request");

#define BLK_STATS 6

struct virtio_blk {
	struct virtio_device dev;
	struct virtio_blk_config config;
	int fd;
	bool readonly;
	uint64_t sectors;
	char id[VIRTIO_BLK_ID_BYTES];
	char stat_name[BLK_STATS][40];
	/* Written by the worker, read by anyone. */
	_Atomic uint64_t reads, writes, read_bytes, written_bytes, flushes, errors;
};

static _Thread_local char error_text[512];

/* ---- requests: on the worker ------------------------------------------------ */

/* Moves all of [offset, offset + n) between the file and the chain's buffers. */
static bool transfer(struct virtio_blk *blk, const struct virtq_chain *chain, bool to_guest, uint64_t skip, uint64_t n,
		     uint64_t offset)
{
	struct iovec iov[VIRTQ_SEGMENTS];
	unsigned count = virtq_chain_iovec(chain, to_guest, skip, n, iov), at = 0;

	while (n > 0) {
		ssize_t r = to_guest ? preadv(blk->fd, &iov[at], (int)(count - at), (off_t)offset)
				     : pwritev(blk->fd, &iov[at], (int)(count - at), (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false; /* 0: the file shrank under us */
		n -= (uint64_t)r;
		offset += (uint64_t)r;
		while (at < count && (size_t)r >= iov[at].iov_len)
			r -= (ssize_t)iov[at++].iov_len;
		if (at < count) {
			iov[at].iov_base = (uint8_t *)iov[at].iov_base + r;
			iov[at].iov_len -= (size_t)r;
		}
	}
	return true;
}

static bool in_range(const struct virtio_blk *blk, uint64_t sector, uint64_t sectors)
{
	return sector <= blk->sectors && sectors <= blk->sectors - sector;
}

static uint8_t do_read(struct virtio_blk *blk, const struct virtq_chain *chain, uint64_t sector, uint32_t *ret_written)
{
	uint64_t n = chain->writable_bytes - 1;

	if (n % SECTOR != 0 || !in_range(blk, sector, n / SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (!transfer(blk, chain, true, 0, n, sector * SECTOR))
		return VIRTIO_BLK_S_IOERR;
	virtq_chain_written(blk->dev.machine, chain, 0, n);
	blk->reads++;
	blk->read_bytes += n;
	*ret_written = (uint32_t)n;
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_write(struct virtio_blk *blk, const struct virtq_chain *chain, uint64_t sector)
{
	uint64_t n = chain->readable_bytes - sizeof(struct virtio_blk_outhdr);

	if (blk->readonly || n % SECTOR != 0 || !in_range(blk, sector, n / SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (!transfer(blk, chain, false, sizeof(struct virtio_blk_outhdr), n, sector * SECTOR))
		return VIRTIO_BLK_S_IOERR;
	blk->writes++;
	blk->written_bytes += n;
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_flush(struct virtio_blk *blk)
{
	blk->flushes++;
	return fdatasync(blk->fd) == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

static uint8_t do_get_id(struct virtio_blk *blk, const struct virtq_chain *chain, uint32_t *ret_written)
{
	uint64_t n = chain->writable_bytes - 1;

	if (n > sizeof(blk->id))
		n = sizeof(blk->id);
	virtq_chain_write(blk->dev.machine, chain, 0, blk->id, n);
	*ret_written = (uint32_t)n;
	return VIRTIO_BLK_S_OK;
}

static bool write_zeros(struct virtio_blk *blk, uint64_t offset, uint64_t n)
{
	static const uint8_t zero[ZERO_BYTES];

	while (n > 0) {
		ssize_t r = pwrite(blk->fd, zero, n < ZERO_BYTES ? n : ZERO_BYTES, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		offset += (uint64_t)r;
		n -= (uint64_t)r;
	}
	return true;
}

static bool zero_range(struct virtio_blk *blk, uint64_t offset, uint64_t n, bool discard, bool unmap)
{
	int how = (discard || unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;

	if (n == 0 || fallocate(blk->fd, how, (off_t)offset, (off_t)n) == 0)
		return true;
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV)
		return false;
	/* A discard is a hint; zeros are a promise. */
	return discard || write_zeros(blk, offset, n);
}

static uint8_t do_ranges(struct virtio_blk *blk, const struct virtq_chain *chain, bool discard)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	uint64_t n = chain->readable_bytes - sizeof(struct virtio_blk_outhdr);
	unsigned count = (unsigned)(n / sizeof(range[0]));

	if (blk->readonly || n == 0 || n % sizeof(range[0]) != 0 || n > sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	virtq_chain_read(chain, sizeof(struct virtio_blk_outhdr), range, n);
	for (unsigned i = 0; i < count; i++) {
		if (range[i].flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (discard && range[i].flags != 0))
			return VIRTIO_BLK_S_UNSUPP;
		if (range[i].num_sectors > RANGE_SECTORS_MAX || !in_range(blk, range[i].sector, range[i].num_sectors))
			return VIRTIO_BLK_S_IOERR;
	}
	for (unsigned i = 0; i < count; i++) {
		if (!zero_range(blk, range[i].sector * SECTOR, (uint64_t)range[i].num_sectors * SECTOR, discard,
				range[i].flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
			return VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_OK;
}

static uint32_t serve(struct virtio_device *dev, unsigned queue, const struct virtq_chain *chain)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);
	struct virtio_blk_outhdr header;
	uint32_t written = 0;
	uint8_t status;

	/* Without room for a status there is no way to answer. */
	if (chain->writable_bytes == 0)
		return 0;
	if (virtq_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header)) {
		status = VIRTIO_BLK_S_IOERR;
		goto out;
	}
	switch (header.type) {
	case VIRTIO_BLK_T_IN: status = do_read(blk, chain, header.sector, &written); break;
	case VIRTIO_BLK_T_OUT: status = do_write(blk, chain, header.sector); break;
	case VIRTIO_BLK_T_FLUSH: status = do_flush(blk); break;
	case VIRTIO_BLK_T_GET_ID: status = do_get_id(blk, chain, &written); break;
	case VIRTIO_BLK_T_DISCARD: status = do_ranges(blk, chain, true); break;
	case VIRTIO_BLK_T_WRITE_ZEROES: status = do_ranges(blk, chain, false); break;
	default: status = VIRTIO_BLK_S_UNSUPP; break;
	}
out:
	if (status == VIRTIO_BLK_S_IOERR)
		blk->errors++;
	virtq_chain_write(dev->machine, chain, chain->writable_bytes - 1, &status, 1);
	return written + 1;
}

/* ---- life --------------------------------------------------------------------- */

static void destroy(struct virtio_device *dev)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);

	if (blk->fd >= 0)
		close(blk->fd);
	free(blk);
}

static const char *const stat_names[] = {"reads", "writes", "read_bytes", "written_bytes", "flushes", "errors"};
_Static_assert(ARRAY_SIZE(stat_names) == BLK_STATS, "a name for each");

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	struct virtio_blk *blk = CONTAINER_OF(dev, struct virtio_blk, dev);
	const uint64_t value[BLK_STATS] = {blk->reads,	       blk->writes,  blk->read_bytes,
					   blk->written_bytes, blk->flushes, blk->errors};
	size_t n = BLK_STATS < max ? BLK_STATS : max;

	for (size_t i = 0; i < n; i++)
		ret_rows[i] = (struct machine_stat){blk->stat_name[i], value[i]};
	return n;
}

/* Rows carry the disk's number, in the order in which disks were added. */
static void name_stats(struct virtio_blk *blk, const struct machine *machine)
{
	unsigned number = 0;

	for (const struct machine_device *node = machine->devices; node; node = node->next)
		number += strcmp(node->name, "virtio-blk") == 0;
	for (unsigned i = 0; i < BLK_STATS; i++)
		snprintf(blk->stat_name[i], sizeof(blk->stat_name[i]), "virtio_blk%u_%s", number, stat_names[i]);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = 2,
	.pci_class = 0x0100, /* mass storage, as firmware expects of a disk */
	.serve = serve,
	.destroy = destroy,
	.stats = stats,
};

static int fail(int error, const char **ret_error)
{
	*ret_error = error_text;
	return error;
}

static int open_disk(struct virtio_blk *blk, const struct machine_disk *disk, const char **ret_error)
{
	struct flock lock = {.l_type = disk->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
	unsigned physical = SECTOR;
	struct stat st;
	off_t size;
	int r;

	blk->fd = open(disk->path, (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (blk->fd < 0) {
		int error = errno;
		const char *remedy = error == ENOENT ? "check the path, or create it with truncate -s SIZE"
				     : error == EACCES || error == EROFS ? "change its permissions, or make the disk read-only"
									 : "see the system's log";

		snprintf(error_text, sizeof(error_text), "disk %s cannot be opened: %s; %s", disk->path, strerror(error), remedy);
		return fail(-error, ret_error);
	}
	if (fstat(blk->fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
		snprintf(error_text, sizeof(error_text), "disk %s is %s: name a raw disk image or a block device", disk->path,
			 S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
		return fail(-EINVAL, ret_error);
	}
	size = lseek(blk->fd, 0, SEEK_END);
	if (size < (off_t)SECTOR) {
		snprintf(error_text, sizeof(error_text), "disk %s has %lld bytes, less than a sector: make it larger", disk->path,
			 (long long)size);
		return fail(-EINVAL, ret_error);
	}
	/* Two machines that write one disk destroy it. */
	r = fcntl(blk->fd, F_OFD_SETLK, &lock);
	if (r < 0 && (errno == EAGAIN || errno == EACCES)) {
		snprintf(error_text, sizeof(error_text), "disk %s is in use by another VM: stop that, or make both read-only",
			 disk->path);
		return fail(-EBUSY, ret_error);
	}
	if (S_ISBLK(st.st_mode))
		(void)ioctl(blk->fd, BLKPBSZGET, &physical);
	else
		physical = (unsigned)st.st_blksize;
	blk->sectors = (uint64_t)size / SECTOR;
	blk->readonly = disk->readonly;
	if (physical < SECTOR || (physical & (physical - 1)) != 0 || physical > 1u << 20)
		physical = SECTOR;
	blk->config.physical_block_exp = (uint8_t)__builtin_ctz(physical / SECTOR);
	return 0;
}

static void fill_config(struct virtio_blk *blk)
{
	struct virtio_blk_config *config = &blk->config;

	config->capacity = blk->sectors;
	config->seg_max = SEG_MAX;
	config->blk_size = SECTOR;
	config->min_io_size = 1;
	config->opt_io_size = 0;
	config->wce = 1;
	config->num_queues = 1;
	config->max_discard_sectors = RANGE_SECTORS_MAX;
	config->max_discard_seg = RANGES_MAX;
	config->discard_sector_alignment = 8;
	config->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
	config->max_write_zeroes_seg = RANGES_MAX;
	config->write_zeroes_may_unmap = 1;
	blk->dev.config = (const uint8_t *)config;
	blk->dev.config_bytes = sizeof(*config);
	blk->dev.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
			    1ull << VIRTIO_BLK_F_FLUSH;
	blk->dev.features |= blk->readonly ? 1ull << VIRTIO_BLK_F_RO
					   : 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

/* A serial number that stays the same for a disk: the end of its file's name. */
static void fill_id(struct virtio_blk *blk, const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	size_t n = strlen(name);

	if (n > sizeof(blk->id)) {
		name += n - sizeof(blk->id);
		n = sizeof(blk->id);
	}
	memcpy(blk->id, name, n);
}

int machine_add_disk(struct machine *machine, const struct machine_disk *disk, const char **ret_error)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int rc;

	if (!blk) {
		*ret_error = "no memory for a disk";
		return -ENOMEM;
	}
	blk->fd = -1;
	rc = open_disk(blk, disk, ret_error);
	if (rc < 0)
		goto fail;
	fill_config(blk);
	fill_id(blk, disk->path);
	name_stats(blk, machine);
	blk->dev.ops = &blk_ops;
	blk->dev.queues = 1;
	rc = virtio_device_init(&blk->dev, machine);
	if (rc < 0) {
		snprintf(error_text, sizeof(error_text), "disk %s finds no place on the PCI bus: %s", disk->path, strerror(-rc));
		rc = fail(rc, ret_error);
		goto fail;
	}
	return 0;
fail:
	destroy(&blk->dev);
	return rc;
}
