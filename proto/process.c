/* A process named so that a recycled pid cannot be mistaken for it: pid and start time. */
#include "proto/process.h"

#include "proto/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int process_id_of(pid_t pid, struct process_id *ret_id)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	char *text = NULL;
	size_t bytes;
	int rc = file_read(path, 4096, &text, &bytes);
	if (rc)
		return rc == -ENOENT ? -ESRCH : rc;
	/* proc(5): the command name may hold spaces and brackets, so count from the last bracket. */
	const char *p = strrchr(text, ')');
	char state = 0;
	uint64_t start = 0;
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
			 &state, &start) != 2)
		rc = -EBADMSG;
	else if (state == 'Z' || state == 'X')
		rc = -ESRCH;
	free(text);
	if (rc)
		return rc;
	*ret_id = (struct process_id){.pid = pid, .start_time = start};
	return 0;
}

int process_id_write(const char *path, const struct process_id *id)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%d %" PRIu64 "\n", (int)id->pid, id->start_time);
	return file_write_atomic(path, text, (size_t)n, 0644);
}

int process_id_read(const char *path, struct process_id *ret_id)
{
	char *text = NULL;
	size_t bytes;
	int rc = file_read(path, 256, &text, &bytes);
	if (rc)
		return rc;
	int pid;
	uint64_t start;
	char newline = 0;
	if (sscanf(text, "%d %" SCNu64 "%c", &pid, &start, &newline) != 3 || newline != '\n' || pid <= 0)
		rc = -EBADMSG;
	else
		*ret_id = (struct process_id){.pid = pid, .start_time = start};
	free(text);
	return rc;
}

int process_id_open(const struct process_id *id)
{
	int fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
	if (fd < 0)
		return -errno;
	/* The pidfd pins whoever has the pid now; only then is the start time worth comparing. */
	struct process_id now;
	int rc = process_id_of(id->pid, &now);
	if (!rc && now.start_time != id->start_time)
		rc = -ESRCH;
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}
