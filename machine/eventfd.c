/* Doorbells, interrupts by eventfd, and the thread that serves both where the engine does not. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "machine/private.h"

bool eventfd_take(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

void eventfd_signal(int fd)
{
	const uint64_t one = 1;
	ssize_t r;

	/* EAGAIN: it has counted so far that one more makes no difference. */
	do
		r = write(fd, &one, sizeof(one));
	while (r < 0 && errno == EINTR);
}

/* ---- doorbells: under the machine lock --------------------------------------------------------- */

static void arm(struct machine *machine, const struct bus_range *range, struct doorbell *bell, bool on)
{
	const struct machine_hooks *hooks = &machine->hooks;

	if (bell->armed == on)
		return;
	bell->armed = on && hooks->doorbell && hooks->doorbell(hooks->opaque, true, range->base + bell->offset, bell->fd) == 0;
	if (!on && hooks->doorbell)
		hooks->doorbell(hooks->opaque, false, range->base + bell->offset, bell->fd);
}

void doorbells_arm(struct machine *machine, struct bus_range *range)
{
	for (struct doorbell *bell = range->doorbells; bell; bell = bell->next)
		arm(machine, range, bell, true);
}

void doorbells_disarm(struct machine *machine, struct bus_range *range)
{
	for (struct doorbell *bell = range->doorbells; bell; bell = bell->next)
		arm(machine, range, bell, false);
}

void doorbell_add(struct machine *machine, struct bus_range *range, struct doorbell *bell, uint32_t offset, int fd)
{
	*bell = (struct doorbell){ .fd = fd, .offset = offset, .next = range->doorbells };
	range->doorbells = bell;
	if (range->mapped)
		arm(machine, range, bell, true);
}

void doorbell_remove(struct machine *machine, struct bus_range *range, struct doorbell *bell)
{
	struct doorbell **at = &range->doorbells;

	while (*at && *at != bell)
		at = &(*at)->next;
	if (!*at)
		return;
	arm(machine, range, bell, false);
	*at = bell->next;
}

/* ---- the thread ----------------------------------------------------------------------------------- */

static void call(struct machine *machine, const struct eventfd_watch *watch)
{
	const struct eventfd_watch *w;

	machine_lock(machine);
	/* It may have been taken away since it was readable. */
	for (w = machine->eventfds.watches; w && w != watch; w = w->next)
		;
	if (w)
		w->fn(w->opaque);
	machine_unlock(machine);
}

static void *eventfd_thread(void *opaque)
{
	struct machine *machine = opaque;
	struct machine_eventfds *e = &machine->eventfds;

	prctl(PR_SET_NAME, "eventfds");
	for (;;) {
		struct epoll_event ready[16];
		int n = epoll_wait(e->epoll, ready, ARRAY_SIZE(ready), -1);

		BUG_ON(n < 0 && errno != EINTR);
		for (int i = 0; i < n; i++) {
			if (!ready[i].data.ptr)
				return NULL;
			call(machine, ready[i].data.ptr);
		}
	}
}

static int add_to_epoll(const struct machine_eventfds *e, int fd, void *ptr)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = ptr };

	return epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int start_thread(struct machine *machine)
{
	struct machine_eventfds *e = &machine->eventfds;
	sigset_t all, old;
	int rc;

	if (e->started)
		return 0;
	if (e->epoll < 0)
		e->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (e->quit < 0)
		e->quit = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->epoll < 0 || e->quit < 0)
		return -errno;
	rc = add_to_epoll(e, e->quit, NULL);
	if (rc && rc != -EEXIST)
		return rc;
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* the sandbox asks every thread to drop its capabilities by it */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&e->thread, NULL, eventfd_thread, machine);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	e->started = rc == 0;
	return rc;
}

int eventfd_watch(struct machine *machine, struct eventfd_watch *watch)
{
	struct machine_eventfds *e = &machine->eventfds;
	int rc = start_thread(machine);

	if (!rc)
		rc = add_to_epoll(e, watch->fd, watch);
	if (rc)
		return rc;
	watch->next = e->watches;
	e->watches = watch;
	return 0;
}

void eventfd_unwatch(struct machine *machine, struct eventfd_watch *watch)
{
	struct eventfd_watch **at = &machine->eventfds.watches;

	while (*at && *at != watch)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = watch->next;
	epoll_ctl(machine->eventfds.epoll, EPOLL_CTL_DEL, watch->fd, NULL);
}

/* ---- interrupts ------------------------------------------------------------------------------------- */

static void send_waiting(void *opaque)
{
	struct irqfd *irqfd = opaque;

	if (eventfd_take(irqfd->fd))
		machine_msi(irqfd->machine, irqfd->address, irqfd->data);
}

int irqfd_init(struct machine *machine, struct irqfd *irqfd, bool foreign)
{
	irqfd->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (irqfd->fd < 0)
		return -errno;
	irqfd->machine = machine;
	irqfd->foreign = foreign;
	irqfd->watch = (struct eventfd_watch){ .fd = irqfd->fd, .fn = send_waiting, .opaque = irqfd };
	irqfd->next = machine->eventfds.irqfds;
	machine->eventfds.irqfds = irqfd;
	return 0;
}

void irqfd_finish(struct irqfd *irqfd)
{
	if (!irqfd->machine)
		return;
	irqfd_unroute(irqfd);
	struct irqfd **at = &irqfd->machine->eventfds.irqfds;
	while (*at != irqfd)
		at = &(*at)->next;
	*at = irqfd->next;
	close(irqfd->fd);
	irqfd->fd = -1;
	irqfd->machine = NULL;
}

/* Gives it to the engine, or to ours. */
static void route(struct irqfd *irqfd)
{
	struct machine *machine = irqfd->machine;
	const struct machine_hooks *hooks = &machine->hooks;
	bool engine = hooks->irqfd && hooks->irqfd(hooks->opaque, irqfd->fd, true, irqfd->address, irqfd->data) == 0;

	if (engine)
		eventfd_unwatch(machine, &irqfd->watch);
	atomic_store(&irqfd->engine, engine);
	if (engine)
		return;
	if (irqfd->foreign) {
		eventfd_unwatch(machine, &irqfd->watch);
		int rc = eventfd_watch(machine, &irqfd->watch);
		if (rc)
			fprintf(stderr, "a device's interrupts cannot be received: %s\n", strerror(-rc));
	} else {
		send_waiting(irqfd);
	}
}

void irqfd_route(struct irqfd *irqfd, uint64_t address, uint32_t data)
{
	if (irqfd->routed && irqfd->address == address && irqfd->data == data)
		return;
	irqfd->address = address;
	irqfd->data = data;
	irqfd->routed = true;
	route(irqfd);
}

void irqfd_unroute(struct irqfd *irqfd)
{
	struct machine *machine = irqfd->machine;

	if (!irqfd->routed)
		return;
	irqfd->routed = false;
	if (atomic_exchange(&irqfd->engine, false) && machine->hooks.irqfd)
		machine->hooks.irqfd(machine->hooks.opaque, irqfd->fd, false, 0, 0);
	eventfd_unwatch(machine, &irqfd->watch);
}

bool irqfd_take(struct irqfd *irqfd) { return eventfd_take(irqfd->fd); }

bool irqfd_signal(struct irqfd *irqfd)
{
	if (!atomic_load(&irqfd->engine))
		return false;
	eventfd_signal(irqfd->fd);
	return true;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

void eventfds_init(struct machine_eventfds *e) { e->epoll = e->quit = -1; }

void eventfds_finish(struct machine *machine)
{
	struct machine_eventfds *e = &machine->eventfds;

	if (e->started) {
		eventfd_signal(e->quit);
		pthread_join(e->thread, NULL);
		e->started = false;
	}
	if (e->epoll >= 0)
		close(e->epoll);
	if (e->quit >= 0)
		close(e->quit);
	e->epoll = e->quit = -1;
}

void eventfds_rehome(struct machine *machine)
{
	/* What the last engine had went with it. */
	for (struct bus_range *r = machine->mmio.ranges; r; r = r->next) {
		for (struct doorbell *bell = r->doorbells; bell; bell = bell->next)
			bell->armed = false;
		doorbells_arm(machine, r);
	}
	for (struct irqfd *irqfd = machine->eventfds.irqfds; irqfd; irqfd = irqfd->next)
		if (irqfd->routed)
			route(irqfd);
}
