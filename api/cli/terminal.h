/* A VM's console on this terminal. */
#ifndef API_CLI_TERMINAL_H
#define API_CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ctrl-], as telnet and virsh have it. */
#define TERMINAL_ESCAPE 0x1d

/*
 * Standard input goes raw if it is a terminal and we are in its foreground; terminal_restore puts it back (also from
 * a signal's handler, and at exit). False: it is none, and nothing was changed.
 */
bool terminal_raw(void);
void terminal_restore(void);

struct terminal {
	int console; /* connected console socket, -1 while there is none */
	bool raw;
	bool input_open;  /* standard input has more */
	bool output_open; /* standard output takes more */
	bool left;        /* the user typed the escape key */
	int escape;       /* -1: none */
	char typed[4096]; /* waits for the console to take it */
	size_t typed_bytes;
};

/* Goes raw when possible. */
void terminal_start(struct terminal *terminal);
/* Reads standard input: true when something happened worth a look at `left`. Call when it is readable. */
void terminal_take_input(struct terminal *terminal);
/* Sends what was typed, as far as the console takes it. */
void terminal_send_input(struct terminal *terminal);
/* Copies console output to standard output. False at the console's end (it is closed then). */
bool terminal_take_output(struct terminal *terminal);
/* Closes the console and restores the terminal. */
void terminal_finish(struct terminal *terminal);

/* How to attach. */
struct terminal_wish {
	bool read_only, force;
	int64_t scrollback; /* bytes; negative: all */
	int escape;         /* the key that leaves; -1: none */
};

/* One client of a console. */
struct client;
struct terminal_session {
	int fd;
	const char *vm;
	struct client *client; /* for resized */
	struct terminal_wish wish;
	void (*resized)(void *session, unsigned columns, unsigned rows); /* or NULL */
};

/*
 * A connection to a running VM's console, by its socket or, where that cannot be reached, through the daemon at
 * socket_path. The descriptor or -errno. Who types first is the writer.
 */
int terminal_connect(const char *socket_path, const char *vm, const char *console_path);
/* The same with a role. 0 and *ret_fd, or an exit status: it was reported. */
int terminal_open(const char *socket_path, const char *vm, const char *console_path, const struct terminal_wish *wish,
		  int *ret_fd);
/* Puts a connected console on this terminal until its end or the escape key. Takes session->fd. An exit status. */
int terminal_attach(struct terminal_session *session);

#endif
