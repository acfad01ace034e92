/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/hypercall.h>
#include <xtf/lib.h>
#include <xtf/report.h>

/* In the order of severity. */
enum status { NONE, SUCCESS, SKIP, ERROR, FAILURE };

static const char *const status_names[] = {
    [NONE] = "NONE",
    [SUCCESS] = "SUCCESS",
    [SKIP] = "SKIP",
    [ERROR] = "ERROR",
    [FAILURE] = "FAILURE",
};

static enum status current_status;
static bool warned;

static void report(enum status s, const char *fmt, va_list args) __printf(2, 0);

static void report(enum status s, const char *fmt, va_list args)
{
    if ( current_status < s )
        current_status = s;

    if ( fmt )
        vprintk(fmt, args);
}

#define REPORTER(name, status)          \
    void name(const char *fmt, ...)     \
    {                                   \
        va_list args;                   \
                                        \
        va_start(args, fmt);            \
        report(status, fmt, args);      \
        va_end(args);                   \
    }

REPORTER(xtf_success, SUCCESS)
REPORTER(xtf_skip, SKIP)
REPORTER(xtf_error, ERROR)
REPORTER(xtf_failure, FAILURE)

void xtf_warning(const char *fmt, ...)
{
    va_list args;

    warned = true;

    va_start(args, fmt);
    report(NONE, fmt, args);
    va_end(args);
}

bool xtf_status_reported(void)
{
    return current_status != NONE;
}

void xtf_report_status(void)
{
    if ( current_status == NONE )
        xtf_error("The test ended without a result\n");

    printk("Test result: %s%s\n", status_names[current_status],
           warned && current_status == SUCCESS ? " with warnings" : "");
}

void xtf_exit(void)
{
    xtf_report_status();
    hypercall_shutdown(SHUTDOWN_poweroff);
    panic("The shutdown hypercall returned\n");
}
