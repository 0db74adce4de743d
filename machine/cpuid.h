/* The CPUID model of a VM: one table, whatever the mode, so that a VM can move between modes. */
#ifndef MACHINE_CPUID_H
#define MACHINE_CPUID_H

#include "machine/types.h"
#include "proto/cpu_features.h"

struct cpuid_leaf {
	uint32_t leaf, subleaf;
	bool has_subleaf;
	uint32_t eax, ebx, ecx, edx;
};

#define CPUID_MODEL_MAX 96
/* Where hypervisors' leaves begin: KVM's at the first that is not somebody else's. */
#define CPUID_HYPERVISOR 0x40000000u
#define CPUID_HYPERVISOR_STEP 0x100u

/* EAX of the leaf behind it (Documentation/virt/kvm/x86/cpuid.rst). */
#define KVM_FEATURE_CLOCKSOURCE (1u << 0)
#define KVM_FEATURE_NOP_IO_DELAY (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2 (1u << 3)
#define KVM_FEATURE_STEAL_TIME (1u << 5)
#define KVM_FEATURE_PV_EOI (1u << 6)
#define KVM_FEATURE_PV_UNHALT (1u << 7)
#define KVM_FEATURE_PV_TLB_FLUSH (1u << 9)
#define KVM_FEATURE_PV_SEND_IPI (1u << 11)
#define KVM_FEATURE_PV_SCHED_YIELD (1u << 13)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)

struct cpuid_model {
	struct cpuid_leaf leaf[CPUID_MODEL_MAX];
	unsigned count;
	uint64_t xcr0_mask;   /* XCR0 bits a guest may set */
	unsigned xsave_bytes; /* standard-format size for xcr0_mask */
	uint8_t phys_bits;
};

struct cpuid_config {
	unsigned vcpus;
	uint64_t tsc_khz;
	bool paravirt; /* KVM signature, kvmclock */
	bool vmware;   /* VMware's signature */
	unsigned phys_bits_max; /* of physical addresses, when the host has more; 0: as many as the host */
	/* The VM may run on the processor itself (hvm): claim only the immunities to speculation that the host claims. */
	bool hardware;
	const uint8_t *features; /* NULL, or CPU_FEATURE_COUNT of enum cpu_feature_wish */
};

/* The host's features that every mode can give, minus what config takes away. */
void cpuid_model_build(struct cpuid_model *ret_model, const struct cpuid_config *config);
/* The same for another host: what its CPUID answers (EAX..EDX), and its XCR0 (0: no XSAVE). */
struct cpuid_host {
	void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4]);
	void *opaque;
	uint64_t xcr0;
};
void cpuid_model_build_for(struct cpuid_model *ret_model, const struct cpuid_config *config,
			   const struct cpuid_host *host);
/* Whether this host can have features as wished for; otherwise ret_why (`bytes` long) names the first that it cannot. */
bool cpuid_features_check(const uint8_t *features, char *ret_why, size_t bytes);
bool cpuid_features_check_for(const uint8_t *features, const struct cpuid_host *host, char *ret_why, size_t bytes);
/*
 * What the instruction answers on vCPU `index` (APIC ids in leaves 1, 0xb, 0x1f) in the present state: OSXSAVE mirrors
 * cr4, leaf 0xd's sizes mirror xcr0.
 */
void cpuid_query(const struct cpuid_model *model, unsigned index, uint64_t cr4, uint64_t xcr0, uint32_t leaf,
		 uint32_t subleaf, uint32_t ret_regs[4]);

/* Where KVM's leaves begin in this model; 0: it has none. */
uint32_t cpuid_kvm_base(const struct cpuid_model *model);

#endif
