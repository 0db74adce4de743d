/*
 * A vCPU's registers as GDB knows them. GDB finds registers by the names in its own features (org.gnu.gdb.i386.*) and shows
 * what the feature of our own has besides. Numbers follow the order here, which is also that of the g packet.
 */
#include "vm/gdb_registers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
	GPR, PC, FLAGS, SELECTOR, ST, FPU_CONTROL, XMM, MXCSR, YMM_HIGH, BASE, CR, DR, EFER, KERNEL_GS, XCR0,
};

struct reg {
	const char *name;
	const char *type;
	const char *group; /* NULL: by its type */
	uint16_t bits;
	uint8_t kind;
	uint8_t index;
};

struct feature {
	const char *name, *types;
	const struct reg *regs;
	unsigned count;
};

/* clang-format off: tables */

#define FLAGS_TYPE \
	"<flags id=\"rflags\" size=\"4\">" \
	"<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>" \
	"<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>" \
	"<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>" \
	"<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>" \
	"<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>" \
	"<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>" \
	"<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>" \
	"<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>" \
	"<field name=\"ID\" start=\"21\" end=\"21\"/></flags>"

#define VECTOR_TYPES \
	"<vector id=\"f32x4\" type=\"ieee_single\" count=\"4\"/><vector id=\"f64x2\" type=\"ieee_double\" count=\"2\"/>" \
	"<vector id=\"i8x16\" type=\"int8\" count=\"16\"/><vector id=\"i16x8\" type=\"int16\" count=\"8\"/>" \
	"<vector id=\"i32x4\" type=\"int32\" count=\"4\"/><vector id=\"i64x2\" type=\"int64\" count=\"2\"/>" \
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"f32x4\"/><field name=\"v2_double\" type=\"f64x2\"/>" \
	"<field name=\"v16_int8\" type=\"i8x16\"/><field name=\"v8_int16\" type=\"i16x8\"/>" \
	"<field name=\"v4_int32\" type=\"i32x4\"/><field name=\"v2_int64\" type=\"i64x2\"/>" \
	"<field name=\"uint128\" type=\"uint128\"/></union>" \
	"<flags id=\"mxcsr_bits\" size=\"4\">" \
	"<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>" \
	"<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>" \
	"<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>" \
	"<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>" \
	"<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>" \
	"<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>" \
	"<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/></flags>"

#define SELECTORS \
	{"cs", "int32", NULL, 32, SELECTOR, SEG_CS}, {"ss", "int32", NULL, 32, SELECTOR, SEG_SS}, \
	{"ds", "int32", NULL, 32, SELECTOR, SEG_DS}, {"es", "int32", NULL, 32, SELECTOR, SEG_ES}, \
	{"fs", "int32", NULL, 32, SELECTOR, SEG_FS}, {"gs", "int32", NULL, 32, SELECTOR, SEG_GS}
#define ST_REG(n) {"st" #n, "i387_ext", NULL, 80, ST, n}
#define X87 \
	ST_REG(0), ST_REG(1), ST_REG(2), ST_REG(3), ST_REG(4), ST_REG(5), ST_REG(6), ST_REG(7), \
	{"fctrl", "int", "float", 32, FPU_CONTROL, 0}, {"fstat", "int", "float", 32, FPU_CONTROL, 1}, \
	{"ftag", "int", "float", 32, FPU_CONTROL, 2}, {"fiseg", "int", "float", 32, FPU_CONTROL, 3}, \
	{"fioff", "int", "float", 32, FPU_CONTROL, 4}, {"foseg", "int", "float", 32, FPU_CONTROL, 5}, \
	{"fooff", "int", "float", 32, FPU_CONTROL, 6}, {"fop", "int", "float", 32, FPU_CONTROL, 7}
#define XMM_REG(n) {"xmm" #n, "vec128", NULL, 128, XMM, n}
#define YMM_REG(n) {"ymm" #n "h", "uint128", NULL, 128, YMM_HIGH, n}
#define EIGHT(REG) REG(0), REG(1), REG(2), REG(3), REG(4), REG(5), REG(6), REG(7)
#define SIXTEEN(REG) EIGHT(REG), REG(8), REG(9), REG(10), REG(11), REG(12), REG(13), REG(14), REG(15)
#define MXCSR_REG {"mxcsr", "mxcsr_bits", "vector", 32, MXCSR, 0}
/* width: of addresses */
#define SYSTEM(width) \
	{"cr0", "int" #width, "system", width, CR, 0}, {"cr2", "int" #width, "system", width, CR, 2}, \
	{"cr3", "int" #width, "system", width, CR, 3}, {"cr4", "int" #width, "system", width, CR, 4}, \
	{"cr8", "int" #width, "system", width, CR, 8}, {"efer", "int64", "system", 64, EFER, 0}, \
	{"xcr0", "int64", "system", 64, XCR0, 0}, \
	{"dr0", "int" #width, "system", width, DR, 0}, {"dr1", "int" #width, "system", width, DR, 1}, \
	{"dr2", "int" #width, "system", width, DR, 2}, {"dr3", "int" #width, "system", width, DR, 3}, \
	{"dr6", "int" #width, "system", width, DR, 6}, {"dr7", "int" #width, "system", width, DR, 7}, \
	{"cs_base", "int" #width, "system", width, BASE, SEG_CS}, {"ss_base", "int" #width, "system", width, BASE, SEG_SS}, \
	{"ds_base", "int" #width, "system", width, BASE, SEG_DS}, {"es_base", "int" #width, "system", width, BASE, SEG_ES}

static const struct reg core64[] = {
	{"rax", "int64", NULL, 64, GPR, GPR_RAX}, {"rbx", "int64", NULL, 64, GPR, GPR_RBX},
	{"rcx", "int64", NULL, 64, GPR, GPR_RCX}, {"rdx", "int64", NULL, 64, GPR, GPR_RDX},
	{"rsi", "int64", NULL, 64, GPR, GPR_RSI}, {"rdi", "int64", NULL, 64, GPR, GPR_RDI},
	{"rbp", "data_ptr", NULL, 64, GPR, GPR_RBP}, {"rsp", "data_ptr", NULL, 64, GPR, GPR_RSP},
	{"r8", "int64", NULL, 64, GPR, GPR_R8}, {"r9", "int64", NULL, 64, GPR, GPR_R9},
	{"r10", "int64", NULL, 64, GPR, GPR_R10}, {"r11", "int64", NULL, 64, GPR, GPR_R11},
	{"r12", "int64", NULL, 64, GPR, GPR_R12}, {"r13", "int64", NULL, 64, GPR, GPR_R13},
	{"r14", "int64", NULL, 64, GPR, GPR_R14}, {"r15", "int64", NULL, 64, GPR, GPR_R15},
	{"rip", "code_ptr", NULL, 64, PC, 0}, {"eflags", "rflags", NULL, 32, FLAGS, 0}, SELECTORS, X87,
};
static const struct reg core32[] = {
	{"eax", "int32", NULL, 32, GPR, GPR_RAX}, {"ecx", "int32", NULL, 32, GPR, GPR_RCX},
	{"edx", "int32", NULL, 32, GPR, GPR_RDX}, {"ebx", "int32", NULL, 32, GPR, GPR_RBX},
	{"esp", "data_ptr", NULL, 32, GPR, GPR_RSP}, {"ebp", "data_ptr", NULL, 32, GPR, GPR_RBP},
	{"esi", "int32", NULL, 32, GPR, GPR_RSI}, {"edi", "int32", NULL, 32, GPR, GPR_RDI},
	{"eip", "code_ptr", NULL, 32, PC, 0}, {"eflags", "rflags", NULL, 32, FLAGS, 0}, SELECTORS, X87,
};
static const struct reg sse64[] = {SIXTEEN(XMM_REG), MXCSR_REG};
static const struct reg sse32[] = {EIGHT(XMM_REG), MXCSR_REG};
static const struct reg avx64[] = {SIXTEEN(YMM_REG)};
static const struct reg avx32[] = {EIGHT(YMM_REG)};
static const struct reg bases64[] = {
	{"fs_base", "int64", NULL, 64, BASE, SEG_FS}, {"gs_base", "int64", NULL, 64, BASE, SEG_GS},
};
static const struct reg system64[] = {{"k_gs_base", "int64", "system", 64, KERNEL_GS, 0}, SYSTEM(64)};
static const struct reg system32[] = {
	{"fs_base", "int32", "system", 32, BASE, SEG_FS}, {"gs_base", "int32", "system", 32, BASE, SEG_GS}, SYSTEM(32),
};

#define REGS(a) a, sizeof(a) / sizeof((a)[0])
static const struct feature features64[] = {
	{"org.gnu.gdb.i386.core", FLAGS_TYPE, REGS(core64)}, {"org.gnu.gdb.i386.sse", VECTOR_TYPES, REGS(sse64)},
	{"org.gnu.gdb.i386.avx", "", REGS(avx64)}, {"org.gnu.gdb.i386.segments", "", REGS(bases64)},
	{"org.trivisor.x86.system", "", REGS(system64)},
};
static const struct feature features32[] = {
	{"org.gnu.gdb.i386.core", FLAGS_TYPE, REGS(core32)}, {"org.gnu.gdb.i386.sse", VECTOR_TYPES, REGS(sse32)},
	{"org.gnu.gdb.i386.avx", "", REGS(avx32)}, {"org.trivisor.x86.system", "", REGS(system32)},
};
static const struct {
	const char *architecture;
	const struct feature *features;
	unsigned count;
} descriptions[] = {[GDB_16] = {"i8086", REGS(features32)}, [GDB_32] = {"i386", REGS(features32)}, [GDB_64] = {"i386:x86-64", REGS(features64)}};

/* clang-format on */

static const struct reg *find(enum gdb_width width, unsigned number)
{
	for (unsigned f = 0; f < descriptions[width].count; f++) {
		const struct feature *feature = &descriptions[width].features[f];
		if (number < feature->count)
			return &feature->regs[number];
		number -= feature->count;
	}
	return NULL;
}

unsigned gdb_register_count(enum gdb_width width)
{
	unsigned n = 0;

	for (unsigned f = 0; f < descriptions[width].count; f++)
		n += descriptions[width].features[f].count;
	return n;
}

size_t gdb_register_bytes(enum gdb_width width, unsigned number)
{
	const struct reg *r = find(width, number);

	return r ? r->bits / 8u : 0;
}

const char *gdb_register_name(enum gdb_width width, unsigned number)
{
	const struct reg *r = find(width, number);

	return r ? r->name : NULL;
}

bool gdb_register_is_vector(enum gdb_width width, unsigned number)
{
	const struct reg *r = find(width, number);

	return r && (r->kind == ST || r->kind == FPU_CONTROL || r->kind == XMM || r->kind == MXCSR || r->kind == YMM_HIGH);
}

const char *gdb_architecture_name(enum gdb_width width) { return descriptions[width].architecture; }

char *gdb_target_xml(enum gdb_width width)
{
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	if (!f)
		return NULL;
	fprintf(f, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target><architecture>%s</architecture>",
		descriptions[width].architecture);
	for (unsigned i = 0; i < descriptions[width].count; i++) {
		const struct feature *feature = &descriptions[width].features[i];
		fprintf(f, "<feature name=\"%s\">%s", feature->name, feature->types);
		for (unsigned k = 0; k < feature->count; k++) {
			const struct reg *r = &feature->regs[k];
			fprintf(f, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"%s%s%s/>", r->name, r->bits, r->type,
				r->group ? " group=\"" : "", r->group ? r->group : "", r->group ? "\"" : "");
		}
		fputs("</feature>", f);
	}
	fputs("</target>", f);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- the extended state (SDM vol. 1, 10.5.1 and 13.4): a component whose bit is clear has its initial value ---- */

#define XSTATE_BV 512
#define X87_BIT 1u
#define SSE_BIT 2u
#define AVX_BIT 4u
#define AT_FCW 0
#define AT_FSW 2
#define AT_FTW 4
#define AT_FOP 6
#define AT_FIP 8
#define AT_FDP 16
#define AT_MXCSR 24
#define AT_ST 32
#define AT_XMM 160
#define AT_YMM 576

static bool has(const struct cpu_state *cs, unsigned bit) { return cs->xsave[XSTATE_BV] & bit; }

static uint16_t get16(const struct cpu_state *cs, unsigned at)
{
	uint16_t v;

	memcpy(&v, cs->xsave + at, sizeof(v));
	return v;
}

/* The initial value becomes an explicit one, so that a part of it can change. */
static void make_explicit(struct cpu_state *cs, unsigned bit)
{
	const uint16_t fcw = 0x37f;

	if (has(cs, bit))
		return;
	if (bit == X87_BIT) {
		memset(cs->xsave, 0, AT_MXCSR);
		memcpy(cs->xsave + AT_FCW, &fcw, sizeof(fcw));
		memset(cs->xsave + AT_ST, 0, 8 * 16);
	} else if (bit == SSE_BIT) {
		memset(cs->xsave + AT_XMM, 0, 16 * 16);
	} else {
		memset(cs->xsave + AT_YMM, 0, 16 * 16);
	}
	cs->xsave[XSTATE_BV] |= (uint8_t)bit;
}

/* The tag word in its old, full form, which GDB wants: valid, zero, special or empty for each physical register. */
static uint16_t full_tags(const struct cpu_state *cs)
{
	unsigned top = get16(cs, AT_FSW) >> 11 & 7;
	uint16_t tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *st = cs->xsave + AT_ST + ((i - top) & 7) * 16;
		uint64_t mantissa;
		unsigned exponent = (st[8] | st[9] << 8) & 0x7fff, tag = 2;
		memcpy(&mantissa, st, 8);
		if (!(cs->xsave[AT_FTW] >> i & 1))
			tag = 3;
		else if (!exponent && !mantissa)
			tag = 1;
		else if (exponent && exponent != 0x7fff && mantissa >> 63)
			tag = 0;
		tags = (uint16_t)(tags | tag << 2 * i);
	}
	return tags;
}

static uint64_t fpu_control(const struct cpu_state *cs, unsigned index)
{
	if (!has(cs, X87_BIT))
		return index == 0 ? 0x37f : index == 2 ? 0xffff : 0;
	switch (index) {
	case 0: return get16(cs, AT_FCW);
	case 1: return get16(cs, AT_FSW);
	case 2: return full_tags(cs);
	case 3: return get16(cs, AT_FIP + 4);
	case 4: return get16(cs, AT_FIP) | (uint32_t)get16(cs, AT_FIP + 2) << 16;
	case 5: return get16(cs, AT_FDP + 4);
	case 6: return get16(cs, AT_FDP) | (uint32_t)get16(cs, AT_FDP + 2) << 16;
	default: return get16(cs, AT_FOP) & 0x7ff;
	}
}

static void fpu_control_set(struct cpu_state *cs, unsigned index, uint64_t value)
{
	static const uint8_t at[] = {AT_FCW, AT_FSW, AT_FTW, AT_FIP + 4, AT_FIP, AT_FDP + 4, AT_FDP, AT_FOP};
	unsigned bytes = index == 4 || index == 6 ? 4 : 2;

	make_explicit(cs, X87_BIT);
	if (index == 2) {
		uint8_t short_form = 0;
		for (unsigned i = 0; i < 8; i++)
			short_form = (uint8_t)(short_form | ((value >> 2 * i & 3) != 3) << i);
		value = short_form;
		bytes = 1;
	}
	memcpy(cs->xsave + at[index], &value, bytes);
}

/* ---- values ---- */

static bool long_code(const struct cpu_state *cs) { return cs->efer & 0x400 && cs->seg[SEG_CS].access & SEG_ACCESS_L; }

uint64_t gdb_pc(const struct cpu_state *cs)
{
	return long_code(cs) ? cs->rip : (uint32_t)(cs->seg[SEG_CS].base + cs->rip);
}

static uint64_t plain(const struct reg *r, const struct cpu_state *cs, const struct gdb_extra *extra)
{
	switch ((enum kind)r->kind) {
	case GPR: return cs->gpr[r->index];
	case PC: return gdb_pc(cs);
	case FLAGS: return cs->rflags;
	case SELECTOR: return cs->seg[r->index].selector;
	case FPU_CONTROL: return fpu_control(cs, r->index);
	case MXCSR: return get16(cs, AT_MXCSR) | (uint32_t)get16(cs, AT_MXCSR + 2) << 16;
	case BASE: return cs->seg[r->index].base;
	case CR:
		return r->index == 0 ? cs->cr0 : r->index == 2 ? cs->cr2 : r->index == 3 ? cs->cr3 : r->index == 4 ? cs->cr4 : extra->cr8;
	case DR: return r->index < 4 ? cs->dr[r->index] : r->index == 6 ? cs->dr6 : cs->dr7;
	case EFER: return cs->efer;
	case KERNEL_GS: return cs->kernel_gs_base;
	case XCR0: return cs->xcr0;
	case ST:
	case XMM:
	case YMM_HIGH: break;
	}
	return 0;
}

/* Where a vector's or x87 register's bytes are in the image, and whose bit says that they count. */
static unsigned image_of(const struct reg *r, unsigned *ret_bit)
{
	*ret_bit = r->kind == ST ? X87_BIT : r->kind == XMM ? SSE_BIT : AVX_BIT;
	return (r->kind == ST ? AT_ST : r->kind == XMM ? AT_XMM : AT_YMM) + r->index * 16u;
}

static bool in_image(const struct reg *r) { return r->kind == ST || r->kind == XMM || r->kind == YMM_HIGH; }

size_t gdb_register_read(enum gdb_width width, unsigned number, const struct cpu_state *cs, const struct gdb_extra *extra,
			 uint8_t out[GDB_REGISTER_BYTES])
{
	const struct reg *r = find(width, number);
	unsigned bit, at;
	uint64_t value;

	if (!r)
		return 0;
	memset(out, 0, GDB_REGISTER_BYTES);
	if (in_image(r)) {
		at = image_of(r, &bit);
		if (has(cs, bit))
			memcpy(out, cs->xsave + at, r->bits / 8u);
	} else {
		value = plain(r, cs, extra);
		memcpy(out, &value, r->bits / 8u);
	}
	return r->bits / 8u;
}

bool gdb_register_write(enum gdb_width width, unsigned number, struct cpu_state *cs, const struct gdb_extra *extra,
			const uint8_t *bytes)
{
	const struct reg *r = find(width, number);
	uint8_t now[GDB_REGISTER_BYTES];
	unsigned bit, at;
	uint64_t value = 0;

	if (!r)
		return false;
	gdb_register_read(width, number, cs, extra, now);
	if (!memcmp(now, bytes, r->bits / 8u))
		return true;
	if (in_image(r)) {
		at = image_of(r, &bit);
		make_explicit(cs, bit);
		memcpy(cs->xsave + at, bytes, r->bits / 8u);
		return true;
	}
	memcpy(&value, bytes, r->bits / 8u);
	switch ((enum kind)r->kind) {
	case GPR: cs->gpr[r->index] = value; return true;
	case PC:
		cs->rip = long_code(cs) ? value : (uint32_t)(value - cs->seg[SEG_CS].base);
		return true;
	case FLAGS: cs->rflags = (cs->rflags & ~0x3f7fd5ull) | (value & 0x3f7fd5) | 2; return true;
	case FPU_CONTROL: fpu_control_set(cs, r->index, value); return true;
	case MXCSR:
		value &= 0xffff; /* other bits are #GP for the engine that loads it */
		memcpy(cs->xsave + AT_MXCSR, &value, 4);
		return true;
	case BASE:
		if (r->index != SEG_FS && r->index != SEG_GS)
			return false;
		cs->seg[r->index].base = value;
		return true;
	case CR:
		if (r->index == 2)
			cs->cr2 = value;
		return r->index == 2;
	case KERNEL_GS: cs->kernel_gs_base = value; return true;
	default: return false;
	}
}
