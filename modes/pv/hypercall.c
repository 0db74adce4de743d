/* The syscall instruction: a hypercall from the guest's kernel, a system call of its own from its user. And the small hypercalls. */
#include "modes/pv/private.h"

#define VMASST_ALLOWED ((1ull << VMASST_TYPE_4gb_segments) | (1ull << VMASST_TYPE_4gb_segments_notify) | \
			(1ull << VMASST_TYPE_writable_pagetables) | (1ull << VMASST_TYPE_pae_extended_cr3) | \
			(1ull << VMASST_TYPE_architectural_iopl) | (1ull << VMASST_TYPE_runstate_update_flag) | (1ull << VMASST_TYPE_m2p_strict))
#define CONSOLE_CHUNK 256u

/* ---- traps, callbacks, stack ------------------------------------------------------------- */

static bool canonical(uint64_t address) { return (uint64_t)((int64_t)(address << 16) >> 16) == address; }

static long set_trap_table(struct pv_vcpu *p, gva_t table)
{
	if (!table) {
		memset(p->trap, 0, sizeof(p->trap));
		return 0;
	}
	for (unsigned i = 0; i < 256; i++) {
		struct trap_info t;

		if (!bt_monitor_read(p->v, table + i * sizeof(t), &t, sizeof(t)))
			return -XEN_EFAULT;
		if (!t.address)
			return 0;
		if (!canonical(t.address))
			return -XEN_EINVAL;
		p->trap[t.vector] = t;
	}
	return 0;
}

static void set_flag(struct pv_vcpu *p, uint64_t flag, bool on) { p->flags = on ? p->flags | flag : p->flags & ~flag; }

static long register_callback(struct pv_vcpu *p, unsigned type, uint64_t address, bool masks)
{
	if (!canonical(address))
		return -XEN_EINVAL;
	switch (type) {
	case CALLBACKTYPE_event: p->event_callback = address; return 0;
	case CALLBACKTYPE_failsafe:
		p->failsafe_callback = address;
		set_flag(p, VGCF_failsafe_disables_events, masks);
		return 0;
	case CALLBACKTYPE_syscall:
		p->syscall_callback = address;
		set_flag(p, VGCF_syscall_disables_events, masks);
		return 0;
	case CALLBACKTYPE_syscall32:
		p->syscall32_callback = address;
		p->syscall32_masks = masks;
		return 0;
	case CALLBACKTYPE_sysenter:
		p->sysenter_callback = address;
		p->sysenter_masks = masks;
		return 0;
	case CALLBACKTYPE_nmi: p->nmi_callback = address; return 0;
	default: return -XEN_ENOSYS;
	}
}

static long callback_op(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	struct callback_register r;
	struct callback_unregister u;

	switch (cmd) {
	case CALLBACKOP_register:
		if (!bt_monitor_read(p->v, arg, &r, sizeof(r)))
			return -XEN_EFAULT;
		return register_callback(p, r.type, r.address, r.flags & CALLBACKF_mask_events);
	case CALLBACKOP_unregister:
		if (!bt_monitor_read(p->v, arg, &u, sizeof(u)))
			return -XEN_EFAULT;
		if (u.type != CALLBACKTYPE_nmi && u.type != CALLBACKTYPE_sysenter && u.type != CALLBACKTYPE_syscall32)
			return -XEN_EINVAL;
		return register_callback(p, u.type, 0, false);
	default: return -XEN_ENOSYS;
	}
}

static long set_callbacks(struct pv_vcpu *p, uint64_t event, uint64_t failsafe, uint64_t system_call)
{
	if (!canonical(event) || !canonical(failsafe) || !canonical(system_call))
		return -XEN_EINVAL;
	p->event_callback = event;
	p->failsafe_callback = failsafe;
	p->syscall_callback = system_call;
	return 0;
}

static long set_segment_base(struct pv_vcpu *p, unsigned which, uint64_t base)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	if (which != SEGBASE_GS_USER_SEL && !canonical(base))
		return -XEN_EINVAL;
	switch (which) {
	case SEGBASE_FS: cs->seg[SEG_FS].base = base; return 0;
	case SEGBASE_GS_KERNEL: cs->seg[SEG_GS].base = base; return 0;
	case SEGBASE_GS_USER: p->gs_other = base; return 0;
	case SEGBASE_GS_USER_SEL: {
		uint64_t kernel = cs->seg[SEG_GS].base;

		cs->seg[SEG_GS].base = p->gs_other;
		if (!bt_monitor_load_data(p->v, SEG_GS, (uint16_t)base))
			bt_monitor_load_data(p->v, SEG_GS, 0);
		p->gs_other = cs->seg[SEG_GS].base;
		cs->seg[SEG_GS].base = kernel;
		return 0;
	}
	default: return -XEN_EINVAL;
	}
}

static long fpu_taskswitch(struct pv_vcpu *p, bool set)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	cs->cr0 = set ? cs->cr0 | 8u : cs->cr0 & ~8ull;
	bt_monitor_changed(p->v);
	return 0;
}

/* ---- debug registers ----------------------------------------------------------------------------- */

long pv_set_debugreg(struct pv_vcpu *p, unsigned reg, uint64_t value)
{
	struct cpu_state *cs = bt_monitor_state(p->v);

	switch (reg) {
	case 0: case 1: case 2: case 3:
		/* Nothing of the monitor's is to be watched. */
		if (!canonical(value) || (value >= HYPERVISOR_VIRT_START && value < HYPERVISOR_VIRT_END))
			return -XEN_EPERM;
		cs->dr[reg] = value;
		break;
	case 4: case 6: cs->dr6 = (value & 0xe00f) | 0xffff0ff0u; break;
	case 5: case 7:
		if (value & 0xffffffff0000dc00ull & ~0x400ull)
			return -XEN_EPERM;
		cs->dr7 = value | 0x400;
		break;
	default: return -XEN_EINVAL;
	}
	bt_monitor_debug_changed(p->v);
	return 0;
}

static long get_debugreg(struct pv_vcpu *p, unsigned reg)
{
	const struct cpu_state *cs = bt_monitor_state(p->v);

	switch (reg) {
	case 0: case 1: case 2: case 3: return (long)cs->dr[reg];
	case 4: case 6: return (long)cs->dr6;
	case 5: case 7: return (long)cs->dr7;
	default: return -XEN_EINVAL;
	}
}

/* ---- who we are ------------------------------------------------------------------------------------ */

static long put(struct pv_vcpu *p, gva_t at, const void *bytes, unsigned n)
{
	return bt_monitor_write(p->v, at, bytes, n) ? 0 : -XEN_EFAULT;
}

static long get_features(struct pv_vcpu *p, gva_t arg)
{
	struct xen_feature_info f;

	if (!bt_monitor_read(p->v, arg, &f, sizeof(f)))
		return -XEN_EFAULT;
	if (f.submap_idx != 0)
		return -XEN_EINVAL;
	f.submap = 1u << XENFEAT_mmu_pt_update_preserve_ad | 1u << XENFEAT_gnttab_map_avail_bits | 1u << XENFEAT_pae_pgdir_above_4gb;
	return put(p, arg, &f, sizeof(f));
}

static long xen_version(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	static const char extra[XEN_EXTRAVERSION_LEN] = ".0-trivisor";
	static const char capabilities[] = "xen-3.0-x86_64 ";
	static const char changeset[64] = "unavailable";
	static const struct xen_compile_info compile = {"C11", "trivisor", "trivisor", "unknown"};
	const struct xen_platform_parameters platform = {HYPERVISOR_VIRT_START};
	static const uint8_t none[16];
	char buf[1024];

	switch (cmd) {
	case XENVER_version: return PV_XEN_MAJOR << 16 | PV_XEN_MINOR;
	case XENVER_extraversion: return put(p, arg, extra, sizeof(extra));
	case XENVER_compile_info: return put(p, arg, &compile, sizeof(compile));
	case XENVER_capabilities:
		memset(buf, 0, sizeof(buf));
		memcpy(buf, capabilities, sizeof(capabilities));
		return put(p, arg, buf, sizeof(buf));
	case XENVER_changeset: return put(p, arg, changeset, sizeof(changeset));
	case XENVER_platform_parameters: return put(p, arg, &platform, sizeof(platform));
	case XENVER_get_features: return get_features(p, arg);
	case XENVER_pagesize: return (long)GUEST_PAGE_SIZE;
	case XENVER_guest_handle: return put(p, arg, none, sizeof(none));
	case XENVER_commandline: return -XEN_EPERM;
	case XENVER_build_id: return -XEN_ENODATA;
	default: return -XEN_ENOSYS;
	}
}

/* ---- the monitor's own console: for messages from before the guest's ring works ------------------------- */

static long console_io(struct pv_vcpu *p, unsigned cmd, uint64_t count, gva_t bytes)
{
	uint8_t buf[CONSOLE_CHUNK];

	if (cmd != CONSOLEIO_write)
		return cmd == CONSOLEIO_read ? -XEN_EPERM : -XEN_ENOSYS;
	count = (uint32_t)count;
	while (count) {
		unsigned n = count < sizeof(buf) ? (unsigned)count : (unsigned)sizeof(buf);

		if (!bt_monitor_read(p->v, bytes, buf, n))
			return -XEN_EFAULT;
		pv_outside_begin(p);
		machine_serial_output(p->domain->machine, buf, n);
		pv_outside_end(p);
		bytes += n;
		count -= n;
	}
	return 0;
}

static long vm_assist(struct pv_vcpu *p, unsigned cmd, unsigned type)
{
	uint64_t bit = type < 64 ? 1ull << type : 0;

	if (!(bit & VMASST_ALLOWED))
		return -XEN_EINVAL;
	switch (cmd) {
	case VMASST_CMD_enable: p->domain->vm_assist |= bit; return 0;
	case VMASST_CMD_disable: p->domain->vm_assist &= ~bit; return 0;
	default: return -XEN_ENOSYS;
	}
}

/* ---- dispatch ---------------------------------------------------------------------------------------------- */

static long call(struct pv_vcpu *p, unsigned n, const uint64_t a[6], bool nested);

static long multicall(struct pv_vcpu *p, gva_t list, uint64_t count)
{
	for (uint32_t i = 0; i < (uint32_t)count; i++) {
		gva_t at = list + i * sizeof(struct multicall_entry);
		struct multicall_entry e;
		long result;

		if (!bt_monitor_read(p->v, at, &e, sizeof(e)))
			return -XEN_EFAULT;
		result = call(p, (unsigned)e.op, (const uint64_t *)e.args, true);
		if (!bt_monitor_write(p->v, at + offsetof(struct multicall_entry, result), &result, sizeof(result)))
			return -XEN_EFAULT;
	}
	return 0;
}

static long event_op_compat(struct pv_vcpu *p, gva_t arg)
{
	uint32_t cmd;

	if (!bt_monitor_read(p->v, arg, &cmd, sizeof(cmd)))
		return -XEN_EFAULT;
	return pv_event_op(p, cmd, arg + offsetof(struct evtchn_op, u));
}

static long physdev_op_compat(struct pv_vcpu *p, gva_t arg)
{
	uint32_t cmd;

	if (!bt_monitor_read(p->v, arg, &cmd, sizeof(cmd)))
		return -XEN_EFAULT;
	return pv_physdev_op(p, cmd, arg + offsetof(struct physdev_op, u));
}

static long call(struct pv_vcpu *p, unsigned n, const uint64_t a[6], bool nested)
{
	switch (n) {
	case __HYPERVISOR_set_trap_table: return set_trap_table(p, a[0]);
	case __HYPERVISOR_mmu_update: return pv_mmu_update(p, a[0], a[1], a[2], a[3]);
	case __HYPERVISOR_set_gdt: return pv_set_gdt(p, a[0], a[1]);
	case __HYPERVISOR_stack_switch: p->kernel_sp = a[1]; return 0;
	case __HYPERVISOR_set_callbacks: return set_callbacks(p, a[0], a[1], a[2]);
	case __HYPERVISOR_fpu_taskswitch: return fpu_taskswitch(p, (uint32_t)a[0]);
	case __HYPERVISOR_sched_op_compat: return pv_sched_op_compat(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_set_debugreg: return pv_set_debugreg(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_get_debugreg: return get_debugreg(p, (unsigned)a[0]);
	case __HYPERVISOR_update_descriptor: return pv_update_descriptor(p, a[0], a[1]);
	case __HYPERVISOR_memory_op: return pv_memory_op(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_multicall: return nested ? -XEN_EINVAL : multicall(p, a[0], a[1]);
	case __HYPERVISOR_update_va_mapping: return pv_update_va_mapping(p, a[0], a[1], a[2]);
	case __HYPERVISOR_set_timer_op: return pv_set_timer(p, a[0]);
	case __HYPERVISOR_event_channel_op_compat: return event_op_compat(p, a[0]);
	case __HYPERVISOR_xen_version: return xen_version(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_console_io: return console_io(p, (unsigned)a[0], a[1], a[2]);
	case __HYPERVISOR_physdev_op_compat: return physdev_op_compat(p, a[0]);
	case __HYPERVISOR_grant_table_op: return pv_grant_op(p, (unsigned)a[0], a[1], (unsigned)a[2]);
	case __HYPERVISOR_vm_assist: return vm_assist(p, (unsigned)a[0], (unsigned)a[1]);
	case __HYPERVISOR_update_va_mapping_otherdomain: return pv_update_va_mapping_other(p, a[0], a[1], a[2], a[3]);
	case __HYPERVISOR_vcpu_op: return pv_vcpu_op(p, (unsigned)a[0], (unsigned)a[1], a[2]);
	case __HYPERVISOR_set_segment_base: return set_segment_base(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_mmuext_op: return pv_mmuext_op(p, a[0], a[1], a[2], a[3]);
	case __HYPERVISOR_sched_op: return pv_sched_op(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_callback_op: return callback_op(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_event_channel_op: return pv_event_op(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_physdev_op: return pv_physdev_op(p, (unsigned)a[0], a[1]);
	case __HYPERVISOR_platform_op:
	case __HYPERVISOR_sysctl:
	case __HYPERVISOR_domctl: return -XEN_EPERM; /* for who rules other domains */
	default: return -XEN_ENOSYS;
	}
}

static void user_system_call(struct pv_vcpu *p)
{
	struct cpu_state *cs = bt_monitor_state(p->v);
	bool code64 = cs->seg[SEG_CS].access & SEG_ACCESS_L;
	const struct pv_frame_entry e = {
		.address = code64 ? p->syscall_callback : p->syscall32_callback,
		.mask = code64 ? p->flags & VGCF_syscall_disables_events : p->syscall32_masks,
	};

	/* The frame says what Xen's would, whatever segments the user had. */
	cs->seg[SEG_CS].selector = code64 ? FLAT_USER_CS64 : FLAT_USER_CS32;
	cs->seg[SEG_SS].selector = FLAT_USER_SS64;
	if (!pv_enter_kernel(p, &e))
		bt_monitor_fail(p->v, p->domain->message);
}

/*
 * The guest's hypercall page holds this instruction, or the guest has it in line. Registers but rax, rcx and r11 are as
 * they were.
 */
void pv_system_call(struct bt_vcpu *v, uint64_t next)
{
	struct pv_vcpu *p = pv_vcpu_of(v);
	struct cpu_state *cs = bt_monitor_state(v);
	const uint64_t *g = cs->gpr;
	uint64_t a[6] = {g[GPR_RDI], g[GPR_RSI], g[GPR_RDX], g[GPR_R10], g[GPR_R8], g[GPR_R9]};
	unsigned n = (unsigned)g[GPR_RAX];
	long result;

	cs->gpr[GPR_RCX] = next;
	cs->gpr[GPR_R11] = bt_monitor_rflags(v);
	cs->rip = next;
	if (!p->in_kernel) {
		user_system_call(p);
		return;
	}
	p->hypercalls++;
	if (n == __HYPERVISOR_iret) {
		if (!pv_iret(p))
			bt_monitor_fail(v, p->domain->message);
		return;
	}
	result = call(p, n, a, false);
	cs->gpr[GPR_RAX] = (uint64_t)result;
	if (p->blocks) {
		p->blocks = false;
		bt_monitor_halt(v);
	}
}
