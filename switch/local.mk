# Files of switch/: the process of one network between VMs.
libexec_PROGRAMS += trivisor-switch
trivisor_switch_SOURCES = \
	machine/net/net.h machine/net/offload.c \
	proto/switch.h \
	switch/bridge.c switch/bridge.h \
	switch/control.c \
	switch/main.c \
	switch/port.c \
	switch/private.h \
	switch/sandbox.c
trivisor_switch_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(SECCOMP_CFLAGS)
trivisor_switch_LDADD = $(PROTO_LIBS) $(SECCOMP_LIBS)

check_PROGRAMS += tests/unit/test_switch_bridge
TESTS += tests/unit/test_switch_bridge
tests_unit_test_switch_bridge_SOURCES = tests/unit/test_switch_bridge.c switch/bridge.c
tests_unit_test_switch_bridge_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_switch_bridge_LDADD = $(CMOCKA_LIBS)
