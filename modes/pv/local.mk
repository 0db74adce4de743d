# Xen PV domains on the translator. What runs in hypercalls is compiled as the translator's helpers are (modes/bt/local.mk).
noinst_LIBRARIES += libpv.a libpvcore.a
libpvcore_a_CFLAGS = $(AM_CFLAGS) -mgeneral-regs-only -fno-stack-protector -fno-tree-loop-distribute-patterns
libpvcore_a_SOURCES = \
	modes/pv/private.h modes/pv/xen_abi.h \
	modes/pv/descriptor.c modes/pv/emulate.c modes/pv/evtchn.c modes/pv/hypercall.c modes/pv/memory.c modes/pv/mmu.c modes/pv/ptwr.c \
	modes/pv/time.c modes/pv/trap.c
libpv_a_SOURCES = \
	modes/pv/backend.c modes/pv/build.c modes/pv/build.h modes/pv/console.c modes/pv/image.c modes/pv/image.h modes/pv/pv.c \
	modes/pv/store.c modes/pv/store.h modes/pv/store_ring.c modes/pv/store_tree.c modes/pv/store_tree.h

check_PROGRAMS += tests/unit/test_pv
TESTS += tests/unit/test_pv
tests_unit_test_pv_SOURCES = tests/unit/test_pv.c
tests_unit_test_pv_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_pv_LDADD = libmodes.a libhvm.a libpv.a libpvcore.a libpv.a libbt.a libbtcore.a libbt.a libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
