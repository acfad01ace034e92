/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Without vector registers, rep movs/stos are the fastest there is.  The
 * compiler emits calls to the mem*() functions by itself, and must not turn
 * the bodies of these into calls to themselves: hence asm and volatile.
 */
#include <xtf/libc.h>

void *memset(void *dst, int c, size_t n)
{
    void *d = dst;

    __asm__ __volatile__ ( "rep stosb"
                           : "+D" (d), "+c" (n) : "a" (c) : "memory" );

    return dst;
}

void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;

    __asm__ __volatile__ ( "rep movsb"
                           : "+D" (d), "+S" (src), "+c" (n) :: "memory" );

    return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
    char *d = dst;
    const char *s = src;

    if ( d <= s || d >= s + n )
        return memcpy(dst, src, n);

    d += n - 1;
    s += n - 1;
    __asm__ __volatile__ ( "std; rep movsb; cld"
                           : "+D" (d), "+S" (s), "+c" (n) :: "memory" );

    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const volatile unsigned char *x = a, *y = b;

    for ( ; n; n--, x++, y++ )
        if ( *x != *y )
            return *x < *y ? -1 : 1;

    return 0;
}

size_t strnlen(const char *s, size_t max)
{
    const volatile char *p = s;
    size_t n;

    for ( n = 0; n < max && p[n]; n++ )
        ;

    return n;
}

size_t strlen(const char *s)
{
    return strnlen(s, ~(size_t)0);
}

int strncmp(const char *a, const char *b, size_t n)
{
    for ( ; n; n--, a++, b++ )
    {
        unsigned char x = *a, y = *b;

        if ( x != y )
            return x < y ? -1 : 1;

        if ( !x )
            break;
    }

    return 0;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, ~(size_t)0);
}
