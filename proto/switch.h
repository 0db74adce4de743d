/*
 * Between a VM's process and a virtual switch: a SOCK_SEQPACKET connection to DIR/ports.sock.
 *
 * The first message is the VM's greeting, a JSON object: {"version":1, "vm":NAME, "uuid":UUID, "nic":NUMBER, "mac":ADDRESS,
 * "vlan":1..4094, "trunk":[VLAN...] or "all" (absent: an access port), "mirror":BOOLEAN,
 * "own_mac_only":BOOLEAN}. The answer is {"ok":true} or
 * {"error":TEXT}. From then on a message is a frame behind a struct switch_header, both ways.
 */
#ifndef PROTO_SWITCH_H
#define PROTO_SWITCH_H

#include <linux/virtio_net.h>
#include <stdint.h>

#define SWITCH_VERSION 1
#define SWITCH_NETS_DIR "nets" /* in the daemon's runtime directory, as vms is; a directory for each network */
#define SWITCH_FILE_PORTS "ports.sock"
#define SWITCH_FILE_CONTROL "control.sock"
#define SWITCH_FILE_LOG "log"
#define SWITCH_DEFAULT_VLAN 1
#define SWITCH_GREETING_MAX 65536
/* An Ethernet frame with the largest IP packet in it, and a VLAN tag. */
#define SWITCH_FRAME_MAX (14 + 4 + 65535)

/* What is left to do with a frame: its offsets are from the frame's first byte. */
struct switch_header {
	struct virtio_net_hdr net;
	uint16_t reserved; /* 0 */
};

/* Methods of DIR/control.sock, newline-delimited JSON-RPC 2.0. */
#define SWITCH_HELLO "hello" /* {"version", "pid"} */
#define SWITCH_STATS "stats" /* {"ports", "addresses", and counters} */
#define SWITCH_PORTS "ports" /* {"ports":[{"vm", "uuid", "nic", "mac", "vlan", ...}]} */
#define SWITCH_END "end"

#endif
