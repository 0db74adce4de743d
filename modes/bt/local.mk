# The binary translator. Everything but the mode's front and the signal handlers runs while the guest's vector state is
# live in the host's registers, hence -mgeneral-regs-only and no libc (see private.h).
include modes/bt/decode.mk
include modes/bt/system.mk

noinst_LIBRARIES += libbt.a libbtcore.a
libbtcore_a_CFLAGS = $(AM_CFLAGS) -mgeneral-regs-only -fno-stack-protector -fno-tree-loop-distribute-patterns
if ASAN
# Else functions with arrays call AddressSanitizer to lay out their stack, which uses xmm0.
libbtcore_a_CFLAGS += --param asan-stack=0
endif
libbtcore_a_SOURCES = \
	modes/bt/private.h modes/bt/debug.h modes/bt/cache.h modes/bt/tlb.h modes/bt/run.h modes/bt/emit.h modes/bt/translate.h \
	modes/bt/large.h modes/bt/large.c modes/bt/cache.c modes/bt/thunks.c modes/bt/tlb.c modes/bt/mem.c modes/bt/run.c modes/bt/debug.c modes/bt/sync.c modes/bt/sync.h modes/bt/written.c modes/bt/fpu.c \
	modes/bt/translate.c modes/bt/emit_flags.c modes/bt/emit_mem.c modes/bt/emit_native.c modes/bt/emit_exit.c modes/bt/emit_group.c \
	modes/bt/emit_loop.c modes/bt/emit_segment.c \
	$(BT_DECODE_SOURCES) $(BT_SYSTEM_SOURCES)
libbt_a_SOURCES = modes/bt/bt.c modes/bt/profile.c modes/bt/signal.c
