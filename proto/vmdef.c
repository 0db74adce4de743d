/* A VM's definition: one table of keys checks it, prints it and describes it. */
#include "proto/vmdef.h"

#include "proto/line.h"
#include "proto/vmdef_private.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char *const mode_names[] = {"auto", "bt", "hvm", "pv", NULL};
static const char *const serial_names[] = {"console", "none", NULL};
static const char *const tools_names[] = {"none", "vmware", NULL};
static const char *const gdb_names[] = {"auto", "i8086", "i386", "x86-64", NULL};
static const char *const reboot_names[] = {"restart", "shutdown", NULL};

static const char *const isolation_names[] = {"vm", "kernel", NULL};
static const char *const set_mode_names[] = {"bt", "hvm", "pv", NULL}; /* 1 << place is enum vmdef_mode less one */

#define AT(member) offsetof(struct vmdef, member)

static const struct field weight_fields[] = {
#define MEASURE(name, operation, native)                                                                               \
	{.key = #name, .type = FIELD_WEIGHT, .offset = AT(policy.weights[VMDEF_WEIGHT_##name]), .what = operation},
#include "proto/measures.def"
#undef MEASURE
};

static const struct field policy_fields[] = {
	{.key = "weights", .type = FIELD_OBJECT, .fields = weight_fields, .field_count = COUNT(weight_fields),
	 .what = "shares of the work, instead of a workload's"},
	{.key = "require", .type = FIELD_SET, .offset = AT(policy.require), .names = set_mode_names,
	 .what = "only these modes"},
	{.key = "forbid", .type = FIELD_SET, .offset = AT(policy.forbid), .names = set_mode_names,
	 .what = "none of these modes"},
	{.key = "isolation", .type = FIELD_ENUM, .offset = AT(policy.isolation), .names = isolation_names,
	 .what = "kernel: also the guest's kernel from its own programs, speculation included"},
	{.key = "passthrough", .type = FIELD_BOOL, .offset = AT(policy.passthrough),
	 .what = "a device of the host will be passed through"},
	{.key = "nested", .type = FIELD_BOOL, .offset = AT(policy.nested), .what = "the guest runs VMs itself"},
	{.key = "migratable", .type = FIELD_BOOL, .offset = AT(policy.migratable),
	 .what = "it must be able to move to another host while it runs"},
};

static const struct field nvram_fields[] = {
	{.key = "path", .type = FIELD_PATH, .offset = AT(boot.nvram.path), .required = true,
	 .what = "this VM's own file, which the firmware writes; made from the template when it is not there"},
	{.key = "template", .type = FIELD_PATH, .offset = AT(boot.nvram.template), .what = "such as OVMF_VARS_4M.fd"},
};

static const struct field boot_fields[] = {
	{.key = "kernel", .type = FIELD_PATH, .offset = AT(boot.kernel), .what = "bzImage, Multiboot kernel, or ELF with a PVH note"},
	{.key = "initrd", .type = FIELD_PATH, .offset = AT(boot.initrd), .what = "initramfs for that kernel"},
	{.key = "cmdline", .type = FIELD_TEXT, .offset = AT(boot.cmdline), .max = VMDEF_CMDLINE_MAX,
	 .what = "that kernel's command line"},
	{.key = "modules", .type = FIELD_MODULES, .what = "files for a Multiboot or PVH kernel, each with a command line of its own"},
	{.key = "firmware", .type = FIELD_PATH, .offset = AT(boot.firmware), .what = "BIOS image"},
	{.key = "nvram", .type = FIELD_OBJECT, .fields = nvram_fields, .field_count = COUNT(nvram_fields),
	 .what = "flash for that firmware's variables"},
	{.key = "menu_ms", .type = FIELD_UINT, .offset = AT(boot.menu_ms), .max = VMDEF_BOOT_MENU_MAX_MS,
	 .what = "milliseconds that the firmware waits for ESC to open its boot menu; 0: it does not"},
};

static const struct field feature_fields[] = {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source)                                                             \
	{.key = #name, .type = FIELD_WISH, .offset = AT(cpu_feature[CPU_FEATURE_##name]), .what = "offer " #name},
#include "proto/cpu_features.def"
#undef CPU_FEATURE
};

static const struct field cpu_fields[] = {
	{.key = "features", .type = FIELD_OBJECT, .fields = feature_fields, .field_count = COUNT(feature_fields),
	 .what = "processor features to offer (true) or to hide (false); what the host or the mode lacks is refused"},
};

static const struct field vm_fields[] = {
	{.key = "name", .type = FIELD_NAME, .offset = AT(name), .required = true, .what = "unique on this host"},
	{.key = "uuid", .type = FIELD_UUID, .offset = AT(uuid), .what = "made up when absent"},
	{.key = "mode", .type = FIELD_ENUM, .offset = AT(mode), .names = mode_names,
	 .what = "how guest code runs; auto lets the policy choose"},
	{.key = "memory_mib", .type = FIELD_UINT, .offset = AT(memory_mib), .min = VMDEF_MEMORY_MIN_MIB,
	 .max = VMDEF_MEMORY_MAX_MIB, .what = "guest RAM"},
	{.key = "current_memory_mib", .type = FIELD_COUNT, .offset = AT(current_memory_mib), .min = VMDEF_MEMORY_MIN_MIB,
	 .max = VMDEF_MEMORY_MAX_MIB, .what = "how much of it the guest has at first; the rest waits in its balloon, for vm.balloon_set"},
	{.key = "balloon", .type = FIELD_OBJECT, .fields = vmdef_balloon_fields, .field_count = VMDEF_BALLOON_FIELDS,
	 .what = "how memory is taken from the guest and given back"},
	{.key = "vcpus", .type = FIELD_UINT, .offset = AT(vcpus), .min = 1, .max = VMDEF_VCPUS_MAX,
	 .what = "virtual processors"},
	{.key = "workload", .type = FIELD_WORD, .offset = AT(workload), .what = "compute, memory, syscall, process, io, mixed or auto: what the guest mostly does"},
	{.key = "boot", .type = FIELD_OBJECT, .fields = boot_fields, .field_count = COUNT(boot_fields), .required = true,
	 .what = "what to boot: a kernel, or firmware"},
	{.key = "disks", .type = FIELD_DISKS, .offset = AT(disks), .what = "disk images and block devices, as virtio-blk"},
	{.key = "passthrough", .type = FIELD_PCI,
	 .what = "PCI devices of the host for this guest alone, such as 0000:03:00.0; mode hvm and an IOMMU are needed"},
	{.key = "nics", .type = FIELD_NICS, .what = "network interfaces, as virtio-net"},
	{.key = "display", .type = FIELD_OBJECT, .fields = vmdef_display_fields, .field_count = VMDEF_DISPLAY_FIELDS,
	 .what = "a screen, with a keyboard and a mouse"},
	{.key = "shares", .type = FIELD_SHARES, .what = "folders of the host, as virtiofs"},
	{.key = "vsock", .type = FIELD_VSOCK, .what = "streams between programs of the guest and of the host, as virtio-vsock"},
	{.key = "serial", .type = FIELD_ENUM, .offset = AT(serial), .names = serial_names,
	 .what = "where the first serial port goes"},
	{.key = "virtio_console", .type = FIELD_BOOL, .offset = AT(virtio_console),
	 .what = "another console for the guest, hvc0: what it writes there is in the console stream too, and what is typed goes there where serial is none"},
	{.key = "guest_agent", .type = FIELD_BOOL, .offset = AT(guest_agent),
	 .what = "a channel for the QEMU guest agent (Debian: qemu-guest-agent), through which vm.guest.* asks the guest"},
	{.key = "channels", .type = FIELD_CHANNELS, .what = "named streams between programs in the guest and sockets of the host"},
	{.key = "console", .type = FIELD_OBJECT, .fields = vmdef_console_fields, .field_count = VMDEF_CONSOLE_FIELDS,
	 .what = "what is kept of the serial port's output"},
	{.key = "smbios", .type = FIELD_OBJECT, .fields = vmdef_smbios_fields, .field_count = VMDEF_SMBIOS_FIELDS,
	 .what = "what the machine calls itself"},
	{.key = "cloud_init", .type = FIELD_OBJECT, .fields = vmdef_cloud_fields, .field_count = VMDEF_CLOUD_FIELDS,
	 .what = "what a cloud's image configures itself by (cloud-init's NoCloud)"},
	{.key = "paravirt", .type = FIELD_TRI, .offset = AT(paravirt), .what = "offer the guest KVM's paravirtual interfaces (docs/paravirt.md); auto is true"},
	{.key = "tools", .type = FIELD_ENUM, .offset = AT(tools), .names = tools_names,
	 .what = "vmware: VMware's backdoor port and its signature in CPUID, for open-vm-tools in the guest"},
	{.key = "guestinfo", .type = FIELD_GUESTINFO,
	 .what = "variables that those tools read as guestinfo.NAME, such as cloud-init's metadata and userdata"},
	{.key = "cpu", .type = FIELD_OBJECT, .fields = cpu_fields, .field_count = COUNT(cpu_fields),
	 .what = "the processor that the guest sees"},
	{.key = "on_reboot", .type = FIELD_ENUM, .offset = AT(on_reboot), .names = reboot_names,
	 .what = "what a guest's reset does"},
	{.key = "autostart", .type = FIELD_BOOL, .offset = AT(autostart), .what = "start it with the host"},
	{.key = "title", .type = FIELD_TEXT, .offset = AT(title), .max = VMDEF_TITLE_MAX, .what = "a line for people"},
	{.key = "description", .type = FIELD_PROSE, .offset = AT(description), .max = VMDEF_DESCRIPTION_MAX,
	 .what = "a text for people"},
	{.key = "libvirt_xml", .type = FIELD_PROSE, .offset = AT(libvirt_xml), .max = VMDEF_LIBVIRT_XML_MAX,
	 .what = "the domain XML it was defined with: what has no key of its own is kept there"},
	{.key = "gdb", .type = FIELD_SOCKET, .offset = AT(gdb),
	 .what = "a socket for GDB's target remote: a path, or true for gdb.sock in the VM's directory"},
	{.key = "gdb_architecture", .type = FIELD_ENUM, .offset = AT(gdb_architecture), .names = gdb_names,
	 .what = "what GDB is told; auto goes by the mode that the first vCPU is in"},
	{.key = "start_paused", .type = FIELD_BOOL, .offset = AT(start_paused),
	 .what = "wait for a resume, or for GDB, before the first instruction"},
	{.key = "policy", .type = FIELD_OBJECT, .fields = policy_fields, .field_count = COUNT(policy_fields),
	 .what = "wishes about the choice of a mode"},
	{.key = "perf_map", .type = FIELD_BOOL, .offset = AT(perf_map),
	 .what = "let perf(1) find names for translated code (vm.perf_map writes them)"},
	{.key = "debug_exit", .type = FIELD_BOOL, .offset = AT(debug_exit), .what = "port 0xf4 ends the VM"},
	{.key = "debug_console", .type = FIELD_BOOL, .offset = AT(debug_console),
	 .what = "port 0xe9 writes to the console"},
};

static const char *const module_keys[] = {"path", "cmdline"};

int vmdef_refuse(char *ret_error, const char *path, const char *format, ...)
{
	int n = snprintf(ret_error, VMDEF_ERROR_BYTES, "%s%s", path, *path ? ": " : "");
	if (n < 0 || n >= VMDEF_ERROR_BYTES)
		return -EINVAL;
	va_list ap;
	va_start(ap, format);
	vsnprintf(ret_error + n, (size_t)(VMDEF_ERROR_BYTES - n), format, ap);
	va_end(ap);
	return -EINVAL;
}

const char *vmdef_type_of(struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null: return "null";
	case json_type_boolean: return "a boolean";
	case json_type_double: return "a fraction";
	case json_type_int: return "a number";
	case json_type_object: return "an object";
	case json_type_array: return "an array";
	case json_type_string: return "a string";
	}
	return "something else";
}

/* ---- single values ------------------------------------------------------ */

/* A string without NULs and control characters (but those of prose), at most `max` bytes. */
static int get_text(struct json_object *value, const char *path, size_t max, bool prose, const char **ret,
		    char *ret_error)
{
	if (!json_object_is_type(value, json_type_string))
		return vmdef_refuse(ret_error, path, "a string is wanted, not %s", vmdef_type_of(value));
	const char *text = json_object_get_string(value);
	size_t bytes = (size_t)json_object_get_string_len(value);
	if (bytes > max)
		return vmdef_refuse(ret_error, path, "%zu bytes are too long; at most %zu", bytes, max);
	for (size_t i = 0; i < bytes; i++)
		if (iscntrl((unsigned char)text[i]) && !(prose && strchr("\t\r\n", text[i]) && text[i]))
			return vmdef_refuse(ret_error, path, "a control character (0x%02x) at byte %zu", (unsigned char)text[i],
				      i);
	*ret = text;
	return 0;
}

static int get_string(struct json_object *value, const char *path, size_t max, const char **ret, char *ret_error)
{
	return get_text(value, path, max, false, ret, ret_error);
}

static int set_text(struct json_object *value, const char *path, size_t max, enum field_type type, char **field,
		    char *ret_error)
{
	const char *text;
	int rc = get_text(value, path, max, type == FIELD_PROSE, &text, ret_error);
	if (rc)
		return rc;
	if (type == FIELD_PATH && text[0] != '/')
		return vmdef_refuse(ret_error, path, "\"%s\" is not an absolute path", text);
	char *copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

bool vmdef_name_valid(const char *name, char *ret_error)
{
	const char *rule = "names are 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit";
	size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
	if (!n || name[n] || n > VMDEF_NAME_MAX || !isalnum((unsigned char)name[0])) {
		snprintf(ret_error, VMDEF_ERROR_BYTES, "\"%.80s\" cannot be a VM's name: %s", name, rule);
		return false;
	}
	/* Commands take a name or a UUID. */
	if (vmdef_uuid_valid(name)) {
		snprintf(ret_error, VMDEF_ERROR_BYTES, "\"%s\" cannot be a VM's name: it looks like a UUID", name);
		return false;
	}
	return true;
}

bool vmdef_uuid_valid(const char *uuid)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	for (size_t i = 0; i < sizeof(form); i++) {
		bool ok = form[i] == 'x' ? isxdigit((unsigned char)uuid[i]) : uuid[i] == form[i];
		if (!ok)
			return false;
	}
	return true;
}

int vmdef_uuid_generate(char ret_uuid[VMDEF_UUID_BYTES])
{
	uint8_t b[16];
	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return errno ? -errno : -EIO;
	b[6] = (b[6] & 0x0f) | 0x40; /* RFC 9562: version 4, */
	b[8] = (b[8] & 0x3f) | 0x80; /* variant 10 */
	snprintf(ret_uuid, VMDEF_UUID_BYTES,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4],
		 b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	return 0;
}

static void join_names(char *ret, size_t bytes, const char *const *names)
{
	size_t n = 0;
	ret[0] = '\0';
	for (size_t i = 0; names[i] && n < bytes; i++)
		n += (size_t)snprintf(ret + n, bytes - n, "%s%s", i ? ", " : "", names[i]);
}

static int parse_enum(struct json_object *value, const char *path, const char *const *names, int *ret,
		      char *ret_error)
{
	char known[256];
	join_names(known, sizeof(known), names);
	const char *text;
	int rc = get_string(value, path, 256, &text, ret_error);
	if (rc)
		return rc;
	for (int i = 0; names[i]; i++)
		if (!strcmp(names[i], text)) {
			*ret = i;
			return 0;
		}
	return vmdef_refuse(ret_error, path, "\"%s\" is not known; known: %s", text, known);
}

static int parse_uint(struct json_object *value, const char *path, const struct field *f, unsigned *ret,
		      char *ret_error)
{
	if (!json_object_is_type(value, json_type_int))
		return vmdef_refuse(ret_error, path, "a whole number from %u to %u is wanted, not %s", f->min, f->max,
			      vmdef_type_of(value));
	int64_t n = json_object_get_int64(value);
	if (n < (int64_t)f->min || n > (int64_t)f->max)
		return vmdef_refuse(ret_error, path, "%lld is out of range; from %u to %u", (long long)n, f->min, f->max);
	*ret = (unsigned)n;
	return 0;
}

static int parse_bool(struct json_object *value, const char *path, bool *ret, char *ret_error)
{
	if (!json_object_is_type(value, json_type_boolean))
		return vmdef_refuse(ret_error, path, "true or false is wanted, not %s", vmdef_type_of(value));
	*ret = json_object_get_boolean(value);
	return 0;
}

static int parse_tristate(struct json_object *value, const char *path, enum vmdef_tristate *ret, char *ret_error)
{
	if (json_object_is_type(value, json_type_boolean))
		*ret = json_object_get_boolean(value) ? VMDEF_YES : VMDEF_NO;
	else if (json_object_is_type(value, json_type_string) && !strcmp(json_object_get_string(value), "auto"))
		*ret = VMDEF_AUTO;
	else
		return vmdef_refuse(ret_error, path, "true, false or \"auto\" is wanted");
	return 0;
}

static int parse_name(struct json_object *value, const char *path, char *ret, char *ret_error)
{
	const char *text;
	int rc = get_string(value, path, 4096, &text, ret_error);
	if (rc)
		return rc;
	char why[VMDEF_ERROR_BYTES];
	if (!vmdef_name_valid(text, why))
		return vmdef_refuse(ret_error, path, "%s", why);
	strcpy(ret, text);
	return 0;
}

static int parse_uuid(struct json_object *value, const char *path, char *ret, char *ret_error)
{
	const char *text;
	int rc = get_string(value, path, 256, &text, ret_error);
	if (rc)
		return rc;
	if (!vmdef_uuid_valid(text))
		return vmdef_refuse(ret_error, path, "\"%s\" is not a UUID such as 2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab", text);
	for (size_t i = 0; i < VMDEF_UUID_BYTES; i++)
		ret[i] = (char)tolower((unsigned char)text[i]);
	return 0;
}

static int parse_word(struct json_object *value, const char *path, char *ret, char *ret_error)
{
	const char *text;
	int rc = get_string(value, path, VMDEF_WORD_MAX, &text, ret_error);
	if (rc)
		return rc;
	if (text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-")])
		return vmdef_refuse(ret_error, path, "\"%s\" is not a word of a-z 0-9 _ -", text);
	strcpy(ret, text);
	return 0;
}

static int parse_socket(struct json_object *value, const char *path, char **field, char *ret_error)
{
	if (json_object_is_type(value, json_type_boolean)) {
		char *text = json_object_get_boolean(value) ? strdup("") : NULL;
		if (!text && json_object_get_boolean(value))
			return -ENOMEM;
		free(*field);
		*field = text;
		return 0;
	}
	if (!json_object_is_type(value, json_type_string))
		return vmdef_refuse(ret_error, path, "true, false or a socket's absolute path is wanted, not %s", vmdef_type_of(value));
	return set_text(value, path, PATH_MAX - 1, FIELD_PATH, field, ret_error);
}

static int parse_weight(struct json_object *value, const char *path, double *ret, char *ret_error)
{
	if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
		return vmdef_refuse(ret_error, path, "a number from 0 to 1000 is wanted, not %s", vmdef_type_of(value));
	double n = json_object_get_double(value);
	if (!(n >= 0 && n <= 1000))
		return vmdef_refuse(ret_error, path, "%g is out of range; from 0 to 1000", n);
	*ret = n;
	return 0;
}

static int parse_set(struct json_object *value, const char *path, const char *const *names, unsigned *ret,
		     char *ret_error)
{
	unsigned set = 0;
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array of names is wanted, not %s", vmdef_type_of(value));
	for (size_t i = 0; i < json_object_array_length(value); i++) {
		char where[300];
		int place;
		snprintf(where, sizeof(where), "%s[%zu]", path, i);
		int rc = parse_enum(json_object_array_get_idx(value, i), where, names, &place, ret_error);
		if (rc)
			return rc;
		set |= 1u << place;
	}
	*ret = set;
	return 0;
}

/* ---- objects ------------------------------------------------------------- */

static int parse_module(struct json_object *value, const char *path, struct vmdef_module *module, char *ret_error)
{
	if (!json_object_is_type(value, json_type_object))
		return vmdef_refuse(ret_error, path, "an object such as {\"path\":\"/module\",\"cmdline\":\"\"} is wanted, not %s",
			      vmdef_type_of(value));
	json_object_object_foreach(value, key, item) {
		char where[400];
		snprintf(where, sizeof(where), "%s.%.80s", path, key);
		int rc;
		if (!strcmp(key, module_keys[0]))
			rc = set_text(item, where, PATH_MAX - 1, FIELD_PATH, &module->path, ret_error);
		else if (!strcmp(key, module_keys[1]))
			rc = set_text(item, where, VMDEF_CMDLINE_MAX, FIELD_TEXT, &module->cmdline, ret_error);
		else
			rc = vmdef_refuse(ret_error, where, "unknown key; known: path, cmdline");
		if (rc)
			return rc;
	}
	if (!module->path)
		return vmdef_refuse(ret_error, path, "the key path is missing");
	return 0;
}

static int parse_modules(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	size_t n = json_object_array_length(value);
	if (n > VMDEF_MODULES_MAX)
		return vmdef_refuse(ret_error, path, "%zu modules are too many; at most %d", n, VMDEF_MODULES_MAX);
	for (size_t i = 0; i < n; i++) {
		char where[280];
		snprintf(where, sizeof(where), "%s[%zu]", path, i);
		def->boot.module_count = (unsigned)i + 1;
		int rc = parse_module(json_object_array_get_idx(value, i), where, &def->boot.modules[i], ret_error);
		if (rc)
			return rc;
	}
	return 0;
}

static int parse_pci(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	size_t n = json_object_array_length(value);
	if (n > VMDEF_PASSTHROUGH_MAX)
		return vmdef_refuse(ret_error, path, "%zu devices are too many; at most %d", n, VMDEF_PASSTHROUGH_MAX);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(value, i);
		char where[280];
		snprintf(where, sizeof(where), "%s[%zu]", path, i);
		if (!json_object_is_type(item, json_type_string))
			return vmdef_refuse(ret_error, where, "a PCI address such as \"0000:03:00.0\" is wanted, not %s", vmdef_type_of(item));
		const char *text = json_object_get_string(item);
		if (!pci_address_parse(text, def->passthrough[i]))
			return vmdef_refuse(ret_error, where, "\"%.40s\" is no PCI address such as 0000:03:00.0 (lspci -D lists them)", text);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(def->passthrough[k], def->passthrough[i]))
				return vmdef_refuse(ret_error, where, "%s is there twice", def->passthrough[i]);
		def->passthrough_count = (unsigned)i + 1;
	}
	return 0;
}

/* base: the structure that the offsets are of; for lists, the definition. */
static int parse_field(struct json_object *value, const char *path, const struct field *f, void *base,
		       char *ret_error)
{
	void *at = (char *)base + f->offset;
	switch (f->type) {
	case FIELD_NAME: return parse_name(value, path, at, ret_error);
	case FIELD_UUID: return parse_uuid(value, path, at, ret_error);
	case FIELD_WORD: return parse_word(value, path, at, ret_error);
	case FIELD_UINT:
	case FIELD_COUNT: return parse_uint(value, path, f, at, ret_error);
	case FIELD_BOOL: return parse_bool(value, path, at, ret_error);
	case FIELD_WISH:
	case FIELD_TRI: return parse_tristate(value, path, at, ret_error);
	case FIELD_ENUM: return parse_enum(value, path, f->names, at, ret_error);
	case FIELD_PATH: return set_text(value, path, PATH_MAX - 1, f->type, at, ret_error);
	case FIELD_TEXT:
	case FIELD_PROSE: return set_text(value, path, f->max, f->type, at, ret_error);
	case FIELD_SOCKET: return parse_socket(value, path, at, ret_error);
	case FIELD_OBJECT: return vmdef_parse_object(value, path, f->fields, f->field_count, base, ret_error);
	case FIELD_DISKS: return vmdef_parse_disks(value, path, base, ret_error);
	case FIELD_MODULES: return parse_modules(value, path, base, ret_error);
	case FIELD_PCI: return parse_pci(value, path, base, ret_error);
	case FIELD_OEM: return vmdef_parse_oem(value, path, base, ret_error);
	case FIELD_NICS: return vmdef_parse_nics(value, path, base, ret_error);
	case FIELD_CHANNELS: return vmdef_parse_channels(value, path, base, ret_error);
	case FIELD_VSOCK: return vmdef_parse_vsock(value, path, base, ret_error);
	case FIELD_SHARES: return vmdef_parse_shares(value, path, base, ret_error);
	case FIELD_GUESTINFO: return vmdef_parse_guestinfo(value, path, base, ret_error);
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_INTERFACE:
	case FIELD_SUBNET: return vmdef_parse_address(value, path, f, at, ret_error);
	case FIELD_WEIGHT: return parse_weight(value, path, at, ret_error);
	case FIELD_SET: return parse_set(value, path, f->names, at, ret_error);
	}
	return -EINVAL;
}

static const struct field *find_field(const struct field *fields, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(fields[i].key, key))
			return &fields[i];
	return NULL;
}

static int refuse_key(const char *path, const struct field *fields, size_t count, char *ret_error)
{
	char known[512];
	size_t n = 0;
	for (size_t i = 0; i < count && n < sizeof(known); i++)
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", fields[i].key);
	return vmdef_refuse(ret_error, path, "unknown key; known: %s", known);
}

int vmdef_parse_object(struct json_object *json, const char *path, const struct field *fields, size_t count, void *base,
		       char *ret_error)
{
	if (!json_object_is_type(json, json_type_object))
		return vmdef_refuse(ret_error, path, "%san object is wanted, not %s", *path ? "" : "a VM's definition: ",
			      vmdef_type_of(json));
	json_object_object_foreach(json, key, value) {
		char where[256];
		snprintf(where, sizeof(where), "%s%s%.80s", path, *path ? "." : "", key);
		const struct field *f = find_field(fields, count, key);
		int rc = f ? parse_field(value, where, f, base, ret_error) : refuse_key(where, fields, count, ret_error);
		if (rc)
			return rc;
	}
	for (size_t i = 0; i < count; i++)
		if (fields[i].required && !json_object_object_get_ex(json, fields[i].key, NULL))
			return vmdef_refuse(ret_error, path, "the key %s is missing", fields[i].key);
	return 0;
}

/* What no single key shows. */
static int check_whole(struct vmdef *def, char *ret_error)
{
	if (def->passthrough_count && (def->mode == VMDEF_MODE_BT || def->mode == VMDEF_MODE_PV))
		return vmdef_refuse(ret_error, "passthrough", "mode %s cannot pass a device through: mode hvm or auto is needed", vmdef_mode_name(def->mode));
	if (def->policy.require && !(def->policy.require & ~def->policy.forbid))
		return vmdef_refuse(ret_error, "policy", "every mode that is required is forbidden too");
	if (!def->boot.kernel && !def->boot.firmware)
		return vmdef_refuse(ret_error, "boot", "nothing to boot: give kernel or firmware");
	if (!def->boot.kernel && def->boot.initrd)
		return vmdef_refuse(ret_error, "boot.initrd", "an initrd needs boot.kernel");
	if (!def->boot.kernel && def->boot.cmdline)
		return vmdef_refuse(ret_error, "boot.cmdline", "a command line needs boot.kernel");
	if (def->boot.module_count && (!def->boot.kernel || def->boot.firmware))
		return vmdef_refuse(ret_error, "boot.modules", "modules need boot.kernel without boot.firmware");
	int rc = vmdef_check_nics(def, ret_error);
	if (!rc)
		rc = vmdef_check_display(def, ret_error);
	if (!rc)
		rc = vmdef_check_guest(def, ret_error);
	if (rc)
		return rc;
	if (def->boot.nvram.path && !def->boot.firmware)
		return vmdef_refuse(ret_error, "boot.nvram", "a firmware's variables need boot.firmware");
	if (def->guestinfo_count && def->tools != VMDEF_TOOLS_VMWARE)
		return vmdef_refuse(ret_error, "guestinfo", "its reader is the guest's tools: set tools to vmware");
	if (def->boot.menu_ms && !def->boot.firmware)
		return vmdef_refuse(ret_error, "boot.menu_ms", "a boot menu is the firmware's: it needs boot.firmware");
	return 0;
}

int vmdef_from_json(struct json_object *json, struct vmdef **ret_def, char *ret_error)
{
	struct vmdef *def = calloc(1, sizeof(*def));
	if (!def) {
		snprintf(ret_error, VMDEF_ERROR_BYTES, "out of memory");
		return -ENOMEM;
	}
	def->memory_mib = 512;
	def->vcpus = 1;
	int rc = vmdef_parse_object(json, "", vm_fields, COUNT(vm_fields), def, ret_error);
	if (!rc)
		rc = check_whole(def, ret_error);
	if (!rc && !def->uuid[0])
		rc = vmdef_uuid_generate(def->uuid);
	if (!rc) {
		vmdef_fill_macs(def);
		vmdef_fill_cid(def);
	}
	if (rc) {
		if (rc != -EINVAL)
			snprintf(ret_error, VMDEF_ERROR_BYTES, "%s", strerror(-rc));
		vmdef_free(def);
		return rc;
	}
	*ret_def = def;
	return 0;
}

int vmdef_from_text(const char *text, size_t bytes, struct vmdef **ret_def, char *ret_error)
{
	struct json_object *json = NULL;
	const char *why;
	if (bytes > VMDEF_JSON_MAX)
		return vmdef_refuse(ret_error, "", "%zu bytes are too long for a definition; at most %zu", bytes,
			      VMDEF_JSON_MAX);
	if (line_parse_json(text, bytes, &json, &why))
		return vmdef_refuse(ret_error, "", "this is not JSON: %s", why);
	int rc = vmdef_from_json(json, ret_def, ret_error);
	json_object_put(json);
	return rc;
}

void vmdef_free(struct vmdef *def)
{
	if (!def)
		return;
	free(def->boot.kernel);
	free(def->boot.initrd);
	free(def->boot.cmdline);
	free(def->boot.firmware);
	free(def->gdb);
	free(def->boot.nvram.path);
	free(def->boot.nvram.template);
	for (unsigned i = 0; i < def->boot.module_count; i++) {
		free(def->boot.modules[i].path);
		free(def->boot.modules[i].cmdline);
	}
	free(def->title);
	free(def->description);
	free(def->libvirt_xml);
	free(def->display.rom);
	free(def->display.vnc.socket);
	free(def->display.vnc.password);
	vmdef_free_disks(def);
	vmdef_free_system(def);
	vmdef_free_nics(def);
	vmdef_free_channels(def);
	vmdef_free_shares(def);
	vmdef_free_guestinfo(def);
	free(def);
}

const char *vmdef_mode_name(enum vmdef_mode mode)
{
	return (unsigned)mode < COUNT(mode_names) - 1 ? mode_names[mode] : "unknown";
}

/* ---- back to JSON --------------------------------------------------------- */

bool vmdef_add(struct json_object *to, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(to, key, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

static struct json_object *modules_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();
	for (unsigned i = 0; list && i < def->boot.module_count; i++) {
		const struct vmdef_module *m = &def->boot.modules[i];
		struct json_object *module = json_object_new_object();
		if (!module || !vmdef_add(module, module_keys[0], json_object_new_string(m->path)) ||
		    (m->cmdline && !vmdef_add(module, module_keys[1], json_object_new_string(m->cmdline))) ||
		    json_object_array_add(list, module) < 0) {
			json_object_put(module);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

static struct json_object *pci_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();
	for (unsigned i = 0; list && i < def->passthrough_count; i++)
		json_object_array_add(list, json_object_new_string(def->passthrough[i]));
	return list;
}

static struct json_object *set_to_json(unsigned set, const char *const *names)
{
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; list && names[i]; i++)
		if (set >> i & 1)
			json_object_array_add(list, json_object_new_string(names[i]));
	return list;
}

static struct json_object *field_to_json(const void *base, const struct field *f)
{
	const void *at = (const char *)base + f->offset;
	switch (f->type) {
	case FIELD_NAME:
	case FIELD_UUID:
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_INTERFACE:
	case FIELD_SUBNET:
	case FIELD_WORD: return json_object_new_string(at);
	case FIELD_COUNT:
	case FIELD_UINT: return json_object_new_int64(*(const unsigned *)at);
	case FIELD_BOOL: return json_object_new_boolean(*(const bool *)at);
	case FIELD_WISH:
	case FIELD_TRI:
		if (*(const enum vmdef_tristate *)at == VMDEF_AUTO)
			return json_object_new_string("auto");
		return json_object_new_boolean(*(const enum vmdef_tristate *)at == VMDEF_YES);
	case FIELD_ENUM: return json_object_new_string(f->names[*(const int *)at]);
	case FIELD_PATH:
	case FIELD_PROSE:
	case FIELD_TEXT: return json_object_new_string(*(char *const *)at);
	case FIELD_SOCKET:
		return **(char *const *)at ? json_object_new_string(*(char *const *)at) : json_object_new_boolean(true);
	case FIELD_OBJECT: return vmdef_object_to_json(base, f->fields, f->field_count);
	case FIELD_DISKS: return vmdef_disks_to_json(base);
	case FIELD_MODULES: return modules_to_json(base);
	case FIELD_PCI: return pci_to_json(base);
	case FIELD_OEM: return vmdef_oem_to_json(base);
	case FIELD_NICS: return vmdef_nics_to_json(base);
	case FIELD_CHANNELS: return vmdef_channels_to_json(base);
	case FIELD_VSOCK: return vmdef_vsock_to_json(base);
	case FIELD_SHARES: return vmdef_shares_to_json(base);
	case FIELD_GUESTINFO: return vmdef_guestinfo_to_json(base);
	case FIELD_WEIGHT: return json_object_new_double(*(const double *)at);
	case FIELD_SET: return set_to_json(*(const unsigned *)at, f->names);
	}
	return NULL;
}

/* A choice that is what it would be without a word. */
static bool is_first(const void *base, const struct field *f)
{
	const void *at = (const char *)base + f->offset;
	return (f->type == FIELD_BOOL && !*(const bool *)at) || (f->type == FIELD_ENUM && !*(const int *)at);
}

static bool is_absent(const void *base, const struct field *f)
{
	const void *at = (const char *)base + f->offset;
	const struct vmdef *def = base; /* for lists */
	switch (f->type) {
	case FIELD_PATH:
	case FIELD_TEXT:
	case FIELD_PROSE:
	case FIELD_SOCKET: return !*(char *const *)at;
	case FIELD_MODULES: return !def->boot.module_count;
	case FIELD_UINT: return !f->min && !*(const unsigned *)at;
	case FIELD_PCI: return !def->passthrough_count;
	case FIELD_OEM: return !def->smbios.oem_count;
	case FIELD_CHANNELS: return !def->channel_count;
	case FIELD_VSOCK: return !def->vsock.present;
	case FIELD_SHARES: return !def->share_count;
	case FIELD_GUESTINFO: return !def->guestinfo_count;
	case FIELD_WISH: return *(const enum vmdef_tristate *)at == VMDEF_AUTO;
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_INTERFACE:
	case FIELD_SUBNET:
	case FIELD_WORD: return !*(const char *)at;
	case FIELD_COUNT: return !*(const unsigned *)at;
	case FIELD_WEIGHT: return *(const double *)at <= 0;
	case FIELD_SET: return !*(const unsigned *)at;
	case FIELD_OBJECT:
		for (size_t i = 0; i < f->field_count; i++)
			if (f->required || !(is_absent(base, &f->fields[i]) || is_first(base, &f->fields[i])))
				return false;
		return true;
	default: return false;
	}
}

struct json_object *vmdef_object_to_json(const void *base, const struct field *fields, size_t count)
{
	struct json_object *json = json_object_new_object();
	for (size_t i = 0; json && i < count; i++)
		if (!is_absent(base, &fields[i]) && !vmdef_add(json, fields[i].key, field_to_json(base, &fields[i]))) {
			json_object_put(json);
			return NULL;
		}
	return json;
}

struct json_object *vmdef_to_json(const struct vmdef *def)
{
	return vmdef_object_to_json(def, vm_fields, COUNT(vm_fields));
}

/* ---- the schema ------------------------------------------------------------ */

static struct json_object *names_to_json(const char *const *names)
{
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; list && names[i]; i++)
		json_object_array_add(list, json_object_new_string(names[i]));
	return list;
}

static struct json_object *modules_item_schema(void)
{
	struct json_object *schema =
		json_tokener_parse("{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"path\"],"
				   "\"properties\":{\"path\":{\"type\":\"string\",\"pattern\":\"^/\"},"
				   "\"cmdline\":{\"type\":\"string\"}}}");
	struct json_object *properties = NULL, *cmdline = NULL;
	if (json_object_object_get_ex(schema, "properties", &properties) &&
	    json_object_object_get_ex(properties, "cmdline", &cmdline))
		vmdef_add(cmdline, "maxLength", json_object_new_int(VMDEF_CMDLINE_MAX));
	return schema;
}

static void describe_type(struct json_object *s, const struct field *f)
{
	switch (f->type) {
	case FIELD_NAME:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "pattern", json_object_new_string("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"));
		break;
	case FIELD_UUID:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "format", json_object_new_string("uuid"));
		break;
	case FIELD_WORD:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "pattern", json_object_new_string("^[a-z0-9_-]{0,32}$"));
		break;
	case FIELD_COUNT:
	case FIELD_UINT:
		vmdef_add(s, "type", json_object_new_string("integer"));
		vmdef_add(s, "minimum", json_object_new_int64(f->min));
		vmdef_add(s, "maximum", json_object_new_int64(f->max));
		break;
	case FIELD_BOOL: vmdef_add(s, "type", json_object_new_string("boolean")); break;
	case FIELD_WISH:
	case FIELD_TRI: vmdef_add(s, "enum", json_tokener_parse("[true,false,\"auto\"]")); break;
	case FIELD_ENUM: vmdef_add(s, "enum", names_to_json(f->names)); break;
	case FIELD_PATH:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "pattern", json_object_new_string("^/"));
		break;
	case FIELD_PROSE:
	case FIELD_TEXT:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "maxLength", json_object_new_int64(f->max));
		break;
	case FIELD_SOCKET:
		vmdef_add(s, "oneOf", json_tokener_parse("[{\"type\":\"boolean\"},{\"type\":\"string\",\"pattern\":\"^/\"}]"));
		break;
	case FIELD_OBJECT: break;
	case FIELD_DISKS:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_DISKS_MAX));
		vmdef_add(s, "items", vmdef_disks_item_schema());
		break;
	case FIELD_MODULES:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_MODULES_MAX));
		vmdef_add(s, "items", modules_item_schema());
		break;
	case FIELD_PCI:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_PASSTHROUGH_MAX));
		vmdef_add(s, "items", json_tokener_parse("{\"type\":\"string\",\"pattern\":\"^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F][.][0-7]$\"}"));
		break;
	case FIELD_GUESTINFO:
		vmdef_add(s, "type", json_object_new_string("object"));
		vmdef_add(s, "maxProperties", json_object_new_int(VMDEF_VARIABLES_MAX));
		vmdef_add(s, "additionalProperties", json_tokener_parse("{\"type\":\"string\"}"));
		break;
	case FIELD_OEM:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(SMBIOS_OEM_MAX));
		vmdef_add(s, "items", json_tokener_parse("{\"type\":\"string\",\"minLength\":1}"));
		break;
	case FIELD_NICS:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_NICS_MAX));
		vmdef_add(s, "items", vmdef_nics_item_schema());
		break;
	case FIELD_CHANNELS:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_CHANNELS_MAX));
		vmdef_add(s, "items", vmdef_channels_item_schema());
		break;
	case FIELD_VSOCK: vmdef_add(s, "oneOf", vmdef_vsock_schema()); break;
	case FIELD_SHARES:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "maxItems", json_object_new_int(VMDEF_SHARES_MAX));
		vmdef_add(s, "items", vmdef_shares_item_schema());
		break;
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_INTERFACE:
	case FIELD_SUBNET:
		vmdef_add(s, "type", json_object_new_string("string"));
		vmdef_add(s, "pattern", json_object_new_string(vmdef_address_pattern(f->type)));
		break;
	case FIELD_WEIGHT:
		vmdef_add(s, "type", json_object_new_string("number"));
		vmdef_add(s, "minimum", json_object_new_int(0));
		vmdef_add(s, "maximum", json_object_new_int(1000));
		break;
	case FIELD_SET:
		vmdef_add(s, "type", json_object_new_string("array"));
		vmdef_add(s, "items", json_object_new_object());
		vmdef_add(json_object_object_get(s, "items"), "enum", names_to_json(f->names));
		break;
	}
}

struct json_object *vmdef_object_schema(const struct field *fields, size_t count)
{
	struct json_object *schema = json_object_new_object(), *properties = json_object_new_object();
	struct json_object *required = json_object_new_array();
	vmdef_add(schema, "type", json_object_new_string("object"));
	for (size_t i = 0; i < count; i++) {
		const struct field *f = &fields[i];
		struct json_object *s =
			f->type == FIELD_OBJECT ? vmdef_object_schema(f->fields, f->field_count) : json_object_new_object();
		describe_type(s, f);
		vmdef_add(s, "description", json_object_new_string(f->what));
		vmdef_add(properties, f->key, s);
		if (f->required)
			json_object_array_add(required, json_object_new_string(f->key));
	}
	vmdef_add(schema, "properties", properties);
	vmdef_add(schema, "required", required);
	vmdef_add(schema, "additionalProperties", json_object_new_boolean(false));
	return schema;
}

struct json_object *vmdef_schema(void)
{
	return vmdef_object_schema(vm_fields, COUNT(vm_fields));
}
