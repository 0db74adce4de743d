/*
 * One check for several accesses: a run of pushes and pops, or of loads and stores off one base (and index) register that
 * does not change meanwhile, mostly stays in one page. The fast copy checks the whole range once and keeps the host address in
 * T1; when the check fails, a copy out of line does the same instructions with a check each, so that faults, page
 * crossings, MMIO and written code keep their precise state.
 */
#include "modes/bt/translate.h"

#define GROUP_SPAN 1024 /* bytes from the lowest to the highest access */

/* What the run's accesses cover, relative to the base register's value at its start. */
struct span {
	int64_t lo, hi;
	unsigned access, count;
};

static void cover(struct span *s, int64_t at, unsigned bytes, unsigned access)
{
	if (!s->count || at < s->lo)
		s->lo = at;
	if (!s->count || at + bytes > s->hi)
		s->hi = at + bytes;
	s->access |= access;
	s->count++;
}

/* add, sub or lea of a constant on rsp: its effect in *ret_delta. */
static bool moves_rsp(const struct bt_insn *in, int64_t *ret_delta)
{
	if (in->cls == BT_CLASS_LEA && in->opsize == 8 && in->addrsize == 8 && in->modrm_reg == GPR_RSP &&
	    in->base == GPR_RSP && in->index == 0xff) {
		*ret_delta = in->disp;
		return true;
	}
	if (in->cls != BT_CLASS_NATIVE || in->map != BT_MAP_1 || in->encoding != BT_ENC_LEGACY || in->opsize != 8 ||
	    (in->opcode != 0x81 && in->opcode != 0x83) || in->flags & BT_I_MEM || in->modrm_rm != GPR_RSP ||
	    (in->modrm_reg != 0 && in->modrm_reg != 5))
		return false;
	*ret_delta = in->modrm_reg == 0 ? in->imm : -in->imm;
	return true;
}

/* A plain operand [base + index * scale + disp] that a group can take. */
static bool plain_operand(const struct bt_insn *in)
{
	return in->cls == BT_CLASS_NATIVE && in->flags & BT_I_MEM && in->base != 0xff && in->addrsize == 8 && in->mem_bytes &&
	       !(in->flags & (BT_I_RIP_REL | BT_I_MOFFS | BT_I_BITOFF | BT_I_WIDE_MEM)) && in->seg != SEG_FS &&
	       in->seg != SEG_GS;
}

static bool register_push_pop(const struct bt_insn *in)
{
	if (in->opsize != 8 || in->flags & BT_I_MEM)
		return false;
	if (in->cls == BT_CLASS_PUSH)
		return in->handler != BT_OP_push_sreg;
	return in->cls == BT_CLASS_POP && in->flags & BT_I_OPREG && in->opreg != GPR_RSP;
}

/*
 * How the instruction takes part in a run off base and index of `g`: -1 not at all, 0 without access, 1 with one; *ret_last: the run
 * ends behind it. Keeps *delta, rsp's distance from its value at the start.
 */
static int takes_part(const struct trans *t, const struct bt_insn *in, const struct group *g, int64_t *delta, struct span *s,
		      bool *ret_last)
{
	uint32_t address = 1u << g->base | (g->index == 0xff ? 0 : 1u << g->index);
	unsigned base = g->index == 0xff ? g->base : 0xff; /* of pushes and the like */
	int64_t move;

	*ret_last = false;
	if (bt_forbidden(t, in))
		return -1;
	if (base == GPR_RSP && register_push_pop(in)) {
		cover(s, in->cls == BT_CLASS_PUSH ? *delta - 8 : *delta, 8,
		      in->cls == BT_CLASS_PUSH ? BT_ACCESS_WRITE : BT_ACCESS_READ);
		*delta += in->cls == BT_CLASS_PUSH ? -8 : 8;
		return 1;
	}
	if (base == GPR_RSP && in->cls == BT_CLASS_CALL && in->opsize == 8) {
		cover(s, *delta - 8, 8, BT_ACCESS_WRITE);
		*ret_last = true;
		return 1;
	}
	if (base == GPR_RSP && in->cls == BT_CLASS_RET && in->opsize == 8) {
		cover(s, *delta, 8, BT_ACCESS_READ);
		*ret_last = true;
		return 1;
	}
	if (base == GPR_RSP && moves_rsp(in, &move)) {
		*delta += move;
		return 0;
	}
	if (plain_operand(in) && in->base == g->base && in->index == g->index && (in->index == 0xff || in->scale == g->scale)) {
		cover(s, *delta + in->disp, in->mem_bytes, in->access);
		*ret_last = in->gpr_written & address;
		return 1;
	}
	if (in->flags & BT_I_MEM && in->cls != BT_CLASS_LEA && in->cls != BT_CLASS_NOP)
		return -1;
	if (in->cls != BT_CLASS_NATIVE && in->cls != BT_CLASS_LEA && in->cls != BT_CLASS_NOP)
		return -1;
	if (in->cls == BT_CLASS_LEA && in->index != 0xff && spilled(in->index))
		return -1; /* its address takes T1 */
	return in->gpr_written & address ? -1 : 0;
}

unsigned bt_group_scan(struct trans *t, unsigned i, struct group *ret)
{
	const struct bt_insn *first = &t->insn[i];
	struct span s = {0}, best = {0};
	struct group g = {.index = 0xff};
	unsigned n, len = 0;
	int64_t delta = 0;
	bool last;

	if (t->bits != 64 || t->tb->page_id2 || t->key & (KEY_ONE | KEY_AC) || t->group_count == TB_MAX_GROUPS)
		return 0;
	if (plain_operand(first)) {
		g.base = first->base;
		g.index = first->index;
		g.scale = first->scale;
	} else if (register_push_pop(first)) {
		g.base = GPR_RSP;
	} else {
		return 0;
	}
	for (n = i; n < t->n; n++) {
		int part = takes_part(t, &t->insn[n], &g, &delta, &s, &last);
		if (part < 0 || s.hi - s.lo > GROUP_SPAN)
			break;
		if (part) {
			best = s;
			len = n + 1 - i;
		}
		if (last)
			break;
	}
	if (best.count < 2)
		return 0;
	g.first = (uint8_t)i;
	g.len = (uint8_t)len;
	g.lo = (int32_t)best.lo;
	g.bytes = (uint16_t)(best.hi - best.lo);
	g.access = (uint8_t)best.access;
	*ret = g;
	return len;
}

struct emit_mem bt_group_operand(const struct trans *t, int64_t offset)
{
	return MEM_BD(H_T1, (int32_t)(offset + t->group_delta - t->group_lo));
}

/* T0 = where the range begins. */
static void emit_start(struct trans *t, const struct group *g)
{
	struct emit_mem m = {.base = (uint8_t)host_of(g->base), .index = H_NONE, .scale = g->scale, .disp = g->lo};

	if (spilled(g->base)) {
		e_load(&t->e, H_T0, V_GPR(g->base));
		m.base = H_T0;
	}
	if (g->index != 0xff) {
		m.index = g->index;
		if (spilled(g->index)) {
			e_load(&t->e, H_T1, V_GPR(g->index));
			m.index = H_T1;
		}
	}
	if (m.base != H_T0 || m.index != H_NONE || m.disp)
		e_lea(&t->e, H_T0, m);
}

void bt_group_emit(struct trans *t, const struct group *g)
{
	struct emit *e = &t->e;
	struct group *todo = &t->group[t->group_count++];

	*todo = *g;
	t->i = g->first;
	bt_map_add(t, t->off[g->first], 0); /* the check is the first access's */
	bt_flags_clobber(t, t->live_in[g->first]);
	todo->fl_start = (uint8_t)t->fl;
	emit_start(t, g);
	bt_emit_range_check(t, g->bytes, g->access, g->base, (unsigned)(todo - t->group));
	e_lea(e, H_T1, MEM_BI(H_T1, H_T0));

	t->grouped = true;
	t->group_lo = g->lo;
	t->group_delta = 0;
	for (unsigned k = 0; k < g->len; k++) {
		int64_t move = 0;
		bt_emit_one(t, g->first + k);
		if (g->base == GPR_RSP && moves_rsp(&t->insn[g->first + k], &move))
			t->group_delta += move;
	}
	t->grouped = false;
	todo->fl_end = (uint8_t)t->fl;
	todo->join = e->p;
}

void bt_group_emit_slow(struct trans *t)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < t->group_count; i++) {
		struct group *g = &t->group[i];
		const struct bt_insn *last = &t->insn[g->first + g->len - 1];
		g->slow = e->p;
		t->fl = (enum flags_at)g->fl_start;
		for (unsigned k = 0; k < g->len; k++)
			bt_emit_one(t, g->first + k);
		if (last->cls == BT_CLASS_CALL || last->cls == BT_CLASS_RET)
			continue;
		if (t->live_out[g->first + g->len - 1]) {
			if (g->fl_end == FL_HOST)
				bt_flags_to_host(t);
			else
				bt_flags_to_mem(t);
		}
		e_jmp(e, g->join + e->exec);
	}
}
