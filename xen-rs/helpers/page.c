/* SPDX-License-Identifier: GPL-2.0-only */
/* Single frames: struct page_info, the M2P, contents. */
#include <xen/domain_page.h>
#include <xen/mm.h>
#include <xen-rs.h>

struct page_info *xrs_page(unsigned long mfn)
{
    return mfn_valid(_mfn(mfn)) ? mfn_to_page(_mfn(mfn)) : NULL;
}

const struct domain *xrs_page_owner(const struct page_info *pg)
{
    return page_get_owner(pg);
}

void xrs_page_put(struct page_info *pg)
{
    put_page(pg);
}

void xrs_page_put_alloc_ref(struct page_info *pg)
{
    put_page_alloc_ref(pg);
}

unsigned long xrs_page_m2p(unsigned long mfn)
{
    return mfn_valid(_mfn(mfn)) ? get_gpfn_from_mfn(mfn) : INVALID_M2P_ENTRY;
}

void xrs_page_set_m2p(unsigned long mfn, unsigned long gfn)
{
    if ( mfn_valid(_mfn(mfn)) )
        set_gpfn_from_mfn(mfn, gfn);
}

void xrs_page_copy(unsigned long to, unsigned long from)
{
    copy_domain_page(_mfn(to), _mfn(from));
}

const void *xrs_page_map(unsigned long mfn)
{
    return map_domain_page(_mfn(mfn));
}

void xrs_page_unmap(const void *va)
{
    unmap_domain_page(va);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
