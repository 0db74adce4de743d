/* What the kernel tells of the host's processors and memory. */
#ifndef API_LIBVIRT_HOST_H
#define API_LIBVIRT_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOST_CPUS_MAX 1024

struct host_topology {
	char arch[32];
	unsigned cpus; /* online */
	unsigned possible; /* the highest number of any, plus one */
	unsigned mhz, nodes, sockets, cores, threads; /* sockets for each node, cores for each socket, threads for each core */
	uint64_t memory_kib;
	bool online[HOST_CPUS_MAX];
};

void host_topology(struct host_topology *ret);
/* A line of /proc/meminfo ("MemFree:"), KiB; 0 when it is not there. */
uint64_t host_meminfo(const char *key);
/* /proc/stat's line of one CPU (-1: all), ns. False when there is none. */
struct host_cpu_times {
	uint64_t user, system, idle, iowait, interrupts;
};
bool host_cpu_times(int cpu, struct host_cpu_times *ret);
/* Processor time in ns: all of it (exact), and its parts (in clock ticks). */
struct host_times {
	uint64_t total, user, system;
	int cpu; /* where it ran last */
};
/* Of a process, or with tid of one of its threads. False when it is gone, and all are 0. */
bool host_process_times(int pid, int tid, struct host_times *ret);
/* Resident memory of a process, KiB. */
uint64_t host_process_rss(int pid);
struct host_thread {
	int tid;
	char name[16];
};
/* A process's threads: how many were written. */
unsigned host_threads(int pid, struct host_thread *ret_threads, unsigned max);
/* The thread of that name in a process, 0 when there is none. */
int host_find_thread(int pid, const char *name);

#endif
