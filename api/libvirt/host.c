/* What the kernel tells of the host's processors and memory. */
#include "api/libvirt/host.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

/* The first number in a file of sysfs; otherwise when there is none. */
static long read_number(const char *path, long otherwise)
{
	FILE *f = fopen(path, "re");
	long n = otherwise;

	if (f) {
		if (fscanf(f, "%ld", &n) != 1)
			n = otherwise;
		fclose(f);
	}
	return n;
}

/* "0-3,5" into a map; the highest number plus one. */
static unsigned read_cpu_list(const char *path, bool *map)
{
	FILE *f = fopen(path, "re");
	unsigned first, last, highest = 0;
	int c = ',';

	if (!f)
		return 0;
	while (c == ',' && fscanf(f, "%u", &first) == 1) {
		last = first;
		c = fgetc(f);
		if (c == '-' && fscanf(f, "%u", &last) == 1)
			c = fgetc(f);
		for (unsigned i = first; i <= last && i < HOST_CPUS_MAX; i++) {
			if (map)
				map[i] = true;
			highest = i + 1 > highest ? i + 1 : highest;
		}
	}
	fclose(f);
	return highest;
}

/* How many different values sysfs gives for the online CPUs. */
static unsigned count_distinct(const struct host_topology *t, const char *file, unsigned socket)
{
	long seen[HOST_CPUS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < HOST_CPUS_MAX; i++) {
		char path[128];
		unsigned j = 0;
		long value, package;

		if (!t->online[i])
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/physical_package_id", i);
		package = read_number(path, 0);
		if (socket != HOST_CPUS_MAX && package != (long)socket)
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/%s", i, file);
		value = read_number(path, i);
		while (j < n && seen[j] != value)
			j++;
		if (j == n)
			seen[n++] = value;
	}
	return n ? n : 1;
}

static unsigned read_mhz(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];
	double mhz = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "cpu MHz : %lf", &mhz) == 1)
			break;
	if (f)
		fclose(f);
	return (unsigned)mhz;
}

void host_topology(struct host_topology *ret)
{
	struct utsname name;

	memset(ret, 0, sizeof(*ret));
	snprintf(ret->arch, sizeof(ret->arch), "%.31s", uname(&name) == 0 ? name.machine : "x86_64");
	read_cpu_list("/sys/devices/system/cpu/online", ret->online);
	ret->possible = read_cpu_list("/sys/devices/system/cpu/present", NULL);
	for (unsigned i = 0; i < HOST_CPUS_MAX; i++)
		ret->cpus += ret->online[i];
	if (!ret->cpus) { /* no sysfs in some containers */
		long n = sysconf(_SC_NPROCESSORS_ONLN);

		for (long i = 0; i < n && i < HOST_CPUS_MAX; i++)
			ret->online[i] = true;
		ret->cpus = n > 0 ? (unsigned)n : 1;
	}
	ret->possible = ret->possible < ret->cpus ? ret->cpus : ret->possible;
	ret->mhz = read_mhz();
	ret->nodes = 1;
	ret->sockets = count_distinct(ret, "physical_package_id", HOST_CPUS_MAX);
	ret->cores = count_distinct(ret, "core_id", (unsigned)read_number(
						"/sys/devices/system/cpu/cpu0/topology/physical_package_id", 0));
	ret->threads = ret->cpus / (ret->sockets * ret->cores);
	/* The product must be the number of CPUs: libvirt says so, and clients multiply. */
	if (!ret->threads || ret->threads * ret->cores * ret->sockets != ret->cpus) {
		ret->sockets = ret->threads = 1;
		ret->cores = ret->cpus;
	}
	ret->memory_kib = host_meminfo("MemTotal:");
}

uint64_t host_meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	uint64_t kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key))) {
			kib = strtoull(line + strlen(key), NULL, 10);
			break;
		}
	if (f)
		fclose(f);
	return kib;
}

bool host_cpu_times(int cpu, struct host_cpu_times *ret)
{
	FILE *f = fopen("/proc/stat", "re");
	unsigned long long user, nice, system, idle, iowait, irq, softirq;
	uint64_t tick = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
	char line[512], want[16];
	bool found = false;

	snprintf(want, sizeof(want), cpu < 0 ? "cpu " : "cpu%d ", cpu);
	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, want, strlen(want)) &&
			sscanf(line + strlen(want), "%llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
			       &iowait, &irq, &softirq) == 7;
	if (f)
		fclose(f);
	if (found)
		*ret = (struct host_cpu_times){.user = (user + nice) * tick,
					       .system = (system + irq + softirq) * tick,
					       .idle = idle * tick,
					       .iowait = iowait * tick};
	return found;
}

/* A thread's time on processors, ns (Documentation/scheduler/sched-stats). */
static uint64_t thread_time(int pid, int tid)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &ns) != 1)
		ns = 0;
	if (f)
		fclose(f);
	return ns;
}

static uint64_t process_time(int pid)
{
	struct timespec ts;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

bool host_process_times(int pid, int tid, struct host_times *ret)
{
	uint64_t tick = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
	unsigned long long user, system;
	char path[64], line[1024], *at;
	int cpu = 0;
	FILE *f;

	*ret = (struct host_times){0};
	if (tid)
		snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	else
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	/* Behind the name, which may hold anything: fields 3 and on; 14 and 15 are the times, 39 the processor. */
	if (fgets(line, sizeof(line), f) && (at = strrchr(line, ')')) &&
	    sscanf(at + 1,
		   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %*u %*u %*d %*u %*u "
		   "%*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d %d",
		   &user, &system, &cpu) >= 2) {
		ret->user = user * tick;
		ret->system = system * tick;
		ret->cpu = cpu;
		ret->total = tid ? thread_time(pid, tid) : process_time(pid);
		if (!ret->total) /* a kernel without these */
			ret->total = ret->user + ret->system;
	}
	fclose(f);
	return ret->total != 0;
}

uint64_t host_process_rss(int pid)
{
	unsigned long long pages = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%*u %llu", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	return pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}

unsigned host_threads(int pid, struct host_thread *ret_threads, unsigned max)
{
	char path[320];
	struct dirent *entry;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && n < max && (entry = readdir(dir))) {
		struct host_thread *t = &ret_threads[n];
		FILE *f;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", pid, entry->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		t->tid = atoi(entry->d_name);
		if (fgets(t->name, sizeof(t->name), f)) {
			t->name[strcspn(t->name, "\n")] = '\0';
			n++;
		}
		fclose(f);
	}
	if (dir)
		closedir(dir);
	return n;
}

int host_find_thread(int pid, const char *name)
{
	struct host_thread threads[64];
	unsigned n = host_threads(pid, threads, 64);

	for (unsigned i = 0; i < n; i++)
		if (!strcmp(threads[i].name, name))
			return threads[i].tid;
	return 0;
}
