/*
 * The calibration guest: a kernel of a few hundred lines. It reads one line from COM1, "run TICKS NAME…", prints its
 * figures there, and ends the VM through the debug-exit port. Only what needs ring 3 goes there: a software KVM may not
 * get that far, and still run loops.
 */
#include "calibrate/guest.h"

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
#define LINE_MAX 512
/* Nobody asks: the daemon is gone, and nobody else would end this VM. */
#define PATIENCE_TICKS (60ull * 1000 * 1000 * 1000)

#define PTE_P 1ul
#define PTE_W 2ul
#define PTE_U 4ul
#define PTE_COPY 0x200ul /* ours: to be copied when written */
#define PTE_ADDRESS 0x000ffffffffff000ul

#define MSR_APIC_BASE 0x1bu
#define MSR_X2APIC 0x800u
#define MSR_EFER_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FMASK 0xc0000084u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define LAPIC 0xfee00000ul
#define VECTOR 0x40u

/* An address space of its own: PML4 slot 1. Demand pages at FAULT_AT, copied ones at FORK_AT. */
#define FAULT_AT 0x8000000000ul
#define FORK_AT 0x8000200000ul

extern uint64_t boot_pml4[512], boot_pd[2048];
extern char syscall_stack_top[], fault_stack_top[], trap_stubs[];
extern struct {
	uint32_t reserved;
	uint64_t rsp0;
} __attribute__((packed)) tss;
void syscall_entry(void), fault_entry(void), interrupt_entry(void), call_entry(void),
	user_stub(void);

static uint8_t pages[ARENA_PAGES][PAGE_BYTES] __attribute__((aligned(2 << 20)));
static uint64_t arena_tables[(ARENA_PAGES + 511) / 512][512] __attribute__((aligned(4096)));
/* The part of the arena that the kernel hands out: behind what the loops use. */
static unsigned next_page = TLB_PAGES;
static uint64_t user_pdpt[512] __attribute__((aligned(4096))), user_pd[512] __attribute__((aligned(4096))),
	fault_table[512] __attribute__((aligned(4096))), fork_table[512] __attribute__((aligned(4096)));
/* A child's tables: PML4, PDPT, page directory, page table. */
static uint64_t child_tables[4][512] __attribute__((aligned(4096)));
static uint8_t fork_pages[FORK_PAGES][PAGE_BYTES] __attribute__((aligned(4096)));
static bool in_child;
static uint64_t kernel_gs[2]; /* syscall_entry: the kernel's stack, the user's */
static struct {
	uint16_t low, selector, type, mid;
	uint32_t high, zero;
} idt[256];
static volatile uint64_t interrupts;
static bool x2apic;

/* ---- the serial port -------------------------------------------------------------------- */

void put_text(const char *text)
{
	for (; *text; text++) {
		while (!(inb(COM1 + 5) & 0x20))
			;
		outb(COM1, (uint8_t)*text);
	}
}

static __attribute__((noreturn)) void leave(uint8_t code)
{
	for (;;)
		outl(DEBUG_EXIT, code);
}

static void read_line(char *line)
{
	uint64_t begin = ticks();
	size_t n = 0;

	for (;;) {
		char c;

		while (!(inb(COM1 + 5) & 1)) {
			if (ticks() - begin > PATIENCE_TICKS)
				leave(3);
			__asm__ __volatile__("pause");
		}
		c = (char)inb(COM1);
		if (c == '\n')
			break;
		if (n < LINE_MAX - 1)
			line[n++] = c;
	}
	line[n] = '\0';
}

/* ---- the kernel ---------------------------------------------------------------------------- */

uint8_t *arena(void)
{
	return pages[0];
}

static void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ __volatile__("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ __volatile__("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static void set_cr3(const uint64_t *pml4)
{
	__asm__ __volatile__("mov %0, %%cr3" ::"r"((uint64_t)pml4) : "memory");
}

__attribute__((noinline)) uint64_t syscall_nothing(void)
{
	return 0;
}

static inline void do_syscall(void)
{
	__asm__ __volatile__("syscall" ::: "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
}

/* From ring 3. */
static uint64_t in_kernel(uint64_t (*fn)(uint64_t argument), uint64_t argument)
{
	uint64_t result = (uint64_t)fn;

	__asm__ __volatile__("ud2"
			     : "+a"(result), "+D"(argument)
			     :
			     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	return result;
}

static void put_hex(uint64_t value)
{
	char text[19] = "0x";

	for (unsigned i = 0; i < 16; i++)
		text[2 + i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
	text[18] = '\0';
	put_text(text);
}

/* first, second: what the processor pushed last, the error code for those that have one. */
__attribute__((noreturn)) void on_trap(uint64_t vector, uint64_t first, uint64_t second)
{
	const uint32_t with_error = 1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21;
	uint64_t rip = with_error >> vector & 1 ? second : first;

	put_text("\npanic ");
	if (rip >= (uint64_t)in_user && rip < (uint64_t)user_stub)
		put_text("ring 3 cannot be entered: ");
	else if (rip == (uint64_t)syscall_entry)
		put_text("swapgs cannot be executed: ");
	put_text("exception ");
	put_number(vector);
	put_text(" at ");
	put_hex(rip);
	put_text("\n");
	leave(2);
}

static uint8_t *new_page(void)
{
	if (next_page == ARENA_PAGES)
		next_page = TLB_PAGES; /* measured pages are given up as a whole */
	return pages[next_page++];
}

static void invalidate(uint64_t address)
{
	__asm__ __volatile__("invlpg (%0)" ::"r"(address) : "memory");
}

void on_fault(uint64_t error, uint64_t address, uint64_t rip)
{
	uint64_t *entry, old;
	uint8_t *page;

	if (address >= FAULT_AT && address < FAULT_AT + FAULT_PAGES * PAGE_BYTES && !(error & 1)) {
		page = new_page();
		__builtin_memset(page, 0, PAGE_BYTES);
		fault_table[(address - FAULT_AT) / PAGE_BYTES] = (uint64_t)page | PTE_U | PTE_W | PTE_P;
		return;
	}
	if (address >= FORK_AT && address < FORK_AT + FORK_PAGES * PAGE_BYTES && (error & 3) == 3) {
		entry = (in_child ? child_tables[3] : fork_table) + (address - FORK_AT) / PAGE_BYTES;
		old = *entry;
		if (old & PTE_COPY) {
			page = (uint8_t *)(old & PTE_ADDRESS);
			if (in_child) {
				uint8_t *copy = new_page();

				__builtin_memcpy(copy, page, PAGE_BYTES);
				page = copy;
			}
			*entry = (uint64_t)page | PTE_U | PTE_W | PTE_P;
			invalidate(address);
			return;
		}
	}
	put_text("\npanic page fault at ");
	put_hex(address);
	put_text(" rip ");
	put_hex(rip);
	put_text("\n");
	leave(2);
}

static void set_gate(unsigned vector, const void *handler)
{
	uint64_t at = (uint64_t)handler;

	idt[vector].low = (uint16_t)at;
	idt[vector].selector = 8;
	idt[vector].type = 0x8e00;
	idt[vector].mid = (uint16_t)(at >> 16);
	idt[vector].high = (uint32_t)(at >> 32);
}

static void map_arena(void)
{
	/* To the end of the last 2 MiB, where other data may lie. */
	for (unsigned i = 0; i < sizeof(arena_tables) / 8; i++)
		arena_tables[i / 512][i % 512] = ((uint64_t)pages[0] + i * PAGE_BYTES) | PTE_U | PTE_W | PTE_P;
	for (unsigned i = 0; i < sizeof(arena_tables) / PAGE_BYTES; i++)
		boot_pd[((uint64_t)pages[0] >> 21) + i] = (uint64_t)arena_tables[i] | PTE_U | PTE_W | PTE_P;
	boot_pml4[1] = (uint64_t)user_pdpt | PTE_U | PTE_W | PTE_P;
	user_pdpt[0] = (uint64_t)user_pd | PTE_U | PTE_W | PTE_P;
	user_pd[0] = (uint64_t)fault_table | PTE_U | PTE_W | PTE_P;
	user_pd[1] = (uint64_t)fork_table | PTE_U | PTE_W | PTE_P;
	set_cr3(boot_pml4);
}

static void main_loop(void);

void kernel_main(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (uint64_t)idt};

	for (unsigned i = 0; i < 32; i++)
		set_gate(i, trap_stubs + 16 * i);
	set_gate(14, (void *)fault_entry);
	set_gate(VECTOR, (void *)interrupt_entry);
	set_gate(VECTOR_UNDEFINED, (void *)call_entry);
	__asm__ __volatile__("lidt %0" ::"m"(idtr));
	tss.rsp0 = (uint64_t)fault_stack_top;
	kernel_gs[0] = (uint64_t)syscall_stack_top;
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)kernel_gs);
	wrmsr(MSR_EFER_STAR, 0x18ull << 48 | 0x08ull << 32);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
	wrmsr(MSR_FMASK, 0x700);
	map_arena();
	main_loop();
}

/* ---- what needs a kernel ---------------------------------------------------------------------- */

static uint64_t syscall_loop(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		do_syscall();
	return ticks() - begin;
}

static uint64_t syscall_run(uint64_t operations)
{
	return in_user(syscall_loop, operations);
}

static uint64_t forget_faults(uint64_t unused)
{
	__builtin_memset(fault_table, 0, PAGE_BYTES);
	set_cr3(boot_pml4);
	return 0;
}

static uint64_t fault_loop(uint64_t operations)
{
	uint64_t spent = 0;

	while (operations) {
		uint64_t n = operations < FAULT_PAGES ? operations : FAULT_PAGES, begin;

		in_kernel(forget_faults, 0);
		begin = ticks();
		for (uint64_t i = 0; i < n; i++)
			*(volatile uint8_t *)(FAULT_AT + i * PAGE_BYTES) = 1;
		spent += ticks() - begin;
		operations -= n;
	}
	return spent;
}

static uint64_t fault_run(uint64_t operations)
{
	return in_user(fault_loop, operations);
}

static const char *process_prepare(void)
{
	for (unsigned i = 0; i < FORK_PAGES; i++)
		fork_table[i] = (uint64_t)fork_pages[i] | PTE_U | PTE_W | PTE_P;
	return NULL;
}

static uint64_t begin_child(uint64_t unused)
{
	__builtin_memcpy(child_tables[0], boot_pml4, PAGE_BYTES);
	__builtin_memset(child_tables[1], 0, 3 * PAGE_BYTES);
	child_tables[0][1] = (uint64_t)child_tables[1] | PTE_U | PTE_W | PTE_P;
	child_tables[1][0] = (uint64_t)child_tables[2] | PTE_U | PTE_W | PTE_P;
	child_tables[2][1] = (uint64_t)child_tables[3] | PTE_U | PTE_W | PTE_P;
	for (unsigned i = 0; i < FORK_PAGES; i++)
		child_tables[3][i] = fork_table[i] = (fork_table[i] & ~PTE_W) | PTE_COPY;
	in_child = true;
	set_cr3(child_tables[0]);
	return 0;
}

static uint64_t end_child(uint64_t unused)
{
	in_child = false;
	set_cr3(boot_pml4);
	return 0;
}

static void touch_copies(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		*(volatile uint8_t *)(FORK_AT + i * PAGE_BYTES) = 2;
}

static uint64_t process_loop(uint64_t operations)
{
	uint8_t *pages_of_both = (uint8_t *)FORK_AT;
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++) {
		in_kernel(begin_child, 0);
		code_walk(i, 1, pages_of_both);
		for (uint64_t k = 0; k < FORK_PAGES; k++)
			(void)*(volatile uint8_t *)(pages_of_both + k * PAGE_BYTES);
		in_kernel(end_child, 0);
		touch_copies(PARENT_WRITES);
	}
	return ticks() - begin;
}

static uint64_t process_run(uint64_t operations)
{
	return in_user(process_loop, operations);
}

void on_interrupt(void)
{
	interrupts++;
	if (x2apic)
		wrmsr(MSR_X2APIC + 0x0b, 0);
	else
		*(volatile uint32_t *)(LAPIC + 0xb0) = 0;
}

static const char *interrupt_prepare(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	__asm__ __volatile__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	x2apic = ecx >> 21 & 1;
	if (x2apic) {
		wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
		wrmsr(MSR_X2APIC + 0x0f, 0x1ff);
	} else {
		*(volatile uint32_t *)(LAPIC + 0xf0) = 0x1ff;
	}
	return NULL;
}

static uint64_t interrupt_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++) {
		uint64_t seen = interrupts;

		/* SDM vol. 3, 10.6.1: fixed, to oneself. */
		if (x2apic)
			wrmsr(MSR_X2APIC + 0x30, 0x40000 | VECTOR);
		else
			*(volatile uint32_t *)(LAPIC + 0x300) = 0x40000 | VECTOR;
		__asm__ __volatile__("sti; nop; cli" ::: "memory");
		for (uint64_t since = ticks(); interrupts == seen;) {
			__asm__ __volatile__("sti; pause; cli" ::: "memory");
			if (ticks() - since > 4000000000ull) {
				run_failure = "an interrupt to oneself never came";
				return 0;
			}
		}
	}
	return ticks() - begin;
}

static uint64_t port_run(uint64_t operations)
{
	uint64_t begin = ticks();

	for (uint64_t i = 0; i < operations; i++)
		inb(COM1 + 5);
	return ticks() - begin;
}

const struct measure measures[MEASURE_COUNT] = {
	MEASURE_LOOPS,
	[MEASURE_syscall] = {NULL, syscall_run, 16, 0},
	[MEASURE_fault] = {NULL, fault_run, 16, 0},
	[MEASURE_process] = {process_prepare, process_run, 1, 0},
	[MEASURE_interrupt] = {interrupt_prepare, interrupt_run, 4, 0},
	[MEASURE_port_io] = {NULL, port_run, 4, 0},
	[MEASURE_virtio] = {virtio_prepare, virtio_run, 1, 0},
};

/* ---- the program ------------------------------------------------------------------------------------ */

static void main_loop(void)
{
	static char line[LINE_MAX];
	const char *at = line;
	uint64_t budget = 0;

	put_text("calibrate ready " CALIBRATE_VERSION "\n");
	read_line(line);
	if (line[0] != 'r' || line[1] != 'u' || line[2] != 'n' || line[3] != ' ') {
		put_text("fail ? not understood\n");
		leave(1);
	}
	for (at = line + 4; *at >= '0' && *at <= '9'; at++)
		budget = budget * 10 + (uint64_t)(*at - '0');
	while (*at == ' ')
		at++;
	measure_list(at, budget);
	leave(0);
}

/* What GCC may call. */
void *memset(void *to, int value, size_t n)
{
	void *at = to;

	__asm__ __volatile__("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ __volatile__("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
	return to;
}

size_t strlen(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}
