# What helpers of translated code do; compiled with -mgeneral-regs-only (see modes/bt/private.h).
BT_SYSTEM_SOURCES = modes/bt/helper.h modes/bt/walk.c modes/bt/segment.c modes/bt/far.c modes/bt/fault.c \
	modes/bt/system.c modes/bt/msr.c modes/bt/string.c modes/bt/legacy.c modes/bt/xstate.c modes/bt/vector.c

BT_SYSTEM_TESTS = tests/unit/test_cpuid tests/unit/test_bt_system_walk tests/unit/test_bt_system_fault \
	tests/unit/test_bt_system_string
BT_SYSTEM_TEST_LIBS = libbt.a libbtcore.a libbt.a libmachine.a $(CMOCKA_LIBS) $(LZ4_LIBS)
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
dist_check_SCRIPTS += tests/unit/test_bt_registers.sh
TESTS += tests/unit/test_bt_registers.sh
