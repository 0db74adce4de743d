/* Keyboard controller with a PS/2 keyboard that answers politely; port 0x92. */
#ifndef MACHINE_DEVICES_I8042_H
#define MACHINE_DEVICES_I8042_H

#include "machine/bus.h"

struct machine;

#define I8042_QUEUE 32

struct i8042 {
	struct machine *machine;
	struct bus_range data_port, command_port, port92;
	uint8_t ctr;         /* command byte */
	uint8_t outport;
	uint8_t command;     /* controller command that waits for its data byte */
	uint8_t ram[32];
	uint8_t keyboard_command; /* keyboard command that waits for its argument */
	bool scanning;
	uint8_t scancode_set;
	struct {
		uint8_t byte;
		bool irq;
	} queue[I8042_QUEUE]; /* output buffer and what waits behind it */
	unsigned head, count;
	bool full;           /* status OBF: `current` may be read */
	uint8_t current;
	bool current_irq;
	bool last_was_command; /* status: the last write was to port 0x64 */
};

void i8042_init(struct machine *machine, struct i8042 *kbd);
void i8042_reset(struct i8042 *kbd);

#endif
