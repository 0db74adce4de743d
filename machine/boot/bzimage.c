/* Linux bzImages (Documentation/arch/x86/boot.rst): unpacked here where the format is known, else by themselves. */
#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"
#include "machine/devices/vga.h"

#define SETUP_HEADER_AT 0x1f1
#define SECTOR 512u
#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define VERSION_CMDLINE_SIZE 0x206
#define VERSION_PAYLOAD 0x208
#define VERSION_64BIT 0x20c
#define LOADER_TYPE_UNDEFINED 0xff
#define ENTRY_64 0x200 /* of the 64-bit entry, from the start of the protected-mode code */

struct bzimage {
	struct setup_header header; /* our copy, all zeros beyond what the file has */
	uint32_t header_bytes;
	const uint8_t *code; /* protected-mode part */
	size_t code_bytes;
};

_Static_assert(sizeof(struct boot_params) == 4096, "the zero page is a page");
_Static_assert(offsetof(struct boot_params, hdr) == SETUP_HEADER_AT, "setup header");

bool bzimage_is(const struct boot_file *kernel)
{
	uint32_t magic;

	if (kernel->size < 0x206)
		return false;
	memcpy(&magic, kernel->data + 0x202, sizeof(magic));
	return magic == HEADER_MAGIC;
}

/* Where the header of a protocol version ends in the file; what follows there is the set-up code's own. */
static size_t version_end(uint16_t version)
{
	static const struct {
		uint16_t version, end;
	} ends[] = {{0x206, 0x23c}, {0x207, 0x248}, {0x208, 0x250}, {0x209, 0x258}, {0x20a, 0x264}, {0x20b, 0x268}};

	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		if (version <= ends[i].version)
			return ends[i].end;
	}
	return SETUP_HEADER_AT + sizeof(struct setup_header);
}

static int parse(const struct boot_file *kernel, struct bzimage *ret_image)
{
	struct bzimage image = {0};
	const uint8_t *data = kernel->data;
	size_t setup_bytes, header_end;
	uint16_t version;

	/* The header ends where the jump at 0x200 goes to. */
	header_end = kernel->size > 0x202 ? 0x202u + data[0x201] : 0;
	if (header_end > SETUP_HEADER_AT + sizeof(image.header))
		header_end = SETUP_HEADER_AT + sizeof(image.header);
	if (header_end > kernel->size || header_end < 0x230)
		return boot_fail(-EINVAL, "kernel %s is truncated in its setup header: copy it again", kernel->path);
	memcpy(&version, data + 0x206, sizeof(version));
	if (header_end > version_end(version))
		header_end = version_end(version);
	image.header_bytes = (uint32_t)(header_end - SETUP_HEADER_AT);
	memcpy(&image.header, data + SETUP_HEADER_AT, image.header_bytes);
	if (image.header.version < VERSION_CMDLINE_SIZE || !(image.header.loadflags & LOADED_HIGH))
		return boot_fail(-ENOEXEC,
				 "kernel %s speaks boot protocol %u.%02u, older than 2.06 or a zImage: use Linux 2.6.22 or later",
				 kernel->path, image.header.version >> 8, image.header.version & 0xff);
	setup_bytes = ((image.header.setup_sects ? image.header.setup_sects : 4) + 1u) * SECTOR;
	if (setup_bytes >= kernel->size)
		return boot_fail(-EINVAL, "kernel %s is truncated: it has %zu bytes, its setup code alone %zu; copy it again",
				 kernel->path, kernel->size, setup_bytes);
	image.code = data + setup_bytes;
	image.code_bytes = kernel->size - setup_bytes;
	/* syssize is what must be there; a signature may follow. */
	if ((uint64_t)image.header.syssize * 16 > image.code_bytes + 15)
		return boot_fail(-EINVAL, "kernel %s is truncated: its header tells of %llu bytes, the file has %zu; copy it again",
				 kernel->path, (unsigned long long)image.header.syssize * 16 + setup_bytes, kernel->size);
	*ret_image = image;
	return 0;
}

/* ---- zero page -------------------------------------------------------------- */

static int put_zero_page(const struct boot_direct *direct, const struct bzimage *image, bool kaslr, uint32_t code32,
			 gpa_t initrd_gpa, uint64_t initrd_bytes)
{
	struct boot_params zero_page = {0};

	memcpy(&zero_page.hdr, &image->header, sizeof(zero_page.hdr));
	zero_page.hdr.type_of_loader = LOADER_TYPE_UNDEFINED;
	zero_page.hdr.loadflags &= (uint8_t)~(KASLR_FLAG | CAN_USE_HEAP);
	if (kaslr)
		zero_page.hdr.loadflags |= KASLR_FLAG;
	zero_page.hdr.cmd_line_ptr = BOOT_CMDLINE_GPA;
	zero_page.hdr.ramdisk_image = (uint32_t)initrd_gpa;
	zero_page.hdr.ramdisk_size = (uint32_t)initrd_bytes;
	zero_page.hdr.setup_data = 0;
	zero_page.hdr.vid_mode = 0xffff; /* normal */
	zero_page.hdr.code32_start = code32;
	zero_page.acpi_rsdp_addr = direct->rsdp_gpa;
	if (direct->has_screen)
		zero_page.screen_info = (struct screen_info){
			.orig_video_mode = 3, .orig_video_cols = 80, .orig_video_lines = 25, .orig_video_isVGA = VIDEO_TYPE_VGAC,
			.orig_video_points = 16 };
	/* What a BIOS would have told of memory, for code that looks there and not in e820. */
	zero_page.alt_mem_k = (uint32_t)((direct->acpi_gpa - BOOT_HIGH_BASE) >> 10);
	for (unsigned i = 0; i < direct->e820.count; i++) {
		zero_page.e820_table[i].addr = direct->e820.range[i].gpa;
		zero_page.e820_table[i].size = direct->e820.range[i].bytes;
		zero_page.e820_table[i].type = direct->e820.range[i].type;
	}
	zero_page.e820_entries = (uint8_t)direct->e820.count;
	return boot_put(direct->machine, BOOT_ZERO_PAGE_GPA, &zero_page, sizeof(zero_page), "zero page");
}

/* A word of its own on the command line. */
static bool has_word(const char *cmdline, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = cmdline; p && (p = strstr(p, word)) != NULL; p += n) {
		if ((p == cmdline || p[-1] == ' ') && (p[n] == '\0' || p[n] == ' '))
			return true;
	}
	return false;
}

/* ---- loading ------------------------------------------------------------------ */

/* The packed kernel in the image, if it is packed in the way that is known here. */
static bool find_payload(const struct bzimage *image, struct payload *ret_payload)
{
	const struct setup_header *h = &image->header;

	return h->version >= VERSION_PAYLOAD && h->payload_offset <= image->code_bytes &&
	       h->payload_length <= image->code_bytes - h->payload_offset &&
	       payload_parse(ret_payload, image->code + h->payload_offset, h->payload_length);
}

int bzimage_unpack(struct boot_file *kernel)
{
	struct payload payload;
	struct bzimage image;
	uint8_t *data = NULL;
	int rc = parse(kernel, &image);

	if (!rc && !find_payload(&image, &payload))
		rc = boot_fail(-ENOEXEC, "kernel %s is a bzImage that is not packed with LZ4, as Debian's are: unpack it, and give the VM "
					 "the vmlinux within", kernel->path);
	if (!rc && (data = malloc(payload.size)) == NULL)
		rc = boot_fail(-ENOMEM, "kernel %s: no memory to unpack it", kernel->path);
	if (!rc && !payload_inflate(&payload, data))
		rc = boot_fail(-EINVAL, "kernel %s is damaged: its payload cannot be unpacked; copy it again", kernel->path);
	if (rc) {
		free(data);
		boot_file_close(kernel);
		return rc;
	}
	free(kernel->data);
	kernel->data = data;
	kernel->size = payload.size;
	return 0;
}

static int load_native(struct boot_direct *direct, const struct bzimage *image, const char *cmdline,
		       struct vmlinux_load *ret_load)
{
	const struct setup_header *h = &image->header;
	struct payload payload;
	struct vmlinux_request request = {
		.payload = &payload,
		.init_bytes = h->init_size,
		.align = h->kernel_alignment,
		.ram_limit = direct->acpi_gpa,
		.kaslr = !has_word(cmdline, "nokaslr"),
	};

	/* XLF_KERNEL_64 also says that the kernel inside is a 64-bit one. */
	if (h->version < VERSION_64BIT || !(h->xloadflags & XLF_KERNEL_64))
		return -ENOTSUP;
	if (!find_payload(image, &payload))
		return -ENOTSUP;
	return vmlinux_load(direct->machine, &request, ret_load);
}

/* Copies the compressed kernel as it is; it unpacks itself to its preferred address. */
static int load_packed(struct boot_direct *direct, const struct boot_file *kernel, const struct bzimage *image,
		       struct vmlinux_load *ret_load)
{
	const struct setup_header *h = &image->header;
	uint64_t at = h->code32_start, end = at + image->code_bytes, run = at, init = h->init_size;
	int rc;

	/* Such as iPXE's: an image of another kind that only pretends to be a kernel, by its set-up code. */
	if (at < BOOT_HIGH_BASE)
		return boot_fail(-ENOEXEC,
				 "kernel %s can only be started from real mode (its 32-bit entry is %#llx): give the VM a firmware, too, "
				 "such as SeaBIOS, which does that",
				 kernel->path, (unsigned long long)at);
	if (h->version >= 0x20a && h->relocatable_kernel && h->pref_address > run)
		run = h->pref_address;
	if (run + init > end)
		end = run + init;
	if (end > direct->acpi_gpa)
		return direct_too_large(direct, kernel, end);
	rc = boot_put(direct->machine, at, image->code, image->code_bytes, "kernel");
	if (rc < 0)
		return rc;
	*ret_load = (struct vmlinux_load){.entry = at, .start = at, .end = end};
	return 0;
}

int bzimage_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
		 struct cpu_state *ret_bsp)
{
	struct boot_direct direct;
	struct vmlinux_load load = {0};
	struct bzimage image = {0};
	uint64_t initrd_limit, initrd_bytes = 0;
	gpa_t initrd_gpa = 0;
	bool native;
	int rc;

	if (boot->module_count)
		return boot_fail(-EINVAL, "kernel %s is a Linux bzImage, which takes no modules: give it one initrd, or use a Multiboot "
				 "kernel", kernel->path);
	rc = parse(kernel, &image);
	if (rc < 0)
		return rc;
	rc = direct_begin(&direct, machine);
	if (rc < 0)
		return rc;
	rc = direct_cmdline(&direct, boot->cmdline, image.header.cmdline_size);
	if (rc < 0)
		return rc;
	rc = load_native(&direct, &image, boot->cmdline, &load);
	native = rc == 0;
	if (rc == -ENOTSUP)
		rc = load_packed(&direct, kernel, &image, &load);
	if (rc < 0)
		return rc;
	initrd_limit = image.header.initrd_addr_max ? (uint64_t)image.header.initrd_addr_max + 1 : 0x38000000;
	if (boot->initrd)
		rc = direct_file(&direct, "initrd", boot->initrd, load.end, initrd_limit, &initrd_gpa, &initrd_bytes);
	if (rc < 0)
		return rc;
	rc = put_zero_page(&direct, &image, load.randomized, (uint32_t)load.entry, initrd_gpa, initrd_bytes);
	if (rc < 0)
		return rc;
	if (native)
		return entry_long_mode(machine, ret_bsp, load.entry, BOOT_ZERO_PAGE_GPA);
	if (image.header.version >= VERSION_64BIT && (image.header.xloadflags & XLF_KERNEL_64))
		return entry_long_mode(machine, ret_bsp, load.entry + ENTRY_64, BOOT_ZERO_PAGE_GPA);
	return entry_boot32(machine, ret_bsp, load.entry, BOOT_ZERO_PAGE_GPA);
}
