/* The architectural state of one vCPU, the same in every mode: what one engine saves, another resumes. */
#ifndef MACHINE_CPU_STATE_H
#define MACHINE_CPU_STATE_H

#include "machine/types.h"

/* Order of the general registers: the instruction encoding's. */
enum cpu_gpr {
	GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI,
	GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15,
	GPR_COUNT
};

/* Order of the segment registers: the instruction encoding's (sreg field). */
enum cpu_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/*
 * A segment register with its hidden part. `access` holds bits 8..23 of a descriptor's second dword,
 * shifted right by 8 (the VMX "access rights" layout):
 *   0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G
 * `limit` is in bytes (already scaled by G). A null selector loads access = 0 (P clear).
 */
struct cpu_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t access;
	uint16_t selector;
};

#define SEG_ACCESS_TYPE 0x000f
#define SEG_ACCESS_S 0x0010
#define SEG_ACCESS_DPL_SHIFT 5
#define SEG_ACCESS_P 0x0080
#define SEG_ACCESS_L 0x2000
#define SEG_ACCESS_DB 0x4000
#define SEG_ACCESS_G 0x8000

struct cpu_dtable {
	uint64_t base;
	uint32_t limit; /* 16 bits architecturally */
};

/* What a vCPU is doing when it is not executing. */
enum cpu_activity {
	CPU_RUNNING,
	CPU_HALTED,
	CPU_WAIT_SIPI, /* an application processor before its start-up IPI */
	CPU_SHUTDOWN,  /* triple fault */
};

#define CPU_XSAVE_BYTES 4096
#define CPU_MTRR_VAR 8

/*
 * Engines may embed this as the first member of their vCPU: the general registers come first, so that
 * they are in reach of an 8-bit displacement.
 */
struct cpu_state {
	uint64_t gpr[GPR_COUNT];
	uint64_t rip;
	uint64_t rflags;

	struct cpu_segment seg[SEG_COUNT];
	struct cpu_segment ldtr, tr;
	struct cpu_dtable gdtr, idtr;

	uint64_t cr0, cr2, cr3, cr4, xcr0;
	uint64_t dr[4], dr6, dr7;

	/* MSRs with a plain value; FS/GS base live in seg[]. */
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[2 * CPU_MTRR_VAR];
	/* Guest TSC = host TSC + tsc_offset. */
	uint64_t tsc_offset;
	uint64_t tsc_adjust;
	/* KVM paravirtual MSRs, as the guest wrote them. */
	uint64_t kvm_wall_clock, kvm_system_time, kvm_steal_time, kvm_pv_eoi;

	/* Events between instructions. */
	uint8_t activity;       /* enum cpu_activity */
	uint8_t interrupt_shadow; /* after sti / mov ss: no interrupt before the next instruction ends */
	uint8_t nmi_blocked;    /* an NMI is being handled: until iret */
	uint8_t nmi_pending;
	uint8_t exception_pending; /* an exception to deliver before the next instruction */
	uint8_t exception_vector;
	uint8_t exception_has_error;
	uint32_t exception_error;

	/* x87/SSE/AVX state in XSAVE's standard (non-compacted) format. */
	uint8_t xsave[CPU_XSAVE_BYTES] __attribute__((aligned(64)));
};

/* Architectural state after power-on or INIT (SDM vol. 3, table 9-1). `index` 0 is the boot processor. */
void cpu_state_reset(struct cpu_state *cs, unsigned index);
/* The same after an INIT, which leaves memory types, the TSC and the x87, SSE and AVX registers alone. */
void cpu_state_init(struct cpu_state *cs, unsigned index);

#endif
