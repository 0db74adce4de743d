/* Code that changes: itself, other pages, through aliases, under mappings that change. */
#include "k.h"

#define VA TEST_VA

/* mov $imm32, %eax; ret */
static void put_mov(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static uint32_t call(uint64_t at)
{
	uint32_t value;

	__asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	return value;
}

/* ---- in one page ---------------------------------------------------------------------- */

CODE(own_ahead, "movb $2, 1f+1(%rip)\n\t1: mov $1, %eax\n\t" DONE);
CODE(own_behind, "xor %ecx, %ecx\n\t1: mov $1, %eax\n\tadd %eax, %ecx\n\tmovb $5, 1b+1(%rip)\n\tcmp $6, %ecx\n\tjb 1b\n\t" DONE);
CODE(own_far_ahead, "movl $0x00000003, 1f+1(%rip)\n\tjmp 2f\n\t.skip 300, 0x90\n\t2: nop\n\t1: mov $1, %eax\n\t" DONE);
CODE(own_string, "lea 1f(%rip), %rdi\n\tlea 2f(%rip), %rsi\n\tmov $5, %ecx\n\trep movsb\n\t1: mov $1, %eax\n\t" DONE "2: mov $9, %eax\n\t");
CODE(own_push, "lea 1f+8(%rip), %rax\n\tmov %rsp, %rbx\n\tmov %rax, %rsp\n\tmovabs $0x9090909090900cb0, %rax\n\tpush %rax\n\t1: mov $1, %al\n\t.skip 6, 0x90\n\tmov %rbx, %rsp\n\tmov %al, %cl\n\t" DONE);
CODE(own_loop, "mov $100, %ecx\n\txor %eax, %eax\n\t1: add $1, %eax\n\tincb 1b+2(%rip)\n\tdec %ecx\n\tjnz 1b\n\tmovb $1, 1b+2(%rip)\n\t" DONE);
CODE(own_lock, "lock incb 1f+1(%rip)\n\t1: mov $1, %eax\n\t" DONE);
CODE(own_sse, "movups 2f(%rip), %xmm0\n\tmovups %xmm0, 1f(%rip)\n\t1: .skip 16, 0x90\n\t" DONE "2: mov $0x44, %eax\n\t.skip 11, 0x90\n\t");
CODE(own_stos, "mov $0x90, %eax\n\tlea 1f(%rip), %rdi\n\tmov $5, %ecx\n\trep stosb\n\t1: mov $1, %eax\n\t" DONE);
CODE(own_xchg, "mov $0x33, %al\n\txchg %al, 1f+1(%rip)\n\t1: mov $1, %eax\n\t" DONE);
CODE(own_call, "movl $0x0000000b, 1f+1(%rip)\n\tcall 1f\n\t" DONE "1: mov $1, %eax\n\tret\n\t");
CODE(own_flags, "stc\n\tmovb $0x90, 1f(%rip)\n\t1: clc\n\tsetc %al\n\tmovzbl %al, %eax\n\t" DONE);

static void same_block(void)
{
	static const struct {
		const char *name;
		char *code;
		uint64_t want;
	} rows[] = {
		{"store ahead", own_ahead, 2}, {"store behind", own_behind, 5}, {"store far ahead", own_far_ahead, 3}, {"rep movs", own_string, 9},
		{"push", own_push, 0x9090909090900c0c}, {"a hundred times", own_loop, 5050}, {"lock", own_lock, 2}, {"16 bytes", own_sse, 0x44},
		{"rep stos", own_stos, 0x90}, {"xchg", own_xchg, 0x33}, {"across a call", own_call, 11}, {"clc becomes nop", own_flags, 1},
	};
	static uint8_t saved[512];

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned ring = 0; ring <= 3; ring += 3) {
			struct regs r;
			uint64_t ex;

			memcpy(saved, rows[i].code, sizeof(saved));
			for (unsigned times = 0; times < 3; times++) {
				r = ring ? regs3(rows[i].code) : regs0(rows[i].code);
				r.rax = 0;
				ex = run_regs(&r);
				if (ex != EX_DONE || (rows[i].code == own_push ? (uint8_t)r.rcx != 0x0c : r.rax != rows[i].want))
					test_failure(__FILE__, __LINE__, "%s at %u: %s, rax 0x%lx, not 0x%lx", rows[i].name, ring, ex_name(ex),
						     r.rax, rows[i].want);
				memcpy(rows[i].code, saved, sizeof(saved));
			}
		}
}

static void patched_many_times(void)
{
	uint8_t *page = page_alloc();

	for (uint32_t i = 0; i < 2000; i++) {
		put_mov(page + 64, i);
		SAME(call((uint64_t)page + 64), i);
	}
	/* One byte each time, called from a loop that stays. */
	for (uint32_t i = 0; i < 2000; i++) {
		page[65] = (uint8_t)i;
		SAME((uint8_t)call((uint64_t)page + 64), (uint8_t)i);
	}
}

/* Data beside the code: thousands of stores must be right, and must not take for ever. */
static void data_in_the_code_page(void)
{
	uint8_t *page = page_alloc();
	volatile uint32_t *counter = (uint32_t *)(page + 2048);

	put_mov(page, 7);
	for (uint32_t i = 0; i < 20000; i++) {
		(*counter)++;
		if (i % 64 == 0)
			SAME(call((uint64_t)page), 7);
	}
	SAME(*counter, 20000);
}

/* ---- other pages, aliases -------------------------------------------------------------- */

static void through_an_alias(void)
{
	uint8_t *page = page_alloc();

	map(VA, page, PTE_P | PTE_W);
	map(VA + 5 * PAGE, page, PTE_P | PTE_W | PTE_NX);
	for (uint32_t i = 0; i < 50; i++) {
		put_mov((uint8_t *)VA + 5 * PAGE + 100, i);
		SAME(call(VA + 100), i);
		SAME(call((uint64_t)page + 100), i);
		put_mov(page + 100, i + 1000);
		SAME(call(VA + 100), i + 1000);
	}
	/* The alias was written before the page held code. */
	page = page_alloc();
	map(VA, page, PTE_P | PTE_W);
	*(volatile uint8_t *)(VA + 1) = 1;
	put_mov(page, 1);
	SAME(call((uint64_t)page), 1);
	put_mov((uint8_t *)VA, 2);
	SAME(call((uint64_t)page), 2);
	/* Through a large page. */
	put_mov(large_page + 0x1234, 3);
	SAME(call((uint64_t)large_page + 0x1234), 3);
	map_at(VA + 0x40000000, (uint64_t)large_page, PTE_P | PTE_W, 2);
	put_mov((uint8_t *)VA + 0x40000000 + 0x1234, 4);
	SAME(call((uint64_t)large_page + 0x1234), 4);
}

/* An instruction that lies across two pages, patched on either side. */
static void page_crossing_instruction(void)
{
	uint8_t *pages = pages_alloc(2);

	for (unsigned in = 1; in <= 4; in++) {
		uint8_t *at = pages + PAGE - in;

		put_mov(at, 0x11223344);
		SAME(call((uint64_t)at), 0x11223344);
		for (unsigned byte = 1; byte <= 4; byte++) {
			uint32_t want;

			at[byte] = (uint8_t)(0x50 + byte);
			memcpy(&want, at + 1, 4);
			SAME(call((uint64_t)at), want);
		}
		/* And the block in front of it. */
		memset(pages + PAGE - 64, 0x90, 64 - in);
		SAME(call((uint64_t)pages + PAGE - 64), *(uint32_t *)(at + 1));
		at[4]++;
		SAME(call((uint64_t)pages + PAGE - 64), *(uint32_t *)(at + 1));
	}
}

static void copied_over(void)
{
	uint8_t *page = page_alloc(), *source = page_alloc();

	for (uint32_t i = 0; i < 100; i++) {
		memset(source, 0x90, 200);
		put_mov(source + i, i);
		memcpy(page, source, PAGE); /* rep movsb of a page */
		SAME(call((uint64_t)page), i);
		for (unsigned k = 0; k < PAGE / 8; k++)
			((volatile uint64_t *)page)[k] = 0x9090909090909090;
		put_mov(page + 300, i + 5);
		SAME(call((uint64_t)page), i + 5);
	}
}

/* A conditional jump's target changes while flags are live into it: liveness must not be remembered. */
static void flags_into_patched_code(void)
{
	static const uint8_t code[] = {
		0x83, 0xff, 0x05,       /* cmp $5, %edi */
		0xeb, 0x0e,             /* jmp +14 */
	};
	static const uint8_t kills[] = {0x31, 0xc0, 0xc3};                         /* xor %eax, %eax; ret */
	static const uint8_t reads[] = {0x0f, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, 0xc3}; /* sete %al; movzbl %al, %eax; ret */
	uint8_t *page = page_alloc();
	uint32_t value;

	memcpy(page, code, sizeof(code));
	for (int i = 0; i < 4; i++) {
		memcpy(page + 19, kills, sizeof(kills));
		__asm__ volatile("call *%1" : "=a"(value) : "r"(page), "D"(5) : "memory", "cc");
		SAME(value, 0);
		memcpy(page + 19, reads, sizeof(reads));
		__asm__ volatile("call *%1" : "=a"(value) : "r"(page), "D"(5) : "memory", "cc");
		SAME(value, 1);
		__asm__ volatile("call *%1" : "=a"(value) : "r"(page), "D"(6) : "memory", "cc");
		SAME(value, 0);
	}
}

/* ---- mappings that change under a transfer ------------------------------------------------- */

enum how { DIRECT_CALL, INDIRECT_CALL, DIRECT_JMP, RETURN, FALL_THROUGH, CONDITIONAL, HOW_COUNT };

/* At VA: code that goes to VA + PAGE in one of several ways; there, one of two pages. */
static void put_transfer(uint8_t *page, enum how how)
{
	uint8_t *p = page + 0x800;
	int32_t rel;
	static const uint8_t nop_fill = 0x90;

	switch (how) {
	case DIRECT_CALL: /* call; ret */
		rel = (int32_t)(PAGE - 0x800 - 5);
		*p++ = 0xe8;
		memcpy(p, &rel, 4);
		p[4] = 0xc3;
		break;
	case INDIRECT_CALL: /* call *%rdi; ret */
		memcpy(p, "\xff\xd7\xc3", 3);
		break;
	case DIRECT_JMP:
		rel = (int32_t)(PAGE - 0x800 - 5);
		*p++ = 0xe9;
		memcpy(p, &rel, 4);
		break;
	case RETURN: /* push %rdi; ret */
		memcpy(p, "\x57\xc3", 2);
		break;
	case CONDITIONAL: /* cmp %eax, %eax; je */
		memcpy(p, "\x39\xc0\x0f\x84", 4);
		rel = (int32_t)(PAGE - 0x800 - 8);
		memcpy(p + 4, &rel, 4);
		break;
	default: memset(p, nop_fill, PAGE - 0x800);
	}
}

static void mapping_changes_under_a_transfer(void)
{
	uint8_t *from = page_alloc(), *a = page_alloc(), *b = page_alloc();
	uint64_t *other = page_alloc(), old = cr3_get();

	memcpy(other, (void *)old, PAGE);
	put_mov(a, 0xa);
	put_mov(b, 0xb);
	for (enum how how = 0; how < HOW_COUNT; how++) {
		uint64_t *e;
		uint32_t value;

		put_transfer(from, how);
		map(VA, from, PTE_P | PTE_W);
		e = map(VA + PAGE, a, PTE_P);
#define GO(want)                                                                                                                     \
	__asm__ volatile("call *%1" : "=a"(value) : "r"(VA + 0x800), "D"(VA + PAGE) : "rcx", "memory", "cc");                         \
	if (value != (want))                                                                                                         \
	test_failure(__FILE__, __LINE__, "way %u: 0x%x, not 0x%x", how, value, want)
		for (int i = 0; i < 5; i++) {
			GO(0xau);
			*e = (uint64_t)b | PTE_P;
			invlpg(VA + PAGE);
			GO(0xbu);
			*e = (uint64_t)a | PTE_P;
			cr3_set(old);
			GO(0xau);
		}
		/* Two address spaces: the same code at VA, different pages behind it. */
		cr3_set((uint64_t)other);
		other[TEST_VA >> 39 & 511] = 0;
		cr3_set((uint64_t)other);
		map(VA, from, PTE_P | PTE_W);
		map(VA + PAGE, b, PTE_P);
		for (int i = 0; i < 5; i++) {
			cr3_set((uint64_t)other);
			GO(0xbu);
			cr3_set(old);
			GO(0xau);
		}
		/* The page is gone: the fault names the target. */
		*e = 0;
		invlpg(VA + PAGE);
		struct regs r = regs0((void *)(VA + 0x800));
		r.rdi = VA + PAGE;
		EXPECT(run_regs(&r), EX_PF(PF_I));
		SAME(r.rip, VA + PAGE);
		SAME(r.cr2, VA + PAGE);
		unmap_test_area();
		other[TEST_VA >> 39 & 511] = 0;
	}
}

/* The same physical code at two addresses: rip-relative operands, calls and lea mean something else at each. */
static void one_page_at_two_addresses(void)
{
	static const uint8_t code[] = {
		0x8b, 0x05, 0xfa, 0x0f, 0x00, 0x00,       /* mov 0xffa(%rip), %eax: the next page's first word */
		0x48, 0x8d, 0x15, 0xf3, 0xff, 0xff, 0xff, /* lea -13(%rip), %rdx: own start */
		0xe8, 0x01, 0x00, 0x00, 0x00,             /* call +1 */
		0xc3,                                     /* ret */
		0x48, 0x8b, 0x0c, 0x24,                   /* mov (%rsp), %rcx */
		0xc3,
	};
	uint8_t *page = page_alloc();
	uint32_t *first = page_alloc(), *second = page_alloc();

	memcpy(page, code, sizeof(code));
	*first = 1;
	*second = 2;
	map(VA, page, PTE_P);
	map(VA + PAGE, first, PTE_P);
	map(VA + 16 * PAGE, page, PTE_P);
	map(VA + 17 * PAGE, second, PTE_P);
	for (int i = 0; i < 5; i++) {
		uint64_t start, ret;
		uint32_t value;

		__asm__ volatile("call *%3" : "=a"(value), "=d"(start), "=c"(ret) : "r"(VA) : "memory", "cc");
		SAME(value, 1);
		SAME(start, VA);
		SAME(ret, VA + 18);
		__asm__ volatile("call *%3" : "=a"(value), "=d"(start), "=c"(ret) : "r"(VA + 16 * PAGE) : "memory", "cc");
		SAME(value, 2);
		SAME(start, VA + 16 * PAGE);
		SAME(ret, VA + 16 * PAGE + 18);
	}
}

/* Code in a page whose A bit, and nothing else, changes; and code fetched through a page just made executable. */
static void written_then_executed(void)
{
	uint8_t *page = page_alloc();
	uint64_t *e = map(VA, page, PTE_P | PTE_W | PTE_U | PTE_NX);

	for (uint32_t i = 0; i < 20; i++) {
		put_mov((uint8_t *)VA, i);
		EXPECT(exec0(VA), EX_PF(PF_P | PF_I));
		*e &= ~PTE_NX;
		invlpg(VA);
		SAME(call(VA), i);
		*e |= PTE_NX;
		invlpg(VA);
	}
	/* Read-only while it holds code: the write faults, as if it held none. */
	*e &= ~(PTE_NX | PTE_W);
	invlpg(VA);
	SAME(call(VA), 19);
	EXPECT(write0(VA + 1, 4), EX_PF(PF_P | PF_W));
	SAME(call(VA), 19);
}

/* Stores by instructions that helpers run: fxsave, cmpxchg16b, pusha's kin, ins, iret frames. */
CODE(h_sgdt, "sgdt (%rdi)\n\t" DONE);
CODE(h_stos, "mov $0x05, %al\n\tmov $1, %ecx\n\trep stosb\n\t" DONE);
CODE(h_cmpxchg16b, "mov (%rdi), %rax\n\tmov 8(%rdi), %rdx\n\tmov %rax, %rbx\n\tmov %rdx, %rcx\n\txor $0xff00, %rbx\n\tlock cmpxchg16b (%rdi)\n\t" DONE);
CODE(h_setc, "stc\n\tsetc 1(%rdi)\n\t" DONE);

static void stores_by_helpers(void)
{
	uint8_t *page = page_alloc();

	put_mov(page, 1);
	SAME(call((uint64_t)page), 1);
	EXPECT(run0(h_stos, (uint64_t)page + 1), EX_DONE);
	SAME(call((uint64_t)page), 5);
	EXPECT(run0(h_cmpxchg16b, (uint64_t)page), EX_DONE);
	SAME(call((uint64_t)page), 5 ^ 0xff);
	EXPECT(run0(h_setc, (uint64_t)page), EX_DONE);
	SAME(call((uint64_t)page), 1);
	/* An interrupt frame lands on code: rsp's low word is in the immediate. */
	page += 1024;
	put_mov(page - 16, 1);
	SAME(call((uint64_t)page - 16), 1);
	idt[VECTOR_DONE].ist = 0;
	struct regs r = regs0(h_setc);
	r.rdi = (uint64_t)page + 512;
	r.rsp = (uint64_t)page + 16;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(*(uint64_t *)(page + 8), SEL_DATA);
	put_mov(page - 16, 2);
	SAME(call((uint64_t)page - 16), 2);
}

/* A block whose second half another block of the same page rewrites while both are linked. */
static void linked_blocks(void)
{
	uint8_t *page = page_alloc();
	static const uint8_t first[] = {0xb8, 1, 0, 0, 0, 0xeb, 0x20};  /* mov $1, %eax; jmp +32 */
	static const uint8_t second[] = {0x83, 0xc0, 1, 0xc3};          /* add $1, %eax; ret */

	memcpy(page, first, sizeof(first));
	memcpy(page + 39, second, sizeof(second));
	SAME(call((uint64_t)page), 2);
	for (uint8_t i = 2; i < 100; i++) {
		page[41] = i;
		SAME(call((uint64_t)page), 1 + i);
	}
	/* The jump itself goes elsewhere. */
	memcpy(page + 64, second, sizeof(second));
	page[66] = 50;
	page[6] = 57;
	SAME(call((uint64_t)page), 51);
}

TESTS({"in the same block", same_block}, {"patched many times", patched_many_times}, {"data in a code page", data_in_the_code_page},
      {"through an alias", through_an_alias}, {"an instruction across pages", page_crossing_instruction}, {"copied over", copied_over},
      {"flags into patched code", flags_into_patched_code}, {"mappings change under a transfer", mapping_changes_under_a_transfer},
      {"one page at two addresses", one_page_at_two_addresses}, {"written, then executed", written_then_executed},
      {"stores by helpers", stores_by_helpers}, {"linked blocks", linked_blocks});
