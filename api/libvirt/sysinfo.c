/* <sysinfo> of a domain and <smbios> in its <os>, both ways. */
#include "api/libvirt/sysinfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* By enum smbios_text: the definition's words, and libvirt's. */
static const struct text {
	const char *section, *key, *element, *name;
} texts[SMBIOS_TEXTS] = {
#define SMBIOS_TEXT(section, key, element, name, otherwise) {#section, #key, element, name},
#include "proto/smbios.def"
#undef SMBIOS_TEXT
};

struct reader {
	json_object *smbios;
	const xmlNode *domain;
	int *code;
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 3, 4))) static bool refuse(struct reader *r, const xmlNode *node, const char *format, ...)
{
	char path[300];
	size_t n;
	va_list args;

	lv_xml_path(node, path, sizeof(path));
	n = (size_t)snprintf(r->error, r->error_size, "%s: ", path);
	va_start(args, format);
	if (n < r->error_size)
		vsnprintf(r->error + n, r->error_size - n, format, args);
	va_end(args);
	*r->code = VIR_ERR_CONFIG_UNSUPPORTED;
	return false;
}

static json_object *member_of(json_object *object, const char *key, enum json_type type)
{
	json_object *member = NULL;

	if (!json_object_object_get_ex(object, key, &member)) {
		member = type == json_type_array ? json_object_new_array() : json_object_new_object();
		json_object_object_add(object, key, member);
	}
	return member;
}

/* libvirt's rule: it is the domain's own. */
static bool check_uuid(struct reader *r, const xmlNode *entry, const char *uuid)
{
	xmlNode *own = lv_xml_child(r->domain, "uuid");
	char *text = own ? lv_xml_text(own) : NULL;
	bool same = !own || (text && !strcasecmp(text, uuid));

	free(text);
	return same || refuse(r, entry, "\"%.60s\" is not the domain's own UUID", uuid);
}

static bool take_entry(struct reader *r, const xmlNode *section, const xmlNode *entry)
{
	char *name = lv_xml_attribute(entry, "name"), *value = lv_xml_text(entry);
	bool ok = false;

	if (!name || !value) {
		ok = refuse(r, entry, "an <entry> with a name is wanted");
	} else if (lv_xml_is(section, "system") && !strcmp(name, "uuid")) {
		ok = check_uuid(r, entry, value);
	} else {
		for (unsigned i = 0; i < SMBIOS_TEXTS && !ok; i++)
			if (lv_xml_is(section, texts[i].element) && !strcmp(name, texts[i].name)) {
				json_object_object_add(member_of(r->smbios, texts[i].section, json_type_object), texts[i].key,
						       json_object_new_string(value));
				ok = true;
			}
		if (!ok)
			refuse(r, entry, "\"%.40s\" is not known here", name);
	}
	xmlFree(name);
	free(value);
	return ok;
}

static bool take_oem(struct reader *r, const xmlNode *section)
{
	for (xmlNode *e = lv_xml_child(section, NULL); e; e = lv_xml_next(e, NULL)) {
		char *value = lv_xml_is(e, "entry") ? lv_xml_text(e) : NULL;

		if (!value)
			return refuse(r, e, "an <entry> is wanted");
		json_object_array_add(member_of(r->smbios, "oem_strings", json_type_array), json_object_new_string(value));
		free(value);
	}
	return true;
}

static bool take_sections(struct reader *r, const xmlNode *sysinfo)
{
	static const char *const known[] = {"bios", "system", "baseBoard", "chassis"};

	for (xmlNode *section = lv_xml_child(sysinfo, NULL); section; section = lv_xml_next(section, NULL)) {
		size_t i = 0;

		if (lv_xml_is(section, "oemStrings")) {
			if (!take_oem(r, section))
				return false;
			continue;
		}
		while (i < sizeof(known) / sizeof(known[0]) && !lv_xml_is(section, known[i]))
			i++;
		if (i == sizeof(known) / sizeof(known[0]) || lv_xml_next(section, (const char *)section->name))
			return refuse(r, section, i < sizeof(known) / sizeof(known[0]) ? "one of them is possible" : "not known here; take the element out");
		for (xmlNode *e = lv_xml_child(section, NULL); e; e = lv_xml_next(e, NULL))
			if (!lv_xml_is(e, "entry") ? !refuse(r, e, "an <entry> is wanted") : !take_entry(r, section, e))
				return false;
	}
	return true;
}

bool lv_sysinfo_parse(const xmlNode *domain, json_object *definition, int *ret_code, char *error, size_t error_size)
{
	struct reader r = {.domain = domain, .code = ret_code, .error = error, .error_size = error_size};
	xmlNode *os = lv_xml_child(domain, "os"), *smbios = os ? lv_xml_child(os, "smbios") : NULL, *sysinfo = lv_xml_child(domain, "sysinfo");
	bool wanted = smbios && lv_xml_attribute_is(smbios, "mode", "sysinfo");

	if (smbios && !wanted && !lv_xml_attribute_is(smbios, "mode", "emulate"))
		return refuse(&r, smbios, "the modes are emulate and sysinfo");
	if (sysinfo && !lv_xml_attribute_is(sysinfo, "type", "smbios"))
		return refuse(&r, sysinfo, "smbios is the only type");
	if (wanted && !sysinfo)
		return refuse(&r, smbios, "the mode sysinfo needs a <sysinfo type=\"smbios\"> in the domain");
	if (!wanted || !sysinfo)
		return true;
	r.smbios = member_of(definition, "smbios", json_type_object);
	return take_sections(&r, sysinfo);
}

/* ---- back to XML ------------------------------------------------------------------------ */

static void put_entry(xmlNode *section, const char *name, const char *text)
{
	xmlNode *entry = xmlNewTextChild(section, NULL, BAD_CAST "entry", BAD_CAST text);

	if (name)
		xmlSetProp(entry, BAD_CAST "name", BAD_CAST name);
}

static void drop_child(xmlNode *parent, const char *name)
{
	xmlNode *e = lv_xml_child(parent, name);

	if (!e)
		return;
	xmlUnlinkNode(e);
	xmlFreeNode(e);
}

static bool has_texts(const struct vmdef *def)
{
	bool any = def->smbios.oem_count;

	for (unsigned i = 0; i < SMBIOS_TEXTS; i++)
		any = any || def->smbios.text[i];
	return any;
}

void lv_sysinfo_write(xmlNode *root, xmlNode *os, const xmlNode *kept, const struct vmdef *def)
{
	xmlNode *smbios = lv_xml_child(os, "smbios"), *sysinfo = kept ? lv_xml_child(kept, "sysinfo") : NULL, *section = NULL;

	/* Texts that are not in use stay as they were said. */
	if (!has_texts(def)) {
		if (smbios && lv_xml_attribute_is(smbios, "mode", "sysinfo"))
			drop_child(os, "smbios");
		else if (sysinfo)
			xmlAddPrevSibling(os, xmlDocCopyNode(sysinfo, root->doc, 1));
		return;
	}
	if (!smbios)
		smbios = xmlNewChild(os, NULL, BAD_CAST "smbios", NULL);
	xmlSetProp(smbios, BAD_CAST "mode", BAD_CAST "sysinfo");
	sysinfo = xmlNewDocNode(root->doc, NULL, BAD_CAST "sysinfo", NULL);
	xmlSetProp(sysinfo, BAD_CAST "type", BAD_CAST "smbios");
	xmlAddPrevSibling(os, sysinfo);
	for (unsigned i = 0; i < SMBIOS_TEXTS; i++) {
		if (!def->smbios.text[i])
			continue;
		if (!section || !lv_xml_is(section, texts[i].element))
			section = xmlNewChild(sysinfo, NULL, BAD_CAST texts[i].element, NULL);
		put_entry(section, texts[i].name, def->smbios.text[i]);
	}
	if (def->smbios.oem_count)
		section = xmlNewChild(sysinfo, NULL, BAD_CAST "oemStrings", NULL);
	for (unsigned i = 0; i < def->smbios.oem_count; i++)
		put_entry(section, NULL, def->smbios.oem[i]);
}
