/*
 * What must outlive the daemon: VM definitions, decisions, results, events, outcomes and notes of the policy, in SQLite (WAL, synchronous=FULL) under
 * the state directory. Writes run on one worker thread, so that a slow disk does not stop the event loop; each tells
 * its outcome on the loop, and only then is it acknowledged to anybody.
 */
#ifndef DAEMON_STORE_H
#define DAEMON_STORE_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct store;

/* On the loop's thread. error is 0 or -errno, message then says what happened and the remedy (valid during the call).
 */
typedef void (*store_done_fn)(void *opaque, int error, const char *message, json_object *rows);

enum store_record { STORE_DECISION, STORE_RESULT, STORE_EVENT, STORE_OUTCOME, STORE_RECORDS };

/*
 * A directory that is read-only, full or missing is no failure here: store_problem() tells, reads give what there is,
 * and every write tries again. Fails with -EBUSY when another daemon holds the directory, -ENOMEM, or -EBADMSG when
 * the database is of a newer version or no database; error says more.
 */
int store_open(const char *state_dir, struct event_base *base, struct store **ret_store, char *error,
	       size_t error_size);
/* Finishes queued writes first; their callbacks are not called any more. */
void store_close(struct store *store);
/* Why writes fail at present; NULL when they work as far as is known. */
const char *store_problem(const struct store *store);

/* Before the loop runs: each definition in order of creation, with the last decision and result (NULL when none). */
typedef void (*store_row_fn)(void *opaque, const char *uuid, const char *definition, double created,
			     const char *decision, const char *result);
/* The text under a key of store_put_note, malloc'd, or NULL. Before the loop runs, as store_load. */
char *store_load_note(struct store *store, const char *key);
int store_load(struct store *store, store_row_fn row, void *opaque, char *error, size_t error_size);

/* Inserts, or replaces the one with this UUID. done may be NULL. */
void store_put_definition(struct store *store, const char *uuid, const char *name, const char *definition,
			  double created, store_done_fn done, void *opaque);
/* One text under a key of its own, such as the host's calibration; replaces. NULL deletes it. done may be NULL. */
void store_put_note(struct store *store, const char *key, const char *json, store_done_fn done, void *opaque);
/* Also deletes the VM's decisions, results and outcomes. */
void store_delete_definition(struct store *store, const char *uuid, store_done_fn done, void *opaque);
/* The newest 10000 of each kind are kept. uuid may be NULL for an event of the daemon itself. */
void store_add(struct store *store, enum store_record kind, const char *uuid, const char *name, double time,
	       const char *json, store_done_fn done, void *opaque);
/* Newest first, at most `limit`, of one VM (uuid) or all (NULL): rows is an array of the objects that were added. */
void store_list(struct store *store, enum store_record kind, const char *uuid, unsigned limit, store_done_fn done,
		void *opaque);

#endif
