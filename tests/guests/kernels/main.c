/* Start of a test kernel, and the loop over its tests. */
#include "cpu.h"
#include "print.h"

#define DEBUG_EXIT 0xf4
#define COM1 0x3f8

enum verdict { SUCCESS, SKIP, ERROR, FAILURE };
static enum verdict verdict;
static unsigned complaints;

void kernel_main(void);

/* ---- libc's names that gcc calls ---------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t n)
{
	void *d = to;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	void *d = to;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

/* ---- verdicts -------------------------------------------------------------------------- */

static void complain(enum verdict v, const char *what, const char *file, int line, const char *format, va_list ap)
{
	if (v > verdict)
		verdict = v;
	if (++complaints > 20)
		return;
	print("# %s:%d: %s: ", file, line, what);
	vprint(format, ap);
	print("\n");
}

void test_failure(const char *file, int line, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	complain(FAILURE, "failure", file, line, format, ap);
	va_end(ap);
}

void test_error(const char *file, int line, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	complain(ERROR, "error", file, line, format, ap);
	va_end(ap);
}

void test_skip(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	print("# skip: ");
	vprint(format, ap);
	print("\n");
	va_end(ap);
	if (verdict == SUCCESS)
		verdict = SKIP;
}

void note(const char *format, ...)
{
	va_list ap;

	print("# ");
	va_start(ap, format);
	vprint(format, ap);
	va_end(ap);
	print("\n");
}

_Noreturn void kernel_exit(unsigned code)
{
	outl(DEBUG_EXIT, code);
	for (;;)
		__asm__ volatile("cli; hlt");
}

bool cpu_has(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf & 0x80000000u, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

bool cpu_is_amd(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	return r[2] == 0x444d4163 || r[2] == 0x656e6975; /* AuthenticAMD, HygonGenuine */
}

void page_free_all(void);

/* ---- the command line: "wait" for a byte before the first line; "only=N", "skip=N": by number ------------ */

extern uint32_t boot_start_info;

static const char *cmdline_word(const char *word)
{
	const uint32_t *info = (const uint32_t *)(uint64_t)boot_start_info;
	const char *p;
	size_t n = 0;

	if (!info || info[0] != 0x336ec578)
		return NULL;
	while (word[n])
		n++;
	for (p = (const char *)*(const uint64_t *)(info + 6); p && *p; p++)
		if (!memcmp(p, word, n))
			return p + n;
	return NULL;
}

/* Whether the comma-separated list behind the word has n. */
static bool cmdline_lists(const char *word, unsigned n)
{
	const char *p = cmdline_word(word);

	for (; p && *p >= '0' && *p <= '9'; p++) {
		unsigned have = 0;

		for (; *p >= '0' && *p <= '9'; p++)
			have = have * 10 + (unsigned)(*p - '0');
		if (have == n)
			return true;
		if (*p != ',')
			break;
	}
	return false;
}

static void run_test(unsigned number, const struct test *t)
{
	uint64_t cr0 = cr0_get(), cr4 = cr4_get(), efer = rdmsr(0xc0000080);
	unsigned i;

	verdict = SUCCESS;
	complaints = 0;
	t->fn();
	cli();
	cr0_set(cr0);
	cr4_set(cr4);
	wrmsr(0xc0000080, efer);
	for (i = 0; i < 256; i++) {
		trap_handle(i, NULL);
		idt_reset(i);
	}
	unmap_test_area();
	page_free_all();
	switch (verdict) {
	case SUCCESS: print("ok %u - %s\n", number, t->name); break;
	case SKIP: print("ok %u - %s # SKIP not applicable\n", number, t->name); break;
	case ERROR: print("not ok %u - %s (error)\n", number, t->name); break;
	case FAILURE: print("not ok %u - %s\n", number, t->name); break;
	}
}

void kernel_main(void)
{
	unsigned failed = 0;

	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	outb(COM1 + 4, 3);
	cpu_init(0);
	__asm__ volatile("fninit"); /* out of reset, x87 exceptions are unmasked */
	interrupts_reset(); /* a firmware may have left timers running */
	while (cmdline_word("wait") && !(inb(COM1 + 5) & 1))
		relax();
	print("\n1..%lu\n", kernel_test_count);
	for (size_t i = 0; i < kernel_test_count; i++) {
		if ((cmdline_word("only=") && !cmdline_lists("only=", (unsigned)i + 1)) || cmdline_lists("skip=", (unsigned)i + 1))
			continue;
		run_test((unsigned)i + 1, &kernel_tests[i]);
		failed += verdict >= ERROR;
	}
	print("# end: %u failed\n", failed);
	kernel_exit(failed ? 1 : 0);
}
