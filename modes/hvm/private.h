/* What the files of modes/hvm share. Nobody outside includes this. */
#ifndef MODES_HVM_PRIVATE_H
#define MODES_HVM_PRIVATE_H

#include "machine/irqchip.h"
#include "machine/machine.h"
#include "modes/mode.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

/* Who has the interrupt controllers. */
enum hvm_irqchip {
	HVM_IRQCHIP_KERNEL,  /* KVM: LAPICs, IOAPIC, 8259 pair, 8254 */
	HVM_IRQCHIP_MACHINE, /* machine/, as under bt; KVM injects what we tell it */
};

/* /dev/kvm, and what it offers beyond what every usable one has. */
struct hvm_kvm {
	int fd;
	size_t run_bytes;        /* of a vCPU's shared page(s) */
	bool irqchip, tsc_offset, tsc_control, coalesced_pio, user_msr, kvmclock_ctrl, adjust_clock;
	bool doorbells, doorbell_any, irqfds;
	unsigned gsis; /* how many KVM routes */
	unsigned slots, vcpus; /* how many a VM may have; 0: not told */
	unsigned coalesced_page; /* where the ring is in a vCPU's shared pages; 0: none */
};

#define HVM_SLOTS (MACHINE_RAM_REGIONS + MACHINE_WINDOWS)

struct hvm_slot {
	gpa_t gpa;
	uint64_t bytes; /* 0: not in use */
	uint8_t *host;
	bool readonly;
	bool device; /* a device's memory: nobody logs it */
};

/*
 * KVM's 8254 raises GSI 0, so that one reaches both its 8259 input and its IOAPIC pin. Everything else comes from the
 * machine, which tells lines into the 8259 pair from those into the IOAPIC (a PIRQ is wired to either differently).
 */
#define HVM_GSI_TIMER 0u
#define HVM_TIMER_PIN 2u
#define HVM_GSI_IOAPIC 32u /* + pin; a pin of the 8259 pair is its own GSI */
#define HVM_GSI_IRQFD 64u  /* + index in irqfd[] */

struct hvm_irqfd {
	int fd; /* -1: free */
	bool attached;
	uint64_t address;
	uint32_t data;
};

struct hvm_stats {
	uint64_t runs, pio, mmio, signals, interrupts, interrupt_windows, msr, unknown;
};

struct mode_vcpu {
	struct mode_vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run;
	_Atomic int tid;   /* of the thread in run; 0: none yet */
	_Atomic bool stop; /* run is to return MODE_EXIT_INTERRUPTED */
	_Atomic bool look; /* somebody wants to know whether it is in user space */
	bool halted, wait_sipi; /* with the machine's controllers: KVM knows no halt then */
	uint64_t tsc_delta;     /* its TSC's offset less the machine's, while the machine is paused */
	uint64_t slots_seen;         /* vm->slot_changes when it was entered */
	struct hvm_stats stats;
};

struct mode_vm {
	struct machine *machine;
	struct hvm_kvm kvm;
	int fd;
	enum hvm_irqchip irqchip;
	/* KVM's controllers hold the truth, not the machine's idle ones. Main thread. */
	bool kernel_has_devices;
	bool machine_paused;
	_Atomic uint64_t first_user_ns; /* CLOCK_MONOTONIC, when a vCPU was first seen at CPL 3; 0: not yet */
	unsigned vcpus;
	struct mode_vcpu *vcpu[MACHINE_MAX_VCPUS];

	pthread_mutex_t slot_lock; /* innermost; may be taken under the machine lock */
	struct hvm_slot slot[HVM_SLOTS];
	_Atomic uint64_t slot_changes;
	bool dirty_log;               /* under slot_lock */
	_Atomic(uint64_t *) dma_dirty; /* a bit for each page of RAM, while the log is on */

	struct hvm_irqfd *irqfd; /* under the machine lock */
	unsigned irqfd_count;
	_Atomic unsigned doorbells, irqfds; /* in use */

	pthread_mutex_t ring_lock; /* the coalesced ring; before the machine lock */
	struct kvm_coalesced_mmio_ring *ring;
};

/* ---- kvm.c: the device itself ---- */

/* 0, or -errno with why and what to do. */
int hvm_kvm_open(struct hvm_kvm *ret_kvm, struct mode_probe *ret_probe);
void hvm_kvm_close(struct hvm_kvm *kvm);
void hvm_probe(struct mode_probe *ret_probe);
/* For machine_config.build_cpuid: the host's model, of what KVM can give. */
void hvm_build_cpuid(struct cpuid_model *ret_model, const struct cpuid_config *config);
/* Gives the vCPU the machine's model. 0 or -errno. */
int hvm_set_cpuid(struct mode_vcpu *vcpu);
bool hvm_backdoor_usable(char *ret_why, size_t bytes);

/* ---- memory.c ---- */

/* Makes KVM's slots what the machine's regions are. Any thread. 0 or -errno. */
int hvm_memory_sync(struct mode_vm *vm);
void hvm_memory_written(struct mode_vm *vm, gpa_t gpa, uint64_t bytes);
int hvm_dirty_start(struct mode_vm *vm);
void hvm_dirty_stop(struct mode_vm *vm);
int hvm_dirty_collect(struct mode_vm *vm, uint64_t *bits, size_t words);
/* A guest access to where KVM has no slot (at that moment): a device, or RAM after all. */
void hvm_mmio(struct mode_vcpu *vcpu, gpa_t gpa, uint8_t *data, unsigned size, bool write);

/* ---- irqchip.c: the controllers in the kernel ---- */

int hvm_irqchip_create(struct mode_vm *vm);
void hvm_pic_line(void *opaque, unsigned input, bool level);
void hvm_ioapic_line(void *opaque, unsigned pin, bool level);
void hvm_msi(void *opaque, uint64_t address, uint32_t data);
/* Whether LINT1 passes an NMI on. */
bool hvm_lint1_open(struct mode_vcpu *vcpu);
/* The controllers' state, to KVM's from the machine's and back. vCPUs out of run. 0 or -errno. */
int hvm_devices_from_machine(struct mode_vm *vm);
int hvm_devices_to_machine(struct mode_vm *vm);

/* ---- eventfd.c ---- */

/* Hooks: see machine_hooks. */
int hvm_doorbell(void *opaque, bool on, gpa_t gpa, int fd);
int hvm_irqfd(void *opaque, int fd, bool on, uint64_t address, uint32_t data);
/* Makes KVM's table what lines and irqfds are routed to. 0 or -errno. */
int hvm_routing_set(struct mode_vm *vm);
/* While the machine is paused, signals wait in their eventfds. 0 or -errno. */
int hvm_irqfds_attach(struct mode_vm *vm, bool on);

/* ---- state.c ---- */

int hvm_get_state(struct mode_vcpu *vcpu, struct cpu_state *ret_state);
int hvm_set_state(struct mode_vcpu *vcpu, const struct cpu_state *state);
/* One MSR. 0 or -errno. */
int hvm_msr_get(struct mode_vcpu *vcpu, uint32_t msr, uint64_t *ret_value);
int hvm_msr_set(struct mode_vcpu *vcpu, uint32_t msr, uint64_t value);

/* ---- clock.c ---- */

/* The vCPU's TSC offset: guest TSC = host TSC + offset. Out of run. 0 or -errno. */
int hvm_tsc_offset_get(struct mode_vcpu *vcpu, uint64_t *ret_offset);
int hvm_tsc_offset_set(struct mode_vcpu *vcpu, uint64_t offset);
/* kvmclock is the machine's clock. 0 or -errno. */
int hvm_clock_set(struct mode_vm *vm);
/* Hooks: virtual time stops and goes on. */
void hvm_paused(void *opaque);
void hvm_resumed(void *opaque);

/* ---- run.c ---- */

int hvm_run(struct mode_vcpu *vcpu, struct mode_exit *ret_exit);
void hvm_kick(struct mode_vcpu *vcpu);
/* Once, before the first vCPU: the signal that ends KVM_RUN. */
int hvm_signals_install(void);
/* Lets KVM finish the I/O it last exited for, so that its registers are true. The vCPU is out of run. */
void hvm_complete_io(struct mode_vcpu *vcpu);

#endif
