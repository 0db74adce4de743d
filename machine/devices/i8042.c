/* 8042 keyboard controller, a PS/2 keyboard that nobody types on, no mouse; port 0x92 (fast A20 and reset). */
#include "machine/private.h"

#define STATUS_OBF 0x01u
#define STATUS_SYS 0x04u
#define STATUS_COMMAND 0x08u
#define STATUS_UNLOCKED 0x10u
#define CTR_KEYBOARD_IRQ 0x01u
#define CTR_SYS 0x04u
#define CTR_KEYBOARD_OFF 0x10u
#define CTR_AUX_OFF 0x20u
#define OUT_RESET 0x01u /* low: the processor is held in reset */
#define OUT_A20 0x02u
#define KEYBOARD_ACK 0xfau
#define KEYBOARD_RESEND 0xfeu

static void a20_set(struct i8042 *kbd, bool on)
{
	struct machine *m = kbd->machine;
	if (atomic_exchange(&m->a20, on) != on && m->hooks.map_changed)
		m->hooks.map_changed(m->hooks.opaque, 0, RAM_HIGH_BASE);
	kbd->outport = on ? kbd->outport | OUT_A20 : kbd->outport & ~OUT_A20;
}

/* ---- output buffer ------------------------------------------------------------- */

/* The next byte into the output buffer, with its interrupt. */
static void fill(struct i8042 *kbd)
{
	if (kbd->full || !kbd->count)
		return;
	kbd->current = kbd->queue[kbd->head].byte;
	kbd->current_irq = kbd->queue[kbd->head].irq;
	kbd->head = (kbd->head + 1) % I8042_QUEUE;
	kbd->count--;
	kbd->full = true;
	if (kbd->current_irq && (kbd->ctr & CTR_KEYBOARD_IRQ))
		irq_isa_set(kbd->machine, ISA_IRQ_KEYBOARD, IRQ_SOURCE_ISA, true);
}

static void put(struct i8042 *kbd, uint8_t byte, bool irq)
{
	if (kbd->count == I8042_QUEUE)
		return; /* a keyboard drops what its buffer does not hold */
	unsigned at = (kbd->head + kbd->count++) % I8042_QUEUE;
	kbd->queue[at].byte = byte;
	kbd->queue[at].irq = irq;
	fill(kbd);
}

/* From the keyboard: asks for IRQ 1. The controller's own answers do too, as on PCs. */
static void put_keyboard(struct i8042 *kbd, uint8_t byte) { put(kbd, byte, true); }

static uint8_t take(struct i8042 *kbd)
{
	uint8_t byte = kbd->current;
	if (!kbd->full)
		return byte;
	kbd->full = false;
	irq_isa_set(kbd->machine, ISA_IRQ_KEYBOARD, IRQ_SOURCE_ISA, false);
	fill(kbd);
	return byte;
}

/* ---- keyboard ---------------------------------------------------------------------- */

static void keyboard_argument(struct i8042 *kbd, uint8_t value)
{
	uint8_t command = kbd->keyboard_command;
	kbd->keyboard_command = 0;
	put_keyboard(kbd, KEYBOARD_ACK);
	if (command == 0xf0) {
		if (!value)
			put_keyboard(kbd, kbd->scancode_set);
		else if (value <= 3)
			kbd->scancode_set = value;
	}
}

static void keyboard_write(struct i8042 *kbd, uint8_t value)
{
	kbd->ctr &= ~CTR_KEYBOARD_OFF; /* writing to the keyboard enables its clock */
	if (kbd->keyboard_command) {
		keyboard_argument(kbd, value);
		return;
	}
	switch (value) {
	case 0xed: case 0xf0: case 0xf3: case 0xfb: case 0xfc: case 0xfd:
		kbd->keyboard_command = value;
		put_keyboard(kbd, KEYBOARD_ACK);
		break;
	case 0xee: put_keyboard(kbd, 0xee); break;
	case 0xf2:
		put_keyboard(kbd, KEYBOARD_ACK);
		put_keyboard(kbd, 0xab);
		put_keyboard(kbd, 0x83);
		break;
	case 0xf4: kbd->scanning = true; put_keyboard(kbd, KEYBOARD_ACK); break;
	case 0xf5: case 0xf6:
		kbd->scanning = value == 0xf6;
		kbd->scancode_set = 2;
		put_keyboard(kbd, KEYBOARD_ACK);
		break;
	case 0xf7: case 0xf8: case 0xf9: case 0xfa: put_keyboard(kbd, KEYBOARD_ACK); break;
	case 0xff:
		kbd->scanning = true;
		kbd->scancode_set = 2;
		put_keyboard(kbd, KEYBOARD_ACK);
		put_keyboard(kbd, 0xaa);
		break;
	default: put_keyboard(kbd, KEYBOARD_RESEND);
	}
}

/* ---- controller ---------------------------------------------------------------------- */

static void outport_write(struct i8042 *kbd, uint8_t value)
{
	kbd->outport = value | OUT_RESET;
	a20_set(kbd, value & OUT_A20);
	if (!(value & OUT_RESET))
		machine_tell(kbd->machine, MACHINE_EVENT_RESET, 0);
}

static void ctr_write(struct i8042 *kbd, uint8_t value)
{
	kbd->ctr = value;
	bool asserted = kbd->full && kbd->current_irq && (value & CTR_KEYBOARD_IRQ);
	irq_isa_set(kbd->machine, ISA_IRQ_KEYBOARD, IRQ_SOURCE_ISA, asserted);
}

static void command_write(struct i8042 *kbd, uint8_t value)
{
	kbd->command = 0;
	switch (value) {
	case 0x20: put(kbd, kbd->ctr, true); break;
	case 0x21 ... 0x3f: put(kbd, kbd->ram[value & 0x1f], true); break;
	case 0x60 ... 0x7f: case 0xd1: case 0xd2: case 0xd3: case 0xd4: kbd->command = value; break;
	case 0xa7: kbd->ctr |= CTR_AUX_OFF; break;
	case 0xa8: kbd->ctr &= ~CTR_AUX_OFF; break;
	case 0xa9: put(kbd, 0x01, true); break; /* the mouse's clock line is stuck: no mouse */
	case 0xaa:
		kbd->ctr |= CTR_SYS;
		put(kbd, 0x55, true);
		break;
	case 0xab: put(kbd, 0x00, true); break;
	case 0xad: kbd->ctr |= CTR_KEYBOARD_OFF; break;
	case 0xae: kbd->ctr &= ~CTR_KEYBOARD_OFF; break;
	case 0xc0: put(kbd, 0x80, true); break; /* input port: keyboard not locked */
	case 0xd0: put(kbd, kbd->outport, true); break;
	case 0xdd: a20_set(kbd, false); break;
	case 0xdf: a20_set(kbd, true); break;
	case 0xf0 ... 0xff:
		/* Pulses the output bits whose bit here is 0. */
		if (!(value & 1))
			machine_tell(kbd->machine, MACHINE_EVENT_RESET, 0);
		break;
	default: break;
	}
}

static void data_write(struct i8042 *kbd, uint8_t value)
{
	uint8_t command = kbd->command;
	kbd->command = 0;
	switch (command) {
	case 0: keyboard_write(kbd, value); break;
	case 0x60: ctr_write(kbd, value); break;
	case 0x61 ... 0x7f: kbd->ram[command & 0x1f] = value; break;
	case 0xd1: outport_write(kbd, value); break;
	/* The mouse's loopback answers as the keyboard's, which tells a driver that there is no mouse port. */
	case 0xd2: case 0xd3: put(kbd, value, true); break;
	case 0xd4: put(kbd, KEYBOARD_RESEND, true); break;
	default: break;
	}
}

static uint64_t data_port_read(void *opaque, uint64_t offset, unsigned size) { return take(opaque); }
static void data_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbd = opaque;
	kbd->last_was_command = false;
	data_write(kbd, (uint8_t)value);
}

static uint64_t command_port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbd = opaque;
	return STATUS_UNLOCKED | (kbd->full ? STATUS_OBF : 0) | (kbd->ctr & CTR_SYS ? STATUS_SYS : 0) |
	       (kbd->last_was_command ? STATUS_COMMAND : 0);
}

static void command_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbd = opaque;
	kbd->last_was_command = true;
	command_write(kbd, (uint8_t)value);
}

/* Port 0x92: bit 0 fast reset, bit 1 A20. */
static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbd = opaque;
	return machine_a20(kbd->machine) ? 2 : 0;
}

static void port92_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbd = opaque;
	a20_set(kbd, value & 2);
	if (value & 1)
		machine_tell(kbd->machine, MACHINE_EVENT_RESET, 0);
}

static const struct bus_ops data_ops = { .read = data_port_read, .write = data_port_write, .max = 1 };
static const struct bus_ops command_ops = { .read = command_port_read, .write = command_port_write, .max = 1 };
static const struct bus_ops port92_ops = { .read = port92_read, .write = port92_write, .max = 1 };

void i8042_reset(struct i8042 *kbd)
{
	kbd->ctr = CTR_KEYBOARD_IRQ | CTR_SYS;
	kbd->outport = OUT_RESET | OUT_A20;
	kbd->command = kbd->keyboard_command = 0;
	kbd->scanning = true;
	kbd->scancode_set = 2;
	kbd->head = kbd->count = 0;
	kbd->full = kbd->last_was_command = false;
	a20_set(kbd, true);
}

void i8042_init(struct machine *machine, struct i8042 *kbd)
{
	kbd->machine = machine;
	kbd->data_port = (struct bus_range){ .name = "io_i8042", .ops = &data_ops, .opaque = kbd };
	kbd->command_port = (struct bus_range){ .name = "io_i8042", .ops = &command_ops, .opaque = kbd };
	kbd->port92 = (struct bus_range){ .name = "io_i8042", .ops = &port92_ops, .opaque = kbd };
	bus_map_pio(machine, &kbd->data_port, 0x60, 1);
	bus_map_pio(machine, &kbd->command_port, 0x64, 1);
	bus_map_pio(machine, &kbd->port92, 0x92, 1);
	i8042_reset(kbd);
}
