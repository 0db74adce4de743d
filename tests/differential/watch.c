/* See watch.h. */
#include "tests/differential/watch.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANG_SECONDS 30

static volatile struct {
	const char *options; /* constants of the program, so the same in both processes */
	unsigned number, count;
} *watched;

static _Noreturn void watch(pid_t pid, const char *program, uint64_t seed)
{
	unsigned last = 0, still = 0;
	int status = 0;

	while (!waitpid(pid, &status, WNOHANG)) {
		const struct timespec pause = {.tv_nsec = 50000000};
		nanosleep(&pause, NULL);
		still = watched->count == last ? still + 1 : 0;
		last = watched->count;
		if (still > HANG_SECONDS * 20)
			kill(pid, SIGKILL);
	}
	if (WIFEXITED(status))
		exit(WEXITSTATUS(status));
	printf("not ok - %s: the engine %s %d; repeat with: %s %s --seed %llu --case %u --verbose\n", program,
	       WTERMSIG(status) == SIGKILL ? "hung, killed by signal" : "died of signal", WTERMSIG(status), program,
	       watched->options ? watched->options : "", (unsigned long long)seed, watched->number);
	exit(1);
}

void watch_start(const char *program, uint64_t seed)
{
	pid_t pid;

	watched = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fflush(stdout);
	pid = watched == MAP_FAILED ? -1 : fork();
	if (pid < 0) {
		perror("watch");
		exit(2);
	}
	if (pid > 0)
		watch(pid, program, seed);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void watch_case(const char *options, unsigned number)
{
	watched->options = options;
	watched->number = number;
	watched->count++;
}
