# Files of machine/.
include machine/boot/local.mk

noinst_LIBRARIES += libmachine.a
libmachine_a_SOURCES = $(MACHINE_BOOT_SOURCES)
