/* Networks: the daemon's switches between VMs, and a built-in one that stands for NICs of type user. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"
#include "daemon/networks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Of the built-in one: the same on every host, as its meaning is. */
#define BUILTIN_UUID "9c5b0d6e-41d7-4a7e-8f0e-2d1c6a7b3f10"

struct network {
	char name[VMDEF_NAME_MAX + 1], uuid[VMDEF_UUID_BYTES];
	bool active, autostart, transient, builtin;
};

/* ---- finding them ------------------------------------------------------------------------ */

static bool flag_of(json_object *row, const char *key)
{
	return json_object_get_boolean(json_object_object_get(row, key));
}

/* The one of that place, the built-in one first. False: there are no more. */
static bool nth(json_object *rows, size_t i, struct network *ret)
{
	json_object *row;

	if (i == 0) {
		*ret = (struct network){NET_BUILTIN, BUILTIN_UUID, .active = true, .autostart = true, .builtin = true};
		return true;
	}
	if (i > json_object_array_length(rows))
		return false;
	row = json_object_array_get_idx(rows, i - 1);
	*ret = (struct network){.active = flag_of(row, "active"), .autostart = flag_of(row, "autostart"),
				.transient = flag_of(row, "transient")};
	snprintf(ret->name, sizeof(ret->name), "%s", json_object_get_string(json_object_object_get(row, "name")));
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", json_object_get_string(json_object_object_get(row, "uuid")));
	return true;
}

/* By name, or by UUID. */
static bool find(struct daemon *daemon, const char *name, const char *uuid, struct network *ret)
{
	json_object *rows = daemon_net_list(daemon);
	bool found = false;

	for (size_t i = 0; !found && nth(rows, i, ret); i++)
		found = name ? !strcmp(ret->name, name) : uuid && !strcasecmp(ret->uuid, uuid);
	json_object_put(rows);
	return found;
}

/* Of an N argument. False: the call was failed. */
static bool find_network(struct lv_call *call, struct network *ret)
{
	char uuid[VMDEF_UUID_BYTES];

	lv_uuid_text(call->args[0].items[1].text, uuid);
	if (find(call->daemon, NULL, uuid, ret))
		return true;
	lv_fail(call, VIR_ERR_NO_NETWORK, "no network with matching uuid '%s' (%.100s)", uuid, call->args[0].items[0].text);
	return false;
}

/* The same, for changes: the built-in one has none. */
static bool find_changeable(struct lv_call *call, struct network *ret)
{
	if (!find_network(call, ret))
		return false;
	if (!ret->builtin)
		return true;
	lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "the network '" NET_BUILTIN "' is built in: it stays as it is");
	return false;
}

static void put_network(struct xdr_writer *out, const char *name, const char *uuid)
{
	unsigned char bytes[16];

	lv_uuid_bytes(uuid, bytes);
	xdr_put_string(out, name);
	xdr_put_fixed(out, bytes, sizeof(bytes));
}

void lv_network_lookup_by_name(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (!find(call->daemon, call->args[0].text, NULL, &net)) {
		lv_fail(call, VIR_ERR_NO_NETWORK, "no network with matching name '%.200s'", call->args[0].text);
		return;
	}
	put_network(&call->out, net.name, net.uuid);
	lv_reply(call);
}

void lv_network_lookup_by_uuid(struct lv_call *call, struct vm *vm)
{
	char uuid[VMDEF_UUID_BYTES];
	struct network net;

	lv_uuid_text(call->args[0].text, uuid);
	if (!find(call->daemon, NULL, uuid, &net)) {
		lv_fail(call, VIR_ERR_NO_NETWORK, "no network with matching uuid '%s'", uuid);
		return;
	}
	put_network(&call->out, net.name, net.uuid);
	lv_reply(call);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool listed(const struct network *net, uint64_t flags)
{
	const uint64_t is = (net->active ? VIR_CONNECT_LIST_NETWORKS_ACTIVE : VIR_CONNECT_LIST_NETWORKS_INACTIVE) |
			    (net->transient ? VIR_CONNECT_LIST_NETWORKS_TRANSIENT : VIR_CONNECT_LIST_NETWORKS_PERSISTENT) |
			    (net->autostart ? VIR_CONNECT_LIST_NETWORKS_AUTOSTART : VIR_CONNECT_LIST_NETWORKS_NO_AUTOSTART);
	static const uint64_t pairs[] = {
		VIR_CONNECT_LIST_NETWORKS_ACTIVE | VIR_CONNECT_LIST_NETWORKS_INACTIVE,
		VIR_CONNECT_LIST_NETWORKS_TRANSIENT | VIR_CONNECT_LIST_NETWORKS_PERSISTENT,
		VIR_CONNECT_LIST_NETWORKS_AUTOSTART | VIR_CONNECT_LIST_NETWORKS_NO_AUTOSTART,
	};

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		if (flags & pairs[i] && !(flags & pairs[i] & is))
			return false;
	return true;
}

void lv_connect_list_all_networks(struct lv_call *call, struct vm *vm)
{
	json_object *rows = NULL;
	size_t at = call->out.used;
	struct network net;
	uint32_t n = 0;

	if (!lv_flags(call, call->args[1].u, 0x3f))
		return;
	rows = daemon_net_list(call->daemon);
	xdr_put_u32(&call->out, 0);
	for (size_t i = 0; nth(rows, i, &net); i++) {
		if (!listed(&net, call->args[1].u))
			continue;
		n++;
		if (call->args[0].i)
			put_network(&call->out, net.name, net.uuid);
	}
	json_object_put(rows);
	if (call->args[0].i)
		xdr_patch_u32(&call->out, at, n);
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

/* Names, or how many there are. */
static void reply_names(struct lv_call *call, bool active, bool count_only)
{
	json_object *rows = daemon_net_list(call->daemon);
	size_t at = call->out.used;
	struct network net;
	int64_t n = 0;

	xdr_put_u32(&call->out, 0);
	for (size_t i = 0; nth(rows, i, &net); i++) {
		if (net.active != active || (!count_only && n >= call->args[0].i))
			continue;
		n++;
		if (!count_only)
			xdr_put_string(&call->out, net.name);
	}
	json_object_put(rows);
	xdr_patch_u32(&call->out, at, (uint32_t)n);
	lv_reply(call);
}

void lv_connect_num_of_networks(struct lv_call *call, struct vm *vm) { reply_names(call, true, true); }
void lv_connect_list_networks(struct lv_call *call, struct vm *vm) { reply_names(call, true, false); }
void lv_connect_num_of_defined_networks(struct lv_call *call, struct vm *vm) { reply_names(call, false, true); }
void lv_connect_list_defined_networks(struct lv_call *call, struct vm *vm) { reply_names(call, false, false); }

/* ---- one of them ------------------------------------------------------------------------------- */

static void reply_flag(struct lv_call *call, bool flag)
{
	xdr_put_i32(&call->out, flag);
	lv_reply(call);
}

void lv_network_is_active(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (find_network(call, &net))
		reply_flag(call, net.active);
}

void lv_network_is_persistent(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (find_network(call, &net))
		reply_flag(call, !net.transient);
}

void lv_network_get_autostart(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (find_network(call, &net))
		reply_flag(call, net.autostart);
}

/* Nothing of them is a device of the host. */
void lv_network_get_bridge_name(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (find_network(call, &net))
		lv_fail(call, VIR_ERR_INTERNAL_ERROR, "network '%s' does not have a bridge name.", net.name);
}

/* Of libslirp's DHCP nothing is known from outside; a switch has none. */
void lv_network_get_dhcp_leases(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (!lv_flags(call, call->args[3].u, 0) || !find_network(call, &net))
		return;
	xdr_put_u32(&call->out, 0);
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}

void lv_network_set_autostart(struct lv_call *call, struct vm *vm)
{
	bool on = call->args[1].i != 0;
	struct network net;

	/* What is on already may be switched on again, whatever it is. */
	if (!on ? !find_changeable(call, &net) : !find_network(call, &net))
		return;
	if (net.autostart == on)
		lv_reply(call);
	else
		daemon_net_set_autostart(call->daemon, net.name, on, lv_done, call);
}

/* ---- XML ---------------------------------------------------------------------------------------- */

static char *builtin_xml(void)
{
	return strdup("<network>\n"
		      "  <name>" NET_BUILTIN "</name>\n"
		      "  <uuid>" BUILTIN_UUID "</uuid>\n"
		      "  <forward mode='nat'/>\n"
		      "  <ip address='10.0.2.2' netmask='255.255.255.0'>\n"
		      "    <dhcp>\n"
		      "      <range start='10.0.2.15' end='10.0.2.15'/>\n"
		      "    </dhcp>\n"
		      "  </ip>\n"
		      "</network>\n");
}

/* What it was defined with, brought up to date; malloc'd, NULL: out of memory. */
static char *format(struct daemon *daemon, const struct network *net)
{
	char error[200], *kept = daemon_net_xml(daemon, net->name), *text = NULL;
	xmlDoc *doc = lv_xml_read(kept ? kept : "<network/>", error, sizeof(error));
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *name, *uuid;

	if (root) {
		for (xmlNode *e = root->children, *next; e; e = next) {
			next = e->next;
			if (lv_xml_is(e, "name") || lv_xml_is(e, "uuid")) {
				xmlUnlinkNode(e);
				xmlFreeNode(e);
			}
		}
		name = xmlNewDocNode(doc, NULL, BAD_CAST "name", BAD_CAST net->name);
		uuid = xmlNewDocNode(doc, NULL, BAD_CAST "uuid", BAD_CAST net->uuid);
		if (root->children)
			xmlAddPrevSibling(root->children, uuid);
		else
			xmlAddChild(root, uuid);
		xmlAddPrevSibling(uuid, name);
		text = lv_xml_print(root, true);
	}
	xmlFreeDoc(doc);
	free(kept);
	return text;
}

void lv_network_get_xml_desc(struct lv_call *call, struct vm *vm)
{
	struct network net;
	char *xml;

	if (!lv_flags(call, call->args[1].u, VIR_NETWORK_XML_INACTIVE) || !find_network(call, &net))
		return;
	xml = net.builtin ? builtin_xml() : format(call->daemon, &net);
	if (!xml) {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	xdr_put_string(&call->out, xml);
	free(xml);
	lv_reply(call);
}

/* NULL, or what the element asks for that a switch between VMs is not. */
static const char *unfit(const xmlNode *e)
{
	static const char *const fit[] = {"name", "uuid", "metadata", "title", "description"};

	for (size_t i = 0; i < sizeof(fit) / sizeof(fit[0]); i++)
		if (lv_xml_is(e, fit[i]))
			return NULL;
	if (lv_xml_is(e, "bridge") || lv_xml_is(e, "mac") || lv_xml_is(e, "domain"))
		return "a network here is a switch between VMs, and no device of the host; take the element out";
	if (lv_xml_is(e, "forward"))
		return "a network here is a switch between VMs, and leads nowhere else; give interfaces the network '" NET_BUILTIN
		       "' or the type user for NAT, bridge or direct for the host's wires";
	if (lv_xml_is(e, "ip") || lv_xml_is(e, "dns") || lv_xml_is(e, "route"))
		return "the host takes no part in a network between VMs: it has no address there, and serves neither DHCP nor names";
	return "not supported; take the element out";
}

struct network_xml {
	char *name, *uuid, *kept;
};

static void network_xml_free(struct network_xml *x)
{
	free(x->name);
	free(x->uuid);
	free(x->kept);
}

/* False: the call was failed. */
static bool parse(struct lv_call *call, const char *text, struct network_xml *ret)
{
	char error[500], path[300];
	xmlDoc *doc = lv_xml_read(text, error, sizeof(error));
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *name = root ? lv_xml_child(root, "name") : NULL,
		*uuid = root ? lv_xml_child(root, "uuid") : NULL, *bad = NULL;
	bool ok = false;

	*ret = (struct network_xml){0};
	for (xmlNode *e = lv_xml_child(root, NULL); e && !bad; e = lv_xml_next(e, NULL))
		bad = unfit(e) ? e : NULL;
	if (!doc) {
		lv_fail(call, VIR_ERR_XML_DETAIL, "%s", error);
	} else if (!lv_xml_is(root, "network")) {
		lv_fail(call, VIR_ERR_XML_ERROR, "unknown root element '%.60s' for network", (const char *)root->name);
	} else if (!name) {
		lv_fail(call, VIR_ERR_XML_ERROR, "/network/name is missing");
	} else if (bad) {
		lv_xml_path(bad, path, sizeof(path));
		lv_fail(call, VIR_ERR_CONFIG_UNSUPPORTED, "%s: %s", path, unfit(bad));
	} else {
		ret->name = lv_xml_text(name);
		ret->uuid = uuid ? lv_xml_text(uuid) : strdup("");
		ret->kept = lv_xml_print(root, false);
		ok = ret->name && ret->uuid && ret->kept;
		if (!ok)
			lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
	}
	xmlFreeDoc(doc);
	if (!ok)
		network_xml_free(ret);
	return ok;
}

/* ---- changes --------------------------------------------------------------------------------------- */

static void done_network(void *opaque, const struct daemon_error *error, json_object *row)
{
	struct lv_call *call = opaque;

	if (!error)
		put_network(&call->out, json_object_get_string(json_object_object_get(row, "name")),
			    json_object_get_string(json_object_object_get(row, "uuid")));
	lv_done(call, error, row);
}

static void define(struct lv_call *call, bool start)
{
	struct network_xml x;
	struct net_definition def;

	if (call->args[1].present && !lv_flags(call, call->args[1].u, VIR_NETWORK_DEFINE_VALIDATE))
		return;
	if (!parse(call, call->args[0].text, &x))
		return;
	def = (struct net_definition){.name = x.name, .uuid = x.uuid, .libvirt_xml = x.kept, .transient = start, .start = start};
	daemon_net_define(call->daemon, &def, done_network, call);
	network_xml_free(&x);
}

void lv_network_define_xml(struct lv_call *call, struct vm *vm) { define(call, false); }
void lv_network_create_xml(struct lv_call *call, struct vm *vm) { define(call, true); }

void lv_network_create(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (!find_network(call, &net))
		return;
	if (net.active)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "network is already active");
	else
		daemon_net_start(call->daemon, net.name, lv_done, call);
}

void lv_network_destroy(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (!find_changeable(call, &net))
		return;
	if (!net.active)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "network '%s' is not active", net.name);
	else
		daemon_net_stop(call->daemon, net.name, lv_done, call);
}

void lv_network_undefine(struct lv_call *call, struct vm *vm)
{
	struct network net;

	if (!find_changeable(call, &net))
		return;
	if (net.transient)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "can't undefine transient network");
	else
		daemon_net_undefine(call->daemon, net.name, lv_done, call);
}
