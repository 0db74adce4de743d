/* A network device of the host as a NIC's way out: a tap, a macvtap, or any other by a packet socket. */
#ifndef MACHINE_NET_UPLINK_H
#define MACHINE_NET_UPLINK_H

#include <net/if.h>

#include "machine/net/net.h"

struct net_uplink {
	char name[IFNAMSIZ];
	int index; /* the host's number of it */
	int fd;    /* -1 */
	bool packet; /* a packet socket; else a tap's descriptor */
	bool up;
};

/* Takes hold of the device; *ret_error is thread-local. 0 or -errno. */
int uplink_open(struct net_uplink *uplink, const char *name, const char **ret_error);
/*
 * The same with a tap that is made first, and put on a bridge of the host; it goes when its descriptor is closed. That name
 * must be free.
 */
int uplink_make_tap(struct net_uplink *uplink, const char *name, const char *bridge, const char **ret_error);
void uplink_close(struct net_uplink *uplink);
/* Whether a cable is in it, asked of the kernel. */
bool uplink_is_up(const char *name);
/* 1: sent, or lost as on a wire; 0: not now. */
int uplink_send(const struct net_uplink *uplink, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);
/* A frame into `buf` (NET_FRAME_MAX + 4); its bytes, 0: none now. */
size_t uplink_receive(const struct net_uplink *uplink, struct virtio_net_hdr *ret_header, uint8_t *buf);


/* ---- between uplink.c and uplink_make.c ---- */

/* *ret_error: the device's name, what could not be done, why, and the remedy. rc. */
int uplink_fail(int rc, const char *name, const char *what, const char *remedy, const char **ret_error);
/* The device of uplink->name behind `path`; /dev/net/tun makes one that is not there. 0 or -errno. */
int uplink_open_tap(struct net_uplink *uplink, const char *path, const char **ret_error);

#endif
