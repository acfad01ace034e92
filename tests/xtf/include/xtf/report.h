/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a test tells its result.  From mild to severe: success, skip (could not
 * be checked here), error (the test or its surroundings are at fault), failure
 * (what is tested is at fault).  The most severe one reported is the result; a
 * warning changes no result, but is mentioned beside a success.
 *
 * Each takes a message to print, or NULL.
 */
#ifndef XTF_REPORT_H
#define XTF_REPORT_H

#include <xtf/compiler.h>
#include <xtf/types.h>

void xtf_success(const char *fmt, ...) __printf(1, 2);
void xtf_warning(const char *fmt, ...) __printf(1, 2);
void xtf_skip(const char *fmt, ...) __printf(1, 2);
void xtf_error(const char *fmt, ...) __printf(1, 2);
void xtf_failure(const char *fmt, ...) __printf(1, 2);

/* Print the "Test result:" line.  No report at all is an error. */
void xtf_report_status(void);

bool xtf_status_reported(void);

/* Print the result and power off. */
void __noreturn xtf_exit(void);

#endif /* XTF_REPORT_H */
