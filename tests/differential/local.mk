# Files of tests/differential/: random unprivileged instructions, natively and translated.
check_PROGRAMS += tests/differential/differential
TESTS += tests/differential/differential
tests_differential_differential_SOURCES = tests/differential/main.c tests/differential/generate.c tests/differential/compare.c \
	tests/differential/guest.c tests/differential/native.c tests/differential/regress.c tests/differential/case.h
tests_differential_differential_CFLAGS = $(AM_CFLAGS) -fno-stack-protector $(CAPSTONE_CFLAGS)
tests_differential_differential_LDADD = libbt.a libbtcore.a libbt.a libmachine.a $(CAPSTONE_LIBS) $(LZ4_LIBS)
