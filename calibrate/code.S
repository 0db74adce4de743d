/*
 * Code that does not fit a processor's nearest caches, as kernels and large programs have it: 256 functions, 272 bytes
 * apart, each with a line of data of its own in one of 64 pages. A call of one of the first 64 runs 15: every function of
 * the first three levels calls two of the next. Who is called is arithmetic; to a predictor it looks like a call graph.
 *
 * uint64_t code_functions + CODE_FUNCTION_BYTES * n (uint64_t x, uint8_t *data): n below 64, data: FORK_PAGES.
 */
#include "calibrate/measure.h"

/* No power of two: real code does not lie at the same place of every page, or of every 64 KiB. */
#define FUNCTION_BYTES CODE_FUNCTION_BYTES
#define LEVEL 64  /* functions in one level */

	.text
	.balign 4096
	.global code_functions
	.hidden code_functions
	.type code_functions, @function
code_functions:
number = 0
	.rept 4 * LEVEL
	.org code_functions + number * FUNCTION_BYTES, 0xcc
	push %rbx
	push %rbp
	mov %rdi, %rbx
	mov %rsi, %rbp
	/* A field read, looked at, changed and written back, in a page of this function's. */
	mov (number % 64) * 4096 + (number * 7 % 64) * 64(%rsi), %rax
	lea (%rax, %rdi), %rdx
	shr $7, %rdx
	test $1, %dl
	jz 1f
	xor $(number * 2654435761 % 2147483648), %rdi
	inc %rax
1:	add $number, %rax
	mov %rax, (number % 64) * 4096 + (number * 7 % 64) * 64(%rsi)
	.if number < 3 * LEVEL
	call code_functions + FUNCTION_BYTES * (LEVEL * (number / LEVEL + 1) + (number * 37 + 11) % LEVEL)
	lea (%rax, %rbx), %rdi
	mov %rbp, %rsi
	call code_functions + FUNCTION_BYTES * (LEVEL * (number / LEVEL + 1) + (number * 91 + 101) % LEVEL)
	.endif
	xor %rbx, %rax
	cmp %rax, %rbp
	jb 2f
	rol $3, %rax
2:	pop %rbp
	pop %rbx
	ret
number = number + 1
	.endr
	.org code_functions + number * FUNCTION_BYTES, 0xcc
	.size code_functions, . - code_functions
	.section .note.GNU-stack, "", @progbits
