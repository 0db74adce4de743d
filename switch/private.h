/* Inside trivisor-switch: one process for one network between the VMs of this host. One thread, one event loop. */
#ifndef SWITCH_PRIVATE_H
#define SWITCH_PRIVATE_H

#include <limits.h>
#include <stddef.h>
#include <sys/queue.h>

#include "proto/line.h"
#include "switch/bridge.h"

struct event;
struct event_base;
struct json_object;

#define SWITCH_NAME_BYTES 65
#define SWITCH_QUEUE_BYTES (4u << 20) /* of frames that wait for one port; beyond, they are dropped */
#define SWITCH_QUEUE_FRAMES 2048

struct waiting {
	STAILQ_ENTRY(waiting) link;
	size_t bytes;
	uint8_t message[];
};

struct port {
	struct bridge_port bridge;
	LIST_ENTRY(port) link;
	struct fabric *fabric;
	int fd;
	struct event *readable, *writable;
	bool greeted; /* it is a port of the bridge */
	char vm[SWITCH_NAME_BYTES], uuid[40], mac[18];
	unsigned nic;
	STAILQ_HEAD(, waiting) queue;
	size_t queue_bytes;
	unsigned queue_frames;
};

struct fabric {
	char dir[PATH_MAX - 64];
	struct event_base *base;
	struct bridge bridge;
	int ports_fd, control_fd, signal_fd;
	struct event *ports_event, *control_event, *signal_event, *age_event;
	LIST_HEAD(, port) ports;
	unsigned connections;
	LIST_HEAD(, client) clients;
	unsigned client_count;
	/* A message as it comes in; one byte more than may be, to see what is too long. */
	uint8_t message[sizeof(struct switch_header) + SWITCH_FRAME_MAX + 2]; /* and a NUL behind a greeting */
};

__attribute__((format(printf, 1, 2))) void switch_log(const char *format, ...);

/* ---- port.c ---- */
/* 0 or -errno. */
int ports_open(struct fabric *fabric);
void ports_close(struct fabric *fabric);
/* Everything known of each, for the caller to put. */
struct json_object *ports_json(const struct fabric *fabric);

/* ---- control.c ---- */
int control_open(struct fabric *fabric);
void control_close(struct fabric *fabric);

/* ---- sandbox.c: nothing but sockets that are open, from here on. 0 or -errno ---- */
int sandbox_enter(void);

#endif
