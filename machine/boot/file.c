/* Files to boot from: opened and read once, with errors that name the file and the remedy. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/boot/private.h"

static int open_error(const struct boot_file *file, int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
		return boot_fail(-error, "%s %s does not exist: check the path", file->what, file->path);
	case EACCES:
	case EPERM:
		return boot_fail(-error, "%s %s may not be read by this user: change its permissions or copy it", file->what,
				 file->path);
	default:
		return boot_fail(-error, "%s %s cannot be opened: %s", file->what, file->path, strerror(error));
	}
}

int boot_file_open(struct boot_file *ret_file, const char *what, const char *path)
{
	struct boot_file file = {.path = path, .what = what, .fd = -1};
	struct stat st;

	/* O_NONBLOCK: a FIFO with no writer must not hang the VM. */
	file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file.fd < 0)
		return open_error(&file, errno);
	if (fstat(file.fd, &st) < 0) {
		int rc = open_error(&file, errno);

		close(file.fd);
		return rc;
	}
	if (!S_ISREG(st.st_mode)) {
		close(file.fd);
		return boot_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "%s %s is %s, not a file: name the %s itself", what,
				 path, S_ISDIR(st.st_mode) ? "a directory" : "a device, pipe or socket", what);
	}
	if (st.st_size == 0) {
		close(file.fd);
		return boot_fail(-EINVAL, "%s %s is empty: install or copy it again", what, path);
	}
	file.size = (size_t)st.st_size;
	*ret_file = file;
	return 0;
}

int boot_file_read_to(struct boot_file *file, void *buf)
{
	size_t done = 0;

	while (done < file->size) {
		ssize_t r = pread(file->fd, (char *)buf + done, file->size - done, (off_t)done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return boot_fail(-errno, "%s %s cannot be read: %s", file->what, file->path, strerror(errno));
		if (r == 0)
			return boot_fail(-EIO, "%s %s shrank while it was read: start again when it is complete",
					 file->what, file->path);
		done += (size_t)r;
	}
	return 0;
}

int boot_file_read(struct boot_file *file)
{
	uint8_t *data = NULL;
	int rc;

	data = malloc(file->size);
	if (!data)
		return boot_fail(-ENOMEM, "%s %s: no memory for its %zu bytes", file->what, file->path, file->size);
	rc = boot_file_read_to(file, data);
	if (rc < 0) {
		free(data);
		return rc;
	}
	file->data = data;
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	if (!file)
		return;
	free(file->data);
	file->data = NULL;
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}
