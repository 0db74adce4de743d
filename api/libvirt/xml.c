/* What reading and writing domain XML share: libxml2 with its sharp edges covered, and what each element means here. */
#include "api/libvirt/screen.h"
#include "api/libvirt/xml.h"

#include "api/libvirt/xml_guest.h"

#include <ctype.h>
#include <errno.h>
#include <libxml/parser.h>
#include <libxml/xmlerror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const lv_xml_seabios[] = {"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin",
				      "/usr/share/qemu-kvm/bios-256k.bin", NULL};

static void quiet(void *opaque, xmlErrorPtr error)
{
}

xmlDoc *lv_xml_read(const char *text, char *error, size_t error_size)
{
	xmlParserCtxt *parser = xmlNewParserCtxt();
	const xmlError *problem;
	xmlDoc *doc = NULL;

	snprintf(error, error_size, "out of memory");
	if (!parser)
		return NULL;
	/* xmlSAXVersion's default handler prints to standard error otherwise. */
	xmlSetStructuredErrorFunc(parser, quiet);
	doc = xmlCtxtReadMemory(parser, text, (int)strlen(text), "domain.xml", NULL,
				XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOBLANKS |
					XML_PARSE_NOCDATA);
	problem = xmlCtxtGetLastError(parser);
	if (!doc || !parser->wellFormed) {
		snprintf(error, error_size, "(domain_definition):%d: %s", problem ? problem->line : 0,
			 problem && problem->message ? problem->message : "this is no XML");
		error[strcspn(error, "\n")] = '\0';
		xmlFreeDoc(doc);
		doc = NULL;
	} else if (doc->intSubset || doc->extSubset) {
		snprintf(error, error_size, "(domain_definition): a document type declaration is not taken");
		xmlFreeDoc(doc);
		doc = NULL;
	}
	xmlSetStructuredErrorFunc(NULL, NULL);
	xmlFreeParserCtxt(parser);
	return doc;
}

static xmlNode *first_from(xmlNode *node, const char *name)
{
	while (node && (node->type != XML_ELEMENT_NODE || (name && !lv_xml_is(node, name))))
		node = node->next;
	return node;
}

xmlNode *lv_xml_child(const xmlNode *parent, const char *name)
{
	return parent ? first_from(parent->children, name) : NULL;
}

xmlNode *lv_xml_next(const xmlNode *node, const char *name)
{
	return first_from(node->next, name);
}

bool lv_xml_is(const xmlNode *node, const char *name)
{
	return !strcmp((const char *)node->name, name);
}

char *lv_xml_attribute(const xmlNode *node, const char *name)
{
	return node ? (char *)xmlGetNoNsProp(node, (const xmlChar *)name) : NULL;
}

bool lv_xml_attribute_is(const xmlNode *node, const char *name, const char *value)
{
	char *text = lv_xml_attribute(node, name);
	bool is = text && !strcmp(text, value);

	xmlFree(text);
	return is;
}

bool lv_xml_attribute_has(const xmlNode *node, const char *name) { return xmlHasProp(node, BAD_CAST name) != NULL; }

char *lv_xml_text(const xmlNode *node)
{
	xmlChar *content = xmlNodeGetContent(node);
	const char *start = content ? (const char *)content : "";
	size_t n;
	char *text;

	while (isspace((unsigned char)*start))
		start++;
	for (n = strlen(start); n && isspace((unsigned char)start[n - 1]);)
		n--;
	text = content ? strndup(start, n) : NULL;
	xmlFree(content);
	return text;
}

/* Decimal and binary units as libvirt reads them. */
bool lv_xml_bytes(const xmlNode *node, uint64_t otherwise, uint64_t *ret_bytes)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{"b", 1},	  {"bytes", 1},	    {"KB", 1000},	  {"k", 1ull << 10},	{"KiB", 1ull << 10},
		{"MB", 1000000},  {"M", 1ull << 20}, {"MiB", 1ull << 20},  {"GB", 1000000000},	{"G", 1ull << 30},
		{"GiB", 1ull << 30}, {"TB", 1000000000000ull}, {"T", 1ull << 40}, {"TiB", 1ull << 40},
	};
	char *unit = lv_xml_attribute(node, "unit"), *text = lv_xml_text(node), *end = NULL;
	uint64_t n, scale = unit ? 0 : otherwise;
	bool ok;

	for (size_t i = 0; unit && i < sizeof(units) / sizeof(units[0]); i++)
		if (!strcasecmp(units[i].name, unit))
			scale = units[i].bytes;
	errno = 0;
	n = text ? strtoull(text, &end, 10) : 0;
	ok = text && scale && !errno && end != text && !*end && text[0] != '-' && n <= UINT64_MAX / scale;
	if (ok)
		*ret_bytes = n * scale;
	xmlFree(unit);
	free(text);
	return ok;
}

void lv_xml_path(const xmlNode *node, char *path, size_t size)
{
	xmlChar *text = xmlGetNodePath(node);

	snprintf(path, size, "%s", text ? (const char *)text : "/domain");
	xmlFree(text);
}

char *lv_xml_print(xmlNode *node, bool indented)
{
	xmlBuffer *buffer = xmlBufferCreate();
	char *text = NULL;

	if (buffer && xmlNodeDump(buffer, node->doc, node, 0, indented) >= 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	return text;
}

bool lv_xml_is_own_key(const char *key)
{
	static const char *const elsewhere[] = {"current_memory_mib", "guest_agent", "virtio_console", "channels", "balloon",
						"smbios", "vsock", "shares", "name",  "uuid",   "memory_mib", "vcpus",       "boot",       "disks",       "nics",
						"serial", "title", "on_reboot",  "description", "libvirt_xml", "autostart"};

	for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++)
		if (!strcmp(elsewhere[i], key))
			return false;
	return true;
}

/* ---- what elements mean ------------------------------------------------------------------ */

struct meaning {
	const char *parent, *name;
	enum lv_xml_effect effect;
};

/* Alphabetical within a parent. What is not here is refused by its path. */
static const struct meaning meanings[] = {
	{"domain", "bios", LV_XML_REFUSED},
	{"domain", "blkiotune", LV_XML_REFUSED},
	{"domain", "clock", LV_XML_KEPT},
	{"domain", "cpu", LV_XML_MAPPED},
	{"domain", "cputune", LV_XML_REFUSED},
	{"domain", "currentMemory", LV_XML_MAPPED},
	{"domain", "description", LV_XML_MAPPED},
	{"domain", "devices", LV_XML_MAPPED},
	{"domain", "features", LV_XML_KEPT},
	{"domain", "genid", LV_XML_REFUSED},
	{"domain", "iothreads", LV_XML_NO_EFFECT},
	{"domain", "launchSecurity", LV_XML_REFUSED},
	{"domain", "maxMemory", LV_XML_REFUSED},
	{"domain", "memory", LV_XML_MAPPED},
	{"domain", "memoryBacking", LV_XML_NO_EFFECT},
	{"domain", "memtune", LV_XML_REFUSED},
	{"domain", "metadata", LV_XML_MAPPED},
	{"domain", "name", LV_XML_MAPPED},
	{"domain", "numatune", LV_XML_REFUSED},
	{"domain", "on_crash", LV_XML_MAPPED},
	{"domain", "on_poweroff", LV_XML_MAPPED},
	{"domain", "on_reboot", LV_XML_MAPPED},
	{"domain", "os", LV_XML_MAPPED},
	{"domain", "perf", LV_XML_REFUSED},
	{"domain", "pm", LV_XML_KEPT},
	{"domain", "resource", LV_XML_NO_EFFECT},
	{"domain", "seclabel", LV_XML_NO_EFFECT},
	{"domain", "sysinfo", LV_XML_MAPPED},
	{"domain", "title", LV_XML_MAPPED},
	{"domain", "uuid", LV_XML_MAPPED},
	{"domain", "vcpu", LV_XML_MAPPED},
	{"os", "acpi", LV_XML_REFUSED},
	{"os", "bios", LV_XML_KEPT},
	{"os", "boot", LV_XML_KEPT},
	{"os", "bootmenu", LV_XML_MAPPED},
	{"os", "cmdline", LV_XML_MAPPED},
	{"os", "dtb", LV_XML_REFUSED},
	{"os", "firmware", LV_XML_REFUSED},
	{"os", "initrd", LV_XML_MAPPED},
	{"os", "kernel", LV_XML_MAPPED},
	{"os", "loader", LV_XML_MAPPED},
	{"os", "nvram", LV_XML_MAPPED},
	{"os", "smbios", LV_XML_MAPPED},
	{"os", "type", LV_XML_MAPPED},
	{"devices", "audio", LV_XML_NO_EFFECT},
	{"devices", "channel", LV_XML_NO_EFFECT},
	{"devices", "console", LV_XML_MAPPED},
	{"devices", "controller", LV_XML_NO_EFFECT},
	{"devices", "disk", LV_XML_MAPPED},
	{"devices", "emulator", LV_XML_KEPT},
	{"devices", "filesystem", LV_XML_MAPPED},
	{"devices", "graphics", LV_XML_NO_EFFECT},
	{"devices", "hostdev", LV_XML_REFUSED},
	{"devices", "input", LV_XML_NO_EFFECT},
	{"devices", "interface", LV_XML_MAPPED},
	{"devices", "iommu", LV_XML_REFUSED},
	{"devices", "memballoon", LV_XML_MAPPED},
	{"devices", "memory", LV_XML_REFUSED},
	{"devices", "panic", LV_XML_KEPT},
	{"devices", "parallel", LV_XML_REFUSED},
	{"devices", "redirdev", LV_XML_REFUSED},
	{"devices", "rng", LV_XML_KEPT},
	{"devices", "serial", LV_XML_MAPPED},
	{"devices", "shmem", LV_XML_REFUSED},
	{"devices", "smartcard", LV_XML_REFUSED},
	{"devices", "sound", LV_XML_NO_EFFECT},
	{"devices", "tpm", LV_XML_REFUSED},
	{"devices", "video", LV_XML_NO_EFFECT},
	{"devices", "vsock", LV_XML_MAPPED},
	{"devices", "watchdog", LV_XML_REFUSED},
};

/* Devices that are the machine's own, or no devices at all. */
static bool is_real(const xmlNode *e)
{
	if (lv_xml_is(e, "controller"))
		return lv_xml_attribute_is(e, "model", "none") ||
		       (lv_xml_attribute_is(e, "type", "pci") && lv_xml_attribute_is(e, "model", "pci-root"));
	if (lv_xml_is(e, "channel"))
		return lv_channel_is_ours(e);
	if (lv_xml_is(e, "audio"))
		return lv_xml_attribute_is(e, "type", "none");
	if (lv_xml_is(e, "graphics") || lv_xml_is(e, "video") || lv_xml_is(e, "input"))
		return lv_screen_is_real(e);
	return false;
}

enum lv_xml_effect lv_xml_effect_of(const xmlNode *element)
{
	for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++)
		if (lv_xml_is(element->parent, meanings[i].parent) && lv_xml_is(element, meanings[i].name))
			return meanings[i].effect == LV_XML_NO_EFFECT && is_real(element) ? LV_XML_KEPT
											  : meanings[i].effect;
	return LV_XML_UNKNOWN;
}
