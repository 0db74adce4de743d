/* Disks in raw files and on block devices. */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/block/aio.h"
#include "machine/virtio/worker.h"

#define ZERO_BYTES 65536u

struct file {
	struct block block;
	struct aio_files fd;
	/*
	 * Holds the lock: closing it lets go of the disk at once. A ring that has been closed lets go of its files some time
	 * later, and so the next start would find the disk in use.
	 */
	int lock_fd;
	unsigned align_memory, align_offset; /* what O_DIRECT wants */
	bool no_wait; /* reads can be tried without waiting */
	bool discard;
	struct aio *aio;
	unsigned unsent; /* handed to aio since the last commit */
	struct event *event;
};

static struct file *of(struct block *block) { return CONTAINER_OF(block, struct file, block); }

int block_fail(int rc, const char **ret_error, const char *format, ...)
{
	static _Thread_local char text[PATH_MAX + 256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	*ret_error = text;
	return rc;
}

/* ---- requests -------------------------------------------------------------------- */

/*
 * The page cache takes a write, and gives what it has, in less time than it takes to hand the request to somebody else (a
 * fourth of it, measured on ext4): these the worker does itself. What waits for storage goes to aio.
 */
static int64_t try_at_once(struct file *file, struct block_request *request)
{
	const struct iovec *iov = request->iov + request->iov_at;
	int count = (int)(request->iov_count - request->iov_at);
	ssize_t r;

	if (request->op == BLOCK_WRITE && !request->sync) {
		do
			r = pwritev(file->fd.cached, iov, count, (off_t)request->at);
		while (r < 0 && errno == EINTR);
		return r < 0 ? -errno : r;
	}
	if (request->op != BLOCK_READ || !file->no_wait)
		return -EAGAIN;
	r = preadv2(file->fd.cached, iov, count, (off_t)request->at, RWF_NOWAIT);
	if (r < 0 && errno == EOPNOTSUPP)
		file->no_wait = false;
	return r < 0 ? -EAGAIN : r;
}

static bool may_go_direct(const struct file *file, const struct block_request *request)
{
	uint64_t memory = 0, length = request->at | request->left;

	if (file->fd.direct < 0 || (request->op != BLOCK_READ && request->op != BLOCK_WRITE))
		return false;
	for (unsigned i = request->iov_at; i < request->iov_count; i++) {
		memory |= (uintptr_t)request->iov[i].iov_base;
		length |= request->iov[i].iov_len;
	}
	/* A request that is aligned otherwise goes through the page cache; the kernel keeps the two coherent. */
	return memory % file->align_memory == 0 && length % file->align_offset == 0;
}

/* How fallocate is to do it: a hole, or zeros that keep their space. */
static int fallocate_mode(const struct block_request *request)
{
	bool hole = request->op == BLOCK_DISCARD || request->unmap;

	return (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

static void send_off(struct file *file, struct block_request *request)
{
	file->aio->ops->submit(file->aio, request, fallocate_mode(request));
	file->unsent++;
}

static void advance(struct block_request *request, uint64_t n)
{
	request->at += n;
	request->left -= n;
	while (request->iov_at < request->iov_count && n >= request->iov[request->iov_at].iov_len)
		n -= request->iov[request->iov_at++].iov_len;
	if (request->iov_at < request->iov_count) {
		request->iov[request->iov_at].iov_base = (uint8_t *)request->iov[request->iov_at].iov_base + n;
		request->iov[request->iov_at].iov_len -= n;
	}
}

/* Zeros where the file system knows no shorter way: written, a piece at a time. */
static void write_zeros(struct file *file, struct block_request *request)
{
	static uint8_t zero[ZERO_BYTES];

	request->op = BLOCK_WRITE;
	request->iov = &request->own_iov;
	request->iov_count = 1;
	request->iov_at = 0;
	request->own_iov = (struct iovec){zero, request->left < ZERO_BYTES ? request->left : ZERO_BYTES};
	request->direct = false;
	send_off(file, request);
}

/* One step of a transfer: its end, or the next one. */
static void transferred(struct file *file, struct block_request *request, int64_t result)
{
	if (result == -EINTR || result == -EAGAIN) {
		send_off(file, request);
	} else if (result <= 0) {
		/* 0: the file has become shorter under us. */
		request->done(request, result < 0 ? (int)result : -EIO);
	} else {
		advance(request, (uint64_t)result);
		if (request->left == 0)
			request->done(request, 0);
		else if (request->iov == &request->own_iov && request->iov_at == 1)
			write_zeros(file, request);
		else
			send_off(file, request);
	}
}

static bool not_supported(int64_t result) { return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV; }

static void stepped(struct block_request *request, int64_t result)
{
	struct file *file = of(request->block);

	switch (request->op) {
	case BLOCK_READ:
	case BLOCK_WRITE: transferred(file, request, result); break;
	case BLOCK_DISCARD: request->done(request, not_supported(result) ? 0 : (int)result); break; /* a hint */
	case BLOCK_ZERO:
		if (not_supported(result))
			write_zeros(file, request);
		else
			request->done(request, (int)result);
		break;
	case BLOCK_FLUSH: request->done(request, (int)result); break;
	}
}

static void submit(struct block *block, struct block_request *request)
{
	struct file *file = of(block);

	request->at = request->offset;
	request->left = request->bytes;
	request->iov_at = 0;
	if (request->op != BLOCK_FLUSH && request->left == 0) {
		request->done(request, 0);
		return;
	}
	if (request->op == BLOCK_DISCARD && !file->discard) {
		request->done(request, 0);
		return;
	}
	request->direct = may_go_direct(file, request);
	if (file->fd.direct < 0 && (request->op == BLOCK_READ || request->op == BLOCK_WRITE))
		transferred(file, request, try_at_once(file, request));
	else
		send_off(file, request);
}

static void commit(struct block *block)
{
	struct file *file = of(block);

	/* What is done at once may send off more: the next step of a transfer. */
	while (file->unsent > 0) {
		file->unsent = 0;
		if (file->aio->ops->commit)
			file->aio->ops->commit(file->aio);
		file->aio->ops->reap(file->aio);
	}
}

static void on_event(evutil_socket_t fd, short what, void *opaque)
{
	struct file *file = opaque;
	unsigned reaped = file->aio->ops->reap(file->aio);

	/* Edge-triggered: the counter need not be read. */
	commit(&file->block);
	if (reaped)
		file->block.batch_done(file->block.opaque);
}

/* ---- life -------------------------------------------------------------------------- */

static int attach(struct block *block, struct worker *worker)
{
	struct file *file = of(block);

	file->event = event_new(worker->base, file->aio->event_fd, EV_READ | EV_PERSIST | EV_ET, on_event, file);
	if (file->event && event_add(file->event, NULL) == 0)
		return 0;
	return -ENOMEM;
}

static void detach(struct block *block)
{
	struct file *file = of(block);

	if (file->event)
		event_free(file->event);
	file->event = NULL;
}

static void close_file(struct block *block)
{
	struct file *file = of(block);

	if (file->aio)
		file->aio->ops->destroy(file->aio);
	if (file->fd.direct >= 0)
		close(file->fd.direct);
	if (file->fd.cached >= 0)
		close(file->fd.cached);
	if (file->lock_fd >= 0)
		close(file->lock_fd);
	free(file);
}

static const struct block_ops file_ops = {
	.attach = attach, .submit = submit, .commit = commit, .detach = detach, .close = close_file};

static int open_failed(const char *path, int error, bool device, const char **ret_error)
{
	const char *remedy = "see the system's log";

	if (error == ENOENT)
		remedy = "check the path, or create it with truncate -s SIZE";
	else if (error == EACCES || error == EROFS || error == EPERM)
		remedy = "change its permissions, or make the disk read-only";
	else if (error == EISDIR || error == ENXIO) /* ENXIO: a socket, or a device without a driver */
		remedy = "name a disk image or a block device";
	else if (error == EBUSY && device)
		remedy = "the host has it mounted or uses it otherwise: unmount it first, or make the disk read-only";
	return block_fail(-error, ret_error, "disk %s cannot be opened: %s; %s", path, strerror(error), remedy);
}

static int lock_file(int fd, const struct machine_disk *disk, const char **ret_error)
{
	struct flock lock = {.l_type = disk->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	/* Two machines that write one disk destroy it. */
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES))
		return 0;
	return block_fail(-EBUSY, ret_error, "disk %s is in use by another VM: stop that, or make both read-only", disk->path);
}

static int open_direct(const struct machine_disk *disk, const char *path, int flags, int *ret_fd, const char **ret_error)
{
	*ret_fd = open(path, flags | O_DIRECT);
	if (*ret_fd < 0)
		return block_fail(-errno, ret_error, "disk %s: its file system knows no direct access (%s); choose another cache mode",
				  disk->path, strerror(errno));
	return 0;
}

static bool wants_direct(const struct machine_disk *disk)
{
	return disk->cache == MACHINE_CACHE_DIRECT || disk->cache == MACHINE_CACHE_DIRECTSYNC;
}

int machine_open_disk(const struct machine_disk *disk, int ret_fds[MACHINE_DISK_FDS], const char **ret_error)
{
	int flags = (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK, fds[MACHINE_DISK_FDS] = {-1, -1, -1}, rc;
	struct stat st = {0};
	char same[32];
	bool device;

	device = stat(disk->path, &st) == 0 && S_ISBLK(st.st_mode);
	/* Of a block device, O_EXCL asks whether the host uses it itself. */
	fds[MACHINE_DISK_LOCK] = open(disk->path, flags | (device && !disk->readonly ? O_EXCL : 0));
	if (fds[MACHINE_DISK_LOCK] < 0)
		return open_failed(disk->path, errno, device, ret_error);
	rc = 0;
	if (fstat(fds[MACHINE_DISK_LOCK], &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		rc = block_fail(-EINVAL, ret_error, "disk %s is %s: name a disk image or a block device", disk->path,
				S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
	if (rc == 0)
		rc = lock_file(fds[MACHINE_DISK_LOCK], disk, ret_error);
	snprintf(same, sizeof(same), "/proc/self/fd/%d", fds[MACHINE_DISK_LOCK]);
	if (rc == 0) {
		fds[MACHINE_DISK_CACHED] = open(same, flags);
		if (fds[MACHINE_DISK_CACHED] < 0)
			rc = open_failed(disk->path, errno, device, ret_error);
	}
	if (rc == 0 && wants_direct(disk))
		rc = open_direct(disk, same, flags, &fds[MACHINE_DISK_DIRECT], ret_error);
	for (unsigned i = 0; i < MACHINE_DISK_FDS; i++) {
		if (rc == 0)
			ret_fds[i] = fds[i];
		else if (fds[i] >= 0)
			close(fds[i]);
	}
	return rc;
}

/* What the open files are. */
static int look_at_files(struct file *file, const struct machine_disk *disk, const char **ret_error)
{
	unsigned physical = BLOCK_SECTOR;
	struct stat st = {0};
	off_t size = lseek(file->fd.cached, 0, SEEK_END);

	if (size < (off_t)BLOCK_SECTOR || fstat(file->fd.cached, &st) < 0)
		return block_fail(-EINVAL, ret_error, "disk %s has %lld bytes, less than a sector: make it larger", disk->path,
				  (long long)size);
	file->align_memory = file->align_offset = 4096;
#ifdef STATX_DIOALIGN
	struct statx about;

	if (file->fd.direct >= 0 && statx(file->fd.direct, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 &&
	    about.stx_mask & STATX_DIOALIGN && about.stx_dio_mem_align && about.stx_dio_offset_align) {
		file->align_memory = about.stx_dio_mem_align;
		file->align_offset = about.stx_dio_offset_align;
	}
#endif
	if (S_ISBLK(st.st_mode))
		(void)ioctl(file->fd.cached, BLKPBSZGET, &physical);
	else
		physical = (unsigned)st.st_blksize;
	if (physical < BLOCK_SECTOR || (physical & (physical - 1)) != 0 || physical > 1u << 20)
		physical = BLOCK_SECTOR;
	file->no_wait = true;
	file->block.info = (struct block_info){
		.bytes = (uint64_t)size / BLOCK_SECTOR * BLOCK_SECTOR,
		.physical = physical,
		.readonly = disk->readonly,
		.can_discard = !disk->readonly,
	};
	return 0;
}

static int open_files(struct file *file, const struct machine_disk *disk, const char **ret_error)
{
	int fds[MACHINE_DISK_FDS], rc = 0;

	if (disk->opened)
		memcpy(fds, disk->fds, sizeof(fds));
	else
		rc = machine_open_disk(disk, fds, ret_error);
	if (rc < 0)
		return rc;
	file->lock_fd = fds[MACHINE_DISK_LOCK];
	file->fd.cached = fds[MACHINE_DISK_CACHED];
	file->fd.direct = fds[MACHINE_DISK_DIRECT];
	return look_at_files(file, disk, ret_error);
}

int block_file_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error)
{
	struct file *file = calloc(1, sizeof(*file));
	int rc;

	if (!file)
		return block_fail(-ENOMEM, ret_error, "disk %s: no memory", disk->path);
	file->block.ops = &file_ops;
	file->fd = (struct aio_files){-1, -1};
	file->lock_fd = -1;
	file->discard = disk->discard;
	rc = open_files(file, disk, ret_error);
	if (rc < 0) {
		close_file(&file->block);
		return rc;
	}
	if (disk->no_io_uring || aio_uring_create(&file->fd, &file->aio) < 0)
		rc = aio_pool_create(&file->fd, &file->aio);
	if (rc < 0) {
		close_file(&file->block);
		return block_fail(rc, ret_error, "disk %s: no threads for its requests: %s", disk->path, strerror(-rc));
	}
	file->aio->stepped = stepped;
	file->block.info.engine = file->aio->ops->name;
	*ret_block = &file->block;
	return 0;
}

/* ---- what all back ends share ---------------------------------------------------------- */

int block_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error)
{
	struct block *block = NULL;
	int rc = disk->nbd ? block_nbd_open(disk, &block, ret_error) : block_file_open(disk, &block, ret_error);

	if (rc < 0)
		return rc;
	block->no_flush = disk->cache == MACHINE_CACHE_UNSAFE;
	*ret_block = block;
	return 0;
}

void block_close(struct block *block)
{
	if (block)
		block->ops->close(block);
}

int block_attach(struct block *block, struct worker *worker, void (*batch_done)(void *opaque), void *opaque)
{
	block->batch_done = batch_done;
	block->opaque = opaque;
	return block->ops->attach(block, worker);
}

void block_detach(struct block *block)
{
	if (block)
		block->ops->detach(block);
}
