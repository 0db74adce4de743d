/* libvirt's RPC on UNIX sockets: what trivisord's main needs of it. */
#ifndef API_LIBVIRT_LV_H
#define API_LIBVIRT_LV_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct daemon;
struct lv_server;

struct lv_server_config {
	const char *path;    /* NULL: not served */
	const char *ro_path; /* the read-only socket; NULL: none */
	mode_t mode;         /* of both sockets' files */
	const char *group;   /* whose members may connect too; NULL: only root and the daemon's own user */
	unsigned max_clients;
};

/*
 * Serves libvirt's protocol on the daemon's loop. 0, or -errno with error naming the path and the remedy;
 * -EADDRINUSE when another daemon serves it.
 */
int lv_server_create(struct daemon *daemon, const struct lv_server_config *config, struct lv_server **ret_server,
		     char *error, size_t error_size);
/* Takes up a new group, mode and client limit; the paths stay. Accepts NULL. */
int lv_server_configure(struct lv_server *server, const struct lv_server_config *config, char *error,
			size_t error_size);
/* Closes every connection and removes the sockets. Accepts NULL. */
void lv_server_destroy(struct lv_server *server);

#endif
