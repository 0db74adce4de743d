/* A VM's console on this terminal. */
#include "api/cli/terminal.h"

#include "api/cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static volatile sig_atomic_t is_raw;

void terminal_restore(void)
{
	if (!is_raw)
		return;
	is_raw = 0;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
}

bool terminal_raw(void)
{
	static bool registered;
	struct termios raw;

	/* A background job that touches its terminal is stopped: leave it alone then. */
	if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() || tcgetattr(STDIN_FILENO, &saved) < 0)
		return false;
	raw = saved;
	cfmakeraw(&raw);
	if (!registered)
		atexit(terminal_restore);
	registered = true;
	is_raw = 1;
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0) {
		is_raw = 0;
		return false;
	}
	return true;
}

void terminal_start(struct terminal *terminal)
{
	*terminal = (struct terminal){.console = -1, .input_open = true, .output_open = true, .escape = TERMINAL_ESCAPE};
	terminal->raw = terminal_raw();
	/* A background job must not read its terminal either. */
	if (!terminal->raw && isatty(STDIN_FILENO))
		terminal->input_open = false;
}

void terminal_take_input(struct terminal *terminal)
{
	size_t room = sizeof(terminal->typed) - terminal->typed_bytes;
	ssize_t n = read(STDIN_FILENO, terminal->typed + terminal->typed_bytes, room);
	char *escape;

	if (n <= 0) {
		if (n == 0 || (errno != EINTR && errno != EAGAIN))
			terminal->input_open = false;
		return;
	}
	escape = terminal->raw && terminal->escape >= 0
			 ? memchr(terminal->typed + terminal->typed_bytes, terminal->escape, (size_t)n)
			 : NULL;
	if (escape) {
		terminal->left = true;
		n = escape - (terminal->typed + terminal->typed_bytes);
	}
	terminal->typed_bytes += (size_t)n;
}

void terminal_send_input(struct terminal *terminal)
{
	ssize_t n;

	if (terminal->console < 0 || !terminal->typed_bytes)
		return;
	n = send(terminal->console, terminal->typed, terminal->typed_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n <= 0)
		return;
	terminal->typed_bytes -= (size_t)n;
	memmove(terminal->typed, terminal->typed + n, terminal->typed_bytes);
}

static void write_all(struct terminal *terminal, const char *bytes, size_t n)
{
	while (terminal->output_open && n) {
		ssize_t r = write(STDOUT_FILENO, bytes, n);

		if (r < 0 && errno == EAGAIN) {
			poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, 1000);
			continue;
		}
		if (r < 0 && errno != EINTR) {
			complain("standard output: %s", strerror(errno));
			terminal->output_open = false;
		}
		if (r > 0) {
			bytes += r;
			n -= (size_t)r;
		}
	}
}

bool terminal_take_output(struct terminal *terminal)
{
	char chunk[16384];
	ssize_t n = recv(terminal->console, chunk, sizeof(chunk), MSG_DONTWAIT);

	if (n > 0) {
		write_all(terminal, chunk, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	close(terminal->console);
	terminal->console = -1;
	return false;
}

void terminal_finish(struct terminal *terminal)
{
	if (terminal->console >= 0)
		close(terminal->console);
	terminal->console = -1;
	terminal_restore();
}

static void on_fatal_signal(int number)
{
	terminal_restore();
	signal(number, SIG_DFL);
	raise(number);
}

static volatile sig_atomic_t window_changed;

static void on_window(int number)
{
	window_changed = 1;
}

static void tell_size(struct terminal_session *session)
{
	struct winsize size;

	window_changed = 0;
	if (session->resized && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row)
		session->resized(session, size.ws_col, size.ws_row);
}

/* The signal of a new size arrives only in ppoll: none is missed. `outside` is to be the mask there. */
static void watch_window(sigset_t *ret_outside)
{
	sigset_t window;

	sigemptyset(&window);
	sigaddset(&window, SIGWINCH);
	sigprocmask(SIG_BLOCK, &window, ret_outside);
	sigdelset(ret_outside, SIGWINCH);
	sigaction(SIGWINCH, &(struct sigaction){.sa_handler = on_window}, NULL);
}

static void greet(const struct terminal_session *session)
{
	const char *role = session->wish.read_only ? ", reading only" : "";

	if (session->wish.escape >= 0)
		complain("connected%s; Ctrl-%c leaves\r", role, session->wish.escape + '@');
	else
		complain("connected%s\r", role);
}

int terminal_attach(struct terminal_session *session)
{
	struct terminal terminal;
	sigset_t mask;

	signal(SIGTERM, on_fatal_signal);
	signal(SIGINT, on_fatal_signal);
	signal(SIGHUP, on_fatal_signal);
	watch_window(&mask);
	terminal_start(&terminal);
	terminal.console = session->fd;
	terminal.escape = session->wish.escape;
	if (terminal.raw)
		greet(session);
	window_changed = terminal.raw;
	while (terminal.console >= 0 && !terminal.left) {
		struct pollfd fds[2] = {
			{.fd = terminal.console, .events = (short)(POLLIN | (terminal.typed_bytes ? POLLOUT : 0))},
			{.fd = terminal.input_open && terminal.typed_bytes < sizeof(terminal.typed) ? STDIN_FILENO : -1,
			 .events = POLLIN},
		};

		if (window_changed)
			tell_size(session);
		if (ppoll(fds, 2, NULL, &mask) < 0) {
			if (errno != EINTR)
				break;
			continue;
		}
		if (fds[1].revents)
			terminal_take_input(&terminal);
		if (session->wish.read_only)
			terminal.typed_bytes = 0;
		terminal_send_input(&terminal);
		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			terminal_take_output(&terminal);
	}
	terminal_finish(&terminal);
	return 0;
}
