/* The contract between trivisord and trivisor-vm: files in a VM's directory, methods, states, notifications. */
#ifndef PROTO_CONTROL_H
#define PROTO_CONTROL_H

#include <stdbool.h>

/*
 * trivisord starts   trivisor-vm --dir DIR --mode bt|hvm|pv [--mode-reason TEXT] [--paused]   in a session of its own, with
 * DIR/definition.json in place. The process then serves DIR/control.sock: newline-delimited JSON-RPC 2.0, any number
 * of clients, and notifications to each of them. Raise the version when a message changes in a way an older peer
 * would misread; new methods and new fields do not need it.
 */
#define CONTROL_VERSION 1

/* Files in a VM's directory. */
#define CONTROL_FILE_DEFINITION "definition.json"
#define CONTROL_FILE_SOCKET "control.sock"
#define CONTROL_FILE_CONSOLE "console.sock" /* raw bytes both ways; the scrollback first */
#define CONTROL_FILE_ATTACH "attach.sock"   /* the console for one who says first what is wanted */
#define CONTROL_FILE_RING "console.ring"    /* the scrollback, proto/ring.h; it stays when the VM ends */
#define CONTROL_FILE_VSOCK "vsock.sock" /* vsock, where the definition names no other place */
#define CONTROL_FILE_GDB "gdb.sock" /* GDB's remote protocol; refuses until it is wanted */
#define CONTROL_FILE_PERF_MAP "perf.map"  /* when it was asked for */
#define CONTROL_FILE_VNC "vnc.sock" /* viewers, where the definition names no place */
#define CONTROL_FILE_DISPLAY "display.json" /* where viewers connect: {"vnc":{"socket":PATH}} or {"vnc":{"address":A,"port":P}} */
#define CONTROL_FILE_PID "pid"              /* "PID STARTTIME\n", proto/process.h */
#define CONTROL_FILE_LOG "log"
#define CONTROL_FILE_RESULT "result.json" /* there only when the VM has ended */

/*
 * attach.sock: one line, a request of this method, is answered by one line; behind those two come raw bytes, both ways.
 *   attach {"read_only":bool?, "force":bool?, "read_if_taken":bool?, "leave":bool?, "scrollback":int?, "client":text?}
 *     -> {"writer":bool, "position":int}
 * One client at a time is the writer. Another one that wants to be is refused, unless it takes the place by force, or is
 * content to read while it is taken. Who loses the place reads on, unless it asked to leave then. scrollback: bytes of
 * what was there before (all that is kept); position: of the first byte that comes, counted since the VM's start.
 * On console.sock whoever types first is the writer.
 */
#define CONTROL_ATTACH "attach"
#define CONTROL_ATTACH_WHO_BYTES 80

/*
 * Methods. All take an object or nothing.
 *   hello         -> {"protocol","pid","uuid","name","mode","mode_reason","version","cpu"?}
 *   status        -> {"state","reason","started","ended"?,"pid","paused_seconds"}   times: seconds since the epoch
 *   pause, resume, power_button, destroy, nmi -> {}   (destroy answers, then the VM ends)
 *   reset -> {}    from power-on again, at once
 *   shutdown      {"by":"tools"|"acpi"?} -> {}   guest tools if they answer, else the power button
 *   guest_tools   -> {"tools","present","version"?,"hostname"?,"os"?,…,"interfaces"}
 *   guest_variables -> {NAME:value,…}   guestinfo.NAME, as the guest's tools see and set it
 *   guest_variable_set {"name":string,"value":string|null} -> {}
 *   guest_time_sync -> {}   the tools set the guest's clock to the host's
 *   reboot -> {}   the power button; once the guest has powered off, from power-on again
 *   stats         -> as in result.json's "stats"
 *   set           {"no_reboot":bool} -> {}
 *   regs          {"vcpu":int?, "vector":bool?} -> {"vcpus":[…]}
 *   disassemble   {"vcpu":int?, "address":"0x…"?, "count":int?, "bits":16|32|64?}
 *                   -> {"address","physical","bits","code":[…],"translations":[…]}
 *   hot_blocks    {"seconds":number?, "top":int?} -> {…}   answered when they have passed
 *   perf_map      -> {"path","pid","usable"}
 *   nic_set       {"nic":int, "link":"up"|"down"?, "receive_kib":int?, "transmit_kib":int?} -> {}   0: no limit
 *   balloon       {"memory_mib":int?, "stats_seconds":int?} -> {"memory_kib","wished_kib","stats_seconds","stats"?,…}
 *   guest         {"command":string, "arguments":object?, "timeout":seconds?} -> {"return":…}   the QEMU guest agent's
 *   console_size  {"columns":int, "rows":int} -> {}   of the writer's window
 *   gdb           {"enable":bool?, "architecture":"auto|i8086|i386|x86-64"?} -> {"path","enabled","connected"}
 */
#define CONTROL_HELLO "hello"
#define CONTROL_STATUS "status"
#define CONTROL_PAUSE "pause"
#define CONTROL_RESUME "resume"
#define CONTROL_POWER_BUTTON "power_button"
#define CONTROL_DESTROY "destroy"
#define CONTROL_STATS "stats"
#define CONTROL_SET "set"
#define CONTROL_NMI "nmi"
#define CONTROL_RESET "reset"
#define CONTROL_REBOOT "reboot"
#define CONTROL_GDB "gdb"
#define CONTROL_SHUTDOWN "shutdown"
#define CONTROL_GUEST_TOOLS "guest_tools"
#define CONTROL_GUEST_VARIABLES "guest_variables"
#define CONTROL_GUEST_VARIABLE_SET "guest_variable_set"
#define CONTROL_GUEST_TIME_SYNC "guest_time_sync"
#define CONTROL_REGS "regs"
#define CONTROL_DISASSEMBLE "disassemble"
#define CONTROL_HOT_BLOCKS "hot_blocks"
#define CONTROL_NIC_SET "nic_set"
#define CONTROL_CONSOLE_SIZE "console_size"
#define CONTROL_PERF_MAP "perf_map"
#define CONTROL_SCREENSHOT "screenshot"
#define CONTROL_GUEST "guest"
#define CONTROL_BALLOON "balloon"
#define CONTROL_AGENT_TIMEOUT_MAX_S 3600
#define CONTROL_SEND_KEY "send_key"
#define CONTROL_SEND_TEXT "send_text"

/* Notification `event` {"event": one of these, "time": seconds since the epoch, …}. */
#define CONTROL_NOTIFY "event"
#define CONTROL_EVENT_STATE "state"           /* "state", "reason" */
#define CONTROL_EVENT_RESET "reset"           /* the guest asked for a reset */
#define CONTROL_EVENT_PANIC "panic"           /* pvpanic; "reason" */
#define CONTROL_EVENT_BALLOON "balloon"       /* "memory_kib": what the guest has now */
#define CONTROL_EVENT_AGENT "agent"           /* "connected": the guest's agent came or went */
#define CONTROL_EVENT_USER_SPACE "user_space" /* "boot_seconds": the first user-mode instruction */

/* JSON-RPC error codes beyond the standard ones. */
#define CONTROL_ERROR_STATE (-32001) /* not possible in the VM's present state */
#define CONTROL_ERROR_AGENT_ABSENT (-32010)   /* this VM has no channel for it */
#define CONTROL_ERROR_AGENT_GONE (-32011)     /* nobody is there */
#define CONTROL_ERROR_AGENT_SILENT (-32012)   /* no answer in time */
#define CONTROL_ERROR_AGENT_NONSENSE (-32013) /* what came is no answer */
#define CONTROL_ERROR_AGENT_LACKS (-32014)    /* it does not know this command */
#define CONTROL_ERROR_AGENT (-32015)	      /* it refused, or failed: the message is its own */
#define CONTROL_PARSE_ERROR (-32700)
#define CONTROL_INVALID_REQUEST (-32600)
#define CONTROL_INVALID_PARAMS (-32602) /* JSON-RPC's own: the message names the parameter */

enum vm_state {
	VM_STARTING,
	VM_RUNNING,
	VM_PAUSED,
	/* The rest are final; result.json holds one of these. */
	VM_SHUTDOWN,  /* the guest powered off, rebooted under no_reboot, or wrote the debug-exit port */
	VM_DESTROYED, /* ended from outside: destroy or SIGTERM */
	VM_CRASHED,   /* triple fault, engine error, guest panic */
	VM_FAILED,    /* could not start */
	VM_STATE_COUNT
};

/* Exit status of trivisor-vm, and "exit_code" in result.json. Under debug_exit: (value << 1 | 1) & 0xff, as QEMU's. */
#define VM_EXIT_SHUTDOWN 0
#define VM_EXIT_FAILED 3
#define VM_EXIT_CRASHED 4
#define VM_EXIT_DESTROYED 5

/* The state's name on the wire; never NULL. */
const char *vm_state_name(enum vm_state state);
/* False when there is no such state. */
bool vm_state_parse(const char *name, enum vm_state *ret_state);
static inline bool vm_state_is_final(enum vm_state state)
{
	return state >= VM_SHUTDOWN;
}

#endif
