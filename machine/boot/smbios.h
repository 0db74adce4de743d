/* SMBIOS 3.0 tables: what the machine says it is. */
#ifndef MACHINE_BOOT_SMBIOS_H
#define MACHINE_BOOT_SMBIOS_H

#include "machine/machine.h"

#define SMBIOS_ANCHOR_BYTES 24
#define SMBIOS_FILE_ANCHOR "etc/smbios/smbios-anchor"
#define SMBIOS_FILE_TABLES "etc/smbios/smbios-tables"

struct smbios_tables {
	uint8_t anchor[SMBIOS_ANCHOR_BYTES];
	uint8_t *blob; /* owned: smbios_free */
	uint32_t bytes;
};

/* texts: NULL for none. 0 or -ENOMEM. The anchor is complete but for the tables' address: smbios_place, or a firmware's doing. */
int smbios_build(struct smbios_tables *ret_tables, uint64_t ram_bytes, unsigned vcpus, const struct machine_smbios *texts);
void smbios_place(struct smbios_tables *tables, gpa_t gpa);
void smbios_free(struct smbios_tables *tables);

#endif
