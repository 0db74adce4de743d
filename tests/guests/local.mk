# Files of tests/guests/: whole guests under trivisor-vm and through the daemon.
dist_check_SCRIPTS += tests/guests/boot.py tests/guests/run.py
TESTS += tests/guests/boot.py tests/guests/run.py
dist_check_SCRIPTS += tests/guests/disks.py tests/guests/debian.py tests/guests/vmtools.py
TESTS += tests/guests/disks.py tests/guests/debian.py tests/guests/vmtools.py
dist_check_SCRIPTS += tests/guests/cloud.py
TESTS += tests/guests/cloud.py
dist_check_SCRIPTS += tests/guests/bench.py
TESTS += tests/guests/bench.py
dist_check_SCRIPTS += tests/guests/agent.py
TESTS += tests/guests/agent.py
dist_check_SCRIPTS += tests/guests/systems.py
TESTS += tests/guests/systems.py
dist_check_SCRIPTS += tests/guests/hvm.py
TESTS += tests/guests/hvm.py
dist_check_SCRIPTS += tests/guests/network.py tests/guests/switch.py tests/guests/uplinks.py tests/guests/full.py
TESTS += tests/guests/network.py tests/guests/switch.py tests/guests/uplinks.py tests/guests/full.py
dist_check_SCRIPTS += tests/guests/screen.py
TESTS += tests/guests/screen.py
EXTRA_DIST += tests/guests/nettest.py tests/guests/pixels.py tests/guests/rfb.py
dist_check_SCRIPTS += tests/guests/vsock.py tests/guests/share.py tests/guests/media.py
TESTS += tests/guests/vsock.py tests/guests/share.py tests/guests/media.py
check_PROGRAMS += tests/guests/programs/eject
tests_guests_programs_eject_SOURCES = tests/guests/programs/eject.c
tests_guests_programs_eject_CFLAGS = -std=gnu11 -O1 -Wall -Wextra
tests_guests_programs_eject_LDFLAGS = -static
check_PROGRAMS += tests/guests/programs/vsock
tests_guests_programs_vsock_SOURCES = tests/guests/programs/vsock.c
tests_guests_programs_vsock_CFLAGS = -std=gnu11 -O1 -Wall -Wextra -Wno-unused-parameter
tests_guests_programs_vsock_LDFLAGS = -static
dist_check_SCRIPTS += tests/guests/xen.py
TESTS += tests/guests/xen.py
dist_check_SCRIPTS += tests/guests/xen_devices.py
TESTS += tests/guests/xen_devices.py
include tests/guests/kernels/kernels.mk
EXTRA_DIST += tests/guests/vmtest.py tests/guests/run-in-profile tests/guests/container-syscalls.txt demo check tools/build tools/fetch-kernel tools/fetch-package tools/make-initramfs tools/run-vm tools/setup-debian

# For ./check: the names of all tests.
.PHONY: print-tests
print-tests:
	@echo $(TESTS)
