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

/* A daemon that is stopped or hangs must not make its callers hang. */
#define CLIENT_ANSWER_MS 30000

struct client {
	struct line_client line;
	char socket[PATH_MAX];
	int answer_ms; /* how long client_call waits: CLIENT_ANSWER_MS, unless changed */
	int64_t last_id;
	json_object *waiting; /* messages that came while another one was awaited */
	size_t waiting_at;
	bool connected;
	bool quiet; /* client_call prints nothing */
};

/* 0 or -errno; -ETIMEDOUT when the daemon takes no connections. */
int client_connect(struct client *client, const char *socket_path);
/* Accepts one that never connected. */
void client_close(struct client *client);
/* Sends a request and takes params (NULL: none). Its id, or -errno (-EAGAIN: the daemon has not read for long). */
int64_t client_send(struct client *client, const char *method, json_object *params);
/* The next message of any kind, for the caller to put. -ETIMEDOUT, -EPIPE at the end, else -errno. timeout_ms < 0: for
 * ever. */
int client_next(struct client *client, int timeout_ms, json_object **ret_message);
/*
 * A request and its answer. 0 and *ret_result for the caller to put; otherwise a message was printed to standard error
 * and the exit status for it is returned: EXIT_NO_DAEMON also when no answer comes in time. What may take long by its
 * nature (vm.start, vm.wait, host.calibrate, vm.guest.*) is waited for as long as the daemon answers other questions. Takes params.
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

/* Says that the daemon at this socket hangs, and what can be done. Returns EXIT_NO_DAEMON. */
int complain_hung(const char *socket_path, int ms);
/* Prints "trictl: …" to standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
