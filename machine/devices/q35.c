/* Q35 host bridge and ICH9 LPC bridge: PAM, PCIEXBAR, PIRQ routing, PMBASE, RCBA, reset control. */
#include "machine/devices/pci_private.h"
#include "machine/devices/q35_private.h"
#include "machine/private.h"

/* Host bridge registers (Intel 3 series, chapter 5). */
#define MCH_PCIEXBAR 0x60u
#define MCH_PAM0 0x90u
#define MCH_SMRAM 0x9du
/* LPC bridge registers (ICH9, chapter 13). */
#define LPC_PMBASE 0x40u
#define LPC_ACPI_CNTL 0x44u
#define LPC_PIRQA 0x60u
#define LPC_PIRQE 0x68u
#define LPC_GEN_PMCON 0xa0u
#define LPC_RCBA 0xf0u
#define ACPI_ENABLE 0x80u
#define RCBA_BYTES 0x4000u

#define RESET_SYSTEM 0x02u
#define RESET_CPU 0x04u

static void wmask_fill(struct pci_device *dev, unsigned at, unsigned bytes, uint64_t mask)
{
	for (unsigned i = 0; i < bytes; i++)
		dev->wmask[at + i] = (uint8_t)(mask >> 8 * i);
}

/* ---- host bridge ----------------------------------------------------------------- */

static uint64_t pciexbar(const struct pci_device *mch)
{
	return pci_config_u32(mch, MCH_PCIEXBAR) | (uint64_t)pci_config_u32(mch, MCH_PCIEXBAR + 4) << 32;
}

static void pciexbar_apply(struct q35 *q35)
{
	uint64_t value = pciexbar(&q35->mch);
	/* Bits 2:1 choose 256, 128 or 64 MiB; only the buses behind it differ, and there is one. */
	pci_ecam_set(&q35->machine->pci, value & 1, value & 0xff0000000ull);
}

/* PAM0 holds 0xf0000 in its high half; PAM1..6 hold two segments of 16 KiB each. */
static void pam_apply(struct q35 *q35)
{
	const uint8_t *pam = q35->mch.config + MCH_PAM0;
	ram_pam_set(q35->machine, PAM_SEGMENTS - 1, pam[0] >> 4);
	for (unsigned s = 0; s < PAM_SEGMENTS - 1; s++)
		ram_pam_set(q35->machine, s, pam[1 + s / 2] >> s % 2 * 4);
}

static bool touches(unsigned offset, unsigned size, unsigned at, unsigned bytes)
{
	return offset < at + bytes && at < offset + size;
}

static void mch_written(struct pci_device *dev, unsigned offset, unsigned size)
{
	struct q35 *q35 = dev->opaque;
	if (touches(offset, size, MCH_PCIEXBAR, 8))
		pciexbar_apply(q35);
	if (touches(offset, size, MCH_PAM0, 7))
		pam_apply(q35);
}

void q35_pam_reset(struct q35 *q35)
{
	/* Without a ROM nobody will open the segments: they start as RAM. */
	for (unsigned i = 0; i < 7; i++)
		q35->mch.config[MCH_PAM0 + i] = q35->machine->ram.rom ? 0 : i ? 0x33 : 0x30;
	pam_apply(q35);
}

/* The bridges decode always: their command bits are fixed. */
static void bridge_command(struct pci_device *dev)
{
	pci_config_set_u16(dev, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	wmask_fill(dev, PCI_COMMAND, 2, 0);
}

static void mch_reset(struct pci_device *dev)
{
	struct q35 *q35 = dev->opaque;
	bridge_command(dev);
	pci_config_set_u32(dev, MCH_PCIEXBAR, (uint32_t)PCI_ECAM_BASE | 1);
	pci_config_set_u32(dev, MCH_PCIEXBAR + 4, 0);
	dev->config[MCH_SMRAM] = 0x02;
	pciexbar_apply(q35);
	q35_pam_reset(q35);
}

static int mch_init(struct machine *machine, struct q35 *q35)
{
	static const struct pci_identity identity = {
		.vendor = 0x8086, .device = 0x29c0, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_device = 0x0600 };
	struct pci_device *mch = &q35->mch;
	int rc = pci_register(machine, mch, "io_host_bridge", 0, 0, &identity);
	if (rc < 0)
		return rc;
	mch->opaque = q35;
	mch->config_written = mch_written;
	mch->reset = mch_reset;
	wmask_fill(mch, MCH_PCIEXBAR, 8, 0xff0000007ull);
	wmask_fill(mch, MCH_PAM0, 7, 0x33333333333330ull);
	wmask_fill(mch, MCH_SMRAM, 2, 0x0048);
	return 0;
}

/* ---- LPC bridge -------------------------------------------------------------------- */

static unsigned pirq_register(unsigned pirq) { return pirq < 4 ? LPC_PIRQA + pirq : LPC_PIRQE + pirq - 4; }

void q35_pirq_route(struct q35 *q35, unsigned pirq, uint8_t route)
{
	q35->lpc.config[pirq_register(pirq)] = route;
	irq_pirq_route(q35->machine, pirq, route);
}

static void lpc_apply(struct q35 *q35)
{
	struct machine *m = q35->machine;
	struct pci_device *lpc = &q35->lpc;
	for (unsigned pirq = 0; pirq < 8; pirq++)
		irq_pirq_route(m, pirq, lpc->config[pirq_register(pirq)]);

	uint16_t pmbase = pci_config_u16(lpc, LPC_PMBASE) & 0xff80;
	bool acpi = (lpc->config[LPC_ACPI_CNTL] & ACPI_ENABLE) && pmbase;
	if (!acpi)
		bus_unmap_pio(m, &q35->pm.range);
	else if (!q35->pm.range.mapped || q35->pm.range.base != pmbase)
		bus_map_pio(m, &q35->pm.range, pmbase, Q35_PM_BYTES);

	uint32_t rcba = pci_config_u32(lpc, LPC_RCBA);
	if (!(rcba & 1))
		bus_unmap_mmio(m, &q35->rcba);
	else if (!q35->rcba.mapped || q35->rcba.base != (rcba & 0xffffc000u))
		bus_map_mmio(m, &q35->rcba, rcba & 0xffffc000u, RCBA_BYTES);
}

static void lpc_written(struct pci_device *dev, unsigned offset, unsigned size)
{
	if (offset + size > LPC_PMBASE)
		lpc_apply(dev->opaque);
}

static void lpc_reset(struct pci_device *dev)
{
	struct q35 *q35 = dev->opaque;
	bridge_command(dev);
	pci_config_set_u32(dev, LPC_PMBASE, Q35_PMBASE | 1);
	dev->config[LPC_ACPI_CNTL] = ACPI_ENABLE; /* SCI on IRQ 9 */
	for (unsigned pirq = 0; pirq < 8; pirq++)
		dev->config[pirq_register(pirq)] = 0x80;
	pci_config_set_u32(dev, LPC_RCBA, 0);
	lpc_apply(q35);
}

static int lpc_init(struct machine *machine, struct q35 *q35)
{
	static const struct pci_identity identity = {
		.vendor = 0x8086, .device = 0x2918, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .revision = 2,
		.class_device = 0x0601 };
	struct pci_device *lpc = &q35->lpc;
	int rc = pci_register(machine, lpc, "io_lpc", 31, 0, &identity);
	if (rc < 0)
		return rc;
	lpc->opaque = q35;
	lpc->config_written = lpc_written;
	lpc->reset = lpc_reset;
	wmask_fill(lpc, LPC_PMBASE, 4, 0xff80);
	wmask_fill(lpc, LPC_ACPI_CNTL, 1, 0x80);
	wmask_fill(lpc, LPC_PIRQA, 4, 0x8f8f8f8f);
	wmask_fill(lpc, LPC_PIRQE, 4, 0x8f8f8f8f);
	wmask_fill(lpc, LPC_GEN_PMCON, 2, 0x0010);
	wmask_fill(lpc, LPC_RCBA, 4, 0xffffc001);
	return 0;
}

/* ---- root complex registers and reset control ------------------------------------------- */

/* No HPET, no SPI, no function disabled: all of it reads as zeros. */
static uint64_t rcba_read(void *opaque, uint64_t offset, unsigned size) { return 0; }

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
	struct q35 *q35 = opaque;
	return q35->reset_control;
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct q35 *q35 = opaque;
	bool rises = (value & RESET_CPU) && !(q35->reset_control & RESET_CPU);
	q35->reset_control = value & (RESET_SYSTEM | 0x08);
	if (rises)
		machine_tell(q35->machine, MACHINE_EVENT_RESET, 0);
}

static const struct bus_ops rcba_ops = { .read = rcba_read, .max = 4 };
static const struct bus_ops reset_ops = { .read = reset_read, .write = reset_write, .max = 1 };

void q35_reset(struct q35 *q35)
{
	q35->reset_control = 0;
	pm_reset(q35);
}

int q35_init(struct machine *machine, struct q35 *q35)
{
	q35->machine = machine;
	pm_init(machine, q35);
	q35->rcba = (struct bus_range){ .name = "io_lpc", .ops = &rcba_ops, .opaque = q35 };
	q35->reset_port = (struct bus_range){ .name = "io_lpc", .ops = &reset_ops, .opaque = q35 };
	/* Byte accesses to 0xcf9 are ours; a doubleword at 0xcf8 is the PCI address register's (see bus_map_pio). */
	bus_map_pio(machine, &q35->reset_port, 0xcf9, 1);
	int rc = mch_init(machine, q35);
	return rc < 0 ? rc : lpc_init(machine, q35);
}
