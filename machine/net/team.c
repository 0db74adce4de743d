/* Network devices of the host behind one NIC: one by itself (tap, macvtap), or several as one, with failover. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/machine.h"
#include "machine/net/uplink.h"

#define BATCH 64
#define ETHERTYPE_RARP 0x8035
#define ANNOUNCEMENT_BYTES 60

struct net_team {
	struct net_backend be;
	struct net_uplink uplinks[MACHINE_UPLINKS_MAX];
	int place[MACHINE_UPLINKS_MAX]; /* in the poll */
	unsigned count;
	bool balance;
	unsigned active;  /* active-backup: the one in use; balance: the one whose broadcasts count */
	int netlink, netlink_place;
	uint64_t failovers;
	/* A frame that an uplink had no room for. */
	unsigned stash_uplink;
	struct virtio_net_hdr stash_header;
	size_t stashed;
	uint8_t stash[NET_FRAME_MAX], frame[NET_FRAME_MAX + 4];
};

/* ---- which one ----------------------------------------------------------------------------- */

static bool any_up(const struct net_team *team)
{
	for (unsigned i = 0; i < team->count; i++)
		if (team->uplinks[i].up)
			return true;
	return false;
}

/* Of the packet's addresses and ports, so that a flow keeps its way and so its order. */
static uint32_t flow_hash(const uint8_t *frame, size_t n)
{
	size_t at = 26, bytes = 8; /* IPv4 addresses */
	uint32_t hash = 2166136261u;

	if (n >= 54 && frame[12] == 0x86 && frame[13] == 0xdd) {
		at = 22;
		bytes = 32;
		if (frame[20] == 6 || frame[20] == 17)
			bytes += 4;
	} else if (n >= 38 && frame[12] == 0x08 && frame[13] == 0x00) {
		/* Fragments have no ports, but for the first, which must go with them. */
		if ((frame[23] == 6 || frame[23] == 17) && (frame[14] & 15) == 5 && ((frame[20] & 0x3f) | frame[21]) == 0)
			bytes += 4;
	} else {
		at = 0;
		bytes = 12;
	}
	for (size_t i = at; i < at + bytes && i < n; i++)
		hash = (hash ^ frame[i]) * 16777619u;
	return hash ^ hash >> 16;
}

static unsigned choose(const struct net_team *team, const uint8_t *frame, size_t n)
{
	unsigned up[MACHINE_UPLINKS_MAX], count = 0;

	if (!team->balance)
		return team->active;
	for (unsigned i = 0; i < team->count; i++)
		if (team->uplinks[i].up)
			up[count++] = i;
	return count ? up[flow_hash(frame, n) % count] : team->active;
}

/* A RARP request with our address: switches on the way learn where it is now, whatever the guest does. */
static void announce(struct net_team *team, const struct net_uplink *uplink)
{
	static const struct virtio_net_hdr none;
	uint8_t frame[ANNOUNCEMENT_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	const uint8_t rarp[8] = {0, 1, 8, 0, 6, 4, 0, 3};

	memcpy(frame + 6, team->be.nic->mac, NET_MAC_BYTES);
	frame[12] = ETHERTYPE_RARP >> 8;
	frame[13] = ETHERTYPE_RARP & 0xff;
	memcpy(frame + 14, rarp, sizeof(rarp));
	memcpy(frame + 22, team->be.nic->mac, NET_MAC_BYTES);
	memcpy(frame + 32, team->be.nic->mac, NET_MAC_BYTES);
	(void)uplink_send(uplink, &none, frame, sizeof(frame));
}

/* An uplink's state may have changed. */
static void look(struct net_team *team)
{
	unsigned next = team->active;
	bool up = any_up(team);

	if (up != team->be.link_up) {
		team->be.link_up = up;
		team->be.nic->ops->link(team->be.nic, up);
	}
	/* One that comes back waits for its turn: each change costs a little. */
	if (!up || team->uplinks[team->active].up)
		return;
	while (!team->uplinks[next].up)
		next = (next + 1) % team->count;
	fprintf(stderr, "network device %s has lost its link: %s takes over\n", team->uplinks[team->active].name, team->uplinks[next].name);
	team->active = next;
	team->failovers++;
	announce(team, &team->uplinks[next]);
	team->be.nic->ops->moved(team->be.nic);
}

/* ---- the kernel's word (rtnetlink(7)) ---------------------------------------------------------- */

static void take_link(struct net_team *team, const struct nlmsghdr *message)
{
	const struct ifinfomsg *info = NLMSG_DATA(message);
	bool up = message->nlmsg_type == RTM_NEWLINK && (info->ifi_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING);

	for (unsigned i = 0; i < team->count; i++)
		if (team->uplinks[i].index == info->ifi_index)
			team->uplinks[i].up = up;
}

static void read_netlink(struct net_team *team)
{
	uint8_t buf[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	ssize_t n;

	while ((n = recv(team->netlink, buf, sizeof(buf), MSG_DONTWAIT)) > 0 || (n < 0 && errno == ENOBUFS)) {
		unsigned left = n > 0 ? (unsigned)n : 0;

		for (struct nlmsghdr *m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
			if ((m->nlmsg_type == RTM_NEWLINK || m->nlmsg_type == RTM_DELLINK) &&
			    m->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg)))
				take_link(team, m);
	}
	look(team);
}

static int open_netlink(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -errno;
	}
	return fd < 0 ? -errno : fd;
}

/* ---- frames ----------------------------------------------------------------------------------------- */

static void transmit(struct net_backend *be, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct net_team *team = CONTAINER_OF(be, struct net_team, be);
	unsigned i = choose(team, frame, n);

	if (!team->uplinks[i].up || uplink_send(&team->uplinks[i], header, frame, n) != 0)
		return;
	team->stash_uplink = i;
	team->stash_header = *header;
	team->stashed = n;
	memcpy(team->stash, frame, n);
	be->blocked = true;
}

/* Whether a frame that came in by an uplink is for us: once, and not our own. */
static bool wanted(const struct net_team *team, unsigned i, const uint8_t *frame)
{
	if (team->count == 1)
		return true;
	if (memcmp(frame + 6, team->be.nic->mac, NET_MAC_BYTES) == 0)
		return false;
	return i == team->active || (team->balance && !(frame[0] & 1));
}

static void receive(struct net_team *team, unsigned i)
{
	for (unsigned k = 0; k < BATCH; k++) {
		struct virtio_net_hdr header;
		size_t n = uplink_receive(&team->uplinks[i], &header, team->frame);

		if (n == 0)
			return;
		header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
		if (net_header_valid(&header, team->frame, n) && wanted(team, i, team->frame))
			team->be.nic->ops->deliver(team->be.nic, &header, team->frame, n);
	}
}

static void poll_fill(struct net_backend *be, struct net_poll *poll, bool can_receive)
{
	struct net_team *team = CONTAINER_OF(be, struct net_team, be);

	team->netlink_place = net_poll_add(poll, team->netlink, POLLIN);
	for (unsigned i = 0; i < team->count; i++) {
		short events = (short)((can_receive ? POLLIN : 0) | (be->blocked && team->stash_uplink == i ? POLLOUT : 0));

		/* One that is down reports that without end. */
		team->place[i] = events && team->uplinks[i].up ? net_poll_add(poll, team->uplinks[i].fd, events) : -1;
	}
}

static void poll_done(struct net_backend *be, struct net_poll *poll)
{
	struct net_team *team = CONTAINER_OF(be, struct net_team, be);

	if (team->netlink_place >= 0 && poll->fds[team->netlink_place].revents)
		read_netlink(team);
	if (be->blocked && (!team->uplinks[team->stash_uplink].up ||
			    uplink_send(&team->uplinks[team->stash_uplink], &team->stash_header, team->stash, team->stashed) != 0))
		be->blocked = false;
	for (unsigned i = 0; i < team->count; i++)
		if (team->place[i] >= 0 && poll->fds[team->place[i]].revents & POLLIN)
			receive(team, i);
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static void destroy(struct net_backend *be)
{
	struct net_team *team = CONTAINER_OF(be, struct net_team, be);

	for (unsigned i = 0; i < team->count; i++)
		uplink_close(&team->uplinks[i]);
	if (team->netlink >= 0)
		close(team->netlink);
	free(team);
}

static const struct net_backend_ops team_ops = {
	.name = "team", .transmit = transmit, .poll_fill = poll_fill, .poll_done = poll_done, .destroy = destroy};

int net_team_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error)
{
	struct net_team *team = calloc(1, sizeof(*team));
	int rc = 0;

	if (!team) {
		*ret_error = "no memory for a network device";
		return -ENOMEM;
	}
	team->be = (struct net_backend){.ops = &team_ops, .mtu = 1500, .offloads = true};
	team->balance = nic->team.balance;
	/* Before the devices are looked at: what changes from here on is told. */
	team->netlink = open_netlink();
	if (team->netlink < 0) {
		rc = team->netlink;
		*ret_error = "the kernel does not tell of network devices (netlink)";
	}
	for (unsigned i = 0; !rc && i < nic->team.count; i++) {
		if (nic->team.bridge)
			rc = uplink_make_tap(&team->uplinks[i], nic->team.uplinks[i], nic->team.bridge, ret_error);
		else
			rc = uplink_open(&team->uplinks[i], nic->team.uplinks[i], ret_error);
		team->count += rc == 0;
	}
	if (rc) {
		destroy(&team->be);
		return rc;
	}
	while (team->active + 1 < team->count && !team->uplinks[team->active].up)
		team->active++;
	team->be.link_up = any_up(team);
	*ret_be = &team->be;
	return 0;
}
