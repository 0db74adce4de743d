/* bench/spike/spike [rounds] [group …]: measures the translator's candidate designs and prints tables. */
#include "bench/spike/spike.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The choice to beat; the others differ from it as their names say. */
#define LEAD .layout = LAY_RSP_STATE, .tlb = TLB_ENTRY32, .flags = FLAG_LAZY, .ind = IND_HASH64K, .poll = POLL_LOAD2
#define NOPOLL .layout = LAY_RSP_STATE, .tlb = TLB_ENTRY32, .flags = FLAG_LAZY, .ind = IND_HASH64K
#define BEST .stack = STK_RUN, .flags = FLAG_LAZY_CF, .fall = true, .share = true, \
	     .ind = IND_HASH4K, .poll = POLL_LOAD2

static const struct design designs[] = {
	{ "native, ns", .layout = LAY_NATIVE },
	{ "* marked choice", LEAD },
	{ "layout: gs = state, rsp native", .layout = LAY_GS_STATE, .tlb = TLB_ENTRY32, .poll = POLL_LOAD2 },
	{ "no TLB at all (other costs)", .layout = LAY_RSP_STATE, .tlb = TLB_NONE, .poll = POLL_LOAD2 },
	{ "TLB: split arrays", .tlb = TLB_SPLIT8, .poll = POLL_LOAD2, .layout = LAY_RSP_STATE },
	{ "TLB: addend, tag off the path", .tlb = TLB_ADDEND32, .poll = POLL_LOAD2, .layout = LAY_RSP_STATE },
	{ "TLB: pext index, split", .tlb = TLB_PEXT, .poll = POLL_LOAD2, .layout = LAY_RSP_STATE },
	{ "TLB: pext + jrcxz, flags free", .tlb = TLB_JRCXZ, .layout = LAY_GS_RCX, .flags = FLAG_FREE,
	  .ind = IND_JRCXZ, .poll = POLL_LOAD2 },
	{ "  the same, stack page cached", .tlb = TLB_JRCXZ, .layout = LAY_GS_RCX, .flags = FLAG_FREE,
	  .ind = IND_JRCXZ, .stack = STK_ONE, .poll = POLL_LOAD2 },
	{ "TLB: page cached by site", .tlb = TLB_SITE, .layout = LAY_RSP_STATE, .poll = POLL_LOAD2 },
	{ "TLB: page cached by base register", .tlb = TLB_BASE, .layout = LAY_RSP_STATE, .poll = POLL_LOAD2 },
	{ "stack: one page cached", LEAD, .stack = STK_ONE },
	{ "stack: one check per run", LEAD, .stack = STK_RUN },
	{ "stack: page cached, addend", .tlb = TLB_ADDEND32, .stack = STK_ONE, .poll = POLL_LOAD2,
	  .layout = LAY_RSP_STATE },
	{ "TLB: one check per base", LEAD, .share = true },
	{ "flags: lahf..sahf at each", .layout = LAY_RSP_STATE, .flags = FLAG_AROUND, .poll = POLL_LOAD2 },
	{ "flags: pushf..popf at each", .layout = LAY_RSP_STATE, .flags = FLAG_PUSHF, .poll = POLL_LOAD2 },
	{ "flags: carry alone setc..bt", .layout = LAY_RSP_STATE, .flags = FLAG_LAZY_CF, .poll = POLL_LOAD2 },
	{ "link: fall through, no jmp", LEAD, .fall = true },
	{ "link: page guard at calls", LEAD, .guard = true },
	{ "  at indirect entries, too", LEAD, .guard = true, .entry_guard = true },
	{ "indirect: 4K hash", .layout = LAY_RSP_STATE, .ind = IND_HASH4K, .poll = POLL_LOAD2 },
	{ "indirect: 4K hash, 64-bit check", .layout = LAY_RSP_STATE, .ind = IND_HASH4K_IMM64, .poll = POLL_LOAD2 },
	{ "indirect: 4K {tag, host}", .layout = LAY_RSP_STATE, .ind = IND_TAGGED, .poll = POLL_LOAD2 },
	{ "return: ring of {rip, host}", LEAD, .ret = RET_RING },
	{ "return: slot by stack pointer", LEAD, .ret = RET_SPSLOT },
	{ "return: host call/ret, gs state", .layout = LAY_GS_CALL, .ret = RET_HOST, .poll = POLL_LOAD2 },
	{ "  the same, stack page cached", .layout = LAY_GS_CALL, .ret = RET_HOST, .stack = STK_ONE, .poll = POLL_LOAD2 },
	{ "  the same, one check per run", .layout = LAY_GS_CALL, .ret = RET_HOST, .stack = STK_RUN, .poll = POLL_LOAD2 },
	{ "poll: none", NOPOLL },
	{ "poll: one load", NOPOLL, .poll = POLL_LOAD1 },
	{ "poll: cmp; jne", NOPOLL, .poll = POLL_CMP },
	{ "marked + runs, shared checks", .layout = LAY_RSP_STATE, .tlb = TLB_ENTRY32, BEST },
	{ "  + page cached by base", .layout = LAY_RSP_STATE, .tlb = TLB_BASE, BEST },
	{ "  + host call/ret", .layout = LAY_GS_CALL, .ret = RET_HOST, .tlb = TLB_BASE, BEST },
	{ "  + entries guarded", .layout = LAY_GS_CALL, .ret = RET_HOST, .entry_guard = true, .tlb = TLB_BASE, BEST },
};

static const struct { const struct program *p; unsigned param; } columns[] = {
	{ &prog_fib, 26 }, { &prog_chase, 4096 }, { &prog_crc, 0 }, { &prog_crc_hi, 0 }, { &prog_copy, 0 },
	{ &prog_icall, 0 }, { &prog_bignum, 0 }, { &prog_scatter, 0 },
	{ &prog_spin, 0 },
};
#define COLUMNS (sizeof(columns) / sizeof(*columns))

static void main_table(unsigned threads, unsigned rounds)
{
	enum { N = sizeof(designs) / sizeof(*designs) };
	static struct figure f[COLUMNS][N];

	printf("\n%u thread%s: ns per operation natively, then how many times that\n%-34s", threads,
	       threads > 1 ? "s at once" : "", "");
	for (unsigned i = 0; i < COLUMNS; i++)
		measure(designs, N, columns[i].p, columns[i].param, threads, rounds, f[i]);
	for (unsigned i = 0; i < COLUMNS; i++)
		printf(" %8.8s", i == 3 ? "crc r13+" : columns[i].p->name);
	printf("  bytes");
	for (unsigned k = 0; k < N; k++) {
		printf("\n%-34s", designs[k].name);
		for (unsigned i = 0; i < COLUMNS; i++)
			printf(" %8.2f", k ? f[i][k].ns / f[i][0].ns : f[i][0].ns);
		unsigned bytes = 0;
		for (unsigned i = 0; i < COLUMNS; i++)
			bytes += f[i][k].bytes;
		printf(" %6u", bytes);
	}
	printf("\n");
}

static void tlb_sizes(unsigned rounds)
{
	static const unsigned kib[] = { 256, 1024, 4096, 16384, 32768 };
	static const struct design sizes[] = {
		{ "native", .layout = LAY_NATIVE }, { "256", LEAD, .bits = 8 }, { "1024", LEAD, .bits = 10 },
		{ "4096", LEAD, .bits = 12 }, { "8192", LEAD, .bits = 13 },
	};
	struct figure f[5][5];

	printf("\npointer chase, ns per hop (misses per hop), by KiB of the chase and entries of the TLB\n%-12s", "");
	for (unsigned i = 0; i < 5; i++) {
		measure(sizes, 5, &prog_chase, kib[i], 1, rounds, f[i]);
		printf(" %15u", kib[i]);
	}
	for (unsigned b = 0; b < 5; b++) {
		printf("\n%-12s", sizes[b].name);
		for (unsigned i = 0; i < 5; i++)
			printf(" %8.2f (%4.2f)", f[i][b].ns, f[i][b].misses);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? atoi(argv[1]) : 11;
	const char *groups = argc > 2 ? argv[2] : "12spk";

	if (rounds < 1 || rounds > 60)
		errx(2, "usage: spike [rounds, 1 to 60] [groups: 1 one thread, 2 two threads, s TLB sizes, p patching, k kicks]");
	if (!__builtin_cpu_supports("bmi2"))
		errx(1, "spike: this host has no BMI2");
	if (strchr(groups, '1'))
		main_table(1, rounds);
	if (strchr(groups, '2'))
		main_table(2, rounds);
	if (strchr(groups, 's'))
		tlb_sizes(rounds);
	if (strchr(groups, 'p'))
		measure_patching();
	if (strchr(groups, 'k'))
		measure_kicks();
	return 0;
}
