/*
 * Files for a VM that runs already. Its process, inside its sandbox, opens none: a second trivisor-vm (--attach), which the daemon
 * starts for this, opens them (or starts an image's server) as the first one would have done before its sandbox, and hands the
 * descriptors over, by a socket in the VM's directory. So what a VM may open is decided outside of it, for each file.
 *
 * A packet each way: {"drive","force","disc"?,"files"?} with the descriptors beside it, and {} or {"error"}.
 */
#include "vm/private.h"

#include "proto/line.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FILE_SOCKET "attach-files.sock"
#define PACKET_MAX 32768
#define ANSWER_MS 60000

struct vm_attach {
	struct vm *vm;
	int listener;
	struct event *acceptable;
};

struct parcel {
	json_object *json;
	int fds[MACHINE_DISK_FDS];
	unsigned count;
};

/* ---- packets ---------------------------------------------------------------------------------- */

static int send_packet(int socket, json_object *json, const int *fds, unsigned count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MACHINE_DISK_FDS * sizeof(int))];
	} control = {0};
	const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN);
	struct iovec iov = {(void *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int receive_packet(int socket, struct parcel *ret)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MACHINE_DISK_FDS * sizeof(int))];
	} control;
	char text[PACKET_MAX + 1];
	struct iovec iov = {text, PACKET_MAX};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	const char *why;

	*ret = (struct parcel){0};
	text[n > 0 ? n : 0] = '\0'; /* the parser wants one */
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		ret->count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(ret->fds, CMSG_DATA(c), ret->count * sizeof(int));
	}
	if (n <= 0 || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || line_parse_json(text, (size_t)n, &ret->json, &why) ||
	    !json_object_is_type(ret->json, json_type_object))
		return -EPROTO;
	return 0;
}

static void drop_parcel(struct parcel *parcel)
{
	for (unsigned i = 0; i < parcel->count; i++)
		close(parcel->fds[i]);
	json_object_put(parcel->json);
}

static const char *text_of(json_object *json, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(json, key, &value) ? json_object_get_string(value) : "";
}

/* ---- in the VM's process -------------------------------------------------------------------------- */

/* The parcel's descriptors as a disk; they are the disk's from here on. server: of an image that has one. */
static bool take_files(struct vm *vm, struct parcel *parcel, struct machine_disk *disk, struct vm_server *server)
{
	const char *files = text_of(parcel->json, "files");

	disk->no_io_uring = true; /* nobody makes rings in here any more */
	if (!strcmp(files, "raw") && parcel->count >= 2) {
		disk->opened = true;
		for (unsigned i = 0; i < MACHINE_DISK_FDS; i++)
			disk->fds[i] = i < parcel->count ? parcel->fds[i] : -1;
	} else if (!strcmp(files, "nbd") && parcel->count == 3) {
		disk->nbd = true;
		disk->nbd_fd = parcel->fds[0];
		server->vm = vm;
		server->messages = parcel->fds[1];
		server->pidfd = parcel->fds[2];
	} else {
		return false;
	}
	parcel->count = 0;
	return true;
}

/* What was in the drive is not needed any more, and its server has ended, or does so now. */
static void put_disc(struct vm *vm, unsigned number, const struct vmdef_disk *disc, const struct vm_server *server)
{
	if (vm->disk_servers)
		vm_server_finish(&vm->disk_servers[number]);
	vmdef_disk_finish(&vm->def->disks[number]);
	vm->def->disks[number] = *disc;
	if (!server->vm)
		return;
	if (!vm->disk_servers)
		vm->disk_servers = calloc(VMDEF_DISKS_MAX, sizeof(*vm->disk_servers));
	BUG_ON(!vm->disk_servers); /* some hundred bytes */
	vm->disk_servers[number] = *server;
	if (vm_server_watch(&vm->disk_servers[number], "disk", vm->def->disks[number].path))
		vm_log("disk %s: what its server says is not heard: out of memory", disc->path);
}

/* 0, or -errno and ret_why says why. */
static int change_disc(struct vm *vm, struct parcel *parcel, char *ret_why, size_t bytes)
{
	json_object *value = NULL, *json = NULL;
	int64_t number = json_object_object_get_ex(parcel->json, "drive", &value) ? json_object_get_int64(value) : -1;
	bool force = json_object_object_get_ex(parcel->json, "force", &value) && json_object_get_boolean(value);
	struct vmdef_disk disc = {0};
	struct machine_disk disk = {0};
	struct vm_server server;
	const char *why = "unknown";
	char error[VMDEF_ERROR_BYTES] = "";
	unsigned drive = 0;
	int rc;

	if (number < 0 || number >= vm->def->disk_count || vm->def->disks[number].device != VMDEF_DEVICE_CDROM) {
		snprintf(ret_why, bytes, "disks[%lld] is no CD-ROM drive", (long long)number);
		return -ENOENT;
	}
	if (!json_object_object_get_ex(parcel->json, "disc", &json) || vmdef_disk_from_json(json, &disc, error)) {
		snprintf(ret_why, bytes, "%s", error[0] ? error : "no disc is named");
		return -EINVAL;
	}
	vm_server_init(&server);
	disk.path = disc.path;
	if (disc.path[0] && !take_files(vm, parcel, &disk, &server)) {
		vmdef_disk_finish(&disc);
		snprintf(ret_why, bytes, "the descriptors do not fit");
		return -EPROTO;
	}
	for (int64_t i = 0; i < number; i++)
		drive += vm->def->disks[i].device == VMDEF_DEVICE_CDROM;
	rc = machine_change_disc(vm->machine, drive, disc.path[0] ? &disk : NULL, force, &why);
	if (rc < 0) {
		snprintf(ret_why, bytes, "%s", why);
		vm_server_close(&server);
		vmdef_disk_finish(&disc);
		return rc;
	}
	put_disc(vm, (unsigned)number, &disc, &server);
	vm_log("cdrom disks[%lld]: %s", (long long)number, disc.path[0] ? disc.path : "empty");
	return 0;
}

static void on_acceptable(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_attach *attach = opaque;
	/* Who connects has its packet ready, or will soon: the daemon waits for it, and nobody else may connect. */
	const struct timeval patience = {2, 0};
	int socket = accept4(attach->listener, NULL, NULL, SOCK_CLOEXEC), rc;
	json_object *answer = json_object_new_object();
	struct parcel parcel = {0};
	char why[VMDEF_ERROR_BYTES] = "";
	fd_set readable;

	if (socket < 0) {
		json_object_put(answer);
		return;
	}
	FD_ZERO(&readable);
	rc = -EPROTO;
	if (socket < FD_SETSIZE) {
		FD_SET(socket, &readable);
		if (select(socket + 1, &readable, NULL, NULL, &(struct timeval){patience.tv_sec, 0}) == 1)
			rc = receive_packet(socket, &parcel);
	}
	if (rc)
		snprintf(why, sizeof(why), "this is no request");
	else if (vm_state_is_final(attach->vm->state))
		snprintf(why, sizeof(why), "the VM has ended");
	else
		change_disc(attach->vm, &parcel, why, sizeof(why));
	if (why[0])
		json_object_object_add(answer, "error", json_object_new_string(why));
	send_packet(socket, answer, NULL, 0);
	json_object_put(answer);
	drop_parcel(&parcel);
	close(socket);
}

int vm_attach_open(struct vm *vm)
{
	struct vm_attach *attach = calloc(1, sizeof(*attach));
	char path[PATH_MAX];

	if (!attach)
		return -ENOMEM;
	vm->attach = attach;
	attach->vm = vm;
	snprintf(path, sizeof(path), "%s/" FILE_SOCKET, vm->options.dir);
	attach->listener = sock_listen_packets(path, 0600);
	if (attach->listener < 0)
		return attach->listener;
	attach->acceptable = event_new(vm->base, attach->listener, EV_READ | EV_PERSIST, on_acceptable, attach);
	return attach->acceptable && event_add(attach->acceptable, NULL) == 0 ? 0 : -ENOMEM;
}

void vm_attach_close(struct vm *vm)
{
	char path[PATH_MAX];

	if (!vm->attach)
		return;
	if (vm->attach->acceptable)
		event_free(vm->attach->acceptable);
	if (vm->attach->listener >= 0) {
		close(vm->attach->listener);
		snprintf(path, sizeof(path), "%s/" FILE_SOCKET, vm->options.dir);
		unlink(path);
	}
	free(vm->attach);
	vm->attach = NULL;
}

/* ---- in the process that opens them ----------------------------------------------------------------- */

/* Opens what the request's disc names, into the parcel. 0, or -errno and vm->reason says why. */
static int open_files(struct vm *vm, struct vmdef_disk *disc, struct parcel *parcel)
{
	struct machine_disk disk = {.path = disc->path, .readonly = disc->readonly, .cache = (enum machine_cache)disc->cache};
	const char *why = "unknown";
	int rc;

	if (!disc->path[0])
		return 0;
	if (vm_disk_needs_server(disc)) {
		static struct vm_server server;

		rc = vm_disk_start_server(vm, disc, &server);
		parcel->fds[0] = server.socket;
		parcel->fds[1] = server.messages;
		parcel->fds[2] = server.pidfd;
		parcel->count = 3;
	} else {
		rc = machine_open_disk(&disk, parcel->fds, &why);
		parcel->count = parcel->fds[MACHINE_DISK_DIRECT] >= 0 ? 3 : 2;
		if (rc < 0)
			snprintf(vm->reason, sizeof(vm->reason), "%s", why);
	}
	if (rc < 0)
		parcel->count = 0;
	else
		json_object_object_add(parcel->json, "files", json_object_new_string(disk.path && vm_disk_needs_server(disc) ? "nbd" : "raw"));
	return rc;
}

static int hand_over(struct vm *vm, struct parcel *parcel)
{
	const struct timeval patience = {ANSWER_MS / 1000, 0};
	struct parcel answer = {0};
	char path[PATH_MAX];
	int socket, rc;

	snprintf(path, sizeof(path), "%s/" FILE_SOCKET, vm->options.dir);
	socket = sock_connect_packets(path);
	rc = socket;
	if (socket >= 0) {
		setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		rc = send_packet(socket, parcel->json, parcel->fds, parcel->count);
		if (!rc)
			rc = receive_packet(socket, &answer);
		close(socket);
	}
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "the VM's process does not take it: %s", strerror(-rc));
	else if (text_of(answer.json, "error")[0]) {
		snprintf(vm->reason, sizeof(vm->reason), "%s", text_of(answer.json, "error"));
		rc = -EINVAL;
	}
	drop_parcel(&answer);
	return rc;
}

int vm_attach_main(struct vm *vm, const char *request)
{
	struct vmdef_disk disc = {0};
	struct parcel parcel = {0};
	json_object *json = NULL, *answer = json_object_new_object();
	const char *why = "no request";
	int rc = line_parse_json(request, strlen(request), &parcel.json, &why);

	if (rc || !json_object_is_type(parcel.json, json_type_object) || !json_object_object_get_ex(parcel.json, "disc", &json)) {
		snprintf(vm->reason, sizeof(vm->reason), "--attach: %s", why);
		rc = -EINVAL;
	} else {
		rc = vmdef_disk_from_json(json, &disc, vm->reason);
	}
	if (!rc)
		rc = open_files(vm, &disc, &parcel);
	if (!rc)
		rc = hand_over(vm, &parcel);
	if (rc)
		json_object_object_add(answer, "error", json_object_new_string(vm->reason));
	printf("%s\n", json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN));
	json_object_put(answer);
	vmdef_disk_finish(&disc);
	drop_parcel(&parcel);
	return rc ? 1 : 0;
}
