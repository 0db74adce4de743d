/* ACPI's fixed tables (ACPI 6.4, chapter 5.2), as offsets into one blob that is then placed. */
#include <errno.h>
#include <string.h>

#include "machine/boot/acpi.h"
#include "machine/boot/aml.h"
#include "machine/devices/pci.h"
#include "machine/devices/q35.h"
#include "machine/irq.h"
#include "machine/machine.h"
#include "machine/ram.h"

#define OEM_ID "TRVISR"
#define OEM_TABLE_ID "TRIVISOR"
#define CREATOR_ID "TRVS"
#define HEADER_BYTES 36
#define HEADER_CHECKSUM 9
#define HEADER_LENGTH 4
#define FACS_BYTES 64
#define FADT_BYTES 276 /* revision 6 */

/* ---- building blocks ------------------------------------------------------- */

struct builder {
	struct acpi_tables *tables;
	struct aml out; /* the blob: AML's writer is a byte writer too */
};

static void add_pointer(struct builder *b, uint32_t at, uint8_t bytes, bool in_rsdp)
{
	BUG_ON(b->tables->pointers == ACPI_POINTERS);
	b->tables->pointer[b->tables->pointers++] = (struct acpi_pointer){.at = at, .bytes = bytes, .in_rsdp = in_rsdp};
}

static void add_checksum(struct builder *b, struct acpi_checksum sum)
{
	BUG_ON(b->tables->checksums == ACPI_CHECKSUMS);
	b->tables->checksum[b->tables->checksums++] = sum;
}

/* A pointer to `target`, an offset in the blob. */
static void pointer(struct builder *b, uint32_t target, uint8_t bytes)
{
	add_pointer(b, (uint32_t)b->out.bytes, bytes, false);
	if (bytes == 8)
		aml_u64(&b->out, target);
	else
		aml_u32(&b->out, target);
}

static uint32_t table_begin(struct builder *b, const char *signature, uint8_t revision)
{
	static const uint8_t zero[64];
	uint32_t begin;

	aml_raw(&b->out, zero, -b->out.bytes & 15);
	begin = (uint32_t)b->out.bytes;
	aml_raw(&b->out, signature, 4);
	aml_u32(&b->out, 0); /* length */
	aml_u8(&b->out, revision);
	aml_u8(&b->out, 0); /* checksum */
	aml_raw(&b->out, OEM_ID, 6);
	aml_raw(&b->out, OEM_TABLE_ID, 8);
	aml_u32(&b->out, 1);
	aml_raw(&b->out, CREATOR_ID, 4);
	aml_u32(&b->out, 1);
	return begin;
}

static void table_end(struct builder *b, uint32_t begin)
{
	uint32_t bytes = (uint32_t)b->out.bytes - begin;

	if (b->out.failed)
		return;
	memcpy(b->out.data + begin + HEADER_LENGTH, &bytes, sizeof(bytes));
	add_checksum(b, (struct acpi_checksum){.at = begin + HEADER_CHECKSUM, .start = begin, .bytes = bytes});
}

/* Generic Address Structure of a port (5.2.3.2). */
static void gas_port(struct aml *out, uint16_t port, uint8_t bits, uint8_t access)
{
	aml_u8(out, port ? 1 : 0);
	aml_u8(out, bits);
	aml_u8(out, 0);
	aml_u8(out, access);
	aml_u64(out, port);
}

/* ---- tables ------------------------------------------------------------------ */

static uint32_t facs(struct builder *b)
{
	uint8_t bytes[FACS_BYTES] = "FACS";
	static const uint8_t zero[64];
	uint32_t begin;

	bytes[4] = FACS_BYTES;
	bytes[32] = 2; /* version */
	aml_raw(&b->out, zero, -b->out.bytes & 63);
	begin = (uint32_t)b->out.bytes;
	aml_raw(&b->out, bytes, sizeof(bytes));
	return begin;
}

static uint32_t dsdt(struct builder *b, const struct acpi_platform *platform)
{
	uint32_t begin = table_begin(b, "DSDT", 2); /* 64-bit integers */

	dsdt_build(&b->out, platform);
	table_end(b, begin);
	return begin;
}

#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_SLP_BUTTON (1u << 5) /* none as a fixed feature; PWR_BUTTON (bit 4) clear: the power button is one */
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_APIC_CLUSTER (1u << 18)
#define BOOT_ARCH_LEGACY (1u << 0)
#define BOOT_ARCH_8042 (1u << 1)
#define BOOT_ARCH_NO_VGA (1u << 2)
#define CMOS_CENTURY 0x32

static uint32_t fadt(struct builder *b, const struct acpi_platform *platform, uint32_t facs_at, uint32_t dsdt_at)
{
	struct aml *out = &b->out;
	uint32_t begin = table_begin(b, "FACP", 6);
	const uint16_t pm = Q35_PMBASE;

	pointer(b, facs_at, 4);
	pointer(b, dsdt_at, 4);
	aml_u8(out, 0);
	aml_u8(out, 0); /* profile: unspecified */
	aml_u16(out, ISA_IRQ_SCI);
	aml_u32(out, PM_SMI_CMD);
	aml_u8(out, PM_ACPI_ENABLE);
	aml_u8(out, PM_ACPI_DISABLE);
	aml_u8(out, 0); /* no S4BIOS */
	aml_u8(out, 0);
	aml_u32(out, pm + PM_PM1A_EVT);
	aml_u32(out, 0);
	aml_u32(out, pm + PM_PM1A_CNT);
	aml_u32(out, 0);
	aml_u32(out, 0); /* PM2 */
	aml_u32(out, pm + PM_TMR);
	aml_u32(out, pm + PM_GPE0);
	aml_u32(out, 0);
	aml_u8(out, 4); /* lengths: PM1 event, PM1 control, PM2, timer, GPE0, GPE1 */
	aml_u8(out, 2);
	aml_u8(out, 0);
	aml_u8(out, 4);
	aml_u8(out, 16);
	aml_u8(out, 0);
	aml_u8(out, 0); /* GPE1 base */
	aml_u8(out, 0);
	aml_u16(out, 0xfff); /* no C2, no C3 */
	aml_u16(out, 0xfff);
	aml_u16(out, 0);
	aml_u16(out, 0);
	aml_u8(out, 0);
	aml_u8(out, 0);
	aml_u8(out, 0);
	aml_u8(out, 0);
	aml_u8(out, CMOS_CENTURY);
	aml_u16(out, BOOT_ARCH_LEGACY | BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA);
	aml_u8(out, 0);
	/* More than eight processors need logical cluster or physical destinations. */
	aml_u32(out, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLP_BUTTON | FADT_RESET_REG_SUP |
			     (platform->vcpus > 8 ? FADT_APIC_CLUSTER : 0));
	gas_port(out, 0xcf9, 8, 1);
	aml_u8(out, 6); /* hard reset */
	aml_u16(out, 0);
	aml_u8(out, 3); /* minor version: 6.3 */
	/* One of X_FIRMWARE_CTRL and FIRMWARE_CTRL, of X_DSDT and DSDT must be enough; systems differ in which. */
	aml_u64(out, 0);
	pointer(b, dsdt_at, 8);
	gas_port(out, (uint16_t)(pm + PM_PM1A_EVT), 32, 2);
	gas_port(out, 0, 0, 0);
	gas_port(out, (uint16_t)(pm + PM_PM1A_CNT), 16, 2);
	gas_port(out, 0, 0, 0);
	gas_port(out, 0, 0, 0);
	gas_port(out, (uint16_t)(pm + PM_TMR), 32, 3);
	gas_port(out, (uint16_t)(pm + PM_GPE0), 128, 1);
	gas_port(out, 0, 0, 0);
	gas_port(out, 0, 0, 0); /* sleep control and status: hardware-reduced systems only */
	gas_port(out, 0, 0, 0);
	aml_raw(out, CREATOR_ID "ISOR", 8); /* hypervisor vendor identity */
	BUG_ON(!out->failed && out->bytes - begin != FADT_BYTES);
	table_end(b, begin);
	return begin;
}

#define MADT_PCAT_COMPAT 1
#define MADT_ENABLED 1
#define MPS_CONFORMS 0
#define MPS_LEVEL_HIGH 0x000d /* polarity 01 active high, trigger 11 level */

static void interrupt_override(struct aml *out, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	aml_u8(out, 2);
	aml_u8(out, 10);
	aml_u8(out, 0); /* ISA */
	aml_u8(out, irq);
	aml_u32(out, gsi);
	aml_u16(out, flags);
}

static uint32_t madt(struct builder *b, const struct acpi_platform *platform)
{
	struct aml *out = &b->out;
	uint32_t begin = table_begin(b, "APIC", 5);

	aml_u32(out, LAPIC_BASE);
	aml_u32(out, MADT_PCAT_COMPAT);
	for (unsigned i = 0; i < platform->vcpus; i++) {
		aml_u8(out, 0); /* processor local APIC */
		aml_u8(out, 8);
		aml_u8(out, (uint8_t)i); /* the ACPI0007 device's _UID */
		aml_u8(out, (uint8_t)i); /* APIC id */
		aml_u32(out, MADT_ENABLED);
	}
	aml_u8(out, 1); /* I/O APIC */
	aml_u8(out, 12);
	aml_u8(out, 0);
	aml_u8(out, 0);
	aml_u32(out, IOAPIC_BASE);
	aml_u32(out, 0);
	interrupt_override(out, ISA_IRQ_TIMER, 2, MPS_CONFORMS);
	interrupt_override(out, ISA_IRQ_SCI, ISA_IRQ_SCI, MPS_LEVEL_HIGH);
	aml_u8(out, 4); /* local APIC NMI */
	aml_u8(out, 6);
	aml_u8(out, 0xff); /* all processors */
	aml_u16(out, MPS_CONFORMS);
	aml_u8(out, 1); /* LINT1 */
	table_end(b, begin);
	return begin;
}

static uint32_t mcfg(struct builder *b)
{
	struct aml *out = &b->out;
	uint32_t begin = table_begin(b, "MCFG", 1);

	aml_u64(out, 0);
	aml_u64(out, PCI_ECAM_BASE);
	aml_u16(out, 0);
	aml_u8(out, 0);
	aml_u8(out, (uint8_t)((PCI_ECAM_BYTES >> 20) - 1));
	aml_u32(out, 0);
	table_end(b, begin);
	return begin;
}

static uint32_t root_table(struct builder *b, const char *signature, const uint32_t *table, unsigned n, uint8_t bytes)
{
	uint32_t begin = table_begin(b, signature, 1);

	for (unsigned i = 0; i < n; i++)
		pointer(b, table[i], bytes);
	table_end(b, begin);
	return begin;
}

static void rsdp(struct builder *b, uint32_t rsdt_at, uint32_t xsdt_at)
{
	uint8_t *p = b->tables->rsdp;
	const uint32_t length = ACPI_RSDP_BYTES;
	const uint64_t xsdt = xsdt_at;

	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2;
	memcpy(p + 16, &rsdt_at, sizeof(rsdt_at));
	memcpy(p + 20, &length, sizeof(length));
	memcpy(p + 24, &xsdt, sizeof(xsdt));
	add_pointer(b, 16, 4, true);
	add_pointer(b, 24, 8, true);
	add_checksum(b, (struct acpi_checksum){.at = 8, .start = 0, .bytes = 20, .in_rsdp = true});
	add_checksum(b, (struct acpi_checksum){.at = 32, .start = 0, .bytes = ACPI_RSDP_BYTES, .in_rsdp = true});
}

int acpi_build_platform(struct acpi_tables *ret_tables, const struct acpi_platform *platform)
{
	struct acpi_tables tables = {0};
	struct builder b = {.tables = &tables};
	uint32_t facs_at, dsdt_at, table[3], rsdt_at, xsdt_at;

	facs_at = facs(&b);
	dsdt_at = dsdt(&b, platform);
	table[0] = fadt(&b, platform, facs_at, dsdt_at);
	table[1] = madt(&b, platform);
	table[2] = mcfg(&b);
	rsdt_at = root_table(&b, "RSDT", table, ARRAY_SIZE(table), 4);
	xsdt_at = root_table(&b, "XSDT", table, ARRAY_SIZE(table), 8);
	rsdp(&b, rsdt_at, xsdt_at);
	if (b.out.failed) {
		aml_free(&b.out);
		return -ENOMEM;
	}
	tables.blob = b.out.data;
	tables.bytes = (uint32_t)b.out.bytes;
	*ret_tables = tables;
	return 0;
}

int acpi_build(struct acpi_tables *ret_tables, const struct machine *machine)
{
	const struct acpi_platform platform = {
		.vcpus = machine_vcpus(machine),
		.window64 = pci_window64_base(machine),
	};

	return acpi_build_platform(ret_tables, &platform);
}

void acpi_free(struct acpi_tables *tables)
{
	if (!tables)
		return;
	free(tables->blob);
	*tables = (struct acpi_tables){0};
}

void acpi_place(struct acpi_tables *tables, gpa_t gpa)
{
	for (unsigned i = 0; i < tables->pointers; i++) {
		const struct acpi_pointer *p = &tables->pointer[i];
		uint8_t *at = (p->in_rsdp ? tables->rsdp : tables->blob) + p->at;
		uint64_t value = 0;

		memcpy(&value, at, p->bytes);
		value += gpa;
		memcpy(at, &value, p->bytes);
	}
	for (unsigned i = 0; i < tables->checksums; i++) {
		const struct acpi_checksum *c = &tables->checksum[i];
		uint8_t *base = c->in_rsdp ? tables->rsdp : tables->blob, sum = 0;

		base[c->at] = 0;
		for (uint32_t j = 0; j < c->bytes; j++)
			sum = (uint8_t)(sum + base[c->start + j]);
		base[c->at] = (uint8_t)-sum;
	}
}

/* ---- the firmware's table loader ------------------------------------------------ */

enum loader_command { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum loader_zone { LOADER_ZONE_HIGH = 1, LOADER_ZONE_FSEG = 2 };

#define LOADER_NAME 56

struct loader_entry {
	uint32_t command;
	union {
		struct {
			char file[LOADER_NAME];
			uint32_t align;
			uint8_t zone;
		} __attribute__((packed)) allocate;
		struct {
			char pointer_file[LOADER_NAME], pointee_file[LOADER_NAME];
			uint32_t offset;
			uint8_t bytes;
		} __attribute__((packed)) pointer;
		struct {
			char file[LOADER_NAME];
			uint32_t offset, start, bytes;
		} __attribute__((packed)) checksum;
		uint8_t pad[ACPI_LOADER_ENTRY - 4];
	};
} __attribute__((packed));

_Static_assert(sizeof(struct loader_entry) == ACPI_LOADER_ENTRY, "table loader entry");

static struct loader_entry loader_allocate(const char *file, uint32_t align, enum loader_zone zone)
{
	struct loader_entry entry = {.command = LOADER_ALLOCATE};

	snprintf(entry.allocate.file, LOADER_NAME, "%s", file);
	entry.allocate.align = align;
	entry.allocate.zone = (uint8_t)zone;
	return entry;
}

int acpi_loader_script(const struct acpi_tables *tables, uint8_t **ret_script, uint32_t *ret_bytes)
{
	unsigned count = 2 + tables->pointers + tables->checksums, n = 0;
	struct loader_entry *script = calloc(count, sizeof(*script));

	if (!script)
		return -ENOMEM;
	script[n++] = loader_allocate(ACPI_FILE_TABLES, 64, LOADER_ZONE_HIGH);
	script[n++] = loader_allocate(ACPI_FILE_RSDP, 16, LOADER_ZONE_FSEG);
	for (unsigned i = 0; i < tables->pointers; i++, n++) {
		const struct acpi_pointer *p = &tables->pointer[i];

		script[n].command = LOADER_ADD_POINTER;
		snprintf(script[n].pointer.pointer_file, LOADER_NAME, "%s", p->in_rsdp ? ACPI_FILE_RSDP : ACPI_FILE_TABLES);
		snprintf(script[n].pointer.pointee_file, LOADER_NAME, "%s", ACPI_FILE_TABLES);
		script[n].pointer.offset = p->at;
		script[n].pointer.bytes = p->bytes;
	}
	for (unsigned i = 0; i < tables->checksums; i++, n++) {
		const struct acpi_checksum *c = &tables->checksum[i];

		script[n].command = LOADER_ADD_CHECKSUM;
		snprintf(script[n].checksum.file, LOADER_NAME, "%s", c->in_rsdp ? ACPI_FILE_RSDP : ACPI_FILE_TABLES);
		script[n].checksum.offset = c->at;
		script[n].checksum.start = c->start;
		script[n].checksum.bytes = c->bytes;
	}
	*ret_script = (uint8_t *)script;
	*ret_bytes = count * ACPI_LOADER_ENTRY;
	return 0;
}
