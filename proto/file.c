/* Whole files: read with a limit, replaced atomically. */
#include "proto/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_fd(int fd, size_t max, char **ret_text, size_t *ret_bytes)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size > 0 && (uint64_t)st.st_size > max)
		return -EFBIG;
	size_t room = (size_t)st.st_size + 1, n = 0;
	char *text = malloc(room);
	if (!text)
		return -ENOMEM;
	for (;;) {
		ssize_t r = read(fd, text + n, room - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			int rc = -errno;
			free(text);
			return rc;
		}
		if (!r)
			break;
		n += (size_t)r;
		if (n < room)
			continue;
		/* It grew while being read (or is one of those whose size is 0 until read). */
		if (n > max) {
			free(text);
			return -EFBIG;
		}
		char *more = realloc(text, room * 2);
		if (!more) {
			free(text);
			return -ENOMEM;
		}
		text = more;
		room *= 2;
	}
	text[n] = '\0';
	*ret_text = text;
	*ret_bytes = n;
	return 0;
}

int file_read(const char *path, size_t max, char **ret_text, size_t *ret_bytes)
{
	/* O_NONBLOCK: a FIFO of that name must not hang us. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	int rc = read_fd(fd, max, ret_text, ret_bytes);
	close(fd);
	return rc;
}

static int write_all(int fd, const char *data, size_t bytes)
{
	while (bytes) {
		ssize_t r = write(fd, data, bytes);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		data += r;
		bytes -= (size_t)r;
	}
	return 0;
}

static int sync_parent(const char *path)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	if (!slash)
		snprintf(parent, sizeof(parent), ".");
	else if ((size_t)snprintf(parent, sizeof(parent), "%.*s", (int)(slash == path ? 1 : slash - path), path) >=
		 sizeof(parent))
		return -ENAMETOOLONG;
	int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
	close(fd);
	return rc;
}

int file_write_atomic(const char *path, const void *data, size_t bytes, unsigned permissions)
{
	char temp[PATH_MAX];
	if ((size_t)snprintf(temp, sizeof(temp), "%s.XXXXXX", path) >= sizeof(temp))
		return -ENAMETOOLONG;
	int fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = write_all(fd, data, bytes);
	if (!rc && (fchmod(fd, permissions) < 0 || fsync(fd) < 0))
		rc = -errno;
	if (close(fd) < 0 && !rc)
		rc = -errno;
	if (!rc && rename(temp, path) < 0)
		rc = -errno;
	if (rc) {
		unlink(temp);
		return rc;
	}
	return sync_parent(path);
}

int file_make_dirs(const char *path, unsigned permissions)
{
	char part[PATH_MAX];
	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
		return -ENAMETOOLONG;
	for (char *p = part + 1;; p++) {
		if (*p && *p != '/')
			continue;
		bool last = !*p;
		*p = '\0';
		struct stat st;
		if (mkdir(part, permissions) < 0) {
			if (errno != EEXIST)
				return -errno;
			if (stat(part, &st) < 0)
				return -errno;
			if (!S_ISDIR(st.st_mode))
				return -ENOTDIR;
		}
		if (last)
			return 0;
		*p = '/';
	}
}
