/* hvm as a mode: VMs and vCPUs of /dev/kvm, statistics. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Four pages that KVM uses itself on processors that cannot run real mode; between the IOAPIC and the ROM. */
#define IDENTITY_MAP_AT 0xfeffc000ull
#define TSS_AT 0xfeffd000ull
#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u

/* Ports whose writes need no answer soon: POST codes, and the RTC's index, which a read of its data follows. */
static const uint16_t posted_ports[] = {0x80, 0x70};

/* For tests, and for hosts where KVM's controllers are in doubt. */
static enum hvm_irqchip wanted_irqchip(const struct hvm_kvm *kvm)
{
	const char *wish = getenv("TRIVISOR_HVM_IRQCHIP");

	if (wish && !strcmp(wish, "machine"))
		return HVM_IRQCHIP_MACHINE;
	return kvm->irqchip ? HVM_IRQCHIP_KERNEL : HVM_IRQCHIP_MACHINE;
}

/* ---- hooks of the machine ------------------------------------------------------------------------------- */

static void hook_kick(void *opaque, unsigned index)
{
	struct mode_vm *vm = opaque;

	if (index < vm->vcpus && vm->vcpu[index])
		hvm_kick(vm->vcpu[index]);
}

static void hook_ram_written(void *opaque, gpa_t gpa, uint64_t n) { hvm_memory_written(opaque, gpa, n); }

static void hook_map_changed(void *opaque, gpa_t gpa, uint64_t n)
{
	int rc = hvm_memory_sync(opaque);

	if (rc)
		fprintf(stderr, "hvm: KVM does not take the changed memory map: %s\n", strerror(-rc));
}

static void set_hooks(struct mode_vm *vm)
{
	struct machine_hooks hooks = {
		.kick = hook_kick,
		.ram_written = hook_ram_written,
		.map_changed = hook_map_changed,
		.paused = hvm_paused,
		.resumed = hvm_resumed,
		.opaque = vm,
	};

	if (vm->irqchip == HVM_IRQCHIP_KERNEL) {
		hooks.pic_line = hvm_pic_line;
		hooks.ioapic_line = hvm_ioapic_line;
		hooks.msi = hvm_msi;
		if (vm->kvm.irqfds)
			hooks.irqfd = hvm_irqfd;
	}
	if (vm->kvm.doorbells)
		hooks.doorbell = hvm_doorbell;
	machine_set_hooks(vm->machine, &hooks);
}

/* ---- VMs --------------------------------------------------------------------------------------------------- */

/* The LAPIC's MSRs that KVM would answer itself, wrongly, when the LAPIC is ours. x2APIC's it gives us as unknown. */
static int take_apic_msrs(struct mode_vm *vm)
{
	static uint8_t deny; /* a bit that is 0 denies */
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args[0] = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN};
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
	const uint32_t both = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;

	if (!vm->kvm.user_msr)
		return -ENOTSUP;
	filter.ranges[0] = (struct kvm_msr_filter_range){.flags = both, .nmsrs = 1, .base = MSR_APIC_BASE, .bitmap = &deny};
	filter.ranges[1] = (struct kvm_msr_filter_range){.flags = both, .nmsrs = 1, .base = MSR_TSC_DEADLINE, .bitmap = &deny};
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0 || ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return -errno;
	return 0;
}

static void post_ports(struct mode_vm *vm)
{
	for (size_t i = 0; i < ARRAY_SIZE(posted_ports) && vm->kvm.coalesced_pio; i++) {
		struct kvm_coalesced_mmio_zone zone = {.addr = posted_ports[i], .size = 1, .pio = 1};

		/* Only speed is lost where it does not work. */
		if (ioctl(vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone) < 0)
			return;
	}
}

static int say(const char *what, int rc)
{
	if (rc)
		fprintf(stderr, "hvm: %s: %s\n", what, strerror(-rc));
	return rc;
}

static int set_up_vm(struct mode_vm *vm)
{
	uint64_t identity = IDENTITY_MAP_AT;
	int rc;

	vm->fd = ioctl(vm->kvm.fd, KVM_CREATE_VM, 0ul);
	if (vm->fd < 0)
		return say("KVM_CREATE_VM", -errno);
	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 || ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_AT) < 0)
		return say("KVM_SET_TSS_ADDR", -errno);
	vm->irqchip = wanted_irqchip(&vm->kvm);
	if (vm->irqchip == HVM_IRQCHIP_KERNEL)
		rc = say("interrupt controllers in the kernel", hvm_irqchip_create(vm));
	else
		rc = say("MSRs of the LAPIC", take_apic_msrs(vm));
	if (rc)
		return rc;
	post_ports(vm);
	return say("guest memory", hvm_memory_sync(vm));
}

static void vm_destroy(struct mode_vm *vm)
{
	if (!vm)
		return;
	machine_set_hooks(vm->machine, NULL);
	if (vm->ring)
		munmap(vm->ring, 4096);
	if (vm->fd >= 0)
		close(vm->fd);
	hvm_kvm_close(&vm->kvm);
	pthread_mutex_destroy(&vm->slot_lock);
	pthread_mutex_destroy(&vm->ring_lock);
	free(atomic_load(&vm->dma_dirty));
	free(vm->irqfd);
	free(vm);
}

static int vm_create(struct machine *machine, struct mode_vm **ret_vm)
{
	struct mode_probe probe = {0};
	struct mode_vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return -ENOMEM;
	vm->machine = machine;
	vm->vcpus = machine_vcpus(machine);
	vm->fd = vm->kvm.fd = -1;
	pthread_mutex_init(&vm->slot_lock, NULL);
	pthread_mutex_init(&vm->ring_lock, NULL);
	rc = hvm_kvm_open(&vm->kvm, &probe);
	if (rc)
		fprintf(stderr, "hvm: %s\n", probe.reason);
	if (!rc && vm->kvm.vcpus && vm->vcpus > vm->kvm.vcpus) {
		fprintf(stderr, "hvm: this KVM takes %u vCPUs, not %u: give the VM fewer, or mode bt\n", vm->kvm.vcpus, vm->vcpus);
		rc = -E2BIG;
	}
	if (!rc)
		rc = set_up_vm(vm);
	if (!rc)
		rc = hvm_signals_install();
	if (rc) {
		vm_destroy(vm);
		return rc;
	}
	set_hooks(vm);
	*ret_vm = vm;
	return 0;
}

/* The controllers of a paused machine are its own until it goes on. */
static int take_devices(struct mode_vm *vm)
{
	int rc = hvm_clock_set(vm);

	if (rc || vm->irqchip != HVM_IRQCHIP_KERNEL || vm->machine_paused)
		return rc;
	return hvm_devices_from_machine(vm);
}

/* ---- vCPUs ------------------------------------------------------------------------------------------------------ */

static void vcpu_destroy(struct mode_vcpu *vcpu)
{
	if (!vcpu)
		return;
	vcpu->vm->vcpu[vcpu->index] = NULL;
	if (vcpu->run && vcpu->run != MAP_FAILED)
		munmap(vcpu->run, vcpu->vm->kvm.run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
}

static bool has_tsc_offset(const struct mode_vcpu *vcpu)
{
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};

	return ioctl(vcpu->fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
}

static int set_up_vcpu(struct mode_vcpu *vcpu)
{
	struct mode_vm *vm = vcpu->vm;
	int rc;

	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
	if (vcpu->fd < 0)
		return say("KVM_CREATE_VCPU", -errno);
	vcpu->run = mmap(NULL, vm->kvm.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		return say("a vCPU's shared page", -errno);
	vm->kvm.tsc_offset = has_tsc_offset(vcpu);
	/* The ring is the VM's; any vCPU's mapping shows it. */
	if (!vm->ring && vm->kvm.coalesced_pio) {
		void *ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, (off_t)vm->kvm.coalesced_page * 4096);

		if (ring == MAP_FAILED)
			return say("the ring of posted writes", -errno);
		vm->ring = ring;
	}
	rc = say("KVM_SET_CPUID2", hvm_set_cpuid(vcpu));
	return rc;
}

static int vcpu_create(struct mode_vm *vm, unsigned index, struct mode_vcpu **ret_vcpu)
{
	struct mode_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);
	int rc = vcpu && cs ? 0 : -ENOMEM;

	if (!rc) {
		vcpu->vm = vm;
		vcpu->index = index;
		vcpu->fd = -1;
		rc = set_up_vcpu(vcpu);
	}
	if (!rc) {
		cpu_state_reset(cs, index);
		cs->tsc_offset = machine_tsc_offset(vm->machine);
		rc = hvm_set_state(vcpu, cs);
	}
	free(cs);
	if (rc) {
		if (vcpu && vcpu->vm)
			vcpu_destroy(vcpu);
		else
			free(vcpu);
		return rc;
	}
	vm->vcpu[index] = vcpu;
	*ret_vcpu = vcpu;
	return 0;
}

static void vcpu_stop(struct mode_vcpu *vcpu)
{
	atomic_store(&vcpu->stop, true);
	hvm_kick(vcpu);
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	size_t offset;
} stat_table[] = {
#define STAT(name, field) {name, offsetof(struct hvm_stats, field)}
	STAT("pio", pio),
	STAT("mmio", mmio),
	STAT("interrupts", interrupts),
	STAT("exit_signal", signals),
	STAT("exit_interrupt_window", interrupt_windows),
	STAT("exit_msr", msr),
	STAT("exit_unknown", unknown),
	STAT("runs", runs),
#undef STAT
};

static size_t stats(struct mode_vm *vm, struct mode_stat *ret_rows, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(stat_table) && n < max; i++) {
		uint64_t sum = 0;
		for (unsigned k = 0; k < vm->vcpus; k++)
			if (vm->vcpu[k])
				sum += *(const uint64_t *)(const void *)((const char *)&vm->vcpu[k]->stats + stat_table[i].offset);
		ret_rows[n++] = (struct mode_stat){stat_table[i].name, sum};
	}
	if (n < max)
		ret_rows[n++] = (struct mode_stat){"kernel_irqchip", vm->irqchip == HVM_IRQCHIP_KERNEL};
	if (n < max)
		ret_rows[n++] = (struct mode_stat){"ioeventfds", vm->doorbells};
	if (n < max)
		ret_rows[n++] = (struct mode_stat){"irqfds", vm->irqfds};
	return n;
}

/*
 * KVM does not tell when a guest leaves its kernel for the first time. So whoever waits for it has the vCPUs looked at, as
 * often as he asks: the answer is late by what user space needs to be met there, some of his intervals.
 */
static uint64_t first_user_ns(struct mode_vm *vm)
{
	uint64_t ns = atomic_load(&vm->first_user_ns);

	for (unsigned i = 0; i < vm->vcpus && !ns; i++) {
		if (!vm->vcpu[i])
			continue;
		atomic_store(&vm->vcpu[i]->look, true);
		hvm_kick(vm->vcpu[i]);
	}
	return ns;
}

static void ram_written(struct mode_vm *vm, gpa_t gpa, uint64_t bytes) { hvm_memory_written(vm, gpa, bytes); }

/* /sys/module tells which KVM it is. */
static const char *const files[] = {"/dev/kvm", "/sys/module", NULL};

static const unsigned long ioctls[] = {
	KVM_RUN, KVM_NMI, KVM_INTERRUPT, KVM_TRANSLATE, KVM_KVMCLOCK_CTRL, KVM_CHECK_EXTENSION,
	/* state, out and in */
	KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS,
	KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
	KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR, KVM_SET_CLOCK,
	/* interrupt controllers */
	KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_PIT2, KVM_SET_PIT2, KVM_IRQ_LINE,
	KVM_SIGNAL_MSI, KVM_IOEVENTFD, KVM_IRQFD, KVM_SET_GSI_ROUTING,
	/* memory */
	KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, 0,
};

const struct mode_ops hvm_mode = {
	.name = "hvm",
	.files = files,
	.ioctls = ioctls,
	.capabilities = MODE_CAP_STATE | MODE_CAP_OWN_IRQCHIP | MODE_CAP_PASSTHROUGH,
	.probe = hvm_probe,
	.build_cpuid = hvm_build_cpuid,
	.backdoor_usable = hvm_backdoor_usable,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_destroy = vcpu_destroy,
	.vcpu_run = hvm_run,
	.vcpu_kick = hvm_kick,
	.vcpu_stop = vcpu_stop,
	.get_state = hvm_get_state,
	.set_state = hvm_set_state,
	.take_devices = take_devices,
	.dirty_start = hvm_dirty_start,
	.dirty_collect = hvm_dirty_collect,
	.dirty_stop = hvm_dirty_stop,
	.ram_written = ram_written,
	.stats = stats,
	.first_user_ns = first_user_ns,
};
