/* What the benchmark's guest program is made of: workloads, each a function that does a given number of operations. */
#ifndef BENCH_GUEST_H
#define BENCH_GUEST_H

#include <stdint.h>

struct workload {
	const char *name;
	const char *group;
	/* What one operation is made of: so many of these. Times are printed for one unit. */
	uint64_t units;
	const char *unit;
	/* Called once, not timed. May be NULL. */
	void (*prepare)(void);
	/* Does this many operations; the result depends on what was computed, and on nothing else. */
	uint64_t (*run)(uint64_t operations);
};

/* Each file's workloads; a name of NULL ends them. */
extern const struct workload integer_workloads[];
extern const struct workload realistic_workloads[];
extern const struct workload floating_workloads[];
extern const struct workload vector_workloads[];
extern const struct workload memory_workloads[];
extern const struct workload system_workloads[];
extern const struct workload smp_workloads[];
extern const struct workload disk_workloads[];
extern const struct workload net_workloads[];

/*
 * Programs of a root file system. The root is a block device with ext4 on it, which is mounted, or natively a folder. Then
 * what to read before the next program, paths separated by blanks; and "output" or "status", whether what it prints counts
 * as its result, with the arguments behind it; the string is changed. programs_arguments returns NULL or what is wrong.
 */
void programs_root(const char *path, int native);
void programs_read(const char *paths);
const char *programs_arguments(char *words);
extern const struct workload programs_workload;

/* The modules that a stock kernel needs for disks, and /dev; once. Not natively. */
void programs_devices(void);

/* The block device, or natively the file, that the group `disk` works on. The string is copied. */
void disk_is(const char *name);

/*
 * "user|switch INTERFACE OWN_ADDRESS ADDRESS PORT": gives the interface its address (not natively), and names whom its rows
 * talk to. Then "INTERFACE OWN_ADDRESS PORT" of a guest that is only there to answer, for ever.
 */
void net_is(const char *line, int native);
void net_serve(const char *line);

/* How many processors there are to use: at most 64. */
unsigned guest_processors(void);

/* One job of the workload `processes`, as a program of its own; returns its exit status. */
int guest_one_job(const char *number);

/* The program's own path, for the workload that executes it again. */
extern const char *guest_self;

/* Prints what failed, with errno, and ends this process: a workload that cannot run is no result. */
_Noreturn void guest_die(const char *what);

/* Memory that is there (touched) and starts on a page. Never returns NULL. */
void *guest_alloc(uint64_t bytes);

/* A small generator, the same on every machine. */
static inline uint32_t guest_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static inline uint64_t guest_mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

/* Hides a value's origin from the compiler. */
#define OPAQUE(value) __asm__ volatile("" : "+r"(value))
/* All of memory may be read here: stores before this are not dead. */
#define MEMORY_USED() __asm__ volatile("" : : : "memory")

#endif
