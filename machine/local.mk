# Files of machine/.
include machine/boot/local.mk

noinst_LIBRARIES += libmachine.a
libmachine_a_SOURCES = \
	machine/bus.c machine/bus.h \
	machine/clock.c machine/clock.h \
	machine/cpu_state.c machine/cpu_state.h \
	machine/cpuid.c machine/cpuid.h \
	machine/eventfd.c machine/eventfd.h \
	machine/irq.c machine/irq.h \
	machine/irqchip.c machine/irqchip.h \
	machine/lock.c machine/lock.h \
	machine/machine.c machine/paravirt.c machine/paravirt.h machine/machine.h \
	machine/private.h \
	machine/ram.c machine/ram.h \
	machine/spin.h \
	machine/tsc.c \
	machine/window.c \
	machine/vfio/claim.c machine/vfio/vfio.h \
	machine/vfio/config.c machine/vfio/private.h \
	machine/vfio/device.c \
	machine/vfio/interrupt.c \
	machine/vfio/sysfs.c \
	machine/types.h \
	machine/vmware/message.c machine/vmware/private.h \
	machine/vmware/nics.c \
	machine/vmware/port.c machine/vmware/vmware.h \
	machine/vmware/rpc.c \
	machine/devices/flash.c machine/devices/flash.h \
	machine/devices/fw_cfg.c machine/devices/fw_cfg.h \
	machine/devices/i8042.c machine/devices/i8042.h \
	machine/devices/ioapic.c machine/devices/ioapic.h \
	machine/devices/lapic.c machine/devices/lapic.h machine/devices/lapic_private.h \
	machine/devices/lapic_registers.c \
	machine/devices/lapic_timer.c \
	machine/devices/misc.c \
	machine/devices/pci.c machine/devices/pci.h machine/devices/pci_private.h \
	machine/devices/pci_msix.c \
	machine/devices/pic.c machine/devices/pic.h \
	machine/devices/pit.c machine/devices/pit.h \
	machine/devices/ps2_keys.c \
	machine/devices/ps2_mouse.c \
	machine/devices/q35.c machine/devices/q35.h machine/devices/q35_private.h \
	machine/devices/q35_pm.c \
	machine/devices/rtc.c machine/devices/rtc.h \
	machine/devices/uart.c machine/devices/uart.h \
	machine/devices/vga.c machine/devices/vga.h machine/devices/vga_private.h \
	machine/devices/vga_memory.c \
	machine/devices/vga_render.c \
	machine/devices/vga_vbe.c \
	$(MACHINE_BOOT_SOURCES)
