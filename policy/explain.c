/* A decision as JSON: everything that led to it. */
#include "policy/policy.h"

#include <stdio.h>
#include <string.h>

static void add(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

static json_object *number(double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3g", value);
	return json_object_new_double_s(value, text);
}

static json_object *predicted_json(const struct policy_candidate *c)
{
	json_object *object;

	if (!c->predicted.known)
		return NULL;
	object = json_object_new_object();
	json_object_object_add(object, "cost", number(c->predicted.cost));
	json_object_object_add(object, "confidence", number(c->predicted.confidence));
	json_object_object_add(object, "correction", number(c->correction));
	return object;
}

static json_object *candidate_json(enum policy_mode mode, const struct policy_candidate *c)
{
	static const char *const verdicts[] = {
		[POLICY_CHOSEN] = "chosen", [POLICY_POSSIBLE] = "possible", [POLICY_RULED_OUT] = "ruled out"};
	json_object *row = json_object_new_object();

	add(row, "mode", policy_mode_name(mode));
	add(row, "variant", c->variant);
	add(row, "verdict", verdicts[c->verdict]);
	json_object_object_add(row, "predicted", predicted_json(c));
	add(row, "reason", c->reason);
	if (c->remedy[0])
		add(row, "remedy", c->remedy);
	return row;
}

static json_object *constraint(const char *key, const char *value, const char *means)
{
	json_object *row = json_object_new_object();

	add(row, "key", key);
	add(row, "value", value);
	add(row, "means", means);
	return row;
}

static void list(char *text, size_t size, const char *word)
{
	size_t n = strlen(text);

	snprintf(text + n, size - n, "%s%s", n ? " " : "", word);
}

/* What the definition demands, and what follows from it in general; candidates say what follows here. */
static json_object *constraints_json(const struct policy_constraints *c)
{
	json_object *rows = json_object_new_array();
	char require[32] = "", forbid[32] = "", features[CPU_FEATURE_COUNT * 16] = "";

	for (int m = 0; m < POLICY_MODE_COUNT; m++) {
		if (c->require >> m & 1)
			list(require, sizeof(require), policy_mode_name((enum policy_mode)m));
		if (c->forbid >> m & 1)
			list(forbid, sizeof(forbid), policy_mode_name((enum policy_mode)m));
	}
	for (int i = 0; i < CPU_FEATURE_COUNT; i++)
		if (c->features >> i & 1)
			list(features, sizeof(features), policy_feature_name((enum cpu_feature)i));
	if (require[0])
		json_object_array_add(rows, constraint("policy.require", require, "no other mode"));
	if (forbid[0])
		json_object_array_add(rows, constraint("policy.forbid", forbid, "not these modes"));
	if (features[0])
		json_object_array_add(rows, constraint("cpu.features", features, "the guest may use them: modes and hosts that "
									       "have them"));
	if (c->kernel_isolation)
		json_object_array_add(rows, constraint("policy.isolation", "kernel", "modes that keep the guest's kernel from its "
										   "programs, speculation included"));
	if (c->devices) {
		char count[16];

		snprintf(count, sizeof(count), "%u", c->devices);
		json_object_array_add(rows, constraint("passthrough", count, "devices of the host: hvm, on a host with an IOMMU, and not "
									   "to another host"));
	} else if (c->passthrough)
		json_object_array_add(rows, constraint("policy.passthrough", "true", "hvm, on a host with an IOMMU"));
	if (c->vmware_tools)
		json_object_array_add(rows, constraint("tools", "vmware", "bt, or hvm where KVM lets programs reach VMware's port"));
	if (c->nested)
		json_object_array_add(rows, constraint("policy.nested", "true", "hvm, on a host with nested virtualization"));
	if (c->migratable)
		json_object_array_add(rows, constraint("policy.migratable", "true", "nothing that ties it to this host; policy.plan "
										  "finds a mode that a set of hosts shares"));
	return rows;
}

json_object *policy_decision_json(const struct policy_decision *d)
{
	json_object *object = json_object_new_object(), *candidates = json_object_new_array(),
		    *changes = json_object_new_array();

	add(object, "wish", d->wish);
	json_object_object_add(object, "mode",
			       d->possible ? json_object_new_string(policy_mode_name(d->mode)) : NULL);
	json_object_object_add(object, "variant",
			       d->possible ? json_object_new_string(d->candidates[d->mode].variant) : NULL);
	add(object, "reason", d->reason);
	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		json_object_array_add(candidates, candidate_json((enum policy_mode)i, &d->candidates[i]));
	json_object_object_add(object, "candidates", candidates);
	for (unsigned i = 0; i < d->change_count; i++)
		json_object_array_add(changes, json_object_new_string(d->would_change[i]));
	json_object_object_add(object, "would_change", changes);
	json_object_object_add(object, "constraints", constraints_json(&d->constraints));
	json_object_object_add(object, "workload", policy_workload_json(&d->workload));
	json_object_object_add(object, "guest", policy_guest_json(&d->guest));
	return object;
}
