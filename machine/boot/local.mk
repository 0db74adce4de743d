# Loaders and firmware tables: machine/boot, disks and the virtio devices.
MACHINE_BOOT_SOURCES = \
	machine/boot/acpi.c machine/boot/acpi.h \
	machine/boot/aml.c machine/boot/aml.h \
	machine/boot/bios.c \
	machine/boot/boot.c \
	machine/boot/bzimage.c \
	machine/boot/direct.c \
	machine/boot/dsdt.c \
	machine/boot/e820.c \
	machine/boot/elf.c \
	machine/boot/entry.c \
	machine/boot/file.c \
	machine/boot/firmware.c \
	machine/boot/linuxboot.S \
	machine/boot/multiboot.c \
	machine/boot/payload.c \
	machine/boot/private.h \
	machine/boot/pvh.c \
	machine/boot/smbios.c machine/boot/smbios.h \
	machine/boot/vmlinux.c \
	machine/block/aio.h \
	machine/block/block.h \
	machine/block/disk.c machine/block/disk.h \
	machine/block/file.c \
	machine/block/nbd.c \
	machine/block/pool.c \
	machine/block/uring.c \
	machine/net/card.c machine/net/card.h \
	machine/net/net.h \
	machine/net/offload.c \
	machine/net/port.c \
	machine/net/rate.c \
	machine/net/team.c \
	machine/net/uplink.c machine/net/uplink.h \
	machine/net/uplink_make.c \
	machine/net/user.c \
	machine/virtio/balloon.c \
	machine/xen/abi.h \
	machine/xen/blk.c \
	machine/xen/bus.c machine/xen/bus.h \
	machine/xen/net.c \
	machine/xen/ring.c machine/xen/ring.h \
	machine/xen/xen.h \
	machine/virtio/blk.c \
	machine/virtio/console.c \
	machine/virtio/device.c \
	machine/virtio/fs.c \
	machine/virtio/net.c machine/virtio/net.h \
	machine/virtio/net_control.c \
	machine/virtio/net_rx.c \
	machine/virtio/pci.c \
	machine/virtio/queue.c machine/virtio/queue.h \
	machine/virtio/rng.c \
	machine/virtio/scsi.c \
	machine/virtio/vhost_user.c machine/virtio/vhost_user.h \
	machine/virtio/virtio.h \
	machine/virtio/vsock.c machine/virtio/vsock.h \
	machine/virtio/vsock_host.c \
	machine/virtio/vsock_stream.c \
	machine/virtio/worker.c machine/virtio/worker.h
