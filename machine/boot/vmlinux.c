/* The ELF kernel inside a bzImage: placed where it wants to be, and relocated for KASLR as its own decompressor would. */
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "machine/boot/private.h"

#define KERNEL_MAP_BASE 0xffffffff80000000ull /* __START_KERNEL_map */
#define KERNEL_IMAGE_BYTES 0x40000000ull      /* KERNEL_IMAGE_SIZE of kernels built with CONFIG_RANDOMIZE_BASE */
#define MAX_SEGMENTS 16

struct segment {
	uint64_t offset, filesz, memsz;
	gpa_t gpa;
	gva_t gva;
};

struct image {
	uint64_t size; /* of the file, relocations included */
	uint64_t elf_end; /* where the relocations begin */
	gpa_t entry, start, end;
	struct segment segment[MAX_SEGMENTS]; /* ascending offsets */
	unsigned segments;
};

/* ---- headers ------------------------------------------------------------- */

static bool range_ok(uint64_t at, uint64_t n, uint64_t size) { return at <= size && n <= size - at; }

static bool add_segment(struct image *image, const Elf64_Phdr *ph)
{
	struct segment seg = {.offset = ph->p_offset, .filesz = ph->p_filesz, .memsz = ph->p_memsz, .gpa = ph->p_paddr,
			      .gva = ph->p_vaddr};

	if (ph->p_filesz > ph->p_memsz || !range_ok(ph->p_offset, ph->p_filesz, image->size) ||
	    ph->p_paddr + ph->p_memsz < ph->p_paddr)
		return false;
	if (seg.memsz == 0)
		return true;
	if (image->segments == MAX_SEGMENTS)
		return false;
	if (image->segments > 0 && seg.offset < image->segment[image->segments - 1].offset)
		return false;
	if (image->segments == 0 || seg.gpa < image->start)
		image->start = seg.gpa;
	if (seg.gpa + seg.memsz > image->end)
		image->end = seg.gpa + seg.memsz;
	image->segment[image->segments++] = seg;
	if (seg.offset + seg.filesz > image->elf_end)
		image->elf_end = seg.offset + seg.filesz;
	return true;
}

/* `head` holds the first `n` bytes of the inflated image: ELF header and program headers must be in it. */
static bool parse_head(struct image *ret_image, const uint8_t *head, size_t n, uint64_t size)
{
	struct image image = {.size = size};
	Elf64_Ehdr eh;

	if (n < sizeof(eh))
		return false;
	memcpy(&eh, head, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64 || eh.e_phentsize != sizeof(Elf64_Phdr) ||
	    !range_ok(eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr), n))
		return false;
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, head + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_LOAD && !add_segment(&image, &ph))
			return false;
	}
	if (image.segments == 0 || eh.e_entry < image.start || eh.e_entry >= image.end)
		return false;
	image.entry = eh.e_entry;
	/* objcopy leaves the section headers at the end of the file; relocations were appended behind them. */
	if (eh.e_shnum > 0) {
		if (eh.e_shentsize != sizeof(Elf64_Shdr) ||
		    !range_ok(eh.e_shoff, (uint64_t)eh.e_shnum * sizeof(Elf64_Shdr), size))
			return false;
		if (eh.e_shoff + eh.e_shnum * sizeof(Elf64_Shdr) > image.elf_end)
			image.elf_end = eh.e_shoff + eh.e_shnum * sizeof(Elf64_Shdr);
	}
	*ret_image = image;
	return true;
}

/* ---- placement ------------------------------------------------------------ */

/*
 * Most segments keep the same distance between file offset and address, so that inflating the file to the right place
 * in guest RAM puts them where they belong. True: the file may be inflated to *ret_base, and moving the other segments
 * down in ascending order destroys nothing that is still needed.
 */
static bool in_place(const struct image *image, uint64_t ram_limit, gpa_t *ret_base)
{
	const struct segment *most = &image->segment[0];
	gpa_t base;

	for (unsigned i = 1; i < image->segments; i++) {
		if (image->segment[i].filesz > most->filesz)
			most = &image->segment[i];
	}
	if (most->gpa < most->offset)
		return false;
	base = most->gpa - most->offset;
	if (base < BOOT_HIGH_BASE || !range_ok(base, image->size, ram_limit))
		return false;
	for (unsigned i = 0; i < image->segments; i++) {
		const struct segment *seg = &image->segment[i];
		gpa_t next = base + (i + 1 < image->segments ? image->segment[i + 1].offset : image->elf_end);

		if (seg->gpa > base + seg->offset || seg->gpa + seg->memsz > next)
			return false;
	}
	*ret_base = base;
	return true;
}

/* ---- relocations ------------------------------------------------------------ */

/* A run of words in the table. */
struct relocation_run {
	const uint8_t *words;
	uint64_t count;
};

struct relocations {
	struct relocation_run add64, subtract32, add32;
};

static int32_t word_at(const uint8_t *words, uint64_t i)
{
	int32_t v;

	memcpy(&v, words + i * 4, sizeof(v));
	return v;
}

/*
 * The table behind the ELF (arch/x86/tools/relocs.c): a zero word, addresses of 64-bit words; a zero word, addresses
 * of 32-bit words to be decreased (gone since the per-CPU area is no longer linked at 0); a zero word, addresses of
 * 32-bit words to be increased. Addresses are the low halves of link-time virtual ones.
 */
static bool relocations_parse(struct relocations *ret, const uint8_t *table, uint64_t bytes)
{
	uint64_t words = bytes / 4, zero[4];
	struct relocation_run run[3];
	unsigned zeros = 0;

	if (bytes % 4 != 0 || words == 0 || word_at(table, 0) != 0)
		return false;
	for (uint64_t i = 0; i < words; i++) {
		if (word_at(table, i) != 0)
			continue;
		if (zeros == 3)
			return false;
		zero[zeros++] = i;
	}
	if (zeros < 2)
		return false;
	zero[zeros] = words;
	for (unsigned i = 0; i < zeros; i++)
		run[i] = (struct relocation_run){.words = table + (zero[i] + 1) * 4, .count = zero[i + 1] - zero[i] - 1};
	*ret = (struct relocations){.add64 = run[0], .add32 = run[zeros - 1]};
	if (zeros == 3)
		ret->subtract32 = run[1];
	return true;
}

/* Where the kernel's bytes are while we work on them. */
struct kernel_memory {
	uint8_t *ram;
	gpa_t gpa;        /* of ram[0] */
	gpa_t start, end; /* the kernel in it */
};

/* The `n` bytes at a link-time address, NULL when they are not the kernel's. */
static uint8_t *relocation_site(const struct kernel_memory *mem, int32_t vaddr, unsigned n)
{
	uint64_t gpa = (uint64_t)(int64_t)vaddr - KERNEL_MAP_BASE;

	if (gpa < mem->start || gpa > mem->end - n)
		return NULL;
	return mem->ram + (gpa - mem->gpa);
}

static bool run_ok(const struct kernel_memory *mem, const struct relocation_run *run, unsigned n)
{
	for (uint64_t i = 0; i < run->count; i++) {
		if (!relocation_site(mem, word_at(run->words, i), n))
			return false;
	}
	return true;
}

static void run_add32(const struct kernel_memory *mem, const struct relocation_run *run, uint32_t delta)
{
	for (uint64_t i = 0; i < run->count; i++) {
		uint8_t *site = relocation_site(mem, word_at(run->words, i), 4);
		uint32_t v;

		memcpy(&v, site, sizeof(v));
		v += delta;
		memcpy(site, &v, sizeof(v));
	}
}

static void run_add64(const struct kernel_memory *mem, const struct relocation_run *run, uint64_t delta)
{
	for (uint64_t i = 0; i < run->count; i++) {
		uint8_t *site = relocation_site(mem, word_at(run->words, i), 8);
		uint64_t v;

		memcpy(&v, site, sizeof(v));
		v += delta;
		memcpy(site, &v, sizeof(v));
	}
}

/* False: a site lies outside the kernel, and nothing was changed. */
static bool relocate(const struct kernel_memory *mem, const struct relocations *rel, uint64_t delta)
{
	if (!run_ok(mem, &rel->add64, 8) || !run_ok(mem, &rel->subtract32, 4) || !run_ok(mem, &rel->add32, 4))
		return false;
	run_add64(mem, &rel->add64, delta);
	run_add32(mem, &rel->subtract32, -(uint32_t)delta);
	run_add32(mem, &rel->add32, (uint32_t)delta);
	return true;
}

/* A random multiple of `align` such that the kernel still fits its 1 GiB window; 0 when there is no choice. */
static uint64_t kaslr_delta(const struct image *image, uint64_t bytes, uint64_t align)
{
	uint64_t slots, random;

	if (align < 0x200000 || (align & (align - 1)) != 0 || image->start + bytes > KERNEL_IMAGE_BYTES)
		return 0;
	slots = 1 + (KERNEL_IMAGE_BYTES - image->start - bytes) / align;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return 0;
	return random % slots * align;
}

/* ---- loading ------------------------------------------------------------------ */

static void place_segments(const struct image *image, const uint8_t *file, uint8_t *ram, gpa_t ram_gpa)
{
	for (unsigned i = 0; i < image->segments; i++) {
		const struct segment *seg = &image->segment[i];
		uint8_t *to = ram + (seg->gpa - ram_gpa);

		if (to != file + seg->offset)
			memmove(to, file + seg->offset, seg->filesz);
		memset(to + seg->filesz, 0, seg->memsz - seg->filesz);
	}
}

int vmlinux_load(struct machine *machine, const struct vmlinux_request *request, struct vmlinux_load *ret_load)
{
	const struct payload *payload = request->payload;
	struct vmlinux_load load = {0};
	struct relocations rel = {0};
	struct image image;
	uint8_t head[4096], *file = MAP_FAILED, *ram = NULL;
	gpa_t ram_gpa, need_end;
	bool placed;
	int rc;

	if (payload->size < sizeof(head) || !payload_head(payload, head, sizeof(head)) ||
	    !parse_head(&image, head, sizeof(head), payload->size))
		return -ENOTSUP;
	/* From where we write to where the kernel may: .brk and early page tables lie behind its last segment. */
	need_end = image.end;
	if (need_end < image.start + request->init_bytes)
		need_end = image.start + request->init_bytes;
	if (image.start < BOOT_HIGH_BASE)
		return -ENOTSUP;
	if (need_end > request->ram_limit)
		return boot_fail(-ENOSPC,
				 "the kernel needs memory up to %llu MiB, the VM has only %llu MiB for it: give it at least %llu MiB",
				 (unsigned long long)(need_end >> 20), (unsigned long long)(request->ram_limit >> 20),
				 (unsigned long long)((need_end >> 20) + 8));
	placed = in_place(&image, request->ram_limit, &ram_gpa);
	if (!placed)
		ram_gpa = image.start;
	load.start = ram_gpa;
	load.end = placed && ram_gpa + image.size > image.end ? ram_gpa + image.size : image.end;
	ram = machine_dma_map(machine, load.start, load.end - load.start);
	if (!ram)
		return boot_fail(-ENOSPC, "the kernel's memory at 0x%llx..0x%llx is not RAM: give the VM more memory",
				 (unsigned long long)load.start, (unsigned long long)load.end);
	if (placed) {
		file = ram;
	} else {
		file = mmap(NULL, image.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (file == MAP_FAILED)
			return boot_fail(-ENOMEM, "no memory to unpack the kernel (%llu bytes)", (unsigned long long)image.size);
	}
	if (!payload_inflate(payload, file)) {
		rc = boot_fail(-EINVAL, "the kernel's compressed image is damaged: install it again");
		goto out;
	}
	place_segments(&image, file, ram, ram_gpa);

	load.entry = image.entry;
	if (request->kaslr && relocations_parse(&rel, file + image.elf_end, image.size - image.elf_end)) {
		const struct kernel_memory mem = {.ram = ram, .gpa = ram_gpa, .start = image.start, .end = image.end};
		uint64_t delta = kaslr_delta(&image, need_end - image.start, request->align);

		if (delta != 0 && relocate(&mem, &rel, delta)) {
			load.randomized = true;
			load.kaslr = delta;
		}
	}
	machine_dma_written(machine, load.start, load.end - load.start);
	load.start = image.start;
	load.end = need_end > load.end ? need_end : load.end;
	*ret_load = load;
	rc = 0;
out:
	if (!placed)
		munmap(file, image.size);
	return rc;
}
