/* IOAPIC: redirection of 24 pins to local APICs. */
#include "machine/private.h"

/* An EOI or an acknowledge comes here while a guest's vector state may be in the host's registers. */
#pragma GCC target("general-regs-only")

#define ENTRY_REMOTE_IRR 0x4000ull
#define ENTRY_LEVEL 0x8000ull
#define ENTRY_MASKED 0x10000ull
#define ENTRY_LOGICAL 0x800ull
#define ENTRY_WRITABLE 0xff0000000001afffull
#define ENTRY_MODE(e) ((enum lapic_delivery)((e) >> 8 & 7))

enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_ENTRY = 0x10 };
enum { OFFSET_INDEX = 0x00, OFFSET_DATA = 0x10, OFFSET_EOI = 0x40 };

static void deliver(struct ioapic *io, unsigned pin)
{
	uint64_t e = io->entry[pin];
	bool taken = lapic_bus_deliver(io->machine, e >> 56, e & ENTRY_LOGICAL, ENTRY_MODE(e), (uint8_t)e,
				       e & ENTRY_LEVEL);
	if (taken) {
		io->delivered[pin]++;
		/* Until a LAPIC's EOI; only fixed and lowest-priority interrupts get one. */
		if ((e & ENTRY_LEVEL) && (ENTRY_MODE(e) == LAPIC_FIXED || ENTRY_MODE(e) == LAPIC_LOWEST))
			io->entry[pin] |= ENTRY_REMOTE_IRR;
	}
}

/* A level-triggered pin that is high and neither masked nor being served. */
static void level_check(struct ioapic *io, unsigned pin)
{
	uint64_t e = io->entry[pin];
	if ((e & ENTRY_LEVEL) && !(e & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) && (io->level & 1u << pin))
		deliver(io, pin);
}

void ioapic_set(struct ioapic *io, unsigned pin, bool level)
{
	uint32_t bit = 1u << pin;
	bool was = io->level & bit;
	BUG_ON(pin >= IOAPIC_PINS);
	io->level = level ? io->level | bit : io->level & ~bit;
	if (!level || was)
		return;
	if (io->entry[pin] & ENTRY_LEVEL)
		level_check(io, pin);
	else if (!(io->entry[pin] & ENTRY_MASKED)) /* an edge on a masked pin is lost, as in the 82093AA */
		deliver(io, pin);
}

void ioapic_refresh(struct ioapic *io)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		level_check(io, pin);
}

static void eoi(struct ioapic *io, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = io->entry[pin];
		if ((uint8_t)e != vector || !(e & ENTRY_REMOTE_IRR))
			continue;
		io->entry[pin] &= ~ENTRY_REMOTE_IRR;
		level_check(io, pin);
	}
}

void ioapic_eoi(struct machine *machine, uint8_t vector)
{
	machine_lock(machine);
	eoi(&machine->ioapic, vector);
	machine_unlock(machine);
}

static uint32_t register_read(const struct ioapic *io, unsigned reg)
{
	switch (reg) {
	case REG_ID: case REG_ARBITRATION: return (uint32_t)io->id << 24;
	case REG_VERSION: return (IOAPIC_PINS - 1) << 16 | 0x20;
	default: break;
	}
	unsigned pin = (reg - REG_ENTRY) / 2;
	if (reg < REG_ENTRY || pin >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(reg & 1 ? io->entry[pin] >> 32 : io->entry[pin]);
}

static void entry_write(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
	uint64_t old = io->entry[pin], e;
	if (high)
		e = (old & 0xffffffffull) | (uint64_t)value << 32;
	else
		e = (old & ~0xffffffffull) | value;
	e = (e & ENTRY_WRITABLE) | (old & ENTRY_REMOTE_IRR);
	/* An edge-triggered entry has no remote IRR: kernels flip the mode to clear it. */
	if (!(e & ENTRY_LEVEL))
		e &= ~ENTRY_REMOTE_IRR;
	io->entry[pin] = e;
	level_check(io, pin);
}

static void register_write(struct ioapic *io, unsigned reg, uint32_t value)
{
	unsigned pin = (reg - REG_ENTRY) / 2;
	if (reg == REG_ID)
		io->id = value >> 24 & 0xf;
	else if (reg >= REG_ENTRY && pin < IOAPIC_PINS)
		entry_write(io, pin, reg & 1, value);
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
	struct ioapic *io = opaque;
	switch (offset & ~3ull) {
	case OFFSET_INDEX: return (uint64_t)io->index >> (offset & 3) * 8;
	case OFFSET_DATA: return register_read(io, io->index) >> (offset & 3) * 8;
	default: return 0;
	}
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct ioapic *io = opaque;
	if (offset == OFFSET_INDEX)
		io->index = (uint8_t)value;
	else if (offset == OFFSET_DATA && size == 4)
		register_write(io, io->index, (uint32_t)value);
	else if (offset == OFFSET_EOI)
		eoi(io, (uint8_t)value);
}

static const struct bus_ops ioapic_ops = { .read = mmio_read, .write = mmio_write, .max = 4 };

void ioapic_reset(struct ioapic *io)
{
	io->index = io->id = 0;
	io->level = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin] = ENTRY_MASKED;
}

void ioapic_init(struct machine *machine, struct ioapic *io)
{
	io->machine = machine;
	io->range = (struct bus_range){ .name = "io_ioapic", .ops = &ioapic_ops, .opaque = io };
	bus_map_mmio(machine, &io->range, IOAPIC_BASE, GUEST_PAGE_SIZE);
	ioapic_reset(io);
}
