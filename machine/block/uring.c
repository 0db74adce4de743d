/* Requests of a file through io_uring. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "machine/block/aio.h"

#define ENTRIES 256

/* Indices of the files as the ring knows them. */
enum { RING_CACHED, RING_DIRECT };

struct uring {
	struct aio aio;
	struct io_uring ring;
};

static struct uring *of(struct aio *aio) { return (struct uring *)(void *)aio; }

static struct io_uring_sqe *next_entry(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	while (!sqe) {
		/* Full: the kernel takes them all, or says that it has to be asked again. */
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

static void submit(struct aio *aio, struct block_request *request, int fallocate_mode)
{
	struct io_uring_sqe *sqe = next_entry(of(aio));
	const struct iovec *iov = request->iov + request->iov_at;
	unsigned count = request->iov_count - request->iov_at;
	int file = request->direct ? RING_DIRECT : RING_CACHED;

	switch (request->op) {
	case BLOCK_READ: io_uring_prep_readv(sqe, file, iov, count, request->at); break;
	case BLOCK_WRITE: io_uring_prep_writev2(sqe, file, iov, count, request->at, request->sync ? RWF_DSYNC : 0); break;
	case BLOCK_FLUSH: io_uring_prep_fsync(sqe, RING_CACHED, IORING_FSYNC_DATASYNC); break;
	case BLOCK_DISCARD:
	case BLOCK_ZERO:
		io_uring_prep_fallocate(sqe, RING_CACHED, fallocate_mode, (off_t)request->at, (off_t)request->left);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, request);
}

static void commit(struct aio *aio) { io_uring_submit(&of(aio)->ring); }

static unsigned reap(struct aio *aio)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (io_uring_peek_cqe(&of(aio)->ring, &cqe) == 0) {
		struct block_request *request = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&of(aio)->ring, cqe);
		aio->stepped(request, result);
		n++;
	}
	return n;
}

static void destroy(struct aio *aio)
{
	if (!aio)
		return;
	io_uring_queue_exit(&of(aio)->ring);
	if (aio->event_fd >= 0)
		close(aio->event_fd);
	free(aio);
}

static const struct aio_ops uring_ops = {
	.name = "io_uring", .submit = submit, .commit = commit, .reap = reap, .destroy = destroy};

/*
 * A system call filter does not see what a ring is asked to do. So this one is confined for good to these operations, on
 * these files: whoever takes over the process can do no more with it than with pwritev.
 */
static int restrict_ring(struct uring *u)
{
	struct io_uring_restriction may[] = {
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FALLOCATE},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE},
	};
	int fd = u->ring.ring_fd;

	/* liburing 2.3 declares functions for these two, but its shared library has them not. */
	if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, may, ARRAY_SIZE(may)) < 0 ||
	    syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	return 0;
}

int aio_uring_create(const struct aio_files *files, struct aio **ret_aio)
{
	const int fds[] = {files->cached, files->direct >= 0 ? files->direct : files->cached};
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return -ENOMEM;
	u->aio = (struct aio){.ops = &uring_ops, .files = *files, .event_fd = -1};
	rc = io_uring_queue_init(ENTRIES, &u->ring, IORING_SETUP_R_DISABLED);
	if (rc < 0) {
		free(u);
		return rc;
	}
	u->aio.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = u->aio.event_fd < 0 ? -errno : io_uring_register_eventfd(&u->ring, u->aio.event_fd);
	if (rc == 0)
		rc = io_uring_register_files(&u->ring, fds, ARRAY_SIZE(fds));
	if (rc == 0)
		rc = restrict_ring(u);
	if (rc < 0) {
		destroy(&u->aio);
		return rc;
	}
	*ret_aio = &u->aio;
	return 0;
}
