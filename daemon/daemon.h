/*
 * trivisord's one set of actions, as its APIs call them. Everything runs on the event loop's thread and nothing blocks:
 * an action that takes time calls `done` later, one that does not calls it before it returns.
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "proto/control.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon;
struct event_base;
struct settings;
struct vm;
struct vmdef;

enum daemon_error_code {
	DAEMON_INVALID,     /* an argument is wrong; the message names it */
	DAEMON_NOT_FOUND,   /* no such VM */
	DAEMON_EXISTS,      /* the name or UUID is taken */
	DAEMON_WRONG_STATE, /* not possible in the VM's present state */
	DAEMON_STORAGE,     /* the state or runtime directory could not be written */
	DAEMON_START,       /* the VM could not be started */
	DAEMON_VM,          /* the VM's process answered with an error or not at all */
	DAEMON_LIMIT,       /* a configured limit is reached */
	DAEMON_TIMEOUT,     /* the time the caller gave has passed */
	DAEMON_UNSUPPORTED, /* not in this version */
	DAEMON_AGENT_ABSENT,	   /* the VM has no channel for a guest agent */
	DAEMON_AGENT_UNRESPONSIVE, /* nobody answers there, or with nonsense */
	DAEMON_AGENT_FAILED,	   /* the agent refused, or could not: the message is its own */
	DAEMON_INTERNAL,    /* out of memory, or our own bug */
	DAEMON_ERROR_COUNT
};

struct daemon_error {
	enum daemon_error_code code;
	char message[1024];
};

/* Called exactly once. error is NULL on success; result (may be NULL) stays the daemon's. Both are valid during the
 * call. */
typedef void (*daemon_done_fn)(void *opaque, const struct daemon_error *error, json_object *result);

/* ---- life of the daemon ----------------------------------------------------- */

/* Makes the directories, opens the store and adopts VMs. 0, or -errno with error saying what and what to do. */
int daemon_create(struct event_base *base, struct settings *settings, struct daemon **ret_daemon, char *error,
		  size_t error_size);
/* From now on the end of a client ends no VM: the daemon is about to be destroyed, and the next one takes over. */
void daemon_stopping(struct daemon *daemon);
/* Leaves running VMs running. Accepts NULL. */
void daemon_destroy(struct daemon *daemon);
/* Takes up a socket_group that was added: its members must get through the runtime directory. */
void daemon_settings_changed(struct daemon *daemon);
/* Starts what is to start with the host, unless a daemon of this runtime directory has done so since the host booted. */
void daemon_autostart(struct daemon *daemon);
struct event_base *daemon_base(struct daemon *daemon);
const struct settings *daemon_settings(struct daemon *daemon);
/* Ends every transient VM, then calls done (a private daemon whose client is gone). */
void daemon_end_transient(struct daemon *daemon, void (*done)(void *opaque), void *opaque);
/* How many VMs have a process. */
unsigned daemon_running(struct daemon *daemon);

/* ---- host and policy -------------------------------------------------------- */

json_object *daemon_version(struct daemon *daemon);
json_object *daemon_host(struct daemon *daemon);
/* Measures the host, or waits for the measurement that is going on; answers with the figures. */
void daemon_calibrate(struct daemon *daemon, daemon_done_fn done, void *opaque);
json_object *daemon_modes(struct daemon *daemon);
/* vm: what holds for it too; NULL. */
json_object *daemon_compare(struct daemon *daemon, struct vm *vm);
/* Of a definition, without making a VM. */
void daemon_explain(struct daemon *daemon, json_object *definition, daemon_done_fn done, void *opaque);
void daemon_explain_vm(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);

/* {"statistics", "outcomes"}: how good predictions were; newest first. vm NULL: of all. */
void daemon_policy_history(struct daemon *daemon, struct vm *vm, unsigned limit, daemon_done_fn done, void *opaque);
/* Places VMs on hosts (policy_plan's lists, borrowed). Runs beside the loop. */
void daemon_plan(struct daemon *daemon, json_object *hosts, json_object *vms, daemon_done_fn done, void *opaque);
/* Forgets what was learned: of one VM its workload and times, of all (NULL) the corrections too. */
void daemon_policy_reset(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);

/* ---- VMs -------------------------------------------------------------------- */

/* By UUID or name; NULL when there is none. Valid until the loop's next turn: do not keep it. */
struct vm *daemon_find(struct daemon *daemon, const char *name_or_uuid);
const char *daemon_vm_uuid(const struct vm *vm);
/* In order of creation; NULL before the first and behind the last. The same rule holds: do not keep it. */
struct vm *daemon_next(struct daemon *daemon, struct vm *after);
/* By its number while it runs; NULL when there is none. */
struct vm *daemon_find_id(struct daemon *daemon, int id);

/* A VM at a glance. Pointers are the VM's, valid as long as it is. */
struct daemon_vm_info {
	const char *uuid, *name;
	const struct vmdef *def;         /* as stored: what its next start uses */
	const struct vmdef *running_def; /* what it was started with; NULL when it has no process */
	bool active;                     /* it has a process */
	bool transient;
	bool ran;            /* state is meaningful; otherwise it never ran */
	enum vm_state state; /* the present one, or how its last run ended */
	int id;              /* positive and unique on this host while it has a process, else -1 */
	pid_t pid;           /* 0 without a process */
	const char *mode;    /* of the process, NULL without one */
	double started;      /* the process's start, seconds since the epoch */
	const char *dir;     /* of the process, NULL without one */
	bool agent;          /* a guest agent has its channel open */
	uint64_t memory_kib; /* what the guest has of its memory now, by its word; 0 without a process */
};
void daemon_vm_inspect(const struct vm *vm, struct daemon_vm_info *ret_info);

/*
 * Writes the definition to the store, then answers {"uuid","name"}. With the UUID of a defined VM it replaces that
 * one's definition (used from its next start on); a transient one that runs is kept from then on.
 */
void daemon_define(struct daemon *daemon, json_object *definition, daemon_done_fn done, void *opaque);
/*
 * Replaces some of a definition's keys (null takes one away), of a transient VM too. Those for people (title,
 * description, libvirt_xml) hold at once, the others from the next start on. event: "defined", or "metadata" with
 * details (NULL, or taken) as its members. Answers as daemon_define does.
 */
void daemon_change(struct daemon *daemon, struct vm *vm, json_object *changes, const char *event, json_object *details,
		   daemon_done_fn done, void *opaque);
/* Only while it does not run. Its decisions and results go too. */
void daemon_undefine(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* Of one that runs: it goes when it ends. */
void daemon_make_transient(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* An array of summaries in order of creation. */
json_object *daemon_list(struct daemon *daemon);
/* Everything known of one VM. */
json_object *daemon_get(struct daemon *daemon, struct vm *vm);

struct daemon_start {
	bool paused;      /* without running a guest instruction; daemon_resume starts it */
	bool no_reboot;   /* a guest's reboot ends the VM, whatever its definition says */
	const char *mode; /* instead of the definition's; NULL: as defined */
};

/* Answers once the VM runs ({"uuid","name","state","mode","mode_reason","pid","console"}), or why it does not. */
void daemon_start_vm(struct daemon *daemon, struct vm *vm, const struct daemon_start *options, daemon_done_fn done,
		     void *opaque);

/* A client whose end ends the transient VMs it owns. The APIs make one for each connection. */
struct daemon_owner;
struct daemon_owner *daemon_owner_create(struct daemon *daemon);
void daemon_owner_destroy(struct daemon_owner *owner);
/* Makes a transient VM (never in the store; gone when it ends) and starts it. owner NULL: it ends with nobody. */
void daemon_run(struct daemon *daemon, json_object *definition, const struct daemon_start *options,
		struct daemon_owner *owner, daemon_done_fn done, void *opaque);

/* Makes owner the one whose end ends this transient VM: for a client that comes back after the daemon was restarted. */
void daemon_claim(struct daemon *daemon, struct vm *vm, struct daemon_owner *owner, daemon_done_fn done, void *opaque);

/* By guest tools if they answer, else by ACPI's power button. */
void daemon_shutdown(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* The power button, and power-on again once the guest has powered off. */
void daemon_reboot(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* The reset button. */
void daemon_reset(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
void daemon_nmi(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* Ends it now; answers when its process is gone. */
void daemon_destroy_vm(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
void daemon_pause(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
void daemon_resume(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* Of a running VM from its process, else the last run's. */
void daemon_stats(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque);
/* What a running VM's process shows of its insides, by the control protocol's method, within `seconds`
 * and a little more; takes params (NULL: none). */
enum daemon_inspection { DAEMON_REGS, DAEMON_GDB, DAEMON_DISASSEMBLE, DAEMON_HOT_BLOCKS, DAEMON_PERF_MAP, DAEMON_NIC_SET,
			 DAEMON_GUEST_TOOLS, DAEMON_GUEST_VARIABLES, DAEMON_GUEST_VARIABLE_SET, DAEMON_GUEST_TIME_SYNC,
			 DAEMON_SCREENSHOT, DAEMON_SEND_KEY, DAEMON_SEND_TEXT, DAEMON_CONSOLE_SIZE, DAEMON_BALLOON };
void daemon_inspect(struct daemon *daemon, struct vm *vm, enum daemon_inspection what, json_object *params, double seconds,
		    daemon_done_fn done, void *opaque);
/*
 * Changes a running VM's network interface until it ends: {"nic", "link", "receive_kib", "receive_burst_kib", "transmit_kib",
 * "transmit_burst_kib"}, all but the first optional; taken. daemon_vm_info.running_def says so afterwards.
 */
void daemon_nic_set(struct daemon *daemon, struct vm *vm, json_object *params, daemon_done_fn done, void *opaque);
/* ---- consoles (console.c) ---- */

struct bufferevent;
struct daemon_console {
	bool read_only;
	bool force;         /* takes the writer's place */
	bool read_if_taken; /* without force: reads only, instead of an error, while there is a writer */
	bool leave;         /* the connection ends when another one takes its place; else it reads on */
	int64_t scrollback; /* bytes of what was there before; negative: all */
	char client[80];    /* who it is, for others */
};
/*
 * bev is the receiver's: both directions raw, reading not yet enabled, what came already in its input. NULL on an error.
 * The VM may be gone meanwhile.
 */
typedef void (*daemon_console_fn)(void *opaque, const struct daemon_error *error, struct bufferevent *bev, bool writer);
void daemon_console_attach(struct vm *vm, const struct daemon_console *wish, daemon_console_fn done, void *opaque);
/*
 * The last `max` bytes of the console's output, of the present run or the last one; the caller frees *ret_bytes, and
 * *ret_before is how many came before them. 0; -ENOENT: it left none; else -errno.
 */
int daemon_console_read(struct vm *vm, size_t max, unsigned char **ret_bytes, size_t *ret_count, uint64_t *ret_before);
/*
 * Another disc into the CD-ROM drive disks[number] of a running VM, or none (a disk of a definition without a path), until it ends.
 * libvirt_xml: what its domain XML is then; NULL: as it was. Answers {}.
 */
void daemon_change_disc(struct daemon *daemon, struct vm *vm, unsigned number, json_object *disc, bool force, const char *libvirt_xml,
			daemon_done_fn done, void *opaque);
/* Path of the running VM's console socket, for the connection's lifetime; NULL when it does not run. */
const char *daemon_console_path(struct vm *vm);

/*
 * Answers when the VM has ended, with its result; at once when it does not run (its last result). timeout_s < 0 waits
 * for ever, else DAEMON_TIMEOUT. Returns a handle for daemon_wait_cancel, NULL when done was called already; the handle
 * dies with the call of done. After a cancel done is not called.
 */
struct daemon_wait;
struct daemon_wait *daemon_wait(struct daemon *daemon, struct vm *vm, double timeout_s, daemon_done_fn done,
				void *opaque);
void daemon_wait_cancel(struct daemon_wait *wait);

/* Storage pools, daemon/pools.h. */
struct pools;
struct pools *daemon_pools(struct daemon *daemon);

/* ---- the QEMU guest agent (daemon/guest.c) --------------------------------------- */

#define DAEMON_GUEST_TIMEOUT_S 30.0
/* One of its commands; answers with what it returns. Takes arguments (NULL: none). */
void daemon_guest_command(struct daemon *daemon, struct vm *vm, const char *command, json_object *arguments, double timeout,
			  daemon_done_fn done, void *opaque);
/* Parts of what a guest tells of itself, as bits. */
#define DAEMON_GUEST_AGENT 1u
#define DAEMON_GUEST_OS 2u
#define DAEMON_GUEST_HOSTNAME 4u
#define DAEMON_GUEST_TIMEZONE 8u
#define DAEMON_GUEST_USERS 16u
#define DAEMON_GUEST_INTERFACES 32u
#define DAEMON_GUEST_FILESYSTEMS 64u
#define DAEMON_GUEST_DISKS 128u
#define DAEMON_GUEST_ALL 255u
/* An object with the parts as the agent tells them, and "failed" for those that it does not. */
void daemon_guest_info(struct daemon *daemon, struct vm *vm, unsigned what, daemon_done_fn done, void *opaque);
struct daemon_guest_exec {
	const char *path;
	json_object *arguments, *environment; /* arrays of strings; NULL: none */
	const char *input_base64;	      /* or NULL */
	double timeout;
};
/* Answers when the program has ended: {"pid","exit_code"|"signal","output_base64","errors_base64",…}. */
void daemon_guest_exec(struct daemon *daemon, struct vm *vm, const struct daemon_guest_exec *exec, daemon_done_fn done, void *opaque);
/* {"data_base64","bytes","eof"} */
void daemon_guest_read_file(struct daemon *daemon, struct vm *vm, const char *path, int64_t offset, int64_t count, daemon_done_fn done,
			    void *opaque);
/* {"bytes"}; `bytes` is how many `base64` stands for. */
void daemon_guest_write_file(struct daemon *daemon, struct vm *vm, const char *path, const char *base64, int64_t bytes, bool append,
			     daemon_done_fn done, void *opaque);
/* mode: powerdown, reboot or halt. or_button: by the power button where there is no agent that does it. */
void daemon_guest_end(struct daemon *daemon, struct vm *vm, const char *mode, bool or_button, daemon_done_fn done, void *opaque);

/* ---- events ----------------------------------------------------------------- */

/* Each event is {"time","event","uuid","name",…}; the listener may keep a reference. */
typedef void (*daemon_event_fn)(void *opaque, json_object *event);
struct daemon_listener;
struct daemon_listener *daemon_listen(struct daemon *daemon, daemon_event_fn fn, void *opaque);
/* Allowed from within a listener. Accepts NULL. */
void daemon_unlisten(struct daemon_listener *listener);

/* What the store kept, newest first. kind: "events", "decisions" or "results"; vm NULL: of all. */
void daemon_history(struct daemon *daemon, const char *kind, struct vm *vm, unsigned limit, daemon_done_fn done,
		    void *opaque);

#endif
