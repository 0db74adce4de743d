/* Numbers that assembler and C of the test kernels share. */
#ifndef TEST_LAYOUT_H
#define TEST_LAYOUT_H

#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_USER32 0x1b
#define SEL_USER_DATA 0x23
#define SEL_USER64 0x2b
#define SEL_CODE32 0x30
#define SEL_CODE16 0x38
#define SEL_TSS 0x40
/* Two slots each, free for tests; the table goes on to GDT_SLOTS. */
#define SEL_TEST 0x50
#define GDT_SLOTS 64

#define CR0_BOOT 0x80010033 /* PG WP NE ET MP PE */
#define CR4_BOOT 0x620      /* PAE, OSFXSR, OSXMMEXCPT */

#define AP_TRAMPOLINE 0x8000

/* legacy.c: a 16-bit data segment in a test slot, and where real mode finds its things. */
#define SEL_DATA16 0x60
#define REAL_IVT 0x6000
#define REAL_STACK 0x7ff0
#define REAL_DATA 0x7000
#define REAL_BASE 0x9000
#define REAL_CODE 0xa000

/* struct regs */
#define REGS_RAX 0
#define REGS_RCX 8
#define REGS_RDX 16
#define REGS_RBX 24
#define REGS_RSP 32
#define REGS_RBP 40
#define REGS_RSI 48
#define REGS_RDI 56
#define REGS_R8 64
#define REGS_R9 72
#define REGS_R10 80
#define REGS_R11 88
#define REGS_R12 96
#define REGS_R13 104
#define REGS_R14 112
#define REGS_R15 120
#define REGS_RIP 128
#define REGS_RFLAGS 136
#define REGS_CS 144
#define REGS_SS 152

/* Ends a piece of code that run_regs was given. Callable from ring 3. */
#define VECTOR_DONE 0xf0
/* Wakes a processor that waits for a call. */
#define VECTOR_WAKE 0xe0

#endif
