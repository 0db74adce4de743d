/* A VM's directory: what is put there for its process, and what that leaves behind. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/file.h"
#include "proto/line.h"
#include "proto/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT_MAX ((size_t)256 << 10)
#define LOG_TAIL 2000

static void remove_file(const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (!paths_join(path, sizeof(path), dir, name) && unlink(path) < 0 && errno != ENOENT)
		log_warning("%s: %s", path, strerror(errno));
}

static void clear_directory(const char *dir)
{
	static const char *const names[] = {CONTROL_FILE_SOCKET, CONTROL_FILE_CONSOLE, CONTROL_FILE_ATTACH,
					    CONTROL_FILE_RING,   CONTROL_FILE_PID,
					    CONTROL_FILE_RESULT};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		remove_file(dir, names[i]);
}

/* Everything in it is a file or a socket; what a process that was killed had begun to write is there too. */
void vmdir_remove(const char *dir)
{
	DIR *stream = opendir(dir);
	struct dirent *entry;

	if (!stream)
		return;
	while ((entry = readdir(stream)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			remove_file(dir, entry->d_name);
	closedir(stream);
	if (rmdir(dir) < 0 && errno != ENOENT)
		log_warning("%s: %s", dir, strerror(errno));
}

/* The end of the process's log, from a line's start. */
static void read_log_tail(const char *dir, char *tail, size_t size)
{
	char path[PATH_MAX], *line;
	ssize_t n = 0;
	struct stat st;
	int fd;

	tail[0] = '\0';
	if (paths_join(path, sizeof(path), dir, CONTROL_FILE_LOG))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0)
		n = pread(fd, tail, size - 1, st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0);
	close(fd);
	tail[n > 0 ? n : 0] = '\0';
	line = n == (ssize_t)size - 1 ? strchr(tail, '\n') : NULL;
	if (line)
		memmove(tail, line + 1, strlen(line + 1) + 1);
	for (char *c = tail; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?'; /* cut or foreign: JSON wants valid UTF-8 */
}

static int write_json(const char *dir, const char *name, json_object *json)
{
	char path[PATH_MAX];
	size_t bytes;
	const char *text = json_object_to_json_string_length(
		json, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	int rc = paths_join(path, sizeof(path), dir, name);

	return rc ? rc : file_write_atomic(path, text, bytes, 0600);
}

/* The process may have been taken over by its guest: nothing is believed but strict JSON of the right shape. */
json_object *vmdir_read_json(const char *dir, const char *name)
{
	char path[PATH_MAX], *text = NULL;
	json_object *json = NULL;
	const char *why = "no object";
	size_t bytes;
	int rc = paths_join(path, sizeof(path), dir, name);

	if (!rc)
		rc = file_read(path, RESULT_MAX, &text, &bytes);
	if (rc) {
		if (rc != -ENOENT)
			log_warning("%s: %s", path, strerror(-rc));
		return NULL;
	}
	if (line_parse_json(text, bytes, &json, &why) || !json_object_is_type(json, json_type_object)) {
		log_warning("%s: %s", path, why);
		json_object_put(json);
		json = NULL;
	}
	free(text);
	return json;
}

struct vmdef *vmdir_read_definition(const char *dir)
{
	char path[PATH_MAX], error[VMDEF_ERROR_BYTES], *text = NULL;
	struct vmdef *def = NULL;
	size_t bytes;

	if (paths_join(path, sizeof(path), dir, CONTROL_FILE_DEFINITION) ||
	    file_read(path, VMDEF_JSON_MAX, &text, &bytes))
		return NULL;
	if (vmdef_from_text(text, bytes, &def, error))
		log_warning("%s: %s", path, error);
	free(text);
	return def;
}

static json_object *read_result(const char *dir)
{
	json_object *result = vmdir_read_json(dir, CONTROL_FILE_RESULT), *state = NULL, *reason = NULL, *code = NULL;
	enum vm_state parsed;

	if (!result)
		return NULL;
	json_object_object_get_ex(result, "reason", &reason);
	json_object_object_get_ex(result, "exit_code", &code);
	if (json_object_object_get_ex(result, "state", &state) && json_object_is_type(state, json_type_string) &&
	    vm_state_parse(json_object_get_string(state), &parsed) && vm_state_is_final(parsed) &&
	    json_object_is_type(reason, json_type_string) && (!code || json_object_is_type(code, json_type_int)))
		return result;
	log_warning("%s/" CONTROL_FILE_RESULT ": no result", dir);
	json_object_put(result);
	return NULL;
}

static json_object *make_result(const char *dir, double started, enum vm_state state, const char *why)
{
	json_object *result = json_object_new_object();
	char tail[LOG_TAIL];

	read_log_tail(dir, tail, sizeof(tail));
	put_text(result, "state", vm_state_name(state));
	put_text(result, "reason", why);
	json_object_object_add(result, "exit_code", NULL);
	json_object_object_add(result, "started", json_object_new_double(started));
	json_object_object_add(result, "ended", json_object_new_double(epoch_seconds()));
	put_text(result, "log_tail", tail);
	return result;
}

void vmdir_record(struct vm *vm, const char *dir, double started, enum vm_state state, const char *why)
{
	json_object *result = read_result(dir), *params = json_object_new_object(), *reason = NULL;

	if (!result) {
		result = make_result(dir, started, state, why);
		/* In place of its own, so that a later daemon does not record this end again. */
		if (!vm->transient && write_json(dir, CONTROL_FILE_RESULT, result))
			log_warning("%s: cannot write " CONTROL_FILE_RESULT, dir);
	}
	put_text(result, "uuid", vm->uuid);
	put_text(result, "name", vm->name);
	registry_set_result(vm, result);
	learning_take(vm);
	store_add(vm->daemon->store, STORE_RESULT, vm->uuid, vm->name, epoch_seconds(),
		  json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN), NULL, NULL);
	if (vm->transient)
		vmdir_remove(dir);
	put_text(params, "state", vm_state_text(vm));
	json_object_object_get_ex(result, "reason", &reason);
	json_object_object_add(params, "reason", json_object_get(reason));
	event_emit(vm, "ended", params);
}

int vmdir_write_note(struct vm *vm, const char *dir, const char *mode, int id)
{
	json_object *note = json_object_new_object();
	int rc;

	json_object_object_add(note, "transient", json_object_new_boolean(vm->transient));
	json_object_object_add(note, "ends_with_client", json_object_new_boolean(vm->owner != NULL));
	put_text(note, "mode", mode);
	json_object_object_add(note, "id", json_object_new_int(id));
	json_object_object_add(note, "decision", json_object_get(vm->decision));
	rc = write_json(dir, "daemon.json", note);
	json_object_put(note);
	return rc;
}

int vmdir_write_definition(const char *dir, const struct vmdef *def)
{
	json_object *definition = vmdef_to_json(def);
	int rc = definition ? write_json(dir, CONTROL_FILE_DEFINITION, definition) : -ENOMEM;

	json_object_put(definition);
	return rc;
}

/* definition.json for the process, daemon.json for the next daemon that finds it. */
int vmdir_prepare(struct vm *vm, const char *dir, const char *mode, bool no_reboot, int id)
{
	json_object *definition = NULL;
	int rc = file_make_dirs(dir, 0700);

	if (!rc) {
		clear_directory(dir);
		if (json_object_deep_copy(vm->definition, &definition, NULL) < 0)
			rc = -ENOMEM;
	}
	if (!rc && no_reboot)
		put_text(definition, "on_reboot", "shutdown");
	if (!rc)
		rc = write_json(dir, CONTROL_FILE_DEFINITION, definition);
	if (!rc)
		rc = vmdir_write_note(vm, dir, mode, id);
	json_object_put(definition);
	return rc;
}
