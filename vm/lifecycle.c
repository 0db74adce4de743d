/* A VM from power-on to its end: vCPU threads, pause and resume, reset in place, and how it can end. */
#include "vm/private.h"

#include "machine/vmware/vmware.h"

#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define PARK_TIMEOUT_NS 5000000000ull /* a vCPU that takes longer than this to leave the engine is stuck */
#define PARK_RETRY_NS 2000000ull

uint64_t vm_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double vm_epoch_seconds(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void vm_wake(struct vm *vm)
{
	uint64_t one = 1;
	if (write(vm->wake_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: the counter is full, so the loop is awake anyway */
}

/* ---- what the machine reports (any thread, under its lock) ---- */

static void on_machine_event(void *opaque, enum machine_event event, unsigned code)
{
	struct vm *vm = opaque;
	if (event == MACHINE_EVENT_DEBUG_EXIT)
		atomic_store(&vm->debug_exit_value, code);
	if (event == MACHINE_EVENT_PANIC)
		atomic_fetch_or(&vm->panic_code, code);
	if (event == MACHINE_EVENT_NVRAM_ERROR)
		atomic_store(&vm->nvram_error, code);
	if (event == MACHINE_EVENT_DISK_ERROR)
		atomic_store(&vm->disk_error, code);
	atomic_fetch_or(&vm->machine_events, 1u << event);
	vm_wake(vm);
}

static void on_machine_output(void *opaque, unsigned port, const void *bytes, size_t n)
{
	struct vm *vm = opaque;
	bool wanted = (port == 0 && vm->def->serial == VMDEF_SERIAL_CONSOLE) || (port == 2 && vm->def->debug_console) ||
		      port == MACHINE_OUTPUT_VIRTIO;
	if (wanted)
		vm_console_output(vm, bytes, n);
}

/* ---- building ---- */

__attribute__((format(printf, 3, 4))) static int fail(struct vm *vm, int rc, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(vm->reason, sizeof(vm->reason), format, ap);
	va_end(ap);
	return rc;
}

/*
 * RAM is given out page by page as the guest touches it, so a size beyond the host's would start, and then bring the
 * host down. Overcommitting several VMs is their owner's business.
 */
static int check_memory(struct vm *vm)
{
	struct sysinfo host;

	if (sysinfo(&host) < 0)
		return 0;
	uint64_t host_mib = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit >> 20;
	if (vm->def->memory_mib <= host_mib)
		return 0;
	return fail(vm, -ENOMEM, "memory_mib: %u is more than this host's %llu MiB of memory and swap; give the VM less",
		    vm->def->memory_mib, (unsigned long long)host_mib);
}

static void fill_smbios(struct vm *vm)
{
	struct machine_smbios *s = &vm->smbios;
	const char *at = vm->def->uuid;
	for (unsigned i = 0; i < sizeof(s->uuid); i++, at += 2) {
		at += *at == '-';
		sscanf(at, "%2hhx", &s->uuid[i]);
	}
	for (unsigned i = 0; i < SMBIOS_TEXTS; i++)
		s->text[i] = vm->def->smbios.text[i];
	for (unsigned i = 0; i < vm->def->smbios.oem_count; i++)
		s->oem[i] = vm->def->smbios.oem[i];
	s->oem_count = vm->def->smbios.oem_count;
}

/* What a Xen domain has no bus for, and no back end yet. */
static int refuse_for_xen(struct vm *vm)
{
	const struct vmdef *def = vm->def;
	const struct {
		bool wanted;
		const char *name;
	} words[] = {
		{def->display.type != VMDEF_DISPLAY_NONE, "display"}, {def->passthrough_count, "passthrough"}, {def->channel_count, "channels"},
		{def->share_count, "shares"}, {def->vsock.present, "vsock"}, {def->tools == VMDEF_TOOLS_VMWARE, "guest tools of VMware"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].wanted)
			return fail(vm, -ENOTSUP, "%s: not in mode %s, whose guests have Xen's disks, NICs and console; take it out, or another mode",
				    words[i].name, vm->mode->name);
	return 0;
}

static int build_machine(struct vm *vm)
{
	struct machine_config config = {
		.ram_bytes = (uint64_t)vm->def->memory_mib << 20,
		.vcpus = vm->def->vcpus,
		.on_event = on_machine_event,
		.on_output = on_machine_output,
		.opaque = vm,
		.build_cpuid = vm->mode->build_cpuid,
		.debug_exit_port = vm->def->debug_exit ? 0xf4 : 0,
		.xen = vm->mode->capabilities & MODE_CAP_XEN,
		.display = vm->def->display.type != VMDEF_DISPLAY_NONE,
	};
	fill_smbios(vm);
	config.smbios = &vm->smbios;
	uint8_t wish[CPU_FEATURE_COUNT];
	char why_not[160];
	int rc = check_memory(vm);
	if (!rc && config.xen)
		rc = refuse_for_xen(vm);
	if (rc)
		return rc;
	for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++)
		wish[i] = (uint8_t)vm->def->cpu_feature[i]; /* the same numbers */
	if (!cpuid_features_check(wish, why_not, sizeof(why_not)))
		return fail(vm, -ENOTSUP, "%s", why_not);
	config.cpu_features = wish;
	struct vmware_config vmware;
	if (vm->def->tools == VMDEF_TOOLS_VMWARE) {
		rc = vm_tools_config(vm, &vmware);
		if (rc)
			return rc;
		config.vmware = &vmware;
	}
	config.no_paravirt = vm->def->paravirt == VMDEF_NO;
	rc = machine_create(&config, &vm->machine);
	if (rc)
		return fail(vm, rc, "cannot make a machine with %u MiB and %u vCPUs: %s%s", vm->def->memory_mib,
			    vm->def->vcpus, strerror(-rc), rc == -ENOMEM ? "; give it less memory" : "");
	const char *why = "unknown";
	if (config.vmware) {
		rc = vm_tools_fill(vm);
		if (rc)
			return fail(vm, rc, "guestinfo: %s", rc == -ENOSPC ? "too much for one VM; at most 2 MiB" : strerror(-rc));
	}
	rc = vm_disks_add(vm);
	if (!rc)
		rc = vm_seed_add(vm);
	if (rc)
		return rc;
	for (unsigned i = 0; i < vm->def->passthrough_count; i++) {
		char text[VFIO_ERROR_BYTES];
		rc = vfio_device_add(vm->machine, vm->passthrough, i, text);
		if (rc)
			return fail(vm, rc, "passthrough[%u]: %s", i, text);
	}
	for (unsigned i = 0; i < vm->def->nic_count; i++) {
		rc = vm_nic_add(vm, i, &why);
		if (rc)
			return fail(vm, rc, "nics[%u]: %s", i, why);
	}
	if (config.display) {
		rc = machine_add_display(vm->machine, vm->def->display.rom ? vm->def->display.rom : VM_DISPLAY_ROM, &why);
		if (rc)
			return fail(vm, rc, "%s", why);
	}
	rc = vm_channels_add(vm, &why);
	if (rc)
		return fail(vm, rc, "channels: %s", why);
	rc = vm_shares_add(vm);
	if (rc)
		return rc;
	rc = vm->def->vsock.present ? vm_vsock_add(vm, &why) : 0;
	if (rc)
		return fail(vm, rc, "vsock: %s", why);
	rc = vm_balloon_add(vm, &why);
	if (rc)
		return fail(vm, rc, "virtio-balloon: %s", why);
	rc = machine_add_rng(vm->machine, &why);
	return rc ? fail(vm, rc, "virtio-rng: %s", why) : 0;
}

static int build_engine(struct vm *vm)
{
	struct mode_probe probe;
	vm->mode->probe(&probe);
	if (!probe.usable)
		return fail(vm, -ENODEV, "mode %s cannot be used here: %s%s%s", vm->mode->name, probe.reason,
			    probe.remedy[0] ? "; " : "", probe.remedy);
	vm_log("mode %s: %s", probe.variant, probe.reason);
	snprintf(vm->variant, sizeof(vm->variant), "%s", probe.variant);
	int rc = vm->mode->vm_create(vm->machine, &vm->engine);
	if (rc)
		return fail(vm, rc, "mode %s cannot start: %s", vm->mode->name, strerror(-rc));
	if (vm->def->perf_map && vm->mode->capabilities & MODE_CAP_PROFILE) {
		rc = vm->mode->prepare_perf(vm->engine);
		if (rc)
			return fail(vm, rc, "perf_map: no executable shared memory: %s", strerror(-rc));
	}
	vm->vcpu_count = machine_vcpus(vm->machine);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct vm_vcpu *vcpu = &vm->vcpus[i];
		vcpu->vm = vm;
		vcpu->index = i;
		vcpu->parked = true;
		rc = vm->mode->vcpu_create(vm->engine, i, &vcpu->engine);
		if (rc)
			return fail(vm, rc, "mode %s cannot make vCPU %u: %s", vm->mode->name, i, strerror(-rc));
	}
	return 0;
}

/* Loads the guest and puts every vCPU into its first state. All vCPUs are parked. */
/* The state of an application processor: reset, with the memory types that firmware gives all processors. */
static void start_as_ap(struct cpu_state *state, unsigned index)
{
	uint64_t def_type = state->mtrr_def_type, fixed[ARRAY_SIZE(state->mtrr_fixed)], var[ARRAY_SIZE(state->mtrr_var)];

	memcpy(fixed, state->mtrr_fixed, sizeof(fixed));
	memcpy(var, state->mtrr_var, sizeof(var));
	cpu_state_reset(state, index);
	state->mtrr_def_type = def_type;
	memcpy(state->mtrr_fixed, fixed, sizeof(fixed));
	memcpy(state->mtrr_var, var, sizeof(var));
}

static int load_guest(struct vm *vm)
{
	struct cpu_state *state = vm_state_alloc();
	if (!state)
		return fail(vm, -ENOMEM, "out of memory");
	cpu_state_reset(state, 0);
	struct machine_module modules[VMDEF_MODULES_MAX];
	for (unsigned i = 0; i < vm->def->boot.module_count; i++)
		modules[i] = (struct machine_module){vm->def->boot.modules[i].path, vm->def->boot.modules[i].cmdline};
	struct machine_boot boot = {
		.kernel = vm->def->boot.kernel,
		.initrd = vm->def->boot.initrd,
		.cmdline = vm->def->boot.cmdline,
		.firmware = vm->def->boot.firmware,
		.nvram = vm->def->boot.nvram.path,
		.modules = modules,
		.module_count = vm->def->boot.module_count,
		.menu_ms = vm->def->boot.menu_ms,
	};
	const char *why = "unknown";
	int rc = vm->mode->boot ? vm->mode->boot(vm->engine, &boot, state, &why) : machine_boot(vm->machine, &boot, state, &why);
	if (rc)
		fail(vm, rc, "%s", why);
	for (unsigned i = 0; !rc && i < vm->vcpu_count; i++) {
		if (i)
			start_as_ap(state, i);
		state->tsc_offset = machine_tsc_offset(vm->machine);
		rc = vm->mode->set_state(vm->vcpus[i].engine, state);
		if (rc)
			fail(vm, rc, "mode %s refuses the first state of vCPU %u: %s", vm->mode->name, i, strerror(-rc));
	}
	free(state);
	if (!rc && vm->mode->take_devices) {
		rc = vm->mode->take_devices(vm->engine);
		if (rc)
			fail(vm, rc, "mode %s refuses the interrupt controllers' first state: %s", vm->mode->name, strerror(-rc));
	}
	return rc;
}

int vm_build(struct vm *vm)
{
	int rc = build_machine(vm);
	if (!rc)
		rc = build_engine(vm);
	return rc ? rc : load_guest(vm);
}

void vm_teardown(struct vm *vm)
{
	machine_stop_devices(vm->machine);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i].engine)
			vm->mode->vcpu_destroy(vm->vcpus[i].engine);
	if (vm->engine)
		vm->mode->vm_destroy(vm->engine);
	vm->engine = NULL;
	vm->vcpu_count = 0;
	machine_destroy(vm->machine);
	vm->machine = NULL;
	vm_disks_finish(vm);
	vm_shares_finish(vm);
}

/* ---- vCPU threads ---- */

/* Waits until this vCPU may run. False: the thread is to end. */
static bool vcpu_may_run(struct vm_vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	pthread_mutex_lock(&vm->lock);
	while (vm->want != VM_WANT_QUIT && (vm->want != VM_WANT_RUN || vcpu->dead || vcpu->held || vcpu->has_hit)) {
		vcpu->parked = true;
		pthread_cond_broadcast(&vm->cond);
		pthread_cond_wait(&vm->cond, &vm->lock);
	}
	bool run = vm->want == VM_WANT_RUN;
	vcpu->parked = !run;
	if (!run)
		pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
	return run;
}

/* Stays parked until the debugger continues it. */
static void vcpu_hit(struct vm_vcpu *vcpu, const struct mode_debug_hit *hit)
{
	struct vm *vm = vcpu->vm;
	pthread_mutex_lock(&vm->lock);
	vcpu->hit = *hit;
	vcpu->has_hit = true;
	if (!vm->hits++)
		vm->first_hit = vcpu->index;
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

static void vcpu_ended(struct vm_vcpu *vcpu, const struct mode_exit *outcome)
{
	struct vm *vm = vcpu->vm;
	pthread_mutex_lock(&vm->lock);
	vcpu->dead = true;
	if (!vm->has_outcome) {
		vm->has_outcome = true;
		vm->outcome = *outcome;
		vm->outcome_vcpu = vcpu->index;
	}
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

/* Whether somebody wants this vCPU out; checked before every sleep, so that a wake-up cannot fall between. */
static bool asked_to_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool asked = vm->want != VM_WANT_RUN;
	pthread_mutex_unlock(&vm->lock);
	return asked;
}

static void vcpu_run_until_asked(struct vm_vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	for (;;) {
		struct mode_exit outcome = {0};
		int rc = vm->mode->vcpu_run(vcpu->engine, &outcome);
		if (rc) {
			outcome.reason = MODE_EXIT_ERROR;
			snprintf(outcome.message, sizeof(outcome.message), "host failure in mode %s: %s", vm->mode->name,
				 strerror(-rc));
		}
		switch (outcome.reason) {
		case MODE_EXIT_INTERRUPTED:
			atomic_fetch_add_explicit(&vcpu->interruptions, 1, memory_order_relaxed);
			if (asked_to_stop(vm))
				return;
			break;
		case MODE_EXIT_HALT:
			atomic_fetch_add_explicit(&vcpu->halts, 1, memory_order_relaxed);
			if (asked_to_stop(vm))
				return;
			machine_vcpu_wait_for(vm->machine, vcpu->index, !outcome.masked);
			if (asked_to_stop(vm))
				return;
			break;
		case MODE_EXIT_DEBUG: vcpu_hit(vcpu, &outcome.debug); return;
		case MODE_EXIT_SHUTDOWN:
		case MODE_EXIT_ERROR: vcpu_ended(vcpu, &outcome); return;
		}
	}
}

static void *vcpu_main(void *arg)
{
	struct vm_vcpu *vcpu = arg;
	char name[16];
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	while (vcpu_may_run(vcpu))
		vcpu_run_until_asked(vcpu);
	return NULL;
}

static bool all_parked(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (!vm->vcpus[i].parked)
			return false;
	return true;
}

/* Gets every vCPU out of the engine. 0, or -ETIMEDOUT when one is stuck there. */
static int stop_vcpus(struct vm *vm, enum vm_want want)
{
	uint64_t deadline = vm_now_ns() + PARK_TIMEOUT_NS;
	int rc = 0;
	pthread_mutex_lock(&vm->lock);
	vm->want = want;
	pthread_cond_broadcast(&vm->cond);
	while (!all_parked(vm)) {
		uint64_t now = vm_now_ns();
		if (now > deadline) {
			rc = -ETIMEDOUT;
			break;
		}
		/* Asked again each time round: the request may have come just before it entered the engine. */
		for (unsigned i = 0; i < vm->vcpu_count; i++) {
			if (vm->vcpus[i].parked)
				continue;
			vm->mode->vcpu_stop(vm->vcpus[i].engine);
			machine_vcpu_wake(vm->machine, i);
		}
		uint64_t until = now + PARK_RETRY_NS;
		struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
		pthread_cond_timedwait(&vm->cond, &vm->lock, &ts);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

static void run_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->want = VM_WANT_RUN;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
}

void vm_set_state(struct vm *vm, enum vm_state state, const char *reason)
{
	vm->state = state;
	if (reason != vm->reason)
		snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	vm_log("state %s%s%s", vm_state_name(state), reason[0] ? ": " : "", reason);
	struct json_object *params = json_object_new_object();
	json_object_object_add(params, "state", json_object_new_string(vm_state_name(state)));
	json_object_object_add(params, "reason", json_object_new_string(reason));
	if (vm_state_is_final(state))
		json_object_object_add(params, "exit_code", json_object_new_int(vm->exit_code));
	vm_control_notify(vm, CONTROL_EVENT_STATE, params);
}

int vm_start(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		int r = pthread_create(&vm->vcpus[i].thread, NULL, vcpu_main, &vm->vcpus[i]);
		if (r)
			return fail(vm, -r, "cannot start the thread of vCPU %u: %s", i, strerror(r));
		vm->vcpus[i].has_thread = true;
	}
	if (vm->options.paused || vm->def->start_paused) {
		machine_pause(vm->machine);
		vm->pause_began_ns = vm_now_ns();
		vm->halted = true;
		vm_set_state(vm, VM_PAUSED, "started paused, by request");
		return 0;
	}
	vm_set_state(vm, VM_RUNNING, "");
	run_vcpus(vm);
	return 0;
}

/* ---- what users ask for ---- */

int vm_halt(struct vm *vm)
{
	if (vm->halted)
		return 0;
	int rc = stop_vcpus(vm, VM_WANT_PARK);
	if (rc) {
		run_vcpus(vm);
		return rc;
	}
	machine_pause(vm->machine);
	vm->pause_began_ns = vm_now_ns();
	vm->halted = true;
	return 0;
}

void vm_go(struct vm *vm)
{
	if (!vm->halted)
		return;
	vm->paused_ns += vm_now_ns() - vm->pause_began_ns;
	machine_resume(vm->machine);
	vm->halted = false;
	/* Its clock stood still; -EAGAIN: nobody there to set it. */
	vmware_time_sync(vm->machine);
	run_vcpus(vm);
}

int vm_pause(struct vm *vm)
{
	if (vm->state == VM_PAUSED)
		return 0;
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	int rc = vm_halt(vm);
	if (!rc)
		vm_set_state(vm, VM_PAUSED, "paused by request");
	return rc;
}

int vm_resume(struct vm *vm)
{
	if (vm->debug.stopped)
		return -EPERM;
	if (vm->state == VM_RUNNING)
		return 0;
	if (vm->state != VM_PAUSED)
		return -EBUSY;
	vm_set_state(vm, VM_RUNNING, "");
	vm_go(vm);
	return 0;
}

/* ---- the end ---- */

static void join_vcpus(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i].has_thread) {
			pthread_join(vm->vcpus[i].thread, NULL);
			vm->vcpus[i].has_thread = false;
		}
}

void vm_finish(struct vm *vm, enum vm_state state, int exit_code, const char *format, ...)
{
	if (vm_state_is_final(vm->state))
		return;
	char reason[VM_REASON_BYTES];
	va_list ap;
	va_start(ap, format);
	vsnprintf(reason, sizeof(reason), format, ap);
	va_end(ap);
	if (vm->halted)
		vm->paused_ns += vm_now_ns() - vm->pause_began_ns;
	if (vm->vcpu_count && stop_vcpus(vm, VM_WANT_QUIT))
		vm_log("a vCPU does not leave the engine; ending without it");
	else
		join_vcpus(vm);
	vm->ended = vm_epoch_seconds();
	vm->exit_code = exit_code;
	vm->state = state;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	/* The result first: whoever hears of the end can read it. */
	int rc = vm_write_result(vm);
	if (rc)
		vm_log("cannot write " CONTROL_FILE_RESULT ": %s", strerror(-rc));
	vm_set_state(vm, state, vm->reason);
	vm_agent_stop(vm);
	vm_gdb_ended(vm);
	event_base_loopbreak(vm->base);
}

/* The same VM from power-on again. */
static void power_cycle(struct vm *vm, const char *by)
{
	vm->resets++;
	vm->reboot_at_poweroff = false;
	vm_control_notify(vm, CONTROL_EVENT_RESET, json_object_new_object());
	if (stop_vcpus(vm, VM_WANT_PARK)) {
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "reset: a vCPU does not leave the engine");
		return;
	}
	vm_log("reset by %s", by);
	/* What came before the reset is of the old life. */
	atomic_store(&vm->machine_events, 0);
	vm->has_outcome = false;
	vm->debug.crashed = false;
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i].dead = vm->vcpus[i].has_hit = false;
	machine_reset(vm->machine);
	vm_agent_look(vm);
	vm_balloon_look(vm);
	if (load_guest(vm)) {
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "reset: %s", vm->reason);
		return;
	}
	/* The loaders wrote over what the engine may have translated. */
	vm->mode->ram_written(vm->engine, 0, machine_ram_bytes(vm->machine));
	if (!vm->halted)
		run_vcpus(vm);
}

/* The guest asked for a reset. */
static void reset_guest(struct vm *vm)
{
	if (!vm->reboot_at_poweroff && (vm->no_reboot || vm->def->on_reboot == VMDEF_ON_REBOOT_SHUTDOWN)) {
		vm->resets++;
		vm_control_notify(vm, CONTROL_EVENT_RESET, json_object_new_object());
		vm_finish(vm, VM_SHUTDOWN, VM_EXIT_SHUTDOWN, "the guest rebooted, which ends it by request");
	} else {
		power_cycle(vm, "the guest");
	}
}

int vm_reset(struct vm *vm)
{
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return -EBUSY;
	power_cycle(vm, "request");
	return 0;
}

int vm_reboot(struct vm *vm)
{
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	vm->reboot_at_poweroff = true;
	if (vm_tools_reboot(vm))
		machine_power_button(vm->machine);
	return 0;
}

int vm_shutdown(struct vm *vm, enum vm_shutdown_by by)
{
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	int rc = by == VM_SHUTDOWN_ACPI ? -ENOTSUP : vm_tools_shutdown(vm);
	if (rc && by == VM_SHUTDOWN_TOOLS)
		return rc;
	if (rc)
		machine_power_button(vm->machine);
	return 0;
}

/* A disk waits for somebody to help; so does all of the guest, which knows nothing of it. */
static void pause_for_disk(struct vm *vm)
{
	unsigned code = atomic_load(&vm->disk_error), number = code >> 16, error = code & 0xffff;
	char reason[VM_REASON_BYTES];
	const struct vmdef_disk *disk = vm_disk_numbered(vm, number);
	if (vm->state != VM_RUNNING || !disk || vm_halt(vm))
		return;
	snprintf(reason, sizeof(reason), "disk %.300s: %s; %s, then resume", disk->path, strerror((int)error),
		 error == ENOSPC || error == EDQUOT ? "make room" : "see to it");
	vm_set_state(vm, VM_PAUSED, reason);
}

static void report_panic(struct vm *vm)
{
	/* pvpanic: bit 0 says panicked, bit 1 that the guest's own crash kernel takes over. */
	unsigned code = atomic_exchange(&vm->panic_code, 0);
	bool crash_loaded = (code & 3) == 2;
	struct json_object *params = json_object_new_object();
	json_object_object_add(params, "reason",
			       json_object_new_string(crash_loaded ? "the guest's crash kernel takes over"
								   : "the guest's kernel panicked"));
	vm_control_notify(vm, CONTROL_EVENT_PANIC, params);
	if (!crash_loaded)
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "the guest's kernel panicked (pvpanic)");
}

void vm_end_by_outcome(struct vm *vm)
{
	const struct mode_exit *outcome = &vm->outcome;
	unsigned vcpu = vm->outcome_vcpu;

	if (outcome->reason == MODE_EXIT_SHUTDOWN && outcome->message[0]) /* it names the vCPU itself */
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "%s", outcome->message);
	else if (outcome->reason == MODE_EXIT_SHUTDOWN)
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "triple fault on vCPU %u", vcpu);
	else
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "engine %s stopped on vCPU %u: %s", vm->mode->name, vcpu,
			  outcome->message);
}

static void report_outcome(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool has = vm->has_outcome;
	unsigned vcpu = vm->outcome_vcpu;
	pthread_mutex_unlock(&vm->lock);
	if (!has || vm->debug.crashed || vm_state_is_final(vm->state))
		return;
	if (!stop_vcpus(vm, VM_WANT_PARK)) {
		vm_log_crash(vm, vcpu);
		if (vm_debug_crash(vm, vcpu))
			return;
	}
	vm_end_by_outcome(vm);
}

void vm_handle_wake(struct vm *vm)
{
	unsigned events = atomic_exchange(&vm->machine_events, 0);
	if (events & 1u << MACHINE_EVENT_NVRAM_ERROR)
		vm_log("nvram %s cannot be written: %s; what the guest keeps there is lost when this VM ends", vm->def->boot.nvram.path,
		       strerror((int)atomic_load(&vm->nvram_error)));
	if (vm_state_is_final(vm->state))
		return;
	if (events & 1u << MACHINE_EVENT_PORT)
		vm_agent_look(vm);
	if (events & 1u << MACHINE_EVENT_BALLOON)
		vm_balloon_look(vm);
	/* A panic outranks the reset that panic=N asks for right behind it. */
	if (events & 1u << MACHINE_EVENT_PANIC)
		report_panic(vm);
	if (events & 1u << MACHINE_EVENT_DEBUG_EXIT) {
		unsigned value = atomic_load(&vm->debug_exit_value);
		vm_finish(vm, VM_SHUTDOWN, (int)((value << 1 | 1) & 0xff), "the guest wrote %u to the debug-exit port",
			  value);
	}
	if (events & 1u << MACHINE_EVENT_POWEROFF && vm->reboot_at_poweroff && !vm_state_is_final(vm->state))
		power_cycle(vm, "request, after the guest had powered off");
	else if (events & 1u << MACHINE_EVENT_POWEROFF)
		vm_finish(vm, VM_SHUTDOWN, VM_EXIT_SHUTDOWN, "the guest powered off");
	if (vm_state_is_final(vm->state))
		return;
	if (events & 1u << MACHINE_EVENT_RESET)
		reset_guest(vm);
	else if (events & 1u << MACHINE_EVENT_DISK_ERROR)
		pause_for_disk(vm);
	vm_tools_look(vm);
	vm_debug_look(vm);
	report_outcome(vm);
}
