/* SPDX-License-Identifier: GPL-2.0-only */
/* The console ring that a domain shares with the console daemon. */
#ifndef XEN_PUBLIC_IO_CONSOLE_H
#define XEN_PUBLIC_IO_CONSOLE_H

#include <xtf/types.h>

struct xencons_interface {
    char in[1024];
    char out[2048];
    uint32_t in_cons, in_prod;
    uint32_t out_cons, out_prod;
};
typedef struct xencons_interface xencons_interface_t;

#endif /* XEN_PUBLIC_IO_CONSOLE_H */
