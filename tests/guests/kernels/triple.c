/* Triple faults: each of these must end the machine, told as a crash. */
#include "k.h"

CODE(do_ud, "ud2\n\t");
CODE(do_load, "mov (%rdi), %rax\n\t");

struct table_pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static void no_idt(void)
{
	struct table_pointer none = {0, 0};

	__asm__ volatile("lidt %0" : : "m"(none));
	run0(do_ud, 0);
}

static void no_double_fault_gate(void)
{
	idt[VEC_DF].type = 0;
	idt[VEC_GP].type = 0;
	run0(do_load, 0x8000000000000000);
}

static void bad_stack_for_both(void)
{
	struct regs r = regs0(do_load);

	idt[VEC_PF].ist = idt[VEC_DF].ist = 0;
	r.rdi = TEST_VA;
	r.rsp = TEST_VA + PAGE;
	run_regs(&r);
}

/* The page tables disappear, so that nothing can be fetched or pushed. */
static void no_page_tables(void)
{
	static uint64_t empty[512] __attribute__((aligned(4096)));

	cr3_set((uint64_t)empty);
	__asm__ volatile("1: jmp 1b");
}

TESTS({"no IDT", no_idt}, {"no gate for the double fault", no_double_fault_gate}, {"a bad stack for both", bad_stack_for_both},
      {"no page tables", no_page_tables});
