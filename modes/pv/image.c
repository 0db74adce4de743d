/* Xen's ELF notes and __xen_guest sections (xen/include/public/elfnote.h), and the segments they place. */
#include "modes/pv/image.h"

#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "modes/pv/xen_abi.h"

#define UNSET UINT64_MAX

struct parser {
	const uint8_t *data;
	size_t n;
	struct pv_image image;
	uint64_t legacy_page; /* HYPERCALL_PAGE of the old section: a page number */
	bool notes;
	char *why;
	size_t why_bytes;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct parser *p, int rc, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(p->why, p->why_bytes, format, ap);
	va_end(ap);
	return rc;
}

static bool within(const struct parser *p, uint64_t at, uint64_t n) { return at <= p->n && n <= p->n - at; }

static void copy_text(char *to, size_t bytes, const char *from, size_t n)
{
	size_t length = strnlen(from, n);

	if (length >= bytes)
		length = bytes - 1;
	memcpy(to, from, length);
	to[length] = '\0';
}

/* ---- notes --------------------------------------------------------------------------- */

static void take_note(struct parser *p, uint32_t type, const uint8_t *desc, uint32_t n)
{
	struct pv_image *i = &p->image;
	const char *text = (const char *)desc;
	uint64_t value = 0;

	if (n <= sizeof(value))
		memcpy(&value, desc, n);
	switch (type) {
	case XEN_ELFNOTE_ENTRY: i->entry = value; break;
	case XEN_ELFNOTE_HYPERCALL_PAGE: i->hypercall_page = value; break;
	case XEN_ELFNOTE_VIRT_BASE: i->virt_base = value; break;
	case XEN_ELFNOTE_PADDR_OFFSET: i->paddr_offset = value; break;
	case XEN_ELFNOTE_INIT_P2M: i->init_p2m = value; break;
	case XEN_ELFNOTE_HV_START_LOW: i->hv_start_low = value; break;
	case XEN_ELFNOTE_MOD_START_PFN: i->mod_start_pfn = value != 0; break;
	case XEN_ELFNOTE_GUEST_OS: copy_text(i->os, sizeof(i->os), text, n); break;
	case XEN_ELFNOTE_GUEST_VERSION: copy_text(i->os_version, sizeof(i->os_version), text, n); break;
	case XEN_ELFNOTE_LOADER: copy_text(i->loader, sizeof(i->loader), text, n); break;
	case XEN_ELFNOTE_FEATURES: copy_text(i->features, sizeof(i->features), text, n); break;
	default: return;
	}
	p->notes = true;
}

static void take_notes(struct parser *p, uint64_t at, uint64_t n)
{
	if (!within(p, at, n))
		return;
	while (n >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, desc, next;

		memcpy(&note, p->data + at, sizeof(note));
		name = sizeof(note);
		desc = name + (((uint64_t)note.n_namesz + 3) & ~3ull);
		next = desc + (((uint64_t)note.n_descsz + 3) & ~3ull);
		if (next > n)
			return;
		if (note.n_namesz == 4 && !memcmp(p->data + at + name, "Xen", 4))
			take_note(p, note.n_type, p->data + at + desc, note.n_descsz);
		at += next;
		n -= next;
	}
}

/* ---- the old section: NAME=value, separated by commas ------------------------------------- */

/* The value as a number, if all of it is one. */
static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	return *text && !*end ? value : UNSET;
}

static void take_word(struct parser *p, const char *name, const char *value)
{
	struct pv_image *i = &p->image;

	if (!strcmp(name, "VIRT_BASE"))
		i->virt_base = number(value);
	else if (!strcmp(name, "VIRT_ENTRY"))
		i->entry = number(value);
	else if (!strcmp(name, "ELF_PADDR_OFFSET"))
		i->paddr_offset = number(value);
	else if (!strcmp(name, "HYPERCALL_PAGE"))
		p->legacy_page = number(value);
	else if (!strcmp(name, "GUEST_OS"))
		copy_text(i->os, sizeof(i->os), value, strlen(value));
	else if (!strcmp(name, "GUEST_VERSION"))
		copy_text(i->os_version, sizeof(i->os_version), value, strlen(value));
	else if (!strcmp(name, "LOADER"))
		copy_text(i->loader, sizeof(i->loader), value, strlen(value));
	else if (!strcmp(name, "FEATURES"))
		copy_text(i->features, sizeof(i->features), value, strlen(value));
}

static void take_section(struct parser *p, uint64_t at, uint64_t n)
{
	char text[512], *rest = text, *word;

	if (!within(p, at, n))
		return;
	copy_text(text, sizeof(text), (const char *)p->data + at, n);
	p->image.legacy = true;
	while ((word = strsep(&rest, ",")) != NULL) {
		char *value = strchr(word, '=');

		if (!value)
			continue;
		*value++ = '\0';
		take_word(p, word, value);
	}
}

/* ---- headers --------------------------------------------------------------------------------- */

static bool section_name_is(const struct parser *p, const Elf64_Shdr *names, const Elf64_Shdr *section, const char *name)
{
	uint64_t at = names->sh_offset + section->sh_name, n = strlen(name) + 1;

	return section->sh_name < names->sh_size && within(p, at, n) && !memcmp(p->data + at, name, n);
}

static void read_sections(struct parser *p, const Elf64_Ehdr *eh)
{
	Elf64_Shdr names, section;

	if (eh->e_shentsize != sizeof(section) || !eh->e_shnum || eh->e_shstrndx >= eh->e_shnum ||
	    !within(p, eh->e_shoff, (uint64_t)eh->e_shnum * sizeof(section)))
		return;
	memcpy(&names, p->data + eh->e_shoff + eh->e_shstrndx * sizeof(section), sizeof(names));
	for (unsigned i = 0; i < eh->e_shnum; i++) {
		memcpy(&section, p->data + eh->e_shoff + i * sizeof(section), sizeof(section));
		if (section.sh_type == SHT_NOTE && !p->notes)
			take_notes(p, section.sh_offset, section.sh_size);
	}
	for (unsigned i = 0; i < eh->e_shnum && !p->notes; i++) {
		memcpy(&section, p->data + eh->e_shoff + i * sizeof(section), sizeof(section));
		if (section_name_is(p, &names, &section, "__xen_guest"))
			take_section(p, section.sh_offset, section.sh_size);
	}
}

static int add_segment(struct parser *p, const Elf64_Phdr *ph)
{
	struct pv_image *i = &p->image;
	struct pv_segment *s = &i->segment[i->segments];

	if (!ph->p_memsz)
		return 0;
	if (i->segments == PV_IMAGE_SEGMENTS || ph->p_filesz > ph->p_memsz || !within(p, ph->p_offset, ph->p_filesz) ||
	    ph->p_memsz > UINT32_MAX || ph->p_paddr < i->paddr_offset || ph->p_paddr - i->paddr_offset > UINT32_MAX)
		return refuse(p, -ENOEXEC, "its program headers contradict themselves, or the file is truncated");
	*s = (struct pv_segment){.offset = ph->p_offset, .filesz = ph->p_filesz, .memsz = ph->p_memsz,
				 .gva = i->virt_base + (ph->p_paddr - i->paddr_offset)};
	if (s->gva < i->virt_base || s->gva + s->memsz < s->gva)
		return refuse(p, -ENOEXEC, "a segment lies outside the address space");
	if (!i->segments++ || s->gva < i->start)
		i->start = s->gva;
	if (s->gva + s->memsz > i->end)
		i->end = s->gva + s->memsz;
	return 0;
}

/* What is left unsaid has values by custom (tools/libs/guest of Xen does the same). */
static int settle(struct parser *p, const Elf64_Ehdr *eh)
{
	struct pv_image *i = &p->image;

	if (!p->notes && !i->legacy)
		return refuse(p, -ENOEXEC, "it has neither Xen's ELF notes nor a __xen_guest section: no kernel for mode pv");
	if (strncmp(i->loader, "generic", 7) && i->loader[0])
		return refuse(p, -ENOEXEC, "it asks for the domain builder \"%s\"; there is the generic one", i->loader);
	if (i->virt_base == UNSET && i->paddr_offset != UNSET)
		return refuse(p, -ENOEXEC, "it names an ELF_PADDR_OFFSET without a VIRT_BASE");
	if (i->virt_base == UNSET)
		i->virt_base = i->paddr_offset = 0;
	if (i->paddr_offset == UNSET)
		i->paddr_offset = i->legacy ? i->virt_base : 0;
	if (i->entry == UNSET)
		i->entry = eh->e_entry;
	if (i->hypercall_page == UNSET)
		i->hypercall_page = p->legacy_page == UNSET ? 0 : i->virt_base + (p->legacy_page << GUEST_PAGE_SHIFT);
	return 0;
}

static int read_segments(struct parser *p, const Elf64_Ehdr *eh)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < eh->e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, p->data + eh->e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_LOAD)
			rc = add_segment(p, &ph);
	}
	if (rc)
		return rc;
	const struct pv_image *i = &p->image;
	if (!i->segments || i->entry < i->start || i->entry >= i->end)
		return refuse(p, -ENOEXEC, "its entry %#llx lies in none of its segments", (unsigned long long)i->entry);
	if (i->hypercall_page && (i->hypercall_page < i->start || i->hypercall_page >= i->end || i->hypercall_page & ~GUEST_PAGE_MASK))
		return refuse(p, -ENOEXEC, "its hypercall page %#llx is no page of its segments", (unsigned long long)i->hypercall_page);
	return 0;
}

int pv_image_parse(const uint8_t *data, size_t n, struct pv_image *ret_image, char *ret_why, size_t why_bytes)
{
	struct parser p = {.data = data, .n = n, .legacy_page = UNSET, .why = ret_why, .why_bytes = why_bytes};
	Elf64_Ehdr eh;
	int rc;

	p.image.virt_base = p.image.paddr_offset = p.image.entry = p.image.hypercall_page = UNSET;
	if (n < sizeof(eh) || memcmp(data, ELFMAG, SELFMAG))
		return refuse(&p, -ENOEXEC, "it is no ELF file");
	memcpy(&eh, data, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64)
		return refuse(&p, -ENOEXEC, "it is no 64-bit x86 kernel; mode pv runs no other");
	if (eh.e_phentsize != sizeof(Elf64_Phdr) || !within(&p, eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr)))
		return refuse(&p, -EINVAL, "it is truncated in its program headers: copy it again");
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, data + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE)
			take_notes(&p, ph.p_offset, ph.p_filesz);
	}
	read_sections(&p, &eh);
	rc = settle(&p, &eh);
	if (!rc)
		rc = read_segments(&p, &eh);
	if (!rc)
		*ret_image = p.image;
	return rc;
}
