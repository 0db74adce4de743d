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
#define RESET_FCW 0x0040 /* power-on; FNINIT would give 0x37f */

static void segment_reset(struct cpu_segment *seg, uint16_t selector, uint64_t base, uint16_t access)
{
	seg->selector = selector;
	seg->base = base;
	seg->limit = 0xffff;
	seg->access = access;
}

/* SDM vol. 3, table 10-1 (processor states following power-up, reset or INIT). */
void cpu_state_reset(struct cpu_state *cs, unsigned index)
{
	size_t n = sizeof(*cs);
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
	cs->xsave[0] = RESET_FCW;
	cs->xsave[4] = 0xff; /* abridged tag word: power-on leaves the registers valid, holding +0 (tag 5555h) */
	cs->xsave[24] = RESET_MXCSR & 0xff;
	cs->xsave[25] = RESET_MXCSR >> 8;
	cs->xsave[512] = 3; /* XSTATE_BV: x87 and SSE hold what is above */
}
