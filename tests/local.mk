# Files of tests/.

# Loaders, firmware tables and virtio devices.
BOOT_TESTS = tests/unit/test_boot_formats tests/unit/test_boot_acpi tests/unit/test_virtio_queue tests/unit/test_virtio_blk
check_PROGRAMS += $(BOOT_TESTS)
TESTS += $(BOOT_TESTS)
tests_unit_test_boot_formats_SOURCES = tests/unit/test_boot_formats.c
tests_unit_test_boot_formats_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_boot_formats_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_boot_acpi_SOURCES = tests/unit/test_boot_acpi.c
tests_unit_test_boot_acpi_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_boot_acpi_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_virtio_queue_SOURCES = tests/unit/test_virtio_queue.c
tests_unit_test_virtio_queue_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_queue_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_virtio_blk_SOURCES = tests/unit/test_virtio_blk.c
tests_unit_test_virtio_blk_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_blk_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)

# The machine, poked at as a guest would.
MACHINE_TESTS = tests/unit/test_machine_interrupts tests/unit/test_machine_timers tests/unit/test_machine_devices \
	tests/unit/test_machine_pci
check_PROGRAMS += $(MACHINE_TESTS)
TESTS += $(MACHINE_TESTS)
MACHINE_FIXTURE = tests/unit/machine_fixture.c tests/unit/machine_fixture.h
tests_unit_test_machine_interrupts_SOURCES = tests/unit/test_machine_interrupts.c $(MACHINE_FIXTURE)
tests_unit_test_machine_interrupts_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_machine_timers_SOURCES = tests/unit/test_machine_timers.c $(MACHINE_FIXTURE)
tests_unit_test_machine_timers_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_machine_devices_SOURCES = tests/unit/test_machine_devices.c $(MACHINE_FIXTURE)
tests_unit_test_machine_devices_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
tests_unit_test_machine_pci_SOURCES = tests/unit/test_machine_pci.c $(MACHINE_FIXTURE)
tests_unit_test_machine_pci_LDADD = libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
