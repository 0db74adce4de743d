/* Guest-physical memory: RAM in one memfd, ROM images, and the PAM segments between 0xc0000 and 1 MiB. */
#ifndef MACHINE_RAM_H
#define MACHINE_RAM_H

#include <stdatomic.h>

#include "machine/machine.h"

/* The map of Q35: low RAM, PCIEXBAR, PCI memory hole, chipset, ROM, then RAM above 4 GiB. */
#define RAM_LOW_MAX 0x80000000ull
#define RAM_HIGH_BASE 0x100000000ull
#define PCI_ECAM_BASE 0xb0000000ull
#define PCI_ECAM_BYTES 0x10000000ull
#define PCI_HOLE_BASE 0xc0000000ull /* BARs of 32 bits: [PCI_HOLE_BASE, PCI_HOLE_END) */
#define PCI_HOLE_END 0xfe000000ull
#define IOAPIC_BASE 0xfec00000ull
#define LAPIC_BASE 0xfee00000ull
#define ROM_MAX_BYTES 0x1000000ull /* 16 MiB below 4 GiB */

#define RAM_VGA_BASE 0xa0000ull
#define RAM_VIDEO_BYTES 0x1000000u /* of a display; a multiple of what its BAR can be moved by */
#define PAM_BASE 0xc0000ull
#define PAM_END 0x100000ull
#define PAM_SEGMENTS 13 /* twelve of 16 KiB, then 0xf0000..0xfffff */

/* PAM attributes of a segment (two bits of a PAM register, 82Q35 5.1.20). */
#define PAM_READ 1u  /* reads go to RAM; else to the ROM's copy (or nothing) */
#define PAM_WRITE 2u /* writes go to RAM; else they are dropped */

enum ram_slot { RAM_SLOT_BASE, RAM_SLOT_EXTENDED, RAM_SLOT_HIGH, RAM_SLOT_ROM, RAM_SLOT_COUNT };

struct machine_ram {
	int fd;
	uint64_t bytes, low_bytes, high_bytes, file_bytes;
	uint8_t *host; /* all of the memfd */
	uint8_t *rom;  /* page-aligned copy of the image, or NULL */
	uint64_t rom_bytes;
	struct ram_region slot[RAM_SLOT_COUNT]; /* bytes 0: not there */
	_Atomic(const struct ram_region *) flash; /* below the ROM, while it reads as memory; else NULL */
	/* The display's memory, behind RAM in the memfd: wherever it can be below 4 GiB, and where it is now; or NULL. */
	uint8_t *video_host;
	struct ram_region video_at[RAM_HIGH_BASE / RAM_VIDEO_BYTES];
	_Atomic(const struct ram_region *) video;
	/* Each PAM segment in its four states; `pam` points at the present one. */
	struct ram_region pam_state[PAM_SEGMENTS][4];
	_Atomic(const struct ram_region *) pam[PAM_SEGMENTS];
	uint8_t pam_attr[PAM_SEGMENTS];
	struct ram_window *windows;
};

/* 0 or -errno (-EINVAL: a size that is 0, no multiple of 4 KiB, or too large). video: a display's memory is wanted too. */
int ram_init(struct machine_ram *ram, uint64_t bytes, bool video);
void ram_finish(struct machine_ram *ram);

/*
 * Maps a copy of a ROM image (a multiple of 4 KiB, at most ROM_MAX_BYTES) so that it ends at 4 GiB, and its last
 * 128 KiB also at 0xe0000 while PAM says so. Closes the PAM segments (power-on state of a machine with a ROM); without
 * a ROM they are plain RAM. Before the first vCPU runs. 0 or -errno.
 */
int machine_rom_add(struct machine *machine, const void *image, uint64_t bytes);

/* Where the ROM begins; 4 GiB when there is none. */
gpa_t machine_rom_base(const struct machine *machine);

/* Under the machine lock. Tells the engine (hooks.map_changed) when something changed. */
void ram_pam_set(struct machine *machine, unsigned segment, unsigned attributes);
/* The flash below the ROM (devices/flash.c) reads as this memory from now on; NULL: its reads are MMIO. As ram_pam_set. */
void ram_flash_set(struct machine *machine, const struct ram_region *region);
/*
 * The display's memory is at this address from now on, a multiple of its size; 0, or a place where RAM, the configuration
 * space or the chipset is: nowhere. As ram_pam_set.
 */
void ram_video_set(struct machine *machine, gpa_t gpa);
/* A vCPU's write to a read-only region: reaches RAM where PAM says write but not read. True: it was PAM's or ROM's. */
bool ram_readonly_write(struct machine *machine, gpa_t gpa, const void *buf, unsigned size);

/* A device's memory in the host, for machine_windows. Owned by the device, zeroed at first, bytes and host set. */
struct ram_window {
	uint64_t bytes;
	uint8_t *host;
	gpa_t gpa;
	bool mapped;
	struct ram_window *next;
};
/* Under the machine lock. Tells the engine (hooks.map_changed) when something changed. */
void ram_window_map(struct machine *machine, struct ram_window *window, gpa_t gpa);
void ram_window_unmap(struct machine *machine, struct ram_window *window);

/* Host pointer to RAM whatever PAM says (loaders, DMA); NULL unless [gpa, gpa+n) is RAM in one piece. [lock-free] */
void *ram_host(const struct machine_ram *ram, gpa_t gpa, uint64_t n);

/* RAM from 0 to here (at most RAM_LOW_MAX), and bytes above 4 GiB. */
static inline uint64_t ram_low_bytes(const struct machine_ram *ram) { return ram->low_bytes; }
static inline uint64_t ram_high_bytes(const struct machine_ram *ram) { return ram->high_bytes; }

#endif
