/* trictl's connection to a daemon, and the private daemon it starts when there is none. */
#ifndef API_CLI_CLIENT_H
#define API_CLI_CLIENT_H

#include "proto/line.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit statuses, as trictl(1) lists them. */
#define EXIT_ERROR 1 /* the daemon refused, or something went wrong here */
#define EXIT_USAGE 2
#define EXIT_NOT_STARTED 3
#define EXIT_CRASHED 4
#define EXIT_DESTROYED 5
#define EXIT_NO_DAEMON 6
#define EXIT_TIMEOUT 124 /* as timeout(1) */
#define EXIT_INTERRUPTED 130

struct client {
	struct line_client line;
	int64_t last_id;
	json_object *waiting; /* messages that came while another one was awaited */
	size_t waiting_at;
	bool connected;
	bool quiet; /* client_call prints nothing */
};

/* 0 or -errno. */
int client_connect(struct client *client, const char *socket_path);
/* Accepts one that never connected. */
void client_close(struct client *client);
/* Sends a request and takes params (NULL: none). Its id, or -errno. */
int64_t client_send(struct client *client, const char *method, json_object *params);
/* The next message of any kind, for the caller to put. -ETIMEDOUT, -EPIPE at the end, else -errno. timeout_ms < 0: for
 * ever. */
int client_next(struct client *client, int timeout_ms, json_object **ret_message);
/*
 * A request and its answer. 0 and *ret_result for the caller to put; otherwise a message was printed to standard error
 * and the exit status for it is returned. Takes params.
 */
int client_call(struct client *client, const char *method, json_object *params, json_object **ret_result);
/* If `message` answers `id`: true, and either *ret_result (borrowed) or *ret_error (borrowed) is set. */
bool client_is_answer(json_object *message, int64_t id, json_object **ret_result, json_object **ret_error);
/* The text of an error object; never NULL. */
const char *client_error_text(json_object *error);

/* A daemon of our own in a temporary directory; it ends, and cleans up, when we do. */
struct private_daemon {
	pid_t pid;
	int lifeline; /* its reading end is the daemon's: our end, however it comes, closes it */
	char dir[PATH_MAX];
	char socket[PATH_MAX];
};

/* Starts one and waits until it serves. 0, or a message was printed and -errno is returned. */
int private_daemon_start(struct private_daemon *daemon);
/* Ends it and its VMs, and waits for that. Accepts one that was never started (pid 0). */
void private_daemon_stop(struct private_daemon *daemon);

/* Prints "trictl: …" to standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
