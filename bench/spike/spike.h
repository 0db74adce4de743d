/*
 * The measured spike behind docs/bt.md: guest loops, a toy translator with every candidate design as an option, timing.
 * Nothing here is linked into the product.
 */
#ifndef SPIKE_H
#define SPIKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- raw x86-64 bytes (emit.c) ---------------------------------------------------------- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, NONE = -1 };
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A };
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };

struct mem {
	int base, index; /* NONE: absent */
	unsigned scale;  /* log2 */
	int32_t disp;
	bool gs;
};
#define MEM(b, d) ((struct mem){ .base = (b), .index = NONE, .disp = (d) })
#define MEMX(b, i, s, d) ((struct mem){ .base = (b), .index = (i), .scale = (s), .disp = (d) })

/* A code buffer: written through `w`, executed at w + delta. */
struct code {
	uint8_t *w, *end;
	ptrdiff_t delta;
	bool packed; /* rel32 wherever they fall: code that is never patched */
};
void e_byte(struct code *c, unsigned b);
void e_u32(struct code *c, uint32_t v);
void e_u64(struct code *c, uint64_t v);
/* opcode: 0xNN, 0x0fNN; size 1, 2, 4 or 8. */
void e_rm(struct code *c, unsigned opcode, unsigned size, int reg, struct mem m);
void e_rr(struct code *c, unsigned opcode, unsigned size, int reg, int rm);
void e_mov(struct code *c, int dst, int src);
void e_mov_imm(struct code *c, int dst, int64_t imm);
void e_alu_imm(struct code *c, int alu, unsigned size, int reg, int32_t imm);
void e_alu_mem_imm(struct code *c, int alu, unsigned size, struct mem m, int32_t imm);
void e_rorx(struct code *c, unsigned size, int dst, int src, unsigned count);
void e_pext(struct code *c, unsigned size, int dst, int src, struct mem mask);
uint8_t *e_jmp(struct code *c);         /* jmp rel32, its displacement 4-byte aligned; returns where it is */
uint8_t *e_call(struct code *c);
uint8_t *e_jcc(struct code *c, int cc);
void e_fix(uint8_t *rel32, const uint8_t *target); /* both through the writable alias */

/* One memfd, mapped writable and executable. */
struct cache {
	uint8_t *w, *x;
	size_t size;
};
void cache_open(struct cache *cache, size_t size);
void cache_close(struct cache *cache);

/* ---- guest programs (guests.c) ------------------------------------------------------------ */

enum gop {
	G_MOV, G_MOVI, G_LEA, G_ALU, G_ALUI, G_ALUM, G_LOAD, G_LOADZX8, G_STORE, G_ZX8, G_SHRI, G_DEC, G_PUSH, G_POP,
	G_CALL, G_CALLR, G_RET, G_JMP, G_JCC, G_EXIT,
};
struct ginsn {
	enum gop op;
	uint8_t alu, size, cc;
	bool entry; /* an indirect branch can come here */
	int dst, src;
	struct mem m;
	int64_t imm;
	int target; /* index of the instruction, for direct branches */
};

struct guest_mem {
	uint8_t *arena;
	size_t size;
	uint64_t *root; /* four-level page table over the arena: linear address = host address */
};

struct program {
	const char *name, *unit;
	/* Fills insns, returns how many; entry point is instruction 0. */
	unsigned (*build)(struct ginsn *g, unsigned param);
	/* Prepares memory and registers; `where` gives the address of a guest instruction. Returns operations per run. */
	uint64_t (*setup)(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where);
};
extern const struct program prog_fib, prog_chase, prog_crc, prog_crc_hi, prog_copy, prog_icall, prog_bignum, prog_scatter,
	prog_spin;
#define MAX_INSNS 128
#define ARENA (40u << 20)

/* ---- designs and the translator (translate.c) ------------------------------------------- */

enum layout {
	LAY_NATIVE,
	LAY_RSP_STATE, /* host rsp = state, guest rsp in r13, scratch r14 r15 */
	LAY_GS_STATE,  /* gs = state, guest rsp native, scratch r14 r15 */
	LAY_GS_CALL,   /* gs = state, host rsp = shadow return stack, guest rsp in r13, scratch r14 r15 */
	LAY_GS_RCX,    /* gs = state, guest rsp native, guest rcx in r13, scratch rcx r14 r15 */
};
enum tlb_kind { TLB_ENTRY32, TLB_SPLIT8, TLB_ADDEND32, TLB_PEXT, TLB_JRCXZ, TLB_SITE, TLB_BASE, TLB_NONE };
enum flag_kind { FLAG_LAZY, FLAG_LAZY_CF, FLAG_AROUND, FLAG_PUSHF, FLAG_FREE };
enum stack_kind { STK_TLB, STK_ONE, STK_RUN };
enum ind_kind { IND_HASH64K, IND_HASH4K, IND_HASH4K_IMM64, IND_TAGGED, IND_JRCXZ };
enum ret_kind { RET_IND, RET_RING, RET_SPSLOT, RET_HOST };
enum poll_kind { POLL_NONE, POLL_LOAD2, POLL_LOAD1, POLL_CMP };

struct design {
	const char *name;
	enum layout layout;
	enum tlb_kind tlb;
	enum flag_kind flags;
	enum stack_kind stack;
	enum ind_kind ind;
	enum ret_kind ret;
	enum poll_kind poll;
	bool guard;    /* direct calls and jumps check that the target's page is still mapped */
	bool entry_guard; /* indirect entries check it, too */
	bool fall;     /* fall-through without a jmp */
	bool share;    /* one check for accesses off one unchanged base */
	unsigned bits; /* log2 of TLB entries; 0: 12 */
};

struct tlb_entry {
	uint64_t read, write, host, info;
};
#define TLB_MAX_BITS 13
#define RING 64u

struct vstate {
	/* In reach of disp8. */
	uint64_t flags_ax, flags_cf;
	uint64_t *volatile poll;
	uint64_t stack_tag, stack_host, ring_at, mask_index, mask_page, host_rsp, state, hi[3];
	volatile uint32_t kicked;
	uint32_t slow_desc;
	uint64_t slow_addr, slow_ret;
	uint32_t itlb[1024];
	struct { uint64_t tag, host; } near[256]; /* by site or by base register: the page used last */
	uint64_t gpr[16], saved[16];
	uint64_t poll_word;
	struct guest_mem *gm;
	const struct design *design;
	uint64_t misses;
	struct { uint64_t rip, host; } ring[RING];
	uint64_t sp_slot[512];
	uint64_t shadow[1 << 14]; /* host return stack of LAY_GS_CALL */
	uint64_t ind[1 << 16];    /* host addresses, or {tag, host} pairs */
	uint64_t split_read[1 << TLB_MAX_BITS], split_host[1 << TLB_MAX_BITS], split_addend[1 << TLB_MAX_BITS];
	struct tlb_entry tlb[1 << TLB_MAX_BITS] __attribute__((aligned(64)));
};

struct translation {
	struct cache cache;
	void (*enter)(struct vstate *v, const void *code);
	const uint8_t *start; /* executable alias */
	const uint8_t *exit;
	uint8_t *back_edge; /* loop-closing jump of prog_spin, its rel32 (writable alias) */
	uint64_t where[MAX_INSNS]; /* address a guest program would use for instruction i */
	const uint8_t *entry[MAX_INSNS]; /* host code behind it (indirect entries) */
	unsigned insns, bytes;
	const uint8_t *lookup_miss;
};
/* place: shifts the code by as many times 80 bytes, so that medians over places do not hang on one alignment. */
void translate(struct translation *t, const struct design *d, const struct program *p, unsigned param, unsigned place);
void translation_free(struct translation *t);
/* Empties the TLB, fills the indirect-branch tables. */
void vstate_reset(struct vstate *v, const struct design *d, const struct translation *t, struct guest_mem *gm);
void spike_slow(struct vstate *v); /* the access in slow_addr, slow_desc */
void spike_lookup_miss(struct vstate *v);

/* ---- memory, timing (run.c) ----------------------------------------------------------------- */

void guest_mem_open(struct guest_mem *gm);
struct vstate *vstate_new(void);
void use_gs(struct vstate *v);
uint64_t now_ns(void);
uint64_t cpu_ns(void); /* of this thread alone, so that neighbours on the machine count less */
struct figure {
	double ns;     /* per operation, median */
	double misses; /* of the TLB, per operation */
	uint64_t result;
	unsigned bytes; /* of code, slow paths apart */
};
/* All designs (the first one native, by whose result the others are checked), on 1 or 2 threads at once. */
void measure(const struct design *d, unsigned designs, const struct program *p, unsigned param, unsigned threads,
	     unsigned rounds, struct figure *ret);

/* ---- the concurrent parts (concurrent.c) -------------------------------------------------- */
void measure_patching(void);
void measure_kicks(void);
double median(double *v, unsigned n);

#endif
