# Files of policy/: facts in, decision out.
noinst_LIBRARIES += libpolicy.a
libpolicy_a_SOURCES = \
	policy/policy.h policy/calibration.c policy/probe.c policy/guest.c policy/score.c policy/table.c
libpolicy_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS)
