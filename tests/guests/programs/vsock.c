/*
 * Streams of AF_VSOCK for tests/guests/share.py, where busybox has no words for them.
 *   vsock connect PORT          to the host: standard input goes there, what comes goes to standard output; ends when both ended
 *   vsock listen PORT COUNT     COUNT connections, one after the other: each gets back what it sends, until it ends
 *   vsock many PORT COUNT BYTES COUNT connections to the host at once, each sends BYTES and checks that they come back
 *   vsock cid                   its own address
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY_MAX 512

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int open_stream(unsigned cid, unsigned port, int flags)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM | flags, 0);

	if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS))
		return -1;
	return fd;
}

static int put_all(int fd, const char *bytes, ssize_t n)
{
	while (n > 0) {
		ssize_t r = write(fd, bytes, (size_t)n);

		if (r < 0)
			return -1;
		bytes += r;
		n -= r;
	}
	return 0;
}

static int copy(int from, int to)
{
	static char buf[65536];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (put_all(to, buf, n) < 0)
			return fail("write");
	return n < 0 ? fail("read") : 0;
}

/* Two processes: who echoes may want to be read before it reads on. */
static int do_connect(unsigned port)
{
	int fd = open_stream(VMADDR_CID_HOST, port, 0), rc;

	if (fd < 0)
		return fail("connect");
	if (fork() == 0) {
		rc = copy(STDIN_FILENO, fd);
		shutdown(fd, SHUT_WR);
		_exit(rc);
	}
	rc = copy(fd, STDOUT_FILENO);
	wait(NULL);
	return rc;
}

static int do_listen(unsigned port, unsigned count)
{
	static char buf[65536];
	struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 64) < 0)
		return fail("listen");
	printf("listening\n");
	fflush(stdout);
	while (count--) {
		int fd = accept(listener, NULL, NULL);
		ssize_t n;

		if (fd < 0)
			return fail("accept");
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			if (put_all(fd, buf, n) < 0)
				break;
		close(fd);
	}
	return 0;
}

static char byte_of(unsigned stream, unsigned at) { return (char)(stream * 31 + at * 7 + at / 251); }

static int do_many(unsigned port, unsigned count, unsigned bytes)
{
	static struct pollfd wait[MANY_MAX];
	static unsigned sent[MANY_MAX], got[MANY_MAX];
	unsigned left = count;
	char buf[4096];

	for (unsigned i = 0; i < count; i++) {
		wait[i].fd = open_stream(VMADDR_CID_HOST, port, 0);
		if (wait[i].fd < 0)
			return fail("connect");
		fcntl(wait[i].fd, F_SETFL, O_NONBLOCK);
		wait[i].events = POLLIN | POLLOUT;
	}
	while (left) {
		if (poll(wait, count, -1) < 0)
			return fail("poll");
		for (unsigned i = 0; i < count; i++) {
			if (wait[i].revents & POLLOUT && sent[i] < bytes) {
				unsigned n = bytes - sent[i] < sizeof(buf) ? bytes - sent[i] : (unsigned)sizeof(buf);

				for (unsigned k = 0; k < n; k++)
					buf[k] = byte_of(i, sent[i] + k);
				ssize_t r = write(wait[i].fd, buf, n);
				if (r < 0 && errno != EAGAIN)
					return fail("write");
				sent[i] += r > 0 ? (unsigned)r : 0;
				if (sent[i] == bytes)
					wait[i].events = POLLIN;
			}
			if (wait[i].revents & (POLLIN | POLLHUP)) {
				ssize_t r = read(wait[i].fd, buf, sizeof(buf));

				if (r < 0 && errno != EAGAIN)
					return fail("read");
				if (r == 0) {
					printf("stream %u ended after %u of %u bytes\n", i, got[i], bytes);
					return 1;
				}
				for (ssize_t k = 0; k < r; k++)
					if (buf[k] != byte_of(i, got[i]++)) {
						printf("stream %u differs at byte %u\n", i, got[i] - 1);
						return 1;
					}
				if (got[i] == bytes) {
					close(wait[i].fd);
					wait[i].fd = -1;
					left--;
				}
			}
		}
	}
	printf("all %u streams came back\n", count);
	return 0;
}

static int do_cid(void)
{
	unsigned cid = 0;
	int fd = open("/dev/vsock", O_RDONLY);

	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
		return fail("/dev/vsock");
	printf("cid %u\n", cid);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned number[3] = {0};

	for (int i = 2; i < argc && i < 5; i++)
		number[i - 2] = (unsigned)strtoul(argv[i], NULL, 10);
	if (!strcmp(what, "connect"))
		return do_connect(number[0]);
	if (!strcmp(what, "listen"))
		return do_listen(number[0], number[1]);
	if (!strcmp(what, "many") && number[1] <= MANY_MAX)
		return do_many(number[0], number[1], number[2]);
	return strcmp(what, "cid") ? 2 : do_cid();
}
