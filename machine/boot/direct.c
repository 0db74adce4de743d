/* What every direct boot needs beside the kernel: tables of the platform, memory map, command line, initrd. */
#include <errno.h>
#include <string.h>

#include "machine/boot/acpi.h"
#include "machine/boot/private.h"
#include "machine/boot/smbios.h"
#include "machine/devices/pci.h"
#include "machine/devices/vga.h"
#include "machine/private.h"
#include "machine/ram.h"

/* The BIOS area: RSDP, then SMBIOS on its own 16-byte boundary in 0xf0000..0xfffff, where kernels look for it. */
#define RSDP_GPA 0xe0000
#define SMBIOS_GPA 0xf0000
#define SMBIOS_MAX 0x8000

static int put_acpi(struct boot_direct *direct)
{
	struct acpi_tables tables;
	int rc;

	rc = acpi_build(&tables, direct->machine);
	if (rc < 0)
		return boot_fail(rc, "no memory for the ACPI tables");
	/* They take the top of low RAM; the kernel may have the memory back once it has read them. */
	if (tables.bytes + BOOT_HIGH_BASE > direct->ram.low_end) {
		acpi_free(&tables);
		return boot_fail(-ENOSPC, "the VM's memory (%llu KiB) has no room for ACPI tables: give it at least 2 MiB",
				 (unsigned long long)(direct->ram.low_end >> 10));
	}
	direct->acpi_gpa = (direct->ram.low_end - tables.bytes) & ~0xffffull;
	direct->rsdp_gpa = RSDP_GPA;
	acpi_place(&tables, direct->acpi_gpa);
	rc = boot_put(direct->machine, direct->acpi_gpa, tables.blob, tables.bytes, "ACPI tables");
	if (rc == 0)
		rc = boot_put(direct->machine, RSDP_GPA, tables.rsdp, sizeof(tables.rsdp), "ACPI root pointer");
	acpi_free(&tables);
	return rc;
}

static int put_smbios(struct boot_direct *direct)
{
	struct smbios_tables tables;
	int rc;

	rc = smbios_build(&tables, machine_ram_bytes(direct->machine), machine_vcpus(direct->machine), direct->machine->config.smbios);
	if (rc < 0)
		return boot_fail(rc, "no memory for the SMBIOS tables");
	BUG_ON(tables.bytes > SMBIOS_MAX);
	smbios_place(&tables, SMBIOS_GPA + 32);
	rc = boot_put(direct->machine, SMBIOS_GPA, tables.anchor, sizeof(tables.anchor), "SMBIOS entry point");
	if (rc == 0)
		rc = boot_put(direct->machine, SMBIOS_GPA + 32, tables.blob, tables.bytes, "SMBIOS tables");
	smbios_free(&tables);
	return rc;
}

int direct_begin(struct boot_direct *ret_direct, struct machine *machine)
{
	struct boot_direct direct = {.machine = machine};
	int rc;

	boot_ram_layout(machine, &direct.ram);
	pci_assign_bars(machine);
	direct.has_screen = vga_text_mode(machine);
	rc = put_acpi(&direct);
	if (rc < 0)
		return rc;
	rc = put_smbios(&direct);
	if (rc < 0)
		return rc;
	e820_direct(&direct.e820, &direct.ram, direct.acpi_gpa);
	*ret_direct = direct;
	return 0;
}

int direct_cmdline(struct boot_direct *direct, const char *cmdline, uint64_t max)
{
	const char *text = cmdline ? cmdline : "";
	uint64_t n = strlen(text);

	if (max > BOOT_CMDLINE_MAX - 1)
		max = BOOT_CMDLINE_MAX - 1;
	if (n > max)
		return boot_fail(-E2BIG, "the kernel's command line has %llu bytes, this kernel takes %llu: shorten it",
				 (unsigned long long)n, (unsigned long long)max);
	direct->cmdline_bytes = n;
	return boot_put(direct->machine, BOOT_CMDLINE_GPA, text, n + 1, "command line");
}

int direct_file(struct boot_direct *direct, const char *what, const char *path, gpa_t kernel_end, uint64_t limit,
		gpa_t *ret_gpa, uint64_t *ret_bytes)
{
	struct boot_file file;
	gpa_t at = 0;
	void *to = NULL;
	int rc;

	rc = boot_file_open(&file, what, path);
	if (rc < 0)
		return rc;
	if (limit > direct->acpi_gpa)
		limit = direct->acpi_gpa;
	if (file.size <= limit)
		at = (limit - file.size) & GUEST_PAGE_MASK;
	if (at < kernel_end || (to = machine_dma_map(direct->machine, at, file.size)) == NULL) {
		rc = boot_fail(-ENOSPC,
			       "%s %s (%zu KiB) does not fit beside the kernel, which ends at %llu KiB, in the %llu KiB of "
			       "memory it may use: give the VM more memory or use a smaller %s",
			       what, path, file.size >> 10, (unsigned long long)(kernel_end >> 10),
			       (unsigned long long)(limit >> 10), what);
		goto out;
	}
	rc = boot_file_read_to(&file, to);
	if (rc < 0)
		goto out;
	machine_dma_written(direct->machine, at, file.size);
	*ret_gpa = at;
	*ret_bytes = file.size;
out:
	boot_file_close(&file);
	return rc;
}

int direct_too_large(const struct boot_direct *direct, const struct boot_file *kernel, gpa_t end)
{
	return boot_fail(-ENOSPC, "kernel %s needs memory up to %llu MiB, the VM has only %llu MiB for it: give it more",
			 kernel->path, (unsigned long long)(end >> 20), (unsigned long long)(direct->acpi_gpa >> 20));
}
