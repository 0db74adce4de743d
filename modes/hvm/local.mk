# Hardware virtualization through /dev/kvm.
noinst_LIBRARIES += libhvm.a
libhvm_a_SOURCES = \
	modes/hvm/clock.c \
	modes/hvm/hvm.c \
	modes/hvm/irqchip.c \
	modes/hvm/kvm.c \
	modes/hvm/memory.c \
	modes/hvm/private.h \
	modes/hvm/run.c \
	modes/hvm/state.c
