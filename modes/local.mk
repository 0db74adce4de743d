# Files of modes/: the list of engines. Each engine is a library of its own.
noinst_LIBRARIES += libmodes.a
libmodes_a_SOURCES = modes/mode.c modes/mode.h
