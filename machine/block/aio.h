/* How a file's requests are done without the worker waiting for them: io_uring, or a pool of threads. For file.c. */
#ifndef MACHINE_BLOCK_AIO_H
#define MACHINE_BLOCK_AIO_H

#include "machine/block/block.h"

struct aio;

/* The file through the page cache, and past it; -1: there is no such. */
struct aio_files {
	int cached, direct;
};

struct aio_ops {
	const char *name;
	/*
	 * Sends off one step: a read or write of iov[iov_at..] at `at`, a flush, or for BLOCK_DISCARD and BLOCK_ZERO the
	 * fallocate whose mode is `fallocate_mode`.
	 */
	void (*submit)(struct aio *aio, struct block_request *request, int fallocate_mode);
	void (*commit)(struct aio *aio);
	/* Takes what has been done: `stepped` is called for each. How many there were. On the worker. */
	unsigned (*reap)(struct aio *aio);
	/* Nothing is under way. NULL is fine. */
	void (*destroy)(struct aio *aio);
};

struct aio {
	const struct aio_ops *ops;
	int event_fd; /* readable when there is something to reap; read it first */
	struct aio_files files;
	/* result: bytes or -errno, as the system call would have it. */
	void (*stepped)(struct block_request *request, int64_t result);
};

/* 0 or -errno: this kernel (or this container) has none. */
int aio_uring_create(const struct aio_files *files, struct aio **ret_aio);
int aio_pool_create(const struct aio_files *files, struct aio **ret_aio);

#endif
