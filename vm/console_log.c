/* A copy of the console's output in a file, which does not outgrow its bound. Main thread. */
#include "vm/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOVE_BYTES 65536

struct console_log {
	int fd;
	uint64_t size, limit;
	bool failed; /* told once */
};

int console_log_open(const char *path, uint64_t limit, bool append, struct console_log **ret)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (append ? 0 : O_TRUNC), 0600);
	if (fd < 0)
		return -errno;
	int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	struct console_log *log = rc ? NULL : calloc(1, sizeof(*log));
	if (!log) {
		close(fd);
		return rc ? rc : -ENOMEM;
	}
	*log = (struct console_log){.fd = fd, .size = (uint64_t)st.st_size, .limit = limit};
	*ret = log;
	return 0;
}

static bool write_at(int fd, const uint8_t *bytes, size_t n, uint64_t at)
{
	while (n) {
		ssize_t r = pwrite(fd, bytes, n, (off_t)at);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		bytes += r;
		n -= (size_t)r;
		at += (uint64_t)r;
	}
	return true;
}

/* The newer half moves to the file's start. */
static bool drop_older_half(struct console_log *log)
{
	static uint8_t buf[MOVE_BYTES];
	uint64_t keep = log->limit / 2, from = log->size > keep ? log->size - keep : 0, to = 0;
	while (from < log->size) {
		ssize_t r = pread(log->fd, buf, sizeof(buf), (off_t)from);
		if (r <= 0 || !write_at(log->fd, buf, (size_t)r, to))
			return false;
		from += (uint64_t)r;
		to += (uint64_t)r;
	}
	if (ftruncate(log->fd, (off_t)to) < 0)
		return false;
	log->size = to;
	return true;
}

void console_log_write(struct console_log *log, const uint8_t *bytes, size_t n)
{
	bool ok = log->size + n <= log->limit || drop_older_half(log);
	ok = ok && write_at(log->fd, bytes, n, log->size);
	if (ok)
		log->size += n;
	else if (!log->failed)
		vm_log("the console's log cannot be written: %s", strerror(errno));
	log->failed = !ok;
}

void console_log_close(struct console_log *log)
{
	if (!log)
		return;
	close(log->fd);
	free(log);
}
