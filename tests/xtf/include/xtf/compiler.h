/* SPDX-License-Identifier: GPL-2.0-only */
/* Short names for the compiler attributes in use. */
#ifndef XTF_COMPILER_H
#define XTF_COMPILER_H

#define __aligned(n)        __attribute__((__aligned__(n)))
#define __packed            __attribute__((__packed__))
#define __section(s)        __attribute__((__section__(s)))
#define __used              __attribute__((__used__))
#define __maybe_unused      __attribute__((__unused__))
#define __weak              __attribute__((__weak__))
#define __noreturn          __attribute__((__noreturn__))
#define __noinline          __attribute__((__noinline__))
#define __always_inline     __attribute__((__always_inline__)) inline
#define __printf(f, a)      __attribute__((__format__(__printf__, f, a)))

#define __page_aligned_data __section(".data.page_aligned") __aligned(4096)
#define __page_aligned_bss  __section(".bss.page_aligned") __aligned(4096)

#define unreachable()       __builtin_unreachable()
#define barrier()           __asm__ __volatile__ ( "" ::: "memory" )

#endif /* XTF_COMPILER_H */
