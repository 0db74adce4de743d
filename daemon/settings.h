/* What trivisord runs with: defaults for root and for a plain user, the configuration file, the command line. */
#ifndef DAEMON_SETTINGS_H
#define DAEMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct settings {
	char *socket_path;
	char *state_dir;
	char *runtime_dir;
	char *config_path;  /* NULL: no file is read */
	char *vm_program;   /* trivisor-vm */
	char *calibrate_program; /* trivisor-calibrate, and its guest beside it */
	char *calibrate_guest;
	char *libvirt_socket, *libvirt_socket_ro; /* NULL: not served */
	bool libvirt_default; /* these are the defaults: not being able to serve them is no failure */
	char *socket_group; /* NULL: only the daemon's own user and root may talk to it */
	mode_t socket_mode;
	int log_level; /* enum log_level */
	unsigned max_clients;
	unsigned max_vms;         /* defined and transient ones together */
	unsigned start_timeout_s; /* how long a trivisor-vm may take to answer after it was started */
	bool calibrate;           /* measure the host when it was not, or has changed */
	bool foreground;
	bool config_required; /* the path was given by the user: a missing file is an error */
	int lifeline_fd;      /* -1, or: when it reads end of file, end transient VMs and exit (a private daemon) */
	unsigned from_command_line; /* SETTING_* bits: the file does not override these */
};

#define SETTING_SOCKET 1u
#define SETTING_STATE 2u
#define SETTING_RUNTIME 4u
#define SETTING_VM_PROGRAM 8u
#define SETTING_LOG_LEVEL 16u
#define SETTING_CALIBRATE 32u
#define SETTING_LIBVIRT 64u
#define SETTING_LIBVIRT_RO 128u

/*
 * The defaults of proto/paths.h for this user, and /etc/trivisor/trivisord.conf or, for a plain user,
 * $XDG_CONFIG_HOME/trivisor/trivisord.conf. socket_path stays NULL. 0 or -errno.
 */
int settings_init(struct settings *ret);
/*
 * After file and command line: the socket is the runtime directory's api.sock unless one was named. libvirt's sockets
 * are where its client library looks for virttrivisord-sock, but only for the daemon that serves the default socket:
 * a private one never takes them. 0 or -errno.
 */
int settings_complete(struct settings *settings);
void settings_finish(struct settings *settings);

/*
 * Reads key = value lines ('#' starts a comment). Keys: socket, state_dir, runtime_dir, vm_program, libvirt_socket,
 * libvirt_socket_ro, socket_group, socket_mode, log_level, max_clients, max_vms, start_timeout, calibrate. 0, or
 * -errno with a message in error that names file,
 * line and key; then nothing was changed.
 */
int settings_read_file(struct settings *settings, char *error, size_t error_size);

/* Finds PROGRAM: $ENVIRONMENT, beside the running binary (a build tree), the installed directory. malloc'd, maybe NULL.
 */
char *settings_find_program(const char *environment, const char *program, const char *installed_dir);

#endif
