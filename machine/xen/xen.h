/*
 * Xen's paravirtual devices: back ends for the block and network front ends of a PV domain. They are the machine's, as
 * virtio's are; what they need of the domain (granted pages, event channels, the store) an engine gives them when the guest
 * boots. They know nothing else of it.
 */
#ifndef MACHINE_XEN_XEN_H
#define MACHINE_XEN_XEN_H

#include "machine/types.h"

struct machine;

#define XEN_FRONT_DOMAIN 1u
#define XEN_PAGE 4096u

/* A page that the guest has granted, while it is in use. */
struct xen_page {
	uint8_t *host;
	gpa_t gpa;
	uint32_t reference;
	bool writable;
};

/* Any thread, no lock held; not on a vCPU's thread in translated code. */
struct xen_host {
	void *opaque;
	/*
	 * The page of this grant reference, the guest's word having been checked: it is its own memory, granted to us, for
	 * writing if asked so, and not a page table. It stays that until unmap. 0, or -EINVAL: no such grant; -ENOSPC: too often.
	 */
	int (*map)(void *opaque, uint32_t reference, bool write, struct xen_page *ret_page);
	/* It was written to: the engine forgets code that it translated from there. */
	void (*written)(void *opaque, const struct xen_page *page);
	void (*unmap)(void *opaque, const struct xen_page *page);
	/*
	 * Connects to a port that the guest has left unbound for us; notify is then called when it sends, on any thread, and is to
	 * do little. -EINVAL: there is no such port. The guest may close it at any time: then nothing more is heard of it.
	 */
	int (*bind)(void *opaque, uint32_t port, void (*notify)(void *opaque), void *notify_opaque);
	/* notify may still be called by who is sending just now: its opaque is the device, which outlives the engine. */
	void (*unbind)(void *opaque, uint32_t port, void *notify_opaque);
	/* An event for the guest, if the port is still what was bound. */
	void (*raise)(void *opaque, uint32_t port, void *notify_opaque);
	/* The store. guest_owns: the node is the guest's to write; else it may read it. */
	int (*set)(void *opaque, const char *path, bool guest_owns, const char *value);
	/* A copy (free), NULL: there is none. */
	char *(*get)(void *opaque, const char *path);
	/* fn is called, with no lock held, after changes at or below path. Until the next machine_xen_start. */
	int (*watch)(void *opaque, const char *path, void (*fn)(void *opaque, const char *path), void *fn_opaque);
};

/*
 * All of the machine's Xen devices appear in the store, and wait for their front ends. At each start of the guest, before it
 * runs; the machine was made or reset before. `host` is copied. 0 or -errno.
 */
int machine_xen_start(struct machine *machine, const struct xen_host *host);

#endif
