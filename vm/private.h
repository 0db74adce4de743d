/* Inside trivisor-vm: the VM process's own structure and what its parts offer each other. */
#ifndef VM_PRIVATE_H
#define VM_PRIVATE_H

#include "machine/machine.h"
#include "machine/vfio/vfio.h"
#include "modes/mode.h"
#include "proto/control.h"
#include "proto/vmdef.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

struct event;
struct event_base;
struct vmware_config;
struct json_object;
struct vm_agent;
struct vm_control;
struct vm_server;
struct vm_attach;
struct vm_console;
struct vm_gdb;
struct vm_keyboard;
struct vm_profile;
struct vm_vnc;

#define VM_REASON_BYTES 512
#define VM_DISPLAY_ROM "/usr/share/seabios/vgabios-stdvga.bin"

struct vm_options {
	char dir[PATH_MAX - 64]; /* absolute */
	const char *mode;
	const char *mode_reason;
	bool foreground; /* log to stderr */
	bool no_sandbox; /* for debuggers */
	const char *attach; /* only hand over files: the request */
	bool paused;     /* start without running a guest instruction */
};

/* What vCPU threads are asked to do. */
enum vm_want { VM_WANT_PARK, VM_WANT_RUN, VM_WANT_QUIT };

struct vm_vcpu {
	struct vm *vm;
	unsigned index;
	pthread_t thread;
	bool has_thread;
	struct mode_vcpu *engine;
	/* Under vm->lock. */
	bool parked; /* not in the engine, and will not enter it while want is not RUN */
	bool dead;   /* shut down or failed: stays parked until a reset */
	bool held;   /* the debugger lets others run, not this one */
	bool has_hit; /* it stopped for the debugger, which has not continued it */
	struct mode_debug_hit hit;
	/* Written by the vCPU's thread only. */
	_Atomic uint64_t halts, interruptions;
};

/* A debugger's hold on the VM (debug.c). Main thread. */
struct vm_debug {
	bool attached;
	bool stopped; /* the debugger alone may continue it */
	bool crashed; /* a vCPU has ended: the debugger may look before the VM does */
	struct event *tell_timer;
	/* Called when the VM has stopped, by vCPU `vcpu`. hit NULL: it crashed. */
	void (*on_stop)(void *opaque, unsigned vcpu, const struct mode_debug_hit *hit);
	void *opaque;
};

/*
 * Threads: everything here belongs to the main (event loop) thread, but for the parts marked otherwise.
 * Lock order: the machine's lock, then the console's. vm->lock is innermost; only lock-free calls are made under it.
 */
struct vm {
	struct vm_options options;
	struct vmdef *def;
	const struct mode_ops *mode;
	struct machine *machine;
	char variant[32]; /* of the mode, on this host: hvm/ept; "" until it is known */
	struct vfio_claim *passthrough; /* NULL: none */
	int nic_keeper[VMDEF_NICS_MAX]; /* of a NIC's macvtap: it goes when this is closed; 0: none */
	struct mode_vm *engine;
	struct event_base *base;
	struct vm_control *control;
	struct vm_console *console;
	struct vm_gdb *gdb;
	struct vm_agent *agent; /* NULL: it has no channel */
	struct event *balloon_timer; /* since listeners were told last */
	uint64_t balloon_told_kib;
	int channel_fd[VMDEF_CHANNELS_MAX]; /* listening, until the machine has them; -1 */
	struct vm_profile *profile;
	struct vm_vnc *vnc; /* NULL: no viewers */
	struct vm_keyboard *keyboard; /* NULL: nobody has typed yet */
	struct vm_debug debug;
	int vsock_listener, vsock_connector; /* until the machine has them; -1: none */
	struct vm_attach *attach;
	struct machine_smbios smbios;
	struct vm_server *share_servers; /* by the folder's number; NULL: there are none */
	struct vm_server *disk_servers; /* by the disk's number; NULL: none of them needs one */

	enum vm_state state;
	char reason[VM_REASON_BYTES];
	int exit_code;
	bool no_reboot;
	bool reboot_at_poweroff; /* a reboot was asked for through the power button */
	uint64_t start_ns; /* CLOCK_MONOTONIC at the process's start */
	double started, ended; /* seconds since the epoch */
	bool halted; /* vCPUs out of the engine, the machine's clock stopped */
	uint64_t paused_ns, pause_began_ns;
	uint64_t resets;
	struct event *user_space_timer, *signal_event, *wake_event;
	int signal_fd;

	/* From other threads to the loop: set bits, then write wake_fd. */
	int wake_fd;
	atomic_uint machine_events; /* 1 << enum machine_event */
	atomic_uint debug_exit_value;
	atomic_uint panic_code;
	atomic_uint nvram_error; /* errno */
	atomic_uint disk_error;  /* its number << 16 | errno */
	atomic_uint tools_answer; /* of the guest's tools, asked for a shutdown: 1 yes, 2 no */
	struct event *tools_timer; /* runs while they are asked */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	enum vm_want want; /* under lock */
	struct mode_exit outcome; /* under lock: the first vCPU's end */
	unsigned outcome_vcpu;
	bool has_outcome;
	unsigned hits; /* vCPUs that have had one since the debugger continued: the first one counts */
	unsigned first_hit;

	struct vm_vcpu vcpus[MACHINE_MAX_VCPUS];
	unsigned vcpu_count;
};

/* ---- log.c: one line with the time, to DIR/log (or stderr). Bounded, any thread. ---- */
int vm_log_open(const struct vm_options *options);
__attribute__((format(printf, 1, 2))) void vm_log(const char *format, ...);

/* ---- lifecycle.c: main thread only ---- */

/* Makes the machine, the engine, loads what is to boot. 0, or -errno and vm->reason says why. */
int vm_build(struct vm *vm);
/* Starts the vCPU threads. After this the state is running. */
int vm_start(struct vm *vm);
/*
 * 0; -EBUSY when not possible in this state; -EPERM when a debugger has stopped it; -ETIMEDOUT when a vCPU does not leave
 * the engine.
 */
int vm_pause(struct vm *vm);
int vm_resume(struct vm *vm);
/* The reset button: the same VM from power-on again, whatever its guest's own resets do. 0 or -EBUSY. */
int vm_reset(struct vm *vm);
/* The power button, and power-on again once the guest has powered off. 0 or -EBUSY. */
int vm_reboot(struct vm *vm);
/* Who is asked to shut the guest down: its tools if they answer, else ACPI's power button; or one of them only. */
enum vm_shutdown_by { VM_SHUTDOWN_ANY, VM_SHUTDOWN_TOOLS, VM_SHUTDOWN_ACPI };
/* 0, -EBUSY, and of tools alone -ENOTSUP (the machine has none) or -EAGAIN (they do not answer). */
int vm_shutdown(struct vm *vm, enum vm_shutdown_by by);
/* Stops vCPUs and the machine's time, and lets them go on: the state that users see stays. Both are idempotent. */
int vm_halt(struct vm *vm);
void vm_go(struct vm *vm);
/* For users and the log: state and why. */
void vm_set_state(struct vm *vm, enum vm_state state, const char *reason);
/* What a vCPU's end means for the VM, once the debugger (if any) has seen it. */
void vm_end_by_outcome(struct vm *vm);

/* Ends the VM: vCPUs out, result written, everybody told, loop left. Only the first call counts. */
__attribute__((format(printf, 4, 5))) void vm_finish(struct vm *vm, enum vm_state state, int exit_code,
						      const char *format, ...);
/* Frees what vm_build made. Accepts a half-built VM. */
void vm_teardown(struct vm *vm);
/* Wakes the event loop to look at machine_events, outcome and console output. Any thread. */
void vm_wake(struct vm *vm);
/* The loop's side of vm_wake. */
void vm_handle_wake(struct vm *vm);

/* ---- memory.c: main thread, vCPUs halted (else what it says may be gone already) ---- */
struct vm_translation {
	gpa_t gpa;
	uint64_t page_bytes;
	bool writable, user, executable;
};
/* By the page tables as they are in memory; sets no accessed bits. False: not mapped. */
bool vm_translate(struct vm *vm, const struct cpu_state *cs, gva_t gva, struct vm_translation *ret);
/* RAM and (reading) ROM only. How many bytes were done, from the start. */
size_t vm_read_physical(struct vm *vm, gpa_t gpa, void *buf, size_t n);
size_t vm_write_physical(struct vm *vm, gpa_t gpa, const void *buf, size_t n);
size_t vm_read_linear(struct vm *vm, const struct cpu_state *cs, gva_t gva, void *buf, size_t n);
size_t vm_write_linear(struct vm *vm, const struct cpu_state *cs, gva_t gva, const void *buf, size_t n);
/* Aligned as the type wants. The caller frees it. NULL: out of memory. */
struct cpu_state *vm_state_alloc(void);

/* ---- debug.c: run control for a debugger; main thread ---- */
enum vm_debug_action { VM_DEBUG_HOLD, VM_DEBUG_GO, VM_DEBUG_STEP };
/* 0, -EBUSY (somebody else does), -ENOTSUP (the engine cannot), -ESRCH (not in this state); then it is stopped. */
int vm_debug_attach(struct vm *vm, void (*on_stop)(void *opaque, unsigned vcpu, const struct mode_debug_hit *hit),
		    void *opaque);
/* Forgets all points and lets the VM go on. */
void vm_debug_detach(struct vm *vm);
/* Stops it; on_stop is not called. 0 or -ETIMEDOUT. */
int vm_debug_stop(struct vm *vm);
/* An action for each vCPU. on_stop may be called before it returns. */
void vm_debug_go(struct vm *vm, const enum vm_debug_action *actions);
/* While stopped: these replace the engine's. 0, -ENOSPC. */
int vm_debug_points(struct vm *vm, const struct mode_debug_point *points, size_t n);
/* The loop's side: looks for vCPUs that have stopped. */
void vm_debug_look(struct vm *vm);
/* A vCPU has ended. True: the debugger looks at it, and the VM lives on till it says so. */
bool vm_debug_crash(struct vm *vm, unsigned vcpu);
void vm_debug_finish(struct vm *vm);

/* ---- gdb.c: the remote protocol's server ---- */
/* Binds the socket; listens if the definition wants a debugger. 0 or -errno. */
int vm_gdb_open(struct vm *vm);
/* Listens now (idempotent). 0 or -errno. */
int vm_gdb_enable(struct vm *vm);
const char *vm_gdb_path(const struct vm *vm);
bool vm_gdb_enabled(const struct vm *vm);
bool vm_gdb_connected(const struct vm *vm);
/* For clients that come from now on. */
void vm_gdb_set_architecture(struct vm *vm, enum vmdef_gdb_architecture architecture);
/* The VM has ended: tells the client. */
void vm_gdb_ended(struct vm *vm);
void vm_gdb_close(struct vm *vm);

/* ---- passthrough.c ---- */
/* Takes the devices that the definition names from the host. 0, or -errno and vm->reason says why. */
int vm_passthrough_claim(struct vm *vm);

/* ---- screen.c ---- */
/* A picture of the screen, into `to`: "format", "width", "height", "data" (base64). 0, -ENODEV (no screen), -ENOMEM. */
int vm_screenshot_json(struct vm *vm, bool ppm, struct json_object *to);

/* ---- vnc.c: viewers, on threads of their own ---- */
/* Listens, before the sandbox, if the definition wants viewers. 0, or -errno and vm->reason says why. */
int vm_vnc_open(struct vm *vm);
/* Lets them in. The machine is there. 0 or -errno. */
int vm_vnc_start(struct vm *vm);
unsigned vm_vnc_viewers(const struct vm *vm);
/* Before the machine goes. False: a thread of libvncserver has not ended, and still uses all of this. */
bool vm_vnc_close(struct vm *vm);

/* ---- keyboard.c ---- */
/*
 * A stroke: keys by Linux's codes (at most KEYS_AT_ONCE) go down in this order, and after so long up in the opposite one.
 * Strokes follow each other. 0, -ENODEV (no keyboard), -EBUSY (not in this state), -EAGAIN (too many wait), -ENOMEM.
 */
int vm_send_keys(struct vm *vm, const unsigned *keys, unsigned count, unsigned hold_ms);
/* The same for each character, as on a US keyboard. -EILSEQ: no key has that one at *ret_bad; nothing is typed. */
int vm_send_text(struct vm *vm, const char *text, size_t *ret_bad);
void vm_keyboard_close(struct vm *vm);

/* ---- disks.c ---- */
/* Starts a server for each disk whose format is not raw, or that has a temporary image. 0, or -errno and vm->reason says why. */
int vm_disks_prepare(struct vm *vm);
bool vm_disk_needs_server(const struct vmdef_disk *disk);
/* Starts the server of one. 0, or -errno and vm->reason says why. */
int vm_disk_start_server(struct vm *vm, const struct vmdef_disk *disk, struct vm_server *server);
/* Adds all disks to the machine. The same. */
int vm_disks_add(struct vm *vm);
/* By the machine's number, which counts no CD-ROM drives; or NULL. */
const struct vmdef_disk *vm_disk_numbered(const struct vm *vm, unsigned number);
/* After the machine is gone: waits until the servers have closed their images. */
void vm_disks_finish(struct vm *vm);

/* ---- seed.c ---- */
/* Makes the disk for cloud-init, if the definition wants one. 0, or -errno and vm->reason says why. */
int vm_seed_prepare(struct vm *vm);
/* Adds it to the machine, behind all others. The same. */
int vm_seed_add(struct vm *vm);

/* ---- network.c ---- */
/* Makes what has to be there before the sandbox closes: macvtaps. 0, or -errno and vm->reason says why. */
int vm_nics_prepare(struct vm *vm);
/* Adds the definition's NIC of that number. 0, or -errno and *ret_why (static) says why. */
int vm_nic_add(struct vm *vm, unsigned number, const char **ret_why);
/* Link and limits are as vm->def says from now on. */
void vm_nic_apply(struct vm *vm, unsigned number);

/* ---- channels.c ---- */
/* Makes the channels' sockets. 0, or -errno and vm->reason says why. */
int vm_channels_prepare(struct vm *vm);
/* Adds channels, agent and console to the machine. 0, or -errno and *ret_why says why. */
int vm_channels_add(struct vm *vm, const char **ret_why);
const char *vm_channel_path(const struct vm *vm, unsigned number, char ret_path[PATH_MAX]);
/* An array of {"name","path","connected"}; the caller puts it. */
struct json_object *vm_channels_json(const struct vm *vm);
void vm_channels_close(struct vm *vm);

/* ---- balloon.c; main thread ---- */
/* Adds it to the machine as the definition says. 0, or -errno and *ret_why says why. */
int vm_balloon_add(struct vm *vm, const char **ret_why);
/* What the guest has, by its own word; all, where there is no balloon. */
uint64_t vm_balloon_kib(struct vm *vm);
/* The guest says that it has given or taken memory: listeners are told, now and then. */
void vm_balloon_look(struct vm *vm);
/* What the guest is to have (0: as it was), how often it is asked (-1: as it was). 0, or -ENODEV: there is no balloon. */
int vm_balloon_set(struct vm *vm, int64_t memory_mib, int64_t stats_seconds);
/* {"memory_kib","wished_kib","stats_seconds","stats","stats_age_seconds"} for the caller to put; NULL: there is no balloon. */
struct json_object *vm_balloon_json(struct vm *vm);
void vm_balloon_close(struct vm *vm);

/* ---- agent.c: the QEMU guest agent; main thread ---- */
#define VM_AGENT_PORT 0u /* among the machine's ports */
/* Makes the channel; the machine's end. 0 or -errno. */
int vm_agent_open(struct vm *vm, int *ret_fd);
/* code: 0, then result is what the agent returned (valid during the call); or a CONTROL_ERROR_…, then message says why. */
typedef void (*vm_agent_done)(void *opaque, int code, const char *message, struct json_object *result);
/* Asks for a command, after those that came before. arguments: an object (kept), or NULL. done is called once. */
void vm_agent_call(struct vm *vm, const char *command, struct json_object *arguments, double timeout, vm_agent_done done,
		   void *opaque);
/* A program in the guest has the channel open. */
bool vm_agent_is_open(const struct vm *vm);
/* Somebody in the guest may have opened or closed it. */
void vm_agent_look(struct vm *vm);
/* The VM has ended: answers those who wait. */
void vm_agent_stop(struct vm *vm);
void vm_agent_close(struct vm *vm);
/* ---- server.c: a program that serves this VM over a socket ---- */
struct vm_server {
	struct vm *vm; /* NULL: there is none */
	const char *kind, *path; /* for the log; NULL until it is watched */
	int socket; /* to it; whoever takes it over writes -1 here */
	pid_t pid;
	int pidfd;
	int messages; /* what it writes to standard error */
	struct event *event;
};
#define VM_SERVER_LISTENER 3 /* the program's descriptor of a listening socket, to which we have connected already */
void vm_server_init(struct vm_server *server);
/*
 * Starts it before the sandbox: become runs in the child, and returns only if the program cannot be executed. 0, or -errno and
 * vm->reason says why.
 */
int vm_server_start(struct vm *vm, struct vm_server *server, const char *name, void (*become)(const void *opaque), const void *opaque);
/* Waits until it has sent something (true), or has ended. */
bool vm_server_answers(const struct vm_server *server);
/* Waits for its end; what it said last, without the program's name in front. */
void vm_server_last_words(struct vm_server *server, const char *program, char *ret_text, size_t bytes);
/* Its messages go to the log. 0 or -errno. */
int vm_server_watch(struct vm_server *server, const char *kind, const char *path);
/* Ends it, and waits for that. One that is not there is fine. */
void vm_server_finish(struct vm_server *server);
/* Forgets it. */
void vm_server_close(struct vm_server *server);

/* ---- attach.c ---- */
/* From now on files can be handed over. 0 or -errno. */
int vm_attach_open(struct vm *vm);
void vm_attach_close(struct vm *vm);
/* Of a process that only does this (--attach): opens files and hands them to the VM of vm->options.dir. An exit status. */
int vm_attach_main(struct vm *vm, const char *request);

/* ---- shares.c ---- */
/* Starts a server for each folder. As vm_disks_prepare, vm_disks_add, vm_disks_finish. */
int vm_shares_prepare(struct vm *vm);
int vm_shares_add(struct vm *vm);
void vm_shares_finish(struct vm *vm);

/* ---- vsock.c ---- */
/* Before the sandbox: the socket of the host's programs, and a process that connects to those that listen. As vm_disks_prepare. */
int vm_vsock_prepare(struct vm *vm);
/* Adds the device. 0, or -errno and *ret_why (static) says why. */
int vm_vsock_add(struct vm *vm, const char **ret_why);

/* ---- tools.c: main thread ---- */
/* Of VMware's backdoor. 0, or -ENOTSUP and vm->reason says why this mode has none. */
int vm_tools_config(struct vm *vm, struct vmware_config *ret);
/* The definition's variables. 0 or -errno. */
int vm_tools_fill(struct vm *vm);
/*
 * Asks the guest's tools for it; if they refuse, or say nothing for some seconds, the power button is pressed. -ENOTSUP,
 * -EAGAIN: there are none.
 */
int vm_tools_shutdown(struct vm *vm);
int vm_tools_reboot(struct vm *vm);
/* The loop's side: what they said. */
void vm_tools_look(struct vm *vm);
void vm_tools_close(struct vm *vm);
/* What they tell of the guest, and the variables by name. 0 or -ENOTSUP. */
int vm_tools_json(struct vm *vm, struct json_object *to);
int vm_tools_variables_json(struct vm *vm, struct json_object *to);

/* ---- nvram.c ---- */
/* Makes boot.nvram.path from its template when it is not there yet. 0, or -errno and vm->reason says why. */
int vm_nvram_prepare(struct vm *vm);

/* ---- crash.c: registers, code and stack of a parked vCPU, into the log ---- */
void vm_log_crash(struct vm *vm, unsigned index);

/* ---- control.c ---- */
int vm_control_open(struct vm *vm);
void vm_control_close(struct vm *vm);
/* Tells every client; takes over `params` (an object), to which the event's name and time are added. */
void vm_control_notify(struct vm *vm, const char *event, struct json_object *params);
size_t vm_control_unsent(const struct vm *vm);

/* ---- console.c ---- */
/* 0, or -errno and vm->reason says why. */
int vm_console_open(struct vm *vm);
/* No more clients; guest output is still taken (and lost). */
void vm_console_stop(struct vm *vm);
/* After the machine is gone. */
void vm_console_free(struct vm *vm);
/* Guest output: any thread, never blocks. */
void vm_console_output(struct vm *vm, const void *bytes, size_t n);
/* The writer's window, in characters. */
void vm_console_set_size(struct vm *vm, unsigned columns, unsigned rows);
/* Counters, for the caller to put. */
struct json_object *vm_console_json(struct vm *vm);
/* Sends what clients can take now. Returns bytes still owed to them. */
size_t vm_console_flush(struct vm *vm);

/* ---- console_log.c ---- */
struct console_log;
/* limit: bytes. 0 or -errno (-EINVAL: no regular file). */
int console_log_open(const char *path, uint64_t limit, bool append, struct console_log **ret);
/* At most half of its limit at once. A failure goes into the VM's log, once until it works again. */
void console_log_write(struct console_log *log, const uint8_t *bytes, size_t n);
/* Accepts NULL. */
void console_log_close(struct console_log *log);

/* ---- cpu.c: the processor's model for people; the caller puts it ---- */
struct json_object *vm_cpu_json(struct vm *vm);

/* ---- registers.c ---- */
/*
 * An array with an object for each vCPU (vcpu < 0: all), for the caller to put; stops them for a moment. 0, -EBUSY (not in
 * this state), -ENOTSUP, -ERANGE (no such vCPU), -ETIMEDOUT.
 */
int vm_registers_json(struct vm *vm, int vcpu, bool vector, struct json_object **ret);

/* ---- disassemble.c ---- */
#define VM_DISASSEMBLE_MAX 256u /* instructions */
/*
 * At most `max` instructions of bits 16, 32 or 64; what is none is a byte each. fn is called for each. How many bytes they
 * were.
 */
size_t vm_disassemble(const uint8_t *bytes, size_t n, uint64_t address, unsigned bits, size_t max,
		      void (*fn)(void *opaque, uint64_t address, const uint8_t *bytes, size_t n, const char *text), void *opaque);
/* The same as an array of {"address","bytes","text"}, for the caller to put. */
struct json_object *vm_disassemble_json(const uint8_t *bytes, size_t n, uint64_t address, unsigned bits, size_t max);
/*
 * What a vCPU sees at a linear address (NULL: where it is), with the translations that begin there, put into `to`. bits 0: as
 * the vCPU's mode is. Stops the vCPUs for a moment. 0, -EFAULT (not mapped), -EBUSY, -ENOTSUP, -ENOMEM, -ETIMEDOUT.
 */
int vm_disassembly_json(struct vm *vm, unsigned vcpu, const uint64_t *address, unsigned count, unsigned bits,
			struct json_object *to);
/* Names of all translations for perf(1), into the VM's directory; the path. 0 or -errno. */
int vm_write_perf_map(struct vm *vm, char *ret_path, size_t bytes);

/* ---- profile.c ---- */
/* Starts the slow sampling. 0 or -errno. */
int vm_profile_open(struct vm *vm);
void vm_profile_close(struct vm *vm);
/* Samples since the VM's start by where they fell, and those in helpers by instruction; NULL without. The caller puts it. */
struct json_object *vm_profile_where_json(struct vm *vm);
struct json_object *vm_profile_helpers_json(struct vm *vm);
/*
 * Samples fast for so long, then calls done with what it found, which done puts (NULL: the VM has ended). 0; -EBUSY not
 * running, -EALREADY somebody else does, -ENOTSUP, -ENOMEM.
 */
int vm_profile_start(struct vm *vm, double seconds, unsigned top, void (*done)(void *opaque, struct json_object *result),
		     void *opaque);
/* True: done will not be called any more. False: this one samples nothing. */
bool vm_profile_cancel(struct vm *vm, void *opaque);

/* ---- stats.c ---- */
/* The caller puts it. */
struct json_object *vm_stats_json(struct vm *vm);
/* Host seconds from the process's start to the first user-mode instruction; negative when there was none. */
double vm_boot_seconds(const struct vm *vm);
/* Writes DIR/result.json from vm's final state. 0 or -errno. */
int vm_write_result(struct vm *vm);

/* ---- sandbox.c ---- */
/* Before threads and files of the guest: limits, no new privileges, capabilities, the file system. */
int vm_sandbox_early(struct vm *vm);
/* After set-up: the system call filter, on all threads. */
int vm_sandbox_enter(struct vm *vm);

uint64_t vm_now_ns(void);
double vm_epoch_seconds(void);

#endif
