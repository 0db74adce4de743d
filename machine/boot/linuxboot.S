/*
 * An option ROM with which a PC BIOS (SeaBIOS: fw_cfg file genroms/linuxboot.bin) boots the kernel that lies in fw_cfg.
 * BIOSes run it in real mode from wherever they copied it, so every address below is relative to its start.
 *
 * The host has done all the thinking (firmware.c): the set-up code it put into fw_cfg has loader type, heap, command
 * line and initrd filled in. This copies five blobs to the addresses fw_cfg names and jumps to the set-up code.
 */
	.section .rodata.linuxboot, "a", @progbits
	.globl linuxboot_rom, linuxboot_rom_end
	.hidden linuxboot_rom, linuxboot_rom_end
	.balign 16
	.code16

	.set FW_CFG_DMA_HIGH, 0x514
	.set FW_CFG_DMA_LOW, 0x518
	.set DMA_ERROR, 0x01
	.set DMA_READ_SELECTED, 0x0a	/* select the item, read */
	.set KERNEL_ADDR, 0x07
	.set KERNEL_SIZE, 0x08
	.set INITRD_ADDR, 0x0a
	.set INITRD_SIZE, 0x0b
	.set KERNEL_DATA, 0x11
	.set INITRD_DATA, 0x12
	.set CMDLINE_ADDR, 0x13
	.set CMDLINE_SIZE, 0x14
	.set CMDLINE_DATA, 0x15
	.set SETUP_ADDR, 0x16
	.set SETUP_SIZE, 0x17
	.set SETUP_DATA, 0x18

linuxboot_rom:
	.byte 0x55, 0xaa
	.byte (linuxboot_rom_end - linuxboot_rom) / 512
	/* Initialization, a far call: there is nothing to do but say that it is a bootable device. */
	movw $0x0020, %ax
	lret
	.org linuxboot_rom + 0x18
	.word 0				/* no PCI data structure */
	.word pnp - linuxboot_rom
	.balign 16
pnp:
	.ascii "$PnP"
	.byte 1				/* version */
	.byte 2				/* length in 16 bytes */
	.word 0				/* no further header */
	.byte 0
	.byte 0				/* checksum; the host fills it in */
	.long 0
	.word maker - linuxboot_rom
	.word product - linuxboot_rom
	.byte 0, 0, 0			/* device type */
	.byte 0
	.word 0				/* no boot connection vector */
	.word 0				/* no disconnect vector */
	.word boot - linuxboot_rom	/* bootstrap entry vector */
	.word 0
	.word 0
maker:	.asciz "trivisor"
product: .asciz "Linux from fw_cfg"

/* Reads the four bytes of item \key into \reg (32 bits). */
	.macro read_long key, reg
	movl $(\key << 16 | DMA_READ_SELECTED), %eax
	movl $4, %ecx
	movl %ebp, %edx
	addl $(value - stack_frame), %edx
	call dma
	movl value - stack_frame(%bp), \reg
	.endm

/* Copies the item \data of \size bytes to the address in item \addr. */
	.macro load addr, size, data
	read_long \size, %esi
	read_long \addr, %edi
	movl $(\data << 16 | DMA_READ_SELECTED), %eax
	movl %esi, %ecx
	movl %edi, %edx
	call dma
	.endm

	/* Our variables, on the stack: 16 bytes of DMA descriptor, then a word. Offsets only. */
	.set stack_frame, 0
	.set value, 16

boot:
	cli
	cld
	/* A stack of our own below where boot sectors live, with its segment at 0 so that offsets are addresses. */
	xorw %ax, %ax
	movw %ax, %ss
	movw %ax, %ds
	movw $0x7000, %sp
	xorl %ebp, %ebp
	movw $0x7010, %bp
	load SETUP_ADDR, SETUP_SIZE, SETUP_DATA
	load CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA
	load KERNEL_ADDR, KERNEL_SIZE, KERNEL_DATA
	load INITRD_ADDR, INITRD_SIZE, INITRD_DATA
	/* The set-up code's segment is where it lies; it is entered 0x20 paragraphs on (boot protocol, "running the kernel"). */
	read_long SETUP_ADDR, %ebx
	shrl $4, %ebx
	movw %bx, %ds
	movw %bx, %es
	movw %bx, %fs
	movw %bx, %gs
	movw %bx, %ss
	movw $0xdff0, %sp
	addw $0x20, %bx
	pushw %bx
	pushw $0
	lret

/* eax: control, ecx: bytes, edx: physical address. Waits for the end. ds and ss are 0. */
dma:
	testl %ecx, %ecx
	jz 2f
	bswapl %eax
	bswapl %ecx
	bswapl %edx
	movl %eax, (%bp)
	movl %ecx, 4(%bp)
	movl $0, 8(%bp)
	movl %edx, 12(%bp)
	movl %ebp, %eax
	bswapl %eax
	movl %eax, %ecx
	xorl %eax, %eax
	movw $FW_CFG_DMA_HIGH, %dx
	outl %eax, %dx
	movl %ecx, %eax
	movw $FW_CFG_DMA_LOW, %dx
	outl %eax, %dx
1:	movl (%bp), %eax
	bswapl %eax
	testb $DMA_ERROR, %al
	jnz failed
	testl %eax, %eax
	jnz 1b
2:	ret

/* fw_cfg has no such thing: back to the BIOS, which tries the next device. */
failed:
	int $0x18
	jmp failed

	.balign 512
linuxboot_rom_end:

	.section .note.GNU-stack, "", @progbits
