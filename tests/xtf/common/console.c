/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/console.h>
#include <xtf/lib.h>
#include <xtf/libc.h>

static cons_output_cb outputs[2];
static unsigned int nr_outputs;

void register_console_callback(cons_output_cb cb)
{
    if ( nr_outputs < ARRAY_SIZE(outputs) )
        outputs[nr_outputs++] = cb;
}

void vprintk(const char *fmt, va_list args)
{
    static char buf[1024];
    unsigned int i;
    int len = vsnprintf(buf, sizeof(buf), fmt, args);

    if ( len < 0 )
        return;

    if ( len >= (int)sizeof(buf) )
        len = sizeof(buf) - 1;

    for ( i = 0; i < nr_outputs; i++ )
        outputs[i](buf, len);
}

void printk(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vprintk(fmt, args);
    va_end(args);
}
