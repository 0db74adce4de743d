/* Outside long mode: real mode, 32-bit protected mode and its two kinds of paging, and the ways between. */
#include "legacy.h"

/* ---- protected mode ------------------------------------------------------------------------ */

CODE_32(c_plain, "mov $0x12345678, %eax\n\tinc %eax\n\tmov %cs, %ecx\n\tpush %eax\n\tpop %edx\n\tmov %cr0, %ebx\n\t" DONE);
CODE_32(c_ud, "ud2\n\t");
CODE_32(c_load, "c_load_at: mov (%esi), %eax\n\t" DONE);
CODE_32(c_store, "mov %eax, (%edi)\n\t" DONE);
CODE_32(c_wrap, "mov $0xfffffffc, %esi\n\tmov 8(%esi), %eax\n\t" DONE);
CODE_32(c_lgdt, "sgdt (%edi)\n\tsidt 8(%edi)\n\t" DONE);
CODE_32(c_iret, "pushf\n\tpush %cs\n\tpush $1f\n\tiret\n\tud2\n\t1: mov $1, %eax\n\t" DONE);
CODE_32(c_far, "lcall $0x30, $2f\n\tadd $10, %eax\n\t" DONE "2: mov $1, %eax\n\tlret\n\t");
CODE_32(c_based, "mov $0x58, %eax\n\tmov %eax, %fs\n\tmov %fs:4(%esi), %eax\n\tmov %fs, %ecx\n\t" DONE);
CODE_32(c_sp16, "mov %esp, %ebx\n\tmov $0x60, %eax\n\tmov %eax, %ss\n\tmov $0x12347000, %esp\n\tpush $0x55667788\n\tmov %esp, %ecx\n\tpopw %ax\n\tpopw %dx\n\tmov $0x10, %esi\n\tmov %esi, %ss\n\tmov %ebx, %esp\n\t" DONE);
CODE_32(c_pusha, "mov $1, %eax\n\tmov $2, %ecx\n\tpusha\n\taddl $5, 28(%esp)\n\tpopa\n\tpush %eax\n\tpushw $3\n\tpopw %cx\n\tpop %edx\n\t" DONE);

static void protected_mode(void)
{
	struct legacy l = in_32(c_plain);
	uint32_t *page = page_alloc();

	l.ecx = l.edx = ~0u;
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eax, 0x12345679);
	SAME(l.edx, 0x12345679);
	SAME(l.ecx & 0xffff, SEL_CODE32);
	SAME(l.ebx, CR0_32);
	l = in_32(c_ud);
	EXPECT(run_32(&l), EX_UD);
	SAME(l.eip, (uint64_t)c_ud);
	SAME(l.cs & 0xffff, SEL_CODE32);
	l = in_32(c_iret);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eax, 1);
	l = in_32(c_far);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eax, 11);
	/* A base is added, and the sum is 32 bits wide. */
	uint64_t base = 0xfff00000u + (uint32_t)(uint64_t)page;
	cpu_gdt()[0x58 / 8] = 0x00cf93000000fffful | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
	page[1] = 0xabcd;
	l = in_32(c_based);
	l.esi = 0x100000;
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eax, 0xabcd);
	cpu_gdt()[0x58 / 8] = 0;
	l = in_32(c_wrap);
	EXPECT(run_32(&l), EX_DONE);
	/* A 16-bit stack segment moves sp alone. */
	l = in_32(c_sp16);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.ecx, 0x12346ffc);
	SAME(l.eax & 0xffff, 0x7788);
	SAME(l.edx & 0xffff, 0x5566);
	l = in_32(c_pusha);
	EXPECT(run_32(&l), EX_DONE);
	SAME(l.eax, 6);
	SAME(l.ecx & 0xffff, 3);
	SAME(l.edx, 6);
	l = in_32(c_lgdt);
	l.edi = (uint32_t)(uint64_t)page;
	EXPECT(run_32(&l), EX_DONE);
	SAME((uint16_t)page[0], GDT_SLOTS * 8 - 1);
	SAME(*(uint32_t *)((char *)page + 2), (uint32_t)(uint64_t)cpu_gdt());
}

/* ---- 32-bit paging ------------------------------------------------------------------------------ */

#define W 0x40000000u /* a 4 MiB, or 2 MiB, window that tests map */

/* 4 MiB pages of identity; W's entry leads to pt. */
static uint32_t *tables_32(uint32_t **ret_pt)
{
	uint32_t *pd = page_alloc(), *pt = page_alloc();

	for (uint32_t i = 0; i < 1024; i++)
		pd[i] = i << 22 | 0x87;
	pd[W >> 22] = (uint32_t)(uint64_t)pt | 7;
	*ret_pt = pt;
	return pd;
}

static struct legacy paged(const void *code, const void *root, uint32_t cr4, uint32_t efer)
{
	struct legacy l = in_32(code);

	l.cr0 |= CR0_PG;
	l.cr3 = (uint32_t)(uint64_t)root;
	l.cr4 = cr4;
	l.efer = efer;
	return l;
}

static uint64_t touch(const void *code, const void *root, uint32_t cr4, uint32_t efer, uint32_t at)
{
	struct legacy l = paged(code, root, cr4, efer);
	uint64_t ex;

	l.esi = l.edi = at;
	l.eax = 0x99;
	ex = run_32(&l);
	last_cr2 = l.cr2;
	last_value = l.eax;
	return ex;
}

CODE_32(c_jump, "jmp *%esi\n\t");

static void paging_32(void)
{
	uint32_t *pt, *pd = tables_32(&pt), *page = page_alloc();

	page[0] = 0x1234;
	EXPECT(touch(c_load, pd, CR4_PSE, 0, W), EX_PF(0));
	SAME(last_cr2, W);
	EXPECT(touch(c_store, pd, CR4_PSE, 0, W + 5), EX_PF(PF_W));
	SAME(last_cr2, W + 5);
	EXPECT(touch(c_jump, pd, CR4_PSE, 0, W), EX_PF(0)); /* no I bit without NX */
	pt[0] = (uint32_t)(uint64_t)page | 1;
	EXPECT(touch(c_load, pd, CR4_PSE, 0, W), EX_DONE);
	SAME(last_value, 0x1234);
	SAME(pt[0] & 0x60, 0x20);
	SAME(pd[W >> 22] & 0x60, 0x20);
	EXPECT(touch(c_store, pd, CR4_PSE, 0, W), EX_PF(PF_P | PF_W)); /* WP */
	SAME(pt[0] & 0x40, 0);
	struct legacy l = paged(c_store, pd, CR4_PSE, 0);
	l.cr0 &= ~0x10000u;
	l.edi = W;
	l.eax = 0x55;
	EXPECT(run_32(&l), EX_DONE);
	SAME(page[0], 0x55);
	SAME(pt[0] & 0x60, 0x60);
	pt[0] = (uint32_t)(uint64_t)page | 3;
	EXPECT(touch(c_store, pd, CR4_PSE, 0, W), EX_DONE);
	SAME(page[0], 0x99);
	SAME(pt[0] & 0x60, 0x60);
	/* A 4 MiB page; without PSE its bit means nothing. */
	*(uint32_t *)(large_page + 0x1234) = 0xfeed;
	uint32_t big = (uint32_t)(uint64_t)large_page & ~0x3fffffu, off = (uint32_t)(uint64_t)large_page - big;
	pd[W >> 22] = big | 0x83;
	EXPECT(touch(c_load, pd, CR4_PSE, 0, W + off + 0x1234), EX_DONE);
	SAME(last_value, 0xfeed);
	SAME(pd[W >> 22] & 0x60, 0x20);
	EXPECT(touch(c_store, pd, CR4_PSE, 0, W + off + 0x1234), EX_DONE);
	SAME(pd[W >> 22] & 0x60, 0x60);
	pd[W >> 22] = big | 0x200083; /* bit 21 is reserved */
	EXPECT(touch(c_load, pd, CR4_PSE, 0, W), EX_PF(PF_P | PF_RSVD));
	/* Across the end of the address space. */
	pd[W >> 22] = (uint32_t)(uint64_t)pt | 7;
	pt[1] = 0;
	EXPECT(touch(c_load, pd, CR4_PSE, 0, W + 0xffe), EX_PF(0));
	SAME(last_cr2, W + 0x1000);
}

/* Four page directories of 2 MiB pages; W's entry leads to pt. */
static uint64_t *tables_pae(uint64_t **ret_pd, uint64_t **ret_pt)
{
	uint64_t *pdpt = page_alloc(), *pd = pages_alloc(4), *pt = page_alloc();

	for (uint64_t i = 0; i < 2048; i++)
		pd[i] = i << 21 | 0x87;
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = (uint64_t)(pd + 512 * i) | 1;
	pd[W >> 21] = (uint64_t)pt | 7;
	*ret_pd = pd;
	*ret_pt = pt;
	return pdpt;
}

static void paging_pae(void)
{
	uint64_t *pd, *pt, *pdpt = tables_pae(&pd, &pt);
	uint32_t *page = page_alloc();
	uint32_t id[4];

	page[0] = 0x1234;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(0));
	SAME(last_cr2, W);
	EXPECT(touch(c_jump, pdpt, CR4_PAE, 0, W), EX_PF(0));
	EXPECT(touch(c_jump, pdpt, CR4_PAE, EFER_NXE, W), EX_PF(PF_I));
	pt[0] = (uint64_t)page | 3;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_DONE);
	SAME(last_value, 0x1234);
	SAME(pt[0] & 0x60, 0x20);
	SAME(pd[W >> 21] & 0x60, 0x20);
	SAME(pdpt[W >> 30] & 0x60, 0); /* no A there */
	EXPECT(touch(c_store, pdpt, CR4_PAE, 0, W), EX_DONE);
	SAME(pt[0] & 0x60, 0x60);
	pt[0] = (uint64_t)page | 3 | PTE_NX;
	EXPECT(touch(c_load, pdpt, CR4_PAE, EFER_NXE, W), EX_DONE);
	EXPECT(touch(c_jump, pdpt, CR4_PAE, EFER_NXE, W), EX_PF(PF_P | PF_I));
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(PF_P | PF_RSVD));
	/* 2 MiB. */
	*(uint32_t *)(large_page + 0x1234) = 0xfeed;
	pd[W >> 21] = (uint64_t)large_page | 0x83;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W + 0x1234), EX_DONE);
	SAME(last_value, 0xfeed);
	EXPECT(touch(c_store, pdpt, CR4_PAE, 0, W + 0x1234), EX_DONE);
	SAME(pd[W >> 21] & 0x60, 0x60);
	pd[W >> 21] = (uint64_t)large_page | 0x2083;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(PF_P | PF_RSVD));
	cpuid(0x80000008, 0, id);
	if ((id[0] & 0xff) < 52) {
		pd[W >> 21] = (uint64_t)pt | 7 | 1ul << (id[0] & 0xff);
		EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(PF_P | PF_RSVD));
	}
	pd[W >> 21] = (uint64_t)pt | 7 | 1ul << 60;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(PF_P | PF_RSVD));
	/* A directory pointer that is not present. */
	pdpt[W >> 30] = 0;
	EXPECT(touch(c_load, pdpt, CR4_PAE, 0, W), EX_PF(0));
}

CODE_32(c_toggle, "mov %cr0, %eax\n\tmov $100, %ecx\n\t1: and $0x7fffffff, %eax\n\tmov %eax, %cr0\n\tincl (%edi)\n\tor $0x80000000, %eax\n\tmov %eax, %cr0\n\tincl (%esi)\n\tloop 1b\n\t" DONE);

/* Paging off and on again: linear addresses change their meaning each time. */
static void paging_on_and_off(void)
{
	uint32_t *pt, *pd = tables_32(&pt), *page = page_alloc(), *low = page_alloc();
	struct legacy l = paged(c_toggle, pd, CR4_PSE, 0);

	pt[0] = (uint32_t)(uint64_t)page | 3;
	l.esi = W;
	l.edi = (uint32_t)(uint64_t)low;
	EXPECT(run_32(&l), EX_DONE);
	SAME(page[0], 100);
	SAME(low[0], 100);
}

CODE(long_again, "mov $0x123456789a, %rax\n\tpush %rax\n\tpop %rcx\n\tmov %cr0, %rax\n\t" DONE);

static void there_and_back(void)
{
	for (unsigned i = 0; i < 50; i++) {
		struct legacy l = in_32(c_plain);

		EXPECT(run_32(&l), EX_DONE);
		EXPECT(run0(long_again, 0), EX_DONE);
	}
}

/* ---- real mode ---------------------------------------------------------------------------------------- */

CODE_16(m_plain, "mov $0x1234, %ax\n\tadd $0x1111, %ax\n\tmov %cs, %cx\n\tsmsw %dx\n\tpush %sp\n\tpop %bx");
CODE_16(m_call, "mov $5, %ax\n\tcall 1f\n\tadd $1, %ax\n\tjmp 2f\n\t1: shl $1, %ax\n\tret\n\t2: push %cs\n\tcall 3f\n\tadd $100, %ax\n\tjmp 4f\n\t3: add $1000, %ax\n\tlret\n\t4: nop");
CODE_16(m_segments, "mov $0x1000, %ax\n\tmov %ax, %ds\n\tmovb $0x77, 0x10\n\tmov $0x0fff, %ax\n\tmov %ax, %es\n\tmovb %es:0x20, %cl\n\tmov $0xffff, %ax\n\tmov %ax, %fs\n\tmov %fs:0x10, %dl");
CODE_16(m_wrap, "mov $0xb00, %ax\n\tmov %ax, %ds\n\tmov $0xfffe, %bx\n\tmovb $0x42, 4(%bx)\n\tmovb 2, %cl\n\tmov $0xffff, %si\n\tmov $3, %bx\n\tmovb (%bx,%si), %dl");
CODE_16(m_string, "mov $0xb00, %ax\n\tmov %ax, %es\n\tmov $0xfffe, %di\n\tmov $0xabcd0004, %ecx\n\tmov $0x5a, %al\n\tcld\n\trep stosb\n\tmovb %es:1, %dl");
CODE_16(m_loop, "mov $0x10003, %ecx\n\txor %ax, %ax\n\t1: inc %ax\n\tloop 1b\n\tjcxz 2f\n\tmov $99, %ax\n\t2: nop");
CODE_16(m_div, "mov $7, %ax\n\txor %dx, %dx\n\txor %bx, %bx\n\tm_div_at: div %bx");
CODE_16(m_int3, "sti\n\tstc\n\tint3\n\tm_int3_at: nop");
CODE_16(m_32, "mov $0x12345678, %eax\n\tpush %eax\n\tpop %cx\n\tpop %dx\n\tmovl $0xb000, %ebx\n\tmovl $0xcafe, 4(%ebx)\n\tmovzwl 4(%ebx), %esi");
CODE_16(m_iret, "pushf\n\tpush %cs\n\tpush $1f - m_iret\n\tiret\n\tud2\n\t1: mov $3, %ax");
CODE_16(m_iret_flags, "pushw $0x0ed7\n\tpush %cs\n\tpush $1f - m_iret_flags\n\tiret\n\t1: nop");
CODE_16(m_les, "movw $0x1234, 0xb000\n\tmovw $0x0b00, 0xb002\n\tles 0xb000, %di\n\tmov %es, %ax\n\tmov %di, %cx");
CODE_16(m_ljmp, "ljmp $0xa01, $1f - m_ljmp - 16\n\tud2\n\t.skip 16\n\t1: mov %cs, %ax");
CODE_16(m_into, "mov $0x7f, %al\n\tadd $1, %al\n\tinto\n\tm_into_at: nop");
CODE_16(m_pusha, "mov $1, %ax\n\tmov $2, %cx\n\tpusha\n\tmov %sp, %bp\n\taddw $7, 14(%bp)\n\tpopa\n\tenter $8, $0\n\tmov %sp, %bx\n\tleave");
CODE_16(m_smc, "movb $9, %cs:1f - m_smc + 1\n\t1: mov $1, %al");
CODE_16(m_ud, "m_ud_at: ud2");
CODE_16(m_big, "movl $0x1c00000, %ebx\n\tmovl $0x13572468, 0x40(%ebx)\n\tmovl 0x40(%ebx), %eax");
CODE_16(m_a20, "mov $0xffff, %ax\n\tmov %ax, %es\n\tmovb $0x11, %es:0x9010\n\tin $0x92, %al\n\tand $0xfd, %al\n\tout %al, $0x92\n\tmovb $0x22, %es:0x9010\n\tor $2, %al\n\tout %al, $0x92\n\tmovb %es:0x9010, %cl");
CODE_16(m_pm, "cli\n\tmov %cr0, %eax\n\tor $1, %al\n\tmov %eax, %cr0\n\tmov %cs, %bx\n\tjmp 1f\n\t1: and $0xfe, %al\n\tmov %eax, %cr0\n\tjmp 2f\n\t2: mov $0x77, %cx");
LABEL(m_div_at);
LABEL(m_int3_at);
LABEL(m_into_at);
LABEL(m_ud_at);

static void real_mode(void)
{
	struct real r;
	uint8_t *low = (uint8_t *)0xb000;

	big_real = 0;
	r = RUN_16(m_plain);
	SAME(r.vector, VECTOR_DONE);
	SAME(r.eax & 0xffff, 0x2345);
	SAME(r.ecx & 0xffff, REAL_CODE >> 4);
	SAME(r.edx & 1, 0);
	SAME(r.ebx & 0xffff, REAL_STACK);
	SAME(r.cs, REAL_CODE >> 4);
	SAME(r.ip, (uint64_t)(m_plain_end - m_plain));
	SAME(r.sp, REAL_STACK);
	r = RUN_16(m_call);
	SAME(r.eax & 0xffff, 1111);
	*(uint8_t *)0x100000 = 0x99;
	r = RUN_16(m_segments);
	SAME(*(uint8_t *)0x10010, 0x77);
	SAME(r.ecx & 0xff, 0x77);
	SAME(r.edx & 0xff, 0x99);
	memset(low, 0, PAGE);
	low[2] = 0x61;
	r = RUN_16(m_wrap);
	SAME(low[2], 0x42);
	SAME(r.ecx & 0xff, 0x42);
	SAME(r.edx & 0xff, 0x42);
	memset(low, 0, PAGE);
	r = RUN_16(m_string);
	SAME(low[0], 0x5a);
	SAME(low[1], 0x5a);
	SAME(low[2], 0);
	SAME(*(uint8_t *)0x1afff, 0x5a);
	SAME(r.ecx, 0xabcd0000);
	SAME(r.edi & 0xffff, 2);
	SAME(r.edx & 0xff, 0x5a);
	r = RUN_16(m_loop);
	SAME(r.eax & 0xffff, 3);
	SAME(r.ecx, 0x10000);
	r = RUN_16(m_32);
	SAME(r.ecx & 0xffff, 0x5678);
	SAME(r.edx & 0xffff, 0x1234);
	SAME(r.esi, 0xcafe);
	r = RUN_16(m_les);
	SAME(r.eax & 0xffff, 0xb00);
	SAME(r.ecx & 0xffff, 0x1234);
	r = RUN_16(m_ljmp);
	SAME(r.eax & 0xffff, 0xa01);
	r = RUN_16(m_pusha);
	SAME(r.eax & 0xffff, 8);
	SAME(r.ecx & 0xffff, 2);
	SAME(r.ebx & 0xffff, REAL_STACK - 10);
	SAME(r.sp, REAL_STACK);
	r = RUN_16(m_smc);
	SAME(r.eax & 0xff, 9);
}

static void real_mode_interrupts(void)
{
	struct real r;

	big_real = 0;
	r = RUN_16(m_div);
	SAME(r.vector, VEC_DE);
	SAME(r.ip, (uint64_t)(m_div_at - m_div));
	SAME(r.sp, REAL_STACK);
	r = RUN_16(m_int3);
	SAME(r.vector, VEC_BP);
	SAME(r.ip, (uint64_t)(m_int3_at - m_int3));
	SAME(r.flags & (FLAG_IF | FLAG_CF), FLAG_IF | FLAG_CF);
	SAME(r.handler_flags & (FLAG_IF | FLAG_TF), 0);
	r = RUN_16(m_into);
	SAME(r.vector, VEC_OF);
	SAME(r.ip, (uint64_t)(m_into_at - m_into));
	r = RUN_16(m_ud);
	SAME(r.vector, VEC_UD);
	SAME(r.ip, (uint64_t)(m_ud_at - m_ud));
	r = RUN_16(m_iret);
	SAME(r.vector, VECTOR_DONE);
	SAME(r.eax & 0xffff, 3);
	r = RUN_16(m_iret_flags);
	SAME(r.flags, 0x0ed7);
}

static void big_real_mode(void)
{
	struct real r;

	big_real = 1;
	*(uint32_t *)(large_page + 0x40) = 0;
	r = RUN_16(m_big);
	SAME(r.vector, VECTOR_DONE);
	SAME(r.eax, 0x13572468);
	SAME(*(uint32_t *)(large_page + 0x40), 0x13572468);
	big_real = 0;
}

static void a20_gate(void)
{
	struct real r;
	uint8_t *wrapped = (uint8_t *)0x9000, saved;

	big_real = 0;
	/* 0xffff:0x9010 is 0x109000, or 0x9000 without the gate: there lie instructions that have run already. */
	saved = *wrapped;
	r = RUN_16(m_a20);
	SAME(r.vector, VECTOR_DONE);
	SAME(r.ecx & 0xff, 0x11);
	SAME(*(uint8_t *)0x109000, 0x11);
	SAME(*wrapped, 0x22);
	*wrapped = saved;
}

/* Into protected mode and out again without loading cs: real mode goes on in the same segment. */
static void a_glimpse_of_protected_mode(void)
{
	struct real r;

	big_real = 0;
	r = RUN_16(m_pm);
	SAME(r.vector, VECTOR_DONE);
	SAME(r.ebx & 0xffff, REAL_CODE >> 4);
	SAME(r.ecx & 0xffff, 0x77);
}

TESTS({"protected mode", protected_mode}, {"32-bit paging", paging_32}, {"PAE paging", paging_pae}, {"paging on and off", paging_on_and_off},
      {"there and back", there_and_back}, {"real mode", real_mode}, {"real-mode interrupts", real_mode_interrupts},
      {"big real mode", big_real_mode}, {"the A20 gate", a20_gate}, {"a glimpse of protected mode", a_glimpse_of_protected_mode});
