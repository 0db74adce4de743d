# Tests of the daemon, its JSON-RPC API and trictl.
DAEMON_CLIENT_TESTS = tests/clients/rpc_conformance.py tests/clients/daemon_state.py tests/clients/daemon_vms.py \
	tests/clients/consoles.py tests/clients/images.py tests/clients/daemon_hostile_vm.py tests/clients/daemon_net.py tests/clients/daemon_policy.py tests/clients/gdb.py tests/clients/guest.py tests/clients/inspect.py
dist_check_SCRIPTS += $(DAEMON_CLIENT_TESTS)
TESTS += $(DAEMON_CLIENT_TESTS)

# A guest of a few hundred bytes: no kernel has to be fetched to see a VM live and die.
check_DATA += tests/clients/tiny.elf
tests/clients/tiny.elf: $(top_srcdir)/tests/clients/tiny.S
	$(AM_V_GEN)$(MKDIR_P) tests/clients && $(CC) -m32 -c $(top_srcdir)/tests/clients/tiny.S -o tests/clients/tiny.o && \
		ld -m elf_i386 -Ttext 0x101000 --section-start=.note.Xen=0x100000 -e start -z noexecstack --no-warn-rwx-segments -n \
			tests/clients/tiny.o -o $@
# For GDB: the same in 64 bits, with symbols.
check_DATA += tests/clients/debuggee.elf
tests/clients/debuggee.elf: $(top_srcdir)/tests/clients/debuggee.S
	$(AM_V_GEN)$(MKDIR_P) tests/clients && $(CC) -c $(top_srcdir)/tests/clients/debuggee.S -o tests/clients/debuggee.o && \
		ld -m elf_x86_64 -Ttext 0x101000 --section-start=.note.Xen=0x100000 -e start -z noexecstack --no-warn-rwx-segments -n \
			tests/clients/debuggee.o -o $@
CLEANFILES += tests/clients/tiny.elf tests/clients/tiny.o tests/clients/debuggee.elf tests/clients/debuggee.o
EXTRA_DIST += tests/clients/debuggee.S tests/clients/tiny.S tests/clients/fake_vm.py

DAEMON_UNIT_TESTS = tests/unit/test_policy tests/unit/test_policy_hosts tests/unit/test_rpc_schema tests/unit/test_store
check_PROGRAMS += $(DAEMON_UNIT_TESTS)
TESTS += $(DAEMON_UNIT_TESTS)
tests_unit_test_policy_SOURCES = tests/unit/test_policy.c
tests_unit_test_policy_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_policy_LDADD = libpolicy.a $(PROTO_LIBS) $(UNPACK_LIBS) $(CMOCKA_LIBS) -lm
tests_unit_test_policy_hosts_SOURCES = tests/unit/test_policy_hosts.c
tests_unit_test_policy_hosts_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_policy_hosts_LDADD = libpolicy.a $(PROTO_LIBS) $(UNPACK_LIBS) $(CMOCKA_LIBS) -lm
EXTRA_DIST += tests/hosts
tests_unit_test_rpc_schema_SOURCES = tests/unit/test_rpc_schema.c
tests_unit_test_rpc_schema_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_rpc_schema_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)
tests_unit_test_store_SOURCES = tests/unit/test_store.c
tests_unit_test_store_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_store_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)
