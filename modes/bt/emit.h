/* Host code emission: bytes into the code cache's writable alias, one function for each encoding shape. */
#ifndef BT_EMIT_H
#define BT_EMIT_H

#include "machine/types.h"

/* Host registers, in encoding order. */
enum host_reg {
	H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI,
	H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15,
	H_NONE = 0xff
};

/*
 * The layout while translated code runs (docs/bt.md): the host's rsp is the vCPU, the guest's rsp lives in r13, r14
 * and r15 are scratch, and the guest's own r13..r15 stay in cs.gpr; every other register is itself.
 */
#define H_VCPU H_RSP
#define H_GUEST_RSP H_R13
#define H_T0 H_R15
#define H_T1 H_R14

struct emit {
	uint8_t *p;        /* next byte, in the writable alias */
	ptrdiff_t exec;    /* executable alias - writable alias */
};

static inline void e8(struct emit *e, unsigned b) { *e->p++ = (uint8_t)b; }
static inline void e16(struct emit *e, uint16_t v) { __builtin_memcpy(e->p, &v, 2); e->p += 2; }
static inline void e32(struct emit *e, uint32_t v) { __builtin_memcpy(e->p, &v, 4); e->p += 4; }
static inline void e64(struct emit *e, uint64_t v) { __builtin_memcpy(e->p, &v, 8); e->p += 8; }

static inline bool fits_i8(int64_t v) { return v == (int8_t)v; }
static inline bool fits_i32(int64_t v) { return v == (int32_t)v; }

/* A memory operand: base + index << scale + disp. index H_NONE: none. */
struct emit_mem {
	uint8_t base, index, scale;
	int32_t disp;
};
#define MEM_BD(b, d) ((struct emit_mem){.base = (b), .index = H_NONE, .disp = (d)})
#define MEM_BI(b, i) ((struct emit_mem){.base = (b), .index = (i)})
#define MEM_BID(b, i, d) ((struct emit_mem){.base = (b), .index = (i), .disp = (d)})

/* ModRM, SIB and displacement for `m`, with `reg` (low 3 bits used) in the reg field. */
static inline void e_modrm_mem(struct emit *e, unsigned reg, struct emit_mem m)
{
	unsigned r = (reg & 7) << 3, b = m.base & 7;

	if (m.base == H_NONE) { /* [index*scale + disp32] or [disp32] */
		e8(e, r | 4);
		e8(e, (unsigned)m.scale << 6 | (m.index == H_NONE ? 4u : (m.index & 7u)) << 3 | 5);
		e32(e, (uint32_t)m.disp);
		return;
	}
	unsigned mod = m.disp == 0 && b != 5 ? 0 : fits_i8(m.disp) ? 0x40 : 0x80;
	if (m.index != H_NONE || b == 4) {
		e8(e, mod | r | 4);
		e8(e, (unsigned)m.scale << 6 | (m.index == H_NONE ? 4u : (m.index & 7u)) << 3 | b);
	} else {
		e8(e, mod | r | b);
	}
	if (mod == 0x40)
		e8(e, (uint8_t)m.disp);
	else if (mod == 0x80)
		e32(e, (uint32_t)m.disp);
}

static inline unsigned e_rex_mem(unsigned w, unsigned reg, struct emit_mem m)
{
	return w << 3 | (reg != H_NONE ? (reg >> 3 & 1) << 2 : 0) | (m.index != H_NONE ? (m.index >> 3 & 1u) << 1 : 0) |
	       (m.base != H_NONE ? (m.base >> 3 & 1u) : 0);
}

/* op reg, mem (or op mem, reg): one-byte opcode; w: 64-bit. */
static inline void e_op_mem(struct emit *e, unsigned w, unsigned op, unsigned reg, struct emit_mem m)
{
	unsigned rex = e_rex_mem(w, reg, m);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, op);
	e_modrm_mem(e, reg, m);
}
/* The same with a 0f escape. */
static inline void e_op0f_mem(struct emit *e, unsigned w, unsigned op, unsigned reg, struct emit_mem m)
{
	unsigned rex = e_rex_mem(w, reg, m);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, 0x0f);
	e8(e, op);
	e_modrm_mem(e, reg, m);
}
static inline void e_op_rr(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
	unsigned rex = w << 3 | (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
	if (rex)
		e8(e, 0x40 | rex);
	e8(e, op);
	e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void e_mov_rr(struct emit *e, unsigned dst, unsigned src) { e_op_rr(e, 1, 0x89, src, dst); }
static inline void e_mov_rr32(struct emit *e, unsigned dst, unsigned src) { e_op_rr(e, 0, 0x89, src, dst); }
static inline void e_load(struct emit *e, unsigned dst, struct emit_mem m) { e_op_mem(e, 1, 0x8b, dst, m); }
static inline void e_load32(struct emit *e, unsigned dst, struct emit_mem m) { e_op_mem(e, 0, 0x8b, dst, m); }
static inline void e_load16(struct emit *e, unsigned dst, struct emit_mem m) { e_op0f_mem(e, 0, 0xb7, dst, m); }
static inline void e_store(struct emit *e, struct emit_mem m, unsigned src) { e_op_mem(e, 1, 0x89, src, m); }
static inline void e_store32(struct emit *e, struct emit_mem m, unsigned src) { e_op_mem(e, 0, 0x89, src, m); }
static inline void e_store16(struct emit *e, struct emit_mem m, unsigned src)
{
	e8(e, 0x66);
	e_op_mem(e, 0, 0x89, src, m);
}
static inline void e_lea(struct emit *e, unsigned dst, struct emit_mem m)
{
	if (m.index == H_NONE && !m.disp && m.base != H_NONE)
		e_mov_rr(e, dst, m.base); /* register renaming does it for nothing */
	else
		e_op_mem(e, 1, 0x8d, dst, m);
}
static inline void e_lea32(struct emit *e, unsigned dst, struct emit_mem m) { e_op_mem(e, 0, 0x8d, dst, m); }

/* The shortest mov of a constant; leaves the flags alone. */
static inline void e_mov_imm(struct emit *e, unsigned dst, uint64_t v)
{
	if (v == (uint32_t)v) {
		if (dst >= 8)
			e8(e, 0x41);
		e8(e, 0xb8 | (dst & 7));
		e32(e, (uint32_t)v);
	} else if (fits_i32((int64_t)v)) {
		e8(e, 0x48 | (dst >> 3));
		e8(e, 0xc7);
		e8(e, 0xc0 | (dst & 7));
		e32(e, (uint32_t)v);
	} else {
		e8(e, 0x48 | (dst >> 3));
		e8(e, 0xb8 | (dst & 7));
		e64(e, v);
	}
}
/* mov qword [m], simm32 */
static inline void e_store_imm(struct emit *e, struct emit_mem m, int32_t v)
{
	e_op_mem(e, 1, 0xc7, 0, m);
	e32(e, (uint32_t)v);
}
static inline void e_store_imm32(struct emit *e, struct emit_mem m, uint32_t v)
{
	e_op_mem(e, 0, 0xc7, 0, m);
	e32(e, v);
}

/* jmp, call and jcc with a 32-bit displacement to an address in the executable alias. */
static inline void e_rel32_to(struct emit *e, const uint8_t *exec_target)
{
	const uint8_t *next = e->p + 4 + e->exec;
	e32(e, (uint32_t)(exec_target - next));
}
static inline void e_jmp(struct emit *e, const uint8_t *exec_target) { e8(e, 0xe9); e_rel32_to(e, exec_target); }
static inline void e_call(struct emit *e, const uint8_t *exec_target) { e8(e, 0xe8); e_rel32_to(e, exec_target); }

/* r14d = the offset of r15's TLB entry in its table (entries of 32 bytes, 4096 of them) */
#define BT_TLB_INDEX_MASK ((1u << BT_TLB_BITS) - 1)
static inline void e_tlb_index(struct emit *e, bool bmi2)
{
	if (bmi2) { /* rorx r14d, r15d, 7 */
		e8(e, 0xc4), e8(e, 0x43), e8(e, 0x7b), e8(e, 0xf0), e8(e, 0xf7), e8(e, 7);
	} else {
		e_mov_rr32(e, H_T1, H_T0);
		e8(e, 0x41), e8(e, 0xc1), e8(e, 0xee), e8(e, 7); /* shr r14d, 7 */
	}
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xe6); /* and r14d, index mask * 32 */
	e32(e, BT_TLB_INDEX_MASK << 5);
}

/* A forward jump whose target is set later: returns the place of the displacement. */
static inline uint8_t *e_jcc_fwd(struct emit *e, unsigned cond)
{
	e8(e, 0x0f);
	e8(e, 0x80 | cond);
	e32(e, 0);
	return e->p - 4;
}
static inline uint8_t *e_jmp_fwd(struct emit *e)
{
	e8(e, 0xe9);
	e32(e, 0);
	return e->p - 4;
}
static inline void e_fix32(uint8_t *disp, const uint8_t *target)
{
	int32_t rel = (int32_t)(target - (disp + 4));
	__builtin_memcpy(disp, &rel, 4);
}
/* Pads with nops so that the byte `ahead` bytes on lies on a multiple of 4: patched fields must be aligned. */
static inline void e_align4(struct emit *e, unsigned ahead)
{
	static const uint8_t nops[4][3] = {{0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
	unsigned n = (unsigned)(-(uintptr_t)(e->p + ahead)) & 3;
	for (unsigned i = 0; i < n; i++)
		e8(e, nops[n][i]);
}

#define COND_O 0
#define COND_NO 1
#define COND_B 2
#define COND_AE 3
#define COND_E 4
#define COND_NE 5
#define COND_BE 6
#define COND_A 7
#define COND_L 12
#define COND_G 15

#endif
