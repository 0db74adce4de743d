/* The decoder against the host's processor: what is #UD, how long instructions are, what they read and write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "machine/cpu_state.h"
#include "modes/bt/decode_table.h"
#include "tests/unit/bt_host.h"
#include "tests/unit/bt_opspace.h"

static struct host host;
static const char *host_missing;

static int setup(void **state)
{
	host_missing = host_start(&host);
	return 0;
}

static int teardown(void **state)
{
	if (!host_missing)
		host_stop(&host);
	return 0;
}

#define NEED_HOST()                                             \
	do {                                                    \
		if (host_missing) {                             \
			print_message("# %s\n", host_missing);  \
			skip();                                 \
		}                                               \
	} while (0)

/* All of the opcode space, or a share of it that keeps `make check` short. */
static unsigned sweep_step(void)
{
	return getenv("BT_DECODE_FULL") ? 1 : 97;
}

/* ---- what the processor and we may differ about ------------------------------------------------ */

struct exception {
	const char *name; /* of our decoding */
	const char *reason;
};

/* Ours decodes it, the host (AMD or Intel, at CPL 3) may say #UD. */
static const struct exception we_decode[] = {
	{ "rsm", "#UD outside of SMM: the helper's business" },
	{ "getsec", "#UD without CR4.SMXE: the helper's business" },
	{ "vmcall", "#UD on AMD and without a hypervisor: the helper's business" },
	{ "vmmcall", "#UD on Intel: the helper's business" },
	{ "sysenter", "#UD in long mode on AMD: the helper's business" },
	{ "sysexit", "#UD in long mode on AMD: the helper's business" },
	{ "syscall", "#UD outside 64-bit mode on Intel: the helper's business" },
	{ "sysret", "#UD outside 64-bit mode on Intel: the helper's business" },
	{ "clac", "#UD at CPL 3: the helper's business" },
	{ "stac", "#UD at CPL 3: the helper's business" },
	{ "monitor", "#UD at CPL 3 or without the feature: the helper's business" },
	{ "mwait", "#UD at CPL 3 or without the feature: the helper's business" },
	{ "monitorx", "#UD without the feature: the helper's business" },
	{ "mwaitx", "#UD without the feature: the helper's business" },
	{ "rdpkru", "#UD without CR4.PKE: the helper's business" },
	{ "wrpkru", "#UD without CR4.PKE: the helper's business" },
	{ "xsaves", "#UD without the feature: the helper's business" },
	{ "xrstors", "#UD without the feature: the helper's business" },
	{ "clzero", "an AMD instruction" },
	{ "extrq", "an AMD instruction" },
	{ "insertq", "an AMD instruction" },
	{ "movntss", "an AMD instruction" },
	{ "movntsd", "an AMD instruction" },
	{ "gf2p8mulb", "GFNI is not everywhere" },
	{ "vgf2p8mulb", "GFNI is not everywhere" },
	{ "gf2p8affineqb", "GFNI is not everywhere" },
	{ "vgf2p8affineqb", "GFNI is not everywhere" },
	{ "gf2p8affineinvqb", "GFNI is not everywhere" },
	{ "vgf2p8affineinvqb", "GFNI is not everywhere" },
};

static bool listed(const struct exception *list, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i].name, name))
			return true;
	return false;
}

/* ---- the sweep ---------------------------------------------------------------------------------------- */

struct sweep {
	unsigned long tried, ran, ud, skipped, wrong;
	unsigned long counter;
};

/* Not to be run under a tracer: they would leave it, wait, or ask the hypervisor. */
static bool keep_away(const struct bt_insn *insn)
{
	return insn->handler == BT_OP_vmcall || insn->handler == BT_OP_vmmcall || insn->handler == BT_OP_mwait;
}

static void report(struct sweep *s, const char *what, const uint8_t *code, const struct bt_insn *insn, enum bt_bits bits)
{
	if (s->wrong++ > 60)
		return;
	fprintf(stderr, "# %s: %d bits, ours %s %u bytes %s:", what, bits, insn->cls ? "ok" : "#UD", insn->len, insn->name);
	for (int i = 0; i < 12; i++)
		fprintf(stderr, " %02x", code[i]);
	fprintf(stderr, "\n");
}

/* Where AMD's and Intel's processors differ and we follow one of them. Returns the reason, or NULL. */
static const char *vendor_difference(const uint8_t *code, const struct bt_insn *insn, enum bt_bits bits)
{
	if (insn->encoding == BT_ENC_VEX && insn->map == BT_MAP_0F3A) {
		if (insn->opcode <= 1 && !insn->vex_w)
			return "vpermq, vpermpd: AMD ignores VEX.W";
		if ((insn->opcode == 0x16 || insn->opcode == 0x22) && insn->vex_w && bits != BT_BITS_64)
			return "pextrd, pinsrd: Intel ignores VEX.W outside 64-bit mode";
	}
	if (insn->map == BT_MAP_0F && insn->opcode == 0x00 && (insn->flags & BT_I_LOCK))
		return "AMD checks the operand of sldt..verw before it says #UD because of LOCK";
	if (insn->map == BT_MAP_0F && insn->opcode == 0x01 && insn->modrm >= 0xd8 && insn->modrm <= 0xdf)
		return "SVM: no CPUID model of ours has it";
	if (insn->map == BT_MAP_0F && (insn->opcode == 0x20 || insn->opcode == 0x22) && (insn->flags & BT_I_LOCK))
		return "AMD's alternative encoding of CR8, a feature that no CPUID model of ours has";
	return NULL;
}

/* Near branches in 64-bit mode with a 66 prefix: AMD, whom we follow, makes them 16-bit, Intel ignores it. */
static bool vendor_branch(const uint8_t *code, const struct bt_insn *insn, enum bt_bits bits)
{
	if (__builtin_cpu_is("amd") || bits != BT_BITS_64 || !memchr(code, 0x66, insn->opcode_off))
		return false;
	return insn->cls == BT_CLASS_JCC || insn->cls == BT_CLASS_JMP || insn->cls == BT_CLASS_CALL;
}

static void check_one(void *arg, const uint8_t *code, enum bt_bits bits)
{
	struct sweep *s = arg;
	struct bt_insn insn;
	enum bt_decode_result result = bt_decode(code, 15, bits, &insn);
	enum host_outcome out;

	if (s->counter++ % sweep_step())
		return;
	if (keep_away(&insn)) {
		s->skipped++;
		return;
	}
	s->tried++;
	if (result == BT_DECODE_INVALID) {
		host_place(&host, code, 15, bits);
		out = host_step(&host);
		s->ud++;
		if (out != HOST_UD && !vendor_difference(code, &insn, bits))
			report(s, "host decodes it", code, &insn, bits);
		return;
	}
	host_place(&host, code, insn.len, bits);
	out = host_step(&host);
	if (out == HOST_UD) {
		if (!listed(we_decode, ARRAY_SIZE(we_decode), insn.name) && !vendor_difference(code, &insn, bits))
			report(s, "host says #UD", code, &insn, bits);
		s->ud++;
		return;
	}
	s->ran++;
	if (vendor_branch(code, &insn, bits))
		return;
	if (out == HOST_FETCH)
		report(s, "host finds it longer", code, &insn, bits);
	host_place(&host, code, insn.len - 1, bits);
	if (host_step(&host) != HOST_FETCH)
		report(s, "host finds it shorter", code, &insn, bits);
}

static void finish(const struct sweep *s)
{
	print_message("# %lu tried: %lu valid, %lu #UD, %lu kept away; %lu wrong\n", s->tried, s->ran, s->ud, s->skipped,
		      s->wrong);
	assert_int_not_equal(s->ran, 0);
	assert_int_equal(s->wrong, 0);
}

static void sweep_mode(enum bt_bits bits)
{
	struct sweep s = { 0 };

	NEED_HOST();
	if (bits == BT_BITS_16 && !host.has_bits[0])
		skip();
	opspace_each(bits, check_one, &s);
	finish(&s);
}

static void test_validity_and_length_64(void **state)
{
	sweep_mode(BT_BITS_64);
}

static void test_validity_and_length_32(void **state)
{
	sweep_mode(BT_BITS_32);
}

static void test_validity_and_length_16(void **state)
{
	sweep_mode(BT_BITS_16);
}

/* ---- addresses: lea tells what the processor computes ------------------------------------------------ */

static unsigned long long *gpr(struct user_regs_struct *r, unsigned n)
{
	unsigned long long *const at[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
					     &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15 };
	return at[n];
}

static uint64_t effective_address(const struct bt_insn *insn, struct user_regs_struct *regs)
{
	uint64_t ea = (uint64_t)insn->disp;

	if (insn->flags & BT_I_RIP_REL)
		ea += regs->rip + insn->len;
	if (insn->base != 0xff)
		ea += *gpr(regs, insn->base);
	if (insn->index != 0xff)
		ea += *gpr(regs, insn->index) << insn->scale;
	return insn->addrsize == 8 ? ea : insn->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static uint64_t seed = 0x5eed0003;

static void check_lea(struct sweep *s, const uint8_t *code, enum bt_bits bits)
{
	struct bt_insn insn;
	uint64_t want, got;

	if (bt_decode(code, 15, bits, &insn) != BT_DECODE_OK || insn.cls != BT_CLASS_LEA) {
		report(s, "lea is no lea", code, &insn, bits);
		return;
	}
	s->ran++;
	host_place(&host, code, insn.len, bits);
	for (unsigned i = 0; i < 16; i++)
		*gpr(&host.regs, i) = bits == BT_BITS_64 ? opspace_random64(&seed) : (uint32_t)opspace_random64(&seed);
	want = effective_address(&insn, &host.regs);
	if (insn.opsize < 8)
		want &= insn.opsize == 4 ? 0xffffffff : 0xffff;
	if (host_step(&host) != HOST_RAN)
		report(s, "lea does not run", code, &insn, bits);
	got = *gpr(&host.regs, insn.modrm_reg) & (insn.opsize == 2 ? 0xffff : UINT64_MAX);
	if (got != want)
		report(s, "another address", code, &insn, bits);
}

/* Every ModRM with a memory operand, every SIB, address sizes, and in 64-bit mode REX bits. */
static void each_address(struct sweep *s, enum bt_bits bits, void (*fn)(struct sweep *s, const uint8_t *code, enum bt_bits bits),
			 const uint8_t *opcode, unsigned opcode_bytes, unsigned stride)
{
	unsigned counter = 0;

	for (unsigned rex = 0x40; rex < (bits == BT_BITS_64 ? 0x50 : 0x41); rex++)
		for (unsigned addr = 0; addr < 2; addr++)
			for (unsigned modrm = 0; modrm < 0xc0; modrm++)
				for (unsigned sib = 0; sib < ((modrm & 7) == 4 ? 256 : 1); sib++) {
					uint8_t code[32] = { 0 };
					unsigned n = 0;

					if ((sib && ++counter % stride) || (modrm >> 3 & 7) == GPR_RSP)
						continue;
					if (addr)
						code[n++] = 0x67;
					if (bits == BT_BITS_64)
						code[n++] = rex;
					memcpy(code + n, opcode, opcode_bytes);
					n += opcode_bytes;
					code[n++] = modrm;
					code[n++] = sib;
					memcpy(code + n, (uint8_t[]){ 0x85, 0xf7, 0xff, 0xff, 0xff }, 5);
					fn(s, code, bits);
				}
}

static void test_addresses(void **state)
{
	struct sweep s = { 0 };
	unsigned stride = getenv("BT_DECODE_FULL") ? 1 : 37;

	NEED_HOST();
	for (enum bt_bits bits = host.has_bits[0] ? BT_BITS_16 : BT_BITS_32; bits <= BT_BITS_64; bits *= 2)
		each_address(&s, bits, check_lea, (uint8_t[]){ 0x8d }, 1, stride);
	s.tried = s.ran;
	finish(&s);
}

/* With a null selector in DS whatever goes through DS is #GP, and what goes through SS at worst a page fault. */
static void check_segment(struct sweep *s, const uint8_t *code, enum bt_bits bits)
{
	struct bt_insn insn;
	bool through_ds;

	if (bt_decode(code, 15, bits, &insn) != BT_DECODE_OK) {
		report(s, "mov is no mov", code, &insn, bits);
		return;
	}
	s->ran++;
	host_place(&host, code, insn.len, bits);
	host.regs.ds = 0;
	through_ds = host_step(&host) == HOST_FAULT && host.general_protection;
	if (through_ds != (insn.seg == SEG_DS))
		report(s, "another segment", code, &insn, bits);
}

static void test_default_segments(void **state)
{
	struct sweep s = { 0 };
	unsigned stride = getenv("BT_DECODE_FULL") ? 1 : 7;

	NEED_HOST();
	for (enum bt_bits bits = host.has_bits[0] ? BT_BITS_16 : BT_BITS_32; bits <= BT_BITS_32; bits *= 2)
		each_address(&s, bits, check_segment, (uint8_t[]){ 0x8b }, 1, stride);
	s.tried = s.ran;
	finish(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_validity_and_length_64),
		cmocka_unit_test(test_validity_and_length_32),
		cmocka_unit_test(test_validity_and_length_16),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_default_segments),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
