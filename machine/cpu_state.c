/* The architectural state of a vCPU after power-on or INIT. */
#include "machine/cpu_state.h"

/* An engine calls this (for INIT) while the guest's vector state is live in the host's registers. */
#pragma GCC target("general-regs-only")

#define RESET_ACCESS_DATA 0x0093 /* present, S, read/write, accessed */
#define RESET_ACCESS_CODE 0x009b
#define RESET_ACCESS_LDT 0x0082
#define RESET_ACCESS_TSS 0x008b /* busy TSS */

/* IA32_PAT after reset: WB WT UC- UC, twice (SDM vol. 3, 12.12.4). */
#define RESET_PAT 0x0007040600070406ull
#define RESET_MXCSR 0x1f80
#define CR0_ET 0x10u
#define INIT_KEEPS_CR0 0x60000000u /* CD, NW */
#define RESET_FCW 0x0040 /* power-on; FNINIT would give 0x37f */

static void segment_reset(struct cpu_segment *seg, uint16_t selector, uint64_t base, uint16_t access)
{
	seg->selector = selector;
	seg->base = base;
	seg->limit = 0xffff;
	seg->access = access;
}

/* All but the XSAVE area. */
static void reset_registers(struct cpu_state *cs, unsigned index)
{
	size_t n = offsetof(struct cpu_state, xsave);
	void *p = cs;
	int i;

	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
	cs->gpr[GPR_RDX] = 0x600; /* family 6: firmware reads CPUID for the rest */
	cs->rip = 0xfff0;
	cs->rflags = 2;
	for (i = 0; i < SEG_COUNT; i++)
		segment_reset(&cs->seg[i], 0, 0, RESET_ACCESS_DATA);
	segment_reset(&cs->seg[SEG_CS], 0xf000, 0xffff0000, RESET_ACCESS_CODE);
	segment_reset(&cs->ldtr, 0, 0, RESET_ACCESS_LDT);
	segment_reset(&cs->tr, 0, 0, RESET_ACCESS_TSS);
	cs->gdtr.limit = 0xffff;
	cs->idtr.limit = 0xffff;
	cs->cr0 = 0x60000010; /* CD, NW, ET */
	cs->xcr0 = 1;
	cs->dr6 = 0xffff0ff0;
	cs->dr7 = 0x400;
	cs->pat = RESET_PAT;
	cs->misc_enable = 1; /* fast strings */
	cs->activity = index ? CPU_WAIT_SIPI : CPU_RUNNING;
}

/* SDM vol. 3, table 10-1 (processor states following power-up, reset or INIT). */
void cpu_state_reset(struct cpu_state *cs, unsigned index)
{
	size_t n = sizeof(cs->xsave);
	void *p = cs->xsave;

	reset_registers(cs, index);
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
	cs->xsave[0] = RESET_FCW;
	cs->xsave[4] = 0xff; /* abridged tag word: power-on leaves the registers valid, holding +0 (tag 5555h) */
	cs->xsave[24] = RESET_MXCSR & 0xff;
	cs->xsave[25] = RESET_MXCSR >> 8;
	cs->xsave[512] = 3; /* XSTATE_BV: x87 and SSE hold what is above */
}

static void copy(void *to, const void *from, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

void cpu_state_init(struct cpu_state *cs, unsigned index)
{
	struct {
		uint64_t cr0, xcr0, pat, misc_enable, tsc_aux, tsc_offset, tsc_adjust, mtrr_def_type;
		uint64_t mtrr_fixed[ARRAY_SIZE(cs->mtrr_fixed)], mtrr_var[ARRAY_SIZE(cs->mtrr_var)];
	} kept; /* no initializer: it would be a call of memset */

	kept.cr0 = cs->cr0 & INIT_KEEPS_CR0;
	kept.xcr0 = cs->xcr0;
	kept.pat = cs->pat;
	kept.misc_enable = cs->misc_enable;
	kept.tsc_aux = cs->tsc_aux;
	kept.tsc_offset = cs->tsc_offset;
	kept.tsc_adjust = cs->tsc_adjust;
	kept.mtrr_def_type = cs->mtrr_def_type;
	copy(kept.mtrr_fixed, cs->mtrr_fixed, sizeof(kept.mtrr_fixed));
	copy(kept.mtrr_var, cs->mtrr_var, sizeof(kept.mtrr_var));
	reset_registers(cs, index);
	cs->cr0 = kept.cr0 | CR0_ET;
	cs->xcr0 = kept.xcr0;
	cs->pat = kept.pat;
	cs->misc_enable = kept.misc_enable;
	cs->tsc_aux = kept.tsc_aux;
	cs->tsc_offset = kept.tsc_offset;
	cs->tsc_adjust = kept.tsc_adjust;
	cs->mtrr_def_type = kept.mtrr_def_type;
	copy(cs->mtrr_fixed, kept.mtrr_fixed, sizeof(kept.mtrr_fixed));
	copy(cs->mtrr_var, kept.mtrr_var, sizeof(kept.mtrr_var));
}
