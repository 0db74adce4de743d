/* A definition to domain XML: what it was defined with, brought up to date with what its keys say now. */
#include "api/libvirt/interface.h"
#include "api/libvirt/private.h"
#include "api/libvirt/screen.h"
#include "api/libvirt/share.h"
#include "api/libvirt/sysinfo.h"
#include "api/libvirt/xml.h"
#include "api/libvirt/xml_guest.h"
#include "proto/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The order in which libvirt shows them. */
static const char *const order[] = {"name",       "uuid",   "title",     "description",   "metadata", "memory",
				    "currentMemory", "memoryBacking", "vcpu", "iothreads", "resource", "os",
				    "features",   "cpu",    "clock",     "on_poweroff",   "on_reboot", "on_crash",
				    "pm",         "devices", "seclabel", NULL};

struct formatter {
	const struct daemon_vm_info *info;
	const struct vmdef *def;
	xmlNode *kept; /* <domain> as it was given; NULL */
	xmlNode *root;
	bool secure; /* passwords too */
	bool live;
};

static xmlNode *add(xmlNode *parent, const char *name, const char *text)
{
	return xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)text);
}

static void set(xmlNode *node, const char *name, const char *value)
{
	xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value);
}

static void drop(xmlNode *node)
{
	xmlUnlinkNode(node);
	xmlFreeNode(node);
}

static void drop_children(xmlNode *parent, const char *name)
{
	xmlNode *e;

	while ((e = lv_xml_child(parent, name)))
		drop(e);
}

/* A copy of every kept child of that name; the first one. */
static xmlNode *copy_kept(struct formatter *f, const char *name)
{
	xmlNode *first = NULL;

	for (xmlNode *e = lv_xml_child(f->kept, name); e; e = lv_xml_next(e, name)) {
		xmlNode *copy = xmlDocCopyNode(e, f->root->doc, 1);

		if (copy)
			xmlAddChild(f->root, copy);
		first = first ? first : copy;
	}
	return first;
}

static xmlNode *copy_or_add(struct formatter *f, const char *name)
{
	xmlNode *node = copy_kept(f, name);

	return node ? node : add(f->root, name, NULL);
}

/* ---- <domain>, <metadata> ------------------------------------------------------------------- */

static const char *type_of_mode(enum vmdef_mode mode)
{
	static const char *const types[] = {"trivisor", "qemu", "kvm", "xen"};

	return types[mode];
}

static xmlNode *own_metadata(xmlNode *metadata)
{
	for (xmlNode *e = lv_xml_child(metadata, NULL); e; e = lv_xml_next(e, NULL))
		if (e->ns && !strcmp((const char *)e->ns->href, LV_XML_NAMESPACE))
			return e;
	return NULL;
}

/* The type the user gave, as long as it says what the definition says. */
static bool type_says_mode(struct formatter *f)
{
	return lv_xml_attribute_is(f->kept, "type", type_of_mode(f->def->mode));
}

/* What every key is when it is not given. */
static json_object *defaults(void)
{
	json_object *json = json_tokener_parse("{\"name\":\"x\",\"boot\":{\"kernel\":\"/x\"}}"), *result = NULL;
	char error[VMDEF_ERROR_BYTES];
	struct vmdef *def = NULL;

	if (json && !vmdef_from_json(json, &def, error))
		result = vmdef_to_json(def);
	vmdef_free(def);
	json_object_put(json);
	return result;
}

static void set_key(xmlNode *own, const char *key, json_object *value)
{
	const int plain = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
	const char *text = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL, *why;
	json_object *taken = NULL;
	char name[64];

	snprintf(name, sizeof(name), "%s", key);
	for (char *c = name; *c; c++)
		*c = *c == '_' ? '-' : *c;
	/* A text that would be taken for JSON is written as JSON. */
	if (!text || !line_parse_json(text, strlen(text), &taken, &why))
		text = json_object_to_json_string_ext(value, plain);
	json_object_put(taken);
	if (json_object_is_type(value, json_type_boolean))
		text = json_object_get_boolean(value) ? "yes" : "no";
	set(own, name, text);
}

/* Our element: the keys that are not as they would be anyway, modules, and what NICs have beyond their elements. */
static xmlNode *make_own(struct formatter *f, xmlNode *metadata)
{
	json_object *now = vmdef_to_json(f->def), *usual = defaults();
	xmlNode *own = add(metadata, "vm", NULL), *module;

	xmlSetNs(own, xmlNewNs(own, (const xmlChar *)LV_XML_NAMESPACE, (const xmlChar *)"trivisor"));
	json_object_object_foreach(now, key, value)
	{
		json_object *other = NULL;

		json_object_object_get_ex(usual, key, &other);
		if (!lv_xml_is_own_key(key) || json_object_equal(value, other))
			continue;
		if (!strcmp(key, "display")) {
			json_object *unsaid = lv_screen_unsaid(f->def);

			if (unsaid)
				set_key(own, key, unsaid);
			json_object_put(unsaid);
			continue;
		}
		if (strcmp(key, "mode") || !f->kept || !type_says_mode(f))
			set_key(own, key, value);
	}
	for (unsigned i = 0; i < f->def->boot.module_count; i++) {
		module = xmlNewChild(own, own->ns, (const xmlChar *)"module", NULL);
		set(module, "path", f->def->boot.modules[i].path);
		if (f->def->boot.modules[i].cmdline)
			set(module, "cmdline", f->def->boot.modules[i].cmdline);
	}
	for (unsigned i = 0; i < f->def->nic_count; i++) {
		json_object *unsaid = lv_interface_unsaid(f->def, i);
		xmlNode *nic;

		if (!unsaid)
			continue;
		nic = xmlNewChild(own, own->ns, (const xmlChar *)"nic", NULL);
		set(nic, "mac", f->def->nics[i].mac);
		set(nic, "keys", json_object_to_json_string_ext(unsaid, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
		json_object_put(unsaid);
	}
	json_object_put(now);
	json_object_put(usual);
	return own;
}

static void write_metadata(struct formatter *f)
{
	xmlNode *metadata = copy_or_add(f, "metadata"), *own;

	while ((own = own_metadata(metadata)))
		drop(own);
	own = make_own(f, metadata);
	if (!own->properties && !own->children)
		drop(own);
	if (!lv_xml_child(metadata, NULL))
		drop(metadata);
}

/* ---- <os> ------------------------------------------------------------------------------------ */

static bool is_seabios(const char *path)
{
	for (size_t i = 0; lv_xml_seabios[i]; i++)
		if (!strcmp(lv_xml_seabios[i], path))
			return true;
	return false;
}

/* With the attributes that the kept one of that name has. */
static void insert_text(struct formatter *f, xmlNode *parent, xmlNode **after, const char *name, const char *text)
{
	xmlNode *os = lv_xml_child(f->kept, "os"), *kept = os ? lv_xml_child(os, name) : NULL, *e;

	if (!text)
		return;
	e = xmlNewDocNode(parent->doc, NULL, (const xmlChar *)name, NULL);
	xmlNodeAddContent(e, (const xmlChar *)text);
	if (kept)
		e->properties = xmlCopyPropList(e, kept->properties);
	xmlAddNextSibling(*after, e);
	*after = e;
}

/* One that is not there, or off, stays as it was said. */
static void write_boot_menu(xmlNode *os, unsigned ms)
{
	xmlNode *menu = lv_xml_child(os, "bootmenu");
	char text[16];

	if (!ms) {
		if (lv_xml_attribute_is(menu, "enable", "yes"))
			drop_children(os, "bootmenu");
		return;
	}
	if (!menu)
		menu = add(os, "bootmenu", NULL);
	snprintf(text, sizeof(text), "%u", ms);
	set(menu, "enable", "yes");
	set(menu, "timeout", text);
}

static void write_os(struct formatter *f)
{
	static const char *const own[] = {"loader", "nvram", "kernel", "initrd", "cmdline"};
	const struct vmdef *d = f->def;
	xmlNode *os = copy_or_add(f, "os"), *type = lv_xml_child(os, "type");
	bool showed_loader = lv_xml_child(os, "loader") != NULL;
	bool loader = d->boot.firmware && (showed_loader || !f->kept || !is_seabios(d->boot.firmware));

	for (size_t i = 0; i < 5; i++)
		drop_children(os, own[i]);
	if (!type) {
		type = add(os, "type", d->mode == VMDEF_MODE_PV ? "xen" : "hvm");
		set(type, "arch", "x86_64");
		set(type, "machine", "pc");
	}
	insert_text(f, os, &type, "loader", loader ? d->boot.firmware : NULL);
	insert_text(f, os, &type, "nvram", d->boot.nvram.path);
	if (d->boot.nvram.path && d->boot.nvram.template)
		set(type, "template", d->boot.nvram.template);
	insert_text(f, os, &type, "kernel", d->boot.kernel);
	insert_text(f, os, &type, "initrd", d->boot.initrd);
	insert_text(f, os, &type, "cmdline", d->boot.cmdline);
	write_boot_menu(os, d->boot.menu_ms);
	lv_sysinfo_write(f->root, os, f->kept, d);
}

/* ---- <devices> ---------------------------------------------------------------------------------- */

static bool disk_is(const xmlNode *disk, const char *path)
{
	xmlNode *source = lv_xml_child(disk, "source");

	/* An empty drive names no file. */
	if (!path[0])
		return lv_xml_attribute_is(disk, "device", "cdrom") &&
		       (!source || !(lv_xml_attribute_has(source, "file") || lv_xml_attribute_has(source, "dev")));
	return source && (lv_xml_attribute_is(source, "file", path) || lv_xml_attribute_is(source, "dev", path));
}

static bool target_taken(xmlNode *devices, const char *name)
{
	for (xmlNode *d = lv_xml_child(devices, "disk"); d; d = lv_xml_next(d, "disk")) {
		xmlNode *target = lv_xml_child(d, "target");

		if (target && lv_xml_attribute_is(target, "dev", name))
			return true;
	}
	return false;
}

static xmlNode *make_disk(xmlNode *devices, const struct vmdef_disk *disk)
{
	xmlNode *e = add(devices, "disk", NULL), *driver, *source, *target;
	bool cdrom = disk->device == VMDEF_DEVICE_CDROM;
	char name[] = "vda";

	if (cdrom)
		name[0] = 's';
	while (target_taken(devices, name) && name[2] < 'z')
		name[2]++;
	set(e, "type", strncmp(disk->path, "/dev/", 5) ? "file" : "block");
	set(e, "device", cdrom ? "cdrom" : "disk");
	driver = add(e, "driver", NULL);
	set(driver, "name", "trivisor");
	source = disk->path[0] ? add(e, "source", NULL) : NULL;
	if (source)
		set(source, strncmp(disk->path, "/dev/", 5) ? "file" : "dev", disk->path);
	target = add(e, "target", NULL);
	set(target, "dev", name);
	set(target, "bus", cdrom ? "scsi" : "virtio");
	return e;
}

/* An attribute that says `word`; where that is the default (one of two words for it), it may as well be missing. */
static void set_word(xmlNode *e, const char *attribute, const char *word, bool is_default, const char *also)
{
	if (lv_xml_attribute_is(e, attribute, word) || (is_default && also && lv_xml_attribute_is(e, attribute, also)))
		return;
	xmlUnsetProp(e, BAD_CAST attribute);
	if (!is_default)
		set(e, attribute, word);
}

/* What the definition says of a disk, in an element that may have said something else. */
static void write_disk(xmlNode *e, const struct vmdef_disk *disk)
{
	static const char *const cache[] = {"writeback", "writethrough", "none", "directsync", "unsafe"};
	static const char *const discard[] = {"unmap", "ignore"};
	static const char *const on_error[] = {"report", "stop", "enospace"};
	const struct {
		const char *name;
		bool wanted;
	} marks[] = {{"readonly", disk->readonly}, {"transient", disk->snapshot}};
	xmlNode *driver = lv_xml_child(e, "driver"), *serial = lv_xml_child(e, "serial");
	char *text = serial ? lv_xml_text(serial) : NULL;

	if (!driver)
		driver = add(e, "driver", NULL);
	set_word(driver, "type", vmdef_format_name(disk->format), false, NULL);
	set_word(driver, "cache", cache[disk->cache], disk->cache == VMDEF_CACHE_WRITEBACK, "default");
	set_word(driver, "discard", discard[disk->discard], disk->discard == VMDEF_DISCARD_UNMAP, NULL);
	set_word(driver, "error_policy", on_error[disk->on_error], disk->on_error == VMDEF_ERROR_REPORT, NULL);
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
		if (!marks[i].wanted)
			drop_children(e, marks[i].name);
		else if (!lv_xml_child(e, marks[i].name))
			add(e, marks[i].name, NULL);
	}
	if (!disk->serial || !text || strcmp(text, disk->serial)) {
		drop_children(e, "serial");
		if (disk->serial)
			add(e, "serial", disk->serial);
	}
	free(text);
}

static void set_alias(struct formatter *f, xmlNode *device, const char *name)
{
	xmlNode *alias = lv_xml_child(device, "alias");

	if (!f->live || alias)
		return;
	alias = add(device, "alias", NULL);
	set(alias, "name", name);
}

static void write_disks(struct formatter *f, xmlNode *devices)
{
	const struct vmdef *d = f->def;
	xmlNode *e, *next;

	for (e = lv_xml_child(devices, "disk"); e; e = next) {
		bool there = false;

		next = lv_xml_next(e, "disk");
		for (unsigned i = 0; i < d->disk_count; i++)
			there = there || disk_is(e, d->disks[i].path);
		if (!there)
			drop(e);
	}
	for (unsigned i = 0; i < d->disk_count; i++) {
		char alias[32];

		for (e = lv_xml_child(devices, "disk"); e && !disk_is(e, d->disks[i].path);)
			e = lv_xml_next(e, "disk");
		if (!e)
			e = make_disk(devices, &d->disks[i]);
		write_disk(e, &d->disks[i]);
		snprintf(alias, sizeof(alias), "virtio-disk%u", i);
		set_alias(f, e, alias);
	}
}

static void write_serial(struct formatter *f, xmlNode *devices)
{
	static const char *const names[] = {"serial", "console"};

	for (size_t i = 0; i < 2; i++) {
		xmlNode *e = lv_xml_child(devices, names[i]), *target;

		while (e && lv_console_is_virtio(e))
			e = lv_xml_next(e, names[i]);
		if (f->def->serial != VMDEF_SERIAL_CONSOLE) {
			if (e && !lv_xml_attribute_is(e, "type", "null"))
				drop(e);
			continue;
		}
		if (!e) {
			e = add(devices, names[i], NULL);
			set(e, "type", "pty");
			target = add(e, "target", NULL);
			set(target, "type", i ? "serial" : "isa-serial");
			set(target, "port", "0");
		}
		set_alias(f, e, "serial0");
	}
}

static void write_devices(struct formatter *f)
{
	xmlNode *devices = copy_or_add(f, "devices");

	write_disks(f, devices);
	lv_interfaces_write(devices, f->def, f->live);
	write_serial(f, devices);
	lv_guest_write(devices, f->def, !f->live ? NULL : f->info->agent ? "connected" : "disconnected");
	lv_screen_write(devices, f->def, f->live ? f->info->dir : NULL, f->secure);
	lv_shares_write(devices, f->def, f->live);
}

/* ---- the whole ------------------------------------------------------------------------------------ */

static void write_text(struct formatter *f, const char *name, const char *text)
{
	xmlNode *e;

	if (!text || !text[0])
		return;
	e = add(f->root, name, text);
	if (!strcmp(name, "memory") || !strcmp(name, "currentMemory"))
		set(e, "unit", "KiB");
	if (!strcmp(name, "vcpu"))
		set(e, "placement", "static");
}

static void write_element(struct formatter *f, const char *name)
{
	const struct vmdef *d = f->def;
	char number[32];

	if (!strcmp(name, "name"))
		write_text(f, name, d->name);
	else if (!strcmp(name, "uuid"))
		write_text(f, name, d->uuid);
	else if (!strcmp(name, "title"))
		write_text(f, name, d->title);
	else if (!strcmp(name, "description"))
		write_text(f, name, d->description);
	else if (!strcmp(name, "metadata"))
		write_metadata(f);
	else if (!strcmp(name, "memory") || !strcmp(name, "currentMemory")) {
		uint64_t kib = (uint64_t)d->memory_mib * 1024;

		if (name[0] == 'c')
			kib = f->live ? f->info->memory_kib : d->current_memory_mib ? (uint64_t)d->current_memory_mib * 1024 : kib;
		snprintf(number, sizeof(number), "%llu", (unsigned long long)kib);
		write_text(f, name, number);
	} else if (!strcmp(name, "vcpu")) {
		snprintf(number, sizeof(number), "%u", d->vcpus);
		write_text(f, name, number);
	} else if (!strcmp(name, "os"))
		write_os(f);
	else if (!strcmp(name, "on_poweroff") || !strcmp(name, "on_crash"))
		write_text(f, name, "destroy");
	else if (!strcmp(name, "on_reboot"))
		write_text(f, name, d->on_reboot == VMDEF_ON_REBOOT_RESTART ? "restart" : "destroy");
	else if (!strcmp(name, "devices"))
		write_devices(f);
	else
		copy_kept(f, name);
}

static void write_root(struct formatter *f)
{
	char id[16];

	if (f->kept && type_says_mode(f))
		set(f->root, "type", type_of_mode(f->def->mode));
	else
		set(f->root, "type", "trivisor");
	if (f->live) {
		snprintf(id, sizeof(id), "%d", f->info->id);
		set(f->root, "id", id);
	}
	for (size_t i = 0; order[i]; i++)
		write_element(f, order[i]);
}

static xmlDoc *read_kept(const struct vmdef *def)
{
	char error[200];

	return def->libvirt_xml ? lv_xml_read(def->libvirt_xml, error, sizeof(error)) : NULL;
}

char *lv_xml_format(const struct daemon_vm_info *info, unsigned flags)
{
	struct formatter f = {.info = info, .def = info->def, .live = info->active && !(flags & VIR_DOMAIN_XML_INACTIVE),
			      .secure = flags & VIR_DOMAIN_XML_SECURE};
	xmlDoc *doc = xmlNewDoc((const xmlChar *)"1.0"), *kept;
	char *text = NULL;

	if (f.live && info->running_def)
		f.def = info->running_def;
	kept = read_kept(f.def);
	if (doc) {
		f.root = xmlNewDocNode(doc, NULL, (const xmlChar *)"domain", NULL);
		xmlDocSetRootElement(doc, f.root);
		f.kept = kept ? xmlDocGetRootElement(kept) : NULL;
		write_root(&f);
		text = lv_xml_print(f.root, true);
	}
	xmlFreeDoc(kept);
	xmlFreeDoc(doc);
	return text;
}

/* ---- what has no effect ------------------------------------------------------------------------------ */

static void note_children(const xmlNode *parent, FILE *to)
{
	for (xmlNode *e = lv_xml_child(parent, NULL); e; e = lv_xml_next(e, NULL)) {
		char path[200];

		lv_xml_path(e, path, sizeof(path));
		if (lv_xml_is(e, "interface") && lv_interface_other_model(e))
			fprintf(to, "%s/model: the guest gets virtio in its place\n", path);
		if (lv_screen_other_model(e))
			fprintf(to, "%s/model: the guest gets a VGA in its place\n", path);
		if (lv_xml_effect_of(e) != LV_XML_NO_EFFECT)
			continue;
		fprintf(to, "%s: kept, but has no effect in this version\n", path);
	}
}

char *lv_xml_without_effect(const struct vmdef *def)
{
	xmlDoc *doc = read_kept(def);
	char *text = NULL;
	size_t bytes = 0;
	FILE *to = doc ? open_memstream(&text, &bytes) : NULL;
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL;

	if (to) {
		note_children(root, to);
		note_children(lv_xml_child(root, "os"), to);
		note_children(lv_xml_child(root, "devices"), to);
		if (fclose(to) || !bytes) {
			free(text);
			text = NULL;
		}
	}
	xmlFreeDoc(doc);
	return text;
}
