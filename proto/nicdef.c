/* The network interfaces of a VM's definition. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vmdef_private.h"

#define DEFAULT_SUBNET "10.0.2.0/24"
#define LIMIT_KIB_MAX VMDEF_LIMIT_KIB_MAX

static const char *const type_names[] = {"user", "switch", "tap", "macvtap", "team", NULL};
static const char *const mode_names[] = {"bridge", "vepa", "private", "passthru", NULL};
static const char *const policy_names[] = {"active-backup", "balance", NULL};
static const char *const link_names[] = {"up", "down", NULL};
static const char *const protocol_names[] = {"tcp", "udp", NULL};

#define AT(member) offsetof(struct vmdef_nic, member)

#define LIMIT_FIELDS(which)                                                                                            \
	{                                                                                                              \
		{.key = "kib_per_second", .type = FIELD_COUNT, .offset = AT(which.kib_per_second), .min = 1,           \
		 .max = LIMIT_KIB_MAX, .what = "on average"},                                                          \
		{.key = "burst_kib", .type = FIELD_COUNT, .offset = AT(which.burst_kib), .min = 1,                     \
		 .max = LIMIT_KIB_MAX, .what = "what may come at once"},                                               \
	}
static const struct field receive_fields[] = LIMIT_FIELDS(receive);
static const struct field transmit_fields[] = LIMIT_FIELDS(transmit);

/* What every NIC has. */
#define COMMON_FIELDS                                                                                                  \
	{.key = "type", .type = FIELD_ENUM, .offset = AT(type), .names = type_names, .required = true,                 \
	 .what = "user: a network of its own behind the host's, by NAT; switch: one with other VMs of this host; "                           \
	 "tap: a network device of the host; macvtap: one made on such a device; team: several of them as one"},                                            \
	{.key = "mac", .type = FIELD_MAC, .offset = AT(mac), .what = "made from the VM's UUID when absent"},           \
	{.key = "mtu", .type = FIELD_COUNT, .offset = AT(mtu), .min = 576, .max = 65520,                               \
	 .what = "the largest packet the guest is told to use; the largest that the network carries when absent"},     \
	{.key = "link", .type = FIELD_ENUM, .offset = AT(link), .names = link_names,                                   \
	 .what = "whether the cable is plugged in"},                                                                   \
	{.key = "receive", .type = FIELD_OBJECT, .fields = receive_fields, .field_count = COUNT(receive_fields),       \
	 .what = "limit of what the guest receives"},                                                                  \
	{.key = "transmit", .type = FIELD_OBJECT, .fields = transmit_fields, .field_count = COUNT(transmit_fields),    \
	 .what = "limit of what the guest sends"},                                                                     \
	{.key = "own_mac_only", .type = FIELD_BOOL, .offset = AT(own_mac_only),                                        \
	 .what = "frames of the guest that come from another address than mac are dropped"}

static const struct field user_fields[] = {
	COMMON_FIELDS,
	{.key = "subnet", .type = FIELD_SUBNET, .offset = AT(subnet),
	 .what = "the guest's network: .2 is the host, .3 its name server, .15 the guest; " DEFAULT_SUBNET " when absent"},
	{.key = "restrict", .type = FIELD_BOOL, .offset = AT(restricted),
	 .what = "no connections from the guest: only what is forwarded to it"},
	{.key = "hide_host", .type = FIELD_BOOL, .offset = AT(hide_host), .what = "the host's loopback cannot be reached"},
	{.key = "hostname", .type = FIELD_WORD, .offset = AT(hostname), .what = "told by DHCP"},
};

static const struct field switch_fields[] = {
	COMMON_FIELDS,
	{.key = "network", .type = FIELD_NAME, .offset = AT(network), .required = true, .what = "made by net.create"},
	{.key = "vlan", .type = FIELD_COUNT, .offset = AT(vlan), .min = 1, .max = VMDEF_VLAN_MAX,
	 .what = "where frames without a tag belong; 1 when absent"},
	{.key = "mirror", .type = FIELD_BOOL, .offset = AT(mirror),
	 .what = "it gets a copy of every frame of the network, and may send none"},
};

static const struct field tap_fields[] = {
	COMMON_FIELDS,
	{.key = "interface", .type = FIELD_INTERFACE, .offset = AT(uplinks[0]),
	 .what = "a tap, a macvtap, or any other network device, which then is this VM's way out; with a bridge, how the tap is named"},
	{.key = "bridge", .type = FIELD_INTERFACE, .offset = AT(bridge),
	 .what = "a tap is made for the VM's time and put on this bridge, which takes root"},
};

static const struct field macvtap_fields[] = {
	COMMON_FIELDS,
	{.key = "device", .type = FIELD_INTERFACE, .offset = AT(device), .required = true,
	 .what = "on which a macvtap is made for the VM's time, which takes root"},
	{.key = "mode", .type = FIELD_ENUM, .offset = AT(mode), .names = mode_names,
	 .what = "how macvtaps of one device reach each other: bridge: directly; vepa: if the switch sends them back; private: never; "
		 "passthru: the device has this one alone"},
};

static const struct field team_fields[] = {
	COMMON_FIELDS,
	{.key = "policy", .type = FIELD_ENUM, .offset = AT(policy), .names = policy_names,
	 .what = "active-backup: one works, the others stand by; balance: flows are spread over all"},
};

static const struct {
	const struct field *fields;
	size_t count;
} by_type[] = {
	[VMDEF_NIC_USER] = {user_fields, COUNT(user_fields)},
	[VMDEF_NIC_SWITCH] = {switch_fields, COUNT(switch_fields)},
	[VMDEF_NIC_TAP] = {tap_fields, COUNT(tap_fields)},
	[VMDEF_NIC_MACVTAP] = {macvtap_fields, COUNT(macvtap_fields)},
	[VMDEF_NIC_TEAM] = {team_fields, COUNT(team_fields)},
};

#undef AT
#define AT(member) offsetof(struct vmdef_forward, member)
static const struct field forward_fields[] = {
	{.key = "protocol", .type = FIELD_ENUM, .offset = AT(protocol), .names = protocol_names, .what = "tcp when absent"},
	{.key = "host_address", .type = FIELD_IPV4, .offset = AT(host_address), .what = "127.0.0.1 when absent"},
	{.key = "host_port", .type = FIELD_UINT, .offset = AT(host_port), .min = 1, .max = 65535, .required = true,
	 .what = "listened on"},
	{.key = "guest_address", .type = FIELD_IPV4, .offset = AT(guest_address), .what = "the subnet's .15 when absent"},
	{.key = "guest_port", .type = FIELD_UINT, .offset = AT(guest_port), .min = 1, .max = 65535, .required = true,
	 .what = "connected to"},
};
#undef AT

/* ---- addresses --------------------------------------------------------------------------- */

static bool mac_valid(const char *text, char *ret)
{
	static const char form[] = "xx:xx:xx:xx:xx:xx";

	for (size_t i = 0; i < sizeof(form); i++) {
		if (form[i] == 'x' ? !isxdigit((unsigned char)text[i]) : text[i] != form[i])
			return false;
		ret[i] = (char)tolower((unsigned char)text[i]);
	}
	return true;
}

static bool subnet_valid(const char *text)
{
	char address[VMDEF_IPV4_BYTES];
	size_t n = strcspn(text, "/");
	struct in_addr in;
	char *end;
	unsigned long bits;

	if (n >= sizeof(address) || !text[n] || !isdigit((unsigned char)text[n + 1]))
		return false;
	memcpy(address, text, n);
	address[n] = '\0';
	bits = strtoul(text + n + 1, &end, 10);
	/* Room for the addresses that have a meaning, and an address that is the network's. */
	return !*end && end - text - (long)n <= 3 && bits >= 8 && bits <= 27 && inet_pton(AF_INET, address, &in) == 1 &&
	       (ntohl(in.s_addr) & ~(~0u << (32 - bits))) == 0;
}

/* As the kernel has it (dev_valid_name). */
static bool interface_valid(const char *text)
{
	size_t n = strlen(text);

	return n > 0 && n < VMDEF_INTERFACE_BYTES && strcmp(text, ".") && strcmp(text, "..") && text[strcspn(text, "/: \t\r\n")] == '\0';
}

int vmdef_parse_address(struct json_object *value, const char *path, const struct field *f, char *ret, char *ret_error)
{
	const char *text = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
	char mac[VMDEF_MAC_BYTES];
	struct in_addr in;

	if (!text || strlen(text) != (size_t)json_object_get_string_len(value))
		return vmdef_refuse(ret_error, path, "a string is wanted, not %s", vmdef_type_of(value));
	if (f->type == FIELD_MAC) {
		if (!mac_valid(text, mac))
			return vmdef_refuse(ret_error, path, "\"%.40s\" is no address such as 52:54:00:12:34:56", text);
		if (strtoul(mac, NULL, 16) & 1)
			return vmdef_refuse(ret_error, path, "%s is a group's address: the first byte must be even", mac);
		if (!strcmp(mac, "00:00:00:00:00:00"))
			return vmdef_refuse(ret_error, path, "%s is no address of a NIC", mac);
		strcpy(ret, mac);
	} else if (f->type == FIELD_INTERFACE) {
		if (!interface_valid(text))
			return vmdef_refuse(ret_error, path, "\"%.40s\" is no name of a network device, which has 1 to 15 characters", text);
		strcpy(ret, text);
	} else if (f->type == FIELD_SUBNET) {
		if (!subnet_valid(text))
			return vmdef_refuse(ret_error, path, "\"%.40s\" is no network such as " DEFAULT_SUBNET " (from /8 to /27)", text);
		strcpy(ret, text);
	} else {
		if (inet_pton(AF_INET, text, &in) != 1)
			return vmdef_refuse(ret_error, path, "\"%.40s\" is no IPv4 address such as 127.0.0.1", text);
		strcpy(ret, text);
	}
	return 0;
}

const char *vmdef_address_pattern(enum field_type type)
{
	switch (type) {
	case FIELD_MAC: return "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$";
	case FIELD_INTERFACE: return "^[^/: ]{1,15}$";
	case FIELD_SUBNET: return "^[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2}$";
	default: return "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$";
	}
}

void vmdef_nic_device(const struct vmdef_nic *nic, char ret_name[VMDEF_INTERFACE_BYTES])
{
	unsigned char mac[6];

	ret_name[0] = '\0';
	if (nic->type == VMDEF_NIC_TAP && nic->uplinks[0][0]) {
		snprintf(ret_name, VMDEF_INTERFACE_BYTES, "%s", nic->uplinks[0]);
	} else if (nic->type == VMDEF_NIC_TAP || nic->type == VMDEF_NIC_MACVTAP) {
		vmdef_mac_bytes(nic->mac, mac);
		snprintf(ret_name, VMDEF_INTERFACE_BYTES, "%s%02x%02x%02x%02x%02x%02x", nic->type == VMDEF_NIC_TAP ? "tv" : "mv", mac[0],
			 mac[1], mac[2], mac[3], mac[4], mac[5]);
	}
}

void vmdef_mac_bytes(const char *mac, unsigned char ret_bytes[6])
{
	for (unsigned i = 0; i < 6; i++)
		ret_bytes[i] = (unsigned char)strtoul(mac + 3 * i, NULL, 16);
}

unsigned vmdef_subnet(const struct vmdef_nic *nic, unsigned *ret_bits)
{
	const char *text = nic->subnet[0] ? nic->subnet : DEFAULT_SUBNET, *slash = strchr(text, '/');
	char address[VMDEF_IPV4_BYTES] = "";
	struct in_addr in = {0};

	memcpy(address, text, (size_t)(slash - text));
	inet_pton(AF_INET, address, &in);
	*ret_bits = (unsigned)strtoul(slash + 1, NULL, 10);
	return ntohl(in.s_addr);
}

/* Whether another NIC has it. */
static bool mac_taken(const struct vmdef *def, unsigned number)
{
	for (unsigned i = 0; i < def->nic_count; i++)
		if (i != number && !strcmp(def->nics[i].mac, def->nics[number].mac))
			return true;
	return false;
}

static void make_mac(struct vmdef *def, unsigned number, unsigned seed)
{
	uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
	char text[VMDEF_UUID_BYTES + 12];

	snprintf(text, sizeof(text), "%s.%u", def->uuid, seed);
	for (const char *c = text; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
	/* Bit 1 of the first byte: administered locally. */
	snprintf(def->nics[number].mac, VMDEF_MAC_BYTES, "52:%02x:%02x:%02x:%02x:%02x", (unsigned)(hash >> 56) & 255,
		 (unsigned)(hash >> 48) & 255, (unsigned)(hash >> 40) & 255, (unsigned)(hash >> 32) & 255, (unsigned)(hash >> 24) & 255);
}

void vmdef_fill_macs(struct vmdef *def)
{
	for (unsigned i = 0; i < def->nic_count; i++) {
		if (def->nics[i].mac[0])
			continue;
		make_mac(def, i, i);
		/* A NIC that was at this place before may have moved, with its address. */
		for (unsigned seed = VMDEF_NICS_MAX; mac_taken(def, i); seed++)
			make_mac(def, i, seed);
	}
}

/* ---- reading ----------------------------------------------------------------------------- */

static int parse_forwards(struct json_object *value, const char *path, struct vmdef_nic *nic, char *ret_error)
{
	size_t n;

	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	n = json_object_array_length(value);
	if (n > VMDEF_FORWARDS_MAX)
		return vmdef_refuse(ret_error, path, "%zu forwards are too many; at most %d", n, VMDEF_FORWARDS_MAX);
	nic->forwards = calloc(n ? n : 1, sizeof(*nic->forwards));
	if (!nic->forwards)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		char where[400];
		int rc;

		snprintf(where, sizeof(where), "%.300s[%zu]", path, i);
		rc = vmdef_parse_object(json_object_array_get_idx(value, i), where, forward_fields, COUNT(forward_fields),
					&nic->forwards[i], ret_error);
		if (rc)
			return rc;
		nic->forward_count++;
	}
	return 0;
}

static int parse_trunk(struct json_object *value, const char *path, struct vmdef_nic *nic, char *ret_error)
{
	nic->has_trunk = true;
	if (json_object_is_type(value, json_type_string) && !strcmp(json_object_get_string(value), "all")) {
		nic->trunk_all = true;
		return 0;
	}
	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "\"all\" or an array of VLANs is wanted, not %s", vmdef_type_of(value));
	for (size_t i = 0; i < json_object_array_length(value); i++) {
		struct json_object *item = json_object_array_get_idx(value, i);
		int64_t vlan = json_object_is_type(item, json_type_int) ? json_object_get_int64(item) : 0;

		if (vlan < 1 || vlan > VMDEF_VLAN_MAX)
			return vmdef_refuse(ret_error, path, "VLANs are numbers from 1 to %d", VMDEF_VLAN_MAX);
		nic->trunk[vlan / 64] |= 1ull << vlan % 64;
	}
	return 0;
}

static int parse_uplinks(struct json_object *value, const char *path, struct vmdef_nic *nic, char *ret_error)
{
	const struct field f = {.type = FIELD_INTERFACE};
	size_t n = json_object_is_type(value, json_type_array) ? json_object_array_length(value) : 0;

	if (n == 0 || n > VMDEF_UPLINKS_MAX)
		return vmdef_refuse(ret_error, path, "an array of 1 to %d network devices is wanted", VMDEF_UPLINKS_MAX);
	for (size_t i = 0; i < n; i++) {
		char where[400];
		int rc;

		snprintf(where, sizeof(where), "%.300s[%zu]", path, i);
		rc = vmdef_parse_address(json_object_array_get_idx(value, i), where, &f, nic->uplinks[i], ret_error);
		for (size_t k = 0; !rc && k < i; k++)
			if (!strcmp(nic->uplinks[k], nic->uplinks[i]))
				rc = vmdef_refuse(ret_error, where, "%s is there twice", nic->uplinks[i]);
		if (rc)
			return rc;
		nic->uplink_count++;
	}
	return 0;
}

/* The key of this type that holds a list. */
static const char *list_key(enum vmdef_nic_type type)
{
	static const char *const keys[] = {[VMDEF_NIC_USER] = "forward", [VMDEF_NIC_SWITCH] = "trunk", [VMDEF_NIC_TEAM] = "uplinks"};

	return type < COUNT(keys) && keys[type] ? keys[type] : "";
}

static int parse_list(struct json_object *value, const char *path, struct vmdef_nic *nic, char *ret_error)
{
	switch (nic->type) {
	case VMDEF_NIC_USER: return parse_forwards(value, path, nic, ret_error);
	case VMDEF_NIC_SWITCH: return parse_trunk(value, path, nic, ret_error);
	case VMDEF_NIC_TEAM: return parse_uplinks(value, path, nic, ret_error);
	case VMDEF_NIC_TAP:
	case VMDEF_NIC_MACVTAP: break;
	}
	return -EINVAL;
}

/* The keys that are lists, which the tables do not have, are taken out; the rest goes by the type's table. */
static int parse_nic(struct json_object *value, const char *path, struct vmdef_nic *nic, char *ret_error)
{
	struct json_object *type, *list, *rest = NULL;
	char where[300];
	int rc = 0;

	if (!json_object_is_type(value, json_type_object))
		return vmdef_refuse(ret_error, path, "an object such as {\"type\":\"user\"} is wanted, not %s", vmdef_type_of(value));
	if (!json_object_object_get_ex(value, "type", &type))
		return vmdef_refuse(ret_error, path, "the key type is missing");
	/* The type alone first: it decides what else there may be. */
	rest = json_object_new_object();
	vmdef_add(rest, "type", json_object_get(type));
	rc = vmdef_parse_object(rest, path, user_fields, 1, nic, ret_error);
	if (rc)
		goto out;
	json_object_object_foreach(value, key, item) {
		if (strcmp(key, list_key(nic->type)) != 0)
			vmdef_add(rest, key, json_object_get(item));
	}
	rc = vmdef_parse_object(rest, path, by_type[nic->type].fields, by_type[nic->type].count, nic, ret_error);
	snprintf(where, sizeof(where), "%s.%s", path, list_key(nic->type));
	if (!rc && json_object_object_get_ex(value, list_key(nic->type), &list))
		rc = parse_list(list, where, nic, ret_error);
	if (!rc && nic->type == VMDEF_NIC_TAP) {
		nic->uplink_count = 1;
		if (!nic->uplinks[0][0] && !nic->bridge[0])
			rc = vmdef_refuse(ret_error, path, "the key interface is missing (or bridge, for a tap that is made for it)");
	}
	if (!rc && nic->type == VMDEF_NIC_TEAM && nic->uplink_count == 0)
		rc = vmdef_refuse(ret_error, path, "the key uplinks is missing");
out:
	json_object_put(rest);
	return rc;
}

int vmdef_parse_nics(struct json_object *value, const char *path, struct vmdef *def, char *ret_error)
{
	size_t n;

	if (!json_object_is_type(value, json_type_array))
		return vmdef_refuse(ret_error, path, "an array is wanted, not %s", vmdef_type_of(value));
	n = json_object_array_length(value);
	if (n > VMDEF_NICS_MAX)
		return vmdef_refuse(ret_error, path, "%zu network interfaces are too many; at most %d", n, VMDEF_NICS_MAX);
	for (size_t i = 0; i < n; i++) {
		char where[280];
		int rc;

		snprintf(where, sizeof(where), "%s[%zu]", path, i);
		def->nic_count = (unsigned)i + 1;
		rc = parse_nic(json_object_array_get_idx(value, i), where, &def->nics[i], ret_error);
		if (rc)
			return rc;
	}
	return 0;
}

int vmdef_check_nics(const struct vmdef *def, char *ret_error)
{
	for (unsigned i = 0; i < def->nic_count; i++) {
		for (unsigned j = 0; j < i; j++) {
			char where[32];

			if (!def->nics[i].mac[0] || strcmp(def->nics[i].mac, def->nics[j].mac) != 0)
				continue;
			snprintf(where, sizeof(where), "nics[%u].mac", i);
			return vmdef_refuse(ret_error, where, "%s is nics[%u]'s too; leave it out, and one is made", def->nics[i].mac, j);
		}
	}
	return 0;
}

void vmdef_free_nics(struct vmdef *def)
{
	for (unsigned i = 0; i < def->nic_count; i++)
		free(def->nics[i].forwards);
}

/* ---- printing ------------------------------------------------------------------------------ */

static struct json_object *forwards_to_json(const struct vmdef_nic *nic)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < nic->forward_count; i++) {
		struct json_object *forward = vmdef_object_to_json(&nic->forwards[i], forward_fields, COUNT(forward_fields));

		if (!forward || json_object_array_add(list, forward) < 0) {
			json_object_put(forward);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

struct json_object *vmdef_trunk_to_json(const struct vmdef_nic *nic)
{
	struct json_object *list;

	if (nic->trunk_all)
		return json_object_new_string("all");
	list = json_object_new_array();
	for (unsigned vlan = 1; list && vlan <= VMDEF_VLAN_MAX; vlan++)
		if (nic->trunk[vlan / 64] >> vlan % 64 & 1)
			json_object_array_add(list, json_object_new_int((int)vlan));
	return list;
}

static struct json_object *uplinks_to_json(const struct vmdef_nic *nic)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < nic->uplink_count; i++)
		json_object_array_add(list, json_object_new_string(nic->uplinks[i]));
	return list;
}

struct json_object *vmdef_nics_to_json(const struct vmdef *def)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < def->nic_count; i++) {
		const struct vmdef_nic *nic = &def->nics[i];
		struct json_object *json = vmdef_object_to_json(nic, by_type[nic->type].fields, by_type[nic->type].count);

		if (!json || (nic->forward_count && !vmdef_add(json, "forward", forwards_to_json(nic))) ||
		    (nic->type == VMDEF_NIC_TEAM && !vmdef_add(json, "uplinks", uplinks_to_json(nic))) ||
		    (nic->has_trunk && !vmdef_add(json, "trunk", vmdef_trunk_to_json(nic))) ||
		    json_object_array_add(list, json) < 0) {
			json_object_put(json);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

struct json_object *vmdef_nics_item_schema(void)
{
	struct json_object *schema = json_object_new_object(), *kinds = json_object_new_array();

	for (size_t i = 0; i < COUNT(by_type); i++) {
		struct json_object *kind = vmdef_object_schema(by_type[i].fields, by_type[i].count), *properties = NULL, *type = NULL;

		json_object_object_get_ex(kind, "properties", &properties);
		if (json_object_object_get_ex(properties, "type", &type)) {
			json_object_object_del(type, "enum");
			vmdef_add(type, "const", json_object_new_string(type_names[i]));
		}
		if (i == VMDEF_NIC_USER) {
			struct json_object *list = json_object_new_object();

			vmdef_add(list, "type", json_object_new_string("array"));
			vmdef_add(list, "maxItems", json_object_new_int(VMDEF_FORWARDS_MAX));
			vmdef_add(list, "items", vmdef_object_schema(forward_fields, COUNT(forward_fields)));
			vmdef_add(list, "description", json_object_new_string("ports of the host that lead to ports of the guest"));
			vmdef_add(properties, "forward", list);
		}
		if (i == VMDEF_NIC_SWITCH)
			vmdef_add(properties, "trunk",
				  json_tokener_parse("{\"description\":\"VLANs whose tagged frames come and go here\",\"oneOf\":["
						     "{\"const\":\"all\"},{\"type\":\"array\",\"items\":"
						     "{\"type\":\"integer\",\"minimum\":1,\"maximum\":4094}}]}"));
		if (i == VMDEF_NIC_TEAM)
			vmdef_add(properties, "uplinks",
				  json_tokener_parse("{\"description\":\"network devices of the host, the preferred one first\",\"type\":\"array\","
						     "\"minItems\":1,\"maxItems\":8,\"items\":{\"type\":\"string\"}}"));
		json_object_array_add(kinds, kind);
	}
	vmdef_add(schema, "oneOf", kinds);
	return schema;
}
