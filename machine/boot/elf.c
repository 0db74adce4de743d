/* ELF kernels: their headers checked, their segments loaded, whatever the way in. */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

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
			elf->pvh_entry = entry;
			elf->has_pvh_entry = true;
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
	if (ph->p_filesz > ph->p_memsz || ph->p_paddr + ph->p_memsz < ph->p_paddr || elf->loads == ELF_SEGMENTS_MAX)
		return boot_fail(-ENOEXEC, "kernel %s has program headers that contradict themselves: it is damaged", kernel->path);
	elf->load[elf->loads++] = (struct elf_segment){
		.offset = ph->p_offset, .filesz = ph->p_filesz, .memsz = ph->p_memsz, .gpa = ph->p_paddr};
	/* Kernels are linked where they will run, and entered where they are loaded. */
	if (elf->entry_va >= ph->p_vaddr && elf->entry_va - ph->p_vaddr < ph->p_memsz)
		elf->entry = elf->entry_va - ph->p_vaddr + ph->p_paddr;
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

int elf_parse(const struct boot_file *kernel, struct elf *ret_elf)
{
	bool wide = kernel->data[EI_CLASS] == ELFCLASS64;
	size_t entry_bytes = wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	struct elf elf = {.wide = wide};
	uint64_t phoff;
	unsigned phnum;
	bool ok;

	if (wide) {
		Elf64_Ehdr eh = {0};

		memcpy(&eh, kernel->data, kernel->size < sizeof(eh) ? kernel->size : sizeof(eh));
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		elf.entry = elf.entry_va = eh.e_entry;
		elf.sections = (struct elf_sections){eh.e_shoff, eh.e_shnum, eh.e_shentsize, eh.e_shstrndx};
		ok = eh.e_machine == EM_X86_64 && eh.e_phentsize == entry_bytes;
	} else {
		Elf32_Ehdr eh;

		memcpy(&eh, kernel->data, sizeof(eh));
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		elf.entry = elf.entry_va = eh.e_entry;
		elf.sections = (struct elf_sections){eh.e_shoff, eh.e_shnum, eh.e_shentsize, eh.e_shstrndx};
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
	if (elf.loads == 0)
		return boot_fail(-ENOEXEC, "kernel %s has no segment to load: it is damaged, or no kernel", kernel->path);
	*ret_elf = elf;
	return 0;
}

int elf_load(const struct boot_direct *direct, const struct boot_file *kernel, const struct elf *elf)
{
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
