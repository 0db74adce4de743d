/* A host for VFIO's users that is all make-believe: a recorded sysfs, and a kernel with one group and one device. */
#ifndef TESTS_UNIT_FAKE_VFIO_H
#define TESTS_UNIT_FAKE_VFIO_H

#include "machine/vfio/vfio.h"

#define FAKE_CONTAINER 1000
#define FAKE_GROUP 1001 /* + index of the group's number in groups[] */
#define FAKE_DEVICE 1100
#define FAKE_BAR0_BYTES 0x5000ull /* odd on purpose: its window is rounded up */
#define FAKE_BAR2_BYTES 256u
#define FAKE_BAR4_BYTES 32u
#define FAKE_TABLE 0x2000u /* MSI-X, in BAR 0; the pending bits behind it */
#define FAKE_PBA 0x2800u
#define FAKE_VECTORS 4u
#define FAKE_REGION(n) ((uint64_t)(n) << 40)

struct fake_vfio {
	struct vfio_host host;
	char root[64];
	char log[8192]; /* what was asked of the kernel, a line each */
	/* errors to give: -errno */
	int open_container, open_group, set_container, set_iommu, map_dma, deny_writes;
	bool not_viable, no_type1, refuse_bind;
	int override_fd[8];
	char attribute[64][128]; /* path of each attribute file that is open, by descriptor */

	uint8_t config[256];
	uint8_t bar2[FAKE_BAR2_BYTES], bar4[FAKE_BAR4_BYTES];
	uint8_t *bar0;
	int bar0_fd;
	int32_t intx, msi, msix[FAKE_VECTORS]; /* eventfds; -1: off */
	unsigned unmasks, resets, maps;
	struct {
		uint64_t iova, bytes, vaddr;
	} dma[8];
	unsigned vectors_left; /* 0: enough */
};

/* Unpacks the recording tests/vfio/NAME.tree under a new directory. Ends the test when it cannot. */
struct fake_vfio *fake_vfio_new(const char *name);
void fake_vfio_free(struct fake_vfio *f);

#endif
