/* The SMBIOS texts of a machine, numbered. */
#ifndef PROTO_SMBIOS_H
#define PROTO_SMBIOS_H

enum smbios_text {
#define SMBIOS_TEXT(section, key, element, name, otherwise) SMBIOS_##section##_##key,
#include "proto/smbios.def"
#undef SMBIOS_TEXT
	SMBIOS_TEXTS
};

#define SMBIOS_OEM_MAX 32
#define SMBIOS_TEXT_MAX 255
/* A structure lies below 64 KiB, and all of them in half of the BIOS area. */
#define SMBIOS_OEM_BYTES_MAX (16u << 10)

#endif
