/* Changes to a defined domain: autostart, name, metadata, sizes, devices. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/interface.h"
#include "api/libvirt/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AFFECT (VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG)

static void change_one(struct lv_call *call, struct vm *vm, const char *key, json_object *value)
{
	call->json = json_object_new_object();
	json_object_object_add(call->json, key, value);
	daemon_change(call->daemon, vm, call->json, "defined", NULL, lv_done, call);
}

/* Whether the change is to the stored definition only, which is what can be changed. False: the call was failed. */
static bool config_only(struct lv_call *call, const struct daemon_vm_info *info, uint64_t flags, const char *what)
{
	bool live = flags & VIR_DOMAIN_AFFECT_LIVE || (!(flags & VIR_DOMAIN_AFFECT_CONFIG) && info->active);

	if (flags & VIR_DOMAIN_AFFECT_LIVE && !info->active)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
	else if (live)
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "%s of a running domain cannot be changed; with --config it is from "
							     "the next start on",
			what);
	else if (info->transient)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "transient domains do not have any persistent config");
	else
		return true;
	return false;
}

void lv_domain_set_autostart(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (info.transient)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "cannot set autostart for transient domain");
	else
		change_one(call, vm, "autostart", json_object_new_boolean(call->args[1].i != 0));
}

/* virDomainRename: the answer is a number that is always 0. */
static void done_renamed(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (!error)
		xdr_put_i32(&call->out, 0);
	lv_done(call, error, result);
}

void lv_domain_rename(struct lv_call *call, struct vm *vm)
{
	const char *name = call->args[1].text;
	struct daemon_vm_info info;
	struct vm *taken = name ? daemon_find(call->daemon, name) : NULL;

	if (!lv_flags(call, call->args[2].u, 0))
		return;
	daemon_vm_inspect(vm, &info);
	if (!name) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "a new name is wanted");
	} else if (info.active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "cannot rename active domain");
	} else if (taken) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain with name '%s' already exists", name);
	} else {
		call->json = json_object_new_object();
		json_object_object_add(call->json, "name", json_object_new_string(name));
		daemon_change(call->daemon, vm, call->json, "defined", NULL, done_renamed, call);
	}
}

/* ---- metadata -------------------------------------------------------------------------- */

static json_object *details_of(const char *kind, const char *uri)
{
	json_object *details = json_object_new_object();

	json_object_object_add(details, "kind", json_object_new_string(kind));
	if (uri)
		json_object_object_add(details, "uri", json_object_new_string(uri));
	return details;
}

static void set_element(struct lv_call *call, struct vm *vm)
{
	const char *text = call->args[2].text, *key = call->args[3].text, *uri = call->args[4].text;
	struct daemon_vm_info info;
	char error[600] = "", *xml;

	if (!uri || !uri[0] || (text && (!key || !key[0]))) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "a namespace, and a prefix for it, are wanted");
		return;
	}
	daemon_vm_inspect(vm, &info);
	xml = lv_xml_metadata_set(&info, uri, key, text, error, sizeof(error));
	if (!xml) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "%s", error);
		return;
	}
	call->json = json_object_new_object();
	json_object_object_add(call->json, "libvirt_xml", json_object_new_string(xml));
	free(xml);
	daemon_change(call->daemon, vm, call->json, "metadata", details_of("element", uri), lv_done, call);
}

/* They say nothing to the machine, so they hold for the running domain and the stored one alike. */
void lv_domain_set_metadata(struct lv_call *call, struct vm *vm)
{
	static const char *const keys[] = {"description", "title"};
	const char *text = call->args[2].text;
	int64_t type = call->args[1].i;
	struct daemon_vm_info info;

	if (!lv_flags(call, call->args[5].u, AFFECT))
		return;
	daemon_vm_inspect(vm, &info);
	if (call->args[5].u & VIR_DOMAIN_AFFECT_LIVE && !info.active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
	} else if (type == VIR_DOMAIN_METADATA_ELEMENT) {
		set_element(call, vm);
	} else if (type != VIR_DOMAIN_METADATA_DESCRIPTION && type != VIR_DOMAIN_METADATA_TITLE) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "unknown metadata type %lld", (long long)type);
	} else if (type == VIR_DOMAIN_METADATA_TITLE && text && strchr(text, '\n')) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "a title has no line ends");
	} else {
		call->json = json_object_new_object();
		json_object_object_add(call->json, keys[type],
				       text && text[0] ? json_object_new_string(text) : NULL);
		daemon_change(call->daemon, vm, call->json, "metadata", details_of(keys[type], NULL), lv_done, call);
	}
}

void lv_domain_get_metadata(struct lv_call *call, struct vm *vm)
{
	int64_t type = call->args[1].i;
	const char *uri = call->args[2].text;
	struct daemon_vm_info info;
	const struct vmdef *def;
	char error[600] = "", *text = NULL;

	if (!lv_flags(call, call->args[3].u, AFFECT))
		return;
	daemon_vm_inspect(vm, &info);
	def = info.def;
	if (type == VIR_DOMAIN_METADATA_ELEMENT && uri)
		text = lv_xml_metadata_get(&info, uri, error, sizeof(error));
	else if (type == VIR_DOMAIN_METADATA_TITLE && def->title)
		text = strdup(def->title);
	else if (type == VIR_DOMAIN_METADATA_DESCRIPTION && def->description)
		text = strdup(def->description);
	if (text) {
		xdr_put_string(&call->out, text);
		free(text);
		lv_reply(call);
	} else {
		lv_fail(call, VIR_ERR_NO_DOMAIN_METADATA, "%s",
			error[0] ? error : "Requested metadata element is not present");
	}
}

/* ---- memory and processors ----------------------------------------------------------------- */

/* A maximum below what the guest has at first takes that down too, as libvirt does. */
static void change_maximum(struct lv_call *call, struct vm *vm, const struct daemon_vm_info *info, uint64_t mib)
{
	call->json = json_object_new_object();
	json_object_object_add(call->json, "memory_mib", json_object_new_int64((int64_t)mib));
	if (info->def->current_memory_mib >= mib)
		json_object_object_add(call->json, "current_memory_mib", NULL);
	daemon_change(call->daemon, vm, call->json, "defined", NULL, lv_done, call);
}

/* The running guest has followed, or will; with --config too, so will the next one. */
static void done_balloon(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	struct vm *vm = daemon_find(call->daemon, call->uuid);

	if (!error && call->json && vm) {
		daemon_change(call->daemon, vm, call->json, "defined", NULL, lv_done, call);
		return;
	}
	lv_done(call, error, result);
}

/* Of a running one. False: it is not about that. */
static bool set_balloon(struct lv_call *call, struct vm *vm, const struct daemon_vm_info *info, uint64_t mib, uint64_t flags)
{
	json_object *wish;

	if (!info->active || !(flags & VIR_DOMAIN_AFFECT_LIVE || !(flags & VIR_DOMAIN_AFFECT_CONFIG)))
		return false;
	if (flags & VIR_DOMAIN_AFFECT_CONFIG && info->transient) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "transient domains do not have any persistent config");
		return true;
	}
	if (flags & VIR_DOMAIN_AFFECT_CONFIG) {
		call->json = json_object_new_object();
		json_object_object_add(call->json, "current_memory_mib", json_object_new_int64((int64_t)mib));
	}
	wish = json_object_new_object();
	json_object_object_add(wish, "memory_mib", json_object_new_int64((int64_t)mib));
	daemon_inspect(call->daemon, vm, DAEMON_BALLOON, wish, 0, done_balloon, call);
	return true;
}

void lv_domain_set_memory_stats_period(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;
	json_object *wish = NULL, *balloon;
	bool live, config;

	if (!lv_flags(call, call->args[2].u, AFFECT))
		return;
	daemon_vm_inspect(vm, &info);
	config = call->args[2].u & VIR_DOMAIN_AFFECT_CONFIG;
	live = call->args[2].u & VIR_DOMAIN_AFFECT_LIVE || (!config && info.active);
	if (call->args[1].i < 0 || call->args[1].i > VMDEF_STATS_SECONDS_MAX) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "a period from 0 to %d seconds is possible", VMDEF_STATS_SECONDS_MAX);
		return;
	}
	if (live && !info.active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
		return;
	}
	if ((config || !live) && info.transient) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "transient domains do not have any persistent config");
		return;
	}
	if (config || !live) {
		json_object *whole = vmdef_to_json(info.def), *old = NULL;

		balloon = json_object_new_object();
		if (json_object_object_get_ex(whole, "balloon", &old)) {
			json_object_put(balloon);
			balloon = json_object_get(old);
		}
		json_object_object_add(balloon, "stats_seconds", json_object_new_int64(call->args[1].i));
		call->json = json_object_new_object();
		json_object_object_add(call->json, "balloon", balloon);
		json_object_put(whole);
	}
	if (!live) {
		daemon_change(call->daemon, vm, call->json, "defined", NULL, lv_done, call);
		return;
	}
	wish = json_object_new_object();
	json_object_object_add(wish, "stats_seconds", json_object_new_int64(call->args[1].i));
	daemon_inspect(call->daemon, vm, DAEMON_BALLOON, wish, 0, done_balloon, call);
}

static void set_memory(struct lv_call *call, struct vm *vm, uint64_t kib, uint64_t flags)
{
	uint64_t mib = (kib + 1023) / 1024;
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (flags & VIR_DOMAIN_MEM_MAXIMUM && info.active && !(flags & VIR_DOMAIN_AFFECT_CONFIG)) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "cannot resize the maximum memory on an active domain");
		return;
	}
	if (!(flags & VIR_DOMAIN_MEM_MAXIMUM) && info.active && mib > info.running_def->memory_mib) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "cannot set memory higher than max memory");
		return;
	}
	if (!(flags & VIR_DOMAIN_MEM_MAXIMUM) && set_balloon(call, vm, &info, mib, flags))
		return;
	if (!config_only(call, &info, flags, "the maximum of the memory"))
		return;
	if (mib < VMDEF_MEMORY_MIN_MIB || mib > VMDEF_MEMORY_MAX_MIB)
		lv_fail(call, VIR_ERR_INVALID_ARG, "%llu KiB: from %d to %d MiB are possible", (unsigned long long)kib,
			VMDEF_MEMORY_MIN_MIB, VMDEF_MEMORY_MAX_MIB);
	else if (!(flags & VIR_DOMAIN_MEM_MAXIMUM) && mib > info.def->memory_mib)
		lv_fail(call, VIR_ERR_INVALID_ARG, "cannot set memory higher than max memory");
	else if (!(flags & VIR_DOMAIN_MEM_MAXIMUM))
		change_one(call, vm, "current_memory_mib", json_object_new_int64((int64_t)mib));
	else
		change_maximum(call, vm, &info, mib);
}

void lv_domain_set_max_memory(struct lv_call *call, struct vm *vm)
{
	set_memory(call, vm, call->args[1].u, VIR_DOMAIN_MEM_MAXIMUM);
}

void lv_domain_set_memory(struct lv_call *call, struct vm *vm)
{
	set_memory(call, vm, call->args[1].u, VIR_DOMAIN_AFFECT_LIVE);
}

void lv_domain_set_memory_flags(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[2].u, AFFECT | VIR_DOMAIN_MEM_MAXIMUM))
		set_memory(call, vm, call->args[1].u, call->args[2].u);
}

static void set_vcpus(struct lv_call *call, struct vm *vm, uint64_t n, uint64_t flags)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (!config_only(call, &info, flags, "the number of processors"))
		return;
	if (n < 1 || n > VMDEF_VCPUS_MAX)
		lv_fail(call, VIR_ERR_INVALID_ARG, "%llu: from 1 to %d processors are possible", (unsigned long long)n,
			VMDEF_VCPUS_MAX);
	else if (!(flags & VIR_DOMAIN_VCPU_MAXIMUM) && n > info.def->vcpus)
		lv_fail(call, VIR_ERR_INVALID_ARG,
			"requested vcpus is greater than max allowable vcpus for the domain: %llu > %u",
			(unsigned long long)n, info.def->vcpus);
	else if (!(flags & VIR_DOMAIN_VCPU_MAXIMUM) && n < info.def->vcpus)
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED,
			"processors cannot be left unplugged; change the maximum (--maximum)");
	else
		change_one(call, vm, "vcpus", json_object_new_int64((int64_t)n));
}

void lv_domain_set_vcpus(struct lv_call *call, struct vm *vm)
{
	set_vcpus(call, vm, call->args[1].u, VIR_DOMAIN_AFFECT_LIVE);
}

void lv_domain_set_vcpus_flags(struct lv_call *call, struct vm *vm)
{
	uint64_t flags = call->args[2].u;

	if (!lv_flags(call, flags, AFFECT | VIR_DOMAIN_VCPU_MAXIMUM | VIR_DOMAIN_VCPU_GUEST))
		return;
	if (flags & VIR_DOMAIN_VCPU_GUEST)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured");
	else
		set_vcpus(call, vm, call->args[1].u, flags);
}

/* ---- devices ---------------------------------------------------------------------------------- */

static void change_device(struct lv_call *call, struct vm *vm, enum lv_device_change change, uint64_t flags)
{
	struct daemon_vm_info info;
	char error[900] = "", *xml;
	int code = VIR_ERR_INTERNAL_ERROR;

	daemon_vm_inspect(vm, &info);
	if (!config_only(call, &info, flags, "the devices (nothing can be plugged yet)"))
		return;
	xml = lv_xml_change_device(&info, false, call->args[1].text, change, &code, error, sizeof(error));
	if (!xml || lv_xml_parse(xml, info.def, &call->json, &code, error, sizeof(error)))
		lv_fail(call, code, "%s", error);
	else
		daemon_define(call->daemon, call->json, lv_done, call);
	free(xml);
}

void lv_domain_attach_device(struct lv_call *call, struct vm *vm)
{
	if (!call->args[2].present || lv_flags(call, call->args[2].u, AFFECT))
		change_device(call, vm, LV_DEVICE_ATTACH, call->args[2].present ? call->args[2].u : VIR_DOMAIN_AFFECT_LIVE);
}

void lv_domain_detach_device(struct lv_call *call, struct vm *vm)
{
	if (!call->args[2].present || lv_flags(call, call->args[2].u, AFFECT))
		change_device(call, vm, LV_DEVICE_DETACH, call->args[2].present ? call->args[2].u : VIR_DOMAIN_AFFECT_LIVE);
}

/* The running domain's has been changed; now the stored one. */
static void update_stored(struct lv_call *call)
{
	change_device(call, daemon_find(call->daemon, call->uuid), LV_DEVICE_UPDATE, VIR_DOMAIN_AFFECT_CONFIG);
}

static bool is_device(const char *xml, const char *name)
{
	char error[100];
	xmlDoc *doc = lv_xml_read(xml, error, sizeof(error));
	bool is = doc && xmlDocGetRootElement(doc) && lv_xml_is(xmlDocGetRootElement(doc), name);

	xmlFreeDoc(doc);
	return is;
}

/* ---- discs of CD-ROM drives: virsh change-media ------------------------------------------------ */

static void disc_changed(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (!error && call->args[2].u & VIR_DOMAIN_AFFECT_CONFIG)
		update_stored(call);
	else
		lv_done(call, error, result);
}

/* The one drive whose disc is another one in the definition that the changed XML makes. -1: no disc is. */
static int find_changed(const struct vmdef *now, json_object *disks, bool *ret_only)
{
	int found = -1;

	*ret_only = json_object_array_length(disks) == now->disk_count;
	for (unsigned i = 0; *ret_only && i < now->disk_count; i++) {
		json_object *old = vmdef_disk_to_json(&now->disks[i]), *changed;
		struct vmdef_disk disk = {0};
		char why[VMDEF_ERROR_BYTES];

		*ret_only = !vmdef_disk_from_json(json_object_array_get_idx(disks, i), &disk, why);
		changed = *ret_only ? vmdef_disk_to_json(&disk) : NULL;
		if (*ret_only && !json_object_equal(old, changed)) {
			*ret_only = found < 0 && disk.device == VMDEF_DEVICE_CDROM && now->disks[i].device == VMDEF_DEVICE_CDROM;
			found = (int)i;
		}
		vmdef_disk_finish(&disk);
		json_object_put(old);
		json_object_put(changed);
	}
	return found;
}

static void change_disc(struct lv_call *call, struct vm *vm, const struct daemon_vm_info *info)
{
	char error[900] = "", *xml;
	json_object *changed = NULL, *disks = NULL, *text = NULL;
	int code = VIR_ERR_INTERNAL_ERROR, number = -1;
	bool only = false;

	xml = lv_xml_change_device(info, true, call->args[1].text, LV_DEVICE_UPDATE, &code, error, sizeof(error));
	if (!xml || lv_xml_parse(xml, info->running_def, &changed, &code, error, sizeof(error))) {
		lv_fail(call, code, "%s", error);
		free(xml);
		return;
	}
	if (json_object_object_get_ex(changed, "disks", &disks))
		number = find_changed(info->running_def, disks, &only);
	json_object_object_get_ex(changed, "libvirt_xml", &text);
	if (number < 0 && only)
		disc_changed(call, NULL, NULL); /* it is in already */
	else if (!only)
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "of a running domain's disks only the disc in a CD-ROM drive can be changed");
	else
		daemon_change_disc(call->daemon, vm, (unsigned)number, json_object_array_get_idx(disks, (size_t)number),
				   call->args[2].u & VIR_DOMAIN_DEVICE_MODIFY_FORCE, text ? json_object_get_string(text) : NULL, disc_changed,
				   call);
	json_object_put(changed);
	free(xml);
}

void lv_domain_update_device(struct lv_call *call, struct vm *vm)
{
	uint64_t flags = call->args[2].u;
	struct daemon_vm_info info;

	if (!lv_flags(call, flags, AFFECT | VIR_DOMAIN_DEVICE_MODIFY_FORCE))
		return;
	daemon_vm_inspect(vm, &info);
	if (info.active && (flags & VIR_DOMAIN_AFFECT_LIVE || !(flags & AFFECT)) && is_device(call->args[1].text, "interface"))
		lv_interface_update_live(call, vm, call->args[1].text, flags & VIR_DOMAIN_AFFECT_CONFIG ? update_stored : NULL);
	else if (info.active && (flags & VIR_DOMAIN_AFFECT_LIVE || !(flags & AFFECT)) && info.running_def && is_device(call->args[1].text, "disk"))
		change_disc(call, vm, &info);
	else
		change_device(call, vm, LV_DEVICE_UPDATE, flags);
}
