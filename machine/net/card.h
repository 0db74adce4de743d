/*
 * A network card before the guest's side of it: what is sent is checked, counted and held to its limits; what comes waits for
 * room. Used on the card's worker only, but for the wishes.
 */
#ifndef MACHINE_NET_CARD_H
#define MACHINE_NET_CARD_H

#include <pthread.h>

#include "machine/machine.h"
#include "machine/net/net.h"

#define NET_CARD_FRAMES_MAX 1024u
#define NET_CARD_BYTES_MAX (4u << 20)

enum net_card_way { NET_CARD_RX, NET_CARD_TX }; /* as the guest sees it */
enum net_card_count {
	NET_CARD_RX_FRAMES,
	NET_CARD_RX_BYTES,
	NET_CARD_RX_DROPPED,
	NET_CARD_TX_FRAMES,
	NET_CARD_TX_BYTES,
	NET_CARD_TX_DROPPED,
	NET_CARD_TX_ERRORS,  /* what the driver asked for made no sense */
	NET_CARD_TX_SPOOFED, /* from an address that is not its own, and was to be */
	NET_CARD_COUNTS
};

/* A frame that waits for a buffer of the guest, or for its turn at the rate. */
struct net_card_waiting {
	struct net_card_waiting *next;
	struct virtio_net_hdr header;
	size_t n;
	uint8_t frame[];
};

struct net_card {
	struct net_backend *be;
	uint8_t mac[NET_MAC_BYTES];
	bool own_mac_only, backend_link, wish_link;
	struct net_rate rate[2];
	struct net_card_waiting *waiting, **waiting_end;
	size_t waiting_frames, waiting_bytes;
	pthread_mutex_t wish_lock;
	bool wish_changed;
	struct machine_nic_change wish;
	char stat_name[NET_CARD_COUNTS][40];
	_Atomic uint64_t count[NET_CARD_COUNTS];
	uint8_t frame[NET_FRAME_MAX], scratch[NET_FRAME_MAX];
};

/* Rows of statistics begin with stat_prefix and the number. be is the card's from here on. */
void net_card_init(struct net_card *card, const struct machine_nic *nic, struct net_backend *be, const char *stat_prefix, unsigned number);
void net_card_finish(struct net_card *card);
/* Any thread: from the next net_card_attend on. */
void net_card_wish(struct net_card *card, const struct machine_nic_change *change);
void net_card_attend(struct net_card *card);
static inline bool net_card_link(const struct net_card *card) { return card->backend_link && card->wish_link; }
/* Whether anything may pass that way now; otherwise *ret_wait_ms is how long not. */
bool net_card_ready(struct net_card *card, enum net_card_way way, int *ret_wait_ms);
/* Sends card->frame, whose header is the guest's word: anything. */
void net_card_send(struct net_card *card, struct virtio_net_hdr *header, size_t n);
/* Has passed to the guest. */
void net_card_received(struct net_card *card, size_t n);
/* Behind the others, if there is room. */
void net_card_keep(struct net_card *card, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
/* The first one is gone. */
void net_card_pop(struct net_card *card);
size_t net_card_stats(const struct net_card *card, struct machine_stat *ret_rows, size_t max);

#endif
