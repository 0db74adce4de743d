/*
 * Eventfds between devices and the engine: doorbells, which a guest rings and a device waits for, and interrupts that a
 * signal raises. An engine with a kernel under it has that do the work (machine_hooks.doorbell and .irqfd); elsewhere
 * the machine does, so a device is written once.
 */
#ifndef MACHINE_EVENTFD_H
#define MACHINE_EVENTFD_H

#include <pthread.h>
#include <stdatomic.h>

#include "machine/types.h"

struct machine;
struct bus_range;

/*
 * A place in an MMIO range whose writes say no more than "look". While an engine has it, a write signals `fd` and the
 * vCPU goes on at once; otherwise the range's `write` is called as ever, and does what is cheapest. So a device waits
 * for fd and takes both. Several may share one fd. Owned by the device, zeroed at first.
 */
struct doorbell {
	int fd; /* the device's */
	uint32_t offset;
	bool armed; /* the engine has it */
	struct doorbell *next; /* of its range */
};

/* Under the machine lock, or before the machine runs. The range's moves are followed. Removed before the fd is closed. */
void doorbell_add(struct machine *machine, struct bus_range *range, struct doorbell *bell, uint32_t offset, int fd);
void doorbell_remove(struct machine *machine, struct bus_range *range, struct doorbell *bell);
/* For the bus: the range has just been mapped, or is about to be unmapped. */
void doorbells_arm(struct machine *machine, struct bus_range *range);
void doorbells_disarm(struct machine *machine, struct bus_range *range);

/*
 * Calls fn under the machine lock, on a thread of the machine's own, whenever fd (an eventfd, nonblocking) is readable;
 * fn reads it. The thread starts with the first. 0 or -errno. unwatch: fn is not called any more once it returns; under
 * the machine lock, or before the machine runs.
 */
struct eventfd_watch {
	int fd;
	void (*fn)(void *opaque);
	void *opaque;
	struct eventfd_watch *next;
};
int eventfd_watch(struct machine *machine, struct eventfd_watch *watch);
void eventfd_unwatch(struct machine *machine, struct eventfd_watch *watch);

/*
 * An interrupt message that a signal of `fd` sends. While it is not routed, a signal waits in fd and is sent once it is.
 * Zeroed, then irqfd_init.
 */
struct irqfd {
	int fd; /* nonblocking */
	bool foreign; /* others than this process signal it */
	bool routed;
	_Atomic bool engine; /* routed, and the engine takes its signals */
	uint64_t address;
	uint32_t data;
	struct machine *machine;
	struct eventfd_watch watch; /* ours: foreign, routed, and not the engine's */
	struct irqfd *next;
};

/* Under the machine lock, or before the machine runs. 0 or -errno. Foreign: signalled by somebody else, a kernel driver. */
int irqfd_init(struct machine *machine, struct irqfd *irqfd, bool foreign);
void irqfd_finish(struct irqfd *irqfd);
/* From now on this message. */
void irqfd_route(struct irqfd *irqfd, uint64_t address, uint32_t data);
void irqfd_unroute(struct irqfd *irqfd);
/* Not routed: takes a signal that waits; whether there was one. */
bool irqfd_take(struct irqfd *irqfd);
/*
 * For what this process raises itself: signals it if the engine takes it. False: it does not, send the message by
 * machine_msi. Any thread, no lock.
 */
bool irqfd_signal(struct irqfd *irqfd);

/* The machine's part. */
struct machine_eventfds {
	int epoll, quit;
	bool started;
	pthread_t thread;
	struct eventfd_watch *watches;
	struct irqfd *irqfds; /* all */
};
void eventfds_init(struct machine_eventfds *e);
void eventfds_finish(struct machine *machine);
/* The engine has changed: what the last one had is given to this one. Under the machine lock. */
void eventfds_rehome(struct machine *machine);

/* Takes away what a nonblocking eventfd has counted; whether it had. */
bool eventfd_take(int fd);
/* One signal. Any thread. */
void eventfd_signal(int fd);

#endif
