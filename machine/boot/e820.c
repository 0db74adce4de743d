/* The map of guest-physical memory that a kernel or a firmware is told. */
#include "machine/boot/private.h"
#include "machine/ram.h"

static void add(struct e820_map *map, uint64_t gpa, uint64_t end, enum e820_type type)
{
	if (end <= gpa)
		return;
	BUG_ON(map->count == E820_MAX);
	map->range[map->count++] = (struct e820_range){.gpa = gpa, .bytes = end - gpa, .type = type};
}

void boot_ram_layout(const struct machine *machine, struct boot_ram *ret_ram)
{
	uint64_t bytes = machine_ram_bytes(machine);
	uint64_t low = bytes < RAM_LOW_MAX ? bytes : RAM_LOW_MAX;

	*ret_ram = (struct boot_ram){.low_end = low, .high_bytes = bytes - low};
}

void e820_direct(struct e820_map *ret_map, const struct boot_ram *ram, gpa_t acpi_gpa)
{
	*ret_map = (struct e820_map){0};
	add(ret_map, 0, BOOT_LOW_END, E820_RAM);
	add(ret_map, BOOT_LOW_END, RAM_VGA_BASE, E820_RESERVED);
	add(ret_map, 0xe0000, BOOT_HIGH_BASE, E820_RESERVED); /* RSDP, SMBIOS */
	add(ret_map, BOOT_HIGH_BASE, acpi_gpa, E820_RAM);
	add(ret_map, acpi_gpa, ram->low_end, E820_ACPI);
	/* Linux uses ECAM only where the map or an ACPI device reserves it. */
	add(ret_map, PCI_ECAM_BASE, PCI_ECAM_BASE + PCI_ECAM_BYTES, E820_RESERVED);
	add(ret_map, RAM_HIGH_BASE, RAM_HIGH_BASE + ram->high_bytes, E820_RAM);
}

void e820_firmware(struct e820_map *ret_map, const struct boot_ram *ram)
{
	*ret_map = (struct e820_map){0};
	add(ret_map, 0, ram->low_end, E820_RAM);
	add(ret_map, RAM_HIGH_BASE, RAM_HIGH_BASE + ram->high_bytes, E820_RAM);
}
