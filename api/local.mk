# Files of api/: the JSON-RPC server and trictl.
noinst_LIBRARIES += libjsonrpc.a
libjsonrpc_a_SOURCES = \
	api/jsonrpc/base64.c api/jsonrpc/base64.h api/jsonrpc/dispatch.c api/jsonrpc/methods.c api/jsonrpc/openrpc.c api/jsonrpc/private.h api/jsonrpc/rpc.h \
	api/jsonrpc/schema.c api/jsonrpc/server.c api/jsonrpc/stream.c
libjsonrpc_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS)

bin_PROGRAMS += trictl
trictl_SOURCES = \
	api/cli/bridge.c api/cli/cli.h api/cli/client.c api/cli/client.h api/cli/main.c api/cli/private_daemon.c api/cli/render.c api/cli/render_policy.c \
	api/cli/run.c api/cli/terminal.c api/cli/terminal.h api/jsonrpc/base64.c daemon/settings.c daemon/log.c
trictl_CPPFLAGS = $(AM_CPPFLAGS) -DSBINDIR='"$(sbindir)"'
trictl_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS)
trictl_LDADD = $(PROTO_LIBS) -lm
