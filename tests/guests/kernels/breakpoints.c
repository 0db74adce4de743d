/* The debug registers: breakpoints on code, data and ports, RF, and single-stepping beside them. */
#include "k.h"

#define DR_GET(n)                                                                                                      \
	static uint64_t dr##n##_get(void)                                                                              \
	{                                                                                                              \
		uint64_t v;                                                                                            \
		__asm__ volatile("mov %%db" #n ", %0" : "=r"(v) : : "memory");                                         \
		return v;                                                                                              \
	}
#define DR_SET(n) static void dr##n##_set(uint64_t v) { __asm__ volatile("mov %0, %%db" #n : : "r"(v) : "memory"); }
DR_SET(0)
DR_SET(1)
DR_SET(2)
DR_SET(3)
DR_GET(6)
DR_SET(6)
DR_GET(7)
DR_SET(7)

#define DR6_NONE 0xffff0ff0ul
#define DR6_BS 0x4000ul
#define EXEC 0u
#define WRITE 1u
#define PORT 2u
#define ACCESS 3u
/* DR7's bits for register n: type, and length in bytes. */
#define ON(n, type, bytes)                                                                                             \
	(2ul << 2 * (n) | (uint64_t)(type) << (16 + 4 * (n)) | ((bytes) == 8 ? 2ul : (bytes) - 1ul) << (18 + 4 * (n)))

static uint64_t hit; /* DR6 behind the run, without its fixed bits */

static uint64_t run_with(struct regs *r, uint64_t dr7)
{
	uint64_t ex;

	dr6_set(DR6_NONE);
	dr7_set(dr7 | 0x400);
	ex = run_regs(r);
	dr7_set(0x400);
	hit = dr6_get() & ~DR6_NONE;
	return ex;
}

static void off(void)
{
	dr7_set(0x400);
	dr0_set(0);
	dr1_set(0);
	dr2_set(0);
	dr3_set(0);
	dr6_set(DR6_NONE);
}

CODE(b_code, "xor %eax, %eax\n\tinc %eax\n\tb_code_1: inc %eax\n\tb_code_2: inc %eax\n\tinc %eax\n\t" DONE);
CODE(b_loop, "xor %eax, %eax\n\tmov $10, %ecx\n\t1: b_loop_at: inc %eax\n\tloop 1b\n\t" DONE);
LABEL(b_code_1);
LABEL(b_code_2);
LABEL(b_loop_at);

static void code_breakpoints(void)
{
	struct regs r;

	for (unsigned ring = 0; ring < 2; ring++) {
		struct regs start = ring ? regs3(b_code) : regs0(b_code);

		dr0_set((uint64_t)b_code_1);
		dr3_set((uint64_t)b_code_2);
		r = start;
		EXPECT(run_with(&r, ON(0, EXEC, 1) | ON(3, EXEC, 1)), EX_DB);
		SAME(hit, 1);
		SAME(r.rip, (uint64_t)b_code_1);
		SAME(r.rax, 1);
		SAME(r.rflags & FLAG_RF, 0);
		/* Without RF it stays there; with it, it goes on to the next. */
		EXPECT(run_with(&r, ON(0, EXEC, 1) | ON(3, EXEC, 1)), EX_DB);
		SAME(r.rip, (uint64_t)b_code_1);
		r.rflags |= FLAG_RF;
		EXPECT(run_with(&r, ON(0, EXEC, 1) | ON(3, EXEC, 1)), EX_DB);
		SAME(r.rip, (uint64_t)b_code_2);
		SAME(hit, 8);
		SAME(r.rax, 2);
		r.rflags |= FLAG_RF;
		EXPECT(run_with(&r, ON(0, EXEC, 1) | ON(3, EXEC, 1)), EX_DONE);
		SAME(r.rax, 4);
		SAME(hit, 0);
		/* Disabled, or elsewhere. */
		r = start;
		EXPECT(run_with(&r, 0), EX_DONE);
		dr0_set((uint64_t)b_code_1 + 1);
		r = start;
		EXPECT(run_with(&r, ON(0, EXEC, 1)), EX_DONE);
		SAME(r.rax, 4);
	}
	/* Each turn of a loop. */
	dr1_set((uint64_t)b_loop_at);
	r = regs0(b_loop);
	for (unsigned i = 0; i < 10; i++) {
		EXPECT(run_with(&r, ON(1, EXEC, 1)), EX_DB);
		SAME(r.rax, i);
		SAME(r.rip, (uint64_t)b_loop_at);
		r.rflags |= FLAG_RF;
	}
	EXPECT(run_with(&r, ON(1, EXEC, 1)), EX_DONE);
	SAME(r.rax, 10);
	off();
}

CODE(b_data, "mov (%rdi), %eax\n\tb_data_read: nop\n\tmov %eax, (%rdi)\n\tb_data_written: nop\n\tmovb $1, 3(%rdi)\n\tnop\n\t" DONE);
CODE(b_push, "push %rax\n\tb_pushed: nop\n\tpop %rcx\n\tb_popped: nop\n\t" DONE);
CODE(b_rep, "cld\n\tmov $64, %ecx\n\trep stosb\n\t" DONE);
CODE(b_rmw, "addl $1, (%rdi)\n\tb_added: nop\n\t" DONE);
CODE(b_wide, "mov %rax, -4(%rdi)\n\tb_wide_written: nop\n\t" DONE);
CODE(b_fault, "mov %eax, (%rdi)\n\t" DONE);
LABEL(b_data_read);
LABEL(b_data_written);
LABEL(b_pushed);
LABEL(b_popped);
LABEL(b_added);
LABEL(b_wide_written);

static void data_breakpoints(void)
{
	uint8_t *page = page_alloc();
	struct regs r;

	map(TEST_VA, page, PTE_P | PTE_W | PTE_U);
	for (unsigned ring = 0; ring < 2; ring++) {
		struct regs start = ring ? regs3(b_data) : regs0(b_data);

		start.rdi = TEST_VA + 0x100;
		dr2_set(TEST_VA + 0x100);
		r = start;
		EXPECT(run_with(&r, ON(2, ACCESS, 4)), EX_DB);
		SAME(hit, 4);
		SAME(r.rip, (uint64_t)b_data_read);
		r = start;
		EXPECT(run_with(&r, ON(2, WRITE, 4)), EX_DB);
		SAME(hit, 4);
		SAME(r.rip, (uint64_t)b_data_written);
		/* A byte of it; a neighbour. */
		dr2_set(TEST_VA + 0x102);
		r = start;
		EXPECT(run_with(&r, ON(2, WRITE, 1)), EX_DB);
		SAME(r.rip, (uint64_t)b_data_written);
		dr2_set(TEST_VA + 0x104);
		r = start;
		EXPECT(run_with(&r, ON(2, ACCESS, 4)), EX_DONE);
		SAME(hit, 0);
		/* Eight bytes, aligned down. */
		r = start;
		r.rip = (uint64_t)b_wide;
		dr2_set(TEST_VA + 0x0f8);
		EXPECT(run_with(&r, ON(2, WRITE, 8)), EX_DB);
		SAME(r.rip, (uint64_t)b_wide_written);
		/* A read-modify-write is both. */
		r = start;
		r.rip = (uint64_t)b_rmw;
		dr2_set(TEST_VA + 0x100);
		EXPECT(run_with(&r, ON(2, WRITE, 4)), EX_DB);
		SAME(r.rip, (uint64_t)b_added);
	}
	/* The stack. */
	r = regs3(b_push);
	dr0_set(r.rsp - 8);
	EXPECT(run_with(&r, ON(0, WRITE, 8)), EX_DB);
	SAME(r.rip, (uint64_t)b_pushed);
	r.rflags |= FLAG_RF;
	EXPECT(run_with(&r, ON(0, ACCESS, 8)), EX_DB);
	SAME(r.rip, (uint64_t)b_popped);
	/* A string instruction stops in between, or at its end. */
	r = regs0(b_rep);
	r.rdi = TEST_VA + 0x200;
	dr0_set(TEST_VA + 0x220);
	EXPECT(run_with(&r, ON(0, WRITE, 1)), EX_DB);
	SAME(hit, 1);
	CHECK(r.rcx < 32);
	/* An access that faults touches nothing. */
	r = regs0(b_fault);
	r.rdi = TEST_VA + PAGE;
	dr0_set(TEST_VA + PAGE);
	EXPECT(run_with(&r, ON(0, WRITE, 4)), EX_PF(PF_W));
	SAME(hit, 0);
	off();
}

CODE(b_port, "mov $0x80, %edx\n\tout %al, %dx\n\tb_port_out: nop\n\tin $0x81, %al\n\tb_port_in: nop\n\t" DONE);
LABEL(b_port_out);
LABEL(b_port_in);

static void port_breakpoints(void)
{
	struct regs r;

	cr4_set(cr4_get() | CR4_DE);
	r = regs0(b_port);
	dr1_set(0x80);
	EXPECT(run_with(&r, ON(1, PORT, 1)), EX_DB);
	SAME(hit, 2);
	SAME(r.rip, (uint64_t)b_port_out);
	r = regs0(b_port);
	dr1_set(0x81);
	EXPECT(run_with(&r, ON(1, PORT, 1)), EX_DB);
	SAME(r.rip, (uint64_t)b_port_in);
	r = regs0(b_port);
	dr1_set(0x82);
	EXPECT(run_with(&r, ON(1, PORT, 2)), EX_DONE);
	r = regs0(b_port);
	dr1_set(0x80);
	EXPECT(run_with(&r, ON(1, PORT, 4)), EX_DB);
	cr4_set(cr4_get() & ~CR4_DE);
	off();
}

static void stepping_over_breakpoints(void)
{
	struct regs r = regs0(b_code);

	dr0_set((uint64_t)b_code_1);
	r.rflags |= FLAG_TF;
	/* Behind xor and the first inc; then the breakpoint's fault, or the trap with both told. */
	EXPECT(run_with(&r, ON(0, EXEC, 1)), EX_DB);
	SAME(hit, DR6_BS);
	EXPECT(run_with(&r, ON(0, EXEC, 1)), EX_DB);
	SAME(r.rip, (uint64_t)b_code_1);
	CHECK(hit == DR6_BS || hit == (DR6_BS | 1));
	r.rflags = (r.rflags | FLAG_RF) & ~FLAG_TF;
	EXPECT(run_with(&r, ON(0, EXEC, 1)), EX_DONE);
	SAME(r.rax, 4);
	/* A step onto data. */
	uint8_t *page = page_alloc();
	r = regs0(b_data);
	r.rdi = (uint64_t)page;
	r.rflags |= FLAG_TF;
	dr0_set((uint64_t)page);
	EXPECT(run_with(&r, ON(0, ACCESS, 1)), EX_DB);
	SAME(hit, DR6_BS | 1);
	off();
}

CODE(b_change, "mov %rdi, %db0\n\tmov $0x402, %eax\n\tmov %rax, %db7\n\tnop\n\tnop\n\tb_change_at: nop\n\t" DONE);
LABEL(b_change_at);

/* Set by the code that runs into it, in the same block. */
static void set_on_the_way(void)
{
	struct regs r = regs0(b_change);

	r.rdi = (uint64_t)b_change_at;
	dr6_set(DR6_NONE);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)b_change_at);
	SAME(dr6_get() & ~DR6_NONE, 1);
	SAME(dr7_get(), 0x402);
	off();
}

TESTS({"code breakpoints", code_breakpoints}, {"data breakpoints", data_breakpoints}, {"port breakpoints", port_breakpoints},
      {"stepping over breakpoints", stepping_over_breakpoints}, {"set on the way", set_on_the_way});
