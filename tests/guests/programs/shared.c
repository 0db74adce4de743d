/*
 * Threads that share memory whose mapping, permission and code one of them keeps changing: after the system call has
 * returned, and what changed has been announced, no other processor may still see the old state.
 *
 *	shared THREADS ROUNDS
 *
 * It ends when every thread has seen every round, and says what was stale.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS_MAX 64
#define CODE 64 /* where a function is in each page */
#define PAGE 4096

static _Atomic uint32_t generation, patched, closed, stop;
static _Atomic uint32_t stale_data, stale_code, stale_patch, late_writes, closed_faults;
static _Atomic uint32_t seen[THREADS_MAX];
static uint8_t *window, *code, *board; /* a page each: mapped anew, patched, write-protected */

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(2);
}

/* mov eax, value; ret. The immediate is aligned: a store to it is atomic. */
static void put_function(uint8_t *page, uint32_t value)
{
	page[CODE + 3] = 0xb8;
	memcpy(page + CODE + 4, &value, 4);
	page[CODE + 8] = 0xc3;
}

static uint32_t call(const uint8_t *page)
{
	unsigned a, b, c, d;

	/* Serializes: what was fetched before does not count (SDM vol. 3, 8.1.3). */
	__cpuid(0, a, b, c, d);
	return ((uint32_t(*)(void))(uintptr_t)(page + CODE + 3))();
}

/* The board is closed: waits until it is open again, and tries once more. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	if ((uint8_t *)info->si_addr < board || (uint8_t *)info->si_addr >= board + PAGE)
		signal(sig, SIG_DFL);
	closed_faults++;
	while (closed && !stop)
		usleep(100);
}

static void *reader(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;
	volatile uint32_t *slot = (uint32_t *)(void *)board + number;

	while (!stop) {
		uint32_t g = generation;
		if (*(volatile uint32_t *)(void *)window < g)
			stale_data++;
		if (call(window) < g)
			stale_code++;
		g = patched;
		if (call(code) < g)
			stale_patch++;
		++*slot;
		seen[number] = g;
	}
	return NULL;
}

/* Takes the write permission away: nothing may change any more. */
static void close_board(unsigned threads)
{
	uint32_t before[THREADS_MAX];

	closed = 1;
	if (mprotect(board, PAGE, PROT_READ))
		fail("mprotect");
	memcpy(before, board, sizeof(before));
	usleep(2000);
	for (unsigned i = 0; i < threads; i++)
		if (before[i] != ((uint32_t *)(void *)board)[i])
			late_writes++;
	if (mprotect(board, PAGE, PROT_READ | PROT_WRITE))
		fail("mprotect");
	closed = 0;
}

int main(int argc, char **argv)
{
	unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 4, rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 20;
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	pthread_t thread[THREADS_MAX];
	int fd = memfd_create("shared", 0);
	uint8_t *all;

	if (threads > THREADS_MAX || fd < 0 || ftruncate(fd, (off_t)(rounds + 1) * PAGE))
		fail("shared: threads, memfd");
	all = mmap(NULL, (rounds + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	window = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	board = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED || window == MAP_FAILED || code == MAP_FAILED || board == MAP_FAILED)
		fail("mmap");
	for (unsigned i = 0; i <= rounds; i++) {
		memcpy(all + i * PAGE, &i, 4);
		put_function(all + i * PAGE, i);
	}
	put_function(code, 0);
	memset(board, 0, PAGE);
	sigaction(SIGSEGV, &action, NULL);
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, reader, (void *)(uintptr_t)i))
			fail("pthread_create");
	for (unsigned i = 1; i <= rounds; i++) {
		if (mmap(window, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, (off_t)i * PAGE) != window)
			fail("mmap");
		generation = i;
		__atomic_store_n((uint32_t *)(void *)(code + CODE + 4), i, __ATOMIC_SEQ_CST);
		patched = i;
		close_board(threads);
		for (unsigned t = 0; t < threads; t++)
			while (seen[t] < i)
				usleep(200);
	}
	stop = 1;
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("stale: data %u, code %u, patched code %u, writes %u; faults: %s\n", stale_data, stale_code, stale_patch, late_writes,
	       closed_faults ? "some" : "none");
	return 0;
}
