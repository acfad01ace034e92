/* SPDX-License-Identifier: GPL-2.0-only */
/* Domains: what they are, and walking them. */
#include <xen/iommu.h>
#include <xen/mem_access.h>
#include <xen/vm_event.h>
#include <asm/altp2m.h>
#include <asm/hvm/nestedhvm.h>
#include <asm/mem_sharing.h>
#include <asm/p2m.h>
#include <asm/paging.h>
#include <xen-rs.h>

bool xrs_domain_translated(const struct domain *d)
{
    return paging_mode_translate(d);
}

uint64_t xrs_domain_facts(const struct domain *d)
{
    const struct p2m_domain *p2m = p2m_get_hostp2m(d);

    return (hap_enabled(d) ? XRS_FACT_HAP : 0) |
           (hap_enabled(d) && hap_has_2mb ? XRS_FACT_HAP_2MB : 0) |
           (hap_enabled(d) && hap_has_1gb ? XRS_FACT_HAP_1GB : 0) |
           (d->creation_finished ? XRS_FACT_CREATED : 0) |
           (xrs_domain_dying(d) ? XRS_FACT_DYING : 0) |
           (is_iommu_enabled(d) ? XRS_FACT_IOMMU : 0) |
           (altp2m_active(d) ? XRS_FACT_ALTP2M : 0) |
           (nestedhvm_enabled(d) ? XRS_FACT_NESTED : 0) |
           (read_atomic(&p2m->pod.entry_count) ? XRS_FACT_POD : 0) |
           (mem_sharing_enabled(d) || mem_sharing_is_fork(d) ||
            mem_paging_enabled(d) ? XRS_FACT_SHARING : 0) |
           (paging_mode_log_dirty(d) || p2m->global_logdirty
            ? XRS_FACT_LOG_DIRTY : 0);
}

uint16_t xrs_domain_id(const struct domain *d)
{
    return d->domain_id;
}

bool xrs_domain_dying(const struct domain *d)
{
    return ACCESS_ONCE(d->is_dying) != DOMDYING_alive;
}

void *xrs_domain_state(const struct domain *d)
{
    return d->arch.coalesce;
}

void xrs_domain_set_state(struct domain *d, void *state)
{
    d->arch.coalesce = state;
}

void xrs_domain_set_events(struct domain *d, bool on)
{
    d->arch.coalesce_events = on;
}

/* Domain @domid, if it has state, or NULL; locked as below. */
struct domain *xrs_domain_lock(unsigned int domid)
{
    struct domain *d = rcu_lock_domain_by_id(domid);

    if ( d && !d->arch.coalesce )
    {
        rcu_unlock_domain(d);
        d = NULL;
    }

    return d;
}

/*
 * The domain with the lowest domid from @domid on that has state, or NULL;
 * locked against destruction until xrs_domain_unlock().
 */
struct domain *xrs_domain_lock_from(unsigned int domid)
{
    struct domain *d, *best = NULL;

    rcu_read_lock(&domlist_read_lock);

    for_each_domain ( d )
        if ( d->arch.coalesce && d->domain_id >= domid &&
             (!best || d->domain_id < best->domain_id) )
            best = d;

    if ( best )
        rcu_lock_domain(best);

    rcu_read_unlock(&domlist_read_lock);

    return best;
}

/*
 * The same for the domain that owns @pg, if it has state. Of a page that changes
 * hands what stands for the owner may be nonsense, so it is only compared.
 */
struct domain *xrs_domain_lock_owner(const struct page_info *pg)
{
    const struct domain *owner = page_get_owner(pg);
    struct domain *d;

    rcu_read_lock(&domlist_read_lock);

    for_each_domain ( d )
        if ( d == owner && d->arch.coalesce )
        {
            rcu_lock_domain(d);
            break;
        }

    rcu_read_unlock(&domlist_read_lock);

    return d;
}

void xrs_domain_unlock(struct domain *d)
{
    rcu_unlock_domain(d);
}

void xrs_domain_crash(struct domain *d)
{
    domain_crash(d);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
