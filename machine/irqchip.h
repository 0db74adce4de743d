/*
 * The state of the interrupt controllers and the timers that go with them, for engines that have such of their own: what
 * ours hold, to give to theirs, and back.
 */
#ifndef MACHINE_IRQCHIP_H
#define MACHINE_IRQCHIP_H

#include "machine/devices/ioapic.h"
#include "machine/devices/pic.h"
#include "machine/devices/pit.h"

struct machine;

/* One vCPU's LAPIC. Registers as the xAPIC page has them, by offset / 16 (an x2APIC's 64-bit ICR in two halves). */
#define IRQCHIP_LAPIC_REGISTERS 64
struct irqchip_lapic {
	uint64_t base;         /* IA32_APIC_BASE */
	uint64_t tsc_deadline; /* of the machine's TSC (machine_tsc_offset), not the vCPU's own; 0: not armed */
	uint32_t reg[IRQCHIP_LAPIC_REGISTERS];
};

/* 8259 pair, IOAPIC, 8254. start_ns is machine_clock_ns. */
struct irqchip_state {
	struct pic_chip pic[2];
	uint8_t ioapic_index, ioapic_id;
	uint64_t ioapic_entry[IOAPIC_PINS];
	/* Lines as devices hold them, whoever has the controllers. */
	uint16_t pic_lines;
	uint32_t ioapic_lines;
	struct pit_channel pit[3];
	bool speaker;
};

/*
 * All take the machine lock; all vCPUs are out of run. A set makes ours go on from there: lines are taken as devices hold
 * them now, and what that makes pending is delivered.
 */
void machine_irqchip_get(struct machine *machine, struct irqchip_state *ret_state);
void machine_irqchip_set(struct machine *machine, const struct irqchip_state *state);
void machine_lapic_get(struct machine *machine, unsigned vcpu, struct irqchip_lapic *ret_state);
void machine_lapic_set(struct machine *machine, unsigned vcpu, const struct irqchip_lapic *state);
/* An engine has taken them over: our timers stop, and nothing of ours is pending. */
void machine_irqchip_idle(struct machine *machine);

#endif
