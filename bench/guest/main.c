/* The benchmark's guest program: it is /init of the guest, or a plain program that is measured natively. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

/*
 * What it prints, one write for a line. Every number of nanoseconds is CLOCK_MONOTONIC's; bench/run notes its own when
 *the line's first byte arrives.
 *
 *	@bench init NOW                                    the first thing the first process does
 *	@bench start NAME NOW
 *	@bench end NAME NOW OPERATIONS ELAPSED RESULT      ELAPSED excludes the printing; natively, one more number: for
 *how long in it the processor was another process's
 *	@bench crash NAME STATUS                           a wait status
 *	@bench done
 *
 * The plan has a line "NAME OPERATIONS" for each workload. With OPERATIONS 0 the number that takes about TARGET ms
 *("target TARGET") is found by trial, then run like any other, so that the result can be given to another machine as
 *its plan. Programs (programs.c) have three kinds of lines, and what they do is never found by trial:
 *
 *	root DEVICE-OR-FOLDER
 *	disk DEVICE-OR-FILE
 *	net user|switch INTERFACE OWN-ADDRESS ADDRESS PORT     whom rows of networks talk to
 *	serve INTERFACE OWN-ADDRESS PORT                       the other guest's only line
 *	read PATH...                                       what to have in memory before the next program
 *	run NAME OPERATIONS output|status ARGUMENT...
 */
#define PLAN "/etc/bench.plan"

const char *guest_self;
static bool native;
static long native_processors = 1;

static const struct workload *const lists[] = {
    integer_workloads, realistic_workloads, floating_workloads, vector_workloads, memory_workloads, system_workloads,
    smp_workloads, disk_workloads, net_workloads,
};

_Noreturn void guest_die(const char *what)
{
	dprintf(1, "@bench error %s: %s\n", what, strerror(errno));
	_exit(9);
}

void *guest_alloc(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		guest_die("mmap");
	memset(memory, 1, bytes);
	return memory;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* For how long this process was runnable and another ran. */
static uint64_t waited(void)
{
	uint64_t delay = 0;
	FILE *f = fopen("/proc/self/schedstat", "re");

	if (f) {
		if (fscanf(f, "%*u %" SCNu64, &delay) != 1)
			delay = 0;
		fclose(f);
	}
	return delay;
}

/* Nanoseconds on a processor so far: this process and the children it has had. */
static uint64_t busy(void)
{
	struct rusage all[2];
	uint64_t us = 0;

	getrusage(RUSAGE_SELF, &all[0]);
	getrusage(RUSAGE_CHILDREN, &all[1]);
	for (int i = 0; i < 2; i++)
		us += (uint64_t)(all[i].ru_utime.tv_sec + all[i].ru_stime.tv_sec) * 1000000 +
		      (uint64_t)(all[i].ru_utime.tv_usec + all[i].ru_stime.tv_usec);
	return us * 1000;
}

/* How much of `elapsed` such a workload waited whose threads or children do the work, `workers` at a time. */
static uint64_t waited_of_all(uint64_t elapsed, uint64_t busy_ns, unsigned workers)
{
	return busy_ns / workers < elapsed ? elapsed - busy_ns / workers : 0;
}

unsigned guest_processors(void)
{
	long count = native ? native_processors : sysconf(_SC_NPROCESSORS_ONLN);

	return count < 1 ? 1 : count > 64 ? 64 : (unsigned)count;
}

static const struct workload *find(const char *name)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct workload *w = lists[i]; w->name; w++) {
			if (!strcmp(w->name, name))
				return w;
		}
	}
	return NULL;
}

static uint64_t calibrate(const struct workload *w, uint64_t target_ns)
{
	uint64_t operations = 1;

	for (;;) {
		uint64_t start = now();
		uint64_t elapsed;

		w->run(operations);
		elapsed = now() - start;
		if (elapsed >= target_ns / 4) {
			double exact = (double)operations * (double)target_ns / (double)elapsed;
			return exact < 1 ? 1 : (uint64_t)exact;
		}
		operations *= elapsed < target_ns / 40 ? 8 : 2;
	}
}

static void measure(const struct workload *w, uint64_t operations, uint64_t target_ns)
{
	uint64_t start, elapsed, result, delay, had;
	unsigned workers = !strcmp(w->group, "smp") ? guest_processors() : !strcmp(w->group, "programs") ? 1 : 0;
	char more[32] = "";

	if (w->prepare)
		w->prepare();
	if (!operations)
		operations = calibrate(w, target_ns);
	dprintf(1, "@bench start %s %" PRIu64 "\n", w->name, now());
	/* The line's interrupts belong to nobody's time. */
	tcdrain(1);
	delay = native ? waited() : 0;
	had = busy();
	start = now();
	result = w->run(operations);
	elapsed = now() - start;
	if (native)
		snprintf(more, sizeof(more), " %" PRIu64, workers ? waited_of_all(elapsed, busy() - had, workers) : waited() - delay);
	dprintf(1, "@bench end %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %016" PRIx64 "%s\n", w->name, now(), operations,
		elapsed, result, more);
	tcdrain(1);
}

/* Each in a process of its own: what one leaves behind (heap, signals, a crash) is not the next one's. */
static void run_apart(const struct workload *w, uint64_t operations, uint64_t target_ns)
{
	int status = 0;
	pid_t child = fork();

	if (child < 0)
		guest_die("fork");
	if (!child) {
		measure(w, operations, target_ns);
		_exit(0);
	}
	while (waitpid(child, &status, 0) != child)
		;
	if (status)
		dprintf(1, "@bench crash %s %d\n", w->name, status);
}

/* One line of the plan, without its newline. */
static void run_line(char *line, uint64_t *target_ns)
{
	char name[64], keyword[64];
	uint64_t number;
	int length = 0;

	if (sscanf(line, "run %63s %" SCNu64 " %n", name, &number, &length) == 2 && length) {
		struct workload w = programs_workload;
		const char *wrong = programs_arguments(line + length);

		w.name = name;
		if (wrong)
			dprintf(1, "@bench error the plan's %s: %s\n", name, wrong);
		else
			run_apart(&w, number, *target_ns);
	} else if (sscanf(line, "%63s %n", keyword, &length) == 1 && !strcmp(keyword, "root")) {
		programs_root(line + length, native);
	} else if (!strcmp(keyword, "disk")) {
		if (!native)
			programs_devices();
		disk_is(line + length);
	} else if (!strcmp(keyword, "net") || !strcmp(keyword, "serve")) {
		if (!native)
			programs_devices();
		if (!strcmp(keyword, "net"))
			net_is(line + length, native);
		else
			net_serve(line + length);
	} else if (!strcmp(keyword, "read")) {
		programs_read(line + length);
	} else if (sscanf(line, "%63s %" SCNu64, name, &number) != 2) {
		dprintf(1, "@bench error the plan has a line %s\n", line);
	} else if (!strcmp(name, "target")) {
		*target_ns = number * 1000000;
	} else if (find(name)) {
		run_apart(find(name), number, *target_ns);
	} else {
		dprintf(1, "@bench error no workload %s\n", name);
	}
}

static void run_plan(const char *path)
{
	FILE *plan = fopen(path, "re");
	uint64_t target_ns = 400000000;
	char *line = NULL;
	size_t size = 0;

	if (!plan)
		guest_die(path);
	while (getline(&line, &size, plan) > 0) {
		line[strcspn(line, "\n")] = 0;
		run_line(line, &target_ns);
	}
	free(line);
	fclose(plan);
	dprintf(1, "@bench done\n");
}

static void as_init(void)
{
	uint64_t up = now();
	char line[64];
	int length = snprintf(line, sizeof(line), "@bench init %" PRIu64 "\n", up);

	if (write(1, line, (size_t)length) != length)
		guest_die("console");
	tcdrain(1);
	/* The kernel's messages must not land amid a line of ours: only errors from here on. */
	klogctl(8, NULL, 4);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("tmpfs", "/tmp", "tmpfs", 0, NULL))
		guest_die("mount");
	run_plan(PLAN);
	tcdrain(1);
	sync();
	reboot(RB_POWER_OFF);
	guest_die("power off");
}

static void list(void)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct workload *w = lists[i]; w->name; w++)
			printf("%s %s %" PRIu64 " %s\n", w->name, w->group, w->units, w->unit);
	}
}

int main(int argc, char **argv)
{
	cpu_set_t one;

	/* The exec workload runs this program with nothing to do. */
	if (argc == 2 && !strcmp(argv[1], "--nothing"))
		return 0;
	if (getpid() == 1) {
		guest_self = "/init";
		as_init();
	}
	guest_self = "/proc/self/exe";
	if (argc == 2 && !strcmp(argv[1], "--list")) {
		list();
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "--job"))
		return guest_one_job(argv[2]);
	if (argc != 2 && argc != 3) {
		fprintf(
		    stderr,
		    "Usage: guest PLAN [PROCESSORS] | --list\nMeasures the plan's workloads natively. bench/run writes plans.\n");
		return 2;
	}
	native = true;
	native_processors = argc == 3 ? strtol(argv[2], NULL, 10) : 1;
	if (native_processors == 1) {
		/* As in the guest, which has one processor. */
		CPU_ZERO(&one);
		CPU_SET(sched_getcpu(), &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	run_plan(argv[1]);
	return 0;
}
