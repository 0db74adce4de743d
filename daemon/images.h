/* Work on disk images by qemu-img, beside the loop: made, converted, checked, resized, described. */
#ifndef DAEMON_IMAGES_H
#define DAEMON_IMAGES_H

#include "daemon/daemon.h"

#include <stdint.h>

enum image_work { IMAGE_CREATE, IMAGE_CONVERT, IMAGE_CHECK, IMAGE_RESIZE, IMAGE_INFO };

/* NULL or 0 where a work has no use for it, or it was not said. Paths are absolute. */
struct image_wish {
	enum image_work work;
	const char *path, *format;
	const char *source, *source_format;   /* convert */
	const char *backing, *backing_format; /* create */
	const char *preallocation;	      /* create, resize: metadata, falloc, full */
	const char *repair;		      /* check: leaks, all */
	uint64_t size;			      /* create, resize: bytes */
	bool compress;			      /* convert */
	bool shrink;			      /* resize */
};

struct image_job;

/* percent: negative where qemu-img does not say how far it is. seconds: since its start. */
typedef void (*image_progress_fn)(void *opaque, unsigned number, double percent, double seconds);

/*
 * Starts it. progress is called at once and then a few times a second, until done is called with {"operation", "path",
 * "seconds"} and what the work found. A new image is at its path only once it is whole, and never in the place of a file that
 * is there. Returns NULL when done was called already. The job dies with the call of done.
 */
struct image_job *daemon_image(struct daemon *daemon, const struct image_wish *wish, image_progress_fn progress, daemon_done_fn done,
			       void *opaque);
/* Kills it; nothing of a new image is left, and done is not called. */
void daemon_image_cancel(struct image_job *job);
/* An array of those that run: {"operation", "work", "path", "percent", "seconds"}. */
json_object *daemon_image_list(struct daemon *daemon);
/* Kills all of them: the daemon ends. */
void daemon_images_close(struct daemon *daemon);

#endif
