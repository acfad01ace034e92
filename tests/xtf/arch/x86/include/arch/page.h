/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_PAGE_H
#define XTF_X86_PAGE_H

#include <xtf/numbers.h>

#define PAGE_SHIFT    12
#define PAGE_SIZE     (_AC(1, L) << PAGE_SHIFT)
#define PAGE_MASK     (~(PAGE_SIZE - 1))

#define PAGE_ORDER_4K 0
#define PAGE_ORDER_2M 9
#define PAGE_ORDER_1G 18

#define L1_PT_SHIFT   12
#define L2_PT_SHIFT   21
#define L3_PT_SHIFT   30
#define L4_PT_SHIFT   39
#define L1_PT_ENTRIES 512
#define L2_PT_ENTRIES 512
#define L3_PT_ENTRIES 512
#define L4_PT_ENTRIES 512

#define _PAGE_PRESENT  0x001
#define _PAGE_RW       0x002
#define _PAGE_USER     0x004
#define _PAGE_ACCESSED 0x020
#define _PAGE_DIRTY    0x040
#define _PAGE_AD       (_PAGE_ACCESSED | _PAGE_DIRTY)
#define _PAGE_PSE      0x080

#ifndef __ASSEMBLY__

#include <xtf/types.h>

typedef uint64_t paddr_t;
typedef uint64_t intpte_t;

/* The live tables: 4 GiB from 0, 2M pages but for the first 2M. */
extern intpte_t l1_identmap[L1_PT_ENTRIES];
extern intpte_t l2_identmap[4 * L2_PT_ENTRIES];

#endif /* !__ASSEMBLY__ */

#endif /* XTF_X86_PAGE_H */
