/* Raw x86-64 encoding for the spike: just what its guests and designs need. */
#include "bench/spike/spike.h"

#include <err.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void e_byte(struct code *c, unsigned b)
{
	if (c->w == c->end)
		errx(1, "spike: code buffer is full");
	*c->w++ = b;
}

void e_u32(struct code *c, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		e_byte(c, v >> 8 * i & 0xff);
}

void e_u64(struct code *c, uint64_t v)
{
	e_u32(c, v);
	e_u32(c, v >> 32);
}

static void prefixes(struct code *c, unsigned opcode, unsigned size, int reg, int index, int base)
{
	unsigned rex = (size == 8) << 3 | (reg > 7) << 2 | (index > 7) << 1 | (base > 7);
	if (size == 2)
		e_byte(c, 0x66);
	if (rex || (size == 1 && reg >= 4))
		e_byte(c, 0x40 | rex);
	if (opcode > 0xff)
		e_byte(c, opcode >> 8);
	e_byte(c, opcode & 0xff);
}

static void modrm_mem(struct code *c, int reg, struct mem m)
{
	unsigned r = (reg & 7) << 3;
	bool sib = m.index != NONE || m.base == NONE || (m.base & 7) == RSP;
	unsigned mod = m.base == NONE ? 0 : m.disp == 0 && (m.base & 7) != RBP ? 0 : m.disp == (int8_t)m.disp ? 1 : 2;

	e_byte(c, mod << 6 | r | (sib ? 4 : m.base & 7));
	if (sib)
		e_byte(c, m.scale << 6 | (m.index == NONE ? 4 : m.index & 7) << 3 | (m.base == NONE ? 5 : m.base & 7));
	if (mod == 1)
		e_byte(c, m.disp & 0xff);
	else if (mod == 2 || m.base == NONE)
		e_u32(c, m.disp);
}

void e_rm(struct code *c, unsigned opcode, unsigned size, int reg, struct mem m)
{
	if (m.gs)
		e_byte(c, 0x65);
	prefixes(c, opcode, size, reg, m.index, m.base);
	modrm_mem(c, reg, m);
}

void e_rr(struct code *c, unsigned opcode, unsigned size, int reg, int rm)
{
	unsigned force = size == 1 && rm >= 4 && reg < 4;
	if (force && rm < 8)
		e_byte(c, 0x40);
	prefixes(c, opcode, size, reg, NONE, rm);
	e_byte(c, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void e_mov(struct code *c, int dst, int src)
{
	e_rr(c, 0x8b, 8, dst, src);
}

void e_mov_imm(struct code *c, int dst, int64_t imm)
{
	if (imm == (int32_t)imm) {
		e_rr(c, 0xc7, 8, 0, dst);
		e_u32(c, imm);
		return;
	}
	e_byte(c, 0x48 | (dst > 7));
	e_byte(c, 0xb8 | (dst & 7));
	e_u64(c, imm);
}

static void imm_tail(struct code *c, bool short_form, int32_t imm)
{
	if (short_form)
		e_byte(c, imm & 0xff);
	else
		e_u32(c, imm);
}

void e_alu_imm(struct code *c, int alu, unsigned size, int reg, int32_t imm)
{
	bool s = imm == (int8_t)imm;
	e_rr(c, s ? 0x83 : 0x81, size, alu, reg);
	imm_tail(c, s, imm);
}

void e_alu_mem_imm(struct code *c, int alu, unsigned size, struct mem m, int32_t imm)
{
	bool s = imm == (int8_t)imm;
	e_rm(c, s ? 0x83 : 0x81, size, alu, m);
	imm_tail(c, s, imm);
}

/* VEX.LZ, map 2 (0F38) or 3 (0F3A), pp as in the SDM's table: 2 = F3, 3 = F2. */
static void vex(struct code *c, unsigned map, unsigned pp, unsigned size, int reg, int vvvv, int index, int base)
{
	e_byte(c, 0xc4);
	e_byte(c, (reg > 7 ? 0 : 0x80) | (index > 7 ? 0 : 0x40) | (base > 7 ? 0 : 0x20) | map);
	e_byte(c, (size == 8) << 7 | (~vvvv & 15) << 3 | pp);
}

void e_rorx(struct code *c, unsigned size, int dst, int src, unsigned count)
{
	vex(c, 3, 3, size, dst, 0, NONE, src);
	e_byte(c, 0xf0);
	e_byte(c, 0xc0 | (dst & 7) << 3 | (src & 7));
	e_byte(c, count);
}

void e_pext(struct code *c, unsigned size, int dst, int src, struct mem mask)
{
	if (mask.gs)
		e_byte(c, 0x65);
	vex(c, 2, 2, size, dst, src, mask.index, mask.base);
	e_byte(c, 0xf5);
	modrm_mem(c, dst, mask);
}

/* Nops so that the rel32 behind `opcode_bytes` lies on a 4-byte boundary: one aligned store patches it. */
static void align_rel32(struct code *c, unsigned opcode_bytes)
{
	static const uint8_t nops[4][3] = { { 0 }, { 0x90 }, { 0x66, 0x90 }, { 0x0f, 0x1f, 0x00 } };
	unsigned pad = c->packed ? 0 : -(uintptr_t)(c->w + opcode_bytes) & 3;
	for (unsigned i = 0; i < pad; i++)
		e_byte(c, nops[pad][i]);
}

uint8_t *e_jmp(struct code *c)
{
	align_rel32(c, 1);
	e_byte(c, 0xe9);
	e_u32(c, 0);
	return c->w - 4;
}

uint8_t *e_call(struct code *c)
{
	align_rel32(c, 1);
	e_byte(c, 0xe8);
	e_u32(c, 0);
	return c->w - 4;
}

uint8_t *e_jcc(struct code *c, int cc)
{
	align_rel32(c, 2);
	e_byte(c, 0x0f);
	e_byte(c, 0x80 | cc);
	e_u32(c, 0);
	return c->w - 4;
}

void e_fix(uint8_t *rel32, const uint8_t *target)
{
	__atomic_store_n((int32_t *)rel32, (int32_t)(target - (rel32 + 4)), __ATOMIC_RELEASE);
}

void cache_open(struct cache *cache, size_t size)
{
	int fd = memfd_create("spike-code", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, size) < 0)
		err(1, "spike: memfd for the code cache");
	cache->size = size;
	cache->w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cache->x = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (cache->w == MAP_FAILED || cache->x == MAP_FAILED)
		err(1, "spike: mapping the code cache twice");
	close(fd);
}

void cache_close(struct cache *cache)
{
	munmap(cache->w, cache->size);
	munmap(cache->x, cache->size);
}
