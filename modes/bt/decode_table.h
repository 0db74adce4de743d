/* The decoder's tables, expanded from opcodes.def: the seam between decode_table.c, decode.c and the tests of both. */
#ifndef BT_DECODE_TABLE_H
#define BT_DECODE_TABLE_H

#include "modes/bt/decode.h"

/* The word a row's condition is matched against; also the layout of bt_row.match_*. */
#define BT_SEL_REG_SHIFT 0 /* ModRM.reg */
#define BT_SEL_RM_SHIFT 3
#define BT_SEL_MOD3 (1u << 6)
#define BT_SEL_PP_SHIFT 7 /* 0, 1: 66, 2: f3, 3: f2 (as VEX.pp) */
#define BT_SEL_W (1u << 9)
#define BT_SEL_L (1u << 10)
#define BT_SEL_VEX (1u << 11)
#define BT_SEL_64 (1u << 12)
#define BT_SEL_REXB (1u << 13)

/* Operand forms (opcodes.def explains the letters). */
#define BT_F_MODRM (1u << 0)
#define BT_F_REG_R (1u << 1)
#define BT_F_REG_W (1u << 2)
#define BT_F_RM_R (1u << 3)
#define BT_F_RM_W (1u << 4)
#define BT_F_RM_GPR (1u << 5)
#define BT_F_VVVV_R (1u << 6)
#define BT_F_VVVV_W (1u << 7)
#define BT_F_OPREG_R (1u << 8)
#define BT_F_OPREG_W (1u << 9)
#define BT_F_MEM_ONLY (1u << 10)
#define BT_F_REG_ONLY (1u << 11)
#define BT_F_MOFFS (1u << 12)
#define BT_F_VSIB (1u << 13)
#define BT_F_RM8 (1u << 14)
#define BT_F_VVVV (1u << 15)
#define BT_F_ALIGNED (1u << 16)     /* in the legacy encoding */
#define BT_F_ALIGNED_VEX (1u << 17) /* in both */
#define BT_F_LOCK (1u << 18)
#define BT_F_COUNT (1u << 19)       /* immediate is a shift count: writes no flags when it is 0 after masking */
#define BT_F_SREG (1u << 20)        /* ModRM.reg is a segment register */
#define BT_F_SREG_LOAD (1u << 21)   /* ..and CS is no destination */
#define BT_F_CR (1u << 22)
#define BT_F_DR (1u << 23)
#define BT_F_SREG_OP (1u << 24)     /* opcode bits 3..5 are a segment register */
#define BT_F_SREG_FIX (1u << 25)    /* bits 29..31 are a segment register */
#define BT_F_SREG_SHIFT 29

enum bt_size_rule {
	Z_B,   /* 1 */
	Z_V,   /* 2, 4, 8 */
	Z_Z,   /* 2, 4 */
	Z_Y,   /* 4, 8 (REX.W or VEX.W in 64-bit mode) */
	Z_D64, /* as V, but 4 becomes 8 in 64-bit mode: push, pop */
	Z_F64, /* near branches: the same on AMD, whom we follow; Intel ignores 66 there in 64-bit mode */
	Z_N,   /* 8 in 64-bit mode, else 4 */
	Z_W,   /* 2 */
	Z_D,   /* 4 */
	Z_COUNT
};

enum bt_mem_rule {
	S_NONE, /* no access */
	S_OP,   /* the operand size */
	S_1, S_2, S_4, S_8, S_10, S_16,
	S_X,      /* 16, with VEX.L 32 */
	S_XH,     /* half of that */
	S_XQ,     /* a quarter */
	S_XE,     /* an eighth */
	S_DDUP,   /* 8, with VEX.L 32 */
	S_SCALAR, /* 4, with VEX.W 8 */
	S_FAR,    /* operand size + 2 */
	S_2OP,    /* twice the operand size */
	S_TABLE,  /* 6, in 64-bit mode 10 */
	S_WIDE,   /* BT_I_WIDE_MEM */
};

enum bt_imm_rule {
	I_NONE,
	I_B,     /* 1 byte, sign-extended */
	I_BU,    /* 1 byte, zero-extended */
	I_W,     /* 2 bytes, zero-extended */
	I_Z,     /* 2 or 4, sign-extended */
	I_V,     /* 2, 4 or 8 */
	I_FAR,   /* offset of 2 or 4, then 2 */
	I_ENTER, /* 2, then 1 */
	I_BB,    /* 1, then 1 */
};

/* The uppermost bits of a row's insn flags: CF, PF, AF, ZF, SF, OF that may survive although they count as written. */
#define BT_SURVIVE_SHIFT 26

struct bt_row {
	const char *name;
	uint32_t match_mask, match_value;
	uint32_t form, flags;
	uint16_t gpr_read, gpr_written;     /* implicit ones */
	uint16_t flags_read, flags_written;
	uint8_t first, last; /* opcodes */
	uint8_t map, cls, handler;
	uint8_t size, mem, imm;
};

extern const struct bt_row bt_rows[];
extern const unsigned bt_row_count;
/* Index + 1 of the last row for [map << 8 | opcode], 0 for none. Rows for the same opcode stand directly before it. */
extern const uint16_t bt_row_last[4 * 256];

#endif
