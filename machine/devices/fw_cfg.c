/* Firmware configuration: items by key, a directory of files, byte-wise and DMA reads. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/private.h"

/* DMA control word (host order after conversion). */
#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */
#define ID_TRADITIONAL 1u
#define ID_DMA 2u
#define KEY_MASK 0x3fffu /* bits 14 and 15: write channel and architecture-local, which index the same items */
#define ARCH_LOCAL 0x8000u

struct directory_entry {
	uint32_t bytes; /* all big-endian */
	uint16_t select, reserved;
	char name[FW_CFG_NAME_BYTES];
};

struct dma_request {
	uint32_t control, length; /* big-endian */
	uint64_t address;
};

static int item_set(struct fw_cfg *fw, unsigned key, const void *data, uint32_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, data, bytes);
	free(fw->item[key].data);
	fw->item[key] = (struct fw_cfg_item){ .data = copy, .bytes = bytes };
	return 0;
}

int fw_cfg_add_item(struct machine *machine, uint16_t key, const void *data, uint32_t bytes)
{
	if (key >= FW_CFG_FILE_FIRST)
		return -EINVAL;
	return item_set(&machine->fw_cfg, key, data, bytes);
}

int fw_cfg_add_u16(struct machine *machine, uint16_t key, uint16_t value)
{
	uint16_t le = htole16(value);
	return fw_cfg_add_item(machine, key, &le, sizeof(le));
}

int fw_cfg_add_u32(struct machine *machine, uint16_t key, uint32_t value)
{
	uint32_t le = htole32(value);
	return fw_cfg_add_item(machine, key, &le, sizeof(le));
}

int fw_cfg_add_u64(struct machine *machine, uint16_t key, uint64_t value)
{
	uint64_t le = htole64(value);
	return fw_cfg_add_item(machine, key, &le, sizeof(le));
}

/* FW_CFG_FILE_DIR: a count, then the entries. */
static int directory_build(struct fw_cfg *fw)
{
	struct {
		uint32_t count;
		struct directory_entry entry[FW_CFG_FILES];
	} dir;
	memset(&dir, 0, sizeof(dir));
	dir.count = htobe32(fw->files);
	for (unsigned i = 0; i < fw->files; i++) {
		dir.entry[i].bytes = htobe32(fw->item[FW_CFG_FILE_FIRST + i].bytes);
		dir.entry[i].select = htobe16((uint16_t)(FW_CFG_FILE_FIRST + i));
		memcpy(dir.entry[i].name, fw->name[i], FW_CFG_NAME_BYTES);
	}
	return item_set(fw, FW_CFG_FILE_DIR, &dir, (uint32_t)(sizeof(dir.count) + fw->files * sizeof(dir.entry[0])));
}

int fw_cfg_add_file(struct machine *machine, const char *name, const void *data, uint32_t bytes)
{
	struct fw_cfg *fw = &machine->fw_cfg;
	unsigned i = 0;
	if (!*name || strlen(name) >= FW_CFG_NAME_BYTES)
		return -EINVAL;
	while (i < fw->files && strcmp(fw->name[i], name))
		i++;
	if (i == FW_CFG_FILES)
		return -ENOSPC;
	int rc = item_set(fw, FW_CFG_FILE_FIRST + i, data, bytes);
	if (rc < 0)
		return rc;
	if (i == fw->files) {
		strcpy(fw->name[i], name);
		fw->files++;
	}
	return directory_build(fw);
}

/* ---- access by the guest -------------------------------------------------------- */

static const struct fw_cfg_item *selected(const struct fw_cfg *fw)
{
	unsigned key = fw->selector & KEY_MASK;
	return (fw->selector & ARCH_LOCAL) || key >= FW_CFG_ITEMS ? NULL : &fw->item[key];
}

/* How much of `want` bytes the item still has at the present offset. */
static uint32_t available(const struct fw_cfg *fw, uint32_t want)
{
	const struct fw_cfg_item *item = selected(fw);
	if (!item || fw->offset >= item->bytes)
		return 0;
	return want < item->bytes - fw->offset ? want : item->bytes - fw->offset;
}

static void advance(struct fw_cfg *fw, uint32_t n)
{
	fw->offset = n > UINT32_MAX - fw->offset ? UINT32_MAX : fw->offset + n;
}

static void select_key(struct fw_cfg *fw, uint16_t key)
{
	fw->selector = key;
	fw->offset = 0;
}

/* Beyond an item's end zeros are read. */
static bool dma_read_item(struct fw_cfg *fw, gpa_t to, uint32_t n)
{
	static const uint8_t zeros[4096];
	uint32_t have = available(fw, n);
	if (have && !machine_dma_write(fw->machine, to, selected(fw)->data + fw->offset, have))
		return false;
	for (uint64_t at = have; at < n; at += sizeof(zeros)) {
		uint64_t left = n - at < sizeof(zeros) ? n - at : sizeof(zeros);
		if (!machine_dma_write(fw->machine, to + at, zeros, left))
			return false;
	}
	advance(fw, n);
	return true;
}

static void dma_run(struct fw_cfg *fw, gpa_t at)
{
	struct dma_request request;
	if (!machine_dma_read(fw->machine, at, &request, sizeof(request)))
		return;
	uint32_t control = be32toh(request.control), length = be32toh(request.length);
	bool ok = true;
	if (control & DMA_SELECT)
		select_key(fw, (uint16_t)(control >> 16));
	if (control & DMA_READ)
		ok = dma_read_item(fw, be64toh(request.address), length);
	else if (control & DMA_WRITE)
		ok = false; /* no item is writable */
	else if (control & DMA_SKIP)
		advance(fw, length);
	uint32_t done = htobe32(ok ? 0 : DMA_ERROR);
	machine_dma_write(fw->machine, at, &done, sizeof(done));
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
	struct fw_cfg *fw = opaque;
	if (offset == 0)
		return size == 2 ? fw->selector : 0xff;
	uint8_t byte = available(fw, 1) ? selected(fw)->data[fw->offset] : 0;
	advance(fw, 1);
	return byte;
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	if (offset == 0 && size == 2)
		select_key(opaque, (uint16_t)value);
}

/* The address register is big-endian: its high half comes first, and the low half starts the transfer. */
static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned size)
{
	uint64_t big_endian = htobe64(DMA_SIGNATURE);
	return big_endian >> offset * 8;
}

static void dma_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct fw_cfg *fw = opaque;
	if (size != 4)
		return;
	if (offset == 0) {
		fw->dma_high = be32toh((uint32_t)value);
		return;
	}
	gpa_t at = (gpa_t)fw->dma_high << 32 | be32toh((uint32_t)value);
	fw->dma_high = 0;
	dma_run(fw, at);
}

static const struct bus_ops ports_ops = { .read = ports_read, .write = ports_write, .max = 2 };
static const struct bus_ops dma_port_ops = { .read = dma_port_read, .write = dma_port_write, .max = 4 };

int fw_cfg_init(struct machine *machine, struct fw_cfg *fw)
{
	fw->machine = machine;
	fw->ports = (struct bus_range){ .name = "io_fw_cfg", .ops = &ports_ops, .opaque = fw };
	fw->dma_port = (struct bus_range){ .name = "io_fw_cfg", .ops = &dma_port_ops, .opaque = fw };
	bus_map_pio(machine, &fw->ports, 0x510, 2);
	bus_map_pio(machine, &fw->dma_port, 0x514, 8);
	int rc = fw_cfg_add_item(machine, FW_CFG_SIGNATURE, "QEMU", 4);
	if (!rc)
		rc = fw_cfg_add_u32(machine, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	if (!rc)
		rc = fw_cfg_add_u64(machine, FW_CFG_RAM_SIZE, machine->ram.bytes);
	if (!rc)
		rc = fw_cfg_add_u16(machine, FW_CFG_NB_CPUS, (uint16_t)machine->config.vcpus);
	if (!rc)
		rc = fw_cfg_add_u16(machine, FW_CFG_MAX_CPUS, (uint16_t)machine->config.vcpus);
	return rc ? rc : directory_build(fw);
}

void fw_cfg_reset(struct fw_cfg *fw)
{
	fw->selector = 0;
	fw->offset = 0;
	fw->dma_high = 0;
}

void fw_cfg_finish(struct fw_cfg *fw)
{
	for (unsigned i = 0; i < FW_CFG_ITEMS; i++)
		free(fw->item[i].data);
}
