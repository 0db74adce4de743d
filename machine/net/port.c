/* The `switch` back end: a port of a virtual switch, over a connection that is there already (proto/switch.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/machine.h"
#include "machine/net/net.h"
#include "proto/switch.h"

#define BATCH 64
#define SOCKET_BYTES (4 << 20)

struct net_port {
	struct net_backend be;
	int fd; /* -1: the switch is gone */
	int place;
	/* A frame that the switch has no room for yet; 0 bytes: none. */
	size_t stashed;
	uint8_t stash[sizeof(struct switch_header) + NET_FRAME_MAX];
	uint8_t message[sizeof(struct switch_header) + NET_FRAME_MAX + 1];
};

static void lose(struct net_port *port)
{
	close(port->fd);
	port->fd = -1;
	port->be.blocked = false;
	fprintf(stderr, "the virtual switch has ended; its NIC's cable is unplugged until the VM is started again\n");
	port->be.nic->ops->link(port->be.nic, false);
}

static void transmit(struct net_backend *be, const struct virtio_net_hdr *net, const uint8_t *frame, size_t n)
{
	struct net_port *port = CONTAINER_OF(be, struct net_port, be);
	struct switch_header header = {.net = *net};
	struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)frame, n}};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};

	if (port->fd < 0 || sendmsg(port->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return;
	if (errno != EAGAIN && errno != ENOBUFS)
		return; /* its end is seen where it is read */
	memcpy(port->stash, &header, sizeof(header));
	memcpy(port->stash + sizeof(header), frame, n);
	port->stashed = sizeof(header) + n;
	be->blocked = true;
}

static void poll_fill(struct net_backend *be, struct net_poll *poll, bool can_receive)
{
	struct net_port *port = CONTAINER_OF(be, struct net_port, be);

	port->place = -1;
	if (port->fd >= 0 && (can_receive || be->blocked))
		port->place = net_poll_add(poll, port->fd, (short)((can_receive ? POLLIN : 0) | (be->blocked ? POLLOUT : 0)));
}

static void receive(struct net_port *port)
{
	for (unsigned i = 0; i < BATCH && port->fd >= 0; i++) {
		ssize_t n = recv(port->fd, port->message, sizeof(port->message), MSG_DONTWAIT);
		const uint8_t *frame = port->message + sizeof(struct switch_header);
		struct virtio_net_hdr header;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			lose(port);
			return;
		}
		if ((size_t)n <= sizeof(struct switch_header))
			continue;
		memcpy(&header, port->message, sizeof(header));
		header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
		if (net_header_valid(&header, frame, (size_t)n - sizeof(struct switch_header)))
			port->be.nic->ops->deliver(port->be.nic, &header, frame, (size_t)n - sizeof(struct switch_header));
	}
}

static void poll_done(struct net_backend *be, struct net_poll *poll)
{
	struct net_port *port = CONTAINER_OF(be, struct net_port, be);
	short events = port->place >= 0 ? poll->fds[port->place].revents : 0;

	if (events & (POLLOUT | POLLERR | POLLHUP) && be->blocked &&
	    (send(port->fd, port->stash, port->stashed, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || (errno != EAGAIN && errno != ENOBUFS)))
		be->blocked = false;
	if (events & (POLLIN | POLLERR | POLLHUP))
		receive(port);
}

static void destroy(struct net_backend *be)
{
	struct net_port *port = CONTAINER_OF(be, struct net_port, be);

	if (port->fd >= 0)
		close(port->fd);
	free(port);
}

static const struct net_backend_ops port_ops = {
	.name = "switch", .transmit = transmit, .poll_fill = poll_fill, .poll_done = poll_done, .destroy = destroy};

int net_port_create(const struct machine_nic *nic, struct net_backend **ret_be, const char **ret_error)
{
	struct net_port *port = calloc(1, sizeof(*port));
	const int bytes = SOCKET_BYTES;

	if (!port) {
		*ret_error = "no memory for a port of a switch";
		return -ENOMEM;
	}
	/* As much as the system allows. */
	setsockopt(nic->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	port->fd = nic->fd;
	port->be = (struct net_backend){.ops = &port_ops, .mtu = 1500, .offloads = true, .link_up = true};
	*ret_be = &port->be;
	return 0;
}
