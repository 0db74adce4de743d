# Files of machine/boot and machine/virtio.
MACHINE_BOOT_SOURCES =
