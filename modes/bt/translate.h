/* What the files of the translator share: the state of one translation under way. */
#ifndef BT_TRANSLATE_H
#define BT_TRANSLATE_H

#include "modes/bt/cache.h"
#include "modes/bt/emit.h"

#define TB_MAX_INSNS 40
#define TB_MAX_SIDE_EXITS 6
#define TB_MAX_EXITS (2 * TB_MAX_SIDE_EXITS + 4)
#define TB_MAX_SLOW (5 * TB_MAX_INSNS)

#define V_OFF(field) ((int32_t)offsetof(struct bt_vcpu, field))
#define V_MEM(field) MEM_BD(H_VCPU, V_OFF(field))
#define V_GPR(g) MEM_BD(H_VCPU, (int32_t)(offsetof(struct bt_vcpu, cs.gpr) + 8 * (unsigned)(g)))

/* Where the guest's arithmetic flags are. */
enum flags_at { FL_HOST, FL_MEM };

/* An access whose slow path is still to be emitted. */
struct slow {
	uint8_t *jump;       /* rel32 of the ja */
	uint8_t *jump_align; /* and of the jnz of an alignment check, or NULL */
	uint8_t *tail, *end; /* the access behind the check */
	int32_t tag_off;
	int slot;            /* number of the slot it goes through; below 0: see emit_mem.c */
	gva_t gva;           /* a constant address */
	uint16_t bytes;
	uint8_t access;
	int8_t group;        /* the group it is the check of; -1 */
	const struct bt_insn *masked; /* its helper does the whole instruction instead of the access; NULL: not so */
	uint64_t at;         /* the rip of that */
	int8_t bail;         /* a miss goes to this instruction's plain copy (emit_loop.c); -1: not so */
	uint8_t fl;          /* enum flags_at then */
};

/* A segment check that failed. */
struct segment_slow {
	uint8_t *jump, *back;
	uint32_t what; /* BT_SEG_ACCESS */
	int masked;    /* the access whose helper does the whole instruction; -1 */
	uint64_t at;
};

/* A run of instructions that share one check (emit_group.c). */
struct group {
	uint8_t first, len;  /* instructions */
	uint8_t base, index, scale; /* general registers, as in struct bt_insn */
	uint8_t access;
	uint8_t fl_start, fl_end;
	uint16_t bytes;      /* of the range checked */
	int32_t lo;          /* its start, from the base register */
	uint8_t *slow;       /* the copy out of line */
	uint8_t *join;       /* where that goes back to */
};
#define TB_MAX_GROUPS 16

/* Accesses of a loop whose address is base + (index << scale) and a constant (emit_loop.c). */
struct stream {
	uint8_t base, index, scale; /* registers, 0xff none */
	uint8_t mover;  /* which of the two advances; 0xff: neither */
	uint8_t shift;  /* by which it counts */
	uint8_t access, uses;
	bool bounded;   /* `index` changes as it likes, but holds a byte: all it can reach is in `bytes` */
	uint8_t host;   /* the host register with the stream's host address, H_NONE: in memory */
	int16_t stride; /* bytes in a turn */
	uint16_t bytes; /* accessed in a turn, */
	int64_t lo;     /* from here on, counted from the address at the turn's start */
};

struct loop {
	uint8_t last; /* the instruction that goes back to the block's start; 0: no loop, or none worth a second copy */
	bool own; /* the block jumps back to its own start, whether it gets a second copy or not */
	uint8_t streams;
	struct stream stream[BT_LOOP_STREAMS];
	int8_t of[TB_MAX_INSNS];      /* the stream of an instruction's operand; -1: none */
	uint8_t inner[TB_MAX_INSNS];  /* of a jump forward within the loop: where to; 0: not so */
	uint8_t *plain[TB_MAX_INSNS]; /* where the plain copy of an instruction begins, */
	uint8_t plain_fl[TB_MAX_INSNS]; /* and where the flags are there */
	uint8_t *after;               /* the plain code behind the loop */
};

/* Code to be emitted behind the block: reached by a jump at `jump`. */
struct exit_todo {
	uint8_t *jump; /* rel32 of a jcc to the out-of-line part; NULL: emitted in line already */
	struct bt_exit *exit;
	bool backward, in_page;
	bool live; /* the target may read flags */
	enum flags_at fl;
	uint8_t *stub_ref[2]; /* rel32 fields that point at the stub */
};

struct trans {
	struct bt_vcpu *v;
	struct bt_vm *vm;
	struct emit e;
	struct bt_tb *tb;
	uint32_t key;
	unsigned bits, op_mmu;
	uint64_t rip;   /* of the TB */
	gva_t gva;
	gpa_t gpa;
	unsigned n;     /* instructions */
	unsigned i;     /* being emitted */
	uint64_t at, next; /* rip of insn[i] and of the one behind it */
	enum flags_at fl;
	uint16_t live_in[TB_MAX_INSNS + 1], live_out[TB_MAX_INSNS];
	uint16_t live_taken[TB_MAX_INSNS]; /* at the target of a direct jump or call */
	uint16_t live_end; /* where the block falls through to, or its last jump's target */
	uint16_t off[TB_MAX_INSNS + 1]; /* guest byte offsets */
	struct slow slow[TB_MAX_SLOW];
	unsigned slow_count;
	struct segment_slow segment_slow[TB_MAX_SLOW];
	unsigned segment_slow_count;
	struct group group[TB_MAX_GROUPS];
	unsigned group_count;
	bool grouped;         /* the fast copy of a group is being emitted: T1 is taken */
	int64_t group_lo, group_delta;
	struct loop loop;
	bool cold;            /* what is emitted now goes to the cold part of the cache */
	bool fast;            /* the loop's fast copy is being emitted */
	struct exit_todo todo[TB_MAX_EXITS];
	unsigned todo_count;
	struct bt_insn_map map[4 * TB_MAX_INSNS + TB_MAX_GROUPS + TB_MAX_EXITS + 2];
	unsigned map_count;
	struct bt_insn insn[TB_MAX_INSNS];
};

static inline bool spilled(unsigned g) { return g >= 13 && g <= 15; }
/* The host register of an unspilled guest register. */
static inline unsigned host_of(unsigned g) { return g == GPR_RSP ? H_GUEST_RSP : g; }

/* flags (emit_flags.c) */
void bt_flags_to_mem(struct trans *t);  /* uses T1 */
void bt_flags_to_host(struct trans *t); /* uses no register; keeps T0 and T1 */
/* Code that clobbers the host's flags follows; whatever is live is saved first. Uses T1. */
void bt_flags_clobber(struct trans *t, uint16_t live);

/* memory (emit_mem.c) */
/* Whether a pending x87 exception comes before the instruction: x87 and MMX, but for the control instructions. */
bool bt_waits_for_x87(const struct bt_insn *in);
/*
 * T0 = linear address of the operand, plus `extra` (pop [rsp..] counts from the new rsp). Uses T1. `access`: the segment
 * is checked for it, which takes the flags; BT_ACCESS_NONE keeps them.
 */
void bt_emit_gva(struct trans *t, const struct bt_insn *in, int extra, unsigned bytes, unsigned access);
/*
 * Checks T0; afterwards T1 + T0 is the host address, and the host's flags are gone. `slot`: the base register's number
 * or BT_SLOT_INDEX, to try the page reached last through it first; -1: the TLB at once. `site_flags`:
 * BT_SITE_*.
 */
void bt_emit_check(struct trans *t, unsigned bytes, unsigned access, int slot, unsigned site_flags);
/* Address and check of an explicit operand. */
void bt_emit_operand(struct trans *t, const struct bt_insn *in, int extra, unsigned bytes, unsigned access);
/* The access is over: the tail that bounces copy ends here. */
void bt_emit_access_end(struct trans *t);
void bt_emit_slow_paths(struct trans *t);
/* Calls the helper, which finishes the instruction element by element, and goes on behind the access. */
void bt_emit_masked(struct trans *t, const struct slow *s);
/* Checks [T0, T0 + bytes) for a group; afterwards T1 + T0 is the host address. A miss goes to the group's slow copy. */
void bt_emit_range_check(struct trans *t, unsigned bytes, unsigned access, int slot, unsigned group);

/* Offsets in the vCPU of the first TLB entry's tag for `access`, and of its host address. */
int32_t bt_tag_off(const struct trans *t, unsigned access);
int32_t bt_tlb_host_off(const struct trans *t);
/* segments outside 64-bit code (emit_segment.c) */
/* T0 is an offset in the segment, of 16 bits or 32: checks it. Takes the flags and T1. `in`: the operand's; NULL: the stack. */
void bt_emit_segment_check(struct trans *t, unsigned seg, unsigned bytes, unsigned access, bool offset16,
			   const struct bt_insn *in);
void bt_emit_segment_slow(struct trans *t);
/* Whether a jump may go to rip: canonical, or within CS. */
bool bt_target_allowed(const struct trans *t, uint64_t rip);
/* Compares T0 with CS's limit; the jump over what refuses it, to be fixed; NULL if nothing need be. Takes the flags. */
uint8_t *bt_emit_target_check(struct trans *t, unsigned opsize);

/* one instruction of the block (translate.c) */
void bt_emit_one(struct trans *t, unsigned i);
bool bt_forbidden(const struct trans *t, const struct bt_insn *in);

/* groups (emit_group.c) */
/* The length of a run that starts at instruction i and is worth one check; 0 if none does. */
unsigned bt_group_scan(struct trans *t, unsigned i, struct group *ret);
void bt_group_emit(struct trans *t, const struct group *g);
void bt_group_emit_slow(struct trans *t);
/* The host operand for `offset` from the base register's present value. */
struct emit_mem bt_group_operand(const struct trans *t, int64_t offset);

/* loops (emit_loop.c) */
/* Whether the block is a loop that gets a fast copy, and of which streams: fills t->loop. After the flags' liveness. */
void bt_loop_find(struct trans *t);
/* The way into the fast copy and the copy itself, behind the plain code. */
void bt_loop_emit(struct trans *t);
/* In the fast copy: the host operand of the instruction under way, which belongs to a stream. May load T1. */
struct emit_mem bt_loop_operand(struct trans *t, const struct bt_insn *in);
void bt_loop_bail(struct trans *t, const struct slow *s);

/* instructions as themselves (emit_native.c) */
void bt_emit_native(struct trans *t, const struct bt_insn *in);
/* T0, an operand's offset, moves by the whole operands that the bit number of bt and its kin reaches beyond it. Uses T1. */
void bt_emit_bit_offset(struct trans *t, const struct bt_insn *in);
void bt_emit_lea(struct trans *t, const struct bt_insn *in);

/* control flow (emit_exit.c) */
/* `live`: the flags that may be read at rip. */
void bt_emit_exit(struct trans *t, uint64_t rip, uint16_t live);                     /* unconditional */
void bt_emit_side_exit(struct trans *t, unsigned cond, uint64_t rip, uint16_t live); /* jcc; flags are in the host */
void bt_emit_indirect(struct trans *t, bool poll);            /* T0 = rip, flags in memory */
void bt_emit_exit_transfers(struct trans *t);                 /* where side exits into other pages jump to */
void bt_emit_exit_stubs(struct trans *t);
void bt_emit_entry(struct trans *t);
void bt_emit_direct_entry(struct trans *t);
void bt_map_add(struct trans *t, unsigned guest, unsigned flags);
/* Notes where the flags are when the instruction itself, emitted next, faults. */
void bt_map_flags(struct trans *t);

/* Whose half of the itlb, and whose jump cache, the TB belongs to. */
static inline bool bt_user_code(const struct trans *t) { return t->op_mmu == BT_MMU_USER; }

#endif
