/* The variables that guest tools read, in a VM's definition. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vmdef_private.h"

/* Names go over the wire with a space behind them. */
static bool name_valid(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
			return false;
	return n > 0 && n <= VMDEF_VARIABLE_NAME_MAX;
}

static int add_variable(struct vmdef *def, const char *name, const char *value)
{
	struct vmdef_variable *more = realloc(def->guestinfo, (def->guestinfo_count + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	def->guestinfo = more;
	struct vmdef_variable *v = &more[def->guestinfo_count];
	*v = (struct vmdef_variable){strdup(name), strdup(value)};
	if (!v->name || !v->value) {
		free(v->name);
		free(v->value);
		return -ENOMEM;
	}
	def->guestinfo_count++;
	return 0;
}

int vmdef_parse_guestinfo(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	if (!json_object_is_type(value, json_type_object))
		return vmdef_refuse(ret_error, path, "an object such as {\"userdata\":\"#cloud-config\"} is wanted, not %s",
				    vmdef_type_of(value));
	if (json_object_object_length(value) > VMDEF_VARIABLES_MAX)
		return vmdef_refuse(ret_error, path, "%d variables are too many; at most %d", json_object_object_length(value),
				    VMDEF_VARIABLES_MAX);
	vmdef_free_guestinfo(def);
	json_object_object_foreach(value, key, item)
	{
		if (!name_valid(key))
			return vmdef_refuse(ret_error, path, "\"%.80s\" cannot name a variable: 1 to %d characters, no spaces", key,
					    VMDEF_VARIABLE_NAME_MAX);
		if (!json_object_is_type(item, json_type_string))
			return vmdef_refuse(ret_error, path, "%.80s: a string is wanted, not %s", key, vmdef_type_of(item));
		const char *text = json_object_get_string(item);
		if (strlen(text) != (size_t)json_object_get_string_len(item))
			return vmdef_refuse(ret_error, path, "%.80s: a NUL in it; encode it (base64)", key);
		if (add_variable(def, key, text))
			return -ENOMEM;
	}
	return 0;
}

struct json_object *vmdef_guestinfo_to_json(const struct vmdef *def)
{
	struct json_object *json = json_object_new_object();

	for (unsigned i = 0; json && i < def->guestinfo_count; i++)
		if (!vmdef_add(json, def->guestinfo[i].name, json_object_new_string(def->guestinfo[i].value))) {
			json_object_put(json);
			return NULL;
		}
	return json;
}

void vmdef_free_guestinfo(struct vmdef *def)
{
	for (unsigned i = 0; i < def->guestinfo_count; i++) {
		free(def->guestinfo[i].name);
		free(def->guestinfo[i].value);
	}
	free(def->guestinfo);
	def->guestinfo = NULL;
	def->guestinfo_count = 0;
}
