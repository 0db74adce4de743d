/* Workloads that are mostly the guest's kernel: calls, faults, processes, pipes, switches, file reads. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

enum {
	PAGES = 256,
	FILE_BYTES = 1 << 20,
	READ_BYTES = 4096,
	SYSCALLS = 100,
};

static uint64_t getppid_run(uint64_t operations)
{
	uint64_t wrong = 0;
	long parent = getppid();

	while (operations--) {
		for (int i = 0; i < SYSCALLS; i++)
			wrong += syscall(SYS_getppid) != parent;
	}
	return wrong;
}

static uint64_t fault_run(uint64_t operations)
{
	uint64_t sum = 0;

	while (operations--) {
		uint8_t *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			guest_die("mmap");
		/* One fault for one page, also where 1 MiB would fit a huge page's neighbourhood. */
		madvise(area, PAGES * 4096, MADV_NOHUGEPAGE);
		for (int i = 0; i < PAGES; i++)
			area[i * 4096] = (uint8_t)(i + 1);
		for (int i = 0; i < PAGES; i++)
			sum += area[i * 4096];
		munmap(area, PAGES * 4096);
	}
	return sum;
}

static uint64_t reap(pid_t child)
{
	int status;

	if (child < 0)
		guest_die("fork");
	if (waitpid(child, &status, 0) != child)
		guest_die("wait");
	return WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 1000;
}

static uint64_t fork_run(uint64_t operations)
{
	uint64_t sum = 0;

	while (operations--) {
		pid_t child = fork();

		if (!child)
			_exit(3);
		sum += reap(child);
	}
	return sum;
}

static uint64_t exec_run(uint64_t operations)
{
	uint64_t sum = 0;

	while (operations--) {
		pid_t child = fork();

		if (!child) {
			char *arguments[] = {(char *)"guest", (char *)"--nothing", NULL};

			execv(guest_self, arguments);
			_exit(4);
		}
		sum += reap(child);
	}
	return sum;
}

/* A process that answers each byte with the next one, until the pipe is closed. */
static uint64_t pipe_run(uint64_t operations)
{
	int ask[2], answer[2];
	uint64_t sum = 0;
	uint8_t byte = 0;
	pid_t child;

	if (pipe(ask) || pipe(answer))
		guest_die("pipe");
	child = fork();
	if (!child) {
		close(ask[1]);
		while (read(ask[0], &byte, 1) == 1) {
			byte++;
			if (write(answer[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	}
	while (operations--) {
		if (write(ask[1], &byte, 1) != 1 || read(answer[0], &byte, 1) != 1)
			guest_die("pipe");
		sum += byte;
	}
	close(ask[1]);
	close(ask[0]);
	close(answer[0]);
	close(answer[1]);
	return sum + reap(child);
}

static void turn_wait(_Atomic uint32_t *turn, uint32_t mine)
{
	uint32_t other;

	while ((other = atomic_load(turn)) != mine)
		syscall(SYS_futex, turn, FUTEX_WAIT, other, NULL, NULL, 0);
}

static void turn_give(_Atomic uint32_t *turn, uint32_t other)
{
	atomic_store(turn, other);
	syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Two processes hand a turn to each other over a futex: with one processor, every handover is a switch. */
static uint64_t switch_run(uint64_t operations)
{
	_Atomic uint32_t *turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t status;
	pid_t child;

	if (turn == MAP_FAILED)
		guest_die("mmap");
	child = fork();
	if (!child) {
		for (uint64_t i = 0; i < operations; i++) {
			turn_wait(turn, 1);
			turn_give(turn, 0);
		}
		_exit(5);
	}
	for (uint64_t i = 0; i < operations; i++) {
		turn_give(turn, 1);
		turn_wait(turn, 0);
	}
	status = reap(child);
	munmap(turn, 4096);
	return status;
}

static int file = -1;

static void file_prepare(void)
{
	char name[] = "/tmp/bench.XXXXXX";
	uint8_t *data = guest_alloc(FILE_BYTES);

	file = mkstemp(name);
	if (file < 0 || write(file, data, FILE_BYTES) != FILE_BYTES || unlink(name))
		guest_die("the file to be read");
}

static uint64_t file_run(uint64_t operations)
{
	static uint8_t buffer[READ_BYTES];
	uint64_t sum = 0;

	while (operations--) {
		for (off_t at = 0; at < FILE_BYTES; at += READ_BYTES) {
			if (pread(file, buffer, READ_BYTES, at) != READ_BYTES)
				guest_die("read");
			sum += buffer[at >> 12];
		}
	}
	return sum;
}

const struct workload system_workloads[] = {
    {"getppid", "system", SYSCALLS, "call", NULL, getppid_run},
    {"fault", "system", PAGES, "page", NULL, fault_run},
    {"fork", "system", 1, "process", NULL, fork_run},
    {"exec", "system", 1, "process", NULL, exec_run},
    {"pipe", "system", 1, "round trip", NULL, pipe_run},
    {"switch", "system", 2, "switch", NULL, switch_run},
    {"file", "system", FILE_BYTES / READ_BYTES, "read", file_prepare, file_run},
    {0},
};
