/*
 * A guest of a few hundred bytes for the daemon's tests: says "tiny: ready" on COM1, sleeps in hlt with a 100 Hz timer,
 * and does as it is told by single characters: q powers off (ACPI S5), r resets (port 0xcf9), c triple-faults, p reports
 * a panic (pvpanic), x writes 0 to the debug-exit port, anything else is echoed in brackets. The power button powers off.
 */
#define COM1 0x3f8
#define PM1_STATUS 0x600
#define PM1_CONTROL 0x604
#define PWRBTN_STS 0x0100
#define SLP_EN 0x2000
#define SLP_TYP_S5 5

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
	lgdt gdt_pointer
	ljmp $0x08, $1f
1:	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss

	/* One handler for IRQ 0 at vector 0x20. */
	movl $tick, %eax
	movw %ax, idt + 0x20 * 8
	shrl $16, %eax
	movw %ax, idt + 0x20 * 8 + 6
	movw $0x08, idt + 0x20 * 8 + 2
	movw $0x8e00, idt + 0x20 * 8 + 4
	lidt idt_pointer

	/* 8259: vectors from 0x20, only IRQ 0 open. */
	movb $0x11, %al
	outb %al, $0x20
	outb %al, $0xa0
	movb $0x20, %al
	outb %al, $0x21
	movb $0x28, %al
	outb %al, $0xa1
	movb $0x04, %al
	outb %al, $0x21
	movb $0x02, %al
	outb %al, $0xa1
	movb $0x01, %al
	outb %al, $0x21
	outb %al, $0xa1
	movb $0xfe, %al
	outb %al, $0x21
	movb $0xff, %al
	outb %al, $0xa1
	/* Virtual wire, as firmware would have set it: the local APIC on, the 8259 behind LINT0 (ExtINT). */
	movl $0x1ff, 0xfee000f0
	movl $0x700, 0xfee00350
	/* 8254 channel 0: rate generator, 1193182 / 11932 = 100 Hz. */
	movb $0x34, %al
	outb %al, $0x43
	movb $0x9c, %al
	outb %al, $0x40
	movb $0x2e, %al
	outb %al, $0x40

	movl $ready, %esi
	call print
	sti

idle:	hlt
	movw $PM1_STATUS, %dx
	inw %dx, %ax
	testw $PWRBTN_STS, %ax
	jnz button
	movw $COM1 + 5, %dx
	inb %dx, %al
	testb $1, %al
	jz idle
	movw $COM1, %dx
	inb %dx, %al
	cmpb $'q', %al
	je poweroff
	cmpb $'r', %al
	je reset
	cmpb $'c', %al
	je triple_fault
	cmpb $'p', %al
	je panic
	cmpb $'x', %al
	je debug_exit
	movb %al, echo + 1
	movl $echo, %esi
	call print
	jmp idle

button:	movl $pressed, %esi
	call print
poweroff:
	movw $PM1_CONTROL, %dx
	movw $SLP_EN + SLP_TYP_S5 * 1024, %ax
	outw %ax, %dx
	jmp stop
reset:	movw $0xcf9, %dx
	movb $6, %al
	outb %al, %dx
	jmp stop
triple_fault:
	lidt no_idt
	ud2
panic:	movw $0x505, %dx
	movb $1, %al
	outb %al, %dx
	jmp stop
debug_exit:
	movw $0xf4, %dx
	xorl %eax, %eax
	outl %eax, %dx
stop:	cli
	hlt
	jmp stop

/* esi: a string */
print:	lodsb
	testb %al, %al
	jz 2f
	movb %al, %ah
	movw $COM1 + 5, %dx
1:	inb %dx, %al
	testb $0x20, %al
	jz 1b
	movb %ah, %al
	movw $COM1, %dx
	outb %al, %dx
	jmp print
2:	ret

tick:	pushl %eax
	movb $0x20, %al
	outb %al, $0x20
	popl %eax
	iret

	.data
ready:	.asciz "tiny: ready\r\n"
pressed: .asciz "tiny: power button\r\n"
echo:	.asciz "[?]"
	.align 8
gdt:	.quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer: .word 23
	.long gdt
	.align 4
idt_pointer: .word 0x21 * 8 - 1
	.long idt
	.align 4
no_idt:	.word 0
	.long 0

	.bss
	.align 16
idt:	.skip 0x21 * 8
	.skip 4096
stack_top:
