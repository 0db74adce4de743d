/* Domain XML to a definition: what has a key gets it, the rest is kept as it was or refused by its path. */
#include "api/libvirt/interface.h"
#include "api/libvirt/private.h"
#include "api/libvirt/screen.h"
#include "api/libvirt/share.h"
#include "api/libvirt/sysinfo.h"
#include "api/libvirt/xml.h"
#include "api/libvirt/xml_guest.h"
#include "proto/line.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct parser {
	json_object *display; /* of <graphics> and <video>; NULL: there are none */
	json_object *definition, *boot, *disks, *nics;
	xmlNode *root;
	bool has_serial;
	int code; /* VIR_ERR_*; 0: no error yet */
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 3, 4))) static bool refuse(struct parser *p, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(p->error, p->error_size, format, args);
	va_end(args);
	p->code = code;
	return false;
}

__attribute__((format(printf, 3, 4))) static bool refuse_node(struct parser *p, const xmlNode *node,
							      const char *format, ...)
{
	char path[300], why[600];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	lv_xml_path(node, path, sizeof(path));
	return refuse(p, VIR_ERR_CONFIG_UNSUPPORTED, "%s: %s", path, why);
}

static bool put_text(struct parser *p, json_object *to, const char *key, const xmlNode *node)
{
	char *text = lv_xml_text(node);

	if (!text)
		return refuse(p, VIR_ERR_NO_MEMORY, "out of memory");
	if (text[0])
		json_object_object_add(to, key, json_object_new_string(text));
	free(text);
	return true;
}

/* ---- numbers ---------------------------------------------------------------------------- */

static bool get_number(struct parser *p, const xmlNode *node, const char *text, uint64_t *ret)
{
	char *end = NULL;
	unsigned long long n;

	errno = 0;
	n = strtoull(text ? text : "", &end, 10);
	if (!text || errno || end == text || *end || text[0] == '-')
		return refuse_node(p, node, "a number is wanted, not \"%.60s\"", text ? text : "");
	*ret = n;
	return true;
}

static bool get_kib(struct parser *p, const xmlNode *node, uint64_t *ret_kib)
{
	uint64_t bytes = 0;

	if (!lv_xml_bytes(node, 1024, &bytes)) {
		char *unit = lv_xml_attribute(node, "unit"), *text = lv_xml_text(node);

		refuse_node(p, node, "\"%.60s\" with the unit \"%.20s\" is no size", text ? text : "", unit ? unit : "KiB");
		xmlFree(unit);
		free(text);
		return false;
	}
	*ret_kib = bytes / 1024 + (bytes % 1024 != 0);
	return true;
}

/* ---- elements of <domain> ------------------------------------------------------------------ */

static bool take_memory(struct parser *p, const xmlNode *node)
{
	uint64_t kib = 0, current;
	xmlNode *now = lv_xml_child(p->root, "currentMemory");

	if (!get_kib(p, node, &kib))
		return false;
	if ((kib + 1023) / 1024 > VMDEF_MEMORY_MAX_MIB || kib == 0)
		return refuse_node(p, node, "from %d to %d MiB are possible", VMDEF_MEMORY_MIN_MIB,
				   VMDEF_MEMORY_MAX_MIB);
	json_object_object_add(p->definition, "memory_mib", json_object_new_int64((int64_t)((kib + 1023) / 1024)));
	if (!now)
		return true;
	if (!get_kib(p, now, &current))
		return false;
	if ((current + 1023) / 1024 < VMDEF_MEMORY_MIN_MIB)
		return refuse_node(p, now, "at least %d MiB are needed", VMDEF_MEMORY_MIN_MIB);
	if ((current + 1023) / 1024 < (kib + 1023) / 1024)
		json_object_object_add(p->definition, "current_memory_mib", json_object_new_int64((int64_t)((current + 1023) / 1024)));
	return true;
}

static bool take_vcpu(struct parser *p, const xmlNode *node)
{
	char *text = lv_xml_text(node), *current = lv_xml_attribute(node, "current"),
	     *set = lv_xml_attribute(node, "cpuset");
	uint64_t n = 0, now = 0;
	bool ok = get_number(p, node, text, &n);

	if (ok && (n < 1 || n > VMDEF_VCPUS_MAX))
		ok = refuse_node(p, node, "from 1 to %d are possible", VMDEF_VCPUS_MAX);
	if (ok && current && (ok = get_number(p, node, current, &now)) && now != n)
		ok = refuse_node(p, node, "processors cannot be plugged: current must be %s", text);
	if (ok && set)
		ok = refuse_node(p, node, "cpuset is not supported; take the attribute out");
	if (ok)
		json_object_object_add(p->definition, "vcpus", json_object_new_int64((int64_t)n));
	xmlFree(current);
	xmlFree(set);
	free(text);
	return ok;
}

static bool take_cpu(struct parser *p, const xmlNode *node)
{
	static const char *const parts[] = {"dies", "sockets", "cores", "threads"};
	xmlNode *topology = lv_xml_child(node, "topology"), *vcpu = lv_xml_child(p->root, "vcpu");
	char *text = vcpu ? lv_xml_text(vcpu) : NULL;
	uint64_t product = 1, n = 1, vcpus = text ? strtoull(text, NULL, 10) : 1;
	bool ok = true;

	for (size_t i = 0; ok && topology && i < 4; i++) {
		char *part = lv_xml_attribute(topology, parts[i]);

		ok = !part || get_number(p, topology, part, &n);
		product *= part && n < 1000 ? n : 1;
		xmlFree(part);
	}
	free(text);
	if (ok && topology && product != vcpus)
		return refuse_node(p, topology, "it has %llu processors, <vcpu> %llu", (unsigned long long)product,
				   (unsigned long long)vcpus);
	return ok;
}

static bool take_action(struct parser *p, const xmlNode *node)
{
	char *text = lv_xml_text(node);
	bool ok = text != NULL, restart = text && !strcmp(text, "restart"),
	     destroy = text && (!strcmp(text, "destroy") || !strcmp(text, "preserve"));

	if (!ok)
		return refuse(p, VIR_ERR_NO_MEMORY, "out of memory");
	if (lv_xml_is(node, "on_reboot")) {
		if (restart || destroy)
			json_object_object_add(p->definition, "on_reboot",
					       json_object_new_string(restart ? "restart" : "shutdown"));
		else
			ok = refuse_node(p, node, "\"%.40s\" is not possible; restart and destroy are", text);
	} else if (strcmp(text, "destroy")) {
		/* A crashed or powered-off domain is not started again, and leaves no process behind. virt-install
		 * writes restart or destroy for crashes; what cannot be done is said. */
		ok = refuse_node(p, node, "\"%.40s\" is not possible; destroy is", text);
	}
	free(text);
	return ok;
}

/* A key's value from an attribute's text: JSON, "yes" or "no" where no text is wanted, otherwise the text itself. */
static json_object *value_of(json_object *schema, const char *text)
{
	json_object *type = NULL, *value = NULL;
	const char *why;

	if (!line_parse_json(text, strlen(text), &value, &why) && value)
		return value;
	json_object_object_get_ex(schema, "type", &type);
	if ((!strcmp(text, "yes") || !strcmp(text, "no")) && (!type || strcmp(json_object_get_string(type), "string")))
		return json_object_new_boolean(!strcmp(text, "yes"));
	return json_object_new_string(text);
}

/* <trivisor:vm mode="bt" workload="web"/>: an attribute for each key that domain XML has no words for. */
static bool take_own_metadata(struct parser *p, const xmlNode *node)
{
	json_object *schema = vmdef_schema(), *properties = NULL, *property = NULL, *value;
	bool ok = true;

	json_object_object_get_ex(schema, "properties", &properties);
	for (const xmlAttr *a = node->properties; a && ok; a = a->next) {
		char *text = lv_xml_attribute(node, (const char *)a->name), key[64];

		snprintf(key, sizeof(key), "%s", (const char *)a->name);
		for (char *c = key; *c; c++)
			*c = *c == '-' ? '_' : *c;
		value = text && lv_xml_is_own_key(key) && json_object_object_get_ex(properties, key, &property)
				? value_of(property, text)
				: NULL;
		if (value)
			json_object_object_add(p->definition, key, value);
		else
			ok = refuse_node(p, node, "the attribute %.60s is not known", (const char *)a->name);
		xmlFree(text);
	}
	json_object_put(schema);
	return ok;
}

/* <trivisor:nic mac="…" keys="{…}"/>: what <interface> has no words for. One whose interface was taken out says nothing. */
static bool take_nic(struct parser *p, const xmlNode *e)
{
	char *mac = lv_xml_attribute(e, "mac"), *keys = lv_xml_attribute(e, "keys");
	json_object *unsaid = NULL;
	const char *why = "";
	bool ok = mac && keys && !line_parse_json(keys, strlen(keys), &unsaid, &why) && json_object_is_type(unsaid, json_type_object);

	for (size_t i = 0; ok && i < json_object_array_length(p->nics); i++) {
		json_object *nic = json_object_array_get_idx(p->nics, i);
		const char *its = json_object_get_string(json_object_object_get(nic, "mac"));

		if (its && !strcasecmp(its, mac))
			lv_interface_add_unsaid(nic, unsaid);
	}
	json_object_put(unsaid);
	xmlFree(mac);
	xmlFree(keys);
	return ok || refuse_node(p, e, "the attributes mac and keys (an object as JSON) are wanted; %s", why);
}

/* <trivisor:module path="…" cmdline="…"/> within it, for Multiboot and PVH kernels; and NICs. */
static bool take_parts(struct parser *p, const xmlNode *own)
{
	json_object *list = NULL;

	for (xmlNode *e = lv_xml_child(own, NULL); e; e = lv_xml_next(e, NULL)) {
		if (lv_xml_is(e, "nic")) {
			if (!take_nic(p, e))
				return false;
			continue;
		}

		char *path = lv_xml_attribute(e, "path"), *cmdline = lv_xml_attribute(e, "cmdline");
		json_object *item = json_object_new_object();
		bool ok = lv_xml_is(e, "module") && path;

		if (path)
			json_object_object_add(item, "path", json_object_new_string(path));
		if (cmdline)
			json_object_object_add(item, "cmdline", json_object_new_string(cmdline));
		xmlFree(path);
		xmlFree(cmdline);
		if (!list) {
			list = json_object_new_array();
			json_object_object_add(p->boot, "modules", list);
		}
		json_object_array_add(list, item);
		if (!ok)
			return refuse_node(p, e, "a <module> with a path is wanted here");
	}
	return true;
}

static bool take_metadata(struct parser *p, const xmlNode *node)
{
	for (xmlNode *e = lv_xml_child(node, NULL); e; e = lv_xml_next(e, NULL)) {
		if (!e->ns)
			return refuse_node(p, e, "elements of <metadata> need a namespace of their own");
		if (!strcmp((const char *)e->ns->href, LV_XML_NAMESPACE) &&
		    (!take_own_metadata(p, e) || !take_parts(p, e)))
			return false;
	}
	return true;
}

static bool take_type(struct parser *p, const char *os_type)
{
	static const struct {
		const char *type, *mode;
	} rows[] = {{"trivisor", "auto"}, {"kvm", "hvm"}, {"qemu", "bt"}, {"xen", "pv"}};
	char *type = lv_xml_attribute(p->root, "type");
	const char *mode = NULL;
	bool ok = true;

	for (size_t i = 0; type && i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!strcmp(rows[i].type, type))
			mode = rows[i].mode;
	if (!mode)
		ok = refuse(p, type ? VIR_ERR_CONFIG_UNSUPPORTED : VIR_ERR_XML_ERROR,
			    "/domain: the type \"%.40s\" is not known; trivisor lets the policy choose, kvm asks for hvm, qemu "
			    "for bt, xen for pv",
			    type ? type : "");
	else if (strcmp(os_type, "hvm") && strcmp(mode, "pv"))
		ok = refuse(p, VIR_ERR_CONFIG_UNSUPPORTED,
			    "/domain/os/type: \"%.40s\" does not go with the domain type %s; hvm does", os_type, type);
	else if (!strcmp(mode, "pv") && strcmp(os_type, "xen") && strcmp(os_type, "linux"))
		ok = refuse(p, VIR_ERR_CONFIG_UNSUPPORTED,
			    "/domain/os/type: the domain type xen runs paravirtual guests (xen), not \"%.40s\"", os_type);
	else
		json_object_object_add(p->definition, "mode", json_object_new_string(mode));
	xmlFree(type);
	return ok;
}

/* ---- <os> ----------------------------------------------------------------------------------- */

static bool take_os_type(struct parser *p, const xmlNode *node)
{
	char *arch = lv_xml_attribute(node, "arch"), *text = lv_xml_text(node);
	bool ok = text != NULL;

	if (arch && strcmp(arch, "x86_64") && strcmp(arch, "i686"))
		ok = refuse_node(p, node, "the architecture \"%.40s\" is not possible; x86_64 and i686 are", arch);
	if (ok)
		ok = take_type(p, text);
	xmlFree(arch);
	free(text);
	return ok;
}

static bool take_default_firmware(struct parser *p, const xmlNode *os)
{
	for (size_t i = 0; lv_xml_seabios[i]; i++)
		if (access(lv_xml_seabios[i], R_OK) == 0) {
			json_object_object_add(p->boot, "firmware", json_object_new_string(lv_xml_seabios[i]));
			return true;
		}
	return refuse_node(p, os, "nothing to boot: give <kernel> or <loader>, or install SeaBIOS (Debian: seabios)");
}

/* <nvram template="/OVMF_VARS.fd">/this/vm's.fd</nvram> */
static bool take_nvram(struct parser *p, const xmlNode *node)
{
	json_object *nvram = json_object_new_object();
	char *template = lv_xml_attribute(node, "template"), *type = lv_xml_attribute(node, "type");
	bool file = !type || !strcmp(type, "file");

	json_object_object_add(p->boot, "nvram", nvram);
	if (template)
		json_object_object_add(nvram, "template", json_object_new_string(template));
	xmlFree(template);
	xmlFree(type);
	return file ? put_text(p, nvram, "path", node)
		    : refuse_node(p, node, "variables are kept in a file here; take the type out");
}

#define BOOT_MENU_MS 2500 /* SeaBIOS's own wait */

/* <bootmenu enable="yes" timeout="3000"/>. A kernel that is loaded directly has no menu in front of it. */
static bool take_boot_menu(struct parser *p, const xmlNode *menu)
{
	char *timeout = lv_xml_attribute(menu, "timeout");
	uint64_t ms = BOOT_MENU_MS;
	bool ok = !timeout || get_number(p, menu, timeout, &ms);

	xmlFree(timeout);
	if (ok && lv_xml_attribute_is(menu, "enable", "yes") && json_object_object_get_ex(p->boot, "firmware", NULL))
		json_object_object_add(p->boot, "menu_ms", json_object_new_int64((int64_t)ms));
	return ok;
}

static bool take_os(struct parser *p, const xmlNode *os)
{
	static const struct {
		const char *element, *key;
	} rows[] = {{"loader", "firmware"}, {"kernel", "kernel"}, {"initrd", "initrd"}, {"cmdline", "cmdline"}};
	xmlNode *type = lv_xml_child(os, "type");
	char *firmware = lv_xml_attribute(os, "firmware");
	bool efi = firmware && strcmp(firmware, "bios");

	xmlFree(firmware);
	if (efi)
		return refuse_node(p, os, "firmware is not chosen by kind here; name its file in <loader>");
	if (!type)
		return refuse(p, VIR_ERR_XML_ERROR, "/domain/os/type is missing");
	if (!take_os_type(p, type))
		return false;
	for (size_t i = 0; i < 4; i++) {
		xmlNode *e = lv_xml_child(os, rows[i].element);

		if (e && !put_text(p, p->boot, rows[i].key, e))
			return false;
	}
	if (lv_xml_child(os, "nvram") && !take_nvram(p, lv_xml_child(os, "nvram")))
		return false;
	if (!json_object_object_get_ex(p->boot, "kernel", NULL) && !json_object_object_get_ex(p->boot, "firmware", NULL) &&
	    !take_default_firmware(p, os))
		return false;
	return !lv_xml_child(os, "bootmenu") || take_boot_menu(p, lv_xml_child(os, "bootmenu"));
}

/* ---- <devices> -------------------------------------------------------------------------------- */

static bool is_format(const char *name)
{
	for (unsigned i = VMDEF_FORMAT_RAW; i <= VMDEF_FORMAT_VHDX; i++)
		if (!strcmp(vmdef_format_name(i), name))
			return true;
	return false;
}

/* An attribute of <driver>, where it names something else here than in libvirt's words; else the same. */
static bool put_driver(struct parser *p, json_object *item, xmlNode *driver, const char *attribute, const char *key,
		       const char *const (*words)[2])
{
	char *value = driver ? lv_xml_attribute(driver, attribute) : NULL;
	const char *ours = NULL;

	for (size_t i = 0; value && words[i][0]; i++)
		if (!strcmp(words[i][0], value))
			ours = words[i][1];
	if (value && !ours)
		refuse_node(p, driver, "%s=\"%.40s\" is not possible", attribute, value);
	else if (value && ours[0])
		json_object_object_add(item, key, json_object_new_string(ours));
	xmlFree(value);
	return !value || ours;
}

static bool take_driver(struct parser *p, json_object *item, xmlNode *driver)
{
	static const char *const cache[][2] = {{"default", ""}, {"writeback", "writeback"}, {"writethrough", "writethrough"},
					       {"none", "direct"}, {"directsync", "directsync"}, {"unsafe", "unsafe"}, {NULL, NULL}};
	static const char *const discard[][2] = {{"unmap", "unmap"}, {"ignore", "ignore"}, {NULL, NULL}};
	static const char *const on_error[][2] = {
		{"report", "report"}, {"stop", "pause"}, {"enospace", "pause_when_full"}, {NULL, NULL}};
	char *format = driver ? lv_xml_attribute(driver, "type") : NULL;

	if (format)
		json_object_object_add(item, "format", json_object_new_string(format));
	xmlFree(format);
	return put_driver(p, item, driver, "cache", "cache", cache) && put_driver(p, item, driver, "discard", "discard", discard) &&
	       put_driver(p, item, driver, "error_policy", "on_error", on_error);
}

static bool check_disk(struct parser *p, const xmlNode *disk)
{
	xmlNode *driver = lv_xml_child(disk, "driver"), *target = lv_xml_child(disk, "target");
	char *device = lv_xml_attribute(disk, "device"), *type = lv_xml_attribute(disk, "type"),
	     *format = lv_xml_attribute(driver, "type"), *bus = lv_xml_attribute(target, "bus");
	bool ok = true;

	if (type && strcmp(type, "file") && strcmp(type, "block"))
		ok = refuse_node(p, disk, "a disk of type \"%.40s\" is not possible; file and block are", type);
	else if (device && strcmp(device, "disk") && strcmp(device, "cdrom"))
		ok = refuse_node(p, disk, "this machine has no %.40s; a disk or a cdrom is possible", device);
	else if (format && !is_format(format))
		ok = refuse_node(p, driver, "the format \"%.40s\" is not possible; raw, qcow2, vdi, vmdk, vpc and vhdx are", format);
	else if (!target)
		ok = refuse(p, VIR_ERR_XML_ERROR, "a <disk> has no <target>");
	else if (bus && strcmp(bus, "virtio") && !(device && !strcmp(device, "cdrom"))) /* a CD's is virtio-scsi, whatever it says */
		ok = refuse_node(p, target, "the bus \"%.40s\" is not possible; virtio is", bus);
	xmlFree(device);
	xmlFree(type);
	xmlFree(format);
	xmlFree(bus);
	return ok;
}

static bool take_disk(struct parser *p, xmlNode *disk)
{
	static const char *const refused[] = {"encryption", "iotune", "mirror", "auth", "blockio", NULL};
	xmlNode *source = lv_xml_child(disk, "source"), *target;
	json_object *item;
	char *path;

	if (!check_disk(p, disk))
		return false;
	for (size_t i = 0; refused[i]; i++)
		if (lv_xml_child(disk, refused[i]))
			return refuse_node(p, lv_xml_child(disk, refused[i]), "not supported");
	path = lv_xml_attribute(source, lv_xml_attribute_is(disk, "type", "block") ? "dev" : "file");
	if (!path && !lv_xml_attribute_is(disk, "device", "cdrom"))
		return refuse_node(p, disk, "its <source> names no file");
	target = lv_xml_child(disk, "target");
	for (xmlNode *other = lv_xml_child(disk->parent, "disk"); other != disk; other = lv_xml_next(other, "disk")) {
		char *a = lv_xml_attribute(target, "dev"), *b = lv_xml_attribute(lv_xml_child(other, "target"), "dev");
		bool same = a && b && !strcmp(a, b);

		if (same || !a)
			refuse(p, VIR_ERR_XML_ERROR, "target '%.60s' duplicated for disk sources", a ? a : "");
		xmlFree(a);
		xmlFree(b);
		if (same || !a) {
			xmlFree(path);
			return false;
		}
	}
	item = json_object_new_object();
	if (path)
		json_object_object_add(item, "path", json_object_new_string(path));
	json_object_object_add(item, "readonly", json_object_new_boolean(lv_xml_child(disk, "readonly") != NULL));
	json_object_array_add(p->disks, item);
	if (lv_xml_attribute_is(disk, "device", "cdrom"))
		json_object_object_add(item, "device", json_object_new_string("cdrom"));
	if (lv_xml_child(disk, "transient"))
		json_object_object_add(item, "snapshot", json_object_new_boolean(1));
	xmlFree(path);
	return take_driver(p, item, lv_xml_child(disk, "driver")) &&
	       (!lv_xml_child(disk, "serial") || put_text(p, item, "serial", lv_xml_child(disk, "serial")));
}

static bool take_serial(struct parser *p, xmlNode *node)
{
	xmlNode *target = lv_xml_child(node, "target");
	char *type = lv_xml_attribute(node, "type"), *port = lv_xml_attribute(target, "port"),
	     *kind = lv_xml_attribute(target, "type");
	bool ok = true, console = lv_xml_is(node, "console"), virtio = console && kind && !strcmp(kind, "virtio");
	xmlNode *other = lv_xml_next(node, (const char *)node->name);

	if (type && strcmp(type, "pty") && strcmp(type, "null"))
		ok = refuse_node(p, node, "the type \"%.40s\" is not possible; pty is (virsh console, trictl console)", type);
	else if (port && strcmp(port, "0") && !virtio)
		ok = refuse_node(p, node, "only the first serial port (port 0) can be connected");
	else if (kind && strcmp(kind, "serial") && strcmp(kind, "isa-serial") && !virtio)
		ok = refuse_node(p, node, "a console of type \"%.40s\" is not possible; serial and virtio are", kind);
	else if (other && (!console || lv_console_is_virtio(other) == virtio))
		ok = refuse_node(p, other, "one %s is possible", console ? "console of each type" : "serial port");
	else if (virtio)
		json_object_object_add(p->definition, "virtio_console", json_object_new_boolean(!type || strcmp(type, "null")));
	else if (!type || strcmp(type, "null"))
		p->has_serial = true;
	xmlFree(type);
	xmlFree(port);
	xmlFree(kind);
	return ok;
}

/* ---- the walk ------------------------------------------------------------------------------------ */

static bool check_element(struct parser *p, const xmlNode *e)
{
	switch (lv_xml_effect_of(e)) {
	case LV_XML_UNKNOWN: return refuse_node(p, e, "not known here; take the element out");
	case LV_XML_REFUSED:
		return refuse_node(p, e, "not supported by this version; take the element out");
	default: return true;
	}
}

static bool take_interface(struct parser *p, const xmlNode *e)
{
	json_object *nic = NULL;

	if (lv_interface_parse(e, &nic, &p->code, p->error, p->error_size))
		return false;
	json_object_array_add(p->nics, nic);
	return true;
}

static bool take_devices(struct parser *p, xmlNode *devices)
{
	for (xmlNode *e = lv_xml_child(devices, NULL); e; e = lv_xml_next(e, NULL)) {
		if (!check_element(p, e))
			return false;
		if (lv_xml_is(e, "disk") && !take_disk(p, e))
			return false;
		if (lv_guest_parse(e, p->definition, &p->code, p->error, p->error_size))
			return false;
		if (lv_xml_is(e, "interface") && !take_interface(p, e))
			return false;
		if ((lv_xml_is(e, "vsock") || lv_xml_is(e, "filesystem")) &&
		    !lv_share_parse(e, p->definition, &p->code, p->error, p->error_size))
			return false;
		if ((lv_xml_is(e, "serial") || lv_xml_is(e, "console")) && !take_serial(p, e))
			return false;
		if (lv_screen_parse(e, &p->display, &p->code, p->error, p->error_size))
			return false;
	}
	return true;
}

static bool take_element(struct parser *p, xmlNode *e)
{
	static const struct {
		const char *name, *key;
		bool (*take)(struct parser *p, const xmlNode *node);
	} rows[] = {
		{"name", "name", NULL},           {"uuid", "uuid", NULL},       {"title", "title", NULL},
		{"description", "description", NULL}, {"memory", NULL, take_memory}, {"vcpu", NULL, take_vcpu},
		{"cpu", NULL, take_cpu},          {"on_reboot", NULL, take_action}, {"on_crash", NULL, take_action},
		{"on_poweroff", NULL, take_action},
	};

	if (!check_element(p, e))
		return false;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (lv_xml_is(e, rows[i].name))
			return rows[i].take ? rows[i].take(p, e) : put_text(p, p->definition, rows[i].key, e);
	if (!lv_xml_is(e, "os"))
		return !lv_xml_is(e, "devices") || take_devices(p, e);
	for (xmlNode *child = lv_xml_child(e, NULL); child; child = lv_xml_next(child, NULL))
		if (!check_element(p, child))
			return false;
	return take_os(p, e);
}

/* What <metadata> has of a display belongs to the one that the devices describe. */
static void join_display(struct parser *p)
{
	json_object *own = NULL;

	if (!p->display)
		return;
	if (!json_object_object_get_ex(p->definition, "display", &own) || !json_object_is_type(own, json_type_object)) {
		json_object_object_add(p->definition, "display", json_object_get(p->display));
		return;
	}
	json_object_object_foreach(p->display, key, value)
		json_object_object_add(own, key, json_object_get(value));
}

static bool take_root(struct parser *p)
{
	static const char *const required[] = {"name", "memory", "os"};

	if (!lv_xml_is(p->root, "domain"))
		return refuse(p, VIR_ERR_XML_ERROR, "unexpected root element <%.60s>, expecting <domain>",
			      (const char *)p->root->name);
	for (size_t i = 0; i < 3; i++) {
		xmlNode *e = lv_xml_child(p->root, required[i]);

		if (!e)
			return refuse(p, VIR_ERR_XML_ERROR, "/domain/%s is missing", required[i]);
		if (lv_xml_next(e, required[i]))
			return refuse(p, VIR_ERR_XML_ERROR, "/domain/%s is there twice", required[i]);
	}
	for (xmlNode *e = lv_xml_child(p->root, NULL); e; e = lv_xml_next(e, NULL))
		if (!take_element(p, e))
			return false;
	if (!lv_sysinfo_parse(p->root, p->definition, &p->code, p->error, p->error_size))
		return false;
	/* Last: what it says outranks the domain's type. */
	for (xmlNode *e = lv_xml_child(p->root, "metadata"); e; e = lv_xml_next(e, "metadata"))
		if (!take_metadata(p, e))
			return false;
	join_display(p);
	json_object_object_add(p->definition, "serial", json_object_new_string(p->has_serial ? "console" : "none"));
	return true;
}

int lv_xml_parse(const char *xml, const struct vmdef *old, json_object **ret_definition, int *ret_code, char *error,
		 size_t error_size)
{
	struct parser p = {.definition = json_object_new_object(),
			   .boot = json_object_new_object(),
			   .disks = json_object_new_array(),
			   .nics = json_object_new_array(),
			   .error = error,
			   .error_size = error_size};
	xmlDoc *doc = NULL;
	char *text = NULL;

	json_object_object_add(p.definition, "boot", p.boot);
	json_object_object_add(p.definition, "disks", p.disks);
	json_object_object_add(p.definition, "nics", p.nics);
	if (strlen(xml) > LV_XML_MAX)
		refuse(&p, VIR_ERR_XML_ERROR, "%zu bytes of XML are too long; at most %zu", strlen(xml), LV_XML_MAX);
	else if (!(doc = lv_xml_read(xml, error, error_size)))
		p.code = VIR_ERR_XML_DETAIL;
	else if (!(p.root = xmlDocGetRootElement(doc)))
		refuse(&p, VIR_ERR_XML_ERROR, "there is no element in it");
	else if (take_root(&p)) {
		text = lv_xml_print(p.root, false);
		if (text)
			json_object_object_add(p.definition, "libvirt_xml", json_object_new_string(text));
		else
			refuse(&p, VIR_ERR_NO_MEMORY, "out of memory");
		if (old)
			json_object_object_add(p.definition, "autostart", json_object_new_boolean(old->autostart));
	}
	free(text);
	xmlFreeDoc(doc);
	json_object_put(p.display);
	if (p.code) {
		json_object_put(p.definition);
		*ret_code = p.code;
		return -EINVAL;
	}
	*ret_definition = p.definition;
	return 0;
}
