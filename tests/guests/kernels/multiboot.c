/* A Multiboot kernel that prints what it was entered with and handed, one thing a line; multiboot.py judges. */
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t elf_num, elf_size, elf_addr, elf_shndx;
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, apm_table;
};

struct module {
	uint32_t start, end, string, reserved;
};

struct map {
	uint32_t size, base, base_high, bytes, bytes_high, type;
};

struct section {
	uint32_t name, type, flags, addr, offset, size, link, info, addralign, entsize;
};

uint32_t entered_eax, entered_ebx, entered_cr0, entered_eflags, entered_cs, entered_cs_limit, entered_ss, entered_ss_limit;
/* One word of data, and more than a page that must be found cleared. */
uint32_t initialized = 0x12345678;
uint32_t cleared[2000];
extern char image_start[], load_end[], image_end[];

static void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void put(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (uint8_t)c);
}

static void text(const char *s)
{
	for (; *s; s++)
		put(*s);
}

static void hex(uint32_t v)
{
	for (int shift = 28; shift >= 0; shift -= 4)
		put("0123456789abcdef"[v >> shift & 15]);
}

static void line(const char *name, uint32_t value)
{
	text(name);
	put(' ');
	hex(value);
	put('\n');
}

static void string(const char *name, uint32_t at)
{
	text(name);
	put(' ');
	text((const char *)at);
	put('\n');
}

/* Adler-32 (RFC 1950), which the other side has in a library. */
static uint32_t sum(const uint8_t *bytes, uint32_t n)
{
	uint32_t a = 1, b = 0;

	for (uint32_t i = 0; i < n; i++) {
		a = (a + bytes[i]) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}

static void show_sections(const struct info *info)
{
	line("elf-size", info->elf_size);
	for (uint32_t i = 0; info->elf_size == sizeof(struct section) && i < info->elf_num; i++) {
		const struct section *s = (const void *)(info->elf_addr + i * info->elf_size);
		const struct section *names = (const void *)(info->elf_addr + info->elf_shndx * info->elf_size);

		text("section ");
		text((const char *)names->addr + s->name);
		line("", s->addr);
		if (s->type == 3 && s->addr) /* SHT_STRTAB */
			line("strings", sum((const void *)s->addr, s->size));
	}
}

void kernel_main(void)
{
	const struct info *info = (const void *)entered_ebx;
	uint32_t dirty = 0;

	for (unsigned i = 0; i < sizeof(cleared) / sizeof(cleared[0]); i++)
		dirty |= ((volatile uint32_t *)cleared)[i];
	line("eax", entered_eax);
	line("ebx", entered_ebx);
	line("cr0", entered_cr0);
	line("eflags", entered_eflags);
	line("cs", entered_cs);
	line("cs-limit", entered_cs_limit);
	line("ss", entered_ss);
	line("ss-limit", entered_ss_limit);
	line("initialized", initialized);
	line("bss", dirty);
	line("image-start", (uint32_t)image_start);
	line("image-end", (uint32_t)image_end);
	line("flags", info->flags);
	line("mem-lower", info->mem_lower);
	line("mem-upper", info->mem_upper);
	if (info->flags & 1 << 2)
		string("cmdline", info->cmdline);
	if (info->flags & 1 << 9)
		string("loader", info->boot_loader_name);
	line("modules-at", info->mods_addr);
	for (uint32_t i = 0; i < info->mods_count; i++) {
		const struct module *m = (const struct module *)info->mods_addr + i;

		line("module", m->start);
		line("bytes", m->end - m->start);
		line("sum", sum((const void *)m->start, m->end - m->start));
		string("string", m->string);
		line("reserved", m->reserved);
	}
	for (uint32_t at = info->mmap_addr; at < info->mmap_addr + info->mmap_length;) {
		const struct map *m = (const void *)at;

		text("map ");
		hex(m->base_high);
		hex(m->base);
		put(' ');
		hex(m->bytes_high);
		hex(m->bytes);
		put(' ');
		hex(m->type);
		put('\n');
		at += m->size + 4;
	}
	if (info->flags & 1 << 5)
		show_sections(info);
	text("end\n");
	outl(DEBUG_EXIT, 0);
	for (;;)
		__asm__ volatile("cli; hlt");
}
