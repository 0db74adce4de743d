# Own system-test kernels: freestanding programs that run under every mode and, as a reference, under QEMU.
TEST_KERNELS = paging edges exceptions stacks syscalls segments smc interrupts processors features registers io legacy triple
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
	tests/guests/kernels/k.h tests/guests/kernels/layout.h tests/guests/kernels/legacy_entry.S tests/guests/kernels/main.c tests/guests/kernels/memory.c \
	tests/guests/kernels/print.c tests/guests/kernels/print.h tests/guests/kernels/smp.c tests/guests/kernels/traps.c
tests_guests_kernels_libkernel_a_CFLAGS = $(KERNEL_CFLAGS)

$(TEST_KERNEL_FILES): tests/guests/kernels/%.elf: tests/guests/kernels/%.c tests/guests/kernels/libkernel.a \
		tests/guests/kernels/k.h tests/guests/kernels/layout.h tests/guests/kernels/kernel.lds
	$(AM_V_CCLD)$(CC) $(CFLAGS) $(KERNEL_CFLAGS) $(KERNEL_LINKING) -o $@ $< tests/guests/kernels/libkernel.a

EXTRA_DIST += $(TEST_KERNELS:%=tests/guests/kernels/%.c) tests/guests/kernels/kernel.lds tests/guests/kernels/deviations.txt
dist_check_SCRIPTS += tests/guests/kernels/run.py
TESTS += tests/guests/kernels/run.py
