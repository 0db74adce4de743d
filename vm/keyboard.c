/* Keys that programs press: strokes wait their turn, so that text arrives in order and no key is pressed into another stroke. */
#include "vm/private.h"

#include "proto/keys.h"

#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <string.h>

#define STROKES_MAX 4096u
#define GAP_MS 10u /* between strokes; and until a full keyboard buffer is tried again */

struct stroke {
	uint8_t keys[KEYS_AT_ONCE];
	uint8_t count;
	uint16_t hold_ms;
};

struct vm_keyboard {
	struct vm *vm;
	struct event *timer;
	struct stroke stroke[STROKES_MAX];
	unsigned head, count;
	unsigned done; /* keys of the first one that are down, or up again */
	bool releasing;
	bool busy;
};

static void wait_ms(struct vm_keyboard *kb, unsigned ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	event_add(kb->timer, &tv);
}

/* Presses what is left of the first stroke, or releases it in the opposite order; then waits. */
static void go_on(struct vm_keyboard *kb)
{
	struct stroke *s = &kb->stroke[kb->head];

	while (kb->done < s->count) {
		unsigned key = kb->releasing ? s->keys[s->count - 1 - kb->done] : s->keys[kb->done];
		if (!machine_key(kb->vm->machine, key, !kb->releasing)) {
			wait_ms(kb, GAP_MS); /* the guest has not read yet */
			return;
		}
		kb->done++;
	}
	kb->done = 0;
	kb->releasing = !kb->releasing;
	if (kb->releasing) {
		wait_ms(kb, s->hold_ms);
		return;
	}
	kb->head = (kb->head + 1) % STROKES_MAX;
	kb->count--;
	kb->busy = kb->count;
	if (kb->busy)
		wait_ms(kb, GAP_MS);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	go_on(arg);
}

static int open_keyboard(struct vm *vm)
{
	if (vm->keyboard)
		return 0;
	struct vm_keyboard *kb = calloc(1, sizeof(*kb));
	if (!kb)
		return -ENOMEM;
	kb->vm = vm;
	kb->timer = event_new(vm->base, -1, 0, on_timer, kb);
	if (!kb->timer) {
		free(kb);
		return -ENOMEM;
	}
	vm->keyboard = kb;
	return 0;
}

void vm_keyboard_close(struct vm *vm)
{
	if (!vm->keyboard)
		return;
	event_free(vm->keyboard->timer);
	free(vm->keyboard);
	vm->keyboard = NULL;
}

static void append(struct vm_keyboard *kb, const struct stroke *stroke)
{
	kb->stroke[(kb->head + kb->count++) % STROKES_MAX] = *stroke;
	if (kb->busy)
		return;
	kb->busy = true;
	go_on(kb);
}

static int check(struct vm *vm, unsigned strokes)
{
	if (vm->def->display.type == VMDEF_DISPLAY_NONE)
		return -ENODEV;
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	int rc = open_keyboard(vm);
	if (!rc && STROKES_MAX - vm->keyboard->count < strokes)
		rc = -EAGAIN;
	return rc;
}

int vm_send_keys(struct vm *vm, const unsigned *keys, unsigned count, unsigned hold_ms)
{
	struct stroke s = {.count = (uint8_t)count, .hold_ms = (uint16_t)hold_ms};
	int rc = check(vm, 1);

	if (rc)
		return rc;
	for (unsigned i = 0; i < count; i++)
		s.keys[i] = (uint8_t)keys[i];
	append(vm->keyboard, &s);
	return 0;
}

/* Of a US keyboard. False: no key has it. */
static bool stroke_of(unsigned char c, struct stroke *ret)
{
	bool shift = false;
	uint32_t keysym = c == '\n' || c == '\r' ? 0xff0d : c == '\t' ? 0xff09 : c == '\b' ? 0xff08 : c == 0x1b ? 0xff1b : c;
	unsigned key = c < 0x80 ? key_by_keysym(keysym, &shift) : 0;

	*ret = (struct stroke){.hold_ms = GAP_MS};
	if (shift)
		ret->keys[ret->count++] = (uint8_t)key_by_name("LEFTSHIFT");
	ret->keys[ret->count++] = (uint8_t)key;
	return key;
}

int vm_send_text(struct vm *vm, const char *text, size_t *ret_bad)
{
	size_t n = strlen(text);
	struct stroke s;
	int rc;

	for (size_t i = 0; i < n; i++)
		if (!stroke_of((unsigned char)text[i], &s)) {
			*ret_bad = i;
			return -EILSEQ;
		}
	rc = n > STROKES_MAX ? -EAGAIN : check(vm, (unsigned)n);
	for (size_t i = 0; !rc && i < n; i++) {
		stroke_of((unsigned char)text[i], &s);
		append(vm->keyboard, &s);
	}
	return rc;
}
