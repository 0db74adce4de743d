/*
 * The one interface between a VM process and the ways of running guest code (bt, hvm, pv).
 * Users of a mode need no other header of it; call it only through the mode_*() wrappers below.
 *
 * Host errors are 0 or -errno. What a guest did is an enum mode_exit_reason. The two are never mixed.
 */
#ifndef MODES_MODE_H
#define MODES_MODE_H

#include "machine/cpu_state.h"
#include "machine/cpuid.h"
#include "machine/types.h"

struct machine;
struct machine_boot;
struct mode_vm;   /* an engine's per-VM state */
struct mode_vcpu; /* an engine's per-vCPU state */

enum mode_capability {
	MODE_CAP_STATE = 1u << 0,       /* get_state and set_state work */
	MODE_CAP_OWN_IRQCHIP = 1u << 1, /* LAPIC/IOAPIC/PIC live in the engine, not in machine/ */
	MODE_CAP_INSTRUCTIONS = 1u << 2, /* statistics include counted guest instructions */
	MODE_CAP_DEBUG = 1u << 3,        /* debug_points and debug_step work */
	MODE_CAP_PASSTHROUGH = 1u << 5,  /* devices of the host: it maps machine_windows, and its kernel takes their interrupts */
	MODE_CAP_XEN = 1u << 6,          /* the guest is a Xen domain: disks and NICs are machine/xen's, and a PC's devices are not there */
	MODE_CAP_PROFILE = 1u << 4,      /* sample, samples and translations work */
};

/* Why a vCPU stopped running guest code. Port I/O and MMIO are served inside run, through machine/. */
enum mode_exit_reason {
	MODE_EXIT_INTERRUPTED, /* kicked: look at what is asked of you, then run again */
	MODE_EXIT_HALT,        /* wait for an event, then run again; `masked` tells which end it */
	MODE_EXIT_SHUTDOWN,    /* triple fault */
	MODE_EXIT_ERROR,       /* the engine met what it cannot run; `message` says what and where */
	MODE_EXIT_DEBUG,       /* a debugger's point or the end of its step; `debug` says which */
};

/* Where a debugger wants to be told. The guest sees nothing of them. */
enum mode_debug_kind { MODE_DEBUG_EXEC = 1, MODE_DEBUG_READ = 2, MODE_DEBUG_WRITE = 4 };
struct mode_debug_point {
	gva_t gva; /* linear */
	uint32_t bytes;
	uint32_t kind; /* enum mode_debug_kind; READ | WRITE: either */
};
#define MODE_DEBUG_POINTS_MAX 256

struct mode_debug_hit {
	struct mode_debug_point point; /* kind 0: a step has ended */
	gva_t gva; /* of READ and WRITE: the first byte touched */
};

struct mode_exit {
	enum mode_exit_reason reason;
	bool masked; /* HALT with interrupts off, or waiting for a start-up IPI: an interrupt does not end it */
	char message[256]; /* for SHUTDOWN and ERROR: one line, for people */
	struct mode_debug_hit debug; /* for DEBUG */
};

/* One statistic: a stable name in lower_snake_case, its value, monotonic since the VM's start. */
struct mode_stat {
	const char *name;
	uint64_t value;
};
#define MODE_STATS_MAX 64

/* Where a vCPU was when it was asked (sample). */
enum mode_sample_where {
	MODE_SAMPLE_IDLE,      /* halted, or not in run */
	MODE_SAMPLE_CODE,      /* guest code, translated or native */
	MODE_SAMPLE_MEMORY,    /* the slow path of a memory access: TLB misses, MMIO, stores to code */
	MODE_SAMPLE_HELPER,    /* the helper of an instruction: `helper` is its name */
	MODE_SAMPLE_LOOKUP,    /* finding and linking the next translation */
	MODE_SAMPLE_TRANSLATE, /* translating */
	MODE_SAMPLE_DEVICE,    /* a device's model */
	MODE_SAMPLE_OTHER,     /* the run loop, delivery of events */
	MODE_SAMPLE_COUNT
};
struct mode_sample {
	enum mode_sample_where where;
	const char *helper; /* static */
	gva_t rip;          /* of CODE, linear */
	gva_t block;        /* of CODE: the translation's first instruction, ... */
	gpa_t block_gpa;
	uint16_t block_bytes;
	uint8_t cpl, bits;  /* ... its privilege, and 16, 32 or 64 */
};

/* A translation, for people to look at. */
struct mode_translation {
	gva_t gva;
	gpa_t gpa;
	uint16_t guest_bytes;
	uint8_t cpl, bits, instructions;
	const uint8_t *host; /* its code; valid during the call, at this address where it runs */
	uint32_t host_bytes;
	/* Of each run of host bytes, in ascending order: its first byte, and the guest instruction it is for. */
	struct {
		uint16_t host;
		uint8_t guest;
	} map[255];
	unsigned map_count;
};
typedef void mode_translation_fn(void *opaque, const struct mode_translation *t);

struct mode_probe {
	bool usable;
	char variant[32];  /* e.g. "bt", "hvm/ept" */
	char reason[256];  /* why it is not usable, or what it found */
	char remedy[256];  /* what the user can do about it; empty if nothing */
};

struct mode_ops {
	const char *name;
	unsigned capabilities; /* enum mode_capability bits */

	/* Any thread, no VM needed. Always fills *ret. */
	void (*probe)(struct mode_probe *ret);

	/* For the sandbox: files it opens before the guest runs, and ioctl requests it makes afterwards. End with NULL and 0. */
	const char *const *files;
	const unsigned long *ioctls;

	/* The processor as this mode can show it, for machine_config. NULL: cpuid_model_build. */
	void (*build_cpuid)(struct cpuid_model *ret_model, const struct cpuid_config *config);

	/*
	 * Whether VMware's backdoor works in this mode on this host, for programs too, its data port not included; otherwise
	 * ret_why says why not and what to do. NULL: it does, with the data port.
	 */
	bool (*backdoor_usable)(char *ret_why, size_t bytes);

	/* Order: vm_create, vcpu_create for each vCPU, run, vcpu_destroy for each, vm_destroy. Destructors accept NULL. */
	int (*vm_create)(struct machine *machine, struct mode_vm **ret_vm);
	void (*vm_destroy)(struct mode_vm *vm);
	int (*vcpu_create)(struct mode_vm *vm, unsigned index, struct mode_vcpu **ret_vcpu);
	void (*vcpu_destroy)(struct mode_vcpu *vcpu);

	/*
	 * Loads what is to boot, in place of machine_boot, and fills the first vCPU's state; all vCPUs out of run, and again
	 * after a reset. The others' state is their reset state. NULL: machine_boot. 0 or -errno, as that.
	 */
	int (*boot)(struct mode_vm *vm, const struct machine_boot *what, struct cpu_state *ret_bsp, const char **ret_error);

	/*
	 * Runs guest code on the calling thread (always the same one for a vCPU) until something in enum
	 * mode_exit_reason happens. Interrupts, INIT and SIPI are taken from machine/ inside. 0 or -errno (host failure).
	 */
	int (*vcpu_run)(struct mode_vcpu *vcpu, struct mode_exit *ret_exit);
	/* Makes run return or look at pending interrupts soon. Any thread; async-signal-safe; cheap when repeated. */
	void (*vcpu_kick)(struct mode_vcpu *vcpu);
	/* As kick, and run returns MODE_EXIT_INTERRUPTED. */
	void (*vcpu_stop)(struct mode_vcpu *vcpu);

	/* Only while the vCPU is not in run. */
	int (*get_state)(struct mode_vcpu *vcpu, struct cpu_state *ret_state);
	int (*set_state)(struct mode_vcpu *vcpu, const struct cpu_state *state);

	/*
	 * With MODE_CAP_DEBUG, only while no vCPU is in run. These points replace those before; -ENOSPC: more than
	 * MODE_DEBUG_POINTS_MAX. An EXEC point stops before its instruction (and again, if it is still there on the next
	 * run, unless that is a step), the others behind the instruction that touched a byte of it.
	 */
	int (*debug_points)(struct mode_vm *vm, const struct mode_debug_point *points, size_t n);
	/*
	 * The vCPU executes one instruction (or iteration of a repeated one, or enters the exception it raises) and exits;
	 * interrupts wait, but for one that ends a halt, whose handler's start ends the step too. Holds until taken back.
	 */
	void (*debug_step)(struct mode_vcpu *vcpu, bool on);

	/*
	 * The machine's interrupt controllers and timers are to be taken over as they are now (after power-on, a reset, or
	 * loading a state): for engines that have such of their own, else NULL. All vCPUs out of run, the machine not paused
	 * (resuming it does the same). 0 or -errno.
	 */
	int (*take_devices)(struct mode_vm *vm);

	/*
	 * Which pages of RAM the guest or a device has written since dirty_start or the last collection: ORs bit n for page n
	 * of the RAM file (machine_ram_fd) into `bits`. NULL: this engine does not know. Any thread. 0 or -errno.
	 */
	int (*dirty_start)(struct mode_vm *vm);
	int (*dirty_collect)(struct mode_vm *vm, uint64_t *bits, size_t words);
	void (*dirty_stop)(struct mode_vm *vm);

	/* A device or the VMM changed guest RAM behind the engine's back (DMA, loaders). Any thread. */
	void (*ram_written)(struct mode_vm *vm, gpa_t gpa, uint64_t bytes);

	/*
	 * With MODE_CAP_PROFILE. sample asks a vCPU where it is (any one thread; costs that vCPU some microseconds); samples
	 * takes what the vCPUs have answered since, on the same thread: at most max of them.
	 */
	void (*sample)(struct mode_vcpu *vcpu);
	size_t (*samples)(struct mode_vm *vm, struct mode_sample *ret_samples, size_t max);
	/*
	 * With MODE_CAP_PROFILE, while no vCPU is in run: fn for each translation that touches [gpa, gpa + bytes); bytes 0: for
	 * all there are.
	 */
	void (*translations)(struct mode_vm *vm, gpa_t gpa, uint64_t bytes, mode_translation_fn *fn, void *opaque);

	/*
	 * With MODE_CAP_PROFILE, between vm_create and the first vcpu_create: generated code is to lie in memory that perf(1)
	 * takes for a just-in-time compiler's, so that it looks for a map of names. 0 or -errno.
	 */
	int (*prepare_perf)(struct mode_vm *vm);

	/* Fills at most `max` rows; returns how many. Any thread; values may be a little stale. */
	size_t (*stats)(struct mode_vm *vm, struct mode_stat *ret_rows, size_t max);
	/* Host CLOCK_MONOTONIC ns of the first instruction executed at CPL 3, 0 if none yet. Any thread. */
	uint64_t (*first_user_ns)(struct mode_vm *vm);
};

extern const struct mode_ops bt_mode;
extern const struct mode_ops hvm_mode;
extern const struct mode_ops pv_mode;

/* NULL when there is no such mode in this build. */
const struct mode_ops *mode_find(const char *name);
/* Their names, separated by commas, for messages. */
void mode_names(char *ret_text, size_t bytes);

#endif
