/* CPUID: what it offers works, and what it says hangs together. */
#include "k.h"

enum { EAX, EBX, ECX, EDX };

/* ---- one instruction of each feature ---------------------------------------------------- */

#define FEATURES(_)                                                                                                                  \
	_(1, EDX, 0, fpu, "fld1\n\tfstp %st(0)")                                                                                     \
	_(1, EDX, 4, tsc, "rdtsc")                                                                                                   \
	_(1, EDX, 5, msr, "mov $0x10, %ecx\n\trdmsr")                                                                                \
	_(1, EDX, 8, cx8, "lock cmpxchg8b (%rdi)")                                                                                   \
	_(1, EDX, 15, cmov, "cmovz %eax, %ecx")                                                                                      \
	_(1, EDX, 19, clflush, "clflush (%rdi)")                                                                                     \
	_(1, EDX, 23, mmx, "paddb %mm0, %mm1\n\temms")                                                                               \
	_(1, EDX, 24, fxsr, "fxsave (%rdi)\n\tfxrstor (%rdi)")                                                                       \
	_(1, EDX, 25, sse, "addps %xmm0, %xmm1\n\tprefetchnta (%rdi)\n\tsfence")                                                     \
	_(1, EDX, 26, sse2, "paddq %xmm0, %xmm1\n\tlfence\n\tmfence\n\tmovnti %eax, (%rdi)")                                         \
	_(1, ECX, 0, sse3, "addsubps %xmm0, %xmm1\n\tfldz\n\tfisttpl (%rdi)")                                                        \
	_(1, ECX, 1, pclmulqdq, "pclmulqdq $0, %xmm0, %xmm1")                                                                        \
	_(1, ECX, 3, monitor, "mov %rdi, %rax\n\txor %ecx, %ecx\n\txor %edx, %edx\n\tmonitor")                                       \
	_(1, ECX, 9, ssse3, "pabsb %xmm0, %xmm1")                                                                                    \
	_(1, ECX, 12, fma, "vfmadd213ps %ymm0, %ymm1, %ymm2")                                                                        \
	_(1, ECX, 13, cx16, "lock cmpxchg16b (%rdi)")                                                                                \
	_(1, ECX, 19, sse4_1, "pminsd %xmm0, %xmm1\n\troundps $0, %xmm0, %xmm1")                                                     \
	_(1, ECX, 20, sse4_2, "crc32b (%rdi), %eax\n\tpcmpgtq %xmm0, %xmm1\n\tpcmpistri $0, %xmm0, %xmm1")                           \
	_(1, ECX, 22, movbe, "movbe (%rdi), %eax\n\tmovbe %rax, (%rdi)")                                                             \
	_(1, ECX, 23, popcnt, "popcnt %rax, %rcx")                                                                                   \
	_(1, ECX, 25, aes, "aesenc %xmm0, %xmm1\n\taeskeygenassist $1, %xmm0, %xmm1")                                                \
	_(1, ECX, 26, xsave, "mov $3, %eax\n\txor %edx, %edx\n\txsave 64(%rdi)\n\txrstor 64(%rdi)")                                  \
	_(1, ECX, 28, avx, "vaddps %ymm0, %ymm1, %ymm2\n\tvzeroupper")                                                               \
	_(1, ECX, 29, f16c, "vcvtph2ps %xmm0, %ymm1")                                                                                \
	_(1, ECX, 30, rdrand, "rdrand %rax")                                                                                         \
	_(7, EBX, 3, bmi1, "andn %eax, %ecx, %edx\n\tblsr %rax, %rcx\n\ttzcnt %rax, %rcx")                                           \
	_(7, EBX, 5, avx2, "vpaddd %ymm0, %ymm1, %ymm2\n\tvpcmpeqd %ymm3, %ymm3, %ymm3\n\tvpxor %xmm1, %xmm1, %xmm1\n\tvpgatherdd %ymm3, (%rdi, %ymm1, 4), %ymm2")  \
	_(7, EBX, 8, bmi2, "pdep %rax, %rcx, %rdx\n\tmulx %rax, %rcx, %rbx\n\trorx $3, %rax, %rcx\n\tshlx %rax, %rcx, %rdx")         \
	_(7, EBX, 18, rdseed, "rdseed %rax")                                                                                         \
	_(7, EBX, 19, adx, "adcx %rax, %rcx\n\tadox %rax, %rcx")                                                                     \
	_(7, EBX, 20, smap, "clac\n\tstac\n\tclac")                                                                                  \
	_(7, EBX, 23, clflushopt, "clflushopt (%rdi)")                                                                               \
	_(7, EBX, 24, clwb, "clwb (%rdi)")                                                                                           \
	_(7, EBX, 29, sha, "sha1nexte %xmm0, %xmm1\n\tsha256msg1 %xmm0, %xmm1")                                                      \
	_(7, ECX, 8, gfni, "gf2p8mulb %xmm0, %xmm1")                                                                                 \
	_(7, ECX, 9, vaes, "vaesenc %ymm0, %ymm1, %ymm2")                                                                            \
	_(7, ECX, 10, vpclmulqdq, "vpclmulqdq $0, %ymm0, %ymm1, %ymm2")                                                              \
	_(7, ECX, 22, rdpid, "rdpid %rax")                                                                                           \
	_(7, ECX, 27, movdiri, "movdiri %eax, (%rdi)")                                                                               \
	_(0x80000001, ECX, 0, lahf_lm, "lahf\n\tsahf")                                                                               \
	_(0x80000001, ECX, 4, cr8_legacy, "nop")                                                                                     \
	_(0x80000001, ECX, 5, lzcnt, "lzcnt %rax, %rcx")                                                                             \
	_(0x80000001, ECX, 6, sse4a, "extrq $4, $4, %xmm0\n\tmovntsd %xmm0, (%rdi)")                                                 \
	_(0x80000001, ECX, 8, prefetchw, "prefetchw (%rdi)")                                                                         \
	_(0x80000001, EDX, 22, mmxext, "pavgb %mm0, %mm1\n\temms")                                                                   \
	_(0x80000001, EDX, 27, rdtscp, "rdtscp")                                                                                     \
	_(0x80000008, EBX, 0, clzero, "mov %rdi, %rax\n\tclzero")                                                                    \
	_(0x80000008, EBX, 9, wbnoinvd, "wbnoinvd")

#define DEFINE(leaf, reg, bit, name, text) CODE(feature_##name, "and $-64, %rdi\n\t" text "\n\t" DONE);
FEATURES(DEFINE)

static const struct feature {
	uint32_t leaf;
	uint8_t reg, bit;
	const char *name;
	const void *code;
} features[] = {
#define ROW(leaf, reg, bit, name, text) {leaf, reg, bit, #name, feature_##name},
	FEATURES(ROW)
};

static void set_xcr0(uint64_t v)
{
	__asm__ volatile("xsetbv" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(0));
}

static void enable_avx(void)
{
	uint32_t r[4];

	if (!cpu_has(1, ECX, 26))
		return;
	cr4_set(cr4_get() | CR4_OSXSAVE);
	cpuid(0xd, 0, r);
	set_xcr0(r[0] & 7);
}

static void offered_instructions_work(void)
{
	uint8_t *page = page_alloc();
	unsigned offered = 0, hidden = 0;

	enable_avx();
	__asm__ volatile("fninit");
	map(TEST_VA, page, PTE_P | PTE_W | PTE_U);
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];
		bool has = cpu_has(f->leaf, f->reg, f->bit);
		uint64_t ex;

		if (!has) {
			hidden++;
			continue;
		}
		offered++;
		ex = run0(f->code, TEST_VA);
		if (ex != EX_DONE)
			test_failure(__FILE__, __LINE__, "%s is offered, but: %s", f->name, ex_name(ex));
		if (f->code == feature_msr || f->code == feature_smap || f->code == feature_wbnoinvd || f->code == feature_monitor)
			continue;
		ex = run3(f->code, TEST_VA);
		if (ex != EX_DONE)
			test_failure(__FILE__, __LINE__, "%s is offered, but at ring 3: %s", f->name, ex_name(ex));
	}
	note("%u of %u features are offered", offered, offered + hidden);
}

/* Instructions that no model of ours offers and software probes for by their faults. */
CODE(x_vmcall, "mov $-1, %rax\n\tvmcall\n\t" DONE);
CODE(x_vmxoff, "vmxoff\n\t" DONE);
CODE(x_vmread, "vmread %rax, %rcx\n\t" DONE);
CODE(x_vmrun, "vmrun\n\t" DONE);
CODE(x_stgi, "stgi\n\t" DONE);
CODE(x_invept, "invept (%rdi), %rax\n\t" DONE);
CODE(x_rsm, "rsm\n\t" DONE);
CODE(x_xbegin, "xbegin 1f\n\txend\n\t1: " DONE);
CODE(x_mwait, "mov %rdi, %rax\n\txor %ecx, %ecx\n\tmwait\n\t" DONE);
CODE(x_avx512, "vpaddd %zmm0, %zmm1, %zmm2\n\t" DONE);
CODE(x_invpcid, "xor %eax, %eax\n\tinvpcid (%rdi), %rax\n\t" DONE);
CODE(x_getsec, "xor %eax, %eax\n\tgetsec\n\t" DONE);

static void hidden_instructions_are_undefined(void)
{
	static const struct {
		const char *name;
		uint32_t leaf;
		uint8_t reg, bit;
		const void *code;
	} rows[] = {
		{"vmxoff", 1, ECX, 5, x_vmxoff}, {"vmread", 1, ECX, 5, x_vmread}, {"invept", 1, ECX, 5, x_invept},
		{"vmrun", 0x80000001, ECX, 2, x_vmrun}, {"stgi", 0x80000001, ECX, 2, x_stgi}, {"xbegin", 7, EBX, 11, x_xbegin},
		{"mwait", 1, ECX, 3, x_mwait}, {"AVX-512", 7, EBX, 16, x_avx512}, {"invpcid", 7, EBX, 10, x_invpcid},
		{"getsec", 1, ECX, 6, x_getsec}, {"rsm", 1, EDX, 31, x_rsm}, {"stac", 7, EBX, 20, feature_smap},
	};

	enable_avx();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t ex;

		if (cpu_has(rows[i].leaf, rows[i].reg, rows[i].bit))
			continue;
		ex = run0(rows[i].code, (uint64_t)page_alloc());
		if (ex != EX_UD)
			test_failure(__FILE__, __LINE__, "%s is not offered, but: %s", rows[i].name, ex_name(ex));
	}
}

/* ---- leaves ---------------------------------------------------------------------------------- */

static void leaves_hang_together(void)
{
	uint32_t r[4], s[4], max, ext_max;
	char brand[49] = {0};

	cpuid(0, 0, r);
	max = r[0];
	CHECK(max >= 0xd);
	cpuid(0x80000000, 0, r);
	ext_max = r[0];
	CHECK(ext_max >= 0x80000008);
	for (uint32_t i = 0; i < 3; i++)
		cpuid(0x80000002 + i, 0, (uint32_t *)(brand + 16 * i));
	CHECK(brand[0] != 0);
	note("%s", brand);
	/* OSXSAVE mirrors CR4. */
	cr4_set(cr4_get() & ~CR4_OSXSAVE);
	CHECK(!cpu_has(1, ECX, 27));
	if (cpu_has(1, ECX, 26)) {
		cr4_set(cr4_get() | CR4_OSXSAVE);
		CHECK(cpu_has(1, ECX, 27));
	}
	/* Sub-leaves that are not there are zero. */
	cpuid(7, 0, r);
	cpuid(7, r[0] + 1, s);
	CHECK(!s[0] && !s[1] && !s[2] && !s[3]);
	cpuid(7, 0x12345678, s);
	CHECK(!s[0] && !s[1] && !s[2] && !s[3]);
	if (cpu_is_amd()) {
		cpuid(max + 5, 0, s);
		CHECK(!s[0] && !s[1] && !s[2] && !s[3]);
		cpuid(ext_max + 100, 0, s);
		CHECK(!s[0] && !s[1] && !s[2] && !s[3]);
	}
	/* The upper halves of the registers are cleared. */
	uint64_t a = ~0ul, b = ~0ul, c = 0, d = ~0ul;
	a = 0xffffffff00000000ul;
	c = 0xffffffff00000000ul;
	__asm__ volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
	CHECK(!(a >> 32) && !(b >> 32) && !(c >> 32) && !(d >> 32));
	/* Features that need others. */
	if (cpu_has(7, EBX, 5))
		CHECK(cpu_has(1, ECX, 28));
	if (cpu_has(1, ECX, 28))
		CHECK(cpu_has(1, ECX, 26));
	CHECK(cpu_has(0x80000001, EDX, 29) && cpu_has(0x80000001, EDX, 20) && cpu_has(0x80000001, EDX, 11));
	/* Physical addresses. */
	cpuid(0x80000008, 0, r);
	CHECK((r[0] & 0xff) >= 36 && (r[0] & 0xff) <= 52);
	CHECK((r[0] >> 8 & 0xff) == 48 || (r[0] >> 8 & 0xff) == 57);
	/* APIC ids agree. */
	cpuid(1, 0, r);
	SAME(r[1] >> 24, lapic_read(LAPIC_ID) >> 24);
	if (max >= 0xb) {
		cpuid(0xb, 0, s);
		SAME(s[3], r[1] >> 24);
	}
}

static void xsave_sizes(void)
{
	uint32_t r[4], s[4];

	if (!cpu_has(1, ECX, 26)) {
		test_skip("no XSAVE");
		return;
	}
	cr4_set(cr4_get() | CR4_OSXSAVE);
	set_xcr0(1);
	cpuid(0xd, 0, r);
	SAME(r[1], 576);
	set_xcr0(3);
	cpuid(0xd, 0, r);
	SAME(r[1], 576);
	CHECK(r[2] >= 576);
	if (r[0] & 4) {
		set_xcr0(7);
		cpuid(0xd, 0, r);
		cpuid(0xd, 2, s);
		SAME(s[0], 256);
		SAME(s[1], 576);
		SAME(r[1], 832);
		set_xcr0(3);
	}
	/* The largest is what all components together need. */
	uint32_t end = 576, mask = r[0];
	for (unsigned i = 2; i < 32; i++) {
		cpuid(0xd, i, s);
		if (!(mask >> i & 1)) {
			if (i != 8 && i != 11 && i != 12) /* supervisor components */
				SAME(s[0], 0);
			continue;
		}
		if (s[1] + s[0] > end)
			end = s[1] + s[0];
	}
	cpuid(0xd, 0, r);
	SAME(r[2], end);
}

/* CPUID from ring 3 says the same. */
CODE(user_cpuid, "mov %edi, %eax\n\txor %ecx, %ecx\n\tcpuid\n\t" DONE);

static void the_same_at_ring_3(void)
{
	static const uint32_t leaves[] = {0, 1, 7, 0xd, 0x80000000, 0x80000001, 0x80000008};

	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		struct regs r = regs3(user_cpuid);
		uint32_t k[4];

		cpuid(leaves[i], 0, k);
		r.rdi = leaves[i];
		EXPECT(run_regs(&r), EX_DONE);
		CHECK(r.rax == k[0] && r.rbx == k[1] && r.rcx == k[2] && r.rdx == k[3]);
	}
}

/* KVM's clock may lie at any multiple of 4, which is no natural place for its 8-byte fields, nor does it touch what is beside it. */
static void clock_of_kvm(void)
{
	static uint32_t page[16] __attribute__((aligned(64)));
	uint32_t k[4];

	if (!cpu_has(1, ECX, 31))
		return;
	cpuid(0x40000000, 0, k);
	if (k[1] != 0x4b4d564b)
		return;
	cpuid(0x40000001, 0, k);
	if (!(k[0] & 1u << 3))
		return;
	for (unsigned at = 4; at < 8; at++) {
		for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = 0x5a5a5a5a;
		wrmsr(0x4b564d01, (uint64_t)&page[at] | 1);
		/* version, padding, two 8-byte values, multiplier, shift and flags */
		CHECK(!(page[at] & 1) && page[at] != 0x5a5a5a5a && page[at + 6] != 0x5a5a5a5a && page[at + 6]);
		CHECK(page[at - 1] == 0x5a5a5a5a && page[at + 8] == 0x5a5a5a5a);
		wrmsr(0x4b564d01, 0);
	}
}

/* vmcall is a hypercall where the hypervisor leaf offers KVM's, and #UD elsewhere: nothing in between. */
static void hypercalls(void)
{
	struct regs r = regs0(x_vmcall);
	uint64_t ex = run_regs(&r);
	bool kvm = false;
	uint32_t k[4];

	if (cpu_has(1, ECX, 31)) {
		cpuid(0x40000000, 0, k);
		kvm = k[1] == 0x4b4d564b;
	}
	if (kvm) {
		EXPECT(ex, EX_DONE);
		SAME((int64_t)r.rax, -1000); /* -KVM_ENOSYS */
	} else {
		EXPECT(ex, EX_UD);
	}
}

TESTS({"offered instructions work", offered_instructions_work}, {"hidden instructions are undefined", hidden_instructions_are_undefined},
      {"leaves hang together", leaves_hang_together}, {"XSAVE sizes", xsave_sizes}, {"the same at ring 3", the_same_at_ring_3},
      {"hypercalls", hypercalls}, {"KVM's clock", clock_of_kvm});
