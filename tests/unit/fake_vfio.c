/* A make-believe host for VFIO's users. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_vfio.h"

__attribute__((format(printf, 2, 3))) static void note(struct fake_vfio *f, const char *format, ...)
{
	size_t at = strlen(f->log);
	va_list args;

	va_start(args, format);
	vsnprintf(f->log + at, sizeof(f->log) - at, format, args);
	va_end(args);
}

/* ---- sysfs ------------------------------------------------------------------------------------------ */

static void make_parents(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0700);
		*slash = '/';
	}
}

static void unpack_line(const struct fake_vfio *f, char *line)
{
	char path[PATH_MAX], *name = line + 2, *rest = strchr(name, ' ');

	if (line[0] == '#' || !line[0])
		return;
	if (rest)
		*rest++ = '\0';
	snprintf(path, sizeof(path), "%s/%s", f->root, name);
	make_parents(path);
	switch (line[0]) {
	case 'D': assert_true(mkdir(path, 0700) == 0 || errno == EEXIST); break;
	case 'L': assert_int_equal(symlink(rest, path), 0); break;
	case 'F': {
		FILE *file = fopen(path, "we");
		assert_non_null(file);
		fprintf(file, "%s\n", rest ? rest : "");
		fclose(file);
		break;
	}
	default: fail_msg("not a line of a tree: %s", line);
	}
}

static void unpack(const struct fake_vfio *f, const char *name)
{
	const char *source = getenv("top_srcdir");
	char path[PATH_MAX], line[512];

	snprintf(path, sizeof(path), "%s/tests/vfio/%s.tree", source ? source : ".", name);
	FILE *file = fopen(path, "re");
	if (!file)
		fail_msg("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		unpack_line(f, line);
	}
	fclose(file);
}

/* What the kernel does when these attributes are written. */
static int write_attribute(struct fake_vfio *f, const char *path, const char *text)
{
	char address[PCI_ADDRESS_BYTES], link[PATH_MAX], file[PATH_MAX], override[64] = "";

	note(f, "%s=%.*s\n", path, (int)strcspn(text, "\n"), text);
	if (f->deny_writes)
		return f->deny_writes;
	if (strstr(path, "driver_override")) {
		snprintf(file, sizeof(file), "%s/%s", f->root, path);
		FILE *to = fopen(file, "we");
		assert_non_null(to);
		fputs(text, to);
		fclose(to);
		return 0;
	}
	assert_true(pci_address_parse(text, address));
	snprintf(link, sizeof(link), "%s/bus/pci/devices/%s/driver", f->root, address);
	if (strstr(path, "/unbind")) {
		assert_int_equal(unlink(link), 0);
	} else if (!f->refuse_bind) {
		snprintf(file, sizeof(file), "%s/bus/pci/devices/%s/driver_override", f->root, address);
		FILE *from = fopen(file, "re");
		if (from && fgets(override, sizeof(override), from))
			override[strcspn(override, "\n")] = '\0';
		if (from)
			fclose(from);
		snprintf(file, sizeof(file), "../../../bus/pci/drivers/%s", override[0] ? override : "xhci_hcd");
		assert_int_equal(symlink(file, link), 0);
	}
	return 0;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static int fake_open(void *opaque, const char *path, int flags)
{
	struct fake_vfio *f = opaque;
	int fd;

	if (!strcmp(path, "/dev/vfio/vfio"))
		return f->open_container ? f->open_container : FAKE_CONTAINER;
	if (!strncmp(path, "/dev/vfio/", 10))
		return f->open_group ? f->open_group : FAKE_GROUP;
	assert_int_equal(strncmp(path, f->root, strlen(f->root)), 0);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	assert_true(fd < 64);
	snprintf(f->attribute[fd], sizeof(f->attribute[fd]), "%s", path + strlen(f->root) + 1);
	return fd;
}

static void fake_close(void *opaque, int fd)
{
	struct fake_vfio *f = opaque;

	if (fd >= FAKE_CONTAINER)
		note(f, "close %d\n", fd);
	else
		close(fd);
}

static ssize_t fake_write(void *opaque, int fd, const void *bytes, size_t n)
{
	char text[128];
	int rc;

	assert_true(n < sizeof(text));
	memcpy(text, bytes, n);
	text[n] = '\0';
	rc = write_attribute(opaque, ((struct fake_vfio *)opaque)->attribute[fd], text);
	return rc ? rc : (ssize_t)n;
}

static uint8_t *region(struct fake_vfio *f, uint64_t at, size_t n)
{
	uint64_t index = at >> 40, offset = at & 0xffffffffff;
	uint8_t *const base[] = {f->bar0, NULL, f->bar2, NULL, f->bar4, NULL, NULL, f->config};
	const uint64_t bytes[] = {FAKE_BAR0_BYTES, 0, FAKE_BAR2_BYTES, 0, FAKE_BAR4_BYTES, 0, 0, sizeof(f->config)};

	assert_true(index < 8 && offset + n <= bytes[index]);
	return base[index] + offset;
}

static ssize_t fake_pread(void *opaque, int fd, void *bytes, size_t n, uint64_t at)
{
	memcpy(bytes, region(opaque, at, n), n);
	return (ssize_t)n;
}

static ssize_t fake_pwrite(void *opaque, int fd, const void *bytes, size_t n, uint64_t at)
{
	memcpy(region(opaque, at, n), bytes, n);
	return (ssize_t)n;
}

static void *fake_mmap(void *opaque, int fd, uint64_t at, uint64_t bytes)
{
	struct fake_vfio *f = opaque;

	if (at >> 40)
		return NULL;
	assert_true(at + bytes <= FAKE_BAR0_BYTES);
	f->maps++;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->bar0_fd, (off_t)at);
	return p == MAP_FAILED ? NULL : p;
}

static void fake_munmap(void *opaque, void *at, uint64_t bytes)
{
	((struct fake_vfio *)opaque)->maps--;
	munmap(at, bytes);
}

/* ---- ioctls ------------------------------------------------------------------------------------------------- */

static int set_irqs(struct fake_vfio *f, const struct vfio_irq_set *set)
{
	int32_t *const fds[] = {&f->intx, &f->msi, f->msix};
	const unsigned max[] = {1, 1, FAKE_VECTORS};
	const int32_t *given = (const void *)set->data;

	assert_true(set->index < 3 && set->start == 0 && set->count <= max[set->index]);
	if (set->flags & VFIO_IRQ_SET_ACTION_UNMASK) {
		assert_int_equal(set->index, 0);
		assert_int_not_equal(f->intx, -1);
		f->unmasks++;
		return 0;
	}
	assert_true(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER);
	/* The kernel refuses a second kind beside one that is on. */
	for (unsigned i = 0; i < 3; i++)
		if (i != set->index && set->count && fds[i][0] >= 0)
			return -EINVAL;
	if (f->vectors_left && set->count > f->vectors_left)
		return (int)f->vectors_left;
	for (unsigned i = 0; i < max[set->index]; i++)
		fds[set->index][i] = i < set->count ? given[i] : -1;
	note(f, "irqs %u: %u\n", set->index, set->count);
	return 0;
}

static int region_info(struct vfio_region_info *info)
{
	static const struct {
		uint64_t bytes;
		uint32_t flags;
	} regions[] = {[0] = {FAKE_BAR0_BYTES, VFIO_REGION_INFO_FLAG_MMAP}, [2] = {FAKE_BAR2_BYTES, 0}, [4] = {FAKE_BAR4_BYTES, 0}, [7] = {256, 0}};

	assert_true(info->argsz >= sizeof(*info));
	if (info->index >= 8)
		return -EINVAL;
	info->size = regions[info->index].bytes;
	info->offset = FAKE_REGION(info->index);
	info->flags = info->size ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | regions[info->index].flags : 0;
	return 0;
}

static int map_dma(struct fake_vfio *f, const struct vfio_iommu_type1_dma_map *map)
{
	unsigned n = 0;

	if (f->map_dma)
		return f->map_dma;
	while (n < 8 && f->dma[n].bytes)
		n++;
	assert_true(n < 8 && map->flags == (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE));
	f->dma[n].iova = map->iova;
	f->dma[n].bytes = map->size;
	f->dma[n].vaddr = map->vaddr;
	return 0;
}

static int fake_ioctl(void *opaque, int fd, unsigned long request, void *argument)
{
	struct fake_vfio *f = opaque;

	switch (request) {
	case VFIO_GET_API_VERSION: return VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION: return (uintptr_t)argument == VFIO_TYPE1v2_IOMMU && !f->no_type1;
	case VFIO_GROUP_GET_STATUS:
		((struct vfio_group_status *)argument)->flags = f->not_viable ? 0 : VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	case VFIO_GROUP_SET_CONTAINER: return f->set_container;
	case VFIO_SET_IOMMU: return f->set_iommu;
	case VFIO_GROUP_GET_DEVICE_FD: note(f, "device %s\n", (const char *)argument); return FAKE_DEVICE;
	case VFIO_IOMMU_MAP_DMA: return map_dma(f, argument);
	case VFIO_DEVICE_GET_INFO:
		((struct vfio_device_info *)argument)->flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
		return 0;
	case VFIO_DEVICE_RESET: f->resets++; return 0;
	case VFIO_DEVICE_GET_REGION_INFO: return region_info(argument);
	case VFIO_DEVICE_GET_IRQ_INFO: {
		struct vfio_irq_info *info = argument;
		info->count = info->index == VFIO_PCI_MSIX_IRQ_INDEX ? FAKE_VECTORS : info->index < 2;
		return 0;
	}
	case VFIO_DEVICE_SET_IRQS: return set_irqs(f, argument);
	default: fail_msg("ioctl 0x%lx is none we know", request);
	}
	return -ENOTTY;
}

/* ---- the device ------------------------------------------------------------------------------------------------- */

static void put16(uint8_t *at, unsigned v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

static void fill_config(uint8_t *c)
{
	put16(c, 0x8086);
	put16(c + 2, 0x10d3);
	put16(c + 6, 0x10);    /* capabilities */
	put16(c + 0x0a, 0x0200);
	c[0x0e] = 0x80;	       /* one of several functions */
	c[0x10] = 4;	       /* 64 bits */
	c[0x20] = 1;	       /* ports */
	put16(c + 0x2c, 0x8086);
	put16(c + 0x2e, 0xa01f);
	c[0x34] = 0xc8;
	c[0x3d] = 1;
	/* power management -> MSI -> PCI Express -> MSI-X */
	c[0xc8] = 1;
	c[0xc9] = 0xd0;
	c[0xd0] = 5;
	c[0xd1] = 0xe0;
	put16(c + 0xd2, 0x0180 | 0x06); /* 64 bits, masks, eight messages */
	c[0xe0] = 0x10;
	c[0xe1] = 0xa0;
	put16(c + 0xe2, 0x0001); /* an endpoint */
	put16(c + 0xec, 0x4811); /* its link */
	c[0xa0] = 0x11;
	put16(c + 0xa2, FAKE_VECTORS - 1);
	put16(c + 0xa4, FAKE_TABLE);
	put16(c + 0xa8, FAKE_PBA);
}

struct fake_vfio *fake_vfio_new(const char *name)
{
	struct fake_vfio *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->root, sizeof(f->root), "/tmp/trivisor-vfio.XXXXXX");
	assert_non_null(mkdtemp(f->root));
	unpack(f, name);
	f->host = (struct vfio_host){.sysfs = f->root,
				     .dev = "/dev",
				     .open = fake_open,
				     .close = fake_close,
				     .write = fake_write,
				     .pread = fake_pread,
				     .pwrite = fake_pwrite,
				     .ioctl = fake_ioctl,
				     .mmap = fake_mmap,
				     .munmap = fake_munmap,
				     .opaque = f};
	f->bar0_fd = memfd_create("bar0", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->bar0_fd, FAKE_BAR0_BYTES), 0);
	f->bar0 = mmap(NULL, FAKE_BAR0_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->bar0_fd, 0);
	assert_true(f->bar0 != MAP_FAILED);
	f->intx = f->msi = -1;
	for (unsigned i = 0; i < FAKE_VECTORS; i++)
		f->msix[i] = -1;
	fill_config(f->config);
	return f;
}

static int remove_one(const char *path, const struct stat *st, int what, struct FTW *where) { return remove(path); }

void fake_vfio_free(struct fake_vfio *f)
{
	assert_int_equal(f->maps, 0);
	munmap(f->bar0, FAKE_BAR0_BYTES);
	close(f->bar0_fd);
	nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
}
