/* What a kernel's ELF file says of itself to a Xen domain builder: ELF notes, or the older __xen_guest section. */
#ifndef PV_IMAGE_H
#define PV_IMAGE_H

#include "machine/types.h"

#define PV_IMAGE_SEGMENTS 16

struct pv_image {
	bool legacy; /* it has no notes, but a __xen_guest section */
	gva_t virt_base;
	uint64_t paddr_offset; /* a segment at physical address p lies at virt_base + p - paddr_offset */
	gva_t entry;
	gva_t hypercall_page; /* 0: it wants none */
	gva_t init_p2m;       /* 0: the list of its frames lies behind the kernel */
	gva_t hv_start_low;
	bool mod_start_pfn;   /* start_info names the module by its frame, and it need not be mapped */
	char os[32], os_version[32], loader[16], features[128];
	struct pv_segment {
		uint64_t offset, filesz, memsz; /* in the file, checked */
		gva_t gva;
	} segment[PV_IMAGE_SEGMENTS];
	unsigned segments;
	gva_t start, end; /* of all segments */
};

/* 0, or -ENOEXEC and -EINVAL with a sentence in ret_why. `data` is borrowed during the call. */
int pv_image_parse(const uint8_t *data, size_t n, struct pv_image *ret_image, char *ret_why, size_t why_bytes);

#endif
