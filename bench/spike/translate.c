/* The spike's translator: one guest program, any design. */
#include "bench/spike/spike.h"

#include <err.h>
#include <string.h>

#define CF 1u
#define REST 2u /* every other arithmetic flag */
#define ALL 3u
#define OFF(f) ((int32_t)offsetof(struct vstate, f))
enum { S0 = R14, S1 = R15 };

enum { TO_MISS = -1, TO_EXIT = -2 };
struct fixup {
	uint8_t *rel32;
	int target; /* instruction, or one of these */
};
struct slow {
	uint8_t *rel32;
	const uint8_t *retry;
	struct mem m;
	unsigned desc;
	int slot; /* of near[], or -1 */
};
struct run {
	uint8_t *rel32, *resume;
	unsigned from, to;
	unsigned host, mem; /* where flags are */
};

struct tx {
	struct code c;
	const struct design *d;
	struct translation *t;
	struct ginsn g[MAX_INSNS];
	unsigned n;
	unsigned live_in[MAX_INSNS], live_out[MAX_INSNS];
	bool leader[MAX_INSNS], head[MAX_INSNS];
	uint8_t *body[MAX_INSNS]; /* direct entries */
	uint8_t *checked[MAX_INSNS]; /* behind the check of an indirect entry */
	struct fixup fix[4 * MAX_INSNS], lea_fix[MAX_INSNS];
	struct slow slow[4 * MAX_INSNS];
	struct run run[MAX_INSNS];
	unsigned nfix, nlea, nslow, nrun;
	unsigned host, mem; /* which flags are valid in the host's register, in flags_ax */
	bool cf_saved;      /* CF is in flags_cf */
	int run_off;        /* inside a checked run of stack accesses: offset from S0+S1 of guest rsp */
	unsigned run_end;   /* the run's last instruction, 0: none */
	bool no_runs;
	int slot;
	unsigned sites;
	int bias;           /* bytes pushed on a stack that is the state itself */
	uint8_t *thunk, *miss;
};

/* ---- where things are --------------------------------------------------------------------- */

static int map(const struct tx *x, int guest)
{
	switch (x->d->layout) {
	case LAY_NATIVE:
		return guest;
	case LAY_RSP_STATE:
	case LAY_GS_CALL:
		return guest == RSP ? R13 : guest >= R13 ? NONE : guest;
	case LAY_GS_STATE:
		return guest >= R14 ? NONE : guest;
	case LAY_GS_RCX:
		return guest == RCX ? R13 : guest >= R13 ? NONE : guest;
	}
	return NONE;
}

static struct mem state(const struct tx *x, int32_t off)
{
	if (x->d->layout == LAY_RSP_STATE)
		return MEM(RSP, off + x->bias);
	return (struct mem){ .base = NONE, .index = NONE, .disp = off, .gs = true };
}

static struct mem state_idx(const struct tx *x, int index, unsigned scale, int32_t off)
{
	if (x->d->layout == LAY_RSP_STATE)
		return MEMX(RSP, index, scale, off + x->bias);
	if (!scale)
		return (struct mem){ .base = index, .index = NONE, .disp = off, .gs = true };
	return (struct mem){ .base = NONE, .index = index, .scale = scale, .disp = off, .gs = true };
}

static struct mem hi(const struct tx *x, int guest)
{
	return state(x, OFF(hi) + 8 * (guest - R13));
}

static bool free_flags(const struct tx *x) { return x->d->flags == FLAG_FREE; }

/* ---- flags ------------------------------------------------------------------------------------ */

static void save_flags(struct tx *x)
{
	e_mov(&x->c, S0, RAX);
	e_byte(&x->c, 0x9f); /* lahf */
	e_rr(&x->c, 0x0f90, 1, 0, RAX);
	e_rm(&x->c, 0x89, 8, RAX, state(x, OFF(flags_ax)));
	e_mov(&x->c, RAX, S0);
	x->mem = ALL;
}

static void restore_flags(struct tx *x)
{
	e_mov(&x->c, S0, RAX);
	e_rm(&x->c, 0x8b, 8, RAX, state(x, OFF(flags_ax)));
	e_rr(&x->c, 0x80, 1, ALU_ADD, RAX);
	e_byte(&x->c, 0x7f);
	e_byte(&x->c, 0x9e); /* sahf */
	e_mov(&x->c, RAX, S0);
	x->host = ALL;
}

/* About to run code that destroys the host's flags while `live` ones are needed later. */
static void clobber(struct tx *x, unsigned live)
{
	if (free_flags(x))
		errx(1, "spike: %s clobbers flags", x->d->name);
	if (live & x->host & ~x->mem) {
		if (x->d->flags == FLAG_LAZY_CF && live == CF) {
			e_rm(&x->c, 0x0f93, 1, 0, state(x, OFF(flags_cf))); /* setnc: cmp turns it round again */
			x->cf_saved = true;
		} else {
			save_flags(x);
		}
	}
	x->host = 0;
}

static void require(struct tx *x, unsigned flags)
{
	if (free_flags(x) || !(flags & ~x->host))
		return;
	if (flags == CF && x->cf_saved) {
		/* cmp byte, 1: as wide as the store, or store forwarding fails (4 ns) */
		e_rm(&x->c, 0x80, 1, ALU_CMP, state(x, OFF(flags_cf)));
		e_byte(&x->c, 1);
		x->host = CF;
	} else {
		restore_flags(x);
	}
}

static void defined(struct tx *x, unsigned flags)
{
	if (!flags)
		return;
	x->host |= flags;
	x->mem = 0;
	if (flags & CF)
		x->cf_saved = false;
}

/* An indirect branch follows: the target finds its flags in memory. */
static void flags_to_memory(struct tx *x)
{
	if (!free_flags(x) && x->mem != ALL) {
		require(x, ALL);
		save_flags(x);
	}
}

/* ---- memory ------------------------------------------------------------------------------------- */

/* S1 = address of the guest operand. */
static void address(struct tx *x, struct mem m)
{
	int base = m.base == NONE ? NONE : map(x, m.base), index = m.index == NONE ? NONE : map(x, m.index);

	if (m.base != NONE && base == NONE) {
		e_rm(&x->c, 0x8b, 8, S1, hi(x, m.base));
		base = S1;
	}
	if (m.index != NONE && index == NONE) {
		index = base == S1 ? S0 : S1;
		e_rm(&x->c, 0x8b, 8, index, hi(x, m.index));
	}
	if (index == NONE && !m.disp) {
		if (base != S1)
			e_mov(&x->c, S1, base);
		return;
	}
	e_rm(&x->c, 0x8d, 8, S1, MEMX(base, index, m.scale, m.disp));
}

static unsigned bits(const struct tx *x) { return x->d->bits ? x->d->bits : 12; }

static void slow_here(struct tx *x, uint8_t *rel32, const uint8_t *retry, struct mem m, unsigned desc)
{
	x->slow[x->nslow++] = (struct slow){ rel32, retry, m, desc, x->slot };
}

static bool direct_base(const struct tx *x, struct mem m)
{
	return m.index == NONE && m.base != NONE && map(x, m.base) != NONE;
}

/* The flag-free check: rcx is zero on a hit. */
static void check_rcx(struct tx *x, const uint8_t *retry, struct mem m, unsigned desc)
{
	e_pext(&x->c, 8, RCX, RCX, state(x, OFF(mask_page)));
	e_byte(&x->c, 0xe3); /* jrcxz over the jmp, whatever its padding */
	uint8_t *rel8 = x->c.w;
	e_byte(&x->c, 0);
	slow_here(x, e_jmp(&x->c), retry, m, desc);
	*rel8 = x->c.w - (rel8 + 1);
}

/* Looks up the guest operand m; the host operand comes back. */
static struct mem lookup(struct tx *x, struct mem m, unsigned size, bool write, bool stack)
{
	struct code *c = &x->c;
	uint8_t *retry = c->w - (x->bias ? 1 : 0); /* the pushf, too */
	unsigned desc = size | stack << 8 | write << 9 | (x->bias != 0) << 10;
	int32_t mask = (1 << bits(x)) - 1, tag = write ? OFF(tlb[0].write) : OFF(tlb[0].read);

	if (x->d->tlb == TLB_NONE) {
		if (direct_base(x, m))
			return MEM(map(x, m.base), m.disp);
		address(x, m);
		return MEM(S1, 0);
	}
	if (stack && x->d->stack != STK_TLB) {
		int sp = map(x, m.base);
		if (x->d->tlb == TLB_JRCXZ) {
			e_rm(c, 0x8b, 8, RCX, state(x, OFF(stack_tag)));
			e_rm(c, 0x8d, 8, RCX, MEMX(sp, RCX, 0, m.disp + (int)size - 1));
			check_rcx(x, retry, m, desc);
			e_rm(c, 0x8b, 8, S0, state(x, OFF(stack_host)));
			return MEMX(sp, S0, 0, m.disp);
		}
		address(x, m);
		e_rm(c, 0x03, 8, S1, state(x, OFF(stack_tag)));
		e_alu_imm(c, ALU_CMP, 8, S1, 4096 - size);
		slow_here(x, e_jcc(c, CC_A), retry, m, desc);
		e_rm(c, 0x8b, 8, S0, state(x, OFF(stack_host)));
		if (x->d->tlb == TLB_ADDEND32)
			return MEMX(sp, S0, 0, m.disp);
		return MEMX(S0, S1, 0, 0);
	}
	switch (x->d->tlb) {
	case TLB_SITE:
	case TLB_BASE:
		x->slot = x->d->tlb == TLB_SITE ? (int)x->sites++ & 255 : 2 * m.base + write;
		address(x, m);
		e_rm(c, 0x03, 8, S1, state(x, OFF(near[0].tag) + 16 * x->slot));
		e_alu_imm(c, ALU_CMP, 8, S1, 4096 - size);
		slow_here(x, e_jcc(c, CC_A), retry, m, desc);
		e_rm(c, 0x8b, 8, S0, state(x, OFF(near[0].host) + 16 * x->slot));
		x->slot = -1;
		return MEMX(S0, S1, 0, 0);
	case TLB_ENTRY32:
		address(x, m);
		e_rorx(c, 4, S0, S1, 7);
		e_alu_imm(c, ALU_AND, 4, S0, mask << 5);
		e_rm(c, 0x03, 8, S1, state_idx(x, S0, 0, tag));
		e_alu_imm(c, ALU_CMP, 8, S1, 4096 - size);
		slow_here(x, e_jcc(c, CC_A), retry, m, desc);
		e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 0, OFF(tlb[0].host)));
		return MEMX(S0, S1, 0, 0);
	case TLB_SPLIT8:
	case TLB_PEXT:
		address(x, m);
		if (x->d->tlb == TLB_PEXT) {
			e_pext(c, 4, S0, S1, state(x, OFF(mask_index)));
		} else {
			e_rorx(c, 4, S0, S1, 12);
			e_alu_imm(c, ALU_AND, 4, S0, mask);
		}
		e_rm(c, 0x03, 8, S1, state_idx(x, S0, 3, OFF(split_read)));
		e_alu_imm(c, ALU_CMP, 8, S1, 4096 - size);
		slow_here(x, e_jcc(c, CC_A), retry, m, desc);
		e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 3, OFF(split_host)));
		return MEMX(S0, S1, 0, 0);
	case TLB_ADDEND32: {
		bool direct = direct_base(x, m);
		int from = S1;
		if (direct && !m.disp)
			from = map(x, m.base);
		else
			address(x, m);
		e_rorx(c, 4, S0, from, 7);
		e_alu_imm(c, ALU_AND, 4, S0, mask << 5);
		if (from != S1 || size > 1)
			e_rm(c, 0x8d, 8, S1, MEM(from, (int)size - 1));
		e_alu_imm(c, ALU_AND, 8, S1, -4096);
		e_rm(c, 0x3b, 8, S1, state_idx(x, S0, 0, tag));
		slow_here(x, e_jcc(c, CC_NE), retry, m, desc);
		if (direct) {
			e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 0, OFF(tlb[0].host)));
			return MEMX(map(x, m.base), S0, 0, m.disp);
		}
		/* The index in S0 must live until the addend is read, and the address wants both scratches again. */
		e_rm(c, 0x8b, 8, S1, state_idx(x, S0, 0, OFF(tlb[0].host)));
		if (m.index != NONE && map(x, m.index) != NONE && m.base != NONE && map(x, m.base) != NONE) {
			e_rm(c, 0x8d, 8, S1, MEMX(map(x, m.base), S1, 0, 0));
			return MEMX(S1, map(x, m.index), m.scale, m.disp);
		}
		e_mov(c, S0, S1);
		struct mem rest = m;
		if (m.index != NONE && map(x, m.index) == NONE)
			errx(1, "spike: an index in memory is not covered by %s", x->d->name);
		e_rm(c, 0x03, 8, S0, hi(x, m.base));
		rest.base = S0;
		if (m.index != NONE)
			rest.index = map(x, m.index);
		return rest;
	}
	case TLB_JRCXZ:
		address(x, m);
		e_pext(c, 4, S0, S1, state(x, OFF(mask_index)));
		e_rm(c, 0x8b, 8, RCX, state_idx(x, S0, 3, OFF(split_read)));
		e_rm(c, 0x8d, 8, RCX, MEMX(RCX, S1, 0, (int)size - 1));
		check_rcx(x, retry, m, desc);
		e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 3, OFF(split_addend)));
		return MEMX(S0, S1, 0, 0);
	default:
		errx(1, "spike: no such TLB");
	}
}

/* before/after bracket a memory access: `live` flags are needed after the whole instruction or by its operation. */
static void before(struct tx *x, unsigned live)
{
	if (free_flags(x) || x->d->tlb == TLB_NONE)
		return;
	if (x->d->flags == FLAG_PUSHF && live) {
		e_byte(&x->c, 0x9c);
		x->bias = 8;
	} else if (x->d->flags == FLAG_AROUND && live) {
		save_flags(x);
	} else {
		clobber(x, live);
	}
}

static void after(struct tx *x, unsigned live, struct mem *op)
{
	if (!live || free_flags(x) || x->d->tlb == TLB_NONE)
		return;
	if (x->d->flags == FLAG_PUSHF) {
		e_byte(&x->c, 0x9d);
		x->bias = 0;
	} else if (x->d->flags == FLAG_AROUND) {
		e_rm(&x->c, 0x8d, 8, S1, *op); /* restore_flags wants S0 */
		*op = MEM(S1, 0);
		restore_flags(x);
	}
}

/* ---- the stack --------------------------------------------------------------------------------- */

static bool plain(const struct ginsn *i)
{
	return i->op == G_MOV || i->op == G_MOVI || i->op == G_LEA || i->op == G_ZX8;
}

static bool pushes(const struct ginsn *i) { return i->op == G_PUSH || i->op == G_CALL || i->op == G_CALLR; }
static bool pops(const struct ginsn *i) { return i->op == G_POP || i->op == G_RET; }

/* From a push or pop at i on: how far one check can cover, with only register work in between. */
static unsigned run_length(struct tx *x, unsigned i, unsigned *ret_last)
{
	unsigned count = 0;
	bool down = pushes(&x->g[i]);
	for (unsigned k = i; k < x->n && (k == i || !x->leader[k]); k++) {
		if (down ? pushes(&x->g[k]) : pops(&x->g[k])) {
			count++;
			*ret_last = k;
		} else if (!plain(&x->g[k])) {
			break;
		}
		if (x->g[k].op == G_CALL || x->g[k].op == G_CALLR || x->g[k].op == G_RET)
			break;
	}
	return count;
}

/* Host operand of guest [rsp + disp] for the push or pop at i. */
static struct mem stack_operand(struct tx *x, unsigned i, int disp, bool write)
{
	if (x->d->stack == STK_RUN && !x->no_runs && !x->run_end) {
		unsigned last = 0, count = run_length(x, i, &last);
		if (count > 1) {
			bool down = pushes(&x->g[i]);
			struct mem low = MEM(RSP, down ? -8 * (int)count : 0);
			struct run *r = &x->run[x->nrun++];
			address(x, low);
			e_rm(&x->c, 0x03, 8, S1, state(x, OFF(stack_tag)));
			e_alu_imm(&x->c, ALU_CMP, 8, S1, 4096 - 8 * count);
			r->rel32 = e_jcc(&x->c, CC_A);
			e_rm(&x->c, 0x8b, 8, S0, state(x, OFF(stack_host)));
			*r = (struct run){ r->rel32, NULL, i, last, x->host, x->mem };
			x->run_off = down ? 8 * count : 0;
			x->run_end = last;
		}
	}
	if (x->run_end)
		return MEMX(S0, S1, 0, x->run_off + disp);
	return lookup(x, MEM(RSP, disp), 8, write, true);
}

static void move_rsp(struct tx *x, unsigned i, int by)
{
	int sp = map(x, RSP);
	e_rm(&x->c, 0x8d, 8, sp, MEM(sp, by));
	x->run_off += by;
	if (x->run_end == i && !x->no_runs) {
		if (x->nrun)
			x->run[x->nrun - 1].resume = x->c.w;
		x->run_end = 0;
	}
}

static void push_imm(struct tx *x, unsigned i, uint64_t value, unsigned live)
{
	before(x, live);
	struct mem op = stack_operand(x, i, -8, true);
	after(x, live, &op);
	e_rm(&x->c, 0xc7, 8, 0, op);
	e_u32(&x->c, value);
	move_rsp(x, i, -8);
}

/* ---- branches -------------------------------------------------------------------------------------- */

static void to(struct tx *x, uint8_t *rel32, int target)
{
	x->fix[x->nfix++] = (struct fixup){ rel32, target };
}

/* S1 = guest address; jump (or call, with the shadow stack) to its translation. */
static void indirect(struct tx *x, bool call)
{
	struct code *c = &x->c;
	unsigned reg = call && x->d->ret == RET_HOST ? 2 : 4; /* FF /2 call, /4 jmp */

	switch (x->d->ind) {
	case IND_HASH64K:
	case IND_JRCXZ:
		e_rr(c, 0x0fb7, 4, S0, S1);
		e_rm(c, 0xff, 4, reg, state_idx(x, S0, 3, OFF(ind)));
		break;
	case IND_HASH4K:
	case IND_HASH4K_IMM64:
		e_rr(c, 0x8b, 4, S0, S1);
		e_alu_imm(c, ALU_AND, 4, S0, 0xfff);
		e_rm(c, 0xff, 4, reg, state_idx(x, S0, 3, OFF(ind)));
		break;
	case IND_TAGGED:
		e_rr(c, 0x8b, 4, S0, S1);
		e_alu_imm(c, ALU_AND, 4, S0, 0xfff);
		e_rr(c, 0x03, 4, S0, S0);
		e_rm(c, 0x3b, 8, S1, state_idx(x, S0, 3, OFF(ind)));
		to(x, e_jcc(c, CC_NE), TO_MISS);
		e_rm(c, 0xff, 4, reg, state_idx(x, S0, 3, OFF(ind) + 8));
		break;
	}
}

/* Start of an indirect entry: is it the one that was meant? Then flags, if someone wants them. */
static void entry_check(struct tx *x, unsigned i)
{
	struct code *c = &x->c;
	uint64_t rip = x->t->where[i];

	x->t->entry[i] = c->w + c->delta;
	switch (x->d->ind) {
	case IND_TAGGED:
		break;
	case IND_JRCXZ:
		e_rm(c, 0x8d, 8, RCX, MEM(S1, -(int32_t)rip));
		e_byte(c, 0xe3);
		uint8_t *rel8 = c->w;
		e_byte(c, 0);
		to(x, e_jmp(c), TO_MISS);
		*rel8 = c->w - (rel8 + 1);
		break;
	case IND_HASH4K_IMM64:
		e_byte(c, 0x48 | 1);
		e_byte(c, 0xb8 | (S0 & 7));
		e_u64(c, rip);
		e_rr(c, 0x3b, 8, S1, S0);
		to(x, e_jcc(c, CC_NE), TO_MISS);
		break;
	default:
		e_alu_imm(c, ALU_CMP, 8, S1, rip);
		to(x, e_jcc(c, CC_NE), TO_MISS);
	}
	if (x->d->entry_guard) {
		e_alu_mem_imm(c, ALU_CMP, 4, state(x, OFF(itlb) + 4 * (int)(i * 7 & 1023)), 0x12345);
		to(x, e_jcc(c, CC_NE), TO_MISS);
	}
	x->checked[i] = c->w;
	if (!free_flags(x) && x->live_in[i])
		restore_flags(x);
}

/* lea S1, [rip + where the return site of a call at i starts] */
static void lea_site(struct tx *x, unsigned i)
{
	e_byte(&x->c, 0x4c);
	e_byte(&x->c, 0x8d);
	e_byte(&x->c, 0x05 | (S1 & 7) << 3);
	e_u32(&x->c, 0);
	x->lea_fix[x->nlea++] = (struct fixup){ x->c.w - 4, (int)i + 1 };
}

static void remember_return(struct tx *x, unsigned i)
{
	struct code *c = &x->c;
	if (x->d->ret == RET_RING) {
		e_rm(c, 0x8b, 4, S0, state(x, OFF(ring_at)));
		e_alu_imm(c, ALU_ADD, 4, S0, 16);
		e_alu_imm(c, ALU_AND, 4, S0, 16 * (RING - 1));
		e_rm(c, 0x89, 4, S0, state(x, OFF(ring_at)));
		e_rm(c, 0xc7, 8, 0, state_idx(x, S0, 0, OFF(ring[0].rip)));
		e_u32(c, x->t->where[i + 1]);
		lea_site(x, i);
		e_rm(c, 0x89, 8, S1, state_idx(x, S0, 0, OFF(ring[0].host)));
	} else if (x->d->ret == RET_SPSLOT) {
		e_rr(c, 0x8b, 4, S0, map(x, RSP));
		e_alu_imm(c, ALU_AND, 4, S0, 0xff8);
		lea_site(x, i);
		e_rm(c, 0x89, 8, S1, state_idx(x, S0, 0, OFF(sp_slot)));
	}
}

static void guard(struct tx *x, unsigned target, unsigned live)
{
	if (!x->d->guard)
		return;
	clobber(x, live);
	e_alu_mem_imm(&x->c, ALU_CMP, 4, state(x, OFF(itlb) + 4 * (int)(target * 7 & 1023)), 0x12345);
	to(x, e_jcc(&x->c, CC_NE), TO_MISS);
}

static void emit_call(struct tx *x, unsigned i)
{
	struct ginsn *g = &x->g[i];
	bool host_call = x->d->ret == RET_HOST;
	unsigned live = x->live_out[i];

	push_imm(x, i, x->t->where[i + 1], live);
	if (g->op == G_CALLR)
		flags_to_memory(x);
	remember_return(x, i);
	if (g->op == G_CALL) {
		guard(x, g->target, x->live_in[g->target]);
		require(x, x->live_in[g->target]);
		to(x, host_call ? e_call(&x->c) : e_jmp(&x->c), g->target);
	} else {
		if (map(x, g->src) == NONE)
			e_rm(&x->c, 0x8b, 8, S1, hi(x, g->src));
		else
			e_mov(&x->c, S1, map(x, g->src));
		indirect(x, true);
	}
}

static void emit_ret(struct tx *x, unsigned i)
{
	struct code *c = &x->c;

	before(x, ALL);
	struct mem op = stack_operand(x, i, 0, false);
	after(x, ALL, &op);
	e_rm(c, 0x8b, 8, S1, op);
	move_rsp(x, i, 8);
	flags_to_memory(x);
	switch (x->d->ret) {
	case RET_IND:
		indirect(x, false);
		break;
	case RET_HOST:
		e_byte(c, 0xc3);
		break;
	case RET_RING:
		e_rm(c, 0x8b, 4, S0, state(x, OFF(ring_at)));
		e_rm(c, 0x3b, 8, S1, state_idx(x, S0, 0, OFF(ring[0].rip)));
		to(x, e_jcc(c, CC_NE), TO_MISS);
		e_rm(c, 0x8d, 4, S1, MEM(S0, -16));
		e_alu_imm(c, ALU_AND, 4, S1, 16 * (RING - 1));
		e_rm(c, 0x89, 4, S1, state(x, OFF(ring_at)));
		e_rm(c, 0xff, 4, 4, state_idx(x, S0, 0, OFF(ring[0].host)));
		break;
	case RET_SPSLOT:
		e_rr(c, 0x8b, 4, S0, map(x, RSP));
		e_rm(c, 0x8d, 4, S0, MEM(S0, -8));
		e_alu_imm(c, ALU_AND, 4, S0, 0xff8);
		e_rm(c, 0xff, 4, 4, state_idx(x, S0, 0, OFF(sp_slot)));
		break;
	}
}

static void poll(struct tx *x, unsigned live)
{
	struct code *c = &x->c;
	switch (x->d->poll) {
	case POLL_NONE:
		break;
	case POLL_LOAD2:
		e_rm(c, 0x8b, 8, S1, state(x, OFF(poll)));
		e_rm(c, 0x8b, 8, S1, MEM(S1, 0));
		break;
	case POLL_LOAD1: /* the page before the state, which the kicker protects */
		e_rm(c, 0x8b, 8, S1, state(x, -4096));
		break;
	case POLL_CMP:
		clobber(x, live);
		e_alu_mem_imm(c, ALU_CMP, 4, state(x, OFF(kicked)), 0);
		to(x, e_jcc(c, CC_NE), TO_EXIT);
		require(x, live);
		break;
	}
}

/* ---- one instruction --------------------------------------------------------------------------------- */

static unsigned flags_used(const struct ginsn *g)
{
	switch (g->op) {
	case G_ALU: case G_ALUI: case G_ALUM:
		return g->alu == ALU_ADC || g->alu == ALU_SBB ? CF : 0;
	case G_JCC:
		return g->cc == CC_B || g->cc == CC_AE ? CF : g->cc == CC_BE || g->cc == CC_A ? ALL : REST;
	default:
		return 0;
	}
}

static unsigned flags_set(const struct ginsn *g)
{
	switch (g->op) {
	case G_ALU: case G_ALUI: case G_ALUM: case G_SHRI:
		return ALL;
	case G_DEC:
		return REST;
	default:
		return 0;
	}
}

/* opcode /r with the register operand `reg`, wherever the layout keeps it; dst: it is written. */
static void reg_reg(struct tx *x, unsigned opcode, unsigned size, int dst, int src)
{
	struct code *c = &x->c;
	int d = map(x, dst), s = map(x, src);
	if (s == NONE && d == NONE) {
		e_rm(c, 0x8b, 8, S0, hi(x, src));
		s = S0;
	}
	if (d != NONE && s != NONE)
		e_rr(c, opcode, size, d, s);
	else if (d != NONE)
		e_rm(c, opcode, size, d, hi(x, src));
	else
		e_rm(c, opcode & ~2u, size, s, hi(x, dst)); /* op r/m, r */
}

static void native_operand_regs(struct tx *x, const struct ginsn *g, unsigned opcode)
{
	e_rm(&x->c, opcode, g->size, g->op == G_STORE ? g->src : g->dst, g->m);
}

static void emit_native(struct tx *x, unsigned i)
{
	struct ginsn *g = &x->g[i];
	struct code *c = &x->c;
	switch (g->op) {
	case G_LOAD: native_operand_regs(x, g, 0x8b); break;
	case G_LOADZX8: native_operand_regs(x, g, 0x0fb6); break;
	case G_STORE: native_operand_regs(x, g, 0x89); break;
	case G_ALUM: native_operand_regs(x, g, 0x03 | g->alu << 3); break;
	case G_PUSH: e_rr(c, 0xff, 4, 6, g->src); break;
	case G_POP: e_rr(c, 0x8f, 4, 0, g->dst); break;
	case G_CALL: to(x, e_call(c), g->target); break;
	case G_CALLR: e_rr(c, 0xff, 4, 2, g->src); break;
	case G_RET: e_byte(c, 0xc3); break;
	default: errx(1, "spike: operation %d", g->op);
	}
}

static bool simple_access(const struct ginsn *g)
{
	return g->op == G_LOAD || g->op == G_LOADZX8 || g->op == G_STORE;
}

static unsigned access_size(const struct ginsn *g) { return g->op == G_LOADZX8 ? 1 : g->size; }

/* One check for this access and those that follow off the same, unchanged base register. */
static void share_check(struct tx *x, unsigned i)
{
	struct ginsn *g = &x->g[i];
	int base = g->m.base, low = g->m.disp, high = low;
	unsigned last = i, count = 0;
	bool write = false;

	for (unsigned k = i; k < x->n && (k == i || !x->leader[k]); k++) {
		struct ginsn *h = &x->g[k];
		if (simple_access(h) && h->m.base == base && h->m.index == NONE) {
			int end = h->m.disp + (int)access_size(h);
			low = h->m.disp < low ? h->m.disp : low;
			high = end > high ? end : high;
			write |= h->op == G_STORE;
			last = k;
			count++;
		} else if (!plain(h)) {
			break;
		}
		if (h->op != G_STORE && h->dst == base)
			break;
	}
	if (count < 2)
		return;
	struct run *r = &x->run[x->nrun++];
	struct code *c = &x->c;
	before(x, x->live_out[i]);
	address(x, MEM(base, low));
	if (x->d->tlb == TLB_BASE) {
		e_rm(c, 0x03, 8, S1, state(x, OFF(near[0].tag) + 16 * (2 * base + write)));
	} else {
		e_rorx(c, 4, S0, S1, 7);
		e_alu_imm(c, ALU_AND, 4, S0, ((1 << bits(x)) - 1) << 5);
		e_rm(c, 0x03, 8, S1, state_idx(x, S0, 0, write ? OFF(tlb[0].write) : OFF(tlb[0].read)));
	}
	e_alu_imm(c, ALU_CMP, 8, S1, 4096 - (high - low));
	uint8_t *rel32 = e_jcc(c, CC_A);
	if (x->d->tlb == TLB_BASE)
		e_rm(c, 0x8b, 8, S0, state(x, OFF(near[0].host) + 16 * (2 * base + write)));
	else
		e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 0, OFF(tlb[0].host)));
	*r = (struct run){ rel32, NULL, i, last, x->host, x->mem };
	x->run_off = -low;
	x->run_end = last;
}

static void access(struct tx *x, const struct ginsn *g, unsigned opcode, bool write, unsigned i)
{
	unsigned set = flags_set(g), live = (x->live_out[i] & ~set) | flags_used(g);
	int reg = map(x, write ? g->src : g->dst);

	if (reg == NONE)
		errx(1, "spike: memory to memory");
	if (x->d->share && !x->run_end && !x->no_runs && simple_access(g) && direct_base(x, g->m))
		share_check(x, i);
	if (x->run_end) {
		e_rm(&x->c, opcode, g->size, reg, MEMX(S0, S1, 0, x->run_off + g->m.disp));
		if (x->run_end == i) {
			x->run[x->nrun - 1].resume = x->c.w;
			x->run_end = 0;
		}
		return;
	}
	before(x, live);
	struct mem op = lookup(x, g->m, access_size(g), write, false);
	after(x, live, &op);
	if (x->d->flags == FLAG_LAZY || x->d->flags == FLAG_LAZY_CF) {
		if (flags_used(g) & ~x->host && !(flags_used(g) == CF && x->cf_saved)) {
			/* restore_flags wants S0: fold the operand into S1 first. */
			e_rm(&x->c, 0x8d, 8, S1, op);
			op = MEM(S1, 0);
		}
		require(x, flags_used(g));
	}
	e_rm(&x->c, opcode, g->size, reg, op);
	defined(x, set);
}

static void emit(struct tx *x, unsigned i)
{
	struct ginsn *g = &x->g[i];
	struct code *c = &x->c;
	unsigned set = flags_set(g);
	int d = g->dst == NONE ? NONE : map(x, g->dst);

	switch (g->op) {
	case G_MOV: reg_reg(x, 0x8b, g->size, g->dst, g->src); return;
	case G_MOVI: e_mov_imm(c, d, g->imm); return;
	case G_LEA: {
		struct mem m = g->m;
		m.base = map(x, m.base);
		m.index = m.index == NONE ? NONE : map(x, m.index);
		e_rm(c, 0x8d, g->size, d, m);
		return;
	}
	case G_ALU:
	case G_ALUI:
		if (!free_flags(x))
			require(x, flags_used(g));
		if (g->op == G_ALU)
			reg_reg(x, 0x03 | g->alu << 3, g->size, g->dst, g->src);
		else if (d == NONE)
			e_alu_mem_imm(c, g->alu, g->size, hi(x, g->dst), g->imm);
		else
			e_alu_imm(c, g->alu, g->size, d, g->imm);
		defined(x, set);
		return;
	case G_ZX8: e_rr(c, 0x0fb6, 4, d, map(x, g->src)); return;
	case G_SHRI:
		e_rr(c, 0xc1, g->size, 5, d);
		e_byte(c, g->imm);
		defined(x, set);
		return;
	case G_DEC:
		if (x->live_out[i] & CF)
			require(x, CF);
		e_rr(c, 0xff, g->size, 1, d);
		defined(x, set);
		return;
	case G_JCC:
		require(x, flags_used(g) | x->live_in[g->target] | x->live_out[i]);
		to(x, e_jcc(c, g->cc), g->target);
		return;
	case G_JMP:
		require(x, x->live_in[g->target]);
		to(x, e_jmp(c), g->target);
		return;
	case G_EXIT: return;
	default: break;
	}
	if (x->d->layout == LAY_NATIVE) {
		emit_native(x, i);
		return;
	}
	switch (g->op) {
	case G_ALUM: access(x, g, 0x03 | g->alu << 3, false, i); break;
	case G_LOAD: access(x, g, 0x8b, false, i); break;
	case G_LOADZX8: access(x, g, 0x0fb6, false, i); break;
	case G_STORE: access(x, g, 0x89, true, i); break;
	case G_PUSH:
	case G_POP: {
		bool push = g->op == G_PUSH;
		int reg = map(x, push ? g->src : g->dst);
		before(x, x->live_out[i]);
		struct mem op = stack_operand(x, i, push ? -8 : 0, push);
		after(x, x->live_out[i], &op);
		e_rm(c, push ? 0x89 : 0x8b, 8, reg, op);
		move_rsp(x, i, push ? -8 : 8);
		break;
	}
	case G_CALL:
	case G_CALLR: emit_call(x, i); break;
	case G_RET: emit_ret(x, i); break;
	default: errx(1, "spike: operation %d", g->op);
	}
}

/* ---- whole programs ------------------------------------------------------------------------------------ */

static bool ends(const struct ginsn *g)
{
	return g->op == G_CALL || g->op == G_CALLR || g->op == G_RET || g->op == G_JMP || g->op == G_EXIT;
}

static void liveness(struct tx *x)
{
	for (bool changed = true; changed;) {
		changed = false;
		for (unsigned i = x->n; i--;) {
			struct ginsn *g = &x->g[i];
			unsigned out = 0;
			if (g->op == G_RET || g->op == G_CALLR)
				out = ALL; /* who knows where it goes */
			else if (g->op == G_CALL || g->op == G_JMP)
				out = x->live_in[g->target];
			else if (g->op != G_EXIT)
				out = x->live_in[i + 1] | (g->op == G_JCC ? x->live_in[g->target] : 0);
			unsigned in = (out & ~flags_set(g)) | flags_used(g);
			changed |= in != x->live_in[i] || out != x->live_out[i];
			x->live_in[i] = in;
			x->live_out[i] = out;
		}
	}
	for (unsigned i = 0; i < x->n; i++) {
		struct ginsn *g = &x->g[i];
		if (g->op == G_CALL || g->op == G_JMP || g->op == G_JCC) {
			x->leader[g->target] = true;
			x->head[g->target] |= (unsigned)g->target <= i && g->op != G_CALL;
		}
		if ((ends(g) || g->op == G_JCC) && i + 1 < x->n)
			x->leader[i + 1] = true;
	}
}

/* Saves every register where C may destroy it, switches stacks, calls fn(v), comes back to [slow_ret]. */
static uint8_t *emit_thunk(struct tx *x, void (*fn)(struct vstate *))
{
	struct code *c = &x->c;
	uint8_t *start = c->w;
	bool rsp_state = x->d->layout == LAY_RSP_STATE;

	for (int r = 0; r < 16; r++)
		e_rm(c, 0x89, 8, r, state(x, OFF(saved) + 8 * r));
	if (rsp_state)
		e_mov(c, RDI, RSP);
	else
		e_rm(c, 0x8b, 8, RDI, state(x, OFF(state)));
	e_rm(c, 0x8b, 8, RSP, state(x, OFF(host_rsp)));
	e_byte(c, 0x57); /* push rdi */
	e_byte(c, 0x9c);
	e_alu_imm(c, ALU_SUB, 8, RSP, 8);
	e_mov_imm(c, RAX, (int64_t)fn);
	e_rr(c, 0xff, 4, 2, RAX);
	e_rm(c, 0x8d, 8, RSP, MEM(RSP, 8));
	e_byte(c, 0x9d);
	if (rsp_state)
		e_byte(c, 0x5c); /* pop rsp: the state again */
	for (int r = 0; r < 16; r++)
		if (!rsp_state || r != RSP)
			e_rm(c, 0x8b, 8, r, state(x, OFF(saved) + 8 * r));
	e_rm(c, 0xff, 4, 4, state(x, OFF(slow_ret)));
	return start;
}

static const uint8_t pushes_in[] = { 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57 };
static const uint8_t pops_out[] = { 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3 };

/* void enter(struct vstate *, const void *code) */
static void emit_enter(struct tx *x)
{
	struct code *c = &x->c;
	x->t->enter = (void (*)(struct vstate *, const void *))(c->w + c->delta);
	for (unsigned i = 0; i < sizeof(pushes_in); i++)
		e_byte(c, pushes_in[i]);
	e_rm(c, 0x89, 8, RSP, MEM(RDI, OFF(host_rsp)));
	e_rm(c, 0x89, 8, RSI, MEM(RDI, OFF(slow_ret)));
	if (x->d->layout == LAY_RSP_STATE)
		e_mov(c, RSP, RDI);
	else if (x->d->layout == LAY_GS_CALL)
		e_rm(c, 0x8d, 8, RSP, MEM(RDI, OFF(shadow) + (int)sizeof(((struct vstate *)0)->shadow) - 64));
	for (int r = 0; r < 16; r++)
		if (map(x, r) != NONE)
			e_rm(c, 0x8b, 8, map(x, r), state(x, OFF(gpr) + 8 * r));
	e_rm(c, 0xff, 4, 4, state(x, OFF(slow_ret)));
}

static void emit_exit(struct tx *x)
{
	struct code *c = &x->c;
	if (!x->t->exit)
		x->t->exit = c->w + c->delta;
	for (int r = 0; r < 16; r++)
		if (map(x, r) != NONE)
			e_rm(c, 0x89, 8, map(x, r), state(x, OFF(gpr) + 8 * r));
	e_rm(c, 0x8b, 8, RSP, state(x, OFF(host_rsp)));
	for (unsigned i = 0; i < sizeof(pops_out); i++)
		e_byte(c, pops_out[i]);
}

static void emit_slow(struct tx *x, const struct slow *s)
{
	struct code *c = &x->c;
	e_fix(s->rel32, c->w);
	if (s->desc >> 10 & 1)
		e_byte(c, 0x9d);
	uint8_t *miss = NULL;
	if (s->slot >= 0) { /* the whole TLB, whose entry goes into the slot */
		int32_t tag = s->desc >> 9 & 1 ? OFF(tlb[0].write) : OFF(tlb[0].read);
		address(x, s->m);
		e_rorx(c, 4, S0, S1, 7);
		e_alu_imm(c, ALU_AND, 4, S0, ((1 << bits(x)) - 1) << 5);
		e_rm(c, 0x03, 8, S1, state_idx(x, S0, 0, tag));
		e_alu_imm(c, ALU_CMP, 8, S1, 4096 - (s->desc & 255));
		miss = e_jcc(c, CC_A);
		e_rm(c, 0x8b, 8, S1, state_idx(x, S0, 0, tag));
		e_rm(c, 0x89, 8, S1, state(x, OFF(near[0].tag) + 16 * s->slot));
		e_rm(c, 0x8b, 8, S0, state_idx(x, S0, 0, OFF(tlb[0].host)));
		e_rm(c, 0x89, 8, S0, state(x, OFF(near[0].host) + 16 * s->slot));
		e_fix(e_jmp(c), s->retry);
		e_fix(miss, c->w);
	}
	address(x, s->m);
	e_rm(c, 0x89, 8, S1, state(x, OFF(slow_addr)));
	e_rm(c, 0xc7, 4, 0, state(x, OFF(slow_desc)));
	e_u32(c, s->desc);
	e_mov_imm(c, S0, (int64_t)(s->retry + c->delta));
	e_rm(c, 0x89, 8, S0, state(x, OFF(slow_ret)));
	e_fix(e_jmp(c), x->thunk);
}

/* A stack run that leaves the cached page: the same instructions, each with its own check. */
static void emit_run_slow(struct tx *x, const struct run *r)
{
	e_fix(r->rel32, x->c.w);
	x->no_runs = true;
	x->host = r->host;
	x->mem = r->mem;
	for (unsigned i = r->from; i <= r->to; i++)
		emit(x, i);
	if (!ends(&x->g[r->to]))
		e_fix(e_jmp(&x->c), r->resume);
	x->no_runs = false;
}

static void emit_body(struct tx *x)
{
	struct code *c = &x->c;
	const struct design *d = x->d;
	bool native = d->layout == LAY_NATIVE;

	for (unsigned i = 0; i < x->n; i++) {
		bool falls = i && !ends(&x->g[i - 1]);
		if (x->leader[i] && falls && !native) {
			require(x, x->live_in[i]);
			if (!d->fall || x->g[i].entry)
				to(x, e_jmp(c), i);
		}
		while (x->head[i] && ((uintptr_t)c->w & 31))
			e_byte(c, 0x90);
		if (native)
			x->t->entry[i] = c->w + c->delta;
		else if (x->g[i].entry)
			entry_check(x, i);
		x->body[i] = c->w;
		if (x->leader[i] || !i) {
			x->host = ALL;
			x->mem = 0;
			x->cf_saved = false;
		}
		if (x->head[i] && !native)
			poll(x, x->live_in[i]);
		if (x->g[i].op == G_EXIT)
			emit_exit(x);
		else
			emit(x, i);
		if (x->g[i].op == G_JMP || x->g[i].op == G_JCC)
			x->t->back_edge = c->w - 4;
	}
}

void translate(struct translation *t, const struct design *d, const struct program *p, unsigned param, unsigned place)
{
	static _Thread_local struct tx x;

	memset(&x, 0, sizeof(x));
	memset(t, 0, sizeof(*t));
	cache_open(&t->cache, 1 << 16);
	x.c = (struct code){ t->cache.w, t->cache.w + t->cache.size, t->cache.x - t->cache.w, d->layout == LAY_NATIVE };
	x.d = d;
	x.t = t;
	x.n = t->insns = p->build(x.g, param);
	x.slot = -1;
	liveness(&x);
	emit_enter(&x);
	x.thunk = emit_thunk(&x, spike_slow);
	x.miss = emit_thunk(&x, spike_lookup_miss);
	t->lookup_miss = x.miss + x.c.delta;
	for (unsigned i = 0; i < x.n; i++)
		t->where[i] = 0x401000 + 7 * i;
	while ((uintptr_t)x.c.w & 63)
		e_byte(&x.c, 0x90);
	for (unsigned i = 0; i < 80 * place; i++)
		e_byte(&x.c, 0x90);
	uint8_t *start = x.c.w;
	t->start = start + x.c.delta;
	emit_body(&x);
	t->bytes = x.c.w - start;
	for (unsigned i = 0; i < x.nrun; i++)
		emit_run_slow(&x, &x.run[i]);
	for (unsigned i = 0; i < x.nslow; i++)
		emit_slow(&x, &x.slow[i]);
	for (unsigned i = 0; i < x.nfix; i++) {
		int target = x.fix[i].target;
		const uint8_t *go = target == TO_MISS ? x.miss : target == TO_EXIT ? t->exit - x.c.delta : x.body[target];
		int32_t rel = go - (x.fix[i].rel32 + 4);
		memcpy(x.fix[i].rel32, &rel, 4);
	}
	for (unsigned i = 0; i < x.nlea; i++) {
		int site = x.lea_fix[i].target;
		const uint8_t *go = d->ret == RET_RING ? x.checked[site] : t->entry[site] - x.c.delta;
		int32_t rel = go - (x.lea_fix[i].rel32 + 4);
		memcpy(x.lea_fix[i].rel32, &rel, 4);
	}
	if (d->layout == LAY_NATIVE)
		for (unsigned i = 0; i < x.n; i++)
			t->where[i] = (uint64_t)t->entry[i];
}

void translation_free(struct translation *t)
{
	cache_close(&t->cache);
}

void vstate_reset(struct vstate *v, const struct design *d, const struct translation *t, struct guest_mem *gm)
{
	bool positive = d->tlb == TLB_ADDEND32;
	unsigned n = 1u << (d->bits ? d->bits : 12);

	v->design = d;
	v->gm = gm;
	v->state = (uint64_t)v;
	v->poll = &v->poll_word;
	v->kicked = 0;
	v->mask_index = (uint64_t)(n - 1) << 12;
	v->mask_page = ~4095ul;
	v->stack_tag = 1ul << 62; /* the arena is below 2^47, so no sum comes near 0 */
	v->ring_at = 0;
	for (unsigned i = 0; i < 256; i++)
		v->near[i].tag = 1ul << 62;
	v->misses = 0;
	for (uint64_t i = 0; i < n; i++) {
		/* Never hits: the tag of a page with another index. */
		uint64_t page = (i ^ 1) << 12, tag = positive ? page : -page;
		v->tlb[i] = (struct tlb_entry){ .read = tag, .write = tag };
		v->split_read[i] = tag;
	}
	for (unsigned i = 0; i < 1024; i++)
		v->itlb[i] = 0x12345;
	for (unsigned i = 0; i < 1 << 16; i++)
		v->ind[i] = (uint64_t)t->lookup_miss;
	for (unsigned i = 0; i < t->insns; i++) {
		if (!t->entry[i] || d->layout == LAY_NATIVE)
			continue;
		if (d->ind == IND_TAGGED) {
			v->ind[2 * (t->where[i] & 0xfff)] = t->where[i];
			v->ind[2 * (t->where[i] & 0xfff) + 1] = (uint64_t)t->entry[i];
		} else {
			v->ind[t->where[i] & (d->ind == IND_HASH64K || d->ind == IND_JRCXZ ? 0xffff : 0xfff)] =
				(uint64_t)t->entry[i];
		}
	}
}
