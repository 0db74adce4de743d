/* The host: processors, memory, and how busy they are. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/host.h"
#include "api/libvirt/private.h"

#include <stdio.h>
#include <string.h>

/* A fixed array of characters: each takes four bytes. */
static void put_chars(struct xdr_writer *out, const char *text, size_t n)
{
	size_t length = strlen(text);

	for (size_t i = 0; i < n; i++)
		xdr_put_u32(out, i < length ? (unsigned char)text[i] : 0);
}

void lv_node_get_info(struct lv_call *call, struct vm *vm)
{
	struct host_topology t;

	host_topology(&t);
	put_chars(&call->out, t.arch, 32);
	xdr_put_u64(&call->out, t.memory_kib);
	xdr_put_u32(&call->out, t.cpus);
	xdr_put_u32(&call->out, t.mhz);
	xdr_put_u32(&call->out, t.nodes);
	xdr_put_u32(&call->out, t.sockets);
	xdr_put_u32(&call->out, t.cores);
	xdr_put_u32(&call->out, t.threads);
	lv_reply(call);
}

void lv_node_get_free_memory(struct lv_call *call, struct vm *vm)
{
	xdr_put_u64(&call->out, host_meminfo("MemFree:") * 1024);
	lv_reply(call);
}

/* The host is told as one cell. */
void lv_node_get_cells_free_memory(struct lv_call *call, struct vm *vm)
{
	if (call->args[0].i != 0 || call->args[1].i < 1) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "start cell %lld out of range (0-0)", (long long)call->args[0].i);
		return;
	}
	xdr_put_u32(&call->out, 1);
	xdr_put_u64(&call->out, host_meminfo("MemFree:") * 1024);
	lv_reply(call);
}

void lv_node_get_cpu_map(struct lv_call *call, struct vm *vm)
{
	unsigned char map[HOST_CPUS_MAX / 8] = {0};
	struct host_topology t;

	if (!lv_flags(call, call->args[2].u, 0))
		return;
	host_topology(&t);
	for (unsigned i = 0; i < t.possible && i < HOST_CPUS_MAX; i++)
		if (t.online[i])
			map[i / 8] |= (unsigned char)(1u << i % 8);
	xdr_put_opaque(&call->out, map, call->args[0].i ? (t.possible + 7) / 8 : 0);
	xdr_put_u32(&call->out, call->args[1].i ? t.cpus : 0);
	xdr_put_u32(&call->out, t.possible);
	lv_reply(call);
}

struct node_row {
	const char *name;
	uint64_t value;
};

/* Names and values; how many, when the caller had no room yet. */
static void reply_rows(struct lv_call *call, int64_t room, const struct node_row *rows, unsigned n)
{
	if (room && room < n) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "nparams %lld is less than %u", (long long)room, n);
		return;
	}
	xdr_put_u32(&call->out, room ? n : 0);
	for (unsigned i = 0; room && i < n; i++) {
		xdr_put_string(&call->out, rows[i].name);
		xdr_put_u64(&call->out, rows[i].value);
	}
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

void lv_node_get_cpu_stats(struct lv_call *call, struct vm *vm)
{
	struct host_cpu_times t;

	if (!lv_flags(call, call->args[2].u, 0))
		return;
	if (!host_cpu_times((int)call->args[0].i, &t)) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "Invalid cpuNum %lld", (long long)call->args[0].i);
		return;
	}
	reply_rows(call, call->args[1].i,
		   (struct node_row[]){{VIR_NODE_CPU_STATS_KERNEL, t.system},
				       {VIR_NODE_CPU_STATS_USER, t.user},
				       {VIR_NODE_CPU_STATS_IDLE, t.idle},
				       {VIR_NODE_CPU_STATS_IOWAIT, t.iowait}},
		   4);
}

void lv_node_get_memory_stats(struct lv_call *call, struct vm *vm)
{
	if (!lv_flags(call, call->args[2].u, 0))
		return;
	if (call->args[1].i > 0) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "cellNum %lld is out of range", (long long)call->args[1].i);
		return;
	}
	reply_rows(call, call->args[0].i,
		   (struct node_row[]){{VIR_NODE_MEMORY_STATS_TOTAL, host_meminfo("MemTotal:")},
				       {VIR_NODE_MEMORY_STATS_FREE, host_meminfo("MemFree:")},
				       {VIR_NODE_MEMORY_STATS_BUFFERS, host_meminfo("Buffers:")},
				       {VIR_NODE_MEMORY_STATS_CACHED, host_meminfo("Cached:")}},
		   4);
}

/* VMs are confined by seccomp and their own user, not by a label: no model. */
void lv_node_get_security_model(struct lv_call *call, struct vm *vm)
{
	xdr_put_u32(&call->out, 0);
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}
