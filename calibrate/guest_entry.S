/* The calibration guest's way in (PVH, 32-bit, to long mode) and its three kinds of kernel entry. */

#include "calibrate/long_mode.inc"

	PVH_NOTE

#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_USER_BASE 0x18 /* sysret: SS is 8, CS 16 behind it */
#define SEL_USER_DATA 0x23
#define SEL_USER64 0x2b
#define SEL_TSS 0x30

#include "calibrate/guest.h"

	.section .text.boot, "ax"
	.code32
	.global entry32
entry32:
	cli
	cld
	mov $kernel_stack_top, %esp
	IDENTITY_MAP 7 /* open to ring 3: this guest has nobody to protect */
	/* The TSS' descriptor, whose base is not linker arithmetic. */
	mov $tss, %eax
	mov %ax, gdt + SEL_TSS + 2
	shr $16, %eax
	mov %al, gdt + SEL_TSS + 4
	mov %ah, gdt + SEL_TSS + 7
	lgdt gdtr
	mov $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	mov $0x101, %eax /* SCE, LME */
	xor %edx, %edx
	wrmsr
	mov $0x80010033, %eax /* PG WP NE ET MP PE */
	mov %eax, %cr0
	ljmp $SEL_CODE64, $3f
	.code64
3:	LOAD_DATA_SEGMENTS SEL_DATA
	mov $SEL_TSS, %eax
	ltr %ax
	mov $kernel_stack_top, %rsp
	call kernel_main
9:	hlt
	jmp 9b

	.text
	/* uint64_t in_user(fn, argument): fn(argument) in ring 3, its result here. Not nested. */
	.global in_user, user_stub
in_user:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, kernel_rsp
	pushq $SEL_USER_DATA
	mov $user_stack_top, %eax
	push %rax
	pushq $2
	pushq $SEL_USER64
	mov $user_stub, %eax
	push %rax
	iretq
user_stub:
	mov %rdi, %rax
	mov %rsi, %rdi
	call *%rax
	mov %rax, %rdi
	mov $back_from_user, %eax
	ud2
	/* Called by call_entry: drops its frame, and returns from in_user. */
back_from_user:
	mov kernel_rsp, %rsp
	mov %rdi, %rax
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	/* A call that does nothing, in the way that systems enter their kernel. */
	.global syscall_entry
syscall_entry:
	swapgs
	mov %rsp, %gs:8
	mov %gs:0, %rsp
	push %gs:8
	push %rcx
	push %r11
	call syscall_nothing
	pop %r11
	pop %rcx
	pop %rsp
	swapgs
	sysretq

	.macro SAVE
	push %rax
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	.endm
	.macro RESTORE
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rax
	.endm

	.global fault_entry
fault_entry: /* #PF; the error code is on the stack. Nothing here needs gs: a KVM without swapgs can be measured too. */
	SAVE
	mov 72(%rsp), %rdi
	mov %cr2, %rsi
	mov 80(%rsp), %rdx
	call on_fault
	RESTORE
	add $8, %rsp
	iretq

	/* From ring 3: a function of the kernel's in rax, called with rdi. Its result comes back in rax. */
	.global call_entry
call_entry:
	testb $3, 8(%rsp)
	jz trap_stubs + 16 * VECTOR_UNDEFINED
	addq $UNDEFINED_BYTES, (%rsp)
	call *%rax
	iretq

	.global interrupt_entry
interrupt_entry:
	SAVE
	call on_interrupt
	RESTORE
	iretq

	/* Any other exception: the number and what lies on the stack, for a message. */
	.global trap_stubs
	.align 16
trap_stubs:
vector = 0
	.rept 32
	.align 16
	mov $vector, %edi
	jmp trap
vector = vector + 1
	.endr
trap:	mov (%rsp), %rsi
	mov 8(%rsp), %rdx
	and $-16, %rsp
	call on_trap
8:	hlt
	jmp 8b

	.data
	.align 16
	.global gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* kernel code */
	.quad 0x00cf93000000ffff /* kernel data */
	.quad 0x00cffb000000ffff /* user code, 32-bit */
	.quad 0x00cff3000000ffff /* user data */
	.quad 0x00affb000000ffff /* user code */
	.quad 0x0000890000000067 /* the TSS */
	.quad 0
gdtr:	.word gdtr - gdt - 1
	.quad gdt

	.bss
	.align 4096
	.global boot_pml4, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 4 * 4096
	.align 16
	.skip 16384
	.global kernel_stack_top
kernel_stack_top:
	.skip 16384
	.global fault_stack_top
fault_stack_top:
	.skip 16384
	.global syscall_stack_top
syscall_stack_top:
	.skip 32768
user_stack_top:
	.global tss
tss:	.skip 112
kernel_rsp: .skip 8
