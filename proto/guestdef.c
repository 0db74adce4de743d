/* What a definition says of tools in the guest: channels to its programs, its agent, the balloon. */
#include "proto/vmdef_private.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const balloon_names[] = {"virtio", "none", NULL};

#define AT(member) offsetof(struct vmdef, balloon.member)
const struct field vmdef_balloon_fields[VMDEF_BALLOON_FIELDS] = {
	{.key = "device", .type = FIELD_ENUM, .offset = AT(device), .names = balloon_names,
	 .what = "virtio: the guest can be asked for memory, and tells how it uses it; none: it keeps what it has"},
	{.key = "free_page_reporting", .type = FIELD_BOOL, .offset = AT(free_page_reporting),
	 .what = "memory that the guest has no use for at present goes back to the host by itself"},
	{.key = "deflate_on_oom", .type = FIELD_BOOL, .offset = AT(deflate_on_oom),
	 .what = "a guest that runs out of memory takes it back from the balloon"},
	{.key = "stats_seconds", .type = FIELD_UINT, .offset = AT(stats_seconds), .max = VMDEF_STATS_SECONDS_MAX,
	 .what = "how often the guest is asked for its figures; 0: when somebody wants them"},
};
#undef AT

#define AT(member) offsetof(struct vmdef_channel, member)
static const struct field channel_fields[] = {
	{.key = "name", .type = FIELD_TEXT, .offset = AT(name), .max = VMDEF_CHANNEL_NAME_MAX, .required = true,
	 .what = "the guest finds it as /dev/virtio-ports/NAME"},
	{.key = "path", .type = FIELD_PATH, .offset = AT(path),
	 .what = "the socket for the host's program; NAME.channel in the VM's directory when absent"},
};
#undef AT

static int check_name(const char *name, const char *path, char *ret_error)
{
	size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	if (!n || name[n] || name[0] == '.')
		return vmdef_refuse(ret_error, path, "\"%s\" is no channel's name: those are 1 to %d of A-Z a-z 0-9 . _ - and do not "
						     "start with a dot", name, VMDEF_CHANNEL_NAME_MAX);
	return 0;
}

int vmdef_parse_channels(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	size_t n;

	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	n = json_object_array_length(value);
	if (n > VMDEF_CHANNELS_MAX)
		return vmdef_refuse(ret_error, path, "%zu channels are too many; at most %d", n, VMDEF_CHANNELS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct vmdef_channel *channel = &def->channels[i];
		char where[80];
		int rc;

		snprintf(where, sizeof(where), "%.40s[%zu]", path, i);
		def->channel_count = (unsigned)i + 1;
		rc = vmdef_parse_object(json_object_array_get_idx(value, i), where, channel_fields, COUNT(channel_fields), channel,
					ret_error);
		if (!rc) {
			strcat(where, ".name");
			rc = check_name(channel->name, where, ret_error);
		}
		for (size_t k = 0; !rc && k < i; k++)
			if (!strcmp(def->channels[k].name, channel->name))
				rc = vmdef_refuse(ret_error, where, "%s is there twice", channel->name);
		if (rc)
			return rc;
	}
	return 0;
}

int vmdef_check_guest(const struct vmdef *def, char *ret_error)
{
	for (unsigned i = 0; def->guest_agent && i < def->channel_count; i++)
		if (!strcmp(def->channels[i].name, VMDEF_AGENT_CHANNEL))
			return vmdef_refuse(ret_error, "channels", VMDEF_AGENT_CHANNEL " is the agent's, which guest_agent gives to vm.guest.*: "
								   "leave one of them out");
	if (!def->current_memory_mib)
		return 0;
	if (def->current_memory_mib > def->memory_mib)
		return vmdef_refuse(ret_error, "current_memory_mib", "%u is more than memory_mib, which is %u", def->current_memory_mib,
				    def->memory_mib);
	if (def->current_memory_mib < def->memory_mib && def->balloon.device == VMDEF_BALLOON_NONE)
		return vmdef_refuse(ret_error, "current_memory_mib", "less than memory_mib needs balloon.device virtio");
	if (def->current_memory_mib < def->memory_mib && def->passthrough_count)
		return vmdef_refuse(ret_error, "current_memory_mib", "less than memory_mib is not possible with passthrough: such a device may "
								     "write to all of the memory");
	return 0;
}

struct json_object *vmdef_channels_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < def->channel_count; i++) {
		struct json_object *channel = vmdef_object_to_json(&def->channels[i], channel_fields, COUNT(channel_fields));

		if (!channel || json_object_array_add(list, channel) < 0) {
			json_object_put(channel);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

struct json_object *vmdef_channels_item_schema(void) { return vmdef_object_schema(channel_fields, COUNT(channel_fields)); }

void vmdef_free_channels(struct vmdef *def)
{
	for (unsigned i = 0; i < def->channel_count; i++) {
		free(def->channels[i].name);
		free(def->channels[i].path);
	}
}
