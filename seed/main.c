/* trivisor-seed: makes the disc that cloud-init's NoCloud reads, an ISO 9660 image whose label is cidata. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)4 << 20) /* the user data of a cloud is 16 KiB in most */

enum seed_file { USER_DATA, META_DATA, NETWORK_CONFIG, VENDOR_DATA, FILES };
static const char *const names[FILES] = {"user-data", "meta-data", "network-config", "vendor-data"};

struct content {
	char *text; /* NULL: no such file on the disc */
	size_t bytes;
};

static void usage(FILE *to)
{
	fputs("Usage: trivisor-seed OUT UUID NAME [user-data=FILE] [meta-data=FILE] [network-config=FILE] [vendor-data=FILE]\n"
	      "Makes OUT, a NoCloud disc for cloud-init. Without meta-data the instance is UUID, and its host's name is NAME.\n",
	      to);
}

/* Pipes too. 0, or it was said what is wrong. */
static int read_file(const char *key, const char *path, struct content *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char *text = fd < 0 ? NULL : malloc(FILE_MAX + 1);
	size_t used = 0;
	ssize_t n = text ? 1 : -1;

	while (n > 0 && used <= FILE_MAX) {
		n = read(fd, text + used, FILE_MAX + 1 - used);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			used += (size_t)n;
	}
	if (n >= 0 && used > FILE_MAX)
		errno = EFBIG;
	if (n < 0 || used > FILE_MAX) {
		fprintf(stderr, "%s: %s: %s\n", key, path, strerror(errno));
		free(text);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	*ret = (struct content){text, used};
	return 0;
}

/* A host's name has letters, digits, dots and dashes. */
static int default_meta_data(const char *uuid, const char *name, struct content *ret)
{
	char *text = NULL;
	int n = asprintf(&text, "instance-id: %s\nlocal-hostname: %s\n", uuid, name);

	if (n < 0)
		return -1;
	for (char *at = strstr(text, "local-hostname: "); *at; at++)
		if (*at == '_')
			*at = '-';
	*ret = (struct content){text, (size_t)n};
	return 0;
}

static int add(struct archive *disc, const char *name, const struct content *content)
{
	struct archive_entry *entry = archive_entry_new();
	int rc = ARCHIVE_FATAL;

	if (!entry)
		return rc;
	archive_entry_set_pathname(entry, name);
	archive_entry_set_filetype(entry, AE_IFREG);
	archive_entry_set_perm(entry, 0444);
	archive_entry_set_size(entry, (la_int64_t)content->bytes);
	archive_entry_set_mtime(entry, 0, 0); /* the same input, the same disc */
	archive_entry_set_ctime(entry, 0, 0);
	rc = archive_write_header(disc, entry);
	if (rc >= ARCHIVE_WARN && archive_write_data(disc, content->text, content->bytes) != (la_ssize_t)content->bytes)
		rc = ARCHIVE_FATAL;
	archive_entry_free(entry);
	return rc;
}

static int write_disc(const char *path, const struct content *contents)
{
	struct archive *disc = archive_write_new();
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), rc = ARCHIVE_FATAL;

	if (fd < 0 || !disc) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	/* Rock Ridge and Joliet, so that every guest sees the names in lower case. */
	if (archive_write_set_format_iso9660(disc) == ARCHIVE_OK &&
	    archive_write_set_options(disc, "iso9660:volume-id=cidata,iso9660:rockridge,iso9660:joliet") == ARCHIVE_OK)
		rc = archive_write_open_fd(disc, fd);
	for (unsigned i = 0; rc >= ARCHIVE_WARN && i < FILES; i++)
		if (contents[i].text)
			rc = add(disc, names[i], &contents[i]);
	if (rc >= ARCHIVE_WARN)
		rc = archive_write_close(disc);
	if (rc < ARCHIVE_WARN)
		fprintf(stderr, "%s: %s\n", path, archive_error_string(disc) ? archive_error_string(disc) : "libarchive cannot write an ISO 9660 image");
	archive_write_free(disc);
	if (close(fd) < 0 && rc >= ARCHIVE_WARN) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		rc = ARCHIVE_FATAL;
	}
	if (rc < ARCHIVE_WARN)
		unlink(path);
	return rc < ARCHIVE_WARN ? -1 : 0;
}

/* KEY=FILE. */
static int take(const char *argument, struct content *contents)
{
	for (unsigned i = 0; i < FILES; i++) {
		size_t n = strlen(names[i]);

		if (!strncmp(argument, names[i], n) && argument[n] == '=')
			return read_file(names[i], argument + n + 1, &contents[i]);
	}
	fprintf(stderr, "%s: no file of NoCloud\n", argument);
	return -1;
}

int main(int argc, char **argv)
{
	struct content contents[FILES] = {0};
	int rc = 0;

	if (argc < 4) {
		usage(argc == 2 && !strcmp(argv[1], "--help") ? stdout : stderr);
		return argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2;
	}
	for (int i = 4; !rc && i < argc; i++)
		rc = take(argv[i], contents);
	if (!rc && !contents[META_DATA].text)
		rc = default_meta_data(argv[2], argv[3], &contents[META_DATA]);
	/* cloud-init wants both of these. */
	if (!rc && !contents[USER_DATA].text) {
		contents[USER_DATA] = (struct content){strdup("#cloud-config\n"), strlen("#cloud-config\n")};
		rc = contents[USER_DATA].text ? 0 : -1;
	}
	if (!rc)
		rc = write_disc(argv[1], contents);
	for (unsigned i = 0; i < FILES; i++)
		free(contents[i].text);
	return rc ? 1 : 0;
}
