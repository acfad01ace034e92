/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_BARRIER_H
#define XTF_X86_BARRIER_H

#include <xtf/compiler.h>

#define mb()      __asm__ __volatile__ ( "mfence" ::: "memory" )
#define rmb()     __asm__ __volatile__ ( "lfence" ::: "memory" )
#define wmb()     __asm__ __volatile__ ( "sfence" ::: "memory" )

/* x86 keeps loads in order with loads, and stores with stores. */
#define smp_mb()  mb()
#define smp_rmb() barrier()
#define smp_wmb() barrier()

#endif /* XTF_X86_BARRIER_H */
