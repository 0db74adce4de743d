/* The last bytes of an endless stream, in a file that outlives whoever writes it. */
#ifndef PROTO_RING_H
#define PROTO_RING_H

#include <stddef.h>
#include <stdint.h>

#define RING_SIZE_MAX ((size_t)64 << 20)

struct ring_header;

/* Mapped by the one process that writes it; its callers share a lock. Positions count bytes since the stream's start. */
struct ring {
	struct ring_header *header;
	uint8_t *bytes;
	size_t size;
};

/*
 * Makes the file anew (an older one goes), with all its room taken from the file system: a full one is refused here, and
 * never a fault later. size: up to RING_SIZE_MAX. 0 or -errno.
 */
int ring_create(const char *path, size_t size, struct ring *ret_ring);
/* Unmaps; the file stays. Accepts one that is all zero. */
void ring_close(struct ring *ring);
void ring_write(struct ring *ring, const void *bytes, size_t n);
/* How many bytes were ever written. */
uint64_t ring_written(const struct ring *ring);
/* Copies what follows *position; where that is overwritten already, *position moves on and *lost grows by as much. */
size_t ring_copy(const struct ring *ring, uint64_t *position, uint64_t *lost, uint8_t *to, size_t max);

/*
 * The last `max` bytes at most of a ring's file, of a writer that may be writing or may be dead; nothing in the file is
 * believed. The caller frees *ret_bytes; *ret_before is how many came before it. 0, -EBADMSG: it is none, else -errno.
 */
int ring_read_file(const char *path, size_t max, uint8_t **ret_bytes, size_t *ret_count, uint64_t *ret_before);

#endif
