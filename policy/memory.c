/* What is remembered of VMs and outcomes, so that the next choice is better than the last. */
#include "policy/policy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT 1
/* How far one outcome moves what is believed. */
#define RATE 0.3
#define FACTOR_MIN 0.2
#define FACTOR_MAX 5.0

void policy_memory_init(struct policy_memory *memory)
{
	memset(memory, 0, sizeof(*memory));
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		memory->corrections.factor[m] = 1;
}

struct policy_memory_vm *policy_memory_find(struct policy_memory *memory, const char *key)
{
	for (unsigned i = 0; i < memory->count; i++)
		if (!strcmp(memory->vms[i].key, key))
			return &memory->vms[i];
	return NULL;
}

struct policy_memory_vm *policy_memory_use(struct policy_memory *memory, const char *key, double now)
{
	struct policy_memory_vm *vm = policy_memory_find(memory, key);

	if (!vm && memory->count < POLICY_MEMORY_VMS) {
		vm = &memory->vms[memory->count++];
	} else if (!vm) {
		vm = &memory->vms[0];
		for (unsigned i = 1; i < memory->count; i++)
			if (memory->vms[i].time < vm->time)
				vm = &memory->vms[i];
		memset(vm, 0, sizeof(*vm));
	}
	if (!vm->key[0])
		snprintf(vm->key, sizeof(vm->key), "%s", key);
	vm->time = now;
	return vm;
}

double policy_memory_boot(const struct policy_memory_vm *vm, enum policy_mode mode, const double costs[POLICY_MODE_COUNT])
{
	enum policy_mode last;

	if (!vm || !vm->boots || !policy_mode_parse(vm->boot_mode, &last))
		return 0;
	if (last == mode)
		return vm->boot_seconds;
	return costs[mode] > 0 && costs[last] > 0 ? vm->boot_seconds * costs[mode] / costs[last] : 0;
}

static void correct(struct policy_corrections *corrections, enum policy_mode mode, double step)
{
	double factor = corrections->factor[mode] * exp(step);

	corrections->factor[mode] = fmin(FACTOR_MAX, fmax(FACTOR_MIN, factor));
	corrections->outcomes[mode]++;
}

void policy_memory_outcome(struct policy_memory *memory, struct policy_memory_vm *vm, enum policy_mode mode,
			   const double costs[POLICY_MODE_COUNT], double observed, struct policy_outcome *ret)
{
	double predicted = policy_memory_boot(vm, mode, costs), error;
	enum policy_mode last;
	bool same = vm->boots && policy_mode_parse(vm->boot_mode, &last) && last == mode;

	ret->predicted = predicted;
	ret->observed = observed;
	if (!(observed > 0))
		return;
	if (predicted > 0) {
		error = log(observed / predicted);
		memory->predictions++;
		memory->error_sum += fabs(error);
		/*
		 * In the same mode it only says how long this VM takes to boot. In another it says that one of the two modes
		 * costs more than thought, and not which: both take half.
		 */
		if (!same) {
			correct(&memory->corrections, mode, error * RATE / 2);
			correct(&memory->corrections, last, -error * RATE / 2);
		}
	}
	vm->boot_seconds = same ? vm->boot_seconds + RATE * (observed - vm->boot_seconds) : observed;
	snprintf(vm->boot_mode, sizeof(vm->boot_mode), "%s", policy_mode_name(mode));
	vm->boots++;
	snprintf(vm->mode, sizeof(vm->mode), "%s", policy_mode_name(mode));
}

void policy_memory_guest(const struct policy_memory_vm *vm, struct policy_guest *guest)
{
	if (!vm || guest->image != POLICY_IMAGE_FIRMWARE)
		return;
	guest->runs = vm->runs;
	guest->ran_in_bits = vm->bits;
	guest->ran_to_user_space = vm->boots > 0;
}

void policy_memory_forget(struct policy_memory *memory, const char *key)
{
	struct policy_memory_vm *vm = policy_memory_find(memory, key);

	if (vm) {
		*vm = memory->vms[--memory->count];
		memset(&memory->vms[memory->count], 0, sizeof(*vm));
	}
}

/* ---- as JSON ------------------------------------------------------------------------------ */

static void put_number(json_object *to, const char *key, double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.6g", value);
	json_object_object_add(to, key, json_object_new_double_s(value, text));
}

static json_object *corrections_json(const struct policy_corrections *corrections)
{
	json_object *object = json_object_new_object();

	for (int m = 0; m < POLICY_MODE_COUNT; m++) {
		json_object *row = json_object_new_object();

		put_number(row, "factor", corrections->factor[m]);
		json_object_object_add(row, "outcomes", json_object_new_int64(corrections->outcomes[m]));
		json_object_object_add(object, policy_mode_name((enum policy_mode)m), row);
	}
	return object;
}

json_object *policy_statistics_json(const struct policy_memory *memory)
{
	json_object *object = json_object_new_object();

	json_object_object_add(object, "predictions", json_object_new_int64(memory->predictions));
	if (memory->predictions)
		put_number(object, "mean_error", exp(memory->error_sum / memory->predictions) - 1);
	else
		json_object_object_add(object, "mean_error", NULL);
	json_object_object_add(object, "corrections", corrections_json(&memory->corrections));
	return object;
}

static json_object *vm_json(const struct policy_memory_vm *vm)
{
	json_object *object = json_object_new_object(), *seconds = json_object_new_object();

	json_object_object_add(object, "key", json_object_new_string(vm->key));
	put_number(object, "time", vm->time);
	json_object_object_add(object, "mode", json_object_new_string(vm->mode));
	json_object_object_add(object, "boots", json_object_new_int64(vm->boots));
	put_number(object, "boot_seconds", vm->boot_seconds);
	json_object_object_add(object, "boot_mode", json_object_new_string(vm->boot_mode));
	json_object_object_add(object, "ended_runs", json_object_new_int64(vm->runs));
	json_object_object_add(object, "bits", json_object_new_int64(vm->bits));
	json_object_object_add(object, "runs", json_object_new_int64(vm->learned.runs));
	put_number(object, "cpu_seconds", vm->learned.cpu_seconds);
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (vm->learned.observed >> i & 1)
			put_number(seconds, policy_measure_name((enum policy_measure)i), vm->learned.seconds[i]);
	json_object_object_add(object, "seconds", seconds);
	return object;
}

json_object *policy_memory_json(const struct policy_memory *memory)
{
	json_object *object = json_object_new_object(), *vms = json_object_new_array();

	json_object_object_add(object, "format", json_object_new_int(FORMAT));
	json_object_object_add(object, "predictions", json_object_new_int64(memory->predictions));
	put_number(object, "error_sum", memory->error_sum);
	json_object_object_add(object, "corrections", corrections_json(&memory->corrections));
	for (unsigned i = 0; i < memory->count; i++)
		json_object_array_add(vms, vm_json(&memory->vms[i]));
	json_object_object_add(object, "vms", vms);
	return object;
}

/* In [low, high]; otherwise `otherwise`. */
static double number(json_object *object, const char *key, double low, double high, double otherwise)
{
	json_object *value = NULL;
	double n;

	if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value) ||
	    !(json_object_is_type(value, json_type_double) || json_object_is_type(value, json_type_int)))
		return otherwise;
	n = json_object_get_double(value);
	return n >= low && n <= high ? n : otherwise;
}

static void text(json_object *object, const char *key, char *to, size_t size)
{
	json_object *value = NULL;

	to[0] = '\0';
	if (json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) &&
	    json_object_is_type(value, json_type_string))
		snprintf(to, size, "%s", json_object_get_string(value));
}

static void parse_vm(json_object *json, struct policy_memory_vm *vm)
{
	json_object *seconds = NULL, *value = NULL;

	memset(vm, 0, sizeof(*vm));
	text(json, "key", vm->key, sizeof(vm->key));
	if (!vm->key[0])
		return;
	text(json, "mode", vm->mode, sizeof(vm->mode));
	vm->time = number(json, "time", 0, 1e11, 0);
	vm->boots = (unsigned)number(json, "boots", 0, 1e9, 0);
	vm->boot_seconds = number(json, "boot_seconds", 0, 1e6, 0);
	text(json, "boot_mode", vm->boot_mode, sizeof(vm->boot_mode));
	if (vm->boot_seconds <= 0 || !vm->boot_mode[0])
		vm->boots = 0;
	vm->runs = (unsigned)number(json, "ended_runs", 0, 1e9, 0);
	vm->bits = (unsigned)number(json, "bits", 16, 64, 0);
	vm->learned.runs = (unsigned)number(json, "runs", 0, 1e9, 0);
	vm->learned.cpu_seconds = number(json, "cpu_seconds", 0, 1e9, 0);
	if (!json_object_object_get_ex(json, "seconds", &seconds) || !json_object_is_type(seconds, json_type_object))
		return;
	for (int i = 0; i < POLICY_MEASURES; i++) {
		const char *name = policy_measure_name((enum policy_measure)i);

		if (!json_object_object_get_ex(seconds, name, &value))
			continue;
		vm->learned.seconds[i] = number(seconds, name, 0, 1e9, 0);
		vm->learned.observed |= 1u << i;
	}
}

void policy_memory_parse(json_object *json, struct policy_memory *ret)
{
	json_object *corrections = NULL, *vms = NULL, *row = NULL;

	policy_memory_init(ret);
	if (number(json, "format", FORMAT, FORMAT, 0) != FORMAT)
		return;
	ret->predictions = (unsigned)number(json, "predictions", 0, 1e9, 0);
	ret->error_sum = number(json, "error_sum", 0, 1e9, 0);
	json_object_object_get_ex(json, "corrections", &corrections);
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		if (json_object_is_type(corrections, json_type_object) &&
		    json_object_object_get_ex(corrections, policy_mode_name((enum policy_mode)m), &row)) {
			ret->corrections.factor[m] = number(row, "factor", FACTOR_MIN, FACTOR_MAX, 1);
			ret->corrections.outcomes[m] = (unsigned)number(row, "outcomes", 0, 1e9, 0);
		}
	json_object_object_get_ex(json, "vms", &vms);
	if (!json_object_is_type(vms, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(vms) && ret->count < POLICY_MEMORY_VMS; i++) {
		parse_vm(json_object_array_get_idx(vms, i), &ret->vms[ret->count]);
		ret->count += ret->vms[ret->count].key[0] != '\0';
	}
}
