/* A UNIX socket that an API serves: who may connect, how many, and what happens when descriptors run out. */
#ifndef API_LISTENER_H
#define API_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

struct event_base;
struct listener;

struct listener_config {
	const char *path;
	const char *option; /* the command line's name for the path, for messages */
	mode_t mode;        /* of the socket's file */
	const char *group;  /* whose members may connect too; NULL: only root and the daemon's own user */
	bool anybody;       /* every local user whom the file's mode lets in */
	unsigned max_clients;
};

struct listener_ops {
	/* A connection that may come in. Takes fd; says listener_client_gone once when it has ended. */
	void (*on_client)(void *opaque, int fd, const struct ucred *peer);
	/* One that may not, or (full) one too many: may write a word of explanation without blocking; fd is closed
	 * behind it. */
	void (*on_refused)(void *opaque, int fd, bool full);
};

/* Binds and serves. 0, or -errno with error naming the path or the group and the remedy; -EADDRINUSE when another
 * daemon serves it. */
int listener_create(struct event_base *base, const struct listener_config *config, const struct listener_ops *ops,
		    void *opaque, struct listener **ret_listener, char *error, size_t error_size);
/* Takes up a new group, mode and client limit; the path stays. 0 or -errno, then nothing changed. */
int listener_configure(struct listener *listener, const struct listener_config *config, char *error,
		       size_t error_size);
void listener_client_gone(struct listener *listener);
/* Stops accepting and removes the socket's file. Connections are their owner's. Accepts NULL. */
void listener_destroy(struct listener *listener);

#endif
