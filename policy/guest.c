/* What a guest's image is, and which ways of entering it offers. */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* xen/include/public/elfnote.h, an ABI. */
#define XEN_ELFNOTE_ENTRY 1
#define XEN_ELFNOTE_HYPERCALL_PAGE 2
#define XEN_ELFNOTE_GUEST_OS 6
#define XEN_ELFNOTE_FEATURES 10
#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define NOTES_MAX (64u << 10)
#define SECTIONS_MAX 4096
#define SEGMENTS_MAX 256
#define UNPACKED_MAX (128u << 20)

static void set_problem(struct policy_guest *guest, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void set_problem(struct policy_guest *guest, const char *format, ...)
{
	va_list args;

	if (guest->problem[0])
		return;
	va_start(args, format);
	vsnprintf(guest->problem, sizeof(guest->problem), format, args);
	va_end(args);
}

/* A regular file, opened without ever waiting (a FIFO would). -1 and guest->problem when it is not usable. */
static int open_image(struct policy_guest *guest, const char *what, const char *path, struct stat *ret_stat)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0) {
		set_problem(guest, "%s %s: %s", what, path, strerror(errno));
		return -1;
	}
	if (fstat(fd, ret_stat) < 0 || !S_ISREG(ret_stat->st_mode)) {
		set_problem(guest, "%s %s: is %s; name a regular file", what, path,
			    S_ISDIR(ret_stat->st_mode) ? "a directory" : "no regular file");
		close(fd);
		return -1;
	}
	if (ret_stat->st_size == 0) {
		set_problem(guest, "%s %s: is empty", what, path);
		close(fd);
		return -1;
	}
	return fd;
}

static bool read_at(int fd, void *to, size_t n, uint64_t offset)
{
	return offset <= INT64_MAX && pread(fd, to, n, (off_t)offset) == (ssize_t)n;
}

/* ---- bzImage: Documentation/arch/x86/boot.rst ----------------------------------------- */

static bool inspect_bzimage(struct policy_guest *guest, const char *path, int fd, const struct stat *st)
{
	uint8_t header[0x268];
	uint32_t setup_sects, syssize;
	uint16_t version_at;

	if (!read_at(fd, header, sizeof(header), 0) || memcmp(header + 0x202, "HdrS", 4))
		return false;
	guest->image = POLICY_IMAGE_BZIMAGE;
	guest->boot_protocol = (unsigned)header[0x206] | (unsigned)header[0x207] << 8;
	guest->bits = guest->boot_protocol >= 0x020c && header[0x236] & 1 ? 64 : 32; /* xloadflags: XLF_KERNEL_64 */
	guest->xen_pv = POLICY_UNKNOWN;
	setup_sects = header[0x1f1] ? header[0x1f1] : 4;
	memcpy(&syssize, header + 0x1f4, 4);
	if ((uint64_t)st->st_size < (uint64_t)(setup_sects + 1) * 512 + (uint64_t)syssize * 16)
		set_problem(guest, "kernel %s: is truncated: %lld bytes, but its header announces %llu; copy it again",
			    path, (long long)st->st_size,
			    (unsigned long long)(setup_sects + 1) * 512 + (uint64_t)syssize * 16);
	memcpy(&version_at, header + 0x20e, 2);
	if (version_at) {
		char text[sizeof(guest->kernel_version)] = "";

		if (pread(fd, text, sizeof(text) - 1, version_at + 0x200) > 0)
			snprintf(guest->kernel_version, sizeof(guest->kernel_version), "%.*s",
				 (int)strcspn(text, " \n"), text);
	}
	return true;
}

/* ---- ELF ---------------------------------------------------------------------------------- */

/* A note's text, up to its NUL if it has one, without what no terminal shall see. */
static void note_text(const uint8_t *desc, uint32_t size, char *to, size_t to_size)
{
	size_t n = 0;

	for (; n < size && n + 1 < to_size && desc[n]; n++)
		to[n] = desc[n] >= ' ' && desc[n] <= '~' ? (char)desc[n] : '?';
	to[n] = '\0';
}

/* Notes of owner "Xen" in one PT_NOTE segment or SHT_NOTE section. */
static void scan_notes(struct policy_guest *guest, int fd, uint64_t offset, uint64_t size)
{
	uint8_t *notes;
	uint64_t at = 0;

	if (size < sizeof(Elf64_Nhdr) || size > NOTES_MAX)
		return;
	notes = malloc(size);
	if (!notes || !read_at(fd, notes, size, offset)) {
		free(notes);
		return;
	}
	while (at + sizeof(Elf64_Nhdr) <= size) {
		Elf64_Nhdr note;
		uint64_t name = at + sizeof(note), next;

		memcpy(&note, notes + at, sizeof(note));
		next = name + (((uint64_t)note.n_namesz + 3) & ~3ull) + (((uint64_t)note.n_descsz + 3) & ~3ull);
		if (next > size)
			break;
		if (note.n_namesz == 4 && !memcmp(notes + name, "Xen", 4)) {
			if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY)
				guest->pvh = POLICY_YES;
			if (note.n_type == XEN_ELFNOTE_ENTRY || note.n_type == XEN_ELFNOTE_HYPERCALL_PAGE)
				guest->xen_pv = POLICY_YES;
			if (note.n_type == XEN_ELFNOTE_GUEST_OS)
				note_text(notes + name + 4, note.n_descsz, guest->xen_os, sizeof(guest->xen_os));
			if (note.n_type == XEN_ELFNOTE_FEATURES)
				note_text(notes + name + 4, note.n_descsz, guest->xen_features, sizeof(guest->xen_features));
		}
		at = next;
	}
	free(notes);
}

/* Older Xen guests say what they are in a section's name. */
static void scan_sections64(struct policy_guest *guest, int fd, const Elf64_Ehdr *ehdr)
{
	Elf64_Shdr names, section;
	char name[16];

	if (!ehdr->e_shoff || ehdr->e_shentsize != sizeof(section) || ehdr->e_shnum > SECTIONS_MAX ||
	    !read_at(fd, &names, sizeof(names), ehdr->e_shoff + (uint64_t)ehdr->e_shstrndx * sizeof(section)))
		return;
	for (unsigned i = 0; i < ehdr->e_shnum; i++) {
		if (!read_at(fd, &section, sizeof(section), ehdr->e_shoff + (uint64_t)i * sizeof(section)))
			return;
		memset(name, 0, sizeof(name));
		if (names.sh_offset <= INT64_MAX - UINT32_MAX &&
		    pread(fd, name, sizeof(name) - 1, (off_t)(names.sh_offset + section.sh_name)) > 0 &&
		    !strcmp(name, "__xen_guest"))
			guest->xen_pv = POLICY_YES;
	}
}

static bool inspect_elf(struct policy_guest *guest, const char *path, int fd)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf32_Ehdr e32;
		Elf64_Ehdr e64;
	} header;

	memset(&header, 0, sizeof(header));
	if (!read_at(fd, header.ident, sizeof(header.ident), 0) || memcmp(header.ident, ELFMAG, SELFMAG))
		return false;
	guest->image = POLICY_IMAGE_ELF;
	guest->xen_pv = POLICY_NO;
	guest->bits = header.ident[EI_CLASS] == ELFCLASS64 ? 64 : 32;
	if (guest->bits == 64 && read_at(fd, &header.e64, sizeof(header.e64), 0)) {
		for (unsigned i = 0; i < header.e64.e_phnum && i < SEGMENTS_MAX; i++) {
			Elf64_Phdr p;

			if (!read_at(fd, &p, sizeof(p), header.e64.e_phoff + (uint64_t)i * sizeof(p)))
				break;
			if (p.p_type == PT_NOTE)
				scan_notes(guest, fd, p.p_offset, p.p_filesz);
		}
		scan_sections64(guest, fd, &header.e64);
	} else if (guest->bits == 32 && read_at(fd, &header.e32, sizeof(header.e32), 0)) {
		for (unsigned i = 0; i < header.e32.e_phnum && i < SEGMENTS_MAX; i++) {
			Elf32_Phdr p;

			if (!read_at(fd, &p, sizeof(p), header.e32.e_phoff + (uint64_t)i * sizeof(p)))
				break;
			if (p.p_type == PT_NOTE)
				scan_notes(guest, fd, p.p_offset, p.p_filesz);
		}
	} else {
		set_problem(guest, "kernel %s: is a truncated ELF file", path);
	}
	return true;
}

/* ---- Multiboot 1: a header in the first 8 KiB of any image --------------------------------- */

#define HEAD_BYTES 8192u

static bool has_multiboot_header(const uint8_t *head, size_t n)
{
	for (size_t at = 0; at + 12 <= n; at += 4) {
		uint32_t word[3];

		memcpy(word, head + at, sizeof(word));
		if (word[0] == 0x1badb002 && word[0] + word[1] + word[2] == 0)
			return true;
	}
	return false;
}

/* The first bytes of an image; of what is inside, when it is a gzip file. How many there are. */
static size_t read_head(int fd, uint8_t head[HEAD_BYTES], bool *ret_packed)
{
	uint8_t packed[HEAD_BYTES];
	ssize_t n = pread(fd, packed, sizeof(packed), 0);
	z_stream z = {.next_in = packed, .next_out = head, .avail_out = HEAD_BYTES};

	*ret_packed = n >= 2 && packed[0] == 0x1f && packed[1] == 0x8b;
	if (!*ret_packed) {
		memcpy(head, packed, n > 0 ? (size_t)n : 0);
		return n > 0 ? (size_t)n : 0;
	}
	z.avail_in = (uInt)n;
	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return 0;
	/* Input that ends too early is expected; damage shows when the kernel is loaded. */
	inflate(&z, Z_SYNC_FLUSH);
	inflateEnd(&z);
	return z.total_out;
}

/* What a gzip file holds, in memory as a file; -1: too large, damaged, or no memory. The loader says what is wrong with it. */
static int unpack(int fd)
{
	uint8_t in[16384], out[65536];
	z_stream z = {0};
	int to = memfd_create("trivisor-kernel", MFD_CLOEXEC), r = Z_OK;
	off_t at = 0;

	if (to < 0 || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		goto fail;
	while (r == Z_OK && z.total_out < UNPACKED_MAX) {
		if (!z.avail_in) {
			ssize_t n = pread(fd, in, sizeof(in), at);

			if (n <= 0)
				break;
			at += n;
			z.next_in = in;
			z.avail_in = (uInt)n;
		}
		z.next_out = out;
		z.avail_out = sizeof(out);
		r = inflate(&z, Z_NO_FLUSH);
		if (write(to, out, sizeof(out) - z.avail_out) != (ssize_t)(sizeof(out) - z.avail_out))
			r = Z_MEM_ERROR;
	}
	inflateEnd(&z);
	if (r == Z_STREAM_END)
		return to;
fail:
	if (to >= 0)
		close(to);
	return -1;
}

/* ---- the definition -------------------------------------------------------------------------- */

static void inspect_kernel(struct policy_guest *guest, const char *path)
{
	uint8_t head[HEAD_BYTES];
	struct stat st;
	bool packed, multiboot;
	int fd = open_image(guest, "kernel", path, &st);
	size_t n;

	if (fd < 0)
		return;
	guest->image = POLICY_IMAGE_UNKNOWN;
	n = read_head(fd, head, &packed);
	multiboot = has_multiboot_header(head, n);
	if (packed && n > EI_CLASS && !memcmp(head, ELFMAG, SELFMAG)) {
		int whole = unpack(fd);

		guest->image = POLICY_IMAGE_ELF;
		guest->bits = head[EI_CLASS] == ELFCLASS64 ? 64 : 32;
		guest->pvh = guest->xen_pv = POLICY_UNKNOWN;
		if (whole >= 0) {
			guest->pvh = POLICY_NO;
			inspect_elf(guest, path, whole);
			close(whole);
		}
	} else if (inspect_bzimage(guest, path, fd, &st)) {
		multiboot = false; /* boot_kernel() looks in this order */
	} else if (!inspect_elf(guest, path, fd) && !multiboot) {
		set_problem(guest, "kernel %s: neither a bzImage nor an ELF file, nor a Multiboot kernel", path);
	}
	if (multiboot) {
		guest->image = POLICY_IMAGE_MULTIBOOT;
		guest->bits = 32;
	} else if (guest->image == POLICY_IMAGE_ELF && guest->pvh == POLICY_NO && guest->xen_pv == POLICY_NO) {
		set_problem(guest,
			    "kernel %s: an ELF file with neither a PVH entry note nor a Multiboot header; use a bzImage, or a "
			    "kernel built with CONFIG_PVH",
			    path);
	}
	close(fd);
}

static void check_file(struct policy_guest *guest, const char *what, const char *path)
{
	struct stat st;
	int fd = open_image(guest, what, path, &st);

	if (fd >= 0)
		close(fd);
}

void policy_guest_inspect(const struct vmdef *def, struct policy_guest *ret_guest)
{
	memset(ret_guest, 0, sizeof(*ret_guest));
	ret_guest->xen_pv = POLICY_NO;
	if (def->boot.kernel) {
		inspect_kernel(ret_guest, def->boot.kernel);
		if (def->boot.initrd)
			check_file(ret_guest, "initrd", def->boot.initrd);
		for (unsigned i = 0; i < def->boot.module_count; i++)
			check_file(ret_guest, "module", def->boot.modules[i].path);
		if (ret_guest->image == POLICY_IMAGE_BZIMAGE && def->boot.module_count)
			set_problem(ret_guest, "kernel %s: a Linux bzImage takes no modules; give it one initrd",
				    def->boot.kernel);
	} else if (def->boot.firmware) {
		ret_guest->image = POLICY_IMAGE_FIRMWARE;
		ret_guest->bits = 16;
	}
	if (def->boot.firmware)
		check_file(ret_guest, "firmware", def->boot.firmware);
	if (def->boot.nvram.path && access(def->boot.nvram.path, F_OK) == 0)
		check_file(ret_guest, "nvram", def->boot.nvram.path);
	else if (def->boot.nvram.template)
		check_file(ret_guest, "nvram template", def->boot.nvram.template);
	else if (def->boot.nvram.path)
		set_problem(ret_guest, "nvram %s: does not exist; name what to make it from with boot.nvram.template",
			    def->boot.nvram.path);
}

static json_object *learned_json(const struct policy_guest *guest)
{
	json_object *object = json_object_new_object();

	json_object_object_add(object, "runs", json_object_new_int64(guest->runs));
	json_object_object_add(object, "ended_in_bits", guest->ran_in_bits ? json_object_new_int64(guest->ran_in_bits) : NULL);
	json_object_object_add(object, "reached_user_space", json_object_new_boolean(guest->ran_to_user_space));
	return object;
}

json_object *policy_guest_json(const struct policy_guest *guest)
{
	static const char *const images[] = {
		[POLICY_IMAGE_NONE] = "none",         [POLICY_IMAGE_BZIMAGE] = "bzImage", [POLICY_IMAGE_ELF] = "ELF",
		[POLICY_IMAGE_FIRMWARE] = "firmware", [POLICY_IMAGE_UNKNOWN] = "unknown", [POLICY_IMAGE_MULTIBOOT] = "Multiboot",
	};
	json_object *object = json_object_new_object();

	json_object_object_add(object, "image", json_object_new_string(images[guest->image]));
	if (guest->bits)
		json_object_object_add(object, "entered_in_bits", json_object_new_int64(guest->bits));
	if (guest->image == POLICY_IMAGE_BZIMAGE) {
		char version[16];

		snprintf(version, sizeof(version), "%u.%02u", guest->boot_protocol >> 8, guest->boot_protocol & 255);
		json_object_object_add(object, "boot_protocol", json_object_new_string(version));
		json_object_object_add(object, "kernel_version", json_object_new_string(guest->kernel_version));
	}
	if (guest->image == POLICY_IMAGE_ELF)
		json_object_object_add(object, "pvh_entry",
				       guest->pvh == POLICY_UNKNOWN ? NULL : json_object_new_boolean(guest->pvh == POLICY_YES));
	json_object_object_add(object, "xen_pv_entry",
			       guest->xen_pv == POLICY_UNKNOWN ? NULL
							       : json_object_new_boolean(guest->xen_pv == POLICY_YES));
	if (guest->xen_os[0])
		json_object_object_add(object, "xen_guest_os", json_object_new_string(guest->xen_os));
	if (guest->xen_features[0])
		json_object_object_add(object, "xen_features", json_object_new_string(guest->xen_features));
	if (guest->image == POLICY_IMAGE_FIRMWARE)
		json_object_object_add(object, "learned", guest->runs ? learned_json(guest) : NULL);
	if (guest->problem[0])
		json_object_object_add(object, "problem", json_object_new_string(guest->problem));
	return object;
}
