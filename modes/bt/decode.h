/* The x86 decoder's answer: one instruction, with everything the translator and the helpers want to know of it. */
#ifndef BT_DECODE_H
#define BT_DECODE_H

#include "machine/types.h"

/* Code size of the segment: what `bits` decode is asked for. */
enum bt_bits { BT_BITS_16 = 16, BT_BITS_32 = 32, BT_BITS_64 = 64 };

/* Arithmetic flags, as in RFLAGS. */
#define BT_CF 0x001u
#define BT_PF 0x004u
#define BT_AF 0x010u
#define BT_ZF 0x040u
#define BT_SF 0x080u
#define BT_OF 0x800u
#define BT_FLAGS_ARITH (BT_CF | BT_PF | BT_AF | BT_ZF | BT_SF | BT_OF)

enum bt_map { BT_MAP_1, BT_MAP_0F, BT_MAP_0F38, BT_MAP_0F3A };
enum bt_encoding { BT_ENC_LEGACY, BT_ENC_VEX, BT_ENC_EVEX };

/* What the translator does with an instruction; expand with care, every class has one emitter. */
enum bt_class {
	BT_CLASS_INVALID,  /* #UD on every processor we model */
	BT_CLASS_NATIVE,   /* unprivileged, no control flow; emitted as itself, its explicit memory operand replaced */
	BT_CLASS_LEA,      /* computes an address, no access */
	BT_CLASS_NOP,      /* nop, prefetch, endbr: emits nothing (a memory operand is not accessed) */
	BT_CLASS_PUSH,     /* push r, imm, r/m, fs/gs (not ds.. in 64-bit) */
	BT_CLASS_POP,      /* pop r, r/m (pop sreg is SYSTEM) */
	BT_CLASS_LEAVE,
	BT_CLASS_ENTER,
	BT_CLASS_CALL,     /* near, relative */
	BT_CLASS_CALL_IND, /* near, r/m */
	BT_CLASS_JMP,      /* near, relative */
	BT_CLASS_JMP_IND,  /* near, r/m */
	BT_CLASS_JCC,
	BT_CLASS_LOOP,     /* loop, loope, loopne, jcxz */
	BT_CLASS_RET,      /* near, with or without imm16 */
	BT_CLASS_STRING,   /* movs, stos, lods, scas, cmps, with or without rep */
	BT_CLASS_STRING_IO,/* ins, outs */
	BT_CLASS_XLAT,
	BT_CLASS_MASKMOV,  /* maskmovdqu, maskmovq: implicit [rdi] store */
	BT_CLASS_GATHER,   /* VSIB */
	BT_CLASS_PUSHF, BT_CLASS_POPF,
	BT_CLASS_FLAG_SYS, /* cli, sti, cld, std */
	BT_CLASS_IO,       /* in, out */
	BT_CLASS_SYSTEM,   /* a C helper of modes/bt/system.c (or segment.c, fault.c) */
	BT_CLASS_LEGACY,   /* aaa, daa, aam, aad, das, aas, bound, arpl, pusha, popa, into, salc: gone in 64-bit mode */
};

/* What the explicit ModRM memory operand (or moffs) is used for. */
enum bt_access { BT_ACCESS_NONE = 0, BT_ACCESS_READ = 1, BT_ACCESS_WRITE = 2, BT_ACCESS_RW = 3 };

enum bt_insn_flag {
	BT_I_MODRM = 1u << 0,
	BT_I_MEM = 1u << 1,      /* has an explicit memory operand (ModRM mod != 3, or moffs) */
	BT_I_MOFFS = 1u << 2,    /* a0..a3: address is `disp`, absolute */
	BT_I_RIP_REL = 1u << 3,
	BT_I_LOCK = 1u << 4,
	BT_I_REP = 1u << 5,      /* f3 */
	BT_I_REPNE = 1u << 6,    /* f2 */
	BT_I_BYTE_REG = 1u << 7, /* ModRM.reg (or opcode reg) names an 8-bit register: ah..bh possible without REX */
	BT_I_BYTE_RM = 1u << 8,  /* ModRM.rm, when a register, is 8-bit */
	BT_I_REG_GPR = 1u << 9,  /* ModRM.reg names a general register (not an opcode extension, xmm, sreg, cr) */
	BT_I_RM_GPR = 1u << 10,  /* ModRM.rm, when mod == 3, names a general register */
	BT_I_OPREG = 1u << 11,   /* low opcode bits (+ REX.B) name a general register (push, pop, mov imm, xchg, bswap) */
	BT_I_VVVV_GPR = 1u << 12,/* VEX.vvvv names a general register (BMI) */
	BT_I_FPU = 1u << 13,     /* x87 or MMX: #NM if CR0.TS or CR0.EM, #MF pending checks */
	BT_I_SSE = 1u << 14,     /* SSE..AVX: #UD if CR0.EM or !CR4.OSFXSR, #NM if TS */
	BT_I_AVX = 1u << 15,     /* VEX: #UD unless CR4.OSXSAVE and XCR0[2:1]=3 (BMI under VEX has neither SSE nor AVX) */
	BT_I_PRIV = 1u << 16,    /* #GP(0) unless CPL 0 */
	BT_I_ENDS = 1u << 17,    /* ends a translation block (control flow, or a change of what decode depends on) */
	BT_I_LOCK_OK = 1u << 18, /* LOCK is legal with this memory destination */
	BT_I_ALIGNED = 1u << 19, /* memory operand must be naturally aligned (movaps..): #GP otherwise */
	BT_I_FLAGS_COND = 1u << 20, /* may leave flags as they are (shift by a count of 0, rep with rcx 0): flags_written may survive */
	BT_I_IMPLICIT_RSP = 1u << 21,
	BT_I_COND_WRITE = 1u << 22, /* memory write may not happen (cmpxchg counts as RW and always writes; vmaskmov does not) */
	BT_I_WIDE_MEM = 1u << 23,/* mem_bytes is larger than 64 or depends on state (fxsave, xsave, fnsave) */
	BT_I_BITOFF = 1u << 24,  /* bt/bts/btr/btc m, r: the register is a signed bit offset that reaches beyond the operand */
	BT_I_MASKED = 1u << 25,  /* vmaskmov, vpmaskmov: only elements whose mask bit is set are accessed and may fault */
};

/* The C helpers: BT_OP_NONE, then one for each row of handlers.def. */
enum bt_handler {
	BT_OP_NONE,
#define BT_HANDLER(name) BT_OP_##name,
#include "modes/bt/handlers.def"
#undef BT_HANDLER
	BT_OP_COUNT
};

/*
 * One decoded instruction. Offsets are into the instruction's own bytes. For 3-byte VEX and REX the register
 * extension bits are already folded into modrm_reg, modrm_rm, base, index, opreg, vvvv.
 */
struct bt_insn {
	uint8_t bytes[15];
	uint8_t len;
	uint8_t opcode;       /* last opcode byte */
	uint8_t map;          /* enum bt_map */
	uint8_t encoding;     /* enum bt_encoding */
	uint8_t cls;          /* enum bt_class */
	uint8_t rex;          /* 0, or 0x40..0x4f; for VEX synthesized from W/R/X/B (0x40 set only when a REX byte was there) */
	uint8_t vex_w, vex_l, vex_pp;
	uint8_t vvvv;         /* 0..15, as a register number (already inverted) */
	uint8_t mandatory;    /* 0, 0x66, 0xf2 or 0xf3: the prefix that selects the opcode, for SSE */
	uint8_t opsize;       /* operand size in bytes of general operands: 1, 2, 4, 8 */
	uint8_t addrsize;     /* 2, 4, 8 */
	uint8_t seg;          /* effective segment of the memory operand: enum cpu_seg (default or override) */
	uint8_t seg_override; /* 0xff or enum cpu_seg, as the prefix says (in 64-bit only FS and GS survive) */
	uint8_t modrm, sib;
	uint8_t modrm_mod, modrm_reg, modrm_rm;
	uint8_t base, index;  /* general register numbers, 0xff for none; 16-bit forms are expressed in them too */
	uint8_t scale;        /* shift: 0..3 */
	uint8_t disp_off, disp_bytes; /* disp_bytes 0: none */
	uint8_t imm_off, imm_bytes;   /* enter and far pointers: imm is the first, imm2 the second */
	uint8_t opcode_off;   /* offset of the last opcode byte; ModRM follows it (3DNow! excepted) */
	uint8_t opreg;        /* with BT_I_OPREG */
	uint8_t access;       /* enum bt_access of the explicit memory operand */
	uint8_t cond;         /* low 4 opcode bits of jcc, setcc, cmovcc */
	uint16_t mem_bytes;   /* size of the explicit memory access; 0 for BT_I_WIDE_MEM */
	uint32_t flags;       /* enum bt_insn_flag */
	uint16_t flags_read, flags_written; /* BT_CF.. masks; undefined counts as written */
	uint16_t flags_killed; /* of those written, the ones that never survive: what liveness may rely on */
	uint16_t gpr_read, gpr_written;     /* bit per general register, all uses: explicit, address and implicit (mul, shift by cl, cpuid..) */
	int64_t disp;         /* sign-extended; for RIP_REL relative to the next instruction; moffs: the address */
	int64_t imm;          /* sign-extended as the instruction does; for relative branches the displacement */
	uint64_t imm2;
	const char *name;     /* mnemonic, for people */
	uint16_t handler;     /* which helper, for SYSTEM, LEGACY, IO..: enum bt_handler, from opcodes.def */
};

enum bt_decode_result {
	BT_DECODE_OK,
	BT_DECODE_SHORT,   /* `n` bytes were not enough (page boundary): fetch more */
	BT_DECODE_TOO_LONG,/* more than 15 bytes: #GP */
	BT_DECODE_INVALID, /* #UD; insn->len is set where known, else 1 */
};

/* Decodes the instruction at `code`, of which `n` bytes may be read. Pure. */
enum bt_decode_result bt_decode(const uint8_t *code, size_t n, enum bt_bits bits, struct bt_insn *ret_insn);

#endif
