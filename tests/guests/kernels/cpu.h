/* What a processor of the test kernels has of its own. Private to the framework. */
#ifndef TEST_CPU_H
#define TEST_CPU_H

#include "k.h"

struct cpu {
	uint64_t gdt[GDT_SLOTS];
	struct tss tss;
	struct regs *catching; /* run_regs is under way */
	uint64_t save_rsp;
	void (*volatile call)(void *arg);
	void *call_arg;
	volatile bool running;
	uint8_t stack[5][STACK_BYTES] __attribute__((aligned(16))); /* rsp0, ist 1 2 3, its own */
} __attribute__((aligned(64)));

extern struct cpu cpus[MAX_CPUS];
/* GDT, TSS and IDT of processor n, on itself. */
void cpu_init(unsigned n);

#endif
