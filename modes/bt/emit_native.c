/*
 * Instructions emitted as themselves: the same bytes, with registers that live elsewhere replaced and the memory operand
 * turned into a checked host address.
 */
#include "modes/bt/translate.h"

/* A guest register operand of the instruction under way, and the host register that stands for it. */
struct subst {
	uint8_t guest, host;
};

struct native {
	struct trans *t;
	const struct bt_insn *in;
	struct subst temp[4];  /* spilled guest registers held in temporaries */
	unsigned temps;
	uint8_t borrowed[2];   /* host registers parked in tmp[] */
	unsigned borrows;
	uint8_t scratch[2];    /* free scratch registers */
	unsigned scratches;
	bool high_byte;        /* ah, ch, dh or bh takes part: no REX prefix possible */
};

static bool has_prefix(const struct bt_insn *in, uint8_t which)
{
	for (unsigned i = 0; i < in->opcode_off; i++) /* a REX that does not count may stand before it */
		if (in->bytes[i] == which)
			return true;
	return false;
}

static bool high_byte_reg(const struct bt_insn *in, unsigned reg, uint32_t byte_flag)
{
	return (in->flags & byte_flag) && !in->rex && in->encoding == BT_ENC_LEGACY && reg >= 4 && reg <= 7;
}

/* A host register that the instruction does not use, its value parked. Only rax..rdi, so that no REX is needed. */
static unsigned borrow(struct native *n)
{
	static const uint8_t candidates[] = {H_RBX, H_RSI, H_RDI, H_RBP, H_RDX, H_RCX, H_RAX};
	uint16_t used = n->in->gpr_read | n->in->gpr_written;

	BUG_ON(n->borrows == ARRAY_SIZE(n->borrowed));
	for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++) {
		unsigned h = candidates[i];
		if (used >> h & 1 || (n->borrows && n->borrowed[0] == h))
			continue;
		e_store(&n->t->e, V_MEM(tmp[n->borrows]), h);
		n->borrowed[n->borrows++] = (uint8_t)h;
		return h;
	}
	BUG_ON(true);
}

static void give_back(struct native *n)
{
	for (unsigned i = 0; i < n->borrows; i++)
		e_load(&n->t->e, n->borrowed[i], MEM_BD(H_VCPU, V_OFF(tmp) + 8 * (int32_t)i));
}

/* The host register for general register `g`, loaded when it lives in memory. */
static unsigned use(struct native *n, unsigned g)
{
	unsigned h;

	if (!spilled(g) && !(g == GPR_RSP && n->high_byte))
		return host_of(g);
	for (unsigned i = 0; i < n->temps; i++)
		if (n->temp[i].guest == g)
			return n->temp[i].host;
	h = n->high_byte || !n->scratches ? borrow(n) : n->scratch[--n->scratches];
	n->temp[n->temps++] = (struct subst){(uint8_t)g, (uint8_t)h};
	if (n->in->gpr_read >> g & 1 || n->in->opsize < 4) {
		if (g == GPR_RSP)
			e_mov_rr(&n->t->e, h, H_GUEST_RSP);
		else
			e_load(&n->t->e, h, V_GPR(g));
	}
	return h;
}

static void write_back(struct native *n)
{
	for (unsigned i = 0; i < n->temps; i++) {
		if (!(n->in->gpr_written >> n->temp[i].guest & 1))
			continue;
		if (n->temp[i].guest == GPR_RSP)
			e_mov_rr(&n->t->e, H_GUEST_RSP, n->temp[i].host);
		else
			e_store(&n->t->e, V_GPR(n->temp[i].guest), n->temp[i].host);
	}
}

/* The operands as they are emitted. */
struct operands {
	unsigned reg, rm, vvvv, opreg;
	bool mem;
	struct emit_mem m;
};

static void emit_vex(struct trans *t, const struct bt_insn *in, const struct operands *o)
{
	struct emit *e = &t->e;
	unsigned x = o->mem && o->m.index != H_NONE ? o->m.index >> 3 & 1 : 0;
	unsigned b = o->mem ? o->m.base >> 3 & 1 : o->rm >> 3 & 1;

	/* Outside 64-bit code W does not make general registers wider; what it selects among vectors stays. */
	bool lengths = in->map == BT_MAP_0F3A && (in->opcode == 0x60 || in->opcode == 0x61); /* vpcmpestr: in rax, rdx */
	bool w = in->vex_w && (t->bits == 64 || !(lengths || in->flags & (BT_I_REG_GPR | BT_I_RM_GPR | BT_I_VVVV_GPR)));

	e8(e, 0xc4);
	e8(e, (~(o->reg >> 3) & 1) << 7 | (~x & 1) << 6 | (~b & 1) << 5 | in->map);
	e8(e, (unsigned)w << 7 | (~o->vvvv & 15) << 3 | (unsigned)in->vex_l << 2 | in->vex_pp);
}

/* Whether an instruction of 16-bit code takes 66 in the host's: as its size, or where it selects another opcode. */
static bool needs_66(const struct bt_insn *in)
{
	/* movbe, rdrand and rdseed have rows with and without it, but there it is no more than a size. */
	bool size = (in->map == BT_MAP_0F38 && (in->opcode & 0xfe) == 0xf0) || (in->map == BT_MAP_0F && in->opcode == 0xc7);
	bool selects = in->mandatory == 0x66 || (in->map == BT_MAP_0F && in->opcode == 0xae);

	if (in->flags & (BT_I_SSE | BT_I_FPU) || (selects && !size))
		return in->mandatory == 0x66;
	return in->opsize == 2;
}

static void emit_legacy(struct trans *t, const struct bt_insn *in, const struct operands *o)
{
	struct emit *e = &t->e;
	bool opsize_prefix = t->bits == 16 ? needs_66(in) : has_prefix(in, 0x66);
	unsigned x = o->mem && o->m.index != H_NONE ? o->m.index >> 3 & 1 : 0;
	unsigned b = in->flags & BT_I_OPREG ? o->opreg >> 3 & 1 : o->mem ? o->m.base >> 3 & 1 : o->rm >> 3 & 1;
	unsigned r = in->flags & BT_I_MODRM || in->flags & BT_I_MOFFS ? o->reg >> 3 & 1 : 0;
	unsigned rex = (in->rex & 8) | r << 2 | x << 1 | b;

	if (in->flags & BT_I_LOCK)
		e8(e, 0xf0);
	if (opsize_prefix)
		e8(e, 0x66);
	if (in->mandatory == 0xf3 || (in->flags & BT_I_REP))
		e8(e, 0xf3);
	else if (in->mandatory == 0xf2 || (in->flags & BT_I_REPNE))
		e8(e, 0xf2);
	/* A REX byte turns ah..bh into spl..dil: keep one that was there, and add none where it would matter. */
	if (rex || ((in->rex & 0x40) && (in->flags & (BT_I_BYTE_REG | BT_I_BYTE_RM))))
		e8(e, 0x40 | rex);
	if (in->map != BT_MAP_1)
		e8(e, 0x0f);
	if (in->map == BT_MAP_0F38)
		e8(e, 0x38);
	if (in->map == BT_MAP_0F3A)
		e8(e, 0x3a);
}

/* vblendvps, vblendvpd, vpblendvb: the fourth register is in the immediate; outside 64-bit code bit 7 is ignored. */
static bool register_immediate(const struct bt_insn *in)
{
	return in->encoding == BT_ENC_VEX && in->map == BT_MAP_0F3A && in->opcode >= 0x4a && in->opcode <= 0x4c;
}

static void emit_bytes(struct trans *t, const struct bt_insn *in, const struct operands *o)
{
	struct emit *e = &t->e;
	unsigned opcode = in->opcode;

	if (in->encoding == BT_ENC_VEX)
		emit_vex(t, in, o);
	else
		emit_legacy(t, in, o);
	if (in->flags & BT_I_OPREG)
		opcode = (opcode & ~7u) | (o->opreg & 7);
	if (in->map == BT_MAP_1 && opcode == 0x82)
		opcode = 0x80; /* its twin, which 64-bit mode kept */
	if (in->flags & BT_I_MOFFS)
		opcode = (opcode & 1) | (opcode & 2 ? 0x88 : 0x8a); /* a0..a3: the ModRM forms */
	e8(e, opcode);
	if (o->mem)
		e_modrm_mem(e, o->reg, o->m);
	else if (in->flags & BT_I_MODRM)
		e8(e, 0xc0 | (o->reg & 7) << 3 | (o->rm & 7));
	if (in->imm_bytes) /* the last thing in an instruction; extrq and insertq have two */
		for (unsigned i = in->imm_off; i < in->len; i++)
			e8(e, in->bytes[i] & (t->bits != 64 && register_immediate(in) ? 0x7f : 0xff));
}

/* inc and dec of 40..4f are REX prefixes to the host: ff /0 and /1 instead. */
static bool emit_short_incdec(struct native *n)
{
	const struct bt_insn *in = n->in;

	if (n->t->bits == 64 || in->map != BT_MAP_1 || (in->opcode & 0xf0) != 0x40)
		return false;
	if (in->opsize == 2)
		e8(&n->t->e, 0x66);
	e_op_rr(&n->t->e, 0, 0xff, in->opcode >> 3 & 1, use(n, in->opreg));
	return true;
}

/* bt, bts, btr, btc with a register bit number reach beyond the operand: the address moves by whole operands. */
void bt_emit_bit_offset(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	unsigned shift = in->opsize == 8 ? 6 : in->opsize == 4 ? 5 : 4;

	if (spilled(in->modrm_reg))
		e_load(e, H_T1, V_GPR(in->modrm_reg));
	else
		e_mov_rr(e, H_T1, host_of(in->modrm_reg));
	if (in->opsize == 4)
		e_op_rr(e, 1, 0x63, H_T1, H_T1); /* movsxd */
	else if (in->opsize == 2)
		e8(e, 0x4d), e8(e, 0x0f), e8(e, 0xbf), e8(e, 0xf6); /* movsx r14, r14w */
	e8(e, 0x49), e8(e, 0xc1), e8(e, 0xfe), e8(e, shift); /* sar r14, shift */
	if (in->addrsize == 8)
		e_lea(e, H_T0, (struct emit_mem){.base = H_T0, .index = H_T1, .scale = (uint8_t)(shift - 3)});
	else
		e_lea32(e, H_T0, (struct emit_mem){.base = H_T0, .index = H_T1, .scale = (uint8_t)(shift - 3)});
	if (in->addrsize == 2)
		e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xff); /* movzx r15d, r15w */
}

/* T1 = the bit number within the operand. */
static void bit_offset_operand(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;

	if (spilled(in->modrm_reg))
		e_load(e, H_T1, V_GPR(in->modrm_reg));
	else
		e_mov_rr(e, H_T1, host_of(in->modrm_reg));
	e8(e, 0x41), e8(e, 0x83), e8(e, 0xe6), e8(e, in->opsize * 8u - 1); /* and r14d, bits - 1 */
}

/* In a loop's fast copy: the operand's check stands in front of the loop. */
static bool in_stream(const struct trans *t) { return t->fast && t->loop.of[t->i] >= 0; }

static void memory_operand(struct native *n, struct operands *o, bool needs_flags)
{
	struct trans *t = n->t;
	const struct bt_insn *in = n->in;
	bool bitoff = in->flags & BT_I_BITOFF, reg_spilled, lea;

	if (t->grouped || in_stream(t)) {
		o->mem = true;
		o->m = t->grouped ? bt_group_operand(t, in->disp) : bt_loop_operand(t, in);
		if (!t->fast || t->loop.stream[0].host == H_NONE) /* else both are taken, and nothing here needs one */
			n->scratch[n->scratches++] = H_T0;
		if (needs_flags)
			bt_flags_to_host(t);
		if (n->high_byte) {
			unsigned h = borrow(n);
			e_lea(&t->e, h, o->m);
			o->m = MEM_BD((uint8_t)h, 0);
		}
		return;
	}
	bt_flags_clobber(t, t->live_in[t->i]);
	if (bitoff) {
		bt_emit_gva(t, in, 0, in->mem_bytes, in->access);
		bt_emit_check(t, in->mem_bytes, in->access, -1, in->seg == SEG_SS ? BT_SITE_STACK : 0);
	} else {
		bt_emit_operand(t, in, 0, in->mem_bytes, in->access);
	}
	o->mem = true;
	reg_spilled = (in->flags & BT_I_REG_GPR && spilled(in->modrm_reg)) ||
		      (in->flags & BT_I_VVVV_GPR && spilled(in->vvvv)) || (in->flags & BT_I_MOFFS && false);
	lea = reg_spilled || bitoff || n->high_byte;
	if (lea) {
		e_lea(&t->e, H_T0, MEM_BI(H_T1, H_T0));
		o->m = MEM_BD(H_T0, 0);
		n->scratch[n->scratches++] = H_T1;
	} else {
		o->m = MEM_BI(H_T1, H_T0);
	}
	if (bitoff) {
		bit_offset_operand(t, in);
		n->scratches = 0;
	}
	if (needs_flags)
		bt_flags_to_host(t);
	if (n->high_byte) {
		unsigned h = borrow(n);
		e_mov_rr(&t->e, h, H_T0);
		o->m.base = (uint8_t)h;
	}
}

void bt_emit_native(struct trans *t, const struct bt_insn *in)
{
	struct native n = {.t = t, .in = in};
	struct operands o = {.reg = in->modrm_reg, .rm = in->modrm_rm, .vvvv = in->vvvv, .opreg = in->opreg};
	uint16_t live_out = t->live_out[t->i];
	bool needs_flags = in->flags_read || (in->flags_written && (live_out & ~in->flags_killed));

	n.high_byte = high_byte_reg(in, in->flags & BT_I_OPREG ? in->opreg : in->modrm_reg, BT_I_BYTE_REG) ||
		      (!(in->flags & BT_I_MEM) && in->flags & BT_I_MODRM && high_byte_reg(in, in->modrm_rm, BT_I_BYTE_RM));
	if (in->flags & BT_I_MOFFS)
		o.reg = H_RAX;
	if (in->flags & BT_I_MEM) {
		memory_operand(&n, &o, needs_flags);
	} else {
		if (!t->grouped)
			n.scratch[n.scratches++] = H_T1;
		n.scratch[n.scratches++] = H_T0;
		if (needs_flags)
			bt_flags_to_host(t);
	}

	if (in->flags & BT_I_BITOFF && in->flags & BT_I_MEM)
		o.reg = H_T1;
	else if (in->flags & BT_I_REG_GPR && !high_byte_reg(in, in->modrm_reg, BT_I_BYTE_REG))
		o.reg = use(&n, in->modrm_reg);
	if (in->flags & BT_I_RM_GPR && !o.mem && !high_byte_reg(in, in->modrm_rm, BT_I_BYTE_RM))
		o.rm = use(&n, in->modrm_rm);
	if (in->flags & BT_I_VVVV_GPR)
		o.vvvv = use(&n, in->vvvv);
	if (in->flags & BT_I_OPREG && !high_byte_reg(in, in->opreg, BT_I_BYTE_REG) &&
	    !(t->bits != 64 && in->map == BT_MAP_1 && (in->opcode & 0xf0) == 0x40))
		o.opreg = use(&n, in->opreg);

	bt_map_flags(t);
	t->map[t->map_count - 1].flags |= (uint8_t)((n.borrows > 0 ? n.borrowed[0] : 0) << BT_MAP_PARKED_SHIFT |
						    (n.borrows > 1 ? n.borrowed[1] : 0) << (BT_MAP_PARKED_SHIFT + 3));
	if (!emit_short_incdec(&n))
		emit_bytes(t, in, &o);
	write_back(&n);
	give_back(&n);
	if (o.mem && !t->grouped && !in_stream(t))
		bt_emit_access_end(t);
	if (in->flags_written)
		t->fl = FL_HOST;
}

void bt_emit_lea(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	struct bt_insn plain = *in;
	unsigned dst = in->modrm_reg;

	/* The common case: one instruction. */
	bool simple = in->opsize >= 4 && in->addrsize == 8 && !spilled(dst) && !(in->flags & BT_I_RIP_REL) &&
		      in->base != 0xff && !spilled(in->base) && (in->index == 0xff || !spilled(in->index));
	if (simple) {
		struct emit_mem m = {.base = (uint8_t)host_of(in->base), .index = in->index == 0xff ? H_NONE : in->index,
				     .scale = in->scale, .disp = (int32_t)in->disp};
		e_op_mem(e, in->opsize == 8, 0x8d, host_of(dst), m);
		return;
	}
	plain.seg = SEG_DS;
	uint32_t key = t->key;
	t->key |= KEY_FLAT; /* an offset, no segment */
	bt_emit_gva(t, &plain, 0, 0, BT_ACCESS_NONE);
	t->key = key;
	if (in->opsize == 2) { /* mov r16, r15w: keeps the rest */
		if (spilled(dst)) {
			e_store16(e, V_GPR(dst), H_T0);
		} else {
			e8(e, 0x66);
			e_op_rr(e, 0, 0x89, H_T0, host_of(dst));
		}
		return;
	}
	if (in->opsize == 4)
		e_mov_rr32(e, spilled(dst) ? H_T0 : host_of(dst), H_T0);
	else if (!spilled(dst))
		e_mov_rr(e, host_of(dst), H_T0);
	if (spilled(dst))
		e_store(e, V_GPR(dst), H_T0);
}
