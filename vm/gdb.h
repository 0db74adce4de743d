/* Inside the GDB server: one client, what it has asked for, and how it is answered. */
#ifndef VM_GDB_H
#define VM_GDB_H

#include "vm/gdb_packet.h"
#include "vm/gdb_registers.h"
#include "vm/private.h"

struct bufferevent;

#define GDB_POINTS_MAX MODE_DEBUG_POINTS_MAX
#define GDB_WATCH_MAX (1u << 20)

/* As the protocol numbers them (Z packets). */
enum gdb_point_type { GDB_SOFTWARE, GDB_HARDWARE, GDB_WRITE, GDB_READ, GDB_ACCESS };

struct gdb_point {
	enum gdb_point_type type;
	gva_t gva;
	uint32_t bytes;
};

struct gdb_client {
	struct vm_gdb *server;
	struct vm *vm;
	struct bufferevent *bev;
	struct gdb_parser parser;
	bool no_ack, running, physical;
	bool detached; /* it let go of the VM: only its end of the line is left */
	enum gdb_width width;
	char *xml;
	unsigned general;        /* vCPU of registers and memory */
	int resume;              /* of the old s and c packets; -1: all */
	char stop[160];          /* the last stop reply */
	struct gdb_point points[GDB_POINTS_MAX];
	unsigned point_count;
	bool points_changed;     /* the engine has not been told */
	struct cpu_state *state; /* scratch */
	char out[GDB_PACKET_MAX + 1];
	char *last;              /* the last frame, for a client that asks again */
	size_t last_bytes;
};

struct vm_gdb {
	struct vm *vm;
	int listener;
	bool listening;
	char path[PATH_MAX];
	enum vmdef_gdb_architecture architecture; /* for the next client */
	struct event *acceptable;
	struct gdb_client *client;
	unsigned refused; /* clients that were told so, and may still be writing */
};

/* ---- gdb.c ---- */
void gdb_reply(struct gdb_client *c, const char *payload, size_t bytes);
__attribute__((format(printf, 2, 3))) void gdb_replyf(struct gdb_client *c, const char *format, ...);
/* Continues as told; the reply comes when the VM stops. */
void gdb_resume(struct gdb_client *c, const enum vm_debug_action *actions);
/* The present registers of vCPU i in c->state. False: the engine does not give them. */
bool gdb_get_state(struct gdb_client *c, unsigned vcpu, struct gdb_extra *ret_extra);

/* ---- gdb_commands.c ---- */
void gdb_command(struct gdb_client *c, const char *text, size_t bytes);
/* A stop reply for a signal, with the reason if it was a point of c's. */
void gdb_describe_stop(struct gdb_client *c, unsigned vcpu, unsigned signal, const struct mode_debug_hit *hit);

/* ---- gdb_monitor.c ---- */
void gdb_monitor(struct gdb_client *c, char *line);

#endif
