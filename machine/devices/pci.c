/* PCI root bus: configuration space, BARs that move, legacy interrupts. MSI-X is in pci_msix.c. */
#include <errno.h>
#include <string.h>

#include "machine/devices/pci_private.h"
#include "machine/private.h"

#define BAR_IO 1u
#define BAR_MEM64 4u
#define BAR_PREFETCH 8u
#define CONFIG_ENABLE 0x80000000u

/* ---- BARs ------------------------------------------------------------------------ */

static bool bar_is_io(const struct pci_bar *bar) { return bar->type == PCI_BAR_IO; }

static uint64_t bar_address(const struct pci_device *dev, unsigned i)
{
	uint32_t low = pci_config_u32(dev, PCI_BAR0 + 4 * i);
	switch (dev->bar[i].type) {
	case PCI_BAR_IO: return low & ~3u;
	case PCI_BAR_MEM64: return (uint64_t)pci_config_u32(dev, PCI_BAR0 + 4 * i + 4) << 32 | (low & ~15u);
	default: return low & ~15u;
	}
}

/* Whether the guest has given it an address that can be decoded: not 0, not the sizing pattern. */
static bool bar_decodes(const struct pci_device *dev, unsigned i, uint64_t address)
{
	const struct pci_bar *bar = &dev->bar[i];
	uint64_t end = address + bar->bytes - 1;
	if (!address || end < address)
		return false;
	if (bar_is_io(bar))
		return (dev->config[PCI_COMMAND] & PCI_COMMAND_IO) && end <= 0xffff;
	if (!(dev->config[PCI_COMMAND] & PCI_COMMAND_MEMORY))
		return false;
	return bar->type == PCI_BAR_MEM64 ? end >> 52 == 0 : end < UINT32_MAX;
}

static void bars_update(struct pci_device *dev)
{
	struct machine *m = dev->machine;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];
		if (bar->type == PCI_BAR_NONE)
			continue;
		uint64_t address = bar_address(dev, i);
		bool want = bar_decodes(dev, i, address);
		if (want == bar->range.mapped && (!want || address == bar->range.base))
			continue;
		if (!want && bar_is_io(bar))
			bus_unmap_pio(m, &bar->range);
		else if (!want)
			bus_unmap_mmio(m, &bar->range);
		else if (bar_is_io(bar))
			bus_map_pio(m, &bar->range, (uint16_t)address, (uint32_t)bar->bytes);
		else
			bus_map_mmio(m, &bar->range, address, bar->bytes);
	}
}

void pci_bar_add(struct pci_device *dev, unsigned index, enum pci_bar_type type, uint64_t bytes,
		 const struct bus_ops *ops, void *opaque)
{
	BUG_ON(index >= PCI_BARS || (type == PCI_BAR_MEM64 && index + 1 >= PCI_BARS));
	BUG_ON(bytes < (type == PCI_BAR_IO ? 4 : GUEST_PAGE_SIZE) || (bytes & (bytes - 1)));
	struct pci_bar *bar = &dev->bar[index];
	unsigned at = PCI_BAR0 + 4 * index;
	uint64_t mask = ~(bytes - 1);
	*bar = (struct pci_bar){ .type = type, .bytes = bytes };
	bar->range = (struct bus_range){ .name = dev->name, .ops = ops, .opaque = opaque };
	pci_config_set_u32(dev, at, type == PCI_BAR_IO ? BAR_IO : type == PCI_BAR_MEM64 ? BAR_MEM64 | BAR_PREFETCH : 0);
	for (unsigned b = 0; b < 4; b++)
		dev->wmask[at + b] = (uint8_t)(mask >> 8 * b);
	for (unsigned b = 4; type == PCI_BAR_MEM64 && b < 8; b++)
		dev->wmask[at + b] = (uint8_t)(mask >> 8 * b);
}

/* ---- INTx -------------------------------------------------------------------------- */

unsigned pci_intx_pirq(unsigned slot, unsigned pin)
{
	return slot < 25 ? 4 + ((slot + pin) & 3) : pin & 3;
}

void pci_intx_update(struct pci_device *dev)
{
	uint8_t pin = dev->config[PCI_INTERRUPT_PIN];
	if (!pin)
		return;
	bool level = dev->intx && !pci_msix_enabled(dev);
	if (level)
		dev->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		dev->config[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT;
	level = level && !(pci_config_u16(dev, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
	if (level == dev->intx_asserted)
		return;
	dev->intx_asserted = level;
	irq_pirq_change(dev->machine, pci_intx_pirq(dev->slot, pin - 1), level ? 1 : -1);
}

void pci_intx_set(struct pci_device *dev, bool level)
{
	dev->intx = level;
	pci_intx_update(dev);
}

/* ---- configuration space ------------------------------------------------------------ */

static uint32_t config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size)
{
	struct pci_device *dev = bus->device[devfn & 0xff];
	uint32_t value = 0;
	if (!dev)
		return UINT32_MAX;
	if (offset >= PCI_CONFIG_BYTES)
		return 0;
	if (dev->config_read)
		dev->config_read(dev, offset, size);
	memcpy(&value, dev->config + offset, size);
	return value;
}

static void config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, uint32_t value, unsigned size)
{
	struct pci_device *dev = bus->device[devfn & 0xff];
	if (!dev || offset >= PCI_CONFIG_BYTES)
		return;
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = dev->wmask[offset + i];
		dev->config[offset + i] = (dev->config[offset + i] & ~mask) | ((uint8_t)(value >> 8 * i) & mask);
	}
	bars_update(dev);
	pci_intx_update(dev);
	if (dev->msix.vectors)
		pci_msix_config_written(dev);
	if (dev->config_written)
		dev->config_written(dev, offset, size);
}

static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = opaque;
	return bus->config_address >> offset * 8;
}

static void address_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_bus *bus = opaque;
	/* Only a whole doubleword selects a register. */
	if (size == 4)
		bus->config_address = (uint32_t)value & 0x80fffffcu;
}

/* Bus, device and function as devfn, or -1: nothing is enabled, or another bus. */
static int selected(const struct pci_bus *bus)
{
	if (!(bus->config_address & CONFIG_ENABLE) || (bus->config_address >> 16 & 0xff))
		return -1;
	return bus->config_address >> 8 & 0xff;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = opaque;
	int devfn = selected(bus);
	return devfn < 0 ? UINT64_MAX
			 : config_read(bus, (unsigned)devfn, (bus->config_address & 0xfc) + (unsigned)offset, size);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_bus *bus = opaque;
	int devfn = selected(bus);
	if (devfn >= 0)
		config_write(bus, (unsigned)devfn, (bus->config_address & 0xfc) + (unsigned)offset, (uint32_t)value, size);
}

/* ECAM: bus in bits 27:20, devfn in 19:12, register in 11:0. */
static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
	if (offset >> 20)
		return UINT64_MAX;
	return config_read(opaque, offset >> 12 & 0xff, offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	if (!(offset >> 20))
		config_write(opaque, offset >> 12 & 0xff, offset & 0xfff, (uint32_t)value, size);
}

static const struct bus_ops address_ops = { .read = address_read, .write = address_write, .max = 4 };
static const struct bus_ops data_ops = { .read = data_read, .write = data_write, .max = 4 };
static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write, .max = 4 };

void pci_ecam_set(struct pci_bus *bus, bool enabled, gpa_t base)
{
	if (enabled && bus->ecam.mapped && bus->ecam.base == base)
		return;
	if (enabled)
		bus_map_mmio(bus->machine, &bus->ecam, base, PCI_ECAM_BYTES);
	else
		bus_unmap_mmio(bus->machine, &bus->ecam);
}

/* ---- devices -------------------------------------------------------------------------- */

static void identity_fill(struct pci_device *dev, const struct pci_identity *id)
{
	pci_config_set_u16(dev, PCI_VENDOR_ID, id->vendor);
	pci_config_set_u16(dev, PCI_DEVICE_ID, id->device);
	pci_config_set_u16(dev, PCI_SUBSYSTEM_VENDOR_ID, id->subsystem_vendor);
	pci_config_set_u16(dev, PCI_SUBSYSTEM_ID, id->subsystem);
	dev->config[PCI_REVISION] = id->revision;
	dev->config[PCI_CLASS_PROG] = id->prog_if;
	pci_config_set_u16(dev, PCI_CLASS_DEVICE, id->class_device);
	dev->config[PCI_INTERRUPT_PIN] = id->interrupt_pin;
	pci_config_set_u16(dev, PCI_COMMAND, 0);
	dev->wmask[PCI_COMMAND] = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | 0x40;
	dev->wmask[PCI_COMMAND + 1] = (PCI_COMMAND_INTX_DISABLE >> 8) | 0x01;
	dev->wmask[0x0c] = 0xff; /* cache line size */
	dev->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

int pci_register(struct machine *machine, struct pci_device *dev, const char *name, int slot, unsigned function,
		 const struct pci_identity *identity)
{
	struct pci_bus *bus = &machine->pci;
	BUG_ON(slot > 31 || function > 7 || identity->interrupt_pin > 4);
	for (int s = 1; slot == PCI_SLOT_ANY && s < 31; s++)
		if (!bus->device[s * 8])
			slot = s;
	if (slot == PCI_SLOT_ANY)
		return -ENOSPC;
	if (bus->device[slot * 8 + (int)function])
		return -EBUSY;
	dev->machine = machine;
	dev->name = name;
	dev->slot = (uint8_t)slot;
	dev->function = (uint8_t)function;
	dev->cap_next = 0x40;
	identity_fill(dev, identity);
	bus->device[slot * 8 + (int)function] = dev;
	return 0;
}

void pci_unregister(struct pci_device *dev)
{
	if (!dev->machine)
		return;
	dev->intx = false;
	pci_intx_update(dev);
	pci_config_set_u16(dev, PCI_COMMAND, 0);
	bars_update(dev);
	dev->machine->pci.device[dev->slot * 8 + dev->function] = NULL;
	pci_msix_finish(dev);
	dev->machine = NULL;
}

unsigned pci_capability_add(struct pci_device *dev, uint8_t id, unsigned bytes)
{
	unsigned at = dev->cap_next;
	BUG_ON(bytes < 2 || at + bytes > PCI_CONFIG_BYTES);
	dev->config[at] = id;
	dev->config[at + 1] = dev->config[PCI_CAPABILITY_LIST];
	dev->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	dev->cap_next = (uint8_t)((at + bytes + 3) & ~3u);
	return at;
}

/* ---- what firmware would do --------------------------------------------------------------- */

uint64_t pci_window64_base(const struct machine *machine)
{
	uint64_t top = RAM_HIGH_BASE + machine->ram.high_bytes;
	return (top + 0x3fffffff) & ~0x3fffffffull;
}

struct assign_cursor {
	uint64_t io, mem32, mem64;
};

static void assign_device(struct pci_device *dev, struct assign_cursor *next)
{
	uint16_t command = pci_config_u16(dev, PCI_COMMAND);
	for (unsigned i = 0; i < PCI_BARS; i++) {
		const struct pci_bar *bar = &dev->bar[i];
		unsigned at = PCI_BAR0 + 4 * i;
		if (bar->type == PCI_BAR_NONE)
			continue;
		uint64_t *cursor = bar_is_io(bar) ? &next->io : bar->type == PCI_BAR_MEM64 ? &next->mem64 : &next->mem32;
		uint64_t address = (*cursor + bar->bytes - 1) & ~(bar->bytes - 1);
		*cursor = address + bar->bytes;
		BUG_ON(bar->type == PCI_BAR_MEM32 && *cursor > PCI_HOLE_END);
		BUG_ON(bar->type == PCI_BAR_IO && *cursor > 0x10000);
		pci_config_set_u32(dev, at, (uint32_t)address | (pci_config_u32(dev, at) & 15));
		if (bar->type == PCI_BAR_MEM64)
			pci_config_set_u32(dev, at + 4, (uint32_t)(address >> 32));
		command |= bar_is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	}
	pci_config_set_u16(dev, PCI_COMMAND, command);
	/* GSI numbers fit only an APIC kernel; for the 8259 SeaBIOS' choice: IRQs 10 and 11. */
	if (dev->config[PCI_INTERRUPT_PIN])
		dev->config[PCI_INTERRUPT_LINE] =
			pci_intx_pirq(dev->slot, dev->config[PCI_INTERRUPT_PIN] - 1u) & 1 ? 11 : 10;
	bars_update(dev);
	if (dev->config_written)
		dev->config_written(dev, PCI_COMMAND, 2);
}

void pci_assign_bars(struct machine *machine)
{
	struct assign_cursor next = { PCI_IO_WINDOW_BASE, PCI_HOLE_BASE, pci_window64_base(machine) };
	machine_lock(machine);
	for (unsigned i = 0; i < ARRAY_SIZE(machine->pci.device); i++)
		if (machine->pci.device[i])
			assign_device(machine->pci.device[i], &next);
	/* The PIRQs to the 8259 accordingly. */
	for (unsigned pirq = 0; pirq < 8; pirq++)
		q35_pirq_route(&machine->q35, pirq, pirq & 1 ? 11 : 10);
	machine_unlock(machine);
}

/* ---- lifecycle ------------------------------------------------------------------------------ */

void pci_reset(struct pci_bus *bus)
{
	bus->config_address = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(bus->device); i++) {
		struct pci_device *dev = bus->device[i];
		if (!dev)
			continue;
		pci_intx_set(dev, false);
		pci_config_set_u16(dev, PCI_COMMAND, 0);
		dev->config[PCI_INTERRUPT_LINE] = 0;
		for (unsigned b = 0; b < PCI_BARS * 4; b++)
			dev->config[PCI_BAR0 + b] &= ~dev->wmask[PCI_BAR0 + b];
		pci_msix_reset(dev);
		bars_update(dev);
		if (dev->reset)
			dev->reset(dev);
	}
}

int pci_init(struct machine *machine, struct pci_bus *bus)
{
	bus->machine = machine;
	bus->address_port = (struct bus_range){ .name = "io_pci_config", .ops = &address_ops, .opaque = bus };
	bus->data_port = (struct bus_range){ .name = "io_pci_config", .ops = &data_ops, .opaque = bus };
	bus->ecam = (struct bus_range){ .name = "io_pci_config", .ops = &ecam_ops, .opaque = bus };
	bus_map_pio(machine, &bus->address_port, 0xcf8, 4);
	bus_map_pio(machine, &bus->data_port, 0xcfc, 4);
	return 0;
}

void pci_finish(struct pci_bus *bus)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bus->device); i++)
		if (bus->device[i])
			pci_unregister(bus->device[i]);
}
