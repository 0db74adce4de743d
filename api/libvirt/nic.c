/* Calls about one NIC of a domain: what passed it, its limits, its cable. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/interface.h"
#include "api/libvirt/params.h"
#include "api/libvirt/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define AFFECT (VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG)

/* By its device's name or its address; -1: there is none. */
static int number_of(const struct vmdef *def, const char *name)
{
	char device[VMDEF_INTERFACE_BYTES];

	for (unsigned i = 0; i < def->nic_count; i++) {
		lv_interface_device(&def->nics[i], i, device);
		if (!strcmp(device, name) || !strcasecmp(def->nics[i].mac, name))
			return (int)i;
	}
	return -1;
}

/* The same; the call is failed when there is none. */
static int find(struct lv_call *call, const struct vmdef *def, const char *name)
{
	int number = number_of(def, name);

	if (number < 0)
		lv_fail(call, VIR_ERR_INVALID_ARG, "'%.100s' is not a known interface", name);
	return number;
}

/* ---- what passed ---------------------------------------------------------------------------- */

void lv_interface_counters(json_object *stats, unsigned number, uint64_t ret[LV_NIC_COUNTERS])
{
	static const char *const names[LV_NIC_COUNTERS] = {"rx_bytes", "rx_frames", NULL,	"rx_dropped",
							   "tx_bytes", "tx_frames", "tx_errors", "tx_dropped"};

	for (unsigned i = 0; i < LV_NIC_COUNTERS; i++)
		ret[i] = names[i] ? lv_device_counter(stats, "net", number, names[i]) : 0;
}

static void done_stats(void *opaque, const struct daemon_error *error, json_object *stats)
{
	struct lv_call *call = opaque;
	struct vm *vm = daemon_find(call->daemon, call->uuid);
	struct daemon_vm_info info;
	uint64_t c[LV_NIC_COUNTERS];
	int number;

	if (error || !vm) {
		if (error)
			lv_fail_daemon(call, error);
		else
			lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching uuid '%s'", call->uuid);
		return;
	}
	daemon_vm_inspect(vm, &info);
	number = find(call, info.running_def ? info.running_def : info.def, call->args[1].text);
	if (number < 0)
		return;
	lv_interface_counters(stats, (unsigned)number, c);
	for (unsigned i = 0; i < LV_NIC_COUNTERS; i++)
		xdr_put_u64(&call->out, c[i]);
	lv_reply(call);
}

void lv_domain_interface_stats(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (find(call, info.running_def, call->args[1].text) >= 0)
		daemon_stats(call->daemon, vm, done_stats, call);
}

/* ---- addresses ---------------------------------------------------------------------------------- */

/* What DHCP of the type user gave; other networks have no server that we know. */
static void done_addresses(void *opaque, const struct daemon_error *error, json_object *stats)
{
	struct lv_call *call = opaque;
	struct vm *vm = daemon_find(call->daemon, call->uuid);
	size_t at = call->out.used;
	struct daemon_vm_info info;
	uint32_t n = 0;

	if (error || !vm) {
		lv_done(call, error, NULL);
		return;
	}
	daemon_vm_inspect(vm, &info);
	xdr_put_u32(&call->out, 0);
	for (unsigned i = 0; info.running_def && i < info.running_def->nic_count; i++) {
		const struct vmdef_nic *nic = &info.running_def->nics[i];
		char name[VMDEF_INTERFACE_BYTES + 40], text[VMDEF_IPV4_BYTES];
		unsigned bits = 24;
		uint32_t address;

		address = (uint32_t)lv_device_counter(stats, "net", i, "address");
		if (!address)
			continue;
		if (nic->type == VMDEF_NIC_USER)
			vmdef_subnet(nic, &bits);
		snprintf(text, sizeof(text), "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255);
		lv_interface_device(nic, i, name);
		xdr_put_string(&call->out, name);
		xdr_put_optional(&call->out, nic->mac);
		xdr_put_u32(&call->out, 1);
		xdr_put_i32(&call->out, VIR_IP_ADDR_TYPE_IPV4);
		xdr_put_string(&call->out, text);
		xdr_put_u32(&call->out, bits);
		n++;
	}
	xdr_patch_u32(&call->out, at, n);
	lv_reply(call);
}

void lv_domain_interface_addresses(struct lv_call *call, struct vm *vm)
{
	if (!lv_flags(call, call->args[2].u, 0))
		return;
	if (call->args[1].u == VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
		daemon_stats(call->daemon, vm, done_addresses, call);
	else if (call->args[1].u == VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
		lv_domain_addresses_by_agent(call, vm);
	else
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "the addresses that DHCP gave (lease) and the guest agent's are known");
}

/* ---- changes -------------------------------------------------------------------------------- */

/* The stored definition's NICs with these keys of one of them replaced (null: taken away); for the caller to put. */
static json_object *with_changes(const struct vmdef *def, unsigned number, json_object *keys)
{
	json_object *all = vmdef_to_json(def), *changes = json_object_new_object(),
		    *nics = json_object_get(json_object_object_get(all, "nics")), *nic = json_object_array_get_idx(nics, number);

	json_object_object_foreach(keys, key, value)
	{
		if (value)
			json_object_object_add(nic, key, json_object_get(value));
		else
			json_object_object_del(nic, key);
	}
	json_object_object_add(changes, "nics", nics);
	json_object_put(all);
	return changes;
}

/* What daemon_nic_set wants, of the same keys. */
static json_object *as_request(unsigned number, json_object *keys)
{
	static const struct {
		const char *key, *member, *request;
	} rows[] = {{"receive", "kib_per_second", "receive_kib"}, {"receive", "burst_kib", "receive_burst_kib"},
		    {"transmit", "kib_per_second", "transmit_kib"}, {"transmit", "burst_kib", "transmit_burst_kib"}};
	json_object *request = json_object_new_object(), *limit, *value;

	json_object_object_add(request, "nic", json_object_new_int((int)number));
	if (json_object_object_get_ex(keys, "link", &value) && value)
		json_object_object_add(request, "link", json_object_get(value));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!json_object_object_get_ex(keys, rows[i].key, &limit))
			continue;
		value = NULL;
		if (limit)
			json_object_object_get_ex(limit, rows[i].member, &value);
		json_object_object_add(request, rows[i].request, json_object_new_int64(value ? json_object_get_int64(value) : 0));
	}
	return request;
}

/* A change of a running domain's NIC is done; the stored one is next, if it was asked for. */
struct change {
	struct lv_call *call;
	json_object *keys;
	char name[VMDEF_MAC_BYTES];
	bool config;
	void (*then)(struct lv_call *call); /* instead */
};

static void change_config(struct change *change, struct vm *vm)
{
	struct lv_call *call = change->call;
	struct daemon_vm_info info;
	int number;

	daemon_vm_inspect(vm, &info);
	number = number_of(info.def, change->name);
	if (info.transient) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "transient domains do not have any persistent config");
	} else if (number < 0) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "the stored definition has no interface %s", change->name);
	} else {
		json_object_put(call->json);
		call->json = with_changes(info.def, (unsigned)number, change->keys);
		daemon_change(call->daemon, vm, call->json, "defined", NULL, lv_done, call);
	}
}

static void change_free(struct change *change)
{
	json_object_put(change->keys);
	free(change);
}

static void done_live(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct change *change = opaque;
	struct lv_call *call = change->call;
	struct vm *vm = daemon_find(call->daemon, call->uuid);

	if (error || !vm || (!change->config && !change->then))
		lv_done(call, error, result);
	else if (change->then)
		change->then(call);
	else
		change_config(change, vm);
	change_free(change);
}

/* Takes keys. */
static void change_nic(struct lv_call *call, struct vm *vm, unsigned number, const char *mac, json_object *keys, bool live, bool config,
		       void (*then)(struct lv_call *call))
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change) {
		json_object_put(keys);
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	*change = (struct change){.call = call, .keys = keys, .config = config, .then = then};
	snprintf(change->name, sizeof(change->name), "%s", mac);
	if (live) {
		daemon_nic_set(call->daemon, vm, as_request(number, keys), done_live, change);
	} else {
		change_config(change, vm);
		change_free(change);
	}
}

/* Which of the two a change is to. False: the call was failed. */
static bool where(struct lv_call *call, const struct daemon_vm_info *info, uint64_t flags, bool *ret_live, bool *ret_config)
{
	*ret_config = flags & VIR_DOMAIN_AFFECT_CONFIG;
	*ret_live = flags & VIR_DOMAIN_AFFECT_LIVE || (!*ret_config && info->active);
	*ret_config = *ret_config || !*ret_live;
	if (!*ret_live || info->active)
		return true;
	lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
	return false;
}

/* ---- limits ------------------------------------------------------------------------------------ */

/* inbound.average and so on, in KiB a second and KiB: what libvirt calls inbound, the guest receives. */
static const struct {
	const char *name, *key, *member;
} limits[] = {
	{VIR_DOMAIN_BANDWIDTH_IN_AVERAGE, "receive", "kib_per_second"},	  {VIR_DOMAIN_BANDWIDTH_IN_PEAK, NULL, NULL},
	{VIR_DOMAIN_BANDWIDTH_IN_BURST, "receive", "burst_kib"},	  {VIR_DOMAIN_BANDWIDTH_IN_FLOOR, NULL, NULL},
	{VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE, "transmit", "kib_per_second"}, {VIR_DOMAIN_BANDWIDTH_OUT_PEAK, NULL, NULL},
	{VIR_DOMAIN_BANDWIDTH_OUT_BURST, "transmit", "burst_kib"},
};
#define LIMITS (sizeof(limits) / sizeof(limits[0]))

static unsigned limit_of(const struct vmdef_nic *nic, size_t row)
{
	const struct vmdef_limit *limit;

	if (!limits[row].key)
		return 0;
	limit = strcmp(limits[row].key, "receive") ? &nic->transmit : &nic->receive;
	return strcmp(limits[row].member, "burst_kib") ? limit->kib_per_second : limit->burst_kib;
}

void lv_domain_get_interface_parameters(struct lv_call *call, struct vm *vm)
{
	uint64_t flags = call->args[3].u;
	const struct vmdef *def;
	struct daemon_vm_info info;
	struct lv_params p;
	bool live, config;
	int number;

	daemon_vm_inspect(vm, &info);
	if (!lv_flags(call, flags, AFFECT | VIR_TYPED_PARAM_STRING_OKAY) || !where(call, &info, flags, &live, &config))
		return;
	def = live ? info.running_def : info.def;
	number = find(call, def, call->args[1].text);
	if (number < 0)
		return;
	p = lv_params_begin(&call->out);
	for (size_t i = 0; i < LIMITS && (int64_t)i < call->args[2].i; i++)
		LV_PUT_U32(&p, limit_of(&def->nics[number], i), "%s", limits[i].name);
	lv_params_end(&p);
	xdr_put_i32(&call->out, call->args[2].i ? (int32_t)p.n : (int32_t)LIMITS);
	lv_reply(call);
}

/* One parameter into the keys that change. False: the call was failed. */
static bool take_limit(struct lv_call *call, const struct xdr_value *param, json_object *keys)
{
	const char *name = param->items[0].text;
	uint64_t value = param->items[2].u;
	json_object *limit = NULL;

	for (size_t i = 0; i < LIMITS; i++) {
		if (strcmp(limits[i].name, name))
			continue;
		if (!limits[i].key && !value)
			return true; /* virsh sends what was not given as 0 */
		if (!limits[i].key || value > VMDEF_LIMIT_KIB_MAX)
			break;
		if (!json_object_object_get_ex(keys, limits[i].key, &limit)) {
			limit = json_object_new_object();
			json_object_object_add(keys, limits[i].key, limit);
		}
		if (value)
			json_object_object_add(limit, limits[i].member, json_object_new_int64((int64_t)value));
		return true;
	}
	lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "%.60s is not supported; average and burst are, up to %u KiB", name, VMDEF_LIMIT_KIB_MAX);
	return false;
}

void lv_domain_set_interface_parameters(struct lv_call *call, struct vm *vm)
{
	const struct xdr_value *params = &call->args[2];
	uint64_t flags = call->args[3].u;
	json_object *keys = json_object_new_object();
	const struct vmdef *def;
	struct daemon_vm_info info;
	bool live, config, ok;
	int number = -1;

	daemon_vm_inspect(vm, &info);
	ok = lv_flags(call, flags, AFFECT) && where(call, &info, flags, &live, &config);
	def = ok && live ? info.running_def : info.def;
	if (ok)
		number = find(call, def, call->args[1].text);
	for (unsigned i = 0; number >= 0 && i < params->count; i++)
		if (!take_limit(call, &params->items[i], keys))
			number = -1;
	if (number < 0) {
		json_object_put(keys);
		return;
	}
	/* A direction whose average is 0 has no limit. */
	for (size_t i = 0; i < 2; i++) {
		const char *key = i ? "transmit" : "receive";
		json_object *limit = NULL;

		if (json_object_object_get_ex(keys, key, &limit) && !json_object_object_get_ex(limit, "kib_per_second", NULL))
			json_object_object_add(keys, key, NULL);
	}
	change_nic(call, vm, (unsigned)number, def->nics[number].mac, keys, live, config, NULL);
}

/* ---- an element anew ------------------------------------------------------------------------------ */

/* Moves what may change while a VM runs from one NIC to what is returned; absent is null. */
static json_object *take_changeable(json_object *nic)
{
	static const char *const names[] = {"link", "receive", "transmit"};
	json_object *keys = json_object_new_object();

	for (size_t i = 0; i < 3; i++) {
		json_object *value = NULL;

		json_object_object_get_ex(nic, names[i], &value);
		json_object_object_add(keys, names[i], json_object_get(value));
		json_object_object_del(nic, names[i]);
	}
	return keys;
}

void lv_interface_update_live(struct lv_call *call, struct vm *vm, const char *xml, void (*then)(struct lv_call *call))
{
	char error[900] = "", *mac = NULL;
	xmlDoc *doc = lv_xml_read(xml, error, sizeof(error));
	json_object *nic = NULL, *wanted = NULL, *is = NULL, *unsaid = NULL, *keys = NULL, *old;
	struct daemon_vm_info info;
	int code = VIR_ERR_XML_DETAIL, number = -1;

	daemon_vm_inspect(vm, &info);
	if (!doc || lv_interface_parse(xmlDocGetRootElement(doc), &nic, &code, error, sizeof(error))) {
		lv_fail(call, code, "%s", error);
		goto out;
	}
	mac = lv_xml_attribute(lv_xml_child(xmlDocGetRootElement(doc), "mac"), "address");
	number = mac ? number_of(info.running_def, mac) : -1;
	if (number < 0) {
		lv_fail(call, VIR_ERR_DEVICE_MISSING, "no interface with the address %.40s", mac ? mac : "(none was given)");
		goto out;
	}
	unsaid = lv_interface_unsaid(info.running_def, (unsigned)number);
	if (unsaid)
		lv_interface_add_unsaid(nic, unsaid);
	is = lv_interface_of(info.running_def, (unsigned)number);
	wanted = lv_interface_canonical(nic, NULL, error);
	if (!wanted) {
		lv_fail(call, VIR_ERR_CONFIG_UNSUPPORTED, "%s", error);
		goto out;
	}
	keys = take_changeable(wanted);
	old = take_changeable(is);
	json_object_put(old);
	if (!json_object_equal(wanted, is)) {
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED,
			"of a running domain's interface the link's state and the bandwidth can be changed, nothing else");
		goto out;
	}
	change_nic(call, vm, (unsigned)number, mac, json_object_get(keys), true, false, then);
out:
	json_object_put(nic);
	json_object_put(wanted);
	json_object_put(is);
	json_object_put(unsaid);
	json_object_put(keys);
	xmlFree(mac);
	xmlFreeDoc(doc);
}
