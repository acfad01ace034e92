/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/console.h>
#include <xtf/lib.h>

#include <arch/lib.h>
#include <arch/mm.h>
#include <arch/traps.h>

#define _PAGE_TABLE (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_AD)
#define _PAGE_LEAF  (_PAGE_PRESENT | _PAGE_RW | _PAGE_AD)

#define BOOT_MAPPED GB(4)

extern intpte_t l3_identmap[L3_PT_ENTRIES];

/* Tables for RAM above 4 GiB: one GiB each. */
static intpte_t l2_high[64][L2_PT_ENTRIES] __page_aligned_bss;

const struct xen_hvm_memmap_table_entry *pvh_memmap(unsigned int *nr_entries)
{
    *nr_entries = 0;

    if ( !pvh_start_info || pvh_start_info->version < 1 ||
         !pvh_start_info->memmap_paddr )
        return NULL;

    *nr_entries = pvh_start_info->memmap_entries;

    return _p(pvh_start_info->memmap_paddr);
}

void init_pagetables(void)
{
    unsigned int i, nr, used = 0;
    const struct xen_hvm_memmap_table_entry *map = pvh_memmap(&nr);

    for ( i = 0; i < nr; i++ )
    {
        uint64_t addr = map[i].addr & ~(MB(2) - 1);
        uint64_t end = map[i].addr + map[i].size;

        if ( map[i].type != XEN_HVM_MEMMAP_TYPE_RAM )
            continue;

        for ( addr = max(addr, BOOT_MAPPED); addr < end; addr += MB(2) )
        {
            unsigned long l3 = addr >> L3_PT_SHIFT;
            intpte_t *l2;

            if ( l3 >= L3_PT_ENTRIES ||
                 (!l3_identmap[l3] && used == ARRAY_SIZE(l2_high)) )
            {
                printk("Warning: RAM from %#" PRIx64 " on is left unmapped\n",
                       addr);
                return;
            }

            if ( !l3_identmap[l3] )
                l3_identmap[l3] = _u(l2_high[used++]) + _PAGE_TABLE;

            l2 = _p(l3_identmap[l3] & PAGE_MASK);
            l2[(addr >> L2_PT_SHIFT) % L2_PT_ENTRIES] =
                addr + _PAGE_LEAF + _PAGE_PSE;
        }
    }

    /* Nothing was mapped before, so that no flush is needed. */
}
