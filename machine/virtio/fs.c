/*
 * virtiofs (virtio 1.2, 5.11): a folder of the host, served by virtiofsd in a process of its own. This device hands FUSE requests
 * over, and answers those that a folder which is only to be read must not see, or that nobody serves any more.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <stdlib.h>
#include <string.h>

#include "machine/virtio/vhost_user.h"

enum { FS_HIPRIO, FS_REQUEST, FS_QUEUES };

struct virtio_fs {
	struct virtio_device dev;
	struct virtio_fs_config config;
	struct vhost_user vhost;
	bool readonly;
	struct event *called[FS_QUEUES], *ended;
	_Atomic bool was_reset;
	bool talked; /* it has requests of this driver behind it */
	bool waits[FS_QUEUES]; /* for room in our ring */
	uint8_t copy[VHOST_COPY_BYTES];
};

/* ---- answers of our own ---------------------------------------------------------------------------- */

/* error: an errno; `unique` as the request has it. FORGET and the like want no answer. */
static void refuse(struct virtio_fs *fs, struct virtio_request *request, uint64_t unique, int error)
{
	const struct fuse_out_header header = {.len = sizeof(header), .error = -error, .unique = unique};
	size_t n = 0;

	if (request->chain.writable_bytes >= sizeof(header))
		n = virtq_chain_write(fs->dev.machine, &request->chain, 0, &header, sizeof(header));
	virtio_complete(request, (uint32_t)n);
}

static void refuse_unread(struct virtio_fs *fs, struct virtio_request *request, int error)
{
	struct fuse_in_header header = {0};

	virtq_chain_read(&request->chain, 0, &header, sizeof(header));
	refuse(fs, request, header.unique, error);
}

/* What a folder that is only to be read lets through: 0, else the error that the guest gets. */
static int judge(const uint8_t *bytes, uint64_t n)
{
	const struct fuse_in_header *header = (const void *)bytes;
	const struct fuse_open_in *open = (const void *)(bytes + sizeof(*header));

	switch (header->opcode) {
	case FUSE_LOOKUP:
	case FUSE_FORGET:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_READ:
	case FUSE_STATFS:
	case FUSE_RELEASE:
	case FUSE_FSYNC:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_FLUSH:
	case FUSE_INIT:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNCDIR:
	case FUSE_ACCESS:
	case FUSE_INTERRUPT:
	case FUSE_DESTROY:
	case FUSE_BATCH_FORGET:
	case FUSE_READDIRPLUS:
	case FUSE_LSEEK: return 0;
	case FUSE_OPEN:
		if (n < sizeof(*header) + sizeof(*open))
			return EINVAL;
		return (open->flags & O_ACCMODE) == O_RDONLY && !(open->flags & (O_TRUNC | O_CREAT)) ? 0 : EROFS;
	case FUSE_SETATTR:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_WRITE:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_CREATE:
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE: return EROFS;
	default: return ENOSYS; /* a driver lives without it */
	}
}

/* ---- requests ----------------------------------------------------------------------------------------- */

static void hand_over(struct virtio_fs *fs, unsigned queue, struct virtio_request *request)
{
	uint64_t n = request->chain.readable_bytes;
	int error;

	if (n < sizeof(struct fuse_in_header)) {
		refuse(fs, request, 0, EINVAL);
		return;
	}
	fs->talked = true;
	if (!fs->readonly) {
		vhost_user_put(&fs->vhost, queue, request, NULL);
		return;
	}
	/* The server gets what was judged: the guest could change its own memory in between. */
	if (n > sizeof(fs->copy)) {
		refuse_unread(fs, request, EROFS);
		return;
	}
	virtq_chain_read(&request->chain, 0, fs->copy, n);
	error = judge(fs->copy, n);
	if (error)
		refuse(fs, request, ((struct fuse_in_header *)(void *)fs->copy)->unique, error);
	else
		vhost_user_put(&fs->vhost, queue, request, fs->copy);
}

/* The driver has begun anew, and knows nothing of the files that the one before had open. */
static void look_for_reset(struct virtio_fs *fs)
{
	struct {
		struct fuse_in_header header;
	} destroy = {.header = {.len = sizeof(destroy), .opcode = FUSE_DESTROY, .unique = UINT64_MAX}};

	if (!atomic_exchange(&fs->was_reset, false) || !fs->talked || fs->vhost.dead)
		return;
	fs->talked = false;
	vhost_user_put_own(&fs->vhost, FS_REQUEST, &destroy, sizeof(destroy), sizeof(struct fuse_out_header));
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct virtio_fs *fs = CONTAINER_OF(dev, struct virtio_fs, dev);
	struct virtio_request *request;

	look_for_reset(fs);
	while ((fs->vhost.dead || vhost_user_has_room(&fs->vhost, queue)) && (request = virtio_take(dev, queue))) {
		if (fs->vhost.dead)
			refuse_unread(fs, request, ENOTCONN);
		else
			hand_over(fs, queue, request);
	}
	if (!fs->vhost.dead)
		vhost_user_kick(&fs->vhost, queue);
	fs->waits[queue] = !fs->vhost.dead && !vhost_user_has_room(&fs->vhost, queue);
	return !fs->waits[queue];
}

static void reap(struct virtio_fs *fs, unsigned queue)
{
	struct virtio_request *request;
	uint32_t written;

	while ((request = vhost_user_take(&fs->vhost, queue, &written))) {
		virtq_chain_written(fs->dev.machine, &request->chain, 0, written);
		virtio_complete(request, written);
	}
	virtio_signal(&fs->dev);
	if (fs->waits[queue] && vhost_user_has_room(&fs->vhost, queue)) {
		fs->waits[queue] = false;
		if (virtio_kicks_on(&fs->dev, queue))
			worker_ring(&fs->dev.worker);
	}
}

static void on_called(evutil_socket_t fd, short what, void *opaque)
{
	struct virtio_fs *fs = opaque;

	/* Edge-triggered: the counters need not be read. Which queue it was costs no more to ask of both. */
	for (unsigned i = 0; i < FS_QUEUES; i++)
		reap(fs, i);
}

/* The server has nothing to say unless it is asked: it has ended. */
static void on_ended(evutil_socket_t fd, short what, void *opaque)
{
	struct virtio_fs *fs = opaque;
	struct virtio_request *request;

	event_del(fs->ended);
	on_called(-1, 0, fs);
	fs->vhost.dead = true;
	fprintf(stderr, "virtiofs %.36s: virtiofsd has ended; the guest has errors there from now on\n", (const char *)fs->config.tag);
	for (unsigned i = 0; i < FS_QUEUES; i++) {
		while ((request = vhost_user_abandon(&fs->vhost, i)))
			refuse_unread(fs, request, ENOTCONN);
		virtio_signal(&fs->dev);
		if (virtio_kicks_on(&fs->dev, i))
			worker_ring(&fs->dev.worker);
	}
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static int prepare(struct virtio_device *dev)
{
	struct virtio_fs *fs = CONTAINER_OF(dev, struct virtio_fs, dev);

	for (unsigned i = 0; i < FS_QUEUES; i++) {
		fs->called[i] = event_new(dev->worker.base, fs->vhost.ring[i].call, EV_READ | EV_PERSIST | EV_ET, on_called, fs);
		if (!fs->called[i] || event_add(fs->called[i], NULL) < 0)
			return -ENOMEM;
	}
	fs->ended = event_new(dev->worker.base, fs->vhost.socket, EV_READ | EV_PERSIST, on_ended, fs);
	return fs->ended && event_add(fs->ended, NULL) == 0 ? 0 : -ENOMEM;
}

static void retire(struct virtio_device *dev)
{
	struct virtio_fs *fs = CONTAINER_OF(dev, struct virtio_fs, dev);

	for (unsigned i = 0; i < FS_QUEUES; i++)
		if (fs->called[i])
			event_free(fs->called[i]);
	if (fs->ended)
		event_free(fs->ended);
}

/* Under dev->lock. */
static void reset(struct virtio_device *dev) { atomic_store(&CONTAINER_OF(dev, struct virtio_fs, dev)->was_reset, true); }

static void destroy(struct virtio_device *dev)
{
	struct virtio_fs *fs = CONTAINER_OF(dev, struct virtio_fs, dev);

	vhost_user_finish(&fs->vhost);
	free(fs);
}

static const struct virtio_ops fs_ops = {
	.name = "virtio-fs",
	.id = 26,
	.pci_class = 0x0180, /* mass storage, other */
	.work = work,
	.prepare = prepare,
	.retire = retire,
	.reset = reset,
	.destroy = destroy,
};

int machine_add_share(struct machine *machine, const struct machine_share *share, const char **ret_error)
{
	struct virtio_fs *fs = calloc(1, sizeof(*fs));
	int rc;

	if (!fs) {
		*ret_error = "no memory for a shared folder";
		return -ENOMEM;
	}
	rc = vhost_user_init(&fs->vhost, machine, share->socket);
	if (rc < 0) {
		*ret_error = "virtiofsd does not speak vhost-user as it should";
		free(fs);
		return rc;
	}
	memcpy(fs->config.tag, share->tag, strnlen(share->tag, sizeof(fs->config.tag)));
	fs->config.num_request_queues = 1;
	fs->readonly = share->readonly;
	fs->dev.ops = &fs_ops;
	fs->dev.queues = FS_QUEUES;
	fs->dev.config = (const uint8_t *)&fs->config;
	fs->dev.config_bytes = sizeof(fs->config);
	rc = virtio_device_init(&fs->dev, machine);
	if (rc < 0) {
		*ret_error = "a shared folder finds no place on the PCI bus";
		fs->vhost.socket = -1; /* the caller's */
		destroy(&fs->dev);
	}
	return rc;
}
