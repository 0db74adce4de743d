/* A firmware image under 4 GiB, and in fw_cfg what it wants to know. */
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/boot/acpi.h"
#include "machine/boot/private.h"
#include "machine/boot/smbios.h"
#include "machine/devices/flash.h"
#include "machine/devices/fw_cfg.h"
#include "machine/devices/rtc.h"
#include "machine/devices/vga.h"
#include "machine/private.h"
#include "machine/ram.h"

#define ROM_MIN_BYTES 0x10000u
#define SERCON_PORT 0x3f8
/* With a kernel, SeaBIOS tries our option ROM first; else (an empty list) its own order. */
/* SeaBIOS runs it as that PCI device's option ROM. */
#define VGA_ROM_FILE "pci1234,1111.rom"
#define LINUXBOOT_FILE "genroms/linuxboot.bin"
#define BOOT_FIRST "/rom@" LINUXBOOT_FILE "\n"

static int add_failed(int rc, const char *name) { return boot_fail(rc, "fw_cfg has no room for %s", name); }

static int add_file(struct machine *machine, const char *name, const void *data, size_t n)
{
	int rc = fw_cfg_add_file(machine, name, data, (uint32_t)n);

	return rc < 0 ? add_failed(rc, name) : 0;
}

static int put_rom(struct machine *machine, const char *path)
{
	struct boot_file rom;
	int rc;

	rc = boot_file_open(&rom, "firmware", path);
	if (rc < 0)
		return rc;
	if (rom.size % GUEST_PAGE_SIZE != 0 || rom.size < ROM_MIN_BYTES || rom.size > ROM_MAX_BYTES) {
		rc = boot_fail(-EINVAL,
			       "firmware %s has %zu bytes: an image has a multiple of 4 KiB between 64 KiB and 16 MiB, such as "
			       "SeaBIOS's bios-256k.bin",
			       path, rom.size);
		goto out;
	}
	rc = boot_file_read(&rom);
	if (rc < 0)
		goto out;
	rc = machine_rom_add(machine, rom.data, rom.size);
	/* After a reset the image is still there: a firmware does not change while its machine lives. */
	if (rc == -EBUSY)
		rc = 0;
	if (rc < 0)
		rc = boot_fail(rc, "firmware %s cannot be mapped: %s", path, strerror(-rc));
out:
	boot_file_close(&rom);
	return rc;
}

/* ---- the flash with the firmware's variables --------------------------------- */

#define FV_SIGNATURE_AT 40 /* EFI_FIRMWARE_VOLUME_HEADER (UEFI PI vol. 3, 3.2.1): "_FVH", its checksum's span */
#define FV_HEADER_BYTES_AT 48

/* An EDK2 variable store whose header does not add up would be found out by the guest in ways nobody understands. */
static int check_variables(const char *path, const uint8_t *head, size_t n)
{
	uint16_t header_bytes, sum16 = 0;

	if (memcmp(head + FV_SIGNATURE_AT, "_FVH", 4) != 0)
		return 0; /* another firmware's, or still empty */
	memcpy(&header_bytes, head + FV_HEADER_BYTES_AT, sizeof(header_bytes));
	if (header_bytes >= FV_HEADER_BYTES_AT + 2u && header_bytes <= n && header_bytes % 2 == 0) {
		for (size_t i = 0; i < header_bytes; i += 2)
			sum16 = (uint16_t)(sum16 + (head[i] | head[i + 1] << 8));
		if (sum16 == 0)
			return 0;
	}
	return boot_fail(-EINVAL, "nvram %s is damaged (its volume header's checksum is wrong): restore it, or delete it so that it is made anew "
			 "from boot.nvram.template", path);
}

static int open_nvram(const char *path, uint64_t rom_bytes, int *ret_fd, uint64_t *ret_bytes)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	uint8_t head[512];
	struct stat st;
	int rc = 0, fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return boot_fail(-errno, "nvram %s cannot be opened for writing: %s; %s", path, strerror(errno),
				 errno == ENOENT ? "name what to make it from with boot.nvram.template (OVMF's is OVMF_VARS_4M.fd)"
						 : "it must be a file that this user may write");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		rc = boot_fail(-EINVAL, "nvram %s is no regular file: name the firmware's variables, such as a copy of OVMF_VARS_4M.fd", path);
	else if (st.st_size == 0 || st.st_size % FLASH_BLOCK_BYTES || (uint64_t)st.st_size > ROM_MAX_BYTES - rom_bytes)
		rc = boot_fail(-EINVAL,
			       "nvram %s has %lld bytes: it must have a multiple of 4 KiB, and at most 16 MiB together with the firmware; it may be "
			       "truncated: restore it, or delete it so that it is made anew from boot.nvram.template",
			       path, (long long)st.st_size);
	else if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		rc = errno == EAGAIN || errno == EACCES
			     ? boot_fail(-EBUSY, "nvram %s is in use by another virtual machine: give each VM a file of its own", path)
			     : boot_fail(-errno, "nvram %s cannot be locked: %s", path, strerror(errno));
	else if (pread(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head))
		rc = boot_fail(-EIO, "nvram %s cannot be read: %s", path, strerror(errno));
	else
		rc = check_variables(path, head, sizeof(head));
	if (rc < 0) {
		close(fd);
		return rc;
	}
	*ret_fd = fd;
	*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

/* Right below the ROM: OVMF's two files are one image, cut in two. After a reset it is there already. */
static int put_nvram(struct machine *machine, const char *path)
{
	gpa_t rom = machine_rom_base(machine);
	uint64_t bytes = 0;
	int rc, fd = -1;

	if (machine_ram_find(machine, rom - 1))
		return 0;
	rc = open_nvram(path, (1ull << 32) - rom, &fd, &bytes);
	if (rc < 0)
		return rc;
	rc = flash_create(machine, fd, rom - bytes, bytes);
	return rc < 0 ? boot_fail(rc, "nvram %s cannot be mapped: %s", path, strerror(-rc)) : 0;
}

/* QEMU's struct e820_entry: packed, without a count. */
struct fw_e820 {
	uint64_t gpa, bytes;
	uint32_t type;
} __attribute__((packed));

static int put_memory(struct machine *machine, const struct boot_ram *ram)
{
	struct fw_e820 entry[E820_MAX];
	struct e820_map map;
	uint64_t above16m = ram->low_end > 0x1000000 ? (ram->low_end - 0x1000000) >> 16 : 0;
	uint64_t above1m = ram->low_end > 0x100000 ? (ram->low_end - 0x100000) >> 10 : 0;
	int rc;

	e820_firmware(&map, ram);
	for (unsigned i = 0; i < map.count; i++)
		entry[i] = (struct fw_e820){.gpa = map.range[i].gpa, .bytes = map.range[i].bytes, .type = map.range[i].type};
	rc = add_file(machine, "etc/e820", entry, map.count * sizeof(entry[0]));
	if (rc < 0)
		return rc;
	if (fw_cfg_add_u64(machine, FW_CFG_RAM_SIZE, machine_ram_bytes(machine)) < 0)
		return add_failed(-ENOMEM, "the RAM's size");
	/* And as a PC's CMOS tells it: KiB above 1 MiB, 64 KiB units above 16 MiB and above 4 GiB. */
	if (above1m > 0xffff)
		above1m = 0xffff;
	if (above16m > 0xffff)
		above16m = 0xffff;
	rtc_cmos_set(machine, 0x15, 640 & 0xff);
	rtc_cmos_set(machine, 0x16, 640 >> 8);
	for (unsigned at = 0x17; at <= 0x30; at += 0x30 - 0x17) {
		rtc_cmos_set(machine, at, (uint8_t)above1m);
		rtc_cmos_set(machine, at + 1, (uint8_t)(above1m >> 8));
	}
	rtc_cmos_set(machine, 0x34, (uint8_t)above16m);
	rtc_cmos_set(machine, 0x35, (uint8_t)(above16m >> 8));
	for (unsigned i = 0; i < 3; i++)
		rtc_cmos_set(machine, 0x5b + i, (uint8_t)(ram->high_bytes >> (16 + 8 * i)));
	return 0;
}

static int put_acpi(struct machine *machine)
{
	struct acpi_tables tables;
	uint8_t *script = NULL;
	uint32_t script_bytes;
	int rc;

	rc = acpi_build(&tables, machine);
	if (rc == 0)
		rc = acpi_loader_script(&tables, &script, &script_bytes);
	if (rc < 0) {
		acpi_free(&tables);
		return boot_fail(rc, "no memory for the ACPI tables");
	}
	rc = add_file(machine, ACPI_FILE_TABLES, tables.blob, tables.bytes);
	if (rc == 0)
		rc = add_file(machine, ACPI_FILE_RSDP, tables.rsdp, sizeof(tables.rsdp));
	if (rc == 0)
		rc = add_file(machine, ACPI_FILE_LOADER, script, script_bytes);
	free(script);
	acpi_free(&tables);
	return rc;
}

static int put_smbios(struct machine *machine)
{
	struct smbios_tables tables;
	int rc;

	rc = smbios_build(&tables, machine_ram_bytes(machine), machine_vcpus(machine), machine->config.smbios);
	if (rc < 0)
		return boot_fail(rc, "no memory for the SMBIOS tables");
	rc = add_file(machine, SMBIOS_FILE_ANCHOR, tables.anchor, sizeof(tables.anchor));
	if (rc == 0)
		rc = add_file(machine, SMBIOS_FILE_TABLES, tables.blob, tables.bytes);
	smbios_free(&tables);
	return rc;
}

static int put_settings(struct machine *machine, bool with_kernel, unsigned menu_ms)
{
	const uint16_t sercon = SERCON_PORT, menu_wait = (uint16_t)menu_ms;
	const uint16_t cpus = (uint16_t)machine_vcpus(machine), menu = menu_ms != 0;
	/* One byte for each sleep state S0..S5: bit 7 supported, low bits SLP_TYP. */
	const uint8_t states[6] = {0x80, 0, 0, 0, 0, 0x85};
	const uint64_t show_menu = menu;
	uint32_t vga_bytes;
	const uint8_t *vga = vga_rom(machine, &vga_bytes);
	int rc;

	if (fw_cfg_add_u16(machine, FW_CFG_NB_CPUS, cpus) < 0 || fw_cfg_add_u16(machine, FW_CFG_MAX_CPUS, cpus) < 0 ||
	    fw_cfg_add_u16(machine, FW_CFG_NOGRAPHIC, !vga) < 0 || fw_cfg_add_u16(machine, FW_CFG_BOOT_MENU, menu) < 0)
		return add_failed(-ENOMEM, "the number of processors");
	rc = vga ? add_file(machine, VGA_ROM_FILE, vga, vga_bytes) : 0;
	if (rc < 0)
		return rc;
	/* SeaBIOS: its screen also on this serial port; no wait for a key unless a menu is wished for. (OVMF reads these too.) */
	rc = add_file(machine, "etc/sercon-port", &sercon, sizeof(sercon));
	if (rc == 0)
		rc = add_file(machine, "etc/boot-menu-wait", &menu_wait, sizeof(menu_wait));
	if (rc == 0)
		rc = add_file(machine, "etc/show-boot-menu", &show_menu, sizeof(show_menu));
	if (rc == 0)
		rc = add_file(machine, "etc/system-states", states, sizeof(states));
	if (rc == 0)
		rc = add_file(machine, "bootorder", with_kernel ? BOOT_FIRST : "", with_kernel ? sizeof(BOOT_FIRST) : 1);
	return rc;
}

/* ---- a kernel for the firmware to start ------------------------------------- */

/* Where the option ROM puts things. The top of low RAM is the firmware's, for its tables. */
#define SETUP_GPA 0x10000u
#define SETUP_HEAP_END 0xde00u /* offset in the set-up code's segment, below its stack */
#define CMDLINE_GPA 0x20000u
#define KERNEL_GPA 0x100000u
#define FIRMWARE_TOP_BYTES 0x100000u

extern const uint8_t linuxboot_rom[], linuxboot_rom_end[];

static int put_blob(struct machine *machine, uint16_t addr_key, uint32_t addr, uint16_t size_key, uint16_t data_key,
		    const void *data, size_t n, const char *what)
{
	int rc = fw_cfg_add_u32(machine, addr_key, addr);

	if (rc == 0)
		rc = fw_cfg_add_u32(machine, size_key, (uint32_t)n);
	if (rc == 0)
		rc = fw_cfg_add_item(machine, data_key, data, (uint32_t)n);
	return rc < 0 ? add_failed(rc, what) : 0;
}

static int put_initrd(struct machine *machine, const char *path, struct setup_header *header)
{
	struct boot_file initrd;
	struct boot_ram ram;
	uint64_t limit;
	int rc;

	rc = boot_file_open(&initrd, "initrd", path);
	if (rc < 0)
		return rc;
	boot_ram_layout(machine, &ram);
	limit = ram.low_end > FIRMWARE_TOP_BYTES ? ram.low_end - FIRMWARE_TOP_BYTES : 0;
	if (limit > header->initrd_addr_max)
		limit = header->initrd_addr_max;
	if (initrd.size + KERNEL_GPA > limit) {
		rc = boot_fail(-ENOSPC, "initrd %s (%zu KiB) does not fit the VM's memory: give it more", path, initrd.size >> 10);
		goto out;
	}
	rc = boot_file_read(&initrd);
	if (rc < 0)
		goto out;
	header->ramdisk_image = (uint32_t)((limit - initrd.size) & GUEST_PAGE_MASK);
	header->ramdisk_size = (uint32_t)initrd.size;
	rc = put_blob(machine, FW_CFG_INITRD_ADDR, header->ramdisk_image, FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA, initrd.data,
		      initrd.size, "the initrd");
out:
	boot_file_close(&initrd);
	return rc;
}

static uint8_t sum(const uint8_t *bytes, size_t n)
{
	uint8_t s = 0;

	for (size_t i = 0; i < n; i++)
		s = (uint8_t)(s + bytes[i]);
	return s;
}

/* The ROM, with the checksums that a BIOS wants: of its PnP header, and of all. */
static int put_option_rom(struct machine *machine)
{
	uint8_t rom[4096];
	size_t n = (size_t)(linuxboot_rom_end - linuxboot_rom);
	uint16_t pnp;

	BUG_ON(n > sizeof(rom));
	memcpy(rom, linuxboot_rom, n);
	memcpy(&pnp, rom + 0x1a, sizeof(pnp));
	rom[pnp + 9] = (uint8_t)-sum(rom + pnp, rom[pnp + 5] * 16u);
	rom[n - 1] = (uint8_t)-sum(rom, n - 1);
	return add_file(machine, LINUXBOOT_FILE, rom, n);
}

static int put_kernel(struct machine *machine, const struct machine_boot *boot)
{
	const char *cmdline = boot->cmdline ? boot->cmdline : "";
	struct setup_header *header;
	struct boot_file kernel;
	size_t setup = 0;
	int rc;

	rc = boot_file_open(&kernel, "kernel", boot->kernel);
	if (rc < 0)
		return rc;
	rc = boot_file_read(&kernel);
	if (rc < 0)
		goto out;
	if (!bzimage_is(&kernel)) {
		rc = boot_fail(-ENOEXEC, "kernel %s is no bzImage, which is what a firmware starts: leave the firmware away",
			       kernel.path);
		goto out;
	}
	setup = ((kernel.data[0x1f1] ? kernel.data[0x1f1] : 4) + 1u) * 512u;
	if (setup >= kernel.size) {
		rc = boot_fail(-EINVAL, "kernel %s is truncated: copy it again", kernel.path);
		goto out;
	}
	/* Within the file: the set-up code is at least two sectors. */
	header = (struct setup_header *)(void *)(kernel.data + 0x1f1);
	if (strlen(cmdline) > (header->version >= 0x206 ? header->cmdline_size : 255u)) {
		rc = boot_fail(-E2BIG, "the kernel's command line has %zu bytes, more than this kernel takes: shorten it",
			       strlen(cmdline));
		goto out;
	}
	header->type_of_loader = 0xff;
	header->loadflags |= CAN_USE_HEAP;
	header->heap_end_ptr = SETUP_HEAP_END - 0x200;
	header->cmd_line_ptr = CMDLINE_GPA;
	if (boot->initrd) {
		rc = put_initrd(machine, boot->initrd, header);
	} else {
		header->ramdisk_image = 0;
		header->ramdisk_size = 0;
		rc = put_blob(machine, FW_CFG_INITRD_ADDR, 0, FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA, "", 0, "the initrd");
	}
	if (rc == 0)
		rc = put_blob(machine, FW_CFG_SETUP_ADDR, SETUP_GPA, FW_CFG_SETUP_SIZE, FW_CFG_SETUP_DATA, kernel.data, setup,
			      "the kernel's set-up code");
	if (rc == 0)
		rc = put_blob(machine, FW_CFG_KERNEL_ADDR, KERNEL_GPA, FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL_DATA,
			      kernel.data + setup, kernel.size - setup, "the kernel");
	if (rc == 0)
		rc = put_blob(machine, FW_CFG_CMDLINE_ADDR, CMDLINE_GPA, FW_CFG_CMDLINE_SIZE, FW_CFG_CMDLINE_DATA, cmdline,
			      strlen(cmdline) + 1, "the command line");
	if (rc == 0)
		rc = put_option_rom(machine);
out:
	boot_file_close(&kernel);
	return rc;
}

int firmware_boot(struct machine *machine, const struct machine_boot *boot, struct cpu_state *ret_bsp)
{
	struct boot_ram ram;
	int rc;

	boot_ram_layout(machine, &ram);
	rc = put_rom(machine, boot->firmware);
	if (rc == 0 && boot->nvram)
		rc = put_nvram(machine, boot->nvram);
	if (rc == 0)
		rc = put_memory(machine, &ram);
	if (rc == 0)
		rc = put_acpi(machine);
	if (rc == 0)
		rc = put_smbios(machine);
	if (rc == 0)
		rc = put_settings(machine, boot->kernel != NULL, boot->menu_ms);
	if (rc == 0 && boot->kernel)
		rc = put_kernel(machine, boot);
	if (rc < 0)
		return rc;
	/* The reset vector, at the end of the image. */
	cpu_state_reset(ret_bsp, 0);
	return 0;
}
