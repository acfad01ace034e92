/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames of a PV domain on their way out and in (XENMEM_exchange), linked
 * through their struct page_info so that an exchange of any size needs no memory.
 */
#include <xen/errno.h>
#include <xen/mm.h>
#include <asm/p2m.h>
#include <xen-rs.h>

/* The domain dies, and @pages that were counted to it are gone. */
static void uncount(struct domain *d, unsigned long pages)
{
    bool drop;

    nrspin_lock(&d->page_alloc_lock);
    drop = pages && !domain_adjust_tot_pages(d, -pages);
    nrspin_unlock(&d->page_alloc_lock);

    if ( drop )
        put_domain(d);
}

int xrs_pv_steal(struct domain *d, struct xrs_pv *x, unsigned long mfn)
{
    struct page_info *pg;
    int rc;

    BUILD_BUG_ON(sizeof(*x) != 4 * sizeof(void *));

    if ( !mfn_valid(_mfn(mfn)) )
        return -EINVAL;

    pg = mfn_to_page(_mfn(mfn));
    rc = steal_page(d, pg, MEMF_no_refcount);
    if ( !rc )
        page_list_add(pg, &x->stolen);

    return rc;
}

/* Nothing was exchanged: what was stolen is the domain's again. */
void xrs_pv_restore(struct domain *d, struct xrs_pv *x)
{
    struct page_info *pg;
    unsigned long lost = 0;

    while ( (pg = page_list_remove_head(&x->stolen)) )
        if ( assign_pages(pg, 1, d, MEMF_no_refcount) )
        {
            free_stolen_domheap_page(d, pg);
            lost++;
        }

    uncount(d, lost);
}

/*
 * What was stolen goes to the heap. No type and no reference leads to it any
 * more, but TLBs may: so it goes as a page of @d's, and the heap has them
 * flushed before anybody gets it.
 */
void xrs_pv_release(struct domain *d, struct xrs_pv *x)
{
    struct page_info *pg;

    while ( (pg = page_list_remove_head(&x->stolen)) )
        free_stolen_domheap_page(d, pg);
}

bool xrs_pv_alloc(struct domain *d, struct xrs_pv *x, unsigned int order,
                  unsigned int memflags)
{
    struct page_info *pg = alloc_domheap_pages(d, order,
                                               memflags | MEMF_no_owner);

    if ( pg )
        page_list_add_tail(pg, &x->fresh);

    return pg;
}

/* Nobody has got what was allocated. */
void xrs_pv_free(struct xrs_pv *x, unsigned int order)
{
    struct page_info *pg;

    while ( (pg = page_list_remove_head(&x->fresh)) )
        free_domheap_pages(pg, order);
}

/* The block after the one at @mfn; INVALID_MFN: before the first, or none. */
unsigned long xrs_pv_next(const struct xrs_pv *x, unsigned long mfn)
{
    struct page_info *pg;

    if ( mfn_eq(_mfn(mfn), INVALID_MFN) )
        pg = page_list_first(&x->fresh);
    else
        pg = page_list_next(mfn_to_page(_mfn(mfn)), &x->fresh);

    return mfn_x(pg ? page_to_mfn(pg) : INVALID_MFN);
}

/* The same; the M2P has @gpfn for its first page from now on. */
unsigned long xrs_pv_name_next(const struct xrs_pv *x, unsigned long mfn,
                               unsigned long gpfn)
{
    unsigned long next = xrs_pv_next(x, mfn);

    if ( !mfn_eq(_mfn(next), INVALID_MFN) )
        set_gpfn_from_mfn(next, gpfn);

    return next;
}

/*
 * The first block becomes the domain's, at the gpfn that the M2P has for its
 * first page. -ESRCH: the domain is dying, and the block stays where it was.
 * Any other error: the block is the domain's, but its IOMMU does not map it.
 */
int xrs_pv_assign(struct domain *d, struct xrs_pv *x, unsigned int order)
{
    struct page_info *pg = page_list_remove_head(&x->fresh);
    unsigned long mfn, gpfn, i;
    int rc;

    if ( !pg )
        return 0;

    if ( assign_pages(pg, 1U << order, d, MEMF_no_refcount) )
    {
        page_list_add(pg, &x->fresh);
        return -ESRCH;
    }

    mfn = mfn_x(page_to_mfn(pg));
    gpfn = get_gpfn_from_mfn(mfn);
    rc = guest_physmap_add_page(d, _gfn(gpfn), _mfn(mfn), order);
    if ( rc )
        for ( i = 0; i < (1UL << order); i++ )
            set_gpfn_from_mfn(mfn + i, gpfn + i);

    return rc;
}

/* The domain died when @pages of what was stolen had not been replaced. */
void xrs_pv_died(struct domain *d, struct xrs_pv *x, unsigned long pages)
{
    xrs_pv_release(d, x);
    uncount(d, pages);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
