/* Interrupt lines into the 8259 pair and the IOAPIC, and message-signalled interrupts. */
#ifndef MACHINE_IRQ_H
#define MACHINE_IRQ_H

#include "machine/types.h"

struct machine;

/*
 * ISA IRQ n reaches 8259 input n and IOAPIC pin n (IRQ 0: pin 2). PIRQ A..H (0..7) reach IOAPIC pins 16..23, and the
 * 8259 input that the LPC bridge's PIRQx_ROUT register names. Several sources may share a line: it is high while any
 * is. Whether a line is edge or level is what the guest programmed (ELCR, redirection entry); polarity is ignored,
 * high is asserted.
 */
#define ISA_IRQ_TIMER 0
#define ISA_IRQ_KEYBOARD 1
#define ISA_IRQ_COM2 3
#define ISA_IRQ_COM1 4
#define ISA_IRQ_RTC 8
#define ISA_IRQ_SCI 9 /* level; the same GSI */
#define ISA_IRQ_MOUSE 12
#define IRQ_PIRQ_GSI_BASE 16
#define IRQ_GSIS 24

/* One bit in a line's set of sources. */
enum irq_source {
	IRQ_SOURCE_ISA = 0,
	IRQ_SOURCE_SCI = 1,
	IRQ_SOURCE_PIRQ = 8, /* + 0..7 */
};

struct irq_lines {
	uint32_t isa[16];     /* asserted sources, by 8259 input */
	uint32_t gsi[IRQ_GSIS]; /* asserted sources, by IOAPIC pin */
	uint32_t pirq[8];     /* how many devices assert it */
	uint8_t pirq_route[8]; /* PIRQx_ROUT: bit 7 not routed, bits 3:0 the 8259 input */
};

/* All under the machine lock. */
void irq_isa_set(struct machine *machine, unsigned irq, enum irq_source source, bool level);
/* Low, then high: one edge. */
void irq_isa_pulse(struct machine *machine, unsigned irq);
/* For the PCI core: one more or one fewer device asserts this PIRQ. */
void irq_pirq_change(struct machine *machine, unsigned pirq, int delta);
void irq_pirq_route(struct machine *machine, unsigned pirq, uint8_t route);

/* A write of `data` to `address` on the interrupt bus (SDM vol. 3, 11.11). [lock-free] */
void machine_msi(struct machine *machine, uint64_t address, uint32_t data);

#endif
