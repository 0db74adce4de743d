/* The pair of 8259A interrupt controllers with ELCR. */
#ifndef MACHINE_DEVICES_PIC_H
#define MACHINE_DEVICES_PIC_H

#include "machine/bus.h"

struct machine;

struct pic_chip {
	uint8_t lines, irr, imr, isr, elcr;
	uint8_t vector_base, priority_add; /* priority_add: the input of highest priority */
	uint8_t init_step;                 /* 0 ready, else the ICW expected next */
	bool icw4_needed, single, auto_eoi, rotate_auto_eoi, special_mask, special_nested, poll, read_isr;
};

struct pic {
	struct machine *machine;
	struct pic_chip chip[2]; /* master, slave */
	struct bus_range ports[2], elcr_ports;
	bool output;
};

void pic_init(struct machine *machine, struct pic *pic);
void pic_reset(struct pic *pic);
/* All under the machine lock. */
void pic_set(struct pic *pic, unsigned irq, bool level);
/* After its state was replaced: tells the LAPICs its output. */
void pic_refresh(struct pic *pic);
/* INTA cycle: the vector (a spurious one when nothing is pending any more). */
uint8_t pic_ack(struct pic *pic);

#endif
