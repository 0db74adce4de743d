/* Getting hold of devices: vfio-pci for a driver, a container with their groups, and descriptors of them; and back. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/vfio/vfio.h"

const unsigned long vfio_ioctls[] = {VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_RESET, VFIO_IOMMU_UNMAP_DMA, VFIO_GROUP_UNSET_CONTAINER, 0};

/* ---- the real host ------------------------------------------------------------------------------- */

static int linux_open(void *opaque, const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void linux_close(void *opaque, int fd) { close(fd); }

static ssize_t linux_write(void *opaque, int fd, const void *bytes, size_t n)
{
	ssize_t r = write(fd, bytes, n);

	return r < 0 ? -errno : r;
}

static ssize_t linux_pread(void *opaque, int fd, void *bytes, size_t n, uint64_t at)
{
	ssize_t r = pread(fd, bytes, n, (off_t)at);

	return r < 0 ? -errno : r;
}

static ssize_t linux_pwrite(void *opaque, int fd, const void *bytes, size_t n, uint64_t at)
{
	ssize_t r = pwrite(fd, bytes, n, (off_t)at);

	return r < 0 ? -errno : r;
}

static int linux_ioctl(void *opaque, int fd, unsigned long request, void *argument)
{
	int r = ioctl(fd, request, argument);

	return r < 0 ? -errno : r;
}

static void *linux_mmap(void *opaque, int fd, uint64_t at, uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at);

	return p == MAP_FAILED ? NULL : p;
}

static void linux_munmap(void *opaque, void *at, uint64_t bytes) { munmap(at, bytes); }

const struct vfio_host vfio_linux = {
	.sysfs = "/sys",
	.dev = "/dev",
	.open = linux_open,
	.close = linux_close,
	.write = linux_write,
	.pread = linux_pread,
	.pwrite = linux_pwrite,
	.ioctl = linux_ioctl,
	.mmap = linux_mmap,
	.munmap = linux_munmap,
};

/* ---- drivers ----------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static int open_attribute(const struct vfio_host *host, const char *format, ...)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/bus/pci/", host->sysfs);
	va_list args;

	va_start(args, format);
	vsnprintf(path + n, sizeof(path) - (size_t)n, format, args);
	va_end(args);
	return host->open(host->opaque, path, O_WRONLY);
}

static int put(const struct vfio_host *host, int fd, const char *text)
{
	ssize_t n = host->write(host->opaque, fd, text, strlen(text));

	return n < 0 ? (int)n : 0;
}

static void shut(const struct vfio_host *host, int *fd)
{
	if (*fd >= 0)
		host->close(host->opaque, *fd);
	*fd = -1;
}

static int say_bind(const struct vfio_claimed *d, int rc, char *ret_error)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", d->found.address);
	if (rc == -EACCES || rc == -EPERM)
		return vfio_refuse(ret_error, rc, "PCI device %s has driver %s, and giving it to vfio-pci needs root: as root, echo vfio-pci > "
			      "%.80s, then unbind it and echo %s > /sys/bus/pci/drivers_probe", d->found.address,
			      d->found.driver[0] ? d->found.driver : "(none)", path, d->found.address);
	return vfio_refuse(ret_error, rc, "PCI device %s cannot be given to vfio-pci: %s", d->found.address, strerror(-rc));
}

/* Takes the device from its driver, if it has one, and gives it to the one that driver_override names. */
static int rebind(const struct vfio_host *host, struct vfio_claimed *d, int unbind_fd, const char *override, bool probe)
{
	int rc = put(host, d->override_fd, override);

	d->taken |= rc == 0;
	if (!rc && unbind_fd >= 0)
		rc = put(host, unbind_fd, d->found.address);
	return rc || !probe ? rc : put(host, d->probe_fd, d->found.address);
}

static int bind_vfio(const struct vfio_host *host, struct vfio_claimed *d, char *ret_error)
{
	char path[PATH_MAX], now[64];
	int old = -1, rc = 0;

	if (!strncmp(d->found.driver, "vfio-", 5))
		return 0;
	snprintf(path, sizeof(path), "%s/bus/pci/drivers/vfio-pci", host->sysfs);
	if (access(path, F_OK) < 0)
		return vfio_refuse(ret_error, -ENOENT, "PCI device %s needs the host's driver vfio-pci, which is not loaded: modprobe vfio-pci",
			      d->found.address);
	d->override_fd = open_attribute(host, "devices/%s/driver_override", d->found.address);
	d->probe_fd = open_attribute(host, "drivers_probe");
	d->unbind_fd = open_attribute(host, "drivers/vfio-pci/unbind");
	if (d->found.driver[0])
		old = open_attribute(host, "drivers/%s/unbind", d->found.driver);
	if (d->override_fd < 0 || d->probe_fd < 0 || d->unbind_fd < 0 || (d->found.driver[0] && old < 0))
		rc = d->override_fd < 0 ? d->override_fd : d->probe_fd < 0 ? d->probe_fd : d->unbind_fd < 0 ? d->unbind_fd : old;
	else
		rc = rebind(host, d, old, "vfio-pci", true);
	shut(host, &old);
	if (rc)
		return say_bind(d, rc, ret_error);
	vfio_driver(host, d->found.address, now, sizeof(now));
	if (strncmp(now, "vfio-", 5))
		return vfio_refuse(ret_error, -EIO, "PCI device %s was given to vfio-pci, which did not take it (driver now: %s): the host's dmesg "
			      "says why", d->found.address, now[0] ? now : "none");
	return 0;
}

/* Its driver gets it back. What fails here fails for the host's administrator to see: nobody else is left. */
static void give_back(const struct vfio_host *host, struct vfio_claimed *d)
{
	char now[64];

	if (!d->taken)
		return;
	vfio_driver(host, d->found.address, now, sizeof(now));
	int rc = rebind(host, d, !strncmp(now, "vfio-", 5) ? d->unbind_fd : -1, "\n", d->found.driver[0]);
	if (rc)
		fprintf(stderr, "PCI device %s does not go back to driver %s: %s\n", d->found.address, d->found.driver[0] ? d->found.driver : "(none)", strerror(-rc));
}

/* ---- container, groups, devices --------------------------------------------------------------------------- */

static int open_container(struct vfio_claim *claim, char *ret_error)
{
	const struct vfio_host *host = claim->host;
	char path[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "%s/vfio/vfio", host->dev);
	r = host->open(host->opaque, path, O_RDWR);
	if (r < 0)
		return vfio_refuse(ret_error, r, "%s cannot be opened: %s%s", path, strerror(-r),
			      r == -ENOENT ? "; modprobe vfio-pci, and in a container pass /dev/vfio in" : "");
	claim->container = r;
	r = host->ioctl(host->opaque, claim->container, VFIO_GET_API_VERSION, NULL);
	if (r != VFIO_API_VERSION)
		return vfio_refuse(ret_error, -ENOTSUP, "VFIO speaks API version %d, not %d", r, VFIO_API_VERSION);
	if (host->ioctl(host->opaque, claim->container, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU) <= 0)
		return vfio_refuse(ret_error, -ENOTSUP, "VFIO has no IOMMU of type 1 version 2: modprobe vfio_iommu_type1 (Linux 4.0 or later)");
	return 0;
}

static int open_group(struct vfio_claim *claim, const struct vfio_found *found, struct vfio_group **ret_group, char *ret_error)
{
	const struct vfio_host *host = claim->host;
	struct vfio_group_status status = {.argsz = sizeof(status)};
	struct vfio_group *g = &claim->group[claim->groups];
	char path[PATH_MAX];
	int r;

	for (unsigned i = 0; i < claim->groups; i++)
		if (claim->group[i].number == found->group) {
			*ret_group = &claim->group[i];
			return 0;
		}
	snprintf(path, sizeof(path), "%s/vfio/%u", host->dev, found->group);
	r = host->open(host->opaque, path, O_RDWR);
	if (r < 0)
		return vfio_refuse(ret_error, r, "%s, the IOMMU group of PCI device %s, cannot be opened: %s%s", path, found->address, strerror(-r),
			      r == -EBUSY                   ? "; another VM has a device of it"
			      : r == -EACCES || r == -EPERM ? "; give it to the daemon's user"
							    : "");
	g->number = found->group;
	g->fd = r;
	claim->groups++;
	r = host->ioctl(host->opaque, g->fd, VFIO_GROUP_GET_STATUS, &status);
	if (r < 0 || !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return vfio_refuse(ret_error, r < 0 ? r : -EBUSY, "IOMMU group %u of PCI device %s is not viable: all of its devices need driver "
			      "vfio-pci, or none (ls /sys/kernel/iommu_groups/%u/devices)", g->number, found->address, g->number);
	r = host->ioctl(host->opaque, g->fd, VFIO_GROUP_SET_CONTAINER, &claim->container);
	if (r >= 0 && claim->groups == 1)
		r = host->ioctl(host->opaque, claim->container, VFIO_SET_IOMMU, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU);
	if (r == -EPERM)
		return vfio_refuse(ret_error, r, "this host's IOMMU does not remap interrupts, so PCI device %s could raise any: enable it in the "
			      "firmware's setup (or, at your own risk, vfio_iommu_type1 allow_unsafe_interrupts=1)", found->address);
	if (r < 0)
		return vfio_refuse(ret_error, r, "IOMMU group %u of PCI device %s: %s", g->number, found->address, strerror(-r));
	*ret_group = g;
	return 0;
}

static int open_device(struct vfio_claim *claim, struct vfio_claimed *d, char *ret_error)
{
	const struct vfio_host *host = claim->host;
	struct vfio_group *g;
	int rc = open_group(claim, &d->found, &g, ret_error);

	if (rc)
		return rc;
	rc = host->ioctl(host->opaque, g->fd, VFIO_GROUP_GET_DEVICE_FD, d->found.address);
	if (rc < 0)
		return vfio_refuse(ret_error, rc, "PCI device %s is not given out by VFIO: %s", d->found.address, strerror(-rc));
	d->fd = rc;
	return 0;
}

void vfio_claim_destroy(struct vfio_claim *claim)
{
	if (!claim)
		return;
	const struct vfio_host *host = claim->host;
	for (unsigned i = 0; i < claim->devices; i++)
		shut(host, &claim->device[i].fd);
	for (unsigned i = 0; i < claim->groups; i++)
		shut(host, &claim->group[i].fd);
	shut(host, &claim->container);
	/* A driver takes a device only once nobody holds its group. */
	for (unsigned i = 0; i < claim->devices; i++) {
		struct vfio_claimed *d = &claim->device[i];

		give_back(host, d);
		shut(host, &d->override_fd);
		shut(host, &d->unbind_fd);
		shut(host, &d->probe_fd);
	}
	free(claim);
}

int vfio_claim_create(const struct vfio_host *host, const char *const *addresses, unsigned count, struct vfio_claim **ret_claim,
		      char *ret_error)
{
	char all[VFIO_DEVICES_MAX][PCI_ADDRESS_BYTES];
	struct vfio_claim *claim;
	int rc = 0;

	if (count > VFIO_DEVICES_MAX)
		return vfio_refuse(ret_error, -EINVAL, "%u devices are too many to pass through; at most %d", count, VFIO_DEVICES_MAX);
	for (unsigned i = 0; i < count; i++)
		if (!pci_address_parse(addresses[i], all[i]))
			return vfio_refuse(ret_error, -EINVAL, "\"%.40s\" is no PCI address such as 0000:03:00.0", addresses[i]);
	claim = calloc(1, sizeof(*claim));
	if (!claim)
		return vfio_refuse(ret_error, -ENOMEM, "out of memory");
	claim->host = host;
	claim->container = -1;
	/* All are looked at before anything is touched. */
	for (unsigned i = 0; i < count && !rc; i++) {
		struct vfio_claimed *d = &claim->device[i];

		*d = (struct vfio_claimed){.fd = -1, .override_fd = -1, .unbind_fd = -1, .probe_fd = -1};
		rc = vfio_find(host, all[i], all, count, &d->found, ret_error);
	}
	for (unsigned i = 0; i < count && !rc; i++) {
		claim->devices++;
		rc = bind_vfio(host, &claim->device[i], ret_error);
	}
	if (!rc)
		rc = open_container(claim, ret_error);
	for (unsigned i = 0; i < count && !rc; i++)
		rc = open_device(claim, &claim->device[i], ret_error);
	if (rc) {
		vfio_claim_destroy(claim);
		return rc;
	}
	*ret_claim = claim;
	return 0;
}
