/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_LIB_H
#define XTF_X86_LIB_H

#include <xtf/types.h>

static inline void cpuid_count(uint32_t leaf, uint32_t subleaf,
                               uint32_t *eax, uint32_t *ebx,
                               uint32_t *ecx, uint32_t *edx)
{
    __asm__ __volatile__ ( "cpuid"
                           : "=a" (*eax), "=b" (*ebx), "=c" (*ecx), "=d" (*edx)
                           : "a" (leaf), "c" (subleaf) );
}

static inline void cpuid(uint32_t leaf, uint32_t *eax, uint32_t *ebx,
                         uint32_t *ecx, uint32_t *edx)
{
    cpuid_count(leaf, 0, eax, ebx, ecx, edx);
}

static inline void wrmsr(uint32_t idx, uint64_t val)
{
    __asm__ __volatile__ ( "wrmsr"
                           :: "c" (idx), "a" ((uint32_t)val),
                              "d" ((uint32_t)(val >> 32)) : "memory" );
}

static inline unsigned long read_cr2(void)
{
    unsigned long val;

    __asm__ __volatile__ ( "mov %%cr2, %0" : "=r" (val) );

    return val;
}

static inline unsigned long read_cr3(void)
{
    unsigned long val;

    __asm__ __volatile__ ( "mov %%cr3, %0" : "=r" (val) );

    return val;
}

static inline void write_cr3(unsigned long val)
{
    __asm__ __volatile__ ( "mov %0, %%cr3" :: "r" (val) : "memory" );
}

#endif /* XTF_X86_LIB_H */
