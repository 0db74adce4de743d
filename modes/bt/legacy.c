/* Instructions of 16- and 32-bit code that 64-bit mode dropped; enter and xlat. */
#include "modes/bt/helper.h"

static void flags_put(struct bt_vcpu *v, uint64_t mask, uint64_t value)
{
	bt_set_rflags(v, (bt_rflags(v) & ~mask) | (value & mask));
}

/* SF, ZF, PF of a byte. */
static uint64_t szp8(uint8_t value)
{
	unsigned parity = value ^ value >> 4;

	parity ^= parity >> 2;
	parity ^= parity >> 1;
	return (value & 0x80 ? BT_SF : 0) | (value ? 0 : BT_ZF) | (parity & 1 ? 0 : BT_PF);
}

/* Signed overflow of a + b or a - b = r, in the bit that is the sign. */
static uint64_t overflow(unsigned a, unsigned b, unsigned r, int sign, unsigned sign_bit)
{
	unsigned same = sign > 0 ? ~(a ^ b) : a ^ b;

	return same & (a ^ r) & sign_bit ? BT_OF : 0;
}

/* ---- decimal and ASCII adjustments (SDM vol. 2) --------------------------------------------- */

/*
 * Flags that the manuals leave undefined are those of the additions inside, as processors (AMD's, here) have them.
 */
static void ascii_adjust(struct bt_vcpu *v, int sign)
{
	uint16_t ax = (uint16_t)v->cs.gpr[GPR_RAX], by = 0, sum;
	uint64_t flags = 0;

	if ((ax & 15) > 9 || (bt_rflags(v) & BT_AF)) {
		by = 0x106;
		flags = BT_AF | BT_CF;
	}
	sum = (uint16_t)(ax + sign * by);
	flags |= (szp8((uint8_t)sum) & BT_PF) | (sum & 0x8000 ? BT_SF : 0) | (sum ? 0 : BT_ZF);
	bt_gpr_set(v, GPR_RAX, 2, sum & 0xff0f);
	flags_put(v, BT_FLAGS_ARITH, flags | overflow(ax, by, sum, sign, 0x8000));
}

void bt_op_aaa(struct bt_vcpu *v, const struct bt_insn *insn)
{
	ascii_adjust(v, 1);
}

void bt_op_aas(struct bt_vcpu *v, const struct bt_insn *insn)
{
	ascii_adjust(v, -1);
}

static void decimal_adjust(struct bt_vcpu *v, int sign)
{
	uint8_t old = (uint8_t)v->cs.gpr[GPR_RAX], al = old;
	uint64_t flags = bt_rflags(v), set = 0;

	if ((old & 15) > 9 || (flags & BT_AF)) {
		al = (uint8_t)(al + sign * 6);
		set |= BT_AF;
		if (sign < 0 && old < 6)
			set |= BT_CF;
	}
	if (old > 0x99 || (flags & BT_CF)) {
		al = (uint8_t)(al + sign * 0x60);
		set |= BT_CF;
	}
	bt_gpr_set(v, GPR_RAX, 1, al);
	flags_put(v, BT_FLAGS_ARITH, set | szp8(al) | overflow(old, (uint8_t)(sign * (al - old)), al, sign, 0x80));
}

void bt_op_daa(struct bt_vcpu *v, const struct bt_insn *insn)
{
	decimal_adjust(v, 1);
}

void bt_op_das(struct bt_vcpu *v, const struct bt_insn *insn)
{
	decimal_adjust(v, -1);
}

void bt_op_aam(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned base = insn->imm & 0xff, al = v->cs.gpr[GPR_RAX] & 0xff;

	if (!base)
		bt_raise(v, VEC_DE);
	bt_gpr_set(v, GPR_RAX, 2, (al / base) << 8 | al % base);
	flags_put(v, BT_FLAGS_ARITH, szp8((uint8_t)(al % base)));
}

void bt_op_aad(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint8_t al = (uint8_t)v->cs.gpr[GPR_RAX], ah = (uint8_t)(v->cs.gpr[GPR_RAX] >> 8);
	uint8_t by = (uint8_t)(ah * (insn->imm & 0xff)), sum = (uint8_t)(al + by);
	uint64_t carries = (sum < al ? BT_CF : 0) | ((al & 15) + (by & 15) > 15 ? BT_AF : 0);

	bt_gpr_set(v, GPR_RAX, 2, sum);
	flags_put(v, BT_FLAGS_ARITH, szp8(sum) | carries | overflow(al, by, sum, 1, 0x80));
}

/* Undocumented, but old code has it: AL = CF ? ff : 0. */
void bt_op_salc(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_gpr_set(v, GPR_RAX, 1, bt_rflags(v) & BT_CF ? 0xff : 0);
}

/* ---- bound, arpl -------------------------------------------------------------------------------- */

static int64_t sign_extend(uint64_t value, unsigned bytes)
{
	return bytes == 2 ? (int16_t)value : (int32_t)value;
}

void bt_op_bound(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned b = insn->opsize;
	/* The lower bound first: only then is the other looked for, which may lie beyond the segment. */
	int64_t index = sign_extend(bt_gpr(v, insn->modrm_reg, b), b);
	int64_t low = sign_extend(bt_load(v, bt_operand_gva(v, insn, b, false), b), b);
	int64_t high = sign_extend(bt_load(v, bt_operand_gva(v, insn, 2 * b, false) + b, b), b);

	if (index < low || index > high)
		bt_raise(v, VEC_BR);
}

void bt_op_arpl(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t dst, rpl = v->cs.gpr[insn->modrm_reg] & 3;

	if (!bt_protected(v))
		bt_raise(v, VEC_UD);
	dst = bt_rm(v, insn, 2);
	if ((dst & 3) < rpl) {
		bt_rm_set(v, insn, 2, (dst & ~3ull) | rpl);
		flags_put(v, BT_ZF, BT_ZF);
	} else {
		flags_put(v, BT_ZF, 0);
	}
}

/* ---- pusha, popa, enter ------------------------------------------------------------------------------ */

void bt_op_pusha(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP];
	unsigned b = insn->opsize, i;

	for (i = 0; i < 8; i++) {
		gva_t gva = bt_stack_gva(v, sp - (i + 1) * b, b, true);
		bt_check_alignment(v, gva, b);
		bt_probe_store(v, gva, b);
	}
	for (i = 0; i < 8; i++)
		bt_store(v, bt_stack_gva(v, sp - (i + 1) * b, b, true), v->cs.gpr[GPR_RAX + i], b);
	bt_sp_set(v, bt_sp_mask(v), sp - 8 * b);
}

void bt_op_popa(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], value[8];
	unsigned b = insn->opsize, i;

	for (i = 0; i < 8; i++)
		value[7 - i] = bt_load(v, bt_stack_gva(v, sp + i * b, b, false), b);
	for (i = 0; i < 8; i++) {
		if (i != GPR_RSP)
			bt_gpr_set(v, i, b, value[i]);
	}
	bt_sp_set(v, bt_sp_mask(v), sp + 8 * b);
}

void bt_op_enter(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t mask = bt_sp_mask(v), sp = v->cs.gpr[GPR_RSP], bp = v->cs.gpr[GPR_RBP], frame, link;
	unsigned b = insn->opsize, level = insn->imm2 & 31, i;

	sp -= b;
	bt_store(v, bt_stack_gva(v, sp, b, true), bp, b);
	frame = sp;
	for (i = 1; i < level; i++) {
		bp -= b;
		link = bt_load(v, bt_stack_gva(v, bp, b, false), b);
		sp -= b;
		bt_store(v, bt_stack_gva(v, sp, b, true), link, b);
	}
	if (level) {
		sp -= b;
		bt_store(v, bt_stack_gva(v, sp, b, true), frame, b);
	}
	sp -= insn->imm & 0xffff;
	gva_t top = bt_stack_gva(v, sp, b, true);
	bt_check_alignment(v, top, b);
	bt_probe_store(v, top, b); /* the new top must be writable */
	/* With a 16-bit stack pointer, ebp takes the rest of esp. */
	bt_gpr_set(v, GPR_RBP, b, (v->cs.gpr[GPR_RSP] & ~mask) | (frame & mask));
	bt_sp_set(v, mask, sp);
}

void bt_op_xlat(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned seg = insn->seg_override == 0xff ? SEG_DS : insn->seg_override;
	uint64_t offset = (v->cs.gpr[GPR_RBX] + (v->cs.gpr[GPR_RAX] & 0xff)) & bt_size_mask(insn->addrsize);

	bt_gpr_set(v, GPR_RAX, 1, bt_load(v, bt_seg_gva(v, seg, offset, 1, false), 1));
}
