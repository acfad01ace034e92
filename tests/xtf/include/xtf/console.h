/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_CONSOLE_H
#define XTF_CONSOLE_H

#include <xtf/compiler.h>
#include <xtf/types.h>

typedef void (*cons_output_cb)(const char *buf, size_t len);

/* Add a place that console text goes to.  There may be several. */
void register_console_callback(cons_output_cb cb);

/* One call is handed on as one piece of text, cut at 1023 characters. */
void vprintk(const char *fmt, va_list args) __printf(1, 0);
void printk(const char *fmt, ...) __printf(1, 2);

#endif /* XTF_CONSOLE_H */
