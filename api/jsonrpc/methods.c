/* The methods, a row each: what it takes and gives. Dispatch, validation, rpc.discover and docs/api.md read it. */
#include "api/jsonrpc/private.h"
#include "daemon/networks.h"
#include "daemon/pools.h"
#include "proto/switch.h"

#include "proto/vmdef.h"

#include <string.h>

/* clang-format off: tables, a row for each field and method */

#define END {.name = NULL}

/* ---- shapes that several methods share ------------------------------------------- */

static const char *const mode_values[] = {"bt", "hvm", "pv", NULL};
static const char *const state_values[] = {"defined",   "starting", "running", "paused", "shutdown",
					   "destroyed", "crashed",  "failed",  NULL};
static const char *const gdb_architectures[] = {"auto", "i8086", "i386", "x86-64", NULL};
static const char *const history_values[] = {"events", "decisions", "results", NULL};

#define VM_FIELD {"vm", RPC_STRING, RPC_REQUIRED, 1, 200, .summary = "the VM's name or UUID"}
#define UUID_FIELD {"uuid", RPC_STRING, RPC_REQUIRED, .summary = "the VM's UUID"}
#define NAME_FIELD {"name", RPC_STRING, RPC_REQUIRED, .summary = "the VM's name"}
#define STATE_FIELD \
	{"state", RPC_STRING, RPC_REQUIRED, .values = state_values, \
	 .summary = "defined: it never ran; the last four are how its last run ended"}
#define NOTHING {"result", RPC_OBJECT, 0, .fields = no_fields, .summary = "an empty object"}

static const struct rpc_field no_fields[] = {END};
static const struct rpc_field vm_only[] = {VM_FIELD, END};

static const struct rpc_field fact_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "which fact"},
	{"value", RPC_ANY, RPC_REQUIRED, .summary = "what was found; null when it could not be learned"},
	{"source", RPC_STRING, RPC_REQUIRED, .summary = "where it was read"},
	{"remedy", RPC_STRING, 0, .summary = "what the user can do about it, where something is missing"},
	END,
};
static const struct rpc_field fact[] = {{"fact", RPC_OBJECT, 0, .fields = fact_fields}};

static const struct rpc_field mode_fields[] = {
	{"mode", RPC_STRING, RPC_REQUIRED, .values = mode_values, .summary = "the mode"},
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

static const struct rpc_field predicted_fields[] = {
	{"cost", RPC_NUMBER, RPC_REQUIRED, .summary = "times the time that its work would take natively"},
	{"confidence", RPC_NUMBER, RPC_REQUIRED, .summary = "from 0 to 1"},
	{"correction", RPC_NUMBER, RPC_REQUIRED, .summary = "what outcomes have taught about this mode; part of cost"},
	END,
};
static const struct rpc_field candidate_fields[] = {
	{"mode", RPC_STRING, RPC_REQUIRED, .values = mode_values, .summary = "the mode"},
	{"variant", RPC_STRING, 0, .summary = "what the mode is on this host: bt, hvm/ept, hvm/npt, hvm/shadow, hvm/software"},
	{"verdict", RPC_STRING, RPC_REQUIRED, .summary = "chosen, possible or ruled out"},
	{"predicted", RPC_OBJECT, RPC_NULLABLE, .fields = predicted_fields,
	 .summary = "null where nothing was measured"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why"},
	{"remedy", RPC_STRING, 0, .summary = "what would change the verdict"},
	END,
};
static const struct rpc_field candidate[] = {{"candidate", RPC_OBJECT, 0, .fields = candidate_fields}};
static const struct rpc_field text_item[] = {{"text", RPC_STRING, .summary = "text"}};

static const struct rpc_field workload_fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, .summary = "compute, memory, syscall, process, io, mixed, learned or weights"},
	{"source", RPC_STRING, RPC_REQUIRED, .summary = "where this comes from"},
	{"certainty", RPC_NUMBER, RPC_REQUIRED, .summary = "from 0 to 1"},
	{"shares", RPC_OBJECT, RPC_REQUIRED, .summary = "of native time, by measure; their sum is 1"},
	END,
};
static const struct rpc_field decision_fields[] = {
	{"time", RPC_NUMBER, 0, .summary = "seconds since the epoch"},
	{"wish", RPC_STRING, RPC_REQUIRED, .summary = "the definition's mode"},
	{"mode", RPC_STRING, RPC_REQUIRED | RPC_NULLABLE, .summary = "the mode chosen; null when none is possible"},
	{"variant", RPC_STRING, RPC_NULLABLE, .summary = "what that mode is on this host"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "the decision in one sentence"},
	{"candidates", RPC_ARRAY, RPC_REQUIRED, .fields = candidate, .summary = "each mode, and why"},
	{"constraints", RPC_ARRAY, 0, .summary = "what the definition demands: key, value, means"},
	{"would_change", RPC_ARRAY, RPC_REQUIRED, .fields = text_item, .summary = "what would make the answer another"},
	{"workload", RPC_OBJECT, 0, .fields = workload_fields, .summary = "what it is thought to do"},
	{"predicted_boot_seconds", RPC_NUMBER, RPC_NULLABLE,
	 .summary = "until user space, from earlier runs; null when it never got there"},
	{"guest", RPC_OBJECT, RPC_REQUIRED, .summary = "what is known of the image"},
	END,
};

static const struct rpc_field started_fields[] = {
	UUID_FIELD,
	NAME_FIELD,
	STATE_FIELD,
	{"mode", RPC_STRING, RPC_REQUIRED, .values = mode_values, .summary = "the mode it runs in"},
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
	{"features", RPC_ARRAY, RPC_REQUIRED, .fields = text_item, .summary = "what the guest sees, by Linux's names"},
	{"masked", RPC_ARRAY, RPC_REQUIRED, .fields = masked_row, .summary = "what the host has and the guest does not get"},
	END,
};

static const struct rpc_field process_fields[] = {
	{"pid", RPC_INTEGER, RPC_REQUIRED, .summary = "of trivisor-vm"},
	{"mode", RPC_STRING, RPC_REQUIRED, .values = mode_values, .summary = "the mode it runs in"},
	{"mode_reason", RPC_STRING, RPC_REQUIRED, .summary = "why this mode"},
	{"dir", RPC_STRING, RPC_REQUIRED, .summary = "its directory: definition, sockets, log"},
	{"console", RPC_STRING, RPC_REQUIRED, .summary = "path of its console socket"},
	{"started", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"adopted", RPC_BOOLEAN, RPC_REQUIRED, .summary = "it was found running when this daemon started"},
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
	{"decision", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE, .fields = decision_fields,
	 .summary = "the policy's last"},
	{"result", RPC_OBJECT, RPC_REQUIRED | RPC_NULLABLE | RPC_OPEN, .fields = result_fields,
	 .summary = "of its last run"},
	END,
};

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
	{"active", RPC_BOOLEAN, RPC_REQUIRED, .summary = "its process runs"},
	{"created", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	END,
};
static const struct rpc_field net_row[] = {{"network", RPC_OBJECT, 0, .fields = net_fields}};
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
	END,
};
static const struct rpc_field where_fields[] = {
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
static const struct rpc_field samples_fields[] = {
	{"where", RPC_OBJECT, RPC_REQUIRED, .fields = where_fields, .summary = "samples by where they fell"},
	{"helpers", RPC_OBJECT, RPC_REQUIRED, .summary = "those in helpers, by instruction"},
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
	{"samples", RPC_OBJECT, 0, .fields = samples_fields,
	 .summary = "where the vCPUs were, asked ten times a second since the start (a thousand times during vm.hot_blocks)"},
	END,
};

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
	{"where", RPC_OBJECT, RPC_REQUIRED, .fields = where_fields, .summary = "samples by where they fell"},
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

static const struct rpc_field event_fields[] = {
	{"subscription", RPC_INTEGER, RPC_REQUIRED, .summary = "what events.subscribe answered"},
	{"time", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"event", RPC_STRING, RPC_REQUIRED,
	 .summary = "defined, undefined, started, state, panic, reset, user_space or ended"},
	UUID_FIELD,
	NAME_FIELD,
	END,
};
static const struct rpc_field stored_event[] = {{"record", RPC_OBJECT, 0, .summary = "as it was when it happened"}};

/* ---- handlers that are one call into the daemon ------------------------------------ */

static struct vm *find_vm(struct rpc_call *call, json_object *params)
{
	const char *name = rpc_string(params, "vm");
	struct vm *vm = daemon_find(call->conn->daemon, name);

	if (!vm)
		rpc_fail(call, rpc_error_code(DAEMON_NOT_FOUND), "there is no VM \"%.200s\"; vm.list names them", name);
	return vm;
}

/* False: a VM is named that there is not, and that was answered. */
static bool maybe_vm(struct rpc_call *call, json_object *params, struct vm **ret_vm)
{
	*ret_vm = NULL;
	if (!json_object_object_get_ex(params, "vm", NULL))
		return true;
	*ret_vm = find_vm(call, params);
	return *ret_vm != NULL;
}

static json_object *definition_of(json_object *params)
{
	json_object *definition = NULL;

	json_object_object_get_ex(params, "definition", &definition);
	return definition;
}

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

	if (maybe_vm(call, params, &vm))
		rpc_reply(call, daemon_compare(call->conn->daemon, vm));
}

static void handle_explain(struct rpc_call *call, json_object *params)
{
	json_object *definition = definition_of(params);
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
	vm = find_vm(call, params);
	if (vm)
		daemon_explain_vm(call->conn->daemon, vm, rpc_done, call);
}

static void handle_define(struct rpc_call *call, json_object *params)
{
	daemon_define(call->conn->daemon, definition_of(params), rpc_done, call);
}

static void handle_list(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_list(call->conn->daemon));
}

static void handle_get(struct rpc_call *call, json_object *params)
{
	struct vm *vm = find_vm(call, params);

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
	struct vm *vm = find_vm(call, params);
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
	daemon_run(conn->daemon, definition_of(params), &options, ends_with_client ? conn->owner : NULL, rpc_done,
		   call);
}

static void handle_claim(struct rpc_call *call, json_object *params)
{
	struct rpc_conn *conn = call->conn;
	struct vm *vm = find_vm(call, params);

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
	struct vm *vm = find_vm(call, params);

	if (vm)
		act(call->conn->daemon, vm, rpc_done, call);
}

static void handle_undefine(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_undefine);
}

static void handle_shutdown(struct rpc_call *call, json_object *params)
{
	with_vm(call, params, daemon_shutdown);
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
	daemon_net_create(call->conn->daemon, net_name(params), rpc_done, call);
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

/* The parameters go to the VM's process as they are, but for its name. */
static void inspect(struct rpc_call *call, json_object *params, enum daemon_inspection what, double seconds)
{
	struct vm *vm = find_vm(call, params);
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
	inspect(call, params, DAEMON_REGS, 0);
}

static void handle_disassemble(struct rpc_call *call, json_object *params)
{
	inspect(call, params, DAEMON_DISASSEMBLE, 0);
}

static void handle_hot_blocks(struct rpc_call *call, json_object *params)
{
	json_object *seconds = NULL;

	json_object_object_get_ex(params, "seconds", &seconds);
	inspect(call, params, DAEMON_HOT_BLOCKS, seconds ? json_object_get_double(seconds) : 1);
}

static void handle_perf_map(struct rpc_call *call, json_object *params)
{
	inspect(call, params, DAEMON_PERF_MAP, 0);
}

static void handle_nic_set(struct rpc_call *call, json_object *params)
{
	inspect(call, params, DAEMON_NIC_SET, 0);
}

static void handle_gdb(struct rpc_call *call, json_object *params)
{
	inspect(call, params, DAEMON_GDB, 0);
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
	struct vm *vm = find_vm(call, params);
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

static void handle_history(struct rpc_call *call, json_object *params)
{
	struct vm *vm = NULL;
	json_object *limit = NULL;

	if (json_object_object_get_ex(params, "vm", NULL)) {
		vm = find_vm(call, params);
		if (!vm)
			return;
	}
	json_object_object_get_ex(params, "limit", &limit);
	daemon_history(call->conn->daemon, rpc_string(params, "kind"), vm,
		       limit ? (unsigned)json_object_get_int(limit) : 100,
		       rpc_done, call);
}

static void handle_policy_history(struct rpc_call *call, json_object *params)
{
	json_object *limit = NULL;
	struct vm *vm;

	json_object_object_get_ex(params, "limit", &limit);
	if (maybe_vm(call, params, &vm))
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

	if (maybe_vm(call, params, &vm))
		daemon_policy_reset(call->conn->daemon, vm, rpc_done, call);
}

static void handle_discover(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, rpc_openrpc());
}

/* ---- parameters -------------------------------------------------------------------- */

static const struct rpc_field definition_only[] = {
	{"definition", RPC_DEFINITION, RPC_REQUIRED, .summary = "a VM's definition"},
	END,
};
static const struct rpc_field explain_params[] = {
	{"definition", RPC_DEFINITION, 0, .summary = "a VM's definition"},
	{"vm", RPC_STRING, 0, 1, 200, .summary = "or a VM's name or UUID"},
	END,
};
static const struct rpc_field start_params[] = {
	VM_FIELD,
	{"no_reboot", RPC_BOOLEAN, 0, .summary = "a reboot of the guest ends the VM"},
	{"paused", RPC_BOOLEAN, 0, .summary = "before its first instruction; vm.resume, or GDB, starts it"},
	{"mode", RPC_STRING, 0, .values = mode_values, .summary = "this mode, instead of the definition's"},
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
	{"transmit_kib", RPC_INTEGER, 0, .min = 0, .max = VMDEF_LIMIT_KIB_MAX, .summary = "KiB a second from the guest; 0: no limit"},
	END,
};
static const struct rpc_field gdb_params[] = {
	VM_FIELD,
	{"architecture", RPC_STRING, 0, .values = gdb_architectures,
	 .summary = "what GDB is told from the next connection on; auto goes by the first vCPU's mode then"},
	END,
};
static const struct rpc_field run_params[] = {
	{"definition", RPC_DEFINITION, RPC_REQUIRED, .summary = "a VM's definition"},
	{"no_reboot", RPC_BOOLEAN, 0, .summary = "a reboot of the guest ends the VM"},
	{"paused", RPC_BOOLEAN, 0, .summary = "before its first instruction; vm.resume, or GDB, starts it"},
	{"mode", RPC_STRING, 0, .values = mode_values, .summary = "this mode, instead of the definition's"},
	{"ends_with_client", RPC_BOOLEAN, 0, .summary = "destroy it when this connection ends (default: true)"},
	END,
};
static const struct rpc_field wait_params[] = {
	VM_FIELD,
	{"timeout", RPC_NUMBER, 0, 0, 1e9, .summary = "seconds; for ever when absent"},
	END,
};
static const struct rpc_field console_params[] = {
	VM_FIELD,
	{"stream", RPC_BOOLEAN, 0,
	 .summary = "send the output as console.data notifications on this connection (default: false)"},
	END,
};
static const struct rpc_field console_fields[] = {
	{"path", RPC_STRING, RPC_REQUIRED,
	 .summary = "console socket, for clients on this host: raw bytes, the scrollback first"},
	{"stream", RPC_INTEGER, RPC_REQUIRED | RPC_NULLABLE, .summary = "the stream's number, null without one"},
	END,
};
static const struct rpc_field console_write_params[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"text", RPC_STRING, 0, .summary = "what to type, as UTF-8"},
	{"data", RPC_STRING, 0, .summary = "or as bytes, in base64"},
	END,
};
static const struct rpc_field stream_params[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	END,
};
static const struct rpc_field subscribe_params[] = {
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	{"events", RPC_ARRAY, 0, .fields = text_item, .summary = "only these kinds"},
	END,
};
static const struct rpc_field subscription_fields[] = {
	{"subscription", RPC_INTEGER, RPC_REQUIRED, .summary = "a number of this connection"},
	END,
};
static const struct rpc_field history_params[] = {
	{"kind", RPC_STRING, RPC_REQUIRED, .values = history_values, .summary = "what to list"},
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	{"limit", RPC_INTEGER, 0, 1, 10000, .summary = "how many, newest first (default: 100)"},
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
static const struct rpc_field console_data_fields[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"data", RPC_STRING, RPC_REQUIRED, .summary = "bytes, in base64"},
	END,
};
static const struct rpc_field console_end_fields[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why no more comes"},
	END,
};

#define RESULT(shape, text) {"result", RPC_OBJECT, 0, .fields = shape, .summary = text}
#define ROWS(item, text) {"result", RPC_ARRAY, 0, .fields = item, .summary = text}

const struct rpc_method rpc_methods[] = {
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
	 explain_params, RESULT(decision_fields, "the decision"), handle_explain},
	{"policy.history",
	 "How good predictions were: a row for each run that reached user space, and what was learned.",
	 policy_history_params, RESULT(policy_history_fields, "statistics and outcomes"), handle_policy_history},
	{"policy.plan",
	 "Places many VMs on many hosts, with a mode for each. Hosts are given as host.probe answers them.",
	 plan_params, RESULT(plan_fields, "the plan"), handle_policy_plan},
	{"policy.reset",
	 "Forgets what was learned of one VM, or, without one, of all, with the corrections.",
	 maybe_vm_params, NOTHING, handle_policy_reset},
	{"vm.define",
	 "Keeps a VM's definition. It is on disk when this is answered. With the UUID of a defined VM it "
	 "replaces that definition, from the VM's next start on.",
	 definition_only, RESULT(identity_fields, "the VM"), handle_define},
	{"vm.undefine",
	 "Forgets a VM that does not run.",
	 vm_only, NOTHING, handle_undefine},
	{"vm.list",
	 "All VMs, oldest first.",
	 NULL, ROWS(summary_row, "one entry for each VM"), handle_list},
	{"vm.get",
	 "Everything known of one VM.",
	 vm_only, RESULT(get_fields, "the VM"), handle_get},
	{"vm.start",
	 "Starts a VM; answered when it runs.",
	 start_params, RESULT(started_fields, "the running VM"), handle_start},
	{"vm.run",
	 "Makes a transient VM and starts it: it is in no store and is gone when it ends.",
	 run_params, RESULT(started_fields, "the running VM"), handle_run},
	{"vm.claim",
	 "Takes over a transient VM whose client was lost with the daemon before: it ends with this connection.",
	 vm_only, RESULT(started_fields, "the running VM"), handle_claim},
	{"vm.shutdown",
	 "Presses the VM's ACPI power button; the guest decides what follows.",
	 vm_only, NOTHING, handle_shutdown},
	{"vm.reboot",
	 "Presses the power button, and powers the VM on again once its guest has powered off.",
	 vm_only, NOTHING, handle_reboot},
	{"vm.reset",
	 "Presses the reset button: the VM starts again from power-on, at once.",
	 vm_only, NOTHING, handle_reset},
	{"vm.nmi",
	 "Sends every virtual processor a non-maskable interrupt, on which Linux prints where it is.",
	 vm_only, NOTHING, handle_nmi},
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
	{"net.delete",
	 "Ends a network that no VM is connected to.",
	 net_params, NOTHING, handle_net_delete},
	{"net.stats",
	 "Counters of a network's switch.",
	 net_params, RESULT(net_stats_fields, "counters by name"), handle_net_stats},
	{"net.ports",
	 "A network's ports, with their VLANs and counters.",
	 net_params, RESULT(net_ports_fields, "the ports"), handle_net_ports},
	{"vm.destroy",
	 "Ends a VM at once; answered when its process is gone.",
	 vm_only, RESULT(state_fields, "the VM's new state"), handle_destroy},
	{"vm.pause",
	 "Stops a VM's processors and its time.",
	 vm_only, RESULT(state_fields, "the VM's new state"), handle_pause},
	{"vm.resume",
	 "Continues a paused VM.",
	 vm_only, RESULT(state_fields, "the VM's new state"), handle_resume},
	{"vm.stats",
	 "Counters of a running VM, or of the last run.",
	 vm_only, {"result", RPC_OBJECT, RPC_OPEN, .fields = stats_fields, .summary = "counters by name"}, handle_stats},
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
	 vm_only, RESULT(perf_fields, "the file"), handle_perf_map},
	{"vm.nic_set",
	 "Changes a running VM's network interface until the VM ends: its cable, its limits.",
	 nic_set_params, NOTHING, handle_nic_set},
	{"vm.gdb",
	 "Opens the VM's socket for GDB (target remote), which then stops and continues it.",
	 gdb_params, RESULT(gdb_fields, "where it is"), handle_gdb},
	{"vm.wait",
	 "Answered when the VM has ended; at once when it does not run and has ended before.",
	 wait_params, {"result", RPC_OBJECT, RPC_OPEN, .fields = result_fields, .summary = "how it ended"}, handle_wait},
	{"vm.console",
	 "The VM's serial console: a socket for clients on this host, or a stream of notifications.",
	 console_params, RESULT(console_fields, "where it is"), rpc_console_open},
	{"vm.console_write",
	 "Types into a console stream. Give text or data.",
	 console_write_params, NOTHING, rpc_console_write},
	{"vm.console_close",
	 "Ends a console stream; the VM goes on.",
	 stream_params, NOTHING, rpc_console_close},
	{"events.subscribe",
	 "Sends an `event` notification for each thing that happens.",
	 subscribe_params, RESULT(subscription_fields, "the subscription"), rpc_events_subscribe},
	{"events.unsubscribe",
	 "Ends a subscription.",
	 subscription_fields, NOTHING, rpc_events_unsubscribe},
	{"events.history",
	 "Kept events, decisions or results, newest first.",
	 history_params, ROWS(stored_event, "what was kept"), handle_history},
	{"rpc.discover",
	 "This API as an OpenRPC document.",
	 NULL, {"result", RPC_OBJECT, 0, .summary = "OpenRPC 1.2.6"}, handle_discover},
};
const size_t rpc_method_count = sizeof(rpc_methods) / sizeof(rpc_methods[0]);

const struct rpc_notification rpc_notifications[] = {
	{"event", "Something happened to a VM.", {"params", RPC_OBJECT, RPC_OPEN, .fields = event_fields}},
	{"console.data", "Output of a console stream.", {"params", RPC_OBJECT, 0, .fields = console_data_fields}},
	{"console.end", "A console stream has ended.", {"params", RPC_OBJECT, 0, .fields = console_end_fields}},
};
const size_t rpc_notification_count = sizeof(rpc_notifications) / sizeof(rpc_notifications[0]);

const struct rpc_method *rpc_method_find(const char *name)
{
	for (size_t i = 0; i < rpc_method_count; i++)
		if (!strcmp(rpc_methods[i].name, name))
			return &rpc_methods[i];
	return NULL;
}
