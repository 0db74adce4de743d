/* Files to boot from: opened and read once, with errors that name the file and the remedy. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

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

#define GZIP_WINDOW (16 + MAX_WBITS) /* zlib: with a gzip header, checksum at the end */

/* Inflates all of `file` to a buffer that grows with it. Z_STREAM_END and *ret_data, or zlib's error. */
static int inflate_all(const struct boot_file *file, uint64_t max, uint8_t **ret_data, size_t *ret_n)
{
	z_stream z = {.next_in = file->data, .avail_in = (uInt)file->size};
	size_t room = file->size * 4;
	uint8_t *data = NULL;
	int r = inflateInit2(&z, GZIP_WINDOW);

	if (r != Z_OK)
		return r;
	for (;;) {
		uint8_t *more;

		if (room > max + 1)
			room = max + 1;
		more = realloc(data, room);
		if (!more) {
			r = Z_MEM_ERROR;
			break;
		}
		data = more;
		z.next_out = data + z.total_out;
		z.avail_out = (uInt)(room - z.total_out);
		r = inflate(&z, Z_NO_FLUSH);
		if (r != Z_OK || z.avail_out || room > max)
			break;
		room *= 2;
	}
	*ret_n = z.total_out;
	inflateEnd(&z);
	if (r != Z_STREAM_END || *ret_n > max) {
		free(data);
		return r == Z_STREAM_END ? Z_BUF_ERROR : r;
	}
	*ret_data = data;
	return r;
}

int boot_file_unpack(struct boot_file *file, uint64_t max)
{
	uint8_t *data = NULL;
	size_t n = 0;
	int r;

	if (file->size < 18 || file->data[0] != 0x1f || file->data[1] != 0x8b)
		return 0;
	if (max > UINT32_MAX / 2)
		max = UINT32_MAX / 2; /* zlib counts room in 32 bits, and no kernel is as large */
	r = file->size <= max ? inflate_all(file, max, &data, &n) : Z_BUF_ERROR;
	if (r == Z_MEM_ERROR)
		return boot_fail(-ENOMEM, "%s %s: no memory to unpack it", file->what, file->path);
	if (n > max || (r == Z_BUF_ERROR && file->size > max))
		return boot_fail(-ENOSPC, "%s %s is larger unpacked than the VM's memory (%llu MiB): give it more memory", file->what,
				 file->path, (unsigned long long)(max >> 20));
	if (r != Z_STREAM_END)
		return boot_fail(-EINVAL, "%s %s is a gzip file that is damaged or truncated: copy it again", file->what, file->path);
	free(file->data);
	file->data = data;
	file->size = n;
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
