/* What is the same for every network card, whatever its guest's side looks like. */
#include "machine/net/card.h"

#include <stdlib.h>
#include <string.h>

#include "machine/clock.h"

static const char *const names[] = {"rx_frames", "rx_bytes", "rx_dropped", "tx_frames", "tx_bytes", "tx_dropped", "tx_errors", "tx_spoofed"};
_Static_assert(ARRAY_SIZE(names) == NET_CARD_COUNTS, "a name for each");

void net_card_init(struct net_card *card, const struct machine_nic *nic, struct net_backend *be, const char *stat_prefix, unsigned number)
{
	memcpy(card->mac, nic->mac, sizeof(card->mac));
	card->be = be;
	card->own_mac_only = nic->own_mac_only;
	card->backend_link = be->link_up;
	card->waiting_end = &card->waiting;
	pthread_mutex_init(&card->wish_lock, NULL);
	net_card_wish(card, &nic->change);
	for (unsigned i = 0; i < NET_CARD_COUNTS; i++)
		snprintf(card->stat_name[i], sizeof(card->stat_name[i]), "%s%u_%s", stat_prefix, number, names[i]);
}

void net_card_finish(struct net_card *card)
{
	while (card->waiting)
		net_card_pop(card);
	card->be->ops->destroy(card->be);
	pthread_mutex_destroy(&card->wish_lock);
}

void net_card_wish(struct net_card *card, const struct machine_nic_change *change)
{
	pthread_mutex_lock(&card->wish_lock);
	card->wish = *change;
	card->wish_changed = true;
	pthread_mutex_unlock(&card->wish_lock);
}

void net_card_attend(struct net_card *card)
{
	uint64_t now = clock_host_ns();

	pthread_mutex_lock(&card->wish_lock);
	if (card->wish_changed) {
		net_rate_set(&card->rate[NET_CARD_RX], card->wish.receive_rate, card->wish.receive_burst, now);
		net_rate_set(&card->rate[NET_CARD_TX], card->wish.transmit_rate, card->wish.transmit_burst, now);
		card->wish_link = card->wish.link;
	}
	card->wish_changed = false;
	pthread_mutex_unlock(&card->wish_lock);
}

bool net_card_ready(struct net_card *card, enum net_card_way way, int *ret_wait_ms)
{
	return net_rate_ready(&card->rate[way], clock_host_ns(), ret_wait_ms);
}

static void send_one(void *opaque, const uint8_t *frame, size_t n)
{
	struct net_card *card = opaque;
	const struct virtio_net_hdr plain = {0};

	card->be->ops->transmit(card->be, &plain, frame, n);
}

void net_card_send(struct net_card *card, struct virtio_net_hdr *header, size_t n)
{
	/* What says "valid" is not a guest's to say. */
	header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (!net_header_valid(header, card->frame, n)) {
		card->count[NET_CARD_TX_ERRORS]++;
		return;
	}
	if (!net_card_link(card)) {
		card->count[NET_CARD_TX_DROPPED]++;
		return;
	}
	if (card->own_mac_only && memcmp(card->frame + NET_MAC_BYTES, card->mac, NET_MAC_BYTES) != 0) {
		card->count[NET_CARD_TX_SPOOFED]++;
		return;
	}
	card->count[NET_CARD_TX_FRAMES]++;
	card->count[NET_CARD_TX_BYTES] += n;
	net_rate_take(&card->rate[NET_CARD_TX], n);
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && !card->be->offloads) {
		net_segment(header, card->frame, n, card->scratch, send_one, card);
		return;
	}
	if (!card->be->offloads)
		net_checksum(header, card->frame, n);
	card->be->ops->transmit(card->be, header, card->frame, n);
}

void net_card_received(struct net_card *card, size_t n)
{
	net_rate_take(&card->rate[NET_CARD_RX], n);
	card->count[NET_CARD_RX_FRAMES]++;
	card->count[NET_CARD_RX_BYTES] += n;
}

void net_card_keep(struct net_card *card, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	bool room = card->waiting_frames < NET_CARD_FRAMES_MAX && card->waiting_bytes + n <= NET_CARD_BYTES_MAX;
	struct net_card_waiting *w = room ? malloc(sizeof(*w) + n) : NULL;

	if (!w) {
		card->count[NET_CARD_RX_DROPPED]++;
		return;
	}
	*w = (struct net_card_waiting){.header = *header, .n = n};
	memcpy(w->frame, frame, n);
	*card->waiting_end = w;
	card->waiting_end = &w->next;
	card->waiting_frames++;
	card->waiting_bytes += n;
}

void net_card_pop(struct net_card *card)
{
	struct net_card_waiting *w = card->waiting;

	card->waiting = w->next;
	if (!card->waiting)
		card->waiting_end = &card->waiting;
	card->waiting_frames--;
	card->waiting_bytes -= w->n;
	free(w);
}

size_t net_card_stats(const struct net_card *card, struct machine_stat *ret_rows, size_t max)
{
	size_t n = NET_CARD_COUNTS < max ? NET_CARD_COUNTS : max;

	for (size_t i = 0; i < n; i++)
		ret_rows[i] = (struct machine_stat){card->stat_name[i], card->count[i]};
	return n;
}
