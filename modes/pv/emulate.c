/* Privileged instructions that a guest kernel may execute all the same: it is at privilege 3, and each one ends up here as a fault. */
#include "modes/pv/private.h"

#define CR0_TS (1u << 3)
/* What is always so, whatever the guest writes; and what it may choose. */
#define CR0_GUEST 0x80050033ull /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_FIXED (1u << 5 | 1u << 7 | 1u << 9 | 1u << 10) /* PAE, PGE, OSFXSR, OSXMMEXCPT */
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_FSGSBASE (1u << 16)
#define CR4_OSXSAVE (1u << 18)
#define CR4_CHOICE (CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE)
#define CR4_MEANINGLESS (1u << 4 | 1u << 6 | 1u << 8) /* PSE, MCE, PCE: kept, without effect */
#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

enum msr {
	MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_BIOS_SIGN = 0x8b, MSR_MISC_ENABLE = 0x1a0, MSR_PAT = 0x277, MSR_PLATFORM_INFO = 0xce,
	MSR_EFER = 0xc0000080, MSR_FS_BASE = 0xc0000100, MSR_GS_BASE = 0xc0000101, MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_TSC_AUX = 0xc0000103,
};

/* ---- cpuid ----------------------------------------------------------------------------- */

/* Leaf 1 and 7 without what a guest at privilege 3 cannot use, or would use beside its monitor. */
static void hide(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	switch (leaf) {
	case 1:
		/* MONITOR, VMX, PCID, x2APIC, TSC deadline; VME, PSE, MCE, APIC, SEP, MTRR, PGE, MCA, PSE36 */
		r[2] &= ~(1u << 3 | 1u << 5 | 1u << 17 | 1u << 21 | 1u << 24);
		r[3] &= ~(1u << 1 | 1u << 3 | 1u << 7 | 1u << 9 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17);
		break;
	case 7:
		if (subleaf == 0) {
			r[1] &= ~(1u << 7 | 1u << 10 | 1u << 20); /* SMEP, INVPCID, SMAP */
			r[2] &= ~(1u << 2 | 1u << 3 | 1u << 16);   /* UMIP, PKU, LA57 */
		}
		break;
	case 0x80000001:
		r[3] &= ~(1u << 1 | 1u << 3 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17 | 1u << 26); /* and 1 GiB pages */
		r[2] &= ~(1u << 2); /* SVM */
		break;
	default: break;
	}
}

/* Xen's own leaves (arch-x86/cpuid.h). */
static void xen_leaf(struct pv_vcpu *p, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	r[0] = r[1] = r[2] = r[3] = 0;
	switch (leaf & 0xff) {
	case 0: /* XenVMMXenVMM */
		r[0] = 0x40000005;
		r[1] = 0x566e6558;
		r[2] = 0x65584d4d;
		r[3] = 0x4d4d566e;
		break;
	case 1: r[0] = PV_XEN_MAJOR << 16 | PV_XEN_MINOR; break;
	case 2: r[0] = 1, r[1] = 0x40000000; break; /* no hypercall page by MSR for a PV guest; MMU_PT_UPDATE_PRESERVE_AD below */
	case 3:
		if (subleaf == 2)
			r[0] = (uint32_t)machine_tsc_khz(p->domain->machine);
		else if (subleaf == 0)
			r[2] = (uint32_t)machine_tsc_khz(p->domain->machine);
		break;
	case 4: break;
	case 5: r[1] = 48; break; /* bits of a machine address */
	default: break;
	}
	if ((leaf & 0xff) == 2)
		r[0] = 0, r[2] = 1;
}

void pv_cpuid(struct pv_vcpu *p, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4])
{
	const struct cpu_state *cs = bt_monitor_state(p->v);

	if (leaf >> 8 == 0x400000) {
		xen_leaf(p, leaf, subleaf, ret_regs);
		return;
	}
	cpuid_query(machine_cpuid(p->domain->machine), p->index, cs->cr4, cs->xcr0, leaf, subleaf, ret_regs);
	hide(leaf, subleaf, ret_regs);
}

static void do_cpuid(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint32_t r[4];

	pv_cpuid(p, (uint32_t)cs->gpr[GPR_RAX], (uint32_t)cs->gpr[GPR_RCX], r);
	cs->gpr[GPR_RAX] = r[0];
	cs->gpr[GPR_RBX] = r[1];
	cs->gpr[GPR_RCX] = r[2];
	cs->gpr[GPR_RDX] = r[3];
}

bool pv_emulate_forced(struct pv_vcpu *p)
{
	static const uint8_t prefix[] = {0x0f, 0x0b, 'x', 'e', 'n'};
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint8_t bytes[sizeof(prefix) + 2];

	if (!bt_monitor_read(p->v, cs->rip, bytes, sizeof(bytes)) || memcmp(bytes, prefix, sizeof(prefix)) ||
	    bytes[5] != 0x0f || bytes[6] != 0xa2)
		return false;
	do_cpuid(p);
	cs->rip += sizeof(bytes);
	return true;
}

/* ---- control and debug registers ---------------------------------------------------------- */

static void cr4_apply(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	cs->cr4 = CR4_FIXED | (p->cr4 & CR4_CHOICE);
	bt_monitor_changed(p->v);
}

static bool write_cr(struct pv_vcpu *p, unsigned cr, uint64_t value)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	mfn_t mfn = value >> GUEST_PAGE_SHIFT;
	struct mmuext_op op = {.cmd = MMUEXT_NEW_BASEPTR, .arg1.mfn = mfn};

	switch (cr) {
	case 0:
		if ((value ^ CR0_GUEST) & ~(uint64_t)CR0_TS)
			return false;
		cs->cr0 = CR0_GUEST | (value & CR0_TS);
		bt_monitor_changed(p->v);
		return true;
	case 2:
		cs->cr2 = value;
		p->info->arch.cr2 = value;
		return true;
	case 3: return !pv_mmuext_one(p, &op);
	case 4:
		if (value & ~(uint64_t)(CR4_FIXED | CR4_CHOICE | CR4_MEANINGLESS))
			return false;
		p->cr4 = value;
		cr4_apply(p);
		return true;
	default: return false;
	}
}

static bool read_cr(struct pv_vcpu *p, unsigned cr, uint64_t *ret)
{
	const struct cpu_state *cs = bt_monitor_state(p->v);

	switch (cr) {
	case 0: *ret = CR0_GUEST | (cs->cr0 & CR0_TS); return true;
	case 2: *ret = p->info->arch.cr2; return true;
	case 3: *ret = p->kernel_root << GUEST_PAGE_SHIFT; return true;
	case 4: *ret = cs->cr4 | p->cr4; return true;
	default: return false;
	}
}

/* ---- model-specific registers ----------------------------------------------------------------- */

static bool read_msr(struct pv_vcpu *p, uint32_t msr, uint64_t *ret)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	switch (msr) {
	case MSR_TSC: *ret = __builtin_ia32_rdtsc() + cs->tsc_offset; return true;
	case MSR_APIC_BASE: *ret = 0xfee00000u | (p->index ? 0 : 1u << 8); return true;
	case MSR_BIOS_SIGN:
	case MSR_PLATFORM_INFO: *ret = 0; return true;
	case MSR_MISC_ENABLE: *ret = cs->misc_enable; return true;
	case MSR_PAT: *ret = cs->pat; return true;
	case MSR_EFER: *ret = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE; return true;
	case MSR_FS_BASE: *ret = cs->seg[SEG_FS].base; return true;
	case MSR_GS_BASE: *ret = cs->seg[SEG_GS].base; return true;
	case MSR_KERNEL_GS_BASE: *ret = p->gs_other; return true;
	case MSR_TSC_AUX: *ret = cs->tsc_aux; return true;
	default: return false;
	}
}

static bool canonical(uint64_t address) { return (uint64_t)((int64_t)(address << 16) >> 16) == address; }

static bool write_msr(struct pv_vcpu *p, uint32_t msr, uint64_t value)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	switch (msr) {
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		if (!canonical(value))
			return false;
		*(msr == MSR_FS_BASE ? &cs->seg[SEG_FS].base : msr == MSR_GS_BASE ? &cs->seg[SEG_GS].base : &p->gs_other) = value;
		return true;
	case MSR_BIOS_SIGN: return true;
	case MSR_PAT: return value == cs->pat;
	case MSR_TSC_AUX:
		if (value >> 32)
			return false;
		cs->tsc_aux = value;
		return true;
	default: return false;
	}
}

static bool do_rdmsr(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint64_t value;

	if (!read_msr(p, (uint32_t)cs->gpr[GPR_RCX], &value))
		return false;
	cs->gpr[GPR_RAX] = (uint32_t)value;
	cs->gpr[GPR_RDX] = value >> 32;
	return true;
}

static bool do_xsetbv(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint64_t value = (uint32_t)cs->gpr[GPR_RAX] | cs->gpr[GPR_RDX] << 32;

	if (!(cs->cr4 & CR4_OSXSAVE) || (uint32_t)cs->gpr[GPR_RCX] || !(value & 1) ||
	    (value & ~machine_cpuid(p->domain->machine)->xcr0_mask) || (value & 6) == 4)
		return false;
	cs->xcr0 = value;
	bt_monitor_changed(p->v);
	return true;
}

/* ---- ports: there is nothing behind any, as on a host whose devices are not the guest's --------- */

static bool do_in(struct pv_vcpu *p, const struct bt_insn *insn)
{
	uint64_t *rax = &bt_monitor_state(p->v)->gpr[GPR_RAX];

	switch (insn->opsize) {
	case 1: *rax |= 0xff; return true;
	case 2: *rax |= 0xffff; return true;
	default: *rax = 0xffffffffu; return true;
	}
}

bool pv_emulate_privileged(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	struct bt_insn insn;
	uint64_t value;
	bool done = false;

	if (!p->in_kernel || !bt_monitor_fetch(p->v, cs->rip, &insn))
		return false;
	switch (insn.handler) {
	case BT_OP_mov_from_cr:
		done = read_cr(p, insn.modrm_reg, &value);
		if (done)
			cs->gpr[insn.modrm_rm] = value;
		break;
	case BT_OP_mov_to_cr: done = write_cr(p, insn.modrm_reg, cs->gpr[insn.modrm_rm]); break;
	case BT_OP_clts:
		cs->cr0 &= ~(uint64_t)CR0_TS;
		bt_monitor_changed(p->v);
		done = true;
		break;
	case BT_OP_rdmsr: done = do_rdmsr(p); break;
	case BT_OP_wrmsr:
		done = write_msr(p, (uint32_t)cs->gpr[GPR_RCX], (uint32_t)cs->gpr[GPR_RAX] | cs->gpr[GPR_RDX] << 32);
		break;
	case BT_OP_xsetbv: done = do_xsetbv(p); break;
	case BT_OP_mov_from_dr:
		if (insn.modrm_reg < 4)
			cs->gpr[insn.modrm_rm] = cs->dr[insn.modrm_reg];
		else
			cs->gpr[insn.modrm_rm] = insn.modrm_reg & 1 ? cs->dr7 : cs->dr6;
		done = true;
		break;
	case BT_OP_mov_to_dr: done = !pv_set_debugreg(p, insn.modrm_reg, cs->gpr[insn.modrm_rm]); break;
	case BT_OP_invlpg:
	case BT_OP_wbinvd:
	case BT_OP_invd: done = insn.handler != BT_OP_invlpg; break;
	case BT_OP_cli:
	case BT_OP_sti: done = true; break; /* events are masked in memory; real interrupts are not its business */
	case BT_OP_in: done = do_in(p, &insn); break;
	case BT_OP_out: done = true; break;
	default: break;
	}
	if (done) {
		cs->rip += insn.len;
		p->domain->stats.emulated++;
	}
	return done;
}
