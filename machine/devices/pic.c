/* The 8259A pair: initialization, priorities, rotation, special mask, poll; slave on input 2; ELCR at 0x4d0. */
#include "machine/private.h"

/* An EOI or an acknowledge comes here while a guest's vector state may be in the host's registers. */
#pragma GCC target("general-regs-only")

#define CASCADE 2u
#define SPURIOUS 7u
/* Inputs that cannot be level-triggered: timer, keyboard, cascade; RTC, coprocessor (ICH9 13.9). */
static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

/* Position in the priority order, 0 highest; 8 for none. */
static unsigned priority_of(const struct pic_chip *c, uint8_t set)
{
	for (unsigned p = 0; p < 8; p++)
		if (set & 1u << ((p + c->priority_add) & 7))
			return p;
	return 8;
}

static unsigned input_at(const struct pic_chip *c, unsigned priority) { return (priority + c->priority_add) & 7; }

/* What asks: latched edges, and high level-triggered lines. */
static uint8_t requests(const struct pic_chip *c)
{
	return (uint8_t)((c->irr & ~c->elcr) | (c->lines & c->elcr));
}

/* The input that would be served now, or -1. */
static int served(const struct pic_chip *c, bool master)
{
	unsigned want = priority_of(c, requests(c) & ~c->imr);
	if (want == 8)
		return -1;
	uint8_t isr = c->isr;
	if (c->special_mask)
		isr &= ~c->imr;
	/* In special fully nested mode the slave may interrupt its own service. */
	if (c->special_nested && master)
		isr &= ~(1u << CASCADE);
	if (priority_of(c, isr) <= want)
		return -1;
	return (int)input_at(c, want);
}

static void update(struct pic *pic)
{
	/* The cascade follows the slave's output as a level, so that a second slave request is not lost. */
	struct pic_chip *master = &pic->chip[0];
	uint8_t bit = 1u << CASCADE;
	if (served(&pic->chip[1], false) >= 0)
		master->irr |= bit;
	else
		master->irr &= ~bit;
	bool output = served(master, true) >= 0;
	if (output == pic->output)
		return;
	pic->output = output;
	lapic_pic_output(pic->machine, output);
}

void pic_set(struct pic *pic, unsigned irq, bool level)
{
	BUG_ON(irq >= 16);
	struct pic_chip *c = &pic->chip[irq / 8];
	uint8_t bit = 1u << (irq & 7);
	if (irq == CASCADE)
		return;
	bool was = c->lines & bit;
	if (level) {
		c->lines |= bit;
		if (!was)
			c->irr |= bit;
	} else {
		c->lines &= ~bit;
	}
	update(pic);
}

void pic_refresh(struct pic *pic)
{
	pic->output = false;
	lapic_pic_output(pic->machine, false);
	update(pic);
}

/* One chip's part of an INTA cycle: the input, SPURIOUS when none. */
static unsigned chip_ack(struct pic_chip *c, bool master)
{
	int input = served(c, master);
	if (input < 0)
		return SPURIOUS;
	uint8_t bit = 1u << input;
	c->irr &= ~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto_eoi)
		c->priority_add = (input + 1) & 7;
	return (unsigned)input;
}

uint8_t pic_ack(struct pic *pic)
{
	struct pic_chip *c = &pic->chip[0];
	bool cascaded = served(c, true) == CASCADE;
	unsigned input = chip_ack(c, true);
	uint8_t vector = c->vector_base | input;
	if (cascaded) {
		c = &pic->chip[1];
		vector = c->vector_base | chip_ack(c, false);
	}
	update(pic);
	return vector;
}

static void chip_reset(struct pic_chip *c, bool keep_wiring)
{
	struct pic_chip old = *c;
	*c = (struct pic_chip){ .lines = old.lines };
	if (keep_wiring)
		c->elcr = old.elcr;
}

static void icw1(struct pic_chip *c, uint8_t value)
{
	chip_reset(c, true);
	c->init_step = 2;
	c->icw4_needed = value & 1;
	c->single = value & 2;
}

static void eoi(struct pic_chip *c, int input, bool rotate)
{
	if (input < 0) {
		uint8_t isr = c->isr;
		if (c->special_mask)
			isr &= ~c->imr;
		unsigned p = priority_of(c, isr);
		if (p == 8)
			return;
		input = (int)input_at(c, p);
	}
	c->isr &= ~(1u << input);
	if (rotate)
		c->priority_add = (input + 1) & 7;
}

static void ocw2(struct pic_chip *c, uint8_t value)
{
	int input = value & 7;
	switch (value >> 5) {
	case 0: c->rotate_auto_eoi = false; break;
	case 1: eoi(c, -1, false); break;
	case 3: eoi(c, input, false); break;
	case 4: c->rotate_auto_eoi = true; break;
	case 5: eoi(c, -1, true); break;
	case 6: c->priority_add = (input + 1) & 7; break;
	case 7: eoi(c, input, true); break;
	default: break;
	}
}

static void ocw3(struct pic_chip *c, uint8_t value)
{
	if (value & 4)
		c->poll = true;
	if (value & 2)
		c->read_isr = value & 1;
	if (value & 0x40)
		c->special_mask = value & 0x20;
}

static void data_write(struct pic_chip *c, uint8_t value)
{
	switch (c->init_step) {
	case 0: c->imr = value; return;
	case 2:
		c->vector_base = value & 0xf8;
		c->init_step = c->single ? (c->icw4_needed ? 4 : 0) : 3;
		return;
	case 3: c->init_step = c->icw4_needed ? 4 : 0; return;
	default:
		c->special_nested = value & 0x10;
		c->auto_eoi = value & 2;
		c->init_step = 0;
	}
}

static unsigned chip_of(struct pic *pic, const struct pic_chip *c) { return (unsigned)(c - pic->chip); }

static void port_write(struct pic *pic, struct pic_chip *c, uint64_t offset, uint8_t value)
{
	if (offset)
		data_write(c, value);
	else if (value & 0x10)
		icw1(c, value);
	else if (value & 8)
		ocw3(c, value);
	else
		ocw2(c, value);
	update(pic);
}

static uint64_t port_read(struct pic *pic, struct pic_chip *c, uint64_t offset)
{
	if (c->poll) {
		/* Poll: a read is the acknowledge (8259A, "poll command"). */
		c->poll = false;
		bool master = chip_of(pic, c) == 0;
		int input = served(c, master);
		if (input < 0)
			return 0;
		chip_ack(c, master);
		update(pic);
		return 0x80u | (unsigned)input;
	}
	if (offset)
		return c->imr;
	return c->read_isr ? c->isr : requests(c);
}

static uint64_t master_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pic *pic = opaque;
	return port_read(pic, &pic->chip[0], offset);
}

static void master_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pic *pic = opaque;
	port_write(pic, &pic->chip[0], offset, (uint8_t)value);
}

static uint64_t slave_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pic *pic = opaque;
	return port_read(pic, &pic->chip[1], offset);
}

static void slave_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pic *pic = opaque;
	port_write(pic, &pic->chip[1], offset, (uint8_t)value);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pic *pic = opaque;
	return pic->chip[offset].elcr;
}

static void elcr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pic *pic = opaque;
	pic->chip[offset].elcr = (uint8_t)value & elcr_mask[offset];
	update(pic);
}

static const struct bus_ops pic_ops[2] = {
	{ .read = master_read, .write = master_write, .max = 1 },
	{ .read = slave_read, .write = slave_write, .max = 1 },
};
static const struct bus_ops elcr_ops = { .read = elcr_read, .write = elcr_write, .max = 1 };

void pic_reset(struct pic *pic)
{
	for (unsigned i = 0; i < 2; i++) {
		chip_reset(&pic->chip[i], false);
		pic->chip[i].lines = 0;
		pic->chip[i].imr = 0xff; /* until initialized, nobody has vectors */
	}
	update(pic);
}

void pic_init(struct machine *machine, struct pic *pic)
{
	pic->machine = machine;
	for (unsigned i = 0; i < 2; i++) {
		pic->ports[i] = (struct bus_range){ .name = "io_pic", .ops = &pic_ops[i], .opaque = pic };
		bus_map_pio(machine, &pic->ports[i], i ? 0xa0 : 0x20, 2);
	}
	pic->elcr_ports = (struct bus_range){ .name = "io_pic", .ops = &elcr_ops, .opaque = pic };
	bus_map_pio(machine, &pic->elcr_ports, 0x4d0, 2);
	pic_reset(pic);
}
