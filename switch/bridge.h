/* What a switch does with a frame: VLANs, learning, forwarding, mirroring. No sockets here. */
#ifndef SWITCH_BRIDGE_H
#define SWITCH_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "proto/switch.h"

#define BRIDGE_PORTS_MAX 256
#define BRIDGE_ADDRESSES 8192	 /* slots of the table; at most three quarters are used */
#define BRIDGE_PORT_ADDRESSES 256 /* that one port may teach it: a guest that floods the table harms itself */
#define BRIDGE_AGE_S 300
#define BRIDGE_VLANS 4096

struct bridge_counters {
	uint64_t rx_frames, rx_bytes, rx_dropped; /* from the port */
	uint64_t tx_frames, tx_bytes, tx_dropped; /* to it */
};

struct bridge_port {
	unsigned index; /* set by bridge_add */
	uint16_t vlan;	/* of frames without a tag */
	bool trunk;	/* takes and gives tags of the VLANs that are allowed */
	bool own_mac_only; /* frames from another address than `mac` are refused */
	uint8_t mac[6];
	bool mirror;	/* gets a copy of every frame, and may send none */
	uint64_t allowed[BRIDGE_VLANS / 64];
	unsigned addresses;
	struct bridge_counters counters;
	/* Gives a frame to the port: in pieces, the header first. False: it had no room. */
	bool (*send)(struct bridge_port *port, const struct iovec *iov, unsigned count, size_t bytes);
};

struct bridge_address {
	uint8_t mac[6];
	uint16_t vlan;
	uint16_t port; /* index + 1; 0: free */
	uint32_t seen_s;
};

/* All zero is an empty one. */
struct bridge {
	struct bridge_port *ports[BRIDGE_PORTS_MAX];
	unsigned port_count;
	struct bridge_address table[BRIDGE_ADDRESSES];
	unsigned address_count;
	uint64_t forwarded, flooded, filtered, refused; /* frames */
};

/* False: there is no room. The port stays the caller's, until bridge_remove, which forgets what it has taught. */
bool bridge_add(struct bridge *bridge, struct bridge_port *port);
void bridge_remove(struct bridge *bridge, struct bridge_port *port);
static inline void bridge_allow(struct bridge_port *port, unsigned vlan) { port->allowed[vlan / 64] |= 1ull << vlan % 64; }
/*
 * A frame that came in by a port: `header` and n bytes that nobody changes meanwhile. now_s: seconds of a clock that does
 * not jump.
 */
void bridge_input(struct bridge *bridge, struct bridge_port *port, const struct switch_header *header, const uint8_t *frame,
		  size_t n, uint32_t now_s);
/* Forgets addresses that have been silent for BRIDGE_AGE_S. */
void bridge_age(struct bridge *bridge, uint32_t now_s);

#endif
