/* Where things live by default, for root and for a plain user. */
#ifndef PROTO_PATHS_H
#define PROTO_PATHS_H

#include <stddef.h>

/*
 * Root: /run/trivisor and /var/lib/trivisor. A plain user: $XDG_RUNTIME_DIR/trivisor (else /tmp/trivisor-UID) and
 * $XDG_STATE_HOME/trivisor (else ~/.local/state/trivisor). 0, or -ENAMETOOLONG, or -ENOENT when there is no home.
 */
int paths_runtime_dir(char *ret_path, size_t bytes);
int paths_state_dir(char *ret_path, size_t bytes);
/* The JSON-RPC socket: the runtime directory's api.sock. */
int paths_api_socket(char *ret_path, size_t bytes);
/* `dir`/`name`. 0 or -ENAMETOOLONG. */
int paths_join(char *ret_path, size_t bytes, const char *dir, const char *name);

#endif
