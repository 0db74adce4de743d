/* The store's requests, watches and transactions, and its ring. */
#include "modes/pv/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

#include "modes/pv/private.h"
#include "modes/pv/store_tree.h"

#define TRANSACTIONS_MAX 10u
#define WATCHES_MAX 128u
#define OUTPUT_MAX (1u << 20)
#define PATHS_MAX 64u

struct watch {
	char *path, *token; /* as the guest said them; NULL: a back end's */
	bool relative;
	char *absolute;
	void (*fn)(void *opaque, const char *path);
	void *opaque;
	struct watch *next;
};

/* What a transaction changed, for the watches at its end. */
struct change {
	struct change *next;
	char path[];
};

struct transaction {
	uint32_t id; /* 0: free */
	struct store_tree tree;
	uint64_t generation; /* of the store, when it began */
	bool wrote;
	struct change *changes;
};

struct pv_store {
	pthread_mutex_t lock;
	struct store_tree tree;
	uint64_t generation; /* of tree's changes */
	struct watch *watches;	 /* the guest's */
	struct watch *back_ends; /* only grows while the guest runs, so that it may be walked without the lock */
	unsigned watch_count; /* of the guest's */
	struct transaction transaction[TRANSACTIONS_MAX];
	uint32_t last_transaction;
	uint8_t *output;
	size_t output_bytes, output_room;
	struct change *told; /* for back ends' watches, once the lock is free */
	void (*wake)(void *opaque);
	void *opaque;
};

static const char home[] = "/local/domain/1";

/* ---- output -------------------------------------------------------------------------- */

static bool put_output(struct pv_store *s, uint32_t type, uint32_t request, uint32_t transaction, const void *bytes, size_t n)
{
	const struct xsd_sockmsg h = {.type = type, .req_id = request, .tx_id = transaction, .len = (uint32_t)n};

	if (s->output_bytes + sizeof(h) + n > s->output_room) {
		size_t room = (s->output_bytes + sizeof(h) + n) * 2;
		uint8_t *more = room <= OUTPUT_MAX ? realloc(s->output, room) : NULL;

		if (!more)
			return false; /* a guest that does not read loses what it asked for */
		s->output = more;
		s->output_room = room;
	}
	memcpy(s->output + s->output_bytes, &h, sizeof(h));
	memcpy(s->output + s->output_bytes + sizeof(h), bytes, n);
	s->output_bytes += sizeof(h) + n;
	return true;
}

size_t pv_store_output(struct pv_store *s, void *buf, size_t max)
{
	pthread_mutex_lock(&s->lock);
	size_t n = s->output_bytes < max ? s->output_bytes : max;
	if (n) {
		memcpy(buf, s->output, n);
		memmove(s->output, s->output + n, s->output_bytes - n);
		s->output_bytes -= n;
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- watches ------------------------------------------------------------------------------ */

static bool below(const char *path, const char *top)
{
	size_t n = strlen(top);

	return n == 1 || (!strncmp(path, top, n) && (path[n] == '\0' || path[n] == '/'));
}

static void tell_guest(struct pv_store *s, const struct watch *w, const char *path)
{
	char text[STORE_PATH_MAX * 2];
	size_t n;

	if (w->relative && !strncmp(path, home, sizeof(home) - 1) && path[sizeof(home) - 1] == '/')
		path += sizeof(home);
	n = strlen(path) + 1 + strlen(w->token) + 1;
	if (n > XENSTORE_PAYLOAD_MAX || n > sizeof(text))
		return;
	memcpy(text, path, strlen(path) + 1);
	memcpy(text + strlen(path) + 1, w->token, strlen(w->token) + 1);
	put_output(s, XS_WATCH_EVENT, 0, 0, text, n);
}

static void note(struct change **list, const char *path)
{
	struct change *c = malloc(sizeof(*c) + strlen(path) + 1), **end = list;

	if (!c)
		return;
	memcpy(c->path, path, strlen(path) + 1);
	c->next = NULL;
	while (*end)
		end = &(*end)->next;
	*end = c;
}

/* A change at path; `removed`: of all below too. */
static void fire(struct pv_store *s, const char *path, bool removed)
{
	for (const struct watch *w = s->watches; w; w = w->next) {
		bool hit = below(path, w->absolute);

		if (!hit && !(removed && below(w->absolute, path)))
			continue;
		tell_guest(s, w, hit ? path : w->absolute);
	}
	note(&s->told, path);
}

/* Back ends act on what they are told, and may change the store while they do: so no lock is held. */
static void tell_back_ends(struct pv_store *s)
{
	for (;;) {
		pthread_mutex_lock(&s->lock);
		struct change *c = s->told;
		if (c)
			s->told = c->next;
		pthread_mutex_unlock(&s->lock);
		if (!c)
			return;
		for (const struct watch *w = __atomic_load_n(&s->back_ends, __ATOMIC_ACQUIRE); w; w = w->next)
			if (below(c->path, w->absolute) || below(w->absolute, c->path)) /* removed with all around it */
				w->fn(w->opaque, c->path);
		free(c);
	}
}

static void watch_free(struct watch *w)
{
	free(w->path);
	free(w->token);
	free(w->absolute);
	free(w);
}

static void drop_watches(struct watch **list)
{
	while (*list) {
		struct watch *w = *list;

		*list = w->next;
		watch_free(w);
	}
}

static void drop_guest_watches(struct pv_store *s)
{
	drop_watches(&s->watches);
	s->watch_count = 0;
}

/* ---- a request ---------------------------------------------------------------------------------- */

struct request {
	struct pv_store *s;
	const struct xsd_sockmsg *h;
	const char *payload;
	size_t n;
	struct transaction *t; /* NULL: none */
	struct store_tree *tree;
	char path[STORE_PATH_MAX + 1];
};

static void answer(struct request *r, const void *bytes, size_t n)
{
	put_output(r->s, r->h->type, r->h->req_id, r->h->tx_id, bytes, n);
}

static void ok(struct request *r) { answer(r, "OK", 3); }

static int absolute(const char *path, size_t max, char *ret)
{
	int n = path[0] == '/' ? snprintf(ret, max, "%s", path) : snprintf(ret, max, "%s/%s", home, path);

	return n < 0 || (size_t)n >= max || !store_path_ok(ret) ? -EINVAL : 0;
}

/* The first string of the payload as a path. */
static int take_path(struct request *r)
{
	if (!memchr(r->payload, '\0', r->n))
		return -EINVAL;
	return absolute(r->payload, sizeof(r->path), r->path);
}

static int look_up(struct request *r, bool write, struct store_node **ret_node)
{
	int rc = take_path(r);

	if (rc)
		return rc;
	struct store_node *node = store_find(r->tree, r->path);
	if (!node)
		return store_may(store_nearest(r->tree, r->path), PV_DOMAIN_ID, write) ? -ENOENT : -EACCES;
	if (!store_may(node, PV_DOMAIN_ID, write))
		return -EACCES;
	*ret_node = node;
	return 0;
}

static void changed(struct request *r, bool removed)
{
	if (r->t) {
		r->t->wrote = true;
		note(&r->t->changes, r->path);
	} else {
		r->s->generation++;
		fire(r->s, r->path, removed);
	}
}

static int do_directory(struct request *r, bool part)
{
	char list[XENSTORE_PAYLOAD_MAX];
	const char *text = part && r->n ? memchr(r->payload, '\0', r->n) : NULL;
	size_t offset = text && text + 1 < r->payload + r->n ? strtoul(text + 1, NULL, 10) : 0, at = 0, n = 0;
	struct store_node *node;
	bool all = true;
	int rc = look_up(r, false, &node);

	if (rc)
		return rc;
	if (part)
		n = (size_t)snprintf(list, sizeof(list), "%llu", (unsigned long long)r->s->generation) + 1;
	for (const struct store_node *c = node->child; c; c = c->next) {
		size_t bytes = strlen(c->name) + 1;

		if (at < offset) {
			at += bytes;
			continue;
		}
		if (n + bytes > sizeof(list) - 1) {
			all = false;
			break;
		}
		memcpy(list + n, c->name, bytes);
		n += bytes;
	}
	if (!all && !part)
		return -E2BIG;
	if (part && all)
		list[n++] = '\0';
	answer(r, list, n);
	return 0;
}

static int do_read(struct request *r)
{
	struct store_node *node;
	int rc = look_up(r, false, &node);

	if (!rc)
		answer(r, node->value, node->bytes);
	return rc;
}

static int do_write(struct request *r, bool only_make)
{
	size_t path = strnlen(r->payload, r->n) + 1;
	struct store_node *node;
	int rc = take_path(r);

	if (rc)
		return rc;
	if (!store_may(store_nearest(r->tree, r->path), PV_DOMAIN_ID, true))
		return -EACCES;
	if (only_make && store_find(r->tree, r->path)) {
		ok(r);
		return 0;
	}
	node = store_make(r->tree, r->path, &rc);
	if (!node)
		return rc;
	if (!only_make)
		rc = store_set_value(r->tree, node, r->payload + path, r->n - path);
	if (rc)
		return rc;
	changed(r, false);
	ok(r);
	return 0;
}

static int do_remove(struct request *r)
{
	struct store_node *node;
	int rc = look_up(r, true, &node);

	if (rc == -ENOENT && store_find(r->tree, r->path) == NULL) {
		/* Nothing to remove, in a place that there is: fine. */
		char parent[STORE_PATH_MAX + 1];

		snprintf(parent, sizeof(parent), "%.*s", (int)(strrchr(r->path, '/') - r->path), r->path);
		if (!parent[0] || !store_find(r->tree, parent))
			return rc;
		ok(r);
		return 0;
	}
	if (rc)
		return rc;
	if (node == r->tree->root)
		return -EINVAL;
	store_remove(r->tree, r->path);
	changed(r, true);
	ok(r);
	return 0;
}

static int do_get_permissions(struct request *r)
{
	char text[STORE_PERMISSIONS_MAX * 16];
	struct store_node *node;
	size_t n = 0;
	int rc = look_up(r, false, &node);

	for (unsigned i = 0; !rc && i < node->permissions; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%c%u", node->permission[i].letter, node->permission[i].domain) + 1;
	if (!rc)
		answer(r, text, n);
	return rc;
}

static int do_set_permissions(struct request *r)
{
	struct store_permission p[STORE_PERMISSIONS_MAX];
	struct store_node *node;
	unsigned count = 0;
	int rc = look_up(r, true, &node);

	if (rc)
		return rc;
	if (node->permission[0].domain != PV_DOMAIN_ID)
		return -EACCES;
	for (size_t at = strlen(r->payload) + 1; at < r->n; at += strnlen(r->payload + at, r->n - at) + 1) {
		char *end;

		if (count == ARRAY_SIZE(p) || !memchr(r->payload + at, '\0', r->n - at) || !strchr("nrwb", r->payload[at]) || !r->payload[at])
			return -EINVAL;
		p[count].letter = r->payload[at];
		p[count++].domain = (uint32_t)strtoul(r->payload + at + 1, &end, 10);
		if (*end)
			return -EINVAL;
	}
	if (!count)
		return -EINVAL;
	if (p[0].domain != PV_DOMAIN_ID) /* nobody gives a node away */
		return -EPERM;
	memcpy(node->permission, p, sizeof(p[0]) * count);
	node->permissions = count;
	changed(r, false);
	ok(r);
	return 0;
}

/* Two strings of the payload. */
static int take_watch(struct request *r, const char **ret_token)
{
	const char *token = memchr(r->payload, '\0', r->n);

	if (!token++ || !memchr(token, '\0', (size_t)(r->payload + r->n - token)))
		return -EINVAL;
	*ret_token = token;
	/* Names of events rather than nodes are no business of an ordinary domain's. */
	return r->payload[0] == '@' ? -EACCES : absolute(r->payload, sizeof(r->path), r->path);
}

static int do_watch(struct request *r)
{
	struct pv_store *s = r->s;
	struct watch *w, **end;
	const char *token;
	int rc = take_watch(r, &token);

	if (rc)
		return rc;
	if (s->watch_count >= WATCHES_MAX)
		return -ENOSPC;
	for (w = s->watches; w; w = w->next)
		if (!strcmp(w->path, r->payload) && !strcmp(w->token, token))
			return -EEXIST;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->path = strdup(r->payload);
	w->token = strdup(token);
	w->absolute = strdup(r->path);
	w->relative = r->payload[0] != '/';
	if (!w->path || !w->token || !w->absolute) {
		watch_free(w);
		return -ENOMEM;
	}
	for (end = &s->watches; *end; end = &(*end)->next)
		;
	*end = w;
	s->watch_count++;
	ok(r);
	tell_guest(s, w, w->absolute);
	return 0;
}

static int do_unwatch(struct request *r)
{
	const char *token;
	int rc = take_watch(r, &token);

	if (rc)
		return rc;
	for (struct watch **at = &r->s->watches; *at; at = &(*at)->next) {
		struct watch *w = *at;

		if (strcmp(w->path, r->payload) || strcmp(w->token, token))
			continue;
		*at = w->next;
		watch_free(w);
		r->s->watch_count--;
		ok(r);
		return 0;
	}
	return -ENOENT;
}

/* ---- transactions --------------------------------------------------------------------------------- */

static void free_changes(struct change **list)
{
	while (*list) {
		struct change *next = (*list)->next;

		free(*list);
		*list = next;
	}
}

static void transaction_free(struct transaction *t)
{
	if (!t->id)
		return;
	store_tree_finish(&t->tree);
	free_changes(&t->changes);
	*t = (struct transaction){0};
}

static int do_begin(struct request *r)
{
	struct transaction *t = NULL;
	char text[16];
	int rc;

	for (unsigned i = 0; i < TRANSACTIONS_MAX && !t; i++)
		if (!r->s->transaction[i].id)
			t = &r->s->transaction[i];
	if (r->t)
		return -EBUSY;
	if (!t)
		return -ENOSPC;
	rc = store_tree_copy(&t->tree, &r->s->tree);
	if (rc)
		return rc;
	t->id = ++r->s->last_transaction ? r->s->last_transaction : ++r->s->last_transaction;
	t->generation = r->s->generation;
	snprintf(text, sizeof(text), "%u", t->id);
	answer(r, text, strlen(text) + 1);
	return 0;
}

/* It happens as a whole, or, if anything has changed since it began, not at all. */
static int do_end(struct request *r)
{
	struct pv_store *s = r->s;
	struct transaction *t = r->t;
	bool commit = r->n && r->payload[0] == 'T';
	int rc = 0;

	if (!t)
		return -ENOENT;
	if (!r->n || (r->payload[0] != 'T' && r->payload[0] != 'F'))
		return -EINVAL;
	if (commit && t->wrote && t->generation != s->generation)
		rc = -EAGAIN;
	if (commit && t->wrote && !rc) {
		struct store_tree old = s->tree;

		s->tree = t->tree;
		t->tree = old;
		s->generation++;
		for (const struct change *c = t->changes; c; c = c->next)
			fire(s, c->path, !store_find(&s->tree, c->path));
	}
	if (!rc)
		ok(r);
	transaction_free(t);
	return rc;
}

/* ---- dispatch ------------------------------------------------------------------------------------------ */

static int do_domain_path(struct request *r)
{
	char text[32];

	if (!memchr(r->payload, '\0', r->n))
		return -EINVAL;
	snprintf(text, sizeof(text), "/local/domain/%u", (unsigned)strtoul(r->payload, NULL, 10));
	answer(r, text, strlen(text) + 1);
	return 0;
}

static int perform(struct request *r)
{
	switch (r->h->type) {
	case XS_DIRECTORY: return do_directory(r, false);
	case XS_DIRECTORY_PART: return do_directory(r, true);
	case XS_READ: return do_read(r);
	case XS_WRITE: return do_write(r, false);
	case XS_MKDIR: return do_write(r, true);
	case XS_RM: return do_remove(r);
	case XS_GET_PERMS: return do_get_permissions(r);
	case XS_SET_PERMS: return do_set_permissions(r);
	case XS_WATCH: return do_watch(r);
	case XS_UNWATCH: return do_unwatch(r);
	case XS_RESET_WATCHES:
		drop_guest_watches(r->s);
		for (unsigned i = 0; i < TRANSACTIONS_MAX; i++)
			transaction_free(&r->s->transaction[i]);
		ok(r);
		return 0;
	case XS_TRANSACTION_START: return do_begin(r);
	case XS_TRANSACTION_END: return do_end(r);
	case XS_GET_DOMAIN_PATH: return do_domain_path(r);
	case XS_IS_DOMAIN_INTRODUCED:
	case XS_INTRODUCE:
	case XS_RELEASE:
	case XS_RESUME:
	case XS_SET_TARGET:
	case XS_CONTROL: return -EACCES; /* for who rules other domains */
	default: return -ENOSYS;
	}
}

static const char *error_name(int rc)
{
	static const struct {
		int error;
		const char *name;
	} names[] = {
		{EINVAL, "EINVAL"}, {EACCES, "EACCES"}, {EEXIST, "EEXIST"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"}, {ENOSPC, "ENOSPC"},
		{ENOSYS, "ENOSYS"}, {EBUSY, "EBUSY"}, {EAGAIN, "EAGAIN"}, {E2BIG, "E2BIG"}, {EPERM, "EPERM"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].error == -rc)
			return names[i].name;
	return "EIO";
}

void pv_store_request(struct pv_store *s, const struct xsd_sockmsg *header, const char *payload)
{
	struct request r = {.s = s, .h = header, .payload = payload, .n = header->len, .tree = &s->tree};
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (header->tx_id) {
		for (unsigned i = 0; i < TRANSACTIONS_MAX; i++)
			if (s->transaction[i].id == header->tx_id)
				r.t = &s->transaction[i];
		if (r.t)
			r.tree = &r.t->tree;
		else
			rc = -ENOENT;
	}
	if (!rc)
		rc = perform(&r);
	if (rc) {
		const char *name = error_name(rc);

		put_output(s, XS_ERROR, header->req_id, header->tx_id, name, strlen(name) + 1);
	}
	pthread_mutex_unlock(&s->lock);
	tell_back_ends(s);
}

/* ---- life -------------------------------------------------------------------------------------------------- */

int pv_store_create(struct pv_store **ret_store)
{
	struct pv_store *s = calloc(1, sizeof(*s));

	if (!s || store_tree_init(&s->tree)) {
		free(s);
		return -ENOMEM;
	}
	pthread_mutex_init(&s->lock, NULL);
	*ret_store = s;
	return 0;
}

static void empty(struct pv_store *s)
{
	for (unsigned i = 0; i < TRANSACTIONS_MAX; i++)
		transaction_free(&s->transaction[i]);
	drop_guest_watches(s);
	drop_watches(&s->back_ends);
	free_changes(&s->told);
	store_tree_finish(&s->tree);
	s->output_bytes = 0;
}

int pv_store_clear(struct pv_store *s)
{
	pthread_mutex_lock(&s->lock);
	empty(s);
	int rc = store_tree_init(&s->tree);
	s->generation = 0;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void pv_store_on_output(struct pv_store *s, void (*wake)(void *opaque), void *opaque)
{
	s->wake = wake;
	s->opaque = opaque;
}

void pv_store_destroy(struct pv_store *s)
{
	if (!s)
		return;
	empty(s);
	free(s->output);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* ---- back ends --------------------------------------------------------------------------------------------- */

int pv_store_set(struct pv_store *s, const char *path, bool guest_may_write, const char *format, ...)
{
	char value[PV_STORE_VALUE_MAX];
	struct store_node *node;
	va_list ap;
	int rc = 0;

	va_start(ap, format);
	int n = vsnprintf(value, sizeof(value), format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(value) || !store_path_ok(path))
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	node = store_make(&s->tree, path, &rc);
	if (node) {
		node->permission[0] = guest_may_write ? (struct store_permission){'n', PV_DOMAIN_ID} : (struct store_permission){'n', 0};
		node->permission[1] = guest_may_write ? (struct store_permission){'r', 0} : (struct store_permission){'r', PV_DOMAIN_ID};
		node->permissions = 2;
		rc = store_set_value(&s->tree, node, value, (size_t)n);
	}
	if (!rc) {
		s->generation++;
		fire(s, path, false);
	}
	pthread_mutex_unlock(&s->lock);
	if (s->wake)
		s->wake(s->opaque);
	tell_back_ends(s);
	return rc;
}

char *pv_store_get(struct pv_store *s, const char *path)
{
	const struct store_node *node;
	char *copy = NULL;

	pthread_mutex_lock(&s->lock);
	node = store_path_ok(path) ? store_find(&s->tree, path) : NULL;
	if (node && (copy = malloc(node->bytes + 1)) != NULL) {
		if (node->bytes)
			memcpy(copy, node->value, node->bytes);
		copy[node->bytes] = '\0';
	}
	pthread_mutex_unlock(&s->lock);
	return copy;
}

int pv_store_watch(struct pv_store *s, const char *path, void (*fn)(void *opaque, const char *path), void *opaque)
{
	struct watch *w = store_path_ok(path) ? calloc(1, sizeof(*w)) : NULL;

	if (!w)
		return store_path_ok(path) ? -ENOMEM : -EINVAL;
	w->absolute = strdup(path);
	w->fn = fn;
	w->opaque = opaque;
	if (!w->absolute) {
		free(w);
		return -ENOMEM;
	}
	pthread_mutex_lock(&s->lock);
	w->next = s->back_ends;
	__atomic_store_n(&s->back_ends, w, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&s->lock);
	return 0;
}
