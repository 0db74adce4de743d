/* Keys of a definition around the machine: its console, what it calls itself, and what configures a cloud's image in it. */
#include "proto/vmdef_private.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct vmdef, member)

const struct field vmdef_console_fields[VMDEF_CONSOLE_FIELDS] = {
	{.key = "scrollback_kib", .type = FIELD_COUNT, .offset = AT(console.scrollback_kib), .min = 4, .max = VMDEF_SCROLLBACK_MAX_KIB,
	 .what = "how much of its output is kept for those who come later; 256 when absent"},
	{.key = "log", .type = FIELD_PATH, .offset = AT(console.log), .what = "a file that gets its output too"},
	{.key = "log_kib", .type = FIELD_COUNT, .offset = AT(console.log_kib), .min = 4, .max = VMDEF_CONSOLE_LOG_MAX_KIB,
	 .what = "how large that file may become before its older half goes; 2048 when absent"},
	{.key = "log_append", .type = FIELD_BOOL, .offset = AT(console.log_append), .what = "a start adds to that file; else it begins anew"},
};

/* ---- SMBIOS ---- */

#define TEXT_FIELD(section, k, element)                                                                                \
	{.key = #k, .type = FIELD_TEXT, .offset = AT(smbios.text[SMBIOS_##section##_##k]), .max = SMBIOS_TEXT_MAX,      \
	 .what = "SMBIOS: " element "'s " #k}

static const struct field bios_fields[] = {TEXT_FIELD(bios, vendor, "firmware"), TEXT_FIELD(bios, version, "firmware"),
					   TEXT_FIELD(bios, date, "firmware")};
static const struct field system_fields[] = {TEXT_FIELD(system, manufacturer, "machine"), TEXT_FIELD(system, product, "machine"),
					     TEXT_FIELD(system, version, "machine"),	  TEXT_FIELD(system, serial, "machine"),
					     TEXT_FIELD(system, sku, "machine"),	  TEXT_FIELD(system, family, "machine")};
static const struct field board_fields[] = {TEXT_FIELD(board, manufacturer, "board"), TEXT_FIELD(board, product, "board"),
					    TEXT_FIELD(board, version, "board"),      TEXT_FIELD(board, serial, "board"),
					    TEXT_FIELD(board, asset, "board"),	      TEXT_FIELD(board, location, "board")};
static const struct field chassis_fields[] = {TEXT_FIELD(chassis, manufacturer, "chassis"), TEXT_FIELD(chassis, version, "chassis"),
					      TEXT_FIELD(chassis, serial, "chassis"), TEXT_FIELD(chassis, asset, "chassis"),
					      TEXT_FIELD(chassis, sku, "chassis")};
_Static_assert(COUNT(bios_fields) + COUNT(system_fields) + COUNT(board_fields) + COUNT(chassis_fields) == SMBIOS_TEXTS,
	       "every text has a key");

const struct field vmdef_smbios_fields[VMDEF_SMBIOS_FIELDS] = {
	{.key = "bios", .type = FIELD_OBJECT, .fields = bios_fields, .field_count = COUNT(bios_fields), .what = "of the firmware"},
	{.key = "system", .type = FIELD_OBJECT, .fields = system_fields, .field_count = COUNT(system_fields),
	 .what = "of the machine; cloud-init reads a serial such as ds=nocloud;s=http://host/dir/"},
	{.key = "board", .type = FIELD_OBJECT, .fields = board_fields, .field_count = COUNT(board_fields), .what = "of its board"},
	{.key = "chassis", .type = FIELD_OBJECT, .fields = chassis_fields, .field_count = COUNT(chassis_fields), .what = "of its case"},
	{.key = "oem_strings", .type = FIELD_OEM, .what = "texts for programs in the guest, such as systemd's credentials"},
};

int vmdef_parse_oem(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array of texts is wanted, not %s", vmdef_type_of(value));
	size_t n = json_object_array_length(value), bytes = 0;
	if (n > SMBIOS_OEM_MAX)
		return vmdef_refuse(ret_error, path, "%zu texts are too many; at most %d", n, SMBIOS_OEM_MAX);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(value, i);
		const char *text = json_object_get_string(item);
		char where[280];
		snprintf(where, sizeof(where), "%s[%zu]", path, i);
		if (!json_object_is_type(item, json_type_string))
			return vmdef_refuse(ret_error, where, "a string is wanted, not %s", vmdef_type_of(item));
		if (!text[0] || strlen(text) != (size_t)json_object_get_string_len(item))
			return vmdef_refuse(ret_error, where, "SMBIOS has no empty texts, and no NUL in one");
		bytes += strlen(text) + 1;
		if (bytes > SMBIOS_OEM_BYTES_MAX)
			return vmdef_refuse(ret_error, path, "more than %u bytes in all are too many", SMBIOS_OEM_BYTES_MAX);
		def->smbios.oem[i] = strdup(text);
		if (!def->smbios.oem[i])
			return -ENOMEM;
		def->smbios.oem_count = (unsigned)i + 1;
	}
	return 0;
}

struct json_object *vmdef_oem_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();
	for (unsigned i = 0; list && i < def->smbios.oem_count; i++)
		json_object_array_add(list, json_object_new_string(def->smbios.oem[i]));
	return list;
}

/* ---- cloud-init ---- */

static const char *const seed_devices[] = {"disk", "cdrom", NULL};

const struct field vmdef_cloud_fields[VMDEF_CLOUD_FIELDS] = {
	{.key = "user_data", .type = FIELD_PATH, .offset = AT(cloud_init.file[VMDEF_CLOUD_USER_DATA]),
	 .what = "a file for cloud-init, read at each start: what the user wants (#cloud-config, a script)"},
	{.key = "meta_data", .type = FIELD_PATH, .offset = AT(cloud_init.file[VMDEF_CLOUD_META_DATA]),
	 .what = "the instance's id and host name; the VM's UUID and name when absent"},
	{.key = "network_config", .type = FIELD_PATH, .offset = AT(cloud_init.file[VMDEF_CLOUD_NETWORK_CONFIG]), .what = "of the network"},
	{.key = "vendor_data", .type = FIELD_PATH, .offset = AT(cloud_init.file[VMDEF_CLOUD_VENDOR_DATA]), .what = "what the provider wants"},
	{.key = "device", .type = FIELD_ENUM, .offset = AT(cloud_init.device), .names = seed_devices,
	 .what = "what the guest finds them on: a virtio disk that cannot be written, or a CD-ROM"},
	{.key = "enabled", .type = FIELD_BOOL, .offset = AT(cloud_init.enabled), .what = "give it that disk with no file too"},
};

bool vmdef_has_seed(const struct vmdef *def)
{
	bool any = def->cloud_init.enabled;
	for (unsigned i = 0; i < VMDEF_CLOUD_FILES; i++)
		any = any || def->cloud_init.file[i];
	return any;
}

void vmdef_free_system(struct vmdef *def)
{
	free(def->console.log);
	for (unsigned i = 0; i < SMBIOS_TEXTS; i++)
		free(def->smbios.text[i]);
	for (unsigned i = 0; i < def->smbios.oem_count; i++)
		free(def->smbios.oem[i]);
	for (unsigned i = 0; i < VMDEF_CLOUD_FILES; i++)
		free(def->cloud_init.file[i]);
}
