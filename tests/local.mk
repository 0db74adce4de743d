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
