/* The methods of net and pool. */
#include "api/jsonrpc/methods.h"
#include "daemon/networks.h"
#include "daemon/pools.h"
#include "proto/switch.h"
#include "proto/vmdef.h"

/* ---- handlers ------------------------------------------------------------------------ */

static void handle_pools(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, pools_json(daemon_pools(call->conn->daemon)));
}

static const char *net_name(json_object *params)
{
	return json_object_get_string(json_object_object_get(params, "name"));
}

static void handle_net_create(struct rpc_call *call, json_object *params)
{
	const struct net_definition def = {.name = net_name(params), .uuid = "", .autostart = true, .start = true};

	daemon_net_define(call->conn->daemon, &def, rpc_done, call);
}

static void handle_net_start(struct rpc_call *call, json_object *params)
{
	daemon_net_start(call->conn->daemon, net_name(params), rpc_done, call);
}

static void handle_net_stop(struct rpc_call *call, json_object *params)
{
	daemon_net_stop(call->conn->daemon, net_name(params), rpc_done, call);
}

static void handle_net_set(struct rpc_call *call, json_object *params)
{
	bool on = json_object_get_boolean(json_object_object_get(params, "autostart"));

	daemon_net_set_autostart(call->conn->daemon, net_name(params), on, rpc_done, call);
}

static void handle_net_list(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_net_list(call->conn->daemon));
}

static void handle_net_get(struct rpc_call *call, json_object *params)
{
	json_object *row = daemon_net_get(call->conn->daemon, net_name(params));

	if (row)
		rpc_reply(call, row);
	else
		rpc_fail(call, rpc_error_code(DAEMON_NOT_FOUND), "there is no network \"%.80s\"", net_name(params));
}

static void handle_net_delete(struct rpc_call *call, json_object *params)
{
	daemon_net_delete(call->conn->daemon, net_name(params), rpc_done, call);
}

static void handle_net_stats(struct rpc_call *call, json_object *params)
{
	daemon_net_ask(call->conn->daemon, net_name(params), SWITCH_STATS, rpc_done, call);
}

static void handle_net_ports(struct rpc_call *call, json_object *params)
{
	daemon_net_ask(call->conn->daemon, net_name(params), SWITCH_PORTS, rpc_done, call);
}

/* clang-format off: tables, a row for each field and method */

static const struct rpc_field pool_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "the pool's name"},
	{"uuid", RPC_STRING, RPC_REQUIRED, .summary = "the pool's UUID"},
	{"path", RPC_STRING, RPC_REQUIRED, .summary = "its directory"},
	{"active", RPC_BOOLEAN, RPC_REQUIRED, .summary = "its volumes can be used"},
	{"autostart", RPC_BOOLEAN, RPC_REQUIRED, .summary = "active from the daemon's start on"},
	{"transient", RPC_BOOLEAN, RPC_REQUIRED, .summary = "gone when it is stopped"},
	END,
};
static const struct rpc_field net_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "what a VM's nics name"},
	{"uuid", RPC_STRING, RPC_REQUIRED, .summary = "its UUID"},
	{"active", RPC_BOOLEAN, RPC_REQUIRED, .summary = "its process runs"},
	{"autostart", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it is started with the daemon"},
	{"transient", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it is gone when it is stopped"},
	{"created", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	END,
};
static const struct rpc_field net_row[] = {{"network", RPC_OBJECT, 0, .fields = net_fields}};
static const struct rpc_field net_set_params[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "the network's name"},
	{"autostart", RPC_BOOLEAN, RPC_REQUIRED, .summary = "whether it is started with the daemon"},
	END,
};
static const struct rpc_field net_params[] = {{"name", RPC_STRING, RPC_REQUIRED, .summary = "the network's name"}, END};
static const struct rpc_field net_stats_fields[] = {
	{"ports", RPC_INTEGER, RPC_REQUIRED, .summary = "NICs that are connected"},
	{"addresses", RPC_INTEGER, RPC_REQUIRED, .summary = "addresses that are known"},
	{"forwarded", RPC_INTEGER, RPC_REQUIRED, .summary = "frames to one port"},
	{"flooded", RPC_INTEGER, RPC_REQUIRED, .summary = "frames to all ports of their VLAN"},
	{"filtered", RPC_INTEGER, RPC_REQUIRED, .summary = "frames that were where they belong"},
	{"refused", RPC_INTEGER, RPC_REQUIRED, .summary = "frames that their port may not send"},
	END,
};
static const struct rpc_field vlan_item[] = {{"vlan", RPC_INTEGER, 0, .summary = "a VLAN"}};
static const struct rpc_field port_fields[] = {
	{"vm", RPC_STRING, RPC_REQUIRED, .summary = "the VM's name"},
	{"uuid", RPC_STRING, RPC_REQUIRED, .summary = "its UUID"},
	{"nic", RPC_INTEGER, RPC_REQUIRED, .summary = "which of its network interfaces"},
	{"mac", RPC_STRING, RPC_REQUIRED, .summary = "as defined; the guest may have set another"},
	{"port", RPC_INTEGER, RPC_REQUIRED, .summary = "the port's number"},
	{"vlan", RPC_INTEGER, RPC_REQUIRED, .summary = "of frames without a tag"},
	{"trunk", RPC_ARRAY, 0, .fields = vlan_item, .summary = "of a trunk: VLANs of frames with one"},
	{"mirror", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it gets a copy of everything"},
	{"own_mac_only", RPC_BOOLEAN, RPC_REQUIRED, .summary = "frames from another address are refused"},
	{"addresses", RPC_INTEGER, RPC_REQUIRED, .summary = "addresses behind it"},
	{"rx_frames", RPC_INTEGER, RPC_REQUIRED, .summary = "frames from the VM"},
	{"rx_bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "their bytes"},
	{"rx_dropped", RPC_INTEGER, RPC_REQUIRED, .summary = "those that were no good"},
	{"tx_frames", RPC_INTEGER, RPC_REQUIRED, .summary = "frames to the VM"},
	{"tx_bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "their bytes"},
	{"tx_dropped", RPC_INTEGER, RPC_REQUIRED, .summary = "those that it did not take in time"},
	END,
};
static const struct rpc_field port_row[] = {{"port", RPC_OBJECT, 0, .fields = port_fields}};
static const struct rpc_field net_ports_fields[] = {
	{"ports", RPC_ARRAY, RPC_REQUIRED, .fields = port_row, .summary = "one entry for each NIC"},
	END,
};
static const struct rpc_field pool_row[] = {{"pool", RPC_OBJECT, 0, .fields = pool_fields}};

const struct rpc_method rpc_net_methods[] = {
	{"pool.list",
	 "Storage pools: directories that libvirt clients have named.",
	 NULL, {"result", RPC_ARRAY, 0, .fields = pool_row, .summary = "in order of creation"}, handle_pools},
	{"net.create",
	 "Makes a network between VMs of this host; answered when its switch runs. A VM's nics name it.",
	 net_params, RESULT(net_fields, "the network"), handle_net_create},
	{"net.list",
	 "All networks, oldest first.",
	 NULL, ROWS(net_row, "one entry for each network"), handle_net_list},
	{"net.get",
	 "One network.",
	 net_params, RESULT(net_fields, "the network"), handle_net_get},
	{"net.start",
	 "Starts a network that was stopped, or only defined (by a libvirt client); answered when its switch runs.",
	 net_params, RESULT(net_fields, "the network"), handle_net_start},
	{"net.stop",
	 "Ends a network's switch. The cables of VMs that are connected are unplugged until those are started again.",
	 net_params, RESULT(net_fields, "the network"), handle_net_stop},
	{"net.set",
	 "Whether a network is started with the daemon.",
	 net_set_params, RESULT(net_fields, "the network"), handle_net_set},
	{"net.delete",
	 "Ends a network that no VM is connected to.",
	 net_params, NOTHING, handle_net_delete},
	{"net.stats",
	 "Counters of a network's switch.",
	 net_params, RESULT(net_stats_fields, "counters by name"), handle_net_stats},
	{"net.ports",
	 "A network's ports, with their VLANs and counters.",
	 net_params, RESULT(net_ports_fields, "the ports"), handle_net_ports},
	{.name = NULL},
};
