/* ACPI tables of the machine, relocatable: placed in guest memory by us, or by a firmware through its table loader. */
#ifndef MACHINE_BOOT_ACPI_H
#define MACHINE_BOOT_ACPI_H

#include "machine/types.h"

struct machine;
struct aml;

/* What the tables say that is not fixed. */
struct acpi_platform {
	unsigned vcpus;
	uint64_t window64; /* base of the window for 64-bit BARs */
};

/* A little-endian pointer in the tables that holds an offset into the blob, until it is placed. */
struct acpi_pointer {
	uint32_t at;   /* offset in the blob, or in rsdp[] */
	uint8_t bytes; /* 4 or 8 */
	bool in_rsdp;
};

struct acpi_checksum {
	uint32_t at;           /* offset of the checksum's byte */
	uint32_t start, bytes; /* what adds up to 0 */
	bool in_rsdp;
};

#define ACPI_POINTERS 32
#define ACPI_CHECKSUMS 16
#define ACPI_RSDP_BYTES 36

struct acpi_tables {
	uint8_t *blob; /* owned: acpi_free */
	uint32_t bytes;
	uint8_t rsdp[ACPI_RSDP_BYTES];
	struct acpi_pointer pointer[ACPI_POINTERS];
	unsigned pointers;
	struct acpi_checksum checksum[ACPI_CHECKSUMS];
	unsigned checksums;
};

/* 0 or -ENOMEM. */
int acpi_build(struct acpi_tables *ret_tables, const struct machine *machine);
int acpi_build_platform(struct acpi_tables *ret_tables, const struct acpi_platform *platform);
void acpi_free(struct acpi_tables *tables);

/* Makes the pointers those of a blob at `gpa` (once), and computes the checksums. */
void acpi_place(struct acpi_tables *tables, gpa_t gpa);

/* fw_cfg files of the linker/loader protocol (QEMU, hw/acpi/bios-linker-loader.c describes it). */
#define ACPI_FILE_TABLES "etc/acpi/tables"
#define ACPI_FILE_RSDP "etc/acpi/rsdp"
#define ACPI_FILE_LOADER "etc/table-loader"
#define ACPI_LOADER_ENTRY 128
/* The script that makes a firmware do what acpi_place does. *ret_script is the caller's to free. 0 or -ENOMEM. */
int acpi_loader_script(const struct acpi_tables *tables, uint8_t **ret_script, uint32_t *ret_bytes);

/* The DSDT's contents after its header (dsdt.c). */
void dsdt_build(struct aml *aml, const struct acpi_platform *platform);

#endif
