/*
 * Segment limits and types, outside 64-bit code (SDM vol. 3, 5.3 and 5.4). The common cases are in the mode's key and cost
 * nothing: flat and 4 GiB segments, and bytes at 16-bit addresses of 64 KiB ones. Others compare the offset with a number
 * known now (64 KiB) or kept for each register (bt_vcpu.seg_span); what fails that asks bt_segment_check.
 */
#include "modes/bt/translate.h"

static int32_t span_off(unsigned seg, bool write)
{
	return (int32_t)(offsetof(struct bt_vcpu, seg_span) + (seg * 2 + write) * sizeof(uint64_t));
}

static bool data_segment(unsigned seg) { return seg == SEG_DS || seg == SEG_ES || seg == SEG_SS; }

/* cmp r15, imm32 */
static void compare_offset(struct trans *t, uint32_t v)
{
	e8(&t->e, 0x49), e8(&t->e, 0x81), e8(&t->e, 0xff);
	e32(&t->e, v);
}

void bt_emit_segment_check(struct trans *t, unsigned seg, unsigned bytes, unsigned access, bool offset16,
			   const struct bt_insn *in)
{
	struct emit *e = &t->e;
	bool write = access & BT_ACCESS_WRITE, short_segment = data_segment(seg) && t->key & KEY_64K;
	struct segment_slow *s;

	if (t->bits == 64 || (data_segment(seg) && t->key & KEY_BIG) || (short_segment && offset16 && bytes == 1))
		return;
	s = &t->segment_slow[t->segment_slow_count++];
	BUG_ON(t->segment_slow_count > TB_MAX_SLOW);
	if (short_segment) {
		compare_offset(t, 0x10000 - bytes);
	} else {
		e_lea(e, H_T1, MEM_BD(H_T0, (int32_t)bytes));
		e_op_mem(e, 1, 0x3b, H_T1, MEM_BD(H_VCPU, span_off(seg, write))); /* cmp r14, [span] */
	}
	s->jump = e_jcc_fwd(e, COND_A);
	s->back = e->p;
	s->what = BT_SEG_ACCESS(seg, write, in && bt_waits_for_x87(in), bytes);
	s->at = t->at;
	/* The next access's record is that of the whole operand. */
	s->masked = in && in->flags & BT_I_MASKED ? (int)t->slow_count : -1;
}

void bt_emit_segment_slow(struct trans *t)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < t->segment_slow_count; i++) {
		struct segment_slow *s = &t->segment_slow[i];
		e_fix32(s->jump, e->p);
		if (s->masked >= 0) { /* only elements that the mask selects count */
			bt_emit_masked(t, &t->slow[s->masked]);
			continue;
		}
		e_store(e, V_MEM(seg_offset), H_T0);
		e_store_imm32(e, V_MEM(seg_access), s->what);
		e_mov_imm(e, H_T0, s->at);
		e_store(e, V_MEM(cs.rip), H_T0);
		e_mov_imm(e, H_T0, 0);
		e_mov_imm(e, H_T1, (uintptr_t)bt_segment_check);
		e_call(e, t->vm->thunk.op);
		e_load(e, H_T0, V_MEM(seg_offset));
		e_jmp(e, s->back + e->exec);
	}
}

bool bt_target_allowed(const struct trans *t, uint64_t rip)
{
	return t->bits == 64 ? (int64_t)(rip << 16) >> 16 == (int64_t)rip : rip <= t->tb->cs_limit;
}

/* `jbe` over what refuses; NULL where no target of this size can be beyond the segment. */
uint8_t *bt_emit_target_check(struct trans *t, unsigned opsize)
{
	struct emit *e = &t->e;

	if (t->bits == 64 || t->tb->cs_limit == 0xffffffffu || (opsize == 2 && t->tb->cs_limit >= 0xffff))
		return NULL;
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xff); /* cmp r15d, imm32 */
	e32(e, t->tb->cs_limit);
	return e_jcc_fwd(e, COND_BE);
}
