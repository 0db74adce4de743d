/* The small shared parts: lines over sockets, whole files, process identity, long socket paths. */
#include "proto/control.h"
#include "proto/file.h"
#include "proto/line.h"
#include "proto/paths.h"
#include "proto/process.h"
#include "proto/ring.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/trivisor-proto-XXXXXX";

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static const char *in_dir(const char *name)
{
	static char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

/* ---- rings ---- */

static void ring_keeps_the_end(void **state)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s", in_dir("ring"));
	struct ring ring;
	uint8_t text[4096], *bytes;
	uint64_t position = 0, lost = 0, before;
	size_t n;
	assert_int_equal(ring_read_file(path, 10, &bytes, &n, &before), -ENOENT);
	assert_int_equal(ring_create(path, 1000, &ring), 0);
	assert_int_equal(ring_read_file(path, 10, &bytes, &n, &before), 0);
	assert_int_equal(n, 0);
	free(bytes);
	/* Every length there is, also such that are longer than all of it; each byte is the low one of its position. */
	uint64_t at = 0;
	for (size_t length = 0; length < 1300; length += 37) {
		for (size_t i = 0; i < length; i++)
			text[i] = (uint8_t)(at + i);
		ring_write(&ring, text, length);
		at += length;
		assert_int_equal(ring_written(&ring), at);
		assert_int_equal(ring_read_file(path, 700, &bytes, &n, &before), 0);
		assert_int_equal(n, at < 700 ? at : 700);
		assert_int_equal(before, at - n);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(bytes[i], (uint8_t)(before + i));
		free(bytes);
	}
	n = ring_copy(&ring, &position, &lost, text, sizeof(text));
	assert_int_equal(n, 1000);
	assert_int_equal(position, at - 1000);
	assert_int_equal(lost, at - 1000);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(text[i], (uint8_t)(position + i));
	ring_close(&ring);
	ring_close(&ring);
	/* Nothing in a file is believed. */
	const struct {
		off_t at;
		uint64_t value;
		int rc;
	} lies[] = {{0, 1, -EBADMSG}, {8, 0, -EBADMSG}, {8, UINT64_MAX, -EBADMSG}, {16, UINT64_MAX, 0}, {24, UINT64_MAX - 5, 0}};
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		assert_int_equal(ring_create(path, 1000, &ring), 0);
		ring_write(&ring, text, 100);
		ring_close(&ring);
		int fd = open(path, O_RDWR);
		assert_int_equal(pwrite(fd, &lies[i].value, 8, lies[i].at), 8);
		close(fd);
		bytes = NULL;
		assert_int_equal(ring_read_file(path, 70000, &bytes, &n, &before), lies[i].rc);
		free(bytes);
	}
	assert_int_equal(truncate(path, 5), 0);
	assert_int_equal(ring_read_file(path, 70000, &bytes, &n, &before), -EBADMSG);
	assert_int_equal(ring_read_file("/dev/zero", 70000, &bytes, &n, &before), -EBADMSG);
	assert_int_equal(ring_create("/dev/full/x", 4096, &ring), -ENOTDIR);
}

/* ---- JSON ---- */

static void json_is_strict(void **state)
{
	static const char *const bad[] = {"", " ", "{", "[1,]", "{\"a\":1,}", "{'a':1}", "{} {}", "nul", "\"\xff\"",
					  "{\"a\" 1}", "[1 2]", "\"", "01x", "//\n1",
					  "[NaN]", "[-Infinity]", "[1.]", "\"a\nb\"", "[01]", "[+1]"};
	static const char *const good[] = {"{}", "[]", "1", " {\"a\": [1, -2.5e3, \"\\u00e9\", true]} ", "\"x\"", "null", "\"it's N.\\\" I\"",
					   "12345678901234567890"};
	const char *why = NULL;
	struct json_object *json;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json = NULL;
		if (line_parse_json(bad[i], strlen(bad[i]), &json, &why) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
		assert_non_null(why);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		json = NULL;
		if (line_parse_json(good[i], strlen(good[i]), &json, &why))
			fail_msg("refused: %s: %s", good[i], why);
		json_object_put(json);
	}
	assert_int_equal(line_parse_json("{}\0", 3, &json, &why), -EBADMSG);
	char deep[200];
	memset(deep, '[', 100);
	memset(deep + 100, ']', 100);
	assert_int_equal(line_parse_json(deep, 200, &json, &why), -EBADMSG);
}

/* ---- lines over an event loop ---- */

struct server {
	struct event_base *base;
	struct line_peer *peer;
	int other;
	char log[4096];
	int closed; /* number of on_close calls */
	int error;
	bool echo, destroy_in_line;
	size_t lines;
};

static void on_line(void *opaque, char *text, size_t bytes)
{
	struct server *s = opaque;
	s->lines++;
	if (bytes < 64)
		snprintf(s->log + strlen(s->log), sizeof(s->log) - strlen(s->log), "<%s>", text);
	if (s->destroy_in_line) {
		line_peer_destroy(s->peer);
		s->peer = NULL;
	} else if (s->echo) {
		line_peer_send(s->peer, text, bytes);
	}
}

static void on_close(void *opaque, int error)
{
	struct server *s = opaque;
	s->closed++;
	s->error = error;
}

static const struct line_ops ops = {.on_line = on_line, .on_close = on_close};

static void server_init(struct server *s)
{
	int fds[2];
	memset(s, 0, sizeof(*s));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	s->base = event_base_new();
	s->peer = line_peer_create(s->base, fds[0], &ops, s);
	assert_non_null(s->peer);
	s->other = fds[1];
}

static void server_finish(struct server *s)
{
	line_peer_destroy(s->peer);
	event_base_free(s->base);
	if (s->other >= 0)
		close(s->other);
}

static void turn(struct server *s)
{
	for (int i = 0; i < 20; i++)
		event_base_loop(s->base, EVLOOP_NONBLOCK);
}

static void give(struct server *s, const char *text)
{
	assert_int_equal(write(s->other, text, strlen(text)), strlen(text));
	turn(s);
}

static void lines_are_cut(void **state)
{
	struct server s;
	server_init(&s);
	give(&s, "on");
	assert_string_equal(s.log, "");
	give(&s, "e\ntwo\r\n\nthr");
	assert_string_equal(s.log, "<one><two><>");
	give(&s, "ee\n");
	assert_string_equal(s.log, "<one><two><><three>");
	shutdown(s.other, SHUT_WR);
	turn(&s);
	assert_int_equal(s.closed, 1);
	assert_int_equal(s.error, 0);
	server_finish(&s);
}

static void answers_reach_a_half_closed_peer(void **state)
{
	struct server s;
	server_init(&s);
	s.echo = true;
	assert_int_equal(write(s.other, "a\nb\n", 4), 4);
	shutdown(s.other, SHUT_WR);
	turn(&s);
	char buf[16] = "";
	assert_int_equal(read(s.other, buf, sizeof(buf)), 4);
	assert_string_equal(buf, "a\nb\n");
	assert_int_equal(s.closed, 1);
	server_finish(&s);
}

static void may_be_destroyed_in_its_callback(void **state)
{
	struct server s;
	server_init(&s);
	s.destroy_in_line = true;
	give(&s, "a\nb\n");
	assert_int_equal(s.lines, 1);
	assert_int_equal(s.closed, 0);
	server_finish(&s);
}

static void a_line_may_have_16_mib_and_no_more(void **state)
{
	char *block = malloc(1 << 20);
	memset(block, 'x', 1 << 20);
	for (int extra = 0; extra < 2; extra++) {
		struct server s;
		server_init(&s);
		for (int i = 0; i < 16; i++)
			for (size_t sent = 0; sent < 1 << 20;) {
				ssize_t r = send(s.other, block + sent, (1 << 20) - sent, MSG_DONTWAIT);
				if (r > 0)
					sent += (size_t)r;
				turn(&s);
			}
		if (extra)
			assert_int_equal(write(s.other, "x", 1), 1);
		assert_int_equal(write(s.other, "\n", 1), 1);
		turn(&s);
		assert_int_equal(s.lines, extra ? 0 : 1);
		assert_int_equal(s.closed, extra);
		if (extra)
			assert_int_equal(s.error, EMSGSIZE);
		server_finish(&s);
	}
	free(block);
}

static void a_peer_that_does_not_read_is_given_up(void **state)
{
	struct server s;
	server_init(&s);
	char *block = malloc(1 << 20);
	memset(block, 'x', 1 << 20);
	int rc = 0, sent = 0;
	while (!(rc = line_peer_send(s.peer, block, 1 << 20)) && sent < 100)
		sent++;
	assert_int_equal(rc, -ENOBUFS);
	assert_in_range(sent, 16, 40);
	assert_int_equal(s.closed, 0); /* told from the loop only */
	turn(&s);
	assert_int_equal(s.closed, 1);
	assert_int_equal(s.error, ENOBUFS);
	assert_int_equal(line_peer_send(s.peer, "x", 1), -EPIPE);
	free(block);
	server_finish(&s);
}

static void a_peer_that_asks_without_reading_is_not_read(void **state)
{
	struct server s;
	server_init(&s);
	s.echo = true;
	char line[1024];
	memset(line, 'q', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	/* It would send for ever; the server's memory stays bounded because it stops reading. */
	size_t given = 0;
	for (int i = 0; i < 20000; i++) {
		ssize_t r = send(s.other, line, sizeof(line), MSG_DONTWAIT);
		if (r > 0)
			given += (size_t)r;
		event_base_loop(s.base, EVLOOP_NONBLOCK);
	}
	assert_true(given < 20000 * sizeof(line));
	assert_true(line_peer_unsent(s.peer) <= LINE_OUTPUT_PAUSE_BYTES + 2 * sizeof(line));
	assert_int_equal(s.closed, 0);
	/* Once it reads, everything it asked is answered. */
	size_t got = 0;
	for (int i = 0; i < 200000 && got < given; i++) {
		char buf[65536];
		ssize_t r = recv(s.other, buf, sizeof(buf), MSG_DONTWAIT);
		if (r > 0)
			got += (size_t)r;
		event_base_loop(s.base, EVLOOP_NONBLOCK);
	}
	assert_int_equal(got / sizeof(line), given / sizeof(line));
	server_finish(&s);
}

static void client_reads_lines(void **state)
{
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	struct line_client a, b;
	line_client_init(&a, fds[0]);
	line_client_init(&b, fds[1]);
	struct json_object *json = json_tokener_parse("{\"x\":\"/y\"}"), *back = NULL;
	assert_int_equal(line_client_send_json(&a, json), 0);
	assert_int_equal(line_client_send(&a, "second", 6), 0);
	assert_int_equal(line_client_receive_json(&b, 1000, &back), 0);
	assert_true(json_object_equal(json, back));
	char *text = NULL;
	size_t bytes;
	assert_int_equal(line_client_receive(&b, 1000, &text, &bytes), 0);
	assert_string_equal(text, "second");
	free(text);
	assert_int_equal(line_client_receive(&b, 10, &text, &bytes), -ETIMEDOUT);
	line_client_finish(&a);
	assert_int_equal(line_client_receive(&b, 1000, &text, &bytes), -EPIPE);
	json_object_put(json);
	json_object_put(back);
	line_client_finish(&b);
}

/* ---- files ---- */

static void files_are_replaced_whole(void **state)
{
	const char *path = in_dir("file");
	assert_int_equal(file_write_atomic(path, "one", 3, 0600), 0);
	assert_int_equal(file_write_atomic(path, "second", 6, 0640), 0);
	char *text = NULL;
	size_t bytes;
	assert_int_equal(file_read(path, 6, &text, &bytes), 0);
	assert_int_equal(bytes, 6);
	assert_string_equal(text, "second");
	free(text);
	struct stat st;
	stat(path, &st);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(file_read(path, 5, &text, &bytes), -EFBIG);
	assert_int_equal(file_read(dir, 5, &text, &bytes), -EISDIR);
	assert_int_equal(file_read("/dev/null", 5, &text, &bytes), -EINVAL);
	assert_int_equal(file_read(in_dir("none"), 5, &text, &bytes), -ENOENT);
	assert_int_equal(file_write_atomic(in_dir("no/file"), "x", 1, 0600), -ENOENT);
	assert_int_equal(file_read("/proc/self/status", 65536, &text, &bytes), 0);
	assert_true(bytes > 100);
	free(text);
	mkfifo(in_dir("fifo"), 0600);
	assert_int_equal(file_read(in_dir("fifo"), 5, &text, &bytes), -EINVAL);
}

static void a_full_disk_leaves_the_old_file(void **state)
{
	/* A limit on the size of files stands for the full disk. */
	const char *path = in_dir("kept");
	assert_int_equal(file_write_atomic(path, "old", 3, 0600), 0);
	pid_t child = fork();
	if (!child) {
		struct rlimit none = {0, 0};
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &none);
		_exit(file_write_atomic(path, "new!", 4, 0600) == -EFBIG ? 0 : 1);
	}
	int status;
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	char *text = NULL;
	size_t bytes;
	assert_int_equal(file_read(path, 100, &text, &bytes), 0);
	assert_string_equal(text, "old");
	free(text);
}

static void directories_are_made(void **state)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/a/b/c", dir);
	assert_int_equal(file_make_dirs(path, 0700), 0);
	assert_int_equal(file_make_dirs(path, 0700), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(file_write_atomic(in_dir("plain"), "x", 1, 0600), 0);
	assert_int_equal(file_make_dirs(in_dir("plain/x"), 0700), -ENOTDIR);
}

/* ---- processes ---- */

static void a_process_is_told_from_its_successor(void **state)
{
	struct process_id self, read_back;
	assert_int_equal(process_id_of(getpid(), &self), 0);
	assert_true(self.start_time > 0);
	assert_int_equal(process_id_write(in_dir("pid"), &self), 0);
	assert_int_equal(process_id_read(in_dir("pid"), &read_back), 0);
	assert_int_equal(read_back.pid, getpid());
	assert_int_equal(read_back.start_time, self.start_time);
	int fd = process_id_open(&self);
	assert_true(fd >= 0);
	close(fd);
	self.start_time++;
	assert_int_equal(process_id_open(&self), -ESRCH);
	file_write_atomic(in_dir("pid"), "12", 2, 0600);
	assert_int_equal(process_id_read(in_dir("pid"), &read_back), -EBADMSG);
	assert_int_equal(process_id_read(in_dir("nopid"), &read_back), -ENOENT);
}

static void the_end_of_a_process_is_seen(void **state)
{
	int hold[2];
	assert_int_equal(pipe(hold), 0);
	pid_t child = fork();
	if (!child) {
		char c;
		close(hold[1]);
		_exit(read(hold[0], &c, 1) == 0 ? 0 : 1);
	}
	struct process_id id;
	assert_int_equal(process_id_of(child, &id), 0);
	int fd = process_id_open(&id);
	assert_true(fd >= 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 0), 0);
	close(hold[1]);
	assert_int_equal(poll(&p, 1, 5000), 1);
	/* Not reaped yet: a zombie is no running process. */
	assert_int_equal(process_id_of(child, &id), -ESRCH);
	waitpid(child, NULL, 0);
	assert_int_equal(process_id_of(child, &id), -ESRCH);
	close(fd);
	close(hold[0]);
}

/* ---- sockets and paths ---- */

static void sockets_may_have_long_paths(void **state)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/", dir);
	memset(path + n, 'd', 150);
	path[n + 150] = '\0';
	assert_int_equal(file_make_dirs(path, 0700), 0);
	strcat(path, "/control.sock");
	int listener = sock_listen(path, 0600);
	assert_true(listener >= 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	int client = sock_connect(path);
	assert_true(client >= 0);
	assert_int_equal(sock_listen(path, 0600), -EADDRINUSE);
	close(client);
	close(listener);
	assert_int_equal(sock_connect(path), -ECONNREFUSED);
	/* The name is left over, as after a SIGKILL: it is taken over. */
	listener = sock_listen(path, 0600);
	assert_true(listener >= 0);
	close(listener);
	file_write_atomic(in_dir("nosock"), "x", 1, 0600);
	assert_int_equal(sock_listen(in_dir("nosock"), 0600), -EEXIST);
}

static void paths_follow_the_user(void **state)
{
	char path[PATH_MAX], small[4];
	setenv("XDG_RUNTIME_DIR", "/r", 1);
	setenv("XDG_STATE_HOME", "relative", 1);
	setenv("HOME", "/h", 1);
	assert_int_equal(paths_runtime_dir(path, sizeof(path)), 0);
	assert_string_equal(path, geteuid() ? "/r/trivisor" : "/run/trivisor");
	assert_int_equal(paths_state_dir(path, sizeof(path)), 0);
	assert_string_equal(path, geteuid() ? "/h/.local/state/trivisor" : "/var/lib/trivisor");
	assert_int_equal(paths_api_socket(path, sizeof(path)), 0);
	assert_int_equal(paths_runtime_dir(small, sizeof(small)), -ENAMETOOLONG);
}

static void states_have_names(void **state)
{
	for (int i = 0; i < VM_STATE_COUNT; i++) {
		enum vm_state back = VM_STATE_COUNT;
		assert_true(vm_state_parse(vm_state_name((enum vm_state)i), &back));
		assert_int_equal(back, i);
	}
	enum vm_state unused;
	assert_false(vm_state_parse("asleep", &unused));
	assert_false(vm_state_is_final(VM_PAUSED));
	assert_true(vm_state_is_final(VM_SHUTDOWN));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_keeps_the_end),
		cmocka_unit_test(json_is_strict),
		cmocka_unit_test(lines_are_cut),
		cmocka_unit_test(answers_reach_a_half_closed_peer),
		cmocka_unit_test(may_be_destroyed_in_its_callback),
		cmocka_unit_test(a_line_may_have_16_mib_and_no_more),
		cmocka_unit_test(a_peer_that_does_not_read_is_given_up),
		cmocka_unit_test(a_peer_that_asks_without_reading_is_not_read),
		cmocka_unit_test(client_reads_lines),
		cmocka_unit_test(files_are_replaced_whole),
		cmocka_unit_test(a_full_disk_leaves_the_old_file),
		cmocka_unit_test(directories_are_made),
		cmocka_unit_test(a_process_is_told_from_its_successor),
		cmocka_unit_test(the_end_of_a_process_is_seen),
		cmocka_unit_test(sockets_may_have_long_paths),
		cmocka_unit_test(paths_follow_the_user),
		cmocka_unit_test(states_have_names),
	};
	return cmocka_run_group_tests_name("proto", tests, make_dir, remove_dir);
}
