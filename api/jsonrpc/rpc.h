/* JSON-RPC 2.0 over a UNIX socket: what trivisord's main needs of it. */
#ifndef API_JSONRPC_RPC_H
#define API_JSONRPC_RPC_H

#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

struct daemon;
struct rpc_server;

struct rpc_server_config {
	const char *path;
	mode_t mode;       /* of the socket's file */
	const char *group; /* whose members may connect too; NULL: only root and the daemon's own user */
	unsigned max_clients;
};

/*
 * Serves newline-delimited JSON-RPC 2.0 on the daemon's loop. 0, or -errno with error saying what is wrong with the
 * path or the group; -EADDRINUSE when another daemon serves it.
 */
int rpc_server_create(struct daemon *daemon, const struct rpc_server_config *config, struct rpc_server **ret_server,
		      char *error, size_t error_size);
/* Takes up a new group, mode and client limit; the path stays. 0 or -errno, then nothing changed. */
int rpc_server_configure(struct rpc_server *server, const struct rpc_server_config *config, char *error,
			 size_t error_size);
/* Closes every connection and removes the socket. Accepts NULL. */
void rpc_server_destroy(struct rpc_server *server);

/* The reference of all methods, from the table that dispatches them: Markdown (docs/api.md), or the OpenRPC document.
 */
void rpc_print_markdown(FILE *to);
void rpc_print_openrpc(FILE *to);

#endif
