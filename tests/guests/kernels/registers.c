/* Control registers, MSRs, and the extended state: reserved bits, what sticks, what comes back. */
#include "k.h"

#define MSR_EFER 0xc0000080

CODE(w_cr0, "mov %rdi, %cr0\n\t" DONE);
CODE(w_cr2, "mov %rdi, %cr2\n\tmov %cr2, %rax\n\t" DONE);
CODE(w_cr3, "mov %cr3, %rbx\n\tw_cr3_at: mov %rdi, %cr3\n\tmov %rbx, %cr3\n\t" DONE);
CODE(w_cr4, "mov %rdi, %cr4\n\t" DONE);
CODE(w_cr8, "mov %rdi, %cr8\n\tmov %cr8, %rax\n\t" DONE);
CODE(w_lmsw, "lmsw %di\n\t" DONE);
CODE(r_smsw, "mov $-1, %rax\n\tsmsw %eax\n\t" DONE);

static void cr0(void)
{
	uint64_t cr = cr0_get();
	struct regs r;

	EXPECT(run0(w_cr0, cr & ~0x80000000ul), EX_GP(0));            /* PG cleared by 64-bit code */
	EXPECT(run0(w_cr0, cr & ~1ul), EX_GP(0));                     /* PE without, PG with */
	EXPECT(run0(w_cr0, cr | 0x20000000), EX_GP(0));               /* NW without CD */
	EXPECT(run0(w_cr0, cr | 1ul << 32), EX_GP(0));
	EXPECT(run0(w_cr0, cr | 1ul << 63), EX_GP(0));
	SAME(cr0_get(), cr);
	EXPECT(run0(w_cr0, cr | 0x60000000), EX_DONE);
	SAME(cr0_get(), cr | 0x60000000);
	EXPECT(run0(w_cr0, cr & ~0x10ul), EX_DONE); /* ET is always set */
	SAME(cr0_get(), cr);
	EXPECT(run0(w_cr0, cr | 8), EX_DONE);
	SAME(cr0_get(), cr | 8);
	cr0_set(cr);
	/* lmsw sets PE, MP, EM, TS; clears all but PE. */
	EXPECT(run0(w_lmsw, 0xfff0 | 0xe), EX_DONE);
	SAME(cr0_get(), (cr & ~0xful) | 0xf);
	EXPECT(run0(w_lmsw, 0), EX_DONE);
	SAME(cr0_get(), (cr & ~0xful) | 1);
	cr0_set(cr);
	r = regs0(r_smsw);
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, (uint32_t)cr);
}

static void cr2_cr3_cr8(void)
{
	struct regs r = regs0(w_cr2);
	uint32_t id[4];

	r.rdi = 0x8000000000000001; /* anything goes */
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x8000000000000001);
	cpuid(0x80000008, 0, id);
	if ((id[0] & 0xff) < 52)
		EXPECT(run0(w_cr3, cr3_get() | 1ul << (id[0] & 0xff)), EX_GP(0));
	EXPECT(run0(w_cr3, cr3_get() | 1ul << 62), EX_GP(0));
	EXPECT(run0(w_cr3, cr3_get() | 0x18), EX_DONE); /* PCD, PWT */
	EXPECT(run0(w_cr8, 16), EX_GP(0));
	EXPECT(run0(w_cr8, 1ul << 63), EX_GP(0));
	for (uint64_t i = 0; i < 16; i++) {
		r = regs0(w_cr8);
		r.rdi = i;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rax, i);
	}
	cr8_set(0);
}

static void cr4(void)
{
	static const struct {
		uint8_t bit;
		uint32_t leaf;
		uint8_t reg, feature;
	} bits[] = {
		{11, 7, 2, 2}, {12, 7, 2, 16}, {13, 1, 2, 5}, {14, 1, 2, 6}, {16, 7, 1, 0}, {17, 1, 2, 17}, {18, 1, 2, 26}, {20, 7, 1, 7},
		{21, 7, 1, 20}, {22, 7, 2, 3},
	};
	uint64_t cr = cr4_get();

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		bool has = cpu_has(bits[i].leaf, bits[i].reg, bits[i].feature);

		if (bits[i].bit == 12 || bits[i].bit == 13)
			has = false; /* LA57 cannot change in long mode; VMXE may be refused by its lock */
		if (bits[i].bit == 12 || (bits[i].bit != 13 && !has) || (bits[i].bit == 13 && !cpu_has(1, 2, 5))) {
			if (run0(w_cr4, cr | 1ul << bits[i].bit) != EX_GP(0))
				test_failure(__FILE__, __LINE__, "CR4 bit %u can be set without its feature", bits[i].bit);
		} else if (has) {
			/* Under SMEP, the next instruction is one in a user page. */
			if (run0(w_cr4, cr | 1ul << bits[i].bit) != (bits[i].bit == 20 ? EX_PF(PF_P | PF_I) : EX_DONE))
				test_failure(__FILE__, __LINE__, "CR4 bit %u cannot be set", bits[i].bit);
			SAME(cr4_get(), cr | 1ul << bits[i].bit);
		}
		cr4_set(cr);
	}
	for (unsigned bit = 0; bit <= 10; bit++) {
		if (bit == 5 || bit == 0 || bit == 1) /* PAE; VME and PVI may be missing */
			continue;
		EXPECT(run0(w_cr4, cr ^ 1ul << bit), EX_DONE);
		SAME(cr4_get(), cr ^ 1ul << bit);
		cr4_set(cr);
	}
	EXPECT(run0(w_cr4, cr & ~0x20ul), EX_GP(0)); /* PAE is needed */
	for (unsigned bit = 25; bit < 64; bit++)
		if (bit != 28 && bit != 32) /* later additions */
			EXPECT(run0(w_cr4, cr | 1ul << bit), EX_GP(0));
	EXPECT(run0(w_cr4, cr | 1ul << 15), EX_GP(0));
	SAME(cr4_get(), cr);
}

static void efer(void)
{
	uint64_t v = rdmsr(MSR_EFER);

	SAME(v & 0xd01, 0xd01); /* SCE LME LMA NXE */
	EXPECT(wrmsr_try(MSR_EFER, v & ~0x100ul), EX_GP(0)); /* LME under paging */
	EXPECT(wrmsr_try(MSR_EFER, v | 2), EX_GP(0));
	EXPECT(wrmsr_try(MSR_EFER, v | 1ul << 63), EX_GP(0));
	EXPECT(wrmsr_try(MSR_EFER, v & ~0x400ul), EX_DONE); /* LMA is not writable */
	SAME(rdmsr(MSR_EFER), v);
}

static void unknown_msrs(void)
{
	static const uint32_t numbers[] = {0x4, 0xbad, 0xdead, 0x40000fff, 0xc0000fff, 0xc0002fff, 0xffffffff};
	uint64_t v;

	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		if (rdmsr_try(numbers[i], &v) != EX_GP(0))
			test_failure(__FILE__, __LINE__, "MSR 0x%x can be read", numbers[i]);
		if (wrmsr_try(numbers[i], 0) != EX_GP(0))
			test_failure(__FILE__, __LINE__, "MSR 0x%x can be written", numbers[i]);
	}
	/* A refused access changes nothing. */
	struct regs r;
	CODE(try_it, "rdmsr\n\t" DONE);
	r = regs0(try_it);
	r.rax = 0x1111;
	r.rdx = 0x2222;
	r.rcx = 0xdead;
	EXPECT(run_regs(&r), EX_GP(0));
	SAME(r.rax, 0x1111);
	SAME(r.rdx, 0x2222);
	SAME(r.rip, (uint64_t)try_it);
}

static void memory_types(void)
{
	uint64_t pat = rdmsr(0x277), cap, v;

	EXPECT(wrmsr_try(0x277, (pat & ~0xfful) | 2), EX_GP(0)); /* types 2 and 3 are reserved */
	EXPECT(wrmsr_try(0x277, (pat & ~0xfful) | 0x80), EX_GP(0));
	EXPECT(wrmsr_try(0x277, 0x0007040600070406), EX_DONE);
	SAME(rdmsr(0x277), 0x0007040600070406);
	wrmsr(0x277, pat);
	if (!cpu_has(1, 3, 12))
		return;
	cap = rdmsr(0xfe);
	EXPECT(wrmsr_try(0xfe, cap), EX_GP(0));
	CHECK((cap & 0xff) >= 1 && (cap & 0xff) <= 16);
	EXPECT(wrmsr_try(0x2ff, 2), EX_GP(0));
	EXPECT(wrmsr_try(0x2ff, 0xc06), EX_DONE);
	SAME(rdmsr(0x2ff), 0xc06);
	EXPECT(wrmsr_try(0x200, 0x1000 | 6), EX_DONE);
	EXPECT(wrmsr_try(0x201, 0xfffff800), EX_DONE);
	SAME(rdmsr(0x201), 0xfffff800);
	EXPECT(wrmsr_try(0x200, 0x1000 | 2), EX_GP(0));
	EXPECT(rdmsr_try(0x200 + 2 * (uint32_t)(cap & 0xff), &v), EX_GP(0));
	wrmsr(0x201, 0);
	wrmsr(0x200, 0);
	EXPECT(wrmsr_try(0x250, 0x0606060606060606), EX_DONE);
	EXPECT(wrmsr_try(0x250, 0x0606060606060602), EX_GP(0));
	wrmsr(0x250, 0);
	wrmsr(0x2ff, 0);
}

static void time_stamp(void)
{
	CODE(do_rdtscp, "rdtscp\n\t" DONE);
	CODE(do_rdpid, "mov $-1, %rax\n\trdpid %rax\n\t" DONE);
	uint64_t before, now;
	struct regs r;

	before = rdtsc();
	wrmsr(0x10, before + (1ul << 40));
	now = rdtsc();
	CHECK(now >= before + (1ul << 40) && now < before + (1ul << 40) + 10000 * tsc_per_ms());
	SAME(rdmsr(0x10) >= now, 1);
	if (cpu_has(7, 1, 1)) {
		uint64_t adjust = rdmsr(0x3b);

		wrmsr(0x3b, adjust - (1ul << 40));
		SAME(rdmsr(0x3b), adjust - (1ul << 40));
		CHECK(rdtsc() < now);
		CHECK(rdtsc() >= before);
	} else {
		wrmsr(0x10, rdtsc() - (1ul << 40));
	}
	if (cpu_has(0x80000001, 3, 27)) {
		wrmsr(0xc0000103, 0x12345678);
		r = regs3(do_rdtscp);
		r.rax = r.rdx = r.rcx = ~0ul;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(r.rcx, 0x12345678);
		CHECK(!(r.rax >> 32) && !(r.rdx >> 32));
		if (cpu_has(7, 2, 22)) {
			r = regs3(do_rdpid);
			EXPECT(run_regs(&r), EX_DONE);
			SAME(r.rax, 0x12345678);
		}
		wrmsr(0xc0000103, 0);
	}
	for (unsigned i = 0; i < 1000; i++) {
		before = rdtsc();
		now = rdtsc();
		if (now < before)
			test_failure(__FILE__, __LINE__, "the TSC went from %lu to %lu", before, now);
	}
}

/* ---- XSAVE ------------------------------------------------------------------------------- */

CODE(x_getbv, "xgetbv\n\t" DONE);
CODE(x_setbv, "xsetbv\n\t" DONE);
CODE(x_avx, "vxorps %ymm0, %ymm0, %ymm0\n\t" DONE);
CODE(x_save, "xsave (%rdi)\n\t" DONE);
CODE(x_save64, "xsave64 (%rdi)\n\t" DONE);
CODE(x_saveopt, "xsaveopt (%rdi)\n\t" DONE);
CODE(x_savec, "xsavec (%rdi)\n\t" DONE);
CODE(x_rstor, "xrstor (%rdi)\n\t" DONE);
CODE(x_load, "vmovups (%rsi), %ymm3\n\tvmovups 32(%rsi), %ymm12\n\tfninit\n\tfldpi\n\tldmxcsr 64(%rsi)\n\t" DONE);
CODE(x_store, "vmovups %ymm3, (%rsi)\n\tvmovups %ymm12, 32(%rsi)\n\tstmxcsr 64(%rsi)\n\tfstpt 80(%rsi)\n\t" DONE);
CODE(x_trash, "vpcmpeqd %ymm3, %ymm3, %ymm3\n\tvpxor %ymm12, %ymm12, %ymm12\n\tfninit\n\tfld1\n\tldmxcsr 64(%rsi)\n\t" DONE);
CODE(x_sse_only, "pcmpeqd %xmm3, %xmm3\n\t" DONE);
CODE(x_fxsave, "fxsave64 (%rdi)\n\t" DONE);
CODE(x_fxrstor, "fxrstor64 (%rdi)\n\t" DONE);

static uint64_t xsetbv_try(uint32_t number, uint64_t value, bool user)
{
	struct regs r = user ? regs3(x_setbv) : regs0(x_setbv);

	r.rcx = number;
	r.rax = (uint32_t)value;
	r.rdx = value >> 32;
	return run_regs(&r);
}

static uint64_t with_mask(const void *code, void *area, uint64_t mask)
{
	struct regs r = regs0(code);

	r.rdi = (uint64_t)area;
	r.rax = (uint32_t)mask;
	r.rdx = mask >> 32;
	return run_regs(&r);
}

static uint64_t with_data(const void *code, void *data)
{
	struct regs r = regs0(code);

	r.rsi = (uint64_t)data;
	return run_regs(&r);
}

static void xcr0_rules(void)
{
	struct regs r;
	uint32_t id[4];

	if (!cpu_has(1, 2, 26)) {
		test_skip("no XSAVE");
		return;
	}
	EXPECT(run0(x_getbv, 0), EX_UD); /* OSXSAVE is clear */
	EXPECT(xsetbv_try(0, 3, false), EX_UD);
	EXPECT(run0(x_save, (uint64_t)page_alloc()), EX_UD);
	EXPECT(run0(x_avx, 0), EX_UD);
	cr4_set(cr4_get() | CR4_OSXSAVE);
	cpuid(0xd, 0, id);
	EXPECT(xsetbv_try(0, 3, false), EX_DONE);
	r = regs3(x_getbv);
	r.rcx = 0;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 3);
	SAME(r.rdx, 0);
	EXPECT(xsetbv_try(0, 0, false), EX_GP(0)); /* x87 is always on */
	EXPECT(xsetbv_try(0, 2, false), EX_GP(0));
	EXPECT(xsetbv_try(0, 5, false), EX_GP(0)); /* AVX without SSE */
	EXPECT(xsetbv_try(0, 3 | 1ul << 62, false), EX_GP(0));
	EXPECT(xsetbv_try(0, 0x107, false), EX_GP(0));
	EXPECT(xsetbv_try(7, 3, false), EX_GP(0));
	EXPECT(xsetbv_try(0, 3, true), EX_GP(0));
	r = regs0(x_getbv);
	r.rcx = 5;
	EXPECT(run_regs(&r), EX_GP(0));
	if (id[0] & 4) {
		EXPECT(run0(x_avx, 0), EX_UD);
		EXPECT(xsetbv_try(0, 7, false), EX_DONE);
		EXPECT(run0(x_avx, 0), EX_DONE);
		cr0_set(cr0_get() | CR0_TS);
		EXPECT(run0(x_avx, 0), EX_NM);
		EXPECT(run0(x_save, (uint64_t)page_alloc()), EX_NM);
		cr0_set(cr0_get() & ~CR0_TS);
		EXPECT(run3(x_avx, 0), EX_DONE);
	}
	cr4_set(cr4_get() & ~CR4_OSXSAVE);
	EXPECT(run0(x_avx, 0), EX_UD);
}

static void fill(uint8_t *data)
{
	for (unsigned i = 0; i < 64; i++)
		data[i] = (uint8_t)(i * 3 + 1);
	*(uint32_t *)(data + 64) = 0x3f80; /* round down */
}

static bool avx_on(void)
{
	if (!cpu_has(1, 2, 28)) {
		test_skip("no AVX");
		return false;
	}
	cr4_set(cr4_get() | CR4_OSXSAVE);
	xsetbv_try(0, 7, false);
	return true;
}

static void save_and_restore(void)
{
	uint8_t *area = page_alloc(), *data = page_alloc(), *out = page_alloc();
	static const void *const savers[] = {x_save, x_save64, x_saveopt};

	if (!avx_on())
		return;
	fill(data);
	for (unsigned i = 0; i < ARRAY_SIZE(savers); i++) {
		memset(area, 0, PAGE);
		EXPECT(with_data(x_load, data), EX_DONE);
		EXPECT(with_mask(savers[i], area, 7), EX_DONE);
		SAME(*(uint64_t *)(area + 512) & 7, 7);
		SAME(*(uint64_t *)(area + 520), 0);
		SAME(memcmp(area + 160 + 3 * 16, data, 16), 0);
		SAME(memcmp(area + 576 + 3 * 16, data + 16, 16), 0);
		SAME(memcmp(area + 160 + 12 * 16, data + 32, 16), 0);
		SAME(*(uint32_t *)(area + 24), 0x3f80);
		memset(out, 0, 128);
		*(uint32_t *)(out + 64) = 0x1f80;
		EXPECT(with_data(x_trash, out), EX_DONE);
		EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
		EXPECT(with_data(x_store, out), EX_DONE);
		SAME(memcmp(out, data, 68), 0);
		SAME(*(uint64_t *)(out + 80), 0xc90fdaa22168c235); /* pi */
		SAME(*(uint16_t *)(out + 88), 0x4000);
	}
	/* Part of the components: the others keep what they have. */
	EXPECT(with_data(x_trash, out), EX_DONE);
	EXPECT(with_mask(x_rstor, area, 4), EX_DONE);
	EXPECT(with_data(x_store, out), EX_DONE);
	SAME(memcmp(out + 16, data + 16, 16), 0);
	SAME(*(uint64_t *)out, ~0ul);
	/* A component that is clear in XSTATE_BV comes back initial. */
	*(uint64_t *)(area + 512) = 3;
	EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
	EXPECT(with_data(x_store, out), EX_DONE);
	SAME(*(uint64_t *)(out + 16), 0);
	SAME(memcmp(out, data, 16), 0);
	*(uint64_t *)(area + 512) = 0;
	EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
	EXPECT(with_data(x_store, out), EX_DONE);
	SAME(*(uint64_t *)out, 0);
	/* The mask bounds what is saved; memory beyond is left alone. */
	memset(area, 0xcc, PAGE);
	*(uint64_t *)(area + 512) = 0;
	EXPECT(with_mask(x_save, area, 1), EX_DONE);
	SAME(area[160], 0xcc);
	SAME(area[576], 0xcc);
	SAME(area[832], 0xcc);
	__asm__ volatile("fninit");
}

static void bad_images(void)
{
	uint8_t *area = page_alloc();

	if (!avx_on())
		return;
	EXPECT(with_mask(x_save, area, 7), EX_DONE);
	EXPECT(with_mask(x_save, area + 8, 7), EX_GP(0));
	EXPECT(with_mask(x_rstor, area + 32, 7), EX_GP(0));
	EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
	*(uint64_t *)(area + 512) = 0x8; /* not in XCR0 */
	EXPECT(with_mask(x_rstor, area, 7), EX_GP(0));
	*(uint64_t *)(area + 512) = 7;
	*(uint64_t *)(area + 520) = 1;
	EXPECT(with_mask(x_rstor, area, 7), EX_GP(0));
	*(uint64_t *)(area + 520) = 0;
	*(uint64_t *)(area + 528) = 1;
	EXPECT(with_mask(x_rstor, area, 7), EX_GP(0));
	*(uint64_t *)(area + 528) = 0;
	*(uint32_t *)(area + 24) = 0x10000; /* MXCSR */
	EXPECT(with_mask(x_rstor, area, 7), EX_GP(0));
	*(uint32_t *)(area + 24) = 0x1f80;
	EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
	/* Across a page of which the second half is missing. */
	uint8_t *page = page_alloc();
	map(TEST_VA, page, PTE_P | PTE_W);
	EXPECT(with_mask(x_save, (void *)(TEST_VA + PAGE - 512), 7), EX_PF(PF_W));
	EXPECT(with_mask(x_rstor, (void *)(TEST_VA + PAGE - 512), 7), EX_PF(0));
}

static void compact_format(void)
{
	uint8_t *area = page_alloc(), *data = page_alloc(), *out = page_alloc();
	uint32_t id[4];

	if (!avx_on())
		return;
	cpuid(0xd, 1, id);
	if (!(id[0] & 2)) {
		test_skip("no XSAVEC");
		return;
	}
	fill(data);
	EXPECT(with_data(x_load, data), EX_DONE);
	EXPECT(with_mask(x_savec, area, 7), EX_DONE);
	SAME(*(uint64_t *)(area + 520), 1ul << 63 | 7);
	SAME(memcmp(area + 576 + 3 * 16, data + 16, 16), 0);
	*(uint32_t *)(out + 64) = 0x1f80;
	EXPECT(with_data(x_trash, out), EX_DONE);
	EXPECT(with_mask(x_rstor, area, 7), EX_DONE);
	EXPECT(with_data(x_store, out), EX_DONE);
	SAME(memcmp(out, data, 68), 0);
	__asm__ volatile("fninit");
}

static void fxsave(void)
{
	uint8_t *area = page_alloc();
	uint8_t *data = page_alloc();

	if (!avx_on())
		return;
	fill(data);
	memset(area, 0xcc, PAGE);
	EXPECT(with_data(x_load, data), EX_DONE);
	EXPECT(run0(x_fxsave, (uint64_t)area), EX_DONE);
	SAME(*(uint16_t *)area, 0x37f);
	SAME(area[4], 0x80); /* abridged tag: one register in use */
	SAME(*(uint32_t *)(area + 24), 0x3f80);
	SAME(memcmp(area + 160 + 3 * 16, data, 16), 0);
	SAME(area[512], 0xcc);
	EXPECT(run0(x_sse_only, 0), EX_DONE);
	EXPECT(run0(x_fxrstor, (uint64_t)area), EX_DONE);
	memset(area + 160, 0, 256);
	EXPECT(run0(x_fxsave, (uint64_t)area), EX_DONE);
	SAME(memcmp(area + 160 + 3 * 16, data, 16), 0);
	*(uint32_t *)(area + 24) = 0x80000000;
	EXPECT(run0(x_fxrstor, (uint64_t)area), EX_GP(0));
	*(uint32_t *)(area + 24) = 0x1f80;
	EXPECT(run0(x_fxrstor, (uint64_t)area), EX_DONE);
	__asm__ volatile("fninit");
}

/* Vector and x87 state survives everything that makes the engine work on its own: faults, interrupts, MMIO, CPUID. */
CODE(v_survive, "vmovups (%rsi), %ymm3\n\tvmovups 32(%rsi), %ymm12\n\tfninit\n\tfldpi\n\tmov $20000, %r8d\n\t1: mov (%rdi), %eax\n\txor %eax, %eax\n\tcpuid\n\tinb $0x80, %al\n\t"
		"mov $0x10, %ecx\n\trdmsr\n\tmov 0x30(%r9), %eax\n\tmov %cr3, %rax\n\ttest $255, %r8b\n\tjnz 2f\n\tmov %rax, %cr3\n\t2: sub $100, %r8d\n\tjnz 1b\n\t"
		"vmovups %ymm3, (%r10)\n\tvmovups %ymm12, 32(%r10)\n\tfstpt 80(%r10)\n\t" DONE);

static void state_survives(void)
{
	uint8_t *data = page_alloc(), *out = page_alloc();
	struct regs r;

	if (!avx_on())
		return;
	fill(data);
	r = regs0(v_survive);
	r.rsi = (uint64_t)data;
	r.rdi = (uint64_t)page_alloc();
	r.r9 = LAPIC;
	r.r10 = (uint64_t)out;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(memcmp(out, data, 64), 0);
	SAME(*(uint64_t *)(out + 80), 0xc90fdaa22168c235);
	__asm__ volatile("fninit");
}

TESTS({"CR0", cr0}, {"CR2, CR3, CR8", cr2_cr3_cr8}, {"CR4", cr4}, {"EFER", efer}, {"unknown MSRs", unknown_msrs}, {"PAT and MTRRs", memory_types},
      {"TSC, TSC_ADJUST, TSC_AUX", time_stamp}, {"XCR0", xcr0_rules}, {"xsave and xrstor", save_and_restore}, {"bad XSAVE images", bad_images},
      {"xsavec", compact_format}, {"fxsave", fxsave}, {"vector state survives", state_survives});
