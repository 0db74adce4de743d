/* Keyboard controller with a PS/2 keyboard and, where there is a screen, a mouse; port 0x92. */
#ifndef MACHINE_DEVICES_I8042_H
#define MACHINE_DEVICES_I8042_H

#include "machine/bus.h"

struct machine;

#define I8042_QUEUE 32
#define PS2_KEYS 256  /* bytes of keys that wait: more than a keyboard has, so that a program may type */
#define PS2_PACKET 4

/* What fills the output buffer. */
enum i8042_source { I8042_CONTROLLER, I8042_KEYBOARD, I8042_MOUSE };

/* Where its bytes come from, what they mean to it, and the mouse's movement since it last told of it. */
struct ps2_mouse {
	bool present, reporting, wrapping, remote;
	uint8_t command; /* that waits for its argument */
	uint8_t id;      /* 0; 3 with a wheel, 4 with five buttons: made so by a sequence of sample rates */
	uint8_t rate, resolution, rates[3]; /* the last three */
	bool scaling;
	int dx, dy, dz;
	uint8_t buttons, told;
	uint8_t packet[PS2_PACKET];
	uint8_t packet_bytes, packet_at;
};

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
		uint8_t source; /* enum i8042_source */
	} queue[I8042_QUEUE]; /* answers, behind the output buffer and before what is typed */
	unsigned head, count;
	uint8_t keys[PS2_KEYS];
	unsigned key_head, key_count;
	struct ps2_mouse mouse;
	bool full;           /* status OBF: `current` may be read */
	uint8_t current;
	uint8_t current_source;
	bool last_was_command; /* status: the last write was to port 0x64 */
};

void i8042_init(struct machine *machine, struct i8042 *kbd);
void i8042_reset(struct i8042 *kbd);
/* All under the machine lock. A key by Linux's code goes down or up. False: there is no such key, or no room now. */
bool i8042_key(struct i8042 *kbd, unsigned code, bool down);
/* Counts of a mouse: right, down, and wheel steps away from the user; buttons as bits left, right, middle, side, extra. */
void i8042_mouse_move(struct i8042 *kbd, int dx, int dy, int dz, unsigned buttons);

/* ---- ps2_keys.c ---- */
/* The bytes that a key sends in scan code set 1 or 2; how many, 0: no such key. */
#define PS2_KEY_BYTES 8
unsigned ps2_key_bytes(unsigned code, bool down, unsigned set, uint8_t ret_bytes[PS2_KEY_BYTES]);

/* ---- ps2_mouse.c ---- */
void ps2_mouse_reset(struct ps2_mouse *mouse);
/* A byte from the host; `answer` is called for each byte of the answer. */
void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t value, void (*answer)(void *opaque, uint8_t byte), void *opaque);
/* The next byte of what it tells unasked; -1: nothing. */
int ps2_mouse_next(struct ps2_mouse *mouse);

#endif
