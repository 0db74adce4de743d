/* Networks between VMs: each is a trivisor-switch process, which outlives the daemon. Kept in the store. */
#ifndef DAEMON_NETWORKS_H
#define DAEMON_NETWORKS_H

#include "daemon/daemon.h"

struct networks;

/* Takes up those that are stored: adopts their processes, or starts them. 0 or -errno. */
int networks_open(struct daemon *daemon, struct networks **ret_networks);
/* Leaves the processes running; nobody is answered any more. Accepts NULL. */
void networks_close(struct networks *networks);

/* Answers {"name","active"} once it is stored and its process runs. */
void daemon_net_create(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
/* Only while no VM is connected to it. */
void daemon_net_delete(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
/* An array of {"name","active","created"}. */
json_object *daemon_net_list(struct daemon *daemon);
/* One of them; NULL: there is none of that name. */
json_object *daemon_net_get(struct daemon *daemon, const char *name);
/* What its process says: SWITCH_STATS or SWITCH_PORTS of proto/switch.h. */
void daemon_net_ask(struct daemon *daemon, const char *name, const char *method, daemon_done_fn done, void *opaque);

#endif
