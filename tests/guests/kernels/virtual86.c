/* Virtual-8086 mode: 16-bit code at privilege 3 with real-mode addresses, whose sensitive instructions IOPL guards. */
#include "legacy.h"

#define EDX 3
#define FLAG_VM 0x20000u
#define CR4_VME 1ul

/* What iret pops on the way in. */
struct v86 {
	uint32_t eip, cs, eflags, esp, ss, es, ds, fs, gs;
};

CODE_32(v_enter, "push 32(%esi)\n\tpush 28(%esi)\n\tpush 24(%esi)\n\tpush 20(%esi)\n\tpush 16(%esi)\n\tpush 12(%esi)\n\tpush 8(%esi)\n\tpush 4(%esi)\n\tpush (%esi)\n\tmov $0x11223344, %esi\n\tiret\n\t");

static struct v86 in;

/* Copies the code to REAL_CODE and runs it there; *l is what a trap found. esp: the frame's part behind the flags. */
static uint64_t run_86(const char *code, const char *end, unsigned iopl, struct legacy *l)
{
	struct tss *tss = cpu_tss();
	uint64_t rsp0 = tss->rsp[0], ex;

	*l = in_32(v_enter);
	legacy_idt[VECTOR_DONE] |= 0x60ul << 40; /* for privilege 3 */
	memcpy((void *)REAL_CODE, code, (size_t)(end - code));
	in = (struct v86){.cs = REAL_CODE >> 4, .eflags = 2 | FLAG_VM | iopl << 12, .esp = REAL_STACK, .es = 0xb00, .ds = 0xb00};
	l->esi = (uint32_t)(uint64_t)&in;
	tss->rsp[0] = (uint32_t)cpu_stack(2) | (uint64_t)SEL_DATA << 32; /* ESP0 and SS0 there, to 32-bit code */
	ex = run_32(l);
	tss->rsp[0] = rsp0;
	return ex;
}
#define RUN_86(name, iopl, l) run_86(name, name##_end, iopl, l)

static const uint32_t *frame_of(const struct legacy *l) { return (const uint32_t *)(uint64_t)l->esp; }

CODE_16(w_plain, "mov $0x1234, %ax\n\tmov %cs, %bx\n\tpush %ax\n\tpop %cx\n\tmov $0xc00, %dx\n\tmov %dx, %es\n\tmovw $0x5678, %es:4\n\tmov %si, %di");
CODE_16(w_jump, "ljmp $0xa01, $1f - w_jump - 16\n\tud2\n\t.skip 16\n\t1: mov %cs, %ax\n\tpush %cs\n\tcall 2f\n\tjmp 3f\n\t2: lret\n\t3: mov $7, %cx");
CODE_16(w_flags, "pushf\n\tpop %ax\n\tcli\n\tpushf\n\tpop %bx\n\tsti\n\tpushf\n\tpop %cx\n\tpushw $0x3ed7\n\tpopf\n\tpushf\n\tpop %dx\n\tpushw $0x3002\n\tpopf");
CODE_16(w_word, "mov $0xffff, %bx\n\tmov (%bx), %ax");
CODE_16(w_stack, "mov $0xffff, %bp\n\tmov (%bp), %ax");
CODE_16(w_wide, "mov $0x10000, %ebx\n\tmov (%ebx), %al");
CODE_16(w_out, "mov $0x80, %dx\n\tout %al, %dx\n\tin %dx, %al");

static void plain_code(void)
{
	uint16_t *low = (uint16_t *)0xc004;
	struct legacy l;

	*low = 0;
	EXPECT(RUN_86(w_plain, 3, &l), EX_DONE);
	SAME(l.eax & 0xffff, 0x1234);
	SAME(l.ebx & 0xffff, REAL_CODE >> 4);
	SAME(l.ecx & 0xffff, 0x1234);
	SAME(l.edi & 0xffff, 0x3344);
	SAME(*low, 0x5678);
	SAME(l.cs & 0xffff, REAL_CODE >> 4);
	SAME(l.eip, (uint64_t)(w_plain_end - w_plain));
	SAME(l.eflags & (FLAG_VM | FLAG_IOPL), FLAG_VM | FLAG_IOPL);
	/* esp ss es ds fs gs */
	SAME(frame_of(&l)[0], REAL_STACK);
	SAME(frame_of(&l)[1], 0);
	SAME(frame_of(&l)[2], 0xc00);
	SAME(frame_of(&l)[3], 0xb00);
	EXPECT(RUN_86(w_jump, 3, &l), EX_DONE);
	SAME(l.eax & 0xffff, 0xa01);
	SAME(l.ecx & 0xffff, 7);
}

static void flags_under_iopl(void)
{
	struct legacy l;

	EXPECT(RUN_86(w_flags, 3, &l), EX_DONE);
	SAME(l.eax & 0x3200, 0x3000);
	SAME(l.ebx & 0x200, 0);
	SAME(l.ecx & 0x200, 0x200);
	SAME(l.edx & 0x3fff, 0x3ed7);
}

CODE_16(x_cli, "cli");
CODE_16(x_sti, "sti");
CODE_16(x_pushf, "pushf");
CODE_16(x_popf, "popf");
CODE_16(x_int, "int $0x21");
CODE_16(x_iret, "iret");
CODE_16(x_hlt, "hlt");
CODE_16(x_cr0, "mov %cr0, %eax");
CODE_16(x_lgdt, "lgdt 0");
CODE_16(x_lmsw, "lmsw %ax");
CODE_16(x_clts, "clts");
CODE_16(x_rdmsr, "rdmsr");
CODE_16(x_sldt, "sldt %ax");
CODE_16(x_str, "str %ax");
CODE_16(x_lar, "lar %ax, %bx");
CODE_16(x_arpl, "arpl %ax, %bx");
CODE_16(x_verr, "verr %ax");
CODE_16(x_in, "in $0x80, %al");

static void refused(void)
{
	static const struct {
		const char *name, *code, *end;
		unsigned iopl;
		uint64_t want;
	} rows[] = {
#define ROW(name, iopl, want) {#name, name, name##_end, iopl, want}
		ROW(x_cli, 0, EX_GP(0)), ROW(x_sti, 0, EX_GP(0)), ROW(x_pushf, 0, EX_GP(0)), ROW(x_popf, 2, EX_GP(0)),
		ROW(x_int, 0, EX_GP(0)), ROW(x_int, 3, EX_GP(0x21 * 8 + 2)), ROW(x_iret, 0, EX_GP(0)), ROW(x_hlt, 3, EX_GP(0)),
		ROW(x_cr0, 3, EX_GP(0)), ROW(x_lgdt, 3, EX_GP(0)), ROW(x_lmsw, 3, EX_GP(0)), ROW(x_clts, 3, EX_GP(0)),
		ROW(x_rdmsr, 3, EX_GP(0)), ROW(x_sldt, 3, EX_UD), ROW(x_str, 3, EX_UD), ROW(x_lar, 3, EX_UD), ROW(x_arpl, 3, EX_UD),
		ROW(x_verr, 3, EX_UD),
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct legacy l;
		uint64_t ex = run_86(rows[i].code, rows[i].end, rows[i].iopl, &l);

		if (ex != rows[i].want || l.eip)
			test_failure(__FILE__, __LINE__, "%s under IOPL %u: %s at 0x%x", rows[i].name, rows[i].iopl, ex_name(ex), l.eip);
		SAME(l.eflags & FLAG_VM, FLAG_VM);
	}
}

static void limits(void)
{
	struct legacy l;

	EXPECT(RUN_86(w_word, 3, &l), EX_GP(0));
	EXPECT(RUN_86(w_stack, 3, &l), EX_SS(0));
	EXPECT(RUN_86(w_wide, 3, &l), EX_GP(0));
}

/* The bitmap decides, whatever IOPL is. */
static void ports(void)
{
	struct tss *tss = cpu_tss();
	uint8_t before[sizeof(tss->io_bitmap)];
	uint16_t base = tss->io_base;
	struct legacy l;

	memcpy(before, tss->io_bitmap, sizeof(before));
	tss->io_base = 0xffff;
	EXPECT(RUN_86(x_in, 3, &l), EX_GP(0));
	tss->io_base = (uint16_t)offsetof(struct tss, io_bitmap);
	memset(tss->io_bitmap, 0, sizeof(tss->io_bitmap));
	EXPECT(RUN_86(w_out, 0, &l), EX_GP(0)); /* the int behind it */
	SAME(l.eip, (uint64_t)(w_out_end - w_out) - 2);
	tss->io_bitmap[0x80 / 8] = 1;
	EXPECT(RUN_86(w_out, 3, &l), EX_GP(0));
	SAME(l.eip, 3);
	memcpy(tss->io_bitmap, before, sizeof(before));
	tss->io_base = base;
}

CODE(v_cr4, "mov %rdi, %cr4\n\t" DONE);

static void no_vme(void)
{
	if (cpu_has(1, EDX, 1)) {
		test_skip("VME is there");
		return;
	}
	EXPECT(run0(v_cr4, cr4_get() | CR4_VME), EX_GP(0));
}

TESTS({"plain code", plain_code}, {"flags under IOPL", flags_under_iopl}, {"what is refused", refused}, {"limits", limits},
      {"ports", ports}, {"no VME where CPUID has none", no_vme});
