/* SPDX-License-Identifier: GPL-2.0-only */
/* The few formats of inttypes.h that printk() users need. */
#ifndef XTF_INTTYPES_H
#define XTF_INTTYPES_H

#include <stdint.h>

#ifdef __x86_64__
# define XTF_PRI64 "l"
#else
# define XTF_PRI64 "ll"
#endif

#define PRId32 "d"
#define PRIi32 "i"
#define PRIu32 "u"
#define PRIx32 "x"
#define PRId64 XTF_PRI64 "d"
#define PRIi64 XTF_PRI64 "i"
#define PRIu64 XTF_PRI64 "u"
#define PRIx64 XTF_PRI64 "x"

#endif /* XTF_INTTYPES_H */
