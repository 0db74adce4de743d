/* Network devices of the host: opening one as what it is, and frames with virtio-net headers through it. */
#include "machine/net/uplink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define TAG_AT 12
#define TAG_BYTES 4

static _Thread_local char error_text[320];

int uplink_fail(int rc, const char *name, const char *what, const char *remedy, const char **ret_error)
{
	snprintf(error_text, sizeof(error_text), "network device %s: %s: %s; %s", name, what, strerror(-rc), remedy);
	*ret_error = error_text;
	return rc;
}

static bool has_entry(const char *name, const char *entry)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/class/net/%s/%s", name, entry);
	return access(path, F_OK) == 0;
}

/* ---- taps ---------------------------------------------------------------------------- */

int uplink_open_tap(struct net_uplink *uplink, const char *path, const char **ret_error)
{
	static const char remedy[] = "make it with ip tuntap add NAME mode tap user USER, or run the daemon as root";
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int bytes = sizeof(struct virtio_net_hdr);

	memcpy(request.ifr_name, uplink->name, IFNAMSIZ);
	uplink->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (uplink->fd < 0)
		return uplink_fail(-errno, uplink->name, path, "let this process's user read and write it", ret_error);
	if (ioctl(uplink->fd, TUNSETIFF, &request) < 0)
		return uplink_fail(-errno, uplink->name, "cannot be attached to", remedy, ret_error);
	if (ioctl(uplink->fd, TUNSETVNETHDRSZ, &bytes) < 0 ||
	    ioctl(uplink->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
		return uplink_fail(-errno, uplink->name, "offloads", "it takes a newer kernel", ret_error);
	return 0;
}

static int open_macvtap(struct net_uplink *uplink, const char **ret_error)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/tap%d", uplink->index);
	return uplink_open_tap(uplink, path, ret_error);
}

/* ---- any other: a packet socket (packet(7)) ---------------------------------------------- */

static int open_packet(struct net_uplink *uplink, const char **ret_error)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = uplink->index};
	struct packet_mreq promiscuous = {.mr_ifindex = uplink->index, .mr_type = PACKET_MR_PROMISC};
	const int on = 1;

	/* No protocol until it is bound: frames of other devices never enter its queue. */
	uplink->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (uplink->fd < 0)
		return uplink_fail(-errno, uplink->name, "a packet socket", "that takes root, or a tap in its place", ret_error);
	if (setsockopt(uplink->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    setsockopt(uplink->fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) < 0 ||
	    setsockopt(uplink->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 ||
	    bind(uplink->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    setsockopt(uplink->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous)) < 0)
		return uplink_fail(-errno, uplink->name, "a packet socket", "see whether the device is up", ret_error);
	uplink->packet = true;
	return 0;
}

/* ---- all -------------------------------------------------------------------------------------- */

bool uplink_is_up(const char *name)
{
	struct ifreq request = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool up;

	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	up = fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING);
	if (fd >= 0)
		close(fd);
	return up;
}

int uplink_open(struct net_uplink *uplink, const char *name, const char **ret_error)
{
	int rc;

	uplink->fd = -1;
	snprintf(uplink->name, IFNAMSIZ, "%s", name);
	uplink->index = (int)if_nametoindex(name);
	if (uplink->index == 0)
		return uplink_fail(-ENODEV, name, "there is none of that name", "ip link shows those that are there", ret_error);
	if (has_entry(name, "tun_flags"))
		rc = uplink_open_tap(uplink, "/dev/net/tun", ret_error);
	else if (has_entry(name, "macvtap"))
		rc = open_macvtap(uplink, ret_error);
	else
		rc = open_packet(uplink, ret_error);
	if (rc)
		uplink_close(uplink);
	else
		uplink->up = uplink_is_up(name);
	return rc;
}

void uplink_close(struct net_uplink *uplink)
{
	if (uplink->fd >= 0)
		close(uplink->fd);
	uplink->fd = -1;
}

int uplink_send(const struct net_uplink *uplink, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	const struct iovec iov[2] = {{(void *)(uintptr_t)header, sizeof(*header)}, {(void *)(uintptr_t)frame, n}};

	if (writev(uplink->fd, iov, 2) >= 0)
		return 1;
	return errno == EAGAIN || errno == ENOBUFS ? 0 : 1;
}

/* The kernel takes tags out of what packet sockets get: this puts one back. */
static size_t put_tag(struct msghdr *message, struct virtio_net_hdr *header, uint8_t *frame, size_t n)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		struct tpacket_auxdata aux;
		uint16_t words[2];

		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA)
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		if (!(aux.tp_status & TP_STATUS_VLAN_VALID) || n < TAG_AT)
			return n;
		words[0] = htons(aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : ETH_P_8021Q);
		words[1] = htons(aux.tp_vlan_tci);
		memmove(frame + TAG_AT + TAG_BYTES, frame + TAG_AT, n - TAG_AT);
		memcpy(frame + TAG_AT, words, TAG_BYTES);
		if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			header->csum_start += TAG_BYTES;
		if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
			header->hdr_len += TAG_BYTES;
		return n + TAG_BYTES;
	}
	return n;
}

size_t uplink_receive(const struct net_uplink *uplink, struct virtio_net_hdr *ret_header, uint8_t *buf)
{
	struct iovec iov[2] = {{ret_header, sizeof(*ret_header)}, {buf, NET_FRAME_MAX}};
	uint8_t control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = uplink->packet ? recvmsg(uplink->fd, &message, MSG_DONTWAIT) : readv(uplink->fd, iov, 2);

	if (n <= (ssize_t)sizeof(*ret_header))
		return 0;
	n -= (ssize_t)sizeof(*ret_header);
	return uplink->packet ? put_tag(&message, ret_header, buf, (size_t)n) : (size_t)n;
}
