/* SPDX-License-Identifier: GPL-2.0-only */
/* Single frames: struct page_info, the M2P, contents. */
#include <xen/domain_page.h>
#include <xen/mm.h>
#include <xen-rs.h>

struct page_info *xrs_page(unsigned long mfn)
{
    return mfn_valid(_mfn(mfn)) ? mfn_to_page(_mfn(mfn)) : NULL;
}

/* The page at @mfn, if it is @d's and the M2P has @gfn for it; or NULL. */
struct page_info *xrs_page_of(const struct domain *d, unsigned long mfn,
                              unsigned long gfn)
{
    struct page_info *pg = xrs_page(mfn);

    return pg && page_get_owner(pg) == d && get_gpfn_from_mfn(mfn) == gfn
           ? pg : NULL;
}

/* There are no frames from this one on. */
unsigned long xrs_page_end(void)
{
    return max_page;
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

/* Nothing but its reference count could keep a page from being frozen. */
static bool is_plain(const struct domain *d, const struct coalesce_pair *page,
                     const struct page_info *pg)
{
    return page_get_owner(pg) == d &&
           get_gpfn_from_mfn(page->mfn) == page->gfn &&
           !(pg->u.inuse.type_info & PGT_count_mask);
}

/* As P2mGuard::freeze() in src/domain.rs does it; up to the first that fails. */
unsigned int xrs_page_freeze_all(const struct domain *d,
                                 const struct coalesce_pair *pages,
                                 unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        struct page_info *pg = mfn_to_page(_mfn(pages[i].mfn));

        if ( !is_plain(d, &pages[i], pg) ||
             cmpxchg(&pg->count_info, PGC_allocated | 1, 0) !=
             (PGC_allocated | 1) )
            break;
    }

    return i;
}

/* How many could be frozen now, up to the first that could not. */
unsigned int xrs_page_movable(const struct domain *d,
                              const struct coalesce_pair *pages,
                              unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        const struct page_info *pg = mfn_to_page(_mfn(pages[i].mfn));

        if ( !is_plain(d, &pages[i], pg) ||
             pg->count_info != (PGC_allocated | 1) )
            break;
    }

    return i;
}

void xrs_page_write_m2p(const struct coalesce_pair *pages, unsigned int nr)
{
    for ( ; nr; nr--, pages++ )
        set_gpfn_from_mfn(pages->mfn, pages->gfn);
}

void xrs_page_clear_m2p(const struct coalesce_pair *pages, unsigned int nr)
{
    for ( ; nr; nr--, pages++ )
        set_gpfn_from_mfn(pages->mfn, INVALID_M2P_ENTRY);
}

void xrs_page_copy(unsigned long to, unsigned long from)
{
#ifdef NDEBUG
    /* What mapping and unmapping them would come to. */
    if ( arch_mfns_in_directmap(to, 1) && arch_mfns_in_directmap(from, 1) )
        copy_page(mfn_to_virt(to), mfn_to_virt(from));
    else
#endif
    copy_domain_page(_mfn(to), _mfn(from));
}

/* Each to the place of its gfn in the 2M that begin at @home. */
void xrs_page_copy_to_places(unsigned long home,
                             const struct coalesce_pair *pages,
                             unsigned int nr)
{
    for ( ; nr; nr--, pages++ )
        xrs_page_copy(home + (pages->gfn & (L1_PAGETABLE_ENTRIES - 1)),
                      pages->mfn);
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
