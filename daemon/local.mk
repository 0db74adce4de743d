# Files of daemon/: trivisord.
noinst_LIBRARIES += libdaemon.a
libdaemon_a_SOURCES = \
	daemon/console.c \
	daemon/devices.c \
	daemon/adopt.c daemon/calibrate.c daemon/daemon.c daemon/daemon.h daemon/events.c daemon/guest.c daemon/learning.c daemon/log.c daemon/log.h daemon/networks.c daemon/networks.h daemon/nics.c daemon/operations.c \
	daemon/images.c daemon/images.h \
	daemon/plan.c daemon/pools.c daemon/pools.h daemon/private.h daemon/registry.c daemon/settings.c daemon/settings.h daemon/store.c daemon/store.h \
	daemon/supervisor.c daemon/vmdir.c daemon/vmlink.c daemon/vmlink.h
libdaemon_a_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(SQLITE_CFLAGS)

sbin_PROGRAMS += trivisord
trivisord_SOURCES = daemon/main.c
trivisord_CPPFLAGS = $(AM_CPPFLAGS) -DLIBEXECDIR='"$(libexecdir)"'
trivisord_CFLAGS = $(AM_CFLAGS) $(JSONC_CFLAGS) $(LIBEVENT_CFLAGS) $(SYSTEMD_CFLAGS)
trivisord_LDADD = $(DAEMON_LIBS) $(SYSTEMD_LIBS)
# Whoever links the daemon adds these behind it.
DAEMON_LIBS = liblv.a libjsonrpc.a libdaemon.a libpolicy.a $(PROTO_LIBS) $(UNPACK_LIBS) $(SQLITE_LIBS) $(LIBXML_LIBS) -lm

systemdsystemunit_DATA = daemon/trivisord.service
daemon/trivisord.service: $(top_srcdir)/daemon/trivisord.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) daemon && sed -e 's|@sbindir[@]|$(sbindir)|g' $(top_srcdir)/daemon/trivisord.service.in > $@.tmp && mv $@.tmp $@
CLEANFILES += daemon/trivisord.service
EXTRA_DIST += daemon/trivisord.service.in daemon/trivisord.conf

dist_man_MANS += docs/trivisord.8 docs/trictl.1
EXTRA_DIST += docs/networks.md docs/sharing.md docs/api.md docs/libvirt.md docs/policy.md
