/* Dispatch of port and MMIO accesses to devices. */
#include <string.h>

#include "machine/private.h"

/* ---- mapping -------------------------------------------------------------- */

static void list_append(struct bus_range **list, struct bus_range *range)
{
	while (*list)
		list = &(*list)->next;
	range->next = NULL;
	*list = range;
}

static void list_remove(struct bus_range **list, struct bus_range *range)
{
	while (*list && *list != range)
		list = &(*list)->next;
	BUG_ON(!*list);
	*list = range->next;
	range->next = NULL;
}

static unsigned pio_slot_of(const struct bus_pio *pio, const struct bus_range *range)
{
	for (unsigned i = 1; i <= BUS_PIO_RANGES; i++)
		if (pio->slot[i] == range)
			return i;
	return 0;
}

void bus_map_pio(struct machine *machine, struct bus_range *range, uint16_t port, uint32_t bytes)
{
	struct bus_pio *pio = &machine->pio;
	bus_unmap_pio(machine, range);
	range->base = port;
	range->bytes = bytes;
	if (!bytes || port + bytes > 0x10000)
		return;
	unsigned slot = pio_slot_of(pio, NULL);
	BUG_ON(!slot);
	pio->slot[slot] = range;
	list_append(&pio->ranges, range);
	range->mapped = true;
	for (uint32_t p = port; p < port + bytes; p++)
		if (!pio->map[p])
			pio->map[p] = (uint8_t)slot;
}

void bus_unmap_pio(struct machine *machine, struct bus_range *range)
{
	struct bus_pio *pio = &machine->pio;
	if (!range->mapped)
		return;
	unsigned slot = pio_slot_of(pio, range);
	pio->slot[slot] = NULL;
	list_remove(&pio->ranges, range);
	range->mapped = false;
	for (uint32_t p = (uint32_t)range->base; p < range->base + range->bytes; p++) {
		if (pio->map[p] != slot)
			continue;
		/* What it hid shows again. */
		struct bus_range *r = pio->ranges;
		while (r && !(p >= r->base && p - r->base < r->bytes))
			r = r->next;
		pio->map[p] = (uint8_t)(r ? pio_slot_of(pio, r) : 0);
	}
}

void bus_map_mmio(struct machine *machine, struct bus_range *range, gpa_t base, uint64_t bytes)
{
	bus_unmap_mmio(machine, range);
	range->base = base;
	range->bytes = bytes;
	if (!bytes || base + bytes - 1 < base)
		return;
	list_append(&machine->mmio.ranges, range);
	range->mapped = true;
	machine->mmio.last = NULL;
	doorbells_arm(machine, range);
}

void bus_unmap_mmio(struct machine *machine, struct bus_range *range)
{
	if (!range->mapped)
		return;
	doorbells_disarm(machine, range);
	list_remove(&machine->mmio.ranges, range);
	range->mapped = false;
	machine->mmio.last = NULL;
}

/* ---- dispatch -------------------------------------------------------------- */

static inline uint64_t size_mask(unsigned size) { return size >= 8 ? UINT64_MAX : ((uint64_t)1 << size * 8) - 1; }

/* Whether one call can serve it, as bus_ops promises. */
static inline bool range_takes(const struct bus_range *r, uint64_t address, unsigned size)
{
	uint64_t offset = address - r->base;
	return size <= r->ops->max && !(offset & (size - 1)) && size <= r->bytes - offset;
}

static uint64_t range_read(struct bus_range *r, uint64_t address, unsigned size)
{
	r->reads++;
	if (!r->ops->read)
		return size_mask(size);
	return r->ops->read(r->opaque, address - r->base, size) & size_mask(size);
}

static void range_write(struct bus_range *r, uint64_t address, uint64_t value, unsigned size)
{
	r->writes++;
	if (r->ops->write)
		r->ops->write(r->opaque, address - r->base, value & size_mask(size), size);
}

static inline struct bus_range *pio_find(struct bus_pio *pio, uint32_t port)
{
	return port < 0x10000 ? pio->slot[pio->map[port]] : NULL;
}

static uint32_t pio_read(struct machine *machine, uint32_t port, unsigned size)
{
	struct bus_range *r = pio_find(&machine->pio, port);
	if (r && range_takes(r, port, size))
		return (uint32_t)range_read(r, port, size);
	if (size > 1) {
		unsigned half = size / 2;
		uint32_t low = pio_read(machine, port, half);
		return low | pio_read(machine, port + half, half) << half * 8;
	}
	machine->unclaimed_pio++;
	return 0xff;
}

static void pio_write(struct machine *machine, uint32_t port, uint32_t value, unsigned size)
{
	struct bus_range *r = pio_find(&machine->pio, port);
	if (r && range_takes(r, port, size)) {
		range_write(r, port, value, size);
	} else if (size > 1) {
		unsigned half = size / 2;
		pio_write(machine, port, value, half);
		pio_write(machine, port + half, value >> half * 8, half);
	} else {
		machine->unclaimed_pio++;
	}
}

uint32_t machine_pio_read(struct machine *machine, unsigned vcpu, uint16_t port, unsigned size)
{
	BUG_ON(size != 1 && size != 2 && size != 4);
	machine_lock(machine);
	uint32_t value = pio_read(machine, port, size);
	machine_unlock(machine);
	return value;
}

void machine_pio_write(struct machine *machine, unsigned vcpu, uint16_t port, uint32_t value, unsigned size)
{
	BUG_ON(size != 1 && size != 2 && size != 4);
	machine_lock(machine);
	pio_write(machine, port, value, size);
	machine_unlock(machine);
}

static struct bus_range *mmio_find(struct bus_mmio *mmio, gpa_t gpa)
{
	struct bus_range *r = mmio->last;
	/* The last hit may only answer again where nothing mapped before it overlaps: so remember non-overlapped only. */
	if (r && gpa - r->base < r->bytes)
		return r;
	for (r = mmio->ranges; r; r = r->next)
		if (gpa - r->base < r->bytes)
			break;
	if (!r)
		return NULL;
	for (struct bus_range *o = mmio->ranges; o != r; o = o->next)
		if (o->base < r->base + r->bytes && r->base < o->base + o->bytes)
			return r;
	mmio->last = r;
	return r;
}

/* The largest naturally aligned piece at `gpa` of at most `size` bytes and 8. */
static unsigned mmio_piece(gpa_t gpa, unsigned size)
{
	unsigned piece = 8;
	while (piece > size || (gpa & (piece - 1)))
		piece /= 2;
	return piece;
}

static uint64_t mmio_read(struct machine *machine, gpa_t gpa, unsigned size)
{
	struct bus_range *r = mmio_find(&machine->mmio, gpa);
	if (r && range_takes(r, gpa, size))
		return range_read(r, gpa, size);
	if (size > 1) {
		unsigned half = size / 2;
		uint64_t low = mmio_read(machine, gpa, half);
		return low | mmio_read(machine, gpa + half, half) << half * 8;
	}
	machine->unclaimed_mmio++;
	return 0xff;
}

static void mmio_write(struct machine *machine, gpa_t gpa, uint64_t value, unsigned size)
{
	struct bus_range *r = mmio_find(&machine->mmio, gpa);
	if (r && range_takes(r, gpa, size)) {
		range_write(r, gpa, value, size);
	} else if (size > 1) {
		unsigned half = size / 2;
		mmio_write(machine, gpa, value, half);
		mmio_write(machine, gpa + half, value >> half * 8, half);
	} else {
		machine->unclaimed_mmio++;
	}
}

/* The vCPU's own LAPIC page, when xAPIC mode has it enabled there. */
static struct lapic *mmio_lapic(struct machine *machine, unsigned vcpu, gpa_t gpa, unsigned size)
{
	if (vcpu >= machine->config.vcpus)
		return NULL;
	struct lapic *lapic = &machine->lapic[vcpu];
	uint64_t base = atomic_load_explicit(&lapic->base, memory_order_relaxed);
	if ((base & (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)) != LAPIC_BASE_ENABLE)
		return NULL;
	uint64_t offset = gpa - (base & GUEST_PAGE_MASK);
	return offset < GUEST_PAGE_SIZE && size <= GUEST_PAGE_SIZE - offset ? lapic : NULL;
}

void machine_mmio_read(struct machine *machine, unsigned vcpu, gpa_t gpa, void *buf, unsigned size)
{
	BUG_ON(!size || size > 64);
	struct lapic *lapic = mmio_lapic(machine, vcpu, gpa, size);
	uint8_t *to = buf;
	if (lapic) {
		for (unsigned i = 0; i < size;) {
			unsigned offset = (unsigned)(gpa + i) & 0xfff, skip = offset & 3;
			uint32_t value = lapic_mmio_read(lapic, offset & ~3u) >> skip * 8;
			unsigned n = 4 - skip < size - i ? 4 - skip : size - i;
			memcpy(to + i, &value, n);
			i += n;
		}
		return;
	}
	machine_lock(machine);
	for (unsigned i = 0; i < size;) {
		unsigned n = mmio_piece(gpa + i, size - i);
		uint64_t value = mmio_read(machine, gpa + i, n);
		memcpy(to + i, &value, n);
		i += n;
	}
	machine_unlock(machine);
}

void machine_mmio_write(struct machine *machine, unsigned vcpu, gpa_t gpa, const void *buf, unsigned size)
{
	BUG_ON(!size || size > 64);
	struct lapic *lapic = mmio_lapic(machine, vcpu, gpa, size);
	const uint8_t *from = buf;
	if (lapic) {
		/* Registers are 32 bits wide at multiples of 16; anything narrower or astride is undefined: dropped. */
		if (size >= 4 && !(gpa & 15)) {
			uint32_t value;
			memcpy(&value, from, 4);
			lapic_mmio_write(lapic, (unsigned)gpa & 0xfff, value);
		}
		return;
	}
	machine_lock(machine);
	if (!ram_readonly_write(machine, gpa, buf, size)) {
		for (unsigned i = 0; i < size;) {
			unsigned n = mmio_piece(gpa + i, size - i);
			uint64_t value = 0;
			memcpy(&value, from + i, n);
			mmio_write(machine, gpa + i, value, n);
			i += n;
		}
	}
	machine_unlock(machine);
}
