/* The DSDT's definition block: the PCI root and the devices of the board that no bus can enumerate. */
#include <string.h>

#include "machine/boot/acpi.h"
#include "machine/boot/aml.h"
#include "machine/devices/pci.h"
#include "machine/devices/q35.h"
#include "machine/irq.h"
#include "machine/machine.h"
#include "machine/ram.h"

#define PVPANIC_PORT 0x505
#define FW_CFG_PORT 0x510
#define FW_CFG_PORTS 12
#define LPC_ADR 0x001f0000

static void s5(struct aml *aml)
{
	size_t package;

	aml_name(aml, "_S5_");
	package = aml_package_begin(aml, 4);
	aml_integer(aml, PM_SLP_TYP_S5);
	aml_integer(aml, PM_SLP_TYP_S5);
	aml_integer(aml, 0);
	aml_integer(aml, 0);
	aml_end(aml, package);
}

/* Which GSI each pin of each slot reaches: the rotation is the PCI core's. */
static void prt(struct aml *aml)
{
	size_t package, entry;

	aml_name(aml, "_PRT");
	package = aml_package_begin(aml, 31 * 4);
	/* Slot 0 is the host bridge, which interrupts nobody. */
	for (unsigned slot = 1; slot < 32; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			entry = aml_package_begin(aml, 4);
			aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
			aml_integer(aml, pin);
			aml_integer(aml, 0); /* no link device: the next is a GSI */
			aml_integer(aml, IRQ_PIRQ_GSI_BASE + pci_intx_pirq(slot, pin));
			aml_end(aml, entry);
		}
	}
	aml_end(aml, package);
}

/* A device with an EISA id and ports and an IRQ as its resources; bytes 0 or irq < 0: none. */
static void isa_device(struct aml *aml, const char *name, const char *id, int uid, uint16_t port, uint8_t bytes, int irq)
{
	struct aml_resources crs;
	size_t device = aml_device_begin(aml, name);

	aml_name_eisaid(aml, "_HID", id);
	if (uid >= 0)
		aml_name_integer(aml, "_UID", (uint64_t)uid);
	aml_name_integer(aml, "_STA", 0x0f);
	crs = aml_crs_begin(aml);
	if (bytes)
		aml_io(aml, port, bytes);
	/* The keyboard controller's command port. */
	if (strcmp(id, "PNP0303") == 0)
		aml_io(aml, 0x64, 1);
	if (irq >= 0)
		aml_irq(aml, (unsigned)irq);
	aml_crs_end(aml, crs);
	aml_end(aml, device);
}

static void qemu_device(struct aml *aml, const char *name, const char *id, uint16_t port, uint8_t bytes)
{
	struct aml_resources crs;
	size_t device = aml_device_begin(aml, name);

	aml_name_string(aml, "_HID", id);
	aml_name_integer(aml, "_STA", 0x0b); /* present, enabled, working; not shown in a user interface */
	crs = aml_crs_begin(aml);
	aml_io(aml, port, bytes);
	aml_crs_end(aml, crs);
	aml_end(aml, device);
}

static void lpc(struct aml *aml)
{
	size_t device = aml_device_begin(aml, "ISA_");

	aml_name_integer(aml, "_ADR", LPC_ADR);
	isa_device(aml, "RTC_", "PNP0B00", -1, 0x70, 8, ISA_IRQ_RTC);
	isa_device(aml, "KBD_", "PNP0303", -1, 0x60, 1, ISA_IRQ_KEYBOARD);
	isa_device(aml, "MOU_", "PNP0F13", -1, 0, 0, ISA_IRQ_MOUSE);
	isa_device(aml, "COM1", "PNP0501", 1, 0x3f8, 8, ISA_IRQ_COM1);
	isa_device(aml, "COM2", "PNP0501", 2, 0x2f8, 8, ISA_IRQ_COM2);
	qemu_device(aml, "PEVT", "QEMU0001", PVPANIC_PORT, 1);
	qemu_device(aml, "FWCF", "QEMU0002", FW_CFG_PORT, FW_CFG_PORTS);
	aml_end(aml, device);
}

static void pci_root(struct aml *aml, const struct acpi_platform *platform)
{
	struct aml_resources crs;
	size_t device = aml_device_begin(aml, "PCI0"), method;

	aml_name_eisaid(aml, "_HID", "PNP0A08");
	aml_name_eisaid(aml, "_CID", "PNP0A03");
	aml_name_integer(aml, "_UID", 0);
	crs = aml_crs_begin(aml);
	aml_window_bus(aml, 0, 255);
	aml_io(aml, 0xcf8, 8);
	aml_window_io(aml, 0, 0xcf7);
	aml_window_io(aml, 0xd00, 0xffff);
	aml_window_memory32(aml, RAM_VGA_BASE, PAM_BASE - 1);
	aml_window_memory32(aml, PCI_HOLE_BASE, PCI_HOLE_END - 1);
	aml_window_memory64(aml, platform->window64, platform->window64 + PCI_WINDOW64_BYTES - 1);
	aml_crs_end(aml, crs);
	/* PCI Express features: the system may have all it asks for, there is nobody else to control them. */
	method = aml_method_begin(aml, "_OSC", 4, false);
	aml_return(aml);
	aml_arg(aml, 3);
	aml_end(aml, method);
	prt(aml);
	lpc(aml);
	aml_end(aml, device);
}

/* Reserves ECAM, as the PCI Firmware Specification wants it said, outside the root bridge's own resources. */
static void board(struct aml *aml)
{
	struct aml_resources crs;
	size_t device = aml_device_begin(aml, "MBRD");

	aml_name_eisaid(aml, "_HID", "PNP0C02");
	aml_name_integer(aml, "_UID", 0);
	crs = aml_crs_begin(aml);
	aml_memory32_fixed(aml, PCI_ECAM_BASE, PCI_ECAM_BYTES);
	aml_io(aml, Q35_PMBASE, Q35_PM_BYTES);
	aml_crs_end(aml, crs);
	aml_end(aml, device);
}

static void processors(struct aml *aml, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[8];
		size_t device;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		device = aml_device_begin(aml, name);
		aml_name_string(aml, "_HID", "ACPI0007");
		aml_name_integer(aml, "_UID", i);
		aml_end(aml, device);
	}
}

void dsdt_build(struct aml *aml, const struct acpi_platform *platform)
{
	size_t scope;

	s5(aml);
	scope = aml_scope_begin(aml, "\\_SB_");
	pci_root(aml, platform);
	board(aml);
	processors(aml, platform->vcpus);
	aml_end(aml, scope);
}
