/*
 * Facts in, decision out: what this host and a guest's image offer, which mode a VM gets, and why. Pure: it starts no
 * VM and links no engine. Blocks no longer than a few reads of small files take.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include "proto/cpu_features.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmdef;

enum policy_mode { POLICY_BT, POLICY_HVM, POLICY_PV, POLICY_MODE_COUNT };

/* "bt", "hvm", "pv"; never NULL. */
const char *policy_mode_name(enum policy_mode mode);
/* False when there is none of that name. */
bool policy_mode_parse(const char *name, enum policy_mode *ret_mode);

/* What could be yes or no but may also not be known, for want of a readable source. */
enum policy_known { POLICY_UNKNOWN = -1, POLICY_NO = 0, POLICY_YES = 1 };

/* ---- the host (probe.c) --------------------------------------------------------- */

/* Every member that is shown is a row of facts.c, which also says where it was read. */
struct policy_host {
	char cpu_vendor[16], cpu_model[64];
	uint64_t features;   /* 1 << enum cpu_feature */
	char hypervisor[16]; /* CPUID 0x40000000's signature; "" when the CPU says it runs on none */
	bool under_hypervisor;
	char container[32]; /* its kind; "" when none is known */
	char kernel[128];
	unsigned engines; /* 1 << enum policy_mode: what its trivisor has; 0: not told, as this one */
	enum policy_known cpuid_vmx, cpuid_svm; /* what the processor says */
	enum policy_known vmx, svm;             /* flags in /proc/cpuinfo, that is: usable by this kernel */
	enum policy_known firmware_locked;      /* IA32_FEATURE_CONTROL or VM_CR: switched off until the next boot */
	bool kvm_device;                        /* /dev/kvm exists */
	int kvm_open_error;                     /* 0 or errno of opening it for reading and writing */
	char kvm_access[64];                    /* owner and mode of /dev/kvm: "root:kvm 0660"; "" when there is none */
	int kvm_api;                            /* KVM_GET_API_VERSION; -1 when not open */
	int kvm_max_vcpus;                      /* -1 when not open */
	enum policy_known kvm_irqchip, kvm_pit, kvm_ioeventfd, kvm_irqfd, kvm_nested_state, kvm_clock;
	enum policy_known kvm_intel, kvm_amd, kvm_pvm; /* modules, loaded or built in */
	enum policy_known backdoor;                    /* kvm lets programs reach VMware's port */
	enum policy_known nested;                      /* kvm_intel or kvm_amd's parameter */
	enum policy_known ept, npt, unrestricted_guest, vpid, apicv, avic; /* their other parameters */
	int asids;      /* address spaces that AMD-V tells apart in the TLB; -1: not told. VT-x has a yes or no, vpid */
	enum policy_known kvm_hardware; /* KVM runs guests on the processor's own virtualization */
	int exec_memory_error; /* 0 or errno: a memfd mapped executable, as bt's code cache needs */
	int iommu_units;       /* /sys/class/iommu; -1: not readable */
	int iommu_groups;      /* -1: not readable */
	unsigned cores;        /* this process may use */
	unsigned numa_nodes;   /* 0: not known */
	uint64_t memory_mib, available_mib;
	uint64_t huge_pages_free, huge_pages_1g_free; /* of 2 MiB, of 1 GiB */
	char transparent_huge_pages[16];
};

/* Reads it all afresh. */
void policy_probe(struct policy_host *ret_host);
/* Of one that was probed before, only what can change while its kernel runs. */
void policy_probe_again(struct policy_host *host);
/* [{"name","value","source","remedy"?}…], NULL when out of memory. */
json_object *policy_host_facts(const struct policy_host *host);
/*
 * The opposite, for fact files of other hosts: unknown names are passed over, missing ones are unknown or nothing.
 * False: no array of facts, or one that no host can have; error names it.
 */
bool policy_host_parse(json_object *facts, struct policy_host *ret_host, char *error, size_t error_size);
/* Of a feature's name (proto/cpu_features.def); false when there is none. */
bool policy_feature_parse(const char *name, enum cpu_feature *ret_feature);
const char *policy_feature_name(enum cpu_feature feature);
/* What would give this host hardware virtualization; "" when it has it. */
void policy_hardware_remedy(const struct policy_host *host, char *ret_remedy, size_t size);
/* What would give it an IOMMU that devices can be passed through; "" when it has one. Never NULL. */
const char *policy_iommu_remedy(const struct policy_host *host);
/* What would let its guests run VMs themselves; "" when they can. */
void policy_nested_remedy(const struct policy_host *host, char *ret_remedy, size_t size);

/* ---- the guest (guest.c) --------------------------------------------------------- */

enum policy_image {
	POLICY_IMAGE_NONE,
	POLICY_IMAGE_BZIMAGE,
	POLICY_IMAGE_ELF,
	POLICY_IMAGE_MULTIBOOT,
	POLICY_IMAGE_FIRMWARE,
	POLICY_IMAGE_UNKNOWN
};

struct policy_guest {
	enum policy_image image;
	unsigned bits;            /* 16, 32 or 64: how it is entered; 0 when not known */
	unsigned boot_protocol;   /* bzImage: 0x0206 and up */
	enum policy_known pvh;    /* XEN_ELFNOTE_PHYS32_ENTRY; unknown inside a gzip file */
	enum policy_known xen_pv; /* XEN_ELFNOTE_ENTRY or a __xen_guest section; unknown inside a bzImage or gzip file */
	char kernel_version[96];  /* bzImage's own string */
	char xen_os[32], xen_features[160]; /* ELF notes GUEST_OS and FEATURES; "" when it has none */
	unsigned runs, ran_in_bits; /* firmware, which does not tell: what earlier runs showed; 0: nothing yet */
	bool ran_to_user_space;
	char problem[600];        /* "" or why it cannot boot: names the file and the remedy */
};

/* Looks at the files a definition names. Never fails: `problem` tells. */
void policy_guest_inspect(const struct vmdef *def, struct policy_guest *ret_guest);
json_object *policy_guest_json(const struct policy_guest *guest);

/* ---- calibration (calibration.c) ------------------------------------------------------ */

/* What calibration measures; proto/measures.def says what one operation of each is. */
enum policy_measure {
#define MEASURE(name, operation, native) POLICY_##name,
#include "proto/measures.def"
#undef MEASURE
	POLICY_MEASURES
};

const char *policy_measure_name(enum policy_measure measure);
/* What one operation is, and its counterpart in a plain process ("none"). */
const char *policy_measure_operation(enum policy_measure measure);
const char *policy_measure_native(enum policy_measure measure);
bool policy_measure_parse(const char *name, enum policy_measure *ret_measure);
/* The same code runs natively, so that both times can be compared; what else there is has a counterpart at most. */
bool policy_measure_is_loop(enum policy_measure measure);

enum policy_figure_state {
	POLICY_FIGURE_NONE,   /* not measured */
	POLICY_FIGURE_NS,     /* measured */
	POLICY_FIGURE_CANNOT, /* tried, and it cannot be executed: `why` */
};

struct policy_figure {
	enum policy_figure_state state;
	double ns;        /* of one operation, the least of the rounds: what the host does when nothing else disturbs */
	double median_ns; /* how far above it: how much was disturbed */
	unsigned rounds;
	char why[240];
};

struct policy_figures {
	bool tried;
	double time; /* seconds since the epoch; 0: never */
	double start_ms; /* from starting its process to the guest's first word; 0: not known */
	char problem[240]; /* "" or why nothing at all could be measured, or was tried */
	struct policy_figure of[POLICY_MEASURES];
};

/* What makes old figures worthless when it changes. */
struct policy_calibration_key {
	char cpu[80], kernel[128], version[96];
};

struct policy_calibration {
	bool valid; /* there are native figures at least */
	bool complete; /* nothing was left out for want of time */
	struct policy_calibration_key key;
	double time, seconds; /* when it ended (since the epoch), how long it took */
	struct policy_figures native, mode[POLICY_MODE_COUNT];
};

/* The key of figures measured on this host by programs of this version. */
void policy_calibration_key(const struct policy_host *host, const char *version,
			    struct policy_calibration_key *ret_key);
bool policy_calibration_same(const struct policy_calibration_key *a, const struct policy_calibration_key *b);

/* One line that a calibration program printed (calibrate/measure.h). */
enum policy_line { POLICY_LINE_OTHER, POLICY_LINE_READY, POLICY_LINE_BEGIN, POLICY_LINE_FIGURE, POLICY_LINE_END };
/*
 * Takes it into `figures`; a second figure of a measure replaces the first only if its least is lower. khz is the TSC's
 * rate; *ret_khz is set by a native READY line. *ret_measure is set with BEGIN and FIGURE. Lines are not trusted: what
 * is no line of the protocol, or no possible figure, is OTHER.
 */
enum policy_line policy_calibration_line(struct policy_figures *figures, const char *line, double khz, double *ret_khz,
					 enum policy_measure *ret_measure);
void policy_figure_cannot(struct policy_figures *figures, enum policy_measure measure, const char *why);

/* As it is stored and as host.calibrate answers. */
json_object *policy_calibration_json(const struct policy_calibration *calibration);
/* False: it is no calibration (of another format, damaged), and ret_why names the place; then *ret is not valid. */
bool policy_calibration_parse(json_object *json, struct policy_calibration *ret, char *ret_why, size_t size);

/* ---- workloads (workload.c) ------------------------------------------------------------ */

/* What a guest spends its time on: shares of the time that the work would take natively. They sum up to 1. */
struct policy_workload {
	char name[16]; /* "compute" …, "learned", "weights" */
	double share[POLICY_MEASURES];
	double certainty; /* 0 to 1: how far this is known to be the VM's */
	char source[160]; /* in words */
};

/* What counters of earlier runs say, in seconds of native time; older runs weigh less and less. */
struct policy_learned {
	double seconds[POLICY_MEASURES];
	double cpu_seconds; /* of the runs, decayed in the same way */
	unsigned observed;  /* 1 << measure: the mode could count it */
	unsigned runs;
};

/* compute, memory, syscall, process, io, mixed. False when there is none of that name. */
bool policy_workload_named(const char *name, struct policy_workload *ret);
/* From a definition: its weights, else the workload it names, else what was learned (may be NULL), else mixed. */
void policy_workload_of(const struct vmdef *def, const struct policy_learned *learned, struct policy_workload *ret);
json_object *policy_workload_json(const struct policy_workload *workload);
/*
 * Takes in a run's statistics (vm.stats), with the calibration of the host it ran on. False when they say nothing: too
 * short, no counters, no calibration.
 */
bool policy_learn(struct policy_learned *learned, json_object *stats, enum policy_mode mode,
		  const struct policy_calibration *calibration);

/* ---- modes on this host (score.c) ------------------------------------------------- */

struct policy_mode_state {
	bool in_build; /* this version has an engine for it */
	bool usable;   /* it can run VMs here; slowly, where variant says software */
	char variant[16]; /* "bt", "hvm/ept", "hvm/npt", "hvm/shadow", "hvm/software", "hvm", "pv/xen" */
	char reason[300];
	char remedy[300]; /* "" when there is none */
};

void policy_mode_judge(enum policy_mode mode, const struct policy_host *host, struct policy_mode_state *ret_state);
/* The modes that this version has engines for: 1 << enum policy_mode. */
unsigned policy_engines(void);
/* Whether it is worth measuring here: an engine, and a way to start it, be it slow. pv needs a guest with its entry too. */
bool policy_mode_can_try(enum policy_mode mode, const struct policy_host *host);
/* [{"mode","technique","in_build","usable","reason","remedy"?}…] */
json_object *policy_modes_json(const struct policy_host *host);

/* ---- predictions (cost.c) ------------------------------------------------------------ */

struct policy_cost {
	bool known;
	double cost;       /* times the native time of the same work */
	double confidence; /* 0 to 1 */
	int cannot;        /* -1, or a measure that every guest needs and that this mode cannot execute here */
};

/*
 * Of a workload in a mode: the sum over its shares of what each measure costs there, natively 1. Loops cost what the
 * same loop costs; what a guest's kernel does costs what kernel code (integer, memory, TLB, spread code) costs, and the
 * measured time of the event itself on top.
 */
void policy_predict(const struct policy_calibration *calibration, enum policy_mode mode,
		    const struct policy_workload *workload, struct policy_cost *ret_cost);
/* A measure's own factor; 0 when it is not known. */
double policy_slowdown(const struct policy_calibration *calibration, enum policy_mode mode, enum policy_measure measure);

/* ---- decisions (score.c) ------------------------------------------------------------- */

enum policy_verdict { POLICY_CHOSEN, POLICY_POSSIBLE, POLICY_RULED_OUT };

/* What a definition demands. */
struct policy_constraints {
	unsigned require, forbid; /* 1 << enum policy_mode; require 0: any */
	uint64_t features;        /* 1 << enum cpu_feature: those that the definition switches on */
	bool kernel_isolation, passthrough, nested, migratable;
	bool vmware_tools; /* the definition's tools: programs use VMware's port */
	unsigned devices; /* of the host, that the definition names; passthrough holds then too */
};

void policy_constraints_of(const struct vmdef *def, struct policy_constraints *ret);

/* What outcomes have taught: a mode's true cost is so many times the predicted one. 1 where nothing is known. */
struct policy_corrections {
	double factor[POLICY_MODE_COUNT];
	unsigned outcomes[POLICY_MODE_COUNT];
};

struct policy_query {
	const struct policy_host *host;
	const struct policy_calibration *calibration; /* NULL: never measured */
	const struct policy_guest *guest;
	const struct policy_workload *workload;       /* NULL: mixed */
	const struct policy_constraints *constraints; /* NULL: none */
	const struct policy_corrections *corrections; /* NULL: none */
	const char *wish;                             /* "auto" or a mode's name */
	const char *previous;                         /* the mode it was given last time; NULL */
};

struct policy_candidate {
	enum policy_verdict verdict;
	char variant[16];
	struct policy_cost predicted; /* with the correction */
	double correction;            /* 1: none */
	double boot_seconds;          /* until user space, from earlier boots; 0: not known (policy_memory_boot) */
	char reason[400];
	char remedy[300];
};

#define POLICY_CHANGES 6

struct policy_decision {
	char wish[8];
	bool possible;
	enum policy_mode mode; /* when possible */
	char reason[600];      /* one sentence for people; names the remedy when nothing is possible */
	struct policy_candidate candidates[POLICY_MODE_COUNT];
	char would_change[POLICY_CHANGES][300];
	unsigned change_count;
	struct policy_guest guest;
	struct policy_workload workload;
	struct policy_constraints constraints;
};

/* A new mode must be so much better than the one a VM had last: changing has its own cost and risk. */
#define POLICY_HYSTERESIS 0.10

void policy_decide(const struct policy_query *query, struct policy_decision *ret_decision);
json_object *policy_decision_json(const struct policy_decision *decision);
/* Only which modes are not ruled out: 1 << enum policy_mode. */
unsigned policy_possible(const struct policy_query *query);

/* ---- fleets (fleet.c) ------------------------------------------------------------------- */

/*
 * Where each of many VMs goes and in which mode. hosts: [{"name","facts","calibration"?,"group"?,"capacity"?:{"memory_mib",
 * "vcpus"}}…]; vms: [{"name","memory_mib"?,"vcpus"?,"workload"?,"policy"?,"affinity"?,"anti_affinity"?,"migratable_in"?}…].
 * *ret_plan, for the caller to put: {"placements","unplaced","hosts","seconds"}; costs are times the fleet's mean native time, seconds what
 * planning took. -EINVAL: error names what is wrong; -ENOMEM.
 * Any thread; 1000 hosts and 10,000 VMs take well under a second.
 */
int policy_plan(json_object *hosts, json_object *vms, json_object **ret_plan, char *error, size_t error_size);

/* ---- memory (memory.c) -------------------------------------------------------------------- */

#define POLICY_MEMORY_VMS 128

/* Of one VM, or of one image for transient ones. */
struct policy_memory_vm {
	char key[80];
	double time; /* last use, seconds since the epoch */
	struct policy_learned learned;
	unsigned boots;
	double boot_seconds; /* to user space, a moving mean of boots in one mode */
	char boot_mode[8];   /* that mode */
	char mode[8];        /* of the last run */
	unsigned runs, bits; /* runs that ended, and the processor's mode at the last one's end: 16, 32, 64; 0: not known */
};

struct policy_memory {
	struct policy_memory_vm vms[POLICY_MEMORY_VMS];
	unsigned count;
	struct policy_corrections corrections;
	unsigned predictions; /* that had an outcome */
	double error_sum;     /* of |ln(observed / predicted)| */
};

void policy_memory_init(struct policy_memory *memory);
/* NULL when nothing is known of it. */
struct policy_memory_vm *policy_memory_find(struct policy_memory *memory, const char *key);
/* Finds or makes it; the one that was not used for longest makes room. */
struct policy_memory_vm *policy_memory_use(struct policy_memory *memory, const char *key, double now);
/*
 * Seconds until user space in a mode, of a VM that has booted before: what it took in the same mode, or in another, by
 * the two modes' predicted (corrected) costs for one workload, 0 for unknown ones. 0 when it cannot be told.
 */
double policy_memory_boot(const struct policy_memory_vm *vm, enum policy_mode mode, const double costs[POLICY_MODE_COUNT]);
/*
 * A VM has reached user space after so many seconds. The prediction it had is judged, and where its last boot was in
 * another mode, both modes' corrections move.
 */
struct policy_outcome {
	double predicted, observed; /* seconds; predicted 0: none */
};
void policy_memory_outcome(struct policy_memory *memory, struct policy_memory_vm *vm, enum policy_mode mode,
			   const double costs[POLICY_MODE_COUNT], double observed, struct policy_outcome *ret);
void policy_memory_forget(struct policy_memory *memory, const char *key);
/* What runs have shown of a guest that is on a disk, where no file tells. vm may be NULL. */
void policy_memory_guest(const struct policy_memory_vm *vm, struct policy_guest *guest);
json_object *policy_memory_json(const struct policy_memory *memory);
/* Anything that is not right in it is left out. */
void policy_memory_parse(json_object *json, struct policy_memory *ret);
/* {"predictions","mean_error","corrections":{mode:{"factor","outcomes"}}} */
json_object *policy_statistics_json(const struct policy_memory *memory);

/* ---- the comparison (table.c) ------------------------------------------------------- */

/*
 * [{"aspect","bt":{"text","variants"?,"host"?,"source"},"hvm":…,"pv":…}…]: general facts with sources, this host's state,
 * and what was measured here with its date; with a decision also "holds" and "guest": what holds for that VM.
 * calibration and decision may be NULL.
 */
json_object *policy_compare_json(const struct policy_host *host, const struct policy_calibration *calibration,
				 const struct policy_decision *decision);

#endif
