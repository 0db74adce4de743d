/* MSI-X: the table and pending bits that sit in a device's BAR (PCI 3.0, 6.8.2). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/devices/pci_private.h"
#include "machine/private.h"

#define CAP_MSIX 0x11u
#define CONTROL_ENABLE 0x8000u
#define CONTROL_MASK 0x4000u
#define VECTOR_MASKED 1u
enum { ENTRY_ADDRESS = 0, ENTRY_DATA = 8, ENTRY_CONTROL = 12, ENTRY_BYTES = 16 };

static uint16_t control(const struct pci_device *dev) { return pci_config_u16(dev, dev->msix.cap + 2u); }

bool pci_msix_enabled(const struct pci_device *dev)
{
	return dev->msix.vectors && (control(dev) & CONTROL_ENABLE);
}

static uint32_t entry_u32(const struct pci_msix *msix, unsigned n, unsigned at)
{
	uint32_t value;
	memcpy(&value, msix->table[n] + at, 4);
	return value;
}

static bool masked(const struct pci_device *dev, unsigned n)
{
	return (control(dev) & CONTROL_MASK) || (entry_u32(&dev->msix, n, ENTRY_CONTROL) & VECTOR_MASKED);
}

static void send(struct pci_device *dev, unsigned n)
{
	uint64_t address;
	memcpy(&address, dev->msix.table[n] + ENTRY_ADDRESS, 8);
	if (pci_bus_master(dev))
		machine_msi(dev->machine, address, entry_u32(&dev->msix, n, ENTRY_DATA));
}

void pci_msix_notify(struct pci_device *dev, unsigned n)
{
	if (n >= dev->msix.vectors || !pci_msix_enabled(dev))
		return;
	if (masked(dev, n))
		dev->msix.pba[n / 64] |= (uint64_t)1 << n % 64;
	else
		send(dev, n);
}

/* The vector's eventfd does what the table says now. */
static void route(struct pci_device *dev, unsigned n)
{
	struct pci_msix *msix = &dev->msix;
	uint64_t address;
	if (!msix->irqfd)
		return;
	if (!pci_msix_enabled(dev) || masked(dev, n) || !pci_bus_master(dev)) {
		if (msix->irqfd[n].machine)
			irqfd_unroute(&msix->irqfd[n]);
		return;
	}
	/* Vectors that an engine without eventfds serves need none, if nobody else signals them. */
	if (!msix->foreign && !dev->machine->hooks.irqfd)
		return;
	/* Without a descriptor the vector is raised by hand. */
	if (!msix->irqfd[n].machine && irqfd_init(dev->machine, &msix->irqfd[n], msix->foreign))
		return;
	memcpy(&address, msix->table[n] + ENTRY_ADDRESS, 8);
	irqfd_route(&msix->irqfd[n], address, entry_u32(msix, n, ENTRY_DATA));
}

bool pci_msix_signal(struct pci_device *dev, unsigned n)
{
	return dev->msix.irqfd && n < dev->msix.vectors && irqfd_signal(&dev->msix.irqfd[n]);
}

int pci_msix_add_irqfds(struct pci_device *dev, bool foreign)
{
	BUG_ON(!dev->msix.vectors || dev->msix.irqfd);
	dev->msix.irqfd = calloc(dev->msix.vectors, sizeof(*dev->msix.irqfd));
	dev->msix.foreign = foreign;
	if (!dev->msix.irqfd)
		return -ENOMEM;
	/* Others are told of theirs before the guest opens them. */
	for (unsigned n = 0; foreign && n < dev->msix.vectors; n++) {
		int rc = irqfd_init(dev->machine, &dev->msix.irqfd[n], true);
		if (rc)
			return rc;
	}
	return 0;
}

/* Sends what became unmasked. */
static void flush(struct pci_device *dev, unsigned n)
{
	route(dev, n);
	uint64_t bit = (uint64_t)1 << n % 64;
	if (!(dev->msix.pba[n / 64] & bit) || !pci_msix_enabled(dev) || masked(dev, n))
		return;
	dev->msix.pba[n / 64] &= ~bit;
	send(dev, n);
}

void pci_msix_config_written(struct pci_device *dev)
{
	for (unsigned n = 0; n < dev->msix.vectors; n++)
		flush(dev, n);
	pci_intx_update(dev);
}

/* ---- the BAR that holds the table ------------------------------------------------------ */

static bool in_table(const struct pci_msix *msix, uint64_t offset)
{
	return offset - msix->table_offset < (uint64_t)msix->vectors * ENTRY_BYTES;
}

static bool in_pba(const struct pci_msix *msix, uint64_t offset)
{
	return msix->pba_offset != PCI_MSIX_PBA_ELSEWHERE && offset - msix->pba_offset < (msix->vectors + 63u) / 64 * 8;
}

/* A signal that waits in a closed vector's eventfd is pending too. */
static uint64_t pba_read(struct pci_msix *msix, uint64_t at, unsigned size)
{
	uint64_t value = 0;
	for (unsigned n = 0; msix->irqfd && n < msix->vectors; n++)
		if (msix->irqfd[n].machine && !msix->irqfd[n].routed && irqfd_take(&msix->irqfd[n]))
			msix->pba[n / 64] |= (uint64_t)1 << n % 64;
	memcpy(&value, (uint8_t *)msix->pba + at, size);
	return value;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_device *dev = opaque;
	struct pci_msix *msix = &dev->msix;
	uint64_t value = 0;
	/* Accesses are aligned and both areas are multiples of 8 bytes at multiples of 8: none straddles an end. */
	if (in_table(msix, offset))
		memcpy(&value, (uint8_t *)msix->table + (offset - msix->table_offset), size);
	else if (in_pba(msix, offset))
		value = pba_read(msix, offset - msix->pba_offset, size);
	else if (msix->bar_ops && msix->bar_ops->read && size <= msix->bar_ops->max)
		value = msix->bar_ops->read(msix->bar_opaque, offset, size);
	else if (msix->bar_ops && msix->bar_ops->read)
		value = bar_read(dev, offset, size / 2) | bar_read(dev, offset + size / 2, size / 2) << size * 4;
	return value;
}

static void table_write(struct pci_device *dev, uint64_t at, uint64_t value, unsigned size)
{
	if (size < 4)
		return; /* only whole doublewords are defined */
	unsigned n = (unsigned)(at / ENTRY_BYTES);
	memcpy((uint8_t *)dev->msix.table + at, &value, size);
	flush(dev, n);
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_device *dev = opaque;
	struct pci_msix *msix = &dev->msix;
	if (in_table(msix, offset)) {
		table_write(dev, offset - msix->table_offset, value, size);
	} else if (in_pba(msix, offset)) {
		return; /* read-only */
	} else if (msix->bar_ops && msix->bar_ops->write && size <= msix->bar_ops->max) {
		msix->bar_ops->write(msix->bar_opaque, offset, value, size);
	} else if (msix->bar_ops && msix->bar_ops->write) {
		bar_write(dev, offset, value & (((uint64_t)1 << size * 4) - 1), size / 2);
		bar_write(dev, offset + size / 2, value >> size * 4, size / 2);
	}
}

static const struct bus_ops msix_bar_ops = { .read = bar_read, .write = bar_write, .max = 8 };

int pci_msix_add(struct pci_device *dev, unsigned bar, unsigned vectors, uint32_t table_offset, uint32_t pba_offset)
{
	struct pci_msix *msix = &dev->msix;
	uint64_t table_bytes = (uint64_t)vectors * ENTRY_BYTES, pba_bytes = (vectors + 63) / 64 * 8;
	bool elsewhere = pba_offset == PCI_MSIX_PBA_ELSEWHERE;
	if (!vectors || vectors > PCI_MSIX_MAX || bar >= PCI_BARS || (table_offset & 7) || msix->vectors ||
	    (!elsewhere && (pba_offset & 7)))
		return -EINVAL;
	enum pci_bar_type type = dev->bar[bar].type;
	uint64_t bytes = dev->bar[bar].bytes;
	if ((type != PCI_BAR_MEM32 && type != PCI_BAR_MEM64) || table_offset + table_bytes > bytes ||
	    (!elsewhere && pba_offset + pba_bytes > bytes))
		return -EINVAL;
	msix->table = calloc(vectors, ENTRY_BYTES);
	if (!msix->table)
		return -ENOMEM;
	unsigned cap = pci_capability_add(dev, CAP_MSIX, 12);
	pci_config_set_u16(dev, cap + 2, (uint16_t)(vectors - 1));
	dev->wmask[cap + 3] = (CONTROL_ENABLE | CONTROL_MASK) >> 8;
	pci_config_set_u32(dev, cap + 4, table_offset | bar);
	pci_config_set_u32(dev, cap + 8, elsewhere ? 0 : pba_offset | bar);
	msix->cap = (uint8_t)cap;
	msix->bar = (uint8_t)bar;
	msix->table_offset = table_offset;
	msix->pba_offset = pba_offset;
	msix->bar_ops = dev->bar[bar].range.ops;
	msix->bar_opaque = dev->bar[bar].range.opaque;
	dev->bar[bar].range.ops = &msix_bar_ops;
	dev->bar[bar].range.opaque = dev;
	msix->vectors = (uint16_t)vectors;
	pci_msix_reset(dev);
	return 0;
}

void pci_msix_reset(struct pci_device *dev)
{
	struct pci_msix *msix = &dev->msix;
	if (!msix->vectors)
		return;
	dev->config[msix->cap + 3] &= ~((CONTROL_ENABLE | CONTROL_MASK) >> 8);
	memset(msix->pba, 0, sizeof(msix->pba));
	for (unsigned n = 0; n < msix->vectors; n++) {
		memset(msix->table[n], 0, ENTRY_BYTES);
		msix->table[n][ENTRY_CONTROL] = VECTOR_MASKED;
		route(dev, n);
		if (msix->irqfd && msix->irqfd[n].machine)
			irqfd_take(&msix->irqfd[n]);
	}
}

void pci_msix_finish(struct pci_device *dev)
{
	for (unsigned n = 0; dev->msix.irqfd && n < dev->msix.vectors; n++)
		irqfd_finish(&dev->msix.irqfd[n]);
	free(dev->msix.irqfd);
	dev->msix.irqfd = NULL;
	free(dev->msix.table);
	dev->msix.table = NULL;
	dev->msix.vectors = 0;
}
