/* What runs teach the policy: workloads from counters, and how good predictions were. Kept as one note in the store. */
#include "daemon/private.h"

#include "daemon/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTE_KEY "memory"

static uint64_t hash_text(uint64_t hash, const char *text)
{
	/* FNV-1a, 64 bits; the NUL too, so that parts cannot flow into each other. */
	for (; text; text++) {
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3ull;
		if (!*text)
			break;
	}
	return hash;
}

void learning_key(const struct vmdef *def, bool transient, char ret_key[LEARNING_KEY_BYTES])
{
	uint64_t hash = 0xcbf29ce484222325ull;

	if (!transient) {
		snprintf(ret_key, LEARNING_KEY_BYTES, "%s", def->uuid);
		return;
	}
	hash = hash_text(hash, def->boot.kernel);
	hash = hash_text(hash, def->boot.initrd);
	hash = hash_text(hash, def->boot.firmware);
	hash = hash_text(hash, def->boot.cmdline);
	for (unsigned i = 0; i < def->disk_count; i++)
		hash = hash_text(hash, def->disks[i].path);
	snprintf(ret_key, LEARNING_KEY_BYTES, "image %016llx", (unsigned long long)hash);
}

void learning_load(struct daemon *daemon)
{
	char *text = store_load_note(daemon->store, NOTE_KEY);
	json_object *json = text ? json_tokener_parse(text) : NULL;

	policy_memory_parse(json, &daemon->memory);
	if (text && !json)
		log_warning("policy: what was learned cannot be read; it starts anew");
	json_object_put(json);
	free(text);
}

static void save(struct daemon *daemon, store_done_fn done, void *opaque)
{
	json_object *json = policy_memory_json(&daemon->memory);

	store_put_note(daemon->store, NOTE_KEY, json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN), done,
		       opaque);
	json_object_put(json);
}

static json_object *member(json_object *object, const char *key, json_type type)
{
	json_object *value = NULL;

	return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) &&
			       json_object_is_type(value, type)
		       ? value
		       : NULL;
}

/* The mode that was chosen, and what each was thought to cost, 0 where that was not known; false when none was chosen. */
static bool prediction(json_object *decision, enum policy_mode *ret_mode, double ret_costs[POLICY_MODE_COUNT])
{
	json_object *rows = member(decision, "candidates", json_type_array);
	json_object *chosen = member(decision, "mode", json_type_string);
	enum policy_mode mode;

	memset(ret_costs, 0, POLICY_MODE_COUNT * sizeof(*ret_costs));
	for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i), *name = member(row, "mode", json_type_string);
		json_object *cost = member(member(row, "predicted", json_type_object), "cost", json_type_double);

		if (name && cost && policy_mode_parse(json_object_get_string(name), &mode))
			ret_costs[mode] = json_object_get_double(cost);
	}
	return chosen && policy_mode_parse(json_object_get_string(chosen), ret_mode);
}

static void tell(struct vm *vm, enum policy_mode mode, double cost, const struct policy_outcome *outcome)
{
	json_object *row = json_object_new_object();
	double now = epoch_seconds();

	json_object_object_add(row, "time", json_object_new_double(now));
	put_text(row, "uuid", vm->uuid);
	put_text(row, "name", vm->name);
	put_text(row, "mode", policy_mode_name(mode));
	json_object_object_add(row, "predicted_cost", cost > 0 ? json_object_new_double(cost) : NULL);
	json_object_object_add(row, "predicted_boot_seconds",
			       outcome->predicted > 0 ? json_object_new_double(outcome->predicted) : NULL);
	json_object_object_add(row, "boot_seconds", json_object_new_double(outcome->observed));
	json_object_object_add(row, "error",
			       outcome->predicted > 0
				       ? json_object_new_double(outcome->observed / outcome->predicted - 1)
				       : NULL);
	store_add(vm->daemon->store, STORE_OUTCOME, vm->uuid, vm->name, now,
		  json_object_to_json_string_ext(row, JSON_C_TO_STRING_PLAIN), NULL, NULL);
	json_object_put(row);
}

void learning_take(struct vm *vm)
{
	struct daemon *daemon = vm->daemon;
	json_object *stats = member(vm->result, "stats", json_type_object);
	json_object *boot = member(stats, "boot_seconds", json_type_double), *bits = member(stats, "guest_bits", json_type_int);
	const struct policy_calibration *calibration = daemon->calibration.valid ? &daemon->calibration : NULL;
	struct policy_outcome outcome = {0};
	struct policy_memory_vm *known;
	char key[LEARNING_KEY_BYTES];
	double costs[POLICY_MODE_COUNT];
	enum policy_mode mode;

	if (!stats || !prediction(vm->decision, &mode, costs))
		return;
	learning_key(vm->def, vm->transient, key);
	known = policy_memory_use(&daemon->memory, key, epoch_seconds());
	policy_learn(&known->learned, stats, mode, calibration);
	if (boot && json_object_get_double(boot) > 0) {
		policy_memory_outcome(&daemon->memory, known, mode, costs, json_object_get_double(boot), &outcome);
		tell(vm, mode, costs[mode], &outcome);
	}
	snprintf(known->mode, sizeof(known->mode), "%s", policy_mode_name(mode));
	known->runs++;
	known->bits = bits ? (unsigned)json_object_get_int(bits) : 0;
	save(daemon, NULL, NULL);
}

void learning_forget(struct vm *vm)
{
	char key[LEARNING_KEY_BYTES];

	learning_key(vm->def, vm->transient, key);
	if (!policy_memory_find(&vm->daemon->memory, key))
		return;
	policy_memory_forget(&vm->daemon->memory, key);
	save(vm->daemon, NULL, NULL);
}

/* ---- asked for ------------------------------------------------------------------------------ */

struct question {
	struct daemon *daemon;
	daemon_done_fn done;
	void *opaque;
};

static struct question *question_create(struct daemon *daemon, daemon_done_fn done, void *opaque)
{
	struct question *q = calloc(1, sizeof(*q));

	if (q)
		*q = (struct question){daemon, done, opaque};
	else
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
	return q;
}

static void on_outcomes(void *opaque, int error, const char *message, json_object *rows)
{
	struct question *q = opaque;
	json_object *answer;

	if (error) {
		answer_error(q->done, q->opaque, DAEMON_STORAGE, "%s", message);
	} else {
		answer = json_object_new_object();
		json_object_object_add(answer, "statistics", policy_statistics_json(&q->daemon->memory));
		json_object_object_add(answer, "outcomes", json_object_get(rows));
		q->done(q->opaque, NULL, answer);
		json_object_put(answer);
	}
	free(q);
}

void daemon_policy_history(struct daemon *daemon, struct vm *vm, unsigned limit, daemon_done_fn done, void *opaque)
{
	struct question *q = question_create(daemon, done, opaque);

	if (q)
		store_list(daemon->store, STORE_OUTCOME, vm ? vm->uuid : NULL, limit, on_outcomes, q);
}

static void on_saved(void *opaque, int error, const char *message, json_object *rows)
{
	struct question *q = opaque;
	json_object *answer;

	if (error) {
		answer_error(q->done, q->opaque, DAEMON_STORAGE, "%s", message);
	} else {
		answer = json_object_new_object();
		q->done(q->opaque, NULL, answer);
		json_object_put(answer);
	}
	free(q);
}

void daemon_policy_reset(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct question *q = question_create(daemon, done, opaque);
	char key[LEARNING_KEY_BYTES];

	if (!q)
		return;
	if (vm) {
		learning_key(vm->def, vm->transient, key);
		policy_memory_forget(&daemon->memory, key);
	} else {
		policy_memory_init(&daemon->memory);
	}
	save(daemon, on_saved, q);
}
