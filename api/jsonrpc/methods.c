/* All methods, from the tables of the name spaces, and what those share. */
#include "api/jsonrpc/methods.h"

#include <string.h>

/* clang-format off: tables, a row for each field */

const char *const rpc_mode_values[] = {"bt", "hvm", "pv", NULL};
const char *const rpc_state_values[] = {"defined",   "starting", "running", "paused", "shutdown",
					   "destroyed", "crashed",  "failed",  NULL};
const struct rpc_field rpc_no_fields[] = {END};
const struct rpc_field rpc_vm_only[] = {VM_FIELD, END};
static const struct rpc_field predicted_fields[] = {
	{"cost", RPC_NUMBER, RPC_REQUIRED, .summary = "times the time that its work would take natively"},
	{"confidence", RPC_NUMBER, RPC_REQUIRED, .summary = "from 0 to 1"},
	{"correction", RPC_NUMBER, RPC_REQUIRED, .summary = "what outcomes have taught about this mode; part of cost"},
	END,
};

static const struct rpc_field candidate_fields[] = {
	{"mode", RPC_STRING, RPC_REQUIRED, .values = rpc_mode_values, .summary = "the mode"},
	{"variant", RPC_STRING, 0, .summary = "what the mode is on this host: bt, hvm/ept, hvm/npt, hvm/shadow, hvm/software"},
	{"verdict", RPC_STRING, RPC_REQUIRED, .summary = "chosen, possible or ruled out"},
	{"predicted", RPC_OBJECT, RPC_NULLABLE, .fields = predicted_fields,
	 .summary = "null where nothing was measured"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why"},
	{"remedy", RPC_STRING, 0, .summary = "what would change the verdict"},
	END,
};

static const struct rpc_field candidate[] = {{"candidate", RPC_OBJECT, 0, .fields = candidate_fields}};

const struct rpc_field rpc_text_item[] = {{"text", RPC_STRING, .summary = "text"}};

static const struct rpc_field workload_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "compute, memory, syscall, process, io, mixed, learned or weights"},
	{"source", RPC_STRING, RPC_REQUIRED, .summary = "where this comes from"},
	{"certainty", RPC_NUMBER, RPC_REQUIRED, .summary = "from 0 to 1"},
	{"shares", RPC_OBJECT, RPC_REQUIRED, .summary = "of native time, by measure; their sum is 1"},
	END,
};

const struct rpc_field rpc_decision_fields[] = {
	{"time", RPC_NUMBER, 0, .summary = "seconds since the epoch"},
	{"wish", RPC_STRING, RPC_REQUIRED, .summary = "the definition's mode"},
	{"mode", RPC_STRING, RPC_REQUIRED | RPC_NULLABLE, .summary = "the mode chosen; null when none is possible"},
	{"variant", RPC_STRING, RPC_NULLABLE, .summary = "what that mode is on this host"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "the decision in one sentence"},
	{"candidates", RPC_ARRAY, RPC_REQUIRED, .fields = candidate, .summary = "each mode, and why"},
	{"constraints", RPC_ARRAY, 0, .summary = "what the definition demands: key, value, means"},
	{"would_change", RPC_ARRAY, RPC_REQUIRED, .fields = rpc_text_item, .summary = "what would make the answer another"},
	{"workload", RPC_OBJECT, 0, .fields = workload_fields, .summary = "what it is thought to do"},
	{"predicted_boot_seconds", RPC_NUMBER, RPC_NULLABLE,
	 .summary = "until user space, from earlier runs; null when it never got there"},
	{"guest", RPC_OBJECT, RPC_REQUIRED, .summary = "what is known of the image"},
	END,
};

const struct rpc_field rpc_where_fields[] = {
	{"idle", RPC_INTEGER, 0, .summary = "asleep, or stopped"},
	{"code", RPC_INTEGER, 0, .summary = "in translated code"},
	{"memory", RPC_INTEGER, 0, .summary = "in the slow path of an access"},
	{"helper", RPC_INTEGER, 0, .summary = "in an instruction's helper"},
	{"lookup", RPC_INTEGER, 0, .summary = "finding the next block"},
	{"translate", RPC_INTEGER, 0, .summary = "translating"},
	{"device", RPC_INTEGER, 0, .summary = "in a device's model"},
	{"run_loop", RPC_INTEGER, 0, .summary = "in the run loop, events' delivery among it"},
	END,
};

/* clang-format on */

struct vm *rpc_find_vm(struct rpc_call *call, json_object *params)
{
	const char *name = rpc_string(params, "vm");
	struct vm *vm = daemon_find(call->conn->daemon, name);

	if (!vm)
		rpc_fail(call, rpc_error_code(DAEMON_NOT_FOUND), "there is no VM \"%.200s\"; vm.list names them", name);
	return vm;
}

bool rpc_maybe_vm(struct rpc_call *call, json_object *params, struct vm **ret_vm)
{
	*ret_vm = NULL;
	if (!json_object_object_get_ex(params, "vm", NULL))
		return true;
	*ret_vm = rpc_find_vm(call, params);
	return *ret_vm != NULL;
}

json_object *rpc_definition(json_object *params)
{
	json_object *definition = NULL;

	json_object_object_get_ex(params, "definition", &definition);
	return definition;
}

static const struct rpc_method *const name_spaces[] = {
	rpc_host_methods, rpc_vm_methods, rpc_guest_methods, rpc_tools_methods, rpc_inspect_methods, rpc_device_methods, rpc_screen_methods, rpc_net_methods,
	rpc_stream_methods,
	rpc_image_methods,
};

const struct rpc_method *rpc_method_at(size_t index)
{
	for (size_t i = 0; i < sizeof(name_spaces) / sizeof(name_spaces[0]); i++)
		for (const struct rpc_method *method = name_spaces[i]; method->name; method++)
			if (index-- == 0)
				return method;
	return NULL;
}

const struct rpc_method *rpc_method_find(const char *name)
{
	const struct rpc_method *method;

	for (size_t i = 0; (method = rpc_method_at(i)); i++)
		if (!strcmp(method->name, name))
			return method;
	return NULL;
}
