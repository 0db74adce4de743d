/* System instructions: control and debug registers, flags that privilege guards, time stamps, CPUID, ports. */
#include "modes/bt/helper.h"

#define CR0_WRITABLE                                                                                                   \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR0_FLUSHES (CR0_PG | CR0_WP | CR0_PE)
/* Those that CPUID does not take away; FSGSBASE, SMEP, UMIP and OSXSAVE depend on the model. */
#define CR4_ALWAYS                                                                                                     \
	(CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT)
#define CR4_FLUSHES (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)
#define DR6_FIXED 0xffff0ff0u
#define DR6_WRITABLE 0x0000e00fu
#define DR6_BD 0x2000u
#define DR7_FIXED 0x400u
#define DR7_WRITABLE 0xffff2bffu
#define DR7_GD 0x2000u
#define TSS_IO_BASE 0x66u
#define EFER_AUTOIBRS (1u << 21)

#define BT_HANDLER(name) void bt_op_##name(struct bt_vcpu *v, const struct bt_insn *insn);
#include "modes/bt/handlers.def"
#undef BT_HANDLER

bt_op_fn *const bt_op_table[] = {
	NULL, /* BT_OP_NONE */
#define BT_HANDLER(name) [BT_OP_##name] = bt_op_##name,
#include "modes/bt/handlers.def"
#undef BT_HANDLER
};

static uint64_t cr4_allowed(const struct cpuid_model *model)
{
	uint64_t allowed = CR4_ALWAYS;
	uint32_t r[4];

	cpuid_query(model, 0, 0, 0, 7, 0, r);
	if (r[1] & 1u << 0)
		allowed |= CR4_FSGSBASE;
	if (r[1] & 1u << 7)
		allowed |= CR4_SMEP;
	if (r[1] & 1u << 20)
		allowed |= CR4_SMAP;
	if (r[2] & 1u << 2)
		allowed |= CR4_UMIP;
	cpuid_query(model, 0, 0, 0, 1, 0, r);
	if (r[2] & 1u << 17)
		allowed |= CR4_PCIDE;
	if (r[2] & 1u << 26)
		allowed |= CR4_OSXSAVE;
	return allowed;
}

static uint64_t efer_allowed(const struct cpuid_model *model)
{
	uint64_t allowed = EFER_SCE | EFER_LME | EFER_NXE;
	uint32_t r[4];

	cpuid_query(model, 0, 0, 0, 0x80000021, 0, r);
	if (r[0] & 1u << 8)
		allowed |= EFER_AUTOIBRS;
	return allowed;
}

void bt_system_init(struct bt_vcpu *v)
{
	const struct ram_region *region = machine_ram_find(v->machine, 1 << 20);
	uint32_t r[4];

	v->sys.cpuid = machine_cpuid(v->machine);
	if (region && !region->readonly) {
		v->sys.ram_host = region->host;
		v->sys.ram_gpa = region->gpa;
		v->sys.ram_bytes = region->bytes;
	}
	v->sys.phys_mask = ((1ull << v->sys.cpuid->phys_bits) - 1) & GUEST_PAGE_MASK;
	cpuid_query(v->sys.cpuid, 0, 0, 0, 0, 0, r);
	v->sys.amd = r[2] == 0x444d4163 || r[2] == 0x656e6975; /* AuthenticAMD, HygonGenuine */
	r[0] = cpuid_kvm_base(v->sys.cpuid);
	if (r[0])
		cpuid_query(v->sys.cpuid, 0, 0, 0, r[0] + 1, 0, r);
	v->sys.kvm_features = r[0];
	v->sys.backdoor = machine_has_backdoor(v->machine);
	cpuid_query(v->sys.cpuid, 0, 0, 0, 0xd, 1, r);
	v->sys.xsave_features = r[0];
	cpuid_query(v->sys.cpuid, 0, 0, 0, 7, 0, r);
	v->sys.invpcid = r[1] >> 10 & 1;
	v->sys.cr4_allowed = cr4_allowed(v->sys.cpuid);
	v->sys.efer_allowed = efer_allowed(v->sys.cpuid);
}

BT_NORETURN static void undefined(struct bt_vcpu *v)
{
	bt_raise(v, VEC_UD);
}

/* ---- flags --------------------------------------------------------------------------------- */

bool bt_interrupt_waits(struct bt_vcpu *v)
{
	return v->kicked || machine_intr_pending(v->machine, v->index);
}

uint64_t bt_flags_writable(const struct bt_vcpu *v, unsigned bytes)
{
	uint64_t mask = BT_FLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (bytes >= 4)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (v->cpl <= bt_iopl(v))
		mask |= RFLAGS_IF;
	if (v->cpl == 0) {
		mask |= RFLAGS_IOPL;
		if (bytes >= 4)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	return mask;
}

static void vm86_check(struct bt_vcpu *v)
{
	if (bt_vm86(v) && bt_iopl(v) < 3)
		bt_raise_error(v, VEC_GP, 0);
}

/* IF through cli and sti needs the I/O privilege level. Real mode's privilege is 0. */
static void iopl_check(struct bt_vcpu *v)
{
	if (v->cpl > bt_iopl(v))
		bt_raise_error(v, VEC_GP, 0);
}

void bt_op_cli(struct bt_vcpu *v, const struct bt_insn *insn)
{
	iopl_check(v);
	v->cs.rflags &= ~(uint64_t)RFLAGS_IF;
}

/*
 * The shadow stays noted until somebody looks for interrupts: who does runs one instruction first if it is set. That may
 * hold up an interrupt by an instruction that is long past sti, never let one in between sti and hlt.
 */
void bt_op_sti(struct bt_vcpu *v, const struct bt_insn *insn)
{
	iopl_check(v);
	if (v->cs.rflags & RFLAGS_IF)
		return;
	v->cs.rflags |= RFLAGS_IF;
	v->cs.interrupt_shadow = 1;
	if (bt_interrupt_waits(v))
		bt_resume_next(v, insn);
}

void bt_op_cld(struct bt_vcpu *v, const struct bt_insn *insn)
{
	v->cs.rflags &= ~(uint64_t)RFLAGS_DF;
}

void bt_op_std(struct bt_vcpu *v, const struct bt_insn *insn)
{
	v->cs.rflags |= RFLAGS_DF;
}

void bt_op_pushf(struct bt_vcpu *v, const struct bt_insn *insn)
{
	vm86_check(v);
	bt_push(v, insn->opsize, bt_rflags(v) & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF));
}

void bt_op_popf(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], old = v->cs.rflags, writable, value;

	vm86_check(v);
	writable = bt_flags_writable(v, insn->opsize) & ~(uint64_t)(RFLAGS_VIF | RFLAGS_VIP);
	value = bt_load(v, bt_stack_gva(v, sp, insn->opsize, false), insn->opsize);
	bt_sp_set(v, bt_sp_mask(v), sp + insn->opsize);
	bt_set_rflags(v, ((bt_rflags(v) & ~writable) | (value & writable)) & ~(uint64_t)RFLAGS_RF);
	if ((old ^ v->cs.rflags) & (RFLAGS_TF | RFLAGS_AC)) {
		uint32_t key = v->tb_key;

		bt_mode_changed(v);
		if ((old ^ v->cs.rflags) & RFLAGS_TF || v->tb_key != key)
			bt_resume_next(v, insn);
	}
	if (!(old & RFLAGS_IF) && (v->cs.rflags & RFLAGS_IF) && bt_interrupt_waits(v))
		bt_resume_next(v, insn);
}

/* Without SMAP in the model the instructions do not exist. At privilege 0 they are emitted in line. */
static void set_ac(struct bt_vcpu *v, bool set)
{
	if (v->cpl || !(v->sys.cr4_allowed & CR4_SMAP))
		undefined(v);
	v->cs.rflags = set ? v->cs.rflags | RFLAGS_AC : v->cs.rflags & ~(uint64_t)RFLAGS_AC;
	bt_mode_changed(v);
}

void bt_op_clac(struct bt_vcpu *v, const struct bt_insn *insn)
{
	set_ac(v, false);
}

void bt_op_stac(struct bt_vcpu *v, const struct bt_insn *insn)
{
	set_ac(v, true);
}

/* ---- control registers --------------------------------------------------------------------------- */

/* PAE outside long mode: the four page-directory pointers are checked when they are loaded (SDM vol. 3, 4.4.1). */
static void pdpte_check(struct bt_vcpu *v, uint64_t cr3)
{
	gpa_t gpa = cr3 & 0xffffffe0u;
	const struct ram_region *region = machine_ram_find(v->machine, gpa);
	uint64_t reserved = ~v->sys.phys_mask & ~0xe19ull;
	unsigned i;

	if (!region)
		return;
	for (i = 0; i < 4; i++) {
		uint64_t entry = ((const uint64_t *)(region->host + (gpa - region->gpa)))[i];

		if ((entry & 1) && (entry & reserved))
			bt_raise_error(v, VEC_GP, 0);
	}
}

void bt_cr0_write(struct bt_vcpu *v, uint64_t value)
{
	uint64_t old = v->cs.cr0, changed, efer = v->cs.efer;

	if (value >> 32)
		bt_raise_error(v, VEC_GP, 0);
	value = (value & CR0_WRITABLE) | CR0_ET;
	changed = old ^ value;
	if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		bt_raise_error(v, VEC_GP, 0);
	if (changed & value & CR0_PG) {
		if (efer & EFER_LME) {
			if (!(v->cs.cr4 & CR4_PAE) || (v->cs.seg[SEG_CS].access & SEG_ACCESS_L))
				bt_raise_error(v, VEC_GP, 0);
			efer |= EFER_LMA;
		} else if (v->cs.cr4 & CR4_PAE) {
			pdpte_check(v, v->cs.cr3);
		}
	} else if (changed & CR0_PG) {
		if (bt_code64(v) || v->cs.cr4 & CR4_PCIDE)
			bt_raise_error(v, VEC_GP, 0);
		efer &= ~(uint64_t)EFER_LMA;
	}
	v->cs.cr0 = value;
	v->cs.efer = efer;
	if (changed & CR0_FLUSHES)
		bt_tlb_flush(v, true);
	bt_mode_changed(v);
}

#define CR3_KEEP (1ull << 63) /* with PCIDE: the TLB keeps what it has of that PCID */
#define CR3_PCID 0xfffu

static void cr3_write(struct bt_vcpu *v, uint64_t value)
{
	bool pcide = v->cs.cr4 & CR4_PCIDE, keep = pcide && value & CR3_KEEP;
	uint64_t old = v->cs.cr3;

	if (pcide)
		value &= ~CR3_KEEP;
	if (bt_long_mode(v)) {
		if (value & ~(v->sys.phys_mask | 0xfff))
			bt_raise_error(v, VEC_GP, 0);
	} else if ((v->cs.cr0 & CR0_PG) && (v->cs.cr4 & CR4_PAE)) {
		pdpte_check(v, value);
	}
	v->cs.cr3 = value;
	if (pcide)
		bt_tlb_switch(v, old & CR3_PCID, value & CR3_PCID, !keep);
	else
		bt_tlb_flush(v, false);
}

static void cr4_write(struct bt_vcpu *v, uint64_t value)
{
	uint64_t changed = v->cs.cr4 ^ value;

	if (value & ~v->sys.cr4_allowed)
		bt_raise_error(v, VEC_GP, 0);
	if (bt_long_mode(v) && !(value & CR4_PAE))
		bt_raise_error(v, VEC_GP, 0);
	if (changed & value & CR4_PCIDE && (!bt_long_mode(v) || v->cs.cr3 & CR3_PCID))
		bt_raise_error(v, VEC_GP, 0);
	if ((v->cs.cr0 & CR0_PG) && !bt_long_mode(v) && (changed & value & CR4_PAE))
		pdpte_check(v, v->cs.cr3);
	v->cs.cr4 = value;
	if (changed & CR4_FLUSHES)
		bt_tlb_flush(v, true);
	if (changed & CR4_DE)
		bt_debug_registers(v);
	bt_mode_changed(v);
}

static unsigned cr_bytes(const struct bt_vcpu *v)
{
	return bt_code64(v) ? 8 : 4;
}

void bt_op_mov_to_cr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = bt_gpr(v, insn->modrm_rm, cr_bytes(v));

	bt_need_cpl0(v);
	switch (insn->modrm_reg) {
	case 0: bt_cr0_write(v, value); break;
	case 2: v->cs.cr2 = value; return;
	case 3: cr3_write(v, value); break;
	case 4: cr4_write(v, value); break;
	case 8:
		if (value & ~15ull)
			bt_raise_error(v, VEC_GP, 0);
		bt_fpu_leave(v);
		machine_tpr_set(v->machine, v->index, (uint8_t)value);
		bt_fpu_enter(v);
		if (!(v->cs.rflags & RFLAGS_IF) || !bt_interrupt_waits(v))
			return;
		break;
	default: undefined(v);
	}
	bt_resume_next(v, insn);
}

void bt_op_mov_from_cr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = 0;

	bt_need_cpl0(v);
	switch (insn->modrm_reg) {
	case 0: value = v->cs.cr0; break;
	case 2: value = v->cs.cr2; break;
	case 3: value = v->cs.cr3; break;
	case 4: value = v->cs.cr4; break;
	case 8:
		bt_fpu_leave(v);
		value = machine_tpr_get(v->machine, v->index);
		bt_fpu_enter(v);
		break;
	default: undefined(v);
	}
	bt_gpr_set(v, insn->modrm_rm, cr_bytes(v), value);
}

void bt_op_smsw(struct bt_vcpu *v, const struct bt_insn *insn)
{
	if ((v->cs.cr4 & CR4_UMIP) && v->cpl)
		bt_raise_error(v, VEC_GP, 0);
	bt_rm_set(v, insn, insn->flags & BT_I_MEM ? 2 : insn->opsize, v->cs.cr0);
}

/* Sets PE, MP, EM, TS; cannot clear PE. */
void bt_op_lmsw(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value;

	bt_need_cpl0(v);
	value = bt_rm(v, insn, 2) & 15;
	bt_cr0_write(v, (v->cs.cr0 & ~14ull) | value);
	bt_resume_next(v, insn);
}

void bt_op_clts(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint32_t key = v->tb_key;

	bt_need_cpl0(v);
	v->cs.cr0 &= ~(uint64_t)CR0_TS;
	bt_mode_changed(v);
	if (v->tb_key != key)
		bt_resume_next(v, insn);
}

/* ---- debug registers ---------------------------------------------------------------------------------- */

static unsigned dr_number(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned n = insn->modrm_reg;

	bt_need_cpl0(v);
	if (n > 7 || (n >= 4 && n <= 5 && (v->cs.cr4 & CR4_DE)))
		undefined(v);
	if (v->cs.dr7 & DR7_GD) {
		v->cs.dr6 |= DR6_BD;
		bt_raise(v, VEC_DB);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

void bt_op_mov_from_dr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned n = dr_number(v, insn);

	bt_gpr_set(v, insn->modrm_rm, cr_bytes(v), n < 4 ? v->cs.dr[n] : n == 6 ? v->cs.dr6 : v->cs.dr7);
}

void bt_op_mov_to_dr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = bt_gpr(v, insn->modrm_rm, cr_bytes(v));
	unsigned n = dr_number(v, insn);

	if (n < 4) {
		v->cs.dr[n] = value;
		if (bt_debug_registers(v))
			bt_resume_next(v, insn);
		return;
	}
	if (value >> 32)
		bt_raise_error(v, VEC_GP, 0);
	if (n == 6) {
		v->cs.dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
		return;
	}
	v->cs.dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
	bt_debug_registers(v);
	bt_resume_next(v, insn);
}

/* ---- translation and caches ------------------------------------------------------------------------------- */

void bt_op_invlpg(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t gva = bt_operand_offset(v, insn);

	bt_need_cpl0(v);
	if (!bt_code64(v))
		gva = (uint32_t)(gva + v->cs.seg[insn->seg].base);
	else if (insn->seg == SEG_FS || insn->seg == SEG_GS)
		gva += v->cs.seg[insn->seg].base;
	if (bt_canonical(gva))
		bt_tlb_flush_page(v, gva);
}

/* Drops more than asked for where that is simpler: an address of another space takes all that is put away of it. */
void bt_op_invpcid(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t type = bt_gpr(v, insn->modrm_reg, cr_bytes(v)), pcid, address;
	bool here;
	gva_t gva;

	if (!v->sys.invpcid)
		undefined(v);
	bt_need_cpl0(v);
	gva = bt_operand_gva(v, insn, 16, false);
	pcid = bt_load(v, gva, 8);
	address = bt_load(v, gva + 8, 8);
	if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(v->cs.cr4 & CR4_PCIDE)) || (type == 0 && !bt_canonical(address)))
		bt_raise_error(v, VEC_GP, 0);
	here = !(v->cs.cr4 & CR4_PCIDE) || pcid == (v->cs.cr3 & CR3_PCID);
	switch (type) {
	case 0:
		if (here)
			bt_tlb_flush_page(v, address);
		else
			bt_tlb_forget(v, (int)pcid);
		break;
	case 1:
		if (here)
			bt_tlb_flush(v, false);
		else
			bt_tlb_forget(v, (int)pcid);
		break;
	case 2: bt_tlb_flush(v, true); break;
	default:
		bt_tlb_flush(v, false);
		bt_tlb_forget(v, -1);
	}
}

/* Guest memory is coherent host memory, so there is nothing to write back. */
void bt_op_wbinvd(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_need_cpl0(v);
}

void bt_op_invd(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_need_cpl0(v);
}

/* AMD's: 64 bytes at rax, rounded down, of the (overridable) data segment. */
void bt_op_clzero(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned seg = insn->seg_override == 0xff ? SEG_DS : insn->seg_override;
	uint64_t offset = bt_gpr(v, GPR_RAX, insn->addrsize);
	uint64_t zero[8];
	gva_t gva = bt_seg_gva(v, seg, offset, 1, true) & ~63ull;
	uint32_t r[4];

	cpuid_query(v->sys.cpuid, v->index, 0, 0, 0x80000008, 0, r);
	if (!(r[1] & 1))
		undefined(v);
	bt_fill(zero, 0, sizeof(zero));
	bt_store_buf(v, gva, zero, 64);
}

/* ---- halt, identification, time -------------------------------------------------------------------------------- */

void bt_op_hlt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_need_cpl0(v);
	v->cs.rip = bt_next_rip(v, insn);
	v->cs.interrupt_shadow = 0;
	bt_halt(v);
}

void bt_op_cpuid(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint32_t r[4];

	cpuid_query(v->sys.cpuid, v->index, v->cs.cr4, v->cs.xcr0, (uint32_t)v->cs.gpr[GPR_RAX],
		    (uint32_t)v->cs.gpr[GPR_RCX], r);
	v->cs.gpr[GPR_RAX] = r[0];
	v->cs.gpr[GPR_RBX] = r[1];
	v->cs.gpr[GPR_RCX] = r[2];
	v->cs.gpr[GPR_RDX] = r[3];
}

static void tsc_to_edx_eax(struct bt_vcpu *v)
{
	uint64_t tsc;

	if ((v->cs.cr4 & CR4_TSD) && v->cpl)
		bt_raise_error(v, VEC_GP, 0);
	tsc = __builtin_ia32_rdtsc() + v->cs.tsc_offset;
	v->cs.gpr[GPR_RAX] = (uint32_t)tsc;
	v->cs.gpr[GPR_RDX] = tsc >> 32;
}

void bt_op_rdtsc(struct bt_vcpu *v, const struct bt_insn *insn)
{
	tsc_to_edx_eax(v);
}

void bt_op_rdtscp(struct bt_vcpu *v, const struct bt_insn *insn)
{
	tsc_to_edx_eax(v);
	v->cs.gpr[GPR_RCX] = (uint32_t)v->cs.tsc_aux;
}

void bt_op_rdpid(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_gpr_set(v, insn->modrm_rm, cr_bytes(v), (uint32_t)v->cs.tsc_aux);
}

/* The model has no performance counters. */
void bt_op_rdpmc(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_raise_error(v, VEC_GP, 0);
}

void bt_op_rdmsr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value;

	bt_need_cpl0(v);
	v->stats.rdmsr++;
	if (!bt_msr_read(v, (uint32_t)v->cs.gpr[GPR_RCX], &value))
		bt_raise_error(v, VEC_GP, 0);
	v->cs.gpr[GPR_RAX] = (uint32_t)value;
	v->cs.gpr[GPR_RDX] = value >> 32;
}

void bt_op_wrmsr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = (uint32_t)v->cs.gpr[GPR_RAX] | v->cs.gpr[GPR_RDX] << 32;
	uint32_t key = v->tb_key;

	bt_need_cpl0(v);
	v->stats.wrmsr++;
	if (!bt_msr_write(v, (uint32_t)v->cs.gpr[GPR_RCX], value))
		bt_raise_error(v, VEC_GP, 0);
	if (v->tb_key != key)
		bt_resume_next(v, insn);
}

void bt_op_xgetbv(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = v->cs.xcr0;
	uint32_t lo, hi;

	if (!(v->cs.cr4 & CR4_OSXSAVE))
		undefined(v);
	switch ((uint32_t)v->cs.gpr[GPR_RCX]) {
	case 0: break;
	case 1: /* what is in use: the live registers know */
		if (!(v->sys.xsave_features & 4))
			bt_raise_error(v, VEC_GP, 0);
		bt_fpu_enter(v);
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
		value &= lo;
		break;
	default: bt_raise_error(v, VEC_GP, 0);
	}
	v->cs.gpr[GPR_RAX] = (uint32_t)value;
	v->cs.gpr[GPR_RDX] = value >> 32;
}

void bt_op_xsetbv(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t value = (uint32_t)v->cs.gpr[GPR_RAX] | v->cs.gpr[GPR_RDX] << 32;

	if (!(v->cs.cr4 & CR4_OSXSAVE))
		undefined(v);
	bt_need_cpl0(v);
	if ((uint32_t)v->cs.gpr[GPR_RCX] || !(value & 1) || (value & ~v->sys.cpuid->xcr0_mask) ||
	    (value & 6) == 4)
		bt_raise_error(v, VEC_GP, 0);
	v->cs.xcr0 = value;
	bt_mode_changed(v);
	bt_resume_next(v, insn);
}

/* ---- not in the model ------------------------------------------------------------------------------------------------ */

void bt_op_rdpkru(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_wrpkru(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_monitor(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_mwait(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_getsec(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_rsm(struct bt_vcpu *v, const struct bt_insn *insn)
{
	undefined(v);
}

void bt_op_vmcall(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_hypercall(v);
}

void bt_op_vmmcall(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_hypercall(v);
}

/* ---- ports ------------------------------------------------------------------------------------------------------------- */

void bt_io_check(struct bt_vcpu *v, uint16_t port, unsigned bytes)
{
	uint32_t base, map;

	if (!(v->cs.cr0 & CR0_PE) || (v->cpl <= bt_iopl(v) && !bt_vm86(v)))
		return;
	/* A 16-bit TSS has no bitmap. The two bytes read may cross its end by the one that must be all ones. */
	if (!(v->cs.tr.access & 8) || TSS_IO_BASE + 1 > v->cs.tr.limit)
		bt_raise_error(v, VEC_GP, 0);
	base = (uint32_t)bt_load_sys(v, v->cs.tr.base + TSS_IO_BASE, 2) + port / 8;
	if (base + 1 > v->cs.tr.limit)
		bt_raise_error(v, VEC_GP, 0);
	map = (uint32_t)bt_load_sys(v, v->cs.tr.base + base, 2) >> (port & 7);
	if (map & ((1u << bytes) - 1))
		bt_raise_error(v, VEC_GP, 0);
}

static uint16_t io_port(const struct bt_vcpu *v, const struct bt_insn *insn)
{
	return insn->imm_bytes ? insn->imm & 0xff : v->cs.gpr[GPR_RDX] & 0xffff;
}

static const uint8_t backdoor_gpr[VMWARE_REGISTERS] = {GPR_RAX, GPR_RBX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI, GPR_RBP};

bool bt_backdoor_get(const struct bt_vcpu *v, uint16_t want, unsigned bytes, uint32_t r[VMWARE_REGISTERS])
{
	if (!v->sys.backdoor || (uint16_t)v->cs.gpr[GPR_RDX] != want || (uint32_t)v->cs.gpr[GPR_RAX] != VMWARE_MAGIC ||
	    bytes != (want == VMWARE_PORT ? 4 : 1))
		return false;
	for (unsigned i = 0; i < VMWARE_REGISTERS; i++)
		r[i] = (uint32_t)v->cs.gpr[backdoor_gpr[i]];
	return true;
}

void bt_backdoor_set(struct bt_vcpu *v, const uint32_t r[VMWARE_REGISTERS])
{
	for (unsigned i = 0; i < VMWARE_REGISTERS; i++)
		if (r[i] != (uint32_t)v->cs.gpr[backdoor_gpr[i]])
			v->cs.gpr[backdoor_gpr[i]] = r[i];
}

/* VMware's backdoor answers programs too, whatever the I/O privilege level and the TSS's bitmap say. */
static bool backdoor(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint32_t r[VMWARE_REGISTERS];

	if (insn->imm_bytes || !bt_backdoor_get(v, VMWARE_PORT, insn->opsize, r))
		return false;
	v->stats.pio++;
	bt_fpu_leave(v);
	machine_backdoor(v->machine, r);
	bt_fpu_enter(v);
	bt_backdoor_set(v, r);
	return true;
}

void bt_op_in(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t port = io_port(v, insn);
	uint32_t value;

	if (backdoor(v, insn))
		return;
	bt_io_check(v, port, insn->opsize);
	v->stats.pio++;
	bt_fpu_leave(v);
	value = machine_pio_read(v->machine, v->index, port, insn->opsize);
	bt_fpu_enter(v);
	if (v->debug.io)
		bt_debug_port(v, port, insn->opsize);
	bt_gpr_set(v, GPR_RAX, insn->opsize, value);
}

/* A write may change the memory map (PAM, A20) or reset the machine: then the dispatcher must look before going on. */
void bt_op_out(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t port = io_port(v, insn);

	if (backdoor(v, insn))
		return;
	bt_io_check(v, port, insn->opsize);
	v->stats.pio++;
	bt_fpu_leave(v);
	machine_pio_write(v->machine, v->index, port, (uint32_t)bt_gpr(v, GPR_RAX, insn->opsize), insn->opsize);
	bt_fpu_enter(v);
	if (v->debug.io)
		bt_debug_port(v, port, insn->opsize);
	if (v->kicked)
		bt_resume_next(v, insn);
}
