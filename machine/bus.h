/* The port and MMIO address spaces: who answers at which address. */
#ifndef MACHINE_BUS_H
#define MACHINE_BUS_H

#include "machine/types.h"

struct doorbell;
struct machine;

/*
 * Callbacks run on a vCPU thread under the machine lock. `offset` is from the range's base; offset + size is within
 * the range, offset is a multiple of size, size is 1, 2, 4 or 8 and at most `max`: wider or unaligned accesses arrive
 * split, low addresses first. Only the low `size` bytes of values count. NULL read: all ones; NULL write: dropped.
 */
struct bus_ops {
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
	uint8_t max; /* 1, 2, 4 or 8 */
};

/* Owned by the device, zeroed at first; must stay until bus_unmap. Of overlapping ranges the first mapped wins. */
struct bus_range {
	const char *name; /* for statistics; ranges of the same name are added up */
	const struct bus_ops *ops;
	void *opaque;
	uint64_t base, bytes; /* set by bus_map_* */
	uint64_t reads, writes;
	bool mapped;
	struct doorbell *doorbells; /* machine/eventfd.h; MMIO only */
	struct bus_range *next;
};

#define BUS_PIO_RANGES 250
struct bus_pio {
	struct bus_range *ranges; /* in order of mapping */
	struct bus_range *slot[BUS_PIO_RANGES + 1];
	uint8_t map[65536]; /* port to slot; 0: nobody */
};

struct bus_mmio {
	struct bus_range *ranges;
	struct bus_range *last; /* last hit */
};

/*
 * Under the machine lock, or before the machine runs. Mapping a mapped range moves it. A range of no bytes, or one
 * that reaches beyond the space, is left unmapped.
 */
void bus_map_pio(struct machine *machine, struct bus_range *range, uint16_t port, uint32_t bytes);
void bus_map_mmio(struct machine *machine, struct bus_range *range, gpa_t base, uint64_t bytes);
void bus_unmap_pio(struct machine *machine, struct bus_range *range);
void bus_unmap_mmio(struct machine *machine, struct bus_range *range);

#endif
