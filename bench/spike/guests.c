/* The guest loops of the spike, as small instruction lists that every design translates. */
#include "bench/spike/spike.h"

#include <string.h>

static struct ginsn *put(struct ginsn *g, unsigned *n, struct ginsn i)
{
	if (!i.size)
		i.size = 8;
	g[*n] = i;
	return &g[(*n)++];
}
#define I(...) put(g, &n, (struct ginsn){ __VA_ARGS__ })

/* One operation: one call of fib. */
static unsigned build_fib(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_CALL, .target = 2);
	I(.op = G_EXIT, .entry = true);
	unsigned fib = n; /* 2 */
	I(.op = G_ALUI, .alu = ALU_CMP, .size = 4, .dst = RDI, .imm = 1, .entry = true);
	struct ginsn *base = I(.op = G_JCC, .cc = CC_BE);
	I(.op = G_PUSH, .src = RBP);
	I(.op = G_PUSH, .src = RBX);
	I(.op = G_MOV, .size = 4, .dst = RBX, .src = RDI);
	I(.op = G_LEA, .size = 4, .dst = RDI, .m = MEM(RBX, -1));
	I(.op = G_CALL, .target = fib);
	I(.op = G_MOV, .size = 4, .dst = RBP, .src = RAX, .entry = true);
	I(.op = G_LEA, .size = 4, .dst = RDI, .m = MEM(RBX, -2));
	I(.op = G_CALL, .target = fib);
	I(.op = G_ALU, .alu = ALU_ADD, .size = 4, .dst = RAX, .src = RBP, .entry = true);
	I(.op = G_POP, .dst = RBX);
	I(.op = G_POP, .dst = RBP);
	I(.op = G_RET);
	base->target = n;
	I(.op = G_MOV, .size = 4, .dst = RAX, .src = RDI);
	I(.op = G_RET);
	return n;
}

static uint64_t setup_fib(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint64_t calls[64] = { 1, 1 };
	for (unsigned i = 2; i <= param; i++)
		calls[i] = calls[i - 1] + calls[i - 2] + 1;
	gpr[RDI] = param;
	return calls[param];
}

/* One operation: one hop of a random cycle over param KiB: two nodes a page, so that it is page numbers that matter. */
static unsigned build_chase(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_LOAD, .dst = RAX, .m = MEM(RAX, 0));
	I(.op = G_DEC, .dst = RCX);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_ALU, .alu = ALU_SUB, .dst = RAX, .src = RBX);
	I(.op = G_EXIT);
	return n;
}

static uint64_t setup_chase(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	static _Thread_local uint32_t order[(32u << 20) / 2048];
	uint32_t nodes = param / 2;
	uint8_t *base = gm->arena + (4u << 20);
	uint64_t seed = 88172645463325252u;

	for (uint32_t i = 0; i < nodes; i++)
		order[i] = i;
	for (uint32_t i = nodes - 1; i; i--) {
		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		uint32_t j = seed % (i + 1), k = order[i];
		order[i] = order[j], order[j] = k;
	}
	for (uint32_t i = 0; i < nodes; i++) {
		uint32_t here = order[i], there = order[(i + 1) % nodes];
		uint64_t next = (uint64_t)(base + 2048ul * there + 64 * (there * 7 % 31));
		memcpy(base + 2048ul * here + 64 * (here * 7 % 31), &next, 8);
	}
	gpr[RAX] = (uint64_t)(base + 2048ul * order[0] + 64 * (order[0] * 7 % 31));
	gpr[RBX] = (uint64_t)base;
	gpr[RCX] = 300000;
	return gpr[RCX];
}

/* One operation: one byte of a table-driven CRC-32 over 4 KiB, repeated. */
static unsigned crc(struct ginsn *g, int data, int table, int end)
{
	unsigned n = 0;
	I(.op = G_MOV, .dst = data, .src = RBX);
	unsigned loop = n;
	I(.op = G_LOADZX8, .size = 4, .dst = RDX, .m = MEM(data, 0));
	I(.op = G_ALU, .alu = ALU_XOR, .size = 4, .dst = RDX, .src = RAX);
	I(.op = G_ZX8, .size = 4, .dst = RDX, .src = RDX);
	I(.op = G_SHRI, .size = 4, .dst = RAX, .imm = 8);
	I(.op = G_ALUM, .alu = ALU_XOR, .size = 4, .dst = RAX, .m = MEMX(table, RDX, 2, 0));
	I(.op = G_ALUI, .alu = ALU_ADD, .dst = data, .imm = 1);
	I(.op = G_ALU, .alu = ALU_CMP, .dst = data, .src = end);
	I(.op = G_JCC, .cc = CC_NE, .target = loop);
	I(.op = G_DEC, .dst = RCX);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_EXIT);
	return n;
}

static unsigned build_crc(struct ginsn *g, unsigned param) { return crc(g, RSI, RDI, R8); }
/* The same with the registers that a layout keeps in memory. */
static unsigned build_crc_hi(struct ginsn *g, unsigned param) { return crc(g, R13, R14, R15); }

static uint64_t setup_crc(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint32_t *table = (uint32_t *)(gm->arena + (2u << 20));
	uint8_t *data = gm->arena + (3u << 20);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;
		for (int k = 0; k < 8; k++)
			v = v >> 1 ^ (v & 1 ? 0xedb88320u : 0);
		table[i] = v;
	}
	for (unsigned i = 0; i < 4096; i++)
		data[i] = i * 37 >> 3;
	gpr[RDI] = gpr[R14] = (uint64_t)table;
	gpr[RBX] = (uint64_t)data;
	gpr[R8] = gpr[R15] = (uint64_t)data + 4096;
	gpr[RAX] = 0xffffffff;
	gpr[RCX] = 300;
	return 300 * 4096;
}

/* One operation: 16 bytes of a 64 KiB copy by two loads and two stores. */
static unsigned build_copy(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_MOV, .dst = RSI, .src = R8);
	I(.op = G_MOV, .dst = RDI, .src = R9);
	I(.op = G_MOV, .dst = RCX, .src = R10);
	unsigned loop = n;
	I(.op = G_LOAD, .dst = RAX, .m = MEM(RSI, 0));
	I(.op = G_LOAD, .dst = RDX, .m = MEM(RSI, 8));
	I(.op = G_STORE, .src = RAX, .m = MEM(RDI, 0));
	I(.op = G_STORE, .src = RDX, .m = MEM(RDI, 8));
	I(.op = G_ALUI, .alu = ALU_ADD, .dst = RSI, .imm = 16);
	I(.op = G_ALUI, .alu = ALU_ADD, .dst = RDI, .imm = 16);
	I(.op = G_DEC, .dst = RCX);
	I(.op = G_JCC, .cc = CC_NE, .target = loop);
	I(.op = G_DEC, .dst = R11);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_EXIT);
	return n;
}

static uint64_t setup_copy(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint8_t *src = gm->arena + (2u << 20);
	for (unsigned i = 0; i < 65536; i++)
		src[i] = i * 31 >> 4;
	gpr[R8] = (uint64_t)src;
	gpr[R9] = (uint64_t)(gm->arena + (3u << 20));
	gpr[R10] = 4096;
	gpr[R11] = 300;
	return 300 * 4096;
}

/* One operation: an indirect call to one of eight functions in turn, and its return. */
static unsigned build_icall(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_LOAD, .dst = RAX, .m = MEMX(RBX, RDX, 3, 0));
	I(.op = G_CALLR, .src = RAX);
	I(.op = G_LEA, .size = 4, .dst = RDX, .m = MEM(RDX, 1), .entry = true);
	I(.op = G_ALUI, .alu = ALU_AND, .size = 4, .dst = RDX, .imm = 63);
	I(.op = G_DEC, .dst = RCX);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_MOV, .dst = RAX, .src = RSI);
	I(.op = G_EXIT);
	for (unsigned f = 0; f < 8; f++) { /* 8 + 2 f */
		I(.op = G_LEA, .size = 4, .dst = RSI, .m = MEMX(RSI, RSI, f & 3, 3 * f + 1), .entry = true);
		I(.op = G_RET);
	}
	return n;
}

static uint64_t setup_icall(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint64_t *table = (uint64_t *)(gm->arena + (2u << 20));
	for (unsigned i = 0; i < 64; i++)
		table[i] = where[8 + 2 * (i * 5 & 7)];
	gpr[RBX] = (uint64_t)table;
	gpr[RCX] = 200000;
	return 200000;
}

/* One operation: a 64-bit limb of an addition with carry: CF is live across every access. */
static unsigned build_bignum(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_MOVI, .dst = RCX, .imm = 0);
	I(.op = G_MOV, .dst = R8, .src = R9);
	I(.op = G_ALU, .alu = ALU_XOR, .size = 4, .dst = RAX, .src = RAX);
	unsigned loop = n;
	I(.op = G_LOAD, .dst = RAX, .m = MEMX(RSI, RCX, 3, 0));
	I(.op = G_ALUM, .alu = ALU_ADC, .dst = RAX, .m = MEMX(RDX, RCX, 3, 0));
	I(.op = G_STORE, .src = RAX, .m = MEMX(RDI, RCX, 3, 0));
	I(.op = G_LEA, .dst = RCX, .m = MEM(RCX, 1));
	I(.op = G_DEC, .dst = R8);
	I(.op = G_JCC, .cc = CC_NE, .target = loop);
	I(.op = G_DEC, .dst = R10);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_EXIT);
	return n;
}

static uint64_t setup_bignum(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint64_t *a = (uint64_t *)(gm->arena + (2u << 20)), *b = (uint64_t *)(gm->arena + (3u << 20));
	for (unsigned i = 0; i < 512; i++)
		a[i] = ~(uint64_t)i * 0x9e3779b97f4a7c15u, b[i] = ~a[i] + (i % 3);
	gpr[RSI] = (uint64_t)a;
	gpr[RDX] = (uint64_t)b;
	gpr[RDI] = (uint64_t)(b + 512);
	gpr[R9] = 512;
	gpr[R10] = 1500;
	return 1500 * 512;
}

/* One operation: a load from one of two pages, unpredictably: the worst case of a cache that holds one page. */
static unsigned build_scatter(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_LEA, .dst = RDX, .m = MEMX(RDX, RDX, 2, 12345));
	I(.op = G_MOV, .dst = RSI, .src = RDX);
	I(.op = G_SHRI, .dst = RSI, .imm = 54);
	I(.op = G_ALUM, .alu = ALU_ADD, .dst = RAX, .m = MEMX(RBX, RSI, 3, 0));
	I(.op = G_DEC, .dst = RCX);
	I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_EXIT);
	return n;
}

static uint64_t setup_scatter(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	uint64_t *a = (uint64_t *)(gm->arena + (2u << 20));
	for (unsigned i = 0; i < 1024; i++)
		a[i] = i * 0x9e3779b97f4a7c15u;
	gpr[RBX] = (uint64_t)a;
	gpr[RCX] = 500000;
	return 500000;
}

/* One operation: a turn of the tightest loop, where a poll costs most. param 1: until something stops it. */
static unsigned build_spin(struct ginsn *g, unsigned param)
{
	unsigned n = 0;
	I(.op = G_DEC, .dst = RCX);
	if (param)
		I(.op = G_JMP, .target = 0);
	else
		I(.op = G_JCC, .cc = CC_NE, .target = 0);
	I(.op = G_EXIT);
	return n;
}

static uint64_t setup_spin(struct guest_mem *gm, uint64_t *gpr, unsigned param, const uint64_t *where)
{
	return gpr[RCX] = 2000000;
}

const struct program prog_fib = { "fib", "call", build_fib, setup_fib };
const struct program prog_chase = { "chase", "hop", build_chase, setup_chase };
const struct program prog_crc = { "crc", "byte", build_crc, setup_crc };
const struct program prog_crc_hi = { "crc in r13-r15", "byte", build_crc_hi, setup_crc };
const struct program prog_copy = { "copy", "16 bytes", build_copy, setup_copy };
const struct program prog_icall = { "icall", "call", build_icall, setup_icall };
const struct program prog_bignum = { "bignum", "limb", build_bignum, setup_bignum };
const struct program prog_scatter = { "scatter", "load", build_scatter, setup_scatter };
const struct program prog_spin = { "spin", "turn", build_spin, setup_spin };
