/* What a VM's definition says of its ways to the host beside disks and networks: vsock, and folders of the host. */
#include "proto/vmdef_private.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct vmdef_vsock, member)
static const struct field vsock_fields[] = {
	{.key = "cid", .type = FIELD_COUNT, .offset = AT(cid), .min = 3, .max = UINT32_MAX - 1,
	 .what = "the guest's address; made from the VM's UUID when absent"},
	{.key = "path", .type = FIELD_PATH, .offset = AT(path),
	 .what = "the socket that programs of the host connect to; vsock.sock in the VM's directory when absent. A guest's "
		 "connection to a port goes to who listens at this path with \"_PORT\" behind it"},
};
#undef AT

#define AT(member) offsetof(struct vmdef_share, member)
static const struct field share_fields[] = {
	{.key = "path", .type = FIELD_PATH, .offset = AT(path), .required = true, .what = "a folder of the host"},
	{.key = "tag", .type = FIELD_TEXT, .offset = AT(tag), .max = VMDEF_TAG_MAX,
	 .what = "what the guest mounts it by (mount -t virtiofs TAG /mnt); share0 and so on when absent"},
	{.key = "readonly", .type = FIELD_BOOL, .offset = AT(readonly), .what = "the guest cannot change anything in it"},
};
#undef AT

/* ---- vsock ------------------------------------------------------------------------------- */

int vmdef_parse_vsock(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	def->vsock.present = true;
	if (json_object_is_type(value, json_type_boolean)) {
		def->vsock.present = json_object_get_boolean(value);
		return 0;
	}
	if (!json_object_is_type(value, json_type_object))
		return vmdef_refuse(ret_error, path, "true, or an object such as {\"cid\":3}, is wanted, not %s", vmdef_type_of(value));
	return vmdef_parse_object(value, path, vsock_fields, COUNT(vsock_fields), &def->vsock, ret_error);
}

void vmdef_fill_cid(struct vmdef *def)
{
	uint32_t hash = 0x811c9dc5u; /* FNV-1a */

	if (!def->vsock.present || def->vsock.cid)
		return;
	for (const char *c = def->uuid; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 0x01000193u;
	/* 0 to 2 have meanings of their own; what is negative as a signed number surprises some programs. */
	def->vsock.cid = 3 + hash % 0x7ffffff0u;
}

struct json_object *vmdef_vsock_to_json(const struct vmdef *def)
{
	return vmdef_object_to_json(&def->vsock, vsock_fields, COUNT(vsock_fields));
}

struct json_object *vmdef_vsock_schema(void)
{
	struct json_object *either = json_object_new_array();

	json_object_array_add(either, json_tokener_parse("{\"type\":\"boolean\"}"));
	json_object_array_add(either, vmdef_object_schema(vsock_fields, COUNT(vsock_fields)));
	return either;
}

/* ---- folders ------------------------------------------------------------------------------- */

static int check_share(const struct vmdef *def, unsigned number, const char *where, char *ret_error)
{
	const struct vmdef_share *share = &def->shares[number];

	if (!share->tag[0] || share->tag[strcspn(share->tag, " ,/\\\"")])
		return vmdef_refuse(ret_error, where, "\"%s\" is no tag: 1 to %d characters without spaces, commas, slashes and quotes",
				    share->tag, VMDEF_TAG_MAX);
	/* virtiofsd takes its options as a list between commas. */
	if (strchr(share->path, ',') || strchr(share->path, '\\'))
		return vmdef_refuse(ret_error, where, "a folder whose path has a comma or a backslash cannot be shared: %s", share->path);
	for (unsigned i = 0; i < number; i++)
		if (!strcmp(def->shares[i].tag, share->tag))
			return vmdef_refuse(ret_error, where, "two folders have the tag \"%s\"", share->tag);
	return 0;
}

int vmdef_parse_shares(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	size_t n;

	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	n = json_object_array_length(value);
	if (n > VMDEF_SHARES_MAX)
		return vmdef_refuse(ret_error, path, "%zu folders are too many; at most %d", n, VMDEF_SHARES_MAX);
	for (size_t i = 0; i < n; i++) {
		struct vmdef_share *share = &def->shares[i];
		char where[64];
		int rc;

		snprintf(where, sizeof(where), "%.40s[%zu]", path, i);
		def->share_count = (unsigned)i + 1;
		rc = vmdef_parse_object(json_object_array_get_idx(value, i), where, share_fields, COUNT(share_fields), share, ret_error);
		if (!rc && !share->tag) {
			char tag[16];

			snprintf(tag, sizeof(tag), "share%zu", i);
			share->tag = strdup(tag);
			rc = share->tag ? 0 : -ENOMEM;
		}
		if (!rc)
			rc = check_share(def, (unsigned)i, where, ret_error);
		if (rc)
			return rc;
	}
	return 0;
}

struct json_object *vmdef_shares_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < def->share_count; i++) {
		struct json_object *share = vmdef_object_to_json(&def->shares[i], share_fields, COUNT(share_fields));

		if (!share || json_object_array_add(list, share) < 0) {
			json_object_put(share);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

struct json_object *vmdef_shares_item_schema(void) { return vmdef_object_schema(share_fields, COUNT(share_fields)); }

void vmdef_free_shares(struct vmdef *def)
{
	free(def->vsock.path);
	for (unsigned i = 0; i < def->share_count; i++) {
		free(def->shares[i].path);
		free(def->shares[i].tag);
	}
}
