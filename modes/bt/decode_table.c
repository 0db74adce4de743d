/* The decoder's tables: opcodes.def expanded into rows and an index by opcode. */
#include "modes/bt/decode_table.h"

#include "machine/cpu_state.h"

/* ---- the vocabulary of opcodes.def ---------------------------------------------------------- */

#define M1 BT_MAP_1
#define M0F BT_MAP_0F
#define M38 BT_MAP_0F38
#define M3A BT_MAP_0F3A

/* A condition: mask in the upper half, value in the lower. */
#define COND(mask, value) ((uint64_t)(mask) << 32 | (uint64_t)(value))
#define R(n) COND(7u << BT_SEL_REG_SHIFT, (unsigned)(n) << BT_SEL_REG_SHIFT)
#define X(n) COND(7u << BT_SEL_RM_SHIFT, (unsigned)(n) << BT_SEL_RM_SHIFT)
#define MEM COND(BT_SEL_MOD3, 0)
#define REG COND(BT_SEL_MOD3, BT_SEL_MOD3)
#define NP COND(3u << BT_SEL_PP_SHIFT, 0)
#define P66 COND(3u << BT_SEL_PP_SHIFT, 1u << BT_SEL_PP_SHIFT)
#define PF3 COND(3u << BT_SEL_PP_SHIFT, 2u << BT_SEL_PP_SHIFT)
#define PF2 COND(3u << BT_SEL_PP_SHIFT, 3u << BT_SEL_PP_SHIFT)
#define W0 COND(BT_SEL_W, 0)
#define W1 COND(BT_SEL_W, BT_SEL_W)
#define L0 COND(BT_SEL_L, 0)
#define L1 COND(BT_SEL_L, BT_SEL_L)
#define M64 COND(BT_SEL_64, BT_SEL_64)
#define NO64 COND(BT_SEL_64, 0)
#define REXB0 COND(BT_SEL_REXB, 0)
#define LEG COND(BT_SEL_VEX, 0)
#define VEX COND(BT_SEL_VEX, BT_SEL_VEX)
#define LV COND(0, 0)

#define P BT_F_MODRM
#define Er (P | BT_F_RM_GPR | BT_F_RM_R)
#define Ew (P | BT_F_RM_GPR | BT_F_RM_W)
#define Erw (Er | Ew)
#define Gr (P | BT_F_REG_R)
#define Gw (P | BT_F_REG_W)
#define Grw (Gr | Gw)
#define Wr (P | BT_F_RM_R)
#define Ww (P | BT_F_RM_W)
#define Mr (P | BT_F_MEM_ONLY | BT_F_RM_R)
#define Mw (P | BT_F_MEM_ONLY | BT_F_RM_W)
#define Mrw (Mr | Mw)
#define Mn (P | BT_F_MEM_ONLY)
#define Ur (P | BT_F_REG_ONLY | BT_F_RM_GPR | BT_F_RM_R)
#define Uw (P | BT_F_REG_ONLY | BT_F_RM_GPR | BT_F_RM_W)
#define Br BT_F_VVVV_R
#define Bw BT_F_VVVV_W
#define Zr BT_F_OPREG_R
#define Zw BT_F_OPREG_W
#define Zrw (Zr | Zw)
#define Or (BT_F_MOFFS | BT_F_RM_R)
#define Ow (BT_F_MOFFS | BT_F_RM_W)
#define H BT_F_VVVV
#define LK BT_F_LOCK
#define AL BT_F_ALIGNED
#define ALV (BT_F_ALIGNED | BT_F_ALIGNED_VEX)
#define RM8 BT_F_RM8
#define VSIB BT_F_VSIB
#define COUNT BT_F_COUNT
#define SREG BT_F_SREG
#define SREG_LOAD BT_F_SREG_LOAD
#define SREG_OP BT_F_SREG_OP
#define SREG_FIX(seg) (BT_F_SREG_FIX | (unsigned)(seg) << BT_F_SREG_SHIFT)
#define CR BT_F_CR
#define DR BT_F_DR

#define CF BT_CF
#define PF BT_PF
#define AF BT_AF
#define ZF BT_ZF
#define SF BT_SF
#define OF BT_OF
#define SURVIVE_BIT(mask, flag, n) (((mask) & (flag)) ? 1u << (BT_SURVIVE_SHIFT + (n)) : 0)
#define SURVIVE(mask)                                                                                                \
	(BT_I_FLAGS_COND | SURVIVE_BIT(mask, CF, 0) | SURVIVE_BIT(mask, PF, 1) | SURVIVE_BIT(mask, AF, 2) |          \
	 SURVIVE_BIT(mask, ZF, 3) | SURVIVE_BIT(mask, SF, 4) | SURVIVE_BIT(mask, OF, 5))
#define AX (1u << GPR_RAX)
#define CX (1u << GPR_RCX)
#define DX (1u << GPR_RDX)
#define BX (1u << GPR_RBX)
#define SP (1u << GPR_RSP)
#define BP (1u << GPR_RBP)
#define SI (1u << GPR_RSI)
#define DI (1u << GPR_RDI)
#define R11 (1u << GPR_R11)

/* ---- the tables -------------------------------------------------------------------------------- */

const struct bt_row bt_rows[] = {
#define OP(enc, opmap, lo, hi, cond, nm, frm, sz, memory, immediate, c, help, fr, fw, gr, gw, fl)                 \
	{ .name = nm, .match_mask = (uint32_t)((enc | cond) >> 32), .match_value = (uint32_t)(enc | cond),          \
	  .form = frm, .flags = fl, .gpr_read = gr, .gpr_written = gw, .flags_read = fr, .flags_written = fw,        \
	  .first = lo, .last = hi, .map = opmap, .cls = BT_CLASS_##c, .handler = BT_OP_##help, .size = sz,           \
	  .mem = memory, .imm = immediate },
#include "modes/bt/opcodes.def"
#undef OP
};

const unsigned bt_row_count = ARRAY_SIZE(bt_rows);

/* Rows come in the order of the file, and of several initializers of one element the last one counts. */
#pragma GCC diagnostic push
#ifdef __clang__
#pragma GCC diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
enum { ROW_BASE = __COUNTER__ };
const uint16_t bt_row_last[4 * 256] = {
#define OP(enc, opmap, lo, hi, ...) [(opmap) << 8 | (lo) ... (opmap) << 8 | (hi)] = __COUNTER__ - ROW_BASE,
#include "modes/bt/opcodes.def"
#undef OP
};
#pragma GCC diagnostic pop

_Static_assert(ARRAY_SIZE(bt_rows) < UINT16_MAX, "row numbers fit the index");
_Static_assert(BT_OP_COUNT <= UINT8_MAX, "helper numbers fit a row");
