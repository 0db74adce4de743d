/* A process named so that a recycled pid cannot be mistaken for it: pid and start time. */
#ifndef PROTO_PROCESS_H
#define PROTO_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process_id {
	pid_t pid;
	uint64_t start_time; /* field 22 of /proc/PID/stat, clock ticks since boot */
};

/* Of a running process. -ESRCH when there is none (or it is a zombie). */
int process_id_of(pid_t pid, struct process_id *ret_id);
/* "PID STARTTIME\n", atomically. */
int process_id_write(const char *path, const struct process_id *id);
/* -ENOENT when there is no file, -EBADMSG when it is not of that form. */
int process_id_read(const char *path, struct process_id *ret_id);
/*
 * A pidfd for exactly this process (close-on-exec), or -ESRCH when it has ended, even if the pid lives on in another.
 * Poll it for POLLIN to learn of the end.
 */
int process_id_open(const struct process_id *id);

#endif
