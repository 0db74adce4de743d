/* virtio-net (virtio 1.2, 5.1): a NIC with a thread of its own, which serves its queues and polls for its back end. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "machine/virtio/net.h"
#include "machine/xen/bus.h"

#define HEADER_BYTES sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define TX_BATCH 64 /* frames sent before what has come is looked at */

static _Thread_local char error_text[320];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- sending ---------------------------------------------------------------------------- */

struct tx {
	struct virtio_net *net;
	size_t sent;
};

static void send_segment(void *opaque, const uint8_t *frame, size_t n)
{
	struct tx *tx = opaque;
	const struct virtio_net_hdr header = {0};

	tx->net->be->ops->transmit(tx->net->be, &header, frame, n);
}

/* A frame in net->frame. The header is the driver's, so anything. */
static void send_frame(struct virtio_net *net, struct virtio_net_hdr *header, size_t n)
{
	struct tx tx = {.net = net};

	/* The flags that a driver may set; what says "valid" is ours to say. */
	header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (!net_header_valid(header, net->frame, n)) {
		net->count[NET_TX_ERRORS]++;
		return;
	}
	if (!(net->config.status & VIRTIO_NET_S_LINK_UP)) {
		net->count[NET_TX_DROPPED]++;
		return;
	}
	/* Not the address that the guest has set itself: that is what it is to be kept from. */
	if (net->own_mac_only && memcmp(net->frame + NET_MAC_BYTES, net->mac, NET_MAC_BYTES) != 0) {
		net->count[NET_TX_SPOOFED]++;
		return;
	}
	net->count[NET_TX_FRAMES]++;
	net->count[NET_TX_BYTES] += n;
	net_rate_take(&net->rate[NET_TX], n);
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && !net->be->offloads) {
		net_segment(header, net->frame, n, net->scratch, send_segment, &tx);
		return;
	}
	if (!net->be->offloads)
		net_checksum(header, net->frame, n);
	net->be->ops->transmit(net->be, header, net->frame, n);
}

/* Under dev.lock: takes a frame out of the ring. False: none, or the queue is broken. */
static bool take_frame(struct virtio_net *net, struct virtio_net_hdr *ret_header, size_t *ret_n, bool *ret_broken)
{
	struct virtq *q = &net->dev.queue[NET_TX];
	enum virtq_result result = virtio_may_work(&net->dev) ? virtq_pop(q, &net->chain) : VIRTQ_EMPTY;
	uint64_t bytes = net->chain.readable_bytes;

	*ret_broken = result == VIRTQ_BROKEN;
	if (result != VIRTQ_CHAIN)
		return false;
	*ret_n = 0;
	if (bytes > HEADER_BYTES && bytes - HEADER_BYTES <= NET_FRAME_MAX) {
		virtq_chain_read(&net->chain, 0, ret_header, sizeof(*ret_header));
		*ret_n = virtq_chain_read(&net->chain, HEADER_BYTES, net->frame, bytes - HEADER_BYTES);
	}
	virtq_push(q, net->chain.head, 0);
	net->dev.to_signal |= 1u << NET_TX;
	return true;
}

/* How long to wait for the rate, -1: not for that. *ret_more: there is more to send, and nothing to wait for. */
static int serve_tx(struct virtio_net *net, bool *ret_more)
{
	struct virtq *q = &net->dev.queue[NET_TX];
	struct virtio_net_hdr header;
	bool broken = false, none = false;
	int wait_ms = -1;
	size_t n = 0;

	*ret_more = false;
	pthread_mutex_lock(&net->dev.lock);
	virtq_kicks_off(q);
	pthread_mutex_unlock(&net->dev.lock);
	for (unsigned i = 0; i < TX_BATCH; i++) {
		if (net->be->blocked)
			return -1;
		if (!net_rate_ready(&net->rate[NET_TX], now_ns(), &wait_ms))
			return wait_ms;
		pthread_mutex_lock(&net->dev.lock);
		if (!take_frame(net, &header, &n, &broken)) {
			/* A frame may have come just before kicks were on again. */
			none = broken || !virtio_may_work(&net->dev) || !virtq_kicks_on(q);
			pthread_mutex_unlock(&net->dev.lock);
			if (broken)
				virtio_broken(&net->dev, NET_TX);
			if (none)
				return -1;
			continue;
		}
		pthread_mutex_unlock(&net->dev.lock);
		if (n > 0)
			send_frame(net, &header, n);
		else
			net->count[NET_TX_ERRORS]++;
	}
	*ret_more = true;
	return -1;
}

/* ---- the link ------------------------------------------------------------------------------ */

/* Sets and clears bits of the status, and tells the driver. */
static void set_status(struct virtio_net *net, uint16_t set, uint16_t clear)
{
	uint16_t status = (uint16_t)((net->config.status & ~clear) | set);

	if (status == net->config.status)
		return;
	machine_lock(net->dev.machine);
	net->config.status = status;
	machine_unlock(net->dev.machine);
	virtio_config_changed(&net->dev);
}

static void apply_link(struct virtio_net *net)
{
	bool up = net->backend_link && net->wish_link;

	set_status(net, up ? VIRTIO_NET_S_LINK_UP : 0, up ? 0 : VIRTIO_NET_S_LINK_UP);
	if (!up)
		net_rx_drop_waiting(net);
}

static void on_link(struct net_nic *nic, bool up)
{
	struct virtio_net *net = CONTAINER_OF(nic, struct virtio_net, nic);

	net->backend_link = up;
	apply_link(net);
}

static void on_moved(struct net_nic *nic)
{
	struct virtio_net *net = CONTAINER_OF(nic, struct virtio_net, nic);
	bool can;

	can = virtio_has_feature(&net->dev, VIRTIO_NET_F_GUEST_ANNOUNCE);
	if (!can)
		return;
	/* Each time the bit comes up is one announcement. */
	set_status(net, 0, VIRTIO_NET_S_ANNOUNCE);
	set_status(net, VIRTIO_NET_S_ANNOUNCE, 0);
}

static void on_deliver(struct net_nic *nic, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	net_rx_deliver(CONTAINER_OF(nic, struct virtio_net, nic), header, frame, n);
}

static const struct net_nic_ops nic_ops = {.deliver = on_deliver, .link = on_link, .moved = on_moved};

static void take_wishes(struct virtio_net *net)
{
	struct machine_nic_change wish;
	bool changed;

	pthread_mutex_lock(&net->wish_lock);
	wish = net->wish;
	changed = net->wish_changed;
	net->wish_changed = false;
	pthread_mutex_unlock(&net->wish_lock);
	if (!changed)
		return;
	net_rate_set(&net->rate[NET_RX], wish.receive_rate, wish.receive_burst, now_ns());
	net_rate_set(&net->rate[NET_TX], wish.transmit_rate, wish.transmit_burst, now_ns());
	net->wish_link = wish.link;
	apply_link(net);
}

/* ---- the control queue ------------------------------------------------------------------------- */

static void serve_control(struct virtio_net *net)
{
	struct virtq *q = &net->dev.queue[NET_CONTROL];
	uint8_t mac[NET_MAC_BYTES];
	bool mac_changed, announced, broken = false;

	pthread_mutex_lock(&net->dev.lock);
	while (virtio_may_work(&net->dev)) {
		enum virtq_result result = virtq_pop(q, &net->chain);

		if (result == VIRTQ_CHAIN) {
			virtq_push(q, net->chain.head, net_control_serve(net, &net->chain));
			net->dev.to_signal |= 1u << NET_CONTROL;
			continue;
		}
		broken = result == VIRTQ_BROKEN;
		if (broken || !virtq_kicks_on(q))
			break;
	}
	mac_changed = net->mac_changed;
	net->mac_changed = false;
	announced = net->announced;
	net->announced = false;
	memcpy(mac, net->mac_now, sizeof(mac));
	pthread_mutex_unlock(&net->dev.lock);
	if (broken)
		virtio_broken(&net->dev, NET_CONTROL);
	if (announced)
		set_status(net, 0, VIRTIO_NET_S_ANNOUNCE);
	if (mac_changed) {
		memcpy(net->nic.mac, mac, sizeof(mac));
		if (net->be->ops->set_mac)
			net->be->ops->set_mac(net->be, mac);
	}
}

/* ---- the loop ---------------------------------------------------------------------------------- */

static int sooner(int a_ms, int b_ms) { return a_ms < 0 ? b_ms : b_ms < 0 || a_ms < b_ms ? a_ms : b_ms; }

/* What the driver has for us. How long poll may sleep. */
static int serve(struct virtio_net *net)
{
	int rx_ms, tx_ms;
	bool more;

	take_wishes(net);
	serve_control(net);
	rx_ms = net_rx_flush(net);
	tx_ms = serve_tx(net, &more);
	virtio_signal(&net->dev);
	return more ? 0 : sooner(rx_ms, tx_ms);
}

/*
 * Waits for the bell, the back end, or the time that poll says. What came soon lately is looked for before it sleeps
 * (machine/spin.h): meanwhile the driver's kick costs it no system call.
 */
static int wait(struct virtio_net *net)
{
	struct worker *worker = &net->dev.worker;
	uint64_t began = clock_host_ns(), window_ns = spin_window_ns(&worker->spin);
	int ready = 0;

	if (net->poll.timeout_ms != 0 && window_ns > 0) {
		atomic_store(&worker->looking, true);
		do
			ready = poll(net->poll.fds, net->poll.count, 0);
		while (ready == 0 && !atomic_load(&worker->rung) && clock_host_ns() - began < window_ns);
		/* Who rings from here on writes the bell; who rang before that is seen here. */
		atomic_store(&worker->looking, false);
	}
	if (ready == 0)
		ready = poll(net->poll.fds, net->poll.count, atomic_load(&worker->rung) ? 0 : net->poll.timeout_ms);
	spin_learn(&worker->spin, clock_host_ns() - began);
	return ready;
}

/* Whoever answers is a third party, and often on this host: it must have a processor, too. */
static int prepare(struct virtio_device *dev)
{
	spin_init(&dev->worker.spin, machine_spin_most_ns(dev->machine, 2));
	return 0;
}

static void loop(struct virtio_device *dev)
{
	struct virtio_net *net = CONTAINER_OF(dev, struct virtio_net, dev);
	struct net_backend *be = net->be;

	while (!atomic_load(&dev->worker.quit)) {
		bool paused;
		uint64_t count;

		atomic_store(&dev->worker.rung, false);
		net->poll.count = 0;
		net->poll.timeout_ms = serve(net);
		net_poll_add(&net->poll, dev->worker.doorbell, POLLIN);
		pthread_mutex_lock(&dev->lock);
		paused = dev->paused;
		pthread_mutex_unlock(&dev->lock);
		if (!paused)
			be->ops->poll_fill(be, &net->poll, !net->waiting);
		if (wait(net) < 0)
			continue;
		if (net->poll.fds[0].revents && read(dev->worker.doorbell, &count, sizeof(count)) < 0)
			continue;
		if (!paused)
			be->ops->poll_done(be, &net->poll);
		virtio_signal(dev);
	}
}

/* ---- life ----------------------------------------------------------------------------------------- */

/* Under dev.lock. */
static void reset(struct virtio_device *dev)
{
	struct virtio_net *net = CONTAINER_OF(dev, struct virtio_net, dev);

	/* All but other NICs' addresses: as a driver finds it that never says a word (5.1.6.5.1). */
	net->filter = (struct net_filter){.all_multicast = true};
	net->offloads_chosen = false;
	net->mac_changed = true;
	if (net->be)
		net->be->leased = 0;
	memcpy(net->mac_now, net->mac, sizeof(net->mac));
}

static void destroy(struct virtio_device *dev)
{
	struct virtio_net *net = CONTAINER_OF(dev, struct virtio_net, dev);

	net_rx_drop_waiting(net);
	if (net->be)
		net->be->ops->destroy(net->be);
	pthread_mutex_destroy(&net->wish_lock);
	free(net);
}

static const char *const stat_names[NET_COUNTS] = {
	[NET_RX_FRAMES] = "rx_frames", [NET_RX_BYTES] = "rx_bytes", [NET_RX_DROPPED] = "rx_dropped", [NET_TX_FRAMES] = "tx_frames",
	[NET_TX_BYTES] = "tx_bytes",   [NET_TX_DROPPED] = "tx_dropped", [NET_TX_ERRORS] = "tx_errors",
	[NET_TX_SPOOFED] = "tx_spoofed", [NET_ADDRESS] = "address",
};

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	struct virtio_net *net = CONTAINER_OF(dev, struct virtio_net, dev);
	size_t n = NET_COUNTS < max ? NET_COUNTS : max;

	for (size_t i = 0; i < n; i++)
		ret_rows[i] = (struct machine_stat){net->stat_name[i], i == NET_ADDRESS ? net->be->leased : net->count[i]};
	return n;
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = 1,
	.pci_class = 0x0200, /* Ethernet */
	.loop = loop,
	.prepare = prepare,
	.reset = reset,
	.destroy = destroy,
	.stats = stats,
};

static struct virtio_net *find_nic(struct machine *machine, unsigned number)
{
	for (struct machine_device *node = machine->devices; node; node = node->next) {
		struct virtio_device *dev = node->opaque;

		if (strcmp(node->name, net_ops.name) == 0 && CONTAINER_OF(dev, struct virtio_net, dev)->number == number)
			return CONTAINER_OF(dev, struct virtio_net, dev);
	}
	return NULL;
}

int machine_nic_set(struct machine *machine, unsigned number, const struct machine_nic_change *change)
{
	struct virtio_net *net;

	if (machine->config.xen)
		return xen_net_set(machine, number, change);
	net = find_nic(machine, number);
	if (!net)
		return -ENOENT;
	pthread_mutex_lock(&net->wish_lock);
	net->wish = *change;
	net->wish_changed = true;
	pthread_mutex_unlock(&net->wish_lock);
	worker_ring(&net->dev.worker);
	return 0;
}

static void fill_config(struct virtio_net *net, const struct machine_nic *nic)
{
	unsigned mtu = nic->mtu ? nic->mtu : net->be->mtu;

	memcpy(net->mac, nic->mac, sizeof(net->mac));
	memcpy(net->mac_now, nic->mac, sizeof(net->mac));
	memcpy(net->nic.mac, nic->mac, sizeof(net->mac));
	memcpy(net->config.mac, nic->mac, sizeof(net->mac));
	net->own_mac_only = nic->own_mac_only;
	net->config.max_virtqueue_pairs = 1;
	net->config.mtu = (uint16_t)mtu;
	net->wish = nic->change;
	net->wish_changed = true;
	net->backend_link = net->be->link_up;
	net->wish_link = nic->change.link;
	net->config.status = net->backend_link && net->wish_link ? VIRTIO_NET_S_LINK_UP : 0;
	net->dev.config = (const uint8_t *)&net->config;
	net->dev.config_bytes = offsetof(struct virtio_net_config, mtu) + sizeof(net->config.mtu);
	net->dev.features = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MTU |
			    1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX |
			    1ull << VIRTIO_NET_F_CTRL_RX_EXTRA | 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR |
			    1ull << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE |
			    1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |
			    1ull << VIRTIO_NET_F_HOST_ECN | 1ull << VIRTIO_NET_F_GUEST_CSUM;
	if (net->be->offloads)
		net->dev.features |= 1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN;
}

static int create_backend(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error)
{
	switch (nic->type) {
	case MACHINE_NIC_USER: return net_user_create(nic, ret_be, ret_error);
	case MACHINE_NIC_TEAM: return net_team_create(nic, ret_be, ret_error);
	case MACHINE_NIC_SWITCH: return net_port_create(nic, ret_be, ret_error);
	}
	*ret_error = "this kind of network is not known";
	return -EINVAL;
}

int virtio_net_add(struct machine *machine, const struct machine_nic *nic, struct net_backend *be, const char **ret_error)
{
	struct virtio_net *net = calloc(1, sizeof(*net));
	int rc;

	if (!net) {
		*ret_error = "no memory for a NIC";
		be->ops->destroy(be);
		return -ENOMEM;
	}
	pthread_mutex_init(&net->wish_lock, NULL);
	net->waiting_end = &net->waiting;
	net->dev.ops = &net_ops;
	net->dev.queues = NET_QUEUES;
	net->nic.ops = &nic_ops;
	net->be = be;
	net->be->nic = &net->nic;
	while (find_nic(machine, net->number))
		net->number++;
	for (unsigned i = 0; i < NET_COUNTS; i++)
		snprintf(net->stat_name[i], NET_NAME_BYTES, "virtio_net%u_%s", net->number, stat_names[i]);
	fill_config(net, nic);
	rc = virtio_device_init(&net->dev, machine);
	if (rc < 0) {
		snprintf(error_text, sizeof(error_text), "a NIC finds no place on the PCI bus: %s", strerror(-rc));
		*ret_error = error_text;
		destroy(&net->dev);
	}
	return rc;
}

int machine_add_nic(struct machine *machine, const struct machine_nic *nic, const char **ret_error)
{
	struct net_backend *be = NULL;
	int rc = create_backend(nic, &be, ret_error);

	if (rc < 0)
		return rc;
	return machine->config.xen ? xen_net_add(machine, nic, be, ret_error) : virtio_net_add(machine, nic, be, ret_error);
}
