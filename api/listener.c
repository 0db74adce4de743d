/* A UNIX socket that an API serves: who may connect, how many, and what happens when descriptors run out. */
#include "api/listener.h"

#include "daemon/log.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct listener {
	struct listener_ops ops;
	void *opaque;
	char path[PATH_MAX];
	int fd;
	bool has_group, anybody;
	gid_t group;
	unsigned max_clients, clients;
	struct event *accept_event;
	struct event *accept_retry; /* after we ran out of descriptors */
};

static bool in_group(int fd, const struct ucred *peer, gid_t group)
{
	gid_t groups[256];
	socklen_t size = sizeof(groups);

	if (peer->gid == group)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(groups[0]); i++)
		if (groups[i] == group)
			return true;
	return false;
}

/* The file's mode keeps others out already; this also holds where the file was made too open. */
static bool allowed(const struct listener *listener, int fd, struct ucred *ret_peer)
{
	socklen_t size = sizeof(*ret_peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		return false;
	return listener->anybody || ret_peer->uid == 0 || ret_peer->uid == geteuid() ||
	       (listener->has_group && in_group(fd, ret_peer, listener->group));
}

static void on_accept(evutil_socket_t listening, short what, void *opaque)
{
	static const struct timeval pause = {.tv_usec = 200000};
	struct listener *listener = opaque;
	struct ucred peer;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			/* The listening socket stays readable: look away for a while instead of spinning. */
			log_error("cannot accept clients: %s", strerror(errno));
			event_del(listener->accept_event);
			event_add(listener->accept_retry, &pause);
		}
		return;
	}
	if (!allowed(listener, fd, &peer)) {
		log_warning("uid %u (pid %d) may not use this daemon", (unsigned)peer.uid, (int)peer.pid);
		listener->ops.on_refused(listener->opaque, fd, false);
		close(fd);
	} else if (listener->clients >= listener->max_clients) {
		log_warning("too many clients (%u); pid %d turned away", listener->clients, (int)peer.pid);
		listener->ops.on_refused(listener->opaque, fd, true);
		close(fd);
	} else {
		listener->clients++;
		listener->ops.on_client(listener->opaque, fd, &peer);
	}
}

static void on_accept_retry(evutil_socket_t fd, short what, void *opaque)
{
	struct listener *listener = opaque;

	event_add(listener->accept_event, NULL);
}

static int find_group(const char *name, gid_t *ret_gid, char *error, size_t error_size)
{
	const struct group *group = getgrnam(name);

	if (!group) {
		snprintf(error, error_size, "socket_group: there is no group \"%s\"", name);
		return -ENOENT;
	}
	*ret_gid = group->gr_gid;
	return 0;
}

int listener_configure(struct listener *listener, const struct listener_config *config, char *error, size_t error_size)
{
	gid_t gid = (gid_t)-1;
	mode_t mode = config->mode;

	if (config->group) {
		int rc = find_group(config->group, &gid, error, error_size);

		if (rc)
			return rc;
		mode |= 0060;
	}
	if ((config->group && chown(listener->path, (uid_t)-1, gid) < 0) || chmod(listener->path, mode) < 0) {
		int rc = -errno;

		snprintf(error, error_size, "%s: cannot set group and mode: %s", listener->path, strerror(errno));
		return rc;
	}
	listener->has_group = config->group != NULL;
	listener->group = gid;
	listener->anybody = config->anybody;
	listener->max_clients = config->max_clients;
	return 0;
}

int listener_create(struct event_base *base, const struct listener_config *config, const struct listener_ops *ops,
		    void *opaque, struct listener **ret_listener, char *error, size_t error_size)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	int rc = -ENOMEM;

	snprintf(error, error_size, "out of memory");
	if (!listener)
		return rc;
	listener->ops = *ops;
	listener->opaque = opaque;
	snprintf(listener->path, sizeof(listener->path), "%s", config->path);
	listener->fd = sock_listen(config->path, 0600);
	if (listener->fd < 0) {
		rc = listener->fd;
		snprintf(error, error_size, "%s: %s%s%s", config->path, strerror(-rc),
			 rc == -EADDRINUSE ? "; another trivisord serves it, name another with "
			 : rc == -EEXIST   ? "; something that is no socket is there"
					   : "",
			 rc == -EADDRINUSE ? config->option : "");
		goto fail;
	}
	rc = listener_configure(listener, config, error, error_size);
	if (rc)
		goto fail;
	rc = -ENOMEM;
	listener->accept_event = event_new(base, listener->fd, EV_READ | EV_PERSIST, on_accept, listener);
	listener->accept_retry = event_new(base, -1, 0, on_accept_retry, listener);
	if (!listener->accept_event || !listener->accept_retry || event_add(listener->accept_event, NULL))
		goto fail;
	*ret_listener = listener;
	return 0;
fail:
	listener_destroy(listener);
	return rc;
}

void listener_client_gone(struct listener *listener)
{
	listener->clients--;
}

void listener_destroy(struct listener *listener)
{
	if (!listener)
		return;
	if (listener->accept_event)
		event_free(listener->accept_event);
	if (listener->accept_retry)
		event_free(listener->accept_retry);
	if (listener->fd >= 0) {
		unlink(listener->path);
		close(listener->fd);
	}
	free(listener);
}
