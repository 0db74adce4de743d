/* Inside virtio-net: the device's state, shared by its files only. */
#ifndef MACHINE_VIRTIO_NET_H
#define MACHINE_VIRTIO_NET_H

#include "machine/net/net.h"
#include "machine/virtio/virtio.h"

enum net_queue { NET_RX, NET_TX, NET_CONTROL, NET_QUEUES };

#define NET_FILTER_MAX 64 /* addresses in a table; beyond, all pass */
#define NET_FRAMES_BEHIND_MAX 1024
#define NET_BYTES_BEHIND_MAX (4u << 20)
#define NET_NAME_BYTES 40

/* Which frames the driver wants (virtio 1.2, 5.1.6.5.1 and .2). Under dev.lock. */
struct net_filter {
	bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
	bool unicast_overflow, multicast_overflow;
	unsigned unicast_count, multicast_count;
	uint8_t unicast[NET_FILTER_MAX][NET_MAC_BYTES], multicast[NET_FILTER_MAX][NET_MAC_BYTES];
};

/* A frame that waits for a buffer of the guest, or for its turn at the rate. */
struct net_waiting {
	struct net_waiting *next;
	struct virtio_net_hdr header;
	size_t n;
	uint8_t frame[];
};

enum net_count {
	NET_RX_FRAMES,
	NET_RX_BYTES,
	NET_RX_DROPPED,
	NET_TX_FRAMES,
	NET_TX_BYTES,
	NET_TX_DROPPED,
	NET_TX_ERRORS, /* what the driver asked for made no sense */
	NET_ADDRESS, /* no counter: the IPv4 address that DHCP gave, as a number */
	NET_TX_SPOOFED, /* from an address that is not its own, and was to be */
	NET_COUNTS
};

/*
 * Threads: the worker does all of it; it takes dev.lock around every use of a queue and of guest memory, so whoever
 * holds that lock (a pause, a reset) knows that none is under way. Lock order: machine lock, dev.lock, wish_lock.
 */
struct virtio_net {
	struct virtio_device dev;
	struct net_nic nic; /* what the back end sees */
	struct net_backend *be;
	struct virtio_net_config config; /* status under the machine lock */
	uint8_t mac[NET_MAC_BYTES];      /* at power-on */
	bool own_mac_only;               /* nothing is sent from another one */

	struct net_poll poll; /* the worker's */

	/* Under dev.lock. */
	struct net_filter filter;
	uint64_t guest_offloads; /* feature bits, once the driver has chosen among those it took */
	bool offloads_chosen;
	bool mac_changed;
	bool announced; /* the driver has told the network where it is, as asked */
	struct virtq_chain first, chain; /* being filled or read */

	/* The worker's. */
	struct net_waiting *waiting, **waiting_end;
	size_t waiting_frames, waiting_bytes;
	struct net_rate rate[2]; /* by NET_RX, NET_TX */
	bool backend_link, wish_link;
	uint8_t frame[NET_FRAME_MAX], scratch[NET_FRAME_MAX], segment[NET_FRAME_MAX];

	/* What users have asked for since the worker last looked. Under wish_lock. */
	pthread_mutex_t wish_lock;
	bool wish_changed;
	struct machine_nic_change wish;

	char stat_name[NET_COUNTS][NET_NAME_BYTES];
	_Atomic uint64_t count[NET_COUNTS];
	unsigned number;
	uint8_t mac_now[NET_MAC_BYTES]; /* as the guest has set it; under dev.lock */
};

/* A NIC on this back end, which is its own from here on, also on failure. As machine_add_nic. */
int virtio_net_add(struct machine *machine, const struct machine_nic *nic, struct net_backend *be, const char **ret_error);

/* ---- net_rx.c: on the worker -------------------------------------------------------------------- */
void net_rx_deliver(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
/* Gives waiting frames to the driver. How long to wait for the rate, -1: not for that. */
int net_rx_flush(struct virtio_net *net);
void net_rx_drop_waiting(struct virtio_net *net);

/* ---- net_control.c --------------------------------------------------------------------------- */
/* Serves a request, under dev.lock; the bytes written. */
uint32_t net_control_serve(struct virtio_net *net, const struct virtq_chain *chain);
/* What may be given to the driver: feature bits. Under dev.lock. */
uint64_t net_guest_offloads(const struct virtio_net *net);
/* Whether a frame is for this NIC. Under dev.lock. */
bool net_filter_wants(const struct virtio_net *net, const uint8_t *frame);

#endif
