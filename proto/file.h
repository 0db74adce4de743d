/* Whole files: read with a limit, replaced atomically. */
#ifndef PROTO_FILE_H
#define PROTO_FILE_H

#include <stddef.h>

/*
 * Reads a regular file of at most `max` bytes. *ret_text is NUL-terminated (the NUL not counted in *ret_bytes) and the
 * caller frees it. -EFBIG when it is longer, -EISDIR, -EINVAL when it is not a regular file.
 */
int file_read(const char *path, size_t max, char **ret_text, size_t *ret_bytes);
/*
 * Puts `bytes` of `data` in place of `path` so that after a crash there is the old file or the new one: a temporary
 * file in the same directory, fsync, rename, fsync of the directory. 0 or -errno, then the old file is untouched.
 */
int file_write_atomic(const char *path, const void *data, size_t bytes, unsigned permissions);
/* mkdir -p with these permissions for what is missing. 0 or -errno. */
int file_make_dirs(const char *path, unsigned permissions);

#endif
