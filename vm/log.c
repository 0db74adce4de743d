/* The VM process's log: one line per event with its time, bounded so that no guest can fill the disk. */
#include "vm/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINES_MAX 20000

static atomic_uint lines_written;

int vm_log_open(const struct vm_options *options)
{
	if (options->foreground)
		return 0;
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_LOG, options->dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	/* Whoever started us may go away: nothing of its terminal or pipes is kept. */
	dup2(null, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	close(null);
	close(fd);
	return 0;
}

void vm_log(const char *format, ...)
{
	unsigned line = atomic_fetch_add(&lines_written, 1);
	if (line > LOG_LINES_MAX)
		return;
	char text[1024];
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	struct tm tm;
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(text, sizeof(text), "%FT%T", &tm);
	n += (size_t)snprintf(text + n, sizeof(text) - n, ".%03ldZ ", ts.tv_nsec / 1000000);
	if (line == LOG_LINES_MAX) {
		n += (size_t)snprintf(text + n, sizeof(text) - n, "the log is full; nothing more is written");
	} else {
		va_list ap;
		va_start(ap, format);
		int r = vsnprintf(text + n, sizeof(text) - n, format, ap);
		va_end(ap);
		n += r < 0 ? 0 : (size_t)r;
	}
	if (n > sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n++] = '\n';
	if (write(STDERR_FILENO, text, n) < 0)
		return; /* a full disk must not stop the VM */
}
