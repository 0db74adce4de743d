# Files of tests/differential/: random unprivileged instructions, natively and translated; and tests/fuzz/hostile, which
# has its cases from there.
check_PROGRAMS += tests/differential/differential tests/fuzz/hostile
TESTS += tests/differential/differential tests/fuzz/hostile
DIFFERENTIAL_CASES = tests/differential/generate.c tests/differential/compare.c tests/differential/native.c \
	tests/differential/watch.c tests/differential/case.h tests/differential/watch.h
tests_differential_differential_SOURCES = tests/differential/main.c tests/differential/guest.c tests/differential/regress.c \
	$(DIFFERENTIAL_CASES)
tests_differential_differential_CFLAGS = $(AM_CFLAGS) -fno-stack-protector $(CAPSTONE_CFLAGS)
tests_differential_differential_LDADD = libbt.a libbtcore.a libbt.a libmachine.a $(CAPSTONE_LIBS) $(MACHINE_LIBS)
tests_fuzz_hostile_SOURCES = tests/fuzz/hostile.c $(DIFFERENTIAL_CASES)
tests_fuzz_hostile_CFLAGS = $(tests_differential_differential_CFLAGS)
tests_fuzz_hostile_LDADD = $(tests_differential_differential_LDADD)
