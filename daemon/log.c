/* The daemon's log: stderr, with journald's priority prefixes where systemd reads it. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static enum log_level threshold = LOG_LEVEL_INFO;
static bool to_journal;

static const struct {
	const char *name;
	int priority; /* syslog(3) */
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3}, [LOG_LEVEL_WARNING] = {"warning", 4}, [LOG_LEVEL_NOTICE] = {"notice", 5},
	[LOG_LEVEL_INFO] = {"info", 6},   [LOG_LEVEL_DEBUG] = {"debug", 7},
};

void log_init(void)
{
	/* systemd.exec(5): "device:inode" of the stream socket that is the journal's. */
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long device = 0, inode = 0;
	struct stat st;

	to_journal = stream && sscanf(stream, "%lu:%lu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
		     st.st_dev == device && st.st_ino == inode;
}

void log_set_level(enum log_level level)
{
	threshold = level;
}

int log_level_parse(const char *name)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(levels[i].name, name))
			return (int)i;
	return -1;
}

static size_t escape(char *to, size_t room, const char *from)
{
	size_t n = 0;

	for (; *from && n + 5 < room; from++) {
		unsigned char c = (unsigned char)*from;

		if (c < 0x20 || c == 0x7f)
			n += (size_t)snprintf(to + n, room - n, "\\x%02x", c);
		else
			to[n++] = (char)c;
	}
	return n;
}

void log_write(enum log_level level, const char *format, ...)
{
	char text[1024], line[2048];
	size_t n;
	va_list args;
	ssize_t r;

	if (level > threshold)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);

	if (to_journal) {
		n = (size_t)snprintf(line, sizeof(line), "<%d>", levels[level].priority);
	} else {
		struct timespec now;
		struct tm tm;

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
		n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ldZ trivisord[%d] %s: ", now.tv_nsec / 1000000,
				      (int)getpid(), levels[level].name);
	}
	n += escape(line + n, sizeof(line) - n - 1, text);
	line[n++] = '\n';
	/* One write, so that lines of several processes on one stderr do not mix. A full or closed stderr is no reason
	 * to stop. */
	r = write(STDERR_FILENO, line, n);
	(void)r;
}
