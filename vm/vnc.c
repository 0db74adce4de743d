/*
 * Viewers of the VM's screen, by libvncserver. It gives each of them two threads of its own, so that a slow one waits for
 * nobody but itself; ours are one that lets them in and one that looks for what has changed. None of them is a vCPU's.
 */
#include "vm/private.h"

#include "proto/file.h"
#include "proto/keys.h"
#include "proto/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <rfb/rfb.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST_PORT 5900u
#define VIEWERS_MAX 16
#define BACKLOG 8
#define BUSY_MS 33	   /* between looks while the picture moves, ... */
#define IDLE_MS 100	   /* ... and while it does not */
#define WRITE_TIMEOUT_MS 2000 /* a viewer that takes nothing for so long is let go */

struct vm_vnc {
	struct vm *vm;
	int listener;
	int wake; /* eventfd: a viewer has come, or it is over */
	char path[PATH_MAX]; /* of the socket; "" for a port */
	rfbScreenInfoPtr server;
	char *passwords[2];
	struct machine_screen screen;
	size_t screen_bytes;
	pthread_t gate, painter;
	bool has_gate, has_painter;
	atomic_bool over;
	atomic_int viewers;
	bool moved; /* the painter's: there was a change in this look */
	pthread_mutex_t lock; /* the pointer, and who has clientData */
	int x, y;
	unsigned buttons; /* as VNC has them */
};

/* What of a viewer's is down, and comes up with its end. */
struct viewer {
	uint64_t keys[4];
	bool knows_size; /* it was told of the size since it said that it understands changes of it */
};

/* ---- from viewers (their threads) ------------------------------------------------------ */

static void press(struct vm_vnc *vnc, struct viewer *viewer, unsigned code, bool down)
{
	uint64_t bit = 1ull << code % 64;

	if (!machine_key(vnc->vm->machine, code, down))
		return;
	if (down)
		viewer->keys[code / 64] |= bit;
	else
		viewer->keys[code / 64] &= ~bit;
}

static void on_key(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
	bool shift;
	unsigned code = key_by_keysym((uint32_t)keysym, &shift);

	if (code)
		press(client->screen->screenData, client->clientData, code, down);
}

/* VNC's buttons are left, middle, right, and the wheel's two directions; a mouse's left, right, middle. */
static unsigned mouse_buttons(unsigned vnc) { return (vnc & 1) | (vnc >> 2 & 1) << 1 | (vnc >> 1 & 1) << 2; }

/* The guest's pointer follows by the way this one goes: a PS/2 mouse knows no places. */
static void on_pointer(int buttons, int x, int y, rfbClientPtr client)
{
	struct vm_vnc *vnc = client->screen->screenData;
	unsigned now = (unsigned)buttons;

	pthread_mutex_lock(&vnc->lock);
	unsigned pressed = now & ~vnc->buttons;
	int wheel = (pressed >> 3 & 1) - (pressed >> 4 & 1);
	machine_mouse(vnc->vm->machine, x - vnc->x, y - vnc->y, wheel, mouse_buttons(now));
	vnc->x = x;
	vnc->y = y;
	vnc->buttons = now;
	pthread_mutex_unlock(&vnc->lock);
}

static void on_gone(rfbClientPtr client)
{
	struct vm_vnc *vnc = client->screen->screenData;
	struct viewer *viewer = client->clientData;

	for (unsigned code = 0; viewer && code < 256; code++)
		if (viewer->keys[code / 64] >> code % 64 & 1)
			machine_key(vnc->vm->machine, code, false);
	pthread_mutex_lock(&vnc->lock);
	free(viewer);
	client->clientData = NULL;
	pthread_mutex_unlock(&vnc->lock);
	/* Its thread ends now, and nobody joins it. (Where a greeting failed this is the gate.) */
	if (!pthread_equal(pthread_self(), vnc->gate))
		pthread_detach(pthread_self());
	atomic_fetch_sub(&vnc->viewers, 1);
}

static void wake(struct vm_vnc *vnc)
{
	uint64_t one = 1;
	if (write(vnc->wake, &one, sizeof(one)) < 0)
		return; /* full: it is awake */
}

static enum rfbNewClientAction on_viewer(rfbClientPtr client)
{
	struct vm_vnc *vnc = client->screen->screenData;

	if (atomic_load(&vnc->viewers) >= VIEWERS_MAX || !(client->clientData = calloc(1, sizeof(struct viewer))))
		return RFB_CLIENT_REFUSE;
	atomic_fetch_add(&vnc->viewers, 1);
	client->clientGoneHook = on_gone;
	wake(vnc);
	return RFB_CLIENT_ACCEPT;
}

/* ---- the gate -------------------------------------------------------------------------- */

static void *gate_main(void *arg)
{
	struct vm_vnc *vnc = arg;
	struct pollfd wait = {.fd = vnc->listener, .events = POLLIN};

	/* A shut-down listener can be read, and accepts nobody. */
	while (!atomic_load(&vnc->over)) {
		if (poll(&wait, 1, -1) < 0 && errno != EINTR)
			break;
		int fd = atomic_load(&vnc->over) ? -1 : accept4(vnc->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR)
				usleep(100000); /* no descriptors left, say */
			continue;
		}
		/* libvncserver waits by select(2). */
		rfbClientPtr client = NULL;
		if (fd < FD_SETSIZE && atomic_load(&vnc->viewers) < VIEWERS_MAX)
			client = rfbNewClient(vnc->server, fd); /* owns it, also where it fails */
		else
			close(fd);
		if (client && !client->onHold)
			rfbStartOnHoldClient(client);
	}
	return NULL;
}

/* ---- the painter ------------------------------------------------------------------------ */

static void on_changed(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height)
{
	struct vm_vnc *vnc = opaque;

	vnc->moved = true;
	/* The memory is large enough for every size, and stays: a thread that still reads by the old one reads old pixels. */
	if (vnc->server->width != (int)vnc->screen.width || vnc->server->height != (int)vnc->screen.height)
		rfbNewFramebuffer(vnc->server, (char *)vnc->screen.pixels, (int)vnc->screen.width, (int)vnc->screen.height, 8, 3, 4);
	rfbMarkRectAsModified(vnc->server, (int)x, (int)y, (int)(x + width), (int)(y + height));
}

/*
 * The size may change between the greeting that told a viewer of it and the message by which the viewer says that it
 * understands changes; rfbNewFramebuffer then has told it nothing. So each is told once more.
 */
static void tell_sizes(struct vm_vnc *vnc)
{
	rfbClientIteratorPtr all = rfbGetClientIterator(vnc->server);
	rfbClientPtr client;

	while ((client = rfbClientIteratorNext(all))) {
		bool told = false;

		pthread_mutex_lock(&vnc->lock);
		struct viewer *viewer = client->clientData;
		LOCK(client->updateMutex);
		if (viewer && !viewer->knows_size && client->useNewFBSize) {
			viewer->knows_size = told = true;
			client->newFBSizePending = TRUE;
		}
		UNLOCK(client->updateMutex);
		pthread_mutex_unlock(&vnc->lock);
		if (told)
			rfbMarkRectAsModified(vnc->server, 0, 0, vnc->server->width, vnc->server->height);
	}
	rfbReleaseClientIterator(all);
}

static void *painter_main(void *arg)
{
	struct vm_vnc *vnc = arg;
	struct pollfd wait = {.fd = vnc->wake, .events = POLLIN};
	uint64_t count;
	int timeout = -1;

	while (!atomic_load(&vnc->over)) {
		if (poll(&wait, 1, timeout) > 0 && read(vnc->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
			break;
		if (atomic_load(&vnc->over))
			break;
		vnc->moved = false;
		timeout = -1;
		if (!atomic_load(&vnc->viewers))
			continue;
		machine_screen_update(vnc->vm->machine, &vnc->screen, on_changed, vnc);
		tell_sizes(vnc);
		timeout = vnc->moved ? BUSY_MS : IDLE_MS;
	}
	return NULL;
}

/* ---- opening ------------------------------------------------------------------------------ */

/* The first free port from `port` on, or only that. The socket, or -errno. */
static int listen_port(const char *address, unsigned *port, bool any)
{
	int one = 1, rc = -EADDRINUSE, fd;

	for (unsigned p = *port; p <= UINT16_MAX; p++) {
		struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p)};
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			return -errno;
		inet_pton(AF_INET, address, &at.sin_addr);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, BACKLOG) == 0) {
			*port = p;
			return fd;
		}
		rc = -errno;
		close(fd);
		if (!any || rc != -EADDRINUSE)
			break;
	}
	return rc;
}

/* Where viewers find it, for the daemon, which may be another one by then. */
static int write_where(struct vm *vm, const struct vm_vnc *vnc, const char *address, unsigned port)
{
	char path[PATH_MAX];
	struct json_object *where = json_object_new_object(), *at = json_object_new_object();

	json_object_object_add(where, "vnc", at);
	if (vnc->path[0]) {
		json_object_object_add(at, "socket", json_object_new_string(vnc->path));
	} else {
		json_object_object_add(at, "address", json_object_new_string(address));
		json_object_object_add(at, "port", json_object_new_int((int)port));
	}
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_DISPLAY, vm->options.dir);
	const char *text = json_object_to_json_string(where);
	int rc = file_write_atomic(path, text, strlen(text), 0600);
	json_object_put(where);
	return rc;
}

static int open_listener(struct vm *vm, struct vm_vnc *vnc)
{
	const char *socket_path = vm->def->display.vnc.socket;
	const char *address = vm->def->display.vnc.address[0] ? vm->def->display.vnc.address : "127.0.0.1";
	unsigned port = vm->def->display.vnc.port ? vm->def->display.vnc.port : FIRST_PORT;

	if (socket_path) {
		if (socket_path[0])
			snprintf(vnc->path, sizeof(vnc->path), "%s", socket_path);
		else
			snprintf(vnc->path, sizeof(vnc->path), "%s/" CONTROL_FILE_VNC, vm->options.dir);
		vnc->listener = sock_listen(vnc->path, 0600);
	} else {
		vnc->listener = listen_port(address, &port, vm->def->display.vnc.autoport);
	}
	if (vnc->listener < 0) {
		if (socket_path)
			snprintf(vm->reason, sizeof(vm->reason), "display.vnc.socket: %.380s: %s", vnc->path, strerror(-vnc->listener));
		else
			snprintf(vm->reason, sizeof(vm->reason), "display.vnc: port %u of %s: %s%s", port, address, strerror(-vnc->listener),
				 vnc->listener == -EADDRINUSE ? "; choose another, or autoport" : "");
		return vnc->listener;
	}
	int rc = write_where(vm, vnc, address, port);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), CONTROL_FILE_DISPLAY ": %s", strerror(-rc));
	return rc;
}

static int open_server(struct vm *vm, struct vm_vnc *vnc)
{
	char challenge[16];

	rfbLogEnable(FALSE);
	vnc->screen_bytes = MACHINE_SCREEN_PIXELS * sizeof(*vnc->screen.pixels);
	vnc->screen.pixels = mmap(NULL, vnc->screen_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vnc->screen.pixels == MAP_FAILED) {
		vnc->screen.pixels = NULL;
		return -errno;
	}
	vnc->screen.width = 640;
	vnc->screen.height = 480;
	vnc->server = rfbGetScreen(NULL, NULL, 640, 480, 8, 3, 4);
	if (!vnc->server)
		return -ENOMEM;
	rfbScreenInfoPtr s = vnc->server;
	s->frameBuffer = (char *)vnc->screen.pixels;
	s->serverFormat.redShift = 16;
	s->serverFormat.greenShift = 8;
	s->serverFormat.blueShift = 0;
	s->screenData = vnc;
	s->desktopName = vm->def->name;
	s->cursor = NULL; /* the guest draws its own */
	s->alwaysShared = TRUE;
	s->maxClientWait = WRITE_TIMEOUT_MS;
	s->deferUpdateTime = 0;
	s->port = s->ipv6port = 0; /* it opens no sockets of its own */
	s->autoPort = FALSE;
	s->kbdAddEvent = on_key;
	s->ptrAddEvent = on_pointer;
	s->newClientHook = on_viewer;
	s->backgroundLoop = TRUE; /* so that rfbStartOnHoldClient makes threads */
	if (vm->def->display.vnc.password) {
		vnc->passwords[0] = vm->def->display.vnc.password;
		s->authPasswdData = vnc->passwords;
		s->passwordCheck = rfbCheckPasswordByList;
	}
	rfbInitServer(s);
	/* Its cryptography opens what it needs now: in the sandbox it could not. */
	rfbRandomBytes((unsigned char *)challenge);
	rfbEncryptBytes((unsigned char *)challenge, (char[]){"unused"});
	return 0;
}

int vm_vnc_open(struct vm *vm)
{
	if (!vmdef_has_vnc(vm->def))
		return 0;
	struct vm_vnc *vnc = calloc(1, sizeof(*vnc));
	if (!vnc) {
		snprintf(vm->reason, sizeof(vm->reason), "display.vnc: out of memory");
		return -ENOMEM;
	}
	vnc->vm = vm;
	vnc->listener = -1;
	pthread_mutex_init(&vnc->lock, NULL);
	vm->vnc = vnc;
	vnc->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int rc = vnc->wake < 0 ? -errno : open_server(vm, vnc);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "display.vnc: %s", strerror(-rc));
	return rc ? rc : open_listener(vm, vnc);
}

int vm_vnc_start(struct vm *vm)
{
	struct vm_vnc *vnc = vm->vnc;
	if (!vnc)
		return 0;
	int rc = pthread_create(&vnc->painter, NULL, painter_main, vnc);
	vnc->has_painter = !rc;
	if (!rc) {
		rc = pthread_create(&vnc->gate, NULL, gate_main, vnc);
		vnc->has_gate = !rc;
	}
	return -rc;
}

unsigned vm_vnc_viewers(const struct vm *vm) { return vm->vnc ? (unsigned)atomic_load(&vm->vnc->viewers) : 0; }

/* libvncserver's own way to do this joins a listener's thread, which is ours. */
static bool send_viewers_away(struct vm_vnc *vnc)
{
	rfbClientIteratorPtr all = rfbGetClientIterator(vnc->server);
	rfbClientPtr client;

	while ((client = rfbClientIteratorNext(all)))
		rfbCloseClient(client);
	rfbReleaseClientIterator(all);
	for (unsigned ms = 0; atomic_load(&vnc->viewers) > 0 && ms < 2 * WRITE_TIMEOUT_MS; ms++)
		usleep(1000);
	return atomic_load(&vnc->viewers) == 0;
}

bool vm_vnc_close(struct vm *vm)
{
	struct vm_vnc *vnc = vm->vnc;
	char path[PATH_MAX];

	if (!vnc)
		return true;
	atomic_store(&vnc->over, true);
	if (vnc->wake >= 0)
		wake(vnc);
	if (vnc->listener >= 0) {
		shutdown(vnc->listener, SHUT_RDWR);
		if (vnc->path[0])
			unlink(vnc->path);
		snprintf(path, sizeof(path), "%s/" CONTROL_FILE_DISPLAY, vm->options.dir);
		unlink(path);
	}
	if (vnc->has_gate)
		pthread_join(vnc->gate, NULL);
	if (vnc->has_painter)
		pthread_join(vnc->painter, NULL);
	if (vnc->server && !send_viewers_away(vnc))
		return false;
	if (vnc->server)
		rfbScreenCleanup(vnc->server);
	if (vnc->listener >= 0)
		close(vnc->listener);
	if (vnc->wake >= 0)
		close(vnc->wake);
	if (vnc->screen.pixels)
		munmap(vnc->screen.pixels, vnc->screen_bytes);
	pthread_mutex_destroy(&vnc->lock);
	free(vnc);
	vm->vnc = NULL;
	return true;
}
