/* /dev/kvm: opening it, what it offers, and the CPUID a guest sees. */
#include "modes/hvm/private.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SAY(buffer, ...) snprintf(buffer, sizeof(buffer), __VA_ARGS__)

/* Without these there is nothing to be done: all are older than Linux 4.13 (2017). */
static const struct {
	int cap;
	const char *name;
} needed[] = {
#define NEED(cap) {cap, #cap}
	NEED(KVM_CAP_USER_MEMORY), NEED(KVM_CAP_READONLY_MEM),   NEED(KVM_CAP_EXT_CPUID), NEED(KVM_CAP_MP_STATE),
	NEED(KVM_CAP_VCPU_EVENTS), NEED(KVM_CAP_IMMEDIATE_EXIT), NEED(KVM_CAP_XSAVE),     NEED(KVM_CAP_DEBUGREGS),
	NEED(KVM_CAP_SET_TSS_ADDR), NEED(KVM_CAP_SIGNAL_MSI),
#undef NEED
};

static int has(int fd, int cap)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return r > 0 ? r : 0;
}

static int say_open_error(int error, struct mode_probe *p)
{
	switch (error) {
	case ENOENT:
		SAY(p->reason, "there is no /dev/kvm");
		SAY(p->remedy, "load kvm_intel or kvm_amd, enable VT-x or AMD-V in the firmware's setup, or have the outer "
			       "hypervisor offer nested virtualization; in a container, pass /dev/kvm in");
		break;
	case EACCES:
	case EPERM:
		SAY(p->reason, "/dev/kvm may not be opened: %s", strerror(error));
		SAY(p->remedy, "add the user to the group that owns /dev/kvm; in a container, allow the device");
		break;
	case ENODEV:
	case ENXIO:
		SAY(p->reason, "/dev/kvm has no driver behind it: %s", strerror(error));
		SAY(p->remedy, "load kvm_intel or kvm_amd");
		break;
	default: SAY(p->reason, "/dev/kvm cannot be opened: %s", strerror(error)); break;
	}
	return -error;
}

int hvm_kvm_open(struct hvm_kvm *ret_kvm, struct mode_probe *ret_probe)
{
	struct mode_probe *p = ret_probe;
	struct hvm_kvm k = {.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
	int r;

	if (k.fd < 0)
		return say_open_error(errno, p);
	r = ioctl(k.fd, KVM_GET_API_VERSION, 0);
	if (r != KVM_API_VERSION) {
		SAY(p->reason, "/dev/kvm speaks API version %d, not %d", r, KVM_API_VERSION);
		SAY(p->remedy, "run a kernel from the last fifteen years");
		close(k.fd);
		return -ENOTSUP;
	}
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!has(k.fd, needed[i].cap)) {
			SAY(p->reason, "/dev/kvm lacks %s", needed[i].name);
			SAY(p->remedy, "Linux 4.13 or later has it");
			close(k.fd);
			return -ENOTSUP;
		}
	r = ioctl(k.fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run)) {
		SAY(p->reason, "/dev/kvm: KVM_GET_VCPU_MMAP_SIZE answers %d", r);
		close(k.fd);
		return -EIO;
	}
	k.run_bytes = (size_t)r;
	k.irqchip = has(k.fd, KVM_CAP_IRQCHIP) && has(k.fd, KVM_CAP_PIT2) && has(k.fd, KVM_CAP_PIT_STATE2) &&
		    has(k.fd, KVM_CAP_IRQ_ROUTING);
	k.tsc_control = has(k.fd, KVM_CAP_TSC_CONTROL);
	k.coalesced_page = (unsigned)has(k.fd, KVM_CAP_COALESCED_MMIO);
	k.coalesced_pio = k.coalesced_page && has(k.fd, KVM_CAP_COALESCED_PIO);
	k.slots = (unsigned)has(k.fd, KVM_CAP_NR_MEMSLOTS);
	k.vcpus = (unsigned)has(k.fd, KVM_CAP_MAX_VCPUS);
	if (k.slots && k.slots < HVM_SLOTS) {
		SAY(p->reason, "/dev/kvm gives a VM %u memory slots, and %u may be needed", k.slots, (unsigned)HVM_SLOTS);
		SAY(p->remedy, "Linux 4.13 or later has them");
		close(k.fd);
		return -ENOTSUP;
	}
	k.doorbells = has(k.fd, KVM_CAP_IOEVENTFD);
	k.doorbell_any = has(k.fd, KVM_CAP_IOEVENTFD_ANY_LENGTH);
	k.irqfds = has(k.fd, KVM_CAP_IRQFD);
	k.gsis = (unsigned)has(k.fd, KVM_CAP_IRQ_ROUTING);
	k.user_msr = has(k.fd, KVM_CAP_X86_USER_SPACE_MSR) && has(k.fd, KVM_CAP_X86_MSR_FILTER);
	k.kvmclock_ctrl = has(k.fd, KVM_CAP_KVMCLOCK_CTRL);
	k.adjust_clock = has(k.fd, KVM_CAP_ADJUST_CLOCK);
	*ret_kvm = k;
	return 0;
}

void hvm_kvm_close(struct hvm_kvm *kvm)
{
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = -1;
}

/* A module's parameter: 1, 0, or -1 when it cannot be read. */
static int parameter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char c = 0;
	ssize_t n = fd < 0 ? -1 : read(fd, &c, 1);

	if (fd >= 0)
		close(fd);
	return n != 1 ? -1 : c == 'Y' || c == '1';
}

/* Which KVM it is, by the modules that are loaded (the policy's probe reads more of them). */
static void name_variant(struct mode_probe *p)
{
	int ept = parameter("/sys/module/kvm_intel/parameters/ept"), npt = parameter("/sys/module/kvm_amd/parameters/npt");

	if (access("/sys/module/kvm_pvm", F_OK) == 0) {
		SAY(p->variant, "hvm/software");
		SAY(p->reason, "/dev/kvm is kvm_pvm, which emulates unmodified guests instruction by instruction");
	} else if (ept == 1 || npt == 1) {
		SAY(p->variant, "hvm/%s", ept == 1 ? "ept" : "npt");
		SAY(p->reason, "/dev/kvm with %s", ept == 1 ? "EPT" : "NPT");
	} else if (ept == 0 || npt == 0) {
		SAY(p->variant, "hvm/shadow");
		SAY(p->reason, "/dev/kvm with shadow page tables");
	} else {
		SAY(p->reason, "/dev/kvm makes VMs; which kind of KVM it is /sys/module does not tell");
	}
}

#define BACKDOOR_PARAMETER "/sys/module/kvm/parameters/enable_vmware_backdoor"

bool hvm_backdoor_usable(char *ret_why, size_t bytes)
{
	if (parameter(BACKDOOR_PARAMETER) == 1)
		return true;
	/* Its kernel could use it, its programs would die of it. */
	snprintf(ret_why, bytes, "tools: KVM lets no program of a guest reach VMware's port here (" BACKDOOR_PARAMETER
		 "): load the kvm module with enable_vmware_backdoor=1, or use mode bt");
	return false;
}

void hvm_probe(struct mode_probe *ret_probe)
{
	struct hvm_kvm kvm;
	int fd;

	memset(ret_probe, 0, sizeof(*ret_probe));
	SAY(ret_probe->variant, "hvm");
	if (hvm_kvm_open(&kvm, ret_probe))
		return;
	fd = ioctl(kvm.fd, KVM_CREATE_VM, 0ul);
	if (fd < 0) {
		SAY(ret_probe->reason, "/dev/kvm is there, but makes no VM: %s", strerror(errno));
		if (errno == EBUSY || errno == EIO)
			SAY(ret_probe->remedy, "another hypervisor (VirtualBox, VMware) may hold the processor's virtualization: stop "
					       "it and unload its modules");
	} else {
		ret_probe->usable = true;
		name_variant(ret_probe);
		close(fd);
	}
	hvm_kvm_close(&kvm);
}

/* ---- CPUID ------------------------------------------------------------------------------------- */

#define ENTRIES 256


static struct kvm_cpuid2 *supported_cpuid(int fd)
{
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + ENTRIES * sizeof(t->entries[0]));

	if (t)
		t->nent = ENTRIES;
	if (t && ioctl(fd, KVM_GET_SUPPORTED_CPUID, t) < 0) {
		free(t);
		t = NULL;
	}
	return t;
}

/* Leaves with features; the others describe the processor, and KVM only copies them, if that. */
static bool is_feature_leaf(uint32_t leaf)
{
	switch (leaf) {
	case 1:
	case 7:
	case 0xd:
	case 0x80000001:
	case 0x80000007:
	case 0x80000008:
	case 0x80000021: return true;
	default: return false;
	}
}

static void supported_leaf(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct kvm_cpuid2 *t = opaque;

	if (!is_feature_leaf(leaf)) {
		__cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
		return;
	}
	memset(r, 0, 4 * sizeof(*r));
	for (uint32_t i = 0; i < t->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &t->entries[i];

		if (e->function != leaf || ((e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && e->index != subleaf))
			continue;
		r[0] = e->eax;
		r[1] = e->ebx;
		r[2] = e->ecx;
		r[3] = e->edx;
		return;
	}
}

void hvm_build_cpuid(struct cpuid_model *ret_model, const struct cpuid_config *config)
{
	struct cpuid_config ours = *config;
	struct mode_probe probe;
	struct hvm_kvm kvm;
	struct kvm_cpuid2 *t = NULL;

	ours.hardware = true;
	if (!hvm_kvm_open(&kvm, &probe)) {
		t = supported_cpuid(kvm.fd);
		hvm_kvm_close(&kvm);
	}
	if (t) {
		struct cpuid_host host = {.cpuid = supported_leaf, .opaque = t};
		uint32_t r[4];

		supported_leaf(t, 1, 0, r);
		if (r[2] & 1u << 26) { /* XSAVE */
			supported_leaf(t, 0xd, 0, r);
			host.xcr0 = r[0] | (uint64_t)r[3] << 32;
		}
		cpuid_model_build_for(ret_model, &ours, &host);
	} else {
		cpuid_model_build(ret_model, &ours); /* the engine will say what is wrong with /dev/kvm */
	}
	free(t);
}

int hvm_set_cpuid(struct mode_vcpu *vcpu)
{
	const struct cpuid_model *m = machine_cpuid(vcpu->vm->machine);
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + m->count * sizeof(t->entries[0]));
	int rc;

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < m->count; i++) {
		const struct cpuid_leaf *l = &m->leaf[i];
		struct kvm_cpuid_entry2 *e = &t->entries[t->nent++];
		uint32_t r[4];

		/* What depends on CR4 and XCR0 KVM fills in itself. */
		cpuid_query(m, vcpu->index, 0, 1, l->leaf, l->subleaf, r);
		e->function = l->leaf;
		e->index = l->subleaf;
		e->flags = l->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
		e->eax = r[0];
		e->ebx = r[1];
		e->ecx = r[2];
		e->edx = r[3];
	}
	rc = ioctl(vcpu->fd, KVM_SET_CPUID2, t) < 0 ? -errno : 0;
	free(t);
	return rc;
}
