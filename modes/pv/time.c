/* Time as a guest sees it: pvclock, the wall clock, timers, run states; scheduling and its vCPUs (sched.h, vcpu.h). */
#include "modes/pv/private.h"

#define NS_PER_S 1000000000ull

/* ---- clocks -------------------------------------------------------------------------- */

/*
 * The machine's TSC and its clock both start at 0 and stand still together: so time 0 at TSC 0 is right for all vCPUs, and
 * stays so.
 */
void pv_time_publish(struct pv_vcpu *p)
{
	volatile vcpu_time_info_t *t = &p->info->time;
	uint32_t mul;
	int8_t shift;

	machine_tsc_scale(machine_tsc_khz(p->domain->machine), &mul, &shift);
	t->version |= 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	t->tsc_timestamp = 0;
	t->system_time = 0;
	t->tsc_to_system_mul = mul;
	t->tsc_shift = shift;
	t->flags = XEN_PVCLOCK_TSC_STABLE_BIT;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	t->version++;
}

/* ---- run states ----------------------------------------------------------------------------- */

static void runstate_store(struct pv_vcpu *p)
{
	if (p->runstate_gva && p->in_kernel)
		bt_monitor_write(p->v, p->runstate_gva, &p->runstate, sizeof(p->runstate));
}

void pv_runstate(struct pv_vcpu *p, int state)
{
	uint64_t now = machine_clock_ns(p->domain->machine);

	p->runstate.time[p->runstate.state] += now - p->runstate.state_entry_time;
	p->runstate.state = state;
	p->runstate.state_entry_time = now;
	runstate_store(p);
}

/* ---- timers ------------------------------------------------------------------------------------ */

static long timer_at(struct pv_vcpu *p, struct machine_timer *timer, uint64_t when)
{
	pv_outside_begin(p);
	machine_timer_set(timer, when);
	pv_outside_end(p);
	return 0;
}

long pv_set_timer(struct pv_vcpu *p, uint64_t when)
{
	/* 0: none; so does Xen take a negative or absurd time. */
	if (!when || (int64_t)when < 0)
		return timer_at(p, p->timer, UINT64_MAX);
	return timer_at(p, p->timer, when);
}

/* ---- scheduling ------------------------------------------------------------------------------------ */

static long block(struct pv_vcpu *p)
{
	p->info->evtchn_upcall_mask = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!p->info->evtchn_upcall_pending) {
		p->blocks = true;
		pv_runstate(p, RUNSTATE_blocked);
	}
	return 0;
}

static bool port_pending(const struct pv_domain *d, uint32_t port)
{
	return d->shared->evtchn_pending[port / 64] >> port % 64 & 1;
}

bool pv_poll_over(struct pv_vcpu *p)
{
	if (p->info->evtchn_upcall_pending || machine_clock_ns(p->domain->machine) >= p->poll_until)
		return true;
	for (unsigned i = 0; i < p->polls; i++)
		if (port_pending(p->domain, p->poll_port[i]))
			return true;
	return false;
}

static long poll(struct pv_vcpu *p, gva_t arg)
{
	struct sched_poll s;

	if (!bt_monitor_read(p->v, arg, &s, sizeof(s)))
		return -XEN_EFAULT;
	if (s.nr_ports > ARRAY_SIZE(p->poll_port))
		return -XEN_EINVAL;
	if (!bt_monitor_read(p->v, (gva_t)(uintptr_t)s.ports.p, p->poll_port, s.nr_ports * (unsigned)sizeof(p->poll_port[0])))
		return -XEN_EFAULT;
	for (unsigned i = 0; i < s.nr_ports; i++)
		if (p->poll_port[i] >= PV_PORTS)
			return -XEN_EINVAL;
	p->polls = s.nr_ports;
	p->poll_until = s.timeout ? s.timeout : UINT64_MAX;
	p->polling = true;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (pv_poll_over(p)) {
		p->polling = false;
		return 0;
	}
	if (s.timeout)
		timer_at(p, p->poll_timer, s.timeout);
	p->blocks = true;
	pv_runstate(p, RUNSTATE_blocked);
	return 0;
}

static long shut_down(struct pv_vcpu *p, unsigned reason)
{
	struct pv_domain *d = p->domain;
	enum machine_event event = MACHINE_EVENT_POWEROFF;
	unsigned code = 0;

	switch (reason) {
	case SHUTDOWN_poweroff: break;
	case SHUTDOWN_reboot:
	case SHUTDOWN_watchdog: event = MACHINE_EVENT_RESET; break;
	case SHUTDOWN_suspend: return -XEN_EINVAL; /* for who saves it */
	default:
		event = MACHINE_EVENT_PANIC;
		code = 1;
		break;
	}
	d->ended = true;
	pv_outside_begin(p);
	machine_report(d->machine, event, code);
	pv_outside_end(p);
	for (unsigned i = 0; i < d->vcpus; i++)
		if (i != p->index)
			pv_wake(d->vcpu[i]);
	p->blocks = true;
	return 0;
}

long pv_sched_op(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	struct sched_shutdown s;

	switch (cmd) {
	case SCHEDOP_yield: return 0;
	case SCHEDOP_block: return block(p);
	case SCHEDOP_poll: return poll(p, arg);
	case SCHEDOP_shutdown:
	case SCHEDOP_shutdown_code:
		if (!bt_monitor_read(p->v, arg, &s, sizeof(s)))
			return -XEN_EFAULT;
		return cmd == SCHEDOP_shutdown ? shut_down(p, s.reason) : 0;
	case SCHEDOP_pin_override: return -XEN_EPERM;
	default: return -XEN_ENOSYS; /* the watchdog among them */
	}
}

long pv_sched_op_compat(struct pv_vcpu *p, unsigned cmd, uint64_t arg)
{
	switch (cmd) {
	case SCHEDOP_yield: return 0;
	case SCHEDOP_block: return block(p);
	case SCHEDOP_shutdown: return shut_down(p, (uint8_t)arg);
	default: return -XEN_ENOSYS;
	}
}

/* ---- vCPUs -------------------------------------------------------------------------------------------- */

/* The place that the guest has chosen for it takes over, with all that was pending. */
static long register_info(struct pv_vcpu *p, struct pv_vcpu *of, gva_t arg)
{
	struct vcpu_register_vcpu_info r;
	volatile vcpu_info_t *to;
	int rc;

	if (!bt_monitor_read(p->v, arg, &r, sizeof(r)))
		return -XEN_EFAULT;
	if (r.offset > GUEST_PAGE_SIZE - sizeof(vcpu_info_t) || r.offset & 7 || of->info_mfn)
		return -XEN_EINVAL;
	pv_lock(p);
	rc = pv_get_typed(p, r.mfn, PV_TYPE_WRITABLE);
	if (!rc) {
		to = (volatile vcpu_info_t *)(volatile void *)(pv_frame_host(p->domain, r.mfn) + r.offset);
		*to = *of->info;
		of->info_mfn = r.mfn;
		of->info = to;
		/* Events that came meanwhile went to the old place. */
		to->evtchn_pending_sel = ~0ul;
		__atomic_store_n(&to->evtchn_upcall_pending, 1, __ATOMIC_SEQ_CST);
	}
	pv_unlock(p);
	return rc;
}

/* On its own thread, when it is put on line: what initialise was given. */
void pv_apply_context(struct pv_vcpu *p)
{
	const struct vcpu_guest_context *c = p->context;
	const struct cpu_user_regs *r = &c->user_regs;
	const uint64_t gpr[GPR_COUNT] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
					 r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
	struct cpu_state *cs = bt_monitor_state(p->v);

	pv_first_state(p, cs);
	memcpy(cs->gpr, gpr, sizeof(gpr));
	cs->rip = r->rip;
	cs->seg[SEG_FS].base = c->fs_base;
	cs->seg[SEG_GS].base = c->gs_base_kernel;
	p->gs_other = c->gs_base_user;
	memcpy(p->trap, c->trap_ctxt, sizeof(p->trap));
	p->event_callback = c->event_callback_eip;
	p->failsafe_callback = c->failsafe_callback_eip;
	p->syscall_callback = c->syscall_callback_eip;
	p->flags = c->flags;
	p->kernel_sp = c->kernel_sp;
	p->runstate.state = RUNSTATE_running;
	p->runstate.state_entry_time = machine_clock_ns(p->domain->machine);
	bt_monitor_set_rflags(p->v, 0x202);
	bt_monitor_set_kernel(p->v, true);
	bt_monitor_flush(p->v, BT_SPACE_USER | BT_SPACE_KERNEL);
}

static long initialise(struct pv_vcpu *p, struct pv_vcpu *of, gva_t arg)
{
	struct vcpu_guest_context *c = of->context;
	int rc = 0;

	if (of->initialised)
		return -XEN_EEXIST;
	if (!bt_monitor_read(p->v, arg, c, sizeof(*c)))
		return -XEN_EFAULT;
	if (!(c->flags & VGCF_in_kernel))
		return -XEN_EINVAL;
	pv_lock(p);
	rc = pv_get_typed(p, xen_cr3_to_pfn(c->ctrlreg[3]), PV_TYPE_L4);
	if (!rc && c->ctrlreg[1]) {
		rc = pv_get_typed(p, xen_cr3_to_pfn(c->ctrlreg[1]), PV_TYPE_L4);
		if (rc)
			pv_put_typed(p, xen_cr3_to_pfn(c->ctrlreg[3]));
	}
	if (!rc) {
		of->kernel_root = xen_cr3_to_pfn(c->ctrlreg[3]);
		of->user_root = xen_cr3_to_pfn(c->ctrlreg[1]);
		if (c->gdt_ents)
			rc = c->gdt_ents > FIRST_RESERVED_GDT_ENTRY ? -XEN_EINVAL
				: pv_set_gdt_frames_of(p, of, c->gdt_frames, (unsigned)(c->gdt_ents + 511) / 512);
	}
	pv_unlock(p);
	if (rc)
		return rc;
	of->initialised = true;
	return 0;
}

static long up(struct pv_vcpu *p, struct pv_vcpu *of)
{
	if (!of->initialised)
		return -XEN_EINVAL;
	if (!of->online) {
		of->online = true;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		of->started = true;
		pv_wake(of);
	}
	return 0;
}

static long down(struct pv_vcpu *p, struct pv_vcpu *of)
{
	of->online = false;
	if (of == p)
		p->blocks = true;
	else
		pv_wake(of);
	return 0;
}

static long get_runstate(struct pv_vcpu *p, struct pv_vcpu *of, gva_t arg)
{
	struct vcpu_runstate_info r = of->runstate;

	r.time[r.state] += machine_clock_ns(p->domain->machine) - r.state_entry_time;
	return bt_monitor_write(p->v, arg, &r, sizeof(r)) ? 0 : -XEN_EFAULT;
}

static long set_singleshot(struct pv_vcpu *p, gva_t arg)
{
	struct vcpu_set_singleshot_timer t;

	if (!bt_monitor_read(p->v, arg, &t, sizeof(t)))
		return -XEN_EFAULT;
	if (t.flags & VCPU_SSHOTTMR_future && t.timeout_abs_ns < machine_clock_ns(p->domain->machine))
		return -XEN_ETIME;
	return timer_at(p, p->timer, t.timeout_abs_ns);
}

static long set_periodic(struct pv_vcpu *p, gva_t arg)
{
	struct vcpu_set_periodic_timer t;

	if (!bt_monitor_read(p->v, arg, &t, sizeof(t)))
		return -XEN_EFAULT;
	if (t.period_ns < 1000000)
		return -XEN_EINVAL;
	p->period = t.period_ns;
	return timer_at(p, p->periodic, machine_clock_ns(p->domain->machine) + t.period_ns);
}

static long register_runstate(struct pv_vcpu *p, struct pv_vcpu *of, gva_t arg)
{
	struct vcpu_register_runstate_memory_area a;

	if (!bt_monitor_read(p->v, arg, &a, sizeof(a)))
		return -XEN_EFAULT;
	of->runstate_gva = a.addr.p;
	if (of == p)
		pv_runstate(p, p->runstate.state);
	return 0;
}

static long register_time(struct pv_vcpu *p, gva_t arg)
{
	struct vcpu_register_time_memory_area a;
	vcpu_time_info_t t;

	if (!bt_monitor_read(p->v, arg, &a, sizeof(a)))
		return -XEN_EFAULT;
	t = *(vcpu_time_info_t *)(uintptr_t)&p->info->time;
	if (a.addr.p && !bt_monitor_write(p->v, a.addr.p, &t, sizeof(t))) /* it never changes */
		return -XEN_EFAULT;
	return 0;
}

long pv_vcpu_op(struct pv_vcpu *p, unsigned cmd, unsigned vcpu, gva_t arg)
{
	struct pv_vcpu *of = vcpu < p->domain->vcpus ? p->domain->vcpu[vcpu] : NULL;
	struct vcpu_get_physid physid = {.phys_id = (uint64_t)vcpu << 32 | vcpu * 2};

	if (!of)
		return -XEN_ENOENT;
	switch (cmd) {
	case VCPUOP_initialise: return initialise(p, of, arg);
	case VCPUOP_up: return up(p, of);
	case VCPUOP_down: return down(p, of);
	case VCPUOP_is_up: return of->online;
	case VCPUOP_get_runstate_info: return get_runstate(p, of, arg);
	case VCPUOP_register_vcpu_info: return register_info(p, of, arg);
	case VCPUOP_register_runstate_memory_area: return register_runstate(p, of, arg);
	case VCPUOP_get_physid: return bt_monitor_write(p->v, arg, &physid, sizeof(physid)) ? 0 : -XEN_EFAULT;
	default: break;
	}
	/* What follows a vCPU asks for itself only. */
	switch (cmd) {
	case VCPUOP_set_singleshot_timer: return of == p ? set_singleshot(p, arg) : -XEN_EINVAL;
	case VCPUOP_stop_singleshot_timer: return of == p ? timer_at(p, p->timer, UINT64_MAX) : -XEN_EINVAL;
	case VCPUOP_set_periodic_timer: return of == p ? set_periodic(p, arg) : -XEN_EINVAL;
	case VCPUOP_stop_periodic_timer:
		if (of != p)
			return -XEN_EINVAL;
		p->period = 0;
		return timer_at(p, p->periodic, UINT64_MAX);
	case VCPUOP_register_vcpu_time_memory_area: return of == p ? register_time(p, arg) : -XEN_EINVAL;
	default: return -XEN_ENOSYS;
	}
}
