/* The disks of a definition. */
#include "proto/vmdef_private.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct vmdef_disk, member)

static const char *const format_names[] = {"raw", "qcow2", "vdi", "vmdk", "vpc", "vhdx", NULL};
static const char *const device_names[] = {"disk", "cdrom", NULL};
static const char *const cache_names[] = {"writeback", "writethrough", "direct", "directsync", "unsafe", NULL};
static const char *const discard_names[] = {"unmap", "ignore", NULL};
static const char *const error_names[] = {"report", "pause", "pause_when_full", NULL};

static const struct field disk_fields[] = {
	{.key = "path", .type = FIELD_PATH, .offset = AT(path), .what = "an image, or a block device; a cdrom without one is empty"},
	{.key = "device", .type = FIELD_ENUM, .offset = AT(device), .names = device_names,
	 .what = "disk: virtio-blk; cdrom: a drive behind virtio-scsi with this image in it, which is never written"},
	{.key = "format", .type = FIELD_ENUM, .offset = AT(format), .names = format_names,
	 .what = "of the image; all but raw are read by qemu-nbd, backing files included"},
	{.key = "readonly", .type = FIELD_BOOL, .offset = AT(readonly), .what = "the guest cannot write it"},
	{.key = "snapshot", .type = FIELD_BOOL, .offset = AT(snapshot),
	 .what = "what the guest writes goes to a temporary image, which is gone when the VM ends"},
	{.key = "cache", .type = FIELD_ENUM, .offset = AT(cache), .names = cache_names,
	 .what = "how far a write goes before the guest is told that it is done; direct and directsync pass the host's page cache"},
	{.key = "discard", .type = FIELD_ENUM, .offset = AT(discard), .names = discard_names,
	 .what = "whether what the guest discards is given back to the host"},
	{.key = "on_error", .type = FIELD_ENUM, .offset = AT(on_error), .names = error_names,
	 .what = "when the host fails a request: tell the guest, or pause the VM and try again when it is resumed"},
	{.key = "serial", .type = FIELD_TEXT, .offset = AT(serial), .max = VMDEF_SERIAL_MAX,
	 .what = "the serial number that the guest sees; the end of the path when absent"},
};

const char *vmdef_format_name(enum vmdef_format format) { return format_names[format]; }

static int finish_disk(struct vmdef_disk *disk, const char *where, char *ret_error)
{
	if (disk->device == VMDEF_DEVICE_CDROM)
		disk->readonly = true;
	if (!disk->path && disk->device != VMDEF_DEVICE_CDROM)
		return vmdef_refuse(ret_error, where, "the key path is missing");
	/* An empty drive. */
	if (!disk->path && !(disk->path = strdup("")))
		return -ENOMEM;
	if (disk->readonly && disk->snapshot)
		return vmdef_refuse(ret_error, where, "readonly (a cdrom always is) and snapshot exclude each other: what is never "
						      "written needs no temporary image");
	if (!disk->path[0] && disk->format != VMDEF_FORMAT_RAW)
		return vmdef_refuse(ret_error, where, "an empty drive has no format");
	return 0;
}

int vmdef_disk_from_json(struct json_object *value, struct vmdef_disk *ret_disk, char *ret_error)
{
	struct vmdef_disk disk = {0};
	int rc = vmdef_parse_object(value, "disk", disk_fields, COUNT(disk_fields), &disk, ret_error);

	if (!rc)
		rc = finish_disk(&disk, "disk", ret_error);
	if (rc)
		vmdef_disk_finish(&disk);
	else
		*ret_disk = disk;
	return rc;
}

void vmdef_disk_finish(struct vmdef_disk *disk)
{
	free(disk->path);
	free(disk->serial);
	*disk = (struct vmdef_disk){0};
}

int vmdef_parse_disks(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	size_t n = json_object_array_length(value);
	if (n > VMDEF_DISKS_MAX)
		return vmdef_refuse(ret_error, path, "%zu disks are too many; at most %d", n, VMDEF_DISKS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct vmdef_disk *disk = &def->disks[i];
		char where[64];
		snprintf(where, sizeof(where), "%.40s[%zu]", path, i);
		def->disk_count = (unsigned)i + 1;
		int rc = vmdef_parse_object(json_object_array_get_idx(value, i), where, disk_fields, COUNT(disk_fields), disk,
					    ret_error);
		if (rc)
			return rc;
		rc = finish_disk(disk, where, ret_error);
		if (rc)
			return rc;
	}
	return 0;
}

struct json_object *vmdef_disk_to_json(const struct vmdef_disk *disk)
{
	struct json_object *json = vmdef_object_to_json(disk, disk_fields, COUNT(disk_fields));

	if (json && !disk->path[0])
		json_object_object_del(json, "path");
	return json;
}

struct json_object *vmdef_disks_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();
	for (unsigned i = 0; list && i < def->disk_count; i++) {
		struct json_object *disk = vmdef_disk_to_json(&def->disks[i]);
		if (!disk || json_object_array_add(list, disk) < 0) {
			json_object_put(disk);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

struct json_object *vmdef_disks_item_schema(void) { return vmdef_object_schema(disk_fields, COUNT(disk_fields)); }

void vmdef_free_disks(struct vmdef *def)
{
	for (unsigned i = 0; i < def->disk_count; i++)
		vmdef_disk_finish(&def->disks[i]);
}
