/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/libc.h>

/* Where text goes; counts on past the end, as C99 wants the full length. */
struct sink {
    char *buf;
    size_t size;
    size_t len;
};

struct spec {
    bool left;
    bool zero;
    bool alt;
    int width;
    int precision;              /* -1: not given */
};

static void put(struct sink *s, char c)
{
    if ( s->len + 1 < s->size )
        s->buf[s->len] = c;
    s->len++;
}

static void pad(struct sink *s, char c, int n)
{
    while ( n-- > 0 )
        put(s, c);
}

static void put_string(struct sink *s, const struct spec *sp, const char *str)
{
    int i, len = strnlen(str, sp->precision < 0 ? INT32_MAX : sp->precision);

    if ( !sp->left )
        pad(s, ' ', sp->width - len);

    for ( i = 0; i < len; i++ )
        put(s, str[i]);

    if ( sp->left )
        pad(s, ' ', sp->width - len);
}

static void put_number(struct sink *s, const struct spec *sp, uint64_t val,
                       bool negative, unsigned int base, bool upper)
{
    const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char tmp[20];
    int nr = 0, zeroes, len;
    bool prefix = sp->alt && base == 16 && val;

    while ( val )
    {
        tmp[nr++] = digits[val % base];
        val /= base;
    }

    zeroes = (sp->precision < 0 ? 1 : sp->precision) - nr;
    if ( zeroes < 0 )
        zeroes = 0;

    len = negative + (prefix ? 2 : 0) + zeroes + nr;

    if ( sp->zero && !sp->left && sp->precision < 0 && sp->width > len )
    {
        zeroes += sp->width - len;
        len = sp->width;
    }

    if ( !sp->left )
        pad(s, ' ', sp->width - len);

    if ( negative )
        put(s, '-');
    if ( prefix )
    {
        put(s, '0');
        put(s, upper ? 'X' : 'x');
    }
    pad(s, '0', zeroes);
    while ( nr )
        put(s, tmp[--nr]);

    if ( sp->left )
        pad(s, ' ', sp->width - len);
}

static int number(const char **fmt)
{
    int val = 0;

    while ( **fmt >= '0' && **fmt <= '9' )
        val = val * 10 + *(*fmt)++ - '0';

    return val;
}

int vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
{
    struct sink s = { buf, size, 0 };

    for ( ; *fmt; fmt++ )
    {
        struct spec sp = { .precision = -1 };
        int length = 0;         /* h: -1, hh: -2, l and z: 1, ll: 2 */

        if ( *fmt != '%' )
        {
            put(&s, *fmt);
            continue;
        }

        for ( fmt++; ; fmt++ )
        {
            if ( *fmt == '-' )
                sp.left = true;
            else if ( *fmt == '0' )
                sp.zero = true;
            else if ( *fmt == '#' )
                sp.alt = true;
            else
                break;
        }

        if ( *fmt == '*' )
        {
            sp.width = va_arg(args, int);
            fmt++;
        }
        else
            sp.width = number(&fmt);

        if ( *fmt == '.' )
        {
            fmt++;
            if ( *fmt == '*' )
            {
                sp.precision = va_arg(args, int);
                fmt++;
            }
            else
                sp.precision = number(&fmt);
        }

        for ( ; *fmt == 'l' || *fmt == 'h' || *fmt == 'z'; fmt++ )
            length += *fmt == 'h' ? -1 : 1;

        switch ( *fmt )
        {
        case 'd':
        case 'i':
        {
            int64_t val = length > 1 ? va_arg(args, long long)
                        : length == 1 ? va_arg(args, long)
                        : va_arg(args, int);

            if ( length == -1 )
                val = (short)val;
            else if ( length == -2 )
                val = (signed char)val;

            put_number(&s, &sp, val < 0 ? -(uint64_t)val : (uint64_t)val,
                       val < 0, 10, false);
            break;
        }

        case 'u':
        case 'x':
        case 'X':
        {
            uint64_t val = length > 1 ? va_arg(args, unsigned long long)
                         : length == 1 ? va_arg(args, unsigned long)
                         : va_arg(args, unsigned int);

            if ( length == -1 )
                val = (unsigned short)val;
            else if ( length == -2 )
                val = (unsigned char)val;

            put_number(&s, &sp, val, false, *fmt == 'u' ? 10 : 16,
                       *fmt == 'X');
            break;
        }

        case 'p':
            sp.precision = 2 * sizeof(void *);
            put_number(&s, &sp, (unsigned long)va_arg(args, void *), false,
                       16, false);
            break;

        case 's':
        {
            const char *str = va_arg(args, const char *);

            put_string(&s, &sp, str ?: "(null)");
            break;
        }

        case 'c':
        {
            char c[2] = { va_arg(args, int) };

            put_string(&s, &sp, c);
            break;
        }

        case '%':
            put(&s, '%');
            break;

        default:                /* -Wformat lets nothing get here */
            if ( !*fmt )
                fmt--;
            break;
        }
    }

    if ( size )
        buf[s.len < size ? s.len : size - 1] = '\0';

    return s.len;
}

int snprintf(char *buf, size_t size, const char *fmt, ...)
{
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(buf, size, fmt, args);
    va_end(args);

    return len;
}
