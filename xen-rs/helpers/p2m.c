/* SPDX-License-Identifier: GPL-2.0-only */
/* The host p2m of a translated domain. */
#include <xen/errno.h>
#include <xen/ioreq.h>
#include <asm/hvm/cacheattr.h>
#include <asm/hvm/vmx/vmx.h>
#include <asm/iocap.h>
#include <asm/mtrr.h>
#include <asm/p2m.h>
#include <asm/paging.h>
#include <xen-rs.h>

#include "mm-locks.h"

void xrs_p2m_lock(struct domain *d)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    p2m_lock(p2m);
    p2m->batch_flush = true;
}

void xrs_p2m_unlock(struct domain *d)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    p2m->batch_flush = false;
    p2m_unlock(p2m);
}

void xrs_p2m_flush_sync(struct domain *d)
{
    p2m_tlb_flush_sync(p2m_get_hostp2m(d));
}

/* An entry was taken away behind p2m_set_entry()'s back. */
void xrs_p2m_want_flush(struct domain *d)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    if ( cpu_has_vmx )
        ept_sync_domain(p2m);
    else
        p2m->need_flush = true;
}

void xrs_p2m_free_table(struct domain *d, unsigned long table)
{
    p2m_free_ptp(p2m_get_hostp2m(d), mfn_to_page(_mfn(table)));
}

unsigned long xrs_p2m_get(struct domain *d, unsigned long gfn, uint8_t *type,
                          uint8_t *access, uint8_t *order)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    p2m_type_t t;
    p2m_access_t a;
    unsigned int o;
    mfn_t mfn = p2m->get_entry(p2m, _gfn(gfn), &t, &a, 0, &o, NULL);

    *type = t;
    *access = a;
    *order = o;

    return mfn_x(mfn);
}

int xrs_p2m_set(struct domain *d, unsigned long gfn, unsigned long mfn,
                unsigned int order, uint8_t type, uint8_t access)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    int rc;

    if ( order )
        return p2m_set_entry(p2m, _gfn(gfn), _mfn(mfn), order, type, access);

    /* The same for a single page, which needs no search for the order. */
    rc = p2m->set_entry(p2m, _gfn(gfn), _mfn(mfn), 0, type, access, -1);
    if ( !rc && unlikely(d->arch.coalesce_events) )
        coalesce_event(d, gfn, 0, type);

    return rc;
}

int xrs_p2m_recalc(struct domain *d, unsigned long gfn)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    return p2m->recalc(p2m, gfn);
}

bool xrs_p2m_log_dirty_range(struct domain *d, unsigned long first,
                             unsigned long last)
{
    return p2m_is_logdirty_range(p2m_get_hostp2m(d), first, last);
}

/*
 * One entry could say how these pages are cached; with NPT the guest does. As
 * epte_get_entry_emt() has it, but for a look at each page: where some are
 * special and some are not, their entries differ in ipat.
 */
bool xrs_p2m_one_memory_type(struct domain *d, unsigned long gfn,
                             unsigned long mfn, unsigned int order)
{
    const struct vcpu *v = current->domain == d ? current
                           : d->vcpu ? d->vcpu[0] : NULL;
    int type;

    if ( !cpu_has_vmx )
        return true;

    if ( rangeset_overlaps_range(mmio_ro_ranges, mfn,
                                 mfn | ((1UL << order) - 1)) )
        return false;

    if ( !is_iommu_enabled(d) && !cache_flush_permitted(d) )
        return true;

    type = hvm_get_mem_pinned_cacheattr(d, _gfn(gfn), order);
    if ( type >= 0 || type == -EADDRNOTAVAIL )
        return type >= 0;

    return (!v || mtrr_get_type(&v->arch.hvm.mtrr, gfn_to_gaddr(_gfn(gfn)),
                                order) >= 0) &&
           mtrr_get_type(&mtrr_state, mfn_to_maddr(_mfn(mfn)), order) >= 0;
}

uint8_t xrs_p2m_default_access(const struct domain *d)
{
    return p2m_get_hostp2m(d)->default_access;
}

unsigned long xrs_p2m_max_gfn(const struct domain *d)
{
    return p2m_get_hostp2m(d)->max_mapped_pfn;
}

/* The top-level table, or INVALID_MFN. */
unsigned long xrs_p2m_root(const struct domain *d)
{
    pagetable_t root = p2m_get_pagetable(p2m_get_hostp2m(d));

    return mfn_x(pagetable_is_null(root) ? INVALID_MFN
                                         : pagetable_get_mfn(root));
}

bool xrs_p2m_is_ept(void)
{
    return cpu_has_vmx;
}

/* Superpages may be executed (CVE-2018-12207). */
bool xrs_p2m_exec_superpages(const struct domain *d)
{
    return !cpu_has_vmx || d->arch.hvm.vmx.exec_sp;
}

void xrs_p2m_mark_dirty(struct domain *d, unsigned long gfn)
{
    paging_mark_pfn_dirty(d, _pfn(gfn));
}

void xrs_p2m_invalidate_mapcache(struct domain *d)
{
    ioreq_request_mapcache_invalidate(d);
}

/* Orphaned pages, wrong M2P entries, wrong p2m entries. Takes the lock. */
int xrs_p2m_audit(struct domain *d, uint64_t bad[3])
{
#if P2M_AUDIT
    audit_p2m(d, &bad[0], &bad[1], &bad[2]);

    return 0;
#else
    return -EOPNOTSUPP;
#endif
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
