/*
 * A guest for GDB: enters long mode and goes round a loop of things worth stepping through, until somebody sets `stop_now`:
 * then it writes the low bits of `counter` to the debug-exit port. Its symbols are what the test names.
 */
#define COM1 0x3f8
#define STAR 0xc0000081
#define LSTAR 0xc0000082
#define SFMASK 0xc0000084
#define EFER 0xc0000080

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, 18			/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:	/* 32-bit protected mode, flat segments, no paging, interrupts off */
	cld
	movl $stack_top, %esp
	/* The first GiB maps to itself, and again at 0xffffffff80000000; 2 MiB pages. */
	movl $pdpt + 7, pml4
	movl $pdpt + 7, pml4 + 511 * 8
	movl $pd + 7, pdpt
	movl $pd + 7, pdpt + 510 * 8
	movl $512, %ecx
	movl $0x87, %eax
	movl $pd, %edi
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	loop 1b
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $EFER, %ecx
	movl $0x101, %eax		/* SCE, LME */
	xorl %edx, %edx
	wrmsr
	movl $0x80000011, %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $0x08, $long_mode

	.code64
	.globl long_mode
long_mode:
	xorl %eax, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $0x10, %eax
	movl %eax, %ss
	/* A gate for int $0x40. */
	movq $gate, %rax
	movw %ax, idt + 0x40 * 16
	movw $0x08, idt + 0x40 * 16 + 2
	movw $0x8e00, idt + 0x40 * 16 + 4
	shrq $16, %rax
	movw %ax, idt + 0x40 * 16 + 6
	lidt idt_pointer
	movl $STAR, %ecx
	xorl %eax, %eax
	movl $0x08, %edx
	wrmsr
	movl $LSTAR, %ecx
	movq $system_call, %rax
	xorl %edx, %edx
	wrmsr
	movl $SFMASK, %ecx
	xorl %eax, %eax
	wrmsr
	movl $0x12345678, %eax
	movd %eax, %xmm3
	fninit
	fld1

	.globl again
again:	call work
	cmpl $0, stop_now
	je again
	movl counter, %eax
	movw $0xf4, %dx
	outl %eax, %dx
1:	cli
	hlt
	jmp 1b

	.globl work, store, copy, copied, enter, entered, trap, trapped
work:	movl $3, %eax
store:	incq counter
	movl $5, %ecx
	movl $from, %esi
	movl $to, %edi
copy:	rep movsb
copied:	movq $1f, %r15
enter:	syscall
1:
entered:
	nop
trap:	int $0x40
trapped:
	ret

	/* From CPL 0 as well; back by a jump, since sysret leads to CPL 3. */
	.globl system_call, gate
system_call:
	jmp *%r15
gate:	nop
	iretq

	.data
	.globl counter, stop_now, from, to
	.align 8
counter: .quad 0
stop_now: .long 0
from:	.asciz "abcd"
to:	.skip 5
	.align 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer: .word 23
	.long gdt
	.align 4
idt_pointer: .word 0x41 * 16 - 1
	.quad idt

	.bss
	.align 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4096
idt:	.skip 0x41 * 16
	.skip 4096
stack_top:
