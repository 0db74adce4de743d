/* The CPUID model of a VM: the host's features, less what no mode can give, plus what the engines emulate. */
#include "machine/cpuid.h"
#include "machine/devices/lapic.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

/* Leaf 1. */
#define L1_ECX_HOST                                                                                                    \
	(BIT(0) /* sse3 */ | BIT(1) /* pclmulqdq */ | BIT(9) /* ssse3 */ | BIT(12) /* fma */ | BIT(13) /* cx16 */ |      \
	 BIT(19) /* sse4.1 */ | BIT(20) /* sse4.2 */ | BIT(22) /* movbe */ | BIT(23) /* popcnt */ | BIT(25) /* aes */ |  \
	 BIT(26) /* xsave */ | BIT(28) /* avx */ | BIT(29) /* f16c */ | BIT(30) /* rdrand */)
#define L1_ECX_OURS (BIT(21) /* x2apic */ | BIT(24) /* tsc deadline */ | BIT(31) /* hypervisor */)
#define L1_ECX_XSAVE BIT(26)
#define L1_ECX_OSXSAVE BIT(27)
/* No VME (bit 1): vm86 interrupt redirection is not modelled; no DS, ACPI throttling, SS, TM, PBE. */
#define L1_EDX_HOST                                                                                                    \
	(BIT(0) /* fpu */ | BIT(2) /* de */ | BIT(3) /* pse */ | BIT(4) /* tsc */ | BIT(5) /* msr */ | BIT(6) /* pae */ | \
	 BIT(7) /* mce */ | BIT(8) /* cx8 */ | BIT(9) /* apic */ | BIT(11) /* sep */ | BIT(12) /* mtrr */ |              \
	 BIT(13) /* pge */ | BIT(14) /* mca */ | BIT(15) /* cmov */ | BIT(16) /* pat */ | BIT(17) /* pse36 */ |          \
	 BIT(19) /* clflush */ | BIT(23) /* mmx */ | BIT(24) /* fxsr */ | BIT(25) /* sse */ | BIT(26) /* sse2 */)
#define L1_EDX_HTT BIT(28)

/*
 * Leaf 7.0. Not: HLE/RTM (an abort inside a translation would be ours), MPX, AVX-512, PKU, LA57, CET, AMX. What has a
 * name in proto/cpu_features.def may be had otherwise.
 */
#define L7_EBX_HOST                                                                                                    \
	(BIT(0) /* fsgsbase */ | BIT(3) /* bmi1 */ | BIT(5) /* avx2 */ | BIT(7) /* smep */ | BIT(8) /* bmi2 */ |         \
	 BIT(9) /* erms */ | BIT(18) /* rdseed */ | BIT(19) /* adx */ | BIT(23) /* clflushopt */ | BIT(24) /* clwb */ |  \
	 BIT(29) /* sha */)
#define L7_EBX_OURS BIT(1) /* tsc_adjust */
#define L7_EBX_AVX2 BIT(5)
#define L7_ECX_HOST (BIT(8) /* gfni */ | BIT(9) /* vaes */ | BIT(10) /* vpclmulqdq */ | BIT(22) /* rdpid */)
#define L7_ECX_NEEDS_AVX (BIT(9) | BIT(10))
#define L7_ECX_OURS BIT(2)  /* umip */
#define L7_EDX_HOST BIT(4)  /* fsrm */
#define L7_EDX_ARCH_CAP BIT(29)
/* A guest on the processor itself needs its means against speculation: MD_CLEAR, IBRS, STIBP, L1D_FLUSH, SSBD. */
#define L7_EDX_HARDWARE (BIT(10) | BIT(26) | BIT(27) | BIT(28) | L7_EDX_ARCH_CAP | BIT(31))
/* Leaf 7.1: fast zero-length rep movsb, short rep stosb, short rep cmpsb/scasb: strings are one helper. */
#define L7_1_EAX_HOST (BIT(10) | BIT(11) | BIT(12))

#define L1_ECX_NEEDS_AVX (BIT(12) | BIT(28) | BIT(29)) /* gone when XCR0 cannot hold AVX */

/* Leaf 0x80000001. Not: SVM, EXTAPIC, CR8_LEGACY (lock mov cr0), XOP, FMA4, TBM, OSVW, FXSR_OPT, 3DNow!. */
#define X1_ECX_HOST                                                                                                    \
	(BIT(0) /* lahf */ | BIT(5) /* lzcnt */ | BIT(6) /* sse4a */ | BIT(7) /* misaligned sse */ | BIT(8) /* prefetchw */ |                 \
	 BIT(22) /* topoext */)
#define X1_ECX_CMP_LEGACY BIT(1)
#define X1_ECX_TOPOEXT BIT(22)
#define X1_EDX_HOST                                                                                                    \
	(BIT(11) /* syscall */ | BIT(20) /* nx */ | BIT(22) /* mmxext */ | BIT(26) /* 1g pages */ | BIT(27) /* rdtscp */ | \
	 BIT(29) /* long mode */)
#define X1_EDX_SHARED 0x0183f3ffu /* AMD repeats these bits of leaf 1 here */

/*
 * Speculation. Under bt the engine decides what guest code may run past, not the guest: its mitigations (retpolines,
 * return thunks, IBPB and VERW storms) protect nothing and cost the translator most. So the model says that the
 * processor is immune, and that AutoIBRS or enhanced IBRS stand in for retpolines. A VM that may move onto the
 * processor itself (cpuid_config.hardware) sees only what the host claims.
 */
#define X8_EBX_HOST (BIT(0) /* clzero */ | BIT(2) /* xsaveerptr */)
#define X8_EBX_SSB_NO BIT(26)
#define X8_EBX_BTC_NO BIT(29)
#define X8_EBX_HARDWARE (BIT(12) /* ibpb */ | BIT(14) /* ibrs */ | BIT(15) /* stibp */ | BIT(24) /* ssbd */)
#define X21_EAX_LFENCE_RDTSC BIT(2)
#define X21_EAX_NULL_SEL_CLR_BASE BIT(6)
#define X21_EAX_AUTO_IBRS BIT(8)
#define X21_EAX_SRSO_NO BIT(29)
#define X21_EAX_SRSO_USER_KERNEL_NO BIT(30)
#define X21_ECX_TSA_NO (BIT(1) /* TSA_SQ_NO */ | BIT(2) /* TSA_L1_NO */)

#define KVM_SIGNATURE 0x4b4d564b, 0x564b4d56, 0x4d /* "KVMKVMKVM" */
/* What every mode has; and what bt has, and a KVM mostly. No asynchronous page faults: nothing here waits for the host's pages. */
#define KVM_ALWAYS (KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 | KVM_FEATURE_CLOCKSOURCE_STABLE)
#define KVM_ENGINE                                                                                                     \
	(KVM_FEATURE_STEAL_TIME | KVM_FEATURE_PV_EOI | KVM_FEATURE_PV_UNHALT | KVM_FEATURE_PV_TLB_FLUSH |               \
	 KVM_FEATURE_PV_SEND_IPI | KVM_FEATURE_PV_SCHED_YIELD)

#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u
#define XSAVE_LEGACY_BYTES 576u /* FXSAVE image and header */

struct builder {
	struct cpuid_model *model;
	const struct cpuid_config *config;
	const struct cpuid_host *host;
	bool amd, intel;
	uint32_t host_max, host_ext_max;
	unsigned apic_shift; /* bits of APIC id below the package */
	uint32_t leaf1_edx;
};

static void this_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__cpuid_count(leaf, subleaf, r[EAX], r[EBX], r[ECX], r[EDX]);
}

static uint64_t this_xcr0(void)
{
	uint32_t r[4], lo, hi;

	this_cpuid(NULL, 1, 0, r);
	if (!(r[ECX] & L1_ECX_OSXSAVE))
		return 0;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

static void host_leaf(const struct builder *b, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	uint32_t max = leaf >= 0x80000000u ? b->host_ext_max : b->host_max;

	memset(r, 0, 4 * sizeof(*r));
	if (leaf <= max)
		b->host->cpuid(b->host->opaque, leaf, subleaf, r);
}

static void add(struct builder *b, uint32_t leaf, int subleaf, const uint32_t r[4])
{
	struct cpuid_leaf *l = &b->model->leaf[b->model->count];

	BUG_ON(b->model->count >= CPUID_MODEL_MAX);
	b->model->count++;
	l->leaf = leaf;
	l->has_subleaf = subleaf >= 0;
	l->subleaf = subleaf >= 0 ? (uint32_t)subleaf : 0;
	l->eax = r[EAX];
	l->ebx = r[EBX];
	l->ecx = r[ECX];
	l->edx = r[EDX];
}

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* What XCR0 may hold: x87, SSE and AVX, as far as the host's own XCR0 has them. */
static void find_xcr0(struct builder *b)
{
	struct cpuid_model *m = b->model;
	uint32_t r[4], end;

	m->xcr0_mask = XCR0_X87 | XCR0_SSE;
	m->xsave_bytes = XSAVE_LEGACY_BYTES;
	if (!(b->host->xcr0 & XCR0_AVX))
		return;
	m->xcr0_mask |= XCR0_AVX;
	host_leaf(b, 0xd, 2, r);
	end = r[EBX] + r[EAX];
	if (end > m->xsave_bytes)
		m->xsave_bytes = end;
}

static void add_basic(struct builder *b)
{
	uint32_t r[4], f[4];
	unsigned n = b->config->vcpus;
	bool avx = b->model->xcr0_mask & XCR0_AVX;

	host_leaf(b, 0, 0, r);
	r[EAX] = 0xd;
	add(b, 0, -1, r);

	host_leaf(b, 1, 0, r);
	r[EBX] = (r[EBX] & 0xff00) | n << 16; /* CLFLUSH line; APIC id is filled in by cpuid_query */
	r[ECX] = (r[ECX] & L1_ECX_HOST) | L1_ECX_OURS;
	if (!b->host->xcr0)
		r[ECX] &= ~L1_ECX_XSAVE;
	if (!avx)
		r[ECX] &= ~L1_ECX_NEEDS_AVX;
	r[EDX] = (r[EDX] & L1_EDX_HOST) | (n > 1 ? L1_EDX_HTT : 0);
	b->leaf1_edx = r[EDX];
	add(b, 1, -1, r);

	if (b->intel) {
		unsigned i;

		host_leaf(b, 2, 0, r);
		add(b, 2, -1, r);
		for (i = 0; i < 8; i++) {
			host_leaf(b, 4, i, r);
			if (!(r[EAX] & 0x1f))
				break;
			/* Own caches for each core; the last level is shared by the package. */
			r[EAX] &= 0x3fff;
			if ((r[EAX] >> 5 & 7) >= 3)
				r[EAX] |= ((1u << b->apic_shift) - 1) << 14;
			r[EAX] |= ((1u << b->apic_shift) - 1) << 26;
			add(b, 4, i, r);
		}
	}
	memset(r, 0, sizeof(r));
	r[EAX] = BIT(2); /* ARAT: the timer keeps running in any halt */
	add(b, 6, -1, r);

	host_leaf(b, 7, 0, f);
	memset(r, 0, sizeof(r));
	r[EBX] = (f[EBX] & L7_EBX_HOST) | L7_EBX_OURS;
	r[ECX] = (f[ECX] & L7_ECX_HOST) | L7_ECX_OURS;
	if (b->config->hardware)
		r[ECX] &= f[ECX] | ~L7_ECX_OURS;
	if (!avx) {
		r[EBX] &= ~L7_EBX_AVX2;
		r[ECX] &= ~L7_ECX_NEEDS_AVX;
	}
	r[EDX] = f[EDX] & L7_EDX_HOST;
	if (b->config->hardware)
		r[EDX] |= f[EDX] & L7_EDX_HARDWARE;
	else if (b->intel)
		r[EDX] |= L7_EDX_ARCH_CAP;
	r[EAX] = f[EAX] >= 1;
	add(b, 7, 0, r);
	if (r[EAX]) {
		host_leaf(b, 7, 1, f);
		memset(r, 0, sizeof(r));
		r[EAX] = f[EAX] & L7_1_EAX_HOST;
		add(b, 7, 1, r);
	}
}

/* N cores of one thread each in one package. EDX, the x2APIC id, is filled in by cpuid_query. */
static void add_topology(struct builder *b)
{
	uint32_t r[4] = {0, 1, 0x100, 0};

	add(b, 0xb, 0, r);
	r[EAX] = b->apic_shift;
	r[EBX] = b->config->vcpus;
	r[ECX] = 0x201;
	add(b, 0xb, 1, r);
	memset(r, 0, sizeof(r));
	r[ECX] = 2;
	add(b, 0xb, 2, r);
}

static void add_xsave(struct builder *b)
{
	struct cpuid_model *m = b->model;
	uint32_t r[4], f[4];

	if (!b->host->xcr0)
		return;
	memset(r, 0, sizeof(r));
	r[EAX] = (uint32_t)m->xcr0_mask;
	r[EBX] = XSAVE_LEGACY_BYTES; /* for the present XCR0: cpuid_query */
	r[ECX] = m->xsave_bytes;
	r[EDX] = (uint32_t)(m->xcr0_mask >> 32);
	add(b, 0xd, 0, r);
	host_leaf(b, 0xd, 1, f);
	memset(r, 0, sizeof(r));
	r[EAX] = f[EAX] & 7; /* xsaveopt, xsavec, xgetbv(1); never xsaves */
	r[EBX] = XSAVE_LEGACY_BYTES;
	add(b, 0xd, 1, r);
	if (m->xcr0_mask & XCR0_AVX) {
		host_leaf(b, 0xd, 2, r);
		r[ECX] &= 2;
		r[EDX] = 0;
		add(b, 0xd, 2, r);
	}
}

/*
 * Guest tools, and systemd for them, look for VMware at the first leaf and nowhere else; who knows KVM looks at each
 * multiple of 0x100 for it. Linux takes the hypervisor that it finds at the highest leaf, which is then KVM: it has
 * kvmclock and the rest as without VMware's leaves.
 */
static void add_vmware(struct builder *b)
{
	uint32_t r[4] = {CPUID_HYPERVISOR + 0x10, 0x61774d56, 0x4d566572, 0x65726177}; /* "VMwareVMware" */

	add(b, CPUID_HYPERVISOR, -1, r);
	memset(r, 0, sizeof(r));
	r[EAX] = (uint32_t)b->config->tsc_khz;
	r[EBX] = (uint32_t)(LAPIC_BUS_HZ / 1000);
	add(b, CPUID_HYPERVISOR + 0x10, -1, r);
}

static void add_paravirt(struct builder *b)
{
	uint32_t base = b->config->vmware ? CPUID_HYPERVISOR + CPUID_HYPERVISOR_STEP : CPUID_HYPERVISOR;
	uint32_t r[4] = {base + 1, KVM_SIGNATURE};

	if (!b->config->paravirt)
		return;
	add(b, base, -1, r);
	memset(r, 0, sizeof(r));
	r[EAX] = KVM_ALWAYS;
	if (!b->config->hardware) {
		r[EAX] |= KVM_ENGINE;
	} else {
		uint32_t f[4];
		b->host->cpuid(b->host->opaque, CPUID_HYPERVISOR + 1, 0, f);
		r[EAX] |= f[EAX] & KVM_ENGINE;
	}
	add(b, base + 1, -1, r);
}

/* Cache sizes as the host's, sharing as our topology. */
static void add_amd_caches(struct builder *b)
{
	uint32_t r[4];
	unsigned i;

	host_leaf(b, 0x80000005, 0, r);
	add(b, 0x80000005, -1, r);
	for (i = 0; i < 8; i++) {
		host_leaf(b, 0x8000001d, i, r);
		if (!(r[EAX] & 0x1f))
			break;
		r[EAX] &= 0x3fff;
		if ((r[EAX] >> 5 & 7) >= 3)
			r[EAX] |= (b->config->vcpus - 1) << 14;
		add(b, 0x8000001d, i, r);
	}
	memset(r, 0, sizeof(r)); /* APIC and core id: cpuid_query; one thread, one node */
	add(b, 0x8000001e, -1, r);
}

static void add_amd_speculation(struct builder *b, const uint32_t f[4])
{
	uint32_t r[4] = {0};

	r[EAX] = f[EAX] & X21_EAX_NULL_SEL_CLR_BASE;
	r[EAX] |= X21_EAX_LFENCE_RDTSC & f[EAX];
	if (b->config->hardware) {
		r[EAX] |= f[EAX] & (X21_EAX_SRSO_NO | X21_EAX_SRSO_USER_KERNEL_NO);
		r[ECX] = f[ECX] & X21_ECX_TSA_NO;
	} else {
		/* A null selector clears the base, as bt loads them. */
		r[EAX] |= X21_EAX_LFENCE_RDTSC | X21_EAX_NULL_SEL_CLR_BASE | X21_EAX_AUTO_IBRS | X21_EAX_SRSO_NO |
			  X21_EAX_SRSO_USER_KERNEL_NO;
		r[ECX] = X21_ECX_TSA_NO;
	}
	add(b, 0x80000021, -1, r);
}

static void add_extended(struct builder *b)
{
	uint32_t r[4], f[4];
	uint32_t leaf, max = b->amd ? 0x80000021u : 0x80000008u;
	unsigned n = b->config->vcpus;

	host_leaf(b, 0x80000000u, 0, r);
	r[EAX] = max;
	add(b, 0x80000000u, -1, r);

	host_leaf(b, 0x80000001u, 0, f);
	memset(r, 0, sizeof(r));
	r[EAX] = f[EAX];
	r[EBX] = f[EBX] & 0xf0000000u; /* package type */
	r[ECX] = f[ECX] & X1_ECX_HOST;
	r[EDX] = f[EDX] & X1_EDX_HOST;
	if (b->amd) {
		r[EDX] |= b->leaf1_edx & X1_EDX_SHARED & f[EDX];
		if (n > 1)
			r[ECX] |= X1_ECX_CMP_LEGACY;
	}
	add(b, 0x80000001u, -1, r);

	for (leaf = 0x80000002u; leaf <= 0x80000004u; leaf++) {
		host_leaf(b, leaf, 0, r);
		add(b, leaf, -1, r);
	}
	host_leaf(b, 0x80000006u, 0, r);
	add(b, 0x80000006u, -1, r);

	memset(r, 0, sizeof(r));
	r[EDX] = BIT(8); /* invariant TSC */
	add(b, 0x80000007u, -1, r);

	host_leaf(b, 0x80000008u, 0, f);
	memset(r, 0, sizeof(r));
	b->model->phys_bits = (uint8_t)f[EAX];
	if (b->config->phys_bits_max && b->model->phys_bits > b->config->phys_bits_max)
		b->model->phys_bits = (uint8_t)b->config->phys_bits_max;
	r[EAX] = b->model->phys_bits | 48 << 8; /* no LA57, whatever the host has */
	if (b->amd) {
		r[EBX] = f[EBX] & X8_EBX_HOST;
		r[EBX] |= b->config->hardware ? f[EBX] & (X8_EBX_SSB_NO | X8_EBX_BTC_NO | X8_EBX_HARDWARE) :
						X8_EBX_SSB_NO | X8_EBX_BTC_NO;
		r[ECX] = b->apic_shift << 12 | (n - 1);
	}
	add(b, 0x80000008u, -1, r);

	if (!b->amd)
		return;
	add_amd_caches(b);
	host_leaf(b, 0x80000021u, 0, f);
	add_amd_speculation(b, f);
}

void cpuid_model_build(struct cpuid_model *ret_model, const struct cpuid_config *config)
{
	const struct cpuid_host host = {.cpuid = this_cpuid, .xcr0 = this_xcr0()};

	cpuid_model_build_for(ret_model, config, &host);
}

/* ---- features by name ---------------------------------------------------------------------- */

enum source { HOST, ENGINE, REQUEST, AVX512 };

static const struct feature {
	const char *name;
	uint32_t leaf;
	uint8_t subleaf, reg, bit, source;
} features[] = {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source) {#name, leaf, subleaf, reg, bit, source},
#include "proto/cpu_features.def"
#undef CPU_FEATURE
};

/* Which other feature it cannot do without; CPU_FEATURE_COUNT: none. */
static unsigned needs(unsigned i)
{
	switch (i) {
	case CPU_FEATURE_avx: return CPU_FEATURE_xsave;
	case CPU_FEATURE_fma:
	case CPU_FEATURE_f16c:
	case CPU_FEATURE_avx2:
	case CPU_FEATURE_vaes:
	case CPU_FEATURE_vpclmulqdq: return CPU_FEATURE_avx;
	default: return CPU_FEATURE_COUNT;
	}
}

static bool host_has(const struct cpuid_host *host, const struct feature *f)
{
	uint32_t r[4], max[4];

	host->cpuid(host->opaque, f->leaf & 0x80000000u, 0, max);
	if (f->leaf > max[EAX])
		return false;
	host->cpuid(host->opaque, f->leaf, f->subleaf, r);
	return r[f->reg] >> f->bit & 1;
}

/* NULL: it can be had. */
static const char *why_not(const uint8_t *wish, unsigned i, const struct cpuid_host *host)
{
	const struct feature *f = &features[i];

	if ((f->source == HOST || f->source == AVX512) && !host_has(host, f))
		return "this host's processor does not have it; leave it out, or choose a host that has it";
	if (f->source == AVX512)
		return "no mode runs AVX-512 code yet; leave it out";
	for (unsigned n = i; n < CPU_FEATURE_COUNT; n = needs(n)) {
		if (wish[n] == CPU_FEATURE_OFF)
			return "it needs another feature that is switched off (xsave, avx)";
		if ((n == CPU_FEATURE_avx && !(host->xcr0 & XCR0_AVX)) || (n == CPU_FEATURE_xsave && !host->xcr0))
			return "this host's kernel does not let programs use XSAVE or AVX";
	}
	return NULL;
}

bool cpuid_features_check_for(const uint8_t *wish, const struct cpuid_host *host, char *ret_why, size_t bytes)
{
	for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
		const char *why = wish[i] == CPU_FEATURE_ON ? why_not(wish, i, host) : NULL;
		if (!why)
			continue;
		snprintf(ret_why, bytes, "cpu.features.%s: %s", features[i].name, why);
		return false;
	}
	return true;
}

bool cpuid_features_check(const uint8_t *wish, char *ret_why, size_t bytes)
{
	const struct cpuid_host host = {.cpuid = this_cpuid, .xcr0 = this_xcr0()};

	return cpuid_features_check_for(wish, &host, ret_why, bytes);
}

static uint8_t wish_of(const struct cpuid_config *config, unsigned i)
{
	return config->features ? config->features[i] : CPU_FEATURE_DEFAULT;
}

/* The engines' own features, and what was switched off. HOST features are there already. */
static void apply_features(struct cpuid_model *m, const struct cpuid_config *config)
{
	for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
		const struct feature *f = &features[i];
		uint8_t wish = wish_of(config, i);

		for (unsigned k = 0; k < m->count; k++) {
			struct cpuid_leaf *l = &m->leaf[k];
			uint32_t *r[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};
			if (l->leaf != f->leaf || (l->has_subleaf && l->subleaf != f->subleaf))
				continue;
			if (wish == CPU_FEATURE_OFF)
				*r[f->reg] &= ~BIT(f->bit);
			else if (f->source == ENGINE || (f->source == REQUEST && wish == CPU_FEATURE_ON))
				*r[f->reg] |= BIT(f->bit);
		}
	}
}

void cpuid_model_build_for(struct cpuid_model *ret_model, const struct cpuid_config *config,
			   const struct cpuid_host *host)
{
	struct cpuid_host less = *host; /* what others depend on goes first */
	struct builder b = {.model = ret_model, .config = config, .host = &less};
	uint32_t r[4];

	memset(ret_model, 0, sizeof(*ret_model));
	if (wish_of(config, CPU_FEATURE_xsave) == CPU_FEATURE_OFF)
		less.xcr0 = 0;
	else if (wish_of(config, CPU_FEATURE_avx) == CPU_FEATURE_OFF)
		less.xcr0 &= ~(uint64_t)XCR0_AVX;
	host->cpuid(host->opaque, 0, 0, r);
	b.host_max = r[EAX];
	/* "AuthenticAMD", "HygonGenuine"; "GenuineIntel" */
	b.amd = r[ECX] == 0x444d4163 || r[ECX] == 0x656e6975;
	b.intel = r[ECX] == 0x6c65746e;
	host->cpuid(host->opaque, 0x80000000u, 0, r);
	b.host_ext_max = r[EAX];
	b.apic_shift = bits_for(config->vcpus);
	find_xcr0(&b);
	add_basic(&b);
	add_topology(&b);
	add_xsave(&b);
	if (config->vmware)
		add_vmware(&b);
	add_paravirt(&b);
	add_extended(&b);
	if (!ret_model->phys_bits)
		ret_model->phys_bits = 36;
	apply_features(ret_model, config);
}

#define NO_VECTORS __attribute__((target("general-regs-only")))

NO_VECTORS static const struct cpuid_leaf *find(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf)
{
	unsigned i;

	for (i = 0; i < m->count; i++) {
		const struct cpuid_leaf *l = &m->leaf[i];

		if (l->leaf == leaf && (!l->has_subleaf || l->subleaf == subleaf))
			return l;
	}
	return NULL;
}

NO_VECTORS uint32_t cpuid_kvm_base(const struct cpuid_model *model)
{
	static const uint32_t kvm[] = {KVM_SIGNATURE};

	for (uint32_t leaf = CPUID_HYPERVISOR; leaf < CPUID_HYPERVISOR + 16 * CPUID_HYPERVISOR_STEP; leaf += CPUID_HYPERVISOR_STEP) {
		const struct cpuid_leaf *l = find(model, leaf, 0);
		if (l && l->ebx == kvm[0] && l->ecx == kvm[1] && l->edx == kvm[2])
			return leaf;
	}
	return 0;
}

/* Size of the XSAVE area for these components. With AVX alone, standard and compacted format agree. */
NO_VECTORS static uint32_t xsave_size(const struct cpuid_model *m, uint64_t xcr0)
{
	return xcr0 & m->xcr0_mask & XCR0_AVX ? m->xsave_bytes : XSAVE_LEGACY_BYTES;
}

/*
 * A basic leaf out of range: Intel answers with the highest basic leaf's data, AMD with zeros; we answer zeros.
 * Called by translated code's helpers: touches no vector register, calls nothing.
 */
NO_VECTORS void cpuid_query(const struct cpuid_model *model, unsigned index, uint64_t cr4, uint64_t xcr0, uint32_t leaf,
			    uint32_t subleaf, uint32_t ret_regs[4])
{
	const struct cpuid_leaf *l = find(model, leaf, subleaf);

	ret_regs[EAX] = ret_regs[EBX] = ret_regs[ECX] = ret_regs[EDX] = 0;
	if (l) {
		ret_regs[EAX] = l->eax;
		ret_regs[EBX] = l->ebx;
		ret_regs[ECX] = l->ecx;
		ret_regs[EDX] = l->edx;
	}
	switch (leaf) {
	case 1:
		ret_regs[EBX] |= index << 24;
		if (cr4 & BIT(18))
			ret_regs[ECX] |= L1_ECX_OSXSAVE;
		break;
	case 0xb:
		if (!l)
			ret_regs[ECX] = subleaf & 0xff;
		ret_regs[EDX] = index;
		break;
	case 0xd:
		if (l && subleaf <= 1)
			ret_regs[EBX] = xsave_size(model, xcr0);
		break;
	case 0x8000001e:
		if (l) {
			ret_regs[EAX] = index;
			ret_regs[EBX] = index & 0xff;
		}
		break;
	default:
		break;
	}
}
