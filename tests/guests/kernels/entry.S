/* The way in (PVH, 32-bit, to long mode; application processors from real mode), trap stubs, and run_regs. */
#include "layout.h"

#include "calibrate/long_mode.inc"

	PVH_NOTE

/* ---- boot processor ------------------------------------------------------------- */

	.section .text.boot, "ax"
	.code32
	.global entry32
entry32:
	cli
	cld
	mov $boot_stack_top, %esp
	mov %ebx, boot_start_info
	IDENTITY_MAP 3 /* supervisor's, but for the user image's */
	mov $user_start, %eax
	shr $21, %eax
	orl $4, boot_pd(,%eax,8)
	call to_long
	ljmp $SEL_CODE64, $3f
	.code64
3:	LOAD_DATA_SEGMENTS SEL_DATA
	mov $boot_stack_top, %rsp
	call kernel_main
4:	cli
	hlt
	jmp 4b

	/* Paging and long mode on; still in a 32-bit segment. Boot and application processors. */
	.code32
to_long:
	lgdt boot_gdtr
	mov $CR4_BOOT, %eax
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	mov $0x901, %eax /* SCE, LME, NXE */
	xor %edx, %edx
	wrmsr
	mov $CR0_BOOT, %eax
	mov %eax, %cr0
	ret

/* ---- application processors: copied to AP_TRAMPOLINE ---------------------------------- */

	.code16
	.global ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl ap_gdtr - ap_trampoline
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $SEL_CODE32, $ap_32
	.align 8
ap_gdtr:
	.word boot_gdt_end - boot_gdt - 1
	.long boot_gdt
ap_trampoline_end:

	.code32
ap_32:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov ap_stack, %esp
	call to_long
	ljmp $SEL_CODE64, $5f
	.code64
5:	mov ap_stack, %rsp
	mov ap_number, %edi
	call ap_main
6:	cli
	hlt
	jmp 6b

/* ---- traps ------------------------------------------------------------------------------- */

	.text
	.align 16
	.global trap_stubs
trap_stubs:
vector = 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	push $0
	.endif
	push $vector
	jmp trap_common
vector = vector + 1
	.endr

trap_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	call trap
	/* An interrupt that a handler took care of. */
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

/*
 * void run_enter(struct regs *r (rdi), uint64_t *save_rsp (rsi)): goes to r's rip with all of r's registers; trap()
 * comes back by run_leave.
 */
	.global run_enter, run_leave
run_enter:
	pushf
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, (%rsi)
	sub $40, %rsp
	mov REGS_RIP(%rdi), %rax
	mov %rax, (%rsp)
	mov REGS_CS(%rdi), %rax
	mov %rax, 8(%rsp)
	mov REGS_RFLAGS(%rdi), %rax
	mov %rax, 16(%rsp)
	mov REGS_RSP(%rdi), %rax
	mov %rax, 24(%rsp)
	mov REGS_SS(%rdi), %rax
	mov %rax, 32(%rsp)
	mov REGS_R15(%rdi), %r15
	mov REGS_R14(%rdi), %r14
	mov REGS_R13(%rdi), %r13
	mov REGS_R12(%rdi), %r12
	mov REGS_R11(%rdi), %r11
	mov REGS_R10(%rdi), %r10
	mov REGS_R9(%rdi), %r9
	mov REGS_R8(%rdi), %r8
	mov REGS_RBP(%rdi), %rbp
	mov REGS_RBX(%rdi), %rbx
	mov REGS_RDX(%rdi), %rdx
	mov REGS_RCX(%rdi), %rcx
	mov REGS_RAX(%rdi), %rax
	mov REGS_RSI(%rdi), %rsi
	mov REGS_RDI(%rdi), %rdi
	iretq

/* void run_leave(uint64_t save_rsp) */
run_leave:
	mov %rdi, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	popf
	ret

/* ---- data ---------------------------------------------------------------------------------- */

	.data
	.align 16
	.global boot_gdt, boot_gdt_end
boot_gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* code64 */
	.quad 0x00cf93000000ffff /* data */
	.quad 0x00cffb000000ffff /* user code32 */
	.quad 0x00cff3000000ffff /* user data */
	.quad 0x00affb000000ffff /* user code64 */
	.quad 0x00cf9b000000ffff /* code32 */
	.quad 0x00009b000000ffff /* code16 */
boot_gdt_end:
boot_gdtr:
	.word boot_gdt_end - boot_gdt - 1
	.quad boot_gdt
	.global boot_start_info, ap_stack, ap_number
	.align 8
boot_start_info: .long 0, 0
ap_stack: .quad 0
ap_number: .long 0, 0

	.bss
	.align 4096
	.global boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 4 * 4096
boot_stack: .skip 32768
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
