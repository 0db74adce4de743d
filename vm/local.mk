# Files of vm/: the process of one VM.
libexec_PROGRAMS += trivisor-vm
trivisor_vm_SOURCES = \
	vm/agent.c \
	vm/balloon.c \
	vm/channels.c \
	vm/attach.c \
	vm/console.c \
	vm/vnc.c \
	vm/console_log.c \
	vm/control.c \
	vm/cpu.c \
	vm/crash.c \
	vm/debug.c \
	vm/disassemble.c \
	vm/disks.c \
	vm/gdb.c vm/gdb.h \
	vm/gdb_commands.c \
	vm/gdb_monitor.c \
	vm/gdb_packet.c vm/gdb_packet.h \
	vm/gdb_registers.c vm/gdb_registers.h \
	vm/keyboard.c \
	vm/lifecycle.c \
	vm/log.c \
	vm/main.c \
	vm/memory.c \
	vm/network.c \
	vm/nvram.c \
	vm/passthrough.c \
	vm/private.h \
	vm/profile.c \
	vm/registers.c \
	vm/sandbox.c \
	vm/screen.c \
	vm/seed.c \
	vm/server.c \
	vm/shares.c \
	vm/stats.c \
	vm/tools.c \
	vm/vsock.c
trivisor_vm_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(SECCOMP_CFLAGS) $(CAPSTONE_CFLAGS) $(PNG_CFLAGS)
trivisor_vm_LDADD = libmodes.a libhvm.a libpv.a libpvcore.a libpv.a libbt.a libbtcore.a libmachine.a libproto.a $(JSONC_LIBS) $(SECCOMP_LIBS) $(CAPSTONE_LIBS) $(PNG_LIBS) $(MACHINE_LIBS)

# Viewers.
trivisor_vm_CFLAGS += $(VNC_CFLAGS)
trivisor_vm_LDADD += $(VNC_LIBS)

check_PROGRAMS += tests/unit/test_gdb
TESTS += tests/unit/test_gdb
tests_unit_test_gdb_SOURCES = tests/unit/test_gdb.c vm/gdb_packet.c vm/gdb_registers.c
tests_unit_test_gdb_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_gdb_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
