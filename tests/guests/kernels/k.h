/*
 * A small kernel for system tests: one ELF with a PVH note runs under any mode of trivisor and under QEMU.
 *
 * A test is a row of kernel_tests[] and a function. It checks with CHECK and EXPECT; verdicts are XTF's: success, skip
 * (not applicable here), error (the test itself cannot do its work), failure. Each test leaves the machine as it found it.
 *
 * run_regs() runs a piece of code with all registers given, at any privilege, until it traps; what the trap was comes
 * back as one comparable value (EX_*), all registers beside it. All exceptions use IST 1 unless a test says otherwise,
 * so a broken stack pointer is reported as precisely as anything else.
 */
#ifndef TEST_K_H
#define TEST_K_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE 4096ul
#define MIB (1ul << 20)
#define MAX_CPUS 4

/* ---- tests -------------------------------------------------------------------------- */

struct test {
	const char *name;
	void (*fn)(void);
};
/* Each kernel has one. */
extern const struct test kernel_tests[];
extern const size_t kernel_test_count;
#define TESTS(...)                                                                                                     \
	const struct test kernel_tests[] = {__VA_ARGS__};                                                              \
	const size_t kernel_test_count = ARRAY_SIZE(kernel_tests)

void test_failure(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void test_error(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line of output, "# " in front. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void kernel_exit(unsigned code);

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			test_failure(__FILE__, __LINE__, "%s", #condition);                                            \
	} while (0)
/* Two integers that must agree. */
#define SAME(got, want)                                                                                                \
	do {                                                                                                           \
		uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                                             \
		if (got_ != want_)                                                                                     \
			test_failure(__FILE__, __LINE__, "%s is 0x%lx, not 0x%lx", #got, got_, want_);                 \
	} while (0)
/* Two outcomes (EX_*) that must agree. */
#define EXPECT(got, want)                                                                                              \
	do {                                                                                                           \
		uint64_t got_ = (got), want_ = (want);                                                                 \
		if (got_ != want_)                                                                                     \
			test_failure(__FILE__, __LINE__, "%s: %s, not %s", #got, ex_name(got_), ex_name(want_));       \
	} while (0)

/* ---- traps ---------------------------------------------------------------------------- */

enum {
	VEC_DE, VEC_DB, VEC_NMI, VEC_BP, VEC_OF, VEC_BR, VEC_UD, VEC_NM, VEC_DF, VEC_TS = 10, VEC_NP, VEC_SS, VEC_GP, VEC_PF,
	VEC_MF = 16, VEC_AC, VEC_MC, VEC_XM,
};

/* An outcome: vector and error code in one value; done is 0. */
#define EX(vector, error) ((uint64_t)(vector) << 32 | 1ul << 63 | (uint32_t)(error))
#define EX_DONE 0ul
#define EX_DE EX(VEC_DE, 0)
#define EX_DB EX(VEC_DB, 0)
#define EX_BP EX(VEC_BP, 0)
#define EX_OF EX(VEC_OF, 0)
#define EX_UD EX(VEC_UD, 0)
#define EX_NM EX(VEC_NM, 0)
#define EX_DF EX(VEC_DF, 0)
#define EX_TS(e) EX(VEC_TS, e)
#define EX_NP(e) EX(VEC_NP, e)
#define EX_SS(e) EX(VEC_SS, e)
#define EX_GP(e) EX(VEC_GP, e)
#define EX_PF(e) EX(VEC_PF, e)
#define EX_MF EX(VEC_MF, 0)
#define EX_XM EX(VEC_XM, 0)
/* Of a short-lived buffer. */
const char *ex_name(uint64_t ex);

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

struct regs {
	uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags, cs, ss;
	/* Filled by run_regs. */
	uint64_t vector, error, cr2;
	uint64_t frame; /* where the processor put what it pushed */
};

#define FLAG_CF 1ul
#define FLAG_PF 4ul
#define FLAG_AF 0x10ul
#define FLAG_ZF 0x40ul
#define FLAG_SF 0x80ul
#define FLAG_TF 0x100ul
#define FLAG_IF 0x200ul
#define FLAG_DF 0x400ul
#define FLAG_OF 0x800ul
#define FLAG_IOPL 0x3000ul
#define FLAG_NT 0x4000ul
#define FLAG_RF 0x10000ul
#define FLAG_AC 0x40000ul
#define FLAG_ID 0x200000ul
#define FLAGS_FIXED 2ul

/* A piece of code in pages that ring 3 may run too. NAME is its address; other labels inside are of the test's choice. */
#define CODE(name, text)                                                                                               \
	extern char name[];                                                                                            \
	__asm__(".pushsection .user, \"awx\"\n\t.balign 16\n\t.globl " #name "\n" #name ":\n\t" text                   \
		"\n\t.popsection")
#define DONE "int $0xf0\n\t"
#define LABEL(name) extern char name[]

/* Registers for run_regs: ring 0 or 3, a stack that belongs to it, interrupts off. */
struct regs regs0(const void *code);
struct regs regs3(const void *code);
/* Runs until the first trap that has no handler; fills *r. The outcome: EX_DONE when it was VECTOR_DONE. */
uint64_t run_regs(struct regs *r);
/* The same for code that needs no registers to start with but rdi, at ring 0 or 3. */
uint64_t run0(const void *code, uint64_t rdi);
uint64_t run3(const void *code, uint64_t rdi);

/* What the processor pushed, and all general registers. */
struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
typedef void trap_fn(struct frame *f);
/* Handles a vector on all processors; NULL takes it away. Interrupts have no other way to be survived. */
void trap_handle(unsigned vector, trap_fn *fn);

struct idt_gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, zero;
};
struct tss {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7];
	uint64_t reserved2;
	uint16_t reserved3, io_base;
	uint8_t io_bitmap[128];
} __attribute__((packed));
extern struct idt_gate idt[256];
/* How kernel_main filled it. */
void idt_reset(unsigned vector);
/* This processor's. */
unsigned cpu_number(void);
struct tss *cpu_tss(void);
uint64_t *cpu_gdt(void);
#define STACK_BYTES 16384
/* Tops of stacks of this processor: ist 1 (exceptions), 2 (NMI), 3 (double fault), 0: rsp0. */
uint64_t cpu_stack(unsigned which);

/* ---- memory ------------------------------------------------------------------------------ */

#define PTE_P 1ul
#define PTE_W 2ul
#define PTE_U 4ul
#define PTE_PWT 8ul
#define PTE_PCD 0x10ul
#define PTE_A 0x20ul
#define PTE_D 0x40ul
#define PTE_PS 0x80ul
#define PTE_G 0x100ul
#define PTE_NX (1ul << 63)
#define PTE_ADDR 0x000ffffffffff000ul

/* A part of the address space that is a test's own: the whole of one PML4 entry. */
#define TEST_VA 0x0000100000000000ul
/* Zeroed pages, physical = virtual, given back all at once when the test ends. */
void *page_alloc(void);
void *pages_alloc(unsigned n);
/* A 2 MiB aligned piece of RAM; the same one each time. */
extern uint8_t *const large_page;
/* Maps va to pa with exactly these leaf flags (tables above: P W U); level 1: 4 KiB, 2: 2 MiB, 3: 1 GiB. Flushes va. */
uint64_t *map_at(uint64_t va, uint64_t pa, uint64_t flags, unsigned level);
uint64_t *map(uint64_t va, const void *page, uint64_t flags);
/* The entry of `level` (1..4) for va in the present tables; NULL if the walk ends before. */
uint64_t *entry_of(uint64_t va, unsigned level);
/* Takes away everything under TEST_VA. */
void unmap_test_area(void);

static inline void invlpg(uint64_t va) { __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory"); }

/* One access of 1, 2, 4 or 8 bytes at ring 0 or 3. */
uint64_t read0(uint64_t va, unsigned bytes);
uint64_t write0(uint64_t va, unsigned bytes);
uint64_t read3(uint64_t va, unsigned bytes);
uint64_t write3(uint64_t va, unsigned bytes);
/* Jumps there; the code must end by DONE. */
uint64_t exec0(uint64_t va);
uint64_t exec3(uint64_t va);
/* cr2 and value of the last of these. */
extern uint64_t last_cr2, last_value;

/* ---- processor ----------------------------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint16_t inw(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
#define CR_ACCESS(n)                                                                                                   \
	static inline uint64_t cr##n##_get(void)                                                                       \
	{                                                                                                              \
		uint64_t v;                                                                                            \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                         \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void cr##n##_set(uint64_t v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
CR_ACCESS(8)
#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_WP 0x10000ul
#define CR0_AM 0x40000ul
#define CR4_TSD 4ul
#define CR4_DE 8ul
#define CR4_PGE 0x80ul
#define CR4_UMIP 0x800ul
#define CR4_FSGSBASE 0x10000ul
#define CR4_OSXSAVE 0x40000ul
#define CR4_SMEP 0x100000ul

static inline uint64_t rdmsr(uint32_t n)
{
	uint32_t lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n));
	return lo | (uint64_t)hi << 32;
}
static inline void wrmsr(uint32_t n, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(n) : "memory");
}
/* With the outcome. */
uint64_t rdmsr_try(uint32_t n, uint64_t *ret_value);
uint64_t wrmsr_try(uint32_t n, uint64_t value);
static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
}
/* One bit of an answer; false where the leaf does not exist. reg: 0..3 for eax, ebx, ecx, edx. */
bool cpu_has(uint32_t leaf, unsigned reg, unsigned bit);
bool cpu_is_amd(void);
static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return lo | (uint64_t)hi << 32;
}
static inline void relax(void) { __asm__ volatile("pause" : : : "memory"); }
static inline void sti(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void cli(void) { __asm__ volatile("cli" : : : "memory"); }

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* ---- other processors (smp.c) ------------------------------------------------------------------ */

extern volatile unsigned cpu_count; /* that run */
/* Starts up to MAX_CPUS - 1 others; how many run then, this one included. */
unsigned cpus_start(void);
/* Runs fn(arg) on processor n; cpu_wait waits for its end, false: it did not end within seconds. */
void cpu_call(unsigned n, void (*fn)(void *arg), void *arg);
bool cpu_wait(unsigned n);

/* ---- interrupt controllers and time (apic.c) ------------------------------------------------------ */

#define LAPIC 0xfee00000ul
#define IOAPIC 0xfec00000ul
#define LAPIC_ID 0x20
#define LAPIC_VERSION 0x30
#define LAPIC_TPR 0x80
#define LAPIC_EOI 0xb0
#define LAPIC_LDR 0xd0
#define LAPIC_SVR 0xf0
#define LAPIC_ISR 0x100
#define LAPIC_IRR 0x200
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LAPIC_TIMER_INIT 0x380
#define LAPIC_TIMER_NOW 0x390
#define LAPIC_TIMER_DIVIDE 0x3e0

static inline uint32_t lapic_read(unsigned reg) { return *(volatile uint32_t *)(LAPIC + reg); }
static inline void lapic_write(unsigned reg, uint32_t v) { *(volatile uint32_t *)(LAPIC + reg) = v; }
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);
/* Software-enables this processor's LAPIC, all its LVT masked, TPR 0; masks the 8259s and the IOAPIC (once). */
void interrupts_reset(void);
void lapic_eoi(void);
void ipi(unsigned apic_id, uint32_t icr);
void ipi_self(uint32_t icr);
#define ICR_FIXED 0x4000u
#define ICR_NMI 0x4400u
#define ICR_INIT 0x4500u
#define ICR_SIPI 0x4600u
/* Waits by the PIT's channel 2, which nobody else uses: real time on any host. */
void delay_us(unsigned us);
/* TSC ticks in that time, measured once. */
uint64_t tsc_per_ms(void);

#endif
