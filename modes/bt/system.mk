# What helpers of translated code do; compiled with -mgeneral-regs-only (see modes/bt/private.h).
BT_SYSTEM_SOURCES = modes/bt/helper.h modes/bt/monitor.h modes/bt/monitor.c modes/bt/walk.c modes/bt/segment.c modes/bt/far.c modes/bt/fault.c modes/bt/task.c \
	modes/bt/system.c modes/bt/msr.c modes/bt/paravirt.c modes/bt/string.c modes/bt/legacy.c modes/bt/xstate.c modes/bt/vector.c

BT_SYSTEM_TESTS = tests/unit/test_cpuid tests/unit/test_bt_system_walk tests/unit/test_bt_system_fault \
	tests/unit/test_bt_system_string tests/unit/test_bt_debug
BT_SYSTEM_TEST_LIBS = libbt.a libbtcore.a libbt.a libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
check_PROGRAMS += $(BT_SYSTEM_TESTS)
TESTS += $(BT_SYSTEM_TESTS)
tests_unit_test_cpuid_SOURCES = tests/unit/test_cpuid.c
tests_unit_test_cpuid_LDADD = libmachine.a $(CMOCKA_LIBS)
tests_unit_test_bt_system_walk_SOURCES = tests/unit/test_bt_system_walk.c tests/unit/bt_system_env.c tests/unit/bt_system_env.h
tests_unit_test_bt_system_walk_LDADD = $(BT_SYSTEM_TEST_LIBS)
tests_unit_test_bt_system_fault_SOURCES = tests/unit/test_bt_system_fault.c tests/unit/bt_system_env.c tests/unit/bt_system_env.h
tests_unit_test_bt_system_fault_LDADD = $(BT_SYSTEM_TEST_LIBS)
tests_unit_test_bt_system_string_SOURCES = tests/unit/test_bt_system_string.c tests/unit/bt_system_env.c tests/unit/bt_system_env.h
tests_unit_test_bt_system_string_LDADD = $(BT_SYSTEM_TEST_LIBS)
tests_unit_test_bt_debug_SOURCES = tests/unit/test_bt_debug.c tests/unit/bt_system_env.c tests/unit/bt_system_env.h
tests_unit_test_bt_debug_LDADD = $(BT_SYSTEM_TEST_LIBS)
dist_check_SCRIPTS += tests/unit/test_bt_registers.sh
TESTS += tests/unit/test_bt_registers.sh

# Run natively and in guests (tests/guests/programs.py): static, and without sanitizers.
check_PROGRAMS += tests/guests/programs/faults tests/guests/programs/compat tests/guests/programs/shared
tests_guests_programs_faults_SOURCES = tests/guests/programs/faults.c
tests_guests_programs_faults_CFLAGS = -std=gnu11 -O1 -Wall -Wextra -Wno-unused-parameter
tests_guests_programs_faults_LDFLAGS = -static
tests_guests_programs_shared_SOURCES = tests/guests/programs/shared.c
tests_guests_programs_shared_CFLAGS = -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter
tests_guests_programs_shared_LDFLAGS = -static -pthread
tests_guests_programs_compat_SOURCES = tests/guests/programs/compat.S
tests_guests_programs_compat_CCASFLAGS = -m32
tests_guests_programs_compat_CFLAGS = -m32
tests_guests_programs_compat_LDFLAGS = -m32 -static -nostdlib -no-pie
dist_check_SCRIPTS += tests/guests/programs.py
TESTS += tests/guests/programs.py
