/* The store: what was acknowledged is read back, errors arrive on the loop, and one directory has one owner. */
#include "daemon/log.h"
#include "daemon/settings.h"
#include "daemon/store.h"

#include <errno.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct event_base *base;
	struct store *store;
	char dir[64];
	unsigned answers, errors;
	int last_error;
	json_object *rows;
	char loaded[1024];
};

static int open_fixture(struct fixture *f)
{
	char error[600] = "";
	int rc = store_open(f->dir, f->base, &f->store, error, sizeof(error));

	if (rc)
		print_message("# %s\n", error);
	return rc;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	log_set_level(LOG_LEVEL_ERROR);
	strcpy(f->dir, "/tmp/trivisor-store-XXXXXX");
	f->base = event_base_new();
	return f->base && mkdtemp(f->dir) ? open_fixture(f) : -1;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"trivisor.db", "trivisor.db-wal", "trivisor.db-shm"};
	char path[128];

	store_close(f->store);
	event_base_free(f->base);
	json_object_put(f->rows);
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		unlink(path);
	}
	rmdir(f->dir);
	free(f);
	return 0;
}

static void on_done(void *opaque, int error, const char *message, json_object *rows)
{
	struct fixture *f = opaque;

	f->answers++;
	f->errors += error != 0;
	f->last_error = error;
	json_object_put(f->rows);
	f->rows = json_object_get(rows);
	if (error)
		assert_true(strlen(message) > 10);
}

static void run_until(struct fixture *f, unsigned answers)
{
	struct timeval limit = {.tv_sec = 20};

	event_base_loopexit(f->base, &limit);
	while (f->answers < answers)
		assert_int_equal(event_base_loop(f->base, EVLOOP_ONCE), 0);
}

static void note_row(void *opaque, const char *uuid, const char *definition, double created, const char *decision,
		     const char *result)
{
	struct fixture *f = opaque;
	size_t n = strlen(f->loaded);

	snprintf(f->loaded + n, sizeof(f->loaded) - n, "%s=%s/%s/%s;", uuid, definition, decision ? decision : "-",
		 result ? result : "-");
}

static const char *reload(struct fixture *f)
{
	char error[600];

	store_close(f->store);
	f->store = NULL;
	assert_int_equal(open_fixture(f), 0);
	f->loaded[0] = '\0';
	assert_int_equal(store_load(f->store, note_row, f, error, sizeof(error)), 0);
	return f->loaded;
}

static void definitions_are_read_back(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(reload(f), "");
	store_put_definition(f->store, "u1", "one", "{1}", 1, on_done, f);
	store_put_definition(f->store, "u2", "two", "{2}", 2, on_done, f);
	store_put_definition(f->store, "u1", "uno", "{1b}", 3, on_done, f);
	store_add(f->store, STORE_DECISION, "u1", "uno", 1, "{d1}", on_done, f);
	store_add(f->store, STORE_DECISION, "u1", "uno", 2, "{d2}", on_done, f);
	store_add(f->store, STORE_RESULT, "u2", "two", 2, "{r}", on_done, f);
	assert_int_equal(f->answers, 0); /* nothing is acknowledged before the loop runs */
	run_until(f, 6);
	assert_int_equal(f->errors, 0);
	assert_string_equal(reload(f), "u1={1b}/{d2}/-;u2={2}/-/{r};");
	store_delete_definition(f->store, "u1", on_done, f);
	run_until(f, 7);
	assert_string_equal(reload(f), "u2={2}/-/{r};");
}

static void queued_writes_are_finished(void **state)
{
	struct fixture *f = *state;
	char uuid[16], name[16];

	for (int i = 0; i < 100; i++) {
		snprintf(uuid, sizeof(uuid), "u%d", i);
		snprintf(name, sizeof(name), "n%d", i);
		store_put_definition(f->store, uuid, name, "x", i, NULL, NULL);
	}
	reload(f); /* closes right behind the last one */
	assert_non_null(strstr(f->loaded, "u0=x"));
	assert_non_null(strstr(f->loaded, "u99=x"));
}

static void a_name_belongs_to_one(void **state)
{
	struct fixture *f = *state;

	store_put_definition(f->store, "u1", "same", "{1}", 1, on_done, f);
	store_put_definition(f->store, "u2", "same", "{2}", 2, on_done, f);
	run_until(f, 2);
	assert_int_equal(f->errors, 1);
	assert_int_equal(f->last_error, -EEXIST);
	assert_null(store_problem(f->store)); /* the directory is not to blame */
	assert_string_equal(reload(f), "u1={1}/-/-;");
}

static void one_owner(void **state)
{
	struct fixture *f = *state;
	struct store *second = NULL;
	char error[600] = "";

	assert_int_equal(store_open(f->dir, f->base, &second, error, sizeof(error)), -EBUSY);
	assert_null(second);
	assert_non_null(strstr(error, "another trivisord"));
}

static void records_are_listed_newest_first(void **state)
{
	struct fixture *f = *state;
	char json[32];

	for (int i = 0; i < 600; i++) {
		snprintf(json, sizeof(json), "{\"n\":%d}", i);
		store_add(f->store, STORE_EVENT, i % 2 ? "odd" : "even", NULL, i, json, on_done, f);
	}
	store_list(f->store, STORE_EVENT, "odd", 3, on_done, f);
	run_until(f, 601);
	assert_int_equal(f->errors, 0);
	assert_string_equal(json_object_to_json_string_ext(f->rows, JSON_C_TO_STRING_PLAIN),
			    "[{\"n\":599},{\"n\":597},{\"n\":595}]");
	store_list(f->store, STORE_EVENT, NULL, 1000, on_done, f);
	store_list(f->store, STORE_RESULT, NULL, 10, on_done, f);
	run_until(f, 603);
	assert_int_equal(json_object_array_length(f->rows), 0);
}

static void a_database_of_the_future(void **state)
{
	struct fixture *f = *state;
	char command[200], error[600];
	FILE *file;

	store_close(f->store);
	f->store = NULL;
	/* user_version is the big-endian word at offset 60 (sqlite.org/fileformat2.html, 1.3). */
	snprintf(command, sizeof(command), "%s/trivisor.db", f->dir);
	file = fopen(command, "r+");
	assert_non_null(file);
	fseek(file, 60, SEEK_SET);
	assert_int_equal(fwrite("\0\0\0\x63", 1, 4, file), 4);
	fclose(file);
	assert_int_equal(store_open(f->dir, f->base, &f->store, error, sizeof(error)), -EBADMSG);
	assert_null(f->store);
}

/* ---- settings ----------------------------------------------------------------------- */

static int read_settings(struct settings *s, const char *text, char *error, size_t size)
{
	char path[] = "/tmp/trivisor-settings-XXXXXX";
	int fd = mkstemp(path), rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	free(s->config_path);
	s->config_path = strdup(path);
	error[0] = '\0';
	rc = settings_read_file(s, error, size);
	unlink(path);
	return rc;
}

static void settings_from_a_file(void **state)
{
	struct settings s;
	char error[700];
	static const char *const bad[][2] = {
		{"max_vms = 0", "max_vms"},
		{"max_vms = 3x", "max_vms"},
		{"max_vms =", "max_vms"},
		{"socket = x", "absolute path"},
		{"socket_mode = 999", "octal"},
		{"log_level = loud", "log_level"},
		{"nothing", "key = value"},
		{"colour = red", "colour"},
		{"= 5", "unknown key \"\""},
		{"start_timeout = -1", "seconds"},
		{"max_clients = 99999999999999999999", "max_clients"},
	};

	assert_int_equal(settings_init(&s), 0);
	assert_int_equal(
		read_settings(
			&s,
			"# all\n\n  max_vms=7 # seven\n\tlog_level = debug\nsocket_mode = 0660\nstate_dir = /a b/c\n",
			error, sizeof(error)),
		0);
	assert_int_equal(s.max_vms, 7);
	assert_int_equal(s.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(s.socket_mode, 0660);
	assert_string_equal(s.state_dir, "/a b/c");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[200];

		snprintf(text, sizeof(text), "max_vms = 99\n%s\n", bad[i][0]);
		assert_true(read_settings(&s, text, error, sizeof(error)) < 0);
		if (!strstr(error, bad[i][1]) || !strstr(error, ":2: "))
			fail_msg("%s: \"%s\" does not name line 2 and \"%s\"", bad[i][0], error, bad[i][1]);
		assert_int_equal(s.max_vms, 7); /* all or nothing */
	}
	/* The command line wins. */
	s.from_command_line = SETTING_STATE;
	assert_int_equal(read_settings(&s, "state_dir = /other\nruntime_dir = /run/other\n", error, sizeof(error)), 0);
	assert_string_equal(s.state_dir, "/a b/c");
	assert_string_equal(s.runtime_dir, "/run/other");
	assert_int_equal(settings_complete(&s), 0);
	assert_string_equal(s.socket_path, "/run/other/api.sock");
	settings_finish(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(definitions_are_read_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(queued_writes_are_finished, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_name_belongs_to_one, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_owner, set_up, tear_down),
		cmocka_unit_test_setup_teardown(records_are_listed_newest_first, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_database_of_the_future, set_up, tear_down),
		cmocka_unit_test(settings_from_a_file),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
