# The decoder, as a library of its own: its tests link it without the engine.
BT_DECODE_SOURCES = modes/bt/decode.c modes/bt/decode.h modes/bt/decode_table.c modes/bt/decode_table.h \
	modes/bt/handlers.def modes/bt/opcodes.def
noinst_LIBRARIES += libbtdecode.a
libbtdecode_a_SOURCES = $(BT_DECODE_SOURCES)
