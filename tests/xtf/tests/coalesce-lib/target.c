/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A second domain: HVM, HAP, built by this one and never run.  What a toolstack
 * does to the memory of its domains can be done to it.
 */
#include "coalesce.h"
#include "xen-abi.h"

int co_target_create(domid_t *domid, unsigned long pool_kb,
                     unsigned long max_pages)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_createdomain,
        .u.createdomain = {
            .handle = { 0xc0, 0xa1 },
            .flags = ABI_CDF_hvm | ABI_CDF_hap,
            .max_vcpus = 1,
            .max_evtchn_port = 1023,
            .max_grant_frames = 4,
            .max_maptrack_frames = 4,
            .grant_opts = 1,
            .emulation_flags = ABI_EMU_lapic,
        },
    };
    int rc = abi_domctl(0, &op);

    if ( rc )
        return rc;
    *domid = op.domain;

    rc = co_target_set_pool(*domid, pool_kb);
    if ( !rc )
        rc = co_target_set_max(*domid, max_pages);
    if ( rc )
        return rc;

    /* Its creation is finished. There is no vCPU that could run. */
    op = (struct abi_domctl){ .cmd = ABI_DOMCTL_unpausedomain };

    return abi_domctl(*domid, &op);
}

int co_target_set_pool(domid_t domid, unsigned long kb)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_set_paging_mempool_size,
        .u.paging_mempool_size = (uint64_t)kb << 10,
    };

    return abi_domctl(domid, &op);
}

int co_target_set_max(domid_t domid, unsigned long pages)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_max_mem,
        .u.max_memkb = (uint64_t)pages << (PAGE_SHIFT - 10),
    };

    return abi_domctl(domid, &op);
}

int co_target_add_vcpu(domid_t domid)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_max_vcpus, .u.max_vcpus = 1 };

    return abi_domctl(domid, &op);
}

int co_target_destroy(domid_t domid)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_destroydomain };

    return abi_domctl(domid, &op);
}

int co_target_pages(domid_t domid, uint64_t *pages)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_getdomaininfo };
    int rc = abi_domctl(domid, &op);

    /* It may give the next domain's. */
    if ( !rc && op.u.getdomaininfo.domain != domid )
        rc = -ESRCH;
    *pages = op.u.getdomaininfo.tot_pages;

    return rc;
}

int co_target_claim(domid_t domid, unsigned long pages)
{
    struct xen_memory_reservation r = {
        .nr_extents = pages,
        .domid = domid,
    };

    return hypercall_memory_op(ABI_XENMEM_claim_pages, &r);
}

static unsigned long reservation(unsigned int cmd,
                                 struct xen_memory_reservation r)
{
    long rc = hypercall_memory_op(cmd, &r);

    return rc < 0 ? 0 : rc;
}

unsigned long co_target_populate(domid_t domid, unsigned long *gfns,
                                 unsigned long nr, unsigned int order,
                                 unsigned int flags)
{
    return reservation(XENMEM_populate_physmap, (struct xen_memory_reservation){
        gfns, nr, order, flags, domid });
}

unsigned long co_target_decrease(domid_t domid, unsigned long *gfns,
                                 unsigned long nr, unsigned int order)
{
    return reservation(XENMEM_decrease_reservation,
                       (struct xen_memory_reservation){
        gfns, nr, order, 0, domid });
}

int co_foreign_map(domid_t domid, unsigned long theirs, unsigned long ours)
{
    int err = 0;
    struct abi_add_to_physmap_batch b = {
        .domid = DOMID_SELF,
        .space = ABI_XENMAPSPACE_gmfn_foreign,
        .size = 1,
        .foreign_domid = domid,
        .idxs = &theirs,
        .gpfns = &ours,
        .errs = &err,
    };
    int rc = hypercall_memory_op(ABI_XENMEM_add_to_physmap_batch, &b);

    return rc ?: err;
}

int co_target_unmap(domid_t domid, unsigned long gfn)
{
    struct abi_remove_from_physmap r = { .domid = domid, .gfn = gfn };

    return hypercall_memory_op(ABI_XENMEM_remove_from_physmap, &r);
}

int co_foreign_unmap(unsigned long ours)
{
    return co_target_unmap(DOMID_SELF, ours);
}
