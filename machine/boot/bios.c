/* What a kernel that looks for a PC's BIOS finds where there is none: its data area, and vectors that say "no". */
#include <string.h>

#include "machine/boot/private.h"

#define BDA_GPA 0x400
#define EBDA_GPA BOOT_LOW_END
#define STUB_SEGMENT 0xf000
#define STUB_OFFSET 0xe000 /* behind the SMBIOS tables */

/* Every service fails: the caller's carry flag set, AH as for an unknown function. */
static const uint8_t stub[] = {
	0x55,			/* push bp */
	0x89, 0xe5,		/* mov bp, sp */
	0x80, 0x4e, 0x06, 0x01, /* or byte [bp+6], 1 */
	0x5d,			/* pop bp */
	0xb4, 0x86,		/* mov ah, 0x86 */
	0xcf,			/* iret */
};

struct bda {
	uint16_t com[4], lpt[3], ebda_segment, equipment;
	uint8_t tests;
	uint16_t base_kib;
} __attribute__((packed));
_Static_assert(offsetof(struct bda, base_kib) == 0x13, "BIOS data area");

int bios_put(struct machine *machine)
{
	const struct bda bda = {
		.com = {0x3f8, 0x2f8},
		.ebda_segment = EBDA_GPA >> 4,
		.equipment = 2 << 9, /* serial ports */
		.base_kib = BOOT_LOW_END >> 10,
	};
	const uint8_t ebda_kib = (0xa0000 - EBDA_GPA) >> 10;
	uint16_t vectors[256][2];
	int rc;

	for (unsigned i = 0; i < 256; i++) {
		vectors[i][0] = STUB_OFFSET;
		vectors[i][1] = STUB_SEGMENT;
	}
	rc = boot_put(machine, 0, vectors, sizeof(vectors), "interrupt vectors");
	if (rc == 0)
		rc = boot_put(machine, BDA_GPA, &bda, sizeof(bda), "BIOS data area");
	if (rc == 0)
		rc = boot_put(machine, EBDA_GPA, &ebda_kib, sizeof(ebda_kib), "extended BIOS data area");
	if (rc == 0)
		rc = boot_put(machine, STUB_SEGMENT * 16 + STUB_OFFSET, stub, sizeof(stub), "BIOS services");
	return rc;
}
