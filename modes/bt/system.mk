# What helpers of translated code do; compiled with -mgeneral-regs-only (see modes/bt/private.h).
BT_SYSTEM_SOURCES = modes/bt/helper.h modes/bt/walk.c modes/bt/segment.c modes/bt/far.c modes/bt/fault.c \
	modes/bt/system.c modes/bt/msr.c modes/bt/string.c modes/bt/legacy.c modes/bt/xstate.c
