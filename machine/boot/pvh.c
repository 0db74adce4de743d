/* ELF kernels with a PVH note (Xen's include/public/arch-x86/hvm/start_info.h and xen/include/public/elfnote.h). */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_VERSION 1
#define SEGMENTS_MAX 64

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
	uint64_t memmap_paddr; /* since version 1 */
	uint32_t memmap_entries, reserved;
};

struct modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* Everything the kernel is handed, in one page. */
struct start_page {
	struct start_info info;
	struct modlist_entry module;
	struct memmap_entry memmap[E820_MAX];
};
_Static_assert(sizeof(struct start_page) <= 4096 && sizeof(struct start_info) == 56, "start_info");

struct elf_segment {
	uint64_t offset, filesz, memsz;
	gpa_t gpa;
};

/* Class-neutral view of an ELF file. */
struct elf {
	struct elf_segment load[SEGMENTS_MAX];
	unsigned loads;
	gpa_t start, end;
	gpa_t entry; /* of the PVH note */
	bool has_entry;
};

bool elf_is(const struct boot_file *kernel)
{
	return kernel->size >= sizeof(Elf32_Ehdr) && memcmp(kernel->data, ELFMAG, SELFMAG) == 0;
}

/* Looks for the note in [at, at+n): { namesz, descsz, type, name, desc }, each part padded to 4 bytes. */
static void find_note(struct elf *elf, const uint8_t *at, uint64_t n)
{
	while (n >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, desc, next;

		memcpy(&note, at, sizeof(note));
		name = sizeof(note);
		desc = name + (((uint64_t)note.n_namesz + 3) & ~3ull);
		next = desc + (((uint64_t)note.n_descsz + 3) & ~3ull);
		if (next > n)
			return;
		if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 && memcmp(at + name, "Xen", 4) == 0 &&
		    (note.n_descsz == 4 || note.n_descsz == 8)) {
			uint64_t entry = 0;

			memcpy(&entry, at + desc, note.n_descsz);
			elf->entry = entry;
			elf->has_entry = true;
			return;
		}
		at += next;
		n -= next;
	}
}

static int add_header(struct elf *elf, const struct boot_file *kernel, const Elf64_Phdr *ph)
{
	if (ph->p_type != PT_LOAD && ph->p_type != PT_NOTE)
		return 0;
	if (ph->p_offset > kernel->size || ph->p_filesz > kernel->size - ph->p_offset)
		return boot_fail(-EINVAL, "kernel %s is truncated: a segment ends at byte %llu of %zu; copy it again",
				 kernel->path, (unsigned long long)(ph->p_offset + ph->p_filesz), kernel->size);
	if (ph->p_type == PT_NOTE) {
		find_note(elf, kernel->data + ph->p_offset, ph->p_filesz);
		return 0;
	}
	if (ph->p_memsz == 0)
		return 0;
	if (ph->p_filesz > ph->p_memsz || ph->p_paddr + ph->p_memsz < ph->p_paddr || elf->loads == SEGMENTS_MAX)
		return boot_fail(-ENOEXEC, "kernel %s has program headers that contradict themselves: it is damaged", kernel->path);
	elf->load[elf->loads++] = (struct elf_segment){
		.offset = ph->p_offset, .filesz = ph->p_filesz, .memsz = ph->p_memsz, .gpa = ph->p_paddr};
	if (elf->loads == 1 || ph->p_paddr < elf->start)
		elf->start = ph->p_paddr;
	if (ph->p_paddr + ph->p_memsz > elf->end)
		elf->end = ph->p_paddr + ph->p_memsz;
	return 0;
}

static Elf64_Phdr widen(const Elf32_Phdr *ph)
{
	return (Elf64_Phdr){.p_type = ph->p_type, .p_flags = ph->p_flags, .p_offset = ph->p_offset, .p_vaddr = ph->p_vaddr,
			    .p_paddr = ph->p_paddr, .p_filesz = ph->p_filesz, .p_memsz = ph->p_memsz, .p_align = ph->p_align};
}

static int parse(const struct boot_file *kernel, struct elf *ret_elf)
{
	bool wide = kernel->data[EI_CLASS] == ELFCLASS64;
	size_t entry_bytes = wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	struct elf elf = {0};
	uint64_t phoff;
	unsigned phnum;
	bool ok;

	if (wide) {
		Elf64_Ehdr eh = {0};

		memcpy(&eh, kernel->data, kernel->size < sizeof(eh) ? kernel->size : sizeof(eh));
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		ok = eh.e_machine == EM_X86_64 && eh.e_phentsize == entry_bytes;
	} else {
		Elf32_Ehdr eh;

		memcpy(&eh, kernel->data, sizeof(eh));
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		ok = kernel->data[EI_CLASS] == ELFCLASS32 && eh.e_machine == EM_386 && eh.e_phentsize == entry_bytes;
	}
	if (!ok)
		return boot_fail(-ENOEXEC, "kernel %s is an ELF for another processor than x86: use an x86 kernel", kernel->path);
	if (phoff > kernel->size || (uint64_t)phnum * entry_bytes > kernel->size - phoff)
		return boot_fail(-EINVAL, "kernel %s is truncated in its program headers: copy it again", kernel->path);
	for (unsigned i = 0; i < phnum; i++) {
		Elf64_Phdr ph;
		int rc;

		if (wide) {
			memcpy(&ph, kernel->data + phoff + i * entry_bytes, sizeof(ph));
		} else {
			Elf32_Phdr ph32;

			memcpy(&ph32, kernel->data + phoff + i * entry_bytes, sizeof(ph32));
			ph = widen(&ph32);
		}
		rc = add_header(&elf, kernel, &ph);
		if (rc < 0)
			return rc;
	}
	if (!elf.has_entry)
		return boot_fail(-ENOEXEC,
				 "kernel %s is an ELF without a PVH entry note: use a bzImage (vmlinuz), or build it with CONFIG_PVH",
				 kernel->path);
	if (elf.loads == 0 || elf.entry < elf.start || elf.entry >= elf.end)
		return boot_fail(-ENOEXEC, "kernel %s has its PVH entry 0x%llx outside what it loads: it is damaged", kernel->path,
				 (unsigned long long)elf.entry);
	*ret_elf = elf;
	return 0;
}

static int load(const struct boot_direct *direct, const struct boot_file *kernel, const struct elf *elf)
{
	/* Below 1 MiB are the tables it is handed. */
	if (elf->start < BOOT_HIGH_BASE)
		return boot_fail(-ENOEXEC, "kernel %s loads at 0x%llx, below 1 MiB, where its boot information lies: link it higher",
				 kernel->path, (unsigned long long)elf->start);
	if (elf->end > direct->acpi_gpa)
		return boot_fail(-ENOSPC, "kernel %s needs memory up to %llu MiB, the VM has only %llu MiB for it: give it more",
				 kernel->path, (unsigned long long)(elf->end >> 20), (unsigned long long)(direct->acpi_gpa >> 20));
	for (unsigned i = 0; i < elf->loads; i++) {
		const struct elf_segment *seg = &elf->load[i];
		uint8_t *to = machine_dma_map(direct->machine, seg->gpa, seg->memsz);

		if (!to)
			return boot_fail(-ENOSPC, "kernel %s: no guest memory at 0x%llx: give the VM more memory", kernel->path,
					 (unsigned long long)seg->gpa);
		memcpy(to, kernel->data + seg->offset, seg->filesz);
		memset(to + seg->filesz, 0, seg->memsz - seg->filesz);
		machine_dma_written(direct->machine, seg->gpa, seg->memsz);
	}
	return 0;
}

static int put_start_page(const struct boot_direct *direct)
{
	const gpa_t base = BOOT_START_INFO_GPA;
	struct start_page page = {
		.info = {
			.magic = START_INFO_MAGIC,
			.version = START_INFO_VERSION,
			.cmdline_paddr = BOOT_CMDLINE_GPA,
			.rsdp_paddr = direct->rsdp_gpa,
			.memmap_paddr = base + offsetof(struct start_page, memmap),
			.memmap_entries = direct->e820.count,
		},
	};

	if (direct->initrd_gpa) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = base + offsetof(struct start_page, module);
		page.module = (struct modlist_entry){.paddr = direct->initrd_gpa, .size = direct->initrd_bytes};
	}
	for (unsigned i = 0; i < direct->e820.count; i++)
		page.memmap[i] = (struct memmap_entry){.addr = direct->e820.range[i].gpa, .size = direct->e820.range[i].bytes,
						       .type = direct->e820.range[i].type};
	return boot_put(direct->machine, base, &page, sizeof(page), "start_info");
}

int pvh_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
	     struct cpu_state *ret_bsp)
{
	struct boot_direct direct;
	struct elf elf = {0};
	int rc;

	rc = parse(kernel, &elf);
	if (rc < 0)
		return rc;
	rc = direct_begin(&direct, machine);
	if (rc < 0)
		return rc;
	rc = direct_cmdline(&direct, boot->cmdline, BOOT_CMDLINE_MAX - 1);
	if (rc < 0)
		return rc;
	rc = load(&direct, kernel, &elf);
	if (rc < 0)
		return rc;
	/* The file may end before the kernel's own early tables do: leave it the same room as a bzImage's init_size. */
	rc = direct_initrd(&direct, boot->initrd, elf.end, 1ull << 32);
	if (rc < 0)
		return rc;
	rc = put_start_page(&direct);
	if (rc < 0)
		return rc;
	return entry_pvh(machine, ret_bsp, elf.entry, BOOT_START_INFO_GPA);
}
