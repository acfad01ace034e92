/* SPDX-License-Identifier: GPL-2.0-only */
/* The bits of a C library that freestanding code, or the compiler itself, calls. */
#ifndef XTF_LIBC_H
#define XTF_LIBC_H

#include <xtf/compiler.h>
#include <xtf/types.h>

void *memset(void *dst, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);

size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);

/*
 * C99 semantics for what is supported: flags '-' and '0', width and precision
 * (numbers or '*'), length h, hh, l, ll and z, conversions d i u x X c s p %.
 */
int vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
    __printf(3, 0);
int snprintf(char *buf, size_t size, const char *fmt, ...) __printf(3, 4);

#endif /* XTF_LIBC_H */
