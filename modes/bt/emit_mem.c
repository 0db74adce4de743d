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

void bt_emit_gva(struct trans *t, const struct bt_insn *in, int extra, unsigned bytes, unsigned access)
{
	struct emit *e = &t->e;
	unsigned seg = base_segment(t, in);

	/* gs:[reg + disp], the common form of per-CPU data: two instructions. */
	if (seg != 0xff && t->bits == 64 && in->addrsize == 8 && in->index == 0xff &&
	    (in->base == 0xff || !spilled(in->base)) && !(in->flags & (BT_I_MOFFS | BT_I_BITOFF))) {
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
	if (in->flags & BT_I_BITOFF)
		bt_emit_bit_offset(t, in);
	if (access)
		bt_emit_segment_check(t, in->seg, bytes, access, in->addrsize == 2, in);
	if (seg != 0xff)
		add_segment(t, seg);
}

/* How an access finds its page. */
enum { SITE_TLB = -1, SITE_CONST = -2 }; /* else the number of a slot */

static int32_t tag_of(const struct trans *t, unsigned access)
{
	return access & BT_ACCESS_WRITE ? TLB_OFF(t->op_mmu, write) : TLB_OFF(t->op_mmu, read);
}

int32_t bt_tag_off(const struct trans *t, unsigned access) { return tag_of(t, access); }
int32_t bt_tlb_host_off(const struct trans *t) { return TLB_OFF(t->op_mmu, host); }

static int32_t slot_of(const struct trans *t, unsigned access, int slot)
{
	unsigned write = access & BT_ACCESS_WRITE ? 1 : 0;

	return (int32_t)(offsetof(struct bt_vcpu, slot) +
			 ((t->op_mmu * 2 + write) * BT_SLOTS + (unsigned)slot) * sizeof(struct bt_slot));
}

static void compare_limit(struct trans *t, unsigned bytes)
{
	e8(&t->e, 0x49), e8(&t->e, 0x81), e8(&t->e, 0xff); /* cmp r15, 4096 - bytes */
	e32(&t->e, (uint32_t)(GUEST_PAGE_SIZE - bytes));
}

/* T0 is the address: leaves T1 + T0 = host address, or takes the returned jump. */
static struct slow *emit_lookup(struct trans *t, unsigned bytes, unsigned access, int slot)
{
	struct emit *e = &t->e;
	struct slow *s = &t->slow[t->slow_count++];

	BUG_ON(t->slow_count > TB_MAX_SLOW || sizeof(struct bt_tlb_entry) != 32 || BT_TLB_ENTRIES - 1 != BT_TLB_INDEX_MASK);
	/*
	 * An operand that keeps changing page is better off without its slot (bt_slot_trouble). Outside of loops that is so
	 * nearly always: programs, and kernels even in their loops, go from object to object.
	 */
	if (t->key & KEY_AC || (slot >= 0 && bt_hint(t->vm, t->gpa + t->off[t->i])))
		slot = SITE_TLB;
	else if (slot >= 0 && slot != GPR_RSP && (t->op_mmu != BT_MMU_USER || (slot != GPR_RBP && !t->loop.own)))
		slot = SITE_TLB;
	s->slot = slot;
	s->jump_align = NULL;
	s->group = -1;
	s->masked = NULL;
	s->bail = (int8_t)(t->fast ? (int)t->i : -1);
	s->fl = (uint8_t)t->fl;
	s->tag_off = tag_of(t, access);
	s->bytes = (uint16_t)bytes;
	if (slot >= 0) {
		int32_t off = slot_of(t, access, slot);
		e_op_mem(e, 1, 0x03, H_T0, MEM_BD(H_VCPU, off)); /* add r15, [slot.tag] */
		compare_limit(t, bytes);
		s->jump = e_jcc_fwd(e, COND_A);
		e_load(e, H_T1, MEM_BD(H_VCPU, off + (int32_t)offsetof(struct bt_slot, host)));
	} else {
		e_tlb_index(e, t->vm->has_bmi2);
		e_op_mem(e, 1, 0x03, H_T0, MEM_BID(H_VCPU, H_T1, s->tag_off)); /* add r15, [tag] */
		compare_limit(t, bytes);
		s->jump = e_jcc_fwd(e, COND_A);
		if (t->key & KEY_AC && bt_alignment(bytes) > 1 && !(t->insn[t->i].flags & BT_I_MASKED)) {
			e8(e, 0x41), e8(e, 0xf6), e8(e, 0xc7), e8(e, bt_alignment(bytes) - 1); /* test r15b, align - 1 */
			s->jump_align = e_jcc_fwd(e, COND_NE);
		}
		e_load(e, H_T1, MEM_BID(H_VCPU, H_T1, TLB_OFF(t->op_mmu, host)));
	}
	s->tail = s->end = e->p;
	s->access = (uint8_t)(access | t->op_mmu << 4);
	return s;
}

void bt_emit_check(struct trans *t, unsigned bytes, unsigned access, int slot, unsigned site_flags)
{
	struct slow *s = emit_lookup(t, bytes, access, slot);

	s->access |= (uint8_t)site_flags;
	bt_map_flags(t); /* an empty slot leads to a host address that faults */
}

/* x87 and MMX, but for fnstcw and fnstsw: #MF first if an exception is pending. */
bool bt_waits_for_x87(const struct bt_insn *in)
{
	bool control = in->map == BT_MAP_1 && (in->opcode == 0xd9 || in->opcode == 0xdd) && (in->modrm_reg & 7) == 7;

	/* cvtpi2ps and cvtpi2pd read memory without becoming MMX instructions. */
	if (in->map == BT_MAP_0F && in->opcode == 0x2a)
		return false;
	return in->flags & BT_I_FPU && !(control && in->mem_bytes == 2);
}

static unsigned site_flags_of(const struct bt_insn *in)
{
	return (in->seg == SEG_SS ? BT_SITE_STACK : 0) | (in->flags & BT_I_ALIGNED ? BT_SITE_ALIGNED : 0) |
	       (bt_waits_for_x87(in) ? BT_SITE_FPU : 0);
}

void bt_emit_range_check(struct trans *t, unsigned bytes, unsigned access, int slot, unsigned group)
{
	emit_lookup(t, bytes, access, slot)->group = (int8_t)group;
}

/* An address known now, in a page whose negated address fits an immediate: its entry is compared directly. */
static bool const_operand(const struct trans *t, const struct bt_insn *in, unsigned bytes, gva_t *ret_gva)
{
	gva_t gva = (uint64_t)in->disp + (in->flags & BT_I_RIP_REL ? t->next : 0);

	if (t->bits != 64 || t->key & KEY_AC || in->addrsize != 8 || in->base != 0xff || in->index != 0xff || base_segment(t, in) != 0xff)
		return false;
	*ret_gva = gva;
	return fits_i32(-(int64_t)(gva & GUEST_PAGE_MASK)) && (gva & 0xfff) + bytes <= GUEST_PAGE_SIZE &&
	       (int64_t)(gva << 16) >> 16 == (int64_t)gva;
}

static void emit_const_check(struct trans *t, gva_t gva, unsigned bytes, unsigned access)
{
	struct emit *e = &t->e;
	struct slow *s = &t->slow[t->slow_count++];
	int32_t entry = (int32_t)((gva >> GUEST_PAGE_SHIFT & (BT_TLB_ENTRIES - 1)) * sizeof(struct bt_tlb_entry));

	BUG_ON(t->slow_count > TB_MAX_SLOW);
	e_op_mem(e, 1, 0x81, 7, MEM_BD(H_VCPU, tag_of(t, access) + entry)); /* cmp [tag], -page */
	e32(e, (uint32_t)-(gva & GUEST_PAGE_MASK));
	s->jump = e_jcc_fwd(e, COND_NE);
	e_load(e, H_T1, MEM_BD(H_VCPU, TLB_OFF(t->op_mmu, host) + entry));
	e_mov_imm(e, H_T0, gva & 0xfff);
	s->slot = SITE_CONST;
	s->jump_align = NULL;
	s->group = -1;
	s->masked = NULL;
	s->bail = (int8_t)(t->fast ? (int)t->i : -1);
	s->fl = (uint8_t)t->fl;
	s->gva = gva;
	s->tail = s->end = e->p;
	s->bytes = (uint16_t)bytes;
	s->access = (uint8_t)(access | t->op_mmu << 4);
}

static int operand_slot(const struct bt_insn *in)
{
	/* An empty slot of rsp or rbp raises #SS. */
	if ((in->base == GPR_RSP || in->base == GPR_RBP) && in->seg != SEG_SS)
		return SITE_TLB;
	if (in->base != 0xff)
		return in->base;
	return in->index != 0xff ? BT_SLOT_INDEX : SITE_TLB;
}

void bt_emit_operand(struct trans *t, const struct bt_insn *in, int extra, unsigned bytes, unsigned access)
{
	gva_t gva;

	if (const_operand(t, in, bytes, &gva)) {
		emit_const_check(t, gva, bytes, access);
		t->slow[t->slow_count - 1].access |= (uint8_t)site_flags_of(in);
	} else {
		bt_emit_gva(t, in, extra, bytes, access);
		bt_emit_check(t, bytes, access, operand_slot(in), site_flags_of(in));
	}
	if (in->flags & BT_I_MASKED) {
		struct bt_insn *copy = bt_meta_alloc(t->vm, sizeof(*copy));
		*copy = *in;
		t->slow[t->slow_count - 1].masked = copy;
		t->slow[t->slow_count - 1].at = t->at;
	}
}

void bt_emit_access_end(struct trans *t) { t->slow[t->slow_count - 1].end = t->e.p; }

/* T0 = the address, for the slow path. Behind a slot's miss: tries the TLB first. */
static void emit_miss(struct trans *t, struct slow *s)
{
	struct emit *e = &t->e;
	uint8_t *slow;

	if (s->slot == SITE_CONST) {
		e_mov_imm(e, H_T0, s->gva);
		return;
	}
	if (s->slot == SITE_TLB) {
		e_op_mem(e, 1, 0x2b, H_T0, MEM_BID(H_VCPU, H_T1, s->tag_off)); /* sub r15, [tag] */
		return;
	}
	/* bt_slot_trouble knows this shape: call, cmp (7), ja (6), jmp back */
	e_call(e, t->vm->thunk.slot[t->op_mmu][s->access & BT_ACCESS_WRITE ? 1 : 0][s->slot]);
	compare_limit(t, s->bytes);
	slow = e_jcc_fwd(e, COND_A);
	e_jmp(e, s->tail + e->exec);
	e_fix32(slow, e->p);
	if (s->group < 0)
		e_load(e, H_T0, V_MEM(slot_gva));
}

void bt_emit_masked(struct trans *t, const struct slow *s)
{
	struct emit *e = &t->e;

	e_mov_imm(e, H_T0, s->at);
	e_store(e, V_MEM(cs.rip), H_T0);
	e_mov_imm(e, H_T0, (uintptr_t)s->masked);
	e_mov_imm(e, H_T1, (uintptr_t)bt_op_table[s->masked->handler]);
	e_call(e, t->vm->thunk.op);
	e_jmp(e, s->end + e->exec);
}

void bt_emit_slow_paths(struct trans *t)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < t->slow_count; i++) {
		struct slow *s = &t->slow[i];
		uint8_t *copy = s->group < 0 ? NULL : t->group[s->group].slow;
		if (copy && s->slot < 0) {
			e_fix32(s->jump, copy);
			continue;
		}
		e_fix32(s->jump, e->p);
		if (s->jump_align)
			e_fix32(s->jump_align, e->p);
		if (s->bail >= 0) {
			bt_loop_bail(t, s);
			continue;
		}
		emit_miss(t, s);
		if (copy) {
			e_jmp(e, copy + e->exec);
			continue;
		}
		if (s->masked) {
			bt_emit_masked(t, s);
			continue;
		}
		e_call(e, t->vm->thunk.mem);
		struct bt_site site = {
			.back = (int32_t)(s->tail - e->p),
			.tail = (uint16_t)(s->end - s->tail),
			.bytes = (uint8_t)s->bytes,
			.access = s->access,
		};
		__builtin_memcpy(e->p, &site, sizeof(site));
		e->p += sizeof(site);
	}
}
