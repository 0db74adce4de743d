/* Stack switches on the way into handlers (RSP0, IST), double faults, and the way back by iret. */
#include "k.h"

#define VA TEST_VA
#define HOLE 0x8000000000000000ul

CODE(just_done, DONE);
CODE(just_ud, "ud2\n\t");
CODE(load_rdi, "mov (%rdi), %rax\n\t" DONE);
CODE(do_int80, "int $0x80\n\tdo_int80_end: " DONE);
LABEL(do_int80_end);

static uint64_t *frame_of(const struct regs *r) { return (uint64_t *)r->frame; }

/* ---- which stack ---------------------------------------------------------------------- */

static void rsp0_from_ring_3(void)
{
	struct regs r;
	uint64_t *f;

	idt[VECTOR_DONE].ist = 0;
	for (uint64_t off = 0; off < 24; off += 8) {
		uint64_t top = cpu_stack(0) - off;

		cpu_tss()->rsp[0] = top;
		r = regs3(just_done);
		r.rflags |= FLAG_IF | FLAG_DF;
		uint64_t rsp = r.rsp;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.frame, (top & ~15ul) - 40);
		f = frame_of(&r);
		SAME(f[0], (uint64_t)just_done + 2);
		SAME(f[1], SEL_USER64);
		SAME(f[2], FLAG_IF | FLAG_DF | FLAGS_FIXED);
		SAME(f[3], rsp);
		SAME(f[4], SEL_USER_DATA);
	}
	cpu_tss()->rsp[0] = cpu_stack(0);
}

static void same_stack_at_ring_0(void)
{
	struct regs r;

	idt[VECTOR_DONE].ist = 0;
	for (uint64_t off = 0; off < 24; off += 8) {
		r = regs0(just_done);
		r.rsp -= off;
		uint64_t rsp = r.rsp;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.frame, (rsp & ~15ul) - 40);
		SAME(frame_of(&r)[3], rsp);
		SAME(frame_of(&r)[4], SEL_DATA);
	}
}

static void ist_at_any_ring(void)
{
	struct regs r;
	uint64_t odd = cpu_stack(2) - 8;

	for (unsigned ist = 1; ist <= 7; ist++) {
		uint64_t saved = cpu_tss()->ist[ist - 1];

		cpu_tss()->ist[ist - 1] = odd;
		idt[VECTOR_DONE].ist = (uint8_t)ist;
		r = regs0(just_done);
		uint64_t rsp = r.rsp;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.frame, (odd & ~15ul) - 40);
		SAME(r.rsp, rsp);
		r = regs3(just_done);
		rsp = r.rsp;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.frame, (odd & ~15ul) - 40);
		SAME(r.rsp, rsp);
		cpu_tss()->ist[ist - 1] = saved;
	}
}

static uint16_t handler_ss, handler_cs, handler_ds;
static uint64_t handler_flags;

static void look_around(struct frame *f)
{
	__asm__ volatile("mov %%ss, %0; mov %%cs, %1; mov %%ds, %2" : "=r"(handler_ss), "=r"(handler_cs), "=r"(handler_ds));
	__asm__ volatile("pushf; pop %0" : "=r"(handler_flags));
}

CODE(int80_in_the_middle, "mov $1, %eax\n\tint $0x80\n\tadd $1, %eax\n\t" DONE);

/* SS in a handler that came from ring 3 is null; from ring 0 it stays. */
static void segments_in_the_handler(void)
{
	struct regs r;

	idt[0x80].type = 0xee;
	trap_handle(0x80, look_around);
	r = regs3(int80_in_the_middle);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 2);
	SAME(handler_ss, 0);
	SAME(handler_cs, SEL_CODE64);
	CHECK(!(handler_flags & (FLAG_IF | FLAG_TF | FLAG_NT)));
	SAME(r.cs, SEL_USER64);
	SAME(r.ss, SEL_USER_DATA);
	CHECK(r.rflags & FLAG_IF);
	EXPECT(run0(int80_in_the_middle, 0), EX_DONE);
	SAME(handler_ss, SEL_DATA);
	/* A trap gate keeps IF; NT goes away. */
	idt[0x80].type = 0xef;
	idt[0x80].ist = 1;
	r = regs3(int80_in_the_middle);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	CHECK(handler_flags & FLAG_IF);
}

/* ---- faults while delivering ------------------------------------------------------------------ */

static void double_faults(void)
{
	struct regs r;

	/* #PF whose handler's stack is missing. */
	idt[VEC_PF].ist = 0;
	r = regs0(load_rdi);
	r.rdi = VA;
	r.rsp = VA + PAGE;
	EXPECT(run_regs(&r), EX_DF);
	SAME(r.rip, (uint64_t)load_rdi);
	SAME(r.cr2, VA + PAGE - 8);
	SAME(r.rsp, VA + PAGE);
	SAME(r.frame, cpu_stack(3) - 40);
	/* #PF whose gate is not there. */
	idt_reset(VEC_PF);
	idt[VEC_PF].type = 0x0e;
	EXPECT(run0(load_rdi, VA), EX_DF);
	/* #GP, the same. */
	idt_reset(VEC_PF);
	idt[VEC_GP].type = 0x0e;
	EXPECT(run0(load_rdi, HOLE), EX_DF);
	EXPECT(run3(load_rdi, HOLE), EX_DF);
	/* #GP whose handler's stack is missing: a contributory fault, then #PF, are handled one after the other. */
	idt_reset(VEC_GP);
	idt[VEC_GP].ist = 7;
	cpu_tss()->ist[6] = VA + PAGE;
	r = regs0(load_rdi);
	r.rdi = HOLE;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.cr2, VA + PAGE - 8);
	SAME(r.rip, (uint64_t)load_rdi);
	/* So are a benign one (#UD) and a missing gate or stack. */
	idt[VEC_UD].ist = 7;
	EXPECT(run0(just_ud, 0), EX_PF(PF_W));
	SAME(run3(just_ud, 0), EX_PF(PF_W));
	idt_reset(VEC_UD);
	idt[VEC_UD].type = 0x0e;
	EXPECT(run0(just_ud, 0), EX_NP(VEC_UD * 8 + 3));
	/* A software interrupt says nothing of an external event. */
	idt[0x80].ist = 7;
	r = regs0(do_int80);
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rip, (uint64_t)do_int80);
	/* A stack that is not canonical. */
	cpu_tss()->ist[6] = HOLE;
	r = regs0(do_int80);
	EXPECT(run_regs(&r), EX_SS(0));
	SAME(r.rip, (uint64_t)do_int80);
	cpu_tss()->ist[6] = 0;
	/* #PF, then #SS for a stack that is not canonical. */
	idt[VEC_PF].ist = 0;
	r = regs0(load_rdi);
	r.rdi = VA;
	r.rsp = HOLE;
	EXPECT(run_regs(&r), EX_DF);
}

/* A frame across two pages, of which the second to be written is missing. */
static void frame_across_pages(void)
{
	uint8_t *page = page_alloc();
	struct regs r;

	map(VA + PAGE, page, PTE_P | PTE_W);
	memset(page, 0x5a, PAGE);
	idt[VECTOR_DONE].ist = 0;
	r = regs0(just_done);
	r.rsp = VA + PAGE + 16;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rsp, VA + PAGE + 16);
	SAME(r.rip, (uint64_t)just_done);
	SAME(r.cr2 & ~(PAGE - 1), VA);
}

/* An IDT that ends early. */
static void short_idt(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) whole = {sizeof(idt) - 1, (uint64_t)idt}, cut = {0x80 * 16 + 14, (uint64_t)idt};

	/* VECTOR_DONE is beyond the end, too. */
	__asm__ volatile("lidt %0" : : "m"(cut));
	EXPECT(run0(do_int80, 0), EX_GP(0x80 * 8 + 2));
	EXPECT(run3(do_int80, 0), EX_GP(0x80 * 8 + 2));
	EXPECT(run0(just_done, 0), EX_GP(VECTOR_DONE * 8 + 2));
	cut.limit++;
	__asm__ volatile("lidt %0" : : "m"(cut));
	EXPECT(run0(do_int80, 0), EX(0x80, 0));
	__asm__ volatile("lidt %0" : : "m"(whole));
}

/* ---- iret --------------------------------------------------------------------------------------- */

CODE(do_iret, "iretq\n\t");

static uint64_t iret_to(uint64_t rip, uint64_t cs, uint64_t rflags, uint64_t rsp, uint64_t ss, struct regs *ret)
{
	struct regs r = regs0(do_iret);
	uint64_t *f, ex;

	r.rsp -= 40;
	f = (uint64_t *)r.rsp;
	f[0] = rip;
	f[1] = cs;
	f[2] = rflags;
	f[3] = rsp;
	f[4] = ss;
	uint64_t at = r.rsp;
	ex = run_regs(&r);
	if (ex != EX_DONE && r.rip == (uint64_t)do_iret && r.rsp != at)
		test_failure(__FILE__, __LINE__, "rsp moved by a faulting iret");
	if (ret)
		*ret = r;
	return ex;
}

static void iret_frames(void)
{
	uint64_t rip = (uint64_t)just_done, stack = regs3(just_done).rsp, *gdt = cpu_gdt();
	struct regs r;

	EXPECT(iret_to(rip, SEL_USER64, 2, stack, SEL_USER_DATA, &r), EX_DONE);
	SAME(r.rsp, stack);
	SAME(r.ss, SEL_USER_DATA);
	EXPECT(iret_to(rip, SEL_CODE64, 2, stack, SEL_DATA, &r), EX_DONE);
	SAME(r.rsp, stack);
	EXPECT(iret_to(rip, SEL_CODE64, 2, stack, 0, &r), EX_DONE); /* null SS will do at ring 0 */
	SAME(r.ss, 0);
	EXPECT(iret_to(rip, SEL_USER32, 2, stack, SEL_USER_DATA, NULL), EX_DONE);
	/* rsp need not be canonical. */
	EXPECT(iret_to(rip, SEL_USER64, 2, HOLE, SEL_USER_DATA, &r), EX_DONE);
	SAME(r.rsp, HOLE);
	/* Code segments. */
	EXPECT(iret_to(rip, 0, 2, stack, SEL_DATA, NULL), EX_GP(0));
	EXPECT(iret_to(rip, 3, 2, stack, SEL_USER_DATA, NULL), EX_GP(0));
	EXPECT(iret_to(rip, SEL_DATA, 2, stack, SEL_DATA, NULL), EX_GP(SEL_DATA));
	EXPECT(iret_to(rip, SEL_USER64 & ~3, 2, stack, SEL_USER_DATA, NULL), EX_GP(SEL_USER64 & ~3));
	EXPECT(iret_to(rip, SEL_CODE64 | 3, 2, stack, SEL_USER_DATA, NULL), EX_GP(SEL_CODE64));
	EXPECT(iret_to(rip, 0xfff8, 2, stack, SEL_DATA, NULL), EX_GP(0xfff8));
	EXPECT(iret_to(rip, SEL_TSS, 2, stack, SEL_DATA, NULL), EX_GP(SEL_TSS));
	gdt[SEL_TEST / 8] = gdt[SEL_USER64 / 8] & ~(1ul << 47);
	EXPECT(iret_to(rip, SEL_TEST | 3, 2, stack, SEL_USER_DATA, NULL), EX_NP(SEL_TEST));
	EXPECT(iret_to(HOLE, SEL_USER64, 2, stack, SEL_USER_DATA, NULL), EX_GP(0));
	EXPECT(iret_to(HOLE, SEL_CODE64, 2, stack, SEL_DATA, NULL), EX_GP(0));
	/* Stack segments. */
	EXPECT(iret_to(rip, SEL_USER64, 2, stack, 0, NULL), EX_GP(0));
	EXPECT(iret_to(rip, SEL_USER64, 2, stack, SEL_DATA, NULL), EX_GP(SEL_DATA));
	EXPECT(iret_to(rip, SEL_CODE64, 2, stack, SEL_USER_DATA, NULL), EX_GP(SEL_USER_DATA & ~3));
	EXPECT(iret_to(rip, SEL_CODE64, 2, stack, SEL_CODE64, NULL), EX_GP(SEL_CODE64));
	EXPECT(iret_to(rip, SEL_USER64, 2, stack, 0xfffb, NULL), EX_GP(0xfff8));
	gdt[SEL_TEST / 8] = gdt[SEL_USER_DATA / 8] & ~(1ul << 47);
	EXPECT(iret_to(rip, SEL_USER64, 2, stack, SEL_TEST | 3, NULL), EX_SS(SEL_TEST));
	gdt[SEL_TEST / 8] = gdt[SEL_USER_DATA / 8] & ~(1ul << 41); /* read-only */
	EXPECT(iret_to(rip, SEL_USER64, 2, stack, SEL_TEST | 3, NULL), EX_GP(SEL_TEST));
	gdt[SEL_TEST / 8] = 0;
	/* NT: no task to return to in long mode. */
	r = regs0(do_iret);
	r.rflags |= FLAG_NT;
	EXPECT(run_regs(&r), EX_GP(0));
	/* Flags: VM and the reserved bits do not come, the rest does. */
	EXPECT(iret_to(rip, SEL_USER64, FLAG_CF | FLAG_DF | FLAG_IF | FLAG_ID | FLAG_AC, stack, SEL_USER_DATA, &r), EX_DONE);
	SAME(r.rflags, FLAG_CF | FLAG_DF | FLAG_IF | FLAG_ID | FLAG_AC | FLAGS_FIXED);
}

CODE(iret_out, "push $0x23\n\tpush %rdi\n\tpushf\n\tpush $0x2b\n\tlea 1f(%rip), %rax\n\tpush %rax\n\tiretq\n\t1: mov %ds, %eax\n\tmov %es, %ecx\n\tmov %fs, %edx\n\t" DONE);

/* Data segments that ring 3 may not have are nulled on the way out. */
static void iret_nulls_segments(void)
{
	struct regs r = regs0(iret_out);

	r.rdi = regs3(just_done).rsp;
	__asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs" : : "r"(SEL_DATA), "r"(SEL_USER_DATA), "r"(SEL_CODE64));
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax & 0xffff, 0);
	SAME(r.rcx & 0xffff, SEL_USER_DATA);
	SAME(r.rdx & 0xffff, 0);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs" : : "r"(SEL_DATA), "r"(0));
}

/* The stack from which iret pops lies across pages, the second missing. */
static void iret_at_an_edge(void)
{
	uint64_t *page = page_alloc();
	struct regs r;

	map(VA, page, PTE_P | PTE_W);
	page[510] = (uint64_t)just_done;
	page[511] = SEL_USER64;
	r = regs0(do_iret);
	r.rsp = VA + PAGE - 16;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rsp, VA + PAGE - 16);
	SAME(r.rip, (uint64_t)do_iret);
	SAME(r.cs, SEL_CODE64);
	SAME(r.cr2, VA + PAGE);
}

TESTS({"RSP0 from ring 3", rsp0_from_ring_3}, {"the same stack at ring 0", same_stack_at_ring_0}, {"IST", ist_at_any_ring},
      {"segments and flags in a handler", segments_in_the_handler}, {"double faults", double_faults}, {"a frame across pages", frame_across_pages},
      {"an IDT that ends early", short_idt}, {"iret's frame", iret_frames}, {"iret nulls data segments", iret_nulls_segments},
      {"iret at the edge of a page", iret_at_an_edge});
