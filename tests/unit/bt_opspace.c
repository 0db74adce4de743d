/* A walk over the x86 opcode space, for tests of the decoder. */
#include "tests/unit/bt_opspace.h"

#include <string.h>

static const struct {
	uint8_t n, bytes[3];
	bool only64;
} prefix_sets[] = {
	{ 0, { 0 }, false },          { 1, { 0x66 }, false },       { 1, { 0xf2 }, false },      { 1, { 0xf3 }, false },
	{ 1, { 0x67 }, false },       { 1, { 0xf0 }, false },       { 1, { 0x48 }, true },       { 2, { 0x66, 0xf2 }, false },
	{ 2, { 0xf3, 0x66 }, false }, { 2, { 0x66, 0x48 }, true },  { 2, { 0xf3, 0x4f }, true }, { 2, { 0xf0, 0x67 }, false },
	{ 2, { 0xf2, 0xf3 }, false }, { 2, { 0x48, 0x66 }, true },
};

/* ModRM (without reg), SIB: registers, [reg], disp8, disp32, SIB, SIB without base, absolute or rip-relative. */
static const uint8_t modrm_forms[][2] = {
	{ 0xc0, 0 }, { 0xc3, 0 }, { 0x00, 0 }, { 0x43, 0 }, { 0x86, 0 }, { 0x04, 0x24 }, { 0x04, 0x8d }, { 0x05, 0 }, { 0x06, 0 },
};

/* A displacement of zero would name the byte behind the instruction: rip-relative operands lie in front of it. */
static void set_operands(uint8_t *at, unsigned form, unsigned reg)
{
	at[0] = modrm_forms[form][0] | reg << 3;
	at[1] = modrm_forms[form][1];
	if (modrm_forms[form][0] == 0x05)
		memcpy(at + 1, (uint8_t[]){ 0x00, 0xf8, 0xff, 0xff }, 4);
	else
		memset(at + 2, 0, 3);
}

static void each_modrm(uint8_t *code, unsigned at, enum bt_bits bits, opspace_fn *fn, void *arg)
{
	for (unsigned form = 0; form < ARRAY_SIZE(modrm_forms); form++)
		for (unsigned reg = 0; reg < 8; reg++) {
			set_operands(code + at, form, reg);
			fn(arg, code, bits);
		}
}

/* Opcodes whose register forms are instructions of their own, each ModRM.rm another: x87, 0f 01, 0f ae, 0f c7. */
static bool all_registers(unsigned map, unsigned opcode)
{
	return map == BT_MAP_1 ? (opcode & 0xf8) == 0xd8 : map == BT_MAP_0F && (opcode == 0x01 || opcode == 0xae || opcode == 0xc7);
}

/* Escapes and REX prefixes are not opcodes. */
static bool is_opcode(unsigned map, unsigned opcode, enum bt_bits bits)
{
	if (map == BT_MAP_1)
		return opcode != 0x0f && (bits != BT_BITS_64 || opcode >> 4 != 4);
	return map != BT_MAP_0F || (opcode != 0x38 && opcode != 0x3a);
}

static void each_legacy(enum bt_bits bits, unsigned prefix, opspace_fn *fn, void *arg)
{
	for (unsigned op = 0; op < 4 * 256; op++) {
		uint8_t code[32] = { 0 };
		unsigned n = prefix_sets[prefix].n, map = op >> 8, opcode = op & 0xff;

		if (!is_opcode(map, opcode, bits))
			continue;
		memcpy(code, prefix_sets[prefix].bytes, n);
		if (map)
			code[n++] = 0x0f;
		if (map > 1)
			code[n++] = map == BT_MAP_0F38 ? 0x38 : 0x3a;
		code[n++] = opcode;
		each_modrm(code, n, bits, fn, arg);
		for (unsigned modrm = 0xc0; all_registers(map, opcode) && modrm <= 0xff; modrm++) {
			code[n] = modrm;
			fn(arg, code, bits);
		}
	}
}

static void each_vex(enum bt_bits bits, opspace_fn *fn, void *arg)
{
	static const uint8_t thirds[] = { 0x78, 0x70, 0xf8, 0x60 }; /* W0 without vvvv, W0 xmm1, W1 without, W0 xmm3 */

	for (unsigned op = 0x100; op < 4 * 256; op++)
		for (unsigned lpp = 0; lpp < 8; lpp++)
			for (unsigned t = 0; t < ARRAY_SIZE(thirds); t++) {
				uint8_t code[32] = { 0xc4, 0xe0 | op >> 8, thirds[t] | lpp, op };

				each_modrm(code, 4, bits, fn, arg);
			}
}

void opspace_each(enum bt_bits bits, opspace_fn *fn, void *arg)
{
	for (unsigned p = 0; p < ARRAY_SIZE(prefix_sets); p++)
		if (!prefix_sets[p].only64 || bits == BT_BITS_64)
			each_legacy(bits, p, fn, arg);
	each_vex(bits, fn, arg);
}

uint64_t opspace_random64(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

void opspace_random(uint64_t *seed, uint8_t code[16])
{
	static const uint8_t prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x41, 0x48, 0x4c };
	static const uint8_t escapes[][3] = { { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a }, { 0xc5 }, { 0xc4, 0xe2 }, { 0xc4, 0xc3 },
					      { 0x8f, 0xe9 }, { 0x62, 0xf1 } };
	uint64_t r = opspace_random64(seed), lo = opspace_random64(seed), hi = opspace_random64(seed);
	unsigned n = 0;

	memcpy(code, &lo, 8);
	memcpy(code + 8, &hi, 8);
	for (; (r & 3) == 0 && n < 4; r >>= 2, n++)
		code[n] = prefixes[(r >> 8) % ARRAY_SIZE(prefixes)];
	r >>= 16;
	if ((r & 15) < ARRAY_SIZE(escapes)) {
		memcpy(code + n, escapes[r & 15], 3);
		n += (r & 15) == 0 || (r & 15) == 3 ? 1 : 2;
		code[n] = hi >> 40;
	}
}
