/* What the tables of methods share: one file for each name space, methods_*.c, and methods.c that joins them. */
#ifndef API_JSONRPC_METHODS_H
#define API_JSONRPC_METHODS_H

#include "api/jsonrpc/private.h"

/* A table for each file; a row without a name ends it. The order of methods.c is that of docs/api.md. */
extern const struct rpc_method rpc_host_methods[];
extern const struct rpc_method rpc_vm_methods[];
extern const struct rpc_method rpc_tools_methods[];
extern const struct rpc_method rpc_guest_methods[];
extern const struct rpc_method rpc_inspect_methods[];
extern const struct rpc_method rpc_screen_methods[];
extern const struct rpc_method rpc_device_methods[];
extern const struct rpc_method rpc_net_methods[];
extern const struct rpc_method rpc_stream_methods[];
extern const struct rpc_method rpc_image_methods[];
extern const struct rpc_field rpc_progress_fields[];

/* ---- shapes that several methods share ------------------------------------------------ */

extern const char *const rpc_mode_values[];
extern const char *const rpc_state_values[];
extern const struct rpc_field rpc_no_fields[];
extern const struct rpc_field rpc_vm_only[];
extern const struct rpc_field rpc_text_item[];
extern const struct rpc_field rpc_decision_fields[];
extern const struct rpc_field rpc_where_fields[];
extern const struct rpc_field rpc_balloon_fields[];

/* clang-format off: rows of tables */
#define END {.name = NULL}
#define VM_FIELD {"vm", RPC_STRING, RPC_REQUIRED, 1, 200, .summary = "the VM's name or UUID"}
#define UUID_FIELD {"uuid", RPC_STRING, RPC_REQUIRED, .summary = "the VM's UUID"}
#define NAME_FIELD {"name", RPC_STRING, RPC_REQUIRED, .summary = "the VM's name"}
#define STATE_FIELD \
	{"state", RPC_STRING, RPC_REQUIRED, .values = rpc_state_values, \
	 .summary = "defined: it never ran; the last four are how its last run ended"}
#define NOTHING {"result", RPC_OBJECT, 0, .fields = rpc_no_fields, .summary = "an empty object"}
#define RESULT(shape, text) {"result", RPC_OBJECT, 0, .fields = shape, .summary = text}
#define ROWS(item, text) {"result", RPC_ARRAY, 0, .fields = item, .summary = text}
/* clang-format on */

/* ---- what handlers share -------------------------------------------------------------- */

/* The VM that `vm` names; NULL: there is none, and the call was answered. */
struct vm *rpc_find_vm(struct rpc_call *call, json_object *params);
/* The same where `vm` may be absent (NULL then). False: the call was answered. */
bool rpc_maybe_vm(struct rpc_call *call, json_object *params, struct vm **ret_vm);
/* Asks the VM's process: the parameters go there as they are, but for its name. seconds: what it may take beyond the usual. */
void rpc_inspect(struct rpc_call *call, json_object *params, enum daemon_inspection what, double seconds);
/* The parameter `definition`, which stays the call's; NULL: absent. */
json_object *rpc_definition(json_object *params);

#endif
