/* Between a guest's user and kernel: frames for its handlers, its iret, and which of the two runs (arch-x86/xen-x86_64.h). */
#include "modes/pv/private.h"

#define RFLAGS_TF (1u << 8)
#define RFLAGS_IF (1u << 9)
#define RFLAGS_IOPL (3u << 12)
#define RFLAGS_NT (1u << 14)
#define RFLAGS_RF (1u << 16)
#define RFLAGS_VM (1u << 17)
#define RFLAGS_AC (1u << 18)
#define CR0_TS (1u << 3)
#define CR0_START 0x80050033u /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_START (1u << 5 | 1u << 7 | 1u << 9 | 1u << 10) /* PAE, PGE, OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE (1u << 18)
#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)
#define VEC_DB 1
#define VEC_UD 6
#define VEC_NM 7
#define VEC_GP 13
#define VEC_PF 14
#define ERROR_IDT 2u
#define PF_P 1u
#define PF_W 2u
#define PF_RSVD 8u
#define FLAT_CODE64 0xa0fb /* present, privilege 3, code, readable, accessed; L, G */
#define FLAT_DATA32 0xc0f3

bool pv_hopeless(struct pv_vcpu *p, const char *why)
{
	const char *from = why;
	char *to = p->domain->message, *end = p->domain->message + sizeof(p->domain->message) - 1;

	while (*from && to < end)
		*to++ = *from++;
	*to = '\0';
	return false;
}

static void flat(struct cpu_segment *seg, unsigned selector, unsigned access)
{
	*seg = (struct cpu_segment){.base = 0, .limit = 0xffffffffu, .access = (uint16_t)access, .selector = (uint16_t)selector};
}

void pv_flat_segments(struct cpu_state *cs)
{
	flat(&cs->seg[SEG_CS], FLAT_RING3_CS64, FLAT_CODE64);
	flat(&cs->seg[SEG_SS], FLAT_RING3_SS64, FLAT_DATA32);
}

void pv_first_state(struct pv_vcpu *p, struct cpu_state *cs)
{
	pv_flat_segments(cs);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS && i != SEG_SS)
			cs->seg[i] = (struct cpu_segment){0};
	memset(cs->gpr, 0, sizeof(cs->gpr));
	cs->cr0 = CR0_START;
	cs->cr2 = 0;
	cs->cr3 = p->kernel_root << GUEST_PAGE_SHIFT;
	/* XSAVE is on from the start, as a guest learns from cpuid alone. */
	cs->cr4 = p->cr4 = CR4_START | (machine_cpuid(p->domain->machine)->xcr0_mask ? CR4_OSXSAVE : 0);
	cs->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	cs->xcr0 = 1;
	cs->rflags = 0x202;
	cs->ldtr = (struct cpu_segment){0};
	cs->tr = (struct cpu_segment){0}; /* no bitmap of ports */
	cs->idtr = (struct cpu_dtable){0};
	cs->gdtr = (struct cpu_dtable){pv_tables_va(p), PV_GDT_PAGES * GUEST_PAGE_SIZE - 1};
	cs->activity = CPU_RUNNING;
	p->in_kernel = true;
	p->gs_other = 0;
}

/* Kernel and user have a top-level table and a GS base each. */
void pv_switch_mode(struct pv_vcpu *p, bool kernel)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint64_t gs = cs->seg[SEG_GS].base;

	if (p->in_kernel == kernel)
		return;
	cs->seg[SEG_GS].base = p->gs_other;
	p->gs_other = gs;
	p->in_kernel = kernel;
	pv_load_root(p);
	bt_monitor_set_kernel(p->v, kernel);
}

/* ---- into the kernel --------------------------------------------------------------------- */

bool pv_enter_kernel(struct pv_vcpu *p, const struct pv_frame_entry *e)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	uint64_t frame[14], rflags = bt_monitor_rflags(p->v), sp = cs->gpr[GPR_RSP], code = cs->seg[SEG_CS].selector;
	unsigned n = 0;

	if (!e->address)
		return pv_hopeless(p, "the guest has no handler for what has just happened to it");
	if (p->in_kernel) {
		code &= ~3ull; /* tells a handler that it interrupted the kernel */
	} else {
		pv_switch_mode(p, true);
		sp = p->kernel_sp;
	}
	sp &= ~15ull;
	frame[n++] = cs->gpr[GPR_RCX];
	frame[n++] = cs->gpr[GPR_R11];
	if (e->failsafe) {
		frame[n++] = cs->seg[SEG_DS].selector;
		frame[n++] = cs->seg[SEG_ES].selector;
		frame[n++] = cs->seg[SEG_FS].selector;
		frame[n++] = cs->seg[SEG_GS].selector;
	}
	if (e->has_error)
		frame[n++] = e->error;
	frame[n++] = cs->rip;
	frame[n++] = code | (uint64_t)p->info->evtchn_upcall_mask << 32;
	frame[n++] = (rflags & ~(uint64_t)RFLAGS_IF) | (p->info->evtchn_upcall_mask ? 0 : RFLAGS_IF);
	frame[n++] = cs->gpr[GPR_RSP];
	frame[n++] = cs->seg[SEG_SS].selector;
	sp -= n * 8;
	cs->rip = e->address;
	pv_flat_segments(cs);
	bt_monitor_set_rflags(p->v, (rflags | RFLAGS_IF) & ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | RFLAGS_AC));
	bt_monitor_changed(p->v);
	if (e->mask)
		p->info->evtchn_upcall_mask = 1;
	if (!bt_monitor_write(p->v, sp, frame, n * 8))
		return pv_hopeless(p, "the guest's kernel stack cannot be written to: an exception there has nowhere to go");
	cs->gpr[GPR_RSP] = sp;
	return true;
}

bool pv_enter_trap(struct pv_vcpu *p, unsigned vector, bool has_error, uint32_t error)
{
	const struct trap_info *t = &p->trap[vector];
	const struct pv_frame_entry e = {.address = t->address, .mask = TI_GET_IF(t), .has_error = has_error, .error = error};

	if (vector == VEC_PF)
		p->info->arch.cr2 = bt_monitor_state(p->v)->cr2;
	return pv_enter_kernel(p, &e);
}

/* ---- iret ------------------------------------------------------------------------------------- */

bool pv_iret(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	const struct pv_frame_entry failsafe = {
		.address = p->failsafe_callback, .mask = p->flags & VGCF_failsafe_disables_events, .failsafe = true};
	struct iret_context c;

	if (!p->in_kernel || !bt_monitor_read(p->v, cs->gpr[GPR_RSP], &c, sizeof(c)))
		return pv_hopeless(p, "iret with a stack that cannot be read");
	if ((c.cs & 3) == 3) {
		if (!p->user_root)
			return pv_hopeless(p, "iret to user code without page tables for it");
		pv_switch_mode(p, false);
	}
	cs->gpr[GPR_RAX] = c.rax;
	cs->gpr[GPR_R11] = c.r11;
	cs->gpr[GPR_RCX] = c.rcx;
	if (c.flags & VGCF_in_syscall) {
		cs->gpr[GPR_RCX] = c.rip;
		cs->gpr[GPR_R11] = c.rflags;
	}
	cs->rip = c.rip;
	cs->gpr[GPR_RSP] = c.rsp;
	bt_monitor_set_rflags(p->v, (c.rflags & ~(uint64_t)(RFLAGS_IOPL | RFLAGS_VM | RFLAGS_RF)) | RFLAGS_IF);
	p->info->evtchn_upcall_mask = !(c.rflags & RFLAGS_IF);
	if ((c.cs | 3) == FLAT_RING3_CS64 && (c.ss | 3) == FLAT_RING3_SS64) {
		pv_flat_segments(cs);
	} else if (!bt_monitor_load_code(p->v, (uint16_t)c.cs | 3, (uint16_t)c.ss | 3)) {
		pv_flat_segments(cs);
		return pv_enter_kernel(p, &failsafe);
	}
	bt_monitor_changed(p->v);
	return true;
}

/* ---- what the translator asks ----------------------------------------------------------------------- */

/* int n: an entry of the trap table that lets this privilege in, or the fault that its absence is. */
static bool software_interrupt(struct pv_vcpu *p, const struct bt_event *event)
{
	const struct trap_info *t = &p->trap[event->vector & 255];
	struct cpu_state *cs = bt_monitor_state(p->v);

	if (event->vector != 3 && event->vector != 4 && TI_GET_DPL(t) < (p->in_kernel ? 1u : 3u))
		return pv_enter_trap(p, VEC_GP, true, event->vector * 8 + ERROR_IDT);
	cs->rip = event->return_rip;
	return pv_enter_trap(p, event->vector & 255, false, 0);
}

static bool page_fault(struct pv_vcpu *p, uint32_t error)
{
	gva_t gva = bt_monitor_state(p->v)->cr2;

	if ((error & (PF_P | PF_W | PF_RSVD)) == (PF_P | PF_W) && pv_store_begin(p, gva))
		return true;
	return pv_enter_trap(p, VEC_PF, true, error);
}

static bool exception(struct bt_vcpu *v, const struct bt_event *event)
{
	struct pv_vcpu *p = pv_vcpu_of(v);
	struct cpu_state *cs = bt_monitor_state(v);

	if (p->store->active) /* the instruction faults elsewhere */
		pv_store_drop(p);
	if (event->soft)
		return software_interrupt(p, event);
	switch (event->vector) {
	case VEC_GP:
		if (event->error == 0 && pv_emulate_privileged(p))
			return true;
		break;
	case VEC_UD:
		if (pv_emulate_forced(p))
			return true;
		break;
	case VEC_PF: return page_fault(p, event->error);
	case VEC_NM:
		if (cs->cr0 & CR0_TS) {
			cs->cr0 &= ~(uint64_t)CR0_TS;
			bt_monitor_changed(v);
		}
		break;
	default: break;
	}
	return pv_enter_trap(p, event->vector, event->has_error, event->error);
}

static bool pending(struct bt_vcpu *v)
{
	const struct pv_vcpu *p = pv_vcpu_of(v);

	return p->store->active || pv_upcall_due(p) || p->domain->ended;
}

static bool interrupt(struct bt_vcpu *v)
{
	struct pv_vcpu *p = pv_vcpu_of(v);
	struct cpu_state *cs = bt_monitor_state(v);
	const struct pv_frame_entry upcall = {.address = p->event_callback, .mask = true};

	if (p->store->active && !pv_store_end(p)) {
		cs->cr2 = p->store->gva;
		return pv_enter_trap(p, VEC_PF, true, PF_P | PF_W);
	}
	if (!p->online || p->domain->ended)
		return true;
	if (cs->activity == CPU_HALTED && (p->polling ? pv_poll_over(p) : pv_upcall_due(p))) {
		p->polling = false;
		cs->activity = CPU_RUNNING;
		pv_runstate(p, RUNSTATE_running);
	}
	if (!pv_upcall_due(p) || cs->activity != CPU_RUNNING)
		return true;
	p->domain->stats.upcalls++;
	return pv_enter_kernel(p, &upcall);
}

static void attend(struct bt_vcpu *v)
{
	struct pv_vcpu *p = pv_vcpu_of(v);
	struct cpu_state *cs = bt_monitor_state(v);

	if (p->started) {
		p->started = false;
		pv_apply_context(p);
	}
	if (p->domain->ended)
		cs->activity = CPU_HALTED;
}

const struct bt_monitor pv_monitor = {
	.exception = exception,
	.system_call = pv_system_call,
	.pending = pending,
	.interrupt = interrupt,
	.attend = attend,
};
