# Files of tests/.

# Loaders, firmware tables and virtio devices.
BOOT_TESTS = tests/unit/test_boot_formats tests/unit/test_boot_acpi tests/unit/test_virtio_queue tests/unit/test_virtio_blk \
	tests/unit/test_virtio_net tests/unit/test_virtio_vsock tests/unit/test_virtio_console tests/unit/test_virtio_balloon
check_PROGRAMS += $(BOOT_TESTS)
TESTS += $(BOOT_TESTS)
VIRTIO_DRIVER = tests/unit/virtio_driver.c tests/unit/virtio_driver.h
tests_unit_test_boot_formats_SOURCES = tests/unit/test_boot_formats.c
tests_unit_test_boot_formats_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_boot_formats_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_boot_acpi_SOURCES = tests/unit/test_boot_acpi.c
tests_unit_test_boot_acpi_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_boot_acpi_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_queue_SOURCES = tests/unit/test_virtio_queue.c
tests_unit_test_virtio_queue_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_queue_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_net_SOURCES = tests/unit/test_virtio_net.c $(VIRTIO_DRIVER)
tests_unit_test_virtio_net_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_net_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_vsock_SOURCES = tests/unit/test_virtio_vsock.c $(VIRTIO_DRIVER)
tests_unit_test_virtio_vsock_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_vsock_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_console_SOURCES = tests/unit/test_virtio_console.c $(VIRTIO_DRIVER)
tests_unit_test_virtio_console_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_console_LDADD = libmachine.a libproto.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_balloon_SOURCES = tests/unit/test_virtio_balloon.c $(VIRTIO_DRIVER)
tests_unit_test_virtio_balloon_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_balloon_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_virtio_blk_SOURCES = tests/unit/test_virtio_blk.c $(VIRTIO_DRIVER)
tests_unit_test_virtio_blk_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_virtio_blk_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)

# Xen's back ends, with a front end of the test's own.
check_PROGRAMS += tests/unit/test_xen
TESTS += tests/unit/test_xen
tests_unit_test_xen_SOURCES = tests/unit/test_xen.c tests/unit/machine_fixture.c tests/unit/machine_fixture.h
tests_unit_test_xen_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_xen_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)

# The machine, poked at as a guest would.
MACHINE_TESTS = tests/unit/test_machine_interrupts tests/unit/test_machine_timers tests/unit/test_machine_devices \
	tests/unit/test_machine_pci tests/unit/test_machine_flash tests/unit/test_machine_screen tests/unit/test_machine_vmware
check_PROGRAMS += $(MACHINE_TESTS)
TESTS += $(MACHINE_TESTS)
MACHINE_FIXTURE = tests/unit/machine_fixture.c tests/unit/machine_fixture.h
tests_unit_test_machine_interrupts_SOURCES = tests/unit/test_machine_interrupts.c $(MACHINE_FIXTURE)
tests_unit_test_machine_interrupts_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_timers_SOURCES = tests/unit/test_machine_timers.c $(MACHINE_FIXTURE)
tests_unit_test_machine_timers_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_devices_SOURCES = tests/unit/test_machine_devices.c $(MACHINE_FIXTURE)
tests_unit_test_machine_devices_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_pci_SOURCES = tests/unit/test_machine_pci.c $(MACHINE_FIXTURE)
tests_unit_test_machine_pci_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_flash_SOURCES = tests/unit/test_machine_flash.c $(MACHINE_FIXTURE)
tests_unit_test_machine_flash_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_screen_SOURCES = tests/unit/test_machine_screen.c $(MACHINE_FIXTURE)
tests_unit_test_machine_screen_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
tests_unit_test_machine_vmware_SOURCES = tests/unit/test_machine_vmware.c
tests_unit_test_machine_vmware_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_machine_vmware_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)

# The decoder: against the host's processor, and against Capstone. BT_DECODE_FULL=1 asks the host about all of the opcode space.
BT_DECODE_TESTS = tests/unit/test_bt_decode_host tests/unit/test_bt_decode_effects tests/unit/test_bt_decode_capstone
check_PROGRAMS += $(BT_DECODE_TESTS)
TESTS += $(BT_DECODE_TESTS)
BT_HOST_SOURCES = tests/unit/bt_host.c tests/unit/bt_host.h tests/unit/bt_opspace.c tests/unit/bt_opspace.h
tests_unit_test_bt_decode_host_SOURCES = tests/unit/test_bt_decode_host.c $(BT_HOST_SOURCES)
tests_unit_test_bt_decode_host_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_bt_decode_host_LDADD = libbtdecode.a $(CMOCKA_LIBS)
tests_unit_test_bt_decode_effects_SOURCES = tests/unit/test_bt_decode_effects.c $(BT_HOST_SOURCES)
tests_unit_test_bt_decode_effects_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_bt_decode_effects_LDADD = libbtdecode.a $(CMOCKA_LIBS)
tests_unit_test_bt_decode_capstone_SOURCES = tests/unit/test_bt_decode_capstone.c tests/unit/bt_capstone_exceptions.def \
	tests/unit/bt_opspace.c tests/unit/bt_opspace.h
tests_unit_test_bt_decode_capstone_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(CAPSTONE_CFLAGS)
tests_unit_test_bt_decode_capstone_LDADD = libbtdecode.a $(CMOCKA_LIBS) $(CAPSTONE_LIBS)
include tests/fuzz/decode.mk
