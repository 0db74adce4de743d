/* Storage pools: directories with names, for tools that look for disk images there. Kept in the state directory. */
#ifndef DAEMON_POOLS_H
#define DAEMON_POOLS_H

#include "daemon/daemon.h"
#include "proto/vmdef.h"

struct pools;

struct pool {
	struct pool *next;
	char name[VMDEF_NAME_MAX + 1];
	char uuid[VMDEF_UUID_BYTES];
	char *path; /* absolute, of a directory that may be missing while the pool is not active */
	bool active, autostart;
	bool transient; /* gone when it is stopped, or with the daemon */
};

/* Reads what was kept; a file that cannot be read is logged, and left alone. NULL: out of memory. */
struct pools *pools_open(const char *state_dir);
void pools_close(struct pools *pools);
/* The first one; NULL when there is none. Pools stay where they are until pool_remove. */
struct pool *pools_first(const struct pools *pools);
/* An array of all, for the caller to put. */
json_object *pools_json(const struct pools *pools);
struct pool *pools_find_name(const struct pools *pools, const char *name);
struct pool *pools_find_uuid(const struct pools *pools, const char *uuid);
struct pool *pools_find_path(const struct pools *pools, const char *path);
/*
 * Makes one, or gives the one of this name and UUID another path. uuid "" makes one up. 0 and *ret_pool; or -EEXIST,
 * -EINVAL, -ENOMEM, or what writing gave, with error saying what is wrong.
 */
int pools_define(struct pools *pools, const char *name, const char *uuid, const char *path, bool transient,
		 struct pool **ret_pool, char *error, size_t error_size);
/* After a change to active or autostart. 0, or -errno and the change holds for this daemon only. */
int pools_save(const struct pools *pools);
int pools_remove(struct pools *pools, struct pool *pool);

#endif
