/* Exceptions: which instruction raises which, with which error code, at which rip, leaving which registers. */
#include "k.h"

#define HOLE 0x8000000000000000ul /* not canonical */

/* Rows of code that must end in `want`, the trap's rip being `at` (the start of the code if NULL). */
struct row {
	const char *name;
	const void *code, *at;
	uint64_t want;
};

static void run_rows(const struct row *rows, unsigned n, int line, struct regs (*ring)(const void *code))
{
	for (unsigned i = 0; i < n; i++) {
		struct regs r = ring(rows[i].code);
		uint64_t ex, rsp = r.rsp, at = (uint64_t)(rows[i].at ? rows[i].at : rows[i].code);

		ex = run_regs(&r);
		if (ex != rows[i].want)
			test_failure(__FILE__, line, "%s: %s, not %s", rows[i].name, ex_name(ex), ex_name(rows[i].want));
		else if (ex != EX_DONE && r.rip != at)
			test_failure(__FILE__, line, "%s: rip 0x%lx, not 0x%lx", rows[i].name, r.rip, at);
		else if (ex != EX_DONE && r.rsp != rsp)
			test_failure(__FILE__, line, "%s: rsp moved by %ld", rows[i].name, (int64_t)(r.rsp - rsp));
	}
}
#define RUN_ROWS(rows, ring) run_rows(rows, ARRAY_SIZE(rows), __LINE__, ring)

/* ---- divide errors --------------------------------------------------------------------- */

CODE(de_zero, "xor %ecx, %ecx\n\tmov $7, %eax\n\tcltd\n\tde_zero_at: divl %ecx\n\t" DONE);
CODE(de_over, "mov $1, %edx\n\txor %eax, %eax\n\tmov $1, %ecx\n\tde_over_at: divl %ecx\n\t" DONE);
CODE(de_idiv, "mov $0x80000000, %eax\n\tcltd\n\tmov $-1, %ecx\n\tde_idiv_at: idivl %ecx\n\t" DONE);
CODE(de_idiv64, "movabs $0x8000000000000000, %rax\n\tcqto\n\tmov $-1, %rcx\n\tde_idiv64_at: idivq %rcx\n\t" DONE);
CODE(de_div8, "mov $0x200, %eax\n\tmov $2, %cl\n\tde_div8_at: divb %cl\n\t" DONE);
CODE(de_mem, "pushq $0\n\tpop %rax\n\tde_mem_at: divl -8(%rsp)\n\t" DONE);
CODE(de_r13, "xor %r13d, %r13d\n\tde_r13_at: divq %r13\n\t" DONE);
LABEL(de_zero_at);
LABEL(de_over_at);
LABEL(de_idiv_at);
LABEL(de_idiv64_at);
LABEL(de_div8_at);
LABEL(de_mem_at);
LABEL(de_r13_at);

static void divide_errors(void)
{
	static const struct row rows[] = {
		{"div by 0", de_zero, de_zero_at, EX_DE}, {"div overflow", de_over, de_over_at, EX_DE},
		{"idiv overflow", de_idiv, de_idiv_at, EX_DE}, {"idiv overflow, 64 bits", de_idiv64, de_idiv64_at, EX_DE},
		{"div overflow, 8 bits", de_div8, de_div8_at, EX_DE}, {"div by memory", de_mem, de_mem_at, EX_DE},
		{"div by r13", de_r13, de_r13_at, EX_DE},
	};
	struct regs r;

	RUN_ROWS(rows, regs0);
	RUN_ROWS(rows, regs3);
	r = regs3(de_idiv64);
	run_regs(&r);
	SAME(r.rax, 0x8000000000000000);
	SAME(r.rdx, ~0ul);
	SAME(r.rcx, ~0ul);
	SAME(r.cs, SEL_USER64);
}

/* ---- undefined opcodes -------------------------------------------------------------------- */

#define BYTES(name, bytes) CODE(name, ".byte " bytes "\n\t" DONE)
CODE(ud_ud2, "ud2\n\t" DONE);
BYTES(ud_ud1, "0x0f, 0xb9, 0xc0");
BYTES(ud_06, "0x06");
BYTES(ud_27, "0x27");
BYTES(ud_37, "0x37");
BYTES(ud_60, "0x60");
BYTES(ud_82, "0x82, 0xc0, 1");
BYTES(ud_9a, "0x9a, 0, 0, 0, 0, 0, 0");
BYTES(ud_ea, "0xea, 0, 0, 0, 0, 0, 0");
BYTES(ud_ce, "0xce");
BYTES(ud_d4, "0xd4, 10");
BYTES(ud_d6, "0xd6");
BYTES(ud_lock_mov, "0xf0, 0x89, 0x07");
BYTES(ud_lock_add_reg, "0xf0, 0x01, 0xc0");
BYTES(ud_lock_cmp, "0xf0, 0x39, 0x07");
BYTES(ud_lock_nop, "0xf0, 0x90");
BYTES(ud_lock_jmp, "0xf0, 0xeb, 0x00");
BYTES(ud_lock_bt, "0xf0, 0x0f, 0xa3, 0x07");
BYTES(ud_lock_sse, "0xf0, 0x0f, 0x58, 0xc1");
BYTES(ud_lea_reg, "0x8d, 0xc0");
BYTES(ud_mov_cs, "0x8e, 0xc8");
BYTES(ud_sreg6, "0x8e, 0xf0");
BYTES(ud_cr1, "0x0f, 0x20, 0xc8");
BYTES(ud_cr5, "0x0f, 0x22, 0xe8");
BYTES(ud_cmpxchg8b_reg, "0x0f, 0xc7, 0xc8");
BYTES(ud_ff7, "0xff, 0xf8");
BYTES(ud_fe2, "0xfe, 0xd0");
BYTES(ud_8f1, "0x8f, 0xc8");
BYTES(ud_c6_1, "0xc6, 0xc8, 0");
BYTES(ud_far_reg, "0xff, 0xd8");
BYTES(ud_lgdt_reg, "0x0f, 0x01, 0xd5");
BYTES(ud_0f04, "0x0f, 0x04");
BYTES(ud_0f0a, "0x0f, 0x0a");
BYTES(ud_0f24, "0x0f, 0x24, 0xc0");
BYTES(ud_0fff, "0x0f, 0xff, 0xc0");
BYTES(ud_66vex, "0x66, 0xc5, 0xf8, 0x77");
BYTES(ud_rexvex, "0x48, 0xc5, 0xf8, 0x77");
BYTES(ud_movnti_reg, "0x0f, 0xc3, 0xc0");
BYTES(ud_fpu_d9d1, "0xd9, 0xd1");
BYTES(ud_long, "0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90");
BYTES(ok_15, "0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90");
BYTES(ok_mov_reg_cr, "0x0f, 0x20, 0x00"); /* mod is ignored: mov %cr0, %rax */

static void undefined_opcodes(void)
{
	static const struct row rows[] = {
		{"ud2", ud_ud2, NULL, EX_UD}, {"ud1", ud_ud1, NULL, EX_UD}, {"push es", ud_06, NULL, EX_UD}, {"daa", ud_27, NULL, EX_UD},
		{"aaa", ud_37, NULL, EX_UD}, {"pusha", ud_60, NULL, EX_UD}, {"82", ud_82, NULL, EX_UD}, {"call far imm", ud_9a, NULL, EX_UD},
		{"jmp far imm", ud_ea, NULL, EX_UD}, {"into", ud_ce, NULL, EX_UD}, {"aam", ud_d4, NULL, EX_UD}, {"salc", ud_d6, NULL, EX_UD},
		{"lock mov", ud_lock_mov, NULL, EX_UD}, {"lock add reg", ud_lock_add_reg, NULL, EX_UD}, {"lock cmp", ud_lock_cmp, NULL, EX_UD},
		{"lock nop", ud_lock_nop, NULL, EX_UD}, {"lock jmp", ud_lock_jmp, NULL, EX_UD}, {"lock bt", ud_lock_bt, NULL, EX_UD},
		{"lock addps", ud_lock_sse, NULL, EX_UD}, {"lea reg", ud_lea_reg, NULL, EX_UD}, {"mov to cs", ud_mov_cs, NULL, EX_UD},
		{"mov to sreg 6", ud_sreg6, NULL, EX_UD}, {"mov from cr1", ud_cr1, NULL, EX_UD}, {"mov to cr5", ud_cr5, NULL, EX_UD},
		{"cmpxchg8b reg", ud_cmpxchg8b_reg, NULL, EX_UD}, {"ff /7", ud_ff7, NULL, EX_UD}, {"fe /2", ud_fe2, NULL, EX_UD},
		{"8f /1", ud_8f1, NULL, EX_UD}, {"c6 /1", ud_c6_1, NULL, EX_UD}, {"call far reg", ud_far_reg, NULL, EX_UD},
		{"0f 01 d5", ud_lgdt_reg, NULL, EX_UD}, {"0f 04", ud_0f04, NULL, EX_UD}, {"0f 0a", ud_0f0a, NULL, EX_UD},
		{"0f 24", ud_0f24, NULL, EX_UD}, {"ud0", ud_0fff, NULL, EX_UD}, {"66 vex", ud_66vex, NULL, EX_UD}, {"rex vex", ud_rexvex, NULL, EX_UD},
		{"movnti reg", ud_movnti_reg, NULL, EX_UD}, {"d9 d1", ud_fpu_d9d1, NULL, EX_UD}, {"16 bytes long", ud_long, NULL, EX_GP(0)},
		{"15 bytes long", ok_15, NULL, EX_DONE}, {"mov from cr0, mod 0", ok_mov_reg_cr, NULL, EX_DONE},
	};

	RUN_ROWS(rows, regs0);
	EXPECT(run3(ud_ud2, 0), EX_UD);
	EXPECT(run3(ud_lock_add_reg, 0), EX_UD);
	EXPECT(run3(ud_long, 0), EX_GP(0));
}

/* What ring 3 may not do. */
CODE(p_hlt, "hlt\n\t" DONE);
CODE(p_cli, "cli\n\t" DONE);
CODE(p_sti, "sti\n\t" DONE);
CODE(p_in, "inb $0x80, %al\n\t" DONE);
CODE(p_out, "mov $0x80, %dx\n\tp_out_at: outb %al, %dx\n\t" DONE);
CODE(p_insb, "mov $0x80, %dx\n\tp_insb_at: insb\n\t" DONE);
CODE(p_cr0, "mov %cr0, %rax\n\t" DONE);
CODE(p_cr3, "mov %rax, %cr3\n\t" DONE);
CODE(p_cr8, "mov %cr8, %rax\n\t" DONE);
CODE(p_dr, "mov %dr7, %rax\n\t" DONE);
CODE(p_lgdt, "lgdt (%rdi)\n\t" DONE);
CODE(p_lidt, "lidt (%rdi)\n\t" DONE);
CODE(p_lldt, "lldt %ax\n\t" DONE);
CODE(p_ltr, "ltr %ax\n\t" DONE);
CODE(p_lmsw, "lmsw %ax\n\t" DONE);
CODE(p_clts, "clts\n\t" DONE);
CODE(p_invlpg, "invlpg (%rsp)\n\t" DONE);
CODE(p_wbinvd, "wbinvd\n\t" DONE);
CODE(p_rdmsr, "mov $0x10, %ecx\n\tp_rdmsr_at: rdmsr\n\t" DONE);
CODE(p_wrmsr, "mov $0x10, %ecx\n\tp_wrmsr_at: wrmsr\n\t" DONE);
CODE(p_swapgs, "swapgs\n\t" DONE);
CODE(p_sysret, "sysretq\n\t" DONE);
CODE(p_int80, "int $0x80\n\t" DONE);
CODE(p_int14, "int $14\n\t" DONE);
CODE(p_rdtsc, "rdtsc\n\t" DONE);
CODE(p_cpuid, "cpuid\n\t" DONE);
CODE(p_smsw, "smsw %rax\n\t" DONE);
CODE(p_sgdt, "sgdt -16(%rsp)\n\t" DONE);
CODE(p_str, "str %eax\n\t" DONE);
LABEL(p_out_at);
LABEL(p_insb_at);
LABEL(p_rdmsr_at);
LABEL(p_wrmsr_at);

static void privileged_instructions(void)
{
	static const struct row rows[] = {
		{"hlt", p_hlt, NULL, EX_GP(0)}, {"cli", p_cli, NULL, EX_GP(0)}, {"sti", p_sti, NULL, EX_GP(0)}, {"in", p_in, NULL, EX_GP(0)},
		{"out", p_out, p_out_at, EX_GP(0)}, {"ins", p_insb, p_insb_at, EX_GP(0)}, {"mov from cr0", p_cr0, NULL, EX_GP(0)},
		{"mov to cr3", p_cr3, NULL, EX_GP(0)}, {"mov from cr8", p_cr8, NULL, EX_GP(0)}, {"mov from dr7", p_dr, NULL, EX_GP(0)},
		{"lgdt", p_lgdt, NULL, EX_GP(0)}, {"lidt", p_lidt, NULL, EX_GP(0)}, {"lldt", p_lldt, NULL, EX_GP(0)}, {"ltr", p_ltr, NULL, EX_GP(0)},
		{"lmsw", p_lmsw, NULL, EX_GP(0)}, {"clts", p_clts, NULL, EX_GP(0)}, {"invlpg", p_invlpg, NULL, EX_GP(0)},
		{"wbinvd", p_wbinvd, NULL, EX_GP(0)}, {"rdmsr", p_rdmsr, p_rdmsr_at, EX_GP(0)}, {"wrmsr", p_wrmsr, p_wrmsr_at, EX_GP(0)},
		{"swapgs", p_swapgs, NULL, EX_GP(0)}, {"sysret", p_sysret, NULL, EX_GP(0)}, {"int 80", p_int80, NULL, EX_GP(0x80 * 8 + 2)},
		{"int 14", p_int14, NULL, EX_GP(14 * 8 + 2)}, {"rdtsc", p_rdtsc, NULL, EX_DONE}, {"cpuid", p_cpuid, NULL, EX_DONE},
		{"smsw", p_smsw, NULL, EX_DONE}, {"sgdt", p_sgdt, NULL, EX_DONE}, {"str", p_str, NULL, EX_DONE},
	};

	RUN_ROWS(rows, regs3);
	cr4_set(cr4_get() | CR4_TSD);
	EXPECT(run3(p_rdtsc, 0), EX_GP(0));
	EXPECT(run0(p_rdtsc, 0), EX_DONE);
	cr4_set(cr4_get() & ~CR4_TSD);
	EXPECT(run3(p_rdtsc, 0), EX_DONE);
	if (cpu_has(7, 2, 2)) {
		cr4_set(cr4_get() | CR4_UMIP);
		EXPECT(run3(p_smsw, 0), EX_GP(0));
		EXPECT(run3(p_sgdt, 0), EX_GP(0));
		EXPECT(run3(p_str, 0), EX_GP(0));
		EXPECT(run0(p_str, 0), EX_DONE);
		cr4_set(cr4_get() & ~CR4_UMIP);
	}
	/* The same code once more: what was decided at CPL 0 or 3 must not stick to it. */
	for (int i = 0; i < 3; i++) {
		EXPECT(run0(p_cr0, 0), EX_DONE);
		EXPECT(run3(p_cr0, 0), EX_GP(0));
	}
}

static void io_permission(void)
{
	struct tss *tss = cpu_tss();
	struct regs r;

	EXPECT(run3(p_in, 0), EX_GP(0));
	tss->io_bitmap[0x80 / 8] = 0xfe;
	EXPECT(run3(p_in, 0), EX_DONE);
	EXPECT(run3(p_out, 0), EX_DONE);
	tss->io_bitmap[0x80 / 8] = 0xff;
	EXPECT(run3(p_in, 0), EX_GP(0));
	r = regs3(p_in);
	r.rflags |= FLAG_IOPL;
	EXPECT(run_regs(&r), EX_DONE);
	CHECK((r.rflags & FLAG_IOPL) == FLAG_IOPL);
	r = regs3(p_sti);
	r.rflags |= FLAG_IOPL;
	EXPECT(run_regs(&r), EX_DONE);
	CHECK(r.rflags & FLAG_IF);
	r = regs3(p_cli);
	r.rflags |= FLAG_IOPL | FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	CHECK(!(r.rflags & FLAG_IF));
	r = regs3(p_cli);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_GP(0));
	CHECK(r.rflags & FLAG_IF);
}

/* ---- canonical addresses --------------------------------------------------------------------- */

CODE(nc_load, "mov (%rax), %rcx\n\t" DONE);
CODE(nc_rbp, "mov %rax, %rbp\n\tnc_rbp_at: mov (%rbp), %rcx\n\t" DONE);
CODE(nc_rsp, "mov (%rsp, %rax), %rcx\n\t" DONE);
CODE(nc_index, "xor %ebp, %ebp\n\tnc_index_at: mov (%rax, %rbp), %rcx\n\t" DONE);
CODE(nc_gs, "mov %gs:(%rax), %rcx\n\t" DONE);
CODE(nc_ds_rbp, "mov %rax, %rbp\n\tnc_ds_rbp_at: mov %ds:(%rbp), %rcx\n\t" DONE);
CODE(nc_jmp, "jmp *%rax\n\t" DONE);
CODE(nc_call, "call *%rax\n\t" DONE);
CODE(nc_ret, "mov %rax, -8(%rsp)\n\tsub $8, %rsp\n\tnc_ret_at: ret\n\t" DONE);
CODE(nc_jmp_mem, "mov %rax, -8(%rsp)\n\tnc_jmp_mem_at: jmp *-8(%rsp)\n\t" DONE);
CODE(nc_clflush, "clflush (%rax)\n\t" DONE);
CODE(nc_prefetch, "prefetcht0 (%rax)\n\tnopl (%rax)\n\tlea (%rax), %rcx\n\t" DONE);
CODE(nc_invlpg, "invlpg (%rax)\n\t" DONE);
CODE(nc_lret, "sub $16, %rsp\n\tmov %rax, (%rsp)\n\tmovq $8, 8(%rsp)\n\tnc_lret_at: lretq\n\t" DONE);
CODE(nc_lgdt, "sub $16, %rsp\n\tmov %rax, 2(%rsp)\n\tnc_lgdt_at: lgdt (%rsp)\n\t" DONE);
CODE(nc_movs, "mov %rax, %rsi\n\tmov $1, %ecx\n\tnc_movs_at: rep movsb\n\t" DONE);
CODE(nc_stos, "mov %rax, %rdi\n\tmov $1, %ecx\n\tnc_stos_at: rep stosb\n\t" DONE);
CODE(nc_push, "push %rcx\n\t" DONE);
CODE(nc_pop, "pop %rcx\n\t" DONE);
CODE(nc_pushf, "pushf\n\t" DONE);
CODE(nc_enter, "enter $8, $0\n\t" DONE);
CODE(nc_ret_sp, "ret\n\t" DONE);
CODE(nc_call_sp, "call 1f\n\t1: " DONE);
CODE(nc_leave, "leave\n\t" DONE);
CODE(nc_iret, "iretq\n\t" DONE);
CODE(nc_push_mem, "push (%rax)\n\t" DONE);
LABEL(nc_rbp_at);
LABEL(nc_index_at);
LABEL(nc_ds_rbp_at);
LABEL(nc_ret_at);
LABEL(nc_jmp_mem_at);
LABEL(nc_lret_at);
LABEL(nc_lgdt_at);
LABEL(nc_movs_at);
LABEL(nc_stos_at);

static bool near_branch(const void *code) { return code == nc_jmp || code == nc_call || code == nc_ret || code == nc_jmp_mem; }

static void non_canonical(void)
{
	static const struct row rows[] = {
		{"load", nc_load, NULL, EX_GP(0)}, {"load by rbp", nc_rbp, nc_rbp_at, EX_SS(0)}, {"load by rsp", nc_rsp, NULL, EX_SS(0)},
		{"rbp as index", nc_index, nc_index_at, EX_GP(0)}, {"gs", nc_gs, NULL, EX_GP(0)}, {"jmp", nc_jmp, NULL, EX_GP(0)},
		{"call", nc_call, NULL, EX_GP(0)}, {"ret", nc_ret, nc_ret_at, EX_GP(0)}, {"jmp mem", nc_jmp_mem, nc_jmp_mem_at, EX_GP(0)},
		{"clflush", nc_clflush, NULL, EX_GP(0)}, {"prefetch, nop, lea", nc_prefetch, NULL, EX_DONE},
		{"movs", nc_movs, nc_movs_at, EX_GP(0)}, {"stos", nc_stos, nc_stos_at, EX_GP(0)},
		{"push mem", nc_push_mem, NULL, EX_GP(0)},
	};
	static const struct row kernel_rows[] = {
		{"invlpg", nc_invlpg, NULL, EX_DONE}, {"lgdt", nc_lgdt, nc_lgdt_at, EX_GP(0)}, {"lret", nc_lret, nc_lret_at, EX_GP(0)},
	};
	static const struct row stack_rows[] = {
		{"push", nc_push, NULL, EX_SS(0)}, {"pop", nc_pop, NULL, EX_SS(0)}, {"pushf", nc_pushf, NULL, EX_SS(0)},
		{"enter", nc_enter, NULL, EX_SS(0)}, {"ret", nc_ret_sp, NULL, EX_SS(0)}, {"call", nc_call_sp, NULL, EX_SS(0)},
		{"iret", nc_iret, NULL, EX_SS(0)},
	};
	struct regs r;
	unsigned i, ring;

	for (ring = 0; ring <= 3; ring += 3) {
		for (i = 0; i < ARRAY_SIZE(rows) + ARRAY_SIZE(kernel_rows); i++) {
			const struct row *row = i < ARRAY_SIZE(rows) ? &rows[i] : &kernel_rows[i - ARRAY_SIZE(rows)];
			uint64_t ex, rsp;

			if (ring && i >= ARRAY_SIZE(rows))
				break;
			r = ring ? regs3(row->code) : regs0(row->code);
			r.rax = HOLE;
			rsp = r.rsp;
			ex = run_regs(&r);
			if (ex != row->want)
				test_failure(__FILE__, __LINE__, "%s at %u: %s, not %s", row->name, ring, ex_name(ex), ex_name(row->want));
			/* A near branch that has been taken before it faults: a known limit of translators (docs/bt.md). */
			if (ex == EX_GP(0) && r.rip == HOLE && near_branch(row->code))
				continue;
			if (ex != EX_DONE && r.rip != (uint64_t)(row->at ? row->at : row->code))
				test_failure(__FILE__, __LINE__, "%s at %u: rip 0x%lx", row->name, ring, r.rip);
			if (r.rsp != rsp && row->code != nc_ret && row->code != nc_lret && row->code != nc_lgdt)
				test_failure(__FILE__, __LINE__, "%s at %u: rsp moved", row->name, ring);
			if (row->code == nc_ret && r.rsp != rsp - 8)
				test_failure(__FILE__, __LINE__, "ret at %u: rsp moved by %ld", ring, (int64_t)(r.rsp - rsp + 8));
		}
		for (i = 0; i < ARRAY_SIZE(stack_rows); i++) {
			uint64_t ex;

			r = ring ? regs3(stack_rows[i].code) : regs0(stack_rows[i].code);
			r.rsp = HOLE;
			ex = run_regs(&r);
			if (ex != stack_rows[i].want || r.rsp != HOLE || r.rip != (uint64_t)stack_rows[i].code)
				test_failure(__FILE__, __LINE__, "%s with a bad rsp at %u: %s, rip 0x%lx, rsp 0x%lx", stack_rows[i].name, ring,
					     ex_name(ex), r.rip, r.rsp);
		}
	}
	r = regs0(nc_leave);
	r.rbp = HOLE;
	EXPECT(run_regs(&r), EX_SS(0));
	SAME(r.rbp, HOLE);
	/* A DS prefix in 64-bit mode changes no base; which exception it leads to differs between vendors: only that it faults. */
	r = regs0(nc_ds_rbp);
	r.rax = HOLE;
	run_regs(&r);
	CHECK(r.vector == VEC_GP || r.vector == VEC_SS);
}

/* ---- single steps ------------------------------------------------------------------------------ */

CODE(tf_code, "nop\n\ttf_1: mov $5, %ecx\n\ttf_2: add %ecx, %eax\n\ttf_3: jmp tf_5\n\ttf_4: nop\n\ttf_5: " DONE);
LABEL(tf_1);
LABEL(tf_2);
LABEL(tf_3);
LABEL(tf_5);

static inline uint64_t dr6_get(void)
{
	uint64_t v;
	__asm__ volatile("mov %%dr6, %0" : "=r"(v));
	return v;
}
static inline void dr6_set(uint64_t v) { __asm__ volatile("mov %0, %%dr6" : : "r"(v)); }
#define DR6_BS 0x4000ul

static void single_step(void)
{
	const void *const stops[] = {tf_1, tf_2, tf_3, tf_5};

	for (unsigned ring = 0; ring <= 3; ring += 3) {
		struct regs r = ring ? regs3(tf_code) : regs0(tf_code);

		r.rflags |= FLAG_TF;
		for (unsigned i = 0; i < ARRAY_SIZE(stops); i++) {
			dr6_set(0xffff0ff0);
			EXPECT(run_regs(&r), EX_DB);
			SAME(r.rip, (uint64_t)stops[i]);
			CHECK(r.rflags & FLAG_TF);
			CHECK(dr6_get() & DR6_BS);
		}
		SAME(r.rcx, 5);
		SAME(r.rax, 5);
		/* int n is no step: its handler starts without TF. */
		EXPECT(run_regs(&r), EX_DONE);
		CHECK(r.rflags & FLAG_TF);
	}
}

CODE(tf_popf, "pushf\n\torq $0x100, (%rsp)\n\tpopf\n\ttf_popf_1: nop\n\ttf_popf_2: " DONE);
CODE(tf_pushf, "pushf\n\tpop %rax\n\t" DONE);
CODE(tf_rep, "rep movsb\n\t" DONE);
CODE(tf_movss, "mov %ss, %eax\n\tmov %eax, %ss\n\tnop\n\ttf_movss_2: " DONE);
CODE(tf_popf_off, "pushq $2\n\tpopf\n\ttf_popf_off_2: nop\n\tnop\n\t" DONE);
CODE(tf_fault, "ud2\n\t" DONE);
CODE(tf_call, "call 1f\n\t1: ret\n\t" DONE);
CODE(tf_loop, "loop tf_loop\n\t" DONE);
CODE(tf_io, "inb $0x80, %al\n\ttf_io_2: nop\n\t" DONE);
LABEL(tf_popf_2);
LABEL(tf_movss_2);
LABEL(tf_popf_off_2);
LABEL(tf_io_2);

static void single_step_specials(void)
{
	struct regs r = regs0(tf_popf);
	unsigned n;

	/* popf that sets TF: the instruction behind it is the first that traps. */
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_popf_2);
	/* pushf shows TF. */
	r = regs0(tf_pushf);
	r.rflags |= FLAG_TF;
	EXPECT(run_regs(&r), EX_DB);
	EXPECT(run_regs(&r), EX_DB);
	CHECK(r.rax & FLAG_TF);
	/* A repeated string instruction traps after each element. */
	r = regs0(tf_rep);
	r.rflags |= FLAG_TF;
	r.rsi = (uint64_t)page_alloc();
	r.rdi = (uint64_t)page_alloc();
	r.rcx = 3;
	for (n = 3; n-- > 0;) {
		EXPECT(run_regs(&r), EX_DB);
		SAME(r.rcx, n);
		SAME(r.rip, (uint64_t)tf_rep + (n ? 0 : 2));
	}
	/* mov to ss holds the trap up by an instruction. */
	r = regs0(tf_movss);
	r.rflags |= FLAG_TF;
	EXPECT(run_regs(&r), EX_DB);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_movss_2);
	/* popf that clears TF still traps itself. */
	r = regs0(tf_popf_off);
	r.rflags |= FLAG_TF;
	EXPECT(run_regs(&r), EX_DB);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_popf_off_2);
	EXPECT(run_regs(&r), EX_DONE);
	/* A fault is no end of an instruction. */
	r = regs0(tf_fault);
	r.rflags |= FLAG_TF;
	dr6_set(0xffff0ff0);
	EXPECT(run_regs(&r), EX_UD);
	SAME(r.rip, (uint64_t)tf_fault);
	CHECK(!(dr6_get() & DR6_BS));
	CHECK(r.rflags & FLAG_TF);
	/* call, ret, loop, in */
	r = regs0(tf_call);
	r.rflags |= FLAG_TF;
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_call + 5);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_call + 5);
	EXPECT(run_regs(&r), EX_DB);
	r = regs0(tf_loop);
	r.rflags |= FLAG_TF;
	r.rcx = 2;
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_loop);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_loop + 2);
	r = regs0(tf_io);
	r.rflags |= FLAG_TF;
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)tf_io_2);
}

/* ---- software interrupts ------------------------------------------------------------------------- */

CODE(i_int3, "int3\n\ti_int3_end: " DONE);
CODE(i_cd03, ".byte 0xcd, 3\n\ti_cd03_end: " DONE);
CODE(i_int4, "int $4\n\ti_int4_end: " DONE);
CODE(i_int1, ".byte 0xf1\n\ti_int1_end: " DONE);
CODE(i_int80, "int $0x80\n\ti_int80_end: " DONE);
CODE(i_int13, "int $13\n\ti_int13_end: " DONE);
LABEL(i_int3_end);
LABEL(i_cd03_end);
LABEL(i_int4_end);
LABEL(i_int1_end);
LABEL(i_int80_end);
LABEL(i_int13_end);

static void software_interrupts(void)
{
	static const struct row rows[] = {
		{"int3", i_int3, i_int3_end, EX_BP}, {"int 3", i_cd03, i_cd03_end, EX_BP}, {"int 4", i_int4, i_int4_end, EX_OF},
		{"int1", i_int1, i_int1_end, EX_DB},
	};
	static const struct row kernel_rows[] = {
		{"int 0x80", i_int80, i_int80_end, EX(0x80, 0)},
	};
	struct regs r;

	RUN_ROWS(rows, regs0);
	RUN_ROWS(rows, regs3); /* int1's gate has DPL 0: it is no int n */
	RUN_ROWS(kernel_rows, regs0);
	idt[VEC_BP].type = 0x8e;
	EXPECT(run3(i_int3, 0), EX_GP(3 * 8 + 2));
	EXPECT(run0(i_int3, 0), EX_BP);
	idt_reset(VEC_BP);
	idt[0x80].type = 0xee;
	EXPECT(run3(i_int80, 0), EX(0x80, 0));
	idt[0x80].type = 0x6e; /* not present */
	EXPECT(run3(i_int80, 0), EX_NP(0x80 * 8 + 2));
	idt[0x80].type = 0x6e | 0x80;
	EXPECT(run3(i_int80, 0), EX(0x80, 0));
	/* A trap gate leaves IF alone. */
	idt[0x80].type = 0xef;
	r = regs3(i_int80);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX(0x80, 0));
	CHECK(r.rflags & FLAG_IF);
	/* Gates that lead nowhere. */
	idt[0x80].type = 0xee;
	idt[0x80].selector = 0;
	EXPECT(run0(i_int80, 0), EX_GP(0));
	idt[0x80].selector = SEL_DATA;
	EXPECT(run0(i_int80, 0), EX_GP(SEL_DATA));
	idt[0x80].selector = 0xfff8;
	EXPECT(run0(i_int80, 0), EX_GP(0xfff8));
	idt[0x80].selector = SEL_CODE32; /* long mode wants L */
	EXPECT(run0(i_int80, 0), EX_GP(SEL_CODE32));
	idt[0x80].selector = SEL_USER64 & ~3; /* less privileged than ring 0 */
	EXPECT(run0(i_int80, 0), EX_GP(SEL_USER64 & ~3));
	idt_reset(0x80);
	idt[0x80].type = 0xe6; /* a 16-bit interrupt gate */
	EXPECT(run0(i_int80, 0), EX_GP(0x80 * 8 + 2));
	idt_reset(0x80);
	idt[0x80].offset_high = 0x00800000; /* not canonical */
	EXPECT(run0(i_int80, 0), EX_GP(0));
	idt_reset(0x80);
	/* int 13 pushes no error code: the stub takes flags for cs, so only how it comes back can be seen. */
	(void)i_int13;
	(void)i_int13_end;
}

/* ---- 32-bit code's own -------------------------------------------------------------------------------- */

#define CODE_32(name, text) CODE(name, ".code32\n\t" text "\n\t.code64\n\t")
CODE_32(c_into, "mov $0x7fffffff, %eax\n\tadd $1, %eax\n\tinto\n\tc_into_end: nop\n\t" DONE);
CODE_32(c_into_not, "xor %eax, %eax\n\tinto\n\t" DONE);
CODE_32(c_bound, "mov $5, %eax\n\tc_bound_at: bound %eax, (%esp)\n\t" DONE);
CODE_32(c_aam, ".byte 0xd4, 0\n\t" DONE);
CODE_32(c_inc, "mov $0xffffffff, %eax\n\tinc %eax\n\tpush %eax\n\tpop %ecx\n\tmov $0x12345678, %ecx\n\t" DONE);
CODE_32(c_far, "lcall $0x1b, $1f\n\t" DONE "1: lret\n\t");
CODE_32(c_wrap, "mov $0x23, %eax\n\tmov %eax, %ds\n\tmov $0xfffffff0, %ebx\n\tmov 0x10(%ebx, %edi), %eax\n\t" DONE);
CODE_32(c_lds, "lds (%esp), %eax\n\t" DONE);
LABEL(c_into_end);
LABEL(c_bound_at);

static struct regs regs3_32(const void *code)
{
	struct regs r = regs3(code);

	r.cs = SEL_USER32;
	return r;
}

static void compatibility_mode(void)
{
	struct regs r = regs3_32(c_into);

	EXPECT(run_regs(&r), EX_OF);
	SAME(r.rip, (uint64_t)c_into_end);
	SAME(r.rax, 0x80000000);
	SAME(r.cs, SEL_USER32);
	r = regs3_32(c_into_not);
	EXPECT(run_regs(&r), EX_DONE);
	r = regs3_32(c_bound);
	((uint32_t *)r.rsp)[0] = 0;
	((uint32_t *)r.rsp)[1] = 4;
	EXPECT(run_regs(&r), EX(VEC_BR, 0));
	SAME(r.rip, (uint64_t)c_bound_at);
	r = regs3_32(c_bound);
	((uint32_t *)r.rsp)[1] = 5;
	EXPECT(run_regs(&r), EX_DONE);
	r = regs3_32(c_aam);
	EXPECT(run_regs(&r), EX_DE);
	r = regs3_32(c_inc);
	r.rax = r.rcx = ~0ul;
	r.rbx = 0x1122334455667788;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0);
	SAME(r.rcx, 0x12345678);
	r = regs3_32(c_far);
	EXPECT(run_regs(&r), EX_DONE);
	r = regs3_32(c_wrap);
	*(uint32_t *)(r.rsp) = 0xabcdef01;
	r.rdi = r.rsp;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xabcdef01);
	r = regs3_32(c_lds);
	((uint32_t *)r.rsp)[0] = 77;
	((uint32_t *)r.rsp)[1] = SEL_USER_DATA;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 77);
	/* 64-bit code behind it is not taken for 32-bit code and the reverse: 48 is dec or REX. */
	extern char c_rex[];
	__asm__(".pushsection .user\n\tc_rex: .byte 0x48, 0x89, 0xd8\n\t" DONE ".popsection");
	for (int i = 0; i < 3; i++) {
		r = regs3_32(c_rex);
		r.rax = 9;
		r.rbx = 0x123456789a;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 0x3456789a);
		r = regs3(c_rex);
		r.rbx = 0x123456789a;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, 0x123456789a);
	}
}

/* ---- x87 and SSE ------------------------------------------------------------------------------------------ */

CODE(f_fld, "fld1\n\tfstp %st(0)\n\t" DONE);
CODE(f_wait, "fwait\n\t" DONE);
CODE(f_mmx, "pxor %mm0, %mm0\n\temms\n\t" DONE);
CODE(f_sse, "xorps %xmm0, %xmm0\n\t" DONE);
CODE(f_sse2, "paddd %xmm1, %xmm0\n\t" DONE);
CODE(f_ldmxcsr, "ldmxcsr (%rdi)\n\t" DONE);
CODE(f_fxsave, "fxsave (%rdi)\n\t" DONE);
CODE(f_prefetch, "prefetcht0 (%rsp)\n\tsfence\n\tpause\n\t" DONE);
CODE(f_movnti, "movnti %eax, -8(%rsp)\n\t" DONE);
CODE(f_clts, "clts\n\tfld1\n\tfstp %st(0)\n\txorps %xmm0, %xmm0\n\t" DONE);

static void device_not_available(void)
{
	uint64_t cr0 = cr0_get();
	uint8_t *page = page_alloc();

	__asm__ volatile("fninit");
	EXPECT(run0(f_fld, 0), EX_DONE);
	cr0_set(cr0 | CR0_TS);
	EXPECT(run0(f_fld, 0), EX_NM);
	EXPECT(run3(f_fld, 0), EX_NM);
	EXPECT(run0(f_mmx, 0), EX_NM);
	EXPECT(run0(f_sse, 0), EX_NM);
	EXPECT(run3(f_sse2, 0), EX_NM);
	EXPECT(run0(f_ldmxcsr, (uint64_t)page), EX_NM);
	EXPECT(run0(f_fxsave, (uint64_t)page), EX_NM);
	EXPECT(run0(f_wait, 0), EX_NM); /* MP is set */
	EXPECT(run0(f_prefetch, 0), EX_DONE);
	EXPECT(run0(f_movnti, 0), EX_DONE);
	cr0_set((cr0 | CR0_TS) & ~CR0_MP);
	EXPECT(run0(f_wait, 0), EX_DONE);
	EXPECT(run0(f_fld, 0), EX_NM);
	cr0_set((cr0 | CR0_EM) & ~CR0_MP);
	EXPECT(run0(f_fld, 0), EX_NM);
	EXPECT(run0(f_mmx, 0), EX_UD);
	EXPECT(run0(f_sse, 0), EX_UD);
	EXPECT(run0(f_ldmxcsr, (uint64_t)page), EX_UD);
	EXPECT(run0(f_wait, 0), EX_DONE);
	EXPECT(run0(f_movnti, 0), EX_DONE);
	cr0_set(cr0 | CR0_TS);
	EXPECT(run0(f_clts, 0), EX_DONE);
	SAME(cr0_get(), cr0);
	EXPECT(run0(f_sse, 0), EX_DONE);
	cr4_set(cr4_get() & ~0x200ul); /* OSFXSR */
	EXPECT(run0(f_sse, 0), EX_UD);
	EXPECT(run0(f_sse2, 0), EX_UD);
	EXPECT(run0(f_fld, 0), EX_DONE);
	EXPECT(run0(f_mmx, 0), EX_DONE);
	cr4_set(cr4_get() | 0x200);
	EXPECT(run0(f_sse, 0), EX_DONE);
}

CODE(f_zero_divide, "fninit\n\tmovw $0x33b, -8(%rsp)\n\tfldcw -8(%rsp)\n\tfld1\n\tfldz\n\tfdivrp\n\tnop\n\tf_zero_divide_at: fwait\n\t" DONE);
CODE(f_zero_divide2, "fninit\n\tmovw $0x33b, -8(%rsp)\n\tfldcw -8(%rsp)\n\tfld1\n\tfldz\n\tfdivrp\n\tfnstsw %ax\n\tf_zero_divide2_at: fld1\n\t" DONE);
CODE(f_store_fault, "fninit\n\tmovw $0x33e, -8(%rsp)\n\tfldcw -8(%rsp)\n\tfldz\n\tfldz\n\tfdivrp\n\tf_store_at: fstpl -16(%rsp)\n\t" DONE);
CODE(f_clear, "fnclex\n\tfninit\n\t" DONE);
CODE(f_divps, "movl $0x1d80, -8(%rsp)\n\tldmxcsr -8(%rsp)\n\txorps %xmm1, %xmm1\n\tpcmpeqd %xmm0, %xmm0\n\tpsrld $25, %xmm0\n\tpslld $23, %xmm0\n\tf_divps_at: divps %xmm1, %xmm0\n\t" DONE);
CODE(f_mxcsr_reset, "movl $0x1f80, -8(%rsp)\n\tldmxcsr -8(%rsp)\n\t" DONE);
CODE(f_stmxcsr, "stmxcsr -8(%rsp)\n\tmov -8(%rsp), %eax\n\t" DONE);
LABEL(f_zero_divide_at);
LABEL(f_zero_divide2_at);
LABEL(f_store_at);
LABEL(f_divps_at);

static void x87_errors(void)
{
	static const struct row rows[] = {
		{"fwait", f_zero_divide, f_zero_divide_at, EX_MF}, {"next x87 instruction", f_zero_divide2, f_zero_divide2_at, EX_MF},
		{"store", f_store_fault, f_store_at, EX_MF},
	};

	CHECK(cr0_get() & 0x20); /* NE */
	RUN_ROWS(rows, regs0);
	RUN_ROWS(rows, regs3);
	EXPECT(run0(f_clear, 0), EX_DONE);
	EXPECT(run0(f_fld, 0), EX_DONE);
}

static void simd_errors(void)
{
	static const struct row rows[] = {{"divps by 0", f_divps, f_divps_at, EX_XM}};
	static const struct row no_xm[] = {{"divps by 0", f_divps, f_divps_at, EX_UD}};
	uint32_t *bad = page_alloc();
	struct regs r;

	RUN_ROWS(rows, regs0);
	RUN_ROWS(rows, regs3);
	r = regs0(f_stmxcsr);
	EXPECT(run_regs(&r), EX_DONE);
	SAME((uint32_t)r.rax & 0x3f, 4); /* ZE alone */
	cr4_set(cr4_get() & ~0x400ul); /* OSXMMEXCPT */
	RUN_ROWS(no_xm, regs0);
	cr4_set(cr4_get() | 0x400);
	EXPECT(run0(f_mxcsr_reset, 0), EX_DONE);
	*bad = 0x10000;
	EXPECT(run0(f_ldmxcsr, (uint64_t)bad), EX_GP(0));
	EXPECT(run3(f_ldmxcsr, (uint64_t)bad), EX_PF(PF_P | PF_U));
	r = regs0(f_stmxcsr);
	EXPECT(run_regs(&r), EX_DONE);
	SAME((uint32_t)r.rax, 0x1f80);
}

CODE(a_movaps, "movaps (%rdi), %xmm0\n\t" DONE);
CODE(a_movaps_store, "movaps %xmm0, (%rdi)\n\t" DONE);
CODE(a_addps, "addps (%rdi), %xmm0\n\t" DONE);
CODE(a_movntps, "movntps %xmm0, (%rdi)\n\t" DONE);
CODE(a_movups, "movups (%rdi), %xmm0\n\t" DONE);
CODE(a_cmpxchg16b, "lock cmpxchg16b (%rdi)\n\t" DONE);
CODE(a_fxsave, "fxsave (%rdi)\n\t" DONE);
CODE(a_fxrstor, "fxrstor (%rdi)\n\t" DONE);
CODE(a_load8, "mov (%rdi), %rax\n\tlock incl 3(%rdi)\n\t" DONE);

static void alignment(void)
{
	static const struct row rows[] = {
		{"movaps", a_movaps, NULL, EX_GP(0)}, {"movaps store", a_movaps_store, NULL, EX_GP(0)}, {"addps", a_addps, NULL, EX_GP(0)},
		{"movntps", a_movntps, NULL, EX_GP(0)}, {"movups", a_movups, NULL, EX_DONE}, {"cmpxchg16b", a_cmpxchg16b, NULL, EX_GP(0)},
		{"fxsave", a_fxsave, NULL, EX_GP(0)}, {"fxrstor", a_fxrstor, NULL, EX_GP(0)}, {"plain", a_load8, NULL, EX_DONE},
	};
	uint8_t *page = page_alloc();
	struct regs r;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t ex = run0(rows[i].code, (uint64_t)page + 8 + 1);

		if (ex != rows[i].want)
			test_failure(__FILE__, __LINE__, "%s: %s, not %s", rows[i].name, ex_name(ex), ex_name(rows[i].want));
		ex = run0(rows[i].code, (uint64_t)page + 64);
		if (rows[i].code != a_fxrstor && ex != EX_DONE)
			test_failure(__FILE__, __LINE__, "%s, aligned: %s", rows[i].name, ex_name(ex));
	}
	/* Misaligned on a missing page: which comes first is not architectural, but it faults. */
	EXPECT(run0(a_movaps, TEST_VA + 1), EX_GP(0));
	EXPECT(run0(a_movaps, TEST_VA), EX_PF(0));
	/* No #AC at ring 0, without AM, or without AC. */
	r = regs0(a_load8);
	r.rdi = (uint64_t)page + 1;
	r.rflags |= FLAG_AC;
	cr0_set(cr0_get() | CR0_AM);
	EXPECT(run_regs(&r), EX_DONE);
	CHECK(r.rflags & FLAG_AC);
	map(TEST_VA, page, PTE_P | PTE_W | PTE_U);
	EXPECT(run3(a_load8, TEST_VA + 1), EX_DONE);
	cr0_set(cr0_get() & ~CR0_AM);
	r = regs3(a_load8);
	r.rdi = TEST_VA + 1;
	r.rflags |= FLAG_AC;
	EXPECT(run_regs(&r), EX_DONE);
}

/* ---- flags --------------------------------------------------------------------------------------------------- */

CODE(g_all, "push %rax\n\tpopf\n\tpushf\n\tpop %rax\n\t" DONE);
CODE(g_all16, "pushw %ax\n\tpopfw\n\tpushf\n\tpop %rax\n\t" DONE);
CODE(g_fault, "push %rax\n\tpopf\n\tg_fault_at: mov (%rdi), %ecx\n\t" DONE);
LABEL(g_fault_at);

static void flags(void)
{
	struct regs r = regs0(g_all);

	r.rax = 0x3f7ed7 & ~(FLAG_TF | FLAG_IF | FLAG_NT | 0x180000);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, (0x3f7ed7 & ~(FLAG_TF | FLAG_IF | FLAG_NT | 0x180000 | FLAG_RF | 0x20000)));
	r = regs3(g_all);
	r.rax = 0x247ed7 & ~FLAG_TF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, (0x247ed7 & ~(FLAG_TF | FLAG_IF | FLAG_IOPL)));
	r = regs3(g_all);
	r.rax = 0;
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, FLAG_IF | FLAGS_FIXED); /* silently kept */
	r = regs0(g_all16);
	r.rflags |= FLAG_AC | FLAG_ID;
	r.rax = 0;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, FLAG_AC | FLAG_ID | FLAGS_FIXED);
	/* All arithmetic flags, each alone, arrive at a fault. */
	static const uint64_t one[] = {FLAG_CF, FLAG_PF, FLAG_AF, FLAG_ZF, FLAG_SF, FLAG_OF, FLAG_DF, FLAG_AC, FLAG_ID};
	for (unsigned i = 0; i < ARRAY_SIZE(one); i++) {
		r = regs0(g_fault);
		r.rax = one[i];
		r.rdi = TEST_VA;
		EXPECT(run_regs(&r), EX_PF(0));
		SAME(r.rip, (uint64_t)g_fault_at);
		SAME(r.rflags & ~FLAG_RF, one[i] | FLAGS_FIXED);
		CHECK(r.rflags & FLAG_RF); /* a fault, not a trap */
	}
}

/* ---- debug registers ---------------------------------------------------------------------------------------------- */

CODE(d_set7, "mov %rdi, %dr7\n\t" DONE);
CODE(d_set6, "mov %rdi, %dr6\n\t" DONE);
CODE(d_get4, "mov %dr4, %rax\n\t" DONE);
CODE(d_get7, "mov %dr7, %rax\n\t" DONE);
CODE(d_get0, "mov %dr0, %rax\n\t" DONE);
CODE(d_set0, "mov %rdi, %dr0\n\t" DONE);

static void debug_registers(void)
{
	struct regs r;

	EXPECT(run0(d_set7, 0x400), EX_DONE);
	EXPECT(run0(d_set7, 1ul << 32), EX_GP(0));
	EXPECT(run0(d_set6, 1ul << 32), EX_GP(0));
	EXPECT(run0(d_set0, 0x123456789abc), EX_DONE);
	r = regs0(d_get0);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x123456789abc);
	EXPECT(run0(d_set6, 0), EX_DONE);
	SAME(dr6_get() & 0xffff0ff0, 0xffff0ff0);
	EXPECT(run0(d_get4, 0), EX_DONE); /* dr6 by another name */
	cr4_set(cr4_get() | CR4_DE);
	EXPECT(run0(d_get4, 0), EX_UD);
	cr4_set(cr4_get() & ~CR4_DE);
	EXPECT(run0(d_set7, 0), EX_DONE);
	r = regs0(d_get7);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x400);
	/* General detect: any access is a #DB, with GD cleared for its handler. */
	EXPECT(run0(d_set7, 0x2400), EX_DONE);
	r = regs0(d_get0);
	EXPECT(run_regs(&r), EX_DB);
	SAME(r.rip, (uint64_t)d_get0);
	CHECK(dr6_get() & 0x2000);
	EXPECT(run0(d_get0, 0), EX_DONE);
	EXPECT(run0(d_set7, 0x400), EX_DONE);
	dr6_set(0xffff0ff0);
}

TESTS({"divide errors", divide_errors}, {"undefined opcodes", undefined_opcodes}, {"privileged instructions", privileged_instructions},
      {"I/O permission", io_permission}, {"non-canonical addresses", non_canonical}, {"single steps", single_step},
      {"single steps over special instructions", single_step_specials}, {"software interrupts", software_interrupts},
      {"compatibility mode", compatibility_mode}, {"#NM", device_not_available}, {"#MF", x87_errors}, {"#XM", simd_errors},
      {"alignment", alignment}, {"flags", flags}, {"debug registers", debug_registers});
