/* Ways between host and guest beside disks and networks: trictl vsock, and the options --vsock and --share of trictl run. */
#include "api/cli/cli.h"

#include "proto/sock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES 32

/* ---- options of run ------------------------------------------------------------------------ */

static int put_path(json_object *to, const char *option, const char *path)
{
	char *absolute = path[0] ? cli_absolute(path) : NULL;

	if (!absolute) {
		complain("%s: %s", option, path[0] ? "out of memory" : "an empty path");
		return -1;
	}
	json_object_object_add(to, "path", json_object_new_string(absolute));
	free(absolute);
	return 0;
}

/* "on", or "PATH" and "cid=N" between commas. */
int cli_add_vsock(json_object *definition, char *text)
{
	json_object *vsock = json_object_new_object();
	char *part;

	json_object_object_add(definition, "vsock", vsock);
	while ((part = strsep(&text, ","))) {
		char *end = NULL;

		if (!strcmp(part, "on"))
			continue;
		if (strncmp(part, "cid=", 4)) {
			if (put_path(vsock, "--vsock", part))
				return -1;
			continue;
		}
		json_object_object_add(vsock, "cid", json_object_new_int64((int64_t)strtoul(part + 4, &end, 10)));
		if (!part[4] || *end) {
			complain("--vsock: \"%s\" is no address such as cid=3", part);
			return -1;
		}
	}
	return 0;
}

/* "DIR[,tag=TAG][,readonly]": options from the right, since a comma may be part of a name (which is then refused). */
int cli_add_share(json_object *definition, char *text)
{
	json_object *shares = NULL, *share = json_object_new_object();
	char *comma;

	if (!json_object_object_get_ex(definition, "shares", &shares)) {
		shares = json_object_new_array();
		json_object_object_add(definition, "shares", shares);
	}
	json_object_array_add(shares, share);
	while ((comma = strrchr(text, ','))) {
		if (!strcmp(comma + 1, "readonly") || !strcmp(comma + 1, "ro"))
			json_object_object_add(share, "readonly", json_object_new_boolean(1));
		else if (!strncmp(comma + 1, "tag=", 4))
			json_object_object_add(share, "tag", json_object_new_string(comma + 5));
		else
			break;
		*comma = '\0';
	}
	if (comma && access(text, F_OK) < 0) {
		complain("--share: there is no folder \"%s\", and \"%s\" is no option of one; there is tag= and readonly (or ro)", text, comma + 1);
		return -1;
	}
	return put_path(share, "--share", text);
}

/* ---- trictl vsock ------------------------------------------------------------------------------ */

/* Where a VM's vsock is; malloc'd. NULL: it was reported, and *ret_status is what to leave with. */
static char *find_socket(struct cli *cli, const char *vm, int *ret_status)
{
	json_object *result = NULL, *process, *path = NULL;
	char *text = NULL;

	*ret_status = cli_ask(cli, "vm.get", cli_vm_params(vm), &result);
	if (*ret_status)
		return NULL;
	process = render_member(result, "process");
	if (process)
		path = render_member(process, "vsock");
	if (!process)
		complain("VM \"%s\" does not run", vm);
	else if (!path)
		complain("VM \"%s\" has no vsock: \"vsock\": true in its definition gives it one", vm);
	else
		text = strdup(json_object_get_string(path));
	*ret_status = text ? 0 : EXIT_ERROR;
	json_object_put(result);
	return text;
}

static bool put_all(int fd, const char *bytes, ssize_t n)
{
	while (n > 0) {
		ssize_t r = write(fd, bytes, (size_t)n);

		if (r < 0 && errno != EINTR)
			return false;
		if (r > 0) {
			bytes += r;
			n -= r;
		}
	}
	return true;
}

/* Asks for the port, and takes the answer's line and nothing behind it. */
static bool shake_hands(int fd, const char *port)
{
	char text[ANSWER_BYTES];
	size_t n = 0;
	int length = snprintf(text, sizeof(text), "CONNECT %.10s\n", port);

	if (!put_all(fd, text, length))
		return false;
	while (n < sizeof(text) && read(fd, text + n, 1) == 1)
		if (text[n++] == '\n')
			return n > 3 && !strncmp(text, "OK ", 3);
	return false;
}

/* Both ways until the guest has ended; the end of standard input is half of the stream's. */
static int relay(int fd)
{
	struct pollfd wait[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	char bytes[16384];

	for (;;) {
		ssize_t n;

		if (poll(wait, 2, -1) < 0 && errno != EINTR)
			return EXIT_ERROR;
		if (wait[0].revents) {
			n = read(STDIN_FILENO, bytes, sizeof(bytes));
			if (n <= 0 || !put_all(fd, bytes, n)) {
				shutdown(fd, SHUT_WR);
				wait[0].fd = -1;
			}
		}
		if (wait[1].revents) {
			n = read(fd, bytes, sizeof(bytes));
			if (n <= 0)
				return n < 0 && errno != ECONNRESET ? EXIT_ERROR : 0;
			if (!put_all(STDOUT_FILENO, bytes, n))
				return EXIT_ERROR;
		}
	}
}

int command_vsock(struct cli *cli, int argc, char **argv)
{
	const char *port;
	char *path;
	int status, fd;

	if (cli_arguments(cli, argc, argv, 2, 2, &status))
		return status;
	port = argv[optind + 1];
	if (!port[0] || strlen(port) > 10 || port[strspn(port, "0123456789")]) {
		complain("\"%s\" is no port: a number is wanted", port);
		return EXIT_USAGE;
	}
	path = find_socket(cli, argv[optind], &status);
	if (!path)
		return status;
	fd = sock_connect(path);
	if (fd < 0) {
		complain("%s: %s", path, strerror(-fd));
		status = EXIT_ERROR;
	} else if (!shake_hands(fd, port)) {
		complain("nobody in VM \"%s\" listens to vsock port %s", argv[optind], port);
		status = EXIT_ERROR;
	} else {
		status = relay(fd);
	}
	if (fd >= 0)
		close(fd);
	free(path);
	return status;
}
