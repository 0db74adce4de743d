/* Model-specific registers: one table, what is hot first; and KVM's clock, which a guest asks for through MSRs. */
#include <time.h>

#include "machine/paravirt.h"
#include "modes/bt/helper.h"

#define SPEC_CTRL_BITS 7u /* IBRS, STIBP, SSBD */
#define MTRR_CAP 0x508u   /* write combining, fixed ranges, 8 variable ones */
#define HWCR_TSC_FREQ_SEL (1u << 24)
#define DE_CFG_LFENCE_SERIALIZE 2u
#define VM_CR_SVM_DISABLED 0x10u
#define FEATURE_CONTROL_LOCKED 1u
#define AMD_PATCH_LEVEL 0x01000065u
#define INTEL_PATCH_LEVEL (1ull << 32)

/*
 * IA32_ARCH_CAPABILITIES: under bt the engine governs what may run ahead, so the guest needs none of its mitigations.
 * RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
 * BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
 */
#define ARCH_CAPABILITIES                                                                                              \
	(1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 |  \
	 1ull << 15 | 1ull << 20 | 1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62)

struct msr;
typedef bool msr_read_fn(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret);
typedef bool msr_write_fn(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value);

enum vendor { BOTH, INTEL, AMD, PARAVIRT };

struct msr {
	uint32_t first, last;
	uint8_t vendor; /* who has it */
	msr_read_fn *read;
	msr_write_fn *write;
	uint64_t arg; /* offset in struct cpu_state, or a constant */
};

/* ---- kinds -------------------------------------------------------------------------------- */

static uint64_t *field(struct bt_vcpu *v, const struct msr *m, uint32_t number)
{
	return (uint64_t *)((char *)&v->cs + m->arg) + (number - m->first);
}

static bool read_field(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	*ret = *field(v, m, number);
	return true;
}

static bool write_field(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	*field(v, m, number) = value;
	return true;
}

static bool write_canonical(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	if (!bt_canonical(value))
		return false;
	*field(v, m, number) = value;
	return true;
}

static bool write_low32(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	*field(v, m, number) = (uint32_t)value;
	return true;
}

static bool read_constant(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	*ret = m->arg;
	return true;
}

static bool write_ignored(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	return true;
}

static bool write_zero(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	return value == 0;
}

/* ---- APIC ----------------------------------------------------------------------------------- */

static bool read_apic(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	bool ok;

	bt_pv_eoi_settle(v);
	bt_fpu_leave(v);
	ok = machine_apic_msr_read(v->machine, v->index, number, ret);
	bt_fpu_enter(v);
	return ok;
}

static bool write_apic(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	bool ok;

	bt_pv_eoi_settle(v);
	bt_fpu_leave(v);
	ok = machine_apic_msr_write(v->machine, v->index, number, value);
	bt_fpu_enter(v);
	return ok;
}

/* The machine's deadlines are in its own TSC; a guest that wrote its TSC counts differently. */
static bool read_deadline(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	if (!read_apic(v, m, number, ret))
		return false;
	if (*ret)
		*ret += v->sys.tsc_delta;
	return true;
}

static bool write_deadline(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	return write_apic(v, m, number, value ? value - v->sys.tsc_delta : 0);
}

/* ---- mode ------------------------------------------------------------------------------------- */

static bool write_efer(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	uint64_t old = v->cs.efer;

	value &= ~(uint64_t)EFER_LMA;
	if (value & ~v->sys.efer_allowed)
		return false;
	if (((old ^ value) & EFER_LME) && (v->cs.cr0 & CR0_PG))
		return false;
	v->cs.efer = value | (old & EFER_LMA);
	if ((old ^ value) & EFER_NXE)
		bt_tlb_flush(v, true);
	bt_mode_changed(v);
	return true;
}

/* Memory types: UC WC WT WP WB, and UC- for PAT. */
static bool type_ok(unsigned type, bool pat)
{
	return type < 8 && ((pat ? 0xf3u : 0x73u) >> type & 1);
}

static bool write_pat(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	unsigned i;

	for (i = 0; i < 64; i += 8) {
		if (!type_ok(value >> i & 0xff, true))
			return false;
	}
	v->cs.pat = value;
	return true;
}

/* Memory types change nothing here (guest memory is host write-back memory): they are kept for who reads them. */
static bool write_mtrr_var(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	bool mask = number & 1;

	if (value & ~(v->sys.phys_mask | 0xfff))
		return false;
	if (mask ? value & 0x7ff : (value & 0xf00) || !type_ok(value & 0xff, false))
		return false;
	*field(v, m, number) = value;
	return true;
}

static const uint32_t mtrr_fixed_number[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

static uint64_t *mtrr_fixed(struct bt_vcpu *v, uint32_t number)
{
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(mtrr_fixed_number); i++) {
		if (mtrr_fixed_number[i] == number)
			return &v->cs.mtrr_fixed[i];
	}
	return NULL;
}

static bool read_mtrr_fixed(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	uint64_t *value = mtrr_fixed(v, number);

	if (!value)
		return false;
	*ret = *value;
	return true;
}

static bool write_mtrr_fixed(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	uint64_t *to = mtrr_fixed(v, number);
	unsigned i;

	if (!to)
		return false;
	for (i = 0; i < 64; i += 8) {
		if (!type_ok(value >> i & 0xff, false))
			return false;
	}
	*to = value;
	return true;
}

static bool write_mtrr_def(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	if ((value & ~0xcffull) || !type_ok(value & 0xff, false))
		return false;
	v->cs.mtrr_def_type = value;
	return true;
}

static bool write_spec_ctrl(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	if (value & ~(uint64_t)SPEC_CTRL_BITS)
		return false;
	v->cs.spec_ctrl = value;
	return true;
}

static bool read_arch_capabilities(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	uint32_t r[4];

	cpuid_query(v->sys.cpuid, v->index, 0, 0, 7, 0, r);
	if (!(r[3] & 1u << 29))
		return false;
	*ret = ARCH_CAPABILITIES;
	return true;
}

/* ---- time ---------------------------------------------------------------------------------------- */

static uint64_t guest_tsc(const struct bt_vcpu *v)
{
	return __builtin_ia32_rdtsc() + v->cs.tsc_offset;
}

static void tsc_shift(struct bt_vcpu *v, uint64_t delta)
{
	v->sys.tsc_delta += delta;
	v->cs.tsc_offset += delta;
	v->cs.tsc_adjust += delta;
}

static bool read_tsc(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t *ret)
{
	*ret = guest_tsc(v);
	return true;
}

static void kvmclock_update(struct bt_vcpu *v);

static bool write_tsc(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	tsc_shift(v, value - guest_tsc(v));
	kvmclock_update(v);
	return true;
}

static bool write_tsc_adjust(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	tsc_shift(v, value - v->cs.tsc_adjust);
	kvmclock_update(v);
	return true;
}

void bt_tsc_update(struct bt_vcpu *v)
{
	uint64_t offset = machine_tsc_offset(v->machine) + v->sys.tsc_delta;

	if (offset == v->cs.tsc_offset)
		return;
	v->cs.tsc_offset = offset;
	kvmclock_update(v);
}

/* ---- KVM's clock (Documentation/virt/kvm/x86/msr.rst) ------------------------------------------------ */

/* A guest may put both at any multiple of 4. */
struct __attribute__((packed, aligned(4))) pvclock_time {
	uint32_t version; /* odd while the rest is being written */
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time; /* ns, when the TSC read tsc_timestamp */
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

struct pvclock_wall {
	uint32_t version, sec, nsec;
};

#define PVCLOCK_TSC_STABLE 1u
#define KVM_SYSTEM_TIME_ENABLE 1ull
#define NS_PER_S 1000000000ull

/*
 * The machine's TSC and its clock both start at 0 and stand still together, so time 0 at TSC 0 is right for all vCPUs
 * alike, and stays so: nothing is sampled, and no two vCPUs can disagree.
 */
static void kvmclock_update(struct bt_vcpu *v)
{
	struct pvclock_time *t;
	uint32_t version, mul;
	int8_t shift;

	if (!(v->cs.kvm_system_time & KVM_SYSTEM_TIME_ENABLE))
		return;
	t = bt_guest_struct(v, v->cs.kvm_system_time & ~KVM_SYSTEM_TIME_ENABLE, sizeof(*t));
	if (!t)
		return;
	machine_tsc_scale(machine_tsc_khz(v->machine), &mul, &shift);
	version = (__atomic_load_n(&t->version, __ATOMIC_RELAXED) | 1) + 2;
	__atomic_store_n(&t->version, version, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	t->pad0 = 0;
	t->tsc_timestamp = v->sys.tsc_delta;
	t->system_time = 0;
	t->tsc_to_system_mul = mul;
	t->tsc_shift = shift;
	t->flags = PVCLOCK_TSC_STABLE;
	__atomic_store_n(&t->version, version + 1, __ATOMIC_RELEASE);
}

void bt_tsc_loaded(struct bt_vcpu *v)
{
	v->sys.tsc_delta = v->cs.tsc_offset - machine_tsc_offset(v->machine);
	kvmclock_update(v);
}

static bool write_system_time(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	v->cs.kvm_system_time = value;
	kvmclock_update(v);
	return true;
}

/* The wall clock at system time 0, written once for each request. */
static bool write_wall_clock(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	struct pvclock_wall *w = bt_guest_struct(v, value, sizeof(*w));
	struct timespec now;
	uint64_t ns;
	uint32_t version;

	v->cs.kvm_wall_clock = value;
	if (!w)
		return true;
	bt_fpu_leave(v);
	clock_gettime(CLOCK_REALTIME, &now);
	ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec - machine_clock_ns(v->machine);
	bt_fpu_enter(v);
	version = (__atomic_load_n(&w->version, __ATOMIC_RELAXED) | 1) + 2;
	__atomic_store_n(&w->version, version, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	w->sec = (uint32_t)(ns / NS_PER_S);
	w->nsec = (uint32_t)(ns % NS_PER_S);
	__atomic_store_n(&w->version, version + 1, __ATOMIC_RELEASE);
	return true;
}

static bool write_steal_time(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	return v->sys.kvm_features & KVM_FEATURE_STEAL_TIME && bt_steal_write(v, value);
}

static bool write_pv_eoi(struct bt_vcpu *v, const struct msr *m, uint32_t number, uint64_t value)
{
	return v->sys.kvm_features & KVM_FEATURE_PV_EOI && bt_pv_eoi_write(v, value);
}

/* ---- the table -------------------------------------------------------------------------------------------- */

#define FIELD(f) offsetof(struct cpu_state, f)

static const struct msr msrs[] = {
	{0x6e0, 0x6e0, BOTH, read_deadline, write_deadline, 0},
	{0x800, 0x8ff, BOTH, read_apic, write_apic, 0},
	{0xc0000100, 0xc0000100, BOTH, read_field, write_canonical, FIELD(seg[SEG_FS].base)},
	{0xc0000101, 0xc0000101, BOTH, read_field, write_canonical, FIELD(seg[SEG_GS].base)},
	{0xc0000102, 0xc0000102, BOTH, read_field, write_canonical, FIELD(kernel_gs_base)},
	{0x48, 0x48, INTEL, read_field, write_spec_ctrl, FIELD(spec_ctrl)},
	{0x49, 0x49, INTEL, NULL, write_ignored, 0}, /* PRED_CMD */
	{0x10, 0x10, BOTH, read_tsc, write_tsc, 0},
	{0x1b, 0x1b, BOTH, read_apic, write_apic, 0},
	{0xc0000080, 0xc0000080, BOTH, read_field, write_efer, FIELD(efer)},
	{0xc0000081, 0xc0000081, BOTH, read_field, write_field, FIELD(star)},
	{0xc0000082, 0xc0000082, BOTH, read_field, write_canonical, FIELD(lstar)},
	{0xc0000083, 0xc0000083, BOTH, read_field, write_canonical, FIELD(cstar)},
	{0xc0000084, 0xc0000084, BOTH, read_field, write_low32, FIELD(sfmask)},
	{0xc0000103, 0xc0000103, BOTH, read_field, write_low32, FIELD(tsc_aux)},
	{0x174, 0x174, BOTH, read_field, write_low32, FIELD(sysenter_cs)},
	{0x175, 0x175, BOTH, read_field, write_canonical, FIELD(sysenter_esp)},
	{0x176, 0x176, BOTH, read_field, write_canonical, FIELD(sysenter_eip)},
	{0x277, 0x277, BOTH, read_field, write_pat, FIELD(pat)},
	{0x3b, 0x3b, BOTH, read_field, write_tsc_adjust, FIELD(tsc_adjust)},

	{0xfe, 0xfe, BOTH, read_constant, NULL, MTRR_CAP},
	{0x200, 0x200 + 2 * CPU_MTRR_VAR - 1, BOTH, read_field, write_mtrr_var, FIELD(mtrr_var)},
	{0x250, 0x26f, BOTH, read_mtrr_fixed, write_mtrr_fixed, 0},
	{0x2ff, 0x2ff, BOTH, read_field, write_mtrr_def, FIELD(mtrr_def_type)},

	{0x4b564d00, 0x4b564d00, PARAVIRT, read_field, write_wall_clock, FIELD(kvm_wall_clock)},
	{0x4b564d01, 0x4b564d01, PARAVIRT, read_field, write_system_time, FIELD(kvm_system_time)},
	{0x4b564d03, 0x4b564d03, PARAVIRT, read_field, write_steal_time, FIELD(kvm_steal_time)},
	{0x4b564d04, 0x4b564d04, PARAVIRT, read_field, write_pv_eoi, FIELD(kvm_pv_eoi)},
	{0x11, 0x11, PARAVIRT, read_field, write_wall_clock, FIELD(kvm_wall_clock)},
	{0x12, 0x12, PARAVIRT, read_field, write_system_time, FIELD(kvm_system_time)},

	/* No machine-check banks: capability and status read 0. */
	{0x179, 0x179, BOTH, read_constant, NULL, 0},
	{0x17a, 0x17a, BOTH, read_constant, write_zero, 0},
	{0x1d9, 0x1d9, BOTH, read_constant, write_zero, 0}, /* DEBUGCTL: no branch stepping, no LBR */

	{0x8b, 0x8b, AMD, read_constant, write_ignored, AMD_PATCH_LEVEL},
	{0x8b, 0x8b, INTEL, read_constant, write_ignored, INTEL_PATCH_LEVEL},
	{0x17, 0x17, INTEL, read_constant, NULL, 0},  /* platform id */
	{0x2a, 0x2a, INTEL, read_constant, write_zero, 0}, /* EBL_CR_POWERON */
	{0x3a, 0x3a, INTEL, read_constant, NULL, FEATURE_CONTROL_LOCKED},
	{0x10a, 0x10a, INTEL, read_arch_capabilities, NULL, 0},
	{0x1a0, 0x1a0, INTEL, read_field, write_field, FIELD(misc_enable)},

	{0xc0010000, 0xc0010007, AMD, read_constant, write_ignored, 0}, /* performance counters: none count */
	{0xc0010010, 0xc0010010, AMD, read_constant, write_ignored, 0}, /* SYSCFG */
	{0xc0010015, 0xc0010015, AMD, read_constant, write_ignored, HWCR_TSC_FREQ_SEL},
	{0xc001001a, 0xc001001a, AMD, read_constant, write_ignored, 0}, /* TOP_MEM */
	{0xc001001d, 0xc001001d, AMD, read_constant, write_ignored, 0}, /* TOP_MEM2 */
	{0xc001001f, 0xc001001f, AMD, read_constant, write_ignored, 0}, /* NB_CFG */
	{0xc0010055, 0xc0010055, AMD, read_constant, write_ignored, 0}, /* interrupt pending message */
	{0xc0010058, 0xc0010058, AMD, read_constant, write_ignored, 0}, /* MMIO configuration base: off */
	{0xc0010114, 0xc0010114, AMD, read_constant, write_ignored, VM_CR_SVM_DISABLED},
	{0xc0011020, 0xc0011023, AMD, read_constant, write_ignored, 0}, /* LS_CFG, IC_CFG, DC_CFG, TW_CFG */
	{0xc0011029, 0xc0011029, AMD, read_constant, write_ignored, DE_CFG_LFENCE_SERIALIZE},
	{0xc001102a, 0xc001102a, AMD, read_constant, write_ignored, 0}, /* BU_CFG2 */
};

static const struct msr *find(const struct bt_vcpu *v, uint32_t number)
{
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(msrs); i++) {
		const struct msr *m = &msrs[i];

		if (number - m->first > m->last - m->first)
			continue;
		if (m->vendor == BOTH || (m->vendor == PARAVIRT ? v->sys.kvm_features : v->sys.amd == (m->vendor == AMD)))
			return m;
	}
	return NULL;
}

static bool refused(struct bt_vcpu *v, uint32_t number)
{
	v->sys.unknown_msrs++;
	v->sys.unknown_msr_last = number;
	return false;
}

bool bt_msr_read(struct bt_vcpu *v, uint32_t msr, uint64_t *ret_value)
{
	const struct msr *m = find(v, msr);

	if (!m || !m->read)
		return refused(v, msr);
	return m->read(v, m, msr, ret_value);
}

bool bt_msr_write(struct bt_vcpu *v, uint32_t msr, uint64_t value)
{
	const struct msr *m = find(v, msr);

	if (!m || !m->write)
		return refused(v, msr);
	return m->write(v, m, msr, value);
}
