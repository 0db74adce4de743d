/* A vCPU's architectural state: KVM's structures to struct cpu_state and back. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define CR0_PE 1ull
#define RFLAGS_IF 0x200ull
#define XCR0_X87 1ull
#define VECTOR_EXTERNAL 32 /* exceptions of the processor are below */

/* ---- MSRs ------------------------------------------------------------------------------------------ */

#define FIELD(f) offsetof(struct cpu_state, f)
#define FIXED(n) FIELD(mtrr_fixed) + 8 * (n)
#define VARIABLE(n) {0x200 + (n), FIELD(mtrr_var) + 8 * (n), true}

/* Those that a plain value describes. `may_lack`: not every KVM, CPUID model or processor has it; then it holds 0. */
static const struct msr_row {
	uint32_t number;
	size_t field;
	bool may_lack;
} msr_rows[] = {
	{0xc0000081, FIELD(star), false},
	{0xc0000082, FIELD(lstar), false},
	{0xc0000083, FIELD(cstar), false},
	{0xc0000084, FIELD(sfmask), false},
	{0xc0000102, FIELD(kernel_gs_base), false},
	{0x174, FIELD(sysenter_cs), false},
	{0x175, FIELD(sysenter_esp), false},
	{0x176, FIELD(sysenter_eip), false},
	{0x277, FIELD(pat), false},
	{0xc0000103, FIELD(tsc_aux), true},
	{0x1a0, FIELD(misc_enable), true},
	{0x48, FIELD(spec_ctrl), true},
	{0xda0, FIELD(xss), true},
	{0x3b, FIELD(tsc_adjust), true},
	{0x250, FIXED(0), false}, {0x258, FIXED(1), false}, {0x259, FIXED(2), false}, {0x268, FIXED(3), false},
	{0x269, FIXED(4), false}, {0x26a, FIXED(5), false}, {0x26b, FIXED(6), false}, {0x26c, FIXED(7), false},
	{0x26d, FIXED(8), false}, {0x26e, FIXED(9), false}, {0x26f, FIXED(10), false},
	VARIABLE(0), VARIABLE(1), VARIABLE(2), VARIABLE(3), VARIABLE(4), VARIABLE(5), VARIABLE(6), VARIABLE(7),
	VARIABLE(8), VARIABLE(9), VARIABLE(10), VARIABLE(11), VARIABLE(12), VARIABLE(13), VARIABLE(14), VARIABLE(15),
	{0x2ff, FIELD(mtrr_def_type), false},
	{0x4b564d00, FIELD(kvm_wall_clock), true},
	{0x4b564d01, FIELD(kvm_system_time), true},
	{0x4b564d03, FIELD(kvm_steal_time), true},
	{0x4b564d04, FIELD(kvm_pv_eoi), true},
};

static uint64_t *field(struct cpu_state *cs, const struct msr_row *row)
{
	return (uint64_t *)(void *)((char *)cs + row->field);
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int hvm_msr_get(struct mode_vcpu *vcpu, uint32_t msr, uint64_t *ret_value)
{
	struct one_msr m = {.head = {.nmsrs = 1}, .entry = {.index = msr}};
	int r = ioctl(vcpu->fd, KVM_GET_MSRS, &m);

	if (r != 1)
		return r < 0 ? -errno : -ENXIO;
	*ret_value = m.entry.data;
	return 0;
}

int hvm_msr_set(struct mode_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	struct one_msr m = {.head = {.nmsrs = 1}, .entry = {.index = msr, .data = value}};
	int r = ioctl(vcpu->fd, KVM_SET_MSRS, &m);

	return r == 1 ? 0 : r < 0 ? -errno : -ENXIO;
}

static int get_msrs(struct mode_vcpu *vcpu, struct cpu_state *cs)
{
	for (size_t i = 0; i < ARRAY_SIZE(msr_rows); i++) {
		int rc = hvm_msr_get(vcpu, msr_rows[i].number, field(cs, &msr_rows[i]));

		if (rc && !msr_rows[i].may_lack)
			return rc;
	}
	return hvm_tsc_offset_get(vcpu, &cs->tsc_offset);
}

static int set_msrs(struct mode_vcpu *vcpu, const struct cpu_state *state)
{
	struct cpu_state *cs = (struct cpu_state *)(uintptr_t)state; /* only read */
	int rc = hvm_tsc_offset_set(vcpu, cs->tsc_offset);

	if (rc)
		return rc;
	vcpu->tsc_delta = cs->tsc_offset - machine_tsc_offset(vcpu->vm->machine);
	for (size_t i = 0; i < ARRAY_SIZE(msr_rows); i++) {
		uint64_t value = *field(cs, &msr_rows[i]);

		rc = hvm_msr_set(vcpu, msr_rows[i].number, value);
		if (!rc || (msr_rows[i].may_lack && !value))
			continue;
		/* misc_enable: what it says beyond the reset value is advice. */
		if (msr_rows[i].number == 0x1a0)
			continue;
		fprintf(stderr, "hvm: KVM refuses MSR 0x%x = 0x%llx\n", msr_rows[i].number, (unsigned long long)value);
		return rc;
	}
	return 0;
}

/* ---- registers --------------------------------------------------------------------------------------- */

static void general_to_kvm(const struct cpu_state *cs, struct kvm_regs *r)
{
	*r = (struct kvm_regs){
		.rax = cs->gpr[GPR_RAX], .rbx = cs->gpr[GPR_RBX], .rcx = cs->gpr[GPR_RCX], .rdx = cs->gpr[GPR_RDX],
		.rsi = cs->gpr[GPR_RSI], .rdi = cs->gpr[GPR_RDI], .rsp = cs->gpr[GPR_RSP], .rbp = cs->gpr[GPR_RBP],
		.r8 = cs->gpr[GPR_R8],	 .r9 = cs->gpr[GPR_R9],	  .r10 = cs->gpr[GPR_R10], .r11 = cs->gpr[GPR_R11],
		.r12 = cs->gpr[GPR_R12], .r13 = cs->gpr[GPR_R13], .r14 = cs->gpr[GPR_R14], .r15 = cs->gpr[GPR_R15],
		.rip = cs->rip,		 .rflags = cs->rflags,
	};
}

static void general_from_kvm(const struct kvm_regs *r, struct cpu_state *cs)
{
	const uint64_t gpr[GPR_COUNT] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
					 r->r8,	 r->r9,	 r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	memcpy(cs->gpr, gpr, sizeof(gpr));
	cs->rip = r->rip;
	cs->rflags = r->rflags;
}

static struct kvm_segment segment_to_kvm(const struct cpu_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->access & SEG_ACCESS_TYPE,
		.present = (s->access & SEG_ACCESS_P) != 0,
		.dpl = s->access >> SEG_ACCESS_DPL_SHIFT & 3,
		.db = (s->access & SEG_ACCESS_DB) != 0,
		.s = (s->access & SEG_ACCESS_S) != 0,
		.l = (s->access & SEG_ACCESS_L) != 0,
		.g = (s->access & SEG_ACCESS_G) != 0,
		.avl = s->access >> 12 & 1,
		.unusable = !(s->access & SEG_ACCESS_P),
	};
}

static struct cpu_segment segment_from_kvm(const struct kvm_segment *k)
{
	struct cpu_segment s = {.base = k->base, .limit = k->limit, .selector = k->selector};

	if (!k->unusable && k->present)
		s.access = (uint16_t)(k->type | k->s << 4 | k->dpl << 5 | SEG_ACCESS_P | k->avl << 12 | k->l << 13 |
				      k->db << 14 | k->g << 15);
	return s;
}

/* In the order of enum cpu_seg. */
static struct kvm_segment *segments(struct kvm_sregs *k, unsigned i)
{
	struct kvm_segment *const all[SEG_COUNT] = {&k->es, &k->cs, &k->ss, &k->ds, &k->fs, &k->gs};

	return all[i];
}

static int get_registers(struct mode_vcpu *vcpu, struct cpu_state *cs)
{
	struct kvm_sregs k;
	struct kvm_regs r;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &k) < 0)
		return -errno;
	general_from_kvm(&r, cs);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cs->seg[i] = segment_from_kvm(segments(&k, i));
	cs->ldtr = segment_from_kvm(&k.ldt);
	cs->tr = segment_from_kvm(&k.tr);
	cs->gdtr = (struct cpu_dtable){k.gdt.base, k.gdt.limit};
	cs->idtr = (struct cpu_dtable){k.idt.base, k.idt.limit};
	cs->cr0 = k.cr0;
	cs->cr2 = k.cr2;
	cs->cr3 = k.cr3;
	cs->cr4 = k.cr4;
	cs->efer = k.efer;
	return 0;
}

static int set_registers(struct mode_vcpu *vcpu, const struct cpu_state *cs)
{
	struct machine *m = vcpu->vm->machine;
	struct kvm_sregs k;
	struct kvm_regs r;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &k) < 0)
		return -errno;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		*segments(&k, i) = segment_to_kvm(&cs->seg[i]);
	k.ldt = segment_to_kvm(&cs->ldtr);
	k.tr = segment_to_kvm(&cs->tr);
	k.gdt.base = cs->gdtr.base;
	k.gdt.limit = (uint16_t)cs->gdtr.limit;
	k.idt.base = cs->idtr.base;
	k.idt.limit = (uint16_t)cs->idtr.limit;
	k.cr0 = cs->cr0;
	k.cr2 = cs->cr2;
	k.cr3 = cs->cr3;
	k.cr4 = cs->cr4;
	k.efer = cs->efer;
	memset(k.interrupt_bitmap, 0, sizeof(k.interrupt_bitmap)); /* set_events has it */
	if (vcpu->vm->irqchip == HVM_IRQCHIP_MACHINE) {
		uint64_t base;

		/* A LAPIC that is not KVM's has no x2APIC mode as KVM sees it: those MSRs come to us. */
		if (machine_apic_msr_read(m, vcpu->index, 0x1b, &base))
			k.apic_base = base & ~0x400ull;
		k.cr8 = machine_tpr_get(m, vcpu->index);
	}
	general_to_kvm(cs, &r);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &k) < 0 || ioctl(vcpu->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	return 0;
}

/* ---- x87, SSE, AVX; debug registers --------------------------------------------------------------------- */

_Static_assert(sizeof(struct kvm_xsave) == CPU_XSAVE_BYTES, "KVM has the standard format too, and as much of it");

static int get_extended(struct mode_vcpu *vcpu, struct cpu_state *cs)
{
	struct kvm_debugregs d;
	struct kvm_xcrs x;

	if (ioctl(vcpu->fd, KVM_GET_XSAVE, cs->xsave) < 0 || ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &d) < 0)
		return -errno;
	memcpy(cs->dr, d.db, sizeof(cs->dr));
	cs->dr6 = d.dr6;
	cs->dr7 = d.dr7;
	/* Without XSAVE on the host there is no XCR0 to ask for. */
	cs->xcr0 = XCR0_X87;
	if (ioctl(vcpu->fd, KVM_GET_XCRS, &x) == 0)
		for (uint32_t i = 0; i < x.nr_xcrs; i++)
			if (x.xcrs[i].xcr == 0)
				cs->xcr0 = x.xcrs[i].value;
	return 0;
}

static int set_extended(struct mode_vcpu *vcpu, const struct cpu_state *cs)
{
	struct kvm_debugregs d = {.dr6 = cs->dr6, .dr7 = cs->dr7};
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = cs->xcr0}};

	memcpy(d.db, cs->dr, sizeof(d.db));
	if (ioctl(vcpu->fd, KVM_SET_XCRS, &x) < 0 && cs->xcr0 != XCR0_X87) {
		int rc = -errno;

		fprintf(stderr, "hvm: KVM refuses XCR0 = 0x%llx\n", (unsigned long long)cs->xcr0);
		return rc;
	}
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, cs->xsave) < 0 || ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &d) < 0)
		return -errno;
	return 0;
}

/* ---- events between instructions ---------------------------------------------------------------------------- */

static int get_events(struct mode_vcpu *vcpu, struct cpu_state *cs)
{
	struct kvm_vcpu_events e;

	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return -errno;
	cs->interrupt_shadow = e.interrupt.shadow != 0;
	/* Injected but cut short: it is still to be delivered, and its handler is not blocking others yet. */
	cs->nmi_pending = e.nmi.pending || e.nmi.injected;
	cs->nmi_blocked = e.nmi.masked && !e.nmi.injected;
	if (e.exception.injected || e.exception.pending) {
		cs->exception_pending = 1;
		cs->exception_vector = e.exception.nr;
		cs->exception_has_error = e.exception.has_error_code;
		cs->exception_error = e.exception.error_code;
	} else if (e.interrupt.injected && !e.interrupt.soft) {
		/* Acknowledged, so no LAPIC will give it again; it is delivered as an exception without error code is. */
		cs->exception_pending = 1;
		cs->exception_vector = e.interrupt.nr;
	}
	return 0;
}

static int set_events(struct mode_vcpu *vcpu, const struct cpu_state *cs)
{
	struct kvm_vcpu_events e = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};

	e.nmi.pending = cs->nmi_pending;
	e.nmi.masked = cs->nmi_blocked;
	/* A shadow of sti with interrupts off is no state VT-x can be entered in. */
	if (cs->interrupt_shadow)
		e.interrupt.shadow = cs->rflags & RFLAGS_IF ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
	if (cs->exception_pending && cs->exception_vector >= VECTOR_EXTERNAL) {
		e.interrupt.injected = 1;
		e.interrupt.nr = cs->exception_vector;
	} else if (cs->exception_pending) {
		e.exception.injected = 1;
		e.exception.nr = cs->exception_vector;
		e.exception.has_error_code = cs->exception_has_error && cs->cr0 & CR0_PE;
		e.exception.error_code = e.exception.has_error_code ? cs->exception_error : 0;
	}
	/* What the last exit said is of the state before. */
	vcpu->run->if_flag = (cs->rflags & RFLAGS_IF) != 0;
	vcpu->run->ready_for_interrupt_injection = !cs->exception_pending && !cs->interrupt_shadow;
	return ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &e) < 0 ? -errno : 0;
}

/* ---- what it does when it does nothing --------------------------------------------------------------------------- */

static int get_activity(struct mode_vcpu *vcpu, struct cpu_state *cs)
{
	struct kvm_mp_state mp;

	cs->activity = vcpu->wait_sipi ? CPU_WAIT_SIPI : vcpu->halted ? CPU_HALTED : CPU_RUNNING;
	if (vcpu->vm->irqchip == HVM_IRQCHIP_MACHINE)
		return 0;
	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp) < 0)
		return -errno;
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED: cs->activity = CPU_WAIT_SIPI; break;
	case KVM_MP_STATE_HALTED: cs->activity = CPU_HALTED; break;
	default: cs->activity = CPU_RUNNING; break;
	}
	return 0;
}

static int set_activity(struct mode_vcpu *vcpu, const struct cpu_state *cs)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	bool ours = vcpu->vm->irqchip == HVM_IRQCHIP_MACHINE;

	vcpu->halted = ours && cs->activity == CPU_HALTED;
	vcpu->wait_sipi = ours && cs->activity == CPU_WAIT_SIPI;
	if (!ours && cs->activity == CPU_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	else if (!ours && cs->activity == CPU_WAIT_SIPI)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED; /* as if the INIT had come: a SIPI starts it */
	return ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp) < 0 ? -errno : 0;
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

int hvm_get_state(struct mode_vcpu *vcpu, struct cpu_state *ret_state)
{
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);
	int rc;

	if (!cs)
		return -ENOMEM;
	memset(cs, 0, sizeof(*cs));
	hvm_complete_io(vcpu);
	/* First: it makes KVM take an INIT or SIPI that waits, which changes everything else. */
	rc = get_activity(vcpu, cs);
	if (!rc)
		rc = get_registers(vcpu, cs);
	if (!rc)
		rc = get_extended(vcpu, cs);
	if (!rc)
		rc = get_msrs(vcpu, cs);
	if (!rc)
		rc = get_events(vcpu, cs);
	if (!rc)
		*ret_state = *cs;
	free(cs);
	return rc;
}

int hvm_set_state(struct mode_vcpu *vcpu, const struct cpu_state *state)
{
	static const struct {
		const char *name;
		int (*set)(struct mode_vcpu *vcpu, const struct cpu_state *cs);
	} parts[] = {
		{"activity", set_activity},	  {"registers", set_registers}, {"x87, SSE, AVX and debug registers", set_extended},
		{"model-specific registers", set_msrs}, {"pending events", set_events},
	};

	hvm_complete_io(vcpu);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		int rc = parts[i].set(vcpu, state);

		if (rc) {
			fprintf(stderr, "hvm: KVM refuses the %s of vCPU %u: %s\n", parts[i].name, vcpu->index, strerror(-rc));
			return rc;
		}
	}
	return 0;
}
