/* Time as KVM has it: each vCPU's TSC and the VM's kvmclock follow the machine's clock. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_TSC 0x10u

static int offset_attr(struct mode_vcpu *vcpu, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)offset};

	return ioctl(vcpu->fd, request, &attr) < 0 ? -errno : 0;
}

int hvm_tsc_offset_set(struct mode_vcpu *vcpu, uint64_t offset)
{
	if (vcpu->vm->kvm.tsc_offset)
		return offset_attr(vcpu, KVM_SET_DEVICE_ATTR, &offset);
	/* Before Linux 5.16 the TSC itself can be written, and KVM makes vCPUs agree that are written closely together. */
	return hvm_msr_set(vcpu, MSR_TSC, __builtin_ia32_rdtsc() + offset);
}

int hvm_tsc_offset_get(struct mode_vcpu *vcpu, uint64_t *ret_offset)
{
	uint64_t tsc;
	int rc;

	if (vcpu->vm->kvm.tsc_offset)
		return offset_attr(vcpu, KVM_GET_DEVICE_ATTR, ret_offset);
	rc = hvm_msr_get(vcpu, MSR_TSC, &tsc);
	if (!rc)
		*ret_offset = tsc - __builtin_ia32_rdtsc();
	return rc;
}

int hvm_clock_set(struct mode_vm *vm)
{
	/* As bt gives it: time 0 at TSC 0, so that it does not step when a guest moves. */
	unsigned __int128 tsc = __builtin_ia32_rdtsc() + machine_tsc_offset(vm->machine);
	struct kvm_clock_data data = {.clock = (uint64_t)(tsc * 1000000u / machine_tsc_khz(vm->machine))};

	if (!vm->kvm.adjust_clock)
		return 0;
	return ioctl(vm->fd, KVM_SET_CLOCK, &data) < 0 ? -errno : 0;
}

void hvm_paused(void *opaque)
{
	struct mode_vm *vm = opaque;
	int rc = 0;

	vm->machine_paused = true;
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct mode_vcpu *v = vm->vcpu[i];
		uint64_t offset = machine_tsc_offset(vm->machine);

		if (!v)
			continue;
		hvm_complete_io(v);
		hvm_tsc_offset_get(v, &offset);
		v->tsc_delta = offset - machine_tsc_offset(vm->machine);
	}
	rc = hvm_irqfds_attach(vm, false);
	if (!rc && vm->irqchip == HVM_IRQCHIP_KERNEL && vm->kernel_has_devices)
		rc = hvm_devices_to_machine(vm);
	if (rc)
		fprintf(stderr, "hvm: KVM does not give its interrupt controllers' state: %s\n", strerror(-rc));
}

void hvm_resumed(void *opaque)
{
	struct mode_vm *vm = opaque;
	int rc = 0;

	vm->machine_paused = false;
	for (unsigned i = 0; i < vm->vcpus && !rc; i++)
		if (vm->vcpu[i])
			rc = hvm_tsc_offset_set(vm->vcpu[i], machine_tsc_offset(vm->machine) + vm->vcpu[i]->tsc_delta);
	if (!rc)
		rc = hvm_clock_set(vm);
	/* So that a watchdog in the guest does not take the pause for a lock-up; vCPUs without kvmclock have none. */
	for (unsigned i = 0; i < vm->vcpus && vm->kvm.kvmclock_ctrl; i++)
		if (vm->vcpu[i] && ioctl(vm->vcpu[i]->fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL && !rc)
			rc = -errno;
	if (!rc && vm->irqchip == HVM_IRQCHIP_KERNEL && !vm->kernel_has_devices)
		rc = hvm_devices_from_machine(vm);
	if (!rc)
		rc = hvm_irqfds_attach(vm, true);
	if (rc)
		fprintf(stderr, "hvm: KVM does not take its clocks' and interrupt controllers' state back: %s\n", strerror(-rc));
}
