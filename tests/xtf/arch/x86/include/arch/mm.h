/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_MM_H
#define XTF_X86_MM_H

#include <xtf/types.h>
#include <arch/page.h>

/*
 * Memory is mapped where it is: a virtual address is the guest physical one.
 * Page 0 is left out, to catch NULL pointers.
 */
static inline void *gfn_to_virt(unsigned long gfn)
{
    return (void *)(gfn << PAGE_SHIFT);
}

static inline unsigned long virt_to_gfn(const void *va)
{
    return (unsigned long)va >> PAGE_SHIFT;
}

static inline void *pfn_to_virt(unsigned long pfn)
{
    return gfn_to_virt(pfn);
}

static inline unsigned long virt_to_pfn(const void *va)
{
    return virt_to_gfn(va);
}

/* The start info's memory map.  Not in XTF: for this runtime only. */
struct xen_hvm_memmap_table_entry;
const struct xen_hvm_memmap_table_entry *
    pvh_memmap(unsigned int *nr_entries);

/* Map all RAM of the memory map that the boot page tables leave out. */
void init_pagetables(void);

#ifdef CONFIG_PV

/* The machine frame that the domain was built with. */
unsigned long pfn_to_mfn(unsigned long pfn);

static inline unsigned long virt_to_mfn(const void *va)
{
    return pfn_to_mfn(virt_to_pfn(va));
}

/* Map a machine frame (~0UL: none) at a page of the image.  0 or -errno. */
int pv_map(void *va, unsigned long mfn, unsigned int flags);

#endif /* CONFIG_PV */

#endif /* XTF_X86_MM_H */
