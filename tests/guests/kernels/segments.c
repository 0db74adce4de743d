/* Segment registers and descriptor tables: loads with their checks, far transfers, questions about selectors. */
#include "k.h"

/* Descriptors, by access byte and flags: base 0, limit 4 GiB - 1. */
#define DESC(access) (0x00cf00000000fffful | (uint64_t)(access) << 40)
#define DESC64(access) (0x00af00000000fffful | (uint64_t)(access) << 40)
#define DATA_R 0x90
#define DATA_RW 0x92
#define CODE_X 0x98
#define CODE_RX 0x9a
#define CODE_CONFORMING 0x9e
#define DPL3 0x60
#define PRESENT 0x80
#define ACCESSED (1ul << 40)

#define SLOT (SEL_TEST / 8)

CODE(l_ds, "mov %edi, %ds\n\tmov %ds, %eax\n\t" DONE);
CODE(l_es_mem, "push %rdi\n\tmovw (%rsp), %es\n\tmov %es, %eax\n\t" DONE);
CODE(l_fs_pop, "push %rdi\n\tl_fs_pop_at: pop %fs\n\tmov %fs, %eax\n\t" DONE);
CODE(l_ss, "mov %edi, %ss\n\tmov %ss, %eax\n\t" DONE);
CODE(l_lgs, "movl $77, -16(%rsp)\n\tmov %di, -12(%rsp)\n\tl_lgs_at: lgs -16(%rsp), %eax\n\t" DONE);
LABEL(l_fs_pop_at);
LABEL(l_lgs_at);

struct load {
	const char *name;
	uint64_t descriptor;
	uint64_t selector;
	uint64_t want;
};

static void load_rows(const struct load *rows, unsigned n, const void *code, struct regs (*ring)(const void *))
{
	uint64_t *gdt = cpu_gdt();

	for (unsigned i = 0; i < n; i++) {
		struct regs r = ring(code);
		uint64_t ex;

		gdt[SLOT] = rows[i].descriptor;
		r.rdi = rows[i].selector;
		ex = run_regs(&r);
		if (ex != rows[i].want)
			test_failure(__FILE__, __LINE__, "%s: %s, not %s", rows[i].name, ex_name(ex), ex_name(rows[i].want));
		else if (ex == EX_DONE && (r.rax & 0xffff) != rows[i].selector)
			test_failure(__FILE__, __LINE__, "%s: the selector is 0x%lx", rows[i].name, r.rax);
		if (ex == EX_DONE && rows[i].selector > 3 && rows[i].selector >> 3 == SLOT && !(gdt[SLOT] & ACCESSED))
			test_failure(__FILE__, __LINE__, "%s: the accessed bit is clear", rows[i].name);
		if (ex != EX_DONE && gdt[SLOT] != rows[i].descriptor)
			test_failure(__FILE__, __LINE__, "%s: the descriptor changed", rows[i].name);
	}
	gdt[SLOT] = 0;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" : : "r"(SEL_DATA), "r"(0));
}

#define T SEL_TEST
static void data_segments(void)
{
	static const struct load rows[] = {
		{"null", 0, 0, EX_DONE}, {"null with RPL 3", 0, 3, EX_DONE}, {"data", DESC(DATA_RW), T, EX_DONE},
		{"read-only data", DESC(DATA_R), T, EX_DONE}, {"readable code", DESC(CODE_RX), T, EX_DONE},
		{"execute-only code", DESC(CODE_X), T, EX_GP(T)}, {"not present", DESC(DATA_RW - PRESENT), T, EX_NP(T)},
		{"system segment", DESC(0x89), T, EX_GP(T)}, {"beyond the table", 0, 0xfff8, EX_GP(0xfff8)},
		{"LDT selector without LDT", 0, T | 4, EX_GP(T | 4)}, {"RPL 3 on DPL 0", DESC(DATA_RW), T | 3, EX_GP(T)},
		{"RPL 3 on DPL 3", DESC(DATA_RW | DPL3), T | 3, EX_DONE}, {"conforming code with RPL 3", DESC(CODE_CONFORMING), T | 3, EX_DONE},
		{"not present and wrong type", DESC(0x09), T, EX_GP(T)},
	};
	static const struct load user_rows[] = {
		{"null", 0, 0, EX_DONE}, {"DPL 0", DESC(DATA_RW), T, EX_GP(T)}, {"DPL 3", DESC(DATA_RW | DPL3), T | 3, EX_DONE},
		{"DPL 3 with RPL 0", DESC(DATA_RW | DPL3), T, EX_DONE}, {"conforming code", DESC(CODE_CONFORMING), T, EX_DONE},
		{"not present", DESC((DATA_RW | DPL3) - PRESENT), T | 3, EX_NP(T)},
	};
	struct regs r;

	load_rows(rows, ARRAY_SIZE(rows), l_ds, regs0);
	load_rows(rows, ARRAY_SIZE(rows), l_es_mem, regs0);
	load_rows(rows, ARRAY_SIZE(rows), l_fs_pop, regs0);
	load_rows(user_rows, ARRAY_SIZE(user_rows), l_ds, regs3);
	/* A pop that faults has popped nothing; lgs that faults has changed nothing. */
	r = regs0(l_fs_pop);
	uint64_t rsp = r.rsp;
	r.rdi = 0xfff8;
	EXPECT(run_regs(&r), EX_GP(0xfff8));
	SAME(r.rip, (uint64_t)l_fs_pop_at);
	SAME(r.rsp, rsp - 8);
	r = regs0(l_lgs);
	r.rdi = SEL_USER_DATA;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 77);
	r = regs0(l_lgs);
	r.rdi = 0xfff8;
	EXPECT(run_regs(&r), EX_GP(0xfff8));
	SAME(r.rip, (uint64_t)l_lgs_at);
	SAME(r.rax, 0);
	__asm__ volatile("mov %0, %%gs" : : "r"(0));
}

static void stack_segments(void)
{
	static const struct load rows[] = {
		{"null at ring 0", 0, 0, EX_DONE}, {"null with RPL 3", 0, 3, EX_GP(0)}, {"data", DESC(DATA_RW), T, EX_DONE},
		{"read-only data", DESC(DATA_R), T, EX_GP(T)}, {"code", DESC(CODE_RX), T, EX_GP(T)},
		{"not present", DESC(DATA_RW - PRESENT), T, EX_SS(T)}, {"DPL 3", DESC(DATA_RW | DPL3), T, EX_GP(T)},
		{"RPL 3", DESC(DATA_RW), T | 3, EX_GP(T)}, {"system segment", DESC(0x82), T, EX_GP(T)}, {"beyond the table", 0, 0xfff8, EX_GP(0xfff8)},
	};
	static const struct load user_rows[] = {
		{"null", 0, 0, EX_GP(0)}, {"null with RPL 3", 0, 3, EX_GP(0)}, {"DPL 3", DESC(DATA_RW | DPL3), T | 3, EX_DONE},
		{"DPL 3 with RPL 0", DESC(DATA_RW | DPL3), T, EX_GP(T)},
	};

	load_rows(rows, ARRAY_SIZE(rows), l_ss, regs0);
	load_rows(user_rows, ARRAY_SIZE(user_rows), l_ss, regs3);
}

/* ---- LDT and TSS ---------------------------------------------------------------------------- */

CODE(t_lldt, "lldt %di\n\tsldt %eax\n\t" DONE);
CODE(t_ltr, "ltr %di\n\tstr %eax\n\t" DONE);

static void put_system(unsigned slot, unsigned access, uint64_t base, uint32_t limit)
{
	cpu_gdt()[slot] = limit | (base & 0xffffff) << 16 | (uint64_t)access << 40 | (base >> 24 & 0xff) << 56;
	cpu_gdt()[slot + 1] = base >> 32;
}

static void local_table(void)
{
	uint64_t *gdt = cpu_gdt(), *ldt = page_alloc();
	struct regs r;

	put_system(SLOT, 0x82, (uint64_t)ldt, 23);
	r = regs0(t_lldt);
	r.rdi = T;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax & 0xffff, T);
	ldt[1] = 0x00cf92000000fffful | 0x4321ul << 16;
	EXPECT(run0(l_ds, 8 | 4), EX_DONE);
	CHECK(ldt[1] & ACCESSED);
	EXPECT(run0(l_fs_pop, 8 | 4), EX_DONE);
	SAME(rdmsr(0xc0000100), 0x4321);
	EXPECT(run0(l_ds, 24 | 4), EX_GP(24 | 4)); /* beyond its limit */
	EXPECT(run0(l_ds, 0 | 4), EX_GP(4));       /* index 0 is no null in an LDT */
	EXPECT(run0(t_lldt, 8 | 4), EX_GP(8 | 4));
	EXPECT(run0(t_lldt, SEL_DATA), EX_GP(SEL_DATA));
	EXPECT(run0(t_lldt, 0xfff0), EX_GP(0xfff0));
	put_system(SLOT, 0x02, (uint64_t)ldt, 23);
	EXPECT(run0(t_lldt, T), EX_NP(T));
	put_system(SLOT, 0x82, 0x0000800000000000, 23);
	EXPECT(run0(t_lldt, T), EX_GP(T)); /* the base is not canonical */
	EXPECT(run0(t_lldt, 0), EX_DONE);
	EXPECT(run0(l_ds, 8 | 4), EX_GP(8 | 4));
	__asm__ volatile("mov %0, %%ds; mov %1, %%fs" : : "r"(SEL_DATA), "r"(0));
	gdt[SLOT] = gdt[SLOT + 1] = 0;
}

static void task_register(void)
{
	uint64_t *gdt = cpu_gdt();
	struct regs r;

	r = regs0(t_ltr);
	r.rdi = SEL_TSS;
	EXPECT(run_regs(&r), EX_GP(SEL_TSS)); /* it is busy */
	EXPECT(run0(t_ltr, 0), EX_GP(0));
	EXPECT(run0(t_ltr, T | 4), EX_GP(T | 4));
	EXPECT(run0(t_ltr, SEL_DATA), EX_GP(SEL_DATA));
	put_system(SLOT, 0x09, (uint64_t)cpu_tss(), 103);
	EXPECT(run0(t_ltr, T), EX_NP(T));
	put_system(SLOT, 0x81, (uint64_t)cpu_tss(), 103); /* 16-bit */
	EXPECT(run0(t_ltr, T), EX_GP(T));
	put_system(SLOT, 0x89, 0x0000800000000000, 103);
	EXPECT(run0(t_ltr, T), EX_GP(T));
	put_system(SLOT, 0x89, (uint64_t)cpu_tss(), 103);
	r = regs0(t_ltr);
	r.rdi = T;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax & 0xffff, T);
	SAME(gdt[SLOT] >> 40 & 0xff, 0x8b);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	EXPECT(run0(t_ltr, SEL_TSS), EX_DONE);
	gdt[SLOT] = gdt[SLOT + 1] = 0;
}

/* A TSS too short for the stack that is asked of it. */
static void short_task_segment(void)
{
	CODE(do_ud, "ud2\n\t");
	uint64_t *gdt = cpu_gdt();

	/* Up to IST 3 (offset 52..59), so that #TS itself can be told: #UD is sent through IST 4. */
	put_system(SLOT, 0x89, (uint64_t)cpu_tss(), 59);
	EXPECT(run0(t_ltr, T), EX_DONE);
	idt[VEC_UD].ist = 4;
	EXPECT(run0(do_ud, 0), EX_TS(T | 1));
	idt_reset(VEC_UD);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	EXPECT(run0(t_ltr, SEL_TSS), EX_DONE);
	gdt[SLOT] = gdt[SLOT + 1] = 0;
}

/* ---- asking --------------------------------------------------------------------------------------- */

CODE(q_lar, "mov $-1, %rax\n\tlar %edi, %eax\n\tsetz %cl\n\t" DONE);
CODE(q_lsl, "mov $-1, %rax\n\tlsl %edi, %eax\n\tsetz %cl\n\t" DONE);
CODE(q_verr, "xor %eax, %eax\n\tverr %di\n\tsetz %cl\n\t" DONE);
CODE(q_verw, "xor %eax, %eax\n\tverw %di\n\tsetz %cl\n\t" DONE);

static void questions(void)
{
	static const struct {
		const char *name;
		uint64_t descriptor, selector;
		uint64_t lar, lsl; /* ~0: refused */
		uint8_t verr, verw;
	} rows[] = {
		{"null", 0, 0, ~0ul, ~0ul, 0, 0},
		{"beyond the table", 0, 0xfff8, ~0ul, ~0ul, 0, 0},
		{"data", DESC(DATA_RW), T, 0xcf9200, 0xffffffff, 1, 1},
		{"read-only data", DESC(DATA_R), T, 0xcf9000, 0xffffffff, 1, 0},
		{"readable code", DESC(CODE_RX), T, 0xcf9a00, 0xffffffff, 1, 0},
		{"execute-only code", DESC(CODE_X), T, 0xcf9800, 0xffffffff, 0, 0},
		{"not present", DESC(DATA_RW - PRESENT), T, 0xcf1200, 0xffffffff, 1, 1},
		{"RPL 3 on DPL 0", DESC(DATA_RW), T | 3, ~0ul, ~0ul, 0, 0},
		{"conforming with RPL 3", DESC(CODE_CONFORMING), T | 3, 0xcf9e00, 0xffffffff, 1, 0},
		{"TSS", 0x0000890000000067ul, T, 0x8900, 0x67, 0, 0},
		{"busy TSS", 0x00008b0000000067ul, T, 0x8b00, 0x67, 0, 0},
		{"LDT", 0x0000820000001234ul, T, 0x8200, 0x1234, 0, 0},
		{"16-bit TSS", 0x0000810000000067ul, T, ~0ul, ~0ul, 0, 0},
		{"interrupt gate", 0x00008e0000000067ul, T, ~0ul, ~0ul, 0, 0},
		{"call gate", 0x00008c0000000067ul, T, 0x8c00, ~0ul, 0, 0},
	};
	uint64_t *gdt = cpu_gdt();
	struct regs r;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		gdt[SLOT] = rows[i].descriptor;
		gdt[SLOT + 1] = 0;
#define ASK(code, want_ok, want_value)                                                                                 \
	r = regs0(code);                                                                                               \
	r.rdi = rows[i].selector;                                                                                      \
	EXPECT(run_regs(&r), EX_DONE);                                                                                 \
	if ((r.rcx & 1) != (want_ok) || r.rax != (want_value))                                                         \
	test_failure(__FILE__, __LINE__, "%s: " #code ": zf %lu, value 0x%lx", rows[i].name, r.rcx & 1, r.rax)
		ASK(q_lar, rows[i].lar != ~0ul, rows[i].lar);
		ASK(q_lsl, rows[i].lsl != ~0ul, rows[i].lsl);
		ASK(q_verr, rows[i].verr, 0);
		ASK(q_verw, rows[i].verw, 0);
	}
	r = regs3(q_lar);
	r.rdi = SEL_DATA;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rcx & 1, 0);
	gdt[SLOT] = 0;
}

/* ---- far transfers ----------------------------------------------------------------------------------- */

CODE(j_call, "lea 1f(%rip), %rax\n\tmov %eax, -16(%rsp)\n\tmov %di, -12(%rsp)\n\tj_call_at: lcall *-16(%rsp)\n\tj_call_end: " DONE
	     "1: mov (%rsp), %eax\n\tmov %cs, %ecx\n\tlretl\n\t");
CODE(j_call64, "lea 1f(%rip), %rax\n\tmov %rax, -16(%rsp)\n\tmov %di, -8(%rsp)\n\tj_call64_at: rex.w lcall *-16(%rsp)\n\tj_call64_end: " DONE
	       "1: mov (%rsp), %rax\n\tmov %cs, %ecx\n\tlretq $32\n\t");
CODE(j_jmp, "lea 1f(%rip), %rax\n\tmov %eax, -16(%rsp)\n\tmov %di, -12(%rsp)\n\tj_jmp_at: ljmp *-16(%rsp)\n\tud2\n\t1: " DONE);
CODE(j_lret, "push %rdi\n\tlea 1f(%rip), %rax\n\tpush %rax\n\tj_lret_at: lretq\n\tud2\n\t1: " DONE);
CODE(j_gate_target, "mov %rsp, %rax\n\tmov %cs, %ecx\n\tmov %ss, %edx\n\tmov 8(%rsp), %rsi\n\tmov 16(%rsp), %rbx\n\tlretq\n\t");
CODE(j_gate, "movl $0, -16(%rsp)\n\tmov %di, -12(%rsp)\n\tj_gate_at: lcall *-16(%rsp)\n\tj_gate_end: " DONE);
LABEL(j_call_at);
LABEL(j_call_end);
LABEL(j_call64_end);
LABEL(j_jmp_at);
LABEL(j_lret_at);
LABEL(j_gate_at);
LABEL(j_gate_end);

static void far_transfers(void)
{
	uint64_t *gdt = cpu_gdt();
	struct regs r;

	r = regs0(j_call);
	r.rdi = SEL_CODE64;
	uint64_t rsp = r.rsp;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, (uint32_t)(uint64_t)j_call_end);
	SAME(r.rcx & 0xffff, SEL_CODE64);
	SAME(r.rsp, rsp);
	r = regs0(j_call64);
	r.rdi = SEL_CODE64;
	rsp = r.rsp;
	if (cpu_is_amd()) { /* no m16:64 (APM vol. 3, CALL far): the selector is what lies behind 32 bits */
		EXPECT(run_regs(&r), EX_GP(0));
	} else {
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, (uint64_t)j_call64_end);
		SAME(r.rsp, rsp + 32);
	}
	static const struct load rows[] = {
		{"null", 0, 0, EX_GP(0)}, {"data", DESC(DATA_RW), T, EX_GP(T)}, {"beyond the table", 0, 0xfff8, EX_GP(0xfff8)},
		{"not present", DESC64(CODE_RX - PRESENT), T, EX_NP(T)}, {"DPL 3 from ring 0", DESC64(CODE_RX | DPL3), T, EX_GP(T)},
		{"L and D both", DESC64(CODE_RX) | 1ul << 54, T, EX_GP(T)}, {"TSS: no tasks in long mode", DESC(0x89), T, EX_GP(T)},
		{"RPL 3", DESC64(CODE_RX), T | 3, EX_GP(T)}, {"64-bit code", DESC64(CODE_RX), T, EX_DONE},
		{"conforming", DESC64(CODE_CONFORMING), T, EX_DONE},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		gdt[SLOT] = rows[i].descriptor;
		gdt[SLOT + 1] = 0;
		r = regs0(j_jmp);
		r.rdi = rows[i].selector;
		uint64_t ex = run_regs(&r);
		if (ex != rows[i].want || (ex != EX_DONE && r.rip != (uint64_t)j_jmp_at))
			test_failure(__FILE__, __LINE__, "jmp, %s: %s, not %s", rows[i].name, ex_name(ex), ex_name(rows[i].want));
		if (ex == EX_DONE)
			CHECK(gdt[SLOT] & ACCESSED);
		r = regs0(j_call);
		r.rdi = rows[i].selector;
		ex = run_regs(&r);
		if (ex != rows[i].want || (ex != EX_DONE && r.rip != (uint64_t)j_call_at))
			test_failure(__FILE__, __LINE__, "call, %s: %s, not %s", rows[i].name, ex_name(ex), ex_name(rows[i].want));
	}
	r = regs0(j_lret);
	r.rdi = SEL_CODE64;
	EXPECT(run_regs(&r), EX_DONE);
	r = regs3(j_lret);
	r.rdi = SEL_CODE64; /* inwards */
	EXPECT(run_regs(&r), EX_GP(SEL_CODE64));
	SAME(r.rip, (uint64_t)j_lret_at);
	gdt[SLOT] = 0;
}

static void call_gates(void)
{
	uint64_t *gdt = cpu_gdt(), to = (uint64_t)j_gate_target;
	struct regs r;

	gdt[SLOT] = (to & 0xffff) | (uint64_t)SEL_CODE64 << 16 | 0xecul << 40 | (to >> 16 & 0xffff) << 48;
	gdt[SLOT + 1] = to >> 32;
	/* From ring 3: the stack is RSP0, SS null, and back again. */
	r = regs3(j_gate);
	uint64_t rsp = r.rsp;
	r.rdi = T | 3;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, cpu_stack(0) - 32);
	SAME(r.rcx & 0xffff, SEL_CODE64);
	SAME(r.rdx & 0xffff, 0);
	SAME(r.rsi & 0xffff, SEL_USER64);
	SAME(r.rbx, rsp);
	SAME(r.rsp, rsp);
	SAME(r.cs, SEL_USER64);
	SAME(r.ss, SEL_USER_DATA);
	/* From ring 0: the same stack. */
	r = regs0(j_gate);
	rsp = r.rsp;
	r.rdi = T;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, rsp - 16);
	/* A gate for ring 0 only; one that is not present; one to nowhere; an upper half that is a descriptor. */
	gdt[SLOT] &= ~(0x60ul << 40);
	EXPECT(run3(j_gate, T | 3), EX_GP(T));
	EXPECT(run0(j_gate, T), EX_DONE);
	gdt[SLOT] &= ~(0x80ul << 40);
	EXPECT(run0(j_gate, T), EX_NP(T));
	gdt[SLOT] |= 0x80ul << 40;
	gdt[SLOT] &= ~(0xfffful << 16);
	EXPECT(run0(j_gate, T), EX_GP(0));
	gdt[SLOT] |= (uint64_t)SEL_CODE32 << 16;
	EXPECT(run0(j_gate, T), EX_GP(SEL_CODE32));
	gdt[SLOT] = (gdt[SLOT] & ~(0xfffful << 16)) | (uint64_t)SEL_CODE64 << 16;
	gdt[SLOT + 1] |= 0x0fffffff00000000ul & 0x00001f0000000000ul;
	EXPECT(run0(j_gate, T), EX_GP(T));
	gdt[SLOT] = gdt[SLOT + 1] = 0;
}

/* ---- tables ---------------------------------------------------------------------------------------------- */

CODE(s_gdt, "sgdt (%rdi)\n\tsidt 16(%rdi)\n\t" DONE);
CODE(s_lgdt, "lgdt (%rdi)\n\t" DONE);

static void tables(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) *p = page_alloc(), saved;
	uint64_t *copy = page_alloc();
	uint64_t *gdt = cpu_gdt();

	EXPECT(run0(s_gdt, (uint64_t)p), EX_DONE);
	saved = *p;
	SAME(p->limit, GDT_SLOTS * 8 - 1);
	SAME(p->base, (uint64_t)gdt);
	SAME(*(uint16_t *)((char *)p + 16), 256 * 16 - 1);
	SAME(*(uint64_t *)((char *)p + 18), (uint64_t)idt);
	/* Loaded registers keep what they had when the table moves; loads look in the new one. cpu_number() needs the old. */
	memcpy(copy, gdt, GDT_SLOTS * 8);
	copy[SLOT] = DESC(DATA_RW);
	p->base = (uint64_t)copy;
	__asm__ volatile("lgdt %0\n\tmov %2, %%fs\n\tlgdt %1" : : "m"(*p), "m"(saved), "r"(SEL_TEST) : "memory");
	CHECK(copy[SLOT] & ACCESSED);
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
	/* A limit is a limit. */
	p->limit = SEL_TEST + 6;
	p->base = saved.base;
	gdt[SLOT] = DESC(DATA_RW);
	EXPECT(run0(s_lgdt, (uint64_t)p), EX_DONE);
	EXPECT(run0(l_ds, SEL_TEST), EX_GP(SEL_TEST));
	p->limit = SEL_TEST + 7;
	EXPECT(run0(s_lgdt, (uint64_t)p), EX_DONE);
	EXPECT(run0(l_ds, SEL_TEST), EX_DONE);
	__asm__ volatile("lgdt %0; mov %1, %%ds" : : "m"(saved), "r"(SEL_DATA));
	gdt[SLOT] = 0;
}

/* A descriptor in a page that is not there, or read-only. */
static void tables_and_paging(void)
{
	uint64_t *gdt = cpu_gdt();

	/* The accessed bit is set with supervisor rights even for ring 3, and a fault there is no user fault. */
	gdt[SLOT] = DESC(DATA_RW | DPL3);
	EXPECT(run3(l_ds, T | 3), EX_DONE);
	CHECK(gdt[SLOT] & ACCESSED);
	/* An LDT whose page is missing. */
	uint64_t *ldt = page_alloc();
	struct regs r;
	map(TEST_VA, ldt, PTE_P | PTE_W);
	ldt[1] = DESC(DATA_RW | DPL3);
	put_system(SLOT, 0x82, TEST_VA, 0xfff);
	EXPECT(run0(t_lldt, T), EX_DONE);
	EXPECT(run3(l_ds, 8 | 7), EX_DONE);
	map(TEST_VA, ldt, 0);
	r = regs3(l_ds);
	r.rdi = 8 | 7;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.cr2 & ~7ul, TEST_VA + 8);
	SAME(r.rip, (uint64_t)l_ds);
	/* Accessed already: nothing to write to a read-only page; not accessed: a write fault. */
	map(TEST_VA, ldt, PTE_P);
	EXPECT(run3(l_ds, 8 | 7), EX_DONE);
	ldt[1] = DESC(DATA_RW | DPL3);
	EXPECT(run3(l_ds, 8 | 7), EX_PF(PF_P | PF_W));
	EXPECT(run0(t_lldt, 0), EX_DONE);
	gdt[SLOT] = gdt[SLOT + 1] = 0;
	__asm__ volatile("mov %0, %%ds" : : "r"(SEL_DATA));
}

TESTS({"data segments", data_segments}, {"stack segments", stack_segments}, {"LDT", local_table}, {"task register", task_register},
      {"a TSS that ends early", short_task_segment}, {"lar, lsl, verr, verw", questions}, {"far transfers", far_transfers},
      {"call gates", call_gates}, {"lgdt and sgdt", tables}, {"descriptor tables and paging", tables_and_paging});
