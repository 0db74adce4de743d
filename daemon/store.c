/* The store's database and its worker thread. */
#include "daemon/store.h"

#include "daemon/log.h"
#include "proto/file.h"
#include "proto/paths.h"

#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SCHEMA_VERSION 3
#define KEEP_RECORDS 10000

struct job {
	struct job *next;
	int (*run)(struct store *store, struct job *job);
	enum store_record kind;
	char *uuid, *name, *json;
	double time;
	unsigned limit;
	store_done_fn done;
	void *opaque;
	int error;
	char message[512];
	json_object *rows;
};

struct queue {
	struct job *first, **last;
};

struct store {
	char dir[PATH_MAX], path[PATH_MAX + 16];
	sqlite3 *db;   /* the worker's, once it runs */
	bool writable; /* the worker's */
	unsigned added[STORE_RECORDS];
	char problem[512];
	char detail[160]; /* the worker's: SQLite's message of a job that was rolled back */

	pthread_t worker;
	bool worker_runs, stop;
	pthread_mutex_t lock; /* guards todo, finished, stop */
	pthread_cond_t wake;
	struct queue todo, finished;
	int finished_fd; /* eventfd: finished is not empty */
	struct event *finished_event;
};

static const char schema[] =
	"CREATE TABLE definition(uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, json TEXT NOT NULL, created REAL "
	"NOT NULL);"
	"CREATE TABLE decision(id INTEGER PRIMARY KEY, uuid TEXT, name TEXT, time REAL NOT NULL, json TEXT NOT NULL);"
	"CREATE TABLE result(id INTEGER PRIMARY KEY, uuid TEXT, name TEXT, time REAL NOT NULL, json TEXT NOT NULL);"
	"CREATE TABLE event(id INTEGER PRIMARY KEY, uuid TEXT, name TEXT, time REAL NOT NULL, json TEXT NOT NULL);"
	"CREATE INDEX decision_uuid ON decision(uuid); CREATE INDEX result_uuid ON result(uuid);"
	"CREATE INDEX event_uuid ON event(uuid);"
	"PRAGMA user_version=1;";
/* What each later version added, applied one after the other to what is there. */
static const char *const migrations[SCHEMA_VERSION] = {
	[1] = "CREATE TABLE note(key TEXT PRIMARY KEY, json TEXT NOT NULL, time REAL NOT NULL); PRAGMA user_version=2;",
	[2] = "CREATE TABLE outcome(id INTEGER PRIMARY KEY, uuid TEXT, name TEXT, time REAL NOT NULL, json TEXT NOT NULL);"
	      "CREATE INDEX outcome_uuid ON outcome(uuid); PRAGMA user_version=3;",
};

static const char *const tables[] = {[STORE_DECISION] = "decision", [STORE_RESULT] = "result", [STORE_EVENT] = "event",
				      [STORE_OUTCOME] = "outcome"};

/* ---- SQLite --------------------------------------------------------------- */

static int to_errno(sqlite3 *db, int r)
{
	int system = db ? sqlite3_system_errno(db) : 0;

	switch (r & 0xff) {
	case SQLITE_OK: return 0;
	case SQLITE_NOMEM: return -ENOMEM;
	case SQLITE_FULL: return -ENOSPC;
	case SQLITE_READONLY: return -EROFS;
	case SQLITE_BUSY:
	case SQLITE_LOCKED: return -EBUSY;
	case SQLITE_CONSTRAINT: return -EEXIST;
	case SQLITE_NOTADB:
	case SQLITE_CORRUPT: return -EBADMSG;
	case SQLITE_PERM:
	case SQLITE_AUTH: return -EACCES;
	default: return system ? -system : -EIO;
	}
}

static const char *remedy(int error)
{
	switch (-error) {
	case ENOSPC:
	case EDQUOT: return "free some space there, then try again";
	case EROFS: return "remount it writable or choose another with --state-dir";
	case EACCES:
	case EPERM: return "give the daemon's user write permission there or choose another with --state-dir";
	case EBUSY: return "another trivisord uses it; stop that one or choose another with --state-dir";
	case EBADMSG: return "the database there is damaged or of another program; move it away or restore it";
	default: return "see the daemon's log";
	}
}

static void describe(const struct store *store, int error, const char *detail, char *message, size_t size)
{
	snprintf(message, size, "state directory %s: %s%s%s%s; %s", store->dir,
		 error == -EBADMSG ? "no database of ours" : strerror(-error), detail ? " (" : "",
		 detail ? detail : "", detail ? ")" : "", remedy(error));
}

static int exec(sqlite3 *db, const char *sql)
{
	return to_errno(db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

static int get_number(sqlite3 *db, const char *sql, sqlite3_int64 *ret)
{
	sqlite3_stmt *statement = NULL;
	int rc = to_errno(db, sqlite3_prepare_v2(db, sql, -1, &statement, NULL));

	if (rc)
		return rc;
	rc = sqlite3_step(statement);
	if (rc == SQLITE_ROW) {
		*ret = sqlite3_column_int64(statement, 0);
		rc = 0;
	} else {
		rc = rc == SQLITE_DONE ? -ENOENT : to_errno(db, rc);
	}
	sqlite3_finalize(statement);
	return rc;
}

static int check_version(sqlite3 *db, bool create)
{
	sqlite3_int64 version = 0;
	int rc = get_number(db, "PRAGMA user_version", &version);

	if (rc)
		return rc;
	if (version > SCHEMA_VERSION || version < 0)
		return -EBADMSG;
	if (version == SCHEMA_VERSION)
		return 0;
	if (!create) /* for reading only: an older version will do */
		return version ? 0 : -ENOENT;
	rc = exec(db, "BEGIN IMMEDIATE");
	if (!rc && !version) {
		rc = exec(db, schema);
		version = 1;
	}
	for (; !rc && version < SCHEMA_VERSION; version++)
		rc = exec(db, migrations[version]);
	if (!rc)
		rc = exec(db, "COMMIT");
	if (rc && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

/*
 * locking_mode=EXCLUSIVE keeps a second daemon out and the WAL index in our own memory (no -shm file to map, so no
 * SIGBUS on a full file system).
 */
static int open_writable(struct store *store, sqlite3 **ret_db)
{
	sqlite3 *db = NULL;
	int rc = file_make_dirs(store->dir, 0700);

	if (rc)
		return rc;
	rc = to_errno(db, sqlite3_open_v2(store->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL));
	/* SQLite falls back to reading only, without a word. */
	if (!rc && sqlite3_db_readonly(db, "main") == 1)
		rc = access(store->path, W_OK) < 0 ? -errno : -EROFS;
	if (!rc)
		rc = exec(db, "PRAGMA locking_mode=EXCLUSIVE");
	if (!rc)
		rc = exec(db, "PRAGMA journal_mode=WAL");
	if (!rc)
		rc = exec(db, "PRAGMA synchronous=FULL");
	/* Takes the lock for good, and finds a read-only file now instead of at the first write. */
	if (!rc)
		rc = exec(db, "BEGIN IMMEDIATE");
	if (!rc)
		rc = exec(db, "COMMIT");
	if (!rc)
		rc = check_version(db, true);
	if (rc) {
		sqlite3_close(db);
		return rc;
	}
	*ret_db = db;
	return 0;
}

/* immutable=1 as a last resort: it reads the database without its WAL, on a medium where nothing can be locked. */
static int open_readonly(struct store *store, sqlite3 **ret_db)
{
	static const char *const options[] = {"mode=ro", "mode=ro&immutable=1"};
	char uri[PATH_MAX + 64];
	int rc = -ENOENT;

	if (strpbrk(store->path, "?#%"))
		return -EINVAL;
	for (size_t i = 0; i < 2; i++) {
		sqlite3 *db = NULL;

		snprintf(uri, sizeof(uri), "file:%s?%s", store->path, options[i]);
		rc = to_errno(db, sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL));
		if (!rc)
			rc = exec(db, "PRAGMA locking_mode=EXCLUSIVE");
		if (!rc)
			rc = check_version(db, false);
		if (!rc) {
			*ret_db = db;
			return 0;
		}
		sqlite3_close(db);
	}
	return rc;
}

/* Opens for writing if that was not possible before. */
static int ensure_writable(struct store *store)
{
	sqlite3 *db = NULL;
	int rc;

	if (store->writable)
		return 0;
	rc = open_writable(store, &db);
	if (rc)
		return rc;
	sqlite3_close(store->db);
	store->db = db;
	store->writable = true;
	return 0;
}

/* ---- jobs, on the worker -------------------------------------------------- */

/* Runs one statement with up to five bound values: text for 's', double for 'd', integer for 'i'. */
static int run_bound(struct store *store, const char *sql, const char *types, ...)
{
	sqlite3_stmt *statement = NULL;
	int rc = to_errno(store->db, sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL));
	va_list args;

	if (rc)
		return rc;
	va_start(args, types);
	for (int i = 0; types[i]; i++) {
		if (types[i] == 's') {
			const char *text = va_arg(args, const char *);

			if (text)
				sqlite3_bind_text(statement, i + 1, text, -1, SQLITE_STATIC);
			else
				sqlite3_bind_null(statement, i + 1);
		} else if (types[i] == 'd') {
			sqlite3_bind_double(statement, i + 1, va_arg(args, double));
		} else {
			sqlite3_bind_int64(statement, i + 1, va_arg(args, sqlite3_int64));
		}
	}
	va_end(args);
	rc = sqlite3_step(statement);
	rc = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : to_errno(store->db, rc);
	sqlite3_finalize(statement);
	return rc;
}

/* Keeps the message of what failed, which this would put its own in place of. SQLite may have rolled back already. */
static void roll_back(struct store *store)
{
	snprintf(store->detail, sizeof(store->detail), "%s", sqlite3_errmsg(store->db));
	if (!sqlite3_get_autocommit(store->db))
		sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}

static int run_put(struct store *store, struct job *job)
{
	return run_bound(store,
			 "INSERT INTO definition(uuid, name, json, created) VALUES(?1, ?2, ?3, ?4) "
			 "ON CONFLICT(uuid) DO UPDATE SET name=excluded.name, json=excluded.json",
			 "sssd", job->uuid, job->name, job->json, job->time);
}

static int run_delete(struct store *store, struct job *job)
{
	int rc = exec(store->db, "BEGIN IMMEDIATE");

	if (!rc)
		rc = run_bound(store, "DELETE FROM definition WHERE uuid=?1", "s", job->uuid);
	if (!rc)
		rc = run_bound(store, "DELETE FROM decision WHERE uuid=?1", "s", job->uuid);
	if (!rc)
		rc = run_bound(store, "DELETE FROM result WHERE uuid=?1", "s", job->uuid);
	if (!rc)
		rc = run_bound(store, "DELETE FROM outcome WHERE uuid=?1", "s", job->uuid);
	if (!rc)
		rc = exec(store->db, "COMMIT");
	if (rc)
		roll_back(store);
	return rc;
}

static int run_note(struct store *store, struct job *job)
{
	if (!job->json)
		return run_bound(store, "DELETE FROM note WHERE key=?1", "s", job->name);
	return run_bound(store,
			 "INSERT INTO note(key, json, time) VALUES(?1, ?2, ?3) "
			 "ON CONFLICT(key) DO UPDATE SET json=excluded.json, time=excluded.time",
			 "ssd", job->name, job->json, job->time);
}

static int run_add(struct store *store, struct job *job)
{
	char sql[160];
	int rc;

	snprintf(sql, sizeof(sql), "INSERT INTO %s(uuid, name, time, json) VALUES(?1, ?2, ?3, ?4)", tables[job->kind]);
	rc = run_bound(store, sql, "ssds", job->uuid, job->name, job->time, job->json);
	if (!rc && ++store->added[job->kind] % 256 == 0) {
		snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE id <= (SELECT max(id) FROM %s) - ?1",
			 tables[job->kind], tables[job->kind]);
		rc = run_bound(store, sql, "i", (sqlite3_int64)KEEP_RECORDS);
	}
	return rc;
}

static int run_list(struct store *store, struct job *job)
{
	sqlite3_stmt *statement = NULL;
	char sql[200];
	int rc;

	job->rows = json_object_new_array();
	if (!store->db || !job->rows)
		return job->rows ? 0 : -ENOMEM;
	snprintf(sql, sizeof(sql), "SELECT json FROM %s WHERE ?1 IS NULL OR uuid=?1 ORDER BY id DESC LIMIT ?2",
		 tables[job->kind]);
	rc = to_errno(store->db, sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL));
	if (rc)
		return rc;
	if (job->uuid)
		sqlite3_bind_text(statement, 1, job->uuid, -1, SQLITE_STATIC);
	sqlite3_bind_int(statement, 2, (int)job->limit);
	while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
		json_object *row = json_tokener_parse((const char *)sqlite3_column_text(statement, 0));

		if (row)
			json_object_array_add(job->rows, row);
	}
	rc = rc == SQLITE_DONE ? 0 : to_errno(store->db, rc);
	sqlite3_finalize(statement);
	return rc;
}

static void run_job(struct store *store, struct job *job)
{
	bool detail = false;

	store->detail[0] = '\0';
	job->error = job->run == run_list ? 0 : ensure_writable(store);
	if (!job->error) {
		job->error = job->run(store, job);
		detail = job->error != 0;
	}
	if (!job->error)
		return;
	describe(store, job->error,
		 !detail || !store->db ? NULL
		 : store->detail[0]    ? store->detail
				       : sqlite3_errmsg(store->db),
		 job->message, sizeof(job->message));
	/* A handle that met a read-only or vanished file stays broken: open it afresh next time. */
	if (detail && (job->error == -EROFS || job->error == -EIO)) {
		sqlite3_close(store->db);
		store->db = NULL;
		store->writable = false;
	}
}

static void push(struct queue *queue, struct job *job)
{
	job->next = NULL;
	*queue->last = job;
	queue->last = &job->next;
}

static struct job *take_all(struct queue *queue)
{
	struct job *first = queue->first;

	queue->first = NULL;
	queue->last = &queue->first;
	return first;
}

static void *work(void *opaque)
{
	struct store *store = opaque;
	uint64_t one = 1;

	pthread_mutex_lock(&store->lock);
	for (;;) {
		struct job *job = store->todo.first;

		if (!job) {
			if (store->stop)
				break;
			pthread_cond_wait(&store->wake, &store->lock);
			continue;
		}
		store->todo.first = job->next;
		if (!job->next)
			store->todo.last = &store->todo.first;
		pthread_mutex_unlock(&store->lock);
		run_job(store, job);
		pthread_mutex_lock(&store->lock);
		push(&store->finished, job);
		if (write(store->finished_fd, &one, sizeof(one)) != sizeof(one))
			log_error("store: cannot wake the loop: %s", strerror(errno));
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

/* ---- on the loop ---------------------------------------------------------- */

static void job_free(struct job *job)
{
	json_object_put(job->rows);
	free(job->uuid);
	free(job->name);
	free(job->json);
	free(job);
}

static void note_problem(struct store *store, const struct job *job)
{
	if (job->run == run_list)
		return;
	if (job->error && job->error != -EEXIST) {
		if (strcmp(store->problem, job->message))
			log_error("store: %s", job->message);
		snprintf(store->problem, sizeof(store->problem), "%s", job->message);
	} else if (!job->error && store->problem[0]) {
		log_notice("store: state directory %s works again", store->dir);
		store->problem[0] = '\0';
	}
}

static void deliver(evutil_socket_t fd, short what, void *opaque)
{
	struct store *store = opaque;
	struct job *job, *next;
	uint64_t count;

	if (read(store->finished_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("store: %s", strerror(errno));
	pthread_mutex_lock(&store->lock);
	job = take_all(&store->finished);
	pthread_mutex_unlock(&store->lock);
	for (; job; job = next) {
		next = job->next;
		note_problem(store, job);
		if (job->done)
			job->done(job->opaque, job->error, job->message, job->rows);
		job_free(job);
	}
}

static char *copy(const char *text, bool *failed)
{
	char *to = text ? strdup(text) : NULL;

	if (text && !to)
		*failed = true;
	return to;
}

static void submit(struct store *store, struct job template, const char *uuid, const char *name, const char *json)
{
	struct job *job = malloc(sizeof(*job));
	bool failed = false;

	if (!job) {
		if (template.done)
			template.done(template.opaque, -ENOMEM, "out of memory", NULL);
		return;
	}
	*job = template;
	job->uuid = copy(uuid, &failed);
	job->name = copy(name, &failed);
	job->json = copy(json, &failed);
	if (failed) {
		if (job->done)
			job->done(job->opaque, -ENOMEM, "out of memory", NULL);
		job_free(job);
		return;
	}
	pthread_mutex_lock(&store->lock);
	push(&store->todo, job);
	pthread_cond_signal(&store->wake);
	pthread_mutex_unlock(&store->lock);
}

void store_put_definition(struct store *store, const char *uuid, const char *name, const char *definition,
			  double created, store_done_fn done, void *opaque)
{
	submit(store, (struct job){.run = run_put, .time = created, .done = done, .opaque = opaque}, uuid, name,
	       definition);
}

void store_delete_definition(struct store *store, const char *uuid, store_done_fn done, void *opaque)
{
	submit(store, (struct job){.run = run_delete, .done = done, .opaque = opaque}, uuid, NULL, NULL);
}

void store_add(struct store *store, enum store_record kind, const char *uuid, const char *name, double time,
	       const char *json, store_done_fn done, void *opaque)
{
	submit(store, (struct job){.run = run_add, .kind = kind, .time = time, .done = done, .opaque = opaque}, uuid,
	       name, json);
}

void store_put_note(struct store *store, const char *key, const char *json, store_done_fn done, void *opaque)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	submit(store, (struct job){.run = run_note, .time = (double)now.tv_sec, .done = done, .opaque = opaque}, NULL,
	       key, json);
}

void store_list(struct store *store, enum store_record kind, const char *uuid, unsigned limit, store_done_fn done,
		void *opaque)
{
	submit(store, (struct job){.run = run_list, .kind = kind, .limit = limit, .done = done, .opaque = opaque}, uuid,
	       NULL, NULL);
}

int store_load(struct store *store, store_row_fn row, void *opaque, char *error, size_t error_size)
{
	static const char sql[] =
		"SELECT uuid, json, created,"
		" (SELECT json FROM decision d WHERE d.uuid=definition.uuid ORDER BY id DESC LIMIT 1),"
		" (SELECT json FROM result r WHERE r.uuid=definition.uuid ORDER BY id DESC LIMIT 1)"
		" FROM definition ORDER BY created, rowid";
	sqlite3_stmt *statement = NULL;
	int rc;

	if (!store->db)
		return 0;
	/* The worker has nothing to do before the loop runs: the handle is ours. */
	rc = to_errno(store->db, sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL));
	if (!rc) {
		while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
			row(opaque, (const char *)sqlite3_column_text(statement, 0),
			    (const char *)sqlite3_column_text(statement, 1), sqlite3_column_double(statement, 2),
			    (const char *)sqlite3_column_text(statement, 3),
			    (const char *)sqlite3_column_text(statement, 4));
		rc = rc == SQLITE_DONE ? 0 : to_errno(store->db, rc);
	}
	sqlite3_finalize(statement);
	if (rc)
		describe(store, rc, sqlite3_errmsg(store->db), error, error_size);
	return rc;
}

char *store_load_note(struct store *store, const char *key)
{
	sqlite3_stmt *statement = NULL;
	char *text = NULL;

	/* A database of version 1 that can only be read has none. */
	if (!store->db || sqlite3_prepare_v2(store->db, "SELECT json FROM note WHERE key=?1", -1, &statement, NULL))
		return NULL;
	sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
	if (sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0))
		text = strdup((const char *)sqlite3_column_text(statement, 0));
	sqlite3_finalize(statement);
	return text;
}

const char *store_problem(const struct store *store)
{
	return store->problem[0] ? store->problem : NULL;
}

static int start_worker(struct store *store)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&store->worker, NULL, work, store);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	store->worker_runs = r == 0;
	return -r;
}

int store_open(const char *state_dir, struct event_base *base, struct store **ret_store, char *error, size_t error_size)
{
	struct store *store = calloc(1, sizeof(*store));
	int rc = -ENOMEM;

	if (!store)
		goto out;
	store->finished_fd = -1;
	store->todo.last = &store->todo.first;
	store->finished.last = &store->finished.first;
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->wake, NULL);
	rc = -ENAMETOOLONG;
	if (snprintf(store->dir, sizeof(store->dir), "%s", state_dir) >= (int)sizeof(store->dir))
		goto out;
	snprintf(store->path, sizeof(store->path), "%s/trivisor.db", store->dir);

	rc = ensure_writable(store);
	if (rc == -EBUSY || rc == -EBADMSG || rc == -ENOMEM)
		goto out;
	if (rc) {
		describe(store, rc, NULL, store->problem, sizeof(store->problem));
		open_readonly(store, &store->db);
	}
	rc = -ENOMEM;
	store->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (store->finished_fd < 0)
		goto out;
	store->finished_event = event_new(base, store->finished_fd, EV_READ | EV_PERSIST, deliver, store);
	if (!store->finished_event || event_add(store->finished_event, NULL))
		goto out;
	rc = start_worker(store);
out:
	if (rc) {
		if (store && store->dir[0])
			describe(store, rc, NULL, error, error_size);
		else
			snprintf(error, error_size, "%s", strerror(-rc));
		store_close(store);
		return rc;
	}
	*ret_store = store;
	return 0;
}

void store_close(struct store *store)
{
	struct job *job, *next;

	if (!store)
		return;
	if (store->worker_runs) {
		pthread_mutex_lock(&store->lock);
		store->stop = true;
		pthread_cond_signal(&store->wake);
		pthread_mutex_unlock(&store->lock);
		pthread_join(store->worker, NULL);
	}
	for (job = take_all(&store->finished); job; job = next) {
		next = job->next;
		note_problem(store, job);
		job_free(job);
	}
	if (store->finished_event)
		event_free(store->finished_event);
	if (store->finished_fd >= 0)
		close(store->finished_fd);
	sqlite3_close(store->db);
	pthread_mutex_destroy(&store->lock);
	pthread_cond_destroy(&store->wake);
	free(store);
}
