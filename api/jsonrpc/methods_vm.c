/* The methods of vm: definitions, lifecycle, counters. */
#include "api/jsonrpc/methods.h"
#include "proto/vmdef.h"

#include <string.h>

/* ---- handlers ------------------------------------------------------------------------ */

static void handle_define(struct rpc_call *call, json_object *params)
{
	daemon_define(call->conn->daemon, rpc_definition(params), rpc_done, call);
}

static void handle_list(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_list(call->conn->daemon));
}

static void handle_get(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);

	if (vm)
		rpc_reply(call, daemon_get(call->conn->daemon, vm));
}

static struct daemon_start start_options(json_object *params)
{
	return (struct daemon_start){
		.no_reboot = rpc_boolean(params, "no_reboot", false),
		.paused = rpc_boolean(params, "paused", false),
		.mode = rpc_string(params, "mode"),
	};
}

static void handle_start(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	struct daemon_start options = start_options(params);

	if (vm)
		daemon_start_vm(call->conn->daemon, vm, &options, rpc_done, call);
}

static void handle_run(struct rpc_call *call, json_object *params)
{
	struct rpc_conn *conn = call->conn;
	struct daemon_start options = start_options(params);
	bool ends_with_client = rpc_boolean(params, "ends_with_client", true);

	if (ends_with_client && !conn->owner)
		conn->owner = daemon_owner_create(conn->daemon);
	if (ends_with_client && !conn->owner) {
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	daemon_run(conn->daemon, rpc_definition(params), &options, ends_with_client ? conn->owner : NULL, rpc_done,
		   call);
}

static void handle_claim(struct rpc_call *call, json_object *params)
{
	struct rpc_conn *conn = call->conn;
	struct vm *vm = rpc_find_vm(call, params);

	if (!vm)
		return;
	if (!conn->owner)
		conn->owner = daemon_owner_create(conn->daemon);
	if (conn->owner)
		daemon_claim(conn->daemon, vm, conn->owner, rpc_done, call);
	else
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
}

static void with_vm(struct rpc_call *call, json_object *params,
		    void (*act)(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque))
{
	struct vm *vm = rpc_find_vm(call, params);

	if (vm)
		act(call->conn->daemon, vm, rpc_done, call);
}

static void handle_undefine(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_undefine);
}

static void handle_shutdown(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	const char *by = rpc_string(params, "by");

	if (vm && by)
		daemon_guest_end(call->conn->daemon, vm, "powerdown", !strcmp(by, "any"), rpc_done, call);
	else if (vm)
		daemon_shutdown(call->conn->daemon, vm, rpc_done, call);
}

static void handle_destroy(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_destroy_vm);
}

static void handle_reboot(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_reboot);
}

static void handle_reset(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_reset);
}

static void handle_nmi(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_nmi);
}

static void handle_pause(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_pause);
}

static void handle_resume(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_resume);
}

static void handle_stats(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_stats);
}

static void cancel_wait(struct rpc_call *call)
{
	daemon_wait_cancel(call->cancel_data);
}

static void wait_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct rpc_call *call = opaque;

	call->cancel = NULL;
	rpc_done(call, error, result);
}

static void handle_wait(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *timeout = NULL;
	struct daemon_wait *wait;

	if (!vm)
		return;
	json_object_object_get_ex(params, "timeout", &timeout);
	wait = daemon_wait(call->conn->daemon, vm, timeout ? json_object_get_double(timeout) : -1, wait_done, call);
	if (wait) {
		call->cancel = cancel_wait;
		call->cancel_data = wait;
	}
}

/* clang-format off: tables, a row for each field and method */

static const struct rpc_field started_fields[] = {
	UUID_FIELD,
	NAME_FIELD,
	STATE_FIELD,
	{"mode", RPC_STRING, RPC_REQUIRED, .values = rpc_mode_values, .summary = "the mode it runs in"},
	{"mode_reason", RPC_STRING, RPC_REQUIRED, .summary = "why this mode"},
	{"pid", RPC_INTEGER, RPC_REQUIRED, 1, 4194304, .summary = "its trivisor-vm process"},
	{"console", RPC_STRING, RPC_REQUIRED, .summary = "path of its console socket (raw bytes)"},
	END,
};
static const struct rpc_field summary_fields[] = {
	UUID_FIELD,
	NAME_FIELD,
	STATE_FIELD,
	{"mode", RPC_STRING, RPC_REQUIRED, .summary = "the mode it runs in, else the definition's"},
	{"memory_mib", RPC_INTEGER, RPC_REQUIRED, .summary = "guest RAM"},
	{"vcpus", RPC_INTEGER, RPC_REQUIRED, .summary = "virtual processors"},
	{"transient", RPC_BOOLEAN, RPC_REQUIRED, .summary = "gone when it ends"},
	{"pid", RPC_INTEGER, RPC_REQUIRED | RPC_NULLABLE, .summary = "its process, while it has one"},
	END,
};
static const struct rpc_field summary_row[] = {{"vm", RPC_OBJECT, 0, .fields = summary_fields}};
static const struct rpc_field masked_fields[] = {
	{"feature", RPC_STRING, RPC_REQUIRED, .summary = "by Linux's name"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why the guest does not get it"},
	END,
};
static const struct rpc_field masked_row[] = {{"masked", RPC_OBJECT, 0, .fields = masked_fields}};
static const struct rpc_field cpu_model_fields[] = {
	{"vendor", RPC_STRING, RPC_REQUIRED, .summary = "as CPUID says it"},
	{"family", RPC_INTEGER, RPC_REQUIRED, .summary = "with the extended family"},
	{"model", RPC_INTEGER, RPC_REQUIRED, .summary = "with the extended model"},
	{"stepping", RPC_INTEGER, RPC_REQUIRED, .summary = "the stepping"},
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "the processor's name"},
	{"features", RPC_ARRAY, RPC_REQUIRED, .fields = rpc_text_item, .summary = "what the guest sees, by Linux's names"},
	{"masked", RPC_ARRAY, RPC_REQUIRED, .fields = masked_row, .summary = "what the host has and the guest does not get"},
	END,
};
static const struct rpc_field process_fields[] = {
	{"pid", RPC_INTEGER, RPC_REQUIRED, .summary = "of trivisor-vm"},
	{"mode", RPC_STRING, RPC_REQUIRED, .values = rpc_mode_values, .summary = "the mode it runs in"},
	{"mode_reason", RPC_STRING, RPC_REQUIRED, .summary = "why this mode"},
	{"dir", RPC_STRING, RPC_REQUIRED, .summary = "its directory: definition, sockets, log"},
	{"console", RPC_STRING, RPC_REQUIRED, .summary = "path of its console socket"},
	{"vsock", RPC_STRING, RPC_NULLABLE, .summary = "path of its vsock socket: \"CONNECT PORT\\n\" reaches a port of the guest; null without one"},
	{"started", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"adopted", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it was found running when this daemon started"},
	{"agent", RPC_BOOLEAN, RPC_REQUIRED, .summary = "a guest agent has its channel open: vm.guest.* may be answered"},
	{"memory_kib", RPC_INTEGER, 0, .summary = "what the guest has of its memory, as its balloon says"},
	{"connected", RPC_BOOLEAN, RPC_REQUIRED, .summary = "its control socket answers"},
	{"cpu", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE, .fields = cpu_model_fields, .summary = "the processor its guest sees"},
	END,
};
static const struct rpc_field result_fields[] = {
	STATE_FIELD,
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "how it ended, in words"},
	{"exit_code", RPC_INTEGER, RPC_NULLABLE, .summary = "of trivisor-vm; null when not known"},
	END,
};
static const struct rpc_field get_fields[] = {
	UUID_FIELD,
	NAME_FIELD,
	STATE_FIELD,
	{"transient", RPC_BOOLEAN, RPC_REQUIRED, .summary = "gone when it ends"},
	{"created", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"definition", RPC_DEFINITION, RPC_REQUIRED, .summary = "as stored"},
	{"process", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE, .fields = process_fields, .summary = "while it has one"},
	{"decision", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE, .fields = rpc_decision_fields,
	 .summary = "the policy's last"},
	{"result", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE | RPC_OPEN, .fields = result_fields,
	 .summary = "of its last run"},
	END,
};
static const struct rpc_field identity_fields[] = {UUID_FIELD, NAME_FIELD, END};
static const struct rpc_field state_fields[] = {UUID_FIELD, STATE_FIELD, END};
/* Counters differ from engine to engine: all optional, and there may be more. */
static const struct rpc_field engine_fields[] = {
	{"tbs", RPC_INTEGER, 0, .summary = "blocks translated (bt)"},
	{"tb_insns", RPC_INTEGER, 0, .summary = "guest instructions translated, each time they were"},
	{"links", RPC_INTEGER, 0, .summary = "jumps between blocks that went through the dispatcher, which then linked them if it could"},
	{"cache_flush", RPC_INTEGER, 0, .summary = "times the whole code cache was emptied because it was full, or ROM was mapped"},
	{"cache_flush_map", RPC_INTEGER, 0, .summary = "of these, because memory's map or too much of it changed (DMA into code, firmware's shadow RAM)"},
	{"slots_given_up", RPC_INTEGER, 0, .summary = "memory operands that go to the TLB at once from now on, since they keep changing page"},
	{"loops", RPC_INTEGER, 0, .summary = "loops translated with their checks in front"},
	{"slow_fill", RPC_INTEGER, 0, .summary = "accesses of translated code that missed the TLB and filled an entry"},
	{"slow_mmio", RPC_INTEGER, 0, .summary = "accesses to devices or ROM"},
	{"slow_code", RPC_INTEGER, 0, .summary = "stores to pages that hold translated code"},
	{"slow_across", RPC_INTEGER, 0, .summary = "accesses across two pages"},
	{"slow_watch", RPC_INTEGER, 0, .summary = "accesses to pages with a watchpoint"},
	{"tlb_flush", RPC_INTEGER, 0, .summary = "TLB flushes: of a CR3 write, or of everything"},
	{"tlb_flush_all", RPC_INTEGER, 0, .summary = "of these, of everything: changes of CR0, CR4, memory's map, debug points"},
	{"tlb_flush_page", RPC_INTEGER, 0, .summary = "pages flushed by invlpg"},
	{"pcid_hits", RPC_INTEGER, 0, .summary = "address spaces that were still in the TLB when the guest came back to them"},
	{"walks", RPC_INTEGER, 0, .summary = "walks of guest page tables"},
	{"hypercalls", RPC_INTEGER, 0, .summary = "KVM's hypercalls"},
	{"pv_flushes", RPC_INTEGER, 0, .summary = "TLB flushes that waited for a vCPU which did not run"},
	{"pv_eois", RPC_INTEGER, 0, .summary = "interrupts that a guest ended by a bit in its memory"},
	{"page_faults", RPC_INTEGER, 0, .summary = "page faults raised in the guest"},
	{"halts", RPC_INTEGER, 0, .summary = "hlt"},
	{"string_bytes", RPC_INTEGER, 0, .summary = "bytes moved by string instructions"},
	{"code_cache_bytes", RPC_INTEGER, 0, .summary = "translated code in the cache"},
	{"code_cache_size", RPC_INTEGER, 0, .summary = "room for it"},
	{"code_meta_bytes", RPC_INTEGER, 0, .summary = "what is known of the translations"},
	{"code_meta_size", RPC_INTEGER, 0, .summary = "room for it"},
	{"code_pages", RPC_INTEGER, 0, .summary = "mappings of code pages that translations are for"},
	{"runs", RPC_INTEGER, 0, .summary = "hvm: how often a vCPU was entered"},
	{"kernel_irqchip", RPC_INTEGER, 0, .summary = "hvm: 1 where KVM has the interrupt controllers, else 0"},
	{"ioeventfds", RPC_INTEGER, 0, .summary = "hvm: doorbells of devices that the kernel listens to now"},
	{"irqfds", RPC_INTEGER, 0, .summary = "hvm: interrupts of devices that the kernel delivers now"},
	END,
};
static const struct rpc_field exits_fields[] = {
	{"halt", RPC_INTEGER, 0, .summary = "the vCPU slept"},
	{"interrupted", RPC_INTEGER, 0, .summary = "it was stopped from outside"},
	{"pio", RPC_INTEGER, 0, .summary = "port accesses"},
	{"mmio", RPC_INTEGER, 0, .summary = "accesses to devices' memory"},
	{"exceptions", RPC_INTEGER, 0, .summary = "exceptions raised in the guest"},
	{"interrupts", RPC_INTEGER, 0, .summary = "interrupts delivered"},
	{"syscalls", RPC_INTEGER, 0, .summary = "system calls"},
	{"rdmsr", RPC_INTEGER, 0, .summary = "rdmsr"},
	{"wrmsr", RPC_INTEGER, 0, .summary = "wrmsr"},
	{"tlb_miss", RPC_INTEGER, 0, .summary = "TLB misses, of C code too; hits are not counted: see docs/debugging.md"},
	{"lookups", RPC_INTEGER, 0, .summary = "indirect jumps that the jump cache did not know"},
	{"polls", RPC_INTEGER, 0, .summary = "kicks taken by translated code"},
	{"smc", RPC_INTEGER, 0, .summary = "stores that hit translated code"},
	END,
};
static const struct rpc_field memory_fields[] = {
	{"resident_kib", RPC_INTEGER, 0, .summary = "of the VM's process; the code cache counts twice"},
	{"proportional_kib", RPC_INTEGER, 0, .summary = "its proportional set size"},
	{"guest_ram_kib", RPC_INTEGER, 0, .summary = "guest RAM that was touched"},
	{"overhead_kib", RPC_INTEGER, 0, .summary = "the rest"},
	{"balloon", RPC_OBJECT, RPC_OPEN, .fields = rpc_balloon_fields, .summary = "what vm.balloon answers"},
	END,
};
static const struct rpc_field samples_fields[] = {
	{"where", RPC_OBJECT, RPC_REQUIRED, .fields = rpc_where_fields, .summary = "samples by where they fell"},
	{"helpers", RPC_OBJECT, RPC_REQUIRED, .summary = "those in helpers, by instruction"},
	END,
};
static const struct rpc_field console_counters[] = {
	{"output_bytes", RPC_INTEGER, 0, .summary = "what the guest has written"},
	{"scrollback_bytes", RPC_INTEGER, 0, .summary = "how much of it is kept at most"},
	{"clients", RPC_INTEGER, 0, .summary = "who are attached"},
	{"columns", RPC_INTEGER, 0, .summary = "of the writer's window, in characters; 0: never told"},
	{"rows", RPC_INTEGER, 0, .summary = "the same, in lines"},
	{"writer", RPC_STRING, 0, .summary = "who may type; empty: nobody has"},
	END,
};
static const struct rpc_field stats_fields[] = {
	{"mode", RPC_STRING, 0, .summary = "the mode"},
	{"variant", RPC_STRING, 0, .summary = "what it is on this host: bt, hvm/ept, hvm/npt, hvm/shadow, hvm/software"},
	{"boot_seconds", RPC_NUMBER, RPC_NULLABLE,
	 .summary = "until the guest was first in user space; under hvm when it was first met there, some 10 ms late"},
	{"guest_instructions", RPC_INTEGER, RPC_NULLABLE, .summary = "where the engine counts them"},
	{"exits", RPC_OBJECT, RPC_OPEN, .fields = exits_fields, .summary = "how often the engine left guest code, by kind"},
	{"engine", RPC_OBJECT, RPC_OPEN, .fields = engine_fields, .summary = "the engine's own counters"},
	{"machine", RPC_OBJECT, 0, .summary = "the devices' counters"},
	{"memory", RPC_OBJECT, RPC_OPEN, .fields = memory_fields, .summary = "in KiB"},
	{"console", RPC_OBJECT, 0, .fields = console_counters, .summary = "the serial console"},
	{"samples", RPC_OBJECT, 0, .fields = samples_fields,
	 .summary = "where the vCPUs were, asked ten times a second since the start (a thousand times during vm.hot_blocks)"},
	END,
};
static const struct rpc_field definition_only[] = {
	{"definition", RPC_DEFINITION, RPC_REQUIRED, .summary = "a VM's definition"},
	END,
};
static const struct rpc_field start_params[] = {
	VM_FIELD,
	{"no_reboot", RPC_BOOLEAN, 0, .summary = "a reboot of the guest ends the VM"},
	{"paused", RPC_BOOLEAN, 0, .summary = "before its first instruction; vm.resume, or GDB, starts it"},
	{"mode", RPC_STRING, 0, .values = rpc_mode_values, .summary = "this mode, instead of the definition's"},
	END,
};
static const struct rpc_field run_params[] = {
	{"definition", RPC_DEFINITION, RPC_REQUIRED, .summary = "a VM's definition"},
	{"no_reboot", RPC_BOOLEAN, 0, .summary = "a reboot of the guest ends the VM"},
	{"paused", RPC_BOOLEAN, 0, .summary = "before its first instruction; vm.resume, or GDB, starts it"},
	{"mode", RPC_STRING, 0, .values = rpc_mode_values, .summary = "this mode, instead of the definition's"},
	{"ends_with_client", RPC_BOOLEAN, 0, .summary = "destroy it when this connection ends (default: true)"},
	END,
};
static const char *const by_values[] = {"agent", "any", NULL};
static const struct rpc_field shutdown_params[] = {
	VM_FIELD,
	{"by", RPC_STRING, 0, .values = by_values, .summary = "agent: the QEMU guest agent alone; any: the agent, and what else there is if it does not"},
	END,
};
static const struct rpc_field wait_params[] = {
	VM_FIELD,
	{"timeout", RPC_NUMBER, 0, 0, 1e9, .summary = "seconds; for ever when absent"},
	END,
};

const struct rpc_method rpc_vm_methods[] = {
	{"vm.define",
	 "Keeps a VM's definition. It is on disk when this is answered. With the UUID of a defined VM it "
	 "replaces that definition, from the VM's next start on.",
	 definition_only, RESULT(identity_fields, "the VM"), handle_define},
	{"vm.undefine",
	 "Forgets a VM that does not run.",
	 rpc_vm_only, NOTHING, handle_undefine},
	{"vm.list",
	 "All VMs, oldest first.",
	 NULL, ROWS(summary_row, "one entry for each VM"), handle_list},
	{"vm.get",
	 "Everything known of one VM.",
	 rpc_vm_only, RESULT(get_fields, "the VM"), handle_get},
	{"vm.start",
	 "Starts a VM; answered when it runs.",
	 start_params, RESULT(started_fields, "the running VM"), handle_start},
	{"vm.run",
	 "Makes a transient VM and starts it: it is in no store and is gone when it ends.",
	 run_params, RESULT(started_fields, "the running VM"), handle_run},
	{"vm.claim",
	 "Takes over a transient VM whose client was lost with the daemon before: it ends with this connection.",
	 rpc_vm_only, RESULT(started_fields, "the running VM"), handle_claim},
	{"vm.shutdown",
	 "Asks the guest to shut down: its tools (\"tools\": \"vmware\") if they answer, else by ACPI's power button; or its agent.",
	 shutdown_params, NOTHING, handle_shutdown},
	{"vm.reboot",
	 "Presses the power button, and powers the VM on again once its guest has powered off.",
	 rpc_vm_only, NOTHING, handle_reboot},
	{"vm.reset",
	 "Presses the reset button: the VM starts again from power-on, at once.",
	 rpc_vm_only, NOTHING, handle_reset},
	{"vm.nmi",
	 "Sends every virtual processor a non-maskable interrupt, on which Linux prints where it is.",
	 rpc_vm_only, NOTHING, handle_nmi},
	{"vm.destroy",
	 "Ends a VM at once; answered when its process is gone.",
	 rpc_vm_only, RESULT(state_fields, "the VM's new state"), handle_destroy},
	{"vm.pause",
	 "Stops a VM's processors and its time.",
	 rpc_vm_only, RESULT(state_fields, "the VM's new state"), handle_pause},
	{"vm.resume",
	 "Continues a paused VM.",
	 rpc_vm_only, RESULT(state_fields, "the VM's new state"), handle_resume},
	{"vm.stats",
	 "Counters of a running VM, or of the last run.",
	 rpc_vm_only, {"result", RPC_OBJECT, RPC_OPEN, .fields = stats_fields, .summary = "counters by name"}, handle_stats},
	{"vm.wait",
	 "Answered when the VM has ended; at once when it does not run and has ended before.",
	 wait_params, {"result", RPC_OBJECT, RPC_OPEN, .fields = result_fields, .summary = "how it ended"}, handle_wait},
	{.name = NULL},
};
