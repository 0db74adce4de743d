/* A driver of virtio devices for unit tests: from PCI configuration space to the used ring. */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/machine.h"

/* Where this driver puts things. RAM is 16 MiB. */
#define DRIVER_BAR 0xd0000000u /* BAR 4 */
#define DRIVER_MSIX 0xd0010000u
#define DRIVER_RING(q) (0x100000u + (q) * 0x8000u) /* descriptors; +0x1000 available, +0x2000 used */
#define DRIVER_BUF(q) (0x200000u + (q) * 0x40000u)
#define QSIZE 64u
#define DRIVER_QUEUES 32

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next;
};

struct driver {
	struct machine *machine;
	unsigned slot;
	uint64_t common, notify, isr, device; /* addresses */
	uint32_t notify_multiplier;
	unsigned cfg_cap;
	uint64_t features;		/* taken */
	uint32_t queues;		/* 1 << each that driver_start sets up; the first one when 0 */
	uint16_t seen[DRIVER_QUEUES]; /* used entries taken */
};

/* A machine with 16 MiB of RAM; on_event NULL: nobody listens. */
struct machine *driver_machine(unsigned vcpus, void (*on_event)(void *, enum machine_event, unsigned), void *opaque);
/* The first device of this PCI device id (0x1040 + virtio's), its BARs mapped, its capabilities found. */
struct driver driver_open(struct machine *machine, uint16_t device);
/* Resets it and waits until that is over. */
void driver_reset(struct driver *d);
/* From reset to DRIVER_OK, with all features that it offers but those to refuse. */
void driver_start(struct driver *d, uint64_t refuse);

uint64_t rd(struct driver *d, uint64_t gpa, unsigned n);
void wr(struct driver *d, uint64_t gpa, uint64_t v, unsigned n);
/* Configuration space, by ports: ECAM must be switched on by whoever configures the host bridge. */
uint32_t cfg(struct driver *d, unsigned at, unsigned n);
void cfg_set(struct driver *d, unsigned at, uint32_t v, unsigned n);
static inline uint8_t status(struct driver *d) { return (uint8_t)rd(d, d->common + 20, 1); }
static inline void set_status(struct driver *d, uint8_t s) { wr(d, d->common + 20, s, 1); }
void sleep_ms(unsigned ms);
/* Fails the test when it does not come to hold within many seconds. */
void wait_for(bool (*holds)(struct driver *d), struct driver *d);
/* A ring made no sense to the device. */
bool is_broken(struct driver *d);
/* A row of machine_stats, which must be there. */
uint64_t stat_of(struct driver *d, const char *name);

uint8_t *ram(struct driver *d, uint64_t gpa);
static inline struct desc *desc_of(struct driver *d, unsigned q) { return (struct desc *)(void *)ram(d, DRIVER_RING(q)); }
static inline uint16_t *avail_of(struct driver *d, unsigned q) { return (uint16_t *)(void *)ram(d, DRIVER_RING(q) + 0x1000); }
static inline uint16_t *used_of(struct driver *d, unsigned q) { return (uint16_t *)(void *)ram(d, DRIVER_RING(q) + 0x2000); }
void kick(struct driver *d, unsigned q);
/* Puts a head into the ring, and kicks if the device wants that. */
void offer(struct driver *d, unsigned q, uint16_t head);
uint16_t used_index(struct driver *d, unsigned q);
/* How many bytes the device wrote to the request that it gave back as the number `at`. */
uint32_t used_bytes(struct driver *d, unsigned q, uint16_t at);
/* Waits for the next request to come back; how many bytes were written to it. */
uint32_t wait_used(struct driver *d, unsigned q);

/* A little generator: the same numbers each time. */
uint32_t next_random(uint32_t *state);

#endif
