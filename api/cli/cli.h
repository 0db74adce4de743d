/* trictl's commands. */
#ifndef API_CLI_CLI_H
#define API_CLI_CLI_H

#include "api/cli/client.h"

#include <stdio.h>

struct cli {
	const char *socket; /* given, or NULL: the default */
	bool json;
	struct client client;
};

/* Each gets its own name as argv[0]. An exit status. */
int command_run(struct cli *cli, int argc, char **argv);
int command_nic(struct cli *cli, int argc, char **argv);
int command_console(struct cli *cli, int argc, char **argv);
int command_guest(struct cli *cli, int argc, char **argv);
int command_balloon(struct cli *cli, int argc, char **argv);
int command_image(struct cli *cli, int argc, char **argv);
int command_net(struct cli *cli, int argc, char **argv);
int command_media(struct cli *cli, int argc, char **argv);
int command_eject(struct cli *cli, int argc, char **argv);
int command_vsock(struct cli *cli, int argc, char **argv);
int command_regs(struct cli *cli, int argc, char **argv);
int command_gdb(struct cli *cli, int argc, char **argv);
int command_disassemble(struct cli *cli, int argc, char **argv);
int command_hot_blocks(struct cli *cli, int argc, char **argv);
int command_send_key(struct cli *cli, int argc, char **argv);
int command_send_text(struct cli *cli, int argc, char **argv);
int command_screenshot(struct cli *cli, int argc, char **argv);
int command_perf_map(struct cli *cli, int argc, char **argv);

/* Connects, or says why not. 0 or an exit status. */
int cli_connect(struct cli *cli);
/* The socket to use, into path. 0 or -errno. */
int cli_socket(const struct cli *cli, char *path, size_t size);
/*
 * The next option of a command: as getopt_long(3), but --socket, --json and --help are dealt with here. 'h' was help
 * (print usage and leave), '?' an error that was reported.
 */
struct option;
int cli_option(struct cli *cli, int argc, char **argv, const struct option *options);

/*
 * Options of a command that has none of its own, and between min and max arguments (from argv[optind]). 0, or -1 and
 * *ret_status is what to leave with.
 */
int cli_arguments(struct cli *cli, int argc, char **argv, int min, int max, int *ret_status);
/* Connects, calls, and hands the result over for the caller to put. 0 or an exit status. Takes params (NULL: none). */
int cli_ask(struct cli *cli, const char *method, json_object *params, json_object **ret_result);
/* A command that is one call without parameters. */
int cli_simple(struct cli *cli, int argc, char **argv, const char *method, void (*show)(json_object *result));
json_object *cli_vm_params(const char *vm);
/* A file's JSON, or standard input's for "-". NULL: reported. */
json_object *cli_read_json(const char *path);
/* How to use the command of this name, on standard error. */
void cli_usage(const char *name);

/* ---- policy.c: commands about hosts, modes and the policy ---- */

int command_host(struct cli *cli, int argc, char **argv);
int command_calibrate(struct cli *cli, int argc, char **argv);
int command_compare(struct cli *cli, int argc, char **argv);
int command_explain(struct cli *cli, int argc, char **argv);
int command_history(struct cli *cli, int argc, char **argv);
int command_fleet(struct cli *cli, int argc, char **argv);

/* A running VM's console (its socket's path) on this terminal until its end or the escape key. An exit status. */
struct terminal_wish;
int cli_attach(struct cli *cli, const char *vm, const char *console, const struct terminal_wish *wish);
/* Adds what --nic says to a definition; `text` is cut up. 0, or -1 and it was reported. */
int cli_add_nic(json_object *definition, char *text);
/* The same for --display. */
int cli_add_display(json_object *definition, char *text);
/* The same of --vsock and --share. */
int cli_add_share(json_object *definition, char *text);
int cli_add_vsock(json_object *definition, char *text);
/* Adds what --cloud-init and --smbios say; `text` is cut up. 0, or -1 and it was reported. */
int cli_add_cloud_init(json_object *definition, char *text);
int cli_add_smbios(json_object *definition, char *text);
/* An absolute path of the same file, malloc'd; NULL when out of memory. The file need not exist. */
char *cli_absolute(const char *path);
/* "512M", "2G", "1024" (MiB) to MiB; 0 when it is none of that. */
unsigned cli_memory_mib(const char *text);

/* ---- render.c: JSON to text for people ---- */

void render_json(json_object *value);
struct column {
	const char *title;
	const char *key;
};
/* An array of objects as a table; nothing but the titles when it is empty. */
void render_table(json_object *rows, const struct column *columns, size_t count);
/* An object's members as "key: value" lines, nested ones indented. */
void render_object(json_object *object, unsigned indent);
/* One of them. */
void render_value(const char *key, json_object *value, unsigned indent);
void render_event(json_object *event);
/* A value in one line; "-" for none. What a guest or a file named may hold control characters: they are shown as '?'.
 * Returns buffer or a constant. */
const char *render_plain(json_object *value, char *buffer, size_t size);
/* NULL when there is none, or it is null. */
json_object *render_member(json_object *object, const char *key);
/* Text wrapped to the width left of an indentation; the first line goes on where the cursor is. */
void render_wrap(const char *text, unsigned indent, unsigned width);
/* The terminal's columns, from 72 to 120; 100 where there is no terminal. */
unsigned render_width(void);
/* Seconds since the epoch, as local time. */
void render_time(double seconds);

/* ---- render_policy.c: what the policy knows and says ---- */

void render_compare(json_object *rows);
void render_compare_markdown(json_object *rows);
void render_history(json_object *history);
void render_plan(json_object *plan);
void render_decision(json_object *decision);
void render_host(json_object *host);
void render_calibration(json_object *calibration);

#endif
