/* UNIX sockets at paths of any length. */
#ifndef PROTO_SOCK_H
#define PROTO_SOCK_H

/*
 * Binds and listens, non-blocking and close-on-exec, with these permissions from the first moment. A stale socket of
 * that name is replaced; one that somebody still serves is -EADDRINUSE; anything else at that name is -EEXIST.
 * Returns the descriptor or -errno.
 */
int sock_listen(const char *path, unsigned permissions);
/* The same without listening: clients are refused until somebody calls listen(2) on it. */
int sock_bind(const char *path, unsigned permissions);
/* Connects (blocking, close-on-exec). The descriptor or -errno. */
int sock_connect(const char *path);
/* The same with a non-blocking descriptor: -EAGAIN, instead of a wait, when the server's queue is full. */
int sock_connect_nonblock(const char *path);

/* The two for SOCK_SEQPACKET, where a message is a packet. */
int sock_listen_packets(const char *path, unsigned permissions);
int sock_connect_packets(const char *path);

#endif
