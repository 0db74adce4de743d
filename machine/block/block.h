/*
 * What a disk's bytes are in, whatever device shows it: requests go in on the device's worker, and each one's end is
 * reported there. Files and block devices (file.c, by io_uring or a pool of threads), or an NBD server (nbd.c).
 */
#ifndef MACHINE_BLOCK_BLOCK_H
#define MACHINE_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "machine/machine.h"

struct block;
struct worker;

#define BLOCK_SECTOR 512u

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZERO };

/* Owned by who submits it, untouched by it until `done` is called. */
struct block_request {
	enum block_op op;
	bool sync;  /* of a write: it is to be on stable storage when it is done */
	bool unmap; /* of BLOCK_ZERO: the space may be given back */
	uint64_t offset, bytes; /* inside the disk, multiples of BLOCK_SECTOR; not of BLOCK_FLUSH */
	struct iovec *iov;      /* of reads and writes: `bytes` altogether; changed on the way */
	unsigned iov_count;
	/* On the worker, perhaps before block_submit returns. 0 or -errno. */
	void (*done)(struct block_request *request, int result);

	/* The back end's. */
	struct block *block;
	struct block_request *next;
	uint64_t left, at; /* what is still to do, and where */
	unsigned iov_at;
	struct iovec own_iov;
	int result;
	bool direct;
	void *bounce;
};

struct block_info {
	uint64_t bytes;	    /* a multiple of BLOCK_SECTOR */
	unsigned physical;  /* bytes of what the storage writes at once; a power of two */
	bool readonly;
	bool can_discard;
	const char *engine; /* "io_uring", "threads", "nbd": for people */
};

struct block_ops {
	int (*attach)(struct block *block, struct worker *worker);
	void (*submit)(struct block *block, struct block_request *request);
	void (*commit)(struct block *block);
	void (*detach)(struct block *block);
	void (*close)(struct block *block);
};

/* Embedded in what a back end keeps. */
struct block {
	const struct block_ops *ops;
	struct block_info info;
	bool no_flush; /* cache "unsafe": a flush is done at once */
	void (*batch_done)(void *opaque);
	void *opaque;
};

/*
 * Opens what the disk names, and locks it against other VMs. 0 or -errno; *ret_error names the thing and the remedy (static
 * or in a thread-local buffer).
 */
int block_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error);
void block_close(struct block *block);

/*
 * Before the worker runs: its loop will tell of completions. batch_done follows one or more calls of done() that did not come
 * from inside submit or commit. 0 or -errno.
 */
int block_attach(struct block *block, struct worker *worker, void (*batch_done)(void *opaque), void *opaque);
/* The worker's thread has ended and no request is under way. */
void block_detach(struct block *block);

/* On the worker. What submit has taken is only sure to be on its way after commit. */
static inline void block_submit(struct block *block, struct block_request *request)
{
	request->block = block;
	if (request->op == BLOCK_FLUSH && block->no_flush)
		request->done(request, 0);
	else
		block->ops->submit(block, request);
}
static inline void block_commit(struct block *block)
{
	if (block->ops->commit)
		block->ops->commit(block);
}

/* ---- back ends -------------------------------------------------------------------- */

int block_file_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error);
/* Over a connected socket to an NBD server, which it takes over. */
int block_nbd_open(const struct machine_disk *disk, struct block **ret_block, const char **ret_error);
/* Fills a thread-local buffer, points *ret_error to it, and returns rc. */
__attribute__((format(printf, 3, 4))) int block_fail(int rc, const char **ret_error, const char *format, ...);

#endif
