/* Multiboot 1 kernels (the GNU Multiboot Specification, 0.6.96): ELF32, ELF64, or any image with address fields. */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH 8192u /* bytes of the image in which the header lies */
#define LOADER_NAME "trivisor"

/* The header's flags (3.1.2). Of the low half, which a loader must understand, these are all there are. */
#define WANTS_PAGE_ALIGNED_MODULES 0x1u /* which all are */
#define WANTS_MEMORY_INFO 0x2u /* which every kernel gets */
#define WANTS_VIDEO_MODE 0x4u
#define KNOWN_WANTS (WANTS_PAGE_ALIGNED_MODULES | WANTS_MEMORY_INFO | WANTS_VIDEO_MODE)
#define MUST_UNDERSTAND 0xffffu
#define HAS_ADDRESSES 0x10000u

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

/* The information's flags (3.3): which members count. */
#define INFO_MEMORY 0x1u
#define INFO_CMDLINE 0x4u
#define INFO_MODULES 0x8u
#define INFO_ELF_SECTIONS 0x20u
#define INFO_MEMORY_MAP 0x40u
#define INFO_LOADER_NAME 0x200u

struct info {
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB from 0, and from 1 MiB to the first hole */
	uint32_t boot_device;          /* not given: nothing here comes from a disk of the BIOS */
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t elf_num, elf_size, elf_addr, elf_shndx;
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
	uint32_t vbe[4]; /* 16 bytes of VBE's, and the framebuffer's: there is no display */
	uint8_t framebuffer[32];
};
_Static_assert(offsetof(struct info, boot_loader_name) == 64 && sizeof(struct info) == 120, "multiboot_info");

struct module {
	uint32_t start, end, string, reserved;
};

struct map_entry {
	uint32_t size; /* of what follows */
	uint64_t gpa, bytes;
	uint32_t type;
} __attribute__((packed));

#define MODULES_MAX (BOOT_MODULES_MAX + 1) /* and the initrd */

/* What a kernel is handed, one piece of memory: this, then section headers and strings. */
struct block {
	uint8_t gdt[BOOT_GDT_BYTES];
	struct info info;
	struct module module[MODULES_MAX];
	struct map_entry map[E820_MAX];
};

struct multiboot {
	struct boot_direct direct;
	const struct boot_file *kernel;
	struct header header;
	uint32_t header_at; /* in the file */
	bool is_elf;
	struct elf elf;
	gpa_t start, end, entry;
	gpa_t free; /* memory from here to direct.acpi_gpa is free: behind the kernel, then modules, then sections */
	struct machine_module modules[MODULES_MAX];
	struct module placed[MODULES_MAX];
	unsigned count;
	uint8_t *sections; /* our copy of the table, with addresses; NULL: none */
	size_t sections_bytes;
};

static bool find_header(const struct boot_file *kernel, struct header *ret_header, uint32_t *ret_at)
{
	size_t end = kernel->size < HEADER_SEARCH ? kernel->size : HEADER_SEARCH;

	for (uint32_t at = 0; at + 12 <= end; at += 4) {
		struct header header = {0};
		size_t n = end - at < sizeof(header) ? end - at : sizeof(header);

		memcpy(&header, kernel->data + at, n);
		if (header.magic != HEADER_MAGIC || header.magic + header.flags + header.checksum != 0)
			continue;
		if ((header.flags & HAS_ADDRESSES) && n < sizeof(header))
			continue;
		*ret_header = header;
		*ret_at = at;
		return true;
	}
	return false;
}

bool multiboot_is(const struct boot_file *kernel)
{
	struct header header;
	uint32_t at;

	return find_header(kernel, &header, &at);
}

/* ---- the kernel ---------------------------------------------------------------- */

static int check_wants(const struct multiboot *mb)
{
	uint32_t unknown = mb->header.flags & MUST_UNDERSTAND & ~KNOWN_WANTS;

	if (unknown)
		return boot_fail(-ENOTSUP, "kernel %s wants something of Multiboot that is not specified (flags %#x): it is damaged, "
				 "or made for one particular boot loader", mb->kernel->path, unknown);
	if (mb->header.flags & WANTS_VIDEO_MODE)
		return boot_fail(-ENOTSUP, "kernel %s wants a video mode set by its boot loader (Multiboot flag 2), and this machine has "
				 "no display: build it without, or start it through a firmware and GRUB", mb->kernel->path);
	return 0;
}

/* Whether a piece of the image may lie there: RAM that nothing else of the loader's is in. */
static int check_place(const struct multiboot *mb, gpa_t gpa, uint64_t bytes)
{
	gpa_t end = gpa + bytes;

	if (end <= BOOT_LOW_END || (gpa >= BOOT_HIGH_BASE && end <= mb->direct.acpi_gpa))
		return 0;
	if (gpa >= BOOT_HIGH_BASE)
		return direct_too_large(&mb->direct, mb->kernel, end);
	return boot_fail(-ENOEXEC, "kernel %s loads at %#llx to %#llx, where a PC has no memory for it: link it at 1 MiB or higher",
			 mb->kernel->path, (unsigned long long)gpa, (unsigned long long)end);
}

static int check_entry(const struct multiboot *mb)
{
	if (mb->entry >= mb->start && mb->entry < mb->end)
		return 0;
	return boot_fail(-ENOEXEC, "kernel %s has its entry %#llx outside what it loads: it is damaged", mb->kernel->path,
			 (unsigned long long)mb->entry);
}

static int load_elf(struct multiboot *mb)
{
	int rc = elf_parse(mb->kernel, &mb->elf);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; rc == 0 && i < mb->elf.loads; i++)
		rc = check_place(mb, mb->elf.load[i].gpa, mb->elf.load[i].memsz);
	if (rc < 0)
		return rc;
	mb->start = mb->elf.start;
	mb->end = mb->elf.end;
	mb->entry = mb->elf.entry;
	rc = check_entry(mb);
	return rc < 0 ? rc : elf_load(&mb->direct, mb->kernel, &mb->elf);
}

/* By the header's address fields (3.1.3), whatever the file is. */
static int load_addresses(struct multiboot *mb)
{
	const struct header *h = &mb->header;
	uint32_t before = h->header_addr - h->load_addr; /* of what is loaded, before the header */
	uint64_t bytes, memory;
	uint8_t *to;
	int rc;

	if (h->header_addr < h->load_addr || before > mb->header_at || (h->load_end_addr && h->load_end_addr < h->header_addr) ||
	    (h->bss_end_addr && (h->bss_end_addr < h->load_end_addr || h->bss_end_addr < h->header_addr)))
		return boot_fail(-ENOEXEC, "kernel %s has address fields in its Multiboot header that contradict each other: it is damaged",
				 mb->kernel->path);
	bytes = mb->kernel->size - (mb->header_at - before);
	if (h->load_end_addr && h->load_end_addr - h->load_addr > bytes)
		return boot_fail(-EINVAL, "kernel %s is truncated: its Multiboot header tells of %u bytes to load, the file has %llu; "
				 "copy it again", mb->kernel->path, h->load_end_addr - h->load_addr, (unsigned long long)bytes);
	if (h->load_end_addr)
		bytes = h->load_end_addr - h->load_addr;
	memory = bytes;
	if (h->bss_end_addr && h->bss_end_addr - h->load_addr > memory)
		memory = h->bss_end_addr - h->load_addr;
	rc = check_place(mb, h->load_addr, memory);
	if (rc < 0)
		return rc;
	mb->start = h->load_addr;
	mb->end = h->load_addr + memory;
	mb->entry = h->entry_addr;
	rc = check_entry(mb);
	if (rc < 0)
		return rc;
	to = machine_dma_map(mb->direct.machine, mb->start, memory);
	BUG_ON(!to);
	memcpy(to, mb->kernel->data + mb->header_at - before, bytes);
	memset(to + bytes, 0, memory - bytes);
	machine_dma_written(mb->direct.machine, mb->start, memory);
	return 0;
}

/* ---- modules, sections -------------------------------------------------------------- */

static gpa_t page_up(gpa_t gpa) { return (gpa + GUEST_PAGE_SIZE - 1) & GUEST_PAGE_MASK; }

/* Right behind the kernel, where such kernels (mapping little at first) expect them; page-aligned whether wanted or not. */
static int load_module(struct multiboot *mb, const struct machine_module *module, struct module *ret_placed)
{
	struct boot_file file;
	void *to = NULL;
	int rc;

	rc = boot_file_open(&file, "module", module->path);
	if (rc < 0)
		return rc;
	if (mb->free <= mb->direct.acpi_gpa && file.size <= mb->direct.acpi_gpa - mb->free)
		to = machine_dma_map(mb->direct.machine, mb->free, file.size);
	if (!to) {
		rc = boot_fail(-ENOSPC, "module %s (%zu KiB) does not fit between what is loaded before it, which ends at %llu KiB, and "
			       "the end of memory at %llu KiB: give the VM more memory", file.path, file.size >> 10,
			       (unsigned long long)(mb->free >> 10), (unsigned long long)(mb->direct.acpi_gpa >> 10));
		goto out;
	}
	rc = boot_file_read_to(&file, to);
	if (rc < 0)
		goto out;
	machine_dma_written(mb->direct.machine, mb->free, file.size);
	*ret_placed = (struct module){.start = (uint32_t)mb->free, .end = (uint32_t)(mb->free + file.size)};
	mb->free = page_up(mb->free + file.size);
out:
	boot_file_close(&file);
	return rc;
}

static int load_modules(struct multiboot *mb, const struct machine_boot *boot)
{
	int rc = 0;

	if (boot->initrd)
		mb->modules[mb->count++] = (struct machine_module){.path = boot->initrd};
	for (unsigned i = 0; i < boot->module_count; i++)
		mb->modules[mb->count++] = boot->modules[i];
	for (unsigned i = 0; rc == 0 && i < mb->count; i++)
		rc = load_module(mb, &mb->modules[i], &mb->placed[i]);
	return rc;
}

/* One section that is not part of the kernel's image (symbols, strings): to free memory. False: no room, or damaged. */
static bool load_section(struct multiboot *mb, uint64_t offset, uint64_t bytes)
{
	gpa_t at = (mb->free + 15) & ~15ull;

	if (offset > mb->kernel->size || bytes > mb->kernel->size - offset || at > mb->direct.acpi_gpa ||
	    bytes > mb->direct.acpi_gpa - at || !machine_dma_write(mb->direct.machine, at, mb->kernel->data + offset, bytes))
		return false;
	mb->free = at + bytes;
	return true;
}

/* What of a header counts here, whatever its class. */
static Elf64_Shdr section_header(const uint8_t *at, bool wide)
{
	Elf32_Shdr narrow;
	Elf64_Shdr header;

	if (wide) {
		memcpy(&header, at, sizeof(header));
		return header;
	}
	memcpy(&narrow, at, sizeof(narrow));
	return (Elf64_Shdr){.sh_type = narrow.sh_type, .sh_addr = narrow.sh_addr, .sh_offset = narrow.sh_offset,
			    .sh_size = narrow.sh_size};
}

static void set_section_address(uint8_t *at, bool wide, gpa_t gpa)
{
	if (wide)
		memcpy(at + offsetof(Elf64_Shdr, sh_addr), &gpa, sizeof(Elf64_Addr));
	else
		memcpy(at + offsetof(Elf32_Shdr, sh_addr), &gpa, sizeof(Elf32_Addr));
}

/*
 * The section headers (3.3, flag 5), for kernels that show symbols: all sections are in memory then. A table that is
 * damaged, or whose sections find no room, is not handed over: nothing else depends on it.
 */
static int load_sections(struct multiboot *mb)
{
	const struct elf_sections *s = &mb->elf.sections;
	const size_t entry = mb->elf.wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
	gpa_t free_before = mb->free;
	uint8_t *table;
	bool ok = true;

	if (!mb->is_elf || s->count == 0 || s->entry_bytes != entry || s->offset > mb->kernel->size ||
	    s->count * entry > mb->kernel->size - s->offset)
		return 0;
	table = malloc(s->count * entry);
	if (!table)
		return boot_fail(-ENOMEM, "no memory for the kernel's section headers");
	memcpy(table, mb->kernel->data + s->offset, s->count * entry);
	for (unsigned i = 0; ok && i < s->count; i++) {
		uint8_t *at = table + i * entry;
		Elf64_Shdr h = section_header(at, mb->elf.wide);

		if (h.sh_addr || !h.sh_size || h.sh_type == SHT_NOBITS)
			continue;
		ok = load_section(mb, h.sh_offset, h.sh_size);
		set_section_address(at, mb->elf.wide, mb->free - h.sh_size);
	}
	if (!ok) {
		mb->free = free_before;
		free(table);
		return 0;
	}
	mb->sections = table;
	mb->sections_bytes = s->count * entry;
	return 0;
}

/* ---- what it is handed ------------------------------------------------------------------ */

/* Below 1 MiB, where loaders put it, unless the kernel is there; then behind everything. */
static int place_block(const struct multiboot *mb, uint64_t bytes, gpa_t *ret_gpa)
{
	gpa_t behind = page_up(mb->free);

	if (mb->start >= BOOT_HIGH_BASE && bytes <= BOOT_LOW_END - BOOT_START_INFO_GPA) {
		*ret_gpa = BOOT_START_INFO_GPA;
		return 0;
	}
	if (behind > mb->direct.acpi_gpa || bytes > mb->direct.acpi_gpa - behind)
		return boot_fail(-ENOSPC, "no room for what kernel %s is told, behind its %llu KiB: give the VM more memory", mb->kernel->path,
				 (unsigned long long)(mb->free >> 10));
	*ret_gpa = behind;
	return 0;
}

static uint64_t string_bytes(const char *text) { return text ? strlen(text) + 1 : 1; }

/* Copies a string to the block's end; its address in guest memory. NULL is the empty one. */
static uint32_t add_string(uint8_t *bytes, uint64_t *at, gpa_t base, const char *text)
{
	uint64_t start = *at;

	memcpy(bytes + start, text ? text : "", string_bytes(text));
	*at += string_bytes(text);
	return (uint32_t)(base + start);
}

static void describe_memory(const struct boot_direct *direct, struct block *block, gpa_t base)
{
	struct info *info = &block->info;

	info->flags |= INFO_MEMORY | INFO_MEMORY_MAP;
	info->mem_lower = BOOT_LOW_END >> 10;
	info->mem_upper = (uint32_t)((direct->acpi_gpa - BOOT_HIGH_BASE) >> 10);
	for (unsigned i = 0; i < direct->e820.count; i++)
		block->map[i] = (struct map_entry){.size = sizeof(struct map_entry) - sizeof(uint32_t), .gpa = direct->e820.range[i].gpa,
						   .bytes = direct->e820.range[i].bytes, .type = direct->e820.range[i].type};
	info->mmap_addr = (uint32_t)(base + offsetof(struct block, map));
	info->mmap_length = (uint32_t)(direct->e820.count * sizeof(struct map_entry));
}

static int put_block(const struct multiboot *mb, const char *cmdline, gpa_t *ret_base)
{
	uint64_t bytes = sizeof(struct block) + mb->sections_bytes + string_bytes(cmdline) + sizeof(LOADER_NAME);
	uint64_t at = sizeof(struct block);
	struct block *block;
	gpa_t base = 0;
	int rc;

	for (unsigned i = 0; i < mb->count; i++)
		bytes += string_bytes(mb->modules[i].cmdline);
	rc = place_block(mb, bytes, &base);
	if (rc < 0)
		return rc;
	block = calloc(1, bytes);
	if (!block)
		return boot_fail(-ENOMEM, "no memory for what the kernel is told");
	describe_memory(&mb->direct, block, base);
	if (mb->sections) {
		memcpy((uint8_t *)block + at, mb->sections, mb->sections_bytes);
		block->info.flags |= INFO_ELF_SECTIONS;
		block->info.elf_num = mb->elf.sections.count;
		block->info.elf_size = mb->elf.sections.entry_bytes;
		block->info.elf_addr = (uint32_t)(base + at);
		block->info.elf_shndx = mb->elf.sections.names;
		at += mb->sections_bytes;
	}
	/* The texts as they were given: whether a kernel's own name comes first is between it and its user. */
	block->info.flags |= INFO_CMDLINE | INFO_LOADER_NAME;
	block->info.cmdline = add_string((uint8_t *)block, &at, base, cmdline);
	block->info.boot_loader_name = add_string((uint8_t *)block, &at, base, LOADER_NAME);
	/* No modules are 0 modules. */
	block->info.flags |= INFO_MODULES;
	block->info.mods_count = mb->count;
	block->info.mods_addr = (uint32_t)(base + offsetof(struct block, module));
	for (unsigned i = 0; i < mb->count; i++) {
		block->module[i] = mb->placed[i];
		block->module[i].string = add_string((uint8_t *)block, &at, base, mb->modules[i].cmdline);
	}
	rc = boot_put(mb->direct.machine, base, block, bytes, "boot information");
	free(block);
	*ret_base = base;
	return rc;
}

int multiboot_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
		   struct cpu_state *ret_bsp)
{
	struct multiboot mb = {.kernel = kernel};
	gpa_t base = 0;
	int rc;

	BUG_ON(!find_header(kernel, &mb.header, &mb.header_at));
	rc = check_wants(&mb);
	if (rc == 0)
		rc = direct_begin(&mb.direct, machine);
	/* Some (Xen) go back to real mode and ask. First, so that a kernel may lie there. */
	if (rc == 0)
		rc = bios_put(machine);
	if (rc < 0)
		return rc;
	mb.is_elf = !(mb.header.flags & HAS_ADDRESSES);
	if (mb.is_elf && !elf_is(kernel))
		return boot_fail(-ENOEXEC, "kernel %s has a Multiboot header without address fields and is no ELF file: it does not say where "
				 "to load it", kernel->path);
	rc = mb.is_elf ? load_elf(&mb) : load_addresses(&mb);
	if (rc < 0)
		return rc;
	mb.free = page_up(mb.end > BOOT_HIGH_BASE ? mb.end : BOOT_HIGH_BASE);
	rc = load_modules(&mb, boot);
	if (rc == 0)
		rc = load_sections(&mb);
	if (rc == 0)
		rc = put_block(&mb, boot->cmdline, &base);
	free(mb.sections);
	if (rc < 0)
		return rc;
	return entry_multiboot(machine, ret_bsp, mb.entry, base + offsetof(struct block, info), base + offsetof(struct block, gdt));
}
