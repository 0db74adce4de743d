/* 8254 timer, with channel 2's gate and output at port 0x61. */
#ifndef MACHINE_DEVICES_PIT_H
#define MACHINE_DEVICES_PIT_H

#include "machine/bus.h"
#include "machine/clock.h"

struct machine;

#define PIT_HZ 1193182u

struct pit_channel {
	uint32_t count;       /* 1..65536 */
	uint64_t start_ns;    /* when counting began */
	uint8_t mode, access; /* access 1 low, 2 high, 3 low then high */
	bool bcd, gate;
	bool null_count;      /* a mode was written, no count yet */
	bool running;
	uint8_t write_low;
	bool write_high_next, read_high_next;
	uint16_t latch;
	uint8_t latched;      /* bytes of the count latch still to be read */
	bool status_latched;
	uint8_t status;
};

struct pit {
	struct machine *machine;
	struct bus_range ports, port61;
	struct pit_channel channel[3];
	struct clock_timer timer; /* channel 0's next edge */
	uint64_t edges;           /* rising edges that have been delivered since start_ns */
	bool speaker;
};

void pit_init(struct machine *machine, struct pit *pit);
void pit_reset(struct pit *pit);
/* Goes on from these three channels. Under the machine lock. */
void pit_restore(struct pit *pit, const struct pit_channel channels[3], bool speaker);

#endif
