/* IOAPIC, 24 pins, version 0x20 with an EOI register (82093AA, ICH9 13.5). */
#ifndef MACHINE_DEVICES_IOAPIC_H
#define MACHINE_DEVICES_IOAPIC_H

#include <stdatomic.h>

#include "machine/bus.h"

struct machine;

#define IOAPIC_PINS 24

struct ioapic {
	struct machine *machine;
	struct bus_range range;
	uint8_t index, id;
	uint32_t level;           /* line state by pin */
	uint32_t edge_latched;    /* an edge came while the pin was masked */
	uint64_t entry[IOAPIC_PINS];
	/* Vectors that some level-triggered entry uses: an EOI of another need not take the machine lock. */
	_Atomic uint64_t level_vectors[4];
	uint64_t delivered[IOAPIC_PINS];
};

void ioapic_init(struct machine *machine, struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);
/* Under the machine lock. */
void ioapic_set(struct ioapic *ioapic, unsigned pin, bool level);
/* EOI broadcast of a level-triggered vector by a LAPIC: takes the machine lock. */
void ioapic_eoi(struct machine *machine, uint8_t vector);

#endif
