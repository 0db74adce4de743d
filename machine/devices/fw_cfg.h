/* QEMU's firmware configuration device: ports 0x510/0x511 and DMA at 0x514 (docs/specs/fw_cfg.rst of QEMU). */
#ifndef MACHINE_DEVICES_FW_CFG_H
#define MACHINE_DEVICES_FW_CFG_H

#include "machine/bus.h"

struct machine;

#define FW_CFG_SIGNATURE 0x0000
#define FW_CFG_ID 0x0001
#define FW_CFG_UUID 0x0002
#define FW_CFG_RAM_SIZE 0x0003
#define FW_CFG_NOGRAPHIC 0x0004
#define FW_CFG_NB_CPUS 0x0005
#define FW_CFG_KERNEL_ADDR 0x0007
#define FW_CFG_KERNEL_SIZE 0x0008
#define FW_CFG_INITRD_ADDR 0x000a
#define FW_CFG_INITRD_SIZE 0x000b
#define FW_CFG_BOOT_MENU 0x000e
#define FW_CFG_MAX_CPUS 0x000f
#define FW_CFG_KERNEL_ENTRY 0x0010
#define FW_CFG_KERNEL_DATA 0x0011
#define FW_CFG_INITRD_DATA 0x0012
#define FW_CFG_CMDLINE_ADDR 0x0013
#define FW_CFG_CMDLINE_SIZE 0x0014
#define FW_CFG_CMDLINE_DATA 0x0015
#define FW_CFG_SETUP_ADDR 0x0016
#define FW_CFG_SETUP_SIZE 0x0017
#define FW_CFG_SETUP_DATA 0x0018
#define FW_CFG_FILE_DIR 0x0019
#define FW_CFG_FILE_FIRST 0x0020
#define FW_CFG_FILES 64
#define FW_CFG_ITEMS (FW_CFG_FILE_FIRST + FW_CFG_FILES)
#define FW_CFG_NAME_BYTES 56

struct fw_cfg_item {
	uint8_t *data; /* owned */
	uint32_t bytes;
};

struct fw_cfg {
	struct machine *machine;
	struct bus_range ports, dma_port;
	struct fw_cfg_item item[FW_CFG_ITEMS];
	char name[FW_CFG_FILES][FW_CFG_NAME_BYTES];
	unsigned files;
	uint16_t selector;
	uint32_t offset;
	uint32_t dma_high;
};

/*
 * Copy `bytes` of data in; an item or file of that key or name is replaced. Before the guest runs, or under the machine
 * lock. 0, -ENOMEM, -ENOSPC (too many files), -EINVAL (key or name out of range).
 */
int fw_cfg_add_item(struct machine *machine, uint16_t key, const void *data, uint32_t bytes);
int fw_cfg_add_u16(struct machine *machine, uint16_t key, uint16_t value);
int fw_cfg_add_u32(struct machine *machine, uint16_t key, uint32_t value);
int fw_cfg_add_u64(struct machine *machine, uint16_t key, uint64_t value);
int fw_cfg_add_file(struct machine *machine, const char *name, const void *data, uint32_t bytes);

int fw_cfg_init(struct machine *machine, struct fw_cfg *fw);
void fw_cfg_reset(struct fw_cfg *fw);
void fw_cfg_finish(struct fw_cfg *fw);

#endif
