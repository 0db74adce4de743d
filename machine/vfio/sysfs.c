/* Which PCI devices of the host may be passed through, by what sysfs tells. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/vfio/vfio.h"

#define CLASS_STORAGE 0x01u
#define CLASS_BRIDGE 0x06u

int vfio_refuse(char *ret_error, int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret_error, VFIO_ERROR_BYTES, format, args);
	va_end(args);
	return rc;
}

static void device_path(const struct vfio_host *host, const char *address, const char *name, char *ret_path)
{
	snprintf(ret_path, PATH_MAX, "%s/bus/pci/devices/%s/%s", host->sysfs, address, name);
}

/* A link's last component; false: there is none. */
static bool link_name(const char *path, char *ret_name, size_t bytes)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	const char *slash = strrchr(target, '/');
	snprintf(ret_name, bytes, "%s", slash ? slash + 1 : target);
	return true;
}

void vfio_driver(const struct vfio_host *host, const char *address, char *ret_driver, size_t bytes)
{
	char path[PATH_MAX];

	device_path(host, address, "driver", path);
	if (!link_name(path, ret_driver, bytes))
		ret_driver[0] = '\0';
}

/* Base class << 16 | subclass << 8 | interface; 0: not told. */
static unsigned class_of(const struct vfio_host *host, const char *address)
{
	char path[PATH_MAX], text[32] = "";
	int fd;

	device_path(host, address, "class", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? (unsigned)strtoul(text, NULL, 0) : 0;
}

static bool any_entry(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)) && entry->d_name[0] == '.')
		;
	bool any = dir && entry;
	if (dir)
		closedir(dir);
	return any;
}

static int refuse_no_iommu(const struct vfio_host *host, const char *address, char *ret_error)
{
	char units[PATH_MAX];

	snprintf(units, sizeof(units), "%s/class/iommu", host->sysfs);
	if (any_entry(units))
		return vfio_refuse(ret_error, -ENODEV, "PCI device %s stands behind no IOMMU: put it into a slot that does, or boot with "
			      "intel_iommu=on or amd_iommu=on", address);
	return vfio_refuse(ret_error, -ENODEV, "this host has no IOMMU in use, so PCI device %s could reach all of its memory: enable VT-d or "
		      "AMD-Vi in the firmware's setup and boot with intel_iommu=on or amd_iommu=on; in a VM, ask for a virtual "
		      "IOMMU", address);
}

static bool is_listed(const char *address, char (*all)[PCI_ADDRESS_BYTES], unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(address, all[i]))
			return true;
	return false;
}

/* What VFIO itself lets stand beside a device that a user has: its own drivers, none, and bridges' (they do no DMA). */
static bool is_harmless(const struct vfio_host *host, const char *address, const char *driver)
{
	return !driver[0] || !strncmp(driver, "vfio-", 5) || !strcmp(driver, "pci-stub") || !strcmp(driver, "pcieport") ||
	       class_of(host, address) >> 16 == CLASS_BRIDGE;
}

static int check_group(const struct vfio_host *host, const struct vfio_found *found, char (*all)[PCI_ADDRESS_BYTES], unsigned count,
		       char *ret_error)
{
	char path[PATH_MAX];
	const struct dirent *entry;
	int rc = 0;

	snprintf(path, sizeof(path), "%s/kernel/iommu_groups/%u/devices", host->sysfs, found->group);
	DIR *dir = opendir(path);
	if (!dir)
		return vfio_refuse(ret_error, -errno, "%.200s: %s", path, strerror(errno));
	while (!rc && (entry = readdir(dir))) {
		char driver[64];

		if (entry->d_name[0] == '.' || is_listed(entry->d_name, all, count))
			continue;
		vfio_driver(host, entry->d_name, driver, sizeof(driver));
		if (!is_harmless(host, entry->d_name, driver))
			rc = vfio_refuse(ret_error, -EBUSY,
				    "PCI device %s shares IOMMU group %u with %.20s, which the host uses (driver %s): pass that through "
				    "to this VM too, take its driver away, or use a slot with ACS", found->address, found->group,
				    entry->d_name, driver);
	}
	closedir(dir);
	return rc;
}

/* The name of a network interface of the device that is up; false: none. */
static bool network_up(const struct vfio_host *host, const char *address, char *ret_name, size_t bytes)
{
	char path[PATH_MAX];
	const struct dirent *entry;
	bool up = false;

	device_path(host, address, "net", path);
	DIR *dir = opendir(path);
	while (dir && !up && (entry = readdir(dir))) {
		char file[PATH_MAX], state[8] = "";

		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%.*s/%s/operstate", PATH_MAX - 300, path, entry->d_name);
		int fd = open(file, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			up = read(fd, state, sizeof(state) - 1) > 0 && !strncmp(state, "up", 2);
			close(fd);
		}
		snprintf(ret_name, bytes, "%s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return up;
}

/* Not pulled from under the host's feet. */
static int check_unused(const struct vfio_host *host, const struct vfio_found *found, char *ret_error)
{
	char name[256];

	if (!strncmp(found->driver, "vfio-", 5) || !found->driver[0])
		return 0;
	if (network_up(host, found->address, name, sizeof(name)))
		return vfio_refuse(ret_error, -EBUSY, "PCI device %s is the host's network interface %.32s, which is up: take it down first "
			      "(ip link set %.32s down)", found->address, name, name);
	if (class_of(host, found->address) >> 16 == CLASS_STORAGE)
		return vfio_refuse(ret_error, -EBUSY, "PCI device %s is a storage controller of this host (driver %s): unmount what is on it, "
			      "and take the driver away (echo %s > /sys/bus/pci/drivers/%s/unbind)", found->address,
			      found->driver, found->address, found->driver);
	return 0;
}

int vfio_find(const struct vfio_host *host, const char *address, char (*all)[PCI_ADDRESS_BYTES], unsigned count,
	      struct vfio_found *ret_found, char *ret_error)
{
	struct vfio_found found = {0};
	char path[PATH_MAX], group[32];
	char *end;
	int rc;

	snprintf(found.address, sizeof(found.address), "%s", address);
	device_path(host, address, "", path);
	if (access(path, F_OK) < 0)
		return vfio_refuse(ret_error, -ENODEV, "there is no PCI device %s: lspci -D lists what there is", address);
	if (class_of(host, address) >> 16 == CLASS_BRIDGE)
		return vfio_refuse(ret_error, -EINVAL, "PCI device %s is a bridge: name the devices behind it", address);
	device_path(host, address, "iommu_group", path);
	if (!link_name(path, group, sizeof(group)))
		return refuse_no_iommu(host, address, ret_error);
	found.group = (unsigned)strtoul(group, &end, 10);
	if (*end || end == group)
		return vfio_refuse(ret_error, -EIO, "PCI device %s: \"%s\" is no number of an IOMMU group", address, group);
	vfio_driver(host, address, found.driver, sizeof(found.driver));
	rc = check_group(host, &found, all, count, ret_error);
	if (!rc)
		rc = check_unused(host, &found, ret_error);
	if (!rc)
		*ret_found = found;
	return rc;
}
