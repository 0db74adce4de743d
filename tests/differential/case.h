/*
 * The differential tester's vocabulary: the small world that both sides see, a case (state before and a few
 * instructions), and what became of it.
 *
 * A case runs natively in a child process (native.c) and translated, at CPL 3 of a guest whose page tables mirror the
 * child's mappings (guest.c); generate.c makes cases up, compare.c judges, main.c drives.
 */
#ifndef TESTS_DIFFERENTIAL_CASE_H
#define TESTS_DIFFERENTIAL_CASE_H

#include "machine/cpu_state.h"
#include "modes/bt/decode.h"

/* ---- the world ------------------------------------------------------------------------------- */

/* Physical pages, and the linear pages that show them. What is not listed is not mapped. */
#define PHYS_PAGES 8
enum { PHYS_D0, PHYS_D1, PHYS_RO, PHYS_D2, PHYS_CODE0, PHYS_CODE1, PHYS_HIGH, PHYS_TOP32 };

struct world_page {
	uint64_t gva;
	uint8_t phys;
	bool write, exec;
};

#define GVA_D0 0x10000000ull
#define GVA_RO 0x10002000ull
#define GVA_D2 0x10004000ull
#define GVA_CODE 0x10100000ull
#define GVA_CODE_END 0x10102000ull
#define GVA_ALIAS 0x10200000ull    /* the first code page again, for writing */
#define GVA_RX 0x10300000ull       /* and to be run, not written */
#define GVA_HIGH 0x6ffff0000000ull
#define GVA_TOP32 0xfffff000ull
#define WORLD_PAGES 10
extern const struct world_page world_pages[WORLD_PAGES];

/* Linux says "protection violation" for every user access to its half and the page below it (set_signal_archinfo). */
#define GVA_KERNEL 0x7ffffffff000ull
#define GVA_HOLE 0x800000000000ull /* no address from here to the upper half is canonical */

#define XSAVE_BYTES 832 /* legacy area, header, AVX */
#define XSAVE_FX_BYTES 464 /* the rest of the legacy area is the kernel's */
#define XSAVE_HEADER 512
#define XSAVE_YMMH 576

/* What an unprivileged program can see of the processor. */
struct cpu {
	uint64_t gpr[GPR_COUNT];
	uint64_t rip, rflags;
	uint64_t fs_base, gs_base;
	uint64_t cs; /* selector */
	uint8_t xsave[XSAVE_BYTES] __attribute__((aligned(64)));
};

/* Selectors: Linux's own. */
#define SEL_USER_CS32 0x23
#define SEL_USER_DS 0x2b
#define SEL_USER_CS64 0x33
/* 16-bit code has segments of its own, in the LDT: code at GVA_CODE, data (and stack) at GVA_D0, without limits. */
#define SEL_CS16 0x07
#define SEL_DS16 0x0f

/* ---- cases ------------------------------------------------------------------------------------- */

#define CASE_INSNS 8
#define CASE_FIXES 24

enum fix_kind {
	FIX_REL,     /* a branch's displacement: to piece `label` (or `label` == insns: the end) plus `value` */
	FIX_RIP,     /* a rip-relative displacement: to linear address `value` */
	FIX_GPR,     /* the initial value of register `piece`: address of `label` plus `value` */
	FIX_MEM,     /* eight bytes of memory at linear address `value`: address of `label` */
};

struct fix {
	uint8_t kind;
	uint8_t piece;  /* which instruction, or register */
	uint8_t off, bytes;
	int8_t label;
	uint64_t value;
};

struct piece {
	uint8_t bytes[15];
	uint8_t len;
	bool dropped; /* by the shrinker: it takes no space */
};

struct diff_case {
	uint64_t seed;
	unsigned number;
	unsigned bits; /* 64, 32 or 16 */
	struct cpu cpu;
	struct piece piece[CASE_INSNS];
	unsigned insns;
	struct fix fix[CASE_FIXES];
	unsigned fixes;
	uint64_t start; /* linear address of the first instruction */
	uint8_t fill;   /* what the code pages hold otherwise: a byte that faults */
	bool trace;     /* native: single steps, each noted in outcome.step */
	uint64_t address[CASE_INSNS + 1]; /* of each piece, by case_layout */
	uint8_t mem[PHYS_PAGES][GUEST_PAGE_SIZE];
};

static inline uint64_t code_base(const struct diff_case *c) { return c->bits == 16 ? GVA_CODE : 0; }
static inline uint64_t data_base(const struct diff_case *c) { return c->bits == 16 ? GVA_D0 : 0; }

/* Fills the generator's tables; the first case does it too, unless several threads make cases. */
void generator_prepare(void);
/* Case `number` of the run with `seed`. */
void case_generate(struct diff_case *ret, uint64_t seed, unsigned number, unsigned bits);
/* The same with any instruction at all, privileged ones too. For running in a guest only. */
void case_generate_any(struct diff_case *ret, uint64_t seed, unsigned number, unsigned bits);
/* Assembles the pieces into the code pages, with every fix. After case_generate, and after dropping pieces. */
void case_layout(struct diff_case *c);

/* Code that was translated wrongly once (regress.c): how many, and each with its name; laid out already. */
unsigned regression_count(void);
const char *regression_case(unsigned i, struct diff_case *ret);

/* ---- outcomes ------------------------------------------------------------------------------------- */

enum outcome_kind {
	OUTCOME_EXCEPTION, /* the one regular end */
	OUTCOME_TIMEOUT,
	OUTCOME_SYSCALL,   /* it ran into a system call, which nobody served */
	OUTCOME_LOST,      /* the child died */
	OUTCOME_ERROR,     /* the engine gave up: `message` */
};

#define OUTCOME_STEPS 512

struct outcome {
	uint8_t kind;
	uint8_t vector;
	uint32_t error;
	uint64_t cr2;
	struct cpu cpu;
	char message[128];
	unsigned steps;
	struct {
		uint64_t rip;
		uint8_t bytes[16];
	} step[OUTCOME_STEPS];
	uint8_t mem[PHYS_PAGES][GUEST_PAGE_SIZE];
};

/* ---- the native side (native.c) ----------------------------------------------------------------------- */

#define NATIVE_SLOTS 64

struct native;

/* Starts the child. NULL on success, else why not. */
const char *native_start(struct native **ret_native);
void native_stop(struct native *n);
/* The shared memory: cases to be filled in, outcomes to be read. */
struct diff_case *native_case(struct native *n, unsigned i);
const struct outcome *native_outcome(struct native *n, unsigned i);
/* Begins running `count` cases; waits for that. A child that dies is replaced; its case is OUTCOME_LOST. */
void native_begin(struct native *n, unsigned first, unsigned count);
void native_wait(struct native *n);
/* Runs one case at once. Not between begin and wait. */
const struct outcome *native_run(struct native *n, const struct diff_case *c);
/* Whether the kernel gave the child segments for 16-bit code. */
bool native_has_ldt(struct native *n);
/* Whether the child has anything of its own mapped at gva: cases that stray there prove nothing. */
bool native_own_memory(struct native *n, uint64_t gva);

/* ---- the translated side (guest.c) --------------------------------------------------------------------- */

struct guest;

const char *guest_start(struct guest **ret_guest);
void guest_stop(struct guest *g);
/* Runs c. `again`: keeps the translations of the run before, of the same case, and the code they came from. */
const struct outcome *guest_run(struct guest *g, const struct diff_case *c, bool again);
/* While on, the vCPU is kicked over and over by another thread: it leaves at every poll. */
void guest_storm(struct guest *g, bool on);
/* From the next first run on: no flags count as dead (or do again). */
void guest_precise_flags(struct guest *g, bool on);
/* The engine's own counters, for people. */
void guest_print_stats(struct guest *g);

/* ---- judging (compare.c) ------------------------------------------------------------------------------------ */

/* NULL: they agree. Else what differs first, in words. */
/* `all_flags`: also those that no code reads before it writes them. */
const char *outcome_compare(const struct diff_case *c, const struct outcome *native, const struct outcome *guest, bool all_flags);
/* NULL, or why the case proves nothing. */
const char *outcome_excuse(const struct outcome *native);
/* The excuse for a difference, if there is one: runs c natively once more, step by step. `native` may not be native_run's. */
const char *difference_excuse(struct native *n, const struct diff_case *c, const struct outcome *native,
			      const struct outcome *guest);

void case_print(const struct diff_case *c);
void outcomes_print(const struct diff_case *c, const struct outcome *native, const struct outcome *guest);
void trace_print(const struct diff_case *c, const struct outcome *traced);

#endif
