/* <channel> and <memballoon> of domain XML, both ways. */
#include "api/libvirt/xml_guest.h"

#include "api/libvirt/xml.h"
#include "proto/vmdef.h"

#include <errno.h>
#include <libvirt/virterror.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 4, 5))) static int refuse(const xmlNode *e, char *error, size_t error_size, const char *format, ...)
{
	char path[300], why[400];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	lv_xml_path(e, path, sizeof(path));
	snprintf(error, error_size, "%s: %s", path, why);
	return -EINVAL;
}

static void add(json_object *to, const char *key, json_object *value) { json_object_object_add(to, key, value); }

/* ---- reading -------------------------------------------------------------------------------- */

bool lv_channel_is_ours(const xmlNode *e)
{
	const xmlNode *target = lv_xml_child(e, "target");

	return lv_xml_attribute_is(e, "type", "unix") && target && lv_xml_attribute_is(target, "type", "virtio");
}

bool lv_console_is_virtio(const xmlNode *e)
{
	const xmlNode *target = lv_xml_child(e, "target");

	return target && lv_xml_attribute_is(target, "type", "virtio");
}

static int take_channel(const xmlNode *e, json_object *definition, char *error, size_t error_size)
{
	xmlNode *source = lv_xml_child(e, "source");
	char *name = lv_xml_attribute(lv_xml_child(e, "target"), "name"), *path = source ? lv_xml_attribute(source, "path") : NULL;
	json_object *list = NULL, *channel;
	int rc = 0;

	if (!name) {
		rc = refuse(e, error, error_size, "the channel has no name; give <target type='virtio' name='…'/>");
	} else if (source && lv_xml_attribute_is(source, "mode", "connect")) {
		rc = refuse(source, error, error_size, "the socket is made here, and listened on: mode is bind");
	} else if (!strcmp(name, VMDEF_AGENT_CHANNEL)) {
		/* The daemon speaks to it by itself, as libvirt does: the path is of no use to others. */
		add(definition, "guest_agent", json_object_new_boolean(1));
	} else {
		channel = json_object_new_object();
		add(channel, "name", json_object_new_string(name));
		if (path)
			add(channel, "path", json_object_new_string(path));
		if (!json_object_object_get_ex(definition, "channels", &list)) {
			list = json_object_new_array();
			add(definition, "channels", list);
		}
		json_object_array_add(list, channel);
	}
	xmlFree(name);
	xmlFree(path);
	return rc;
}

static int take_balloon(const xmlNode *e, json_object *definition, char *error, size_t error_size)
{
	static const struct {
		const char *attribute, *key;
	} switches[] = {{"autodeflate", "deflate_on_oom"}, {"freePageReporting", "free_page_reporting"}};
	char *model = lv_xml_attribute(e, "model"), *period;
	const xmlNode *stats = lv_xml_child(e, "stats");
	json_object *balloon = json_object_new_object();
	int rc = 0;

	if (model && !strcmp(model, "none"))
		add(balloon, "device", json_object_new_string("none"));
	else if (model && strncmp(model, "virtio", 6))
		rc = refuse(e, error, error_size, "the model \"%.40s\" is not possible; virtio and none are", model);
	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
		if (lv_xml_attribute_is(e, switches[i].attribute, "on"))
			add(balloon, switches[i].key, json_object_new_boolean(1));
	period = stats ? lv_xml_attribute(stats, "period") : NULL;
	if (period)
		add(balloon, "stats_seconds", json_object_new_int64(strtoll(period, NULL, 10)));
	add(definition, "balloon", balloon);
	xmlFree(model);
	xmlFree(period);
	return rc;
}

int lv_guest_parse(const xmlNode *e, json_object *definition, int *ret_code, char *error, size_t error_size)
{
	int rc = 0;

	if (lv_xml_is(e, "memballoon"))
		rc = take_balloon(e, definition, error, error_size);
	else if (lv_xml_is(e, "channel") && lv_channel_is_ours(e))
		rc = take_channel(e, definition, error, error_size);
	if (rc)
		*ret_code = VIR_ERR_CONFIG_UNSUPPORTED;
	return rc;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static xmlNode *add_child(xmlNode *parent, const char *name) { return xmlNewTextChild(parent, NULL, (const xmlChar *)name, NULL); }

static void set(xmlNode *e, const char *name, const char *value)
{
	if (value)
		xmlSetProp(e, (const xmlChar *)name, (const xmlChar *)value);
	else
		xmlUnsetProp(e, (const xmlChar *)name);
}

static bool is_defined(const struct vmdef *def, const char *name)
{
	if (name && !strcmp(name, VMDEF_AGENT_CHANNEL))
		return def->guest_agent;
	for (unsigned i = 0; name && i < def->channel_count; i++)
		if (!strcmp(def->channels[i].name, name))
			return true;
	return false;
}

static xmlNode *find_channel(xmlNode *devices, const char *name)
{
	for (xmlNode *e = lv_xml_child(devices, "channel"); e; e = lv_xml_next(e, "channel"))
		if (lv_channel_is_ours(e) && lv_xml_attribute_is(lv_xml_child(e, "target"), "name", name))
			return e;
	return NULL;
}

static void write_channel(xmlNode *devices, const char *name, const char *path, const char *state)
{
	xmlNode *e = find_channel(devices, name), *child;

	if (!e) {
		e = add_child(devices, "channel");
		set(e, "type", "unix");
		child = add_child(e, "target");
		set(child, "type", "virtio");
		set(child, "name", name);
	}
	if (path && !lv_xml_child(e, "source"))
		xmlAddPrevSibling(lv_xml_child(e, "target"), xmlNewDocNode(e->doc, NULL, (const xmlChar *)"source", NULL));
	if (path) {
		set(lv_xml_child(e, "source"), "mode", "bind");
		set(lv_xml_child(e, "source"), "path", path);
	}
	set(lv_xml_child(e, "target"), "state", state);
}

static void write_channels(xmlNode *devices, const struct vmdef *def, const char *agent_state)
{
	xmlNode *e, *next;

	for (e = lv_xml_child(devices, "channel"); e; e = next) {
		char *name = lv_xml_attribute(lv_xml_child(e, "target"), "name");

		next = lv_xml_next(e, "channel");
		if (lv_channel_is_ours(e) && !is_defined(def, name)) {
			xmlUnlinkNode(e);
			xmlFreeNode(e);
		}
		xmlFree(name);
	}
	for (unsigned i = 0; i < def->channel_count; i++)
		write_channel(devices, def->channels[i].name, def->channels[i].path, NULL);
	if (def->guest_agent)
		write_channel(devices, VMDEF_AGENT_CHANNEL, NULL, agent_state);
}

static void write_balloon(xmlNode *devices, const struct vmdef *def)
{
	xmlNode *e = lv_xml_child(devices, "memballoon"), *stats;
	bool plain = def->balloon.device == VMDEF_BALLOON_VIRTIO && !def->balloon.free_page_reporting && !def->balloon.deflate_on_oom &&
		     !def->balloon.stats_seconds;
	char number[16];

	if (!e && plain)
		return;
	if (!e)
		e = add_child(devices, "memballoon");
	if (def->balloon.device == VMDEF_BALLOON_NONE || !xmlHasProp(e, (const xmlChar *)"model") || lv_xml_attribute_is(e, "model", "none"))
		set(e, "model", def->balloon.device == VMDEF_BALLOON_NONE ? "none" : "virtio");
	if (def->balloon.deflate_on_oom || xmlHasProp(e, (const xmlChar *)"autodeflate"))
		set(e, "autodeflate", def->balloon.deflate_on_oom ? "on" : "off");
	if (def->balloon.free_page_reporting || xmlHasProp(e, (const xmlChar *)"freePageReporting"))
		set(e, "freePageReporting", def->balloon.free_page_reporting ? "on" : "off");
	stats = lv_xml_child(e, "stats");
	if (!stats && def->balloon.stats_seconds)
		stats = add_child(e, "stats");
	snprintf(number, sizeof(number), "%u", def->balloon.stats_seconds);
	if (stats)
		set(stats, "period", number);
}

static void write_console(xmlNode *devices, const struct vmdef *def)
{
	xmlNode *e = lv_xml_child(devices, "console"), *target;

	while (e && !lv_console_is_virtio(e))
		e = lv_xml_next(e, "console");
	if (e && !def->virtio_console && !lv_xml_attribute_is(e, "type", "null")) {
		xmlUnlinkNode(e);
		xmlFreeNode(e);
	}
	if (e || !def->virtio_console)
		return;
	e = add_child(devices, "console");
	set(e, "type", "pty");
	target = add_child(e, "target");
	set(target, "type", "virtio");
	set(target, "port", def->serial == VMDEF_SERIAL_CONSOLE ? "1" : "0");
}

void lv_guest_write(xmlNode *devices, const struct vmdef *def, const char *agent_state)
{
	write_channels(devices, def, agent_state);
	write_balloon(devices, def);
	write_console(devices, def);
}
