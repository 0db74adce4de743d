/*
 * Passing PCI devices of the host through to the guest: which may be (sysfs), getting hold of them (VFIO's container,
 * groups and devices), and what the guest sees of them. Kernel ABI: <linux/vfio.h>.
 */
#ifndef MACHINE_VFIO_VFIO_H
#define MACHINE_VFIO_VFIO_H

#include <linux/vfio.h>
#include <sys/types.h>

#include "machine/types.h"
#include "proto/pci_address.h"

#define VFIO_DEVICES_MAX 8
#define VFIO_ERROR_BYTES 440

/* The host, so that tests can bring their own. open, read-like calls and ioctl are -errno or a result, as in the kernel. */
struct vfio_host {
	const char *sysfs; /* "/sys" */
	const char *dev;   /* "/dev" */
	int (*open)(void *opaque, const char *path, int flags);
	void (*close)(void *opaque, int fd);
	ssize_t (*write)(void *opaque, int fd, const void *bytes, size_t n);
	ssize_t (*pread)(void *opaque, int fd, void *bytes, size_t n, uint64_t at);
	ssize_t (*pwrite)(void *opaque, int fd, const void *bytes, size_t n, uint64_t at);
	int (*ioctl)(void *opaque, int fd, unsigned long request, void *argument);
	/* Readable and writable, shared; NULL: it cannot be mapped. */
	void *(*mmap)(void *opaque, int fd, uint64_t at, uint64_t bytes);
	void (*munmap)(void *opaque, void *at, uint64_t bytes);
	void *opaque;
};
extern const struct vfio_host vfio_linux;

/* Fills ret_error; rc. */
int vfio_refuse(char *ret_error, int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- sysfs.c: what is there ---- */

struct vfio_found {
	char address[PCI_ADDRESS_BYTES];
	unsigned group;
	char driver[64]; /* of the host, now; "": none */
};

/*
 * Whether the device may be passed through: it is there, an IOMMU stands before it, nothing else in its group is in the
 * host's use, and it is not itself. `all`: what goes to this VM. 0; -errno with the reason and the remedy in ret_error.
 */
int vfio_find(const struct vfio_host *host, const char *address, char (*all)[PCI_ADDRESS_BYTES], unsigned count,
	      struct vfio_found *ret_found, char *ret_error);
/* The driver a device has, "" for none. */
void vfio_driver(const struct vfio_host *host, const char *address, char *ret_driver, size_t bytes);

/* ---- claim.c: getting hold of them ---- */

struct vfio_group {
	unsigned number;
	int fd;
};

struct vfio_claimed {
	struct vfio_found found; /* its driver: before we took it */
	int fd;
	bool taken; /* from the driver it had, or from none */
	/* To give it back: open while files still may be. -1: it was ours already */
	int override_fd, unbind_fd, probe_fd;
};

struct vfio_claim {
	const struct vfio_host *host;
	int container;
	struct vfio_group group[VFIO_DEVICES_MAX];
	unsigned groups;
	struct vfio_claimed device[VFIO_DEVICES_MAX];
	unsigned devices;
	bool ram_mapped; /* for their DMA */
};

/*
 * Binds the devices to vfio-pci, opens their groups into one container, and them. Before the sandbox. 0; -errno with what
 * and why in ret_error (VFIO_ERROR_BYTES), and everything is as it was. NULL may be destroyed, after the machine that
 * uses it: their drivers get them back.
 */
int vfio_claim_create(const struct vfio_host *host, const char *const *addresses, unsigned count, struct vfio_claim **ret_claim,
		      char *ret_error);
void vfio_claim_destroy(struct vfio_claim *claim);

/* What is asked of VFIO once the guest runs, for the sandbox; ends with 0. */
extern const unsigned long vfio_ioctls[];

/* ---- device.c ---- */

struct machine;

/*
 * Puts device `index` of the claim on the PCI bus, before boot; with the first one, the guest's RAM becomes what the
 * devices see. The claim outlives the machine. 0; -errno with the reason in ret_error.
 */
int vfio_device_add(struct machine *machine, struct vfio_claim *claim, unsigned index, char *ret_error);

#endif
