/* The methods of vm that ask its process: registers, code, GDB, network interfaces. */
#include "api/jsonrpc/methods.h"
#include "proto/vmdef.h"

/* ---- handlers ------------------------------------------------------------------------ */

void rpc_inspect(struct rpc_call *call, json_object *params, enum daemon_inspection what, double seconds)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *passed = NULL;

	if (!vm)
		return;
	if (json_object_deep_copy(params, &passed, NULL) < 0) {
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	json_object_object_del(passed, "vm");
	if (what == DAEMON_GDB)
		json_object_object_add(passed, "enable", json_object_new_boolean(1));
	daemon_inspect(call->conn->daemon, vm, what, passed, seconds, rpc_done, call);
}

static void handle_regs(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_REGS, 0);
}

static void handle_disassemble(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_DISASSEMBLE, 0);
}

static void handle_hot_blocks(struct rpc_call *call, json_object *params)
{
	json_object *seconds = NULL;

	json_object_object_get_ex(params, "seconds", &seconds);
	rpc_inspect(call, params, DAEMON_HOT_BLOCKS, seconds ? json_object_get_double(seconds) : 1);
}

static void handle_perf_map(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_PERF_MAP, 0);
}

static void handle_nic_set(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *passed = NULL;

	if (!vm)
		return;
	if (json_object_deep_copy(params, &passed, NULL) < 0) {
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	json_object_object_del(passed, "vm");
	daemon_nic_set(call->conn->daemon, vm, passed, rpc_done, call);
}

static void handle_gdb(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_GDB, 0);
}

/* clang-format off: tables, a row for each field and method */

static const struct rpc_field segment_fields[] = {
	{"selector", RPC_STRING, RPC_REQUIRED, .summary = "the selector"},
	{"base", RPC_STRING, RPC_REQUIRED, .summary = "linear address"},
	{"limit", RPC_STRING, RPC_REQUIRED, .summary = "last byte"},
	{"access", RPC_STRING, RPC_REQUIRED, .summary = "bits 8 to 23 of the descriptor's second dword"},
	END,
};
static const struct rpc_field segments_fields[] = {
	{"cs", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields}, {"ss", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields},
	{"ds", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields}, {"es", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields},
	{"fs", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields}, {"gs", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields},
	{"ldtr", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields}, {"tr", RPC_OBJECT, RPC_REQUIRED, .fields = segment_fields},
	END,
};
static const struct rpc_field table_fields[] = {
	{"base", RPC_STRING, RPC_REQUIRED, .summary = "linear address"},
	{"limit", RPC_STRING, RPC_REQUIRED, .summary = "last byte"},
	END,
};
static const struct rpc_field vcpu_fields[] = {
	{"vcpu", RPC_INTEGER, RPC_REQUIRED, .summary = "its number"},
	{"activity", RPC_STRING, RPC_REQUIRED, .summary = "running, halted, not started or shut down"},
	{"mode", RPC_STRING, RPC_REQUIRED, .summary = "real, virtual 8086, 16-bit, 32-bit, compatibility or 64-bit"},
	{"cpl", RPC_INTEGER, RPC_REQUIRED, .summary = "its privilege"},
	{"flags", RPC_STRING, RPC_REQUIRED, .summary = "the set bits of rflags by name"},
	{"general", RPC_OBJECT, RPC_REQUIRED, .summary = "rax to r15, rip, rflags: hexadecimal strings, as all values here"},
	{"segments", RPC_OBJECT, RPC_REQUIRED, .fields = segments_fields},
	{"gdtr", RPC_OBJECT, RPC_REQUIRED, .fields = table_fields},
	{"idtr", RPC_OBJECT, RPC_REQUIRED, .fields = table_fields},
	{"control", RPC_OBJECT, RPC_REQUIRED, .summary = "cr0, cr2, cr3, cr4, cr8, xcr0"},
	{"debug", RPC_OBJECT, RPC_REQUIRED, .summary = "dr0 to dr3, dr6, dr7"},
	{"msrs", RPC_OBJECT, RPC_REQUIRED, .summary = "model-specific registers by name"},
	{"vector", RPC_OBJECT, 0, .summary = "x87, SSE and AVX registers, the highest byte first; ymmNh is the upper half"},
	END,
};
static const struct rpc_field vcpu_row[] = {{"vcpu", RPC_OBJECT, 0, .fields = vcpu_fields}};
static const struct rpc_field regs_fields[] = {
	{"vcpus", RPC_ARRAY, RPC_REQUIRED, .fields = vcpu_row, .summary = "each vCPU at one moment"},
	END,
};
static const struct rpc_field line_fields[] = {
	{"address", RPC_STRING, RPC_REQUIRED, .summary = "where it is"},
	{"bytes", RPC_STRING, RPC_REQUIRED, .summary = "the instruction's"},
	{"text", RPC_STRING, RPC_REQUIRED, .summary = "the instruction"},
	{"guest", RPC_STRING, 0, .summary = "of translated code: the guest instruction it is for"},
	END,
};
static const struct rpc_field line_row[] = {{"line", RPC_OBJECT, 0, .fields = line_fields}};
static const struct rpc_field translation_fields[] = {
	{"address", RPC_STRING, RPC_REQUIRED, .summary = "of its first guest instruction"},
	{"physical", RPC_STRING, RPC_REQUIRED, .summary = "the same, guest-physical"},
	{"guest_bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "of guest code it stands for"},
	{"instructions", RPC_INTEGER, RPC_REQUIRED, .summary = "and how many instructions"},
	{"bits", RPC_INTEGER, RPC_REQUIRED, .summary = "16, 32 or 64"},
	{"cpl", RPC_INTEGER, RPC_REQUIRED, .summary = "the privilege it is for"},
	{"host_bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "its own size"},
	{"code", RPC_ARRAY, RPC_REQUIRED, .fields = line_row, .summary = "host code, slow paths behind it"},
	END,
};
static const struct rpc_field translation_row[] = {{"translation", RPC_OBJECT, 0, .fields = translation_fields}};
static const struct rpc_field disassembly_fields[] = {
	{"address", RPC_STRING, RPC_REQUIRED, .summary = "linear"},
	{"physical", RPC_STRING, RPC_REQUIRED, .summary = "guest-physical"},
	{"bits", RPC_INTEGER, RPC_REQUIRED, .summary = "16, 32 or 64"},
	{"code", RPC_ARRAY, RPC_REQUIRED, .fields = line_row, .summary = "the guest's instructions"},
	{"translations", RPC_ARRAY, RPC_REQUIRED, .fields = translation_row,
	 .summary = "translations of some of these bytes; one page's at most, eight at most"},
	END,
};
static const struct rpc_field block_fields[] = {
	{"address", RPC_STRING, RPC_REQUIRED, .summary = "linear"},
	{"physical", RPC_STRING, RPC_REQUIRED, .summary = "guest-physical"},
	{"cpl", RPC_INTEGER, RPC_REQUIRED, .summary = "its privilege"},
	{"bits", RPC_INTEGER, RPC_REQUIRED, .summary = "16, 32 or 64"},
	{"samples", RPC_INTEGER, RPC_REQUIRED, .summary = "that found a vCPU there"},
	{"share", RPC_NUMBER, RPC_REQUIRED, .summary = "of all samples but idle ones"},
	{"bytes", RPC_STRING, RPC_REQUIRED, .summary = "its guest code as it is now"},
	{"code", RPC_ARRAY, RPC_REQUIRED, .fields = line_row, .summary = "its instructions"},
	END,
};
static const struct rpc_field block_row[] = {{"block", RPC_OBJECT, 0, .fields = block_fields}};
static const struct rpc_field hot_fields[] = {
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "how long it took"},
	{"samples", RPC_INTEGER, RPC_REQUIRED, .summary = "of vCPUs at work"},
	{"where", RPC_OBJECT, RPC_REQUIRED, .fields = rpc_where_fields, .summary = "samples by where they fell"},
	{"helpers", RPC_OBJECT, RPC_REQUIRED, .summary = "those in helpers, by instruction"},
	{"distinct_blocks", RPC_INTEGER, RPC_REQUIRED, .summary = "that were seen"},
	{"blocks", RPC_ARRAY, RPC_REQUIRED, .fields = block_row, .summary = "the hottest ones"},
	END,
};
static const struct rpc_field perf_fields[] = {
	{"path", RPC_STRING, RPC_REQUIRED, .summary = "the file; perf looks for it as /tmp/perf-PID.map"},
	{"pid", RPC_INTEGER, RPC_REQUIRED, .summary = "of the VM's process"},
	{"usable", RPC_BOOLEAN, RPC_REQUIRED, .summary = "perf will look for it: the VM's definition says perf_map"},
	END,
};
static const struct rpc_field gdb_fields[] = {
	{"path", RPC_STRING, RPC_REQUIRED, .summary = "the socket, for GDB's target remote on this host"},
	{"enabled", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it listens"},
	{"connected", RPC_BOOLEAN, RPC_REQUIRED, .summary = "a debugger is attached"},
	END,
};
static const struct rpc_field regs_params[] = {
	VM_FIELD,
	{"vcpu", RPC_INTEGER, 0, 0, VMDEF_VCPUS_MAX - 1, .summary = "only this vCPU's"},
	{"vector", RPC_BOOLEAN, 0, .summary = "x87, SSE and AVX registers too"},
	END,
};
static const struct rpc_field disassemble_params[] = {
	VM_FIELD,
	{"address", RPC_STRING, 0, 1, 18, .summary = "linear, in hexadecimal; where the vCPU is when absent"},
	{"count", RPC_INTEGER, 0, 1, 256, .summary = "instructions (default: 16)"},
	{"vcpu", RPC_INTEGER, 0, 0, VMDEF_VCPUS_MAX - 1, .summary = "whose page tables and mode (default: 0)"},
	{"bits", RPC_INTEGER, 0, 16, 64, .summary = "16, 32 or 64, instead of the vCPU's mode"},
	END,
};
static const struct rpc_field hot_params[] = {
	VM_FIELD,
	{"seconds", RPC_NUMBER, 0, 0.01, 60, .summary = "for how long to sample, a thousand times a second (default: 1)"},
	{"top", RPC_INTEGER, 0, 1, 1000, .summary = "how many blocks (default: 10)"},
	END,
};
static const char *const link_states[] = {"up", "down", NULL};
static const struct rpc_field nic_set_params[] = {
	VM_FIELD,
	{"nic", RPC_INTEGER, RPC_REQUIRED, .min = 0, .max = VMDEF_NICS_MAX - 1, .summary = "which one, from 0"},
	{"link", RPC_STRING, 0, .values = link_states, .summary = "plugs the cable in or pulls it"},
	{"receive_kib", RPC_INTEGER, 0, .min = 0, .max = VMDEF_LIMIT_KIB_MAX, .summary = "KiB a second to the guest; 0: no limit"},
	{"receive_burst_kib", RPC_INTEGER, 0, .min = 0, .max = VMDEF_LIMIT_KIB_MAX, .summary = "KiB at once to the guest; 0: a fitting number"},
	{"transmit_kib", RPC_INTEGER, 0, .min = 0, .max = VMDEF_LIMIT_KIB_MAX, .summary = "KiB a second from the guest; 0: no limit"},
	{"transmit_burst_kib", RPC_INTEGER, 0, .min = 0, .max = VMDEF_LIMIT_KIB_MAX, .summary = "KiB at once from the guest; 0: a fitting number"},
	END,
};
static const char *const gdb_architectures[] = {"auto", "i8086", "i386", "x86-64", NULL};
static const struct rpc_field gdb_params[] = {
	VM_FIELD,
	{"architecture", RPC_STRING, 0, .values = gdb_architectures,
	 .summary = "what GDB is told from the next connection on; auto goes by the first vCPU's mode then"},
	END,
};

const struct rpc_method rpc_inspect_methods[] = {
	{"vm.regs",
	 "Registers of a VM's vCPUs, which stop for a moment.",
	 regs_params, RESULT(regs_fields, "the registers"), handle_regs},
	{"vm.disassemble",
	 "Guest code as a vCPU sees it, with its translation; the vCPUs stop for a moment.",
	 disassemble_params, RESULT(disassembly_fields, "the code"), handle_disassemble},
	{"vm.hot_blocks",
	 "Samples where a VM's vCPUs are, and shows the guest code that they were in most.",
	 hot_params, RESULT(hot_fields, "where the time went"), handle_hot_blocks},
	{"vm.perf_map",
	 "Writes the names of all present translations for perf(1), which tells by them which guest code ran.",
	 rpc_vm_only, RESULT(perf_fields, "the file"), handle_perf_map},
	{"vm.nic_set",
	 "Changes a running VM's network interface until the VM ends: its cable, its limits.",
	 nic_set_params, NOTHING, handle_nic_set},
	{"vm.gdb",
	 "Opens the VM's socket for GDB (target remote), which then stops and continues it.",
	 gdb_params, RESULT(gdb_fields, "where it is"), handle_gdb},
	{.name = NULL},
};
