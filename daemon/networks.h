/* Networks between VMs: each is a trivisor-switch process, which outlives the daemon. Kept in the store. */
#ifndef DAEMON_NETWORKS_H
#define DAEMON_NETWORKS_H

#include "daemon/daemon.h"

struct networks;

/* Takes up those that are stored: adopts their processes, or starts them. 0 or -errno. */
int networks_open(struct daemon *daemon, struct networks **ret_networks);
/* Leaves the processes running; nobody is answered any more. Accepts NULL. */
void networks_close(struct networks *networks);

/* For libvirt's clients a network that is always there: NICs of type user. No other may have its name. */
#define NET_BUILTIN "default"

struct net_definition {
	const char *name;
	const char *uuid;	 /* "": made up */
	const char *libvirt_xml; /* or NULL: kept for who asks for it */
	bool autostart;		 /* with the daemon */
	bool transient;		 /* gone when it is stopped */
	bool start;		 /* now */
};
/*
 * Answers a row as daemon_net_list has them once it is stored and, with `start`, its process runs. One of that name and UUID
 * gets the new XML.
 */
void daemon_net_define(struct daemon *daemon, const struct net_definition *def, daemon_done_fn done, void *opaque);
void daemon_net_start(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
/* Its process ends: the cables of VMs that are connected are unplugged until they are started again. */
void daemon_net_stop(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
void daemon_net_set_autostart(struct daemon *daemon, const char *name, bool on, daemon_done_fn done, void *opaque);
/* An active one becomes transient, another is deleted. */
void daemon_net_undefine(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
/* What it was defined with, malloc'd; NULL: nothing of the kind. */
char *daemon_net_xml(struct daemon *daemon, const char *name);
/* Only while no VM is connected to it. */
void daemon_net_delete(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque);
/* An array of {"name","uuid","active","autostart","transient","created"}. */
json_object *daemon_net_list(struct daemon *daemon);
/* One of them; NULL: there is none of that name. */
json_object *daemon_net_get(struct daemon *daemon, const char *name);
/* What its process says: SWITCH_STATS or SWITCH_PORTS of proto/switch.h. */
void daemon_net_ask(struct daemon *daemon, const char *name, const char *method, daemon_done_fn done, void *opaque);

#endif
