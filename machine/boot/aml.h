/* A writer of ACPI Machine Language (ACPI 6.4, chapter 20): as much as our DSDT needs. */
#ifndef MACHINE_BOOT_AML_H
#define MACHINE_BOOT_AML_H

#include "machine/types.h"

/* Grows as needed; after a failed allocation every call does nothing and `failed` stays set. */
struct aml {
	uint8_t *data; /* owned: aml_free */
	size_t bytes, room;
	bool failed;
};

void aml_free(struct aml *aml);
void aml_raw(struct aml *aml, const void *bytes, size_t n);
void aml_u8(struct aml *aml, uint8_t value);
void aml_u16(struct aml *aml, uint16_t value);
void aml_u32(struct aml *aml, uint32_t value);
void aml_u64(struct aml *aml, uint64_t value);

/* A path: "\\_SB_.PCI0" and the like, segments of exactly four characters. */
void aml_path(struct aml *aml, const char *path);
/* An integer constant in its shortest form. */
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* A compressed EISA id, e.g. "PNP0A08", as an integer constant. */
void aml_eisaid(struct aml *aml, const char *id);

/* Name (path, …): the object follows. */
void aml_name(struct aml *aml, const char *path);
void aml_name_integer(struct aml *aml, const char *path, uint64_t value);
void aml_name_string(struct aml *aml, const char *path, const char *text);
void aml_name_eisaid(struct aml *aml, const char *path, const char *id);

/* Terms with a package length: begin returns what end wants. */
size_t aml_scope_begin(struct aml *aml, const char *path);
size_t aml_device_begin(struct aml *aml, const char *path);
size_t aml_method_begin(struct aml *aml, const char *path, unsigned arguments, bool serialized);
size_t aml_package_begin(struct aml *aml, unsigned elements);
void aml_end(struct aml *aml, size_t begin);

/* Name (_CRS, ResourceTemplate () { … }): descriptors between begin and end. */
struct aml_resources {
	size_t name;   /* the buffer's begin */
	size_t size;   /* where its size word is */
};
struct aml_resources aml_crs_begin(struct aml *aml);
void aml_crs_end(struct aml *aml, struct aml_resources crs);
void aml_io(struct aml *aml, uint16_t port, uint8_t bytes);
void aml_irq(struct aml *aml, unsigned irq);
void aml_memory32_fixed(struct aml *aml, uint32_t base, uint32_t bytes);
/* Address spaces a bridge hands down: [first, last]. */
void aml_window_bus(struct aml *aml, uint16_t first, uint16_t last);
void aml_window_io(struct aml *aml, uint16_t first, uint16_t last);
void aml_window_memory32(struct aml *aml, uint32_t first, uint32_t last);
void aml_window_memory64(struct aml *aml, uint64_t first, uint64_t last);

/* Arg<n>; Return of the term that follows. */
void aml_arg(struct aml *aml, unsigned n);
void aml_return(struct aml *aml);

#endif
