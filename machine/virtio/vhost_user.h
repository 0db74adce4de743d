/*
 * The front end of vhost-user (QEMU's docs/interop/vhost-user.rst): a server in another process does a device's work in rings
 * that it shares with us. These rings are our own, not the guest's: requests are copied from those into these once they have been
 * checked, so the server sees no ring that a guest has written, and the engine hears of everything that the server writes to RAM.
 */
#ifndef MACHINE_VIRTIO_VHOST_USER_H
#define MACHINE_VIRTIO_VHOST_USER_H

#include "machine/virtio/virtio.h"

#define VHOST_RING 1024u /* descriptors of a ring of ours */
#define VHOST_QUEUES 2u
#define VHOST_COPY_BYTES 8192u /* of a request's readable part that the server is to see as we have seen it */
#define VHOST_COPIES 256u

/* A request that is with the server, by its first descriptor. */
struct vhost_slot {
	struct virtio_request *request; /* NULL: free, or one of our own */
	uint16_t descriptors;
	bool used, own;
	uint16_t copy; /* 1 + the number of its copy; 0: none */
};

struct vhost_ring {
	uint8_t *host; /* the descriptor table, the available ring, the used ring */
	uint16_t next_avail, next_used;
	uint16_t free_head, free_count;
	uint16_t next_free[VHOST_RING];
	struct vhost_slot slot[VHOST_RING];
	unsigned under_way;
	int kick, call; /* eventfds */
};

struct vhost_user {
	int socket; /* owned */
	struct machine *machine;
	int memory; /* memfd with the rings and the copies */
	uint8_t *host;
	gpa_t gpa; /* where the server thinks that it is: behind RAM */
	struct vhost_ring ring[VHOST_QUEUES];
	uint16_t copy_free[VHOST_COPIES], copies_free;
	bool dead; /* the server has gone */
};

/*
 * Talks to the server at the other end of `socket` (which is taken over), gives it the guest's memory and the rings. 0 or -errno
 * (-EPROTO: it does not speak as it should, -ECONNRESET: it has ended). Blocks.
 */
int vhost_user_init(struct vhost_user *vhost, struct machine *machine, int socket);
void vhost_user_finish(struct vhost_user *vhost);

/* ---- on the device's worker ---- */

/* Whether vhost_user_put has room for any request. */
bool vhost_user_has_room(const struct vhost_user *vhost, unsigned queue);
/*
 * Hands a request over. `copied`: of its readable part the server sees these bytes (at most VHOST_COPY_BYTES, and all there are),
 * not the guest's buffers; NULL: the buffers.
 */
void vhost_user_put(struct vhost_user *vhost, unsigned queue, struct virtio_request *request, const void *copied);
/* A request of our own, whose answer of at most n bytes is of no interest. */
void vhost_user_put_own(struct vhost_user *vhost, unsigned queue, const void *bytes, size_t n, size_t answer);
/* Tells the server of what was put. */
void vhost_user_kick(struct vhost_user *vhost, unsigned queue);
/* The next request that it has done, to be completed, and how many bytes it wrote; NULL: none. */
struct virtio_request *vhost_user_take(struct vhost_user *vhost, unsigned queue, uint32_t *ret_written);
/* The server has gone: the next request that it will never do; NULL: none. */
struct virtio_request *vhost_user_abandon(struct vhost_user *vhost, unsigned queue);

#endif
