/* The policy over host files of many kinds (tests/hosts): what it finds there, what it chooses, and what that costs. */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define HOSTS_MAX 64
#define WORKLOADS 1000

static struct host {
	char name[64];
	json_object *file;
	struct policy_host facts;
	struct policy_calibration calibration;
} hosts[HOSTS_MAX];
static unsigned host_count;
static const struct policy_guest linux_guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};

static json_object *member(json_object *object, const char *key)
{
	json_object *value = NULL;

	json_object_object_get_ex(object, key, &value);
	return value;
}

static int load_hosts(void **state)
{
	const char *source = getenv("top_srcdir");
	char dir[512], path[800], error[200];
	struct dirent *entry;
	DIR *stream;

	snprintf(dir, sizeof(dir), "%s/tests/hosts", source ? source : ".");
	stream = opendir(dir);
	while (stream && (entry = readdir(stream)) && host_count < HOSTS_MAX) {
		struct host *host = &hosts[host_count];
		const char *end = strstr(entry->d_name, ".json");

		if (!end)
			continue;
		snprintf(host->name, sizeof(host->name), "%.*s", (int)(end - entry->d_name), entry->d_name);
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		host->file = json_object_from_file(path);
		if (!host->file || !policy_host_parse(member(host->file, "facts"), &host->facts, error, sizeof(error))) {
			fprintf(stderr, "%s: %s\n", path, host->file ? error : "not JSON");
			return -1;
		}
		if (member(host->file, "calibration") &&
		    !policy_calibration_parse(member(host->file, "calibration"), &host->calibration, error, sizeof(error))) {
			fprintf(stderr, "%s: calibration: %s\n", path, error);
			return -1;
		}
		host_count++;
	}
	if (stream)
		closedir(stream);
	return host_count >= 12 ? 0 : -1;
}

static int free_hosts(void **state)
{
	for (unsigned i = 0; i < host_count; i++)
		json_object_put(hosts[i].file);
	return 0;
}

static struct host *find(const char *name)
{
	for (unsigned i = 0; i < host_count; i++)
		if (!strcmp(hosts[i].name, name))
			return &hosts[i];
	fail_msg("no host file %s", name);
	return NULL;
}

static struct policy_query query_of(struct host *host, const struct policy_workload *workload)
{
	return (struct policy_query){
		.host = &host->facts,
		.calibration = host->calibration.valid ? &host->calibration : NULL,
		.guest = &linux_guest,
		.workload = workload,
		.wish = "auto",
	};
}

/* Each file says what must be found. */
static void every_kind_is_recognized(void **state)
{
	for (unsigned i = 0; i < host_count; i++) {
		json_object *expect = member(hosts[i].file, "expect");
		const char *remedy = json_object_get_string(member(expect, "remedy"));
		struct policy_mode_state judged;

		policy_mode_judge(POLICY_HVM, &hosts[i].facts, &judged);
		if (strcmp(judged.variant, json_object_get_string(member(expect, "variant"))))
			fail_msg("%s: variant %s", hosts[i].name, judged.variant);
		if (judged.usable != json_object_get_boolean(member(expect, "usable")))
			fail_msg("%s: usable %d: %s", hosts[i].name, judged.usable, judged.reason);
		if (!strstr(judged.remedy, remedy) || (!remedy[0] && judged.remedy[0]))
			fail_msg("%s: remedy \"%s\"", hosts[i].name, judged.remedy);
		assert_true(judged.reason[0] != '\0');
		/* Where its facts come from, and that its figures are none of a real host. */
		assert_true(json_object_array_length(member(hosts[i].file, "documented_by")) > 0);
		assert_true(json_object_array_length(member(hosts[i].file, "calibration_modelled")) > 0);
	}
}

/* What is shown can be read back: fact files are made of host.probe's answers. */
static void facts_survive_the_way_out_and_in(void **state)
{
	for (unsigned i = 0; i < host_count; i++) {
		json_object *out = policy_host_facts(&hosts[i].facts), *again;
		struct policy_host back;
		char error[200];

		assert_true(policy_host_parse(out, &back, error, sizeof(error)));
		again = policy_host_facts(&back);
		if (!json_object_equal(out, again))
			fail_msg("%s: %s\n%s", hosts[i].name, json_object_to_json_string(out), json_object_to_json_string(again));
		json_object_put(out);
		json_object_put(again);
	}
}

static void damaged_files_are_refused(void **state)
{
	static const char *const bad[] = {
		"{}", "[1]", "[{\"name\":1,\"value\":2}]", "[{\"name\":\"cores\"}]", "[{\"name\":\"cores\",\"value\":\"two\"}]",
		"[{\"name\":\"memory_mib\",\"value\":-1}]", "[{\"name\":\"vmx\",\"value\":\"yes\"}]",
	};
	struct policy_host host;
	char error[200];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_object *json = json_tokener_parse(bad[i]);

		if (policy_host_parse(json, &host, error, sizeof(error)))
			fail_msg("taken: %s", bad[i]);
		assert_non_null(strstr(error, "facts"));
		json_object_put(json);
	}
}

/* ---- choices ------------------------------------------------------------------------------ */

static struct policy_decision choose(const char *name, const char *workload_name)
{
	struct policy_workload workload;
	struct policy_decision d;
	struct policy_query query = query_of(find(name), &workload);

	assert_true(policy_workload_named(workload_name, &workload));
	policy_decide(&query, &d);
	assert_true(d.possible);
	return d;
}

static void known_answers(void **state)
{
	/* VMware's finding: first-generation VT-x loses to translation where page tables change. */
	assert_int_equal(choose("vtx-2005", "process").mode, POLICY_BT);
	assert_int_equal(choose("vtx-2005", "compute").mode, POLICY_HVM);
	assert_int_equal(choose("xeon-ept-iommu", "mixed").mode, POLICY_HVM);
	assert_int_equal(choose("epyc-npt-avic", "process").mode, POLICY_HVM);
	assert_int_equal(choose("p4-2004", "mixed").mode, POLICY_BT);
	/* Software KVMs: one that cannot run systems at all, one that can and is slow. */
	assert_int_equal(choose("pvm-host", "mixed").mode, POLICY_BT);
	assert_non_null(strstr(choose("pvm-host", "mixed").candidates[POLICY_HVM].reason, "cannot execute"));
	assert_int_equal(choose("emulated-kvm", "mixed").mode, POLICY_BT);
	assert_int_equal(choose("emulated-kvm", "mixed").candidates[POLICY_HVM].verdict, POLICY_POSSIBLE);
	assert_int_equal(choose("noexec-memfd", "mixed").mode, POLICY_HVM);
	/* Never measured: what is known in general, and that is said. */
	assert_int_equal(choose("never-measured", "mixed").mode, POLICY_HVM);
	assert_non_null(strstr(choose("never-measured", "mixed").reason, "nothing was measured"));
	/* Where the workload decides, the explanation says so. */
	{
		struct policy_decision d = choose("vtx-2005", "compute");
		bool told = false;

		for (unsigned i = 0; i < d.change_count; i++)
			told |= strstr(d.would_change[i], "\"process\"") != NULL;
		assert_true(told);
	}
}

static void constraints_rule_out(void **state)
{
	static const struct {
		const char *host;
		struct policy_constraints wish;
		int mode; /* -1: none is possible */
		const char *word;
	} cases[] = {
		{"xeon-ept-iommu", {.forbid = 1u << POLICY_HVM}, POLICY_BT, "forbids"},
		{"xeon-ept-iommu", {.require = 1u << POLICY_BT}, POLICY_BT, "requires another"},
		{"xeon-ept-iommu", {.passthrough = true}, POLICY_HVM, "passed through in hvm only"},
		{"xeon-ept-noiommu", {.passthrough = true}, -1, "IOMMU"},
		{"xeon-ept-iommu", {.passthrough = true, .migratable = true}, -1, "cannot move"},
		{"epyc-npt-avic", {.nested = true}, POLICY_HVM, "does not offer"},
		{"vtx-2005", {.nested = true}, -1, "nested virtualization is off"},
		{"p4-2004", {.kernel_isolation = true}, -1, "speculative boundary"},
		{"xeon-ept-iommu", {.features = 1ull << CPU_FEATURE_avx512f}, -1, "no mode runs AVX-512"},
		{"epyc-npt-avic", {.features = 1ull << CPU_FEATURE_avx512f}, -1, "has no avx512f"},
		{"epyc-npt-avic", {.features = 1ull << CPU_FEATURE_sha}, POLICY_HVM, ""},
		{"p4-2004", {.features = 1ull << CPU_FEATURE_avx2}, -1, "has no avx2"},
		{"p4-2004", {.features = 1ull << CPU_FEATURE_smap}, POLICY_BT, ""},
		{"cloud-no-nested", {.features = 1ull << CPU_FEATURE_avx2}, POLICY_BT, ""},
	};
	struct policy_workload mixed;

	policy_workload_named("mixed", &mixed);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct policy_query query = query_of(find(cases[i].host), &mixed);
		struct policy_decision d;
		bool told = false;

		query.constraints = &cases[i].wish;
		policy_decide(&query, &d);
		if (cases[i].mode < 0 ? d.possible : !d.possible || (int)d.mode != cases[i].mode)
			fail_msg("case %zu on %s: %s", i, cases[i].host, d.reason);
		for (int m = 0; m < POLICY_MODE_COUNT; m++)
			told |= strstr(d.candidates[m].reason, cases[i].word) != NULL;
		if (!told)
			fail_msg("case %zu on %s: nobody says \"%s\": %s", i, cases[i].host, cases[i].word, d.reason);
	}
}

static void a_vm_keeps_its_mode(void **state)
{
	struct policy_workload workload = {.certainty = 1};
	struct host *host = find("vtx-2005");
	struct policy_query query = query_of(host, &workload);
	struct policy_decision fresh, kept;
	double bt = 0, hvm = 0;
	unsigned both = 0;

	/* From all loops to all page faults, somewhere in between both cost nearly the same. */
	for (unsigned step = 0; step <= 200; step++) {
		memset(workload.share, 0, sizeof(workload.share));
		workload.share[POLICY_fault] = step / 200.0 * 0.4;
		workload.share[POLICY_integer] = 1 - workload.share[POLICY_fault];
		query.previous = NULL;
		policy_decide(&query, &fresh);
		query.previous = fresh.mode == POLICY_BT ? "hvm" : "bt";
		policy_decide(&query, &kept);
		bt = fresh.candidates[POLICY_BT].predicted.cost;
		hvm = fresh.candidates[POLICY_HVM].predicted.cost;
		assert_int_equal(fresh.mode, bt < hvm ? POLICY_BT : POLICY_HVM);
		if (fmin(bt, hvm) < 0.9 * fmax(bt, hvm)) {
			assert_int_equal(kept.mode, fresh.mode);
		} else {
			assert_int_not_equal(kept.mode, fresh.mode);
			assert_non_null(strstr(kept.reason, "as last time"));
			both++;
		}
	}
	assert_true(both > 2);
}

/* ---- regret ------------------------------------------------------------------------------------ */

static uint64_t seed = 1;

static double random_unit(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (double)(seed >> 11) / 9007199254740992.0;
}

/* Few measures dominate a workload, and which is anybody's guess. */
static struct policy_workload random_workload(void)
{
	struct policy_workload workload = {.name = "random", .certainty = 1};
	double sum = 0;

	for (int i = 0; i < POLICY_MEASURES; i++)
		sum += workload.share[i] = pow(random_unit(), 4);
	for (int i = 0; i < POLICY_MEASURES; i++)
		workload.share[i] /= sum;
	return workload;
}

/* What a calibration on a real host would find: every figure off by up to 10 %. */
static struct policy_calibration measured_badly(const struct policy_calibration *truth)
{
	struct policy_calibration noisy = *truth;

	for (int i = 0; i < POLICY_MEASURES; i++) {
		noisy.native.of[i].ns *= 0.9 + 0.2 * random_unit();
		for (int m = 0; m < POLICY_MODE_COUNT; m++)
			noisy.mode[m].of[i].ns *= 0.9 + 0.2 * random_unit();
	}
	return noisy;
}

/* What a guest's kernel really does for an event, which no policy knows: parts of one, and how much of the native time. */
struct kernel {
	double integer, memory, tlb, code, of_native;
};

static struct kernel random_kernel(void)
{
	struct kernel k = {.3 + .5 * random_unit(), .05 + .25 * random_unit(), .05 + .15 * random_unit(), .05 + .3 * random_unit(), 0};
	double sum = k.integer + k.memory + k.tlb + k.code;

	return (struct kernel){k.integer / sum, k.memory / sum, k.tlb / sum, k.code / sum, .5 + .5 * random_unit()};
}

static double times_native(const struct policy_calibration *c, enum policy_mode mode, enum policy_measure m)
{
	return c->mode[mode].of[m].ns / c->native.of[m].ns;
}

/*
 * What the work truly costs by the true table, reckoned here and not by the policy's model, whose shares of kernel code
 * are guesses. False: a system cannot run in that mode here.
 */
static bool runs(const struct host *host, enum policy_mode mode, const struct policy_workload *workload, const struct kernel *k,
		 double *ret_cost)
{
	const struct policy_calibration *c = &host->calibration;
	struct policy_mode_state judged;
	double cost = 0;

	policy_mode_judge(mode, &host->facts, &judged);
	if (!judged.usable || !c->mode[mode].tried)
		return false;
	for (int i = 0; i < POLICY_MEASURES; i++) {
		const struct policy_figure *native = &c->native.of[i], *here = &c->mode[mode].of[i];

		if (here->state != POLICY_FIGURE_NS)
			return false;
		if (policy_measure_is_loop((enum policy_measure)i)) {
			cost += workload->share[i] * times_native(c, mode, (enum policy_measure)i);
			continue;
		}
		/* Ports have no native counterpart: what reaching the kernel costs. */
		cost += workload->share[i] *
			(here->ns / (native->state == POLICY_FIGURE_NS ? native : &c->native.of[POLICY_syscall])->ns +
			 k->of_native * (k->integer * times_native(c, mode, POLICY_integer) + k->memory * times_native(c, mode, POLICY_memory) +
					 k->tlb * times_native(c, mode, POLICY_tlb) + k->code * times_native(c, mode, POLICY_code)));
	}
	*ret_cost = cost;
	return true;
}

static void choices_cost_little_more_than_the_best(void **state)
{
	/* For each host; and in how many workloads each mode was the best. */
	static double regrets[HOSTS_MAX];
	static unsigned wins[HOSTS_MAX][POLICY_MODE_COUNT];
	double regret = 0, worst = 0, contested = 0;
	unsigned n = 0, open = 0, contests = 0;

	for (unsigned i = 0; i < WORKLOADS; i++) {
		struct policy_workload workload = random_workload();
		struct kernel kernel = random_kernel();

		for (unsigned h = 0; h < host_count; h++) {
			struct policy_query query = query_of(&hosts[h], &workload);
			struct policy_calibration noisy;
			struct policy_decision d;
			double best = INFINITY, chosen = INFINITY, cost;
			unsigned possible = 0;
			int winner = -1;

			if (!hosts[h].calibration.valid)
				continue;
			noisy = measured_badly(&hosts[h].calibration);
			query.calibration = &noisy;
			/* Half the VMs come from somewhere. */
			query.previous = random_unit() < 0.5 ? NULL : random_unit() < 0.5 ? "bt" : "hvm";
			policy_decide(&query, &d);
			assert_true(d.possible);
			for (int m = 0; m < POLICY_MODE_COUNT; m++)
				if (runs(&hosts[h], (enum policy_mode)m, &workload, &kernel, &cost)) {
					possible++;
					winner = cost < best ? m : winner;
					best = fmin(best, cost);
					if ((int)d.mode == m)
						chosen = cost;
				}
			if (!isfinite(chosen))
				fail_msg("%s: %s cannot run there", hosts[h].name, policy_mode_name(d.mode));
			wins[h][winner]++;
			regrets[h] += chosen / best - 1;
			regret += chosen / best - 1;
			worst = fmax(worst, chosen / best - 1);
			open += possible > 1;
			n++;
		}
	}
	/* Hosts on which it depends on the workload: there only a good prediction chooses well. */
	for (unsigned h = 0; h < host_count; h++)
		if (wins[h][POLICY_BT] >= WORKLOADS / 20 && wins[h][POLICY_HVM] >= WORKLOADS / 20) {
			contested += regrets[h];
			contests += WORKLOADS;
		}
	print_message("# %u choices, %u of them open: %.2f %% above the best on average, %.0f %% at worst; %.2f %% on %u hosts where it "
		      "depends on the workload\n",
		      n, open, regret / n * 100, worst * 100, contested / contests * 100, contests / WORKLOADS);
	assert_true(contests > 0 && contested / contests <= 0.05);
	assert_true(open > n / 4);
	assert_true(regret / n <= 0.05);
	/* Where there was something to choose, too. */
	assert_true(regret / open <= 0.05);
}

/* ---- learning ------------------------------------------------------------------------------------- */

static json_object *stats_of(double cpu, int64_t syscalls, int64_t faults, int64_t mmio)
{
	char text[400];

	snprintf(text, sizeof(text),
		 "{\"cpu_user_seconds\":%f,\"cpu_system_seconds\":0,\"exits\":{\"syscalls\":%lld,\"interrupts\":10,\"pio\":10,"
		 "\"mmio\":%lld},\"engine\":{\"page_faults\":%lld}}",
		 cpu, (long long)syscalls, (long long)mmio, (long long)faults);
	return json_tokener_parse(text);
}

static void workloads_are_learned_and_forgotten(void **state)
{
	struct host *host = find("cloud-no-nested");
	struct vmdef def = {.workload = "auto"};
	struct policy_learned learned = {0};
	struct policy_workload workload;
	json_object *stats = stats_of(100, 0, 0, 0);
	double first;

	policy_workload_of(&def, &learned, &workload);
	assert_string_equal(workload.name, "mixed");
	assert_true(policy_learn(&learned, stats, POLICY_BT, &host->calibration));
	json_object_put(stats);
	policy_workload_of(&def, &learned, &workload);
	assert_string_equal(workload.name, "learned");
	assert_true(workload.share[POLICY_syscall] < 0.01 && workload.share[POLICY_integer] > 0.4);
	/* Then it does nothing but system calls: 100 s of them, by this host's figures. */
	stats = stats_of(100, (int64_t)(99e9 / host->calibration.mode[POLICY_BT].of[POLICY_syscall].ns), 0, 0);
	policy_learn(&learned, stats, POLICY_BT, &host->calibration);
	policy_workload_of(&def, &learned, &workload);
	first = workload.share[POLICY_syscall];
	assert_true(first > 0.3);
	for (unsigned i = 0; i < 20; i++)
		policy_learn(&learned, stats, POLICY_BT, &host->calibration);
	json_object_put(stats);
	policy_workload_of(&def, &learned, &workload);
	assert_true(workload.share[POLICY_syscall] > first && workload.share[POLICY_integer] < 0.25);
	assert_true(workload.certainty > 0.8);
	/* What the user says goes before what was learned. */
	snprintf(def.workload, sizeof(def.workload), "io");
	policy_workload_of(&def, &learned, &workload);
	assert_string_equal(workload.name, "io");
	def.policy.weights[VMDEF_WEIGHT_tlb] = 2;
	def.policy.weights[VMDEF_WEIGHT_memory] = 2;
	policy_workload_of(&def, &learned, &workload);
	assert_string_equal(workload.name, "weights");
	assert_true(fabs(workload.share[POLICY_tlb] - 0.5) < 1e-9 && fabs(workload.share[POLICY_memory] - 0.5) < 1e-9);
	/* Requests of disks count, also where the host's kernel takes their doorbells and no exit shows. */
	{
		struct policy_learned io = {0};

		stats = json_tokener_parse("{\"cpu_user_seconds\":10,\"exits\":{\"mmio\":20},\"machine\":{\"virtio_blk0_reads\":200000,"
					   "\"virtio_blk1_writes\":100000,\"virtio_blk0_read_ns\":900000000}}");
		assert_true(policy_learn(&io, stats, POLICY_BT, &host->calibration));
		assert_true(fabs(io.seconds[POLICY_virtio] - 300000 * host->calibration.native.of[POLICY_virtio].ns / 1e9) < 1e-6);
		json_object_put(stats);
	}
	/* Statistics that say nothing teach nothing. */
	stats = json_tokener_parse("{\"exits\":{\"syscalls\":\"many\"},\"cpu_user_seconds\":-3}");
	assert_false(policy_learn(&learned, stats, POLICY_BT, &host->calibration));
	assert_false(policy_learn(&learned, NULL, POLICY_BT, &host->calibration));
	assert_false(policy_learn(&learned, stats, POLICY_BT, NULL));
	json_object_put(stats);
}

/* What outcomes have taught is part of the cost; what was disturbed, measured seldom or guessed is trusted less. */
static void corrections_and_confidence_count(void **state)
{
	struct policy_calibration calibration = find("xeon-ept-iommu")->calibration;
	struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};
	struct policy_corrections learned = {.factor = {1, 1, 1}};
	struct policy_query query = {.host = &find("xeon-ept-iommu")->facts, .calibration = &calibration, .guest = &guest,
				     .corrections = &learned, .wish = "auto"};
	struct policy_decision before, after;
	struct policy_workload sure, unsure;
	struct policy_cost cost, other;

	policy_decide(&query, &before);
	learned.factor[POLICY_BT] = 3;
	policy_decide(&query, &after);
	assert_true(fabs(after.candidates[POLICY_BT].predicted.cost / before.candidates[POLICY_BT].predicted.cost - 3) < 1e-9);
	assert_true(fabs(after.candidates[POLICY_HVM].predicted.cost / before.candidates[POLICY_HVM].predicted.cost - 1) < 1e-9);

	policy_workload_named("mixed", &sure);
	unsure = sure;
	unsure.certainty = sure.certainty / 2;
	policy_predict(&calibration, POLICY_BT, &sure, &cost);
	policy_predict(&calibration, POLICY_BT, &unsure, &other);
	assert_true(other.confidence < cost.confidence);
	for (int i = 0; i < POLICY_MEASURES; i++)
		calibration.mode[POLICY_BT].of[i].median_ns *= 3;
	policy_predict(&calibration, POLICY_BT, &sure, &other);
	assert_true(other.confidence < cost.confidence && fabs(other.cost - cost.cost) < 1e-9);
	calibration.mode[POLICY_BT] = find("xeon-ept-iommu")->calibration.mode[POLICY_BT];
	for (int i = 0; i < POLICY_MEASURES; i++)
		calibration.mode[POLICY_BT].of[i].rounds = 2;
	policy_predict(&calibration, POLICY_BT, &sure, &other);
	assert_true(other.confidence < cost.confidence);
}

/* Each of them changes what figures hold for. */
static void figures_belong_to_a_host(void **state)
{
	const struct policy_calibration_key key = {.cpu = "a", .kernel = "b", .version = "c"};
	struct policy_calibration_key cpu = key, kernel = key, version = key, same = key;

	cpu.cpu[0] = kernel.kernel[0] = version.version[0] = 'x';
	assert_true(policy_calibration_same(&key, &same));
	assert_false(policy_calibration_same(&key, &cpu) || policy_calibration_same(&key, &kernel) ||
		     policy_calibration_same(&key, &version));
}

/* Half of what is known is gone after 600 s of processor time, or four runs. */
static void what_is_learned_fades(void **state)
{
	const struct host *host = find("xeon-ept-iommu");

	for (unsigned brief = 0; brief < 2; brief++) {
		struct policy_learned learned = {.cpu_seconds = 1000, .seconds = {[POLICY_process] = 64}, .observed = 1u << POLICY_process};
		json_object *stats = stats_of(brief ? 1 : 600, 0, 0, 0);

		for (unsigned i = 0; i < (brief ? 4 : 1); i++)
			assert_true(policy_learn(&learned, stats, POLICY_BT, &host->calibration));
		assert_true(fabs(learned.seconds[POLICY_process] - 32) < 1e-6);
		json_object_put(stats);
	}
}

/* bt is predicted at 2 and hvm at 1, and in truth bt costs 3: runs in turn show it. */
static void outcomes_correct_predictions(void **state)
{
	static struct policy_memory memory, back;
	struct policy_memory_vm *vm;
	struct policy_outcome outcome;
	json_object *json;
	double first_error = 0, error = 0;

	policy_memory_init(&memory);
	vm = policy_memory_use(&memory, "a", 1);
	for (unsigned i = 0; i < 30; i++) {
		enum policy_mode mode = i % 2 ? POLICY_BT : POLICY_HVM;
		const double costs[POLICY_MODE_COUNT] = {[POLICY_BT] = 2 * memory.corrections.factor[POLICY_BT],
							 [POLICY_HVM] = memory.corrections.factor[POLICY_HVM]};

		policy_memory_outcome(&memory, vm, mode, costs, mode == POLICY_BT ? 3 : 1, &outcome);
		error = outcome.predicted > 0 ? fabs(log(outcome.observed / outcome.predicted)) : 0;
		if (i == 1)
			first_error = error;
	}
	assert_true(first_error > 0.35 && error < first_error / 4);
	assert_true(fabs(memory.corrections.factor[POLICY_BT] / memory.corrections.factor[POLICY_HVM] - 1.5) < 0.1);
	assert_int_equal(memory.predictions, 29);

	json = policy_memory_json(&memory);
	policy_memory_parse(json, &back);
	assert_int_equal(back.count, 1);
	assert_int_equal(back.predictions, 29);
	assert_true(fabs(back.corrections.factor[POLICY_BT] - memory.corrections.factor[POLICY_BT]) < 1e-4);
	assert_string_equal(back.vms[0].key, "a");
	assert_int_equal(back.vms[0].boots, 30);
	json_object_put(json);
	/* A VM in one mode says nothing of that mode against others. */
	policy_memory_init(&memory);
	vm = policy_memory_use(&memory, "b", 1);
	for (unsigned i = 0; i < 10; i++) {
		/* What the workload is thought to be, and so the cost, changes from run to run: the boot does not. */
		const double costs[POLICY_MODE_COUNT] = {[POLICY_BT] = 2 + i % 2};

		policy_memory_outcome(&memory, vm, POLICY_BT, costs, 5, &outcome);
		assert_true(i == 0 ? outcome.predicted <= 0 : fabs(outcome.predicted - 5) < 1e-9);
	}
	assert_true(fabs(memory.corrections.factor[POLICY_BT] - 1) < 1e-9);
	/* A mode whose cost is not known gets no prediction, and nobody a correction. */
	{
		const double none[POLICY_MODE_COUNT] = {[POLICY_BT] = 2};

		policy_memory_outcome(&memory, vm, POLICY_HVM, none, 1, &outcome);
		assert_true(outcome.predicted <= 0 && memory.corrections.outcomes[POLICY_BT] == 0);
	}
	/* The oldest makes room. */
	policy_memory_init(&memory);
	for (unsigned i = 0; i < POLICY_MEMORY_VMS + 10; i++) {
		char key[16];

		snprintf(key, sizeof(key), "%u", i);
		policy_memory_use(&memory, key, i + 1);
	}
	assert_int_equal(memory.count, POLICY_MEMORY_VMS);
	assert_null(policy_memory_find(&memory, "0"));
	assert_non_null(policy_memory_find(&memory, "12"));
	/* Rubbish is left out. */
	json = json_tokener_parse("{\"format\":1,\"predictions\":-5,\"corrections\":{\"bt\":{\"factor\":1e9}},\"vms\":[1,{},{\"key\":\"c\","
				  "\"boots\":3}]}");
	policy_memory_parse(json, &back);
	assert_true(back.count == 1 && back.vms[0].boots == 0 && back.predictions == 0);
	assert_true(fabs(back.corrections.factor[POLICY_BT] - 1) < 1e-9);
	json_object_put(json);
}

/* ---- fleets ------------------------------------------------------------------------------------------------ */

/* Hosts by the names of their files, each `copies` times; group: a word for all. */
static json_object *fleet_hosts(const char *const *names, unsigned copies, const char *group)
{
	json_object *list = json_object_new_array();

	for (; *names; names++)
		for (unsigned i = 0; i < copies; i++) {
			struct host *host = find(*names);
			json_object *json = json_object_new_object();
			char name[100];

			snprintf(name, sizeof(name), "%s-%u", *names, i);
			json_object_object_add(json, "name", json_object_new_string(name));
			json_object_object_add(json, "facts", json_object_get(member(host->file, "facts")));
			json_object_object_add(json, "calibration", json_object_get(member(host->file, "calibration")));
			if (group)
				json_object_object_add(json, "group", json_object_new_string(group));
			json_object_array_add(list, json);
		}
	return list;
}

static json_object *plan(json_object *fleet, const char *vms)
{
	json_object *list = json_tokener_parse(vms), *result = NULL;
	char error[700] = "";

	assert_non_null(list);
	if (policy_plan(fleet, list, &result, error, sizeof(error)))
		fail_msg("%s", error);
	json_object_put(list);
	json_object_put(fleet);
	return result;
}

static const char *placed(json_object *result, const char *vm, const char *what)
{
	json_object *list = member(result, "placements");

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *row = json_object_array_get_idx(list, i);

		if (!strcmp(json_object_get_string(member(row, "vm")), vm))
			return json_object_get_string(member(row, what));
	}
	return "nowhere";
}

static const char *unplaced(json_object *result, const char *vm)
{
	json_object *list = member(result, "unplaced");

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *row = json_object_array_get_idx(list, i);

		if (!strcmp(json_object_get_string(member(row, "vm")), vm))
			return json_object_get_string(member(row, "reason"));
	}
	fail_msg("%s was placed on %s", vm, placed(result, vm, "host"));
	return "";
}

static void fleets_keep_constraints(void **state)
{
	static const char *const three[] = {"xeon-ept-iommu", "cloud-no-nested", "p4-2004", NULL};
	static const char *const small[] = {"p4-2004", NULL};
	static const char *const mixed[] = {"epyc-npt-avic", "cloud-no-nested", NULL};
	json_object *r;

	r = plan(fleet_hosts(three, 1, NULL),
		 "[{\"name\":\"a\"},{\"name\":\"bt\",\"policy\":{\"forbid\":[\"hvm\"]}},"
		 "{\"name\":\"pass\",\"policy\":{\"passthrough\":true}},"
		 "{\"name\":\"both\",\"policy\":{\"passthrough\":true,\"forbid\":[\"hvm\"]}},"
		 "{\"name\":\"huge\",\"memory_mib\":1000000}]");
	assert_string_equal(placed(r, "a", "variant"), "hvm/ept");
	assert_string_equal(placed(r, "bt", "mode"), "bt");
	assert_string_equal(placed(r, "bt", "host"), "xeon-ept-iommu-0"); /* the fastest, in bt too */
	assert_string_equal(placed(r, "pass", "host"), "xeon-ept-iommu-0");
	assert_non_null(strstr(unplaced(r, "both"), "no host has a mode"));
	assert_non_null(strstr(unplaced(r, "huge"), "larger"));
	json_object_put(r);

	/* Two hosts of 2048 MiB: what does not fit is left, and nothing is promised twice. */
	r = plan(fleet_hosts(small, 2, NULL), "[{\"name\":\"a\",\"memory_mib\":1500},{\"name\":\"b\",\"memory_mib\":1500},"
					      "{\"name\":\"c\",\"memory_mib\":1500}]");
	assert_int_equal(json_object_array_length(member(r, "placements")), 2);
	assert_string_not_equal(placed(r, "a", "host"), placed(r, "b", "host"));
	assert_non_null(strstr(unplaced(r, "c"), "full"));
	json_object_put(r);

	r = plan(fleet_hosts(small, 4, NULL),
		 "[{\"name\":\"a\",\"affinity\":\"x\",\"memory_mib\":900},{\"name\":\"b\",\"affinity\":\"x\",\"memory_mib\":900},"
		 "{\"name\":\"c\",\"anti_affinity\":\"y\"},{\"name\":\"d\",\"anti_affinity\":\"y\"},"
		 "{\"name\":\"e\",\"anti_affinity\":\"y\"},{\"name\":\"f\",\"anti_affinity\":\"y\",\"memory_mib\":300},"
		 "{\"name\":\"g\",\"affinity\":\"z\",\"memory_mib\":1500},{\"name\":\"h\",\"affinity\":\"z\",\"memory_mib\":1500}]");
	assert_string_equal(placed(r, "a", "host"), placed(r, "b", "host"));
	assert_true(strcmp(placed(r, "c", "host"), placed(r, "d", "host")) && strcmp(placed(r, "d", "host"), placed(r, "e", "host")) &&
		    strcmp(placed(r, "c", "host"), placed(r, "e", "host")));
	assert_non_null(strstr(unplaced(r, "f"), "apart"));
	assert_non_null(strstr(unplaced(r, "g"), "together"));
	json_object_put(r);

	/* What moves between an EPYC and a cloud VM without KVM can do so in bt only. */
	r = plan(fleet_hosts(mixed, 1, "rack"), "[{\"name\":\"stays\"},{\"name\":\"moves\",\"migratable_in\":\"rack\"},"
						"{\"name\":\"lost\",\"migratable_in\":\"elsewhere\"}]");
	assert_string_equal(placed(r, "stays", "mode"), "hvm");
	assert_string_equal(placed(r, "moves", "mode"), "bt");
	assert_non_null(strstr(unplaced(r, "lost"), "group"));
	json_object_put(r);
}

/* Where passthrough is impossible the remedy is of that host; without a capacity a host takes four vCPUs for each of its own. */
static void remedies_and_room_of_a_host(void **state)
{
	static const char *const one[] = {"p4-2004", NULL};
	struct policy_host host = {.iommu_units = 1};
	json_object *r;
	char vms[200];

	assert_non_null(strstr(policy_iommu_remedy(&host), "iommu=on"));
	assert_null(strstr(policy_iommu_remedy(&host), "firmware"));
	host.iommu_units = 0;
	assert_non_null(strstr(policy_iommu_remedy(&host), "firmware"));
	host.under_hypervisor = true;
	assert_non_null(strstr(policy_iommu_remedy(&host), "outer hypervisor"));

	for (unsigned more = 0; more < 2; more++) {
		snprintf(vms, sizeof(vms), "[{\"name\":\"v\",\"vcpus\":%u}]", 4 * find(one[0])->facts.cores + more);
		r = plan(fleet_hosts(one, 1, NULL), vms);
		assert_int_equal(json_object_array_length(member(r, "placements")), !more);
		json_object_put(r);
	}
}

/* Demands that no plan can keep, and costs that nothing is known of, are said to be that. */
static void fleets_promise_nothing(void **state)
{
	static const char *const two[] = {"xeon-ept-iommu", "p4-2004", NULL};
	json_object *r, *hosts_json = json_tokener_parse("[{\"name\":\"a\",\"facts\":[],\"capacity\":{\"memory_mib\":4096,\"vcpus\":4}}]"),
			*vms = json_tokener_parse("[{\"name\":\"v\"}]");
	char error[700];

	r = plan(fleet_hosts(two, 1, NULL),
		 "[{\"name\":\"a\",\"affinity\":\"x\",\"anti_affinity\":\"y\"},{\"name\":\"b\",\"affinity\":\"x\"},"
		 "{\"name\":\"c\",\"affinity\":\"x\",\"anti_affinity\":\"y\"},"
		 "{\"name\":\"d\",\"affinity\":\"z\",\"anti_affinity\":\"y\"},{\"name\":\"e\",\"affinity\":\"z\",\"anti_affinity\":\"w\"}]");
	assert_non_null(strstr(unplaced(r, "a"), "contradict"));
	assert_non_null(strstr(unplaced(r, "b"), "contradict"));
	assert_non_null(strstr(unplaced(r, "c"), "contradict"));
	assert_string_equal(placed(r, "d", "host"), placed(r, "e", "host"));
	json_object_put(r);

	assert_int_equal(policy_plan(hosts_json, vms, &r, error, sizeof(error)), 0);
	assert_string_equal(placed(r, "v", "host"), "a");
	assert_null(member(json_object_array_get_idx(member(r, "placements"), 0), "cost"));
	json_object_put(r);
	json_object_put(hosts_json);
	json_object_put(vms);
}

#define HOST_WITH(calibration) "[{\"name\":\"a\",\"facts\":[],\"calibration\":{\"format\":1,\"key\":{}," calibration "}}]"

static void bad_fleets_are_refused(void **state)
{
	static const struct {
		const char *hosts, *vms, *word;
	} bad[] = {
		{"[]", "[]", "hosts"},
		{"[{\"facts\":[]}]", "[]", "name"},
		{"[{\"name\":\"a\"}]", "[]", "facts"},
		{"[{\"name\":\"a\",\"facts\":[]},{\"name\":\"a\",\"facts\":[]}]", "[]", "twice"},
		{"[{\"name\":\"a\",\"facts\":[],\"calibration\":{\"format\":9}}]", "[]", "calibration"},
		{HOST_WITH("\"native\":5,\"modes\":{}"), "[]", "native"},
		{HOST_WITH("\"native\":{\"figures\":{\"integer\":{\"ns\":1e-300,\"median_ns\":2}}},\"modes\":{}"), "[]", "native.figures.integer.ns"},
		{HOST_WITH("\"native\":{\"figures\":{}},\"modes\":{\"bt\":{\"figures\":{\"tlb\":{\"ns\":2,\"median_ns\":1}}}}"), "[]",
		 "modes.bt.figures.tlb.median_ns"},
		{HOST_WITH("\"native\":{\"figures\":{}},\"modes\":{\"hvm\":[]}"), "[]", "modes.hvm"},
		{"[{\"name\":\"a\",\"facts\":[],\"capacity\":{\"vcpus\":-1}}]", "[]", "capacity"},
		{"[{\"name\":\"a\",\"facts\":[]}]", "{}", "vms"},
		{"[{\"name\":\"a\",\"facts\":[]}]", "[{}]", "vms[0]"},
		{"[{\"name\":\"a\",\"facts\":[]}]", "[{\"name\":\"v\"},{\"name\":\"v\"}]", "twice"},
		{"[{\"name\":\"a\",\"facts\":[]}]", "[{\"name\":\"v\",\"memory_mib\":0}]", "memory_mib"},
		{"[{\"name\":\"a\",\"facts\":[]}]", "[{\"name\":\"v\",\"policy\":{\"require\":[\"x\"]}}]", "policy.require"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_object *hosts_json = json_tokener_parse(bad[i].hosts), *vms = json_tokener_parse(bad[i].vms), *result = NULL;
		char error[700] = "";

		assert_int_not_equal(policy_plan(hosts_json, vms, &result, error, sizeof(error)), 0);
		if (!strstr(error, bad[i].word))
			fail_msg("case %zu: %s", i, error);
		json_object_put(hosts_json);
		json_object_put(vms);
	}
}

/* 1000 hosts, 10,000 VMs: all are placed within the hosts' sizes. The time is printed; nobody's clock fails a test. */
static void a_large_fleet(void **state)
{
	static const char *const names[] = {"xeon-ept-iommu", "epyc-npt-avic", "cloud-no-nested",  "cloud-nested-intel", "pvm-host",
					    "locked-firmware", "container",    "cloud-nested-amd", "never-measured",     "vtx-2005",
					    NULL};
	static const char *const workloads[] = {"compute", "memory", "syscall", "process", "io", "mixed"};
	json_object *fleet = fleet_hosts(names, 100, NULL), *vms = json_object_new_array(), *result = NULL, *list;
	struct timespec begin, end;
	char error[700], name[40];

	for (unsigned i = 0; i < 10000; i++) {
		json_object *vm = json_object_new_object();

		snprintf(name, sizeof(name), "vm%u", i);
		json_object_object_add(vm, "name", json_object_new_string(name));
		json_object_object_add(vm, "memory_mib", json_object_new_int(512 << (i % 4)));
		json_object_object_add(vm, "workload", json_object_new_string(workloads[i % 6]));
		if (i % 10 == 0) {
			snprintf(name, sizeof(name), "g%u", i / 50);
			json_object_object_add(vm, i % 20 ? "affinity" : "anti_affinity", json_object_new_string(name));
		}
		json_object_array_add(vms, vm);
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	assert_int_equal(policy_plan(fleet, vms, &result, error, sizeof(error)), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	print_message("# 1000 hosts, 10000 VMs: %.0f ms\n",
		      (double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) / 1e6);
	assert_int_equal(json_object_array_length(member(result, "placements")), 10000);
	list = member(result, "hosts");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *row = json_object_array_get_idx(list, i);

		assert_true(json_object_get_int(member(row, "memory_left_mib")) >= 0);
		assert_true(json_object_get_int(member(row, "vcpus_left")) >= 0);
	}
	json_object_put(result);
	json_object_put(fleet);
	json_object_put(vms);
}

/* ---- lines of the calibration programs ------------------------------------------------------------------ */

static void lines_are_not_trusted(void **state)
{
	struct policy_figures f = {0};
	enum policy_measure m = POLICY_MEASURES;
	double khz = 0;

	assert_int_equal(policy_calibration_line(&f, "calibrate ready 1 2000000", 0, &khz, &m), POLICY_LINE_READY);
	assert_true(khz > 1999999 && khz < 2000001);
	assert_int_equal(policy_calibration_line(&f, "calibrate ready 2 5", 0, &khz, &m), POLICY_LINE_OTHER);
	assert_int_equal(policy_calibration_line(&f, "begin tlb", khz, NULL, &m), POLICY_LINE_BEGIN);
	assert_int_equal(m, POLICY_tlb);
	/* 4000 thousandths of a tick at 2 GHz are 2 ns. */
	assert_int_equal(policy_calibration_line(&f, "figure tlb 4000 5000 100 9", khz, NULL, &m), POLICY_LINE_FIGURE);
	assert_true(fabs(f.of[POLICY_tlb].ns - 2) < 1e-9 && fabs(f.of[POLICY_tlb].median_ns - 2.5) < 1e-9);
	/* The lower one stays, whichever comes first. */
	policy_calibration_line(&f, "figure tlb 6000 6000 100 9", khz, NULL, &m);
	assert_true(fabs(f.of[POLICY_tlb].ns - 2) < 1e-9);
	assert_int_equal(f.of[POLICY_tlb].rounds, 18);
	policy_calibration_line(&f, "figure tlb 2000 2000 100 9", khz, NULL, &m);
	assert_true(fabs(f.of[POLICY_tlb].ns - 1) < 1e-9);
	assert_int_equal(policy_calibration_line(&f, "fail tlb too late", khz, NULL, &m), POLICY_LINE_FIGURE);
	assert_int_equal(f.of[POLICY_tlb].state, POLICY_FIGURE_NS);
	policy_calibration_line(&f, "fail vector a reason of several words", khz, NULL, &m);
	assert_int_equal(f.of[POLICY_vector].state, POLICY_FIGURE_CANNOT);
	assert_string_equal(f.of[POLICY_vector].why, "a reason of several words");
	assert_int_equal(policy_calibration_line(&f, "end", khz, NULL, &m), POLICY_LINE_END);
	static const char *const rubbish[] = {
		"", "figure tlb", "figure warp 1 1 1 1", "figure integer 0 0 1 1", "figure integer 5 4 1 1", "figure integer 4 5 1 0",
		"figure integer 99999999999999999999999 1 1 1", "figure integer 9000000000000000000 9000000000000000000 1 1",
		"begin", "begin x", "fail", "fail nothing", "fail ? there is no such measure", "endless", "figure integer nan nan 1 1",
	};
	for (size_t i = 0; i < sizeof(rubbish) / sizeof(rubbish[0]); i++)
		if (policy_calibration_line(&f, rubbish[i], khz, NULL, &m) != POLICY_LINE_OTHER)
			fail_msg("taken: %s", rubbish[i]);
	assert_int_equal(f.of[POLICY_integer].state, POLICY_FIGURE_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_is_recognized),
		cmocka_unit_test(facts_survive_the_way_out_and_in),
		cmocka_unit_test(damaged_files_are_refused),
		cmocka_unit_test(known_answers),
		cmocka_unit_test(constraints_rule_out),
		cmocka_unit_test(a_vm_keeps_its_mode),
		cmocka_unit_test(choices_cost_little_more_than_the_best),
		cmocka_unit_test(workloads_are_learned_and_forgotten),
		cmocka_unit_test(corrections_and_confidence_count),
		cmocka_unit_test(figures_belong_to_a_host),
		cmocka_unit_test(what_is_learned_fades),
		cmocka_unit_test(outcomes_correct_predictions),
		cmocka_unit_test(fleets_keep_constraints),
		cmocka_unit_test(remedies_and_room_of_a_host),
		cmocka_unit_test(fleets_promise_nothing),
		cmocka_unit_test(bad_fleets_are_refused),
		cmocka_unit_test(a_large_fleet),
		cmocka_unit_test(lines_are_not_trusted),
	};

	return cmocka_run_group_tests_name("policy_hosts", tests, load_hosts, free_hosts);
}
