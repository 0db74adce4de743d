/* What trivisord runs with: defaults for root and for a plain user, the configuration file, the command line. */
#include "daemon/settings.h"

#include "daemon/log.h"
#include "proto/paths.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *format_string(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *format_string(const char *format, ...)
{
	char *text = NULL;
	va_list args;
	int r;

	va_start(args, format);
	r = vasprintf(&text, format, args);
	va_end(args);
	return r < 0 ? NULL : text;
}

/* $XDG_CONFIG_HOME/trivisor/trivisord.conf, else ~/.config/... (the XDG base directory specification). */
static char *user_config_path(void)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	const struct passwd *pw;

	if (config && config[0] == '/')
		return format_string("%s/trivisor/trivisord.conf", config);
	if (!home || home[0] != '/') {
		pw = getpwuid(getuid());
		home = pw && pw->pw_dir ? pw->pw_dir : "/nonexistent";
	}
	return format_string("%s/.config/trivisor/trivisord.conf", home);
}

int settings_init(struct settings *ret)
{
	char runtime[PATH_MAX], state[PATH_MAX];
	int rc;

	memset(ret, 0, sizeof(*ret));
	ret->lifeline_fd = -1;
	ret->socket_mode = 0600;
	ret->log_level = LOG_LEVEL_INFO;
	ret->max_clients = 1000;
	ret->max_vms = 4096;
	ret->start_timeout_s = 20;
	ret->calibrate = true;
	rc = paths_runtime_dir(runtime, sizeof(runtime));
	if (!rc)
		rc = paths_state_dir(state, sizeof(state));
	if (rc)
		return rc;
	ret->runtime_dir = strdup(runtime);
	ret->state_dir = strdup(state);
	ret->config_path = geteuid() == 0 ? strdup("/etc/trivisor/trivisord.conf") : user_config_path();
	if (!ret->runtime_dir || !ret->state_dir || !ret->config_path) {
		settings_finish(ret);
		return -ENOMEM;
	}
	return 0;
}

/* Where libvirt's client library looks for the driver "trivisor": as root below /run, else below XDG_RUNTIME_DIR. */
static int complete_libvirt(struct settings *settings)
{
	const char *runtime = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");

	if (settings->libvirt_socket || settings->libvirt_socket_ro || !runtime || runtime[0] != '/')
		return 0;
	settings->libvirt_default = true;
	settings->libvirt_socket = format_string("%s/libvirt/virttrivisord-sock", runtime);
	settings->libvirt_socket_ro = format_string("%s/libvirt/virttrivisord-sock-ro", runtime);
	return settings->libvirt_socket && settings->libvirt_socket_ro ? 0 : -ENOMEM;
}

int settings_complete(struct settings *settings)
{
	char path[PATH_MAX], own[PATH_MAX];
	int rc = paths_runtime_dir(own, sizeof(own));

	if (settings->socket_path)
		return 0;
	if (paths_join(path, sizeof(path), settings->runtime_dir, "api.sock"))
		return -ENAMETOOLONG;
	settings->socket_path = strdup(path);
	if (!settings->socket_path)
		return -ENOMEM;
	return !rc && !strcmp(own, settings->runtime_dir) ? complete_libvirt(settings) : 0;
}

void settings_finish(struct settings *settings)
{
	free(settings->socket_path);
	free(settings->state_dir);
	free(settings->runtime_dir);
	free(settings->config_path);
	free(settings->vm_program);
	free(settings->calibrate_program);
	free(settings->calibrate_guest);
	free(settings->libvirt_socket);
	free(settings->libvirt_socket_ro);
	free(settings->socket_group);
	memset(settings, 0, sizeof(*settings));
	settings->lifeline_fd = -1;
}

char *settings_find_program(const char *environment, const char *program, const char *installed_dir)
{
	const char *named = environment ? getenv(environment) : NULL;
	char self[PATH_MAX];
	char *path, *slash;
	ssize_t n;

	if (named && named[0])
		return strdup(named);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash) {
			*slash = '\0';
			path = format_string("%s/%s", self, program);
			if (path && access(path, X_OK) == 0)
				return path;
			free(path);
		}
	}
	return format_string("%s/%s", installed_dir, program);
}

/* ---- the file ------------------------------------------------------------- */

static int parse_unsigned(const char *text, unsigned base, unsigned min, unsigned max, unsigned *ret)
{
	char *end = NULL;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, (int)base);
	if (errno || end == text || *end || value < min || value > max)
		return -EINVAL;
	*ret = (unsigned)value;
	return 0;
}

static int replace(char **slot, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*slot);
	*slot = copy;
	return 0;
}

static int set_path(struct settings *s, char **slot, unsigned bit, const char *value)
{
	if (value[0] != '/')
		return -EINVAL;
	return s->from_command_line & bit ? 0 : replace(slot, value);
}

struct setting {
	const char *key;
	int (*set)(struct settings *s, const char *value);
	const char *expects;
};

static int set_socket(struct settings *s, const char *v)
{
	return set_path(s, &s->socket_path, SETTING_SOCKET, v);
}

static int set_state_dir(struct settings *s, const char *v)
{
	return set_path(s, &s->state_dir, SETTING_STATE, v);
}

static int set_runtime_dir(struct settings *s, const char *v)
{
	return set_path(s, &s->runtime_dir, SETTING_RUNTIME, v);
}

static int set_vm_program(struct settings *s, const char *v)
{
	return set_path(s, &s->vm_program, SETTING_VM_PROGRAM, v);
}

static int set_libvirt_socket(struct settings *s, const char *v)
{
	return set_path(s, &s->libvirt_socket, SETTING_LIBVIRT, v);
}

static int set_libvirt_socket_ro(struct settings *s, const char *v)
{
	return set_path(s, &s->libvirt_socket_ro, SETTING_LIBVIRT_RO, v);
}

static int set_socket_group(struct settings *s, const char *v)
{
	return v[0] ? replace(&s->socket_group, v) : -EINVAL;
}

static int set_socket_mode(struct settings *s, const char *v)
{
	unsigned mode;

	if (parse_unsigned(v, 8, 0, 0777, &mode))
		return -EINVAL;
	s->socket_mode = (mode_t)mode;
	return 0;
}

static int set_log_level(struct settings *s, const char *v)
{
	int level = log_level_parse(v);

	if (level < 0)
		return -EINVAL;
	if (!(s->from_command_line & SETTING_LOG_LEVEL))
		s->log_level = level;
	return 0;
}

static int set_max_clients(struct settings *s, const char *v)
{
	return parse_unsigned(v, 10, 1, 100000, &s->max_clients);
}

static int set_max_vms(struct settings *s, const char *v)
{
	return parse_unsigned(v, 10, 1, 1000000, &s->max_vms);
}

static int set_start_timeout(struct settings *s, const char *v)
{
	return parse_unsigned(v, 10, 1, 3600, &s->start_timeout_s);
}

static int set_calibrate(struct settings *s, const char *v)
{
	bool yes = !strcmp(v, "yes");

	if (!yes && strcmp(v, "no"))
		return -EINVAL;
	if (!(s->from_command_line & SETTING_CALIBRATE))
		s->calibrate = yes;
	return 0;
}

static const struct setting table[] = {
	{"socket", set_socket, "an absolute path"},
	{"state_dir", set_state_dir, "an absolute path"},
	{"runtime_dir", set_runtime_dir, "an absolute path"},
	{"vm_program", set_vm_program, "an absolute path"},
	{"libvirt_socket", set_libvirt_socket, "an absolute path"},
	{"libvirt_socket_ro", set_libvirt_socket_ro, "an absolute path"},
	{"socket_group", set_socket_group, "a group's name"},
	{"socket_mode", set_socket_mode, "an octal mode such as 0660"},
	{"log_level", set_log_level, "error, warning, notice, info or debug"},
	{"max_clients", set_max_clients, "a number from 1 to 100000"},
	{"max_vms", set_max_vms, "a number from 1 to 1000000"},
	{"start_timeout", set_start_timeout, "seconds, from 1 to 3600"},
	{"calibrate", set_calibrate, "yes or no"},
};

static char *trim(char *text)
{
	size_t n;

	while (isspace((unsigned char)*text))
		text++;
	for (n = strlen(text); n && isspace((unsigned char)text[n - 1]); n--)
		text[n - 1] = '\0';
	return text;
}

static int apply_line(struct settings *s, char *line, unsigned number, char *error, size_t error_size)
{
	char *key, *value, *equals;

	line[strcspn(line, "#")] = '\0';
	key = trim(line);
	if (!*key)
		return 0;
	equals = strchr(key, '=');
	if (!equals) {
		snprintf(error, error_size, "%s:%u: expected \"key = value\", found \"%s\"", s->config_path, number,
			 key);
		return -EINVAL;
	}
	*equals = '\0';
	key = trim(key);
	value = trim(equals + 1);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int rc;

		if (strcmp(table[i].key, key))
			continue;
		rc = table[i].set(s, value);
		if (rc == -EINVAL)
			snprintf(error, error_size, "%s:%u: %s: expected %s, found \"%s\"", s->config_path, number, key,
				 table[i].expects, value);
		else if (rc)
			snprintf(error, error_size, "%s:%u: %s", s->config_path, number, strerror(-rc));
		return rc;
	}
	snprintf(error, error_size, "%s:%u: unknown key \"%s\"; trivisord(8) lists the known ones", s->config_path,
		 number, key);
	return -EINVAL;
}

static int copy_settings(struct settings *to, const struct settings *from)
{
	char **slots[] = {&to->socket_path,    &to->state_dir,         &to->runtime_dir,  &to->config_path,
			  &to->vm_program,     &to->libvirt_socket,    &to->libvirt_socket_ro, &to->socket_group,
			  &to->calibrate_program, &to->calibrate_guest};

	*to = *from;
	for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		const char *text = *slots[i];

		*slots[i] = NULL;
		if (text && replace(slots[i], text))
			goto fail;
		continue;
	fail:
		for (size_t j = i + 1; j < sizeof(slots) / sizeof(slots[0]); j++)
			*slots[j] = NULL; /* these are still *from's */
		settings_finish(to);
		return -ENOMEM;
	}
	return 0;
}

int settings_read_file(struct settings *settings, char *error, size_t error_size)
{
	struct settings next;
	char *line = NULL;
	size_t size = 0;
	unsigned number = 0;
	FILE *file;
	int rc;

	if (!settings->config_path)
		return 0;
	file = fopen(settings->config_path, "re");
	if (!file) {
		rc = -errno;
		if (rc == -ENOENT && !settings->config_required)
			return 0;
		snprintf(error, error_size, "%s: %s", settings->config_path, strerror(-rc));
		return rc;
	}
	rc = copy_settings(&next, settings);
	if (rc) {
		fclose(file);
		snprintf(error, error_size, "out of memory");
		return rc;
	}
	errno = 0;
	while (!rc && getline(&line, &size, file) >= 0)
		rc = apply_line(&next, line, ++number, error, error_size);
	if (!rc && ferror(file)) {
		rc = errno ? -errno : -EIO;
		snprintf(error, error_size, "%s: %s", settings->config_path, strerror(-rc));
	}
	free(line);
	fclose(file);
	if (rc) {
		settings_finish(&next);
		return rc;
	}
	settings_finish(settings);
	*settings = next;
	return 0;
}
