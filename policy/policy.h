/*
 * Facts in, decision out: what this host and a guest's image offer, which mode a VM gets, and why. Pure: it starts no
 * VM and links no engine. Blocks no longer than a few reads of small files take.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

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

struct policy_host {
	char cpu_vendor[16], cpu_model[64];
	char hypervisor[16]; /* CPUID 0x40000000's signature; "" when the CPU says it runs on none */
	bool under_hypervisor;
	char kernel[128];
	enum policy_known vmx, svm;                    /* flags in /proc/cpuinfo, that is: usable by this kernel */
	bool kvm_device;                               /* /dev/kvm exists */
	int kvm_open_error;                            /* 0 or errno of opening it for reading and writing */
	int kvm_api;                                   /* KVM_GET_API_VERSION; -1 when not open */
	enum policy_known kvm_intel, kvm_amd, kvm_pvm; /* modules, loaded or built in */
	enum policy_known nested;                      /* kvm_intel or kvm_amd's parameter */
	enum policy_known kvm_hardware;                /* KVM runs guests on the processor's own virtualization */
	int exec_memory_error; /* 0 or errno: a memfd mapped executable, as bt's code cache needs */
	int iommu_groups;      /* -1: not readable */
	unsigned cores;        /* this process may use */
	uint64_t memory_mib, available_mib;
	uint64_t huge_pages_free; /* of 2 MiB */
	char transparent_huge_pages[16];
	bool avx2, avx512;
};

/* Reads it all afresh. */
void policy_probe(struct policy_host *ret_host);
/* [{"name","value","source","remedy"?}…], NULL when out of memory. */
json_object *policy_host_facts(const struct policy_host *host);

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
	char why[160];
};

struct policy_figures {
	bool tried;
	double time; /* seconds since the epoch; 0: never */
	double start_ms; /* from starting its process to the guest's first word; 0: not known */
	char problem[240]; /* "" or why nothing at all could be measured */
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
/* False: it is no calibration (of another format, damaged); then *ret is not valid. */
bool policy_calibration_parse(json_object *json, struct policy_calibration *ret);

/* ---- modes on this host (score.c) ------------------------------------------------- */

struct policy_mode_state {
	bool in_build; /* this version has an engine for it */
	bool usable;
	char reason[300];
	char remedy[300]; /* "" when there is none */
};

void policy_mode_judge(enum policy_mode mode, const struct policy_host *host, struct policy_mode_state *ret_state);
/* Whether it is worth measuring here: an engine, and a way to start it, be it slow. */
bool policy_mode_can_try(enum policy_mode mode, const struct policy_host *host);
/* [{"mode","technique","in_build","usable","reason","remedy"?}…] */
json_object *policy_modes_json(const struct policy_host *host);

/* ---- decisions (score.c, explain.c) ------------------------------------------------ */

enum policy_verdict { POLICY_CHOSEN, POLICY_POSSIBLE, POLICY_RULED_OUT };

struct policy_candidate {
	enum policy_verdict verdict;
	char reason[400];
	char remedy[300];
};

struct policy_decision {
	char wish[8];
	bool possible;
	enum policy_mode mode; /* when possible */
	char reason[600];      /* one sentence for people; names the remedy when nothing is possible */
	struct policy_candidate candidates[POLICY_MODE_COUNT];
	char would_change[4][300];
	unsigned change_count;
	struct policy_guest guest;
};

/* wish: "auto" or a mode's name. */
void policy_decide(const struct policy_host *host, const struct policy_guest *guest, const char *wish,
		   struct policy_decision *ret_decision);
json_object *policy_decision_json(const struct policy_decision *decision);

/* ---- the comparison (table.c) ------------------------------------------------------- */

/*
 * [{"aspect","bt":{"text","host"?,"source"},"hvm":…,"pv":…}…]: general facts with sources, this host's state, and what
 * was measured here with its date. calibration may be NULL.
 */
json_object *policy_compare_json(const struct policy_host *host, const struct policy_calibration *calibration);

#endif
