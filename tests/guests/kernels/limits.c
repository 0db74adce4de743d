/* Segment limits and types outside 64-bit code: data, stack and code segments of protected mode, real mode's 64 KiB. */
#include "legacy.h"

#define SEL_A 0x68 /* the segment under test */
#define SEL_C 0x70 /* a code segment */

#define DATA 0x92u
#define DATA_RO 0x90u
#define DATA_DOWN 0x96u
#define TYPE_CODE 0x9au
#define CODE_ONLY 0x98u
#define BIG 4u  /* D/B */
#define PAGES 8u /* G */

static void descriptor(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	cpu_gdt()[selector / 8] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
				  (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static uint32_t window; /* a few pages that segments start at */

/* Code for one access through DS, at esi. */
#define ACCESS(name, insn) CODE_32(name, "mov $0x68, %ecx\n\tmov %ecx, %ds\n\t.globl " #name "_at\n\t" #name "_at: " insn "\n\t" DONE)
ACCESS(a_load1, "movb (%esi), %al");
ACCESS(a_load2, "movw (%esi), %ax");
ACCESS(a_load4, "movl (%esi), %eax");
ACCESS(a_load8, "fldl (%esi)");
ACCESS(a_store1, "movb %al, (%esi)");
ACCESS(a_store4, "movl %eax, (%esi)");
ACCESS(a_rmw4, "addl %eax, (%esi)");
ACCESS(a_bt, "mov $8, %ebx\n\tbtl %ebx, (%esi)");
ACCESS(a_bt_far, "mov $0x8000, %ebx\n\tbtl %ebx, (%esi)"); /* 4 KiB on */
ACCESS(a_string, "cld\n\tlodsl");
ACCESS(a_short, "movw (%si), %ax");
ACCESS(a_jump, "jmp *(%esi)");
ACCESS(a_push, "pushl (%esi)");
CODE_32(a_fs, "mov $0x68, %ecx\n\tmov %ecx, %fs\n\tmovl %fs:(%esi), %eax\n\t" DONE);
CODE_32(a_null, "xor %ecx, %ecx\n\tmov %ecx, %ds\n\tmovb (%esi), %al\n\t" DONE);
CODE_32(a_null_gs, "mov $3, %ecx\n\tmov %ecx, %gs\n\tmovb %al, %gs:(%esi)\n\t" DONE);
CODE_32(a_null_unused, "xor %ecx, %ecx\n\tmov %ecx, %ds\n\tmov %ecx, %es\n\tmovb %ss:(%esi), %al\n\t" DONE);
LABEL(a_load1_at);
LABEL(a_load4_at);
LABEL(a_store4_at);

static uint64_t access_at(const void *code, uint32_t offset)
{
	struct legacy l = in_32(code);
	uint64_t ex;

	l.esi = offset;
	ex = run_32(&l);
	last_value = l.eax;
	last_cr2 = l.eip;
	return ex;
}

static void set_up(void)
{
	window = (uint32_t)(uint64_t)pages_alloc(20);
}

static void data_limits(void)
{
	set_up();
	descriptor(SEL_A, window, 0xfff, DATA, BIG);
	*(uint32_t *)(uint64_t)(window + 0xffc) = 0xaabbccdd;
	EXPECT(access_at(a_load4, 0xffc), EX_DONE);
	SAME(last_value, 0xaabbccdd);
	EXPECT(access_at(a_load4, 0xffd), EX_GP(0));
	SAME(last_cr2, (uint64_t)a_load4_at);
	EXPECT(access_at(a_load4, 0x1000), EX_GP(0));
	EXPECT(access_at(a_load4, 0xfffffffe), EX_GP(0));
	EXPECT(access_at(a_load2, 0xffe), EX_DONE);
	EXPECT(access_at(a_load2, 0xfff), EX_GP(0));
	EXPECT(access_at(a_load1, 0xfff), EX_DONE);
	EXPECT(access_at(a_load1, 0x1000), EX_GP(0));
	SAME(last_cr2, (uint64_t)a_load1_at);
	EXPECT(access_at(a_load8, 0xff8), EX_DONE);
	EXPECT(access_at(a_load8, 0xff9), EX_GP(0));
	EXPECT(access_at(a_store1, 0xfff), EX_DONE);
	EXPECT(access_at(a_store1, 0x1000), EX_GP(0));
	EXPECT(access_at(a_store4, 0xffd), EX_GP(0));
	SAME(last_cr2, (uint64_t)a_store4_at);
	EXPECT(access_at(a_rmw4, 0xffc), EX_DONE);
	EXPECT(access_at(a_rmw4, 0xffd), EX_GP(0));
	EXPECT(access_at(a_bt, 0xffc), EX_DONE);
	EXPECT(access_at(a_bt_far, 0), EX_GP(0));
	EXPECT(access_at(a_string, 0xffc), EX_DONE);
	EXPECT(access_at(a_string, 0xffe), EX_GP(0));
	EXPECT(access_at(a_short, 0xffe), EX_DONE);
	EXPECT(access_at(a_short, 0xfff), EX_GP(0));
	EXPECT(access_at(a_jump, 0xffd), EX_GP(0));
	EXPECT(access_at(a_push, 0xffd), EX_GP(0));
	EXPECT(access_at(a_fs, 0xffc), EX_DONE);
	EXPECT(access_at(a_fs, 0xffd), EX_GP(0));
	/* In pages; and the least a limit can be. */
	descriptor(SEL_A, window, 1, DATA, BIG | PAGES);
	EXPECT(access_at(a_load4, 0x1ffc), EX_DONE);
	EXPECT(access_at(a_load4, 0x1ffd), EX_GP(0));
	descriptor(SEL_A, window, 0, DATA, BIG);
	EXPECT(access_at(a_load1, 0), EX_DONE);
	EXPECT(access_at(a_load2, 0), EX_GP(0));
	/* 64 KiB, by 16-bit addresses and others. */
	descriptor(SEL_A, window, 0xffff, DATA, 0);
	EXPECT(access_at(a_short, 0xfffe), EX_DONE);
	EXPECT(access_at(a_short, 0xffff), EX_GP(0));
	EXPECT(access_at(a_load1, 0xffff), EX_DONE);
	EXPECT(access_at(a_load1, 0x10000), EX_GP(0));
	cpu_gdt()[SEL_A / 8] = 0;
}

static void expand_down(void)
{
	set_up();
	descriptor(SEL_A, window, 0xfff, DATA_DOWN, 0);
	EXPECT(access_at(a_load4, 0xfff), EX_GP(0));
	EXPECT(access_at(a_load4, 0x1000), EX_DONE);
	EXPECT(access_at(a_load4, 0xfffc), EX_DONE);
	EXPECT(access_at(a_load4, 0xfffd), EX_GP(0));
	EXPECT(access_at(a_store1, 0xffff), EX_DONE);
	EXPECT(access_at(a_store1, 0x10000), EX_GP(0));
	EXPECT(access_at(a_short, 0xfff), EX_GP(0));
	EXPECT(access_at(a_string, 0x1000), EX_DONE);
	EXPECT(access_at(a_string, 0xfff), EX_GP(0));
	descriptor(SEL_A, window, 0xfff, DATA_DOWN, BIG);
	EXPECT(access_at(a_load4, 0x10000), EX_DONE);
	EXPECT(access_at(a_load4, 0xffd), EX_GP(0));
	descriptor(SEL_A, window, 0xffff, DATA_DOWN, BIG | PAGES);
	EXPECT(access_at(a_load4, 0xfffff), EX_GP(0));
	EXPECT(access_at(a_load4, 0xfffffff), EX_GP(0));
	cpu_gdt()[SEL_A / 8] = 0;
}

static void types(void)
{
	set_up();
	descriptor(SEL_A, window, 0xfffff, DATA_RO, BIG | PAGES);
	EXPECT(access_at(a_load4, 0), EX_DONE);
	EXPECT(access_at(a_store1, 0), EX_GP(0));
	EXPECT(access_at(a_rmw4, 0), EX_GP(0));
	EXPECT(access_at(a_bt, 0), EX_DONE);
	descriptor(SEL_A, window, 0xfffff, TYPE_CODE, BIG | PAGES);
	EXPECT(access_at(a_load4, 0), EX_DONE);
	EXPECT(access_at(a_store4, 0), EX_GP(0));
	EXPECT(access_at(a_null, 0), EX_GP(0));
	EXPECT(access_at(a_null_gs, 0), EX_GP(0));
	EXPECT(access_at(a_null_unused, window), EX_DONE);
	cpu_gdt()[SEL_A / 8] = 0;
}

/* ---- stacks ----------------------------------------------------------------------------------- */

/* SS ends right behind the 4 bytes at esp; what is pushed for the trap lies below. */
CODE_32(s_pop, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\tpop %ecx\n\ts_pop_at: pop %edx\n\t" DONE);
CODE_32(s_popw, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\tpopw %cx\n\tpopw %cx\n\ts_popw_at: popw %cx\n\t" DONE);
CODE_32(s_ebp, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\tlea 1(%esp), %ebp\n\ts_ebp_at: mov (%ebp), %eax\n\t" DONE);
CODE_32(s_leave, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\tlea 2(%esp), %ebp\n\ts_leave_at: leave\n\t" DONE);
CODE_32(s_ret, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\tpop %ecx\n\ts_ret_at: ret\n\t" DONE);
CODE_32(s_popa, "mov $0x68, %eax\n\tmov %eax, %ss\n\tmov $0xfffc, %esp\n\ts_popa_at: popa\n\t" DONE);
LABEL(s_pop_at);
LABEL(s_popw_at);
LABEL(s_ebp_at);
LABEL(s_leave_at);
LABEL(s_ret_at);
LABEL(s_popa_at);

static void stack_limits(void)
{
	static const struct {
		const char *code, *at;
	} rows[] = {{s_pop, s_pop_at}, {s_popw, s_popw_at}, {s_ebp, s_ebp_at}, {s_leave, s_leave_at}, {s_ret, s_ret_at}, {s_popa, s_popa_at}};

	set_up();
	descriptor(SEL_A, window, 0xffff, DATA, BIG);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		EXPECT(access_at(rows[i].code, 0), EX_SS(0));
		SAME(last_cr2, (uint64_t)rows[i].at);
	}
	cpu_gdt()[SEL_A / 8] = 0;
}

/* ---- code ------------------------------------------------------------------------------------------ */

/* Copied to where SEL_C starts, which ends 16 bytes on; esi tells the copy where to go on: its own offset. */
#define SHORT_CODE(name, text)                                                                                         \
	extern char name##_end[];                                                                                      \
	CODE(name, ".code32\n\t" text "\n\t.globl " #name "_end\n\t" #name "_end: .code64\n\t")
CODE_32(k_enter, "ljmp $0x70, $0\n\t");
SHORT_CODE(k_fits, "nop\n\t" DONE);
SHORT_CODE(k_off_the_end, ".fill 16, 1, 0x90");
SHORT_CODE(k_straddles, ".fill 14, 1, 0x90\n\tmov $1, %eax");
SHORT_CODE(k_jmp, "nop\n\tjmp .+0x40");
SHORT_CODE(k_jcc, "xor %eax, %eax\n\tjz .+0x40");
SHORT_CODE(k_jcc_not, "xor %eax, %eax\n\tjnz .+0x40\n\t" DONE);
SHORT_CODE(k_call, "nop\n\tcall .+0x40");
SHORT_CODE(k_loop, "mov $5, %ecx\n\tloop .+0x40");
SHORT_CODE(k_indirect, "mov $0x40, %eax\n\tjmp *%eax");
SHORT_CODE(k_indirect_call, "mov $0x10, %eax\n\tcall *%eax");
SHORT_CODE(k_ret, "push $0x10\n\tret");
SHORT_CODE(k_read_cs, "mov %cs:12, %eax\n\t" DONE);
SHORT_CODE(k_read_past, "mov %cs:13, %eax\n\t" DONE);
SHORT_CODE(k_write_cs, "mov %eax, %cs:8\n\t" DONE);

static struct legacy in_short_code(const char *code, const char *end, unsigned type)
{
	struct legacy l;

	memcpy((void *)(uint64_t)window, code, (size_t)(end - code));
	descriptor(SEL_C, window, 15, type, BIG);
	l = in_32(k_enter);
	l.ecx = 0x77;
	return l;
}

#define SHORT(name, type) in_short_code(name, name##_end, type)

static void code_limits(void)
{
	struct legacy l;
	uint32_t esp;

	set_up();
	l = SHORT(k_fits, TYPE_CODE);
	EXPECT(run_32(&l), EX_DONE);
	esp = l.esp;
	SAME(l.cs & 0xffff, SEL_C);
	l = SHORT(k_off_the_end, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 16);
	l = SHORT(k_straddles, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 14);
	l = SHORT(k_jmp, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 1);
	l = SHORT(k_jcc, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 2);
	SAME(l.eflags & FLAG_ZF, FLAG_ZF);
	l = SHORT(k_jcc_not, TYPE_CODE);
	EXPECT(run_32(&l), EX_DONE);
	l = SHORT(k_call, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 1);
	SAME(l.esp, esp);
	l = SHORT(k_loop, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 5);
	SAME(l.ecx, 5);
	l = SHORT(k_indirect, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 5);
	l = SHORT(k_indirect_call, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 5);
	SAME(l.esp, esp);
	l = SHORT(k_ret, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 2);
	SAME(l.esp, esp - 4);
	l = SHORT(k_read_cs, TYPE_CODE);
	EXPECT(run_32(&l), EX_DONE);
	l = SHORT(k_read_past, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	l = SHORT(k_write_cs, TYPE_CODE);
	EXPECT(run_32(&l), EX_GP(0));
	l = SHORT(k_read_cs, CODE_ONLY);
	EXPECT(run_32(&l), EX_GP(0));
	SAME(l.eip, 0);
	/* The same code with another limit is another translation. */
	l = SHORT(k_off_the_end, TYPE_CODE);
	*(uint16_t *)(uint64_t)(window + 16) = 0xf0cd;
	descriptor(SEL_C, window, 17, TYPE_CODE, BIG);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eip, 18);
	descriptor(SEL_C, window, 0xfffff, TYPE_CODE, BIG | PAGES);
	l = in_32(k_enter);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eip, 18);
	cpu_gdt()[SEL_C / 8] = 0;
}

/* ---- real mode ---------------------------------------------------------------------------------------- */

CODE_16(m_word_last, "mov $0xfffe, %bx\n\tmov (%bx), %ax\n\tmov %al, 1(%bx)");
CODE_16(m_word, "mov $0xffff, %bx\n\tm_word_at: mov (%bx), %ax");
CODE_16(m_store, "mov $0xffff, %di\n\tm_store_at: mov %ax, (%di)");
CODE_16(m_rmw, "mov $0xfffd, %di\n\tm_rmw_at: addl %eax, (%di)");
CODE_16(m_moffs, "m_moffs_at: mov %ax, 0xffff");
CODE_16(m_bp, "mov $0xffff, %bp\n\tm_bp_at: mov (%bp), %ax");
CODE_16(m_addr32, "mov $0x10000, %ebx\n\tm_addr32_at: mov (%ebx), %al");
CODE_16(m_addr32_last, "mov $0xffff, %ebx\n\tmov (%ebx), %al");
CODE_16(m_string, "mov $0xffff, %si\n\tcld\n\tm_string_at: lodsw");
CODE_16(m_rep, "mov $0xfffb, %di\n\tmov $9, %cx\n\tcld\n\tm_rep_at: rep stosw");
CODE_16(m_pop, "mov $0xffff, %sp\n\tm_pop_at: pop %ax");
CODE_16(m_jump, "mov $0x12345, %eax\n\tm_jump_at: jmpl *%eax");
CODE_16(m_fs, "mov $0xffff, %bx\n\tm_fs_at: mov %fs:(%bx), %ax");
CODE_16(m_x87, "mov $0xfff9, %bx\n\tm_x87_at: fldl (%bx)");
CODE_16(m_last_byte, "movb $0x90, %cs:0xffff\n\tmov $0xffff, %bx\n\tjmp *%bx");
LABEL(m_word_at);
LABEL(m_store_at);
LABEL(m_rmw_at);
LABEL(m_moffs_at);
LABEL(m_bp_at);
LABEL(m_addr32_at);
LABEL(m_string_at);
LABEL(m_rep_at);
LABEL(m_pop_at);
LABEL(m_jump_at);
LABEL(m_fs_at);
LABEL(m_x87_at);

static void real_mode_limits(void)
{
	static const struct {
		const char *code, *end, *at;
		unsigned vector;
	} rows[] = {
#define ROW(name, vector) {name, name##_end, name##_at, vector}
		ROW(m_word, VEC_GP), ROW(m_store, VEC_GP), ROW(m_rmw, VEC_GP), ROW(m_moffs, VEC_GP), ROW(m_bp, VEC_SS),
		ROW(m_addr32, VEC_GP), ROW(m_string, VEC_GP), ROW(m_rep, VEC_GP), ROW(m_pop, VEC_SS), ROW(m_jump, VEC_GP),
		ROW(m_fs, VEC_GP), ROW(m_x87, VEC_GP),
	};
	struct real r;

	big_real = 0;
	r = RUN_16(m_word_last, .ds = 0xb00);
	SAME(r.vector, VECTOR_DONE);
	r = RUN_16(m_addr32_last, .ds = 0xb00);
	SAME(r.vector, VECTOR_DONE);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		/* DS and ES away from the code, SS 0: what a trap pushes at sp is harmless there. */
		r = run_16_at(rows[i].code, rows[i].end, (struct real){.ds = 0xb00, .es = 0xb00});
		if (r.vector != rows[i].vector || r.ip != (uint16_t)(rows[i].at - rows[i].code))
			test_failure(__FILE__, __LINE__, "row %u: vector %u at 0x%x", i, r.vector, r.ip);
		if (rows[i].code == m_rep) {
			SAME(r.ecx & 0xffff, 7);
			SAME(r.edi & 0xffff, 0xffff);
		}
	}
	r = RUN_16(m_last_byte, .ds = 0xb00);
	SAME(r.vector, VEC_GP);
	SAME(r.ip, 0);
	/* Big real mode: the same words are fine. */
	big_real = 1;
	r = RUN_16(m_word, .ds = 0xb00);
	SAME(r.vector, VECTOR_DONE);
	r = RUN_16(m_addr32, .ds = 0xb00);
	SAME(r.vector, VECTOR_DONE);
	big_real = 0;
}

/* ---- code where no memory is ------------------------------------------------------------------------------ */

CODE_32(n_jump, "jmp *%esi\n\t");

static void code_where_nothing_is(void)
{
	static const uint32_t at[] = {0xd0000000, 0xfee00020, 0xdffffffe};

	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		EXPECT(access_at(n_jump, at[i]), EX_UD);
		SAME(last_cr2, at[i]);
	}
}

TESTS({"data limits", data_limits}, {"expand-down segments", expand_down}, {"types and null", types}, {"stack limits", stack_limits},
      {"code limits", code_limits}, {"real-mode limits", real_mode_limits}, {"code where nothing is", code_where_nothing_is});
