# Files of bench/.
include bench/spike/local.mk

EXTRA_DIST += bench/run bench/libvirt bench/policy bench/peers.py bench/guest/guest.h bench/base.py bench/report.py bench/rootfs.py bench/programs.py bench/disks.py bench/nets.py bench/profiling.py bench/sampling.py bench/programs/crypto.c bench/programs/large.c bench/programs/loops.py bench/guest/main.c bench/guest/disk.c bench/guest/net.c bench/guest/programs.c bench/guest/integer.c bench/guest/realistic.c \
EXTRA_DIST += bench/run bench/libvirt bench/policy bench/paravirt.py bench/peers.py bench/guest/guest.h bench/base.py bench/report.py bench/rootfs.py bench/programs.py bench/disks.py bench/profiling.py bench/sampling.py bench/programs/crypto.c bench/programs/large.c bench/programs/loops.py bench/guest/main.c bench/guest/disk.c bench/guest/programs.c bench/guest/integer.c bench/guest/realistic.c \
	bench/guest/floating.c bench/guest/vector.c bench/guest/smp.c bench/guest/memory.c bench/guest/system.c

# Takes some minutes and wants a machine to itself. BENCHFLAGS: see bench/run --help.
.PHONY: bench
bench: trivisor-vm$(EXEEXT)
	$(top_srcdir)/bench/run --build $(abs_top_builddir) --json bench.json $(BENCHFLAGS)
