/* 8042 keyboard controller with a PS/2 keyboard and mouse behind it; port 0x92 (fast A20 and reset). */
#include "machine/private.h"

#define STATUS_OBF 0x01u
#define STATUS_MOUSE 0x20u /* what may be read is the mouse's */
#define STATUS_SYS 0x04u
#define STATUS_COMMAND 0x08u
#define STATUS_UNLOCKED 0x10u
#define CTR_KEYBOARD_IRQ 0x01u
#define CTR_MOUSE_IRQ 0x02u
#define CTR_TRANSLATE 0x40u /* set 2 to set 1 */
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

static void update_irqs(struct i8042 *kbd)
{
	bool mouse = kbd->current_source == I8042_MOUSE;

	irq_isa_set(kbd->machine, ISA_IRQ_KEYBOARD, IRQ_SOURCE_ISA, kbd->full && !mouse && (kbd->ctr & CTR_KEYBOARD_IRQ));
	if (kbd->mouse.present)
		irq_isa_set(kbd->machine, ISA_IRQ_MOUSE, IRQ_SOURCE_ISA, kbd->full && mouse && (kbd->ctr & CTR_MOUSE_IRQ));
}

/* The next byte that anybody has to say: answers come first. False: nobody. */
static bool next_byte(struct i8042 *kbd)
{
	int byte;

	if (kbd->count) {
		kbd->current = kbd->queue[kbd->head].byte;
		kbd->current_source = kbd->queue[kbd->head].source;
		kbd->head = (kbd->head + 1) % I8042_QUEUE;
		kbd->count--;
		return true;
	}
	if (kbd->key_count && kbd->scanning && !(kbd->ctr & CTR_KEYBOARD_OFF)) {
		kbd->current = kbd->keys[kbd->key_head];
		kbd->current_source = I8042_KEYBOARD;
		kbd->key_head = (kbd->key_head + 1) % PS2_KEYS;
		kbd->key_count--;
		return true;
	}
	byte = kbd->mouse.present && !(kbd->ctr & CTR_AUX_OFF) ? ps2_mouse_next(&kbd->mouse) : -1;
	if (byte < 0)
		return false;
	kbd->current = (uint8_t)byte;
	kbd->current_source = I8042_MOUSE;
	return true;
}

/* The next byte into the output buffer, with its interrupt. */
static void fill(struct i8042 *kbd)
{
	if (kbd->full || !next_byte(kbd))
		return;
	kbd->full = true;
	update_irqs(kbd);
}

static void put(struct i8042 *kbd, uint8_t byte, enum i8042_source source)
{
	if (kbd->count == I8042_QUEUE)
		return; /* a keyboard drops what its buffer does not hold */
	unsigned at = (kbd->head + kbd->count++) % I8042_QUEUE;
	kbd->queue[at].byte = byte;
	kbd->queue[at].source = (uint8_t)source;
	fill(kbd);
}

/* Each asks for its interrupt; the controller's own answers for the keyboard's, as on PCs. */
static void put_keyboard(struct i8042 *kbd, uint8_t byte) { put(kbd, byte, I8042_KEYBOARD); }
static void put_answer(struct i8042 *kbd, uint8_t byte) { put(kbd, byte, I8042_CONTROLLER); }
static void put_mouse(void *opaque, uint8_t byte) { put(opaque, byte, I8042_MOUSE); }

static uint8_t take(struct i8042 *kbd)
{
	uint8_t byte = kbd->current;
	if (!kbd->full)
		return byte;
	kbd->full = false;
	update_irqs(kbd);
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
		else if (value <= 2)
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
	case 0xf4:
		kbd->scanning = true;
		put_keyboard(kbd, KEYBOARD_ACK);
		break;
	case 0xf5: case 0xf6:
		kbd->scanning = value == 0xf6;
		kbd->scancode_set = 2;
		kbd->key_count = 0;
		put_keyboard(kbd, KEYBOARD_ACK);
		break;
	case 0xf7: case 0xf8: case 0xf9: case 0xfa: put_keyboard(kbd, KEYBOARD_ACK); break;
	case 0xff:
		kbd->scanning = true;
		kbd->scancode_set = 2;
		kbd->key_count = 0;
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
	update_irqs(kbd);
	fill(kbd);
}

static void command_write(struct i8042 *kbd, uint8_t value)
{
	kbd->command = 0;
	switch (value) {
	case 0x20: put_answer(kbd, kbd->ctr); break;
	case 0x21 ... 0x3f: put_answer(kbd, kbd->ram[value & 0x1f]); break;
	case 0x60 ... 0x7f: case 0xd1: case 0xd2: case 0xd3: case 0xd4: kbd->command = value; break;
	case 0xa7: kbd->ctr |= CTR_AUX_OFF; break;
	case 0xa8: ctr_write(kbd, kbd->ctr & ~CTR_AUX_OFF); break;
	/* The mouse's clock line is stuck: no mouse. */
	case 0xa9: put_answer(kbd, kbd->mouse.present ? 0x00 : 0x01); break;
	case 0xaa:
		kbd->ctr |= CTR_SYS;
		put_answer(kbd, 0x55);
		break;
	case 0xab: put_answer(kbd, 0x00); break;
	case 0xad: kbd->ctr |= CTR_KEYBOARD_OFF; break;
	case 0xae: ctr_write(kbd, kbd->ctr & ~CTR_KEYBOARD_OFF); break;
	case 0xc0: put_answer(kbd, 0x80); break; /* input port: keyboard not locked */
	case 0xd0: put_answer(kbd, kbd->outport); break;
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
	case 0xd2: put_answer(kbd, value); break;
	/* Without a mouse its loopback answers as the keyboard's, which tells a driver that there is no port for one. */
	case 0xd3: put(kbd, value, kbd->mouse.present ? I8042_MOUSE : I8042_CONTROLLER); break;
	case 0xd4:
		kbd->ctr &= ~CTR_AUX_OFF;
		if (kbd->mouse.present)
			ps2_mouse_write(&kbd->mouse, value, put_mouse, kbd);
		else
			put_answer(kbd, KEYBOARD_RESEND);
		fill(kbd);
		break;
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
	return STATUS_UNLOCKED | (kbd->full ? STATUS_OBF : 0) |
	       (kbd->full && kbd->current_source == I8042_MOUSE && kbd->mouse.present ? STATUS_MOUSE : 0) | (kbd->ctr & CTR_SYS ? STATUS_SYS : 0) |
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

/* ---- a user's hands ------------------------------------------------------------------- */

bool i8042_key(struct i8042 *kbd, unsigned code, bool down)
{
	uint8_t bytes[PS2_KEY_BYTES];
	unsigned set = kbd->scancode_set == 2 && !(kbd->ctr & CTR_TRANSLATE) ? 2 : 1;
	unsigned n = ps2_key_bytes(code, down, set, bytes);

	if (PS2_KEYS - kbd->key_count < n)
		return false;
	for (unsigned i = 0; i < n; i++)
		kbd->keys[(kbd->key_head + kbd->key_count++) % PS2_KEYS] = bytes[i];
	fill(kbd);
	return n;
}

#define FARTHEST 4096 /* what a guest that does not look at its mouse finds in the end */

static int add(int a, int b)
{
	int sum = b > FARTHEST ? a + FARTHEST : b < -FARTHEST ? a - FARTHEST : a + b;
	return sum > FARTHEST ? FARTHEST : sum < -FARTHEST ? -FARTHEST : sum;
}

void i8042_mouse_move(struct i8042 *kbd, int dx, int dy, int dz, unsigned buttons)
{
	struct ps2_mouse *m = &kbd->mouse;

	m->buttons = buttons & 31;
	if (!m->reporting)
		return;
	m->dx = add(m->dx, dx);
	m->dy = add(m->dy, dy);
	m->dz = add(m->dz, dz);
	fill(kbd);
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
	kbd->head = kbd->count = kbd->key_head = kbd->key_count = 0;
	ps2_mouse_reset(&kbd->mouse);
	kbd->full = kbd->last_was_command = false;
	a20_set(kbd, true);
}

void i8042_init(struct machine *machine, struct i8042 *kbd)
{
	kbd->machine = machine;
	kbd->mouse.present = machine->config.display;
	kbd->data_port = (struct bus_range){ .name = "io_i8042", .ops = &data_ops, .opaque = kbd };
	kbd->command_port = (struct bus_range){ .name = "io_i8042", .ops = &command_ops, .opaque = kbd };
	kbd->port92 = (struct bus_range){ .name = "io_i8042", .ops = &port92_ops, .opaque = kbd };
	bus_map_pio(machine, &kbd->data_port, 0x60, 1);
	bus_map_pio(machine, &kbd->command_port, 0x64, 1);
	bus_map_pio(machine, &kbd->port92, 0x92, 1);
	i8042_reset(kbd);
}
