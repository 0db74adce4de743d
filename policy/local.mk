# Files of policy/: facts in, decision out.
noinst_LIBRARIES += libpolicy.a
libpolicy_a_SOURCES = \
	policy/policy.h policy/calibration.c policy/cost.c policy/explain.c policy/facts.c policy/fleet.c policy/guest.c \
	policy/memory.c policy/modes.c policy/probe.c policy/score.c policy/table.c policy/workload.c
libpolicy_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS)
