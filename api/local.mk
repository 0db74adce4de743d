# Files of api/: the JSON-RPC server and trictl.
noinst_LIBRARIES += libjsonrpc.a
libjsonrpc_a_SOURCES = \
	api/jsonrpc/dispatch.c api/jsonrpc/methods.c api/jsonrpc/methods.h \
	api/jsonrpc/methods_device.c \
	api/jsonrpc/methods_image.c \
	api/jsonrpc/methods_guest.c \
	api/jsonrpc/methods_host.c api/jsonrpc/methods_inspect.c api/jsonrpc/methods_net.c api/jsonrpc/methods_screen.c api/jsonrpc/methods_stream.c api/jsonrpc/methods_tools.c api/jsonrpc/methods_vm.c api/jsonrpc/openrpc.c api/jsonrpc/private.h api/jsonrpc/rpc.h \
	api/jsonrpc/schema.c api/jsonrpc/server.c api/jsonrpc/stream.c api/listener.c api/listener.h
libjsonrpc_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS)

noinst_LIBRARIES += liblv.a
liblv_a_SOURCES = \
	api/libvirt/capabilities.c api/libvirt/change.c api/libvirt/connection.c api/libvirt/dispatch.c api/libvirt/domain.c \
	api/libvirt/guest.c api/libvirt/xml_guest.c api/libvirt/xml_guest.h \
	api/libvirt/events.c api/libvirt/handlers.h api/libvirt/host.c api/libvirt/host.h api/libvirt/lifecycle.c \
	api/libvirt/interface.c api/libvirt/interface.h api/libvirt/lists.c api/libvirt/network.c api/libvirt/nic.c api/libvirt/params.c api/libvirt/params.h api/libvirt/lv.h api/libvirt/node.c api/libvirt/packet.c api/libvirt/packet.h \
	api/libvirt/private.h api/libvirt/procedures.c api/libvirt/server.c api/libvirt/stats.c api/libvirt/storage.c api/libvirt/stream.c api/libvirt/vcpus.c api/libvirt/xdr.c \
	api/libvirt/share.c api/libvirt/share.h api/libvirt/sysinfo.c api/libvirt/sysinfo.h api/libvirt/xdr.h api/libvirt/xml.c api/libvirt/xml.h api/libvirt/xml_edit.c api/libvirt/xml_format.c api/libvirt/xml_parse.c
liblv_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(LIBXML_CFLAGS) $(LIBVIRT_CFLAGS)

liblv_a_SOURCES += api/libvirt/screen.c api/libvirt/screen.h

bin_PROGRAMS += trictl
trictl_SOURCES = \
	api/cli/cloud.c api/cli/image.c \
	api/cli/bridge.c api/cli/cli.h api/cli/client.c api/cli/client.h api/cli/console.c api/cli/inspect.c api/cli/main.c api/cli/policy.c api/cli/private_daemon.c api/cli/render.c api/cli/render_policy.c \
	api/cli/media.c \
	api/cli/share.c api/cli/guest.c \
	api/cli/nic.c api/cli/run.c api/cli/screen.c api/cli/terminal.c api/cli/terminal.h daemon/settings.c daemon/log.c
trictl_CPPFLAGS = $(AM_CPPFLAGS) -DSBINDIR='"$(sbindir)"'
trictl_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS)
trictl_LDADD = $(PROTO_LIBS) -lm
