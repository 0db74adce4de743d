/* Between the files of machine/vmware. All of it under the machine lock. */
#ifndef MACHINE_VMWARE_PRIVATE_H
#define MACHINE_VMWARE_PRIVATE_H

#include <sys/queue.h>

#include "machine/private.h"
#include "machine/vmware/vmware.h"

#define CHANNELS 64u
#define MESSAGE_MAX (64u << 10) /* from the guest; open-vm-tools' GUESTMSG_MAX_IN_SIZE */
#define COMMANDS_MAX 16u	/* that wait for the tools */
#define COMMAND_MAX 128u
#define LOG_PURSE 100u

enum channel_kind { CHANNEL_FREE, CHANNEL_RPCI, CHANNEL_TCLO };

struct buffer {
	uint8_t *data;
	uint32_t bytes, room;
};

/* A message goes one way at a time: in from the guest, then out to it. */
struct channel {
	enum channel_kind kind;
	bool cookies, receiving, has_out;
	uint32_t cookie[2];
	uint32_t in_size; /* announced; `in` has what came of it */
	struct buffer in, out;
	uint32_t out_at;
	uint64_t used_at; /* machine_clock_ns */
	/* TCLO: what the guest has been asked last, and not answered yet. */
	bool greeted, tools;
	char asked[COMMAND_MAX];
};

struct variable {
	SLIST_ENTRY(variable) link;
	uint32_t bytes;
	char *value; /* NUL behind it */
	char name[];
};

struct vmware {
	struct machine *machine;
	struct machine_device device;
	struct vmware_config config;
	struct channel channels[CHANNELS];

	SLIST_HEAD(, variable) variables;
	uint32_t variable_count, variable_bytes;

	struct vmware_guest guest;
	struct buffer reports[VMWARE_REPORTS];
	char commands[COMMANDS_MAX][COMMAND_MAX]; /* for the tools: a ring */
	unsigned commands_first, commands_count;

	bool sync; /* the tools keep the guest's clock at the host's */

	/* Log lines are paid for: a full purse at first, and some more each second. */
	unsigned log_purse, log_dropped;
	uint64_t log_filled_at;

	uint64_t calls, messages, refused;
};

/* -ENOMEM leaves it as it was. */
int vmware_buffer_set(struct buffer *buffer, const void *data, uint32_t bytes);
int vmware_buffer_append(struct buffer *buffer, const void *data, uint32_t bytes);
void vmware_buffer_free(struct buffer *buffer);

/* message.c */
void vmware_message(struct vmware *w, uint32_t r[VMWARE_REGISTERS]);
void vmware_channel_close(struct channel *c);

/* rpc.c: a whole message has come; puts the reply into c->out (RPCI), or notes what it says (TCLO). */
void vmware_request(struct vmware *w, struct channel *c);
/* TCLO: the next command, into c->out. False: none. */
bool vmware_next_command(struct vmware *w, struct channel *c);
/* The guest starts anew: what was told of the last one is forgotten, variables stay. */
void vmware_rpc_reset(struct vmware *w);
void vmware_rpc_free(struct vmware *w);

#endif
