/* The `user` back end: libslirp turns a guest's frames into sockets of this process. NAT, DHCP, DNS, port forwards. */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "machine/machine.h"
#include "machine/net/net.h"

/*
 * TCP ends in libslirp, so no wire limits it. It knows no window scaling: with segments beyond a quarter of its 64 KiB, a
 * sender that avoids small ones stands still till its persist timer (5 s). QEMU's 1500 costs ten times the frames.
 */
#define LINK_MTU 16384u
/* Of the descriptors a process may have, these are left for other things than a guest's connections. */
#define SOCKETS_KEPT 64
#define COMPLAINTS_MAX 5

struct net_user {
	struct net_backend be;
	Slirp *slirp;
	struct net_poll *poll; /* during fill and done */
	unsigned first;        /* its first entry of ours */
	unsigned sockets, sockets_max;
	unsigned complaints;
	int64_t timer_ms; /* virtual time at which the router advertisement is due; -1: not armed */
	void *timer_opaque;
	uint8_t scratch[NET_FRAME_MAX];
};

static _Thread_local char error_text[320];

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- what libslirp asks for --------------------------------------------------------- */

#define DHCP_AT 42u	 /* behind Ethernet, IPv4 and UDP without options, as libslirp writes them */
#define DHCP_ADDRESS 16u /* yiaddr (RFC 2131, 2) */
#define DHCP_OPTIONS 236u /* behind the magic cookie */
#define DHCP_TYPE 53u
#define DHCP_ACK 5u

/* An answer of the DHCP server says which address the guest has from now on. */
static void note_lease(struct net_user *user, const uint8_t *frame, size_t n)
{
	const uint8_t *dhcp = frame + DHCP_AT;
	size_t at = DHCP_AT + DHCP_OPTIONS + 4;

	if (n < at || frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45 || frame[23] != 17 || frame[34] != 0 || frame[35] != 67 ||
	    frame[36] != 0 || frame[37] != 68)
		return;
	while (at + 2 < n && frame[at] != 255) {
		if (frame[at] == DHCP_TYPE && frame[at + 2] == DHCP_ACK)
			user->be.leased = (uint32_t)dhcp[DHCP_ADDRESS] << 24 | (uint32_t)dhcp[DHCP_ADDRESS + 1] << 16 |
					  (uint32_t)dhcp[DHCP_ADDRESS + 2] << 8 | dhcp[DHCP_ADDRESS + 3];
		at += frame[at] == 0 ? 1 : 2u + frame[at + 1];
	}
}

static ssize_t on_send_packet(const void *frame, size_t n, void *opaque)
{
	struct net_user *user = opaque;
	/* libslirp has computed every checksum itself: the guest need not look. */
	const struct virtio_net_hdr header = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};

	note_lease(user, frame, n);
	user->be.nic->ops->deliver(user->be.nic, &header, frame, n);
	return (ssize_t)n;
}

static void on_guest_error(const char *text, void *opaque)
{
	struct net_user *user = opaque;

	if (user->complaints++ < COMPLAINTS_MAX)
		fprintf(stderr, "user network: %s\n", text);
}

static int64_t on_clock(void *opaque) { return now_ns(); }

/* There is one timer, SLIRP_TIMER_RA. */
static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct net_user *user = opaque;

	user->timer_opaque = cb_opaque;
	user->timer_ms = -1;
	return &user->timer_ms;
}

static void on_timer_free(void *timer, void *opaque) { *(int64_t *)timer = -1; }
static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque) { *(int64_t *)timer = expire_ms; }
static void on_register_fd(int fd, void *opaque) { ((struct net_user *)opaque)->sockets++; }
static void on_unregister_fd(int fd, void *opaque) { ((struct net_user *)opaque)->sockets--; }
/* It polls on the thread that would have to be woken. */
static void on_notify(void *opaque) {}
static void on_init_completed(Slirp *slirp, void *opaque) {}

static const SlirpCb callbacks = {
	.send_packet = on_send_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new_opaque = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_register_fd,
	.unregister_poll_fd = on_unregister_fd,
	.notify = on_notify,
	.init_completed = on_init_completed,
};

/* ---- frames from the guest ------------------------------------------------------------ */

/*
 * A guest that opens connections without end would leave this process without descriptors, and so without a control
 * socket. Beyond the limit, whatever could make a socket is dropped: anything but TCP that is under way.
 */
static bool may_open_socket(const uint8_t *frame, size_t n)
{
	size_t ip = 14, tcp;
	uint8_t protocol;

	if (n < ip + 40)
		return frame[12] != 0x08 || frame[13] != 0x06; /* ARP */
	if (frame[12] == 0x08 && frame[13] == 0x00) {
		protocol = frame[ip + 9];
		tcp = ip + (frame[ip] & 15u) * 4u;
	} else if (frame[12] == 0x86 && frame[13] == 0xdd) {
		protocol = frame[ip + 6];
		tcp = ip + 40;
	} else {
		return false;
	}
	if (protocol != 6 || tcp + 14 > n)
		return true;
	return (frame[tcp + 13] & 0x12) == 0x02; /* SYN without ACK */
}

static void transmit(struct net_backend *be, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct net_user *user = CONTAINER_OF(be, struct net_user, be);

	if (user->sockets >= user->sockets_max && may_open_socket(frame, n)) {
		on_guest_error("the guest has as many connections open as this process may have descriptors; new ones are dropped",
			       user);
		return;
	}
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		struct virtio_net_hdr done = *header;

		memcpy(user->scratch, frame, n);
		net_checksum(&done, user->scratch, n);
		frame = user->scratch;
	}
	slirp_input(user->slirp, frame, (int)n);
}

/* ---- waiting ------------------------------------------------------------------------------ */

_Static_assert(SLIRP_POLL_IN == 1 && SLIRP_POLL_OUT == 2 && SLIRP_POLL_PRI == 4 && SLIRP_POLL_ERR == 8 && SLIRP_POLL_HUP == 16,
	       "bits by place");
static const short poll_bit[] = {POLLIN, POLLOUT, POLLPRI, POLLERR, POLLHUP};

static int on_add_poll(int fd, int events, void *opaque)
{
	struct net_user *user = opaque;
	short wanted = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(poll_bit); i++)
		if (events >> i & 1)
			wanted |= poll_bit[i];
	return net_poll_add(user->poll, fd, wanted);
}

static int on_revents(int index, void *opaque)
{
	const struct net_user *user = opaque;
	int events = 0;

	if (index < 0)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(poll_bit); i++)
		if (user->poll->fds[index].revents & poll_bit[i])
			events |= 1 << i;
	return events;
}

static void poll_fill(struct net_backend *be, struct net_poll *poll, bool can_receive)
{
	struct net_user *user = CONTAINER_OF(be, struct net_user, be);
	uint32_t timeout = poll->timeout_ms < 0 ? UINT32_MAX : (uint32_t)poll->timeout_ms;

	user->poll = poll;
	slirp_pollfds_fill(user->slirp, &timeout, on_add_poll, user);
	if (user->timer_ms >= 0) {
		int64_t left = user->timer_ms - now_ns() / 1000000;

		left = left < 0 ? 0 : left;
		if (left < (int64_t)timeout)
			timeout = (uint32_t)left;
	}
	poll->timeout_ms = timeout > INT32_MAX ? -1 : (int)timeout;
}

static void poll_done(struct net_backend *be, struct net_poll *poll)
{
	struct net_user *user = CONTAINER_OF(be, struct net_user, be);

	user->poll = poll;
	slirp_pollfds_poll(user->slirp, 0, on_revents, user);
	if (user->timer_ms >= 0 && now_ns() / 1000000 >= user->timer_ms) {
		user->timer_ms = -1;
		slirp_handle_timer(user->slirp, SLIRP_TIMER_RA, user->timer_opaque);
	}
}

/* ---- life ----------------------------------------------------------------------------------- */

static void destroy(struct net_backend *be)
{
	struct net_user *user = CONTAINER_OF(be, struct net_user, be);

	if (user->slirp)
		slirp_cleanup(user->slirp);
	free(user);
}

static const struct net_backend_ops user_ops = {
	.name = "user",
	.transmit = transmit,
	.poll_fill = poll_fill,
	.poll_done = poll_done,
	.destroy = destroy,
};

static int fail(int rc, const char **ret_error)
{
	*ret_error = error_text;
	return rc;
}

static int add_forward(struct net_user *user, const struct machine_nic_forward *f, struct in_addr guest, const char **ret_error)
{
	struct in_addr host = {.s_addr = htonl(INADDR_LOOPBACK)};

	if (f->host_address && inet_pton(AF_INET, f->host_address, &host) != 1) {
		snprintf(error_text, sizeof(error_text), "forward: \"%.60s\" is no IPv4 address of this host", f->host_address);
		return fail(-EINVAL, ret_error);
	}
	if (f->guest_address && inet_pton(AF_INET, f->guest_address, &guest) != 1) {
		snprintf(error_text, sizeof(error_text), "forward: \"%.60s\" is no IPv4 address of the guest's network", f->guest_address);
		return fail(-EINVAL, ret_error);
	}
	if (slirp_add_hostfwd(user->slirp, f->udp, host, f->host_port, guest, f->guest_port) < 0) {
		int error = errno ? errno : EADDRINUSE;
		char text[INET_ADDRSTRLEN];

		snprintf(error_text, sizeof(error_text), "forward: %s port %u of %s cannot be listened on: %s; %s", f->udp ? "UDP" : "TCP",
			 f->host_port, inet_ntop(AF_INET, &host, text, sizeof(text)), strerror(error),
			 error == EACCES ? "take a port from 1024 on" : "choose another port, or stop who has it");
		return fail(-error, ret_error);
	}
	return 0;
}

static unsigned sockets_allowed(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur <= 2 * SOCKETS_KEPT)
		return SOCKETS_KEPT;
	return limit.rlim_cur - SOCKETS_KEPT < NET_POLL_MAX - SOCKETS_KEPT ? (unsigned)limit.rlim_cur - SOCKETS_KEPT
									   : NET_POLL_MAX - SOCKETS_KEPT;
}

int net_user_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error)
{
	struct net_user *user = calloc(1, sizeof(*user));
	uint32_t base = nic->user.subnet & ~0u << (32 - nic->user.subnet_bits);
	struct in_addr guest = {.s_addr = htonl(base + 15)};
	SlirpConfig config = {
		.version = 4,
		.restricted = nic->user.restricted,
		.in_enabled = true,
		.vnetwork = {.s_addr = htonl(base)},
		.vnetmask = {.s_addr = htonl(~0u << (32 - nic->user.subnet_bits))},
		.vhost = {.s_addr = htonl(base + 2)},
		.vnameserver = {.s_addr = htonl(base + 3)},
		.vdhcp_start = guest,
		.in6_enabled = true,
		.vprefix_len = 64,
		.vhostname = nic->user.hostname,
		.disable_host_loopback = nic->user.hide_host,
		/* What libslirp takes from its sockets at once, and what it may send. */
		.if_mtu = nic->mtu ? nic->mtu : LINK_MTU,
		.if_mru = nic->mtu ? nic->mtu : LINK_MTU,
	};
	int rc;

	if (!user) {
		*ret_error = "no memory for a network";
		return -ENOMEM;
	}
	/* fec0::/64: site-local, as nobody routes it. */
	inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &config.vhost6);
	inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
	user->be = (struct net_backend){.ops = &user_ops, .mtu = LINK_MTU, .link_up = true};
	user->timer_ms = -1;
	user->sockets_max = sockets_allowed();
	user->slirp = slirp_new(&config, &callbacks, user);
	if (!user->slirp) {
		destroy(&user->be);
		*ret_error = "libslirp cannot make such a network";
		return -EINVAL;
	}
	for (unsigned i = 0; i < nic->user.forward_count; i++) {
		rc = add_forward(user, &nic->user.forwards[i], guest, ret_error);
		if (rc < 0) {
			destroy(&user->be);
			return rc;
		}
	}
	*ret_be = &user->be;
	return 0;
}
