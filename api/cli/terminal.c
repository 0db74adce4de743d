/* A VM's console on this terminal. */
#include "api/cli/terminal.h"

#include "api/cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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
	*terminal = (struct terminal){.console = -1, .input_open = true, .output_open = true};
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
	escape = terminal->raw ? memchr(terminal->typed + terminal->typed_bytes, TERMINAL_ESCAPE, (size_t)n) : NULL;
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

int terminal_attach(int fd)
{
	struct terminal terminal;

	signal(SIGTERM, on_fatal_signal);
	signal(SIGINT, on_fatal_signal);
	signal(SIGHUP, on_fatal_signal);
	terminal_start(&terminal);
	terminal.console = fd;
	if (terminal.raw)
		complain("connected; Ctrl-] leaves\r");
	while (terminal.console >= 0 && !terminal.left) {
		struct pollfd fds[2] = {
			{.fd = terminal.console, .events = (short)(POLLIN | (terminal.typed_bytes ? POLLOUT : 0))},
			{.fd = terminal.input_open && terminal.typed_bytes < sizeof(terminal.typed) ? STDIN_FILENO : -1,
			 .events = POLLIN},
		};

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			terminal_take_input(&terminal);
		terminal_send_input(&terminal);
		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			terminal_take_output(&terminal);
	}
	terminal_finish(&terminal);
	return 0;
}
