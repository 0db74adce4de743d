# Tests of machine/vfio/, on a make-believe host.
VFIO_TREES = tests/vfio/desktop.tree tests/vfio/no-driver.tree tests/vfio/no-iommu.tree
EXTRA_DIST += $(VFIO_TREES)
check_PROGRAMS += tests/unit/test_vfio
TESTS += tests/unit/test_vfio
tests_unit_test_vfio_SOURCES = tests/unit/test_vfio.c tests/unit/fake_vfio.c tests/unit/fake_vfio.h \
	tests/unit/machine_fixture.c tests/unit/machine_fixture.h
tests_unit_test_vfio_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_test_vfio_LDADD = libmachine.a $(CMOCKA_LIBS) $(MACHINE_LIBS)
