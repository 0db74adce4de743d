# Own system-test kernels: freestanding programs that run under every mode and, as a reference, under QEMU.
TEST_KERNELS = paging edges exceptions stacks syscalls segments smc interrupts processors features registers io legacy limits spaces breakpoints virtual86 virtio paravirt triple mover
TEST_KERNEL_FILES = $(TEST_KERNELS:%=tests/guests/kernels/%.elf)
check_LIBRARIES = tests/guests/kernels/libkernel.a
check_DATA += $(TEST_KERNEL_FILES)
CLEANFILES += $(TEST_KERNEL_FILES)

KERNEL_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wstrict-prototypes -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -mno-red-zone -mgeneral-regs-only -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-strict-aliasing -fno-lto
KERNEL_LINKING = -static -nostdlib -no-pie -Wl,-T,$(srcdir)/tests/guests/kernels/kernel.lds -Wl,-z,max-page-size=4096 \
	-Wl,--build-id=none -Wl,--no-warn-rwx-segments

tests_guests_kernels_libkernel_a_SOURCES = tests/guests/kernels/entry.S tests/guests/kernels/apic.c tests/guests/kernels/cpu.h \
	tests/guests/kernels/k.h tests/guests/kernels/layout.h tests/guests/kernels/legacy.h tests/guests/kernels/legacy_entry.S tests/guests/kernels/legacy_run.c tests/guests/kernels/main.c tests/guests/kernels/memory.c tests/guests/kernels/mover.h \
	tests/guests/kernels/print.c tests/guests/kernels/print.h tests/guests/kernels/smp.c tests/guests/kernels/traps.c
tests_guests_kernels_libkernel_a_CFLAGS = $(KERNEL_CFLAGS)

$(TEST_KERNEL_FILES): tests/guests/kernels/%.elf: tests/guests/kernels/%.c tests/guests/kernels/libkernel.a \
		tests/guests/kernels/k.h tests/guests/kernels/legacy.h tests/guests/kernels/mover.h tests/guests/kernels/layout.h tests/guests/kernels/kernel.lds
	$(AM_V_CCLD)$(CC) $(CFLAGS) $(KERNEL_CFLAGS) $(KERNEL_LINKING) -o $@ $< tests/guests/kernels/libkernel.a

# The Multiboot kernels: as ELF32, the same linked high, as ELF64, and as plain images that only their header describes.
MULTIBOOT_KERNELS = $(addprefix tests/guests/kernels/, multiboot.elf multiboot-high.elf multiboot-video.elf multiboot64.elf multiboot.bin multiboot-low.bin)
check_DATA += $(MULTIBOOT_KERNELS)
CLEANFILES += $(MULTIBOOT_KERNELS) tests/guests/kernels/multiboot-addresses.elf tests/guests/kernels/multiboot-low.elf
MULTIBOOT_FILES = $(srcdir)/tests/guests/kernels/multiboot_entry.S $(srcdir)/tests/guests/kernels/multiboot.c
MULTIBOOT_LINKING = -m32 -static -nostdlib -no-pie -Wl,-T,$(srcdir)/tests/guests/kernels/multiboot.lds -Wl,-z,max-page-size=4096 \
	-Wl,--build-id=none -Wl,--no-warn-rwx-segments
# $(call multiboot,load address,offset,flags): CC's arguments.
multiboot = $(KERNEL_CFLAGS) $(MULTIBOOT_LINKING) -DOFFSET=$(2) -DWANTS=$(3) -Wl,--defsym=LOAD=$(1),--defsym=OFFSET=$(2) -o $@ $(MULTIBOOT_FILES)

tests/guests/kernels/multiboot.elf: $(MULTIBOOT_FILES)
	$(AM_V_CCLD)$(CC) -Os $(call multiboot,0x100000,0,0)
tests/guests/kernels/multiboot-high.elf: $(MULTIBOOT_FILES)
	$(AM_V_CCLD)$(CC) -Os $(call multiboot,0x200000,0xc0000000,0)
tests/guests/kernels/multiboot-video.elf: $(MULTIBOOT_FILES)
	$(AM_V_CCLD)$(CC) -Os $(call multiboot,0x100000,0,4)
tests/guests/kernels/multiboot-addresses.elf: $(MULTIBOOT_FILES)
	$(AM_V_CCLD)$(CC) -Os $(call multiboot,0x100000,0,0x10000)
tests/guests/kernels/multiboot-low.elf: $(MULTIBOOT_FILES)
	$(AM_V_CCLD)$(CC) -Os $(call multiboot,0x10000,0,0x10000)
tests/guests/kernels/multiboot64.elf: tests/guests/kernels/multiboot.elf
	$(AM_V_GEN)objcopy -O elf64-x86-64 $< $@
tests/guests/kernels/multiboot.bin: tests/guests/kernels/multiboot-addresses.elf
	$(AM_V_GEN)objcopy -O binary $< $@
tests/guests/kernels/multiboot-low.bin: tests/guests/kernels/multiboot-low.elf
	$(AM_V_GEN)objcopy -O binary $< $@

EXTRA_DIST += tests/guests/kernels/multiboot_entry.S tests/guests/kernels/multiboot.c tests/guests/kernels/multiboot.lds
EXTRA_DIST += $(TEST_KERNELS:%=tests/guests/kernels/%.c) tests/guests/kernels/kernel.lds tests/guests/kernels/deviations.txt
dist_check_SCRIPTS += tests/guests/kernels/run.py tests/guests/kernels/multiboot.py
TESTS += tests/guests/kernels/run.py tests/guests/kernels/multiboot.py
