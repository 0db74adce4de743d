/* trivisor-vm: one process for one virtual machine. */
#include "config.h"
#include "vm/private.h"

#include "proto/file.h"
#include "proto/process.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define USER_SPACE_POLL_MS 10
#define DRAIN_MS 2000 /* how long readers may take for the last output */

static void usage(FILE *to)
{
	fputs("Usage: trivisor-vm --dir DIR --mode bt|hvm|pv [--mode-reason TEXT] [--paused] [--foreground] [--no-sandbox]\n"
	      "Runs the virtual machine that DIR/definition.json defines. Normally trivisord starts it.\n"
	      "Exit status: 0 the guest powered off, 3 it could not start, 4 it crashed, 5 it was destroyed.\n",
	      to);
}

/* 0; 1 when there is nothing more to do; -EINVAL. */
static int parse_options(int argc, char **argv, struct vm_options *options)
{
	static const struct option longs[] = {
		{"dir", required_argument, NULL, 'd'},	    {"mode", required_argument, NULL, 'm'},
		{"mode-reason", required_argument, NULL, 'r'}, {"foreground", no_argument, NULL, 'f'},
		{"paused", no_argument, NULL, 'p'},
		{"no-sandbox", no_argument, NULL, 's'},	    {"version", no_argument, NULL, 'V'},
		{"attach", required_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},	    {NULL, 0, NULL, 0},
	};
	const char *dir = NULL;
	int c;
	options->mode_reason = "given on the command line";
	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (c) {
		case 'd': dir = optarg; break;
		case 'm': options->mode = optarg; break;
		case 'r': options->mode_reason = optarg; break;
		case 'f': options->foreground = true; break;
		case 's': options->no_sandbox = true; break;
		case 'p': options->paused = true; break;
		case 'a': options->attach = optarg; break;
		case 'V': printf("trivisor-vm %s\n", PACKAGE_VERSION); return 1;
		case 'h': usage(stdout); return 1;
		default: usage(stderr); return -EINVAL;
		}
	}
	if (!dir || (!options->mode && !options->attach) || optind != argc) {
		usage(stderr);
		return -EINVAL;
	}
	char absolute[PATH_MAX];
	if (!realpath(dir, absolute)) {
		fprintf(stderr, "trivisor-vm: --dir %s: %s\n", dir, strerror(errno));
		return -EINVAL;
	}
	if (strlen(absolute) >= sizeof(options->dir)) {
		fprintf(stderr, "trivisor-vm: --dir %s: the path is too long\n", dir);
		return -EINVAL;
	}
	strcpy(options->dir, absolute);
	return 0;
}

static int read_definition(struct vm *vm)
{
	char path[PATH_MAX], why[VMDEF_ERROR_BYTES];
	char *text = NULL;
	size_t bytes;
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_DEFINITION, vm->options.dir);
	int rc = file_read(path, VMDEF_JSON_MAX, &text, &bytes);
	if (rc) {
		snprintf(vm->reason, sizeof(vm->reason), "%.400s: %s", path, strerror(-rc));
		return rc;
	}
	rc = vmdef_from_text(text, bytes, &vm->def, why);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), CONTROL_FILE_DEFINITION ": %.480s", why);
	free(text);
	return rc;
}

static int write_pid(struct vm *vm)
{
	char path[PATH_MAX];
	struct process_id id;
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_PID, vm->options.dir);
	int rc = process_id_of(getpid(), &id);
	if (!rc)
		rc = process_id_write(path, &id);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "%.400s: %s", path, strerror(-rc));
	return rc;
}

/* ---- the loop ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct vm *vm = arg;
	uint64_t count;
	if (read(vm->wake_fd, &count, sizeof(count)) < 0)
		return;
	vm_console_flush(vm);
	vm_handle_wake(vm);
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	struct vm *vm = arg;
	struct signalfd_siginfo info;
	if (read(vm->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
		vm_finish(vm, VM_DESTROYED, VM_EXIT_DESTROYED, "ended by signal %s from process %u",
			  sigabbrev_np((int)info.ssi_signo), info.ssi_pid);
}

static void on_user_space_poll(evutil_socket_t fd, short what, void *arg)
{
	struct vm *vm = arg;
	double seconds = vm_boot_seconds(vm);
	if (seconds < 0)
		return;
	event_del(vm->user_space_timer);
	vm_log("user space after %.3f s", seconds);
	struct json_object *params = json_object_new_object();
	json_object_object_add(params, "boot_seconds", json_object_new_double(seconds));
	vm_control_notify(vm, CONTROL_EVENT_USER_SPACE, params);
}

/*
 * Every signal that is not the fault of an instruction is blocked on all threads; the loop reads them. The machine and
 * the engine start threads, so this comes before them.
 */
static void block_signals(sigset_t *ret_set)
{
	sigfillset(ret_set);
	static const int synchronous[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
	for (size_t i = 0; i < ARRAY_SIZE(synchronous); i++)
		sigdelset(ret_set, synchronous[i]);
	pthread_sigmask(SIG_BLOCK, ret_set, NULL);
}

static int open_loop(struct vm *vm)
{
	sigset_t set;
	block_signals(&set);
	/* Only what is acted on is read, so that SIGCHLD and SIGWINCH do not wake anybody. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	vm->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	vm->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	vm->base = event_base_new();
	if (vm->signal_fd < 0 || vm->wake_fd < 0 || !vm->base)
		return -ENOMEM;
	vm->signal_event = event_new(vm->base, vm->signal_fd, EV_READ | EV_PERSIST, on_signal, vm);
	vm->wake_event = event_new(vm->base, vm->wake_fd, EV_READ | EV_PERSIST, on_wake, vm);
	vm->user_space_timer = event_new(vm->base, -1, EV_PERSIST, on_user_space_poll, vm);
	struct timeval tv = {0, USER_SPACE_POLL_MS * 1000};
	if (!vm->signal_event || !vm->wake_event || !vm->user_space_timer || event_add(vm->signal_event, NULL) < 0 ||
	    event_add(vm->wake_event, NULL) < 0 || event_add(vm->user_space_timer, &tv) < 0)
		return -ENOMEM;
	return 0;
}

static int find_mode(struct vm *vm)
{
	vm->mode = mode_find(vm->options.mode);
	if (vm->mode)
		return 0;
	char known[128];
	mode_names(known, sizeof(known));
	snprintf(vm->reason, sizeof(vm->reason), "mode \"%.40s\" is not in this build; there is: %s", vm->options.mode,
		 known);
	return -ENOENT;
}

static int set_reason(struct vm *vm, const char *what, int rc)
{
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "%s: %s", what, strerror(-rc));
	return rc;
}

/* Everything up to the first guest instruction. On failure vm->reason says why. */
static int set_up(struct vm *vm)
{
	int rc = read_definition(vm);
	if (!rc)
		rc = find_mode(vm);
	if (!rc)
		rc = write_pid(vm);
	if (!rc)
		rc = set_reason(vm, "event loop", open_loop(vm));
	if (!rc)
		rc = vm_console_open(vm);
	if (!rc)
		rc = set_reason(vm, CONTROL_FILE_SOCKET, vm_control_open(vm));
	if (!rc)
		rc = set_reason(vm, "the socket for files", vm_attach_open(vm));
	if (!rc)
		rc = set_reason(vm, vm->def->gdb && vm->def->gdb[0] ? vm->def->gdb : CONTROL_FILE_GDB, vm_gdb_open(vm));
	if (!rc)
		rc = vm_channels_prepare(vm);
	if (!rc)
		rc = vm_nvram_prepare(vm);
	if (!rc)
		rc = vm_seed_prepare(vm);
	if (!rc)
		rc = vm_disks_prepare(vm);
	if (!rc)
		rc = vm_vsock_prepare(vm);
	if (!rc)
		rc = vm_shares_prepare(vm);
	if (!rc)
		rc = vm_passthrough_claim(vm);
	if (!rc)
		rc = vm_vnc_open(vm);
	if (!rc)
		rc = vm_nics_prepare(vm);
	if (!rc)
		rc = set_reason(vm, "sandbox", vm_sandbox_early(vm));
	if (!rc)
		rc = vm_build(vm);
	if (!rc)
		rc = set_reason(vm, "system call filter", vm_sandbox_enter(vm));
	if (!rc)
		rc = set_reason(vm, "sampling", vm_profile_open(vm));
	if (!rc)
		rc = set_reason(vm, "viewers", vm_vnc_start(vm));
	return rc ? rc : vm_start(vm);
}

/* The last output and the last notification reach those who read. */
static void drain(struct vm *vm)
{
	uint64_t deadline = vm_now_ns() + DRAIN_MS * 1000000ull;
	/* Clients that connected while we were starting are still in the backlog. */
	do {
		event_base_loop(vm->base, EVLOOP_NONBLOCK);
		if (!vm_console_flush(vm) && !vm_control_unsent(vm))
			break;
		usleep(2000);
	} while (vm_now_ns() < deadline);
}

static void close_loop(struct vm *vm)
{
	struct event *const events[] = {vm->signal_event, vm->wake_event, vm->user_space_timer};
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
	if (vm->base)
		event_base_free(vm->base);
	if (vm->signal_fd >= 0)
		close(vm->signal_fd);
	if (vm->wake_fd >= 0)
		close(vm->wake_fd);
}

static void failed_to_start(struct vm *vm)
{
	vm->state = VM_FAILED;
	vm->exit_code = VM_EXIT_FAILED;
	vm->ended = vm_epoch_seconds();
	vm_log("cannot start: %s", vm->reason);
	int rc = vm_write_result(vm);
	if (rc)
		vm_log("cannot write " CONTROL_FILE_RESULT ": %s", strerror(-rc));
}

static bool threads_left(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i].has_thread)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	static struct vm vm = {.signal_fd = -1, .wake_fd = -1, .vsock_listener = -1, .vsock_connector = -1, .state = VM_STARTING, .want = VM_WANT_PARK};
	vm.start_ns = vm_now_ns();
	vm.started = vm_epoch_seconds();
	int rc = parse_options(argc, argv, &vm.options);
	if (rc)
		return rc < 0 ? VM_EXIT_FAILED : 0;
	umask(077);
	if (vm.options.attach)
		return vm_attach_main(&vm, vm.options.attach);
	rc = vm_log_open(&vm.options);
	if (rc) {
		fprintf(stderr, "trivisor-vm: %s/" CONTROL_FILE_LOG ": %s\n", vm.options.dir, strerror(-rc));
		return VM_EXIT_FAILED;
	}
	pthread_mutex_init(&vm.lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm.cond, &attr);

	rc = set_up(&vm);
	if (rc) {
		failed_to_start(&vm);
	} else {
		event_base_dispatch(vm.base);
		drain(&vm);
	}
	vm_keyboard_close(&vm);
	vm_profile_close(&vm);
	vm_gdb_close(&vm);
	vm_debug_finish(&vm);
	vm_agent_close(&vm);
	vm_tools_close(&vm);
	vm_balloon_close(&vm);
	vm_attach_close(&vm);
	vm_control_close(&vm);
	vm_console_stop(&vm);
	/* A vCPU that never came back, or a viewer's thread, still uses all of this. */
	if (!vm_vnc_close(&vm) || threads_left(&vm))
		_exit(vm.exit_code);
	vm_teardown(&vm);
	vm_console_free(&vm);
	vfio_claim_destroy(vm.passthrough);
	vm_channels_close(&vm);
	close_loop(&vm);
	vmdef_free(vm.def);
	return vm.exit_code;
}
