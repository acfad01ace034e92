/* SPDX-License-Identifier: GPL-2.0-only */
/* The heaps: pages for domains, and Xen's own small pieces of memory. */
#include <xen/errno.h>
#include <xen/mm.h>
#include <xen/numa.h>
#include <xen/xmalloc.h>
#include <xen-rs.h>

/* The first frame of a block that nobody owns, or INVALID_MFN. */
unsigned long xrs_heap_alloc(struct domain *d, unsigned int order,
                             unsigned int memflags)
{
    struct page_info *pg = alloc_domheap_pages(d, order,
                                               memflags | MEMF_no_owner);

    return mfn_x(pg ? page_to_mfn(pg) : INVALID_MFN);
}

/* The same for one frame of the caller's choice. */
unsigned long xrs_heap_alloc_at(struct domain *d, unsigned long mfn,
                                unsigned int memflags)
{
    struct page_info *pg = alloc_domheap_page_at(d, _mfn(mfn),
                                                 memflags | MEMF_no_owner);

    return mfn_x(pg ? page_to_mfn(pg) : INVALID_MFN);
}

void xrs_heap_free(unsigned long mfn, unsigned int order)
{
    free_domheap_pages(mfn_to_page(_mfn(mfn)), order);
}

void xrs_heap_free_frozen(unsigned long mfn, unsigned int order)
{
    free_frozen_domheap_pages(mfn_to_page(_mfn(mfn)), order);
}

void xrs_heap_free_frozen_list(struct domain *d,
                               const struct coalesce_pair *pages,
                               unsigned int nr)
{
    free_frozen_domheap_list(d, pages, nr);
}

int xrs_heap_assign(struct domain *d, unsigned long mfn, unsigned int order)
{
    return assign_pages(mfn_to_page(_mfn(mfn)), 1U << order, d,
                        MEMF_no_refcount);
}

/* As assign_pages() does it with MEMF_no_refcount, which takes one block. */
int xrs_heap_assign_places(struct domain *d, unsigned long home,
                           const unsigned long *slots, unsigned int words)
{
    struct page_info *pg = mfn_to_page(_mfn(home));
    int rc = -ESRCH;

    nrspin_lock(&d->page_alloc_lock);

    if ( likely(!d->is_dying) )
    {
        for ( ; words; words--, slots++, pg += BITS_PER_LONG )
        {
            unsigned long some = *slots;

            for_each_set_bit ( slot, some )
            {
                ASSERT(!page_get_owner(&pg[slot]));
                ASSERT(!pg[slot].count_info);
                page_set_owner(&pg[slot], d);
                smp_wmb(); /* Owner visible before the reference count is. */
                pg[slot].count_info = PGC_allocated | 1;
                page_list_add_tail(&pg[slot], &d->page_list);
            }
        }
        rc = 0;
    }

    nrspin_unlock(&d->page_alloc_lock);

    return rc;
}

void xrs_heap_account(struct domain *d, unsigned long pages)
{
    nrspin_lock(&d->page_alloc_lock);
    /* The frozen pages whose place these were to take are counted, too. */
    if ( domain_adjust_tot_pages(d, pages) == pages )
        ASSERT_UNREACHABLE();
    nrspin_unlock(&d->page_alloc_lock);
}

/* Free pages that nobody has a claim to. */
unsigned long xrs_heap_available(void)
{
    uint64_t free, claimed;

    get_outstanding_claims(&free, &claimed);

    return free > claimed ? free - claimed : 0;
}

unsigned int xrs_heap_node_flags(unsigned long mfn)
{
    return MEMF_node(mfn_to_nid(_mfn(mfn)));
}

void *xrs_xzalloc(unsigned long size, unsigned long align)
{
    return _xzalloc(size, align);
}

void xrs_xfree(void *p)
{
    xfree(p);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
