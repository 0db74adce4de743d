/*
 * What a NIC's frames go to and come from: libslirp, a port of a virtual switch, a tap, several uplinks as one.
 *
 * A back end lives on its NIC's thread, which polls for it: nothing here needs a lock, but where it is said.
 */
#ifndef MACHINE_NET_NET_H
#define MACHINE_NET_NET_H

#include <linux/virtio_net.h>
#include <poll.h>

#include "machine/types.h"

#define NET_MAC_BYTES 6
/* An Ethernet frame with the largest IP packet in it, and a VLAN tag. */
#define NET_FRAME_MAX (14 + 4 + 65535)
#define NET_MTU_MAX 65520u

/* What is delivered to: the NIC. Called on its thread. */
struct net_nic;
struct net_nic_ops {
	/* A frame for the guest. It is copied, now or never: what finds no buffer waits in a bounded queue, or is dropped. */
	void (*deliver)(struct net_nic *nic, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
	/* The link's state changed: the guest is told. */
	void (*link)(struct net_nic *nic, bool up);
	/* Frames reach others by another way now: whoever learned the guest's addresses is to learn them anew. */
	void (*moved)(struct net_nic *nic);
};
struct net_nic {
	const struct net_nic_ops *ops;
	uint8_t mac[NET_MAC_BYTES]; /* as the guest has set it */
};

/* What to wait for, filled anew each time. */
#define NET_POLL_MAX 1024
struct net_poll {
	struct pollfd fds[NET_POLL_MAX];
	unsigned count;
	int timeout_ms; /* -1: for ever */
};
/* The place of the entry, or -1 when there is no more room. */
static inline int net_poll_add(struct net_poll *poll, int fd, short events)
{
	if (poll->count == NET_POLL_MAX)
		return -1;
	poll->fds[poll->count] = (struct pollfd){.fd = fd, .events = events};
	return (int)poll->count++;
}

struct net_backend {
	const struct net_backend_ops *ops;
	struct net_nic *nic;
	bool offloads; /* it takes frames with checksums to be completed and TCP segments to be cut; else it gets neither */
	unsigned mtu;  /* what it can carry */
	bool link_up;  /* when the guest starts */
	bool blocked;  /* it has no room: nothing is to be transmitted until it says otherwise */
	_Atomic uint32_t leased; /* the IPv4 address that the guest has got from its DHCP server; 0: none. Any thread reads it */
};

struct net_backend_ops {
	const char *name;
	/* A frame of the guest, in memory of ours; the header says what is left to do with it. */
	void (*transmit)(struct net_backend *be, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
	/* Adds what it waits for. can_receive false: the guest has no room, so frames are better left where they are. */
	void (*poll_fill)(struct net_backend *be, struct net_poll *poll, bool can_receive);
	/* Looks at the entries it added, and delivers what has come. */
	void (*poll_done)(struct net_backend *be, struct net_poll *poll);
	/* The guest's NIC has another address now. Optional. */
	void (*set_mac)(struct net_backend *be, const uint8_t *mac);
	void (*destroy)(struct net_backend *be);
};

/* ---- offload.c: what a network card would do with a frame ----------------------------- */

/*
 * Whether the header describes this frame and asks for nothing but a checksum to be completed or TCP to be cut. What
 * passes is safe for the two functions below.
 */
bool net_header_valid(const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
/* Completes the checksum that the header asks for. The frame is changed; the header asks no more. */
void net_checksum(struct virtio_net_hdr *header, uint8_t *frame, size_t n);
/*
 * Cuts a large TCP segment into frames with complete checksums and calls fn for each, with a frame of `scratch`
 * (NET_FRAME_MAX bytes). False, and nothing was done: it is none that could be cut.
 */
bool net_segment(const struct virtio_net_hdr *header, const uint8_t *frame, size_t n, uint8_t *scratch,
		 void (*fn)(void *opaque, const uint8_t *frame, size_t n), void *opaque);

/* ---- rate.c: a token bucket ---------------------------------------------------------- */

struct net_rate {
	uint64_t bytes_per_second; /* 0: no limit */
	uint64_t burst;            /* bytes that may come at once */
	int64_t tokens;            /* bytes; negative: in debt */
	uint64_t at_ns;
};
/* burst 0: what the rate gives in 50 ms, and no less than the largest frame. */
void net_rate_set(struct net_rate *rate, uint64_t bytes_per_second, uint64_t burst, uint64_t now_ns);
/* Whether anything may pass now; otherwise *ret_wait_ms, at least 1, is how long not. */
bool net_rate_ready(struct net_rate *rate, uint64_t now_ns, int *ret_wait_ms);
void net_rate_take(struct net_rate *rate, uint64_t bytes);

/* ---- the back ends: 0, or -errno and *ret_error (static or thread-local) names the thing and the remedy ------- */

struct machine_nic;
int net_user_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error);
int net_team_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error);
/* Takes nic->fd over, on success. */
int net_port_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error);

#endif
