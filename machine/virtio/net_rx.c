/* virtio-net's receiving side: frames into the driver's buffers, and those that have to wait for one. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/virtio/net.h"

#define HEADER_BYTES sizeof(struct virtio_net_hdr_mrg_rxbuf) /* always, for a driver of virtio 1 */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- into the ring: under dev.lock --------------------------------------------------------- */

enum put_result { PUT_DONE, PUT_AGAIN, PUT_NO_ROOM, PUT_DROP, PUT_BROKEN };

/* Copies the header and the frame, from byte `at` of both together, to the chain; how many bytes. */
static size_t fill_chain(struct virtio_net *net, const struct virtq_chain *chain, const struct virtio_net_hdr_mrg_rxbuf *header,
			 const uint8_t *frame, size_t n, size_t at)
{
	struct machine *machine = net->dev.machine;
	size_t done = 0;

	if (at < HEADER_BYTES)
		done = virtq_chain_write(machine, chain, 0, (const uint8_t *)header + at, HEADER_BYTES - at);
	if (at + done >= HEADER_BYTES)
		done += virtq_chain_write(machine, chain, done, frame + (at + done - HEADER_BYTES), n + HEADER_BYTES - at - done);
	return done;
}

/* Takes as many buffers as the frame needs, and gives them back all at once: a driver must not see a part of a frame. */
static enum put_result put_frame(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct virtq *q = &net->dev.queue[NET_RX];
	bool merge = net->dev.driver_features & 1ull << VIRTIO_NET_F_MRG_RXBUF;
	struct virtio_net_hdr_mrg_rxbuf head = {.hdr = *header, .num_buffers = 1};
	size_t at = 0, total = HEADER_BYTES + n;
	uint16_t count = 0;

	while (at < total) {
		struct virtq_chain *chain = count == 0 ? &net->first : &net->chain;
		enum virtq_result result = virtq_pop(q, chain);
		size_t done;

		if (result == VIRTQ_BROKEN)
			return PUT_BROKEN;
		if (result == VIRTQ_EMPTY) {
			/* A kick is wanted for what comes behind those that were not enough; some may have come already. */
			bool more = virtq_kicks_on(q);

			virtq_unpop(q, count);
			return more ? PUT_AGAIN : PUT_NO_ROOM;
		}
		done = fill_chain(net, chain, &head, frame, n, at);
		if (done == 0 || (at == 0 && done < HEADER_BYTES)) {
			q->error = "a receive buffer has no room for a header";
			return PUT_BROKEN;
		}
		virtq_stage(q, count++, chain->head, (uint32_t)done);
		at += done;
		if (!merge && at < total) {
			virtq_unpop(q, 1);
			return PUT_DROP;
		}
	}
	if (merge && count > 1)
		virtq_chain_write(net->dev.machine, &net->first, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &count,
				  sizeof(count));
	virtq_publish(q, count);
	net->dev.to_signal |= 1u << NET_RX;
	return PUT_DONE;
}

/* False: no room now. Takes and lets go dev.lock. */
static bool put(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	enum put_result result = PUT_DROP;
	bool broken = false;

	pthread_mutex_lock(&net->dev.lock);
	if (net->dev.paused) {
		result = PUT_NO_ROOM;
	} else if (virtio_may_work(&net->dev)) {
		virtq_kicks_off(&net->dev.queue[NET_RX]);
		do
			result = put_frame(net, header, frame, n);
		while (result == PUT_AGAIN);
		broken = result == PUT_BROKEN;
	}
	pthread_mutex_unlock(&net->dev.lock);
	if (broken)
		virtio_broken(&net->dev, NET_RX);
	if (result == PUT_DONE) {
		net->count[NET_RX_FRAMES]++;
		net->count[NET_RX_BYTES] += n;
	} else if (result != PUT_NO_ROOM) {
		net->count[NET_RX_DROPPED]++;
	}
	return result != PUT_NO_ROOM;
}

/* ---- waiting ------------------------------------------------------------------------------------ */

static void wait_for_room(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct net_waiting *w;

	if (net->waiting_frames >= NET_FRAMES_BEHIND_MAX || net->waiting_bytes + n > NET_BYTES_BEHIND_MAX ||
	    !(w = malloc(sizeof(*w) + n))) {
		net->count[NET_RX_DROPPED]++;
		return;
	}
	w->next = NULL;
	w->header = *header;
	w->n = n;
	memcpy(w->frame, frame, n);
	*net->waiting_end = w;
	net->waiting_end = &w->next;
	net->waiting_frames++;
	net->waiting_bytes += n;
}

static void pop_waiting(struct virtio_net *net)
{
	struct net_waiting *w = net->waiting;

	net->waiting = w->next;
	if (!net->waiting)
		net->waiting_end = &net->waiting;
	net->waiting_frames--;
	net->waiting_bytes -= w->n;
	free(w);
}

void net_rx_drop_waiting(struct virtio_net *net)
{
	while (net->waiting)
		pop_waiting(net);
}

int net_rx_flush(struct virtio_net *net)
{
	int wait_ms = -1;

	while (net->waiting) {
		if (!net_rate_ready(&net->rate[NET_RX], now_ns(), &wait_ms))
			return wait_ms;
		if (!put(net, &net->waiting->header, net->waiting->frame, net->waiting->n))
			return -1;
		net_rate_take(&net->rate[NET_RX], net->waiting->n);
		pop_waiting(net);
	}
	return -1;
}

static void give(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	int wait_ms;

	if (net->waiting || !net_rate_ready(&net->rate[NET_RX], now_ns(), &wait_ms) || !put(net, header, frame, n))
		wait_for_room(net, header, frame, n);
	else
		net_rate_take(&net->rate[NET_RX], n);
}

/* ---- what the driver can take -------------------------------------------------------------------- */

static void give_segment(void *opaque, const uint8_t *frame, size_t n)
{
	const struct virtio_net_hdr header = {0};

	give(opaque, &header, frame, n);
}

void net_rx_deliver(struct virtio_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct virtio_net_hdr plain = *header;
	uint64_t offloads, needed = 0;
	bool wanted;

	if (n < 14 || n > NET_FRAME_MAX)
		return;
	pthread_mutex_lock(&net->dev.lock);
	offloads = net_guest_offloads(net);
	/* While paused, frames wait. */
	wanted = net->dev.status & VIRTIO_DRIVER_OK && net_filter_wants(net, frame);
	pthread_mutex_unlock(&net->dev.lock);
	if (!wanted || !(net->config.status & VIRTIO_NET_S_LINK_UP))
		return;
	if ((header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4)
		needed = 1ull << VIRTIO_NET_F_GUEST_TSO4;
	else if ((header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6)
		needed = 1ull << VIRTIO_NET_F_GUEST_TSO6;
	if (header->gso_type & VIRTIO_NET_HDR_GSO_ECN)
		needed |= 1ull << VIRTIO_NET_F_GUEST_ECN;
	if (needed & ~offloads) {
		if (!net_segment(header, frame, n, net->segment, give_segment, net))
			net->count[NET_RX_DROPPED]++;
		return;
	}
	if (header->flags && !(offloads & 1ull << VIRTIO_NET_F_GUEST_CSUM)) {
		if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
			memcpy(net->segment, frame, n);
			net_checksum(&plain, net->segment, n);
			frame = net->segment;
		}
		plain.flags = 0;
	}
	give(net, &plain, frame, n);
}
