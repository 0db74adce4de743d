/* What a switch does with a frame: VLANs, learning, forwarding, mirroring. */
#include "switch/bridge.h"

#include <string.h>

#define TAG_AT 12
#define TAG_BYTES 4
#define ETHERTYPE_VLAN 0x8100

/* A frame under way. */
struct transit {
	const struct bridge_port *from;
	const struct switch_header *header;
	const uint8_t *frame;
	size_t n;
	bool tagged;
	uint16_t vlan;
	uint8_t priority; /* the tag's upper four bits */
};

/* ---- the table: open addressing, found by VLAN and address ---------------------------------------- */

static unsigned slot_of(const uint8_t *mac, uint16_t vlan)
{
	uint64_t key = vlan;

	for (unsigned i = 0; i < 6; i++)
		key = key << 8 | mac[i];
	key *= 0x9e3779b97f4a7c15u;
	return (unsigned)(key >> 40) % BRIDGE_ADDRESSES;
}

/* The address's entry, or the free one where it would be. The table is never full. */
static struct bridge_address *find(struct bridge *bridge, const uint8_t *mac, uint16_t vlan)
{
	unsigned slot = slot_of(mac, vlan);

	for (;; slot = (slot + 1) % BRIDGE_ADDRESSES) {
		struct bridge_address *a = &bridge->table[slot];

		if (a->port == 0 || (a->vlan == vlan && memcmp(a->mac, mac, 6) == 0))
			return a;
	}
}

/* Frees an entry and moves up those behind it, so that no search ends early. */
static void forget(struct bridge *bridge, struct bridge_address *a)
{
	unsigned hole = (unsigned)(a - bridge->table);

	bridge->ports[a->port - 1]->addresses--;
	bridge->address_count--;
	for (unsigned i = (hole + 1) % BRIDGE_ADDRESSES; bridge->table[i].port != 0; i = (i + 1) % BRIDGE_ADDRESSES) {
		unsigned home = slot_of(bridge->table[i].mac, bridge->table[i].vlan);

		/* It may move to the hole unless its home lies behind that. */
		if ((i - home + BRIDGE_ADDRESSES) % BRIDGE_ADDRESSES < (i - hole + BRIDGE_ADDRESSES) % BRIDGE_ADDRESSES)
			continue;
		bridge->table[hole] = bridge->table[i];
		hole = i;
	}
	bridge->table[hole].port = 0;
}

static void learn(struct bridge *bridge, struct bridge_port *port, const uint8_t *mac, uint16_t vlan, uint32_t now_s)
{
	struct bridge_address *a = find(bridge, mac, vlan);

	if (a->port != 0 && a->port != port->index + 1)
		bridge->ports[a->port - 1]->addresses--;
	else if (a->port == 0 && bridge->address_count >= BRIDGE_ADDRESSES / 4 * 3)
		return;
	if (a->port != port->index + 1) {
		if (port->addresses >= BRIDGE_PORT_ADDRESSES) {
			/* It has moved from another port: to this one it cannot. */
			if (a->port != 0) {
				bridge->ports[a->port - 1]->addresses++;
				forget(bridge, a);
			}
			return;
		}
		bridge->address_count += a->port == 0;
		port->addresses++;
		memcpy(a->mac, mac, 6);
		a->vlan = vlan;
		a->port = (uint16_t)(port->index + 1);
	}
	a->seen_s = now_s;
}

void bridge_age(struct bridge *bridge, uint32_t now_s)
{
	for (unsigned i = 0; i < BRIDGE_ADDRESSES; i++)
		while (bridge->table[i].port != 0 && now_s - bridge->table[i].seen_s > BRIDGE_AGE_S)
			forget(bridge, &bridge->table[i]);
}

/* ---- ports ------------------------------------------------------------------------------------------- */

bool bridge_add(struct bridge *bridge, struct bridge_port *port)
{
	for (unsigned i = 0; i < BRIDGE_PORTS_MAX; i++) {
		if (bridge->ports[i])
			continue;
		port->index = i;
		port->addresses = 0;
		bridge->ports[i] = port;
		bridge->port_count++;
		return true;
	}
	return false;
}

void bridge_remove(struct bridge *bridge, struct bridge_port *port)
{
	for (unsigned i = 0; i < BRIDGE_ADDRESSES; i++)
		while (bridge->table[i].port == port->index + 1)
			forget(bridge, &bridge->table[i]);
	bridge->ports[port->index] = NULL;
	bridge->port_count--;
}

static bool is_member(const struct bridge_port *port, uint16_t vlan)
{
	return port->vlan == vlan || (port->trunk && port->allowed[vlan / 64] >> vlan % 64 & 1);
}

/* ---- frames ------------------------------------------------------------------------------------------ */

/* Puts a tag in or takes it out on the way. */
static void give(struct bridge_port *port, const struct transit *t, bool tagged)
{
	struct switch_header header = *t->header;
	uint8_t tag[TAG_BYTES] = {ETHERTYPE_VLAN >> 8, ETHERTYPE_VLAN & 0xff, (uint8_t)(t->priority << 4 | t->vlan >> 8), (uint8_t)t->vlan};
	struct iovec iov[4] = {{.iov_base = &header, .iov_len = sizeof(header)}};
	unsigned count = 1;
	size_t bytes = sizeof(header) + t->n;

	if (tagged == t->tagged) {
		iov[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)t->frame, .iov_len = t->n};
	} else {
		size_t rest = TAG_AT + (t->tagged ? TAG_BYTES : 0);
		int shift = tagged ? TAG_BYTES : -TAG_BYTES;

		iov[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)t->frame, .iov_len = TAG_AT};
		if (tagged)
			iov[count++] = (struct iovec){.iov_base = tag, .iov_len = sizeof(tag)};
		iov[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)(t->frame + rest), .iov_len = t->n - rest};
		bytes = (size_t)((long)bytes + shift);
		if (header.net.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			header.net.csum_start = (uint16_t)(header.net.csum_start + shift);
		if (header.net.gso_type != VIRTIO_NET_HDR_GSO_NONE)
			header.net.hdr_len = (uint16_t)(header.net.hdr_len + shift);
	}
	if (bytes - sizeof(header) <= SWITCH_FRAME_MAX && port->send(port, iov, count, bytes)) {
		port->counters.tx_frames++;
		port->counters.tx_bytes += bytes - sizeof(header);
	} else {
		port->counters.tx_dropped++;
	}
}

static void give_to_member(struct bridge_port *port, const struct transit *t)
{
	give(port, t, port->trunk && t->vlan != port->vlan);
}

static void mirror(struct bridge *bridge, const struct transit *t)
{
	for (unsigned i = 0; i < BRIDGE_PORTS_MAX; i++)
		if (bridge->ports[i] && bridge->ports[i]->mirror)
			give(bridge->ports[i], t, t->vlan != SWITCH_DEFAULT_VLAN);
}

static void flood(struct bridge *bridge, const struct transit *t)
{
	for (unsigned i = 0; i < BRIDGE_PORTS_MAX; i++) {
		struct bridge_port *to = bridge->ports[i];

		if (to && to != t->from && !to->mirror && is_member(to, t->vlan))
			give_to_member(to, t);
	}
	bridge->flooded++;
}

/* Which VLAN it is in. False: the port may not send it. */
static bool classify(const struct bridge_port *port, struct transit *t)
{
	uint16_t vlan;

	t->vlan = port->vlan;
	if (t->frame[TAG_AT] != ETHERTYPE_VLAN >> 8 || t->frame[TAG_AT + 1] != (ETHERTYPE_VLAN & 0xff))
		return true;
	if (t->n < TAG_AT + TAG_BYTES + 2)
		return false;
	vlan = (uint16_t)((t->frame[TAG_AT + 2] & 0xf) << 8 | t->frame[TAG_AT + 3]);
	t->tagged = true;
	t->priority = t->frame[TAG_AT + 2] >> 4;
	/* Tag 0 has a priority only. */
	if (vlan == 0)
		return true;
	t->vlan = vlan;
	return vlan < BRIDGE_VLANS - 1 && port->trunk && is_member(port, vlan);
}

void bridge_input(struct bridge *bridge, struct bridge_port *port, const struct switch_header *header, const uint8_t *frame,
		  size_t n, uint32_t now_s)
{
	struct transit t = {.from = port, .header = header, .frame = frame, .n = n};
	const struct bridge_address *to;

	port->counters.rx_frames++;
	port->counters.rx_bytes += n;
	/* Nobody's address is a group's. */
	if (n < TAG_AT + 2 || n > SWITCH_FRAME_MAX || port->mirror || frame[6] & 1 || !classify(port, &t) ||
	    (port->own_mac_only && memcmp(frame + 6, port->mac, sizeof(port->mac)) != 0)) {
		port->counters.rx_dropped++;
		bridge->refused++;
		return;
	}
	learn(bridge, port, frame + 6, t.vlan, now_s);
	mirror(bridge, &t);
	to = frame[0] & 1 ? NULL : find(bridge, frame, t.vlan);
	if (!to || to->port == 0) {
		flood(bridge, &t);
	} else if (to->port == port->index + 1) {
		bridge->filtered++; /* it is where it came from */
	} else {
		give_to_member(bridge->ports[to->port - 1], &t);
		bridge->forwarded++;
	}
}
