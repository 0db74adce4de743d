/* A passed-through device in the machine: what it may reach by DMA, its regions, windows onto its memory, and its life. */
#include <errno.h>
#include <string.h>

#include "machine/vfio/private.h"

/* ---- DMA ------------------------------------------------------------------------------------------- */

/* RAM as the guest has it is what its devices see; the hole below 1 MiB and ROM are not RAM to them. */
static int map_ram(struct machine *machine, struct vfio_claim *claim, char *ret_error)
{
	const struct {
		gpa_t gpa;
		uint64_t bytes;
	} pieces[] = {{0, RAM_VGA_BASE},
		      {PAM_BASE, machine->ram.low_bytes - PAM_BASE},
		      {RAM_HIGH_BASE, machine->ram.high_bytes}};
	const struct vfio_host *host = claim->host;

	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		struct vfio_iommu_type1_dma_map map = {
			.argsz = sizeof(map),
			.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
			.vaddr = (uint64_t)(uintptr_t)ram_host(&machine->ram, pieces[i].gpa, pieces[i].bytes),
			.iova = pieces[i].gpa,
			.size = pieces[i].bytes,
		};
		if (!map.size)
			continue;
		BUG_ON(!map.vaddr);
		int rc = host->ioctl(host->opaque, claim->container, VFIO_IOMMU_MAP_DMA, &map);
		if (rc == -ENOMEM)
			return vfio_refuse(ret_error, rc, "a VM with a device of the host needs all of its %llu MiB locked in memory, and may "
					   "not: raise the limit (ulimit -l, LimitMEMLOCK= of the daemon's unit), or give it less",
					   (unsigned long long)(machine->ram.bytes >> 20));
		if (rc < 0)
			return vfio_refuse(ret_error, rc, "the IOMMU does not map the guest's RAM at 0x%llx: %s",
					   (unsigned long long)pieces[i].gpa, strerror(-rc));
	}
	claim->ram_mapped = true;
	return 0;
}

/* ---- regions ------------------------------------------------------------------------------------------ */

/* To be freed; NULL: there is no such region. */
static struct vfio_region_info *region_info(const struct vfio_device *d, uint32_t index)
{
	uint32_t bytes = sizeof(struct vfio_region_info);

	for (;;) {
		struct vfio_region_info *info = calloc(1, bytes);

		if (!info)
			return NULL;
		info->argsz = bytes;
		info->index = index;
		if (vfio_ioctl(d, VFIO_DEVICE_GET_REGION_INFO, info) < 0) {
			free(info);
			return NULL;
		}
		/* Its capabilities need more room. */
		if (info->argsz <= bytes || info->argsz > 65536)
			return info;
		bytes = info->argsz;
		free(info);
	}
}

/* The pages that hold the MSI-X table and its pending bits are ours to answer. */
static bool is_msix_page(const struct vfio_device *d, unsigned bar, uint64_t offset)
{
	const struct pci_msix *m = &d->pci.msix;
	uint64_t pba_bytes = (m->vectors + 63u) / 64 * 8;

	if (!m->vectors || m->bar != bar)
		return false;
	if (offset + GUEST_PAGE_SIZE > m->table_offset && offset < m->table_offset + m->vectors * 16ull)
		return true;
	return m->pba_offset != PCI_MSIX_PBA_ELSEWHERE && offset + GUEST_PAGE_SIZE > m->pba_offset && offset < m->pba_offset + pba_bytes;
}

static void add_window(struct vfio_device *d, unsigned bar, uint64_t offset, uint64_t bytes)
{
	if (d->windows == VFIO_WINDOWS || !bytes)
		return;
	/* What cannot be mapped is read and written. */
	void *host = d->host->mmap(d->host->opaque, d->fd, d->bar[bar].at + offset, bytes);
	if (!host)
		return;
	d->window[d->windows++] = (struct vfio_window){.window = {.bytes = bytes, .host = host}, .bar = bar, .offset = offset};
}

/* [from, to) of a BAR, around the MSI-X pages. */
static void add_windows(struct vfio_device *d, unsigned bar, uint64_t from, uint64_t to)
{
	uint64_t start = from, at;

	for (at = from; at + GUEST_PAGE_SIZE <= to; at += GUEST_PAGE_SIZE) {
		if (!is_msix_page(d, bar, at))
			continue;
		add_window(d, bar, start, at - start);
		start = at + GUEST_PAGE_SIZE;
	}
	add_window(d, bar, start, at - start);
}

static void windows_of(struct vfio_device *d, unsigned bar, const struct vfio_region_info *info)
{
	if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP) || !d->host->mmap)
		return;
	for (uint32_t at = info->flags & VFIO_REGION_INFO_FLAG_CAPS ? info->cap_offset : 0; at;) {
		const struct vfio_info_cap_header *cap = (const void *)((const char *)info + at);

		if (cap->id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			const struct vfio_region_info_cap_sparse_mmap *sparse = (const void *)cap;

			for (uint32_t i = 0; i < sparse->nr_areas; i++)
				add_windows(d, bar, sparse->areas[i].offset, sparse->areas[i].offset + sparse->areas[i].size);
			return;
		}
		at = cap->next;
	}
	add_windows(d, bar, 0, info->size);
}

void vfio_windows_update(struct vfio_device *d)
{
	bool hidden = d->intx_waits || clock_timer_armed(&d->windows_again);

	for (unsigned i = 0; i < d->windows; i++) {
		struct vfio_window *w = &d->window[i];
		const struct bus_range *range = &d->pci.bar[w->bar].range;

		if (range->mapped && !hidden)
			ram_window_map(d->pci.machine, &w->window, range->base + w->offset);
		else
			ram_window_unmap(d->pci.machine, &w->window);
	}
}

static int read_regions(struct vfio_device *d, char *ret_error)
{
	for (uint32_t i = 0; i <= VFIO_PCI_CONFIG_REGION_INDEX; i++) {
		struct vfio_region_info *info = region_info(d, i);

		if (info && i < PCI_BARS)
			d->bar[i] = (struct vfio_bar){.at = info->offset, .bytes = info->size, .flags = info->flags};
		if (info && i == VFIO_PCI_CONFIG_REGION_INDEX)
			d->config_at = info->offset;
		if (i == VFIO_PCI_CONFIG_REGION_INDEX && (!info || info->size < PCI_CONFIG_BYTES)) {
			free(info);
			return vfio_refuse(ret_error, -EIO, "%s: VFIO shows no configuration space of it", d->name);
		}
		free(info);
	}
	return 0;
}

static void map_regions(struct vfio_device *d)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct vfio_region_info *info = d->pci.bar[i].type == PCI_BAR_NONE ? NULL : region_info(d, i);

		if (info)
			windows_of(d, i, info);
		free(info);
	}
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static void reset_device(struct vfio_device *d)
{
	if (!d->can_reset)
		return;
	int rc = vfio_ioctl(d, VFIO_DEVICE_RESET, NULL);
	if (rc < 0)
		fprintf(stderr, "%s does not take a reset: %s\n", d->name, strerror(-rc));
}

/* COMMAND is 0 by now, and BARs with it. */
static void on_reset(struct pci_device *pci)
{
	struct vfio_device *d = pci->opaque;

	if (d->msi_cap)
		pci->config[d->msi_cap + 2] &= 0xfe;
	clock_timer_cancel(pci->machine, &d->windows_again);
	vfio_interrupts_off(d);
	vfio_windows_update(d);
	reset_device(d);
	vfio_command_pass(d);
	vfio_interrupts_update(d);
}

/* A paused guest's memory stands still: the device may not write it. */
static void on_pause(void *opaque, bool paused)
{
	struct vfio_device *d = opaque;

	machine_lock(d->pci.machine);
	d->quiet = paused;
	vfio_command_pass(d);
	machine_unlock(d->pci.machine);
}

static void release(struct vfio_device *d)
{
	struct machine *machine = d->pci.machine;

	if (machine) {
		vfio_interrupts_finish(d);
		/* No window may outlive its BAR, nor a pending DMA the guest. */
		for (unsigned i = 0; i < d->windows; i++)
			ram_window_unmap(machine, &d->window[i].window);
		pci_unregister(&d->pci);
	}
	for (unsigned i = 0; i < d->windows; i++)
		d->host->munmap(d->host->opaque, d->window[i].window.host, d->window[i].window.bytes);
	reset_device(d);
	free(d);
}

static void on_destroy(void *opaque)
{
	struct vfio_device *d = opaque;
	struct machine *machine = d->pci.machine;

	/* Nobody else is left that would take it. */
	machine_lock(machine);
	d->quiet = true;
	vfio_command_pass(d);
	release(d);
	machine_unlock(machine);
}

int vfio_device_add(struct machine *machine, struct vfio_claim *claim, unsigned index, char *ret_error)
{
	struct vfio_device_info info = {.argsz = sizeof(info)};
	struct vfio_device *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return vfio_refuse(ret_error, -ENOMEM, "out of memory");
	d->host = claim->host;
	d->fd = claim->device[index].fd;
	snprintf(d->name, sizeof(d->name), "PCI device %s", claim->device[index].found.address);
	rc = vfio_ioctl(d, VFIO_DEVICE_GET_INFO, &info);
	if (rc < 0 || !(info.flags & VFIO_DEVICE_FLAGS_PCI)) {
		rc = vfio_refuse(ret_error, rc < 0 ? rc : -EINVAL, "%s: VFIO does not have it as a PCI device", d->name);
		free(d);
		return rc;
	}
	d->can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	reset_device(d);
	rc = claim->ram_mapped ? 0 : map_ram(machine, claim, ret_error);
	if (!rc)
		rc = read_regions(d, ret_error);
	if (!rc)
		rc = vfio_config_init(d, machine, ret_error);
	if (!rc) {
		map_regions(d);
		rc = vfio_interrupts_init(d, ret_error);
	}
	if (rc) {
		release(d);
		return rc;
	}
	d->pci.reset = on_reset;
	d->node = (struct machine_device){.name = "vfio", .destroy = on_destroy, .pause = on_pause, .opaque = d};
	machine_register_device(machine, &d->node);
	return 0;
}
