/* Disks behind an NBD server (libnbd): image formats that others know better, such as qcow2 with its backing files. */
#include <errno.h>
#include <event2/event.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#include "machine/block/block.h"
#include "machine/virtio/worker.h"

#define ALIGNMENT 4096u
#define REQUEST_MAX (32u << 20) /* what servers take at once, and qemu-nbd hangs up on more; Linux asks for 1.25 MiB */

struct nbd {
	struct block block;
	struct nbd_handle *handle;
	struct worker *worker;
	struct event *event;
	short waits_for; /* what the event is for now */
	bool dead;       /* said so in the log */
	bool discard, can_zero, can_flush, can_fua;
	char *name;
	/* Requests that are done, until the handle may be used again: a callback runs inside it. */
	struct block_request *done, **done_end;
	unsigned in_flight;
};

static struct nbd *of(struct block *block) { return CONTAINER_OF(block, struct nbd, block); }

/* ---- requests ---------------------------------------------------------------------- */

/* A piecewise buffer is sent as one: a request for each page costs more than a copy. */
static int prepare_buffer(struct block_request *request)
{
	uint8_t *at;

	request->bounce = NULL;
	if (request->bytes > REQUEST_MAX)
		return -EINVAL;
	if (request->iov_count == 1)
		return 0;
	at = request->bounce = malloc(request->bytes);
	if (!at)
		return -ENOMEM;
	for (unsigned i = 0; request->op == BLOCK_WRITE && i < request->iov_count; i++) {
		memcpy(at, request->iov[i].iov_base, request->iov[i].iov_len);
		at += request->iov[i].iov_len;
	}
	return 0;
}

static void finish_buffer(struct block_request *request)
{
	const uint8_t *at = request->bounce;

	for (unsigned i = 0; at && request->op == BLOCK_READ && request->result == 0 && i < request->iov_count; i++) {
		memcpy(request->iov[i].iov_base, at, request->iov[i].iov_len);
		at += request->iov[i].iov_len;
	}
	free(request->bounce);
	request->bounce = NULL;
}

static int on_complete(void *opaque, int *error)
{
	struct block_request *request = opaque;
	struct nbd *nbd = of(request->block);

	request->result = *error ? -*error : 0;
	request->next = NULL;
	*nbd->done_end = request;
	nbd->done_end = &request->next;
	return 1; /* retires the command */
}

static unsigned deliver(struct nbd *nbd)
{
	unsigned n = 0;

	while (nbd->done) {
		struct block_request *request = nbd->done;

		nbd->done = request->next;
		if (!nbd->done)
			nbd->done_end = &nbd->done;
		nbd->in_flight--;
		finish_buffer(request);
		request->done(request, request->result);
		n++;
	}
	return n;
}

/* Its server is gone: said once; every request ends with EIO from here on. */
static void look_for_death(struct nbd *nbd)
{
	if (nbd->dead || (!nbd_aio_is_dead(nbd->handle) && !nbd_aio_is_closed(nbd->handle)))
		return;
	nbd->dead = true;
	fprintf(stderr, "disk %s: its NBD server (qemu-nbd) has gone away; the guest's requests fail from now on\n", nbd->name);
}

static void watch(struct nbd *nbd);

static void on_event(evutil_socket_t fd, short what, void *opaque)
{
	struct nbd *nbd = opaque;
	unsigned direction = nbd_aio_get_direction(nbd->handle);

	if (what & EV_READ && direction & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(nbd->handle);
	else if (what & EV_WRITE && direction & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(nbd->handle);
	look_for_death(nbd);
	if (deliver(nbd) > 0)
		nbd->block.batch_done(nbd->block.opaque);
	watch(nbd);
}

/* Waits for what the protocol's state machine waits for. */
static void watch(struct nbd *nbd)
{
	unsigned direction = nbd->dead ? 0 : nbd_aio_get_direction(nbd->handle);
	short wanted = 0;

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		wanted |= EV_READ;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		wanted |= EV_WRITE;
	if (wanted == nbd->waits_for)
		return;
	event_del(nbd->event);
	nbd->waits_for = wanted;
	if (!wanted)
		return;
	event_assign(nbd->event, nbd->worker->base, nbd_aio_get_fd(nbd->handle), (short)(wanted | EV_PERSIST), on_event, nbd);
	event_add(nbd->event, NULL);
}

static int64_t start(struct nbd *nbd, struct block_request *request)
{
	const nbd_completion_callback then = {.callback = on_complete, .user_data = request};
	void *buffer = request->bounce ? request->bounce : request->iov_count ? request->iov[0].iov_base : NULL;

	switch (request->op) {
	case BLOCK_READ: return nbd_aio_pread(nbd->handle, buffer, request->bytes, request->offset, then, 0);
	case BLOCK_WRITE:
		return nbd_aio_pwrite(nbd->handle, buffer, request->bytes, request->offset, then,
				      request->sync && nbd->can_fua ? LIBNBD_CMD_FLAG_FUA : 0);
	case BLOCK_FLUSH: return nbd_aio_flush(nbd->handle, then, 0);
	case BLOCK_DISCARD: return nbd_aio_trim(nbd->handle, request->bytes, request->offset, then, 0);
	case BLOCK_ZERO:
		return nbd_aio_zero(nbd->handle, request->bytes, request->offset, then,
				    request->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
	}
	return -1;
}

static void submit(struct block *block, struct block_request *request)
{
	struct nbd *nbd = of(block);
	int rc = 0;

	if ((request->op != BLOCK_FLUSH && request->bytes == 0) || (request->op == BLOCK_FLUSH && !nbd->can_flush) ||
	    (request->op == BLOCK_DISCARD && !nbd->discard)) {
		request->done(request, 0);
		return;
	}
	request->bounce = NULL;
	if (request->op == BLOCK_READ || request->op == BLOCK_WRITE)
		rc = prepare_buffer(request);
	if (rc == 0) {
		look_for_death(nbd);
		nbd->in_flight++;
		if (nbd->dead || start(nbd, request) < 0) {
			nbd->in_flight--;
			look_for_death(nbd);
			rc = -EIO;
		}
	}
	if (rc < 0) {
		free(request->bounce);
		request->bounce = NULL;
		request->done(request, rc);
	}
}

static void commit(struct block *block)
{
	struct nbd *nbd = of(block);

	deliver(nbd);
	watch(nbd);
}

/* ---- life ---------------------------------------------------------------------------- */

static int attach(struct block *block, struct worker *worker)
{
	struct nbd *nbd = of(block);

	nbd->worker = worker;
	nbd->event = event_new(worker->base, nbd_aio_get_fd(nbd->handle), EV_READ | EV_PERSIST, on_event, nbd);
	if (!nbd->event)
		return -ENOMEM;
	watch(nbd);
	return 0;
}

static void detach(struct block *block)
{
	struct nbd *nbd = of(block);

	if (nbd->event)
		event_free(nbd->event);
	nbd->event = NULL;
}

static void close_nbd(struct block *block)
{
	struct nbd *nbd = of(block);

	if (nbd->handle && !nbd_aio_is_dead(nbd->handle) && !nbd_aio_is_closed(nbd->handle))
		nbd_shutdown(nbd->handle, 0);
	nbd_close(nbd->handle);
	free(nbd->name);
	free(nbd);
}

static const struct block_ops nbd_ops = {
	.attach = attach, .submit = submit, .commit = commit, .detach = detach, .close = close_nbd};

static int look_at_server(struct nbd *nbd, const struct machine_disk *disk)
{
	int64_t bytes = nbd_get_size(nbd->handle), preferred = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_PREFERRED);
	unsigned physical = preferred >= BLOCK_SECTOR && preferred <= 1 << 20 ? (unsigned)preferred : ALIGNMENT;

	if (bytes < BLOCK_SECTOR)
		return bytes < 0 ? -EIO : -EINVAL;
	nbd->can_zero = nbd_can_zero(nbd->handle) == 1;
	nbd->can_flush = nbd_can_flush(nbd->handle) == 1;
	nbd->can_fua = nbd_can_fua(nbd->handle) == 1;
	nbd->discard = disk->discard && nbd_can_trim(nbd->handle) == 1;
	if (!disk->readonly && nbd_is_read_only(nbd->handle) == 1)
		return -EROFS;
	nbd->block.info = (struct block_info){
		.bytes = (uint64_t)bytes / BLOCK_SECTOR * BLOCK_SECTOR,
		.physical = (physical & (physical - 1)) == 0 ? physical : ALIGNMENT,
		.readonly = disk->readonly,
		.can_discard = !disk->readonly && nbd->can_zero,
		.engine = "nbd",
	};
	return 0;
}

int block_nbd_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	int rc = -ENOMEM;

	if (nbd) {
		nbd->block.ops = &nbd_ops;
		nbd->done_end = &nbd->done;
		nbd->name = strdup(disk->path);
		nbd->handle = nbd_create();
	}
	if (!nbd || !nbd->name || !nbd->handle) {
		rc = block_fail(-ENOMEM, ret_error, "disk %s: no memory", disk->path);
		goto fail;
	}
	/* What is sent is checked by the device; and nothing says so to standard error behind our back. */
	nbd_set_strict_mode(nbd->handle, 0);
	if (nbd_connect_socket(nbd->handle, disk->nbd_fd) < 0) {
		rc = block_fail(-EIO, ret_error, "disk %s: the NBD server does not answer as one: %s", disk->path, nbd_get_error());
		goto fail;
	}
	rc = look_at_server(nbd, disk);
	if (rc == -EINVAL)
		block_fail(rc, ret_error, "disk %s is less than a sector: make it larger", disk->path);
	else if (rc == -EROFS)
		block_fail(rc, ret_error, "disk %s can only be read: make it read-only", disk->path);
	else if (rc < 0)
		block_fail(rc, ret_error, "disk %s: its NBD server does not tell its size: %s", disk->path, nbd_get_error());
	if (rc < 0)
		goto fail;
	*ret_block = &nbd->block;
	return 0;
fail:
	if (nbd)
		close_nbd(&nbd->block);
	return rc;
}
