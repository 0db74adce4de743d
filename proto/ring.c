/* The last bytes of an endless stream, in a file that outlives whoever writes it. */
#include "proto/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_MAGIC 0x31676e6972767274ull /* "trvring1" */
#define HEADER_BYTES 4096

/* On this host only, so in its byte order. begun is ahead of written while bytes between the two are being written. */
struct ring_header {
	uint64_t magic, size;
	_Atomic uint64_t begun, written;
};

int ring_create(const char *path, size_t size, struct ring *ret_ring)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int rc = -posix_fallocate(fd, 0, (off_t)(HEADER_BYTES + size));
	uint8_t *base = rc ? MAP_FAILED : mmap(NULL, HEADER_BYTES + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!rc && base == MAP_FAILED)
		rc = -errno;
	close(fd);
	if (rc) {
		unlink(path);
		return rc;
	}
	struct ring_header *header = (struct ring_header *)base;
	header->size = size;
	header->magic = RING_MAGIC;
	*ret_ring = (struct ring){.header = header, .bytes = base + HEADER_BYTES, .size = size};
	return 0;
}

void ring_close(struct ring *ring)
{
	if (ring->header)
		munmap(ring->header, HEADER_BYTES + ring->size);
	*ring = (struct ring){0};
}

void ring_write(struct ring *ring, const void *bytes, size_t n)
{
	const uint8_t *from = bytes;
	uint64_t written = atomic_load_explicit(&ring->header->written, memory_order_relaxed), end = written + n;
	atomic_store(&ring->header->begun, end);
	if (n > ring->size) {
		from += n - ring->size;
		n = ring->size;
	}
	size_t at = (size_t)((end - n) % ring->size), first = ring->size - at < n ? ring->size - at : n;
	memcpy(ring->bytes + at, from, first);
	memcpy(ring->bytes, from + first, n - first);
	atomic_store(&ring->header->written, end);
}

uint64_t ring_written(const struct ring *ring)
{
	return atomic_load(&ring->header->written);
}

size_t ring_copy(const struct ring *ring, uint64_t *position, uint64_t *lost, uint8_t *to, size_t max)
{
	uint64_t written = ring_written(ring), oldest = written > ring->size ? written - ring->size : 0;
	if (*position < oldest) {
		*lost += oldest - *position;
		*position = oldest;
	}
	size_t n = written - *position < max ? (size_t)(written - *position) : max;
	size_t at = (size_t)(*position % ring->size), first = ring->size - at < n ? ring->size - at : n;
	memcpy(to, ring->bytes + at, first);
	memcpy(to + first, ring->bytes, n - first);
	return n;
}

/* ---- by others ---- */

static int read_at(int fd, void *to, size_t n, size_t at)
{
	while (n) {
		ssize_t r = pread(fd, to, n, (off_t)at);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EBADMSG;
		to = (uint8_t *)to + r;
		n -= (size_t)r;
		at += (size_t)r;
	}
	return 0;
}

static int read_header(int fd, struct ring_header *ret)
{
	int rc = read_at(fd, ret, sizeof(*ret), 0);
	if (!rc && (ret->magic != RING_MAGIC || !ret->size || ret->size > RING_SIZE_MAX))
		rc = -EBADMSG;
	return rc;
}

static int read_tail(int fd, size_t max, uint8_t **ret_bytes, size_t *ret_count, uint64_t *ret_before)
{
	struct ring_header before, after;
	int rc = read_header(fd, &before);
	if (rc)
		return rc;
	uint64_t size = before.size, end = before.written, n = end < size ? end : size;
	if (n > max)
		n = max;
	uint8_t *bytes = malloc(n ? n : 1);
	if (!bytes)
		return -ENOMEM;
	size_t at = (size_t)((end - n) % size), first = size - at < n ? (size_t)(size - at) : (size_t)n;
	rc = read_at(fd, bytes, first, HEADER_BYTES + at);
	if (!rc)
		rc = read_at(fd, bytes + first, n - first, HEADER_BYTES);
	if (!rc)
		rc = read_header(fd, &after);
	if (rc) {
		free(bytes);
		return rc;
	}
	/* What its writer has overwritten meanwhile is not what it was. */
	uint64_t kept = after.begun > size ? after.begun - size : 0, gone = kept > end - n ? kept - (end - n) : 0;
	if (gone > n)
		gone = n;
	memmove(bytes, bytes + gone, n - gone);
	*ret_bytes = bytes;
	*ret_count = (size_t)(n - gone);
	*ret_before = end - n + gone;
	return 0;
}

int ring_read_file(const char *path, size_t max, uint8_t **ret_bytes, size_t *ret_count, uint64_t *ret_before)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? read_tail(fd, max, ret_bytes, ret_count, ret_before) : -EBADMSG;
	close(fd);
	return rc;
}
