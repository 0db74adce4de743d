/* Guest memory operands: address, TLB check, slow paths. */
#include "modes/bt/translate.h"

#define TLB_OFF(mmu, field) \
	((int32_t)(offsetof(struct bt_vcpu, tlb) + (mmu) * sizeof(((struct bt_vcpu *)0)->tlb[0]) + \
		   offsetof(struct bt_tlb_entry, field)))

static int32_t seg_base_off(unsigned seg)
{
	return (int32_t)(offsetof(struct bt_vcpu, cs.seg) + seg * sizeof(struct cpu_segment) +
			 offsetof(struct cpu_segment, base));
}

/* Which segment's base must be added; 0xff for none. */
static unsigned base_segment(const struct trans *t, const struct bt_insn *in)
{
	if (in->seg == SEG_FS || in->seg == SEG_GS)
		return in->seg;
	return t->key & KEY_FLAT ? 0xff : in->seg;
}

static void add_segment(struct trans *t, unsigned seg)
{
	struct emit *e = &t->e;

	e_load(e, H_T1, MEM_BD(H_VCPU, seg_base_off(seg)));
	if (t->bits == 64)
		e_lea(e, H_T0, MEM_BI(H_T0, H_T1));
	else
		e_lea32(e, H_T0, MEM_BI(H_T0, H_T1));
}

/* T0 = the operand's offset in its segment. */
static void emit_offset(struct trans *t, const struct bt_insn *in, int extra)
{
	struct emit *e = &t->e;
	struct emit_mem m = {.base = H_NONE, .index = H_NONE, .scale = in->scale};
	int64_t disp = in->disp;

	if (in->flags & BT_I_RIP_REL)
		disp += (int64_t)t->next;
	if (in->base != 0xff && spilled(in->base)) {
		e_load(e, H_T0, V_GPR(in->base));
		m.base = H_T0;
	} else if (in->base != 0xff) {
		m.base = (uint8_t)host_of(in->base);
		if (in->base == GPR_RSP)
			disp += extra;
	}
	if (in->index != 0xff && spilled(in->index)) {
		e_load(e, H_T1, V_GPR(in->index));
		m.index = H_T1;
	} else if (in->index != 0xff) {
		m.index = in->index;
	}

	if (m.base == H_NONE && m.index == H_NONE) {
		e_mov_imm(e, H_T0, in->addrsize == 8 ? (uint64_t)disp : in->addrsize == 4 ? (uint32_t)disp : (uint16_t)disp);
		return;
	}
	m.disp = (int32_t)disp;
	if (in->addrsize == 8)
		e_lea(e, H_T0, m);
	else
		e_lea32(e, H_T0, m);
	if (in->addrsize == 2)
		e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xff); /* movzx r15d, r15w */
}

void bt_emit_gva(struct trans *t, const struct bt_insn *in, int extra)
{
	struct emit *e = &t->e;
	unsigned seg = base_segment(t, in);

	/* gs:[reg + disp], the common form of per-CPU data: two instructions. */
	if (seg != 0xff && t->bits == 64 && in->addrsize == 8 && in->index == 0xff &&
	    (in->base == 0xff || !spilled(in->base)) && !(in->flags & BT_I_MOFFS)) {
		int64_t disp = in->disp + (in->flags & BT_I_RIP_REL ? (int64_t)t->next : 0) +
			       (in->base == GPR_RSP ? extra : 0);
		if (fits_i32(disp)) {
			e_load(e, H_T0, MEM_BD(H_VCPU, seg_base_off(seg)));
			e_lea(e, H_T0,
			      in->base == 0xff ? MEM_BD(H_T0, (int32_t)disp)
					       : MEM_BID((uint8_t)host_of(in->base), H_T0, (int32_t)disp));
			return;
		}
	}
	emit_offset(t, in, extra);
	if (seg != 0xff)
		add_segment(t, seg);
}

/* Up to the jump that a miss takes; T1 is the entry's offset then, and its host pointer behind the jump. */
static uint8_t *emit_lookup(struct trans *t, unsigned bytes, int32_t tag)
{
	struct emit *e = &t->e;
	uint8_t *jump;

	BUG_ON(sizeof(struct bt_tlb_entry) != 32);
	if (t->vm->has_bmi2) { /* rorx r14d, r15d, 7 */
		e8(e, 0xc4), e8(e, 0x43), e8(e, 0x7b), e8(e, 0xf0), e8(e, 0xf7), e8(e, 7);
	} else {
		e_mov_rr32(e, H_T1, H_T0);
		e8(e, 0x41), e8(e, 0xc1), e8(e, 0xee), e8(e, 7); /* shr r14d, 7 */
	}
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xe6); /* and r14d, index mask * 32 */
	e32(e, (BT_TLB_ENTRIES - 1) << 5);
	e_op_mem(e, 1, 0x03, H_T0, MEM_BID(H_VCPU, H_T1, tag)); /* add r15, [tag] */
	e8(e, 0x49), e8(e, 0x81), e8(e, 0xff);                  /* cmp r15, 4096 - bytes */
	e32(e, (uint32_t)(GUEST_PAGE_SIZE - bytes));
	jump = e_jcc_fwd(e, COND_A);
	e_load(e, H_T1, MEM_BID(H_VCPU, H_T1, TLB_OFF(t->op_mmu, host)));
	return jump;
}

static int32_t tag_of(const struct trans *t, unsigned access)
{
	return access & BT_ACCESS_WRITE ? TLB_OFF(t->op_mmu, write) : TLB_OFF(t->op_mmu, read);
}

void bt_emit_check(struct trans *t, unsigned bytes, unsigned access, bool stack)
{
	struct slow *s = &t->slow[t->slow_count++];

	BUG_ON(t->slow_count > TB_MAX_SLOW);
	s->tag_off = tag_of(t, access);
	s->jump = emit_lookup(t, bytes, s->tag_off);
	s->tail = s->end = t->e.p;
	s->bytes = (uint8_t)bytes;
	s->access = (uint8_t)(access | t->op_mmu << 4 | (stack ? 0x40 : 0));
}

uint8_t *bt_emit_range_check(struct trans *t, unsigned bytes, unsigned access)
{
	return emit_lookup(t, bytes, tag_of(t, access));
}

void bt_emit_access_end(struct trans *t) { t->slow[t->slow_count - 1].end = t->e.p; }

void bt_emit_slow_paths(struct trans *t)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < t->slow_count; i++) {
		struct slow *s = &t->slow[i];
		e_fix32(s->jump, e->p);
		e_op_mem(e, 1, 0x2b, H_T0, MEM_BID(H_VCPU, H_T1, s->tag_off)); /* sub r15, [tag]: the address again */
		e_call(e, t->vm->thunk.mem);
		struct bt_site site = {
			.back = (int32_t)(s->tail - e->p),
			.tail = (uint16_t)(s->end - s->tail),
			.bytes = s->bytes,
			.access = s->access,
		};
		__builtin_memcpy(e->p, &site, sizeof(site));
		e->p += sizeof(site);
	}
}
