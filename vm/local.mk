# Files of vm/: the process of one VM.
libexec_PROGRAMS += trivisor-vm
trivisor_vm_SOURCES = \
	vm/console.c \
	vm/control.c \
	vm/crash.c \
	vm/lifecycle.c \
	vm/log.c \
	vm/main.c \
	vm/private.h \
	vm/sandbox.c \
	vm/stats.c
trivisor_vm_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(SECCOMP_CFLAGS)
trivisor_vm_LDADD = libmodes.a libbt.a libbtcore.a libmachine.a libproto.a $(JSONC_LIBS) $(LIBEVENT_LIBS) $(SECCOMP_LIBS) $(UNPACK_LIBS)
