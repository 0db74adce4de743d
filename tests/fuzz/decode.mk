# `make fuzz FUZZ_SECONDS=N` runs hostile guests that long, with other seeds each time, `make fuzz-gdb` a hostile debugger: best
# in a build with --enable-asan.
# `make fuzz-decode` builds a libFuzzer target with clang; run it as it is, e.g. ./tests/fuzz/fuzz_decode -max_len=32.
CLANG = clang
FUZZ_CFLAGS = -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined
FUZZ_TARGETS = tests/fuzz/fuzz_decode

tests/fuzz/fuzz_decode: $(top_srcdir)/tests/fuzz/fuzz_decode.c $(BT_DECODE_SOURCES)
	@command -v $(CLANG) >/dev/null || { echo "fuzz: no clang here; install it or set CLANG=" >&2; exit 1; }
	@$(MKDIR_P) tests/fuzz
	$(AM_V_CCLD)$(CLANG) $(FUZZ_CFLAGS) -I$(top_srcdir) -D_GNU_SOURCE -o $@ $(top_srcdir)/tests/fuzz/fuzz_decode.c \
		$(top_srcdir)/modes/bt/decode.c $(top_srcdir)/modes/bt/decode_table.c

FUZZ_SECONDS = 3600
fuzz: tests/fuzz/hostile
	tests/fuzz/hostile --seed `date +%s` --seconds $(FUZZ_SECONDS)
fuzz-gdb: tests/fuzz/gdb
	tests/fuzz/gdb --seed `date +%s` --seconds $(FUZZ_SECONDS)
fuzz-decode: $(FUZZ_TARGETS)
.PHONY: fuzz fuzz-gdb fuzz-decode
CLEANFILES += tests/fuzz/fuzz_decode
EXTRA_DIST += tests/fuzz/fuzz_decode.c

check_PROGRAMS += tests/fuzz/gdb
TESTS += tests/fuzz/gdb
tests_fuzz_gdb_SOURCES = tests/fuzz/gdb.c tests/differential/watch.c tests/differential/watch.h vm/gdb.c vm/gdb.h vm/gdb_commands.c \
	vm/gdb_monitor.c vm/gdb_packet.c vm/gdb_packet.h vm/gdb_registers.c vm/gdb_registers.h vm/memory.c
tests_fuzz_gdb_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS)
tests_fuzz_gdb_LDADD = libmachine.a libproto.a $(JSONC_LIBS) $(MACHINE_LIBS)
