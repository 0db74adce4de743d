# Files of calibrate/: what trivisord measures a host with. The same loops, once as a process and once as a guest.
CALIBRATE_FLAGS = -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter -Wshadow -Wstrict-prototypes -ffreestanding -fPIE \
	-fvisibility=hidden -fno-stack-protector -mno-red-zone -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-strict-aliasing -fno-lto -fno-tree-vectorize -fno-tree-loop-distribute-patterns -march=x86-64 -mtune=generic
CALIBRATE_GUEST_FLAGS = $(CALIBRATE_FLAGS) -fno-pie -fno-pic -mgeneral-regs-only

# Compiled once, and linked into both: what is compared is the same code.
noinst_LIBRARIES += libcalibrateloops.a libcalibratefloat.a libcalibrateguest.a
libcalibrateloops_a_SOURCES = calibrate/integer.c calibrate/code.S calibrate/measure.c calibrate/measure.h proto/measures.def
libcalibrateloops_a_CFLAGS = $(CALIBRATE_FLAGS) -mgeneral-regs-only
libcalibrateloops_a_CCASFLAGS =
libcalibratefloat_a_SOURCES = calibrate/floating.c
libcalibratefloat_a_CFLAGS = $(CALIBRATE_FLAGS)

libexec_PROGRAMS += trivisor-calibrate
trivisor_calibrate_SOURCES = calibrate/native.c
trivisor_calibrate_LDADD = libcalibrateloops.a libcalibratefloat.a

libcalibrateguest_a_SOURCES = calibrate/guest.c calibrate/guest.h calibrate/guest_disk.c calibrate/guest_entry.S calibrate/long_mode.inc
libcalibrateguest_a_CFLAGS = $(CALIBRATE_GUEST_FLAGS)
libcalibrateguest_a_CCASFLAGS =
calibrateguestdir = $(libexecdir)
calibrateguest_DATA = trivisor-calibrate.elf
# Padded to whole blocks: the guest's disk is this file.
trivisor-calibrate.elf: libcalibrateguest.a libcalibrateloops.a libcalibratefloat.a $(srcdir)/calibrate/guest.lds
	$(AM_V_CCLD)$(CC) -static -nostdlib -no-pie -Wl,-T,$(srcdir)/calibrate/guest.lds -Wl,-z,max-page-size=4096 \
		-Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -Wl,-u,entry32 -o $@.tmp libcalibrateguest.a \
		libcalibrateloops.a libcalibratefloat.a && truncate -s %4096 $@.tmp && mv $@.tmp $@
CLEANFILES += trivisor-calibrate.elf
EXTRA_DIST += calibrate/guest.lds
