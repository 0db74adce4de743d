/* Pictures of the VM's screen, as files that people can look at. */
#include "vm/private.h"

#include "proto/base64.h"

#include <errno.h>
#include <json-c/json.h>
#include <png.h>
#include <setjmp.h>
#include <string.h>

/* A file in memory that grows. */
struct buffer {
	unsigned char *bytes;
	size_t count, room;
};

/* NULL: out of memory. */
static unsigned char *append(struct buffer *b, size_t n)
{
	if (b->room - b->count < n) {
		size_t room = (b->count + n) * 2;
		unsigned char *bytes = realloc(b->bytes, room);
		if (!bytes)
			return NULL;
		b->bytes = bytes;
		b->room = room;
	}
	b->count += n;
	return b->bytes + b->count - n;
}

/* A row as bytes of red, green and blue. */
static void put_row(unsigned char *to, const uint32_t *pixels, unsigned width)
{
	for (unsigned x = 0; x < width; x++) {
		*to++ = (unsigned char)(pixels[x] >> 16);
		*to++ = (unsigned char)(pixels[x] >> 8);
		*to++ = (unsigned char)pixels[x];
	}
}

static int encode_ppm(const struct machine_screen *screen, struct buffer *b)
{
	char head[64];
	int n = snprintf(head, sizeof(head), "P6\n%u %u\n255\n", screen->width, screen->height);
	unsigned char *to = append(b, (size_t)n);
	if (!to)
		return -ENOMEM;
	memcpy(to, head, (size_t)n);
	for (unsigned y = 0; y < screen->height; y++) {
		to = append(b, 3 * (size_t)screen->width);
		if (!to)
			return -ENOMEM;
		put_row(to, screen->pixels + (size_t)y * screen->width, screen->width);
	}
	return 0;
}

static void png_out(png_structp png, png_bytep bytes, size_t n)
{
	unsigned char *to = append(png_get_io_ptr(png), n);
	if (!to)
		png_error(png, "out of memory");
	memcpy(to, bytes, n);
}

static void png_flush_nothing(png_structp png) {}
static void png_silent(png_structp png, png_const_charp text) {}
static void png_fail(png_structp png, png_const_charp text) { png_longjmp(png, 1); }

static int encode_png(const struct machine_screen *screen, struct buffer *b)
{
	unsigned char *row = malloc(3 * (size_t)screen->width);
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_fail, png_silent);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	int rc = -ENOMEM;

	if (row && info && !setjmp(png_jmpbuf(png))) {
		png_set_write_fn(png, b, png_out, png_flush_nothing);
		png_set_compression_level(png, 3); /* the VM's event loop waits for it */
		png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE);
		png_set_IHDR(png, info, screen->width, screen->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
			     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
		png_write_info(png, info);
		for (unsigned y = 0; y < screen->height; y++) {
			put_row(row, screen->pixels + (size_t)y * screen->width, screen->width);
			png_write_row(png, row);
		}
		png_write_end(png, info);
		rc = 0;
	}
	png_destroy_write_struct(&png, &info);
	free(row);
	return rc;
}

int vm_screenshot_json(struct vm *vm, bool ppm, struct json_object *to)
{
	struct machine_screen screen = {.pixels = malloc(MACHINE_SCREEN_PIXELS * sizeof(*screen.pixels))};
	struct buffer file = {0};
	char *text = NULL;
	int rc = -ENOMEM;

	if (!vm->machine || vm->def->display.type == VMDEF_DISPLAY_NONE)
		rc = -ENODEV;
	else if (screen.pixels && machine_screen_update(vm->machine, &screen, NULL, NULL))
		rc = ppm ? encode_ppm(&screen, &file) : encode_png(&screen, &file);
	if (!rc) {
		text = base64_encode(file.bytes, file.count);
		rc = text ? 0 : -ENOMEM;
	}
	if (!rc) {
		json_object_object_add(to, "format", json_object_new_string(ppm ? "ppm" : "png"));
		json_object_object_add(to, "width", json_object_new_int((int)screen.width));
		json_object_object_add(to, "height", json_object_new_int((int)screen.height));
		json_object_object_add(to, "data", json_object_new_string(text));
	}
	free(text);
	free(file.bytes);
	free(screen.pixels);
	return rc;
}
