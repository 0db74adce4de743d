/* UNIX stream sockets at paths of any length: sun_path holds 107 bytes, so long ones go through /proc/self/fd. */
#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* *ret_dir_fd is -1 or a descriptor that must stay open while the address is in use. */
static int make_address(const char *path, struct sockaddr_un *ret_addr, int *ret_dir_fd)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	*ret_dir_fd = -1;
	if (strlen(path) < sizeof(addr.sun_path)) {
		memcpy(addr.sun_path, path, strlen(path) + 1);
		*ret_addr = addr;
		return 0;
	}
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	if (!slash || (size_t)snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path) >= sizeof(dir))
		return -ENAMETOOLONG;
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", fd, slash + 1) >=
	    sizeof(addr.sun_path)) {
		close(fd);
		return -ENAMETOOLONG;
	}
	*ret_addr = addr;
	*ret_dir_fd = fd;
	return 0;
}

/* type: SOCK_STREAM or SOCK_SEQPACKET, and flags. */
static int connect_with(const char *path, int type)
{
	struct sockaddr_un addr;
	int dir_fd;
	int rc = make_address(path, &addr, &dir_fd);
	if (rc)
		return rc;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		rc = -errno;
	} else if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = -errno;
		close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	return rc ? rc : fd;
}

int sock_connect(const char *path)
{
	return connect_with(path, SOCK_STREAM);
}

int sock_connect_packets(const char *path)
{
	return connect_with(path, SOCK_SEQPACKET);
}

int sock_connect_nonblock(const char *path)
{
	return connect_with(path, SOCK_STREAM | SOCK_NONBLOCK);
}

/* 0 when the name is free (a stale socket was removed). */
static int clear_name(const char *path, int type)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	int fd = connect_with(path, type);
	if (fd >= 0) {
		close(fd);
		return -EADDRINUSE;
	}
	if (fd != -ECONNREFUSED)
		return fd == -EAGAIN ? -EADDRINUSE : fd;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int bind_with(const char *path, int type, unsigned permissions)
{
	int rc = clear_name(path, type);
	if (rc)
		return rc;
	struct sockaddr_un addr;
	int dir_fd;
	rc = make_address(path, &addr, &dir_fd);
	if (rc)
		return rc;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Linux gives the node the socket's own mode (less the umask), so nobody slips in before a chmod. */
	if (fd < 0 || fchmod(fd, permissions) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    chmod(addr.sun_path, permissions) < 0) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	return rc ? rc : fd;
}

int sock_bind(const char *path, unsigned permissions)
{
	return bind_with(path, SOCK_STREAM, permissions);
}

static int listen_with(const char *path, int type, unsigned permissions)
{
	int fd = bind_with(path, type, permissions);
	if (fd < 0 || listen(fd, SOMAXCONN) == 0)
		return fd;
	int rc = -errno;
	close(fd);
	return rc;
}

int sock_listen(const char *path, unsigned permissions)
{
	return listen_with(path, SOCK_STREAM, permissions);
}

int sock_listen_packets(const char *path, unsigned permissions)
{
	return listen_with(path, SOCK_SEQPACKET, permissions);
}
