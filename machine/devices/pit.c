/* 8254: three counters computed from virtual time; counter 0 drives IRQ 0, counter 2 answers at port 0x61. */
#include "machine/private.h"

/* A guest may ask for an edge every other tick; the host follows at most this often. */
#define EDGE_MIN_NS 50000u

static uint64_t ticks_since(const struct pit *pit, const struct pit_channel *ch)
{
	return clock_ns_to_ticks(machine_clock_ns(pit->machine) - ch->start_ns, PIT_HZ);
}

static unsigned to_bcd(unsigned n)
{
	return n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 | n / 1000 % 10 << 12;
}

static unsigned from_bcd(unsigned n)
{
	return (n & 15) + (n >> 4 & 15) * 10 + (n >> 8 & 15) * 100 + (n >> 12 & 15) * 1000;
}

/* Modes 2 and 3 reload themselves. */
static bool periodic(const struct pit_channel *ch) { return ch->mode == 2 || ch->mode == 3; }

/* The counting element's value. */
static uint16_t counter_value(const struct pit *pit, const struct pit_channel *ch)
{
	uint64_t wrap = ch->bcd ? 10000 : 0x10000, d, value;
	if (!ch->running)
		return (uint16_t)(ch->bcd ? to_bcd(ch->count % 10000) : ch->count);
	d = ticks_since(pit, ch);
	switch (ch->mode) {
	case 2: value = ch->count - d % ch->count; break;
	case 3: value = ch->count - 2 * d % ch->count; break;
	default: value = (ch->count + wrap - d % wrap) % wrap; break;
	}
	return (uint16_t)(ch->bcd ? to_bcd((unsigned)(value % 10000)) : value);
}

static bool output(const struct pit *pit, const struct pit_channel *ch)
{
	if (!ch->running)
		return ch->mode != 0; /* modes 1 to 5 idle high */
	uint64_t d = ticks_since(pit, ch);
	switch (ch->mode) {
	case 0: case 1: return d >= ch->count;
	case 2: return d % ch->count != ch->count - 1;
	case 3: return d % ch->count < (ch->count + 1) / 2;
	default: return d != ch->count;
	}
}

/* ---- counter 0's edges ---------------------------------------------------------- */

static void schedule(struct pit *pit)
{
	struct pit_channel *ch = &pit->channel[0];
	clock_timer_cancel(pit->machine, &pit->timer);
	if (!ch->running || (!periodic(ch) && pit->edges))
		return;
	uint64_t at = ch->start_ns + clock_ticks_to_ns((pit->edges + 1) * ch->count, PIT_HZ);
	uint64_t soonest = machine_clock_ns(pit->machine) + EDGE_MIN_NS;
	if (periodic(ch) && at < soonest)
		at = soonest;
	clock_timer_arm(pit->machine, &pit->timer, at);
}

static void edge(void *opaque)
{
	struct pit *pit = opaque;
	struct pit_channel *ch = &pit->channel[0];
	if (ch->mode == 0)
		irq_isa_set(pit->machine, ISA_IRQ_TIMER, IRQ_SOURCE_ISA, true); /* stays high until reprogrammed */
	else
		irq_isa_pulse(pit->machine, ISA_IRQ_TIMER);
	/* Those that were missed are lost: their interrupt would have been pending already. */
	uint64_t due = ticks_since(pit, ch) / ch->count;
	pit->edges = due > pit->edges ? due : pit->edges + 1;
	schedule(pit);
}

/* ---- programming ------------------------------------------------------------------ */

static void start(struct pit *pit, struct pit_channel *ch)
{
	ch->running = true;
	ch->start_ns = machine_clock_ns(pit->machine);
	if (ch == &pit->channel[0]) {
		pit->edges = 0;
		if (ch->mode == 0)
			irq_isa_set(pit->machine, ISA_IRQ_TIMER, IRQ_SOURCE_ISA, false);
		schedule(pit);
	}
}

static void load_count(struct pit *pit, struct pit_channel *ch, unsigned value)
{
	unsigned wrap = ch->bcd ? 10000 : 0x10000;
	if (ch->bcd)
		value = from_bcd(value);
	ch->count = value ? value : wrap;
	/* A count of 1 is illegal in modes 2 and 3. */
	if (periodic(ch) && ch->count < 2)
		ch->count = 2;
	ch->null_count = false;
	/* Modes 1 and 5 wait for a rising gate; the others count while the gate is high. */
	if (ch->mode == 1 || ch->mode == 5)
		return;
	if (ch->gate)
		start(pit, ch);
}

static void set_gate(struct pit *pit, struct pit_channel *ch, bool gate)
{
	bool rises = gate && !ch->gate;
	ch->gate = gate;
	if (rises && !ch->null_count && (ch->mode != 0 || !ch->running))
		start(pit, ch);
	else if (!gate && (periodic(ch) || ch->mode == 0 || ch->mode == 4))
		ch->running = false;
}

static void latch_count(const struct pit *pit, struct pit_channel *ch)
{
	if (ch->latched)
		return;
	ch->latch = counter_value(pit, ch);
	ch->latched = ch->access == 3 ? 2 : 1;
	ch->read_high_next = ch->access == 2;
}

static void latch_status(const struct pit *pit, struct pit_channel *ch)
{
	if (ch->status_latched)
		return;
	ch->status = (uint8_t)(output(pit, ch) << 7 | ch->null_count << 6 | ch->access << 4 | ch->mode << 1 | ch->bcd);
	ch->status_latched = true;
}

static void control_write(struct pit *pit, uint8_t value)
{
	unsigned n = value >> 6, access = value >> 4 & 3;
	if (n == 3) { /* read-back */
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & 2u << i))
				continue;
			if (!(value & 0x20))
				latch_count(pit, &pit->channel[i]);
			if (!(value & 0x10))
				latch_status(pit, &pit->channel[i]);
		}
		return;
	}
	struct pit_channel *ch = &pit->channel[n];
	if (!access) {
		latch_count(pit, ch);
		return;
	}
	ch->access = (uint8_t)access;
	ch->mode = value >> 1 & 7;
	if (ch->mode > 5)
		ch->mode &= 3; /* 6 and 7 are 2 and 3 */
	ch->bcd = value & 1;
	ch->null_count = true;
	ch->running = false;
	ch->latched = 0;
	ch->status_latched = false;
	ch->write_high_next = ch->read_high_next = access == 2;
	if (n == 0) {
		clock_timer_cancel(pit->machine, &pit->timer);
		irq_isa_set(pit->machine, ISA_IRQ_TIMER, IRQ_SOURCE_ISA, false);
	}
}

static void counter_write(struct pit *pit, struct pit_channel *ch, uint8_t value)
{
	switch (ch->access) {
	case 1: load_count(pit, ch, value); break;
	case 2: load_count(pit, ch, value << 8); break;
	case 3:
		if (!ch->write_high_next) {
			ch->write_low = value;
			/* In mode 0 the first byte stops the counting. */
			if (ch->mode == 0)
				ch->running = false;
		} else {
			load_count(pit, ch, ch->write_low | value << 8);
		}
		ch->write_high_next = !ch->write_high_next;
		break;
	default: break;
	}
}

static uint8_t counter_read(struct pit *pit, struct pit_channel *ch)
{
	if (ch->status_latched) {
		ch->status_latched = false;
		return ch->status;
	}
	uint16_t value = ch->latched ? ch->latch : counter_value(pit, ch);
	bool high = ch->read_high_next;
	if (ch->latched)
		ch->latched--;
	if (ch->access == 3)
		ch->read_high_next = !high;
	return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pit *pit = opaque;
	return offset < 3 ? counter_read(pit, &pit->channel[offset]) : 0xff;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pit *pit = opaque;
	if (offset == 3)
		control_write(pit, (uint8_t)value);
	else
		counter_write(pit, &pit->channel[offset], (uint8_t)value);
}

/* Port 0x61: bit 0 gate 2, 1 speaker, 4 refresh toggle (every 15 us), 5 output of counter 2. */
static uint64_t port61_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pit *pit = opaque;
	struct pit_channel *ch = &pit->channel[2];
	uint64_t refresh = machine_clock_ns(pit->machine) / 15085 & 1;
	return ch->gate | (unsigned)pit->speaker << 1 | refresh << 4 | (uint64_t)output(pit, ch) << 5;
}

static void port61_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pit *pit = opaque;
	pit->speaker = value & 2;
	set_gate(pit, &pit->channel[2], value & 1);
}

static const struct bus_ops pit_ops = { .read = port_read, .write = port_write, .max = 1 };
static const struct bus_ops port61_ops = { .read = port61_read, .write = port61_write, .max = 1 };

void pit_reset(struct pit *pit)
{
	clock_timer_cancel(pit->machine, &pit->timer);
	for (unsigned i = 0; i < 3; i++)
		pit->channel[i] = (struct pit_channel){
			.count = 0x10000, .mode = 3, .access = 3, .gate = i != 2, .null_count = true };
	pit->edges = 0;
	pit->speaker = false;
}

void pit_restore(struct pit *pit, const struct pit_channel channels[3], bool speaker)
{
	struct pit_channel *ch = &pit->channel[0];
	for (unsigned i = 0; i < 3; i++)
		pit->channel[i] = channels[i];
	pit->speaker = speaker;
	/* Edges that were due by now have been delivered by whoever had it. */
	pit->edges = ch->running ? ticks_since(pit, ch) / ch->count : 0;
	schedule(pit);
}

void pit_init(struct machine *machine, struct pit *pit)
{
	pit->machine = machine;
	clock_timer_init(&pit->timer, edge, pit);
	pit->ports = (struct bus_range){ .name = "io_pit", .ops = &pit_ops, .opaque = pit };
	bus_map_pio(machine, &pit->ports, 0x40, 4);
	pit->port61 = (struct bus_range){ .name = "io_pit", .ops = &port61_ops, .opaque = pit };
	bus_map_pio(machine, &pit->port61, 0x61, 1);
	pit_reset(pit);
}
