/* The thread that does a device's work: an event loop with a doorbell. */
#include "machine/virtio/worker.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/clock.h"

static void on_bell(evutil_socket_t fd, short what, void *opaque)
{
	struct worker *worker = opaque;

	if (worker->looked_ns)
		spin_learn(&worker->spin, clock_host_ns() - worker->looked_ns);
	worker->looked_ns = 0;
	/*
	 * The bell is edge-triggered, so its counter need not be read: it would take years of ringing to fill it. A ring from
	 * here on writes it again, and what rang before is visible to work().
	 */
	atomic_exchange(&worker->rung, false);
	if (atomic_load(&worker->quit))
		event_base_loopbreak(worker->base);
	else
		worker->work(worker->opaque);
}

bool worker_look(struct worker *worker)
{
	uint64_t began = clock_host_ns(), now = began, window_ns = spin_window_ns(&worker->spin);
	bool rung;

	if (window_ns > 0) {
		atomic_store(&worker->looking, true);
		while (!atomic_load(&worker->rung) && now - began < window_ns) {
			for (unsigned i = 0; i < 16; i++)
				__builtin_ia32_pause();
			now = clock_host_ns();
		}
		/* Who rings from here on writes the bell; who rang before that is seen here. */
		atomic_store(&worker->looking, false);
	}
	rung = atomic_exchange(&worker->rung, false);
	worker->looked_ns = rung ? 0 : began;
	if (!rung)
		return false;
	spin_learn(&worker->spin, now - began);
	if (!atomic_load(&worker->quit))
		return true;
	event_base_loopbreak(worker->base);
	return false;
}

int worker_init(struct worker *worker, void (*work)(void *opaque), void *opaque)
{
	struct event_config *config = event_config_new();

	*worker = (struct worker){.work = work, .opaque = opaque};
	worker->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	/* One thread only; the bell is what others may touch. */
	if (config && event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) == 0)
		worker->base = event_base_new_with_config(config);
	if (config)
		event_config_free(config);
	if (worker->base && worker->doorbell >= 0)
		worker->bell = event_new(worker->base, worker->doorbell, EV_READ | EV_PERSIST | EV_ET, on_bell, worker);
	if (worker->bell && event_add(worker->bell, NULL) == 0)
		return 0;
	if (!worker->bell && worker->doorbell >= 0)
		close(worker->doorbell);
	worker_finish(worker);
	return -ENOMEM;
}

static void *worker_main(void *opaque)
{
	struct worker *worker = opaque;

	/* By itself: inside the sandbox nobody may write /proc for another thread. */
	pthread_setname_np(pthread_self(), worker->name);
	if (worker->loop)
		worker->loop(worker->opaque);
	else
		event_base_loop(worker->base, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

int worker_run(struct worker *worker, const char *name)
{
	sigset_t all, old;
	int rc;

	snprintf(worker->name, sizeof(worker->name), "%s", name);
	/* Signals are the vCPU threads' and the main thread's. */
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* the sandbox asks every thread to drop its capabilities by it */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0)
		return -rc;
	worker->running = true;
	return 0;
}

void worker_ring(struct worker *worker)
{
	const uint64_t one = 1;

	/* One that has been rung and has not looked yet needs no second ring. A full counter rings already. */
	if (!atomic_exchange(&worker->rung, true) && !atomic_load(&worker->looking) &&
	    write(worker->doorbell, &one, sizeof(one)) < 0)
		return;
}

void worker_stop(struct worker *worker)
{
	if (!worker->running)
		return;
	atomic_store(&worker->quit, true);
	worker_ring(worker);
	pthread_join(worker->thread, NULL);
	worker->running = false;
}

void worker_finish(struct worker *worker)
{
	worker_stop(worker);
	if (worker->bell) {
		event_free(worker->bell);
		close(worker->doorbell);
	}
	if (worker->base)
		event_base_free(worker->base);
	*worker = (struct worker){0};
}
