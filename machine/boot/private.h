/* What the loaders under machine/boot share: the file being read, the memory map, the state at entry. */
#ifndef MACHINE_BOOT_PRIVATE_H
#define MACHINE_BOOT_PRIVATE_H

#include "machine/machine.h"

/*
 * Guest memory at the entry of a directly booted kernel (docs/boot.md). All of it is below 640 KiB and outside what a
 * kernel image may occupy; a kernel takes its own copies before it uses this memory for anything else.
 */
#define BOOT_GDT_GPA 0x6000
#define BOOT_GDT_BYTES 64
#define BOOT_ZERO_PAGE_GPA 0x7000
#define BOOT_START_INFO_GPA 0x8000 /* PVH: start_info, module list, memory map */
#define BOOT_PAGE_TABLES_GPA 0x9000 /* PML4, PDPT and four page directories: 24 KiB */
#define BOOT_CMDLINE_GPA 0x20000
#define BOOT_CMDLINE_MAX 0x10000
#define BOOT_MODULE_CMDLINES_GPA 0x30000 /* PVH */
#define BOOT_MODULES_MAX 64
#define BOOT_LOW_END 0x9fc00 /* where a PC's extended BIOS data area would begin */
#define BOOT_HIGH_BASE 0x100000

/* ---- errors (boot.c) ----------------------------------------------------- */

/* Notes the message for machine_boot's *ret_error (thread-local) and returns `error`. */
int boot_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *boot_error(void);

/* ---- files (file.c) ------------------------------------------------------ */

struct boot_file {
	const char *path; /* borrowed */
	const char *what; /* "kernel", "initrd", ... for messages */
	uint8_t *data;    /* NULL until boot_file_read */
	size_t size;
	int fd;
};

/* Opens a regular, non-empty file. 0, or boot_fail()'s error naming it. */
int boot_file_open(struct boot_file *ret_file, const char *what, const char *path);
/* Reads all of it into memory of our own (a file that shrinks meanwhile is an error, not a SIGBUS). */
int boot_file_read(struct boot_file *file);
/* Inflates it in place when it is a gzip file; `max` bytes are the most it may have then. After boot_file_read. */
int boot_file_unpack(struct boot_file *file, uint64_t max);
/* Reads all of it to `buf`, which holds at least file->size bytes. */
int boot_file_read_to(struct boot_file *file, void *buf);
void boot_file_close(struct boot_file *file);

/* ---- memory map (e820.c) ------------------------------------------------- */

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

struct e820_range {
	uint64_t gpa, bytes;
	uint32_t type; /* enum e820_type */
};

#define E820_MAX 16

struct e820_map {
	struct e820_range range[E820_MAX];
	unsigned count;
};

/* RAM below the PCI hole and above 4 GiB. */
struct boot_ram {
	uint64_t low_end;    /* end of RAM below 4 GiB */
	uint64_t high_bytes; /* RAM from 4 GiB on */
};
void boot_ram_layout(const struct machine *machine, struct boot_ram *ret_ram);

/*
 * The map for a direct boot: [acpi_gpa, ram->low_end) is handed over as ACPI tables, the BIOS area, ECAM and flash
 * are reserved. Ascending, without overlaps.
 */
void e820_direct(struct e820_map *ret_map, const struct boot_ram *ram, gpa_t acpi_gpa);
/* The map as a firmware wants it in fw_cfg's etc/e820: RAM only; it reserves what it takes. */
void e820_firmware(struct e820_map *ret_map, const struct boot_ram *ram);

/* ---- state at entry (entry.c) --------------------------------------------- */

/* 64-bit boot protocol: long mode, 4 GiB mapped one to one, rsi = zero page. Writes GDT and page tables. */
int entry_long_mode(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t zero_page);
/* 32-bit boot protocol: flat protected mode without paging, esi = zero page. Writes the GDT. */
int entry_boot32(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t zero_page);
/* PVH: flat protected mode without paging, ebx = start_info. */
int entry_pvh(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t start_info);
/* Multiboot: flat protected mode without paging, eax and ebx as it says. The GDT goes to `gdt`. */
int entry_multiboot(struct machine *machine, struct cpu_state *ret_bsp, gpa_t entry, gpa_t info, gpa_t gdt);
/* bios.c: real-mode vectors whose services all fail, and the data area with the size of base memory. Below 0x500. */
int bios_put(struct machine *machine);
/* Copies into guest RAM; `what` names the thing when there is no RAM there. */
int boot_put(struct machine *machine, gpa_t gpa, const void *bytes, uint64_t n, const char *what);

/* ---- pieces of a direct boot (direct.c) ------------------------------------ */

struct boot_direct {
	struct machine *machine;
	struct boot_ram ram;
	struct e820_map e820;
	gpa_t acpi_gpa; /* start of the tables; end of usable low RAM */
	gpa_t rsdp_gpa;
	uint64_t cmdline_bytes; /* without the terminating 0 */
	bool has_screen; /* in text mode, 80 by 25 */
};

/* ACPI and SMBIOS tables, memory map. */
int direct_begin(struct boot_direct *ret_direct, struct machine *machine);
/* The command line to BOOT_CMDLINE_GPA; `max` is what the kernel takes, without the terminating 0. */
int direct_cmdline(struct boot_direct *direct, const char *cmdline, uint64_t max);
/* A file (`what`: "initrd", "module") as high as possible in [kernel_end, limit), page-aligned. */
int direct_file(struct boot_direct *direct, const char *what, const char *path, gpa_t kernel_end, uint64_t limit,
		gpa_t *ret_gpa, uint64_t *ret_bytes);
/* boot_fail()'s -ENOSPC for a kernel that would end at `end`. */
int direct_too_large(const struct boot_direct *direct, const struct boot_file *kernel, gpa_t end);

/* ---- kernel formats -------------------------------------------------------- */

bool bzimage_is(const struct boot_file *kernel);
int bzimage_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
		 struct cpu_state *ret_bsp);
/* Replaces it by the ELF kernel within; closes it on an error. -ENOEXEC: packed in a way only the guest's own code knows. */
int bzimage_unpack(struct boot_file *kernel);
/* False too for a file with the magic number of a header that is no header: an image must be one by all its fields. */
bool multiboot_is(const struct boot_file *kernel);
int multiboot_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
		   struct cpu_state *ret_bsp);
int pvh_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
	     struct cpu_state *ret_bsp);
int firmware_boot(struct machine *machine, const struct machine_boot *boot, struct cpu_state *ret_bsp);

/* ---- ELF files (elf.c) ---------------------------------------------------------- */

#define ELF_SEGMENTS_MAX 64

struct elf_segment {
	uint64_t offset, filesz, memsz;
	gpa_t gpa;
};

/* The table of section headers as the file tells of it, unchecked. */
struct elf_sections {
	uint64_t offset;
	unsigned count, entry_bytes, names;
};

/* Class-neutral view of an ELF file. */
struct elf {
	bool wide; /* ELF64 */
	struct elf_segment load[ELF_SEGMENTS_MAX]; /* within the file, at least one; not checked against guest memory */
	unsigned loads;
	gpa_t start, end;
	uint64_t entry_va;
	gpa_t entry;     /* physical */
	gpa_t pvh_entry; /* of the PVH note */
	bool has_pvh_entry;
	struct elf_sections sections;
};

bool elf_is(const struct boot_file *kernel);
int elf_parse(const struct boot_file *kernel, struct elf *ret_elf);
/* Copies its segments; the caller has checked that they may lie where they want to. */
int elf_load(const struct boot_direct *direct, const struct boot_file *kernel, const struct elf *elf);

/* ---- compressed payloads (payload.c) ---------------------------------------- */

/* One LZ4 block of a legacy frame: it inflates to PAYLOAD_BLOCK bytes, the last one to what is left. */
#define PAYLOAD_BLOCK (8u << 20)
#define PAYLOAD_MAX_BLOCKS 64

struct payload {
	const uint8_t *block[PAYLOAD_MAX_BLOCKS];
	uint32_t packed[PAYLOAD_MAX_BLOCKS];
	unsigned blocks;
	uint64_t size; /* inflated */
};

/* False when it is not an LZ4 legacy frame with the kernel's size word behind it, or is damaged. `data` is borrowed. */
bool payload_parse(struct payload *ret_payload, const uint8_t *data, size_t n);
/* The first n bytes (at most one block). */
bool payload_head(const struct payload *payload, uint8_t *ret_buf, size_t n);
/* Everything to `buf` (payload->size bytes), on several threads where the host has several processors. */
bool payload_inflate(const struct payload *payload, uint8_t *ret_buf);

/* ---- the kernel inside a bzImage (vmlinux.c) --------------------------------- */

struct vmlinux_load {
	gpa_t entry;       /* physical */
	gpa_t start, end;  /* physical memory the kernel occupies */
	uint64_t kaslr;    /* bytes added to its virtual addresses */
	bool randomized;   /* relocations were applied */
};

struct vmlinux_request {
	const struct payload *payload;
	uint64_t init_bytes; /* the header's init_size: memory the kernel needs from its start on */
	uint64_t align;      /* the header's kernel_alignment */
	uint64_t ram_limit;  /* end of the RAM it may use */
	bool kaslr;          /* wanted */
};

/*
 * Unpacks an ELF64 kernel with relocations behind it to the physical addresses it asks for. 0; -ENOTSUP when this is
 * a form only the guest's own decompressor knows (nothing lost: call that); or another error through boot_fail().
 */
int vmlinux_load(struct machine *machine, const struct vmlinux_request *request, struct vmlinux_load *ret_load);

#endif
