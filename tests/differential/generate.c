/*
 * Cases: a few instructions drawn from the rows of opcodes.def, and a state that makes them do something. A register's
 * initial value is chosen when an instruction first uses it, so that addresses land where something can happen.
 */
#include "tests/differential/case.h"

#include <cpuid.h>
#include <string.h>

#include "modes/bt/decode_table.h"

struct gen {
	struct diff_case *c;
	uint64_t random;
	enum { FREE, KNOWN, UNKNOWN } state[GPR_COUNT];
	uint64_t value[GPR_COUNT]; /* while KNOWN */
	int favourite;             /* the base register of most operands; -1: any */
	bool stack_run;            /* mostly pushes and pops */
	bool any;                  /* system instructions too */
	uint16_t reserved;         /* registers that instructions must leave alone: they are a loop's */
	uint8_t index;             /* the index register of many operands; 0: any */
};

/* ---- randomness ---------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t rnd(struct gen *g) { return mix(g->random += 0x9e3779b97f4a7c15ull); }
static unsigned below(struct gen *g, unsigned n) { return (unsigned)((rnd(g) >> 32) * n >> 32); }
static bool chance(struct gen *g, unsigned percent) { return below(g, 100) < percent; }

static uint64_t interesting(struct gen *g)
{
	static const uint64_t values[] = {
		0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000,
		0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, ~0ull, ~1ull, 0xffffffff80000000, 0x3ff0000000000000,
		0x7ff0000000000000, 0x7ff0000000000001, 0x3f800000, 0x7f800000, 0x7fa00000, 1ull << 52, 0x00400000,
	};

	switch (below(g, 4)) {
	case 0: return values[below(g, ARRAY_SIZE(values))];
	case 1: return rnd(g) >> below(g, 64);
	case 2: return below(g, 32);
	default: return rnd(g);
	}
}

/* ---- addresses -------------------------------------------------------------------------------- */

static const uint64_t edges[] = {
	0x10001000, 0x10002000, 0x10003000, 0x10004000, 0x10005000, 0x10100000, 0x10101000, 0x10102000, 0x10200000, 0x10201000,
	0x10300000, 0x10301000, 0x6ffff0000000, 0x6ffff0001000, 0xfffff000, 0x100000000, 0x7ffffffff000, 0x800000000000,
	0xffff800000000000, 0, 0x10000000,
};

/* A linear address for an access of n bytes. */
static uint64_t target(struct gen *g, unsigned n, bool aligned)
{
	static const uint64_t pages[] = {GVA_D0, GVA_D0 + 0x1000, GVA_D0, GVA_D2, GVA_HIGH, GVA_TOP32, GVA_D0, GVA_D0 + 0x1000};
	uint64_t t;
	unsigned kind = below(g, 100);

	if (g->c->bits == 16 && chance(g, 80)) /* what 16-bit offsets reach */
		kind = chance(g, 70) ? 72 + below(g, 5) : 62;
	if (g->c->bits == 16 && kind >= 72 && kind < 77)
		t = GVA_D0 + below(g, 0x5100);
	else if (kind < 62)
		t = pages[below(g, ARRAY_SIZE(pages))] + below(g, 0x1000 - 64);
	else if (kind < 72)
		t = GVA_D0 + 0x1000 - below(g, n + 4);
	else if (kind < 77)
		t = GVA_RO + below(g, 0x1000);
	else if (kind < 91)
		t = edges[below(g, ARRAY_SIZE(edges))] + 2 - below(g, n + 6);
	else if (kind < 94)
		t = g->c->start + below(g, 40) - 4;
	else if (kind < 96)
		t = GVA_ALIAS + (g->c->start & 0xfff) + below(g, 40);
	else if (kind < 97)
		t = GVA_RX + (g->c->start & 0xfff) + below(g, 40);
	else
		t = interesting(g);
	if (aligned && !chance(g, 10))
		t &= -(uint64_t)(n ? n : 1);
	else if (chance(g, 40))
		t &= ~7ull;
	return g->c->bits != 64 ? (uint32_t)t : t;
}

static void set(struct gen *g, unsigned r, uint64_t v)
{
	if (g->c->bits != 64)
		v = (uint32_t)v;
	g->state[r] = KNOWN;
	g->value[r] = g->c->cpu.gpr[r] = v;
}

/* An address as a register holds it: an offset in the data segments. */
static uint64_t pointer(struct gen *g, unsigned n, bool aligned) { return target(g, n, aligned) - data_base(g->c); }

static uint64_t any_value(struct gen *g) { return chance(g, 35) ? pointer(g, 8, false) : interesting(g); }

static void fix_add(struct gen *g, struct fix f)
{
	if (g->c->fixes < CASE_FIXES)
		g->c->fix[g->c->fixes++] = f;
}

/* ---- instructions ---------------------------------------------------------------------------------- */

enum category { CAT_INT, CAT_STACK, CAT_FLOW, CAT_STRING, CAT_VECTOR, CAT_X87, CAT_SYSTEM, CAT_ANY, CAT_COUNT };

static unsigned rows[2][CAT_COUNT][1600];
static unsigned row_counts[2][CAT_COUNT];

/* Helpers whose outcome at CPL 3 is the processor's, not the system's. */
static bool system_allowed(const struct bt_row *r)
{
	switch (r->handler) {
	case BT_OP_cld:
	case BT_OP_std:
	case BT_OP_cli:
	case BT_OP_sti:
	case BT_OP_in:
	case BT_OP_out:
	case BT_OP_ins:
	case BT_OP_outs:
	case BT_OP_int3:
	case BT_OP_clac:
	case BT_OP_stac:
	case BT_OP_clzero:
	case BT_OP_rdfsbase:
	case BT_OP_rdgsbase:
	case BT_OP_wrfsbase:
	case BT_OP_wrgsbase:
	case BT_OP_xgetbv:
	case BT_OP_mov_from_sreg:
	case BT_OP_fxsave:
	case BT_OP_fxrstor:
	case BT_OP_xsave:
	case BT_OP_xrstor:
	case BT_OP_fnsave:
	case BT_OP_frstor:
	case BT_OP_fnstenv:
	case BT_OP_fldenv:
	case BT_OP_xsaveopt:
	case BT_OP_xsavec:
		return true;
	default: return r->flags & BT_I_PRIV;
	}
}

static int category_of(const struct bt_row *r)
{
	switch ((enum bt_class)r->cls) {
	case BT_CLASS_NATIVE:
		return r->flags & BT_I_FPU ? CAT_X87 : r->flags & BT_I_SSE ? CAT_VECTOR : CAT_INT;
	case BT_CLASS_LEA:
	case BT_CLASS_NOP:
	case BT_CLASS_LEGACY: return CAT_INT;
	case BT_CLASS_PUSH:
	case BT_CLASS_POP:
	case BT_CLASS_LEAVE:
	case BT_CLASS_ENTER:
	case BT_CLASS_PUSHF:
	case BT_CLASS_POPF: return CAT_STACK;
	case BT_CLASS_CALL:
	case BT_CLASS_CALL_IND:
	case BT_CLASS_JMP:
	case BT_CLASS_JMP_IND:
	case BT_CLASS_JCC:
	case BT_CLASS_LOOP:
	case BT_CLASS_RET: return CAT_FLOW;
	case BT_CLASS_STRING:
	case BT_CLASS_XLAT: return CAT_STRING;
	case BT_CLASS_MASKMOV:
	case BT_CLASS_GATHER: return CAT_VECTOR;
	case BT_CLASS_FLAG_SYS:
	case BT_CLASS_IO:
	case BT_CLASS_STRING_IO:
	case BT_CLASS_SYSTEM: return system_allowed(r) ? CAT_SYSTEM : -1;
	case BT_CLASS_INVALID: break;
	}
	return -1;
}

/* What this processor lacks is #UD before its operand is looked at; translated, the operand may come first. */
static bool lacking(const struct bt_row *r)
{
	unsigned a, b, c, d;

	if (strstr(r->name, "gf2p8"))
		return !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c >> 8 & 1);
	if (!strncmp(r->name, "sha", 3) && r->map >= BT_MAP_0F38 && r->form & BT_F_MODRM && !(r->match_mask & BT_SEL_W))
		return !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b >> 29 & 1);
	if (!strcmp(r->name, "extrq") || !strcmp(r->name, "insertq") || !strncmp(r->name, "movnts", 6))
		return !__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c >> 6 & 1);
	return false;
}

static bool nondeterministic(const struct bt_row *r)
{
	return !strncmp(r->name, "rdrand", 6) || !strncmp(r->name, "rdseed", 6) || !strncmp(r->name, "rdpid", 5);
}

static void index_rows(void)
{
	for (unsigned i = 0; i < bt_row_count; i++) {
		const struct bt_row *r = &bt_rows[i];
		int cat = category_of(r);
		for (unsigned w = 0; w < 2; w++) {
			bool needs64 = r->match_mask & BT_SEL_64 && r->match_value & BT_SEL_64;
			bool needs32 = r->match_mask & BT_SEL_64 && !(r->match_value & BT_SEL_64);
			if (w ? needs64 : needs32)
				continue;
			rows[w][CAT_ANY][row_counts[w][CAT_ANY]++] = i;
			if (cat >= 0 && !nondeterministic(r) && !lacking(r))
				rows[w][cat][row_counts[w][cat]++] = i;
		}
	}
}

/* Bytes that should decode to `row`; the decoder has the last word. */
static unsigned encode(struct gen *g, const struct bt_row *row, uint8_t *p)
{
	bool bits64 = g->c->bits == 64, vex_only = row->match_mask & BT_SEL_VEX && row->match_value & BT_SEL_VEX;
	bool vex_free = !(row->match_mask & BT_SEL_VEX);
	bool vex = vex_only || (vex_free && chance(g, 50));
	unsigned pp = row->match_mask >> BT_SEL_PP_SHIFT & 3 ? row->match_value >> BT_SEL_PP_SHIFT & 3 : 4, n = 0;
	bool w = row->match_mask & BT_SEL_W ? row->match_value & BT_SEL_W : chance(g, 40);
	bool l = row->match_mask & BT_SEL_L ? row->match_value & BT_SEL_L : chance(g, 50);
	bool rexb = row->match_mask & BT_SEL_REXB ? row->match_value & BT_SEL_REXB : chance(g, 40);
	bool rexr = chance(g, 40), rexx = chance(g, 40);
	bool favour = g->favourite >= 0 && chance(g, 75) && !(row->match_mask & BT_SEL_REXB);

	bool sib = g->index && chance(g, 50);

	if (favour)
		rexb = g->favourite >> 3;
	if (sib)
		rexx = g->index >> 3;

	if (chance(g, 5))
		p[n++] = (const uint8_t[]){0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26}[below(g, 6)];
	if (chance(g, 5))
		p[n++] = 0x67;
	if (chance(g, row->form & BT_F_LOCK ? 20 : 1) && !vex)
		p[n++] = 0xf0;
	if (vex) {
		bool three = !bits64 || rexb || rexx || w || row->map != BT_MAP_0F || chance(g, 30);
		if (!bits64)
			rexb = rexx = rexr = false;
		unsigned vvvv = row->form & (BT_F_VVVV | BT_F_VVVV_R | BT_F_VVVV_W) ? below(g, bits64 ? 16 : 8) : 0;
		unsigned low = (~vvvv & 15) << 3 | (unsigned)l << 2 | (pp == 4 ? below(g, 4) : pp);
		if (three) {
			p[n++] = 0xc4;
			p[n++] = (uint8_t)((!rexr << 7) | (!rexx << 6) | (!rexb << 5) | row->map);
			p[n++] = (uint8_t)(w << 7 | low);
		} else {
			p[n++] = 0xc5;
			p[n++] = (uint8_t)(!rexr << 7 | low);
		}
	} else {
		if (pp == 4 && chance(g, 20))
			p[n++] = 0x66;
		if (pp == 4 && chance(g, row->cls == BT_CLASS_STRING || row->cls == BT_CLASS_STRING_IO ? 60 : 4))
			p[n++] = chance(g, 60) ? 0xf3 : 0xf2;
		if (pp == 1 || (pp == 2 && chance(g, 3)))
			p[n++] = 0x66;
		if (pp == 2)
			p[n++] = 0xf3;
		if (pp == 3)
			p[n++] = 0xf2;
		unsigned rex = 0x40 | (unsigned)w << 3 | (unsigned)rexr << 2 | (unsigned)rexx << 1 | (unsigned)rexb;
		if (bits64 && (rex != 0x40 || chance(g, 20)) && (chance(g, 85) || favour || row->match_mask & (BT_SEL_W | BT_SEL_REXB)))
			p[n++] = (uint8_t)rex;
		if (row->map != BT_MAP_1)
			p[n++] = 0x0f;
		if (row->map == BT_MAP_0F38)
			p[n++] = 0x38;
		if (row->map == BT_MAP_0F3A)
			p[n++] = 0x3a;
	}
	p[n++] = (uint8_t)(row->first + below(g, row->last - row->first + 1u));
	if (row->form & BT_F_MODRM || row->match_mask & 0x7f) {
		unsigned modrm = (unsigned)rnd(g) & 0xff;
		bool reg = row->form & BT_F_REG_ONLY ? true : row->form & BT_F_MEM_ONLY ? false : chance(g, 40);
		if (row->match_mask & BT_SEL_MOD3)
			reg = row->match_value & BT_SEL_MOD3;
		if (reg)
			modrm |= 0xc0;
		else if (modrm >= 0xc0)
			modrm ^= 0x40 << below(g, 2);
		if (favour && modrm < 0xc0) {
			modrm = (modrm & 0x38) | (chance(g, 70) ? 0x40 : 0x80) | (g->favourite & 7);
			if ((g->favourite & 7) == 4) /* rsp and r12 take a SIB byte */
				p[n + 1] = 0x24;
		}
		if (sib && modrm < 0xc0 && !(row->match_mask & 7u << BT_SEL_RM_SHIFT)) {
			modrm = (modrm & 0xf8) | 4;
			p[n + 1] = (uint8_t)((rnd(g) & 0xc7) | (g->index & 7u) << 3);
			p[n++] = (uint8_t)(row->match_mask & 7u << BT_SEL_REG_SHIFT
						   ? (modrm & 0xc7) | (row->match_value >> BT_SEL_REG_SHIFT & 7) << 3 : modrm);
			return n + 1;
		}
		if (row->match_mask & 7u << BT_SEL_REG_SHIFT)
			modrm = (modrm & 0xc7) | (row->match_value >> BT_SEL_REG_SHIFT & 7) << 3;
		if (row->match_mask & 7u << BT_SEL_RM_SHIFT)
			modrm = (modrm & 0xf8) | (row->match_value >> BT_SEL_RM_SHIFT & 7);
		p[n++] = (uint8_t)modrm;
		if (favour && modrm < 0xc0 && (g->favourite & 7) == 4 && !(row->match_mask & 7u << BT_SEL_RM_SHIFT))
			n++;
	}
	return n;
}

static unsigned access_bytes(const struct bt_insn *in) { return in->mem_bytes ? in->mem_bytes : in->flags & BT_I_WIDE_MEM ? 512 : 8; }

/* Chooses base, index and displacement values so that the operand is at a sensible address. Returns it, or 0. */
static uint64_t steer(struct gen *g, struct piece *p, struct bt_insn *in, unsigned number)
{
	unsigned n = access_bytes(in);
	bool aligned = in->flags & BT_I_ALIGNED || (in->flags & BT_I_WIDE_MEM && in->map == BT_MAP_0F);
	uint64_t t = target(g, in->flags & BT_I_WIDE_MEM && in->map == BT_MAP_0F ? 64 : n, aligned), want = t;
	bool vsib = in->cls == BT_CLASS_GATHER;

	if (in->seg == SEG_FS)
		want -= g->c->cpu.fs_base;
	else if (in->seg == SEG_GS)
		want -= g->c->cpu.gs_base;
	else
		want -= in->seg == SEG_CS ? code_base(g->c) : data_base(g->c);
	if (in->flags & BT_I_MOFFS) {
		memcpy(p->bytes + in->disp_off, &want, in->disp_bytes < 8 ? in->disp_bytes : 8);
		return t;
	}
	if (in->flags & BT_I_RIP_REL) {
		fix_add(g, (struct fix){.kind = FIX_RIP, .piece = (uint8_t)number, .off = in->disp_off, .bytes = 4, .value = want});
		return t;
	}
	if (in->index != 0xff && !vsib) {
		if (g->state[in->index] == FREE && (in->index != in->base || chance(g, 50)))
			set(g, in->index, chance(g, 80) ? below(g, 33) - 16ull : interesting(g));
		if (g->state[in->index] == KNOWN)
			want -= g->value[in->index] << in->scale;
		else
			return 0;
	}
	if (in->base != 0xff && g->state[in->base] == UNKNOWN)
		return 0;
	if (in->base != 0xff && g->state[in->base] == FREE) {
		uint64_t v = want - (uint64_t)in->disp;
		set(g, in->base, v);
		return t;
	}
	if (in->base != 0xff)
		want -= g->value[in->base];
	if (in->addrsize < 8)
		want = in->addrsize == 2 ? (uint64_t)(int16_t)want : (uint64_t)(int32_t)want;
	if (in->disp_bytes == 4 && want == (uint64_t)(int64_t)(int32_t)want)
		memcpy(p->bytes + in->disp_off, &want, 4);
	else if (in->disp_bytes == 1 && want == (uint64_t)(int64_t)(int8_t)want)
		p->bytes[in->disp_off] = (uint8_t)want;
	else if (in->disp_bytes == 2 && want == (uint64_t)(int64_t)(int16_t)want)
		memcpy(p->bytes + in->disp_off, &want, 2);
	else
		return want == (uint64_t)in->disp ? t : 0;
	return t;
}

static int8_t some_label(struct gen *g, unsigned number)
{
	unsigned n = g->c->insns;

	if (number + 1 < n && chance(g, 88))
		return (int8_t)(number + 1 + below(g, n - number));
	return (int8_t)(chance(g, 75) ? n : below(g, n + 1));
}

static void steer_flow(struct gen *g, struct piece *p, struct bt_insn *in, unsigned number)
{
	int8_t label = some_label(g, number);
	uint64_t stray = chance(g, 5) ? below(g, 12) : 0;

	switch ((enum bt_class)in->cls) {
	case BT_CLASS_CALL:
	case BT_CLASS_JMP:
	case BT_CLASS_JCC:
	case BT_CLASS_LOOP:
		if (chance(g, 3))
			break; /* anywhere */
		fix_add(g, (struct fix){.kind = FIX_REL, .piece = (uint8_t)number, .off = in->imm_off, .bytes = in->imm_bytes,
					.label = label, .value = stray});
		break;
	case BT_CLASS_CALL_IND:
	case BT_CLASS_JMP_IND:
		if (in->flags & BT_I_MEM)
			break;
		if (g->state[in->modrm_rm] == FREE) {
			fix_add(g, (struct fix){.kind = FIX_GPR, .piece = in->modrm_rm, .label = label, .value = stray});
			g->state[in->modrm_rm] = UNKNOWN;
		}
		break;
	case BT_CLASS_RET:
		if (g->state[GPR_RSP] == KNOWN)
			fix_add(g, (struct fix){.kind = FIX_MEM, .label = label,
						.value = data_base(g->c) + (g->c->bits == 16 ? g->value[GPR_RSP] & 0xffff : g->value[GPR_RSP])});
		break;
	default: break;
	}
}

static void steer_implicit(struct gen *g, struct bt_insn *in)
{
	bool rep = in->flags & (BT_I_REP | BT_I_REPNE);
	uint16_t used = in->gpr_read | in->gpr_written;

	if (in->flags & BT_I_IMPLICIT_RSP && g->state[GPR_RSP] == FREE) {
		uint64_t t = chance(g, 70) ? GVA_D0 - data_base(g->c) + 8 * below(g, 0x400) : pointer(g, 8, chance(g, 70));
		set(g, GPR_RSP, t);
	}
	if ((in->cls == BT_CLASS_LEAVE || in->cls == BT_CLASS_ENTER) && g->state[GPR_RBP] == FREE)
		set(g, GPR_RBP, pointer(g, 8, chance(g, 70)));
	if (in->cls == BT_CLASS_STRING || in->cls == BT_CLASS_STRING_IO) {
		if (g->state[GPR_RSI] == FREE && used >> GPR_RSI & 1)
			set(g, GPR_RSI, pointer(g, in->opsize, chance(g, 50)));
		if (g->state[GPR_RDI] == FREE && used >> GPR_RDI & 1)
			set(g, GPR_RDI, pointer(g, in->opsize, chance(g, 50)));
		if (rep && g->state[GPR_RCX] == FREE && chance(g, 90))
			set(g, GPR_RCX, chance(g, 85) ? below(g, 24) : below(g, 3000));
	}
	if (in->cls == BT_CLASS_XLAT && g->state[GPR_RBX] == FREE)
		set(g, GPR_RBX, pointer(g, 256, false));
	if (in->cls == BT_CLASS_MASKMOV && g->state[GPR_RDI] == FREE)
		set(g, GPR_RDI, pointer(g, 16, false));
	if (in->cls == BT_CLASS_LOOP && g->state[GPR_RCX] == FREE)
		set(g, GPR_RCX, chance(g, 90) ? below(g, 6) : (uint64_t)below(g, 3) << 32 | below(g, 300));
	if (in->handler == BT_OP_clzero && g->state[GPR_RAX] == FREE)
		set(g, GPR_RAX, pointer(g, 64, false));
	if (in->flags & BT_I_BITOFF && in->flags & BT_I_MEM && g->state[in->modrm_reg] == FREE)
		set(g, in->modrm_reg, chance(g, 85) ? (uint64_t)(int64_t)((int)below(g, 4096) - 2048) : interesting(g));
	/* Divisions that do not overflow. */
	if (in->map == BT_MAP_1 && (in->opcode & 0xfe) == 0xf6 && in->modrm_reg >= 6 && chance(g, 70) && g->state[GPR_RDX] == FREE)
		set(g, GPR_RDX, below(g, 3));
}

/* What is known of the registers behind it. */
static void after(struct gen *g, const struct bt_insn *in)
{
	int64_t delta = 0;
	bool keep_rsp = false;

	for (unsigned r = 0; r < GPR_COUNT; r++)
		if ((in->gpr_read | in->gpr_written) >> r & 1 && g->state[r] == FREE && r < (g->c->bits == 64 ? 16u : 8u))
			set(g, r, any_value(g));
	switch ((enum bt_class)in->cls) {
	case BT_CLASS_PUSH:
	case BT_CLASS_PUSHF: delta = -(int64_t)in->opsize; keep_rsp = true; break;
	case BT_CLASS_CALL:
	case BT_CLASS_CALL_IND: delta = -(int64_t)in->opsize; keep_rsp = true; break;
	case BT_CLASS_POP:
	case BT_CLASS_POPF: delta = in->opsize; keep_rsp = !(in->flags & BT_I_OPREG && in->opreg == GPR_RSP); break;
	case BT_CLASS_RET: delta = in->opsize + (int64_t)(uint16_t)in->imm; keep_rsp = true; break;
	default: break;
	}
	for (unsigned r = 0; r < GPR_COUNT; r++)
		if (in->gpr_written >> r & 1 && !(r == GPR_RSP && keep_rsp))
			g->state[r] = UNKNOWN;
	if (keep_rsp && g->state[GPR_RSP] == KNOWN)
		g->value[GPR_RSP] += (uint64_t)delta;
}

static enum category pick_category(struct gen *g)
{
	unsigned k = below(g, 100);

	if (g->any && chance(g, 50))
		return CAT_ANY;
	if (g->stack_run && chance(g, 75))
		return CAT_STACK;
	return k < 42 ? CAT_INT : k < 54 ? CAT_STACK : k < 66 ? CAT_FLOW : k < 71 ? CAT_STRING : k < 88 ? CAT_VECTOR
	     : k < 97 ? CAT_X87 : CAT_SYSTEM;
}

static void random_bytes(struct gen *g, struct piece *p)
{
	struct bt_insn in;

	for (;;) {
		for (unsigned i = 0; i < 15; i++)
			p->bytes[i] = (uint8_t)rnd(g);
		enum bt_decode_result r = bt_decode(p->bytes, 15, (enum bt_bits)g->c->bits, &in);
		if (r == BT_DECODE_OK)
			continue;
		p->len = (uint8_t)(in.len && in.len <= 15 ? in.len : 15);
		return;
	}
}

static void instruction(struct gen *g, unsigned number)
{
	struct piece *p = &g->c->piece[number];
	struct bt_insn in;

	if (chance(g, 1)) {
		random_bytes(g, p);
		return;
	}
	for (;;) {
		enum category cat = pick_category(g);
		unsigned w = g->c->bits != 64;
		const struct bt_row *row = &bt_rows[rows[w][cat][below(g, row_counts[w][cat])]];
		uint8_t bytes[48];
		unsigned n = encode(g, row, bytes);
		for (unsigned i = n; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)rnd(g);
		if (row->cls == BT_CLASS_ENTER) {
			bytes[n + 1] &= chance(g, 10) ? 0xff : 0;
			bytes[n + 2] &= chance(g, 90) ? 3 : 0x1f;
		}
		if (row->imm == I_W && chance(g, 90)) /* ret n */
			bytes[n] &= 0xf8, bytes[n + 1] = 0;
		if (bt_decode(bytes, sizeof(bytes), (enum bt_bits)g->c->bits, &in) != BT_DECODE_OK || in.len > 15)
			continue;
		if (in.cls != row->cls || in.handler != row->handler)
			continue;
		if (g->reserved && (in.gpr_written & g->reserved || (in.cls != BT_CLASS_NATIVE && in.cls != BT_CLASS_LEA &&
								    in.cls != BT_CLASS_NOP && in.cls != BT_CLASS_JCC)))
			continue;
		memcpy(p->bytes, bytes, in.len);
		p->len = in.len;
		break;
	}
	steer_implicit(g, &in);
	if (in.flags & BT_I_MEM) {
		uint64_t at = steer(g, p, &in, number);
		if (at && (in.cls == BT_CLASS_CALL_IND || in.cls == BT_CLASS_JMP_IND))
			fix_add(g, (struct fix){.kind = FIX_MEM, .label = some_label(g, number), .value = at});
	}
	steer_flow(g, p, &in, number);
	after(g, &in);
}

static void piece_put(struct gen *g, unsigned number, const uint8_t *bytes, unsigned len)
{
	memcpy(g->c->piece[number].bytes, bytes, len);
	g->c->piece[number].len = (uint8_t)len;
}

/* r += by, in one of the ways that compilers write it */
static void advance(struct gen *g, unsigned number, unsigned r, int by)
{
	uint8_t rex = (uint8_t)(0x48 | r >> 3), rm = (uint8_t)(0xc0 | (r & 7)), b = (uint8_t)by;
	uint8_t lea[9] = {(uint8_t)(rex | (r >> 3) << 2), 0x8d, (uint8_t)(0x80 | (r & 7) << 3 | (r & 7)), 0x24};
	unsigned n = (r & 7) == 4 ? 4 : 3;
	int32_t minus = -by;

	if ((by == 1 || by == -1) && chance(g, 50)) {
		piece_put(g, number, (uint8_t[]){rex, 0xff, (uint8_t)(rm | (by < 0 ? 8 : 0))}, 3);
	} else if (chance(g, 30)) {
		memcpy(lea + n, &(int32_t){by}, 4);
		piece_put(g, number, lea, n + 4);
	} else if (by == (int8_t)by && chance(g, 60)) {
		piece_put(g, number, (uint8_t[]){rex, 0x83, rm, b}, 4);
	} else {
		uint8_t sub[7] = {rex, 0x81, (uint8_t)(rm | 5 << 3)};
		memcpy(sub + 3, &minus, 4);
		piece_put(g, number, sub, 7);
	}
}

/* A loop around a few instructions that mostly go by one register, which advances through some pages and off their end. */
static void counted_loop(struct gen *g)
{
	static const int16_t strides[] = {1, 1, 2, 4, 8, 8, 16, 32, 64, 96, 256, -1, -4, -8, -8, -16, -64};
	unsigned body = 1 + below(g, CASE_INSNS - 4), n = 0, mover, counter;
	unsigned where = below(g, body + 1);
	int by = strides[below(g, ARRAY_SIZE(strides))];

	do {
		mover = below(g, chance(g, 85) ? 13 : 16);
		counter = below(g, 16);
	} while (counter == mover);
	g->c->insns = body + 3;
	g->favourite = (int)mover;
	g->reserved = (uint16_t)(1u << mover | 1u << counter);
	if (chance(g, 70)) /* a pointer */
		set(g, mover, pointer(g, 8, chance(g, 80)) & (chance(g, 80) ? ~15ull : ~0ull));
	else /* an index */
		set(g, mover, chance(g, 80) ? below(g, 600) - 300ull : interesting(g));
	if (g->value[mover] < 0x1000 || chance(g, 30))
		g->index = (uint8_t)mover;
	set(g, counter, 1 + below(g, chance(g, 80) ? 40 : 1200));
	for (unsigned i = 0; i <= body; i++) {
		if (i == where)
			advance(g, n++, mover, by);
		if (i == 0 && body > 1 && chance(g, 25)) { /* a byte as the index into a table */
			unsigned index = 1 + below(g, 12);
			if (index != mover && index != counter && index != GPR_RSP) {
				piece_put(g, n++, (uint8_t[]){(uint8_t)(0x40 | (index >> 3) << 2), 0x0f, 0xb6,
							      (uint8_t)(0xc0 | (index & 7) << 3 | below(g, 4))}, 4);
				g->reserved |= (uint16_t)(1u << index);
				g->index = (uint8_t)index;
				g->state[index] = KNOWN;
				g->value[index] = below(g, 256);
				continue;
			}
		}
		if (i < body)
			instruction(g, n++);
	}
	uint8_t rex = (uint8_t)(0x48 | counter >> 3), rm = (uint8_t)(0xc8 | (counter & 7));
	piece_put(g, n++, (uint8_t[]){rex, 0xff, rm}, 3); /* dec counter */
	piece_put(g, n, (const uint8_t[]){0x0f, 0x85, 0, 0, 0, 0}, 6);
	fix_add(g, (struct fix){.kind = FIX_REL, .piece = (uint8_t)n, .off = 2, .bytes = 4, .label = 0});
}

/* ---- the state before -------------------------------------------------------------------------------- */

static void put(uint8_t *p, uint64_t v, unsigned n) { memcpy(p, &v, n); }

static void vector_value(struct gen *g, uint8_t *p)
{
	unsigned kind = below(g, 6);
	float f;
	double d;

	for (unsigned i = 0; i < 16; i += 8) {
		switch (kind) {
		case 0: put(p + i, rnd(g), 8); break;
		case 1: put(p + i, interesting(g), 8); break;
		case 2:
			for (unsigned k = 0; k < 8; k += 4) {
				f = (float)((int)below(g, 2000) - 1000) / (float)(1 + below(g, 30));
				memcpy(p + i + k, &f, 4);
			}
			break;
		case 3:
			d = (double)((int)below(g, 200000) - 100000) / (1 + below(g, 300));
			memcpy(p + i, &d, 8);
			break;
		case 4: put(p + i, (uint64_t)below(g, 64) << 32 | below(g, 64), 8); break;
		default: put(p + i, 0, 8); break;
		}
	}
}

static void x87_value(struct gen *g, uint8_t *p)
{
	long double v;

	switch (below(g, 4)) {
	case 0: /* any bits: also formats that the processor does not support */
		put(p, rnd(g), 8);
		put(p + 8, rnd(g), 2);
		return;
	case 1:
		put(p, rnd(g) | 1ull << 63, 8);
		put(p + 8, (0x3fff - 40 + below(g, 80)) | (below(g, 2) << 15), 2);
		return;
	case 2: v = (long double)((int)below(g, 2000) - 1000) / (1 + below(g, 9)); break;
	default: v = (long double)below(g, 3); break;
	}
	memset(p, 0, 16);
	memcpy(p, &v, 10);
}

static void vector_state(struct gen *g)
{
	uint8_t *x = g->c->cpu.xsave;
	unsigned fcw = chance(g, 75) ? 0x37f : 0x40 | below(g, 0x1000), fsw = 0, ftw = 0;

	memset(x, 0, XSAVE_BYTES);
	if (chance(g, 60)) {
		fsw = (below(g, 8) << 11) | (chance(g, 30) ? below(g, 0x10000) & 0x477f : 0);
		ftw = below(g, 256);
	}
	if (fsw & ~fcw & 0x3f) /* an exception is pending */
		fsw |= 0x8080;
	else
		fsw &= ~0x8080u;
	put(x, fcw, 2);
	put(x + 2, fsw, 2);
	put(x + 4, ftw, 1);
	put(x + 24, chance(g, 65) ? 0x1f80 : below(g, 0x10000), 4);
	put(x + 28, 0xffff, 4);
	for (unsigned i = 0; i < 8; i++)
		x87_value(g, x + 32 + 16 * i);
	for (unsigned i = 0; i < (g->c->bits == 64 ? 16u : 8u); i++) {
		vector_value(g, x + 160 + 16 * i);
		vector_value(g, x + XSAVE_YMMH + 16 * i);
	}
	put(x + XSAVE_HEADER, 7, 8);
}

static void memory(struct gen *g)
{
	for (unsigned p = 0; p < PHYS_PAGES; p++) {
		uint64_t *q = (uint64_t *)(void *)g->c->mem[p];
		if (p == PHYS_CODE0 || p == PHYS_CODE1)
			continue; /* case_layout */
		for (unsigned i = 0; i < 512; i++)
			q[i] = mix(g->random + i + p * 512);
		for (unsigned i = 0; i < 60; i++) {
			unsigned at = below(g, 512);
			if (chance(g, 50))
				vector_value(g, (uint8_t *)(q + (at & ~1u)));
			else
				q[at] = any_value(g);
		}
	}
}

void generator_prepare(void)
{
	static bool done;

	if (!done)
		index_rows();
	done = true;
}

static void generate(struct diff_case *c, uint64_t seed, unsigned number, unsigned bits, bool any)
{
	struct gen g = {.c = c, .random = mix(seed) ^ mix(0x1000000ull + number), .favourite = -1, .any = any};

	generator_prepare();
	memset(c, 0, offsetof(struct diff_case, mem));
	c->seed = seed;
	c->number = number;
	c->bits = bits;
	c->insns = 1 + below(&g, CASE_INSNS);
	c->fill = (const uint8_t[]){0xcc, 0xf4, 0xfa}[below(&g, 3)];
	c->start = GVA_CODE + (chance(&g, 70) ? 0x100 + below(&g, 0xe00) : chance(&g, 60) ? 0x1000 - below(&g, 40) : 0x2000 - below(&g, 60));
	c->cpu.cs = bits == 64 ? SEL_USER_CS64 : bits == 32 ? SEL_USER_CS32 : SEL_CS16;
	c->cpu.rflags = 0x202 | (rnd(&g) & BT_FLAGS_ARITH) | (chance(&g, 15) ? 0x400 : 0) | (chance(&g, 2) ? 0x100 : 0) |
			(!any && number % 32 == 7 ? 0x40000 : 0); /* alignment checks */
	c->cpu.fs_base = bits == 64 ? (chance(&g, 80) ? GVA_D0 + below(&g, 0x2000) : target(&g, 8, false)) : data_base(c);
	c->cpu.gs_base = bits == 64 ? (chance(&g, 80) ? GVA_HIGH + below(&g, 0x1000) : target(&g, 8, false)) : data_base(c);
	/* A base register holds a canonical address. */
	c->cpu.fs_base = (uint64_t)((int64_t)(c->cpu.fs_base << 17) >> 17) & 0x7fffffffffff;
	c->cpu.gs_base = (uint64_t)((int64_t)(c->cpu.gs_base << 17) >> 17) & 0x7fffffffffff;
	memory(&g);
	/* Runs of accesses off one register, which the engine checks together. */
	if (bits != 16 && chance(&g, 35))
		g.favourite = (int)below(&g, bits == 64 ? 16 : 8);
	g.stack_run = chance(&g, 10);
	if (bits == 64 && !any && chance(&g, 15)) {
		counted_loop(&g);
	} else {
		for (unsigned i = 0; i < c->insns; i++)
			instruction(&g, i);
	}
	for (unsigned r = 0; r < (bits == 64 ? 16u : 8u); r++)
		if (g.state[r] == FREE)
			set(&g, r, r == GPR_RSP || chance(&g, 20) ? pointer(&g, 8, true) : any_value(&g));
	vector_state(&g);
}

void case_generate(struct diff_case *c, uint64_t seed, unsigned number, unsigned bits)
{
	generate(c, seed, number, bits, false);
}

void case_generate_any(struct diff_case *c, uint64_t seed, unsigned number, unsigned bits)
{
	generate(c, seed, number, bits, true);
}

/* ---- assembling ----------------------------------------------------------------------------------------- */

static uint8_t *code_at(struct diff_case *c, uint64_t gva)
{
	return gva >= GVA_CODE && gva < GVA_CODE_END ? c->mem[PHYS_CODE0 + ((gva - GVA_CODE) >> 12)] + (gva & 0xfff) : NULL;
}

static uint8_t *memory_at(struct diff_case *c, uint64_t gva)
{
	for (unsigned i = 0; i < WORLD_PAGES; i++)
		if (world_pages[i].gva == (gva & ~0xfffull))
			return c->mem[world_pages[i].phys] + (gva & 0xfff);
	return NULL;
}

static void put_bytes(struct diff_case *c, uint64_t at, const uint8_t *bytes, unsigned n, uint8_t *(*find)(struct diff_case *, uint64_t))
{
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = find(c, at + i);
		if (p)
			*p = bytes[i];
	}
}

void case_layout(struct diff_case *c)
{
	uint64_t at = c->start, value;

	memset(c->mem[PHYS_CODE0], c->fill, 2 * GUEST_PAGE_SIZE);
	for (unsigned i = 0; i < c->insns; i++) {
		c->address[i] = at;
		at += c->piece[i].dropped ? 0 : c->piece[i].len;
	}
	c->address[c->insns] = at;
	for (unsigned i = 0; i < c->insns; i++)
		if (!c->piece[i].dropped)
			put_bytes(c, c->address[i], c->piece[i].bytes, c->piece[i].len, code_at);
	for (unsigned i = 0; i < c->fixes; i++) {
		const struct fix *f = &c->fix[i];
		uint64_t next = f->kind <= FIX_RIP ? c->address[f->piece] + c->piece[f->piece].len : 0;
		switch ((enum fix_kind)f->kind) {
		case FIX_REL:
		case FIX_RIP:
			if (c->piece[f->piece].dropped)
				break;
			value = (f->kind == FIX_REL ? c->address[f->label] : 0) + f->value - next;
			put_bytes(c, c->address[f->piece] + f->off, (const uint8_t *)&value, f->bytes, code_at);
			break;
		case FIX_GPR: c->cpu.gpr[f->piece] = c->address[f->label] - code_base(c) + f->value; break;
		case FIX_MEM:
			if (f->value >= GVA_CODE && f->value < GVA_RX + 0x1000)
				break; /* not over the code */
			value = c->address[f->label] - code_base(c);
			put_bytes(c, f->value, (const uint8_t *)&value, c->bits / 8, memory_at);
			break;
		}
	}
	c->cpu.rip = c->start - code_base(c);
}

const struct world_page world_pages[WORLD_PAGES] = {
	{GVA_D0, PHYS_D0, true, false},          {GVA_D0 + 0x1000, PHYS_D1, true, false},
	{GVA_RO, PHYS_RO, false, false},         {GVA_D2, PHYS_D2, true, false},
	{GVA_CODE, PHYS_CODE0, true, true},      {GVA_CODE + 0x1000, PHYS_CODE1, true, true},
	{GVA_ALIAS, PHYS_CODE0, true, false},    {GVA_RX, PHYS_CODE0, false, true},
	{GVA_HIGH, PHYS_HIGH, true, false},      {GVA_TOP32, PHYS_TOP32, true, false},
};
