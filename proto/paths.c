/* Where things live by default, for root and for a plain user. */
#include "proto/paths.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((format(printf, 3, 4))) static int put(char *ret_path, size_t bytes, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(ret_path, bytes, format, ap);
	va_end(ap);
	return n < 0 || (size_t)n >= bytes ? -ENAMETOOLONG : 0;
}

/* The XDG specification: a relative path is to be ignored. */
static const char *absolute_env(const char *name)
{
	const char *value = getenv(name);
	return value && value[0] == '/' ? value : NULL;
}

int paths_runtime_dir(char *ret_path, size_t bytes)
{
	if (!geteuid())
		return put(ret_path, bytes, "/run/trivisor");
	const char *dir = absolute_env("XDG_RUNTIME_DIR");
	if (dir)
		return put(ret_path, bytes, "%s/trivisor", dir);
	return put(ret_path, bytes, "/tmp/trivisor-%u", (unsigned)geteuid());
}

int paths_state_dir(char *ret_path, size_t bytes)
{
	if (!geteuid())
		return put(ret_path, bytes, "/var/lib/trivisor");
	const char *dir = absolute_env("XDG_STATE_HOME");
	if (dir)
		return put(ret_path, bytes, "%s/trivisor", dir);
	dir = absolute_env("HOME");
	return dir ? put(ret_path, bytes, "%s/.local/state/trivisor", dir) : -ENOENT;
}

int paths_api_socket(char *ret_path, size_t bytes)
{
	char dir[4096];
	int rc = paths_runtime_dir(dir, sizeof(dir));
	return rc ? rc : paths_join(ret_path, bytes, dir, "api.sock");
}

int paths_join(char *ret_path, size_t bytes, const char *dir, const char *name)
{
	return put(ret_path, bytes, "%s/%s", dir, name);
}
