# The measured spike behind docs/bt.md: `make spike && bench/spike/spike`. No part of the product, nor of `make all`.
EXTRA_PROGRAMS = bench/spike/spike bench/spike/locality
bench_spike_spike_SOURCES = \
	bench/spike/concurrent.c \
	bench/spike/emit.c \
	bench/spike/guests.c \
	bench/spike/run.c \
	bench/spike/spike.c \
	bench/spike/spike.h \
	bench/spike/translate.c
bench_spike_locality_SOURCES = bench/spike/locality.c
bench_spike_locality_CFLAGS = $(AM_CFLAGS) $(CAPSTONE_CFLAGS)
bench_spike_locality_LDADD = $(CAPSTONE_LIBS)

.PHONY: spike
spike: bench/spike/spike$(EXEEXT) bench/spike/locality$(EXEEXT)
CLEANFILES += bench/spike/spike$(EXEEXT) bench/spike/locality$(EXEEXT)
