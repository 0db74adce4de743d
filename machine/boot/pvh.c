/* ELF kernels with a PVH note (Xen's include/public/arch-x86/hvm/start_info.h and xen/include/public/elfnote.h). */
#include <errno.h>
#include <string.h>

#include "machine/boot/private.h"

#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_VERSION 1

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
	struct modlist_entry module[BOOT_MODULES_MAX + 1];
	struct memmap_entry memmap[E820_MAX];
};
_Static_assert(sizeof(struct start_page) <= 4096 && sizeof(struct start_info) == 56, "start_info");

struct pvh_modules {
	struct modlist_entry entry[BOOT_MODULES_MAX + 1];
	unsigned count;
	gpa_t strings; /* where the next command line goes */
};

/* One module, as high as possible below the last one. */
static int put_module(struct boot_direct *direct, struct pvh_modules *modules, const char *what, const char *path,
		      const char *cmdline, gpa_t kernel_end)
{
	gpa_t limit = modules->count ? modules->entry[modules->count - 1].paddr : direct->acpi_gpa;
	struct modlist_entry entry = {0};
	int rc;

	rc = direct_file(direct, what, path, kernel_end, limit, &entry.paddr, &entry.size);
	if (rc == 0 && cmdline) {
		uint64_t n = strlen(cmdline) + 1;

		if (n > BOOT_LOW_END - modules->strings)
			return boot_fail(-E2BIG, "the modules' command lines have more than %u KiB together: shorten them",
					 (BOOT_LOW_END - BOOT_MODULE_CMDLINES_GPA) >> 10);
		entry.cmdline_paddr = modules->strings;
		modules->strings += n;
		rc = boot_put(direct->machine, entry.cmdline_paddr, cmdline, n, "module's command line");
	}
	if (rc == 0)
		modules->entry[modules->count++] = entry;
	return rc;
}

/* The initrd is the first module: that is where a Linux kernel looks for it. */
static int put_modules(struct boot_direct *direct, struct pvh_modules *modules, const struct machine_boot *boot,
		       gpa_t kernel_end)
{
	int rc = 0;

	modules->strings = BOOT_MODULE_CMDLINES_GPA;
	if (boot->initrd)
		rc = put_module(direct, modules, "initrd", boot->initrd, NULL, kernel_end);
	for (unsigned i = 0; rc == 0 && i < boot->module_count; i++)
		rc = put_module(direct, modules, "module", boot->modules[i].path, boot->modules[i].cmdline, kernel_end);
	return rc;
}

static int put_start_page(const struct boot_direct *direct, const struct pvh_modules *modules)
{
	const gpa_t base = BOOT_START_INFO_GPA;
	struct start_page page = {
		.info = {
			.magic = START_INFO_MAGIC,
			.version = START_INFO_VERSION,
			.nr_modules = modules->count,
			.modlist_paddr = modules->count ? base + offsetof(struct start_page, module) : 0,
			.cmdline_paddr = BOOT_CMDLINE_GPA,
			.rsdp_paddr = direct->rsdp_gpa,
			.memmap_paddr = base + offsetof(struct start_page, memmap),
			.memmap_entries = direct->e820.count,
		},
	};

	memcpy(page.module, modules->entry, modules->count * sizeof(page.module[0]));
	for (unsigned i = 0; i < direct->e820.count; i++)
		page.memmap[i] = (struct memmap_entry){.addr = direct->e820.range[i].gpa, .size = direct->e820.range[i].bytes,
						       .type = direct->e820.range[i].type};
	return boot_put(direct->machine, base, &page, sizeof(page), "start_info");
}

/* The way in, and whether everything may lie where it wants to. Below 1 MiB are the tables the kernel is handed. */
static int check(const struct boot_direct *direct, const struct boot_file *kernel, const struct elf *elf)
{
	if (!elf->has_pvh_entry)
		return boot_fail(-ENOEXEC,
				 "kernel %s is an ELF with neither a PVH entry note nor a Multiboot header: use a bzImage (vmlinuz), or "
				 "build it with CONFIG_PVH",
				 kernel->path);
	if (elf->pvh_entry < elf->start || elf->pvh_entry >= elf->end)
		return boot_fail(-ENOEXEC, "kernel %s has its PVH entry 0x%llx outside what it loads: it is damaged", kernel->path,
				 (unsigned long long)elf->pvh_entry);
	if (elf->start < BOOT_HIGH_BASE)
		return boot_fail(-ENOEXEC, "kernel %s loads at 0x%llx, below 1 MiB, where its boot information lies: link it higher",
				 kernel->path, (unsigned long long)elf->start);
	if (elf->end > direct->acpi_gpa)
		return direct_too_large(direct, kernel, elf->end);
	return 0;
}

int pvh_boot(struct machine *machine, const struct boot_file *kernel, const struct machine_boot *boot,
	     struct cpu_state *ret_bsp)
{
	struct pvh_modules modules = {0};
	struct boot_direct direct;
	struct elf elf = {0};
	int rc;

	rc = elf_parse(kernel, &elf);
	if (rc < 0)
		return rc;
	rc = direct_begin(&direct, machine);
	if (rc < 0)
		return rc;
	rc = direct_cmdline(&direct, boot->cmdline, BOOT_CMDLINE_MAX - 1);
	if (rc < 0)
		return rc;
	rc = check(&direct, kernel, &elf);
	if (rc < 0)
		return rc;
	rc = elf_load(&direct, kernel, &elf);
	if (rc < 0)
		return rc;
	/* The file may end before the kernel's own early tables do: so modules go to the other end of the memory. */
	rc = put_modules(&direct, &modules, boot, elf.end);
	if (rc < 0)
		return rc;
	rc = put_start_page(&direct, &modules);
	if (rc < 0)
		return rc;
	return entry_pvh(machine, ret_bsp, elf.pvh_entry, BOOT_START_INFO_GPA);
}
