/* Instructions at the edge of a page whose neighbour is missing: nothing half done, registers precise. */
#include "k.h"

#define VA TEST_VA
#define EDGE (VA + PAGE) /* VA is mapped, EDGE is not */

static uint8_t *low, *high;

static void edge_setup(void)
{
	low = page_alloc();
	high = page_alloc();
	map(VA, low, PTE_P | PTE_W | PTE_U);
	map(EDGE, high, 0);
	memset(low, 0x5a, PAGE);
	memset(high, 0xa5, PAGE);
}

static void high_present(bool yes) { map(EDGE, high, yes ? PTE_P | PTE_W | PTE_U : 0); }

static bool untouched(void)
{
	for (unsigned i = 0; i < PAGE; i++)
		if (low[i] != 0x5a || high[i] != 0xa5)
			return false;
	return true;
}

/* ---- plain accesses ------------------------------------------------------------------ */

static void crossing_reads_and_writes(void)
{
	static const unsigned sizes[] = {2, 4, 8};

	edge_setup();
	for (unsigned s = 0; s < 3; s++)
		for (unsigned in = 1; in < sizes[s]; in++) {
			uint64_t va = EDGE - in;

			EXPECT(read0(va, sizes[s]), EX_PF(0));
			SAME(last_cr2, EDGE);
			EXPECT(write3(va, sizes[s]), EX_PF(PF_W | PF_U));
			SAME(last_cr2, EDGE);
			CHECK(untouched());
		}
	/* Read-only neighbour. */
	map(EDGE, high, PTE_P | PTE_U);
	EXPECT(read3(EDGE - 3, 8), EX_DONE);
	SAME(last_value, 0xa5a5a5a5a55a5a5a);
	EXPECT(write3(EDGE - 3, 8), EX_PF(PF_W | PF_U | PF_P));
	SAME(last_cr2, EDGE);
	CHECK(untouched());
	/* The first page missing, the second there. */
	map(VA, low, 0);
	high_present(true);
	EXPECT(write0(EDGE - 3, 8), EX_PF(PF_W));
	SAME(last_cr2, EDGE - 3);
	CHECK(untouched());
	map(VA, low, PTE_P | PTE_W | PTE_U);
	EXPECT(write0(EDGE - 3, 8), EX_DONE);
	SAME(*(uint32_t *)(low + PAGE - 4), 0x6677885a);
	SAME(*(uint32_t *)high, 0x22334455);
}

/* ---- everything else that writes --------------------------------------------------------- */

/* rdi points 2 bytes in front of the edge; each must fault and leave all registers and memory as they were. */
CODE(x_add, "addl $1, (%rdi)\n\t" DONE);
CODE(x_lock_xadd, "lock xaddl %eax, (%rdi)\n\t" DONE);
CODE(x_xchg, "xchgl %eax, (%rdi)\n\t" DONE);
CODE(x_lock_cmpxchg, "lock cmpxchgq %rcx, (%rdi)\n\t" DONE);
CODE(x_cmpxchg8b, "lock cmpxchg8b (%rdi)\n\t" DONE);
CODE(x_movups, "movups %xmm0, (%rdi)\n\t" DONE);
CODE(x_fstpt, "fldz\n\tx_fstpt_at: fstpt (%rdi)\n\t" DONE);
CODE(x_push_mem, "pushq (%rdi)\n\t" DONE);
CODE(x_not, "notq (%rdi)\n\t" DONE);
CODE(x_shl, "shll $3, (%rdi)\n\t" DONE);
CODE(x_shld, "shldl $3, %eax, (%rdi)\n\t" DONE);
CODE(x_setz, "movw $0x1234, (%rdi)\n\tx_setz_at: setz 2(%rdi)\n\t" DONE);
CODE(x_bts, "btsl $20, (%rdi)\n\t" DONE);
CODE(x_sgdt, "sgdt (%rdi)\n\t" DONE);
CODE(x_movbe, "movbel %eax, (%rdi)\n\t" DONE);
CODE(x_adc, "stc\n\tx_adc_at: adcq %rax, (%rdi)\n\t" DONE);
CODE(x_load_add, "addl (%rdi), %eax\n\t" DONE);
CODE(x_imul, "imull $3, (%rdi), %eax\n\t" DONE);
CODE(x_movzx, "movzwl 1(%rdi), %eax\n\t" DONE);
CODE(x_fxsave, "and $-16, %rdi\n\tx_fxsave_at: fxsave (%rdi)\n\t" DONE);
LABEL(x_fstpt_at);
LABEL(x_adc_at);
LABEL(x_fxsave_at);

static void crossing_instructions(void)
{
	static const struct {
		const char *name;
		const void *code, *at;
		bool write;
	} rows[] = {
		{"add", x_add, NULL, true}, {"lock xadd", x_lock_xadd, NULL, true}, {"xchg", x_xchg, NULL, true},
		{"lock cmpxchg", x_lock_cmpxchg, NULL, true}, {"lock cmpxchg8b", x_cmpxchg8b, NULL, true},
		{"movups", x_movups, NULL, true}, {"fstp tbyte", x_fstpt, x_fstpt_at, true}, {"push mem", x_push_mem, NULL, false},
		{"not", x_not, NULL, true}, {"shl", x_shl, NULL, true}, {"shld", x_shld, NULL, true}, {"bts", x_bts, NULL, true},
		{"sgdt", x_sgdt, NULL, true}, {"movbe", x_movbe, NULL, true}, {"adc", x_adc, x_adc_at, true},
		{"add from memory", x_load_add, NULL, false}, {"imul", x_imul, NULL, false}, {"movzx", x_movzx, NULL, false},
		{"fxsave", x_fxsave, x_fxsave_at, true},
	};

	edge_setup();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct regs r = regs0(rows[i].code), was;
		uint64_t ex, want;

		if (rows[i].code == x_movbe && !cpu_has(1, 2, 22))
			continue;
		r.rdi = EDGE - 2;
		r.rax = 0x1111;
		r.rcx = 0x2222;
		was = r;
		__asm__ volatile("fninit");
		ex = run_regs(&r);
		/* What a read-modify-write's fault says may come from the read on some processors: P is 0 in either case. */
		want = EX_PF(rows[i].write ? PF_W : 0);
		if (ex != want)
			test_failure(__FILE__, __LINE__, "%s: %s, not %s", rows[i].name, ex_name(ex), ex_name(want));
		if (r.rip != (uint64_t)(rows[i].at ? rows[i].at : rows[i].code))
			test_failure(__FILE__, __LINE__, "%s: rip 0x%lx", rows[i].name, r.rip);
		if (r.cr2 != EDGE)
			test_failure(__FILE__, __LINE__, "%s: cr2 0x%lx", rows[i].name, r.cr2);
		if (r.rax != was.rax || r.rcx != was.rcx || r.rdx != was.rdx || r.rbx != was.rbx || r.rsp != was.rsp)
			test_failure(__FILE__, __LINE__, "%s: registers changed", rows[i].name);
		if (rows[i].code != x_fxsave && !untouched()) {
			test_failure(__FILE__, __LINE__, "%s: memory changed", rows[i].name);
			edge_setup();
		}
	}
	SAME(run0(x_setz, EDGE - 2), EX_PF(PF_W));
	SAME(*(uint16_t *)(low + PAGE - 2), 0x1234); /* the instruction in front is done */
}

static void crossing_succeeds(void)
{
	struct regs r;

	edge_setup();
	high_present(true);
	r = regs0(x_add);
	*(uint16_t *)(low + PAGE - 2) = 0xffff;
	*(uint16_t *)high = 0x0001;
	r.rdi = EDGE - 2;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(*(uint16_t *)(low + PAGE - 2), 0);
	SAME(*(uint16_t *)high, 2);
	r = regs0(x_lock_xadd);
	r.rdi = EDGE - 2;
	r.rax = 0x00010003;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x20000);
	SAME(*(uint16_t *)(low + PAGE - 2), 3);
	SAME(*(uint16_t *)high, 3);
	r = regs0(x_cmpxchg8b);
	r.rdi = EDGE - 2;
	r.rax = 1;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rflags & FLAG_ZF, 0);
	SAME(r.rax, 0x30003);
}

/* ---- the stack ---------------------------------------------------------------------------- */

CODE(s_push, "push %rax\n\t" DONE);
CODE(s_push_rsp, "push %rsp\n\t" DONE);
CODE(s_push_imm, "push $7\n\t" DONE);
CODE(s_push16, "pushw $7\n\t" DONE);
CODE(s_pushf, "pushf\n\t" DONE);
CODE(s_call, "call 1f\n\t1: " DONE);
CODE(s_call_reg, "lea 1f(%rip), %rax\n\ts_call_reg_at: call *%rax\n\t1: " DONE);
CODE(s_enter, "enter $32, $0\n\t" DONE);
CODE(s_enter3, "enter $32, $3\n\t" DONE);
CODE(s_int3, "int3\n\t" DONE);
CODE(s_push_fs, "push %fs\n\t" DONE);
CODE(s_three, "pop %rcx\n\tpush %rcx\n\tpush %rcx\n\ts_three_at: push %rcx\n\t" DONE);
CODE(s_pop, "pop %rax\n\t" DONE);
CODE(s_pop_mem, "popq (%rsi)\n\t" DONE);
CODE(s_popf, "popf\n\t" DONE);
CODE(s_ret, "ret\n\t" DONE);
CODE(s_ret_imm, "ret $16\n\t" DONE);
CODE(s_leave, "leave\n\t" DONE);
CODE(s_iret, "iretq\n\t" DONE);
CODE(s_lret, "lretq\n\t" DONE);
LABEL(s_call_reg_at);
LABEL(s_three_at);

/* Growing down from EDGE with VA gone, or up to EDGE with it gone. */
static void stack_at_an_edge(void)
{
	static const struct {
		const char *name;
		const void *code, *at;
		int offset; /* of rsp from the edge */
		bool write;
	} rows[] = {
		{"push", s_push, NULL, 0, true}, {"push, half there", s_push, NULL, 4, true}, {"push rsp", s_push_rsp, NULL, 0, true},
		{"push imm", s_push_imm, NULL, 0, true}, {"push 16 bits", s_push16, NULL, 0, true}, {"pushf", s_pushf, NULL, 0, true},
		{"call", s_call, NULL, 0, true}, {"call, half there", s_call, NULL, 3, true},
		{"call reg", s_call_reg, s_call_reg_at, 0, true}, {"enter", s_enter, NULL, 0, true}, {"enter, nested", s_enter3, NULL, 16, true},
		{"push fs", s_push_fs, NULL, 0, true}, {"third push", s_three, s_three_at, 8, true},
		{"pop", s_pop, NULL, 0, false}, {"pop, half there", s_pop, NULL, -4, false}, {"pop mem", s_pop_mem, NULL, 0, false},
		{"popf", s_popf, NULL, 0, false}, {"ret", s_ret, NULL, 0, false}, {"ret imm", s_ret_imm, NULL, -1, false},
		{"leave", s_leave, NULL, 0, false}, {"iret", s_iret, NULL, -16, false}, {"lret", s_lret, NULL, -8, false},
	};

	edge_setup();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct regs r = regs0(rows[i].code);
		uint64_t rsp = EDGE + (uint64_t)(int64_t)rows[i].offset, ex, at;
		uint64_t want = EX_PF(rows[i].write && rows[i].code != s_enter3 ? PF_W : 0); /* nested enter reads frames */

		map(VA, low, rows[i].write ? 0 : PTE_P | PTE_W | PTE_U);
		high_present(rows[i].write);
		r.rsp = rsp;
		r.rbp = EDGE;
		r.rax = 0x77;
		r.rsi = VA;
		ex = run_regs(&r);
		if (ex != want)
			test_failure(__FILE__, __LINE__, "%s: %s, not %s", rows[i].name, ex_name(ex), ex_name(want));
		at = rows[i].code == s_three ? rsp - 8 : rsp;
		if (r.rsp != at)
			test_failure(__FILE__, __LINE__, "%s: rsp moved by %ld", rows[i].name, (int64_t)(r.rsp - at));
		if (r.rbp != EDGE)
			test_failure(__FILE__, __LINE__, "%s: rbp 0x%lx", rows[i].name, r.rbp);
		if (r.rip != (uint64_t)(rows[i].at ? rows[i].at : rows[i].code))
			test_failure(__FILE__, __LINE__, "%s: rip 0x%lx, code at 0x%lx", rows[i].name, r.rip, (uint64_t)rows[i].code);
		if (r.cr2 >> 12 != (rows[i].write ? VA : EDGE) >> 12)
			test_failure(__FILE__, __LINE__, "%s: cr2 0x%lx", rows[i].name, r.cr2);
	}
}

/* The value goes to a page that is missing: the pop has not happened. */
CODE(s_pop_rsp_mem, "popq 8(%rsp)\n\t" DONE);

static void pop_to_memory(void)
{
	struct regs r;

	edge_setup();
	r = regs0(s_pop_mem);
	r.rsp = EDGE - 16;
	r.rsi = EDGE - 4;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rsp, EDGE - 16);
	SAME(r.cr2, EDGE);
	CHECK(untouched());
	/* The address of pop's operand is computed with the new rsp. */
	r = regs0(s_pop_rsp_mem);
	r.rsp = EDGE - 32;
	*(uint64_t *)(low + PAGE - 32) = 0x99;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rsp, EDGE - 24);
	SAME(*(uint64_t *)(low + PAGE - 16), 0x99);
}

/* ---- string instructions ----------------------------------------------------------------------- */

CODE(r_movsb, "rep movsb\n\t" DONE);
CODE(r_movsq, "rep movsq\n\t" DONE);
CODE(r_stosb, "rep stosb\n\t" DONE);
CODE(r_stosl, "rep stosl\n\t" DONE);
CODE(r_lodsw, "rep lodsw\n\t" DONE);
CODE(r_cmpsb, "repe cmpsb\n\t" DONE);
CODE(r_scasb, "repne scasb\n\t" DONE);

static void rep_movs_faults_in_the_middle(void)
{
	struct regs r;

	edge_setup();
	/* To a destination that ends. */
	r = regs0(r_movsb);
	r.rsi = (uint64_t)page_alloc();
	memset((void *)r.rsi, 0x11, PAGE);
	r.rdi = EDGE - 100;
	r.rcx = 1000;
	uint64_t from = r.rsi;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rcx, 900);
	SAME(r.rdi, EDGE);
	SAME(r.rsi, from + 100);
	SAME(r.cr2, EDGE);
	SAME(r.rip, (uint64_t)r_movsb);
	SAME(low[PAGE - 100], 0x11);
	SAME(low[PAGE - 101], 0x5a);
	/* The page comes; the same registers go on. */
	high_present(true);
	r.rflags = FLAGS_FIXED;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rcx, 0);
	SAME(high[899], 0x11);
	SAME(high[900], 0xa5);
	/* From a source that ends, 8 at a time, the last one across the edge. */
	edge_setup();
	r = regs0(r_movsq);
	r.rsi = EDGE - 20;
	r.rdi = (uint64_t)page_alloc();
	r.rcx = 10;
	uint64_t to = r.rdi;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 8);
	SAME(r.rsi, EDGE - 4);
	SAME(r.rdi, to + 16);
	SAME(r.cr2, EDGE);
	SAME(*(uint64_t *)(to + 8), 0x5a5a5a5a5a5a5a5a);
	SAME(*(uint64_t *)(to + 16), 0);
	/* Both end: the read comes first. */
	r = regs0(r_movsb);
	r.rsi = EDGE - 1;
	r.rdi = EDGE - 1;
	r.rcx = 2;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 1);
}

static void rep_movs_backwards(void)
{
	struct regs r;

	edge_setup();
	high_present(true);
	map(VA, low, 0);
	r = regs0(r_movsb);
	r.rflags |= FLAG_DF;
	r.rsi = (uint64_t)page_alloc() + 2000;
	r.rdi = EDGE + 9;
	r.rcx = 100;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rcx, 90);
	SAME(r.rdi, EDGE - 1);
	SAME(r.cr2, EDGE - 1);
	CHECK(r.rflags & FLAG_DF);
	r = regs0(r_stosl);
	r.rflags |= FLAG_DF;
	r.rdi = EDGE + 5;
	r.rcx = 100;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rcx, 98);
	SAME(r.rdi, EDGE - 3);
}

static void rep_stos_faults_in_the_middle(void)
{
	struct regs r;

	edge_setup();
	r = regs0(r_stosb);
	r.rdi = VA;
	r.rcx = PAGE + 1;
	r.rax = 0x33;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rcx, 1);
	SAME(r.rdi, EDGE);
	SAME(low[PAGE - 1], 0x33);
	r = regs3(r_stosl);
	r.rdi = EDGE - 10;
	r.rcx = 5;
	r.rax = 0x44444444;
	EXPECT(run_regs(&r), EX_PF(PF_W | PF_U));
	SAME(r.rcx, 3);
	SAME(r.rdi, EDGE - 2);
	SAME(r.cr2, EDGE);
	SAME(*(uint16_t *)(low + PAGE - 2), 0x3333);
	r = regs0(r_stosb);
	r.rdi = EDGE;
	r.rcx = 0; /* nothing to do, nothing to fault */
	EXPECT(run_regs(&r), EX_DONE);
}

static void rep_reads_fault_in_the_middle(void)
{
	struct regs r;

	edge_setup();
	r = regs0(r_lodsw);
	r.rsi = EDGE - 5;
	r.rcx = 10;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 8);
	SAME(r.rsi, EDGE - 1);
	SAME(r.rax & 0xffff, 0x5a5a);
	r = regs0(r_cmpsb);
	r.rsi = EDGE - 5;
	r.rdi = VA;
	r.rcx = 10;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 5);
	SAME(r.rsi, EDGE);
	SAME(r.rdi, VA + 5);
	r = regs0(r_scasb);
	r.rdi = EDGE - 5;
	r.rcx = 10;
	r.rax = 0;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 5);
	SAME(r.rdi, EDGE);
	/* Found in front of the edge. */
	low[PAGE - 2] = 0;
	r = regs0(r_scasb);
	r.rdi = EDGE - 5;
	r.rcx = 10;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rcx, 6);
	CHECK(r.rflags & FLAG_ZF);
}

/* ---- an instruction that lies across ------------------------------------------------------------- */

static void code_across_an_edge(void)
{
	static const uint8_t mov[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xcd, 0xf0}; /* mov $..., %rax; int $0xf0 */

	for (unsigned in = 1; in < 10; in++) {
		struct regs r;

		edge_setup();
		memcpy(low + PAGE - in, mov, in);
		memcpy(high, mov + in, sizeof(mov) - in);
		r = regs0((void *)(EDGE - in));
		EXPECT(run_regs(&r), EX_PF(PF_I));
		SAME(r.rip, EDGE - in);
		SAME(r.cr2, EDGE);
		high_present(true);
		r = regs0((void *)(EDGE - in));
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 0x0807060504030201);
		/* It was translated; now the second page goes away again. */
		high_present(false);
		r = regs0((void *)(EDGE - in));
		EXPECT(run_regs(&r), EX_PF(PF_I));
		SAME(r.cr2, EDGE);
		/* Another page comes there. */
		uint8_t *other = page_alloc();
		memcpy(other, high, PAGE);
		if (in < 9)
			other[9 - in] = 0x88;
		map(EDGE, other, PTE_P);
		r = regs0((void *)(EDGE - in));
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax >> 56, in < 10 ? (in < 9 || in == 9 ? other[9 - in] : 8) : 8);
	}
	/* Running into a missing page. */
	edge_setup();
	memset(low, 0x90, PAGE);
	struct regs r = regs0((void *)(EDGE - 50));
	EXPECT(run_regs(&r), EX_PF(PF_I));
	SAME(r.rip, EDGE);
	SAME(r.cr2, EDGE);
}

TESTS({"reads and writes across an edge", crossing_reads_and_writes}, {"instructions across an edge", crossing_instructions},
      {"the same with both pages there", crossing_succeeds}, {"the stack at an edge", stack_at_an_edge}, {"pop to memory", pop_to_memory},
      {"rep movs faults in the middle", rep_movs_faults_in_the_middle}, {"rep movs backwards", rep_movs_backwards},
      {"rep stos faults in the middle", rep_stos_faults_in_the_middle}, {"rep lods, cmps, scas fault in the middle", rep_reads_fault_in_the_middle},
      {"code across an edge", code_across_an_edge});
