/* machine_boot(): what is to boot is looked at, and handed to the loader that knows its format. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "machine/boot/private.h"
#include "machine/paravirt.h"

static _Thread_local char error_text[512];

int boot_fail(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error_text, sizeof(error_text), format, args);
	va_end(args);
	return error;
}

const char *boot_error(void) { return error_text; }

/* Opened and read; on an error closed again. */
static int read_file(const struct machine *machine, struct boot_file *file, const char *what, const char *path, bool unpack)
{
	int rc = boot_file_open(file, what, path);

	if (rc < 0)
		return rc;
	if (file->size > machine_ram_bytes(machine))
		rc = boot_fail(-ENOSPC, "%s %s (%zu MiB) is larger than the VM's memory (%llu MiB): give it more memory", what,
			       file->path, file->size >> 20, (unsigned long long)(machine_ram_bytes(machine) >> 20));
	if (rc >= 0)
		rc = boot_file_read(file);
	if (rc >= 0 && unpack)
		rc = boot_file_unpack(file, machine_ram_bytes(machine));
	if (rc < 0)
		boot_file_close(file);
	return rc;
}

int machine_boot_file(const struct machine *machine, const char *what, const char *path, uint8_t **ret_data, size_t *ret_bytes,
		      const char **ret_error)
{
	struct boot_file file;
	int rc = read_file(machine, &file, what, path, false);

	if (rc < 0) {
		*ret_error = boot_error();
		return rc;
	}
	*ret_data = file.data;
	*ret_bytes = file.size;
	file.data = NULL;
	boot_file_close(&file);
	return 0;
}

int machine_kernel_image(const struct machine *machine, const char *path, uint8_t **ret_data, size_t *ret_bytes, const char **ret_error)
{
	struct boot_file file;
	int rc = read_file(machine, &file, "kernel", path, true);

	if (rc >= 0 && bzimage_is(&file))
		rc = bzimage_unpack(&file);
	if (rc < 0) {
		*ret_error = boot_error();
		return rc;
	}
	*ret_data = file.data;
	*ret_bytes = file.size;
	file.data = NULL;
	boot_file_close(&file);
	return 0;
}

static int boot_kernel(struct machine *machine, const struct machine_boot *boot, struct cpu_state *ret_bsp)
{
	struct boot_file kernel;
	int rc = read_file(machine, &kernel, "kernel", boot->kernel, true);

	if (rc < 0)
		return rc;
	if (bzimage_is(&kernel))
		rc = bzimage_boot(machine, &kernel, boot, ret_bsp);
	else if (multiboot_is(&kernel)) /* Xen has both; its PVH entry is for itself underneath */
		rc = multiboot_boot(machine, &kernel, boot, ret_bsp);
	else if (elf_is(&kernel))
		rc = pvh_boot(machine, &kernel, boot, ret_bsp);
	else
		rc = boot_fail(-ENOEXEC,
			       "kernel %s is no kernel trivisor knows: neither a Linux bzImage (vmlinuz), nor an ELF with a PVH note, "
			       "nor a Multiboot kernel",
			       kernel.path);
	boot_file_close(&kernel);
	return rc;
}

int machine_boot(struct machine *machine, const struct machine_boot *boot, struct cpu_state *ret_bsp,
		 const char **ret_error)
{
	int rc;

	error_text[0] = '\0';
	if (boot->module_count > BOOT_MODULES_MAX) {
		rc = boot_fail(-E2BIG, "%u modules are too many: at most %u", boot->module_count, BOOT_MODULES_MAX);
		goto out;
	}
	if (boot->firmware && boot->module_count)
		rc = boot_fail(-EINVAL, "modules are for a kernel that is loaded directly: leave the firmware or the modules away");
	else if (boot->firmware)
		rc = firmware_boot(machine, boot, ret_bsp);
	else if (boot->kernel)
		rc = boot_kernel(machine, boot, ret_bsp);
	else
		rc = boot_fail(-EINVAL, "nothing to boot: give the VM a kernel or a firmware image");
out:
	if (rc < 0)
		*ret_error = boot_error();
	return rc;
}
