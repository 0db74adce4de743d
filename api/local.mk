# Files of api/: the JSON-RPC server and trictl.
noinst_LIBRARIES += libjsonrpc.a
libjsonrpc_a_SOURCES = \
	api/jsonrpc/dispatch.c api/jsonrpc/methods.c api/jsonrpc/openrpc.c api/jsonrpc/private.h api/jsonrpc/rpc.h \
	api/jsonrpc/schema.c api/jsonrpc/server.c api/jsonrpc/stream.c
libjsonrpc_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS)
