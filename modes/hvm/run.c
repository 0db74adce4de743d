/* Running a vCPU: KVM_RUN, what it comes back for, and how others get it out. */
#include "machine/vmware/vmware.h"
#include "modes/hvm/private.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL SIGUSR2
#define MSR_APIC_BASE 0x1bu
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu
#define MSR_TSC_DEADLINE 0x6e0u

/* ---- getting a vCPU out ------------------------------------------------------------------------------- */

static void on_kick(int signal_number) {}

int hvm_signals_install(void)
{
	struct sigaction sa = {.sa_handler = on_kick};

	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

/*
 * immediate_exit makes a KVM_RUN that is about to begin return at once, the signal one that has begun. The vCPU clears it
 * before it looks at what is asked of it, so whoever finds it set has been before that look.
 */
void hvm_kick(struct mode_vcpu *vcpu)
{
	if (__atomic_exchange_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST))
		return;
	int tid = atomic_load(&vcpu->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

static void enter_thread(struct mode_vcpu *vcpu)
{
	sigset_t set;

	if (atomic_load_explicit(&vcpu->tid, memory_order_relaxed) == gettid())
		return;
	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	atomic_store(&vcpu->tid, gettid());
}

void hvm_complete_io(struct mode_vcpu *vcpu)
{
	/*
	 * Ends at once, with EINTR, after what the last exit left to be done. It stays set, since a kick may have come: one
	 * more turn of the loop clears it.
	 */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	ioctl(vcpu->fd, KVM_RUN, 0);
}

/* ---- port I/O, memory-mapped I/O ------------------------------------------------------------------------- */

/* Writes that KVM kept for us, in the order in which they were made. */
static void flush_ring(struct mode_vm *vm)
{
	struct kvm_coalesced_mmio_ring *ring = vm->ring;

	if (!ring || __atomic_load_n(&ring->first, __ATOMIC_RELAXED) == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
		return;
	const uint32_t slots = (uint32_t)((4096 - sizeof(*ring)) / sizeof(ring->coalesced_mmio[0]));
	pthread_mutex_lock(&vm->ring_lock);
	while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		const struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[ring->first % slots];
		uint32_t value = 0;

		memcpy(&value, e->data, e->len < 4 ? e->len : 4);
		if (e->pio && (e->len == 1 || e->len == 2 || e->len == 4))
			machine_pio_write(vm->machine, 0, (uint16_t)e->phys_addr, value, e->len);
		__atomic_store_n(&ring->first, (ring->first + 1) % slots, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&vm->ring_lock);
}

/*
 * VMware's backdoor takes and gives more registers than an access to a port does. KVM writes eax itself, from what is in
 * the exit, when it is entered again.
 */
static bool do_backdoor(struct mode_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint32_t *eax = (uint32_t *)((uint8_t *)vcpu->run + run->io.data_offset);
	uint32_t r[VMWARE_REGISTERS];
	struct kvm_regs k;

	if (run->io.port != VMWARE_PORT || run->io.size != 4 || run->io.count != 1 || !machine_has_backdoor(vcpu->vm->machine) ||
	    ioctl(vcpu->fd, KVM_GET_REGS, &k) < 0 || (uint32_t)k.rax != VMWARE_MAGIC)
		return false;
	__u64 *const gpr[VMWARE_REGISTERS] = {&k.rax, &k.rbx, &k.rcx, &k.rdx, &k.rsi, &k.rdi, &k.rbp};
	for (unsigned i = 0; i < VMWARE_REGISTERS; i++)
		r[i] = (uint32_t)*gpr[i];
	machine_backdoor(vcpu->vm->machine, r);
	for (unsigned i = 0; i < VMWARE_REGISTERS; i++)
		if (r[i] != (uint32_t)*gpr[i])
			*gpr[i] = r[i];
	if (run->io.direction == KVM_EXIT_IO_IN)
		*eax = r[VMWARE_AX];
	ioctl(vcpu->fd, KVM_SET_REGS, &k);
	vcpu->stats.pio++;
	return true;
}

static void do_pio(struct mode_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct machine *m = vcpu->vm->machine;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size;

	if (do_backdoor(vcpu))
		return;
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint32_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			machine_pio_write(m, vcpu->index, run->io.port, value, size);
		} else {
			value = machine_pio_read(m, vcpu->index, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
	vcpu->stats.pio += run->io.count;
}

/* ---- with the machine's own interrupt controllers ----------------------------------------------------------- */

static void take_init(struct mode_vcpu *vcpu)
{
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);

	BUG_ON(!cs);
	if (!hvm_get_state(vcpu, cs)) {
		cpu_state_init(cs, vcpu->index);
		hvm_set_state(vcpu, cs);
	}
	free(cs);
}

static void take_sipi(struct mode_vcpu *vcpu, uint8_t vector)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0 || ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0)
		return;
	s.cs.selector = (uint16_t)(vector << 8);
	s.cs.base = (uint64_t)vector << 12;
	r.rip = 0;
	ioctl(vcpu->fd, KVM_SET_SREGS, &s);
	ioctl(vcpu->fd, KVM_SET_REGS, &r);
	vcpu->wait_sipi = false;
}

static void take_events(struct mode_vcpu *vcpu)
{
	bool kernel = vcpu->vm->irqchip == HVM_IRQCHIP_KERNEL;
	uint8_t sipi = 0;
	unsigned events = machine_vcpu_take_events(vcpu->vm->machine, vcpu->index, &sipi);

	/* KVM's LAPICs see to the others; what is here came with a state from another engine, or asks for an NMI. */
	if (events & MACHINE_VCPU_INIT)
		take_init(vcpu);
	if ((events & MACHINE_VCPU_SIPI) && vcpu->wait_sipi)
		take_sipi(vcpu, sipi);
	if ((events & MACHINE_VCPU_NMI) && (!kernel || hvm_lint1_open(vcpu))) {
		ioctl(vcpu->fd, KVM_NMI, 0);
		vcpu->halted = false;
	}
}

/* Gives KVM the interrupt that is due, or has it say when it can take one. False: halted, and nothing is due. */
static bool prepare(struct mode_vcpu *vcpu)
{
	struct machine *m = vcpu->vm->machine;
	struct kvm_run *run = vcpu->run;
	bool pending = machine_intr_pending(m, vcpu->index);

	if (vcpu->wait_sipi)
		return false;
	if (vcpu->halted && !(pending && run->if_flag))
		return false;
	if (pending && run->ready_for_interrupt_injection && run->if_flag) {
		int vector = machine_intr_ack(m, vcpu->index);
		struct kvm_interrupt irq = {.irq = (uint32_t)vector};

		if (vector >= 0 && ioctl(vcpu->fd, KVM_INTERRUPT, &irq) == 0) {
			vcpu->halted = false;
			vcpu->stats.interrupts++;
		}
		pending = machine_intr_pending(m, vcpu->index);
	}
	if (vcpu->halted)
		return false;
	run->request_interrupt_window = pending;
	run->cr8 = machine_tpr_get(m, vcpu->index);
	return true;
}

static void after_run(struct mode_vcpu *vcpu)
{
	struct machine *m = vcpu->vm->machine;

	if (machine_tpr_get(m, vcpu->index) != vcpu->run->cr8)
		machine_tpr_set(m, vcpu->index, (uint8_t)vcpu->run->cr8);
}

/* The LAPIC's MSRs, which KVM gives to us when it has no LAPIC; others it has no idea of fault in the guest. */
static void do_msr(struct mode_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct machine *m = vcpu->vm->machine;
	uint32_t msr = run->msr.index;
	bool ours = vcpu->vm->irqchip == HVM_IRQCHIP_MACHINE &&
		    (msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST));
	bool ok = false;
	uint64_t value = 0;

	vcpu->stats.msr++;
	if (ours && run->exit_reason == KVM_EXIT_X86_RDMSR) {
		ok = machine_apic_msr_read(m, vcpu->index, msr, &value);
		run->msr.data = value;
	} else if (ours) {
		ok = machine_apic_msr_write(m, vcpu->index, msr, run->msr.data);
	}
	run->msr.error = !ok;
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

static uint64_t rip_of(struct mode_vcpu *vcpu)
{
	struct kvm_regs r;

	return ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 ? 0 : r.rip;
}

static void hex(const uint8_t *bytes, size_t n, char *ret_text, size_t size)
{
	size_t at = 0;

	ret_text[0] = '\0';
	for (size_t i = 0; i < n && at + 3 < size; i++)
		at += (size_t)snprintf(ret_text + at, size - at, "%s%02x", i ? " " : "", bytes[i]);
}

/* What is at rip, as far as one page has it. How many bytes. */
static size_t code_at_rip(struct mode_vcpu *vcpu, uint8_t *bytes, size_t size)
{
	struct kvm_sregs s;
	size_t n = 0;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0)
		return 0;
	struct kvm_translation t = {.linear_address = s.cs.base + rip_of(vcpu)};
	if (ioctl(vcpu->fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
		return 0;
	const struct ram_region *r = machine_ram_find(vcpu->vm->machine, t.physical_address);
	for (gpa_t gpa = t.physical_address; r && n < size && gpa - r->gpa < r->bytes; gpa++) {
		bytes[n++] = r->host[gpa - r->gpa];
		if (!((gpa + 1) & ~GUEST_PAGE_MASK))
			break;
	}
	return n;
}

/* True: nobody's fault, run again. */
static bool internal_error(struct mode_vcpu *vcpu, struct mode_exit *e)
{
	const struct kvm_run *run = vcpu->run;
	uint8_t bytes[15];
	char code[64] = "";

	/* Memory was being rearranged when it fetched this instruction. */
	if (atomic_load(&vcpu->vm->slot_changes) != vcpu->slots_seen)
		return true;
	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
		snprintf(e->message, sizeof(e->message), "KVM internal error %u (vCPU %u, rip 0x%llx); mode bt may run it",
			 run->internal.suberror, vcpu->index, (unsigned long long)rip_of(vcpu));
		return false;
	}
	hex(bytes, code_at_rip(vcpu, bytes, sizeof(bytes)), code, sizeof(code));
	snprintf(e->message, sizeof(e->message),
		 "this KVM cannot emulate the instruction at rip 0x%llx (%s) of vCPU %u: it is no hardware, or the guest runs "
		 "code in a device; mode bt runs it",
		 (unsigned long long)rip_of(vcpu), code[0] ? code : "which cannot be read", vcpu->index);
	return false;
}

static void say_entry_failure(struct mode_vcpu *vcpu, struct mode_exit *e)
{
	snprintf(e->message, sizeof(e->message),
		 "the processor refuses to enter the guest: reason 0x%llx (vCPU %u, rip 0x%llx); the host's dmesg has more, and mode bt may run it",
		 (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason, vcpu->index,
		 (unsigned long long)rip_of(vcpu));
}

/* KVM_RUN itself failed. The guest is as it was, but nothing will move it on. */
static void say_run_failure(struct mode_vcpu *vcpu, int error, struct mode_exit *e)
{
	e->reason = MODE_EXIT_ERROR;
	snprintf(e->message, sizeof(e->message), "KVM_RUN fails: %s (vCPU %u, rip 0x%llx); %s", strerror(error), vcpu->index,
		 (unsigned long long)rip_of(vcpu),
		 error == EFAULT   ? "the host cannot give the page that the guest touches: is it out of memory?"
		 : error == ENOMEM ? "the host is out of memory: give the VM less"
		 : error == EIO	   ? "KVM has given this VM up: the host's dmesg says why"
				   : "the host's dmesg may say why; mode bt may run it");
}

/* What KVM_RUN came back for. False: run ends, with what is in *e. */
static bool serve(struct mode_vcpu *vcpu, struct mode_exit *e)
{
	struct kvm_run *run = vcpu->run;

	flush_ring(vcpu->vm);
	e->reason = MODE_EXIT_ERROR;
	switch (run->exit_reason) {
	case KVM_EXIT_IO: do_pio(vcpu); return true;
	case KVM_EXIT_MMIO:
		hvm_mmio(vcpu, run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write);
		vcpu->stats.mmio++;
		return true;
	case KVM_EXIT_HLT: vcpu->halted = true; return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN: vcpu->stats.interrupt_windows++; return true;
	case KVM_EXIT_SET_TPR: return true; /* after_run has it */
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR: do_msr(vcpu); return true;
	case KVM_EXIT_INTR: return true;
	case KVM_EXIT_SHUTDOWN:
		e->reason = MODE_EXIT_SHUTDOWN;
		snprintf(e->message, sizeof(e->message), "triple fault on vCPU %u at rip 0x%llx", vcpu->index,
			 (unsigned long long)rip_of(vcpu));
		return false;
	case KVM_EXIT_INTERNAL_ERROR: return internal_error(vcpu, e);
	case KVM_EXIT_FAIL_ENTRY: say_entry_failure(vcpu, e); return false;
	default:
		vcpu->stats.unknown++;
		snprintf(e->message, sizeof(e->message), "KVM exit %u is not one we know (vCPU %u, rip 0x%llx)", run->exit_reason,
			 vcpu->index, (unsigned long long)rip_of(vcpu));
		return false;
	}
}

/* Somebody waits for the guest's first user space (first_user_ns). */
static void look_for_user(struct mode_vcpu *vcpu)
{
	struct kvm_sregs s;
	struct timespec ts;
	uint64_t none = 0;

	atomic_store(&vcpu->look, false);
	/* The stack segment's privilege is CPL (SDM vol. 3, 5.5), in real mode too, where it is 0. */
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0 || !(s.cr0 & 1) || s.ss.dpl != 3)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	atomic_compare_exchange_strong(&vcpu->vm->first_user_ns, &none, (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec);
}

/* ---- the loop ----------------------------------------------------------------------------------------------------- */

int hvm_run(struct mode_vcpu *vcpu, struct mode_exit *ret_exit)
{
	bool ours = vcpu->vm->irqchip == HVM_IRQCHIP_MACHINE;

	enter_thread(vcpu);
	ret_exit->message[0] = '\0';
	ret_exit->masked = false;
	for (;;) {
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (atomic_exchange(&vcpu->stop, false)) {
			hvm_complete_io(vcpu);
			ret_exit->reason = MODE_EXIT_INTERRUPTED;
			return 0;
		}
		if (machine_vcpu_events(vcpu->vm->machine, vcpu->index))
			take_events(vcpu);
		if (ours && !prepare(vcpu)) {
			ret_exit->reason = MODE_EXIT_HALT;
			ret_exit->masked = vcpu->wait_sipi || !vcpu->run->if_flag;
			return 0;
		}
		vcpu->slots_seen = atomic_load(&vcpu->vm->slot_changes);
		vcpu->stats.runs++;
		int r = ioctl(vcpu->fd, KVM_RUN, 0), error = errno;
		if (ours)
			after_run(vcpu);
		if (atomic_load_explicit(&vcpu->look, memory_order_relaxed))
			look_for_user(vcpu);
		if (r < 0 && (error == EINTR || error == EAGAIN)) {
			vcpu->stats.signals++;
			flush_ring(vcpu->vm);
			continue;
		}
		/* EFAULT comes with an exit reason of its own on kernels that tell which memory it was; a hole of ours closes. */
		if (r < 0 && error == EFAULT && atomic_load(&vcpu->vm->slot_changes) != vcpu->slots_seen)
			continue;
		if (r < 0) {
			say_run_failure(vcpu, error, ret_exit);
			return 0;
		}
		if (!serve(vcpu, ret_exit))
			return 0;
	}
}
