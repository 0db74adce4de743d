# Hardware virtualization through /dev/kvm.
noinst_LIBRARIES += libhvm.a
libhvm_a_SOURCES = \
	modes/hvm/clock.c \
	modes/hvm/eventfd.c \
	modes/hvm/hvm.c \
	modes/hvm/irqchip.c \
	modes/hvm/kvm.c \
	modes/hvm/memory.c \
	modes/hvm/private.h \
	modes/hvm/run.c \
	modes/hvm/state.c

# Needs the kernels of tests/guests/kernels.
check_PROGRAMS += tests/unit/test_move
TESTS += tests/unit/test_move
tests_unit_test_move_SOURCES = tests/unit/test_move.c
tests_unit_test_move_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_move_LDADD = libmodes.a libhvm.a libpv.a libpvcore.a libpv.a libbt.a libbtcore.a libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
check_PROGRAMS += tests/unit/test_eventfd
TESTS += tests/unit/test_eventfd
tests_unit_test_eventfd_SOURCES = tests/unit/test_eventfd.c tests/unit/machine_fixture.c tests/unit/machine_fixture.h
tests_unit_test_eventfd_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_eventfd_LDADD = libmodes.a libhvm.a libpv.a libpvcore.a libpv.a libbt.a libbtcore.a libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
