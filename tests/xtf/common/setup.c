/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/framework.h>
#include <xtf/hypercall.h>
#include <xtf/lib.h>
#include <xtf/report.h>
#include <xtf/test.h>

void xtf_main(void)
{
    arch_setup();

    printk("--- Xen Test Framework ---\n");
    printk("Environment: %s\n", environment_description);
    printk("%s\n", test_title);

    test_main();

    xtf_exit();
}

void panic(const char *fmt, ...)
{
    static bool panicking;
    va_list args;

    if ( !panicking )
    {
        panicking = true;

        printk("PANIC: ");
        va_start(args, fmt);
        vprintk(fmt, args);
        va_end(args);

        xtf_error(NULL);
        xtf_report_status();
    }

    hypercall_shutdown(SHUTDOWN_crash);
    arch_crash_hard();
}

int xtf_get_domid(void)
{
    return arch_get_domid();
}
