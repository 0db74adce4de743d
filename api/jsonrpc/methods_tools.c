/* Of vm.guest, what VMware's guest tools tell (open-vm-tools in the guest), and the variables they read. */
#include "api/jsonrpc/methods.h"
#include "proto/vmdef.h"

/* ---- handlers ------------------------------------------------------------------------ */

static void handle_tools(struct rpc_call *call, json_object *params) { rpc_inspect(call, params, DAEMON_GUEST_TOOLS, 0); }

static void handle_variables(struct rpc_call *call, json_object *params) { rpc_inspect(call, params, DAEMON_GUEST_VARIABLES, 0); }

static void handle_set_variable(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_GUEST_VARIABLE_SET, 0);
}

static void handle_sync_time(struct rpc_call *call, json_object *params) { rpc_inspect(call, params, DAEMON_GUEST_TIME_SYNC, 0); }

/* ---- shapes --------------------------------------------------------------------------- */

/* clang-format off: rows of a table */
static const struct rpc_field address_row[] = {
	{"address", RPC_STRING, RPC_REQUIRED, .summary = "IPv4 or IPv6"},
	{"prefix", RPC_INTEGER, RPC_REQUIRED, .summary = "bits of the network"},
	END,
};
static const struct rpc_field interface_row[] = {
	{"mac", RPC_STRING, RPC_REQUIRED, .summary = "as the guest has it"},
	{"addresses", RPC_ARRAY, RPC_REQUIRED, .fields = address_row, .summary = "its addresses"},
	END,
};
static const struct rpc_field tools_fields[] = {
	{"tools", RPC_STRING, RPC_REQUIRED, .summary = "whose: vmware"},
	{"present", RPC_BOOLEAN, RPC_REQUIRED, .summary = "they have asked for something to do in the last ten seconds"},
	{"version", RPC_STRING, 0, .summary = "theirs"},
	{"hostname", RPC_STRING, 0, .summary = "the guest's"},
	{"os", RPC_STRING, 0, .summary = "its system, for people"},
	{"os_id", RPC_STRING, 0, .summary = "VMware's name for it"},
	{"os_details", RPC_OBJECT, RPC_OPEN, .summary = "more of it, by the tools' own names"},
	{"uptime_seconds", RPC_INTEGER, 0, .summary = "the guest's"},
	{"interfaces", RPC_ARRAY, RPC_REQUIRED, .fields = interface_row, .summary = "its network interfaces, looked at every thirty seconds"},
	END,
};
static const struct rpc_field variables_fields[] = {
	END,
};
static const struct rpc_field set_variable_params[] = {
	VM_FIELD,
	{"name", RPC_STRING, RPC_REQUIRED, 1, VMDEF_VARIABLE_NAME_MAX, .summary = "without guestinfo. before it"},
	{"value", RPC_STRING, RPC_NULLABLE, .summary = "null or absent: the variable is taken away"},
	END,
};
/* clang-format on */

const struct rpc_method rpc_tools_methods[] = {
	{"vm.guest.tools",
	 "What open-vm-tools in the guest tell of it (\"tools\": \"vmware\" in the VM's definition): any program of the guest could say so.",
	 rpc_vm_only, RESULT(tools_fields, "the guest"), handle_tools},
	{"vm.guest.variables",
	 "The variables that guest tools read and set as guestinfo.NAME, of the running VM.",
	 rpc_vm_only, {"result", RPC_OBJECT, RPC_OPEN, .fields = variables_fields, .summary = "values by name"}, handle_variables},
	{"vm.guest.set_variable",
	 "Sets one of them until the VM ends, or takes it away.",
	 set_variable_params, NOTHING, handle_set_variable},
	{"vm.guest.sync_time",
	 "Has the guest's tools set its clock to the host's, once.",
	 rpc_vm_only, NOTHING, handle_sync_time},
	{.name = NULL},
};
