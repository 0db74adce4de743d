/* What a VM's network interfaces need of the host, opened before the sandbox. */
#include "vm/private.h"

#include "proto/line.h"
#include "proto/sock.h"
#include "proto/switch.h"

#include <errno.h>
#include <json-c/json.h>
#include <linux/if_link.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING_MS 10000
#define CONNECT_MS 5000
#define CONNECT_RETRY_MS 20

static struct machine_nic_change nic_change(const struct vmdef_nic *nic)
{
	return (struct machine_nic_change){
		.link = nic->link == VMDEF_LINK_UP,
		.receive_rate = (uint64_t)nic->receive.kib_per_second << 10,
		.receive_burst = (uint64_t)nic->receive.burst_kib << 10,
		.transmit_rate = (uint64_t)nic->transmit.kib_per_second << 10,
		.transmit_burst = (uint64_t)nic->transmit.burst_kib << 10,
	};
}

/* ---- switches ---------------------------------------------------------------------------- */

/* Says who we are, and hears whether we are welcome. 0 or -errno. */
static int greet_switch(struct vm *vm, unsigned number, int fd, char *ret_why, size_t bytes)
{
	const struct vmdef_nic *def = &vm->def->nics[number];
	json_object *greeting = json_object_new_object(), *answer = NULL, *error = NULL;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	char text[1024];
	const char *why = "", *out;
	ssize_t n = -1;

	json_object_object_add(greeting, "version", json_object_new_int(SWITCH_VERSION));
	json_object_object_add(greeting, "vm", json_object_new_string(vm->def->name));
	json_object_object_add(greeting, "uuid", json_object_new_string(vm->def->uuid));
	json_object_object_add(greeting, "nic", json_object_new_int((int)number));
	json_object_object_add(greeting, "mac", json_object_new_string(def->mac));
	if (def->vlan)
		json_object_object_add(greeting, "vlan", json_object_new_int((int)def->vlan));
	if (def->has_trunk)
		json_object_object_add(greeting, "trunk", vmdef_trunk_to_json(def));
	json_object_object_add(greeting, "mirror", json_object_new_boolean(def->mirror));
	if (def->own_mac_only)
		json_object_object_add(greeting, "own_mac_only", json_object_new_boolean(true));
	out = json_object_to_json_string(greeting);
	if (send(fd, out, strlen(out), MSG_NOSIGNAL) == (ssize_t)strlen(out) && poll(&poll_fd, 1, GREETING_MS) == 1)
		n = recv(fd, text, sizeof(text) - 1, 0);
	if (n > 0)
		text[n] = '\0';
	json_object_put(greeting);
	if (n <= 0 || line_parse_json(text, (size_t)n, &answer, &why)) {
		snprintf(ret_why, bytes, "the switch of network \"%s\" does not answer; see its log", def->network);
		return -EPROTO;
	}
	if (json_object_object_get_ex(answer, "error", &error))
		snprintf(ret_why, bytes, "the switch of network \"%s\" refuses: %.200s", def->network, json_object_get_string(error));
	json_object_put(answer);
	return error ? -EPERM : 0;
}

/* Networks lie beside the VMs, in the daemon's runtime directory. The connection, or -errno. */
static int connect_switch(struct vm *vm, unsigned number, const char **ret_why)
{
	const struct vmdef_nic *def = &vm->def->nics[number];
	static char why[400];
	char dir[PATH_MAX + 128], path[PATH_MAX + 160];
	int fd, rc;

	*ret_why = why;
	snprintf(dir, sizeof(dir), "%s/../../" SWITCH_NETS_DIR "/%s", vm->options.dir, def->network);
	snprintf(path, sizeof(path), "%s/" SWITCH_FILE_PORTS, dir);
	/* With the host, networks start as VMs do: one that is there will come up. */
	for (unsigned ms = 0;; ms += CONNECT_RETRY_MS) {
		fd = sock_connect_packets(path);
		if (fd >= 0 || ms >= CONNECT_MS || (fd != -ENOENT && fd != -ECONNREFUSED) || access(dir, F_OK) < 0)
			break;
		usleep(CONNECT_RETRY_MS * 1000);
	}
	if (fd < 0) {
		snprintf(why, sizeof(why), "network \"%s\": %s", def->network,
			 fd == -ENOENT ? "there is none of that name; trictl net create NAME makes one" : strerror(-fd));
		return fd;
	}
	rc = greet_switch(vm, number, fd, why, sizeof(why));
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

/* ---- macvtaps -------------------------------------------------------------------------- */

static int prepare_nic(struct vm *vm, unsigned number, const char **ret_why)
{
	static const unsigned modes[] = {MACVLAN_MODE_BRIDGE, MACVLAN_MODE_VEPA, MACVLAN_MODE_PRIVATE, MACVLAN_MODE_PASSTHRU};
	const struct vmdef_nic *def = &vm->def->nics[number];
	struct machine_macvtap macvtap = {.device = def->device, .mode = modes[def->mode]};
	char name[VMDEF_INTERFACE_BYTES];

	if (def->type != VMDEF_NIC_MACVTAP)
		return 0;
	vmdef_mac_bytes(def->mac, macvtap.mac);
	vmdef_nic_device(def, name);
	/* Nobody closes what it gets: the device is there as long as this process. */
	return machine_make_macvtap(name, &macvtap, &vm->nic_keeper[number], ret_why);
}

int vm_nics_prepare(struct vm *vm)
{
	const char *why = "";
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->def->nic_count; i++) {
		rc = prepare_nic(vm, i, &why);
		if (rc)
			snprintf(vm->reason, sizeof(vm->reason), "nics[%u]: %s", i, why);
	}
	return rc;
}

/* ---- all kinds ---------------------------------------------------------------------------- */

int vm_nic_add(struct vm *vm, unsigned number, const char **ret_why)
{
	const struct vmdef_nic *def = &vm->def->nics[number];
	struct machine_nic_forward forwards[VMDEF_FORWARDS_MAX];
	char device[VMDEF_INTERFACE_BYTES];
	const char *uplinks[VMDEF_UPLINKS_MAX];
	struct machine_nic nic = {.mtu = def->mtu, .change = nic_change(def), .fd = -1};
	int rc;

	vmdef_mac_bytes(def->mac, nic.mac);
	vmdef_nic_device(def, device);
	nic.own_mac_only = def->own_mac_only;
	switch (def->type) {
	case VMDEF_NIC_USER:
		nic.type = MACHINE_NIC_USER;
		nic.user.subnet = vmdef_subnet(def, &nic.user.subnet_bits);
		nic.user.restricted = def->restricted;
		nic.user.hide_host = def->hide_host;
		nic.user.hostname = def->hostname[0] ? def->hostname : NULL;
		for (unsigned i = 0; i < def->forward_count; i++) {
			const struct vmdef_forward *f = &def->forwards[i];

			forwards[i] = (struct machine_nic_forward){
				.udp = f->protocol == VMDEF_FORWARD_UDP,
				.host_address = f->host_address[0] ? f->host_address : NULL,
				.host_port = (uint16_t)f->host_port,
				.guest_address = f->guest_address[0] ? f->guest_address : NULL,
				.guest_port = (uint16_t)f->guest_port,
			};
		}
		nic.user.forwards = forwards;
		nic.user.forward_count = def->forward_count;
		break;
	case VMDEF_NIC_TAP:
	case VMDEF_NIC_MACVTAP:
		nic.type = MACHINE_NIC_TEAM;
		uplinks[0] = device;
		nic.team.uplinks = uplinks;
		nic.team.count = 1;
		nic.team.bridge = def->bridge[0] ? def->bridge : NULL;
		break;
	case VMDEF_NIC_TEAM:
		nic.type = MACHINE_NIC_TEAM;
		for (unsigned i = 0; i < def->uplink_count; i++)
			uplinks[i] = def->uplinks[i];
		nic.team.uplinks = uplinks;
		nic.team.count = def->uplink_count;
		nic.team.balance = def->policy == VMDEF_TEAM_BALANCE;
		break;
	case VMDEF_NIC_SWITCH:
		nic.type = MACHINE_NIC_SWITCH;
		nic.fd = connect_switch(vm, number, ret_why);
		if (nic.fd < 0)
			return nic.fd;
		break;
	}
	rc = machine_add_nic(vm->machine, &nic, ret_why);
	if (rc < 0 && nic.fd >= 0)
		close(nic.fd);
	return rc;
}

void vm_nic_apply(struct vm *vm, unsigned number)
{
	const struct machine_nic_change change = nic_change(&vm->def->nics[number]);

	machine_nic_set(vm->machine, number, &change);
}
