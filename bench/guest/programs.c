/* Workloads that are programs of a Debian root file system: the plan names their arguments, what they print is the result. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

enum {
	ARGUMENTS_MAX = 32,
	TAIL = 400,
};

static char *arguments[ARGUMENTS_MAX + 1];
static int output_counts;
static char *root;
static char *to_read;

static char *copy_of(const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		guest_die("memory");
	return copy;
}

/* In the order in which they load. */
void programs_devices(void)
{
	static int done;
	FILE *list = done ? NULL : fopen("/etc/modules.load", "re");
	char path[256];

	if (done++)
		return;
	if (!list)
		guest_die("/etc/modules.load");
	while (fscanf(list, "%255s", path) == 1) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			guest_die(path);
		close(fd);
	}
	fclose(list);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) && errno != EBUSY)
		guest_die("/dev");
}

static void mount_at(const char *source, const char *folder, const char *type, unsigned long flags)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", root, folder);
	if (mount(source, path, type, flags, NULL))
		guest_die(path);
}

/* Natively the tree itself is the root, in a mount namespace of this process's own. */
static void enter_namespace(void)
{
	if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS))
		guest_die("a mount namespace of its own");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		guest_die("private mounts");
}

void programs_root(const char *path, int native)
{
	if (native) {
		enter_namespace();
		root = copy_of(path);
		mount_at("/proc", "proc", NULL, MS_BIND | MS_REC);
		mount_at("/dev", "dev", NULL, MS_BIND | MS_REC);
	} else {
		programs_devices();
		root = copy_of("/mnt");
		if (mount(path, root, "ext4", MS_RDONLY, NULL))
			guest_die(path);
		mount_at("proc", "proc", "proc", 0);
		mount_at("devtmpfs", "dev", "devtmpfs", 0);
	}
	mount_at("tmpfs", "tmp", "tmpfs", 0);
}

void programs_read(const char *paths)
{
	free(to_read);
	to_read = copy_of(paths);
}

const char *programs_arguments(char *words)
{
	int count = 0;
	char *word = strtok(words, " ");

	for (int i = 0; i < ARGUMENTS_MAX; i++)
		free(arguments[i]);
	memset(arguments, 0, sizeof(arguments));
	if (!word || (strcmp(word, "output") && strcmp(word, "status")))
		return "neither output nor status";
	output_counts = !strcmp(word, "output");
	while ((word = strtok(NULL, " "))) {
		if (count == ARGUMENTS_MAX)
			return "too many arguments";
		arguments[count++] = copy_of(word);
	}
	return !count ? "no program" : !root ? "no root before it" : NULL;
}

static int read_file(const char *path, const struct stat *st, int type, struct FTW *where)
{
	static char buffer[1 << 16];
	int fd;

	if (type != FTW_F)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		guest_die(path);
	while (read(fd, buffer, sizeof(buffer)) > 0)
		;
	close(fd);
	return 0;
}

/* The disk is not what is measured: the files that the program uses are read before. */
static void programs_prepare(void)
{
	char *paths = to_read ? copy_of(to_read) : NULL;

	for (char *path = paths ? strtok(paths, " ") : NULL; path; path = strtok(NULL, " ")) {
		char inside[4096];

		snprintf(inside, sizeof(inside), "%s/%s", root, path);
		if (nftw(inside, read_file, 16, FTW_PHYS))
			guest_die(inside);
	}
	free(paths);
}

/* A `@` among the arguments stands for the number of operations. */
static _Noreturn void execute(uint64_t operations, int output, int errors)
{
	static char *environment[] = {"PATH=/usr/bin:/usr/sbin", "LANG=C.UTF-8", "HOME=/tmp", NULL};
	char number[24];

	snprintf(number, sizeof(number), "%" PRIu64, operations);
	for (int i = 0; arguments[i]; i++) {
		if (!strcmp(arguments[i], "@"))
			arguments[i] = number;
	}
	if (chroot(root) || chdir("/tmp"))
		guest_die(root);
	dup2(output, 1);
	dup2(errors, 2);
	execve(arguments[0], arguments, environment);
	guest_die(arguments[0]);
}

static _Noreturn void failed(int status, const char *tail)
{
	char line[TAIL + 1];
	size_t length = strlen(tail);

	for (size_t i = 0; i <= length; i++)
		line[i] = tail[i] && !isprint((unsigned char)tail[i]) ? ' ' : tail[i];
	dprintf(1, "@bench error %s ended with wait status %#x: %s\n", arguments[0], status, line);
	_exit(9);
}

/* The same however the bytes arrive in pieces. Eight at a time would not be; this is 1 GB/s natively, so it hardly counts. */
static uint64_t mix_bytes(uint64_t hash, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3;
	return hash;
}

/* The last of what it said about a failure. */
static const char *tail_of(int fd)
{
	static char tail[TAIL + 1];
	ssize_t got;

	got = lseek(fd, 0, SEEK_END) > TAIL ? lseek(fd, -TAIL, SEEK_END) : lseek(fd, 0, SEEK_SET);
	got = got < 0 ? got : read(fd, tail, TAIL);
	tail[got < 0 ? 0 : got] = 0;
	return tail;
}

static uint64_t programs_run(uint64_t operations)
{
	static uint8_t buffer[1 << 16];
	int pipes[2], status = 0, errors = memfd_create("errors", MFD_CLOEXEC);
	uint64_t hash = 0;
	ssize_t got;
	pid_t child;

	if (errors < 0 || pipe2(pipes, O_CLOEXEC))
		guest_die("pipe");
	child = fork();
	if (child < 0)
		guest_die("fork");
	if (!child)
		execute(operations, pipes[1], errors);
	close(pipes[1]);
	while ((got = read(pipes[0], buffer, sizeof(buffer))) > 0)
		hash = output_counts ? mix_bytes(hash, buffer, (size_t)got) : 0;
	close(pipes[0]);
	while (waitpid(child, &status, 0) != child)
		;
	if (status)
		failed(status, tail_of(errors));
	close(errors);
	return guest_mix(hash, 1);
}

const struct workload programs_workload = {"", "programs", 1, "run", programs_prepare, programs_run};
