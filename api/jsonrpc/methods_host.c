/* The methods of daemon, host, modes, policy and rpc. */
#include "api/jsonrpc/methods.h"

/* ---- handlers ------------------------------------------------------------------------ */

static void handle_version(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_version(call->conn->daemon));
}

static void handle_host(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_host(call->conn->daemon));
}

static void handle_calibrate(struct rpc_call *call, json_object *params)
{
	daemon_calibrate(call->conn->daemon, rpc_done, call);
}

static void handle_modes(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_modes(call->conn->daemon));
}

static void handle_compare(struct rpc_call *call, json_object *params)
{
	struct vm *vm;

	if (rpc_maybe_vm(call, params, &vm))
		rpc_reply(call, daemon_compare(call->conn->daemon, vm));
}

static void handle_explain(struct rpc_call *call, json_object *params)
{
	json_object *definition = rpc_definition(params);
	bool by_vm = json_object_object_get_ex(params, "vm", NULL);
	struct vm *vm;

	if (!!definition == by_vm) {
		rpc_fail(call, RPC_INVALID_PARAMS, "give exactly one of \"definition\" and \"vm\"");
		return;
	}
	if (definition) {
		daemon_explain(call->conn->daemon, definition, rpc_done, call);
		return;
	}
	vm = rpc_find_vm(call, params);
	if (vm)
		daemon_explain_vm(call->conn->daemon, vm, rpc_done, call);
}

static void handle_policy_history(struct rpc_call *call, json_object *params)
{
	json_object *limit = NULL;
	struct vm *vm;

	json_object_object_get_ex(params, "limit", &limit);
	if (rpc_maybe_vm(call, params, &vm))
		daemon_policy_history(call->conn->daemon, vm, limit ? (unsigned)json_object_get_int(limit) : 100, rpc_done,
				      call);
}

static void handle_policy_plan(struct rpc_call *call, json_object *params)
{
	json_object *hosts = NULL, *vms = NULL;

	json_object_object_get_ex(params, "hosts", &hosts);
	json_object_object_get_ex(params, "vms", &vms);
	daemon_plan(call->conn->daemon, hosts, vms, rpc_done, call);
}

static void handle_policy_reset(struct rpc_call *call, json_object *params)
{
	struct vm *vm;

	if (rpc_maybe_vm(call, params, &vm))
		daemon_policy_reset(call->conn->daemon, vm, rpc_done, call);
}

static void handle_discover(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, rpc_openrpc());
}

/* clang-format off: tables, a row for each field and method */

static const struct rpc_field fact_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "which fact"},
	{"value", RPC_ANY, RPC_REQUIRED, .summary = "what was found; null when it could not be learned"},
	{"source", RPC_STRING, RPC_REQUIRED, .summary = "where it was read"},
	{"remedy", RPC_STRING, 0, .summary = "what the user can do about it, where something is missing"},
	END,
};
static const struct rpc_field fact[] = {{"fact", RPC_OBJECT, 0, .fields = fact_fields}};
static const struct rpc_field mode_fields[] = {
	{"mode", RPC_STRING, RPC_REQUIRED, .values = rpc_mode_values, .summary = "the mode"},
	{"variant", RPC_STRING, 0, .summary = "what it is on this host, such as hvm/ept or hvm/software"},
	{"technique", RPC_STRING, RPC_REQUIRED, .summary = "what it is, in a few words"},
	{"in_build", RPC_BOOLEAN, RPC_REQUIRED, .summary = "whether this version has an engine for it"},
	{"usable", RPC_BOOLEAN, RPC_REQUIRED, .summary = "whether it can run VMs on this host now"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why it is or is not usable"},
	{"remedy", RPC_STRING, 0, .summary = "what would make it usable"},
	END,
};
static const struct rpc_field mode_row[] = {{"mode", RPC_OBJECT, 0, .fields = mode_fields}};
static const struct rpc_field cell_fields[] = {
	{"text", RPC_STRING, RPC_REQUIRED, .summary = "the general fact"},
	{"variants", RPC_ARRAY, 0, .summary = "where the mode's variants differ: variant, text, here (this host has it), source"},
	{"host", RPC_STRING, 0, .summary = "what holds, and what was measured, on this host"},
	{"holds", RPC_BOOLEAN, 0, .summary = "whether it holds for the VM that was named"},
	{"guest", RPC_STRING, 0, .summary = "what holds for the VM that was named"},
	{"source", RPC_STRING, RPC_REQUIRED, .summary = "where the statement comes from"},
	END,
};
static const struct rpc_field compare_row_fields[] = {
	{"aspect", RPC_STRING, RPC_REQUIRED, .summary = "what is compared"},
	{"bt", RPC_OBJECT, RPC_REQUIRED, .fields = cell_fields},
	{"hvm", RPC_OBJECT, RPC_REQUIRED, .fields = cell_fields},
	{"pv", RPC_OBJECT, RPC_REQUIRED, .fields = cell_fields},
	END,
};
static const struct rpc_field compare_row[] = {{"row", RPC_OBJECT, 0, .fields = compare_row_fields}};
static const struct rpc_field version_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "trivisord"},
	{"version", RPC_STRING, RPC_REQUIRED, .summary = "of the program"},
	{"control_protocol", RPC_INTEGER, RPC_REQUIRED, .summary = "version of the protocol to trivisor-vm"},
	{"pid", RPC_INTEGER, RPC_REQUIRED, .summary = "the daemon's process"},
	{"uid", RPC_INTEGER, RPC_REQUIRED, .summary = "its user"},
	{"started", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"socket", RPC_STRING, RPC_REQUIRED, .summary = "this socket"},
	{"state_dir", RPC_STRING, RPC_REQUIRED, .summary = "where definitions are kept"},
	{"runtime_dir", RPC_STRING, RPC_REQUIRED, .summary = "where running VMs have their sockets"},
	{"store_problem", RPC_STRING, RPC_REQUIRED | RPC_NULLABLE,
	 .summary = "why definitions cannot be written at present"},
	END,
};
static const struct rpc_field calibration_key_fields[] = {
	{"cpu", RPC_STRING, RPC_REQUIRED, .summary = "the processor's model"},
	{"kernel", RPC_STRING, RPC_REQUIRED, .summary = "the host's kernel"},
	{"version", RPC_STRING, RPC_REQUIRED, .summary = "of trivisor"},
	END,
};
static const struct rpc_field figures_fields[] = {
	{"measured", RPC_BOOLEAN, 0, .summary = "false: it was not even tried, and problem says why"},
	{"time", RPC_NUMBER, RPC_REQUIRED, .summary = "when, in seconds since the epoch"},
	{"start_ms", RPC_NUMBER, 0, .summary = "from starting its process to the guest's first word"},
	{"problem", RPC_STRING, 0, .summary = "why nothing could be measured"},
	{"figures", RPC_OBJECT, RPC_REQUIRED,
	 .summary = "for each measure: ns of one operation (the least of all rounds), median_ns, rounds, and times_native where "
		    "it is the same code; or cannot_execute and why"},
	END,
};
static const struct rpc_field calibration_fields[] = {
	{"format", RPC_INTEGER, RPC_REQUIRED, .summary = "of this object"},
	{"key", RPC_OBJECT, RPC_REQUIRED, .fields = calibration_key_fields,
	 .summary = "what the figures hold for; measured again when one of these changes"},
	{"complete", RPC_BOOLEAN, RPC_REQUIRED, .summary = "nothing was left out for want of time"},
	{"time", RPC_NUMBER, RPC_REQUIRED, .summary = "when it ended"},
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "how long it took"},
	{"native", RPC_OBJECT, RPC_REQUIRED, .fields = figures_fields, .summary = "the same code as a plain process"},
	{"modes", RPC_OBJECT, RPC_REQUIRED, .summary = "the same for each mode"},
	END,
};
static const struct rpc_field host_fields[] = {
	{"facts", RPC_ARRAY, RPC_REQUIRED, .fields = fact, .summary = "each with its source"},
	{"modes", RPC_ARRAY, RPC_REQUIRED, .fields = mode_row, .summary = "what follows from them"},
	{"calibration", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE, .fields = calibration_fields,
	 .summary = "what was measured here; null when nothing was"},
	{"calibrating", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it is being measured right now"},
	END,
};
static const struct rpc_field explain_params[] = {
	{"definition", RPC_DEFINITION, 0, .summary = "a VM's definition"},
	{"vm", RPC_STRING, 0, 1, 200, .summary = "or a VM's name or UUID"},
	END,
};
static const struct rpc_field policy_history_params[] = {
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	{"limit", RPC_INTEGER, 0, 1, 10000, .summary = "how many, newest first (default: 100)"},
	END,
};
static const struct rpc_field capacity_fields[] = {
	{"memory_mib", RPC_NUMBER, 0, 0, 1e12, .summary = "for VMs (default: the host's memory)"},
	{"vcpus", RPC_NUMBER, 0, 0, 1e9, .summary = "virtual processors (default: four for each of the host's)"},
	END,
};
static const struct rpc_field plan_host_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, 1, 200, .summary = "unique among them"},
	{"facts", RPC_ARRAY, RPC_REQUIRED, .summary = "as host.probe answers them"},
	{"calibration", RPC_OBJECT, RPC_NULLABLE, .summary = "as host.probe answers it; without one, the others' mean"},
	{"group", RPC_STRING, 0, 1, 200, .summary = "hosts between which VMs can move"},
	{"capacity", RPC_OBJECT, 0, .fields = capacity_fields, .summary = "what VMs may use"},
	END,
};
static const struct rpc_field plan_host[] = {{"host", RPC_OBJECT, RPC_OPEN, .fields = plan_host_fields}};
static const struct rpc_field plan_vm_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, 1, 200, .summary = "unique among them"},
	{"memory_mib", RPC_NUMBER, 0, 1, 1e9, .summary = "guest RAM (default: 512)"},
	{"vcpus", RPC_NUMBER, 0, 1, 1e6, .summary = "virtual processors (default: 1)"},
	{"workload", RPC_STRING, 0, .summary = "as in a definition"},
	{"policy", RPC_OBJECT, 0, .summary = "as in a definition"},
	{"affinity", RPC_STRING, 0, 1, 200, .summary = "VMs with the same word go to one host"},
	{"anti_affinity", RPC_STRING, 0, 1, 200, .summary = "VMs with the same word go to different hosts"},
	{"migratable_in", RPC_STRING, 0, 1, 200, .summary = "to hosts of this group, in a mode that all of them have"},
	END,
};
static const struct rpc_field plan_vm[] = {{"vm", RPC_OBJECT, 0, .fields = plan_vm_fields}};
static const struct rpc_field plan_params[] = {
	{"hosts", RPC_ARRAY, RPC_REQUIRED, .fields = plan_host, .summary = "at most 4096"},
	{"vms", RPC_ARRAY, RPC_REQUIRED, .fields = plan_vm, .summary = "at most 65536"},
	END,
};
static const struct rpc_field plan_fields[] = {
	{"placements", RPC_ARRAY, RPC_REQUIRED, .summary = "vm, host, mode, variant, cost (times native; null where nothing in the fleet was measured)"},
	{"unplaced", RPC_ARRAY, RPC_REQUIRED, .summary = "vm, reason"},
	{"hosts", RPC_ARRAY, RPC_REQUIRED, .summary = "host, vms, memory_left_mib, vcpus_left, measured"},
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "that planning took"},
	END,
};
static const struct rpc_field maybe_vm_params[] = {
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	END,
};
static const struct rpc_field statistics_fields[] = {
	{"predictions", RPC_INTEGER, RPC_REQUIRED, .summary = "that had an outcome"},
	{"mean_error", RPC_NUMBER, RPC_REQUIRED | RPC_NULLABLE,
	 .summary = "how far they were off: 0.1 is 10 % too high or too low"},
	{"corrections", RPC_OBJECT, RPC_REQUIRED,
	 .summary = "for each mode: factor by which predictions are multiplied, outcomes that made it"},
	END,
};
static const struct rpc_field policy_history_fields[] = {
	{"statistics", RPC_OBJECT, RPC_REQUIRED, .fields = statistics_fields, .summary = "of all runs since a reset"},
	{"outcomes", RPC_ARRAY, RPC_REQUIRED,
	 .summary = "time, uuid, name, mode, predicted_cost, predicted_boot_seconds, boot_seconds, error"},
	END,
};

const struct rpc_method rpc_host_methods[] = {
	{"daemon.version",
	 "Version, user and directories of the daemon.",
	 NULL, RESULT(version_fields, "about the daemon"), handle_version},
	{"host.probe",
	 "What this host offers for running VMs; each fact with its source.",
	 NULL, RESULT(host_fields, "facts and what follows"), handle_host},
	{"host.calibrate",
	 "Measures this host with a small guest in every mode that could run, and natively. Takes seconds.",
	 NULL, RESULT(calibration_fields, "the figures"), handle_calibrate},
	{"modes.list",
	 "The modes, and whether this host can use them.",
	 NULL, ROWS(mode_row, "one entry for each mode"), handle_modes},
	{"modes.compare",
	 "The modes side by side: technique, compatibility, performance, users, independence of the guest.",
	 maybe_vm_params, ROWS(compare_row, "one row for each aspect"), handle_compare},
	{"policy.explain",
	 "Which mode a VM would get, and why; nothing is started.",
	 explain_params, RESULT(rpc_decision_fields, "the decision"), handle_explain},
	{"policy.history",
	 "How good predictions were: a row for each run that reached user space, and what was learned.",
	 policy_history_params, RESULT(policy_history_fields, "statistics and outcomes"), handle_policy_history},
	{"policy.plan",
	 "Places many VMs on many hosts, with a mode for each. Hosts are given as host.probe answers them.",
	 plan_params, RESULT(plan_fields, "the plan"), handle_policy_plan},
	{"policy.reset",
	 "Forgets what was learned of one VM, or, without one, of all, with the corrections.",
	 maybe_vm_params, NOTHING, handle_policy_reset},
	{"rpc.discover",
	 "This API as an OpenRPC document.",
	 NULL, {"result", RPC_OBJECT, 0, .summary = "OpenRPC 1.2.6"}, handle_discover},
	{.name = NULL},
};
