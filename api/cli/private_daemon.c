/* The daemon `trictl run` starts for its own duration. */
#include "api/cli/client.h"

#include "daemon/settings.h"
#include "proto/paths.h"
#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_MS 10000
#define STOP_MS 12000 /* longer than the daemon gives a VM to end */

extern char **environ;

static void sleep_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

static int make_directory(struct private_daemon *daemon)
{
	const char *parents[] = {getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp"};

	for (size_t i = 0; i < sizeof(parents) / sizeof(parents[0]); i++) {
		if (!parents[i] || parents[i][0] != '/')
			continue;
		if (snprintf(daemon->dir, sizeof(daemon->dir), "%s/trivisor-run-XXXXXX", parents[i]) <
			    (int)sizeof(daemon->dir) &&
		    mkdtemp(daemon->dir))
			return paths_join(daemon->socket, sizeof(daemon->socket), daemon->dir, "api.sock");
	}
	return -errno;
}

static int spawn(struct private_daemon *daemon, const char *program, int lifeline_end)
{
	char fd_text[16], log_path[PATH_MAX];
	char *const argv[] = {(char *)program,
			      (char *)"--foreground",
			      (char *)"--config",
			      (char *)"/dev/null",
			      (char *)"--socket",
			      daemon->socket,
			      (char *)"--runtime-dir",
			      daemon->dir,
			      (char *)"--state-dir",
			      daemon->dir,
			      (char *)"--lifeline",
			      fd_text,
			      NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int r;

	/* Any number the lifeline does not have yet, so that the copy loses the close-on-exec flag. */
	snprintf(fd_text, sizeof(fd_text), "%d", lifeline_end == 3 ? 4 : 3);
	if (paths_join(log_path, sizeof(log_path), daemon->dir, "trivisord.log"))
		return -ENAMETOOLONG;
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	/* A session of its own: Ctrl-C is for us, and we tell it. */
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&actions, lifeline_end, lifeline_end == 3 ? 4 : 3);
	unsetenv("NOTIFY_SOCKET");
	r = posix_spawn(&daemon->pid, program, &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (r)
		daemon->pid = 0;
	return -r;
}

/* Shows why it did not start; it logs to a file that goes with the directory. */
static void show_log(const struct private_daemon *daemon)
{
	char path[PATH_MAX], line[1024];
	FILE *log;

	if (paths_join(path, sizeof(path), daemon->dir, "trivisord.log") || !(log = fopen(path, "re")))
		return;
	while (fgets(line, sizeof(line), log))
		fputs(line, stderr);
	fclose(log);
}

static int wait_until_ready(struct private_daemon *daemon)
{
	for (unsigned waited = 0; waited < READY_MS; waited += 5) {
		int status, fd = sock_connect(daemon->socket);

		if (fd >= 0) {
			close(fd);
			return 0;
		}
		if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
			daemon->pid = 0;
			complain("the private trivisord did not start:");
			show_log(daemon);
			return -ECHILD;
		}
		sleep_ms(5);
	}
	complain("the private trivisord does not get ready:");
	show_log(daemon);
	return -ETIMEDOUT;
}

int private_daemon_start(struct private_daemon *daemon)
{
	char *program = settings_find_program("TRIVISOR_DAEMON", "trivisord", SBINDIR);
	int ends[2] = {-1, -1}, rc;

	memset(daemon, 0, sizeof(*daemon));
	daemon->lifeline = -1;
	rc = program ? make_directory(daemon) : -ENOMEM;
	if (rc) {
		complain("cannot make a directory for a private daemon: %s", strerror(-rc));
		daemon->dir[0] = '\0';
		free(program);
		return rc;
	}
	rc = pipe2(ends, O_CLOEXEC) < 0 ? -errno : spawn(daemon, program, ends[0]);
	if (rc)
		complain("cannot start %s: %s; $TRIVISOR_DAEMON names another", program, strerror(-rc));
	daemon->lifeline = ends[1];
	if (ends[0] >= 0)
		close(ends[0]);
	free(program);
	if (!rc)
		rc = wait_until_ready(daemon);
	if (rc)
		private_daemon_stop(daemon);
	return rc;
}

static bool gone(pid_t pid, unsigned ms)
{
	for (unsigned waited = 0;; waited += 2) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return true;
		if (waited >= ms)
			return false;
		sleep_ms(2);
	}
}

/* What the daemon removes itself unless it was killed. Known names only, never a whole tree. */
static void remove_directory(const struct private_daemon *daemon)
{
	static const char *const names[] = {
		"api.sock", "lock", "trivisor.db", "trivisor.db-wal", "trivisor.db-journal", "trivisord.log"};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!paths_join(path, sizeof(path), daemon->dir, names[i]))
			unlink(path);
	if (!paths_join(path, sizeof(path), daemon->dir, "vms"))
		rmdir(path);
	rmdir(daemon->dir);
}

void private_daemon_stop(struct private_daemon *daemon)
{
	if (daemon->lifeline >= 0 && daemon->dir[0])
		close(daemon->lifeline);
	daemon->lifeline = -1;
	if (daemon->pid > 0 && !gone(daemon->pid, STOP_MS)) {
		complain("the private daemon does not end; killed");
		kill(daemon->pid, SIGKILL);
		waitpid(daemon->pid, NULL, 0);
	}
	daemon->pid = 0;
	if (daemon->dir[0])
		remove_directory(daemon);
	daemon->dir[0] = '\0';
}
