# Tests of libvirt's API: its own clients, hostile ones, and the readers of packets and XML.
LIBVIRT_CLIENT_TESTS = tests/clients/libvirt_virsh.py tests/clients/libvirt_python.py tests/clients/libvirt_hostile.py \
	tests/clients/libvirt_virtinst.py tests/clients/libvirt_manager.py tests/clients/libvirt_screen.py tests/clients/libvirt_net.py
dist_check_SCRIPTS += $(LIBVIRT_CLIENT_TESTS)
TESTS += $(LIBVIRT_CLIENT_TESTS)
EXTRA_DIST += tests/clients/lvtest.py

LIBVIRT_UNIT_TESTS = tests/unit/test_libvirt_xdr tests/unit/test_libvirt_xml
check_PROGRAMS += $(LIBVIRT_UNIT_TESTS)
TESTS += $(LIBVIRT_UNIT_TESTS)
tests_unit_test_libvirt_xdr_SOURCES = tests/unit/test_libvirt_xdr.c
tests_unit_test_libvirt_xdr_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBVIRT_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_libvirt_xdr_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)
tests_unit_test_libvirt_xml_SOURCES = tests/unit/test_libvirt_xml.c
tests_unit_test_libvirt_xml_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBVIRT_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_libvirt_xml_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)
