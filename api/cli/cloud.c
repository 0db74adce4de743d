/* What configures a cloud's image: the words of --cloud-init and --smbios into a definition. */
#include "api/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static json_object *member_of(json_object *object, const char *key)
{
	json_object *member = NULL;

	if (!json_object_object_get_ex(object, key, &member)) {
		member = json_object_new_object();
		json_object_object_add(object, key, member);
	}
	return member;
}

/* The next ",WORD=" of those known: a comma may be part of a file's name. */
static char *next_key(char *text, const char *const *words)
{
	for (char *comma = strchr(text, ','); comma; comma = strchr(comma + 1, ','))
		for (unsigned i = 0; words[i]; i++)
			if (!strncmp(comma + 1, words[i], strlen(words[i])) && comma[1 + strlen(words[i])] == '=')
				return comma;
	return NULL;
}

int cli_add_cloud_init(json_object *definition, char *text)
{
	static const char *const words[] = {"user-data", "meta-data", "network-config", "vendor-data", "device", NULL};
	static const char *const keys[] = {"user_data", "meta_data", "network_config", "vendor_data", "device"};
	json_object *cloud = member_of(definition, "cloud_init");

	json_object_object_add(cloud, "enabled", json_object_new_boolean(1));
	while (text && *text) {
		char *next = next_key(text, words), *value = strchr(text, '='), *absolute = NULL;
		unsigned i = 0;

		if (next)
			*next++ = '\0';
		while (value && words[i] && (strncmp(text, words[i], (size_t)(value - text)) || words[i][value - text]))
			i++;
		if (!value || !words[i]) {
			complain("--cloud-init: \"%s\" is none of user-data=FILE, meta-data=FILE, network-config=FILE, vendor-data=FILE and "
				 "device=disk|cdrom",
				 text);
			return -1;
		}
		if (strcmp(words[i], "device") && !(absolute = value[1] ? cli_absolute(value + 1) : NULL)) {
			complain("--cloud-init: %s: an empty file name", words[i]);
			return -1;
		}
		json_object_object_add(cloud, keys[i], json_object_new_string(absolute ? absolute : value + 1));
		free(absolute);
		text = next;
	}
	return 0;
}

int cli_add_smbios(json_object *definition, char *text)
{
	json_object *smbios = member_of(definition, "smbios"), *strings = NULL;
	char *value = strchr(text, '='), *dot = strchr(text, '.');

	if (!value || (strncmp(text, "oem=", 4) && (!dot || dot > value))) {
		complain("--smbios: \"%s\" is neither SECTION.KEY=TEXT, such as system.serial=ds=nocloud, nor oem=TEXT", text);
		return -1;
	}
	*value++ = '\0';
	if (!strcmp(text, "oem")) {
		if (!json_object_object_get_ex(smbios, "oem_strings", &strings)) {
			strings = json_object_new_array();
			json_object_object_add(smbios, "oem_strings", strings);
		}
		json_object_array_add(strings, json_object_new_string(value));
		return 0;
	}
	*dot++ = '\0';
	json_object_object_add(member_of(smbios, text), dot, json_object_new_string(value));
	return 0;
}
