/* IOAPIC, 24 pins, version 0x20 with an EOI register (82093AA, ICH9 13.5). */
#ifndef MACHINE_DEVICES_IOAPIC_H
#define MACHINE_DEVICES_IOAPIC_H

#include "machine/bus.h"

struct machine;

#define IOAPIC_PINS 24

struct ioapic {
	struct machine *machine;
	struct bus_range range;
	uint8_t index, id;
	uint32_t level;           /* line state by pin */
	uint64_t entry[IOAPIC_PINS];
	uint64_t delivered[IOAPIC_PINS];
};

void ioapic_init(struct machine *machine, struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);
/* Under the machine lock. */
void ioapic_set(struct ioapic *ioapic, unsigned pin, bool level);
/* After its state was replaced: delivers what is level-triggered and waits. Under the machine lock. */
void ioapic_refresh(struct ioapic *ioapic);
/* EOI broadcast of a level-triggered vector by a LAPIC: takes the machine lock. */
void ioapic_eoi(struct machine *machine, uint8_t vector);

#endif
