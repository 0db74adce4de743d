/* A Multiboot kernel's header and entry: keeps what it was entered with, maps 256 MiB where it is linked and one to one. */
#ifndef OFFSET
#define OFFSET 0 /* linked this far above where it is loaded */
#endif
#define FLAGS (3 | WANTS)

	.section .multiboot, "a"
	.align 4
header:
	.long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
	.long header - OFFSET, image_start - OFFSET, load_end - OFFSET, image_end - OFFSET, entry - OFFSET
	.long 1, 80, 25, 0 /* with WANTS & 4: text */

	.section .text.entry, "ax"
	.code32
	.globl entry
entry:
	mov %eax, entered_eax - OFFSET
	mov %ebx, entered_ebx - OFFSET
	mov %cr0, %eax
	mov %eax, entered_cr0 - OFFSET
	mov $stack_top - OFFSET, %esp
	pushf
	pop entered_eflags - OFFSET
	xor %eax, %eax
	mov %cs, %ax
	lar %ax, %edx
	mov %edx, entered_cs - OFFSET
	lsl %ax, %edx
	mov %edx, entered_cs_limit - OFFSET
	mov %ss, %ax
	lar %ax, %edx
	mov %edx, entered_ss - OFFSET
	lsl %ax, %edx
	mov %edx, entered_ss_limit - OFFSET
	/* 4 MiB pages: 64 of them at 0, and the same at OFFSET. */
	mov $page_directory - OFFSET, %edi
	mov %edi, %cr3
	mov $0x83, %eax
	mov $64, %ecx
1:	mov %eax, (%edi)
	mov %eax, (OFFSET >> 20)(%edi)
	add $0x400000, %eax
	add $4, %edi
	loop 1b
	mov %cr4, %eax
	or $0x10, %al /* PSE */
	mov %eax, %cr4
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	mov $2f, %eax
	jmp *%eax
2:	mov $stack_top, %esp
	call kernel_main
3:	cli
	hlt
	jmp 3b

	.bss
	.align 4096
page_directory:
	.skip 4096
	.skip 8192
stack_top:

	.section .note.GNU-stack, "", @progbits
