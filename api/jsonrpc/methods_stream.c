/* The methods of consoles and events, and what they send. */
#include "api/jsonrpc/methods.h"

/* ---- handlers ------------------------------------------------------------------------ */

static void handle_history(struct rpc_call *call, json_object *params)
{
	struct vm *vm = NULL;
	json_object *limit = NULL;

	if (json_object_object_get_ex(params, "vm", NULL)) {
		vm = rpc_find_vm(call, params);
		if (!vm)
			return;
	}
	json_object_object_get_ex(params, "limit", &limit);
	daemon_history(call->conn->daemon, rpc_string(params, "kind"), vm,
		       limit ? (unsigned)json_object_get_int(limit) : 100,
		       rpc_done, call);
}

static void handle_console_size(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *passed = json_object_get(params);

	if (!vm) {
		json_object_put(passed);
		return;
	}
	json_object_object_del(passed, "vm");
	daemon_inspect(call->conn->daemon, vm, DAEMON_CONSOLE_SIZE, passed, 0, rpc_done, call);
}

/* clang-format off: tables, a row for each field and method */

static const struct rpc_field event_fields[] = {
	{"subscription", RPC_INTEGER, RPC_REQUIRED, .summary = "what events.subscribe answered"},
	{"time", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"},
	{"event", RPC_STRING, RPC_REQUIRED,
	 .summary = "defined, undefined, started, state, panic, reset, user_space or ended; network, of a network: its change is defined, undefined, started or stopped"},
	UUID_FIELD,
	NAME_FIELD,
	END,
};
static const struct rpc_field stored_event[] = {{"record", RPC_OBJECT, 0, .summary = "as it was when it happened"}};
static const struct rpc_field console_params[] = {
	VM_FIELD,
	{"stream", RPC_BOOLEAN, 0,
	 .summary = "send the output as console.data notifications on this connection (default: false)"},
	{"read_only", RPC_BOOLEAN, 0, .summary = "of a stream: type nothing; otherwise it is refused while somebody else is the writer"},
	{"force", RPC_BOOLEAN, 0, .summary = "of a stream: take the writer's place; that one reads on"},
	{"scrollback", RPC_INTEGER, 0, 0, 1 << 30, .summary = "of a stream: bytes of earlier output to begin with (default: all that is kept)"},
	END,
};
static const struct rpc_field console_fields[] = {
	{"path", RPC_STRING, RPC_REQUIRED,
	 .summary = "console socket, for clients on this host: raw bytes, the scrollback first"},
	{"stream", RPC_INTEGER, RPC_REQUIRED | RPC_NULLABLE, .summary = "the stream's number, null without one"},
	{"writer", RPC_BOOLEAN, 0, .summary = "of a stream: what it sends reaches the guest"},
	END,
};
static const struct rpc_field console_write_params[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"text", RPC_STRING, 0, .summary = "what to type, as UTF-8"},
	{"data", RPC_STRING, 0, .summary = "or as bytes, in base64"},
	END,
};
static const struct rpc_field console_log_params[] = {
	VM_FIELD,
	{"bytes", RPC_INTEGER, 0, 0, 4 << 20, .summary = "at most so many, the last ones (default: 4 MiB)"},
	END,
};
static const struct rpc_field console_log_fields[] = {
	{"data", RPC_STRING, RPC_REQUIRED, .summary = "bytes, in base64"},
	{"before", RPC_INTEGER, RPC_REQUIRED, .summary = "how many bytes the guest had written before these"},
	END,
};
static const struct rpc_field console_size_params[] = {
	VM_FIELD,
	{"columns", RPC_INTEGER, RPC_REQUIRED, 1, 65535, .summary = "characters in a line"},
	{"rows", RPC_INTEGER, RPC_REQUIRED, 1, 65535, .summary = "lines"},
	END,
};
static const struct rpc_field stream_params[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	END,
};
static const struct rpc_field subscribe_params[] = {
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	{"events", RPC_ARRAY, 0, .fields = rpc_text_item, .summary = "only these kinds"},
	END,
};
static const struct rpc_field subscription_fields[] = {
	{"subscription", RPC_INTEGER, RPC_REQUIRED, .summary = "a number of this connection"},
	END,
};
static const char *const history_values[] = {"events", "decisions", "results", NULL};
static const struct rpc_field history_params[] = {
	{"kind", RPC_STRING, RPC_REQUIRED, .values = history_values, .summary = "what to list"},
	{"vm", RPC_STRING, 0, 1, 200, .summary = "only of this VM"},
	{"limit", RPC_INTEGER, 0, 1, 10000, .summary = "how many, newest first (default: 100)"},
	END,
};
static const struct rpc_field console_data_fields[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"data", RPC_STRING, RPC_REQUIRED, .summary = "bytes, in base64"},
	END,
};
static const struct rpc_field console_end_fields[] = {
	{"stream", RPC_INTEGER, RPC_REQUIRED, .summary = "what vm.console answered"},
	{"reason", RPC_STRING, RPC_REQUIRED, .summary = "why no more comes"},
	END,
};

const struct rpc_method rpc_stream_methods[] = {
	{"vm.console",
	 "The VM's serial console: a socket for clients on this host, or a stream of notifications.",
	 console_params, RESULT(console_fields, "where it is"), rpc_console_open},
	{"vm.console_write",
	 "Types into a console stream. Give text or data.",
	 console_write_params, NOTHING, rpc_console_write},
	{"vm.console_close",
	 "Ends a console stream; the VM goes on.",
	 stream_params, NOTHING, rpc_console_close},
	{"vm.console_log",
	 "What is kept of the console's output: of a running VM, or of its last run.",
	 console_log_params, RESULT(console_log_fields, "the output"), rpc_console_log},
	{"vm.console_resize",
	 "Tells the size of the window that shows the console.",
	 console_size_params, NOTHING, handle_console_size},
	{"events.subscribe",
	 "Sends an `event` notification for each thing that happens.",
	 subscribe_params, RESULT(subscription_fields, "the subscription"), rpc_events_subscribe},
	{"events.unsubscribe",
	 "Ends a subscription.",
	 subscription_fields, NOTHING, rpc_events_unsubscribe},
	{"events.history",
	 "Kept events, decisions or results, newest first.",
	 history_params, ROWS(stored_event, "what was kept"), handle_history},
	{.name = NULL},
};

const struct rpc_notification rpc_notifications[] = {
	{"event", "Something happened to a VM.", {"params", RPC_OBJECT, RPC_OPEN, .fields = event_fields}},
	{"console.data", "Output of a console stream.", {"params", RPC_OBJECT, 0, .fields = console_data_fields}},
	{"image.progress", "How far a work on an image is, on the connection that wants it: at once, then four times a second.",
	 {"params", RPC_OBJECT, 0, .fields = rpc_progress_fields}},
	{"console.end", "A console stream has ended.", {"params", RPC_OBJECT, 0, .fields = console_end_fields}},
};
const size_t rpc_notification_count = sizeof(rpc_notifications) / sizeof(rpc_notifications[0]);
