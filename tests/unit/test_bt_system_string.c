/* String instructions, vector-state images, MSRs with KVM's clock, and the adjustments of old. */
#include "tests/unit/bt_system_env.h"

#include <string.h>
#include <time.h>

static struct env env;

static int setup(void **state)
{
	const char *why = env_start(&env);

	if (why)
		print_error("%s\n", why);
	return why ? -1 : 0;
}

static int teardown(void **state)
{
	env_stop(&env);
	return 0;
}

#define GPR(r) (env.v->cs.gpr[GPR_##r])

static void fill(gpa_t gpa, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++)
		env.ram[gpa + i] = (uint8_t)(i * 7 + 1);
}

static void operands(uint64_t rsi, uint64_t rdi, uint64_t rcx)
{
	GPR(RSI) = rsi;
	GPR(RDI) = rdi;
	GPR(RCX) = rcx;
}

/* ---- movs and stos ------------------------------------------------------------------------ */

/* Against a plain model, for every size, distance and direction, over page ends. */
static void test_movs_overlapping(void **state)
{
	static const uint8_t code[4][3] = {{0xf3, 0xa4}, {0x66, 0xf3, 0xa5}, {0xf3, 0xa5}, {0xf3, 0x48, 0xa5}};
	static const uint8_t lengths[] = {2, 3, 2, 3};
	static const int distance[] = {-9, -8, -1, 0, 1, 3, 4, 8, 13, 64, 4096, 5000};
	const unsigned area = 0x6000, count = 600;
	uint8_t *model = test_malloc(area);
	unsigned s, d, down, i;

	for (s = 0; s < 4; s++) {
		for (d = 0; d < ARRAY_SIZE(distance); d++) {
			for (down = 0; down < 2; down++) {
				unsigned size = 1u << s, from = 0x800 + 3, to = (unsigned)((int)from + distance[d]);

				env_long_mode(&env, 0);
				fill(ENV_DATA, area);
				memcpy(model, env.ram + ENV_DATA, area);
				for (i = 0; i < count; i++) {
					unsigned at = (down ? count - 1 - i : i) * size;
					uint64_t value = 0;

					memcpy(&value, model + from + at, size);
					memcpy(model + to + at, &value, size);
				}
				if (down) {
					env.v->cs.rflags |= RFLAGS_DF;
					operands(ENV_DATA + from + (count - 1) * size, ENV_DATA + to + (count - 1) * size,
						 count);
				} else {
					operands(ENV_DATA + from, ENV_DATA + to, count);
				}
				assert_int_equal(env_op(&env, code[s], lengths[s]), RAN);
				assert_memory_equal(env.ram + ENV_DATA, model, area);
				assert_int_equal(GPR(RCX), 0);
				assert_int_equal(GPR(RSI), down ? ENV_DATA + from - size : ENV_DATA + from + count * size);
				assert_int_equal(GPR(RDI), down ? ENV_DATA + to - size : ENV_DATA + to + count * size);
			}
		}
	}
	test_free(model);
}

/* Unmaps the 2 MiB page that starts here. */
static void unmap(gva_t gva)
{
	put64(&env, ENV_PML4 + 0x2000 + (gva >> 21) * 8, 0);
	bt_tlb_flush(env.v, true);
}

static void test_movs_faults_half_way(void **state)
{
	env_long_mode(&env, 0);
	unmap(0x600000);
	fill(0x5ff000, 0x1000);
	operands(0x5ff000, 0x5ffffb, 100); /* five bytes fit */
	assert_raised(&env, ENV_OP(&env, 0xf3, 0xa4), VEC_PF, PF_W);
	assert_int_equal(env.v->cs.cr2, 0x600000);
	assert_int_equal(GPR(RCX), 95);
	assert_int_equal(GPR(RSI), 0x5ff005);
	assert_int_equal(GPR(RDI), 0x600000);
	assert_int_equal(env.v->cs.rip, ENV_CODE);
	/* An element across the end faults whole. */
	operands(0x5ff000, 0x5ffffc, 1);
	assert_raised(&env, ENV_OP(&env, 0xf3, 0x48, 0xa5), VEC_PF, PF_W);
	assert_int_equal(env.v->cs.cr2, 0x600000);
	assert_int_equal(GPR(RCX), 1);
	assert_int_equal(GPR(RDI), 0x5ffffc);
	/* Reading down into an absent page. */
	env.v->cs.rflags |= RFLAGS_DF;
	operands(0x800003, ENV_DATA + 0x100, 8);
	unmap(0x600000);
	assert_raised(&env, ENV_OP(&env, 0xf3, 0xa4), VEC_PF, 0);
	assert_int_equal(env.v->cs.cr2, 0x7fffff);
	assert_int_equal(GPR(RCX), 4);
}

static void test_stos_and_a_count_of_zero(void **state)
{
	unsigned i;

	env_long_mode(&env, 0);
	GPR(RAX) = 0x1122334455667788;
	operands(0, ENV_DATA + 4, 1500);
	assert_int_equal(ENV_OP(&env, 0xf3, 0x48, 0xab), RAN);
	for (i = 0; i < 1500; i++)
		assert_int_equal(get64(&env, ENV_DATA + 4 + i * 8), 0x1122334455667788);
	assert_int_equal(get32(&env, ENV_DATA), 0);
	assert_int_equal(get32(&env, ENV_DATA + 4 + 12000), 0);
	operands(0, 0xdead000000000000, 0); /* not canonical, but not touched */
	assert_int_equal(ENV_OP(&env, 0xf3, 0xaa), RAN);
	operands(0, 0xdead000000000000, 1);
	assert_raised(&env, ENV_OP(&env, 0xf3, 0xaa), VEC_GP, 0);
}

static void test_a_pending_event_interrupts(void **state)
{
	env_long_mode(&env, 0);
	fill(ENV_DATA, 0x4000);
	operands(ENV_DATA, ENV_DATA + 0x8000, 0x3000);
	env.v->kicked = 1;
	assert_int_equal(ENV_OP(&env, 0xf3, 0xa4), RESUMED);
	assert_int_equal(env.v->cs.rip, ENV_CODE); /* goes on with what is left */
	assert_int_equal(GPR(RCX), 0x2000);
	assert_int_equal(GPR(RSI), ENV_DATA + 0x1000);
	env.v->kicked = 0;
	assert_int_equal(ENV_OP(&env, 0xf3, 0xa4), RAN);
	assert_memory_equal(env.ram + ENV_DATA, env.ram + ENV_DATA + 0x8000, 0x3000);
}

static void test_address_sizes_wrap(void **state)
{
	env_real(&env);
	fill(ENV_DATA, 0x10000);
	GPR(RCX) = 0x10004; /* cx: 4 */
	GPR(RSI) = 0x7fff0100;
	GPR(RDI) = 0x1234fffe;
	assert_int_equal(ENV_OP(&env, 0xf3, 0xa4), RAN);
	assert_int_equal(GPR(RCX), 0x10000);
	assert_int_equal(GPR(RSI), 0x7fff0104);
	assert_int_equal(GPR(RDI), 0x12340002);
	assert_int_equal(env.ram[ENV_DATA + 0xffff], env.ram[ENV_DATA + 0x101]);
	assert_int_equal(env.ram[ENV_DATA + 1], env.ram[ENV_DATA + 0x103]);
}

/* ---- cmps and scas --------------------------------------------------------------------------- */

static void test_compares(void **state)
{
	env_long_mode(&env, 0);
	fill(ENV_DATA, 0x3000);
	memcpy(env.ram + ENV_DATA + 0x4007, env.ram + ENV_DATA, 0x3000);
	env.ram[ENV_DATA + 0x4007 + 0x1801] ^= 0x80;
	operands(ENV_DATA, ENV_DATA + 0x4007, 0x3000);
	assert_int_equal(ENV_OP(&env, 0xf3, 0xa6), RAN);
	assert_int_equal(GPR(RCX), 0x3000 - 0x1802);
	assert_int_equal(GPR(RSI), ENV_DATA + 0x1802);
	assert_false(bt_rflags(env.v) & BT_ZF);
	/* scasb for a terminator, as strlen. */
	memset(env.ram + ENV_DATA, 'x', 0x1234);
	env.ram[ENV_DATA + 0x1234] = 0;
	GPR(RAX) = 0xffffff00;
	operands(0, ENV_DATA, ~0ull);
	assert_int_equal(ENV_OP(&env, 0xf2, 0xae), RAN);
	assert_int_equal(~GPR(RCX), 0x1235);
	assert_int_equal(GPR(RDI), ENV_DATA + 0x1235);
	assert_true(bt_rflags(env.v) & BT_ZF);
	/* Flags are those of the last comparison: 1 - 2 borrows. */
	env.ram[ENV_DATA] = 2;
	GPR(RAX) = 1;
	operands(0, ENV_DATA, 5);
	assert_int_equal(ENV_OP(&env, 0xae), RAN);
	assert_int_equal(bt_rflags(env.v) & BT_FLAGS_ARITH, BT_CF | BT_PF | BT_AF | BT_SF);
	assert_int_equal(GPR(RCX), 5);
	/* A count of 0 leaves them alone. */
	operands(0, ENV_DATA, 0);
	assert_int_equal(ENV_OP(&env, 0xf3, 0xae), RAN);
	assert_int_equal(bt_rflags(env.v) & BT_FLAGS_ARITH, BT_CF | BT_PF | BT_AF | BT_SF);
}

/* ---- vector state ------------------------------------------------------------------------------ */

static void test_xsave_and_xrstor(void **state)
{
	struct cpu_state *cs = &env.v->cs;
	const gva_t inside = ENV_DATA + 0x40, across = ENV_DATA + 0x1fc0;
	uint8_t first[832];

	env_long_mode(&env, 0);
	if (!(env.v->sys.cpuid->xcr0_mask & 4))
		skip();
	cs->cr4 |= CR4_OSXSAVE;
	cs->xcr0 = 7;
	bt_mode_changed(env.v);
	memset(env.ram + inside, 0, 832);
	fill(inside + 160, 256);
	fill(inside + 576, 256);
	put32(&env, inside + 24, 0x1f80);
	put64(&env, inside + 512, 7);
	GPR(RAX) = 7;
	GPR(RDX) = 0;
	GPR(RDI) = inside;
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f), RAN); /* xrstor64 [rdi] */
	GPR(RDI) = across;
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x27), RAN); /* xsave64 [rdi] */
	assert_memory_equal(env.ram + across + 160, env.ram + inside + 160, 256);
	assert_memory_equal(env.ram + across + 576, env.ram + inside + 576, 256);
	assert_int_equal(get64(&env, across + 512) & 6, 6);
	memcpy(first, env.ram + across, 832);
	memset(env.ram + inside, 0, 832);
	GPR(RDI) = inside;
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x27), RAN);
	assert_memory_equal(env.ram + inside, first, 832);
	/* Only what is asked for, and what XCR0 allows. */
	memset(env.ram + inside, 0x5a, 832);
	put64(&env, inside + 512, 0);
	GPR(RAX) = 2;
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x27), RAN);
	assert_int_equal(env.ram[inside + 576], 0x5a);
	assert_int_equal(get64(&env, inside + 512), 2);

	GPR(RDI) = inside + 8;
	assert_raised(&env, ENV_OP(&env, 0x48, 0x0f, 0xae, 0x27), VEC_GP, 0);
	GPR(RDI) = inside;
	put64(&env, inside + 512, 8); /* a component the guest does not have */
	assert_raised(&env, ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f), VEC_GP, 0);
	memcpy(env.ram + inside, first, 832);
	put32(&env, inside + 24, 0xffff0000);
	GPR(RAX) = 7;
	assert_raised(&env, ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f), VEC_GP, 0);
	cs->cr4 &= ~(uint64_t)CR4_OSXSAVE;
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f), RAISED);
	assert_int_equal(cs->exception_vector, VEC_UD);
	cs->exception_pending = 0;
}

static void test_fxsave_and_fxrstor(void **state)
{
	env_long_mode(&env, 0);
	memset(env.ram + ENV_DATA, 0, 512);
	*(uint16_t *)(env.ram + ENV_DATA) = 0x37f;
	put32(&env, ENV_DATA + 24, 0x1f80);
	fill(ENV_DATA + 160, 256);
	GPR(RDI) = ENV_DATA;
	assert_int_equal(ENV_OP(&env, 0x0f, 0xae, 0x0f), RAN);
	GPR(RDI) = ENV_DATA + 0xff0; /* across a page */
	env.ram[ENV_DATA + 0xff0 + 416] = 0x77;
	assert_int_equal(ENV_OP(&env, 0x0f, 0xae, 0x07), RAN);
	assert_memory_equal(env.ram + ENV_DATA + 160, env.ram + ENV_DATA + 0xff0 + 160, 256);
	assert_int_equal(get16(&env, ENV_DATA + 0xff0), 0x37f);
	assert_int_equal(env.ram[ENV_DATA + 0xff0 + 416], 0x77); /* software's own bytes */
	env.v->cs.cr0 |= CR0_TS;
	assert_int_equal(ENV_OP(&env, 0x0f, 0xae, 0x07), RAISED);
	assert_int_equal(env.v->cs.exception_vector, VEC_NM);
	env.v->cs.exception_pending = 0;
}

/* Sets all of the guest's vector registers from, or reads them to, a standard image at gva. */
static void vectors(gva_t gva, bool load)
{
	GPR(RAX) = 7;
	GPR(RDX) = 0;
	GPR(RDI) = gva;
	if (load)
		put64(&env, gva + 512, 7);
	assert_int_equal(load ? ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f) : ENV_OP(&env, 0x48, 0x0f, 0xae, 0x27), RAN);
}

#define XMM(gva, n) ((gva) + 160 + (n) * 16)
#define YMMH(gva, n) ((gva) + 576 + (n) * 16)

static void test_gather(void **state)
{
	const gva_t image = ENV_DATA + 0x4000, after = ENV_DATA + 0x5000, data = ENV_DATA + 0x800;
	unsigned i;

	env_long_mode(&env, 0);
	if (!(env.v->sys.cpuid->xcr0_mask & 4))
		skip();
	env.v->cs.cr4 |= CR4_OSXSAVE;
	env.v->cs.xcr0 = 7;
	bt_mode_changed(env.v);
	fill(ENV_DATA, 0x1000);
	memset(env.ram + image, 0, 832);
	put32(&env, image + 24, 0x1f80);
	for (i = 0; i < 8; i++) { /* ymm1: old, ymm2: indices -4.., ymm3: mask of every second */
		put32(&env, (i < 4 ? XMM(image, 1) : YMMH(image, 1) - 16) + i * 4, 0xaaaa0000 + i);
		put32(&env, (i < 4 ? XMM(image, 2) : YMMH(image, 2) - 16) + i * 4, i * 3 - 4);
		put32(&env, (i < 4 ? XMM(image, 3) : YMMH(image, 3) - 16) + i * 4, i & 1 ? 0x80000000 : 0x7fffffff);
	}
	vectors(image, true);
	GPR(RDI) = data;
	assert_int_equal(ENV_OP(&env, 0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x97), RAN); /* vpgatherdd ymm1, [rdi+ymm2*4], ymm3 */
	vectors(after, false);
	for (i = 0; i < 8; i++) {
		uint32_t got = get32(&env, (i < 4 ? XMM(after, 1) : YMMH(after, 1) - 16) + i * 4);

		assert_int_equal(got, i & 1 ? get32(&env, data + ((int)i * 3 - 4) * 4) : 0xaaaa0000 + i);
		assert_int_equal(get32(&env, (i < 4 ? XMM(after, 3) : YMMH(after, 3) - 16) + i * 4), 0);
	}
	/* A fault leaves the registers alone. */
	vectors(image, true);
	GPR(RDI) = 0x900000000000;
	assert_raised(&env, ENV_OP(&env, 0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x97), VEC_GP, 0);
	vectors(after, false);
	assert_memory_equal(env.ram + XMM(after, 1), env.ram + XMM(image, 1), 48);
	/* Four dwords by qword indices: an xmm whose upper half is cleared. */
	for (i = 0; i < 2; i++) {
		put64(&env, XMM(image, 2) + i * 8, i + 5);
		put32(&env, XMM(image, 3) + i * 4, 0x80000000);
	}
	vectors(image, true);
	GPR(RDI) = data;
	assert_int_equal(ENV_OP(&env, 0xc4, 0xe2, 0x61, 0x91, 0x0c, 0x97), RAN); /* vpgatherqd xmm1, [rdi+xmm2*4], xmm3 */
	vectors(after, false);
	assert_int_equal(get32(&env, XMM(after, 1)), get32(&env, data + 20));
	assert_int_equal(get32(&env, XMM(after, 1) + 4), get32(&env, data + 24));
	assert_int_equal(get64(&env, XMM(after, 1) + 8), 0);
	assert_int_equal(get64(&env, YMMH(after, 1)), 0);
}

static void test_maskmov_and_xlat(void **state)
{
	const gva_t image = ENV_DATA + 0x4000;
	unsigned i;

	env_long_mode(&env, 0);
	env.v->cs.cr4 |= CR4_OSXSAVE;
	env.v->cs.xcr0 = env.v->sys.cpuid->xcr0_mask;
	memset(env.ram + image, 0, 832);
	put32(&env, image + 24, 0x1f80);
	fill(XMM(image, 1), 16);
	for (i = 0; i < 16; i++)
		env.ram[XMM(image, 2) + i] = i % 3 ? 0xff : 0x7f;
	GPR(RAX) = GPR(RDX) = 0;
	GPR(RAX) = 3;
	GPR(RDI) = image;
	put64(&env, image + 512, 3);
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0xae, 0x2f), RAN);
	GPR(RDI) = ENV_DATA + 0xff8; /* across a page */
	assert_int_equal(ENV_OP(&env, 0x66, 0x0f, 0xf7, 0xca), RAN); /* maskmovdqu xmm1, xmm2 */
	for (i = 0; i < 16; i++)
		assert_int_equal(env.ram[ENV_DATA + 0xff8 + i], i % 3 ? env.ram[XMM(image, 1) + i] : 0);
	env.ram[ENV_DATA + 0x85] = 0x99;
	GPR(RBX) = ENV_DATA + 5;
	GPR(RAX) = 0x1280;
	assert_int_equal(ENV_OP(&env, 0xd7), RAN);
	assert_int_equal(GPR(RAX), 0x1299);
}

/* ---- MSRs ----------------------------------------------------------------------------------------- */

static enum outcome wrmsr(uint32_t msr, uint64_t value)
{
	GPR(RCX) = msr;
	GPR(RAX) = (uint32_t)value;
	GPR(RDX) = value >> 32;
	return ENV_OP(&env, 0x0f, 0x30);
}

static uint64_t rdmsr(uint32_t msr)
{
	GPR(RCX) = msr;
	assert_int_equal(ENV_OP(&env, 0x0f, 0x32), RAN);
	return GPR(RAX) | GPR(RDX) << 32;
}

static void test_msrs(void **state)
{
	uint32_t unknown;

	env_long_mode(&env, 0);
	assert_int_equal(wrmsr(0xc0000101, 0xffff888000000000), RAN);
	assert_int_equal(env.v->cs.seg[SEG_GS].base, 0xffff888000000000);
	assert_int_equal(rdmsr(0xc0000101), 0xffff888000000000);
	assert_raised(&env, wrmsr(0xc0000101, 0x0000900000000000), VEC_GP, 0);
	assert_raised(&env, wrmsr(0x277, 0x02), VEC_GP, 0); /* PAT: no type 2 */
	assert_int_equal(wrmsr(0x277, 0x0407050600070106), RAN);
	assert_int_equal(rdmsr(0x277), 0x0407050600070106);
	assert_int_equal(wrmsr(0x26f, 0x0606060606060606), RAN);
	assert_int_equal(rdmsr(0x26f), 0x0606060606060606);
	unknown = env.v->sys.unknown_msrs;
	assert_raised(&env, wrmsr(0xdeadbeef, 0), VEC_GP, 0);
	assert_int_equal(env.v->sys.unknown_msrs, unknown + 1);
	assert_int_equal(env.v->sys.unknown_msr_last, 0xdeadbeef);
	assert_int_equal(rdmsr(0x1b) & ~0xfffull & 0xffffffff, 0xfee00000);
	env_long_mode(&env, 3);
	assert_raised(&env, wrmsr(0xc0000101, 0), VEC_GP, 0);
}

static uint64_t guest_tsc(void)
{
	assert_int_equal(ENV_OP(&env, 0x0f, 0x31), RAN);
	return GPR(RAX) | GPR(RDX) << 32;
}

/* The guest's arithmetic over what was written must come out at the machine's clock. */
static uint64_t kvmclock_ns(gpa_t gpa, uint64_t tsc)
{
	uint64_t delta = tsc - get64(&env, gpa + 8);
	int8_t shift = (int8_t)env.ram[gpa + 28];

	assert_int_equal(get32(&env, gpa) & 1, 0);
	assert_int_equal(env.ram[gpa + 29], 1); /* stable */
	delta = shift < 0 ? delta >> -shift : delta << shift;
	return (uint64_t)((unsigned __int128)delta * get32(&env, gpa + 24) >> 32) + get64(&env, gpa + 16);
}

static void test_kvmclock(void **state)
{
	uint64_t ns, now;
	int64_t off;

	env_long_mode(&env, 0);
	bt_tsc_update(env.v);
	put32(&env, ENV_DATA, 7); /* garbage: an odd version */
	assert_int_equal(wrmsr(0x4b564d01, ENV_DATA | 1), RAN);
	now = machine_clock_ns(env.machine);
	ns = kvmclock_ns(ENV_DATA, guest_tsc());
	off = (int64_t)(ns - now);
	assert_true(off > -1000000 && off < 5000000);
	/* A guest that sets its TSC back finds its clock where it was. */
	assert_int_equal(wrmsr(0x10, 1000), RAN);
	assert_true(guest_tsc() < 100000000);
	now = machine_clock_ns(env.machine);
	off = (int64_t)(kvmclock_ns(ENV_DATA, guest_tsc()) - now);
	assert_true(off > -1000000 && off < 5000000);
	assert_int_equal(wrmsr(0x3b, 0), RAN);

	assert_int_equal(wrmsr(0x4b564d00, ENV_DATA + 64), RAN);
	assert_int_equal(get32(&env, ENV_DATA + 64) & 1, 0);
	ns = (uint64_t)get32(&env, ENV_DATA + 68) * 1000000000 + get32(&env, ENV_DATA + 72) +
	     machine_clock_ns(env.machine);
	off = (int64_t)(ns / 1000000000) - (int64_t)time(NULL);
	assert_true(off >= -1 && off <= 1);
}

/* ---- 16- and 32-bit code only ------------------------------------------------------------------------- */

static void test_adjustments(void **state)
{
	env_protected(&env, 0);
	bt_set_rflags(env.v, 2 | BT_AF);
	GPR(RAX) = 0x79 + 0x35; /* 79 + 35 = 114 in BCD: ae adjusts to 14, carry */
	ENV_OP(&env, 0x27);
	assert_int_equal(GPR(RAX) & 0xff, 0x14);
	assert_true(bt_rflags(env.v) & BT_CF);
	bt_set_rflags(env.v, 2 | BT_AF | BT_CF);
	GPR(RAX) = (0x35 - 0x47) & 0xff; /* 35 - 47 = -12: 88, borrow */
	ENV_OP(&env, 0x2f);
	assert_int_equal(GPR(RAX) & 0xff, 0x88);
	assert_true(bt_rflags(env.v) & BT_CF);
	GPR(RAX) = 123;
	ENV_OP(&env, 0xd4, 10);
	assert_int_equal(GPR(RAX) & 0xffff, 12 << 8 | 3);
	ENV_OP(&env, 0xd5, 10);
	assert_int_equal(GPR(RAX) & 0xffff, 123);
	assert_int_equal(ENV_OP(&env, 0xd4, 0), RAISED);
	assert_int_equal(env.v->cs.exception_vector, VEC_DE);
	env.v->cs.exception_pending = 0;
	bt_set_rflags(env.v, 2);
	GPR(RAX) = 0x020f;
	ENV_OP(&env, 0x37);
	assert_int_equal(GPR(RAX) & 0xffff, 0x0305);
}

static void test_pusha_popa_enter(void **state)
{
	unsigned i;

	env_protected(&env, 0);
	for (i = 0; i < 8; i++)
		env.v->cs.gpr[i] = 0x1000 + i;
	GPR(RSP) = ENV_STACK;
	assert_int_equal(ENV_OP(&env, 0x60), RAN);
	assert_int_equal(GPR(RSP), ENV_STACK - 32);
	assert_int_equal(get32(&env, ENV_STACK - 20), ENV_STACK); /* esp as it was */
	for (i = 0; i < 8; i++)
		if (i != GPR_RSP)
			env.v->cs.gpr[i] = 0;
	assert_int_equal(ENV_OP(&env, 0x61), RAN);
	for (i = 0; i < 8; i++)
		assert_int_equal(env.v->cs.gpr[i], i == GPR_RSP ? ENV_STACK : 0x1000 + i);
	GPR(RBP) = ENV_STACK + 0x100;
	put32(&env, ENV_STACK + 0x100 - 4, 0xabcd);
	assert_int_equal(ENV_OP(&env, 0xc8, 0x10, 0, 2), RAN);
	assert_int_equal(GPR(RBP), ENV_STACK - 4);
	assert_int_equal(GPR(RSP), ENV_STACK - 12 - 0x10);
	assert_int_equal(get32(&env, ENV_STACK - 4), ENV_STACK + 0x100);
	assert_int_equal(get32(&env, ENV_STACK - 8), 0xabcd);
	assert_int_equal(get32(&env, ENV_STACK - 12), ENV_STACK - 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_movs_overlapping),
		cmocka_unit_test(test_movs_faults_half_way),
		cmocka_unit_test(test_stos_and_a_count_of_zero),
		cmocka_unit_test(test_a_pending_event_interrupts),
		cmocka_unit_test(test_address_sizes_wrap),
		cmocka_unit_test(test_compares),
		cmocka_unit_test(test_xsave_and_xrstor),
		cmocka_unit_test(test_fxsave_and_fxrstor),
		cmocka_unit_test(test_gather),
		cmocka_unit_test(test_maskmov_and_xlat),
		cmocka_unit_test(test_msrs),
		cmocka_unit_test(test_kvmclock),
		cmocka_unit_test(test_adjustments),
		cmocka_unit_test(test_pusha_popa_enter),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
