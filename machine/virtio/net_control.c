/* virtio-net's control queue (virtio 1.2, 5.1.6.5): which frames the driver wants, its address, offloads. */
#include <string.h>

#include "machine/virtio/net.h"

struct control_header {
	uint8_t class, command;
};

/* ---- the filter ------------------------------------------------------------------------ */

static bool in_table(uint8_t (*table)[NET_MAC_BYTES], unsigned count, const uint8_t *mac)
{
	for (unsigned i = 0; i < count; i++)
		if (memcmp(table[i], mac, NET_MAC_BYTES) == 0)
			return true;
	return false;
}

bool net_filter_wants(const struct virtio_net *net, const uint8_t *frame)
{
	static const uint8_t broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct net_filter f = net->filter;

	/* Without a control queue there is nobody who could say. */
	if (f.promiscuous || !(net->dev.driver_features & 1ull << VIRTIO_NET_F_CTRL_RX))
		return true;
	if (memcmp(frame, broadcast, NET_MAC_BYTES) == 0)
		return !f.no_broadcast;
	if (frame[0] & 1)
		return !f.no_multicast &&
		       (f.all_multicast || f.multicast_overflow || in_table(f.multicast, f.multicast_count, frame));
	return !f.no_unicast && (f.all_unicast || f.unicast_overflow || memcmp(frame, net->mac_now, NET_MAC_BYTES) == 0 ||
				 in_table(f.unicast, f.unicast_count, frame));
}

/* ---- commands: under dev.lock. False: refused --------------------------------------------- */

static bool set_rx(struct virtio_net *net, uint8_t command, const struct virtq_chain *chain)
{
	struct net_filter *f = &net->filter;
	bool *const flags[] = {
		[VIRTIO_NET_CTRL_RX_PROMISC] = &f->promiscuous,	  [VIRTIO_NET_CTRL_RX_ALLMULTI] = &f->all_multicast,
		[VIRTIO_NET_CTRL_RX_ALLUNI] = &f->all_unicast,	  [VIRTIO_NET_CTRL_RX_NOMULTI] = &f->no_multicast,
		[VIRTIO_NET_CTRL_RX_NOUNI] = &f->no_unicast,	  [VIRTIO_NET_CTRL_RX_NOBCAST] = &f->no_broadcast,
	};
	uint8_t on;

	if (command >= ARRAY_SIZE(flags) || virtq_chain_read(chain, sizeof(struct control_header), &on, 1) != 1)
		return false;
	*flags[command] = on != 0;
	return true;
}

/* A table { u32 count, mac[count] } at `at`; where it ends, 0: there is none. */
static uint64_t read_table(const struct virtq_chain *chain, uint64_t at, uint8_t (*table)[NET_MAC_BYTES], unsigned *ret_count,
			   bool *ret_overflow)
{
	uint32_t count;
	uint64_t end;

	if (virtq_chain_read(chain, at, &count, sizeof(count)) != sizeof(count))
		return 0;
	end = at + sizeof(count) + (uint64_t)count * NET_MAC_BYTES;
	if (end > chain->readable_bytes)
		return 0;
	*ret_overflow = count > NET_FILTER_MAX;
	*ret_count = count > NET_FILTER_MAX ? NET_FILTER_MAX : count;
	virtq_chain_read(chain, at + sizeof(count), table, (size_t)*ret_count * NET_MAC_BYTES);
	return end;
}

static bool set_mac_table(struct virtio_net *net, const struct virtq_chain *chain)
{
	struct net_filter f = net->filter;
	uint64_t at = read_table(chain, sizeof(struct control_header), f.unicast, &f.unicast_count, &f.unicast_overflow);

	if (at == 0 || read_table(chain, at, f.multicast, &f.multicast_count, &f.multicast_overflow) == 0)
		return false;
	net->filter = f;
	return true;
}

static bool set_mac(struct virtio_net *net, uint8_t command, const struct virtq_chain *chain)
{
	uint8_t mac[NET_MAC_BYTES];

	if (command == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return set_mac_table(net, chain);
	if (command != VIRTIO_NET_CTRL_MAC_ADDR_SET ||
	    virtq_chain_read(chain, sizeof(struct control_header), mac, sizeof(mac)) != sizeof(mac) || mac[0] & 1)
		return false;
	memcpy(net->mac_now, mac, sizeof(mac));
	net->mac_changed = true;
	return true;
}

#define GUEST_OFFLOADS                                                                                                 \
	(1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 |         \
	 1ull << VIRTIO_NET_F_GUEST_ECN)

uint64_t net_guest_offloads(const struct virtio_net *net)
{
	return net->offloads_chosen ? net->guest_offloads : net->dev.driver_features & GUEST_OFFLOADS;
}

static bool set_offloads(struct virtio_net *net, uint8_t command, const struct virtq_chain *chain)
{
	uint64_t wanted;

	if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    virtq_chain_read(chain, sizeof(struct control_header), &wanted, sizeof(wanted)) != sizeof(wanted) ||
	    wanted & ~(net->dev.driver_features & GUEST_OFFLOADS))
		return false;
	net->guest_offloads = wanted;
	net->offloads_chosen = true;
	return true;
}

uint32_t net_control_serve(struct virtio_net *net, const struct virtq_chain *chain)
{
	struct control_header header;
	uint8_t answer;
	bool ok = false;

	if (chain->writable_bytes == 0)
		return 0;
	if (virtq_chain_read(chain, 0, &header, sizeof(header)) == sizeof(header)) {
		switch (header.class) {
		case VIRTIO_NET_CTRL_RX: ok = set_rx(net, header.command, chain); break;
		case VIRTIO_NET_CTRL_MAC: ok = set_mac(net, header.command, chain); break;
		case VIRTIO_NET_CTRL_ANNOUNCE:
			ok = header.command == VIRTIO_NET_CTRL_ANNOUNCE_ACK;
			net->announced = ok || net->announced;
			break;
		case VIRTIO_NET_CTRL_GUEST_OFFLOADS: ok = set_offloads(net, header.command, chain); break;
		default: break;
		}
	}
	answer = ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	virtq_chain_write(net->dev.machine, chain, chain->writable_bytes - 1, &answer, 1);
	return (uint32_t)chain->writable_bytes;
}
