/* A 32-bit program: old instructions, far calls and returns, into 64-bit code and back. Prints how far it came. */
	.code32
	.globl _start

	.macro say text
	.pushsection .rodata
9:	.ascii "\text\n"
8:
	.popsection
	mov $4, %eax
	mov $1, %ebx
	mov $9b, %ecx
	mov $(8b - 9b), %edx
	int $0x80
	.endm

	.text
_start:
	say "compat: int 0x80"

	mov %esp, %ebp
	mov $0x11, %eax
	mov $0x22, %ecx
	pusha
	xor %eax, %eax
	xor %ecx, %ecx
	popa
	cmp $0x11, %eax
	jne bad
	cmp $0x22, %ecx
	jne bad
	push %ds
	pop %es
	mov $0xae, %al		/* 79 + 35, not yet decimal */
	stc
	sbb %ah, %ah
	mov $0x79, %al
	add $0x35, %al
	daa
	cmp $0x14, %al
	jne bad
	mov $123, %al
	aam
	cmp $0x0c03, %ax
	jne bad
	aad
	cmp $123, %al
	jne bad
	mov $5, %eax
	bound %eax, bounds
	enter $16, $3
	leave
	cmp %esp, %ebp
	jne bad
	les pointer, %edi
	say "compat: old instructions"

	mov %cs, %eax
	mov %eax, far + 4
	movl $near_return, far
	lcall *far
	say "compat: far call"

	/* Loops and 16-bit addressing. */
	xor %eax, %eax
	mov $0x10005, %ecx
1:	inc %eax
	addr16 loop 1b
	cmp $5, %eax
	jne bad
	mov $0x7fffffff, %eax
	add $1, %eax
	jno bad
	say "compat: loops and flags"

	/* The kernel's 64-bit user code segment. */
	push $0x33
	push $in64
	lret

near_return:
	lret

	.code64
in64:
	.byte 0x49, 0xbf	/* mov $0x1122334455667788, %r15 */
	.quad 0x1122334455667788
	mov %r15, %rax
	shr $32, %rax
	.byte 0x3d		/* cmp $0x11223344, %eax */
	.long 0x11223344
	.byte 0x0f, 0x85	/* jne bad64 */
	.long bad64 - . - 4
	.byte 0x68		/* push $in32 with the 32-bit user code segment */
	.long 0x23
	.byte 0x68
	.long in32
	movl $0x23, 8(%rsp)
	lretq
bad64:
	ud2

	.code32
in32:
	say "compat: through 64-bit code"
	mov $1, %eax
	xor %ebx, %ebx
	int $0x80
bad:
	say "compat: wrong"
	mov $1, %eax
	mov $1, %ebx
	int $0x80

	.data
far:	.long 0, 0
bounds:	.long 0, 10
pointer: .long 0x1234
	.word 0x2b
