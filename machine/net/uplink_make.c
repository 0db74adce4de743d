/* Network devices of the host that are made for a NIC and go with it: a tap on a bridge, a macvtap on a network card. */
#include "machine/net/uplink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "machine/machine.h"

#define LAST_ONE_MS 3000u

static const char needs_root[] = "run the daemon as root, or make the device beforehand and name it";

static struct ifreq request_for(const char *name)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	return request;
}

/* ---- a tap on a bridge ------------------------------------------------------------------------- */

/* Switches a device on. 0 or -errno. */
static int set_up(int sock, const char *name)
{
	struct ifreq request = request_for(name);

	if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	request.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/*
 * A bridge without an address of its own takes the least of its ports': 0xfe in front keeps a VM that comes and goes from
 * changing it.
 */
static void raise_address(int sock, const char *name)
{
	struct ifreq request = request_for(name);

	if (ioctl(sock, SIOCGIFHWADDR, &request) < 0)
		return;
	request.ifr_hwaddr.sa_data[0] = (char)0xfe;
	(void)ioctl(sock, SIOCSIFHWADDR, &request);
}

static int join_bridge(int sock, const struct net_uplink *uplink, const char *bridge, const char **ret_error)
{
	struct ifreq request = request_for(bridge);
	int rc;

	/* Packets as large as the bridge's: it would take the least of its ports' otherwise. */
	if (ioctl(sock, SIOCGIFMTU, &request) < 0)
		return uplink_fail(-errno, bridge, "the bridge", "ip link add NAME type bridge makes one", ret_error);
	memcpy(request.ifr_name, uplink->name, IFNAMSIZ);
	(void)ioctl(sock, SIOCSIFMTU, &request);
	raise_address(sock, uplink->name);
	request = request_for(bridge);
	request.ifr_ifindex = uplink->index;
	if (ioctl(sock, SIOCBRADDIF, &request) < 0)
		return uplink_fail(-errno, bridge, "a tap cannot be put on it", "it must be a bridge (ip -d link show), and the daemon root",
				   ret_error);
	rc = set_up(sock, uplink->name);
	return rc ? uplink_fail(rc, uplink->name, "cannot be switched on", needs_root, ret_error) : 0;
}

int uplink_make_tap(struct net_uplink *uplink, const char *name, const char *bridge, const char **ret_error)
{
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc;

	*uplink = (struct net_uplink){.fd = -1};
	snprintf(uplink->name, IFNAMSIZ, "%s", name);
	if (sock < 0)
		return uplink_fail(-errno, name, "a socket to ask the kernel", needs_root, ret_error);
	rc = uplink_open_tap(uplink, "/dev/net/tun", ret_error);
	if (!rc) {
		uplink->index = (int)if_nametoindex(name);
		rc = join_bridge(sock, uplink, bridge, ret_error);
	}
	close(sock);
	if (rc)
		uplink_close(uplink);
	else
		uplink->up = uplink_is_up(name);
	return rc;
}

/* ---- a macvtap: rtnetlink(7) ---------------------------------------------------------------------- */

struct message {
	struct nlmsghdr head;
	struct ifinfomsg info;
	uint8_t attributes[256];
};

static struct rtattr *put(struct message *m, unsigned short type, const void *data, size_t n)
{
	struct rtattr *a = (struct rtattr *)(void *)((uint8_t *)m + NLMSG_ALIGN(m->head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(n);
	if (n > 0)
		memcpy(RTA_DATA(a), data, n);
	m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + (uint32_t)RTA_ALIGN(a->rta_len);
	return a;
}

static void end_nest(const struct message *m, struct rtattr *nest)
{
	nest->rta_len = (unsigned short)((const uint8_t *)m + m->head.nlmsg_len - (const uint8_t *)nest);
}

/* Sends a request and waits for its acknowledgement: 0 or -errno. */
static int ask(int netlink, struct message *m)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
		uint8_t rest[4096];
	} answer;
	ssize_t n;

	m->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(netlink, m, m->head.nlmsg_len, 0) < 0)
		return -errno;
	n = recv(netlink, &answer, sizeof(answer), 0);
	if (n < 0)
		return -errno;
	return n < (ssize_t)NLMSG_LENGTH(sizeof(answer.error)) || answer.head.nlmsg_type != NLMSG_ERROR ? -EPROTO : answer.error.error;
}

static int add_macvtap(int netlink, const char *name, unsigned device, const struct machine_macvtap *macvtap)
{
	struct message m = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(m.info)), .nlmsg_type = RTM_NEWLINK,
				     .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL},
			    .info = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}};
	uint32_t mode = macvtap->mode;
	struct rtattr *link, *data;

	put(&m, IFLA_IFNAME, name, strlen(name) + 1);
	put(&m, IFLA_LINK, &device, sizeof(device));
	put(&m, IFLA_ADDRESS, macvtap->mac, sizeof(macvtap->mac));
	link = put(&m, IFLA_LINKINFO, NULL, 0);
	put(&m, IFLA_INFO_KIND, "macvtap", sizeof("macvtap") - 1);
	data = put(&m, IFLA_INFO_DATA, NULL, 0);
	put(&m, IFLA_MACVLAN_MODE, &mode, sizeof(mode));
	end_nest(&m, data);
	end_nest(&m, link);
	return ask(netlink, &m);
}

static void delete_link(int netlink, int index)
{
	struct message m = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(m.info)), .nlmsg_type = RTM_DELLINK},
			    .info = {.ifi_index = index}};

	(void)ask(netlink, &m);
}

/*
 * The device outlives its descriptor, and this process is about to give its privileges up. So a process is left that has
 * them, does nothing but wait for this one's end, however that comes, and takes the device away. Its end of the pipe, or -errno.
 */
static int keep(int netlink, int index)
{
	sigset_t all;
	int ends[2];
	pid_t pid;
	char byte;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int error = errno;

		close(ends[0]);
		close(ends[1]);
		return -error;
	}
	if (pid > 0) {
		close(ends[0]);
		return ends[1];
	}
	/* Other threads' locks may be held in here: system calls only. What the VM has open is to be closed with it. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "macvtap-keeper");
	if (dup2(ends[0], 0) < 0 || dup2(netlink, 1) < 0 || syscall(SYS_close_range, 2u, ~0u, 0u) < 0)
		_exit(1);
	while (read(0, &byte, 1) < 0 && errno == EINTR)
		;
	delete_link(1, index);
	_exit(0);
}

static const char *remedy_of(int rc)
{
	switch (rc) {
	case -EPERM: return needs_root;
	case -EOPNOTSUPP: return "the kernel has none (CONFIG_MACVTAP); put a tap on a bridge instead";
	case -EBUSY: return "another program or bridge has it, or a macvtap of the mode passthru";
	default: return "it must be an Ethernet device";
	}
}

int machine_make_macvtap(const char *name, const struct machine_macvtap *macvtap, int *ret_keeper, const char **ret_error)
{
	unsigned device = if_nametoindex(macvtap->device);
	int netlink, keeper, rc;

	if (device == 0)
		return uplink_fail(-ENODEV, macvtap->device, "there is none of that name", "ip link shows those that are there", ret_error);
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	rc = netlink < 0 ? -errno : add_macvtap(netlink, name, device, macvtap);
	/* One of the VM's last run is being taken away. */
	for (unsigned i = 0; rc == -EEXIST && i < LAST_ONE_MS / 10; i++) {
		usleep(10000);
		rc = add_macvtap(netlink, name, device, macvtap);
	}
	if (rc == 0) {
		keeper = keep(netlink, (int)if_nametoindex(name));
		rc = keeper < 0 ? uplink_fail(keeper, name, "no process to watch over it", "raise the limit of processes", ret_error) : 0;
		if (rc == 0)
			*ret_keeper = keeper;
		else
			delete_link(netlink, (int)if_nametoindex(name));
	} else if (rc == -EEXIST) {
		uplink_fail(rc, name, "a macvtap of that name, and so of this address, is there", "if no VM uses it, ip link del NAME takes it away",
			    ret_error);
	} else {
		uplink_fail(rc, macvtap->device, "a macvtap cannot be made on it", remedy_of(rc), ret_error);
	}
	if (netlink >= 0)
		close(netlink);
	return rc;
}
