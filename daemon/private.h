/* Inside trivisord: the registry of VMs and their processes. All of it belongs to the event loop's thread. */
#ifndef DAEMON_PRIVATE_H
#define DAEMON_PRIVATE_H

#include "daemon/daemon.h"
#include "daemon/settings.h"
#include "daemon/store.h"
#include "daemon/vmlink.h"
#include "policy/policy.h"
#include "proto/control.h"
#include "proto/vmdef.h"

#include <event2/event.h>
#include <limits.h>
#include <sys/queue.h>
#include <sys/types.h>

/* Somebody who waits for an answer: of a start, of a destroy. */
struct pending {
	STAILQ_ENTRY(pending) link;
	daemon_done_fn done;
	void *opaque;
};
STAILQ_HEAD(pending_list, pending);

/* One trivisor-vm, from its start (or adoption) until its end was recorded. */
struct vm_process {
	struct vm *vm;
	struct vmdef *def; /* what it was started with: the VM's may be replaced meanwhile */
	int id;            /* for people: small, positive */
	pid_t pid;
	int pidfd;
	struct event *exit_event;
	char dir[PATH_MAX];
	char console[PATH_MAX];
	char mode[8];
	json_object *cpu; /* the processor's model; NULL until its process has told */
	char *mode_reason;
	double started; /* seconds since the epoch */
	bool adopted;
	bool agent;      /* a guest agent has its channel open */
	uint64_t memory_kib; /* what the guest has; 0: not known yet */
	bool ready;      /* hello and status were answered */
	bool exited;     /* the process is gone; its last messages may still come */
	int exit_status; /* si_code and si_status of waitid, when it was our child */
	int exit_code_kind;
	bool exit_known;
	struct vmlink *vmlink; /* NULL while not connected */
	struct event *connect_timer;
	unsigned connect_delay_ms;
	double connect_deadline;    /* CLOCK_MONOTONIC seconds; 0: none (an adopted or running one) */
	struct event *kill_timer;   /* destroy was asked for: SIGKILL when it does not end by itself */
	struct event *linger_timer; /* it exited: how long to wait for its last messages */
	struct pending_list starts, destroys;
	enum vm_state told_state;        /* a final one: how it said that it ends, for when it cannot write its result */
	char told_reason[300];           /* and why; "" when it said nothing of the kind */
	char failure[600];               /* why we ended it ourselves, "" otherwise */
	bool terminated, killed;         /* because a destroy was asked for: SIGTERM, SIGKILL were sent */
	double event_tokens, event_time; /* how many events it may send now; monotonic seconds of the last one */
	unsigned events_dropped;
};

struct vm {
	TAILQ_ENTRY(vm) link;
	struct daemon *daemon;
	char uuid[VMDEF_UUID_BYTES];
	char name[VMDEF_NAME_MAX + 1];
	struct vmdef *def;
	json_object *definition;
	double created;
	bool transient;
	bool storing;    /* not yet in the store: nobody was told of it */
	bool forgetting; /* being deleted from the store */
	bool keeping;    /* transient, and being put into the store */
	bool ran;        /* state is meaningful; otherwise it is "defined" */
	enum vm_state state;
	json_object *decision, *result; /* the last ones; NULL */
	struct vm_process *process;
	struct daemon_owner *owner;
	struct event *claim_timer; /* adopted, and its client has not come back yet */
	LIST_ENTRY(vm) owned;
	LIST_HEAD(, daemon_wait) waits;
};

struct daemon_wait {
	LIST_ENTRY(daemon_wait) link;
	struct event *timer;
	daemon_done_fn done;
	void *opaque;
};

struct daemon_owner {
	struct daemon *daemon;
	LIST_HEAD(, vm) vms;
};

struct daemon_listener {
	struct daemon_listener *next;
	struct daemon *daemon;
	daemon_event_fn fn; /* NULL: to be freed once nobody walks the list */
	void *opaque;
};

struct daemon {
	struct event_base *base;
	struct settings *settings;
	struct store *store;
	struct pools *pools;
	struct networks *networks;
	LIST_HEAD(, image_job) images;
	unsigned last_image;
	int lock_fd; /* of the runtime directory */
	char vms_dir[PATH_MAX];
	double started;
	TAILQ_HEAD(, vm) vms;
	unsigned vm_count;
	int last_id; /* of a process */
	struct daemon_listener *listeners;
	unsigned telling; /* walks of the list in progress */
	void (*transient_done)(void *opaque);
	void *transient_opaque;
	bool ending;
	struct policy_host host;               /* as it was last probed */
	struct policy_calibration calibration; /* of this host as it is now; not valid: never measured */
	struct policy_memory memory;           /* of VMs and outcomes */
	struct calibration *calibrating;       /* while it is being measured */
	struct event *calibrate_timer;
	LIST_HEAD(, plan) plans; /* that are being made */
};

/* ---- small things (registry.c) ---- */

double epoch_seconds(void);
double monotonic_seconds(void);
__attribute__((format(printf, 4, 5))) void answer_error(daemon_done_fn done, void *opaque, enum daemon_error_code code,
							const char *format, ...);
static inline void put_text(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, text ? json_object_new_string(text) : NULL);
}
struct timeval milliseconds(unsigned ms);

/* ---- registry.c ---- */

/* Takes def. NULL: out of memory. */
struct vm *registry_add(struct daemon *daemon, struct vmdef *def, double created);
/* Replaces the definition. Takes def. */
int registry_set_definition(struct vm *vm, struct vmdef *def);
/* Also those that are being stored. */
struct vm *registry_find_uuid(struct daemon *daemon, const char *uuid);
struct vm *registry_find_name(struct daemon *daemon, const char *name);
/* It must not have a process. Waits are answered. Accepts NULL. */
void registry_remove(struct vm *vm);
/* For a process: wished if it is free, else the next. */
int registry_take_id(struct daemon *daemon, int wished);
/* "defined" or the name of the state. */
const char *vm_state_text(const struct vm *vm);
void registry_set_result(struct vm *vm, json_object *result);
void registry_set_decision(struct vm *vm, json_object *decision);
/* Every daemon_wait on it, with its result. */
void registry_answer_waits(struct vm *vm);
/* What vm.start answers. The caller puts it. */
json_object *registry_started_json(const struct vm *vm);

/* ---- events.c ---- */

/* Takes params (NULL: none beyond the standard ones). Kept in the store and told to every listener. */
void event_emit(struct vm *vm, const char *event, json_object *params);
/* The same of something else than a VM. */
void event_tell(struct daemon *daemon, const char *event, const char *uuid, const char *name, json_object *params);

/* ---- supervisor.c ---- */

/* Starts trivisor-vm; done answers once it runs or failed. */
void supervisor_start(struct vm *vm, enum policy_mode mode, const char *mode_reason, const struct daemon_start *options,
		      daemon_done_fn done, void *opaque);
/* Asks it to end, and kills it when it does not. done may be NULL. */
void supervisor_end(struct vm *vm, daemon_done_fn done, void *opaque);
/*
 * Starts a program in a session of its own, nothing inherited; standard output goes to stdout_fd (-1: the log) and
 * standard error to the log. 0 or -errno.
 */
int supervisor_spawn(char *const argv[], const char *log_path, int stdout_fd, pid_t *ret_pid);
/* Lets go of the process without touching it. Accepts NULL. */
void supervisor_release(struct vm_process *process);

/* ---- calibrate.c ---- */

/* Takes up what is stored, ends what a killed daemon left, and has the host measured soon if that is due. */
void calibrate_init(struct daemon *daemon);
/* Ends a calibration in progress; nobody is answered. */
void calibrate_finish(struct daemon *daemon);

/* ---- plan.c ---- */

/* Waits for plans in the making; nobody is answered. */
void plans_finish(struct daemon *daemon);

/* ---- learning.c ---- */

#define LEARNING_KEY_BYTES 80
/* What a VM is remembered by: its UUID, or what it boots if it is transient and another one each time. */
void learning_key(const struct vmdef *def, bool transient, char ret_key[LEARNING_KEY_BYTES]);
void learning_load(struct daemon *daemon);
/* A VM has ended; vm->decision says what was thought and vm->result what it did. */
void learning_take(struct vm *vm);
/* A VM was undefined. */
void learning_forget(struct vm *vm);

/* ---- adopt.c ---- */

/* Takes in what runs under the runtime directory, and the results of what ended while no daemon was there. */
void adopt_all(struct daemon *daemon);
/* Watches a process that was found. pidfd is taken. 0 or -errno. */
int supervisor_adopt(struct vm *vm, pid_t pid, int pidfd, const char *dir, const char *mode, int id);

/* ---- vmdir.c ---- */

/* Makes it, with definition.json for the process and daemon.json for the next daemon that finds it. 0 or -errno. */
int vmdir_prepare(struct vm *vm, const char *dir, const char *mode, bool no_reboot, int id);
/* daemon.json alone, after transient or owner have changed. 0 or -errno. */
/* definition.json anew, for the next daemon. */
int vmdir_write_definition(const char *dir, const struct vmdef *def);
int vmdir_write_note(struct vm *vm, const char *dir, const char *mode, int id);
/* An object from a file there, for the caller to put; NULL when there is none that can be used (that is logged). */
json_object *vmdir_read_json(const char *dir, const char *name);
/* The definition that the process of this directory was started with; NULL when it cannot be read. */
struct vmdef *vmdir_read_definition(const char *dir);
/* Records how a VM ended: result.json if it is there, else `state`, for `why`. Removes a transient VM's directory. */
void vmdir_record(struct vm *vm, const char *dir, double started, enum vm_state state, const char *why);
/* Removes it and the files in it. There may be none. */
void vmdir_remove(const char *dir);

#endif
