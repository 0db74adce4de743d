/*
 * Loops: a block whose last jump goes back to its own start gets a second copy in which the checks of accesses that
 * advance by a constant, or do not move at all, stand outside the loop.
 *
 * The plain copy runs the first turns. Then, for each such stream of accesses, its page is looked up, and how far the
 * advancing register may go before an access would leave that page; the fast copy compares the register once a turn
 * and goes back to the plain copy for a turn when it is past that. Whatever else fails in the fast copy (an access that is
 * checked there and misses) goes to the same instruction in the plain copy. So the fast copy calls nobody: no page
 * table, no write permission can change under it by its own doing, and since a page is soon at its end, it leaves often
 * enough to need no poll, be it for interrupts or for another vCPU that wants to take a write permission away.
 */
#include "modes/bt/translate.h"

#define LOOP_SPAN 1024  /* bytes from the lowest to the highest access of a stream in one turn */
#define LOOP_STRIDE 256 /* largest advance in a turn: further, and a page is too few turns */
#define LOOP_WARM 4     /* turns of plain copies between two entries into fast ones: bounds what short loops pay */

static int32_t loop_off(unsigned stream, size_t field)
{
	return (int32_t)(offsetof(struct bt_vcpu, loop) + stream * sizeof(struct bt_loop_stream) + field);
}
#define LOOP_LIMIT(s) MEM_BD(H_VCPU, loop_off(s, offsetof(struct bt_loop_stream, limit)))
#define LOOP_HOST(s) MEM_BD(H_VCPU, loop_off(s, offsetof(struct bt_loop_stream, host)))

/* ---- which accesses are streams ------------------------------------------------------- */

/* r += constant, with all 64 bits. */
static bool advances(const struct bt_insn *in, unsigned *ret_reg, int64_t *ret_by)
{
	if (in->cls == BT_CLASS_LEA && in->opsize == 8 && in->addrsize == 8 && in->base == in->modrm_reg &&
	    in->index == 0xff && in->modrm_reg != 0xff) {
		*ret_reg = in->modrm_reg;
		*ret_by = in->disp;
		return true;
	}
	if (in->cls != BT_CLASS_NATIVE || in->map != BT_MAP_1 || in->encoding != BT_ENC_LEGACY || in->opsize != 8 ||
	    in->flags & BT_I_MEM || !(in->flags & BT_I_MODRM))
		return false;
	*ret_reg = in->modrm_rm;
	if ((in->opcode == 0x81 || in->opcode == 0x83) && (in->modrm_reg == 0 || in->modrm_reg == 5))
		*ret_by = in->modrm_reg ? -in->imm : in->imm;
	else if (in->opcode == 0xff && in->modrm_reg < 2)
		*ret_by = in->modrm_reg ? -1 : 1;
	else
		return false;
	return true;
}

/* A jump within the block, forward: the number of the instruction it goes to, 0 if it goes elsewhere. */
static unsigned inner_target(const struct trans *t, unsigned i, unsigned last)
{
	const struct bt_insn *in = &t->insn[i];
	int64_t to = (int64_t)t->off[i + 1] + in->imm;

	if (in->cls != BT_CLASS_JCC || in->opsize != 8) /* AMD cuts the target of a jump with 66 */
		return 0;
	for (unsigned k = i + 1; k <= last; k++)
		if (t->off[k] == to)
			return k;
	return 0;
}

/* The instruction that jumps back to the block's start, if it is one that the copies can have; 0: none. */
static unsigned back_edge(const struct trans *t)
{
	for (unsigned i = 1; i < t->n; i++) {
		const struct bt_insn *in = &t->insn[i];
		if ((in->cls == BT_CLASS_JCC || in->cls == BT_CLASS_JMP) && in->opsize == 8 && (int64_t)t->off[i + 1] + in->imm == 0)
			return i;
	}
	return 0;
}

static bool copyable(const struct trans *t, const struct bt_insn *in)
{
	if (bt_forbidden(t, in))
		return false;
	if (in->cls == BT_CLASS_NATIVE)
		return !(in->flags & (BT_I_MASKED | BT_I_WIDE_MEM)) && !(in->flags & BT_I_MEM && in->flags & BT_I_BITOFF);
	return in->cls == BT_CLASS_LEA || in->cls == BT_CLASS_NOP || in->cls == BT_CLASS_JCC;
}

/* What a turn does to each general register. */
struct motion {
	uint16_t written;   /* by anything at all */
	uint16_t unsteady;  /* by other than constant additions that every turn makes */
	int64_t by[16];     /* the sum of those */
};

static bool analyse_motion(const struct trans *t, unsigned last, struct motion *m)
{
	unsigned conditional = 0; /* up to this instruction a jump may have skipped some */

	*m = (struct motion){0};
	for (unsigned i = 0; i <= last; i++) {
		const struct bt_insn *in = &t->insn[i];
		unsigned reg, inner;
		int64_t by;
		if (i < last && !copyable(t, in))
			return false;
		inner = i < last ? inner_target(t, i, last) : 0;
		if (inner > conditional)
			conditional = inner;
		m->written |= in->gpr_written;
		if (!in->gpr_written)
			continue;
		if (i >= conditional && advances(in, &reg, &by) && in->gpr_written == 1u << reg && !spilled(reg) &&
		    by >= -LOOP_STRIDE && by <= LOOP_STRIDE)
			m->by[reg] += by;
		else
			m->unsteady |= in->gpr_written;
	}
	return true;
}

static bool steady(const struct motion *m, unsigned reg) { return reg == 0xff || !(m->written >> reg & 1); }

/* Whether register r holds less than 256 at instruction i: it was zero-extended from a byte before, on every way here. */
static bool holds_byte(const struct trans *t, unsigned r, unsigned i)
{
	while (i-- > 0) {
		const struct bt_insn *in = &t->insn[i];
		if (in->cls == BT_CLASS_JCC) /* its target may lie behind the extension */
			return false;
		if (in->gpr_written >> r & 1)
			return in->cls == BT_CLASS_NATIVE && in->map == BT_MAP_0F && in->encoding == BT_ENC_LEGACY &&
			       in->opcode == 0xb6 && in->modrm_reg == r && in->opsize >= 4;
	}
	return false;
}

/* The stream an access belongs to, or -1. `at`: how far each register has advanced in this turn. */
static int stream_of(struct trans *t, unsigned number, const struct motion *m, const int64_t *at)
{
	const struct bt_insn *in = &t->insn[number];
	uint64_t next = t->rip + t->off[number + 1];
	struct loop *l = &t->loop;
	unsigned bytes = in->mem_bytes;
	bool bounded = false;
	uint8_t mover = 0xff;
	unsigned shift = 0, i;
	int64_t lo, stride = 0;

	if (in->cls != BT_CLASS_NATIVE || !(in->flags & BT_I_MEM) || in->addrsize != 8 || !in->mem_bytes ||
	    in->seg == SEG_FS || in->seg == SEG_GS)
		return -1;
	lo = in->disp + (in->flags & BT_I_RIP_REL ? (int64_t)next : 0);
	if (in->base != 0xff && !steady(m, in->base)) {
		mover = in->base;
		if (!steady(m, in->index))
			return -1;
	} else if (in->index != 0xff && !steady(m, in->index)) {
		bounded = !spilled(in->index) && holds_byte(t, in->index, number);
		if (bounded) {
			bytes += 255u << in->scale;
		} else {
			mover = in->index;
			shift = in->scale;
		}
	}
	if (bytes > 2 * LOOP_SPAN) /* a table of 256 words at most */
		return -1;
	if (mover != 0xff) {
		if (m->unsteady >> mover & 1)
			return -1;
		stride = m->by[mover] * (1 << shift);
		if (!stride || stride > LOOP_STRIDE || stride < -LOOP_STRIDE)
			return -1;
		lo += at[mover] * (1 << shift);
	}
	/* A displacement reaches the whole address only if there is no register. */
	if ((in->base != 0xff || in->index != 0xff) && !fits_i32(lo))
		return -1;
	for (i = 0; i < l->streams; i++) {
		struct stream *s = &l->stream[i];
		int64_t hi = lo + bytes, new_lo = lo < s->lo ? lo : s->lo;
		if (s->base != in->base || s->index != in->index || s->bounded != bounded || (in->index != 0xff && s->scale != in->scale))
			continue;
		if (hi < s->lo + s->bytes)
			hi = s->lo + s->bytes;
		if (hi - new_lo > LOOP_SPAN)
			continue;
		s->lo = new_lo;
		s->bytes = (uint16_t)(hi - new_lo);
		s->access |= in->access;
		s->uses++;
		return (int)i;
	}
	if (i == BT_LOOP_STREAMS)
		return -1;
	l->stream[i] = (struct stream){.base = in->base, .index = in->index, .scale = in->scale, .mover = mover,
				       .shift = (uint8_t)shift, .stride = (int16_t)stride, .lo = lo, .bytes = (uint16_t)bytes,
				       .access = in->access, .uses = 1, .bounded = bounded};
	l->streams++;
	return (int)i;
}

/* Whether a copy of the instruction leaves T0 and T1 alone once its operand needs no check. */
static bool spares_scratch(const struct bt_insn *in)
{
	uint16_t spill = (uint16_t)(7u << 13);

	if (in->gpr_read & spill || in->gpr_written & spill)
		return false;
	if (in->cls == BT_CLASS_LEA)
		return in->opsize >= 4 && in->addrsize == 8 && !(in->flags & BT_I_RIP_REL) && in->base != 0xff;
	return in->cls != BT_CLASS_JCC || in->imm > 0; /* a jump back polls */
}

void bt_loop_find(struct trans *t)
{
	struct loop *l = &t->loop;
	struct motion m;
	int64_t at[16] = {0};
	unsigned checked = 0, streamed = 0, moving = 0;
	bool spares = true;

	l->last = 0;
	l->own = false;
	l->streams = 0;
	if (t->bits != 64 || t->tb->page_id2 || t->key & (KEY_ONE | KEY_AC) || t->live_in[0])
		return;
	unsigned last = back_edge(t);

	l->own = last != 0;
	if (!last || !analyse_motion(t, last, &m))
		return;
	for (unsigned i = 0; i < last; i++) {
		const struct bt_insn *in = &t->insn[i];
		unsigned reg;
		int64_t by;
		l->of[i] = -1;
		l->inner[i] = (uint8_t)inner_target(t, i, last);
		if (in->flags & BT_I_MEM && in->cls == BT_CLASS_NATIVE) {
			l->of[i] = (int8_t)stream_of(t, i, &m, at);
			if (l->of[i] < 0)
				checked++;
			else
				streamed++;
		}
		spares &= spares_scratch(in);
		if (advances(in, &reg, &by) && !spilled(reg))
			at[reg] += by;
	}
	for (unsigned i = 0; i < l->streams; i++)
		moving += l->stream[i].mover != 0xff;
	if (!moving || checked > 2 * streamed)
		return;
	/*
	 * If nothing else needs the scratch registers, T1 is the first stream's place, and T0 the other one's, the only
	 * one's limit, or where the others' are loaded when needed.
	 */
	for (unsigned i = 0; i < l->streams; i++)
		l->stream[i].host = H_NONE;
	if (spares && !checked) {
		l->stream[0].host = H_T1;
		if (l->streams == 2)
			l->stream[1].host = H_T0;
	}
	l->last = (uint8_t)last;
}

/* ---- in front of the fast copy ------------------------------------------------------------ */

static void cmp_r15_imm(struct emit *e, uint32_t v)
{
	e8(e, 0x49), e8(e, 0x81), e8(e, 0xff);
	e32(e, v);
}

static void add_r15(struct emit *e, struct emit_mem m) { e_op_mem(e, 1, 0x03, H_T0, m); }

/* T0 += general register << scale; uses T1. */
static void add_register(struct trans *t, unsigned g, unsigned scale)
{
	struct emit *e = &t->e;
	unsigned h = H_T1;

	if (spilled(g))
		e_load(e, H_T1, V_GPR(g));
	else
		h = host_of(g);
	e_lea(e, H_T0, (struct emit_mem){.base = H_T0, .index = (uint8_t)h, .scale = (uint8_t)scale});
}

/* Room in the page for the stream's advance, in bytes, and where its accesses are in host memory; or to the plain copy. */
static uint8_t *emit_stream(struct trans *t, unsigned i)
{
	const struct stream *s = &t->loop.stream[i];
	struct emit *e = &t->e;
	int32_t tag = bt_tag_off(t, s->access), host = bt_tlb_host_off(t);
	uint8_t *fail;

	e_mov_imm(e, H_T0, (uint64_t)s->lo);
	if (s->base != 0xff)
		add_register(t, s->base, 0);
	if (s->index != 0xff && !s->bounded)
		add_register(t, s->index, s->scale);
	e_tlb_index(e, t->vm->has_bmi2);
	add_r15(e, MEM_BID(H_VCPU, H_T1, tag));
	cmp_r15_imm(e, GUEST_PAGE_SIZE - s->bytes);
	fail = e_jcc_fwd(e, COND_A);
	if (s->stride > 0) {
		e8(e, 0x49), e8(e, 0xf7), e8(e, 0xdf); /* neg r15 */
		e_lea(e, H_T0, MEM_BD(H_T0, (int32_t)(GUEST_PAGE_SIZE - s->bytes)));
	}
	if (s->stride)
		e_store(e, LOOP_LIMIT(i), H_T0);
	e_load(e, H_T0, MEM_BID(H_VCPU, H_T1, host));
	add_r15(e, MEM_BID(H_VCPU, H_T1, tag));
	if (s->base == 0xff && s->index == 0xff) { /* an address known now */
		e_mov_imm(e, H_T1, (uint64_t)s->lo);
		e_lea(e, H_T0, MEM_BI(H_T0, H_T1));
	}
	if (s->base != 0xff && s->base != s->mover)
		add_register(t, s->base, 0);
	if (s->index != 0xff && !s->bounded && (s->index != s->mover || s->base == s->mover))
		add_register(t, s->index, s->scale);
	e_store(e, LOOP_HOST(i), H_T0);
	return fail;
}

/* The value up to which (down to which) the moving register may go: in place of the room in bytes. */
static uint8_t *emit_limit(struct trans *t, unsigned i)
{
	const struct stream *s = &t->loop.stream[i];
	struct emit *e = &t->e;
	unsigned h = host_of(s->mover);

	/* An index may be anything: one so near the end of the number range that it could wrap gets no fast turns. */
	e_mov_rr(e, H_T0, h);
	e8(e, 0x49), e8(e, 0x81), e8(e, s->stride > 0 ? 0xc7 : 0xef); /* add or sub r15, 8192 */
	e32(e, 2 * GUEST_PAGE_SIZE);
	uint8_t *fail = e_jcc_fwd(e, COND_O);
	e_load(e, H_T0, LOOP_LIMIT(i));
	if (s->shift)
		e8(e, 0x49), e8(e, 0xc1), e8(e, 0xef), e8(e, s->shift); /* shr r15, shift */
	if (s->stride < 0)
		e8(e, 0x49), e8(e, 0xf7), e8(e, 0xdf); /* neg r15 */
	e_lea(e, H_T0, MEM_BI(H_T0, h));
	e_store(e, LOOP_LIMIT(i), H_T0);
	return fail;
}

/* LOOP_LIMIT(into) = the smaller of both rooms */
static void emit_smaller(struct trans *t, unsigned into, unsigned i)
{
	struct emit *e = &t->e;

	e_load(e, H_T0, LOOP_LIMIT(i));
	e_op_mem(e, 1, 0x3b, H_T0, LOOP_LIMIT(into));    /* cmp r15, [into] */
	e_op0f_mem(e, 1, 0x4d, H_T0, LOOP_LIMIT(into));  /* cmovge r15, [into] */
	e_store(e, LOOP_LIMIT(into), H_T0);
}

/* ---- the fast copy -------------------------------------------------------------------------- */

struct emit_mem bt_loop_operand(struct trans *t, const struct bt_insn *in)
{
	const struct stream *s = &t->loop.stream[t->loop.of[t->i]];
	unsigned host = s->host;
	int64_t disp = in->disp;

	if (s->base == 0xff && s->index == 0xff)
		disp = in->disp + (in->flags & BT_I_RIP_REL ? (int64_t)t->next : 0) - s->lo;
	if (host == H_NONE) {
		host = t->loop.stream[0].host == H_NONE ? H_T1 : H_T0;
		e_load(&t->e, host, LOOP_HOST((unsigned)t->loop.of[t->i]));
	}
	if (s->bounded)
		return (struct emit_mem){.base = (uint8_t)host, .index = (uint8_t)host_of(s->index), .scale = s->scale, .disp = (int32_t)disp};
	if (s->mover == 0xff)
		return MEM_BD((uint8_t)host, (int32_t)disp);
	return (struct emit_mem){.base = (uint8_t)host, .index = (uint8_t)host_of(s->mover), .scale = s->shift, .disp = (int32_t)disp};
}

/* Streams that advance by the same number of bytes are limited together, by the first of them. */
static unsigned leader(const struct loop *l, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (l->stream[k].stride == l->stream[i].stride)
			return k;
	return i;
}

/* A single stream leaves a scratch register to the limit. */
static bool limit_in_t0(const struct loop *l) { return l->streams == 1 && l->stream[0].host != H_NONE; }

/* Where the limits are met jumps to `met`, as many as it returns. */
static unsigned emit_limits(struct trans *t, uint8_t **met)
{
	struct loop *l = &t->loop;
	struct emit *e = &t->e;
	unsigned n = 0;

	for (unsigned i = 0; i < l->streams; i++) {
		if (!l->stream[i].stride || leader(l, i) != i)
			continue;
		if (limit_in_t0(l))
			e_op_rr(e, 1, 0x39, H_T0, host_of(l->stream[i].mover)); /* cmp mover, r15 */
		else
			e_op_mem(e, 1, 0x3b, host_of(l->stream[i].mover), LOOP_LIMIT(i));
		met[n++] = e_jcc_fwd(e, l->stream[i].stride > 0 ? COND_G : COND_L);
	}
	return n;
}

/* Turns of the plain copy until every stream is past its page's end: this loop is known to be a long one. */
static unsigned turns_across(const struct loop *l)
{
	unsigned most = 1;

	for (unsigned i = 0; i < l->streams; i++) {
		const struct stream *s = &l->stream[i];
		unsigned by = (unsigned)(s->stride < 0 ? -s->stride : s->stride), turns = by ? (s->bytes + by - 1) / by : 1;
		if (turns > most)
			most = turns;
	}
	return most < LOOP_WARM ? most : LOOP_WARM;
}

static void emit_copy(struct trans *t)
{
	struct loop *l = &t->loop;
	uint8_t *to[TB_MAX_INSNS];
	uint8_t from[TB_MAX_INSNS];
	unsigned inner = 0;
	struct emit *e = &t->e;

	t->fast = true;
	t->fl = FL_HOST;
	for (unsigned i = 0; i <= l->last; i++) {
		const struct bt_insn *in = &t->insn[i];
		bool target = false;
		for (unsigned k = 0; k < inner; k++)
			target |= from[k] == i;
		if (target) { /* both ways come here with the flags in the same place */
			if (t->live_in[i])
				bt_flags_to_host(t);
			t->fl = FL_HOST;
			for (unsigned k = 0; k < inner; k++)
				if (from[k] == i)
					e_fix32(to[k], e->p);
		}
		if (i == l->last)
			break;
		if (in->cls == BT_CLASS_JCC && l->inner[i]) {
			t->i = i;
			bt_map_add(t, t->off[i], 0);
			bt_flags_to_host(t);
			from[inner] = l->inner[i];
			to[inner++] = e_jcc_fwd(e, in->cond);
			continue;
		}
		bt_emit_one(t, i);
	}
	bt_map_add(t, t->off[l->last], 0);
	if (t->live_in[l->last])
		bt_flags_to_host(t);
	t->fast = false;
}

void bt_loop_emit(struct trans *t)
{
	struct loop *l = &t->loop;
	struct emit *e = &t->e;
	uint8_t *fail[2 * BT_LOOP_STREAMS];
	uint8_t *met[BT_LOOP_STREAMS];
	unsigned fails = 0, limits;

	if (!l->last)
		return;
	t->v->stats.loops++;
	t->fl = FL_HOST;
	t->tb->loop_entry = (uint16_t)(e->p + e->exec - t->tb->exec);
	bt_map_add(t, 0, 0);
	e_op_mem(e, 0, 0xff, 1, V_MEM(loop_warm)); /* dec */
	e8(e, 0x0f), e8(e, 0x85);                  /* jnz */
	e_rel32_to(e, t->tb->exec + t->tb->direct_entry);
	e_store_imm32(e, V_MEM(loop_warm), LOOP_WARM);
	for (unsigned i = 0; i < l->streams; i++)
		fail[fails++] = emit_stream(t, i);
	for (unsigned i = 0; i < l->streams; i++)
		if (l->stream[i].stride && leader(l, i) != i)
			emit_smaller(t, leader(l, i), i);
	for (unsigned i = 0; i < l->streams; i++)
		if (l->stream[i].stride && leader(l, i) == i)
			fail[fails++] = emit_limit(t, i);
	for (unsigned i = 0; i < l->streams; i++)
		if (l->stream[i].host != H_NONE)
			e_load(e, l->stream[i].host, LOOP_HOST(i));
	if (limit_in_t0(l))
		e_load(e, H_T0, LOOP_LIMIT(0));

	while ((uintptr_t)e->p & 63) /* a short loop takes twice the time if it lies in two cache lines */
		e8(e, 0x90);
	uint8_t *head = e->p;
	limits = emit_limits(t, met);
	emit_copy(t);
	const struct bt_insn *back = &t->insn[l->last];
	if (back->cls == BT_CLASS_JMP) {
		e_jmp(e, head + e->exec);
	} else {
		e8(e, 0x0f), e8(e, 0x80 | back->cond);
		e_rel32_to(e, head + e->exec);
		e_jmp(e, l->after + e->exec);
	}
	for (unsigned i = 0; i < limits; i++)
		e_fix32(met[i], e->p);
	e_store_imm32(e, V_MEM(loop_warm), turns_across(l));
	for (unsigned i = 0; i < fails; i++)
		e_fix32(fail[i], e->p);
	e_jmp(e, t->tb->exec + t->tb->direct_entry);
}

/* A check of the fast copy failed: the plain copy does the instruction, and goes on. */
void bt_loop_bail(struct trans *t, const struct slow *s)
{
	struct loop *l = &t->loop;

	t->fl = (enum flags_at)s->fl;
	if (t->live_in[s->bail]) {
		if (l->plain_fl[s->bail] == FL_HOST)
			bt_flags_to_host(t);
		else
			bt_flags_to_mem(t);
	}
	e_jmp(&t->e, l->plain[s->bail] + t->e.exec);
}
