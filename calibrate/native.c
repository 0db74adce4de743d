/* trivisor-calibrate: the calibration guest's loops as a plain process, what they are compared with. */
#include "calibrate/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint8_t *memory;   /* arena() */
static uint8_t *fork_area; /* FORK_PAGES */
static int file = -1;
static volatile sig_atomic_t signals;

void put_text(const char *text)
{
	fputs(text, stdout);
	fflush(stdout);
}

uint8_t *arena(void)
{
	return memory;
}

static uint8_t *map_pages(size_t pages)
{
	uint8_t *at = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	/* Pages of 4 KiB, as the guest has them. A kernel without huge pages refuses, and needs no telling. */
	madvise(at, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	return at;
}

/* ---- what needs a kernel -------------------------------------------------------------- */

static uint64_t syscall_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		syscall(SYS_getppid);
	return ticks() - begin;
}

static uint64_t fault_run(uint64_t operations)
{
	uint64_t spent = 0;

	while (operations) {
		uint64_t n = operations < FAULT_PAGES ? operations : FAULT_PAGES, begin;
		uint8_t *at = map_pages(FAULT_PAGES);

		if (!at) {
			run_failure = "mmap failed";
			return 0;
		}
		begin = ticks();
		for (uint64_t i = 0; i < n; i++)
			*(volatile uint8_t *)(at + i * PAGE_BYTES) = 1;
		spent += ticks() - begin;
		munmap(at, FAULT_PAGES * PAGE_BYTES);
		operations -= n;
	}
	return spent;
}

static void touch(uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		*(volatile uint8_t *)(fork_area + i * PAGE_BYTES) = 2;
}

static void read_all(void)
{
	for (uint64_t i = 0; i < FORK_PAGES; i++)
		(void)*(volatile uint8_t *)(fork_area + i * PAGE_BYTES);
}

static const char *process_prepare(void)
{
	fork_area = fork_area ? fork_area : map_pages(FORK_PAGES);
	if (!fork_area)
		return "mmap failed";
	touch(FORK_PAGES);
	/* The other measures' memory is none of what is copied here. */
	madvise(memory, ARENA_PAGES * PAGE_BYTES, MADV_DONTFORK);
	return NULL;
}

static uint64_t process_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++) {
		pid_t child = fork();

		if (child < 0) {
			run_failure = "fork failed";
			return 0;
		}
		if (!child) {
			code_walk(i, 1, fork_area);
			read_all();
			_exit(0);
		}
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		touch(PARENT_WRITES);
	}
	return ticks() - begin;
}

static void on_signal(int number)
{
	signals++;
}

static const char *interrupt_prepare(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	return sigaction(SIGUSR1, &action, NULL) ? "sigaction failed" : NULL;
}

static uint64_t interrupt_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		raise(SIGUSR1);
	return ticks() - begin;
}

static const char *virtio_prepare(void)
{
	return file < 0 ? "no --disk was given" : NULL;
}

static uint64_t virtio_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		if (pread(file, memory, PAGE_BYTES, (off_t)(i & 1) * (off_t)PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			run_failure = "the file could not be read";
	return ticks() - begin;
}

const struct measure measures[MEASURE_COUNT] = {
	MEASURE_LOOPS,
	[MEASURE_syscall] = {NULL, syscall_run, 16, 0},
	[MEASURE_fault] = {NULL, fault_run, 16, 0},
	[MEASURE_process] = {process_prepare, process_run, 1, 0},
	[MEASURE_interrupt] = {interrupt_prepare, interrupt_run, 4, 0},
	[MEASURE_virtio] = {virtio_prepare, virtio_run, 1, 0},
};

/* ---- the program ------------------------------------------------------------------------ */

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * The TSC's rate against CLOCK_MONOTONIC. An interruption between the two readings of one end makes that end wrong, so
 * the closest pair of readings of several counts.
 */
static void read_both(uint64_t *ret_ticks, uint64_t *ret_ns)
{
	uint64_t closest = UINT64_MAX;

	for (unsigned i = 0; i < 20; i++) {
		uint64_t before = ticks(), ns = monotonic_ns(), after = ticks();

		if (after - before < closest) {
			closest = after - before;
			*ret_ticks = before + (after - before) / 2;
			*ret_ns = ns;
		}
	}
}

static uint64_t tsc_khz(void)
{
	const struct timespec pause = {0, 20000000};
	uint64_t t0, n0, t1, n1;

	read_both(&t0, &n0);
	nanosleep(&pause, NULL);
	read_both(&t1, &n1);
	return n1 > n0 ? (t1 - t0) * 1000000 / (n1 - n0) : 0;
}

int main(int argc, char **argv)
{
	uint64_t khz, budget_ms = 100;
	const char *list = "all";

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--budget") && i + 1 < argc) {
			budget_ms = strtoull(argv[++i], NULL, 10);
		} else if (!strcmp(argv[i], "--disk") && i + 1 < argc) {
			file = open(argv[++i], O_RDONLY | O_CLOEXEC);
		} else if (!strcmp(argv[i], "--measures") && i + 1 < argc) {
			list = argv[++i];
		} else {
			fputs("Usage: trivisor-calibrate [--budget MS] [--disk FILE] [--measures \"NAME…\"]\n"
			      "Measures what trivisord compares its modes with. Normally trivisord starts it.\n",
			      strcmp(argv[i], "--help") ? stderr : stdout);
			return strcmp(argv[i], "--help") ? 2 : 0;
		}
	}
	if (budget_ms < 1 || budget_ms > 10000) {
		fputs("trivisor-calibrate: --budget: from 1 to 10000 milliseconds\n", stderr);
		return 2;
	}
	memory = map_pages(ARENA_PAGES);
	khz = tsc_khz();
	if (!memory || !khz) {
		fprintf(stderr, "trivisor-calibrate: %s\n", memory ? "the TSC stands still" : strerror(errno));
		return 1;
	}
	memset(memory, 1, ARENA_PAGES * PAGE_BYTES);
	put_text("calibrate ready " CALIBRATE_VERSION " ");
	put_number(khz);
	put_text("\n");
	measure_list(list, khz * budget_ms);
	return 0;
}
