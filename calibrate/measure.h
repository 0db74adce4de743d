/*
 * Calibration programs: the same loops as a guest of our own (guest.c, any mode) and as a plain process (native.c). Both
 * print what trivisord reads (daemon/calibrate.c):
 *
 *	calibrate ready 1                           the protocol's version; natively followed by the TSC's kHz
 *	begin NAME
 *	figure NAME LEAST MEDIAN OPERATIONS ROUNDS  thousandths of a TSC tick for one operation
 *	fail NAME REASON…                           it cannot be measured here
 *	end                                         all that was asked for
 *
 * Everything here runs without a C library and, but for floating.c, in general registers only.
 */
#ifndef CALIBRATE_MEASURE_H
#define CALIBRATE_MEASURE_H

#define CODE_FUNCTION_BYTES 272 /* of code.S */

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CALIBRATE_VERSION "1"

#define PAGE_BYTES 4096ul
#define ARENA_PAGES 2304ul /* 2048 for the TLB's measure and a page for what the others need */
#define TLB_PAGES 2048ul
#define FORK_PAGES 64ul
#define PARENT_WRITES 4ul
#define FAULT_PAGES 256ul

enum measure_id {
#define MEASURE(name, operation, native) MEASURE_##name,
#include "proto/measures.def"
#undef MEASURE
	MEASURE_COUNT
};

struct measure {
	/* Before the first round: NULL, or why it cannot be measured here. May itself be NULL. */
	const char *(*prepare)(void);
	/* So many operations; the TSC ticks that they took. */
	uint64_t (*run)(uint64_t operations);
	uint64_t first; /* operations of the first round */
	uint64_t most;  /* of a round; 0: no limit */
};

static inline uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ __volatile__("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

/* ---- of the program that measures (guest.c, native.c) ---- */

extern const struct measure measures[MEASURE_COUNT];
void put_text(const char *text);
/* ARENA_PAGES of memory in pages of 4 KiB, all touched. */
uint8_t *arena(void);
/* Set by a run that cannot go on; the measure then fails with it. */
extern const char *run_failure;

/* ---- measure.c ---- */

/* By name, `budget` ticks long or a little more; prints its lines. False: there is no such measure. */
bool measure_run(const char *name, size_t length, uint64_t budget);
/* All words of a list separated by blanks; "all" is every one. Ends with "end". */
void measure_list(const char *names, uint64_t budget);
const char *measure_name(enum measure_id id);
void put_number(uint64_t value);

/* ---- loops that are the same everywhere (integer.c, code.S, floating.c) ---- */

const char *integer_prepare(void), *vector_prepare(void), *tlb_prepare(void);
uint64_t integer_run(uint64_t operations), floating_run(uint64_t operations), vector_run(uint64_t operations),
	memory_run(uint64_t operations), tlb_run(uint64_t operations), code_run(uint64_t operations);
/* Calls so many of code.S' first functions, in an order of its own from `first` on; FORK_PAGES of data. */
void code_walk(uint64_t first, uint64_t operations, uint8_t *data);

/* Their rows of `measures`. */
#define MEASURE_LOOPS \
	[MEASURE_integer] = {integer_prepare, integer_run, 64, 0}, [MEASURE_floating] = {NULL, floating_run, 64, 0}, \
	[MEASURE_vector] = {vector_prepare, vector_run, 64, 0}, [MEASURE_memory] = {NULL, memory_run, 64, 0}, \
	[MEASURE_tlb] = {tlb_prepare, tlb_run, TLB_PAGES, 0}, [MEASURE_code] = {NULL, code_run, 64, 0}

#endif
#endif
