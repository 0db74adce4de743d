/* <vsock> and <filesystem>: a guest's ways to the host beside disks and networks. */
#include "api/libvirt/share.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	int *code;
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 3, 4))) static bool refuse(const struct reader *r, const xmlNode *node, const char *format, ...)
{
	char path[300], why[500];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	lv_xml_path(node, path, sizeof(path));
	snprintf(r->error, r->error_size, "%s: %s", path, why);
	*r->code = VIR_ERR_CONFIG_UNSUPPORTED;
	return false;
}

static void put_text(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

/* ---- reading --------------------------------------------------------------------------------- */

/* <vsock model="virtio"><cid auto="no" address="3"/></vsock>; libvirt has no word for the socket's path, so there is <source path="…"/>. */
static bool parse_vsock(const struct reader *r, const xmlNode *e, json_object *definition)
{
	xmlNode *cid = lv_xml_child(e, "cid"), *source = lv_xml_child(e, "source");
	char *model = lv_xml_attribute(e, "model"), *address = lv_xml_attribute(cid, "address"), *path = lv_xml_attribute(source, "path"),
	     *end = NULL;
	json_object *vsock = json_object_new_object();
	unsigned long long number = address ? strtoull(address, &end, 10) : 0;
	bool ok = true;

	if (json_object_object_get_ex(definition, "vsock", NULL))
		ok = refuse(r, e, "one vsock is possible");
	else if (model && strncmp(model, "virtio", 6))
		ok = refuse(r, e, "the model \"%.40s\" is not possible; virtio is", model);
	else if (address && (end == address || *end || address[0] == '-' || number < 3 || number >= UINT32_MAX))
		ok = refuse(r, cid, "\"%.40s\" is no address; from 3 on they are a guest's", address);
	if (ok && address)
		json_object_object_add(vsock, "cid", json_object_new_int64((int64_t)number));
	if (ok && path)
		put_text(vsock, "path", path);
	if (ok)
		json_object_object_add(definition, "vsock", vsock);
	else
		json_object_put(vsock);
	xmlFree(model);
	xmlFree(address);
	xmlFree(path);
	return ok;
}

static bool check_filesystem(const struct reader *r, const xmlNode *e)
{
	const xmlNode *driver = lv_xml_child(e, "driver");
	char *type = lv_xml_attribute(e, "type"), *mode = lv_xml_attribute(e, "accessmode"), *kind = lv_xml_attribute(driver, "type");
	bool ok = true;

	if (type && strcmp(type, "mount"))
		ok = refuse(r, e, "a filesystem of type \"%.40s\" is not possible; mount is", type);
	else if (!kind || strcmp(kind, "virtiofs"))
		ok = refuse(r, driver ? driver : e, "this machine shares folders by virtiofs only: <driver type='virtiofs'/>, and mount -t virtiofs in "
						    "the guest");
	else if (mode && strcmp(mode, "passthrough"))
		ok = refuse(r, e, "accessmode \"%.40s\" is not possible; passthrough is", mode);
	xmlFree(type);
	xmlFree(mode);
	xmlFree(kind);
	return ok;
}

static bool parse_filesystem(const struct reader *r, const xmlNode *e, json_object *definition)
{
	char *path = lv_xml_attribute(lv_xml_child(e, "source"), "dir"), *tag = lv_xml_attribute(lv_xml_child(e, "target"), "dir");
	bool ok = check_filesystem(r, e);
	json_object *list = NULL, *share;

	if (ok && (!path || !tag))
		ok = refuse(r, e, "a <source dir='…'/> and a <target dir='…'/> are wanted");
	if (ok) {
		if (!json_object_object_get_ex(definition, "shares", &list)) {
			list = json_object_new_array();
			json_object_object_add(definition, "shares", list);
		}
		share = json_object_new_object();
		put_text(share, "path", path);
		put_text(share, "tag", tag);
		if (lv_xml_child(e, "readonly"))
			json_object_object_add(share, "readonly", json_object_new_boolean(1));
		json_object_array_add(list, share);
	}
	xmlFree(path);
	xmlFree(tag);
	return ok;
}

bool lv_share_parse(const xmlNode *e, json_object *definition, int *ret_code, char *error, size_t error_size)
{
	const struct reader r = {ret_code, error, error_size};

	return lv_xml_is(e, "vsock") ? parse_vsock(&r, e, definition) : parse_filesystem(&r, e, definition);
}

/* ---- writing ------------------------------------------------------------------------------------- */

static void set(xmlNode *node, const char *name, const char *value) { xmlSetProp(node, BAD_CAST name, BAD_CAST value); }

static xmlNode *child_of(xmlNode *parent, const char *name)
{
	xmlNode *e = lv_xml_child(parent, name);

	return e ? e : xmlNewChild(parent, NULL, BAD_CAST name, NULL);
}

static void drop(xmlNode *e)
{
	xmlUnlinkNode(e);
	xmlFreeNode(e);
}

static void set_alias(xmlNode *e, bool live, const char *kind, unsigned number)
{
	char name[32];

	if (!live || lv_xml_child(e, "alias"))
		return;
	snprintf(name, sizeof(name), "%s%u", kind, number);
	set(xmlNewChild(e, NULL, BAD_CAST "alias", NULL), "name", name);
}

static void write_vsock(xmlNode *devices, const struct vmdef *def, bool live)
{
	xmlNode *e = lv_xml_child(devices, "vsock"), *cid;
	char number[16];

	if (!def->vsock.present) {
		if (e)
			drop(e);
		return;
	}
	e = child_of(devices, "vsock");
	set(e, "model", "virtio");
	cid = child_of(e, "cid");
	snprintf(number, sizeof(number), "%u", def->vsock.cid);
	/* What was made up for it stays, as libvirt's own would not. */
	set(cid, "auto", "no");
	set(cid, "address", number);
	if (def->vsock.path)
		set(child_of(e, "source"), "path", def->vsock.path);
	else if (lv_xml_child(e, "source"))
		drop(lv_xml_child(e, "source"));
	set_alias(e, live, "vsock", 0);
}

static xmlNode *find_filesystem(xmlNode *devices, const char *tag)
{
	for (xmlNode *e = lv_xml_child(devices, "filesystem"); e; e = lv_xml_next(e, "filesystem"))
		if (lv_xml_attribute_is(lv_xml_child(e, "target"), "dir", tag))
			return e;
	return NULL;
}

static void write_filesystem(xmlNode *devices, const struct vmdef_share *share, bool live, unsigned number)
{
	xmlNode *e = find_filesystem(devices, share->tag);

	if (!e) {
		e = xmlNewChild(devices, NULL, BAD_CAST "filesystem", NULL);
		set(e, "type", "mount");
		set(e, "accessmode", "passthrough");
	}
	set(child_of(e, "driver"), "type", "virtiofs");
	set(child_of(e, "source"), "dir", share->path);
	set(child_of(e, "target"), "dir", share->tag);
	if (share->readonly)
		child_of(e, "readonly");
	else if (lv_xml_child(e, "readonly"))
		drop(lv_xml_child(e, "readonly"));
	set_alias(e, live, "fs", number);
}

void lv_shares_write(xmlNode *devices, const struct vmdef *def, bool live)
{
	xmlNode *next;

	write_vsock(devices, def, live);
	for (xmlNode *e = lv_xml_child(devices, "filesystem"); e; e = next) {
		bool there = false;

		next = lv_xml_next(e, "filesystem");
		for (unsigned i = 0; i < def->share_count; i++)
			there = there || lv_xml_attribute_is(lv_xml_child(e, "target"), "dir", def->shares[i].tag);
		if (!there)
			drop(e);
	}
	for (unsigned i = 0; i < def->share_count; i++)
		write_filesystem(devices, &def->shares[i], live, i);
}
