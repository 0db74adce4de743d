/* The decoder against Capstone, over the opcode space and random bytes; and how long a decode takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <capstone/capstone.h>
#include <fnmatch.h>
#include <string.h>
#include <time.h>

#include "machine/cpu_state.h"
#include "modes/bt/decode_table.h"
#include "tests/unit/bt_opspace.h"

#define RANDOM_STRINGS 300000

/* ---- what Capstone says --------------------------------------------------------------------------- */

struct pair {
	const uint8_t *code;
	enum bt_bits bits;
	struct bt_insn ours;
	enum bt_decode_result result;
	bool theirs_ok;
	const cs_insn *theirs;
};

static csh capstone;
static cs_insn *cs_scratch;
static enum bt_bits cs_bits;

static void use_mode(enum bt_bits bits)
{
	if (cs_bits == bits)
		return;
	if (cs_bits) {
		cs_free(cs_scratch, 1);
		cs_close(&capstone);
	}
	cs_bits = bits;
	assert_int_equal(cs_open(CS_ARCH_X86, bits == BT_BITS_64 ? CS_MODE_64 : bits == BT_BITS_32 ? CS_MODE_32 : CS_MODE_16,
				 &capstone), CS_ERR_OK);
	cs_option(capstone, CS_OPT_DETAIL, CS_OPT_ON);
	cs_scratch = cs_malloc(capstone);
}

static bool capstone_decode(const uint8_t *code)
{
	uint64_t address = 0x1000;
	size_t n = 15;

	return cs_disasm_iter(capstone, &code, &n, &address, cs_scratch);
}

static unsigned gpr_mask(const uint16_t *regs, unsigned n)
{
	static const x86_reg names[16][5] = {
		{ X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH }, { X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH },
		{ X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH }, { X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH },
		{ X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL }, { X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL },
		{ X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL }, { X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL },
		{ X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B }, { X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B },
		{ X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B }, { X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B },
		{ X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B }, { X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B },
		{ X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B }, { X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B },
	};
	unsigned mask = 0;

	for (unsigned i = 0; i < n; i++)
		for (unsigned g = 0; g < 16; g++)
			for (unsigned s = 0; s < 5; s++)
				if (regs[i] && regs[i] == names[g][s])
					mask |= 1u << g;
	return mask;
}

#define FLAG(f) (eflags & (X86_EFLAGS_MODIFY_##f | X86_EFLAGS_RESET_##f | X86_EFLAGS_UNDEFINED_##f) ? BT_##f : 0)
#define TEST(f) (eflags & X86_EFLAGS_TEST_##f ? BT_##f : 0)

/* ---- the comparison -------------------------------------------------------------------------------- */

enum kind {
	ONLY_CAPSTONE = 1, /* decodes it */
	ONLY_WE = 2,
	LENGTH = 4,
	REG_WRITE = 8,  /* Capstone knows of a register we do not list; what we list beyond, test_bt_decode_effects knows */
	REG_READ = 16,
	FLAG_WRITE = 32,
	FLAG_READ = 64,
	MEM_SIZE = 128,
};

static bool x87(const struct bt_insn *insn)
{
	return insn->map == BT_MAP_1 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf;
}

static unsigned compare_details(const struct pair *p)
{
	const struct bt_insn *insn = &p->ours;
	const cs_x86 *x = &p->theirs->detail->x86;
	uint64_t eflags = x87(insn) ? 0 : x->eflags; /* a union with the x87 flags */
	cs_regs rd, wr;
	uint8_t n_rd, n_wr;
	unsigned kinds = 0;

	if (insn->cls == BT_CLASS_SYSTEM || insn->cls == BT_CLASS_LEGACY)
		return 0; /* helpers find the whole state in memory */
	if (cs_regs_access(capstone, p->theirs, rd, &n_rd, wr, &n_wr) == CS_ERR_OK) {
		if (gpr_mask(wr, n_wr) & ~insn->gpr_written)
			kinds |= REG_WRITE;
		if (gpr_mask(rd, n_rd) & ~insn->gpr_read)
			kinds |= REG_READ;
	}
	if ((FLAG(CF) | FLAG(PF) | FLAG(AF) | FLAG(ZF) | FLAG(SF) | FLAG(OF)) & ~insn->flags_written)
		kinds |= FLAG_WRITE;
	if ((TEST(CF) | TEST(PF) | TEST(AF) | TEST(ZF) | TEST(SF) | TEST(OF)) & ~insn->flags_read)
		kinds |= FLAG_READ;
	for (int i = 0; i < x->op_count; i++)
		if (x->operands[i].type == X86_OP_MEM && insn->access && !(insn->flags & BT_I_WIDE_MEM) &&
		    x->operands[i].size != insn->mem_bytes)
			kinds |= MEM_SIZE;
	return kinds;
}

static unsigned compare(struct pair *p)
{
	p->result = bt_decode(p->code, 15, p->bits, &p->ours);
	p->theirs_ok = capstone_decode(p->code);
	p->theirs = cs_scratch;
	if (p->result == BT_DECODE_TOO_LONG)
		return p->theirs_ok ? ONLY_CAPSTONE : 0;
	if ((p->result == BT_DECODE_OK) != p->theirs_ok)
		return p->theirs_ok ? ONLY_CAPSTONE : ONLY_WE;
	if (!p->theirs_ok)
		return 0;
	return p->ours.len != p->theirs->size ? LENGTH : compare_details(p);
}

/* ---- where we differ, and why ------------------------------------------------------------------------ */

/* The prefixes in front of the opcode, as bits. */
enum { HAS_66 = 1, HAS_F2 = 2, HAS_F3 = 4, HAS_LOCK = 8, HAS_REX_EARLY = 16, HAS_SEG = 32, HAS_67 = 64, HAS_REX = 128 };

static unsigned prefixes(const struct pair *p, unsigned *ret_n)
{
	unsigned has = 0, n = 0;

	for (; n < 14; n++) {
		uint8_t b = p->code[n];
		unsigned bit = b == 0x66 ? HAS_66 : b == 0xf2 ? HAS_F2 : b == 0xf3 ? HAS_F3 : b == 0xf0 ? HAS_LOCK :
			b == 0x67 ? HAS_67 : (b & 0xe7) == 0x26 || (b & 0xfe) == 0x64 ? HAS_SEG :
			p->bits == BT_BITS_64 && (b & 0xf0) == 0x40 ? HAS_REX : 0;

		if (!bit)
			break;
		has |= bit | (has & HAS_REX ? HAS_REX_EARLY : 0);
	}
	*ret_n = n;
	return has;
}

/* Several prefixes of one kind, or a REX that is not the last: Capstone 4 takes another of them than processors do. */
static bool odd_prefixes(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n), kinds = 0;

	for (unsigned m = has & ~(unsigned)HAS_REX_EARLY; m; m &= m - 1)
		kinds++;
	return (has & HAS_REX_EARLY) || n > kinds;
}

static bool rep_with_66(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);

	return (has & HAS_66) && (has & (HAS_F2 | HAS_F3));
}

/* Ours is #UD because the prefix selects nothing, and without it the instruction exists. */
static bool needless_prefix(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);
	uint8_t code[32] = { 0 };
	struct bt_insn insn;
	unsigned k = 0;

	if (!(has & (HAS_66 | HAS_F2 | HAS_F3)) || p->code[n] != 0x0f)
		return false;
	for (unsigned keep66 = 0; keep66 < 2; keep66++) {
		k = 0;
		for (unsigned i = 0; i < 15; i++) {
			bool drop = i < n && (p->code[i] == 0xf2 || p->code[i] == 0xf3 || (p->code[i] == 0x66 && !keep66));

			if (!drop)
				code[k++] = p->code[i];
		}
		if (bt_decode(code, 15, p->bits, &insn) == BT_DECODE_OK)
			return true;
	}
	return false;
}

/* Capstone's 16-bit mode takes a prefix that selects the opcode for nothing, or 66 for none. */
static bool selecting_prefix16(const struct pair *p)
{
	unsigned n;

	return p->bits == BT_BITS_16 && (prefixes(p, &n) & (HAS_66 | HAS_F2 | HAS_F3)) && p->code[n] == 0x0f;
}

/* With VEX.W turned over it is an instruction. */
static bool wrong_w(const struct pair *p)
{
	uint8_t code[16];
	unsigned n;
	struct bt_insn insn;

	prefixes(p, &n);
	if (p->ours.encoding != BT_ENC_VEX || p->code[n] != 0xc4)
		return false;
	memcpy(code, p->code, 15);
	code[n + 2] ^= 0x80;
	return bt_decode(code, 15, p->bits, &insn) == BT_DECODE_OK;
}

static bool prefixed_vex(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);

	return (p->code[n] & 0xfe) == 0xc4 && (has & (HAS_66 | HAS_F2 | HAS_F3 | HAS_LOCK | HAS_REX));
}

static bool lock_with_rep(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);

	return (has & HAS_LOCK) && (has & (HAS_F2 | HAS_F3));
}

static bool seg_with_selector(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);

	return (has & HAS_SEG) && (has & (HAS_66 | HAS_F2 | HAS_F3));
}

static bool addrsize_with_rexw(const struct pair *p)
{
	unsigned n;

	return (prefixes(p, &n) & HAS_67) && n && (p->code[n - 1] & 8) && p->bits == BT_BITS_64;
}

static bool amd3dnow(const struct pair *p)
{
	return p->ours.map == BT_MAP_0F && p->ours.opcode == 0x0f;
}

static bool rex(const struct pair *p)
{
	return p->ours.rex & 0x40;
}

static bool wide_vex(const struct pair *p)
{
	return p->ours.encoding == BT_ENC_VEX && p->ours.vex_l;
}

/* VEX.vvvv with the bit clear that outside 64-bit mode means nothing to a register number. */
static bool vvvv_bit3(const struct pair *p)
{
	return p->ours.encoding == BT_ENC_VEX && p->bits != BT_BITS_64 && !(p->ours.bytes[p->ours.opcode_off - 1] & 0x40);
}

static bool fma4(const struct pair *p)
{
	return p->ours.encoding == BT_ENC_VEX && p->ours.map == BT_MAP_0F3A && p->ours.opcode >= 0x48 && p->ours.opcode < 0x80;
}

static bool vex(const struct pair *p)
{
	return p->ours.encoding == BT_ENC_VEX;
}

static bool evex(const struct pair *p)
{
	return p->ours.encoding == BT_ENC_EVEX;
}

static bool xop(const struct pair *p)
{
	return p->ours.map == BT_MAP_1 && p->ours.opcode == 0x8f;
}

static bool branch66(const struct pair *p)
{
	unsigned n;

	return p->bits == BT_BITS_64 && (prefixes(p, &n) & HAS_66) &&
	       (p->ours.cls == BT_CLASS_JMP_IND || p->ours.cls == BT_CLASS_CALL_IND);
}

static bool opsize_with_addrsize(const struct pair *p)
{
	unsigned n, has = prefixes(p, &n);

	return (has & HAS_66) && (has & HAS_67);
}

static bool count_zero(const struct pair *p)
{
	return p->ours.imm_bytes == 1 && !p->ours.flags_written && (p->ours.imm & 31) == 0;
}

static bool mmx_half(const struct pair *p)
{
	return p->ours.mandatory == 0 && p->ours.mem_bytes == 4;
}

static struct exception {
	unsigned kinds;
	const char *ours, *theirs; /* patterns of names */
	bool (*when)(const struct pair *p);
	const char *reason;
	unsigned long used;
} exceptions[] = {
#include "tests/unit/bt_capstone_exceptions.def"
};

static const struct exception *find_exception(const struct pair *p, unsigned kinds)
{
	const char *theirs = p->theirs_ok ? p->theirs->mnemonic : "";

	for (size_t i = 0; i < ARRAY_SIZE(exceptions); i++) {
		struct exception *e = &exceptions[i];

		if ((kinds & ~e->kinds) == 0 && fnmatch(e->ours, p->ours.name, 0) == 0 && fnmatch(e->theirs, theirs, 0) == 0 &&
		    (!e->when || e->when(p))) {
			e->used++;
			return e;
		}
	}
	return NULL;
}

/* ---- the tests ------------------------------------------------------------------------------------------ */

static unsigned long compared, excepted, wrong;

static void check(void *arg, const uint8_t *code, enum bt_bits bits)
{
	struct pair p = { .code = code, .bits = bits };
	unsigned kinds;

	use_mode(bits);
	compared++;
	kinds = compare(&p);
	if (!kinds)
		return;
	excepted++;
	if (find_exception(&p, kinds))
		return;
	if (wrong++ < 100 || getenv("BT_DECODE_ALL")) {
		fprintf(stderr, "# kinds %02x %d bits: ours %s %u; capstone %s %s %u:", kinds, bits, p.ours.name, p.ours.len,
			p.theirs_ok ? p.theirs->mnemonic : "-", p.theirs_ok ? p.theirs->op_str : "",
			p.theirs_ok ? p.theirs->size : 0);
		for (int i = 0; i < 11; i++)
			fprintf(stderr, " %02x", code[i]);
		fprintf(stderr, "\n");
	}
}

static void test_opcode_space(void **state)
{
	for (enum bt_bits bits = BT_BITS_16; bits <= BT_BITS_64; bits *= 2)
		opspace_each(bits, check, NULL);
	print_message("# %lu compared, %lu differ as listed, %lu wrong\n", compared, excepted - wrong, wrong);
	assert_int_equal(wrong, 0);
}

static void test_random_bytes(void **state)
{
	uint64_t seed = 0x5eed0002;

	compared = excepted = wrong = 0;
	print_message("# seed %#llx\n", (unsigned long long)seed);
	for (enum bt_bits bits = BT_BITS_16; bits <= BT_BITS_64; bits *= 2)
		for (unsigned i = 0; i < RANDOM_STRINGS; i++) {
			uint8_t code[16];

			opspace_random(&seed, code);
			check(NULL, code, bits);
		}
	print_message("# %lu compared, %lu differ as listed, %lu wrong\n", compared, excepted - wrong, wrong);
	assert_int_equal(wrong, 0);
}

/* An exception that nothing needs hides the next mistake. The list is for Capstone 4. */
static void test_exceptions_are_needed(void **state)
{
	unsigned idle = 0;
	int major = 0, minor;

	cs_version(&major, &minor);
	if (major != 4)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(exceptions); i++)
		if (!exceptions[i].used) {
			fprintf(stderr, "# not needed: %s / %s: %s\n", exceptions[i].ours, exceptions[i].theirs, exceptions[i].reason);
			idle++;
		}
	assert_int_equal(idle, 0);
}

/* Rows of one opcode must stand together (bt_row_last relies on it), and no row may be out of reach. */
static void test_rows_are_contiguous(void **state)
{
	for (unsigned i = 0; i < bt_row_count; i++)
		for (unsigned op = bt_rows[i].first; op <= bt_rows[i].last; op++) {
			unsigned at = bt_row_last[bt_rows[i].map << 8 | op];

			assert_true(at > i);
			while (--at > i)
				assert_true(bt_rows[at].map == bt_rows[i].map && bt_rows[at].first <= op &&
					    op <= bt_rows[at].last);
			assert_int_equal(!!(bt_rows[i].form & BT_F_MODRM),
					 !!(bt_rows[bt_row_last[bt_rows[i].map << 8 | op] - 1].form & BT_F_MODRM));
		}
}

/* Every prefix of an instruction is too short, and says so; nothing behind `n` is looked at. */
static void test_short_and_long(void **state)
{
	static const uint8_t mov[] = { 0x66, 0x2e, 0x48, 0xc7, 0x84, 0x8d, 1, 2, 3, 4, 5, 6, 7, 8 };
	uint8_t prefixed[16];
	struct bt_insn insn;

	for (unsigned n = 0; n < sizeof(mov); n++) {
		uint8_t *exact = malloc(n ? n : 1);

		memcpy(exact, mov, n);
		assert_int_equal(bt_decode(exact, n, BT_BITS_64, &insn), BT_DECODE_SHORT);
		free(exact);
	}
	assert_int_equal(bt_decode(mov, sizeof(mov), BT_BITS_64, &insn), BT_DECODE_OK);
	assert_int_equal(insn.len, 14);
	assert_int_equal(insn.imm, 0x08070605);
	assert_int_equal(insn.disp, 0x04030201);
	memset(prefixed, 0x66, sizeof(prefixed));
	assert_int_equal(bt_decode(prefixed, 14, BT_BITS_64, &insn), BT_DECODE_SHORT);
	assert_int_equal(bt_decode(prefixed, 15, BT_BITS_64, &insn), BT_DECODE_TOO_LONG);
	prefixed[14] = 0x90;
	assert_int_equal(bt_decode(prefixed, 15, BT_BITS_64, &insn), BT_DECODE_OK);
	assert_int_equal(insn.len, 15);
	prefixed[14] = 0x0f;
	assert_int_equal(bt_decode(prefixed, 16, BT_BITS_64, &insn), BT_DECODE_TOO_LONG);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Decodes this program's own text: printed for people, and failed only when an order of magnitude too slow. */
static void test_speed(void **state)
{
	extern const uint8_t __executable_start[], etext[]; /* the linker's */
	const uint8_t *start = __executable_start + 0x1000, *end = etext;
	unsigned long n = 0;
	uint64_t best = UINT64_MAX;

	for (unsigned round = 0; round < 20; round++) {
		uint64_t t = now_ns();

		n = 0;
		for (const uint8_t *p = start; p + 64 < end; n++) {
			struct bt_insn insn;

			p += bt_decode(p, 64, BT_BITS_64, &insn) == BT_DECODE_OK ? insn.len : 1;
		}
		t = now_ns() - t;
		best = t < best ? t : best;
	}
	print_message("# %.1f ns for each of %lu instructions\n", (double)best / (double)n, n);
	assert_true(best / n < 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows_are_contiguous), cmocka_unit_test(test_short_and_long),
		cmocka_unit_test(test_opcode_space),        cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_exceptions_are_needed), cmocka_unit_test(test_speed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
