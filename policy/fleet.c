/*
 * Many hosts and many VMs: where each VM goes, and in which mode. Costs are one product of shares and factors for each
 * kind of VM on each host; what a host forbids is judged once for each kind of demand. Then VMs are placed one after the
 * other, those with the fewest hosts and the most memory first, each where it costs least.
 */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HOSTS_MAX 4096
#define VMS_MAX 65536
/* Virtual processors for each of a host's: they share. */
#define OVERCOMMIT 4.0
/* Hosts whose costs differ by less count as the same; then the fuller one is filled up. */
#define SAME_COST 0.02
/* Where a mode was measured nowhere in the fleet: real hardware before translation, as a single decision has it. These only
 * order hosts and modes; no answer has them as a cost. */
#define UNKNOWN_HARDWARE 1.5
#define UNKNOWN_BT 3.0

struct fleet_host {
	const char *name, *group;
	struct policy_host facts;
	struct policy_calibration calibration;
	double memory_mib, cores;
	unsigned *apart; /* anti-affinity groups that have a VM here */
	unsigned apart_count;
	unsigned vms;
	double factor[POLICY_MODE_COUNT][POLICY_MEASURES]; /* 0: not known */
	bool known[POLICY_MODE_COUNT];
};

/* What is left of a host: apart from the rest of it, because every VM looks at all of them. */
struct room {
	double memory_mib, vcpus;
};

/* VMs that ask for the same: workload, constraints, image. */
struct demand {
	char *text; /* what makes it different from others */
	uint64_t hash;
	struct policy_workload shares;
	struct policy_constraints constraints;
	float *cost;        /* for each host, of the best mode; negative: none */
	unsigned char *mode; /* for each host */
	unsigned hosts;     /* that can take it, empty as they are */
};

struct fleet_vm {
	const char *name, *together, *within;
	int demand, apart; /* apart: index of the anti-affinity group, -1 */
	double memory_mib, vcpus;
	int host; /* -1 */
	bool confined; /* its demand has been narrowed to its group */
	bool torn;     /* it must be together with one that it must be apart from */
	double cost;
	enum policy_mode mode;
};

struct fleet {
	struct fleet_host *hosts;
	struct room *room;
	unsigned host_count;
	struct fleet_vm *vms;
	unsigned vm_count;
	struct demand *demands;
	unsigned demand_count;
	const char **apart_names;
	unsigned apart_count;
	unsigned *apart_seen; /* the last bundle with a VM of that group, from 1 on */
	double borrowed[POLICY_MODE_COUNT][POLICY_MEASURES]; /* means over the hosts that were measured */
	char *error;
	size_t error_size;
};

static json_object *member(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) ? value
													      : NULL;
}

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = member(object, key);

	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static int refuse(struct fleet *fleet, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(struct fleet *fleet, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(fleet->error, fleet->error_size, format, args);
	va_end(args);
	return -EINVAL;
}

static double number_of(json_object *object, const char *key, double otherwise)
{
	json_object *value = member(object, key);

	return json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double)
		       ? json_object_get_double(value)
		       : otherwise;
}

/* ---- hosts -------------------------------------------------------------------------------- */

static int read_host(struct fleet *fleet, json_object *json, unsigned index, struct fleet_host *host)
{
	json_object *calibration = member(json, "calibration"), *capacity = member(json, "capacity");
	char why[200] = "";

	host->name = text_of(json, "name");
	host->group = text_of(json, "group");
	if (!host->name)
		return refuse(fleet, "hosts[%u]: a name is missing", index);
	if (!policy_host_parse(member(json, "facts"), &host->facts, why, sizeof(why)))
		return refuse(fleet, "hosts[%u] (%.80s): %s", index, host->name, why);
	if (calibration && !policy_calibration_parse(calibration, &host->calibration, why, sizeof(why)))
		return refuse(fleet, "hosts[%u] (%.80s): calibration: %s; export that host again", index, host->name, why);
	host->memory_mib = number_of(capacity, "memory_mib", (double)host->facts.memory_mib);
	host->cores = number_of(capacity, "vcpus", host->facts.cores * OVERCOMMIT);
	if (!(host->memory_mib >= 0 && host->cores >= 0))
		return refuse(fleet, "hosts[%u] (%.80s): capacity: numbers that are not negative are wanted", index, host->name);
	fleet->room[index] = (struct room){host->memory_mib, host->cores};
	for (int m = 0; m < POLICY_MODE_COUNT; m++) {
		host->known[m] = host->calibration.valid && host->calibration.mode[m].tried &&
				 !host->calibration.mode[m].problem[0];
		for (int i = 0; i < POLICY_MEASURES && host->known[m]; i++)
			host->factor[m][i] = policy_slowdown(&host->calibration, (enum policy_mode)m, (enum policy_measure)i);
	}
	return 0;
}

/*
 * A host's figures are times its own native time; between hosts their native speeds count too. Factors become times the
 * mean native time of the fleet, so that a slow host's "1" is not a fast one's.
 */
static void scale(struct fleet *fleet)
{
	for (int i = 0; i < POLICY_MEASURES; i++) {
		double sum = 0, mean;
		unsigned n = 0;

		for (unsigned h = 0; h < fleet->host_count; h++)
			if (fleet->hosts[h].calibration.native.of[i].state == POLICY_FIGURE_NS) {
				sum += fleet->hosts[h].calibration.native.of[i].ns;
				n++;
			}
		mean = n ? sum / n : 0;
		for (unsigned h = 0; h < fleet->host_count; h++)
			for (int m = 0; m < POLICY_MODE_COUNT; m++)
				if (fleet->hosts[h].calibration.native.of[i].state == POLICY_FIGURE_NS)
					fleet->hosts[h].factor[m][i] *= fleet->hosts[h].calibration.native.of[i].ns / mean;
	}
}

/* Hosts that were never measured are taken as the mean of the others of the same mode, software KVMs aside. */
static void borrow(struct fleet *fleet)
{
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		for (int i = 0; i < POLICY_MEASURES; i++) {
			double sum = 0;
			unsigned n = 0;

			for (unsigned h = 0; h < fleet->host_count; h++) {
				const struct fleet_host *host = &fleet->hosts[h];

				if (!host->known[m] || host->factor[m][i] <= 0 ||
				    (m == POLICY_HVM && host->facts.kvm_hardware != POLICY_YES))
					continue;
				sum += host->factor[m][i];
				n++;
			}
			fleet->borrowed[m][i] = n ? sum / n : 0;
		}
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int unique_names(struct fleet *fleet, const char **names, unsigned count, const char *what)
{
	int rc = 0;

	qsort(names, count, sizeof(*names), compare_names);
	for (unsigned i = 1; i < count && !rc; i++)
		if (!strcmp(names[i - 1], names[i]))
			rc = refuse(fleet, "%s: the name \"%.80s\" is there twice", what, names[i]);
	free(names);
	return rc;
}

static int read_hosts(struct fleet *fleet, json_object *list)
{
	const char **names;
	int rc = 0;

	if (!json_object_is_type(list, json_type_array) || !json_object_array_length(list) ||
	    json_object_array_length(list) > HOSTS_MAX)
		return refuse(fleet, "hosts: an array of 1 to %d hosts is wanted", HOSTS_MAX);
	fleet->hosts = calloc(json_object_array_length(list), sizeof(*fleet->hosts));
	fleet->room = calloc(json_object_array_length(list), sizeof(*fleet->room));
	if (!fleet->hosts || !fleet->room)
		return -ENOMEM;
	fleet->host_count = (unsigned)json_object_array_length(list);
	for (unsigned i = 0; i < fleet->host_count && !rc; i++)
		rc = read_host(fleet, json_object_array_get_idx(list, i), i, &fleet->hosts[i]);
	names = rc ? NULL : calloc(fleet->host_count, sizeof(*names));
	if (!names)
		return rc ? rc : -ENOMEM;
	for (unsigned i = 0; i < fleet->host_count; i++)
		names[i] = fleet->hosts[i].name;
	rc = unique_names(fleet, names, fleet->host_count, "hosts");
	if (!rc) {
		scale(fleet);
		borrow(fleet);
	}
	return rc;
}

/* ---- VMs ----------------------------------------------------------------------------------- */

static char *demand_text(json_object *policy, json_object *workload, uint64_t *ret_hash)
{
	char *text = NULL;

	if (asprintf(&text, "%s %s", policy ? json_object_to_json_string_ext(policy, JSON_C_TO_STRING_PLAIN) : "",
		     workload ? json_object_to_json_string_ext(workload, JSON_C_TO_STRING_PLAIN) : "") < 0)
		return NULL;
	*ret_hash = 0xcbf29ce484222325ull; /* FNV-1a */
	for (const char *c = text; *c; c++)
		*ret_hash = (*ret_hash ^ (unsigned char)*c) * 0x100000001b3ull;
	return text;
}

/* The workload and wishes are checked by the definition's own rules. */
static int read_demand(struct fleet *fleet, json_object *json, unsigned index, int *ret)
{
	json_object *policy = member(json, "policy"), *workload = member(json, "workload"), *definition, *boot;
	char why[VMDEF_ERROR_BYTES], *text;
	struct vmdef *def = NULL;
	struct demand *d;
	uint64_t hash;
	int rc;

	text = demand_text(policy, workload, &hash);
	if (!text)
		return -ENOMEM;
	for (unsigned i = 0; i < fleet->demand_count; i++)
		if (fleet->demands[i].hash == hash && !strcmp(fleet->demands[i].text, text)) {
			*ret = (int)i;
			free(text);
			return 0;
		}
	definition = json_object_new_object();
	boot = json_object_new_object();
	json_object_object_add(boot, "kernel", json_object_new_string("/"));
	json_object_object_add(definition, "name", json_object_new_string("vm"));
	json_object_object_add(definition, "boot", boot);
	if (policy)
		json_object_object_add(definition, "policy", json_object_get(policy));
	if (workload)
		json_object_object_add(definition, "workload", json_object_get(workload));
	rc = vmdef_from_json(definition, &def, why);
	json_object_put(definition);
	d = rc ? NULL : realloc(fleet->demands, (fleet->demand_count + 1) * sizeof(*d));
	if (!d) {
		free(text);
		vmdef_free(def);
		return rc == -EINVAL ? refuse(fleet, "vms[%u]: %.300s", index, why) : -ENOMEM;
	}
	fleet->demands = d;
	d += fleet->demand_count;
	memset(d, 0, sizeof(*d));
	d->text = text;
	d->hash = hash;
	policy_workload_of(def, NULL, &d->shares);
	policy_constraints_of(def, &d->constraints);
	vmdef_free(def);
	*ret = (int)fleet->demand_count++;
	return 0;
}

static int apart_index(struct fleet *fleet, const char *name, int *ret)
{
	const char **names;

	for (unsigned i = 0; i < fleet->apart_count; i++)
		if (!strcmp(fleet->apart_names[i], name)) {
			*ret = (int)i;
			return 0;
		}
	names = realloc(fleet->apart_names, (fleet->apart_count + 1) * sizeof(*names));
	if (!names)
		return -ENOMEM;
	fleet->apart_names = names;
	names[fleet->apart_count] = name;
	*ret = (int)fleet->apart_count++;
	return 0;
}

static int read_vm(struct fleet *fleet, json_object *json, unsigned index, struct fleet_vm *vm)
{
	const char *apart = text_of(json, "anti_affinity");
	int rc;

	*vm = (struct fleet_vm){.host = -1, .apart = -1};
	vm->name = text_of(json, "name");
	if (!vm->name)
		return refuse(fleet, "vms[%u]: a name is missing", index);
	vm->memory_mib = number_of(json, "memory_mib", 512);
	vm->vcpus = number_of(json, "vcpus", 1);
	if (!(vm->memory_mib > 0 && vm->vcpus > 0))
		return refuse(fleet, "vms[%u] (%.80s): memory_mib and vcpus must be more than 0", index, vm->name);
	vm->together = text_of(json, "affinity");
	vm->within = text_of(json, "migratable_in");
	rc = read_demand(fleet, json, index, &vm->demand);
	return !rc && apart ? apart_index(fleet, apart, &vm->apart) : rc;
}

static int read_vms(struct fleet *fleet, json_object *list)
{
	const char **names;
	int rc = 0;

	if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) > VMS_MAX)
		return refuse(fleet, "vms: an array of at most %d VMs is wanted", VMS_MAX);
	fleet->vms = calloc(json_object_array_length(list) + 1, sizeof(*fleet->vms));
	if (!fleet->vms)
		return -ENOMEM;
	fleet->vm_count = (unsigned)json_object_array_length(list);
	for (unsigned i = 0; i < fleet->vm_count && !rc; i++)
		rc = read_vm(fleet, json_object_array_get_idx(list, i), i, &fleet->vms[i]);
	names = rc ? NULL : calloc(fleet->vm_count + 1, sizeof(*names));
	if (!names)
		return rc ? rc : -ENOMEM;
	for (unsigned i = 0; i < fleet->vm_count; i++)
		names[i] = fleet->vms[i].name;
	return unique_names(fleet, names, fleet->vm_count, "vms");
}

/* ---- costs ------------------------------------------------------------------------------------ */

/* Which modes a host can give to who demands this: 1 << mode. */
static unsigned possible_modes(const struct fleet_host *host, const struct policy_constraints *constraints)
{
	static const struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};
	struct policy_query query = {
		.host = &host->facts,
		.calibration = host->calibration.valid ? &host->calibration : NULL,
		.guest = &guest,
		.constraints = constraints,
		.wish = "auto",
	};
	return policy_possible(&query);
}

/* *ret_known: from figures; else it only tells which mode is rather taken. */
static double cost_of(const struct fleet *fleet, const struct fleet_host *host, enum policy_mode mode,
		      const struct policy_workload *workload, bool *ret_known)
{
	const double *factor = host->known[mode] ? host->factor[mode] : fleet->borrowed[mode];
	double cost = 0, known = 0;

	for (int i = 0; i < POLICY_MEASURES; i++)
		if (factor[i] > 0) {
			cost += workload->share[i] * factor[i];
			known += workload->share[i];
		}
	*ret_known = known >= 0.5;
	return *ret_known ? cost / known : mode == POLICY_BT ? UNKNOWN_BT : UNKNOWN_HARDWARE;
}

/* A demand's cost and mode on every host. */
static int price(struct fleet *fleet, struct demand *d, const unsigned char *modes)
{
	d->cost = malloc(fleet->host_count * sizeof(*d->cost));
	d->mode = malloc(fleet->host_count);
	if (!d->cost || !d->mode)
		return -ENOMEM;
	for (unsigned h = 0; h < fleet->host_count; h++) {
		d->cost[h] = -1;
		for (int m = 0; m < POLICY_MODE_COUNT; m++) {
			double cost;
			bool known;

			if (!(modes[h] >> m & 1))
				continue;
			cost = cost_of(fleet, &fleet->hosts[h], (enum policy_mode)m, &d->shares, &known);
			if (d->cost[h] < 0 || cost < d->cost[h]) {
				d->cost[h] = (float)cost;
				d->mode[h] = (unsigned char)m;
			}
		}
		d->hosts += d->cost[h] >= 0;
	}
	return 0;
}

static bool same_constraints(const struct policy_constraints *a, const struct policy_constraints *b)
{
	return a->require == b->require && a->forbid == b->forbid && a->features == b->features &&
	       a->kernel_isolation == b->kernel_isolation && a->passthrough == b->passthrough && a->nested == b->nested &&
	       a->migratable == b->migratable && a->vmware_tools == b->vmware_tools;
}

static int price_all(struct fleet *fleet)
{
	unsigned char **modes = calloc(fleet->demand_count + 1, sizeof(*modes));
	int rc = modes ? 0 : -ENOMEM;

	for (unsigned i = 0; i < fleet->demand_count && !rc; i++) {
		struct demand *d = &fleet->demands[i];
		unsigned same = 0;

		while (!same_constraints(&fleet->demands[same].constraints, &d->constraints))
			same++;
		if (same == i) {
			modes[i] = malloc(fleet->host_count);
			for (unsigned h = 0; modes[i] && h < fleet->host_count; h++)
				modes[i][h] = (unsigned char)possible_modes(&fleet->hosts[h], &d->constraints);
		}
		rc = modes[same] ? price(fleet, d, modes[same]) : -ENOMEM;
	}
	for (unsigned i = 0; modes && i < fleet->demand_count; i++)
		free(modes[i]);
	free(modes);
	return rc;
}

/* ---- placement ----------------------------------------------------------------------------------- */

static bool is_apart(const struct fleet_host *host, int group)
{
	for (unsigned i = 0; group >= 0 && i < host->apart_count; i++)
		if (host->apart[i] == (unsigned)group)
			return true;
	return false;
}

static int take(struct fleet *fleet, struct fleet_vm *vm, unsigned h)
{
	struct fleet_host *host = &fleet->hosts[h];
	unsigned *apart;

	vm->host = (int)h;
	vm->cost = fleet->demands[vm->demand].cost[h];
	vm->mode = (enum policy_mode)fleet->demands[vm->demand].mode[h];
	fleet->room[h].memory_mib -= vm->memory_mib;
	fleet->room[h].vcpus -= vm->vcpus;
	host->vms++;
	if (vm->apart < 0)
		return 0;
	apart = realloc(host->apart, (host->apart_count + 1) * sizeof(*apart));
	if (!apart)
		return -ENOMEM;
	host->apart = apart;
	apart[host->apart_count++] = (unsigned)vm->apart;
	return 0;
}

/* VMs that must be together need room for all of them, and a mode for each. */
struct bundle {
	struct fleet_vm **vms;
	unsigned count;
	double memory, vcpus;
	unsigned hosts; /* the fewest that any of them can have */
};

/* Negative: it cannot be there. */
static double bundle_cost(const struct fleet *fleet, const struct bundle *b, unsigned h)
{
	const struct fleet_host *host = &fleet->hosts[h];
	double cost = 0;

	if (b->memory > fleet->room[h].memory_mib || b->vcpus > fleet->room[h].vcpus)
		return -1;
	for (unsigned i = 0; i < b->count; i++) {
		const struct fleet_vm *vm = b->vms[i];
		double one = fleet->demands[vm->demand].cost[h];

		/* Confined demands cost nothing but "no" outside their group. */
		if (one < 0 || (vm->apart >= 0 && is_apart(host, vm->apart)))
			return -1;
		cost += one * vm->vcpus;
	}
	return cost / b->vcpus;
}

/* Whether VMs that must be together must be apart as well. number: the bundle's own, from 1 on. */
static bool contradicts(struct fleet *fleet, const struct bundle *b, unsigned number)
{
	bool torn = false;

	for (unsigned i = 0; i < b->count; i++) {
		unsigned *seen = b->vms[i]->apart >= 0 ? &fleet->apart_seen[b->vms[i]->apart] : NULL;

		torn |= seen && *seen == number;
		if (seen)
			*seen = number;
	}
	for (unsigned i = 0; torn && i < b->count; i++)
		b->vms[i]->torn = true;
	return torn;
}

static int place(struct fleet *fleet, const struct bundle *b, unsigned number)
{
	int best = -1, rc = 0;
	double best_cost = 0;

	if (contradicts(fleet, b, number))
		return 0;
	for (unsigned h = 0; h < fleet->host_count; h++) {
		double cost = bundle_cost(fleet, b, h);

		if (cost < 0)
			continue;
		if (best < 0 || cost < best_cost * (1 - SAME_COST) ||
		    (cost <= best_cost * (1 + SAME_COST) && fleet->room[h].memory_mib < fleet->room[best].memory_mib)) {
			best = (int)h;
			best_cost = best_cost > 0 && cost > best_cost ? best_cost : cost;
		}
	}
	for (unsigned i = 0; best >= 0 && i < b->count && !rc; i++)
		rc = take(fleet, b->vms[i], (unsigned)best);
	return rc;
}

static int compare_vms(const void *a, const void *b)
{
	const struct fleet_vm *x = *(struct fleet_vm *const *)a, *y = *(struct fleet_vm *const *)b;

	if (!x->together || !y->together)
		return x->together ? -1 : y->together ? 1 : x < y ? -1 : x > y;
	return strcmp(x->together, y->together) ? strcmp(x->together, y->together) : x < y ? -1 : x > y;
}

static int compare_bundles(const void *a, const void *b)
{
	const struct bundle *x = a, *y = b;

	if (x->hosts != y->hosts)
		return x->hosts < y->hosts ? -1 : 1;
	if (x->memory < y->memory || x->memory > y->memory)
		return x->memory > y->memory ? -1 : 1;
	return x->vms < y->vms ? -1 : x->vms > y->vms;
}

/* A demand of its own for a VM that may move within a group of hosts: only modes that all of them have. */
static int narrow(struct fleet *fleet, const struct fleet_vm *vm, int *ret)
{
	unsigned common = (1u << POLICY_MODE_COUNT) - 1;
	unsigned char *modes = calloc(fleet->host_count, 1);
	struct demand *d = realloc(fleet->demands, (fleet->demand_count + 1) * sizeof(*d));
	int rc = -ENOMEM;

	if (d)
		fleet->demands = d;
	if (!modes || !d)
		goto out;
	d += fleet->demand_count;
	*d = fleet->demands[vm->demand];
	d->text = NULL;
	d->cost = NULL;
	d->mode = NULL;
	d->hosts = 0;
	for (int pass = 0; pass < 2; pass++)
		for (unsigned h = 0; h < fleet->host_count; h++) {
			const struct fleet_host *host = &fleet->hosts[h];

			if (!host->group || strcmp(host->group, vm->within))
				continue;
			if (pass)
				modes[h] = (unsigned char)common;
			else
				common &= possible_modes(host, &d->constraints);
		}
	*ret = (int)fleet->demand_count++;
	rc = price(fleet, d, modes);
out:
	free(modes);
	return rc;
}

static int confine(struct fleet *fleet)
{
	for (unsigned v = 0; v < fleet->vm_count; v++) {
		const struct fleet_vm *vm = &fleet->vms[v];
		const char *within = vm->within;
		int before = vm->demand, after = 0, rc;

		if (!within || vm->confined)
			continue;
		rc = narrow(fleet, vm, &after);
		if (rc)
			return rc;
		for (unsigned w = v; w < fleet->vm_count; w++) {
			struct fleet_vm *other = &fleet->vms[w];

			if (other->confined || other->demand != before || !other->within || strcmp(other->within, within))
				continue;
			other->demand = after;
			other->confined = true;
		}
	}
	return 0;
}

static int place_all(struct fleet *fleet)
{
	struct fleet_vm **order = calloc(fleet->vm_count + 1, sizeof(*order));
	struct bundle *bundles = calloc(fleet->vm_count + 1, sizeof(*bundles));
	unsigned count = 0;
	int rc;

	fleet->apart_seen = calloc(fleet->apart_count + 1, sizeof(*fleet->apart_seen));
	rc = order && bundles && fleet->apart_seen ? 0 : -ENOMEM;
	for (unsigned i = 0; i < fleet->vm_count && !rc; i++)
		order[i] = &fleet->vms[i];
	if (!rc)
		qsort(order, fleet->vm_count, sizeof(*order), compare_vms);
	for (unsigned i = 0; i < fleet->vm_count && !rc; i++) {
		struct fleet_vm *vm = order[i];
		bool joins = i && vm->together && order[i - 1]->together && !strcmp(vm->together, order[i - 1]->together);
		struct bundle *b = joins ? &bundles[count - 1] : &bundles[count++];
		unsigned hosts = fleet->demands[vm->demand].hosts;

		if (!joins)
			*b = (struct bundle){.vms = order + i, .hosts = hosts};
		b->count++;
		b->memory += vm->memory_mib;
		b->vcpus += vm->vcpus;
		b->hosts = hosts < b->hosts ? hosts : b->hosts;
	}
	if (!rc)
		qsort(bundles, count, sizeof(*bundles), compare_bundles);
	for (unsigned i = 0; i < count && !rc; i++)
		rc = place(fleet, &bundles[i], i + 1);
	free(order);
	free(bundles);
	return rc;
}

/* ---- the answer -------------------------------------------------------------------------------------- */

static json_object *number(double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3g", value);
	return json_object_new_double_s(value, text);
}

static json_object *placement_json(const struct fleet *fleet, const struct fleet_vm *vm)
{
	json_object *row = json_object_new_object();
	struct policy_mode_state state;
	bool known;

	cost_of(fleet, &fleet->hosts[vm->host], vm->mode, &fleet->demands[vm->demand].shares, &known);
	policy_mode_judge(vm->mode, &fleet->hosts[vm->host].facts, &state);
	json_object_object_add(row, "vm", json_object_new_string(vm->name));
	json_object_object_add(row, "host", json_object_new_string(fleet->hosts[vm->host].name));
	json_object_object_add(row, "mode", json_object_new_string(policy_mode_name(vm->mode)));
	json_object_object_add(row, "variant", json_object_new_string(state.variant));
	json_object_object_add(row, "cost", known ? number(vm->cost) : NULL);
	return row;
}

/* Which of its demands no host meets, in the order in which one would look. */
static const char *why_unplaced(const struct fleet *fleet, const struct fleet_vm *vm)
{
	const struct demand *d = &fleet->demands[vm->demand];
	bool fits_empty = false, fits = false;

	if (vm->torn)
		return "its affinity and an anti_affinity contradict each other: VMs that must be on one host must be apart";
	if (!d->hosts)
		return vm->within ? "no mode is possible on every host of its group, or there is no such group"
				  : "no host has a mode that meets its demands";
	for (unsigned h = 0; h < fleet->host_count; h++) {
		const struct fleet_host *host = &fleet->hosts[h];

		if (d->cost[h] < 0)
			continue;
		fits_empty |= vm->memory_mib <= host->memory_mib && vm->vcpus <= host->cores;
		fits |= vm->memory_mib <= fleet->room[h].memory_mib && vm->vcpus <= fleet->room[h].vcpus;
	}
	if (!fits_empty)
		return "it is larger than every host that could run it";
	if (!fits)
		return "the hosts that could run it are full";
	return vm->together ? "no host has room for all that it must be together with"
			    : "the hosts with room have one that it must be apart from";
}

static json_object *answer(const struct fleet *fleet)
{
	json_object *object = json_object_new_object(), *placed = json_object_new_array(),
		    *unplaced = json_object_new_array(), *hosts = json_object_new_array();

	for (unsigned i = 0; i < fleet->vm_count; i++) {
		const struct fleet_vm *vm = &fleet->vms[i];
		json_object *row;

		if (vm->host >= 0) {
			json_object_array_add(placed, placement_json(fleet, vm));
			continue;
		}
		row = json_object_new_object();
		json_object_object_add(row, "vm", json_object_new_string(vm->name));
		json_object_object_add(row, "reason", json_object_new_string(why_unplaced(fleet, vm)));
		json_object_array_add(unplaced, row);
	}
	for (unsigned h = 0; h < fleet->host_count; h++) {
		const struct fleet_host *host = &fleet->hosts[h];
		json_object *row = json_object_new_object();

		json_object_object_add(row, "host", json_object_new_string(host->name));
		json_object_object_add(row, "vms", json_object_new_int64(host->vms));
		json_object_object_add(row, "memory_left_mib", json_object_new_int64((int64_t)fleet->room[h].memory_mib));
		json_object_object_add(row, "vcpus_left", json_object_new_int64((int64_t)fleet->room[h].vcpus));
		json_object_object_add(row, "measured", json_object_new_boolean(host->calibration.valid));
		json_object_array_add(hosts, row);
	}
	json_object_object_add(object, "placements", placed);
	json_object_object_add(object, "unplaced", unplaced);
	json_object_object_add(object, "hosts", hosts);
	return object;
}

static void fleet_finish(struct fleet *fleet)
{
	for (unsigned i = 0; i < fleet->host_count; i++)
		free(fleet->hosts[i].apart);
	for (unsigned i = 0; i < fleet->demand_count; i++) {
		free(fleet->demands[i].text);
		free(fleet->demands[i].cost);
		free(fleet->demands[i].mode);
	}
	free(fleet->hosts);
	free(fleet->room);
	free(fleet->vms);
	free(fleet->demands);
	free(fleet->apart_names);
	free(fleet->apart_seen);
}

int policy_plan(json_object *hosts, json_object *vms, json_object **ret_plan, char *error, size_t error_size)
{
	struct fleet fleet = {.error = error, .error_size = error_size};
	struct timespec begin, end;
	int rc;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	rc = read_hosts(&fleet, hosts);
	if (!rc)
		rc = read_vms(&fleet, vms);
	if (!rc)
		rc = price_all(&fleet);
	if (!rc)
		rc = confine(&fleet);
	if (!rc)
		rc = place_all(&fleet);
	if (!rc) {
		*ret_plan = answer(&fleet);
		clock_gettime(CLOCK_MONOTONIC, &end);
		json_object_object_add(*ret_plan, "seconds",
				       number((double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9));
	} else if (rc == -ENOMEM) {
		snprintf(error, error_size, "out of memory");
	}
	fleet_finish(&fleet);
	return rc;
}
