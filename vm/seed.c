/* The disk that cloud-init reads: trivisor-seed makes it before the sandbox, the machine opens it, and its name goes. */
#include "vm/private.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "trivisor-seed"
#define SEED_FILE "seed.iso"

__attribute__((format(printf, 3, 4))) static int fail(struct vm *vm, int rc, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(vm->reason, sizeof(vm->reason), format, ap);
	va_end(ap);
	return rc;
}

static void seed_path(const struct vm *vm, char ret_path[PATH_MAX])
{
	snprintf(ret_path, PATH_MAX, "%s/" SEED_FILE, vm->options.dir);
}

/* Beside our own program. */
static int find_program(char ret_path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", ret_path, PATH_MAX - sizeof(PROGRAM) - 1);
	char *slash;
	if (n < 0)
		return -errno;
	ret_path[n] = '\0';
	slash = strrchr(ret_path, '/');
	strcpy(slash + 1, PROGRAM);
	return 0;
}

/* In the child. */
static void become_seed(const struct vm *vm, const char *program, const char *out, int messages)
{
	static const char *const keys[VMDEF_CLOUD_FILES] = {"user-data", "meta-data", "network-config", "vendor-data"};
	const char *argv[5 + VMDEF_CLOUD_FILES] = {program, out, vm->def->uuid, vm->def->name};
	sigset_t none;
	unsigned n = 4;
	char *argument;

	for (unsigned i = 0; i < VMDEF_CLOUD_FILES; i++)
		if (vm->def->cloud_init.file[i] && asprintf(&argument, "%s=%s", keys[i], vm->def->cloud_init.file[i]) > 0)
			argv[n++] = argument;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(messages, STDERR_FILENO) < 0 || dup2(messages, STDOUT_FILENO) < 0)
		_exit(127);
	execv(program, (char *const *)argv);
	dprintf(STDERR_FILENO, "%s: %s", program, strerror(errno));
	_exit(127);
}

int vm_seed_prepare(struct vm *vm)
{
	char program[PATH_MAX], out[PATH_MAX], words[400];
	int messages[2], status = 0, rc;
	if (!vmdef_has_seed(vm->def))
		return 0;
	seed_path(vm, out);
	rc = find_program(program);
	if (!rc && pipe2(messages, O_CLOEXEC) < 0)
		rc = -errno;
	if (rc)
		return fail(vm, rc, "cloud_init: %s", strerror(-rc));
	pid_t pid = fork();
	if (pid == 0)
		become_seed(vm, program, out, messages[1]);
	close(messages[1]);
	size_t used = 0;
	ssize_t n = 1;
	while (pid > 0 && (n > 0 || errno == EINTR) && used < sizeof(words) - 1) {
		n = read(messages[0], words + used, sizeof(words) - 1 - used);
		used += n > 0 ? (size_t)n : 0;
		if (!n)
			break;
	}
	close(messages[0]);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return fail(vm, -errno, "cloud_init: " PROGRAM " cannot be started: %s", strerror(errno));
	while (used && isspace((unsigned char)words[used - 1]))
		used--;
	words[used] = '\0';
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return fail(vm, -EINVAL, "cloud_init: %s", used ? words : PROGRAM " was killed");
}

int vm_seed_add(struct vm *vm)
{
	char path[PATH_MAX];
	const char *why = "unknown";
	struct machine_disk disk = {.path = path, .readonly = true, .serial = "cidata"};
	int rc;
	if (!vmdef_has_seed(vm->def))
		return 0;
	seed_path(vm, path);
	rc = vm->def->cloud_init.device == VMDEF_DEVICE_CDROM ? machine_add_cdrom(vm->machine, &disk, &why)
							       : machine_add_disk(vm->machine, &disk, &why);
	/* It holds passwords at times: from here on nobody but the machine has it. */
	unlink(path);
	return rc ? fail(vm, rc, "cloud_init: %s", why) : 0;
}
