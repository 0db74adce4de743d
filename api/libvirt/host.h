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
/* User and system time of a process (or, with tid, of one of its threads), ns. False when it is gone. */
bool host_process_times(int pid, int tid, uint64_t *ret_user, uint64_t *ret_system, int *ret_cpu);
/* Resident memory of a process, KiB. */
uint64_t host_process_rss(int pid);
/* The thread of that name in a process, 0 when there is none. */
int host_find_thread(int pid, const char *name);

#endif
