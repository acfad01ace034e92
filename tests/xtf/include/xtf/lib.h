/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_LIB_H
#define XTF_LIB_H

#include <xtf/compiler.h>
#include <xtf/console.h>
#include <xtf/types.h>

#define ARRAY_SIZE(a)     (sizeof(a) / sizeof((a)[0]))
#define ACCESS_ONCE(x)    (*(volatile typeof(x) *)&(x))
#define ROUNDUP(x, a)     (((x) + (a) - 1) & ~((typeof(x))(a) - 1))
#define BUILD_BUG_ON(c)   _Static_assert(!(c), "!(" #c ")")

#define min(x, y) ({ typeof(x) x_ = (x); typeof(y) y_ = (y); \
                     x_ < y_ ? x_ : y_; })
#define max(x, y) ({ typeof(x) x_ = (x); typeof(y) y_ = (y); \
                     x_ > y_ ? x_ : y_; })

/* Print, report an error, print the result, and crash the domain. */
void __noreturn panic(const char *fmt, ...) __printf(1, 2);

#define ASSERT(c)                                                   \
    do {                                                            \
        if ( !(c) )                                                 \
            panic("ASSERT(%s) failed at %s:%u\n",                   \
                  #c, __FILE__, __LINE__);                          \
    } while ( 0 )

/* The domain's own id, or -1. */
int xtf_get_domid(void);

#endif /* XTF_LIB_H */
