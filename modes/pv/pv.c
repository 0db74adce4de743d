/* pv as a mode: a Xen PV domain on the translator's vCPUs. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "modes/mode.h"
#include "modes/pv/build.h"
#include "modes/pv/store.h"

static struct pv_domain *domain_of(struct mode_vm *vm) { return bt_monitor_data(vm); }

static void probe(struct mode_probe *ret)
{
	bt_mode.probe(ret);
	if (!ret->usable)
		return;
	snprintf(ret->variant, sizeof(ret->variant), "pv/xen");
	snprintf(ret->reason, sizeof(ret->reason), "a Xen PV domain, its code translated; needs nothing but Linux on x86-64");
}

/* ---- vCPUs ----------------------------------------------------------------------------- */

static void on_timer(void *opaque)
{
	struct pv_vcpu *p = opaque;

	pv_virq(p, VIRQ_TIMER);
}

static void on_period(void *opaque)
{
	struct pv_vcpu *p = opaque;

	pv_virq(p, VIRQ_TIMER);
	if (p->period)
		machine_timer_set_locked(p->periodic, machine_clock_ns(p->domain->machine) + p->period);
}

static void on_poll(void *opaque) { pv_wake(opaque); }

/* As before the domain was built; the translator's own state is set by set_state. */
static void vcpu_reset(struct pv_vcpu *p)
{
	p->info_mfn = 0;
	p->in_kernel = true;
	p->flags = 0;
	memset(p->trap, 0, sizeof(p->trap));
	p->event_callback = p->failsafe_callback = p->syscall_callback = p->syscall32_callback = p->sysenter_callback = p->nmi_callback = 0;
	p->kernel_sp = p->kernel_root = p->user_root = p->gs_other = 0;
	memset(p->gdt_frame, 0, sizeof(p->gdt_frame));
	memset(p->virq_port, 0, sizeof(p->virq_port));
	p->online = p->initialised = p->started = p->polling = p->blocks = false;
	p->period = p->runstate_gva = p->time_gva = 0;
	p->store->active = false;
	memset(&p->runstate, 0, sizeof(p->runstate));
	p->runstate.state = p->index ? RUNSTATE_offline : RUNSTATE_running;
	machine_timer_set(p->timer, UINT64_MAX);
	machine_timer_set(p->periodic, UINT64_MAX);
	machine_timer_set(p->poll_timer, UINT64_MAX);
}

static void vcpu_free(struct pv_vcpu *p)
{
	if (!p)
		return;
	machine_timer_destroy(p->timer);
	machine_timer_destroy(p->periodic);
	machine_timer_destroy(p->poll_timer);
	if (p->store)
		munmap(p->store, sizeof(*p->store));
	free(p->context);
	free(p);
}

static void vcpu_destroy(struct mode_vcpu *vcpu)
{
	if (!vcpu)
		return;
	struct bt_vcpu *v = bt_monitor_vcpu(vcpu);
	struct pv_domain *d = v ? bt_monitor_vm(v) : NULL;
	unsigned index = v ? bt_monitor_index(v) : 0;

	if (d) {
		vcpu_free(d->vcpu[index]);
		d->vcpu[index] = NULL;
	}
	bt_mode.vcpu_destroy(vcpu);
}

static int vcpu_create(struct mode_vm *vm, unsigned index, struct mode_vcpu **ret_vcpu)
{
	struct pv_domain *d = domain_of(vm);
	struct pv_vcpu *p = calloc(1, sizeof(*p));
	struct mode_vcpu *vcpu;
	int rc;

	if (!p)
		return -ENOMEM;
	p->domain = d;
	p->index = index;
	p->timer = machine_timer_create(d->machine, on_timer, p);
	p->periodic = machine_timer_create(d->machine, on_period, p);
	p->poll_timer = machine_timer_create(d->machine, on_poll, p);
	p->context = calloc(1, sizeof(*p->context));
	p->store = mmap(NULL, sizeof(*p->store), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->store == MAP_FAILED)
		p->store = NULL;
	rc = p->timer && p->periodic && p->poll_timer && p->context && p->store ? bt_mode.vcpu_create(vm, index, &vcpu) : -ENOMEM;
	if (rc) {
		vcpu_free(p);
		return rc;
	}
	p->v = bt_monitor_vcpu(vcpu);
	d->vcpu[index] = p;
	*ret_vcpu = vcpu;
	return 0;
}

/* ---- the VM -------------------------------------------------------------------------------- */

static void vm_destroy(struct mode_vm *vm)
{
	if (!vm)
		return;
	struct pv_domain *d = domain_of(vm);

	if (d) {
		machine_serial_divert(d->machine, NULL, NULL);
		pv_store_destroy(d->xenstore);
		free(d->store_reader);
		free(d->grants.uses);
		free(d->frame);
		free(d);
	}
	bt_mode.vm_destroy(vm);
}

static int vm_create(struct machine *machine, struct mode_vm **ret_vm)
{
	struct mode_vm *vm = NULL;
	struct pv_domain *d = calloc(1, sizeof(*d));
	int rc = d ? bt_mode.vm_create(machine, &vm) : -ENOMEM;

	if (rc) {
		free(d);
		return rc;
	}
	d->machine = machine;
	d->vm = vm;
	d->vcpus = machine_vcpus(machine);
	bt_monitor_attach(vm, &pv_monitor, d);
	rc = pv_find_memory(d);
	if (!rc)
		rc = pv_store_create(&d->xenstore);
	if (rc) {
		vm_destroy(vm);
		return rc;
	}
	*ret_vm = vm;
	return 0;
}

void pv_wallclock_publish(struct pv_domain *d)
{
	volatile struct shared_info *s = d->shared;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	uint64_t ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - machine_clock_ns(d->machine);
	s->wc_version |= 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	s->wc_sec = (uint32_t)(ns / 1000000000u);
	s->wc_sec_hi = (uint32_t)(ns / 1000000000u >> 32);
	s->wc_nsec = (uint32_t)(ns % 1000000000u);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	s->wc_version++;
}

static int boot(struct mode_vm *vm, const struct machine_boot *what, struct cpu_state *ret_bsp, const char **ret_error)
{
	struct pv_domain *d = domain_of(vm);

	machine_serial_divert(d->machine, NULL, NULL);
	for (unsigned i = 0; i < d->vcpus; i++)
		vcpu_reset(d->vcpu[i]);
	memset(d->port, 0, sizeof(d->port));
	free(d->grants.uses);
	memset(&d->grants, 0, sizeof(d->grants));
	d->vm_assist = d->free_hint = 0;
	d->ended = false;
	d->message[0] = '\0';
	return pv_build(d, what, ret_bsp, ret_error);
}

static int vcpu_run(struct mode_vcpu *vcpu, struct mode_exit *ret_exit)
{
	struct pv_vcpu *p = pv_vcpu_of(bt_monitor_vcpu(vcpu));
	int rc = bt_mode.vcpu_run(vcpu, ret_exit);

	if (rc)
		return rc;
	/* Nothing but events ends a sleep, and those wake it themselves. */
	if (ret_exit->reason == MODE_EXIT_HALT)
		ret_exit->masked = true;
	if (ret_exit->reason == MODE_EXIT_SHUTDOWN)
		snprintf(ret_exit->message, sizeof(ret_exit->message), "%s (vCPU %u, rip 0x%llx)", p->domain->message, p->index,
			 (unsigned long long)bt_monitor_state(p->v)->rip);
	return 0;
}

static void vcpu_kick(struct mode_vcpu *vcpu) { bt_mode.vcpu_kick(vcpu); }
static void vcpu_stop(struct mode_vcpu *vcpu) { bt_mode.vcpu_stop(vcpu); }
static int get_state(struct mode_vcpu *vcpu, struct cpu_state *ret) { return bt_mode.get_state(vcpu, ret); }

static int set_state(struct mode_vcpu *vcpu, const struct cpu_state *state)
{
	struct pv_vcpu *p = pv_vcpu_of(bt_monitor_vcpu(vcpu));
	int rc;

	bt_monitor_set_kernel(p->v, p->in_kernel);
	rc = bt_mode.set_state(vcpu, state);
	if (!rc)
		bt_monitor_flush(p->v, BT_SPACE_USER | BT_SPACE_KERNEL);
	return rc;
}

static int debug_points(struct mode_vm *vm, const struct mode_debug_point *points, size_t n) { return bt_mode.debug_points(vm, points, n); }
static void debug_step(struct mode_vcpu *vcpu, bool on) { bt_mode.debug_step(vcpu, on); }
static void ram_written(struct mode_vm *vm, gpa_t gpa, uint64_t bytes) { bt_mode.ram_written(vm, gpa, bytes); }
static void sample(struct mode_vcpu *vcpu) { bt_mode.sample(vcpu); }
static size_t samples(struct mode_vm *vm, struct mode_sample *ret, size_t max) { return bt_mode.samples(vm, ret, max); }
static int prepare_perf(struct mode_vm *vm) { return bt_mode.prepare_perf(vm); }
static uint64_t first_user_ns(struct mode_vm *vm) { return bt_mode.first_user_ns(vm); }

static void translations(struct mode_vm *vm, gpa_t gpa, uint64_t bytes, mode_translation_fn *fn, void *opaque)
{
	bt_mode.translations(vm, gpa, bytes, fn, opaque);
}

static size_t stats(struct mode_vm *vm, struct mode_stat *ret_rows, size_t max)
{
	const struct pv_domain *d = domain_of(vm);
	uint64_t hypercalls = 0;
	size_t n;

	for (unsigned i = 0; i < d->vcpus; i++)
		hypercalls += d->vcpu[i] ? d->vcpu[i]->hypercalls : 0;
	const struct mode_stat own[] = {
		{"xen_hypercalls", hypercalls},
		{"mmu_updates", d->stats.mmu_updates},
		{"page_table_stores", d->stats.page_table_stores},
		{"privileged_emulated", d->stats.emulated},
		{"events", d->stats.events},
		{"upcalls", d->stats.upcalls},
	};

	for (n = 0; n < ARRAY_SIZE(own) && n < max; n++)
		ret_rows[n] = own[n];
	return n + bt_mode.stats(vm, ret_rows + n, max - n);
}

const struct mode_ops pv_mode = {
	.name = "pv",
	.capabilities = MODE_CAP_STATE | MODE_CAP_DEBUG | MODE_CAP_PROFILE | MODE_CAP_XEN,
	.probe = probe,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_destroy = vcpu_destroy,
	.boot = boot,
	.vcpu_run = vcpu_run,
	.vcpu_kick = vcpu_kick,
	.vcpu_stop = vcpu_stop,
	.get_state = get_state,
	.set_state = set_state,
	.debug_points = debug_points,
	.debug_step = debug_step,
	.ram_written = ram_written,
	.sample = sample,
	.samples = samples,
	.translations = translations,
	.prepare_perf = prepare_perf,
	.stats = stats,
	.first_user_ns = first_user_ns,
};
