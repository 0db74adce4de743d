/* Parallel workloads: as many workers as there are processors take small jobs off one list until it is empty. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

enum {
	JOB_ITEMS = 4096,
	WORKERS_MAX = 64,
};

struct list {
	pthread_mutex_t lock;
	uint64_t left, sum;
};

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Sorting and looking up in memory of its own: some 0.3 ms natively. */
static uint64_t job(uint64_t number, uint32_t *items)
{
	uint32_t seed = (uint32_t)number * 2654435761u;
	uint64_t hash = number;

	for (int i = 0; i < JOB_ITEMS; i++)
		items[i] = guest_random(&seed);
	qsort(items, JOB_ITEMS, sizeof(*items), compare);
	for (int i = 0; i < JOB_ITEMS; i++) {
		uint32_t key = guest_random(&seed);
		const uint32_t *found = bsearch(&key, items, JOB_ITEMS, sizeof(*items), compare);

		hash = guest_mix(hash, items[i] + (found ? 1 : 0));
	}
	return hash;
}

/* Takes jobs one at a time. The sum does not depend on who took which. */
static void work(struct list *list)
{
	uint32_t *items = guest_alloc(JOB_ITEMS * sizeof(*items));

	for (;;) {
		uint64_t number, result;

		pthread_mutex_lock(&list->lock);
		number = list->left ? list->left-- : 0;
		pthread_mutex_unlock(&list->lock);
		if (!number)
			break;
		result = job(number, items);
		pthread_mutex_lock(&list->lock);
		list->sum += result;
		pthread_mutex_unlock(&list->lock);
	}
	munmap(items, JOB_ITEMS * sizeof(*items));
}

static void *thread(void *argument)
{
	work(argument);
	return NULL;
}

static uint64_t threads_run(uint64_t operations)
{
	struct list list = {.lock = PTHREAD_MUTEX_INITIALIZER, .left = operations};
	pthread_t threads[WORKERS_MAX];
	unsigned workers = guest_processors();

	for (unsigned i = 1; i < workers; i++) {
		errno = pthread_create(&threads[i], NULL, thread, &list);
		if (errno)
			guest_die("a thread");
	}
	work(&list);
	for (unsigned i = 1; i < workers; i++)
		pthread_join(threads[i], NULL);
	return list.sum;
}

/* As `make -j` does it: a process for each job, that starts this program anew and answers through a pipe. */
int guest_one_job(const char *number)
{
	static uint32_t items[JOB_ITEMS];
	uint64_t sum = 0;

	for (int i = 0; i < 4; i++)
		sum += job(strtoull(number, NULL, 10) * 4 + (uint64_t)i, items);
	return write(1, &sum, sizeof(sum)) == sizeof(sum) ? 0 : 1;
}

static void start(uint64_t number, int output)
{
	pid_t child = fork();
	char text[24];

	if (child < 0)
		guest_die("fork");
	if (child)
		return;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	dup2(output, 1);
	execl(guest_self, guest_self, "--job", text, NULL);
	_exit(9);
}

static void end_of_one(void)
{
	int status = 0;

	if (wait(&status) < 0 || status) {
		errno = ECHILD;
		guest_die("a job");
	}
}

static uint64_t processes_run(uint64_t operations)
{
	uint64_t sum = 0, one, running = 0;
	int pipes[2];

	/* 8 bytes at a time are atomic. What fits in the pipe is read before it is full. */
	if (pipe(pipes))
		guest_die("pipe");
	for (uint64_t number = 1; number <= operations || running; ) {
		if (number <= operations && running < guest_processors()) {
			start(number++, pipes[1]);
			running++;
			continue;
		}
		end_of_one();
		running--;
		if (read(pipes[0], &one, sizeof(one)) != sizeof(one))
			guest_die("a job's answer");
		sum += one;
	}
	close(pipes[0]);
	close(pipes[1]);
	return sum;
}

/* A thread on the next processor, if there is one, answers each byte; both sleep while they wait. */
struct echo {
	int ask[2], answer[2];
};

static void stay_on(unsigned processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *echo(void *argument)
{
	const struct echo *e = argument;
	char byte;

	stay_on(guest_processors() - 1);
	while (read(e->ask[0], &byte, 1) == 1)
		if (write(e->answer[1], &byte, 1) != 1)
			break;
	return NULL;
}

static uint64_t ipi_run(uint64_t operations)
{
	struct echo e;
	pthread_t other;
	uint64_t sum = 0;
	cpu_set_t before;

	sched_getaffinity(0, sizeof(before), &before);
	if (pipe(e.ask) || pipe(e.answer) || pthread_create(&other, NULL, echo, &e))
		guest_die("an echo");
	stay_on(0);
	for (uint64_t i = 0; i < operations; i++) {
		char byte = (char)i;

		if (write(e.ask[1], &byte, 1) != 1 || read(e.answer[0], &byte, 1) != 1)
			guest_die("an echo");
		sum += (unsigned char)byte;
	}
	close(e.ask[1]);
	pthread_join(other, NULL);
	close(e.ask[0]);
	close(e.answer[0]);
	close(e.answer[1]);
	sched_setaffinity(0, sizeof(before), &before);
	return sum;
}

/* What a timer costs beyond the 50 us that it takes. */
static uint64_t timer_run(uint64_t operations)
{
	const struct timespec nap = {0, 50000};
	uint64_t done = 0;

	prctl(PR_SET_TIMERSLACK, 1);
	while (done < operations && !clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL))
		done++;
	return done;
}

const struct workload smp_workloads[] = {
    {"threads", "smp", 1, "job", NULL, threads_run},
    {"processes", "smp", 4, "job", NULL, processes_run},
    {"ipi", "wake", 1, "round trip", NULL, ipi_run},
    {"timer", "wake", 1, "nap of 50 us", NULL, timer_run},
    {0},
};
