/* Descriptor tables, traps, and running a piece of code until it traps. */
#include "cpu.h"
#include "print.h"

struct cpu cpus[MAX_CPUS];
struct idt_gate idt[256] __attribute__((aligned(16)));

extern uint64_t boot_gdt[], boot_gdt_end[];
extern char trap_stubs[];
void run_enter(struct regs *r, uint64_t *save_rsp);
_Noreturn void run_leave(uint64_t save_rsp);
void trap(struct frame *f);

static trap_fn *volatile handlers[256];
static uint8_t user_stack[STACK_BYTES] __attribute__((section(".user.stack"), aligned(4096)));

struct table_pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

/* ---- tables ------------------------------------------------------------------------------ */

void idt_reset(unsigned vector)
{
	uint64_t to = (uint64_t)trap_stubs + vector * 16;

	idt[vector] = (struct idt_gate){
		.offset_low = (uint16_t)to, .offset_mid = (uint16_t)(to >> 16), .offset_high = (uint32_t)(to >> 32),
		.selector = SEL_CODE64,
		.ist = vector == VEC_NMI ? 2 : vector == VEC_DF ? 3 : vector < 32 || vector == VECTOR_DONE ? 1 : 0,
		.type = vector == VECTOR_DONE || vector == VEC_BP || vector == VEC_OF ? 0xee : 0x8e,
	};
}

static struct cpu *cpu_here(void)
{
	struct table_pointer gdtr;

	__asm__ volatile("sgdt %0" : "=m"(gdtr));
	return &cpus[(gdtr.base - (uint64_t)cpus) / sizeof(struct cpu)];
}

unsigned cpu_number(void) { return (unsigned)(cpu_here() - cpus); }
struct tss *cpu_tss(void) { return &cpu_here()->tss; }
uint64_t *cpu_gdt(void) { return cpu_here()->gdt; }
uint64_t cpu_stack(unsigned which) { return (uint64_t)cpu_here()->stack[which] + STACK_BYTES; }

void cpu_init(unsigned n)
{
	struct cpu *c = &cpus[n];
	struct table_pointer gdtr = {sizeof(c->gdt) - 1, (uint64_t)c->gdt}, idtr = {sizeof(idt) - 1, (uint64_t)idt};
	uint64_t tss = (uint64_t)&c->tss;
	unsigned i;

	if (n == 0)
		for (i = 0; i < 256; i++)
			idt_reset(i);
	memcpy(c->gdt, boot_gdt, (size_t)((char *)boot_gdt_end - (char *)boot_gdt));
	c->gdt[SEL_TSS / 8] = (sizeof(c->tss) - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	c->gdt[SEL_TSS / 8 + 1] = tss >> 32;
	memset(&c->tss, 0, sizeof(c->tss));
	c->tss.io_base = offsetof(struct tss, io_bitmap);
	memset(c->tss.io_bitmap, 0xff, sizeof(c->tss.io_bitmap));
	c->tss.rsp[0] = (uint64_t)c->stack[0] + STACK_BYTES;
	for (i = 1; i <= 3; i++)
		c->tss.ist[i - 1] = (uint64_t)c->stack[i] + STACK_BYTES;
	__asm__ volatile("lgdt %0; lidt %1; ltr %w2" : : "m"(gdtr), "m"(idtr), "r"(SEL_TSS) : "memory");
}

/* ---- traps -------------------------------------------------------------------------------------- */

void trap_handle(unsigned vector, trap_fn *fn) { handlers[vector] = fn; }

static void panic(const struct frame *f)
{
	print("\nBail out! unexpected trap %lu, error 0x%lx at %lx (cpu %u, cs %lx, flags %lx, rsp %lx, cr2 %lx)\n", f->vector, f->error,
	      f->rip, cpu_number(), f->cs, f->rflags, f->rsp, cr2_get());
	print("# rax %lx rcx %lx rdx %lx rbx %lx rbp %lx rsi %lx rdi %lx r8 %lx\n", f->rax, f->rcx, f->rdx, f->rbx, f->rbp,
	      f->rsi, f->rdi, f->r8);
	kernel_exit(2);
}

void trap(struct frame *f)
{
	struct cpu *c = cpu_here();
	struct regs *r = c->catching;

	if (f->vector == VECTOR_WAKE) {
		lapic_eoi();
		return;
	}
	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return;
	}
	if (!r)
		panic(f);
	c->catching = NULL;
	*r = (struct regs){
		.rax = f->rax, .rcx = f->rcx, .rdx = f->rdx, .rbx = f->rbx, .rsp = f->rsp, .rbp = f->rbp, .rsi = f->rsi,
		.rdi = f->rdi, .r8 = f->r8, .r9 = f->r9, .r10 = f->r10, .r11 = f->r11, .r12 = f->r12, .r13 = f->r13,
		.r14 = f->r14, .r15 = f->r15, .rip = f->rip, .rflags = f->rflags, .cs = f->cs, .ss = f->ss,
		.vector = f->vector, .error = f->error, .cr2 = cr2_get(), .frame = (uint64_t)&f->rip,
	};
	run_leave(c->save_rsp);
}

/* ---- running code ----------------------------------------------------------------------------------- */

struct regs regs0(const void *code)
{
	return (struct regs){.rip = (uint64_t)code, .cs = SEL_CODE64, .ss = SEL_DATA, .rflags = FLAGS_FIXED,
			     .rsp = cpu_stack(0) - 256};
}

struct regs regs3(const void *code)
{
	return (struct regs){.rip = (uint64_t)code, .cs = SEL_USER64, .ss = SEL_USER_DATA, .rflags = FLAGS_FIXED,
			     .rsp = (uint64_t)user_stack + STACK_BYTES / MAX_CPUS * (cpu_number() + 1) - 256};
}

uint64_t run_regs(struct regs *r)
{
	struct cpu *c = cpu_here();

	c->catching = r;
	run_enter(r, &c->save_rsp);
	/* Data segments may have been loaded, or cleared on the way from ring 3. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(SEL_DATA) : "memory");
	return r->vector == VECTOR_DONE ? EX_DONE : EX(r->vector, r->error);
}

uint64_t run0(const void *code, uint64_t rdi)
{
	struct regs r = regs0(code);

	r.rdi = rdi;
	return run_regs(&r);
}

uint64_t run3(const void *code, uint64_t rdi)
{
	struct regs r = regs3(code);

	r.rdi = rdi;
	return run_regs(&r);
}

const char *ex_name(uint64_t ex)
{
	static const char *const names[32] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP",
					      "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM"};
	static char buffers[4][32];
	static unsigned next;
	char *b = buffers[next++ & 3], *p = b;
	unsigned vector = ex >> 32 & 0xff, i;
	const char *name = vector < 32 ? names[vector] : NULL;

	if (ex == EX_DONE)
		return "no trap";
	if (name) {
		while (*name)
			*p++ = *name++;
	} else {
		*p++ = '0' + vector / 100;
		*p++ = '0' + vector / 10 % 10;
		*p++ = '0' + vector % 10;
	}
	*p++ = '(';
	for (i = 32; i > 0 && i > 4 && !((uint32_t)ex >> (i - 4)); i -= 4)
		;
	for (; i > 0; i -= 4)
		*p++ = "0123456789abcdef"[(uint32_t)ex >> (i - 4) & 15];
	*p++ = ')';
	*p = 0;
	return b;
}

CODE(try_rdmsr, "rdmsr\n\t" DONE);
CODE(try_wrmsr, "wrmsr\n\t" DONE);

uint64_t rdmsr_try(uint32_t n, uint64_t *ret_value)
{
	struct regs r = regs0(try_rdmsr);
	uint64_t ex;

	r.rcx = n;
	ex = run_regs(&r);
	*ret_value = r.rax | r.rdx << 32;
	return ex;
}

uint64_t wrmsr_try(uint32_t n, uint64_t value)
{
	struct regs r = regs0(try_wrmsr);

	r.rcx = n;
	r.rax = (uint32_t)value;
	r.rdx = value >> 32;
	return run_regs(&r);
}
