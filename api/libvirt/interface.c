/* <interface> of domain XML to a NIC of a definition, and back. */
#include "api/libvirt/interface.h"
#include "api/libvirt/private.h"
#include "daemon/networks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NO_SPOOFING "no-mac-spoofing" /* libvirt's name of the filter */

/* One element on its way to JSON. */
struct reading {
	const xmlNode *e;
	json_object *nic;
	int code;
	char *error;
	size_t size;
};

__attribute__((format(printf, 3, 4))) static bool refuse(struct reading *r, const xmlNode *at, const char *format, ...)
{
	char path[300], why[600];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	lv_xml_path(at, path, sizeof(path));
	snprintf(r->error, r->size, "%s: %s", path, why);
	r->code = VIR_ERR_CONFIG_UNSUPPORTED;
	return false;
}

static void put(struct reading *r, const char *key, const char *text)
{
	json_object_object_add(r->nic, key, json_object_new_string(text));
}

/* A number of an attribute; one that is missing is `otherwise` (negative: it must be there). */
static bool get_number(struct reading *r, const xmlNode *e, const char *name, int64_t otherwise, int64_t *ret)
{
	char *text = lv_xml_attribute(e, name), *end = NULL;
	bool ok = text ? text[0] >= '0' && text[0] <= '9' : otherwise >= 0;

	errno = 0;
	*ret = text ? strtoll(text, &end, 10) : otherwise;
	ok = ok && !errno && (!end || !*end);
	if (!ok)
		refuse(r, e, "%s: a number is wanted, not \"%.40s\"", name, text ? text : "");
	xmlFree(text);
	return ok;
}

/* An attribute that is to be there, as a key. */
static bool put_attribute(struct reading *r, const xmlNode *e, const char *name, const char *key)
{
	char *text = e ? lv_xml_attribute(e, name) : NULL;
	bool ok = text && text[0];

	if (ok)
		put(r, key, text);
	else
		refuse(r, e ? e : r->e, "%s is missing", name);
	xmlFree(text);
	return ok;
}

/* ---- what it is connected to --------------------------------------------------------------- */

/* As libvirt does it: a name that it made itself is made anew each time. */
static bool is_made_up(const char *name)
{
	static const char *const prefixes[] = {"vnet", "macvtap", "vif", "nic", "tv52", "mv52"};

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
			return true;
	return false;
}

static bool take_network(struct reading *r, const xmlNode *source)
{
	char *name = lv_xml_attribute(source, "network");
	bool ok = name && name[0];

	if (!ok)
		refuse(r, r->e, "its <source> names no network");
	else if (lv_xml_attribute_is(source, "portgroup", ""))
		ok = refuse(r, source, "networks here have no port groups");
	else if (!strcmp(name, NET_BUILTIN))
		put(r, "type", "user");
	else {
		put(r, "type", "switch");
		put(r, "network", name);
	}
	xmlFree(name);
	return ok;
}

static bool take_bridge(struct reading *r, const xmlNode *source)
{
	char *target = lv_xml_attribute(lv_xml_child(r->e, "target"), "dev");

	put(r, "type", "tap");
	if (target && !is_made_up(target))
		put(r, "interface", target);
	xmlFree(target);
	return put_attribute(r, source, "bridge", "bridge");
}

static bool take_ethernet(struct reading *r, const xmlNode *source)
{
	xmlNode *target = lv_xml_child(r->e, "target");

	put(r, "type", "tap");
	if (!target)
		return refuse(r, r->e, "its <target> is to name a network device of the host, which is there already; for a tap that is "
				       "made take the type bridge");
	return put_attribute(r, target, "dev", "interface");
}

static bool take_direct(struct reading *r, const xmlNode *source)
{
	static const char *const modes[][2] = {
		{"vepa", "vepa"}, {"bridge", "bridge"}, {"private", "private"}, {"passthrough", "passthru"}};
	char *mode = lv_xml_attribute(source, "mode");
	const char *ours = mode ? NULL : "vepa";

	put(r, "type", "macvtap");
	for (size_t i = 0; mode && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(modes[i][0], mode))
			ours = modes[i][1];
	xmlFree(mode);
	if (!ours)
		return refuse(r, source, "mode is vepa, bridge, private or passthrough");
	put(r, "mode", ours);
	return put_attribute(r, source, "dev", "device");
}

static bool take_user(struct reading *r, const xmlNode *source)
{
	put(r, "type", "user");
	return !lv_xml_child(r->e, "source") || refuse(r, source, "the way out is the host's own; take the element out");
}

static bool take_type(struct reading *r)
{
	static const struct {
		const char *name;
		bool (*take)(struct reading *r, const xmlNode *source);
	} types[] = {{"user", take_user}, {"network", take_network}, {"bridge", take_bridge}, {"ethernet", take_ethernet}, {"direct", take_direct}};
	char *type = lv_xml_attribute(r->e, "type");

	for (size_t i = 0; type && i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(types[i].name, type)) {
			xmlFree(type);
			return types[i].take(r, lv_xml_child(r->e, "source"));
		}
	refuse(r, r->e, "the type \"%.40s\" is not possible; user, network, bridge, ethernet and direct are", type ? type : "");
	xmlFree(type);
	return false;
}

static bool is_type(const struct reading *r, const char *type)
{
	return !strcmp(json_object_get_string(json_object_object_get(r->nic, "type")), type);
}

/* ---- its parts ----------------------------------------------------------------------------- */

static bool take_mac(struct reading *r, const xmlNode *e) { return put_attribute(r, e, "address", "mac"); }

bool lv_interface_other_model(const xmlNode *e)
{
	char *type = lv_xml_attribute(lv_xml_child(e, "model"), "type");
	bool other = type && strncmp(type, "virtio", 6);

	xmlFree(type);
	return other;
}

/* virt-install writes e1000 for every driver but QEMU's, whatever the guest could do: such a wish is kept and told of. */
static bool take_model(struct reading *r, const xmlNode *e)
{
	static const char *const known[] = {"e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet"};
	char *type = lv_xml_attribute(e, "type");
	bool ok = !type || !strncmp(type, "virtio", 6);

	for (size_t i = 0; !ok && i < sizeof(known) / sizeof(known[0]); i++)
		ok = !strcmp(known[i], type);
	if (!ok)
		refuse(r, e, "the model \"%.40s\" is not possible; virtio is", type);
	xmlFree(type);
	return ok;
}

static bool take_link(struct reading *r, const xmlNode *e)
{
	if (!lv_xml_attribute_is(e, "state", "up") && !lv_xml_attribute_is(e, "state", "down"))
		return refuse(r, e, "state is up or down");
	return put_attribute(r, e, "state", "link");
}

static bool take_mtu(struct reading *r, const xmlNode *e)
{
	int64_t size;

	if (!get_number(r, e, "size", -1, &size))
		return false;
	json_object_object_add(r->nic, "mtu", json_object_new_int64(size));
	return true;
}

static bool take_limit(struct reading *r, const xmlNode *e, const char *key)
{
	static const char *const not[] = {"peak", "floor"};
	json_object *limit;
	int64_t average, burst;

	if (!get_number(r, e, "average", -1, &average) || !get_number(r, e, "burst", 0, &burst))
		return false;
	for (size_t i = 0; i < 2; i++) {
		char *text = lv_xml_attribute(e, not[i]);

		xmlFree(text);
		if (text)
			return refuse(r, e, "%s is not supported; average (KiB a second) and burst (KiB) are", not[i]);
	}
	limit = json_object_new_object();
	json_object_object_add(limit, "kib_per_second", json_object_new_int64(average));
	if (burst)
		json_object_object_add(limit, "burst_kib", json_object_new_int64(burst));
	json_object_object_add(r->nic, key, limit);
	return true;
}

static bool take_bandwidth(struct reading *r, const xmlNode *e)
{
	xmlNode *in = lv_xml_child(e, "inbound"), *out = lv_xml_child(e, "outbound");

	return (!in || take_limit(r, in, "receive")) && (!out || take_limit(r, out, "transmit"));
}

static bool take_vlan(struct reading *r, const xmlNode *e)
{
	bool trunk = lv_xml_attribute_is(e, "trunk", "yes");
	xmlNode *first = lv_xml_child(e, "tag");
	json_object *list = NULL;

	if (!is_type(r, "switch"))
		return refuse(r, e, "only a network between VMs has VLANs; on the host's wires the host's bridge has them");
	if (!first)
		return refuse(r, e, "a <tag> is wanted");
	if (trunk || lv_xml_next(first, "tag")) {
		list = json_object_new_array();
		json_object_object_add(r->nic, "trunk", list);
	}
	for (xmlNode *tag = first; tag; tag = lv_xml_next(tag, "tag")) {
		int64_t id;

		if (!get_number(r, tag, "id", -1, &id))
			return false;
		if (!list || lv_xml_attribute_is(tag, "nativeMode", "untagged"))
			json_object_object_add(r->nic, "vlan", json_object_new_int64(id));
		else
			json_object_array_add(list, json_object_new_int64(id));
	}
	return true;
}

static bool take_ip(struct reading *r, const xmlNode *e)
{
	char *address = lv_xml_attribute(e, "address"), text[VMDEF_SUBNET_BYTES];
	bool v4 = !lv_xml_attribute_is(e, "family", "ipv6"), ok = false;
	struct in_addr in;
	int64_t prefix;

	if (!is_type(r, "user") || !v4)
		refuse(r, e, "only the IPv4 network of the type user can be chosen");
	else if (!address || inet_pton(AF_INET, address, &in) != 1)
		refuse(r, e, "address: \"%.40s\" is no IPv4 address", address ? address : "");
	else if (get_number(r, e, "prefix", 24, &prefix) && (prefix < 1 || prefix > 32))
		refuse(r, e, "prefix: from 1 to 32");
	else if (!r->code) {
		in.s_addr &= htonl(~0u << (32 - prefix));
		inet_ntop(AF_INET, &in, text, sizeof(text));
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "/%d", (int)prefix);
		put(r, "subnet", text);
		ok = true;
	}
	xmlFree(address);
	return ok;
}

static bool add_forwards(struct reading *r, const xmlNode *range, const char *protocol, const char *address)
{
	json_object *list = NULL;
	int64_t start, end, to;

	if (lv_xml_attribute_is(range, "exclude", "yes"))
		return refuse(r, range, "exclude is not supported: name the ports that are forwarded");
	if (!get_number(r, range, "start", -1, &start) || !get_number(r, range, "end", start, &end) || !get_number(r, range, "to", start, &to))
		return false;
	if (end < start || end - start >= VMDEF_FORWARDS_MAX)
		return refuse(r, range, "at most %d ports are possible", VMDEF_FORWARDS_MAX);
	if (!json_object_object_get_ex(r->nic, "forward", &list)) {
		list = json_object_new_array();
		json_object_object_add(r->nic, "forward", list);
	}
	for (int64_t port = start; port <= end; port++) {
		json_object *forward = json_object_new_object();

		json_object_object_add(forward, "protocol", json_object_new_string(protocol));
		if (strcmp(address, "127.0.0.1")) /* ours, when it is absent */
			json_object_object_add(forward, "host_address", json_object_new_string(address));
		json_object_object_add(forward, "host_port", json_object_new_int64(port));
		json_object_object_add(forward, "guest_port", json_object_new_int64(to + port - start));
		json_object_array_add(list, forward);
	}
	return true;
}

/* Without an address libvirt means every address of the host. */
static bool take_port_forward(struct reading *r, const xmlNode *e)
{
	char *proto = lv_xml_attribute(e, "proto"), *address = lv_xml_attribute(e, "address"), *dev = lv_xml_attribute(e, "dev");
	bool ok = true;

	if (!is_type(r, "user"))
		ok = refuse(r, e, "only the type user forwards ports");
	else if (!proto || (strcmp(proto, "tcp") && strcmp(proto, "udp")))
		ok = refuse(r, e, "proto is tcp or udp");
	else if (dev)
		ok = refuse(r, e, "dev is not supported; name an address of the host");
	else if (!lv_xml_child(e, "range"))
		ok = refuse(r, e, "all ports cannot be forwarded; a <range> is wanted");
	for (xmlNode *range = lv_xml_child(e, "range"); ok && range; range = lv_xml_next(range, "range"))
		ok = add_forwards(r, range, proto, address ? address : "0.0.0.0");
	xmlFree(proto);
	xmlFree(address);
	xmlFree(dev);
	return ok;
}

static bool take_filter(struct reading *r, const xmlNode *e)
{
	if (!lv_xml_attribute_is(e, "filter", NO_SPOOFING))
		return refuse(r, e, "of filters only " NO_SPOOFING " is possible");
	json_object_object_add(r->nic, "own_mac_only", json_object_new_boolean(1));
	return true;
}

/* Those without a function say nothing that a NIC here could do otherwise, or are read elsewhere. */
static const struct {
	const char *name;
	bool (*take)(struct reading *r, const xmlNode *e);
	bool carried; /* into an element that is written anew */
} parts[] = {
	{"mac", take_mac, false},	{"source", NULL, false},    {"target", NULL, false},	{"model", take_model, true},
	{"link", take_link, false},	{"mtu", take_mtu, false},   {"bandwidth", take_bandwidth, false},
	{"vlan", take_vlan, false},	{"ip", take_ip, false},	    {"portForward", take_port_forward, false},
	{"filterref", take_filter, false}, {"address", NULL, true}, {"alias", NULL, true},	{"boot", NULL, true},
	{"driver", NULL, true},		{"rom", NULL, true},	    {"backend", NULL, true},	{"acpi", NULL, true},
};

int lv_interface_parse(const xmlNode *e, json_object **ret_nic, int *ret_code, char *error, size_t error_size)
{
	struct reading r = {.e = e, .nic = json_object_new_object(), .error = error, .size = error_size};
	bool ok = take_type(&r);

	for (xmlNode *part = lv_xml_child(e, NULL); ok && part; part = lv_xml_next(part, NULL)) {
		size_t i = 0;

		while (i < sizeof(parts) / sizeof(parts[0]) && !lv_xml_is(part, parts[i].name))
			i++;
		if (i == sizeof(parts) / sizeof(parts[0]))
			ok = refuse(&r, part, "not supported; take the element out");
		else if (parts[i].take)
			ok = parts[i].take(&r, part);
	}
	if (!ok) {
		json_object_put(r.nic);
		*ret_code = r.code;
		return -EINVAL;
	}
	*ret_nic = r.nic;
	return 0;
}

/* ---- the form in which two can be compared ---------------------------------------------------- */

json_object *lv_interface_canonical(json_object *nic, const char *mac, char *error)
{
	json_object *json = json_tokener_parse("{\"name\":\"x\",\"boot\":{\"kernel\":\"/x\"}}"), *copy = NULL, *result = NULL,
		    *list = json_object_new_array();
	char text[VMDEF_ERROR_BYTES];
	struct vmdef *def = NULL;

	json_object_deep_copy(nic, &copy, NULL);
	if (mac)
		json_object_object_add(copy, "mac", json_object_new_string(mac));
	json_object_array_add(list, copy);
	json_object_object_add(json, "nics", list);
	if (!vmdef_from_json(json, &def, error ? error : text)) {
		json_object *all = vmdef_to_json(def);

		result = json_object_get(json_object_array_get_idx(json_object_object_get(all, "nics"), 0));
		json_object_put(all);
	}
	vmdef_free(def);
	json_object_put(json);
	return result;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static xmlNode *add(xmlNode *parent, const char *name) { return xmlNewTextChild(parent, NULL, BAD_CAST name, NULL); }
static void set(xmlNode *node, const char *name, const char *value) { xmlSetProp(node, BAD_CAST name, BAD_CAST value); }

static void set_number(xmlNode *node, const char *name, unsigned value)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", value);
	set(node, name, text);
}

static void drop_child(xmlNode *e, const char *name)
{
	xmlNode *child;

	while ((child = lv_xml_child(e, name))) {
		xmlUnlinkNode(child);
		xmlFreeNode(child);
	}
}

static void write_limit(xmlNode *bandwidth, const char *name, const struct vmdef_limit *limit)
{
	xmlNode *e;

	if (!limit->kib_per_second)
		return;
	e = add(bandwidth, name);
	set_number(e, "average", limit->kib_per_second);
	if (limit->burst_kib)
		set_number(e, "burst", limit->burst_kib);
}

/* What may change while a VM runs. */
static void write_changeable(xmlNode *e, const struct vmdef_nic *nic)
{
	xmlNode *link = lv_xml_child(e, "link"), *bandwidth;

	if (link || nic->link == VMDEF_LINK_DOWN)
		set(link ? link : add(e, "link"), "state", nic->link == VMDEF_LINK_DOWN ? "down" : "up");
	drop_child(e, "bandwidth");
	if (!nic->receive.kib_per_second && !nic->transmit.kib_per_second)
		return;
	bandwidth = add(e, "bandwidth");
	write_limit(bandwidth, "inbound", &nic->receive);
	write_limit(bandwidth, "outbound", &nic->transmit);
}

static void write_user(xmlNode *e, const struct vmdef_nic *nic)
{
	char address[VMDEF_SUBNET_BYTES];
	xmlNode *ip, *forward, *range;

	if (nic->subnet[0]) {
		snprintf(address, sizeof(address), "%s", nic->subnet);
		ip = add(e, "ip");
		set(ip, "family", "ipv4");
		set(ip, "prefix", strchr(nic->subnet, '/') + 1);
		*strchr(address, '/') = '\0';
		set(ip, "address", address);
	}
	for (unsigned i = 0; i < nic->forward_count; i++) {
		const struct vmdef_forward *f = &nic->forwards[i];

		forward = add(e, "portForward");
		set(forward, "proto", f->protocol == VMDEF_FORWARD_UDP ? "udp" : "tcp");
		if (strcmp(f->host_address, "0.0.0.0"))
			set(forward, "address", f->host_address[0] ? f->host_address : "127.0.0.1");
		range = add(forward, "range");
		set_number(range, "start", f->host_port);
		set_number(range, "to", f->guest_port);
	}
}

static void write_vlans(xmlNode *e, const struct vmdef_nic *nic)
{
	xmlNode *vlan, *tag;

	if (!nic->vlan && (!nic->has_trunk || nic->trunk_all))
		return;
	vlan = add(e, "vlan");
	if (nic->has_trunk && !nic->trunk_all)
		set(vlan, "trunk", "yes");
	for (unsigned i = 1; i <= VMDEF_VLAN_MAX; i++)
		if (!nic->trunk_all && nic->trunk[i / 64] >> i % 64 & 1)
			set_number(add(vlan, "tag"), "id", i);
	if (!nic->vlan)
		return;
	tag = add(vlan, "tag");
	set_number(tag, "id", nic->vlan);
	if (nic->has_trunk && !nic->trunk_all)
		set(tag, "nativeMode", "untagged");
}

static void write_source(xmlNode *e, const struct vmdef_nic *nic)
{
	static const char *const modes[] = {"bridge", "vepa", "private", "passthrough"};
	xmlNode *source, *target;

	switch (nic->type) {
	case VMDEF_NIC_USER: write_user(e, nic); break;
	case VMDEF_NIC_SWITCH:
		set(add(e, "source"), "network", nic->network);
		write_vlans(e, nic);
		break;
	case VMDEF_NIC_MACVTAP:
		source = add(e, "source");
		set(source, "dev", nic->device);
		set(source, "mode", modes[nic->mode]);
		break;
	case VMDEF_NIC_TAP:
	case VMDEF_NIC_TEAM:
		if (nic->bridge[0])
			set(add(e, "source"), "bridge", nic->bridge);
		if (!nic->uplinks[0][0])
			break;
		target = add(e, "target");
		set(target, "dev", nic->uplinks[0]);
		if (!nic->bridge[0])
			set(target, "managed", "no");
		break;
	}
}

/* An element that says all of a NIC that XML has words for. */
static xmlNode *make(xmlDoc *doc, const struct vmdef_nic *nic)
{
	static const char *const types[] = {[VMDEF_NIC_USER] = "user", [VMDEF_NIC_SWITCH] = "network", [VMDEF_NIC_TAP] = "ethernet",
					    [VMDEF_NIC_MACVTAP] = "direct", [VMDEF_NIC_TEAM] = "ethernet"};
	xmlNode *e = xmlNewDocNode(doc, NULL, BAD_CAST "interface", NULL);

	set(e, "type", nic->bridge[0] ? "bridge" : types[nic->type]);
	set(add(e, "mac"), "address", nic->mac);
	write_source(e, nic);
	set(add(e, "model"), "type", "virtio");
	if (nic->mtu)
		set_number(add(e, "mtu"), "size", nic->mtu);
	if (nic->own_mac_only)
		set(add(e, "filterref"), "filter", NO_SPOOFING);
	write_changeable(e, nic);
	return e;
}

/* As the XML says it; NULL: it says nothing that could be. */
static json_object *said(const xmlNode *e, const char *mac)
{
	json_object *nic = NULL, *result;
	char error[900];
	int code;

	if (lv_interface_parse(e, &nic, &code, error, sizeof(error)))
		return NULL;
	result = lv_interface_canonical(nic, mac, NULL);
	json_object_put(nic);
	return result;
}

static bool same(json_object *a, json_object *b) { return a && b && json_object_equal(a, b); }

/* The given element of this NIC, or one that had no address and is the NIC's by its place. */
static xmlNode *find_given(xmlNode *devices, const struct vmdef_nic *nic, xmlNode *const *used, unsigned count)
{
	xmlNode *nameless = NULL;

	for (xmlNode *e = lv_xml_child(devices, "interface"); e; e = lv_xml_next(e, "interface")) {
		char *mac = lv_xml_attribute(lv_xml_child(e, "mac"), "address");
		bool is = mac && !strcasecmp(mac, nic->mac), taken = false;

		for (unsigned i = 0; i < count; i++)
			taken = taken || used[i] == e;
		if (!mac && !taken && !nameless)
			nameless = e;
		xmlFree(mac);
		if (is)
			return e;
	}
	return nameless;
}

/* Keeps an element that says what the NIC is; makes one where it does not, with what only tools want of the old one. */
static xmlNode *renew(xmlNode *given, xmlNode *devices, const struct vmdef_nic *nic)
{
	xmlNode *fresh = make(devices->doc, nic), *mac;
	json_object *wanted = said(fresh, nic->mac), *is = NULL;

	if (given) {
		write_changeable(given, nic);
		is = said(given, nic->mac);
	}
	if (given && same(wanted, is)) {
		xmlFreeNode(fresh);
		fresh = given;
		if (!lv_xml_child(given, "mac")) {
			mac = xmlNewDocNode(given->doc, NULL, BAD_CAST "mac", NULL);
			set(mac, "address", nic->mac);
			if (given->children)
				xmlAddPrevSibling(given->children, mac);
			else
				xmlAddChild(given, mac);
		}
	} else if (given) {
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
			xmlNode *part = parts[i].carried ? lv_xml_child(given, parts[i].name) : NULL;

			if (!part)
				continue;
			drop_child(fresh, parts[i].name);
			xmlUnlinkNode(part);
			xmlAddChild(fresh, part);
		}
		xmlReplaceNode(given, fresh);
		xmlFreeNode(given);
	} else {
		xmlAddChild(devices, fresh);
	}
	json_object_put(wanted);
	json_object_put(is);
	return fresh;
}

void lv_interface_device(const struct vmdef_nic *nic, unsigned number, char ret_name[VMDEF_INTERFACE_BYTES])
{
	vmdef_nic_device(nic, ret_name);
	if (!ret_name[0])
		snprintf(ret_name, VMDEF_INTERFACE_BYTES, "nic%u", number);
}

static void write_live(xmlNode *e, const struct vmdef_nic *nic, unsigned number)
{
	char name[VMDEF_INTERFACE_BYTES];
	xmlNode *target = lv_xml_child(e, "target");

	lv_interface_device(nic, number, name);
	set(target ? target : add(e, "target"), "dev", name);
	if (lv_xml_child(e, "alias"))
		return;
	snprintf(name, sizeof(name), "net%u", number);
	set(add(e, "alias"), "name", name);
}

void lv_interfaces_write(xmlNode *devices, const struct vmdef *def, bool live)
{
	xmlNode *used[VMDEF_NICS_MAX], *next;

	for (unsigned i = 0; i < def->nic_count; i++)
		used[i] = renew(find_given(devices, &def->nics[i], used, i), devices, &def->nics[i]);
	for (xmlNode *e = lv_xml_child(devices, "interface"); e; e = next) {
		bool there = false;

		next = lv_xml_next(e, "interface");
		for (unsigned i = 0; i < def->nic_count; i++)
			there = there || used[i] == e;
		if (!there) {
			xmlUnlinkNode(e);
			xmlFreeNode(e);
		}
	}
	for (unsigned i = 0; live && i < def->nic_count; i++)
		write_live(used[i], &def->nics[i], i);
}

/* ---- what XML has no words for --------------------------------------------------------------------- */

json_object *lv_interface_of(const struct vmdef *def, unsigned number)
{
	json_object *all = vmdef_to_json(def), *nic = json_object_get(json_object_array_get_idx(json_object_object_get(all, "nics"), number));

	json_object_put(all);
	return nic;
}

json_object *lv_interface_unsaid(const struct vmdef *def, unsigned number)
{
	json_object *unsaid = json_object_new_object(), *nic = lv_interface_of(def, number), *has;
	xmlDoc *doc = xmlNewDoc(BAD_CAST "1.0");
	xmlNode *e = make(doc, &def->nics[number]);

	xmlDocSetRootElement(doc, e);
	has = said(e, def->nics[number].mac);
	json_object_object_foreach(nic, key, value)
	{
		json_object *other = NULL;

		if (!has || !json_object_object_get_ex(has, key, &other) || !json_object_equal(value, other))
			json_object_object_add(unsaid, key, json_object_get(value));
	}
	json_object_put(has);
	json_object_put(nic);
	xmlFreeDoc(doc);
	if (json_object_object_length(unsaid) > 0)
		return unsaid;
	json_object_put(unsaid);
	return NULL;
}

void lv_interface_add_unsaid(json_object *nic, json_object *unsaid)
{
	static const char *const of_types[] = {"interface", "bridge", "device", "mode", "network", "vlan", "trunk", "forward", "subnet"};

	/* Of another type, which has other keys. */
	for (size_t i = 0; json_object_object_get_ex(unsaid, "type", NULL) && i < sizeof(of_types) / sizeof(of_types[0]); i++)
		json_object_object_del(nic, of_types[i]);
	json_object_object_foreach(unsaid, key, value) json_object_object_add(nic, key, json_object_get(value));
}
