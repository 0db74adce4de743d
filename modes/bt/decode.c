/* The x86 decoder: prefixes, opcode, ModRM, the row of opcodes.def that matches, and what follows from it. */
#include "modes/bt/decode.h"

#include "machine/cpu_state.h"
#include "modes/bt/decode_table.h"

#define INSN_MAX 15
/* More than the longest byte string the parser can walk over, too long ones included. */
#define WINDOW 32
#define NO_REG 0xff
#define NO_SEG 0xff

/* What the bytes in front of the opcode said. */
struct prefixes {
	bool opsize, addrsize, lock;
	bool rexw, rexr, rexx, rexb; /* or VEX's */
	uint8_t rep;                 /* 0, 0xf2 or 0xf3: the last one counts */
};

/* The parser's place: everything is read from `p`, of which `pos` bytes are used up. */
struct cursor {
	const uint8_t *p;
	unsigned pos;
	enum bt_bits bits;
	struct prefixes pre;
};

static inline int16_t get16(const uint8_t *p)
{
	return (int16_t)(p[0] | p[1] << 8);
}

static inline int32_t get32(const uint8_t *p)
{
	int32_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline int64_t get64(const uint8_t *p)
{
	int64_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- prefixes and opcode ------------------------------------------------------------------- */

enum prefix_kind { PREFIX_NONE, PREFIX_66, PREFIX_67, PREFIX_LOCK, PREFIX_REP, PREFIX_SEG, PREFIX_SEG64, PREFIX_REX };

static const uint8_t prefix_kinds[256] = {
	[0x26] = PREFIX_SEG,   [0x2e] = PREFIX_SEG,   [0x36] = PREFIX_SEG,  [0x3e] = PREFIX_SEG,
	[0x40 ... 0x4f] = PREFIX_REX,
	[0x64] = PREFIX_SEG64, [0x65] = PREFIX_SEG64, [0x66] = PREFIX_66,   [0x67] = PREFIX_67,
	[0xf0] = PREFIX_LOCK,  [0xf2] = PREFIX_REP,   [0xf3] = PREFIX_REP,
};

static inline uint8_t prefix_seg(uint8_t byte)
{
	return byte >= 0x64 ? byte - 0x64 + SEG_FS : byte >> 3 & 3;
}

/* Stops at the first byte that is no prefix, or behind the longest instruction. */
static inline void parse_prefixes(struct cursor *c, struct bt_insn *insn)
{
	uint8_t rex = 0, seg = NO_SEG;

	for (; c->pos < INSN_MAX; c->pos++) {
		uint8_t byte = c->p[c->pos];
		uint8_t kind = prefix_kinds[byte];

		if (__builtin_expect(kind == PREFIX_NONE, 1))
			break;
		if (kind == PREFIX_REX) {
			if (c->bits != BT_BITS_64)
				break;
			rex = byte;
			continue;
		}
		rex = 0; /* REX counts only directly in front of the opcode */
		switch (kind) {
		case PREFIX_66: c->pre.opsize = true; break;
		case PREFIX_67: c->pre.addrsize = true; break;
		case PREFIX_LOCK: c->pre.lock = true; break;
		case PREFIX_REP: c->pre.rep = byte; break;
		case PREFIX_SEG:
			if (c->bits == BT_BITS_64)
				break; /* ignored there, even after an FS or GS prefix */
			/* fall through */
		default: seg = prefix_seg(byte); break;
		}
	}
	c->pre.rexw = rex & 8;
	c->pre.rexr = rex & 4;
	c->pre.rexx = rex & 2;
	c->pre.rexb = rex & 1;
	insn->rex = rex;
	insn->seg_override = seg;
}

/* At c4 or c5 that are VEX. False: the prefix is not allowed here. */
static inline bool parse_vex(struct cursor *c, struct bt_insn *insn)
{
	bool three = c->p[c->pos] == 0xc4;
	uint8_t first = c->p[c->pos + 1];
	uint8_t last = three ? c->p[c->pos + 2] : first & 0x7f;
	bool bits64 = c->bits == BT_BITS_64;

	c->pos += three ? 3 : 2;
	if (c->pre.opsize || c->pre.rep || c->pre.lock || insn->rex)
		return false;
	insn->encoding = BT_ENC_VEX;
	insn->map = three ? first & 0x1f : BT_MAP_0F;
	insn->vex_w = last >> 7;
	insn->vex_l = last >> 2 & 1;
	insn->vex_pp = last & 3;
	insn->vvvv = (~last >> 3 & 15) & (bits64 ? 15 : 7);
	c->pre.rexw = insn->vex_w && bits64;
	c->pre.rexr = bits64 && !(first & 0x80);
	c->pre.rexx = bits64 && three && !(first & 0x40);
	c->pre.rexb = bits64 && three && !(first & 0x20);
	insn->rex = c->pre.rexw << 3 | c->pre.rexr << 2 | c->pre.rexx << 1 | c->pre.rexb;
	return insn->map >= BT_MAP_0F && insn->map <= BT_MAP_0F3A;
}

static inline bool is_vex(const struct cursor *c, uint8_t byte)
{
	return (byte & 0xfe) == 0xc4 && (c->bits == BT_BITS_64 || (c->p[c->pos + 1] & 0xc0) == 0xc0);
}

static inline bool is_evex(const struct cursor *c, uint8_t byte)
{
	return byte == 0x62 && (c->bits == BT_BITS_64 || (c->p[c->pos + 1] & 0xc0) == 0xc0);
}

/* Sets map, encoding, opcode. False: #UD. */
static inline bool parse_opcode(struct cursor *c, struct bt_insn *insn)
{
	uint8_t byte = c->p[c->pos];

	insn->map = BT_MAP_1;
	insn->encoding = BT_ENC_LEGACY;
	insn->vex_w = insn->vex_l = insn->vex_pp = insn->vvvv = 0;
	if (is_vex(c, byte)) {
		if (!parse_vex(c, insn))
			return false;
	} else if (byte == 0x0f) {
		byte = c->p[++c->pos];
		insn->map = BT_MAP_0F;
		if (byte == 0x38 || byte == 0x3a) {
			insn->map = byte == 0x38 ? BT_MAP_0F38 : BT_MAP_0F3A;
			c->pos++;
		}
	} else if (is_evex(c, byte)) {
		insn->encoding = BT_ENC_EVEX;
		c->pos += 4;
		return false;
	}
	insn->opcode_off = c->pos;
	insn->opcode = c->p[c->pos++];
	return true;
}

/* ---- ModRM ------------------------------------------------------------------------------------- */

struct addr16 {
	uint8_t base, index, seg;
};

static const struct addr16 addr16_forms[8] = {
	{ GPR_RBX, GPR_RSI, SEG_DS }, { GPR_RBX, GPR_RDI, SEG_DS }, { GPR_RBP, GPR_RSI, SEG_SS }, { GPR_RBP, GPR_RDI, SEG_SS },
	{ GPR_RSI, NO_REG, SEG_DS },  { GPR_RDI, NO_REG, SEG_DS },  { GPR_RBP, NO_REG, SEG_SS },  { GPR_RBX, NO_REG, SEG_DS },
};

static void parse_address16(struct cursor *c, struct bt_insn *insn)
{
	const struct addr16 *form = &addr16_forms[insn->modrm & 7];

	insn->base = form->base;
	insn->index = form->index;
	insn->seg = form->seg;
	if (insn->modrm_mod == 0 && (insn->modrm & 7) == 6) {
		insn->base = NO_REG;
		insn->seg = SEG_DS;
		insn->disp_bytes = 2;
	} else {
		insn->disp_bytes = insn->modrm_mod; /* mod 1: one byte, mod 2: two */
	}
}

static inline void parse_address(struct cursor *c, struct bt_insn *insn)
{
	unsigned mod = insn->modrm_mod, rm = insn->modrm & 7;

	if (rm == 4) {
		uint8_t sib = c->p[c->pos++];

		insn->sib = sib;
		insn->scale = sib >> 6;
		insn->index = (sib >> 3 & 7) | c->pre.rexx << 3;
		if (insn->index == GPR_RSP)
			insn->index = NO_REG; /* a vector's number 4 stays: see finish_form */
		rm = sib & 7;
		if (rm == 5 && mod == 0) {
			insn->disp_bytes = 4;
			return;
		}
	} else if (rm == 5 && mod == 0) {
		insn->disp_bytes = 4;
		if (c->bits == BT_BITS_64)
			insn->flags |= BT_I_RIP_REL;
		return;
	}
	insn->base = rm | c->pre.rexb << 3;
	if (insn->base == GPR_RSP || insn->base == GPR_RBP)
		insn->seg = SEG_SS;
	insn->disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
}

static inline void parse_modrm(struct cursor *c, struct bt_insn *insn, bool force_register)
{
	uint8_t modrm = c->p[c->pos++];

	insn->flags |= BT_I_MODRM;
	insn->modrm = modrm;
	insn->modrm_mod = force_register ? 3 : modrm >> 6;
	insn->modrm_reg = (modrm >> 3 & 7) | c->pre.rexr << 3;
	insn->modrm_rm = (modrm & 7) | c->pre.rexb << 3;
	if (insn->modrm_mod == 3)
		return;
	insn->flags |= BT_I_MEM;
	if (insn->addrsize == 2)
		parse_address16(c, insn);
	else
		parse_address(c, insn);
	insn->disp_off = c->pos;
	switch (insn->disp_bytes) {
	case 1: insn->disp = (int8_t)c->p[c->pos]; break;
	case 2: insn->disp = get16(c->p + c->pos); break;
	case 4: insn->disp = get32(c->p + c->pos); break;
	}
	c->pos += insn->disp_bytes;
}

/* ---- the row ------------------------------------------------------------------------------------ */

static inline unsigned selector(const struct cursor *c, const struct bt_insn *insn)
{
	unsigned pp = insn->encoding == BT_ENC_VEX ? insn->vex_pp
		: c->pre.rep                       ? (c->pre.rep == 0xf3 ? 2 : 3)
						   : c->pre.opsize;
	unsigned sel = pp << BT_SEL_PP_SHIFT;

	sel |= (insn->modrm >> 3 & 7) << BT_SEL_REG_SHIFT | (insn->modrm & 7) << BT_SEL_RM_SHIFT;
	if (insn->modrm_mod == 3)
		sel |= BT_SEL_MOD3;
	if (insn->vex_w || c->pre.rexw)
		sel |= BT_SEL_W;
	if (insn->vex_l)
		sel |= BT_SEL_L;
	if (insn->encoding == BT_ENC_VEX)
		sel |= BT_SEL_VEX;
	if (c->bits == BT_BITS_64)
		sel |= BT_SEL_64;
	if (c->pre.rexb)
		sel |= BT_SEL_REXB;
	return sel;
}

/* Walks back from the opcode's last row: a later row overrides an earlier one. */
static inline const struct bt_row *find_row(unsigned last, unsigned map, uint8_t opcode, unsigned sel)
{
	while (last--) {
		const struct bt_row *row = &bt_rows[last];

		if (row->map != map || opcode < row->first || opcode > row->last)
			break;
		if ((sel & row->match_mask) == row->match_value)
			return row;
	}
	return NULL;
}

/* ---- sizes ---------------------------------------------------------------------------------------- */

static inline unsigned operand_size(const struct cursor *c, enum bt_size_rule rule)
{
	bool small = (c->bits == BT_BITS_16) != c->pre.opsize;
	unsigned v = c->pre.rexw ? 8 : small ? 2 : 4;

	switch (rule) {
	case Z_B: return 1;
	case Z_V: return v;
	case Z_Z: return small ? 2 : 4;
	case Z_Y: return c->pre.rexw ? 8 : 4;
	case Z_D64: return c->bits == BT_BITS_64 && v == 4 ? 8 : v;
	case Z_F64: return c->bits == BT_BITS_64 && v == 4 ? 8 : v; /* Intel ignores 66 here, AMD does not */
	case Z_N: return c->bits == BT_BITS_64 ? 8 : 4;
	case Z_W: return 2;
	case Z_D: return 4;
	case Z_COUNT: break;
	}
	return v;
}

static inline unsigned memory_size(const struct cursor *c, const struct bt_insn *insn, enum bt_mem_rule rule)
{
	unsigned vector = 16u << insn->vex_l;

	switch (rule) {
	case S_NONE: return 0;
	case S_OP: return insn->opsize;
	case S_1: return 1;
	case S_2: return 2;
	case S_4: return 4;
	case S_8: return 8;
	case S_10: return 10;
	case S_16: return 16;
	case S_X: return vector;
	case S_XH: return vector / 2;
	case S_XQ: return vector / 4;
	case S_XE: return vector / 8;
	case S_DDUP: return insn->vex_l ? 32 : 8;
	case S_SCALAR: return insn->vex_w ? 8 : 4;
	case S_FAR: return insn->opsize + 2;
	case S_2OP: return insn->opsize * 2;
	case S_TABLE: return c->bits == BT_BITS_64 ? 10 : 6;
	case S_WIDE: return 0;
	}
	return 0;
}

static inline void parse_immediate(struct cursor *c, struct bt_insn *insn, enum bt_imm_rule rule)
{
	const uint8_t *p = c->p + c->pos;

	insn->imm_off = c->pos;
	switch (rule) {
	case I_NONE:
		insn->imm_off = 0;
		return;
	case I_B:
		insn->imm = (int8_t)p[0];
		insn->imm_bytes = 1;
		break;
	case I_BU:
		insn->imm = p[0];
		insn->imm_bytes = 1;
		break;
	case I_W:
		insn->imm = (uint16_t)get16(p);
		insn->imm_bytes = 2;
		break;
	case I_V:
		if (insn->opsize == 8) {
			insn->imm = get64(p);
			insn->imm_bytes = 8;
			break;
		}
		/* fall through */
	case I_Z:
		insn->imm_bytes = insn->opsize == 2 ? 2 : 4;
		insn->imm = insn->opsize == 2 ? get16(p) : get32(p);
		break;
	case I_FAR:
		insn->imm_bytes = insn->opsize == 2 ? 2 : 4;
		insn->imm = insn->opsize == 2 ? (uint16_t)get16(p) : (uint32_t)get32(p);
		insn->imm2 = (uint16_t)get16(p + insn->imm_bytes);
		c->pos += 2;
		break;
	case I_ENTER:
		insn->imm = (uint16_t)get16(p);
		insn->imm2 = p[2];
		insn->imm_bytes = 2;
		c->pos += 1;
		break;
	case I_BB:
		insn->imm = p[0];
		insn->imm2 = p[1];
		insn->imm_bytes = 1;
		c->pos += 1;
		break;
	}
	c->pos += insn->imm_bytes;
}

static inline void parse_moffs(struct cursor *c, struct bt_insn *insn)
{
	const uint8_t *p = c->p + c->pos;

	insn->flags |= BT_I_MEM | BT_I_MOFFS;
	insn->disp_off = c->pos;
	insn->disp_bytes = insn->addrsize;
	insn->disp = insn->addrsize == 8 ? get64(p) : insn->addrsize == 4 ? (uint32_t)get32(p) : (uint16_t)get16(p);
	c->pos += insn->disp_bytes;
}

/* ---- what follows from the row ------------------------------------------------------------------------ */

/* Bit of a general register; ah..bh are the upper halves of 0..3. */
static inline unsigned gpr_bit(const struct bt_insn *insn, unsigned reg, bool byte)
{
	if (byte && !(insn->rex & 0x40) && reg >= 4 && reg < 8)
		reg -= 4;
	return 1u << reg;
}

/* Registers read and written. A write of 8 or 16 bits keeps the rest: it reads too. */
static inline void note_registers(const struct bt_row *row, struct bt_insn *insn)
{
	uint32_t form = row->form;
	bool byte = row->size == Z_B;
	bool partial = insn->opsize < 4;
	unsigned rd = row->gpr_read, wr = row->gpr_written, merged = partial ? wr : 0;

	if (form & (BT_F_REG_R | BT_F_REG_W)) {
		unsigned bit = gpr_bit(insn, insn->modrm_reg, byte);

		insn->flags |= BT_I_REG_GPR | (byte ? BT_I_BYTE_REG : 0);
		rd |= form & BT_F_REG_R ? bit : 0;
		wr |= form & BT_F_REG_W ? bit : 0;
		merged |= (form & BT_F_REG_W) && partial ? bit : 0;
	}
	if (form & BT_F_RM_GPR) {
		bool byte_rm = byte || (form & BT_F_RM8);

		insn->flags |= BT_I_RM_GPR | (byte_rm ? BT_I_BYTE_RM : 0);
		if (insn->modrm_mod == 3) {
			unsigned bit = gpr_bit(insn, insn->modrm_rm, byte_rm);

			rd |= form & BT_F_RM_R ? bit : 0;
			wr |= form & BT_F_RM_W ? bit : 0;
			merged |= (form & BT_F_RM_W) && partial ? bit : 0;
		}
	}
	if (form & (BT_F_OPREG_R | BT_F_OPREG_W)) {
		unsigned bit = gpr_bit(insn, insn->opreg, byte);

		insn->flags |= BT_I_OPREG | (byte ? BT_I_BYTE_REG : 0);
		rd |= form & BT_F_OPREG_R ? bit : 0;
		wr |= form & BT_F_OPREG_W ? bit : 0;
		merged |= (form & BT_F_OPREG_W) && partial ? bit : 0;
	}
	if (form & (BT_F_VVVV_R | BT_F_VVVV_W)) {
		insn->flags |= BT_I_VVVV_GPR;
		rd |= form & BT_F_VVVV_R ? 1u << insn->vvvv : 0;
		wr |= form & BT_F_VVVV_W ? 1u << insn->vvvv : 0;
	}
	if (insn->base != NO_REG)
		rd |= 1u << insn->base;
	if (insn->index != NO_REG && !(form & BT_F_VSIB))
		rd |= 1u << insn->index;
	insn->gpr_read = rd | merged;
	insn->gpr_written = wr;
}

/* Flags that are certainly not what they were. */
static inline void note_killed(const struct bt_row *row, struct bt_insn *insn)
{
	unsigned s = row->flags >> BT_SURVIVE_SHIFT;

	insn->flags_killed = insn->flags_written;
	if (!(insn->flags & BT_I_FLAGS_COND))
		return;
	/* CF PF AF ZF SF stand at 0 2 4 6 7, OF at 11. */
	insn->flags_killed &= s ? ~((s & 1) | (s & 2) << 1 | (s & 4) << 2 | (s & 8) << 3 | (s & 16) << 3 | (s & 32) << 6) : 0;
}

/* Strings: rep counts in rcx; scas and cmps may run zero times. */
static inline void note_string(struct bt_insn *insn)
{
	if (!(insn->flags & (BT_I_REP | BT_I_REPNE)))
		return;
	insn->gpr_read |= 1u << GPR_RCX;
	insn->gpr_written |= 1u << GPR_RCX;
	if (insn->flags_written)
		insn->flags |= BT_I_FLAGS_COND;
}

/* An immediate shift count of 0 (after masking) changes no flags; short rotates through CF may come to 0 too. */
static inline void note_count(struct bt_insn *insn)
{
	if (!(insn->imm & (insn->opsize == 8 ? 63 : 31)))
		insn->flags_written = 0;
	else if (insn->opsize < 4)
		insn->flags |= BT_I_FLAGS_COND;
}

/* A vector index has sixteen values, and mask, index and destination must differ. False: #UD. */
static bool check_vsib(const struct cursor *c, struct bt_insn *insn)
{
	if ((insn->modrm & 7) != 4 || insn->addrsize == 2)
		return false;
	insn->index = (insn->sib >> 3 & 7) | c->pre.rexx << 3;
	return insn->modrm_reg != insn->vvvv && insn->modrm_reg != insn->index && insn->index != insn->vvvv;
}

/* Forms that are rare and have rules of their own. False: #UD. */
static bool finish_form(const struct cursor *c, uint32_t form, struct bt_insn *insn)
{
	if (form & BT_F_SREG) {
		insn->modrm_reg &= 7;
		if (insn->modrm_reg > SEG_GS || ((form & BT_F_SREG_LOAD) && insn->modrm_reg == SEG_CS))
			return false;
	}
	if ((form & BT_F_CR) && ((insn->modrm_reg > 4 && insn->modrm_reg != 8) || insn->modrm_reg == 1))
		return false;
	if ((form & BT_F_DR) && insn->modrm_reg > 7)
		return false;
	if (form & BT_F_SREG_OP)
		insn->modrm_reg = insn->opcode >> 3 & 7;
	if (form & BT_F_SREG_FIX)
		insn->opreg = form >> BT_F_SREG_SHIFT;
	if (form & BT_F_VSIB)
		return check_vsib(c, insn);
	return true;
}

#define RARE_FORMS (BT_F_SREG | BT_F_CR | BT_F_DR | BT_F_SREG_OP | BT_F_SREG_FIX | BT_F_VSIB)

static inline bool is_aligned(const struct bt_row *row, const struct bt_insn *insn)
{
	uint32_t need = insn->encoding == BT_ENC_VEX ? BT_F_ALIGNED_VEX : BT_F_ALIGNED;

	return (row->form & need) && (insn->flags & BT_I_MEM);
}

/* False: #UD. The length is known then. */
static inline bool apply_row(struct cursor *c, const struct bt_row *row, struct bt_insn *insn)
{
	static const uint8_t mandatory[4] = { 0, 0x66, 0xf3, 0xf2 };
	uint32_t form = row->form;
	bool ok = true;

	insn->name = row->name;
	insn->cls = row->cls;
	insn->handler = row->handler;
	insn->opsize = operand_size(c, row->size);
	insn->flags |= row->flags & ((1u << BT_SURVIVE_SHIFT) - 1);
	insn->flags_read = row->flags_read;
	insn->flags_written = row->flags_written;
	insn->cond = insn->opcode & 15;
	insn->opreg = (insn->opcode & 7) | c->pre.rexb << 3;
	if (row->match_mask & 3u << BT_SEL_PP_SHIFT)
		insn->mandatory = mandatory[row->match_value >> BT_SEL_PP_SHIFT & 3];
	if (c->pre.rep && insn->mandatory != c->pre.rep)
		insn->flags |= c->pre.rep == 0xf3 ? BT_I_REP : BT_I_REPNE;
	if (form & BT_F_MOFFS)
		parse_moffs(c, insn);
	if (form & RARE_FORMS)
		ok = finish_form(c, form, insn);

	if (insn->flags & BT_I_MEM) {
		insn->access = (form & BT_F_RM_R ? BT_ACCESS_READ : 0) | (form & BT_F_RM_W ? BT_ACCESS_WRITE : 0);
		insn->mem_bytes = memory_size(c, insn, row->mem);
		if (form & BT_F_LOCK)
			insn->flags |= BT_I_LOCK_OK;
		if (is_aligned(row, insn))
			insn->flags |= BT_I_ALIGNED;
	} else {
		/* What the row says of its memory operand does not hold for a register. */
		insn->flags &= ~(uint32_t)(BT_I_BITOFF | BT_I_COND_WRITE);
	}
	parse_immediate(c, insn, row->imm);
	note_registers(row, insn);
	if (insn->cls == BT_CLASS_STRING || insn->cls == BT_CLASS_STRING_IO)
		note_string(insn);
	if (form & BT_F_COUNT)
		note_count(insn);
	note_killed(row, insn);
	if (insn->seg_override != NO_SEG)
		insn->seg = insn->seg_override;

	if (insn->encoding == BT_ENC_VEX) {
		if (row->flags & BT_I_SSE)
			insn->flags |= BT_I_AVX;
		/* All four bits as they are encoded: one of them means nothing to register numbers outside 64-bit mode. */
		if ((~c->p[insn->opcode_off - 1] >> 3 & 15) && !(form & (BT_F_VVVV | BT_F_VVVV_R | BT_F_VVVV_W)))
			ok = false;
	}
	if (c->pre.lock) {
		insn->flags |= BT_I_LOCK;
		if (!(insn->flags & BT_I_LOCK_OK))
			ok = false;
	}
	if (((form & BT_F_MEM_ONLY) && insn->modrm_mod == 3) || ((form & BT_F_REG_ONLY) && insn->modrm_mod != 3))
		ok = false;
	return ok;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static inline void clear(struct bt_insn *insn)
{
	insn->len = 0;
	insn->opcode = 0;
	insn->cls = BT_CLASS_INVALID;
	insn->mandatory = 0;
	insn->opsize = 0;
	insn->modrm = insn->sib = insn->modrm_mod = insn->modrm_reg = insn->modrm_rm = 0;
	insn->seg = SEG_DS;
	insn->base = insn->index = NO_REG;
	insn->scale = 0;
	insn->disp_off = insn->disp_bytes = 0;
	insn->imm_off = insn->imm_bytes = 0;
	insn->opcode_off = 0;
	insn->opreg = 0;
	insn->access = 0;
	insn->cond = 0;
	insn->mem_bytes = 0;
	insn->flags = 0;
	insn->flags_read = insn->flags_written = insn->flags_killed = 0;
	insn->gpr_read = insn->gpr_written = 0;
	insn->disp = insn->imm = 0;
	insn->imm2 = 0;
	insn->name = "(bad)";
	insn->handler = BT_OP_NONE;
}

/* False: #UD; c->pos is behind what was looked at. */
static inline bool parse(struct cursor *c, struct bt_insn *insn)
{
	const struct bt_row *row;
	unsigned last;

	parse_prefixes(c, insn);
	if (c->pos >= INSN_MAX) {
		c->pos = INSN_MAX + 1; /* no room for an opcode */
		return false;
	}
	insn->addrsize = c->bits == BT_BITS_64 ? (c->pre.addrsize ? 4 : 8)
		: (c->bits == BT_BITS_16) != c->pre.addrsize ? 2 : 4;
	if (!parse_opcode(c, insn))
		return false;
	last = bt_row_last[insn->map << 8 | insn->opcode];
	if (!last)
		return false;
	row = &bt_rows[last - 1];
	if (row->form & BT_F_MODRM)
		parse_modrm(c, insn, row->form & (BT_F_CR | BT_F_DR));
	row = find_row(last, insn->map, insn->opcode, selector(c, insn));
	return row && apply_row(c, row, insn);
}

/* Without libc, so that helpers may decode. */
static void copy_bytes(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

enum bt_decode_result bt_decode(const uint8_t *code, size_t n, enum bt_bits bits, struct bt_insn *ret_insn)
{
	uint8_t window[WINDOW];
	struct cursor c = { .p = code, .bits = bits };
	struct bt_insn *insn = ret_insn;
	bool ok;

	if (__builtin_expect(n < WINDOW, 0)) {
		/* Missing bytes are zeros; an instruction that used one of them comes out as too short below. */
		static const uint8_t zeros[WINDOW];

		copy_bytes(window, code, n);
		copy_bytes(window + n, zeros, WINDOW - n);
		c.p = window;
	}
	/* Two halves that overlap: AddressSanitizer's memcpy of 15 bytes is a call, which uses vector registers. */
	uint64_t head = (uint64_t)get64(c.p), tail = (uint64_t)get64(c.p + sizeof(insn->bytes) - sizeof(tail));
	__builtin_memcpy(insn->bytes, &head, sizeof(head));
	__builtin_memcpy(insn->bytes + sizeof(insn->bytes) - sizeof(tail), &tail, sizeof(tail));
	clear(insn);
	ok = parse(&c, insn);
	insn->len = c.pos <= INSN_MAX ? c.pos : INSN_MAX;
	if (c.pos > n && n < INSN_MAX)
		return BT_DECODE_SHORT;
	if (c.pos > INSN_MAX)
		return BT_DECODE_TOO_LONG;
	if (!ok) {
		insn->cls = BT_CLASS_INVALID;
		if (!insn->len)
			insn->len = 1;
		return BT_DECODE_INVALID;
	}
	return BT_DECODE_OK;
}
