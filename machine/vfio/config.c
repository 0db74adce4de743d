/* A passed-through device's configuration space: the device's own, but for what says where things are in this machine. */
#include <errno.h>
#include <string.h>

#include "machine/vfio/private.h"

#define CAP_MSI 0x05u
#define CAP_PCIE 0x10u
#define CAP_MSIX 0x11u
#define CAP_FIRST 0x40u
#define MSI_ENABLE 0x01u
#define MSI_WIDE 0x80u
#define MSI_MULTIPLE_CAPABLE 0x0eu
#define MSI_MULTIPLE_ENABLE 0x70u
#define PCIE_TYPE 0xf0u
#define PCIE_ROOT_INTEGRATED 0x90u
#define PCIE_LINK 0x0cu /* capabilities, control, status: a device on the root bus has no link */
#define PCIE_LINK_BYTES 8u
#define HEADER_MULTIFUNCTION 0x80u
#define CARDBUS_CIS 0x28u

/* ---- accesses ------------------------------------------------------------------------------------- */

static bool read_device(const struct vfio_device *d, unsigned at, void *bytes, unsigned n)
{
	return d->host->pread(d->host->opaque, d->fd, bytes, n, d->config_at + at) == (ssize_t)n;
}

static void write_device(const struct vfio_device *d, unsigned at, const void *bytes, unsigned n)
{
	if (d->host->pwrite(d->host->opaque, d->fd, bytes, n, d->config_at + at) != (ssize_t)n)
		fprintf(stderr, "%s: its configuration space at 0x%x takes no write\n", d->name, at);
}

static void on_read(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct vfio_device *d = pci->opaque;
	uint8_t bytes[4];
	bool any = false;

	for (unsigned i = 0; i < size; i++)
		any |= !d->emulated[offset + i];
	if (!any)
		return;
	if (!read_device(d, offset, bytes, size))
		memset(bytes, 0xff, sizeof(bytes)); /* as one that has been pulled */
	for (unsigned i = 0; i < size; i++)
		if (!d->emulated[offset + i])
			pci->config[offset + i] = bytes[i];
}

void vfio_command_pass(struct vfio_device *d)
{
	uint16_t command = pci_config_u16(&d->pci, PCI_COMMAND);
	uint8_t bytes[2];

	if (d->quiet)
		command &= (uint16_t)~PCI_COMMAND_MASTER;
	bytes[0] = (uint8_t)command;
	bytes[1] = (uint8_t)(command >> 8);
	write_device(d, PCI_COMMAND, bytes, 2);
}

static bool touches(unsigned offset, unsigned size, unsigned at, unsigned n) { return offset < at + n && offset + size > at; }

static void pass_write(struct vfio_device *d, unsigned offset, unsigned size)
{
	unsigned ours = 0;

	for (unsigned i = 0; i < size; i++)
		ours += d->emulated[offset + i];
	if (!ours) {
		write_device(d, offset, d->pci.config + offset, size);
		return;
	}
	for (unsigned i = 0; i < size; i++)
		if (!d->emulated[offset + i])
			write_device(d, offset + i, d->pci.config + offset + i, 1);
}

static void on_written(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct vfio_device *d = pci->opaque;

	pass_write(d, offset, size);
	if (touches(offset, size, PCI_COMMAND, 2)) {
		bool decodes = pci_config_u16(pci, PCI_COMMAND) & PCI_COMMAND_MEMORY;

		/* While memory is off nothing may reach it: a window's pages would fault in the host. */
		if (!decodes)
			vfio_windows_update(d);
		vfio_command_pass(d);
	}
	vfio_windows_update(d);
	vfio_interrupts_update(d);
}

bool vfio_msi_enabled(const struct vfio_device *d) { return d->msi_cap && (d->pci.config[d->msi_cap + 2] & MSI_ENABLE); }

/* ---- BARs --------------------------------------------------------------------------------------------- */

/* Ours are laid out by 4 KiB at least; what a smaller one has not reads as ones. */
static uint64_t bar_size(uint64_t bytes, bool io)
{
	uint64_t size = io ? 4 : GUEST_PAGE_SIZE;

	while (size < bytes)
		size *= 2;
	return size;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
	struct vfio_bar *bar = opaque;
	struct vfio_device *d = bar->dev;
	uint64_t value = UINT64_MAX;

	if (offset + size <= bar->bytes && (bar->flags & VFIO_REGION_INFO_FLAG_READ))
		d->host->pread(d->host->opaque, d->fd, &value, size, bar->at + offset);
	vfio_intx_touched(d);
	return value;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vfio_bar *bar = opaque;
	struct vfio_device *d = bar->dev;

	if (offset + size <= bar->bytes && (bar->flags & VFIO_REGION_INFO_FLAG_WRITE))
		d->host->pwrite(d->host->opaque, d->fd, &value, size, bar->at + offset);
	vfio_intx_touched(d);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write, .max = 4};

/* What this machine's windows for such a BAR hold, all devices together; half is for the others. */
static int check_room(struct vfio_device *d, enum pci_bar_type type, uint64_t size, uint64_t *taken, char *ret_error)
{
	const uint64_t room = type == PCI_BAR_IO      ? 0x1000
			      : type == PCI_BAR_MEM32 ? (PCI_HOLE_END - PCI_HOLE_BASE) / 2
						      : PCI_WINDOW64_BYTES / 2;

	*taken += size;
	if (*taken <= room)
		return 0;
	return vfio_refuse(ret_error, -ENOSPC, "%s: its BARs take more than the %llu MiB this machine has for such", d->name,
			   (unsigned long long)(room >> 20));
}

static int add_bars(struct vfio_device *d, const uint8_t *real, char *ret_error)
{
	uint64_t taken[4] = {0};

	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint32_t low = (uint32_t)real[PCI_BAR0 + 4 * i];
		bool io = low & 1, wide = !io && (low & 6) == 4;
		enum pci_bar_type type = io ? PCI_BAR_IO : wide ? PCI_BAR_MEM64 : PCI_BAR_MEM32;

		if (!d->bar[i].bytes)
			continue;
		if (wide && i + 1 == PCI_BARS)
			return vfio_refuse(ret_error, -EIO, "%s: BAR 5 says it has 64 bits", d->name);
		uint64_t size = bar_size(d->bar[i].bytes, io);
		int rc = check_room(d, type, size, &taken[type], ret_error);
		if (rc)
			return rc;
		d->bar[i].dev = d;
		pci_bar_add(&d->pci, i, type, size, &bar_ops, &d->bar[i]);
		i += wide;
	}
	return 0;
}

/* ---- capabilities ------------------------------------------------------------------------------------------ */

static void ours(struct vfio_device *d, unsigned at, unsigned n) { memset(&d->emulated[at], 1, n); }

static void add_msi(struct vfio_device *d, unsigned at)
{
	uint8_t *c = &d->pci.config[at];
	bool wide = c[2] & MSI_WIDE;

	/* One message, which cannot be masked: an eventfd that is not routed waits. */
	d->msi_cap = (uint8_t)at;
	d->msi_bytes = wide ? 14 : 10;
	memset(&d->pci.wmask[at], 0, d->msi_bytes);
	c[2] = wide ? MSI_WIDE : 0;
	c[3] = 0;
	memset(c + 4, 0, d->msi_bytes - 4u);
	d->pci.wmask[at + 2] = MSI_ENABLE;
	memset(&d->pci.wmask[at + 4], 0xff, d->msi_bytes - 4u);
	d->pci.wmask[at + 4] = 0xfc;
	ours(d, at, d->msi_bytes);
}

static int add_msix(struct vfio_device *d, unsigned at, const uint8_t *real, char *ret_error)
{
	uint32_t table, pba;
	unsigned vectors = ((unsigned)real[at + 2] | (unsigned)(real[at + 3] & 7) << 8) + 1;

	memcpy(&table, real + at + 4, 4);
	memcpy(&pba, real + at + 8, 4);
	bool same = (table & 7) == (pba & 7);
	if (vectors > PCI_MSIX_MAX)
		vectors = PCI_MSIX_MAX;
	d->pci.cap_next = (uint8_t)at;
	int rc = pci_msix_add(&d->pci, table & 7, vectors, table & ~7u, same ? pba & ~7u : PCI_MSIX_PBA_ELSEWHERE);
	if (rc)
		return vfio_refuse(ret_error, rc, "%s: its MSI-X table lies in no BAR that VFIO shows", d->name);
	if (!same)
		pci_config_set_u32(&d->pci, at + 8, pba);
	ours(d, at, 12);
	return 0;
}

static void add_pcie(struct vfio_device *d, unsigned at)
{
	uint8_t *c = &d->pci.config[at];
	unsigned type = (c[2] & PCIE_TYPE) >> 4;

	/* An endpoint that stands on the root bus is one of the root complex'. */
	if (type <= 1) {
		c[2] = (uint8_t)((c[2] & ~PCIE_TYPE) | PCIE_ROOT_INTEGRATED);
		memset(c + PCIE_LINK, 0, PCIE_LINK_BYTES);
		memset(&d->pci.wmask[at + PCIE_LINK], 0, PCIE_LINK_BYTES);
		ours(d, at + PCIE_LINK, PCIE_LINK_BYTES);
	}
	d->pci.wmask[at + 2] = 0;
	ours(d, at + 2, 1);
}

static int add_capabilities(struct vfio_device *d, const uint8_t *real, char *ret_error)
{
	unsigned at = real[PCI_STATUS] & PCI_STATUS_CAP_LIST ? real[PCI_CAPABILITY_LIST] & 0xfc : 0;
	int rc = 0;

	d->pci.config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	/* A chain that bites its tail ends too. */
	for (unsigned n = 0; at >= CAP_FIRST && n < 48 && !rc; n++, at = real[at + 1] & 0xfc) {
		if (real[at] == CAP_MSI && at + 14 <= PCI_CONFIG_BYTES)
			add_msi(d, at);
		else if (real[at] == CAP_MSIX && at + 12 <= PCI_CONFIG_BYTES && !d->pci.msix.vectors)
			rc = add_msix(d, at, real, ret_error);
		else if (real[at] == CAP_PCIE && at + 20 <= PCI_CONFIG_BYTES)
			add_pcie(d, at);
		d->pci.config[at] = real[at];
		d->pci.config[at + 1] = real[at + 1] & 0xfc;
		d->pci.wmask[at] = d->pci.wmask[at + 1] = 0;
		ours(d, at, 2);
	}
	d->pci.config[PCI_CAPABILITY_LIST] = real[PCI_STATUS] & PCI_STATUS_CAP_LIST ? real[PCI_CAPABILITY_LIST] & 0xfc : 0;
	return rc;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

int vfio_config_init(struct vfio_device *d, struct machine *machine, char *ret_error)
{
	static const struct {
		uint8_t at, n;
	} emulated[] = {{PCI_VENDOR_ID, 4},	 {PCI_COMMAND, 2},	   {PCI_HEADER_TYPE, 1},    {PCI_BAR0, 24},
			{CARDBUS_CIS, 4},	 {PCI_ROM_ADDRESS, 4},	   {PCI_CAPABILITY_LIST, 1}, {PCI_INTERRUPT_LINE, 2}};
	uint8_t real[PCI_CONFIG_BYTES];
	struct pci_identity identity = {0};
	int rc;

	for (unsigned at = 0; at < sizeof(real); at += 4)
		if (!read_device(d, at, real + at, 4))
			return vfio_refuse(ret_error, -EIO, "%s: its configuration space cannot be read", d->name);
	if (real[PCI_VENDOR_ID] == 0xff && real[PCI_VENDOR_ID + 1] == 0xff)
		return vfio_refuse(ret_error, -EIO, "%s does not answer: it may be in a power state it does not leave, or gone", d->name);
	identity.vendor = (uint16_t)(real[0] | real[1] << 8);
	identity.device = (uint16_t)(real[2] | real[3] << 8);
	identity.interrupt_pin = real[PCI_INTERRUPT_PIN] <= 4 ? real[PCI_INTERRUPT_PIN] : 0;
	d->pci.opaque = d;
	rc = pci_register(machine, &d->pci, d->name, PCI_SLOT_ANY, 0, &identity);
	if (rc)
		return vfio_refuse(ret_error, rc, "%s finds no place on the PCI bus", d->name);
	/* Everything is the device's, and goes to it, unless said otherwise below. */
	for (unsigned at = PCI_STATUS; at < PCI_CONFIG_BYTES; at++) {
		d->pci.config[at] = real[at];
		d->pci.wmask[at] = 0xff;
	}
	for (size_t i = 0; i < ARRAY_SIZE(emulated); i++) {
		ours(d, emulated[i].at, emulated[i].n);
		if (emulated[i].at > PCI_STATUS) {
			memset(&d->pci.config[emulated[i].at], 0, emulated[i].n);
			memset(&d->pci.wmask[emulated[i].at], 0, emulated[i].n);
		}
	}
	d->pci.config[PCI_HEADER_TYPE] = real[PCI_HEADER_TYPE] & (uint8_t)~HEADER_MULTIFUNCTION;
	d->pci.wmask[PCI_INTERRUPT_LINE] = 0xff;
	d->pci.config[PCI_INTERRUPT_PIN] = identity.interrupt_pin;
	rc = add_bars(d, real, ret_error);
	if (!rc)
		rc = add_capabilities(d, real, ret_error);
	if (rc) {
		pci_unregister(&d->pci);
		return rc;
	}
	d->pci.config_read = on_read;
	d->pci.config_written = on_written;
	return 0;
}
