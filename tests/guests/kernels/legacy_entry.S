/* Out of long mode and back: 32-bit protected mode, with or without paging, and real mode. For legacy.c. */
#include "layout.h"

/* struct legacy */
#define L_CODE 0
#define L_CR0 4
#define L_CR3 8
#define L_CR4 12
#define L_EFER 16
#define L_GPR 20 /* eax ecx edx ebx esp ebp esi edi */
#define L_EFLAGS 52
#define L_EIP 56
#define L_CS 60
#define L_VECTOR 64
#define L_ERROR 68
#define L_CR2 72

	.text
	.code64
	/* void legacy_enter(struct legacy *l): below 4 GiB */
	.global legacy_enter
legacy_enter:
	pushf
	cli
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, saved_rsp
	mov %edi, current
	sidt saved_idt
	pushq $SEL_CODE32
	lea 1f(%rip), %rax
	push %rax
	lretq
	.code32
1:	mov $legacy_stack_top, %esp
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov current, %ebp
	mov $0xc0000080, %ecx
	mov L_EFER(%ebp), %eax
	xor %edx, %edx
	wrmsr
	lidt legacy_idtr
	testl $1, L_CR0(%ebp)
	jz to_real
	mov L_CR4(%ebp), %eax
	mov %eax, %cr4
	mov L_CR3(%ebp), %eax
	mov %eax, %cr3
	mov L_CR0(%ebp), %eax
	mov %eax, %cr0
	jmp 2f
2:	push L_EFLAGS(%ebp)
	push $SEL_CODE32
	push L_CODE(%ebp)
	mov L_GPR+0(%ebp), %eax
	mov L_GPR+4(%ebp), %ecx
	mov L_GPR+8(%ebp), %edx
	mov L_GPR+12(%ebp), %ebx
	mov L_GPR+24(%ebp), %esi
	mov L_GPR+28(%ebp), %edi
	mov L_GPR+20(%ebp), %ebp
	iret

	/* All traps of 32-bit mode end the run. */
	.align 16
	.global legacy_stubs
legacy_stubs:
vector = 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	push $0
	.endif
	push $vector
	jmp legacy_trap
vector = vector + 1
	.endr

legacy_trap:
	pusha
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov current, %ebp
	mov %esp, %esi
	lea L_GPR(%ebp), %edi
	/* pusha's order is edi esi ebp esp ebx edx ecx eax. */
	mov %ss:28(%esi), %eax
	mov %eax, 0(%edi)
	mov %ss:24(%esi), %eax
	mov %eax, 4(%edi)
	mov %ss:20(%esi), %eax
	mov %eax, 8(%edi)
	mov %ss:16(%esi), %eax
	mov %eax, 12(%edi)
	lea 52(%esi), %eax /* esp in front of the trap: behind vector, error, eip, cs, eflags */
	mov %eax, 16(%edi)
	mov %ss:8(%esi), %eax
	mov %eax, 20(%edi)
	mov %ss:4(%esi), %eax
	mov %eax, 24(%edi)
	mov %ss:0(%esi), %eax
	mov %eax, 28(%edi)
	mov %ss:32(%esi), %eax
	mov %eax, %ds:L_VECTOR(%ebp)
	mov %ss:36(%esi), %eax
	mov %eax, %ds:L_ERROR(%ebp)
	mov %ss:40(%esi), %eax
	mov %eax, %ds:L_EIP(%ebp)
	mov %ss:44(%esi), %eax
	mov %eax, %ds:L_CS(%ebp)
	mov %ss:48(%esi), %eax
	mov %eax, %ds:L_EFLAGS(%ebp)
	mov %cr2, %eax
	mov %eax, %ds:L_CR2(%ebp)
	/* And home. */
back_32:
	mov $legacy_stack_top, %esp
	mov $SEL_DATA, %eax
	mov %eax, %ss
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov $CR4_BOOT, %eax
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	mov $0x901, %eax
	xor %edx, %edx
	wrmsr
	mov $CR0_BOOT, %eax
	mov %eax, %cr0
	ljmp $SEL_CODE64, $3f
	.code64
3:	mov saved_rsp, %rsp
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	lidt saved_idt
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	popf
	ret

/* ---- real mode: the part between the labels runs at REAL_BASE --------------------------------- */

	.code32
to_real:
	/* Through a 16-bit segment; data segments keep what they have: 4 GiB where big_real is set, else 64 KiB. */
	mov $SEL_DATA, %eax
	cmpl $0, big_real
	jne 4f
	mov $SEL_DATA16, %eax
4:	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov $SEL_DATA16, %eax
	mov %eax, %ss
	ljmp $SEL_CODE16, $REAL_BASE + (real_16 - real_start)

	.code16
	.global real_start, real_end
real_start:
real_16:
	mov %cr0, %eax
	and $0xfe, %al
	mov %eax, %cr0
	ljmp $REAL_BASE >> 4, $1f - real_start
1:	xor %ax, %ax
	mov %ax, %ss
	mov $REAL_STACK, %sp
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	mov %ax, %ds
	lidtl %cs:real_idtr - real_start
	/* Registers from REAL_DATA: eax ecx edx ebx ebp esi edi ds es. */
	mov REAL_DATA + 32, %bx
	mov %bx, %es
	mov REAL_DATA, %eax
	mov REAL_DATA + 4, %ecx
	mov REAL_DATA + 8, %edx
	mov REAL_DATA + 16, %ebp
	mov REAL_DATA + 20, %esi
	mov REAL_DATA + 24, %edi
	push REAL_DATA + 28
	mov REAL_DATA + 12, %ebx
	pop %ds
	ljmp $REAL_CODE >> 4, $0

	/* Every vector of the real-mode table: entry N is `call` at 4 * N, so that the return address tells N. */
	.align 16
real_vectors:
	.rept 256
	call real_trap
	nop
	.endr
	.global real_vectors
real_trap:
	/* Stack: where from, ip, cs, flags. */
	push %ds
	push %ax
	xor %ax, %ax
	mov %ax, %ds
	pop %ax
	mov %eax, REAL_DATA
	mov %ecx, REAL_DATA + 4
	mov %edx, REAL_DATA + 8
	mov %ebx, REAL_DATA + 12
	mov %ebp, REAL_DATA + 16
	mov %esi, REAL_DATA + 20
	mov %edi, REAL_DATA + 24
	pop %ax
	mov %ax, REAL_DATA + 28
	mov %es, %ax
	mov %ax, REAL_DATA + 32
	pop %ax
	sub $(real_vectors - real_start) + 3, %ax
	shr $2, %ax
	mov %ax, REAL_DATA + 36 /* vector */
	pop %ax
	mov %ax, REAL_DATA + 38 /* ip */
	pop %ax
	mov %ax, REAL_DATA + 40 /* cs */
	pop %ax
	mov %ax, REAL_DATA + 42 /* flags */
	mov %sp, REAL_DATA + 44
	pushf
	pop %ax
	mov %ax, REAL_DATA + 46 /* in the handler */
	lgdtl %cs:real_gdtr - real_start
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $SEL_CODE32, $real_back
	.align 8
real_idtr:
	.word 0x3ff
	.long REAL_IVT
	.align 8
	.global real_gdtr
real_gdtr:
	.word GDT_SLOTS * 8 - 1
	.long 0
real_end:
	.code32
real_back:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	jmp back_32

	.data
	.align 16
	.global legacy_idtr, big_real
legacy_idtr:
	.word 256 * 8 - 1
	.long legacy_idt
	.align 8
saved_idt: .skip 16
saved_rsp: .quad 0
current: .long 0
big_real: .long 0
	.bss
	.align 16
	.skip 8192
legacy_stack_top:

	.section .note.GNU-stack, "", @progbits
