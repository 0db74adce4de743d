/* Pieces of code outside long mode: 32-bit protected mode with any control registers, and real mode. (legacy_run.c) */
#ifndef TEST_LEGACY_H
#define TEST_LEGACY_H

#include "k.h"

/* What legacy_entry.S is given, and fills. */
struct legacy {
	uint32_t code, cr0, cr3, cr4, efer;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t eflags, eip, cs;
	uint32_t vector, error, cr2;
};

struct real {
	uint32_t eax, ecx, edx, ebx, ebp, esi, edi;
	uint16_t ds, pad0, es, pad1, vector, ip, cs, flags, sp, handler_flags;
};

/* Set: real mode's ds, es, fs and gs have a limit of 4 GiB. */
extern uint32_t big_real;
/* The 32-bit gates; setup_32 makes them all lead to the end of the run. */
extern uint64_t legacy_idt[256];

#define CR0_32 0x00010031u /* WP NE ET PE */
#define CR0_PG 0x80000000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define EFER_NXE 0x800u

#define CODE_32(name, text) CODE(name, ".code32\n\t" text "\n\t.code64\n\t")
#define CODE_16(name, text)                                                                                            \
	extern char name##_end[];                                                                                      \
	CODE(name, ".code16\n\t" text "\n\tint $0xf0\n\t.globl " #name "_end\n\t" #name "_end: .code64\n\t")

void setup_32(void);
/* No paging, interrupts off. */
struct legacy in_32(const void *code);
/* Until the first trap, whose outcome it is. */
uint64_t run_32(struct legacy *l);
/* Real-mode code, copied to REAL_CODE; until the first interrupt, `vector`. */
struct real run_16_at(const char *code, const char *end, struct real in);
#define RUN_16(name, ...) run_16_at(name, name##_end, (struct real){__VA_ARGS__})

#endif
