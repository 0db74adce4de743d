# Files of seed/: the disc that configures a cloud's image.
libexec_PROGRAMS += trivisor-seed
trivisor_seed_SOURCES = seed/main.c
trivisor_seed_CFLAGS = $(AM_CFLAGS) $(ARCHIVE_CFLAGS)
trivisor_seed_LDADD = $(ARCHIVE_LIBS)
