/* Code that was translated wrongly once, one row each; the state around it is that of a random case. */
#include "tests/differential/case.h"

#include <string.h>

#define NOT_CANONICAL 0x800000000000ull
#define UNMAPPED 0x10008000ull
#define CODE 0x10100800ull

/* An invalid-operation exception waits, unmasked. */
#define PENDING 0x8081

static const struct regression {
	const char *name;
	const char *code; /* hex */
	unsigned bits;
	uint64_t at;      /* 0: CODE */
	struct {
		int gpr;
		uint64_t value;
	} set[4];
	unsigned fcw, fsw; /* fcw 0: as it is */
	int xmm;           /* 1..15: gets this value */
	uint64_t lo, hi;
	uint64_t flags;    /* 0: as they are */
	uint64_t push;     /* what is at GVA_D0 + 0x100, if not 0 */
} regressions[] = {
	/* faults */
	{"a non-canonical operand off rbp is #SS", "0f984500", .set = {{GPR_RBP, NOT_CANONICAL}}},
	{"but #GP when FS is added", "648a4500", .set = {{GPR_RBP, NOT_CANONICAL}}},
	{"its flags survive a leave that faults", "48 01c8 c9", .set = {{GPR_RBP, NOT_CANONICAL}}},
	{"alignment comes before page protection", "c5f9e703", .set = {{GPR_RBX, GVA_RO + 1}}},
	{"alignment comes before #SS", "660f2b4d01", .set = {{GPR_RBP, NOT_CANONICAL}}},
	{"an access into the non-canonical hole", "48d123", .set = {{GPR_RBX, NOT_CANONICAL - 3}}},
	{"a fetch names its address in cr2", "ffe3", .set = {{GPR_RBX, GVA_D0 + 0x123}}},
	{"single steps end at an int3", "6802030000 9d cc", .set = {{GPR_RSP, GVA_D0 + 0x800}}},
	{"a parked register comes back when the access faults", "867119", .set = {{GPR_RCX, NOT_CANONICAL}}},
	{"movs reads before it writes", "f3a4", .set = {{GPR_RSI, UNMAPPED}, {GPR_RDI, NOT_CANONICAL}, {GPR_RCX, 3}}},
	{"cmps reads its second operand first", "f3a6", .set = {{GPR_RSI, UNMAPPED}, {GPR_RDI, NOT_CANONICAL}, {GPR_RCX, 3}}},
	{"flags of the elements before the fault", "f3ae", .set = {{GPR_RDI, GVA_D2 + 0xffe}, {GPR_RAX, 0}, {GPR_RCX, 9}}},
	{"enter probes the new top of the stack", "c8d61502", .set = {{GPR_RSP, GVA_D0 + 0x7e8}, {GPR_RBP, GVA_D0 + 0x700}}},
	{"fxsave checks all of its 512 bytes", "0fae03", .set = {{GPR_RBX, GVA_RO - 0x1c0}}},
	/* x87 and MMX */
	{"#MF comes before the operand's fault", "df5340", .set = {{GPR_RBX, UNMAPPED}}, .fcw = 0x37e, .fsw = PENDING},
	{"fnstcw does not wait, with any REX", "46d93c1c", .set = {{GPR_RSP, GVA_D0}, {GPR_R11, 8}}, .fcw = 0x37e, .fsw = PENDING},
	{"cvtpi2ps from memory does not wait", "0f2a03", .set = {{GPR_RBX, UNMAPPED}}, .fcw = 0x37e, .fsw = PENDING},
	{"frstor waits", "dd20", .set = {{GPR_RAX, GVA_D0}}, .fcw = 0x37e, .fsw = PENDING},
	{"fldenv waits", "d920", .set = {{GPR_RAX, GVA_D0}}, .fcw = 0x37e, .fsw = PENDING},
	{"maskmovq waits", "0ff7ee", .set = {{GPR_RDI, GVA_D0}}, .fcw = 0x37e, .fsw = PENDING},
	{"maskmovq is an MMX instruction before it stores", "0ff7ee", .set = {{GPR_RDI, NOT_CANONICAL}}, .fcw = 0x37f},
	{"maskmovdqu checks what it does not store", "660ff7c1", .set = {{GPR_RDI, GVA_D2 - 9}}, .xmm = 1},
	{"a store that fails under an unmasked exception", "dbe3 d92c24 db3b", .set = {{GPR_RBX, GVA_D0 + 0xff8}, {GPR_RSP, GVA_D0 + 0x10}}},
	/* vectors */
	{"vpmaskmov faults for what its mask selects", "c4e2c18e2b", .set = {{GPR_RBX, GVA_D2 + 0xff8}}, .xmm = 7, .hi = 1ull << 63},
	{"vpmaskmov skips what it does not", "c4e2c18e2b", .set = {{GPR_RBX, GVA_D2 + 0xff8}}, .xmm = 7, .lo = 1ull << 63},
	{"vmaskmovps loads beside a page that is not there", "c4e2412c2b", .set = {{GPR_RBX, GVA_D2 + 0xff8}}, .xmm = 7, .lo = ~0ull},
	{"insertq has two immediate bytes", "f2450f78f73f84"},
	{"clzero aligns the sum", "640f01fc", .set = {{GPR_RAX, 0x77}}},
	/* prefixes */
	{"a REX that does not count, then 66", "444d6605cff5"},
	{"66 jcc", "660f890000"},
	{"66 call r14", "6641ffd6", .set = {{GPR_R14, CODE + 4}, {GPR_RSP, GVA_D0 + 0x800}}},
	{"66 jmp and the flags at its target", "d2e4 66eb00 44307144", .set = {{GPR_RCX, GVA_D0}}},
	{"f3 loopne", "f3e002 9090", .set = {{GPR_RCX, 5}}, .flags = 0x242},
	{"f3 loopne with ecx", "67f3e002 9090", .set = {{GPR_RCX, 5}}, .flags = 0x242},
	{"bt at a 32-bit address size wraps", "670fa322", .set = {{GPR_RDX, 0xfffffff0}, {GPR_RSP, 0x8000}}},
	/* code that changes itself */
	{"a store across pages into the next instruction", "488903 9090909090909090", .at = 0x10100ff8,
	 .set = {{GPR_RBX, 0x10100ffc}, {GPR_RAX, 0x4040c0ff48c0ff48}}},
	{"stosb into the next instruction", "aa 90", .set = {{GPR_RDI, CODE + 1}, {GPR_RAX, 0xcc}}, .flags = 0x202},
	{"rep stosb over itself", "f3aa 9090", .set = {{GPR_RDI, CODE}, {GPR_RAX, 0xcc}, {GPR_RCX, 4}}, .flags = 0x202},
	{"push into the next instruction", "50 48ffc3", .set = {{GPR_RSP, CODE + 9}, {GPR_RAX, 0xcccccccccccccccc}}},
	{"a store through another mapping", "8803 90", .set = {{GPR_RBX, GVA_ALIAS + 0x802}, {GPR_RAX, 0xcc}}},
	{"a setcc that a long loop turns into sldt, which UMIP's kernel emulates", "0f9a4784 4883c708 90 49ffc8 75f2",
	 .set = {{GPR_RDI, CODE + 1 + 0x7c - 8 * 150}, {GPR_R8, 200}}, .flags = 0x202},
	/* Not every host has these: what it lacks is undefined before it looks for its operand. */
	{"vgf2p8mulb", "c4e27dcf03", .set = {{GPR_RBX, NOT_CANONICAL}}},
	{"gf2p8affineqb", "660f3ace0300", .set = {{GPR_RBX, UNMAPPED}}},
	{"sha1nexte", "0f38c803", .set = {{GPR_RBX, UNMAPPED}}},
	{"vaesenc of 32 bytes", "c4e27ddc03", .set = {{GPR_RBX, UNMAPPED}}},
	{"vpclmulqdq of 32 bytes", "c4e37d440300", .set = {{GPR_RBX, UNMAPPED}}},
	/* alignment checks */
	{"a popf that turns them on", "9d 488b03", .set = {{GPR_RSP, GVA_D0 + 0x100}, {GPR_RBX, GVA_D0 + 1}}, .push = 0x40202},
	{"and one that turns them off", "9d 488b03", .set = {{GPR_RSP, GVA_D0 + 0x100}, {GPR_RBX, GVA_D0 + 1}}, .push = 0x202, .flags = 0x40202},
	{"alignment comes before a page fault", "488b03", .set = {{GPR_RBX, UNMAPPED + 4}}, .flags = 0x40202},
	{"and behind what is canonical", "488b03", .set = {{GPR_RBX, NOT_CANONICAL + 1}}, .flags = 0x40202},
	{"an extended real needs a multiple of 8", "db2b 0fff", .set = {{GPR_RBX, GVA_D0 + 8}}, .flags = 0x40202},
	{"and across pages too", "db2b 0fff", .set = {{GPR_RBX, GVA_RO - 8}}, .flags = 0x40202},
	{"rep movs at odd addresses", "f3a5", .set = {{GPR_RSI, GVA_D0}, {GPR_RDI, GVA_D0 + 0x102}, {GPR_RCX, 9}}, .flags = 0x40202},
	{"a push", "50", .set = {{GPR_RSP, GVA_D0 + 0x104}}, .flags = 0x40202},
	{"a call", "e800000000", .set = {{GPR_RSP, GVA_D0 + 0x101}}, .flags = 0x40202},
	{"a ret", "c3", .set = {{GPR_RSP, GVA_D0 + 0x101}}, .flags = 0x40202},
	{"enter's new top", "c8010000", .set = {{GPR_RSP, GVA_D0 + 0x108}}, .flags = 0x40202},
	{"fnsave needs a multiple of 4", "dd33", .set = {{GPR_RBX, GVA_D0 + 2}}, .flags = 0x40202},
	/* 32-bit code */
	{"mulx ignores W", "c4e2fbf6c6", .bits = 32},
	{"vpcmpestri ignores W", "c4e3f961eb6b", .bits = 32, .set = {{GPR_RAX, 0xfffffffd}, {GPR_RDX, 5}}},
	{"vpinsrd has no W", "c4e3e122c349", .bits = 32},
	{"vpextrd has no W", "c4e3f916c349", .bits = 32},
	{"vvvv that is not used is all ones", "c4e13fe6b91b0fdfff", .bits = 32},
	{"a store through cs that the mask leaves out", "2ec4e2598e07", .bits = 32, .set = {{GPR_RDI, GVA_D0}}, .xmm = 4},
	{"bts at a 16-bit address size through gs", "65670fab13", .bits = 32,
	 .set = {{GPR_RBP, 0xfff0}, {GPR_RDI, 0xe}, {GPR_RDX, 0x8000}}},
	{"opcode 82", "82df9c", .bits = 32},
	{"the register in vpblendvb's immediate", "c4e3694cc5af", .bits = 32},
	{"aaa", "37", .bits = 32, .set = {{GPR_RAX, 0x7efa}}, .flags = 0xad6},
	{"aas", "3f", .bits = 32, .set = {{GPR_RAX, 0x8000}}, .flags = 0xad6},
	{"daa", "27", .bits = 32, .set = {{GPR_RAX, 0x7b}}, .flags = 0x206},
	{"das", "2f", .bits = 32, .set = {{GPR_RAX, 0x82}}, .flags = 0x212},
	{"aad", "d596", .bits = 32, .set = {{GPR_RAX, 0x1234}}},
	{"a store through cs", "2e66d10e", .bits = 32, .set = {{GPR_RSI, GVA_D0}}},
	{"pop through cs reads the stack first", "2e8f06", .bits = 32, .set = {{GPR_RSI, GVA_D0}, {GPR_RSP, UNMAPPED}}},
	{"fstp through cs waits first", "2edd1e", .bits = 32, .set = {{GPR_RSI, GVA_D0}}, .fcw = 0x37e, .fsw = PENDING},
	{"xsave saves eight registers", "0fae21", .bits = 32, .set = {{GPR_RCX, GVA_D0}, {GPR_RAX, 7}, {GPR_RDX, 0}}},
	{"the end of a flat segment", "8b03", .bits = 32, .set = {{GPR_RBX, 0xfffffffe}}},
	{"the end of a flat stack", "8b4500", .bits = 32, .set = {{GPR_RBP, 0xfffffffe}}},
	{"bts at a 16-bit address size wraps", "670fab13", .bits = 32, .set = {{GPR_RBP, 0xfff0}, {GPR_RDI, 0xe}, {GPR_RDX, 0x8000}}},
	/* 16-bit code */
	{"fences take no 66", "0faee8 0faef0 0faef8", .bits = 16},
	{"lzcnt of 16 bits", "f30fbdf1", .bits = 16, .set = {{GPR_RCX, 0xffff0003}}},
	{"crc32 of 16 bits", "f20f38f1c1", .bits = 16},
	{"movbe of 32 bits", "660f38f114", .bits = 16, .set = {{GPR_RSI, 0x800}}},
	{"movbe of 16 bits", "0f38f114", .bits = 16, .set = {{GPR_RSI, 0x800}}},
	{"enter of 32 bits on a 16-bit stack", "66c80d0002", .bits = 16, .set = {{GPR_RSP, 0x100c00}, {GPR_RBP, 0x1c98}}},
	{"bound reads its lower bound first", "6766621f", .bits = 16, .set = {{GPR_RDI, 0xfffffffc}}},
	{"fnstsw through cs does not wait", "2edd7cd1", .bits = 16, .set = {{GPR_RSI, 0x100}}, .fcw = 0x37e, .fsw = PENDING},
};

unsigned regression_count(void) { return ARRAY_SIZE(regressions); }

static unsigned digit(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10); }

static void put(uint8_t *p, uint64_t v, unsigned n) { memcpy(p, &v, n); }

const char *regression_case(unsigned i, struct diff_case *ret)
{
	const struct regression *r = &regressions[i];
	struct piece *p = ret->piece;

	case_generate(ret, 0, i, r->bits ? r->bits : 64);
	ret->fixes = 0;
	ret->insns = 1;
	ret->fill = 0xcc;
	ret->start = r->at ? r->at : CODE;
	p->len = 0;
	for (const char *s = r->code; *s; s += *s == ' ' ? 1 : 2)
		if (*s != ' ')
			p->bytes[p->len++] = (uint8_t)(digit(s[0]) << 4 | digit(s[1]));
	ret->cpu.rflags &= ~0x100ull;
	for (unsigned k = 0; k < 4; k++)
		if (r->set[k].gpr || r->set[k].value)
			ret->cpu.gpr[r->set[k].gpr] = r->set[k].value;
	if (r->fcw) {
		put(ret->cpu.xsave, r->fcw, 2);
		put(ret->cpu.xsave + 2, r->fsw, 2);
	} else {
		put(ret->cpu.xsave, 0x37f, 2);
		put(ret->cpu.xsave + 2, 0, 2);
	}
	if (r->xmm) {
		put(ret->cpu.xsave + 160 + 16 * r->xmm, r->lo, 8);
		put(ret->cpu.xsave + 168 + 16 * r->xmm, r->hi, 8);
	}
	if (r->flags)
		ret->cpu.rflags = r->flags;
	/* What "a store that fails under an unmasked exception" takes as its control word. */
	put(ret->mem[PHYS_D0] + 0x10, 0x37e, 2);
	if (r->push)
		put(ret->mem[PHYS_D0] + 0x100, r->push, 8);
	case_layout(ret);
	return r->name;
}
