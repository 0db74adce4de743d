/* The daemon's log: stderr, with journald's priority prefixes where systemd reads it. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_NOTICE, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Chooses the line format once: "<6>text" when stderr is the journal (JOURNAL_STREAM), else time, level and text. */
void log_init(void);
void log_set_level(enum log_level level);
/* "error", "warning", "notice", "info" or "debug" to a level; -1 when it is none of them. */
int log_level_parse(const char *name);

/* One line, no trailing newline needed. Control characters are escaped, so a guest or a client cannot forge lines. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
