/*
 * The thread that does a device's work, so that no vCPU waits for a host call: an event loop (libevent) with a doorbell.
 *
 * The doorbell is an eventfd: whoever has no pointer to the worker (the kernel behind an ioeventfd) rings it by writing to
 * it. Everything else a worker waits for - sockets, timers, completions - its owner adds to `base`, before worker_run or on
 * the worker itself: the loop has no lock.
 */
#ifndef MACHINE_VIRTIO_WORKER_H
#define MACHINE_VIRTIO_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "machine/spin.h"
#include "machine/types.h"

struct event;
struct event_base;

/* All zero is one that worker_finish takes. */
struct worker {
	struct event_base *base;
	int doorbell; /* eventfd; valid once `bell` is there */
	struct event *bell;
	pthread_t thread;
	char name[16];
	bool running;
	_Atomic bool rung, quit;
	_Atomic bool looking; /* it sees `rung` by itself */
	struct spin spin;
	uint64_t looked_ns; /* CLOCK_MONOTONIC: since then it waits for the bell; 0: it does not look */
	void (*work)(void *opaque); /* on the worker, after the doorbell rang */
	/* Instead of base's loop, set before worker_run: waits for the doorbell by itself, until `quit`. */
	void (*loop)(void *opaque);
	void *opaque;
};

/* Makes the loop and the doorbell, not yet the thread. 0 or -errno, then nothing is left behind. */
int worker_init(struct worker *worker, void (*work)(void *opaque), void *opaque);
/* Starts the thread, with every signal but SIGSYS blocked. `name`: at most 15 characters are seen. 0 or -errno. */
int worker_run(struct worker *worker, const char *name);
/* work() will be called, once for any number of rings before it. Any thread. */
void worker_ring(struct worker *worker);
/*
 * On the worker, in work(), when it has nothing to do and waits for nothing but the bell: looks for it a while, if that is
 * likely to be worth it. True: it was rung; there may be work again.
 */
bool worker_look(struct worker *worker);
/* Joins the thread; after it no callback runs, and the owner frees the events it added. Then worker_finish. */
void worker_stop(struct worker *worker);
void worker_finish(struct worker *worker);

#endif
