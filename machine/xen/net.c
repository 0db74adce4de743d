/*
 * A NIC for a network front end (io/netif.h): one queue, frames copied (rx-copy), checksums and large TCP segments left to do in
 * both directions, no control ring. The front end has no notion of a cable: with the link down nothing passes.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "machine/net/card.h"
#include "machine/xen/abi.h"
#include "machine/xen/bus.h"

#define SLOTS_MAX 20u /* of a frame to be sent: as Linux's back end, beyond what it promises (XEN_NETIF_NR_SLOTS_MIN) */
#define TX_BATCH 64
#define ETHER_BYTES 14u

_Static_assert(SLOTS_MAX >= XEN_NETIF_NR_SLOTS_MIN, "promised");

struct xen_net {
	struct xen_device dev;
	struct net_nic nic; /* what the back end sees */
	struct net_card card;
	unsigned mtu;
	struct net_poll poll;
	/* Under dev.lock. */
	struct xen_ring tx, rx;
	uint32_t rx_port; /* dev.port: of tx, or of both */
	bool front_sg, front_gso4, front_gso6, front_csum4, front_csum6;
	uint8_t segment[NET_FRAME_MAX]; /* the worker's */
};

static struct xen_net *net_of(struct xen_device *dev) { return CONTAINER_OF(dev, struct xen_net, dev); }

/* ---- from the guest: under dev.lock ---------------------------------------------------------- */

/* Where the checksum of a TCP or UDP packet is. Extension headers of IPv6 are none that offer it. */
static bool find_checksum(const uint8_t *frame, size_t n, struct virtio_net_hdr *header)
{
	size_t ip = ETHER_BYTES, start;
	uint8_t protocol;

	if (n > 18 && frame[12] == 0x81 && frame[13] == 0)
		ip += 4;
	if (n < ip + 40)
		return false;
	if (frame[ip - 2] == 0x08 && frame[ip - 1] == 0) {
		start = ip + (frame[ip] & 15u) * 4u;
		protocol = frame[ip + 9];
	} else if (frame[ip - 2] == 0x86 && frame[ip - 1] == 0xdd) {
		start = ip + 40;
		protocol = frame[ip + 6];
	} else {
		return false;
	}
	if (protocol != 6 && protocol != 17)
		return false;
	header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	header->csum_start = (uint16_t)start;
	header->csum_offset = protocol == 6 ? 16 : 6;
	return true;
}

/* A frame's slots, as copied from the ring. */
struct tx_frame {
	struct netif_tx_request part[SLOTS_MAX];
	bool is_extra[SLOTS_MAX * 2];
	unsigned parts, slots;
	struct netif_extra_info gso; /* type 0: none */
};

/* False: it is no frame, and why. */
static bool collect(struct xen_net *net, unsigned waiting, struct tx_frame *f, const char **ret_why)
{
	bool more = true, extra;

	*f = (struct tx_frame){0};
	*ret_why = "a frame to send ends before it is whole";
	while (more) {
		if (f->slots == waiting)
			return false;
		if (f->parts == SLOTS_MAX) {
			*ret_why = "a frame to send has too many parts";
			return false;
		}
		xen_ring_peek(&net->tx, f->slots++, &f->part[f->parts], sizeof(f->part[0]));
		more = f->part[f->parts].flags & NETTXF_more_data;
		extra = !f->parts && f->part[0].flags & NETTXF_extra_info;
		f->parts++;
		while (extra) {
			struct netif_extra_info e;

			if (f->slots == waiting)
				return false;
			if (f->slots >= SLOTS_MAX) {
				*ret_why = "a frame to send has too much beside it";
				return false;
			}
			f->is_extra[f->slots] = true;
			xen_ring_peek(&net->tx, f->slots++, &e, sizeof(e));
			if (e.type == XEN_NETIF_EXTRA_TYPE_NONE || e.type >= XEN_NETIF_EXTRA_TYPE_MAX) {
				*ret_why = "what is beside a frame to send is of no known type";
				return false;
			}
			if (e.type == XEN_NETIF_EXTRA_TYPE_GSO)
				f->gso = e;
			extra = e.flags & XEN_NETIF_EXTRA_FLAG_MORE;
		}
	}
	return true;
}

/* The first part's size is the whole frame's. 0: it makes no sense, or a grant does not. */
static size_t copy_frame(struct xen_net *net, const struct tx_frame *f)
{
	const struct xen_host *host = &net->dev.host;
	size_t total = f->part[0].size, rest = 0, at = 0;

	for (unsigned i = 1; i < f->parts; i++)
		rest += f->part[i].size;
	if (rest > total || total < ETHER_BYTES || total > NET_FRAME_MAX)
		return 0;
	for (unsigned i = 0; i < f->parts; i++) {
		size_t n = i ? f->part[i].size : total - rest;
		struct xen_page page;

		if (f->part[i].offset + n > XEN_PAGE || host->map(host->opaque, f->part[i].gref, false, &page))
			return 0;
		memcpy(net->card.frame + at, page.host + f->part[i].offset, n);
		host->unmap(host->opaque, &page);
		at += n;
	}
	return total;
}

static bool make_header(const struct xen_net *net, const struct tx_frame *f, size_t n, struct virtio_net_hdr *ret)
{
	*ret = (struct virtio_net_hdr){0};
	if ((f->part[0].flags & NETTXF_csum_blank || f->gso.type) && !find_checksum(net->card.frame, n, ret))
		return false;
	if (!f->gso.type)
		return true;
	if (f->gso.u.gso.type != XEN_NETIF_GSO_TYPE_TCPV4 && f->gso.u.gso.type != XEN_NETIF_GSO_TYPE_TCPV6)
		return false;
	ret->gso_type = f->gso.u.gso.type == XEN_NETIF_GSO_TYPE_TCPV4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	ret->gso_size = f->gso.u.gso.size;
	/* The header's end as Linux reckons it for a tap: with TCP's own. */
	ret->hdr_len = (uint16_t)(ret->csum_start + (ret->csum_start + 12u < n ? (net->card.frame[ret->csum_start + 12] >> 4) * 4u : 20u));
	return true;
}

/* Each slot has its answer, those of extras an empty one. */
static void answer_frame(struct xen_net *net, const struct tx_frame *f, int16_t status)
{
	xen_ring_take(&net->tx, f->slots);
	for (unsigned i = 0, part = 0; i < f->slots; i++) {
		struct netif_tx_response r = {.status = NETIF_RSP_NULL};

		if (!f->is_extra[i])
			r = (struct netif_tx_response){.id = f->part[part++].id, .status = status};
		xen_ring_answer(&net->tx, &r, sizeof(r));
	}
	if (xen_ring_push(&net->tx))
		xen_raise(&net->dev, net->dev.port);
}

/* False: there is none now. *ret_n 0: it was a bad one. */
static bool take_frame(struct xen_net *net, struct virtio_net_hdr *ret_header, size_t *ret_n)
{
	const char *why = "its ring has more frames to send than places";
	struct tx_frame f;
	int waiting;

	do {
		waiting = xen_may_work(&net->dev) ? xen_ring_waiting(&net->tx) : 0;
	} while (!waiting && xen_may_work(&net->dev) && xen_ring_sleep(&net->tx, 1));
	if (!waiting)
		return false;
	if (waiting < 0 || !collect(net, (unsigned)waiting, &f, &why)) {
		xen_broken(&net->dev, why);
		return false;
	}
	*ret_n = copy_frame(net, &f);
	if (*ret_n && !make_header(net, &f, *ret_n, ret_header))
		*ret_n = 0;
	answer_frame(net, &f, *ret_n ? NETIF_RSP_OKAY : NETIF_RSP_ERROR);
	return true;
}

/* How long to wait for the rate, -1: not for that; 0: there is more. */
static int serve_tx(struct xen_net *net)
{
	struct virtio_net_hdr header;
	int wait_ms = -1;
	size_t n = 0;
	bool taken;

	for (unsigned i = 0; i < TX_BATCH; i++) {
		if (net->card.be->blocked)
			return -1;
		if (!net_card_ready(&net->card, NET_CARD_TX, &wait_ms))
			return wait_ms;
		pthread_mutex_lock(&net->dev.lock);
		taken = take_frame(net, &header, &n);
		pthread_mutex_unlock(&net->dev.lock);
		if (!taken)
			return -1;
		if (n)
			net_card_send(&net->card, &header, n);
		else
			net->card.count[NET_CARD_TX_ERRORS]++;
	}
	return 0;
}

/* ---- to the guest ---------------------------------------------------------------------------------- */

enum put_result { PUT_DONE, PUT_NO_ROOM, PUT_DROP };

static uint16_t flags_of(const struct virtio_net_hdr *header)
{
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return NETRXF_csum_blank | NETRXF_data_validated;
	return header->flags & VIRTIO_NET_HDR_F_DATA_VALID ? NETRXF_data_validated : 0;
}

static void put_gso(struct xen_net *net, const struct virtio_net_hdr *header)
{
	bool v6 = (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6;
	struct netif_extra_info e = {.type = XEN_NETIF_EXTRA_TYPE_GSO};

	e.u.gso.size = header->gso_size;
	e.u.gso.type = v6 ? XEN_NETIF_GSO_TYPE_TCPV6 : XEN_NETIF_GSO_TYPE_TCPV4;
	xen_ring_take(&net->rx, 1);
	xen_ring_answer(&net->rx, &e, sizeof(e));
}

/* One page of it. False: the guest's buffer is none. */
static bool put_part(struct xen_net *net, const uint8_t *bytes, size_t n, uint16_t flags)
{
	const struct xen_host *host = &net->dev.host;
	struct netif_rx_request q;
	struct xen_page page;

	xen_ring_peek(&net->rx, 0, &q, sizeof(q));
	if (host->map(host->opaque, q.gref, true, &page))
		return false;
	memcpy(page.host, bytes, n);
	host->written(host->opaque, &page);
	host->unmap(host->opaque, &page);
	xen_ring_take(&net->rx, 1);
	xen_ring_answer(&net->rx, &(struct netif_rx_response){.id = q.id, .flags = flags, .status = (int16_t)n}, sizeof(struct netif_rx_response));
	return true;
}

/* Under dev.lock. */
static enum put_result put_frame(struct xen_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	bool gso = header->gso_type != VIRTIO_NET_HDR_GSO_NONE;
	unsigned parts = (unsigned)((n + XEN_PAGE - 1) / XEN_PAGE), slots = parts + gso;
	int waiting;

	if (net->dev.paused)
		return PUT_NO_ROOM;
	if (!xen_may_work(&net->dev) || (parts > 1 && !net->front_sg))
		return PUT_DROP;
	do {
		waiting = xen_ring_waiting(&net->rx);
	} while (waiting >= 0 && (unsigned)waiting < slots && xen_ring_sleep(&net->rx, slots));
	if (waiting < 0) {
		xen_broken(&net->dev, "its ring has more buffers to receive than places");
		return PUT_DROP;
	}
	if ((unsigned)waiting < slots)
		return PUT_NO_ROOM;
	for (unsigned i = 0; i < parts; i++) {
		size_t at = (size_t)i * XEN_PAGE, part = n - at < XEN_PAGE ? n - at : XEN_PAGE;
		uint16_t flags = (uint16_t)((i ? 0 : flags_of(header) | (gso ? NETRXF_extra_info : 0)) | (i + 1 < parts ? NETRXF_more_data : 0));

		if (!put_part(net, frame + at, part, flags)) {
			xen_broken(&net->dev, "a buffer to receive is in no memory that it has granted");
			return PUT_DROP;
		}
		if (!i && gso)
			put_gso(net, header);
	}
	if (xen_ring_push(&net->rx))
		xen_raise(&net->dev, net->rx_port);
	return PUT_DONE;
}

/* False: no room now. */
static bool put(struct xen_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	enum put_result result;

	pthread_mutex_lock(&net->dev.lock);
	result = put_frame(net, header, frame, n);
	pthread_mutex_unlock(&net->dev.lock);
	if (result == PUT_DONE)
		net_card_received(&net->card, n);
	else if (result == PUT_DROP)
		net->card.count[NET_CARD_RX_DROPPED]++;
	return result != PUT_NO_ROOM;
}

static void give(struct xen_net *net, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	int wait_ms;

	if (net->card.waiting || !net_card_ready(&net->card, NET_CARD_RX, &wait_ms) || !put(net, header, frame, n))
		net_card_keep(&net->card, header, frame, n);
}

static int flush_rx(struct xen_net *net)
{
	int wait_ms = -1;

	while (net->card.waiting) {
		const struct net_card_waiting *w = net->card.waiting;

		if (!net_card_ready(&net->card, NET_CARD_RX, &wait_ms))
			return wait_ms;
		if (!put(net, &w->header, w->frame, w->n))
			return -1;
		net_card_pop(&net->card);
	}
	return -1;
}

static void give_segment(void *opaque, const uint8_t *frame, size_t n)
{
	const struct virtio_net_hdr plain = {0};

	give(opaque, &plain, frame, n);
}

static void on_deliver(struct net_nic *nic, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct xen_net *net = CONTAINER_OF(nic, struct xen_net, nic);
	uint8_t gso = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	bool v6 = n > 13 && frame[12] == 0x86 && frame[13] == 0xdd, can_gso, can_csum;
	struct virtio_net_hdr mine = *header;

	if (n < ETHER_BYTES || n > NET_FRAME_MAX || !net_card_link(&net->card))
		return;
	pthread_mutex_lock(&net->dev.lock);
	/* A page holds a segment only if it is not larger than a status can say. */
	can_gso = net->front_sg && n <= 65535 && (gso == VIRTIO_NET_HDR_GSO_TCPV4 ? net->front_gso4 : net->front_gso6);
	can_csum = v6 ? net->front_csum6 : net->front_csum4;
	pthread_mutex_unlock(&net->dev.lock);
	if (gso != VIRTIO_NET_HDR_GSO_NONE && !(can_gso && can_csum)) {
		if (!net_segment(header, frame, n, net->segment, give_segment, net))
			net->card.count[NET_CARD_RX_DROPPED]++;
		return;
	}
	if (mine.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && !can_csum) {
		memcpy(net->segment, frame, n);
		net_checksum(&mine, net->segment, n);
		frame = net->segment;
	}
	give(net, &mine, frame, n);
}

static void on_link(struct net_nic *nic, bool up) { CONTAINER_OF(nic, struct xen_net, nic)->card.backend_link = up; }
/* Its front end cannot be asked to announce itself; switches learn from what it sends next. */
static void on_moved(struct net_nic *nic) { (void)nic; }
static const struct net_nic_ops nic_ops = {.deliver = on_deliver, .link = on_link, .moved = on_moved};

static int sooner(int a_ms, int b_ms) { return a_ms < 0 ? b_ms : b_ms < 0 || a_ms < b_ms ? a_ms : b_ms; }

static void loop(struct xen_device *dev)
{
	struct xen_net *net = net_of(dev);
	struct net_backend *be = net->card.be;

	while (!atomic_load(&dev->worker.quit)) {
		uint64_t count;
		bool paused;

		atomic_store(&dev->worker.rung, false);
		xen_attend(dev);
		net_card_attend(&net->card);
		net->poll.count = 0;
		net->poll.timeout_ms = flush_rx(net);
		net->poll.timeout_ms = sooner(net->poll.timeout_ms, serve_tx(net));
		net_poll_add(&net->poll, dev->worker.doorbell, POLLIN);
		pthread_mutex_lock(&dev->lock);
		paused = dev->paused;
		pthread_mutex_unlock(&dev->lock);
		if (!paused)
			be->ops->poll_fill(be, &net->poll, !net->card.waiting);
		if (poll(net->poll.fds, net->poll.count, net->poll.timeout_ms) < 0)
			continue;
		if (net->poll.fds[0].revents && read(dev->worker.doorbell, &count, sizeof(count)) < 0)
			continue;
		if (!paused)
			be->ops->poll_done(be, &net->poll);
	}
}

/* ---- its life in the store --------------------------------------------------------------------------------- */

static void announce(struct xen_device *dev)
{
	static const char *const offered[] = {"feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload",
					      "feature-rx-copy", "feature-split-event-channels"};
	static const char *const refused[] = {"feature-rx-flip", "feature-multicast-control", "feature-dynamic-multicast-control", "feature-ctrl-ring"};
	const struct xen_net *net = net_of(dev);
	const uint8_t *mac = net->card.mac;
	char text[24];

	for (size_t i = 0; i < ARRAY_SIZE(offered); i++)
		xen_tell(dev, offered[i], "1");
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		xen_tell(dev, refused[i], "0");
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	xen_tell(dev, "mac", "%s", text);
	xen_tell(dev, "handle", "%u", dev->number);
	xen_tell_front(dev, "mac", "%s", text);
	xen_tell_front(dev, "handle", "%u", dev->number);
	xen_tell_front(dev, "mtu", "%u", net->mtu);
}

static void describe(struct xen_device *dev) { xen_tell(dev, "hotplug-status", "connected"); }

static bool says(struct xen_device *dev, const char *name)
{
	uint64_t value = 0;

	return xen_front_number(dev, name, 1, &value) && value;
}

static void disconnect(struct xen_device *dev)
{
	struct xen_net *net = net_of(dev);

	if (net->rx_port != dev->port)
		xen_unbind(dev, &net->rx_port);
	xen_unbind(dev, &dev->port);
	net->rx_port = 0;
	xen_ring_disconnect(&net->tx, &dev->host);
	xen_ring_disconnect(&net->rx, &dev->host);
}

static int connect_ports(struct xen_net *net, const char **ret_why)
{
	uint64_t port;
	int rc;

	if (!xen_front_number(&net->dev, "event-channel-tx", UINT32_MAX, &port)) {
		rc = xen_bind(&net->dev, "event-channel", &net->dev.port, ret_why);
		net->rx_port = net->dev.port;
		return rc;
	}
	rc = xen_bind(&net->dev, "event-channel-tx", &net->dev.port, ret_why);
	return rc ? rc : xen_bind(&net->dev, "event-channel-rx", &net->rx_port, ret_why);
}

static int connect_ring(struct xen_net *net, const char *name, struct xen_ring *ring, unsigned entry_bytes)
{
	uint64_t value;
	uint32_t reference;

	if (!xen_front_number(&net->dev, name, UINT32_MAX, &value))
		return -EINVAL;
	reference = (uint32_t)value;
	return xen_ring_connect(ring, &net->dev.host, &reference, 1, entry_bytes);
}

static int connect_front(struct xen_device *dev, const char **ret_why)
{
	struct xen_net *net = net_of(dev);
	uint64_t queues = 1;
	int rc;

	xen_front_number(dev, "multi-queue-num-queues", UINT64_MAX, &queues);
	if (queues != 1 || !says(dev, "request-rx-copy")) {
		*ret_why = queues != 1 ? "it wants several queues, which are not offered" : "it wants pages to change hands, not frames copied";
		return -ENOTSUP;
	}
	net->front_sg = says(dev, "feature-sg");
	net->front_gso4 = says(dev, "feature-gso-tcpv4");
	net->front_gso6 = says(dev, "feature-gso-tcpv6");
	net->front_csum4 = !says(dev, "feature-no-csum-offload");
	net->front_csum6 = says(dev, "feature-ipv6-csum-offload");
	*ret_why = "its rings are in no memory that it has granted, or make no sense";
	rc = connect_ring(net, "tx-ring-ref", &net->tx, sizeof(union netif_tx_sring_entry));
	if (!rc)
		rc = connect_ring(net, "rx-ring-ref", &net->rx, sizeof(union netif_rx_sring_entry));
	if (!rc)
		rc = connect_ports(net, ret_why);
	if (rc)
		disconnect(dev);
	return rc;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void destroy(struct xen_device *dev)
{
	struct xen_net *net = net_of(dev);

	net_card_finish(&net->card);
	free(net);
}

static size_t stats(struct xen_device *dev, struct machine_stat *ret_rows, size_t max)
{
	return net_card_stats(&net_of(dev)->card, ret_rows, max);
}

static const struct xen_ops net_ops = {
	.name = "xen-net",
	.type = "vif",
	.connects_late = true,
	.announce = announce,
	.describe = describe,
	.connect = connect_front,
	.disconnect = disconnect,
	.loop = loop,
	.destroy = destroy,
	.stats = stats,
};

static struct xen_net *find_nic(const struct machine *machine, unsigned number)
{
	for (const struct machine_device *node = machine->devices; node; node = node->next) {
		struct xen_device *dev = node->opaque;

		if (!strcmp(node->name, net_ops.name) && dev->number == number)
			return net_of(dev);
	}
	return NULL;
}

int xen_net_set(struct machine *machine, unsigned number, const struct machine_nic_change *change)
{
	struct xen_net *net = find_nic(machine, number);

	if (!net)
		return -ENOENT;
	net_card_wish(&net->card, change);
	worker_ring(&net->dev.worker);
	return 0;
}

int xen_net_add(struct machine *machine, const struct machine_nic *nic, struct net_backend *be, const char **ret_error)
{
	struct xen_net *net = calloc(1, sizeof(*net));
	int rc;

	if (!net) {
		*ret_error = "no memory for a NIC";
		be->ops->destroy(be);
		return -ENOMEM;
	}
	while (find_nic(machine, net->dev.number))
		net->dev.number++;
	net->mtu = nic->mtu ? nic->mtu : be->mtu;
	net->nic.ops = &nic_ops;
	memcpy(net->nic.mac, nic->mac, sizeof(net->nic.mac));
	be->nic = &net->nic;
	net_card_init(&net->card, nic, be, "xen_net", net->dev.number);
	net->dev.ops = &net_ops;
	rc = xen_device_init(&net->dev, machine);
	if (rc) {
		*ret_error = "no thread for a NIC";
		destroy(&net->dev);
	}
	return rc;
}
