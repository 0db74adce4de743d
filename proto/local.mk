# Files of proto/: what trivisord and trivisor-vm share.
noinst_LIBRARIES += libproto.a
libproto_a_SOURCES = \
	proto/base64.c proto/base64.h \
	proto/control.c proto/control.h \
	proto/cpu_features.def proto/cpu_features.h \
	proto/file.c proto/file.h \
	proto/keys.c proto/keys.def proto/keys.h \
	proto/line.c proto/line.h \
	proto/paths.c proto/paths.h \
	proto/pci_address.h \
	proto/process.c proto/process.h \
	proto/ring.c proto/ring.h \
	proto/smbios.def proto/smbios.h \
	proto/sock.c proto/sock.h \
	proto/diskdef.c \
	proto/displaydef.c \
	proto/guestdef.c \
	proto/nicdef.c \
	proto/systemdef.c \
	proto/sharedef.c \
	proto/tooldef.c \
	proto/vmdef.c proto/vmdef.h proto/vmdef_private.h
libproto_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS)
# Whoever links libproto.a adds these behind it.
PROTO_LIBS = libproto.a $(JSONC_LIBS) $(LIBEVENT_LIBS)

check_PROGRAMS += tests/unit/test_vmdef tests/unit/test_proto
TESTS += tests/unit/test_vmdef tests/unit/test_proto
tests_unit_test_vmdef_SOURCES = tests/unit/test_vmdef.c
tests_unit_test_vmdef_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_vmdef_LDADD = $(PROTO_LIBS) $(CMOCKA_LIBS)
tests_unit_test_proto_SOURCES = tests/unit/test_proto.c
tests_unit_test_proto_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_proto_LDADD = $(PROTO_LIBS) $(CMOCKA_LIBS)
