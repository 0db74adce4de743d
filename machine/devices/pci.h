/* PCI Express root bus (bus 0 only): configuration by 0xcf8/0xcfc and ECAM, BARs, INTx, MSI-X. */
#ifndef MACHINE_DEVICES_PCI_H
#define MACHINE_DEVICES_PCI_H

#include "machine/bus.h"
#include "machine/ram.h"

struct machine;

#define PCI_CONFIG_BYTES 256 /* the extended space up to 4096 reads as zeros: no extended capabilities */
#define PCI_BARS 6
#define PCI_MSIX_MAX 256

/* Offsets in the configuration header. */
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS_PROG 0x09
#define PCI_CLASS_DEVICE 0x0a
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_ROM_ADDRESS 0x30
#define PCI_CAPABILITY_LIST 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d

#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS_INTERRUPT 0x0008
#define PCI_STATUS_CAP_LIST 0x0010

enum pci_bar_type { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_type type;
	uint64_t bytes; /* a power of two; at least 4 (I/O) or 4096 (memory) */
	struct bus_range range;
};

struct pci_msix {
	uint16_t vectors; /* 0: none */
	uint8_t cap, bar;
	uint32_t table_offset, pba_offset;
	uint8_t (*table)[16];
	uint64_t pba[PCI_MSIX_MAX / 64];
	const struct bus_ops *bar_ops; /* the device's, behind the table */
	void *bar_opaque;
	struct irqfd *irqfd; /* one a vector, or NULL */
	bool foreign;
};

/* Embedded in a device, zeroed before pci_register. */
struct pci_device {
	struct machine *machine;
	const char *name;
	uint8_t slot, function;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t wmask[PCI_CONFIG_BYTES]; /* bits a guest may write */
	uint8_t cap_next;                /* where the next capability goes */
	struct pci_bar bar[PCI_BARS];
	struct pci_msix msix;
	bool intx;          /* what the device asks for */
	bool intx_asserted; /* what the line carries */
	void *opaque;
	/*
	 * Optional, all under the machine lock. config_read is called before the bytes at [offset, offset+size) are read
	 * and may refresh dev->config; config_written after they have changed.
	 */
	void (*config_read)(struct pci_device *dev, unsigned offset, unsigned size);
	void (*config_written)(struct pci_device *dev, unsigned offset, unsigned size);
	void (*reset)(struct pci_device *dev);
};

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision, prog_if;
	uint16_t class_device; /* base class << 8 | subclass */
	uint8_t interrupt_pin; /* 0 none, 1..4: INTA..INTD */
};

struct pci_bus {
	struct machine *machine;
	struct pci_device *device[32 * 8];
	struct bus_range address_port, data_port, ecam;
	uint32_t config_address;
};

/*
 * Puts a device at a slot (0..31; PCI_SLOT_ANY: the first free one from 1) and function. Before the guest runs.
 * 0, -EBUSY (taken), -ENOSPC (no slot free). Then add BARs and capabilities. The device outlives the machine's last
 * access: pci_unregister or machine_destroy come first.
 */
#define PCI_SLOT_ANY (-1)
int pci_register(struct machine *machine, struct pci_device *dev, const char *name, int slot, unsigned function,
		 const struct pci_identity *identity);
void pci_unregister(struct pci_device *dev);
/* `ops` serve [0, bytes) of the BAR; a 64-bit one takes index and index + 1. Aborts if bytes is no power of two. */
void pci_bar_add(struct pci_device *dev, unsigned index, enum pci_bar_type type, uint64_t bytes,
		 const struct bus_ops *ops, void *opaque);
/* Room for a capability of `bytes` (with its two header bytes); returns its offset. Contents are zero, read-only. */
unsigned pci_capability_add(struct pci_device *dev, uint8_t id, unsigned bytes);
/*
 * MSI-X with its table and PBA in a memory BAR added before (the core answers these parts of it: 16 bytes a vector from
 * table_offset, and the pending bits from pba_offset, each 8-byte aligned). Elsewhere: the pending bits are in another BAR,
 * and not the core's; the caller fills the capability's last doubleword. 0 or -errno.
 */
#define PCI_MSIX_PBA_ELSEWHERE UINT32_MAX
int pci_msix_add(struct pci_device *dev, unsigned bar, unsigned vectors, uint32_t table_offset, uint32_t pba_offset);

/*
 * Each vector gets an eventfd that raises it, foreign ones now, others once the guest opens them: see machine/eventfd.h. After
 * pci_msix_add, before the guest runs. 0 or -errno.
 */
int pci_msix_add_irqfds(struct pci_device *dev, bool foreign);
/* Raises vector `n` by its eventfd. False: it has none in the engine's hands now; pci_msix_notify. [lock-free] */
bool pci_msix_signal(struct pci_device *dev, unsigned n);

/* All below under the machine lock. */
bool pci_msix_enabled(const struct pci_device *dev);
/* Sends vector `n`, or remembers it as pending while masked. Out of range: ignored. */
void pci_msix_notify(struct pci_device *dev, unsigned n);
/* The device's INTx wish; reaches the line unless disabled in COMMAND or MSI-X is on. */
void pci_intx_set(struct pci_device *dev, bool level);
/* Whether the guest lets the device do DMA (COMMAND bit 2). */
static inline bool pci_bus_master(const struct pci_device *dev)
{
	return dev->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/*
 * PIRQ (0..7: A..H) of a slot's pin (0..3): slots 0..24 rotate over E..H, 25..31 over A..D. The ACPI _PRT must say the
 * same: GSI 16 + this.
 */
unsigned pci_intx_pirq(unsigned slot, unsigned pin);
/*
 * What firmware would do, for kernels started without one: gives every BAR an address (32-bit memory from
 * PCI_HOLE_BASE, 64-bit above RAM, ports from 0xc000), switches decoding on and fills INTERRUPT_LINE.
 */
void pci_assign_bars(struct machine *machine);
/* The window for 64-bit BARs: above RAM, 1 GiB aligned. */
#define PCI_WINDOW64_BYTES 0x800000000ull
uint64_t pci_window64_base(const struct machine *machine);
#define PCI_IO_WINDOW_BASE 0xc000u

static inline uint16_t pci_config_u16(const struct pci_device *dev, unsigned at)
{
	return dev->config[at] | dev->config[at + 1] << 8;
}
static inline uint32_t pci_config_u32(const struct pci_device *dev, unsigned at)
{
	return pci_config_u16(dev, at) | (uint32_t)pci_config_u16(dev, at + 2) << 16;
}
static inline void pci_config_set_u16(struct pci_device *dev, unsigned at, uint16_t value)
{
	dev->config[at] = (uint8_t)value;
	dev->config[at + 1] = (uint8_t)(value >> 8);
}
static inline void pci_config_set_u32(struct pci_device *dev, unsigned at, uint32_t value)
{
	pci_config_set_u16(dev, at, (uint16_t)value);
	pci_config_set_u16(dev, at + 2, (uint16_t)(value >> 16));
}

int pci_init(struct machine *machine, struct pci_bus *bus);
void pci_reset(struct pci_bus *bus);
void pci_finish(struct pci_bus *bus);

#endif
