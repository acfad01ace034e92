/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers for numbers that C and assembly share. */
#ifndef XTF_NUMBERS_H
#define XTF_NUMBERS_H

/* A constant with a type suffix in C, and the bare number for the assembler. */
#ifdef __ASSEMBLY__
# define _AC(n, suffix) n
#else
# define _AC_PASTE(n, suffix) n ## suffix
# define _AC(n, suffix) _AC_PASTE(n, suffix)
#endif

#define KB(n) (_AC(n, ULL) << 10)
#define MB(n) (_AC(n, ULL) << 20)
#define GB(n) (_AC(n, ULL) << 30)

/* Only for powers of two. */
#define IS_ALIGNED(v, a) (((v) & ((a) - 1)) == 0)

#ifndef __ASSEMBLY__
#define _p(v) ((void *)(unsigned long)(v))
#define _u(v) ((unsigned long)(v))
#endif

#endif /* XTF_NUMBERS_H */
