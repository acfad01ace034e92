/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fixed-width types.  All but inttypes.h come with the compiler: nothing of
 * the host's C library is in reach (-nostdinc).
 */
#ifndef XTF_TYPES_H
#define XTF_TYPES_H

#ifndef __ASSEMBLY__
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <inttypes.h>
#endif

#endif /* XTF_TYPES_H */
