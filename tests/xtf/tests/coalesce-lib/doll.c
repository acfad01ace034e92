/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A domain that does not run: what only a control domain or a device model can do
 * to a domain is done to it.
 */
#include "coalesce.h"
#include "xen-abi.h"

#define PAGES_KB(nr) ((uint64_t)(nr) << (PAGE_SHIFT - 10))

static int populate(int domid, unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        unsigned long gfn = i * CO_REGION_PAGES;
        struct xen_memory_reservation r = {
            .extent_start = &gfn,
            .nr_extents = 1,
            .extent_order = 9,
            .domid = domid,
        };

        if ( hypercall_memory_op(XENMEM_populate_physmap, &r) != 1 )
            return -ENOMEM;
    }

    return 0;
}

int co_doll_create(unsigned int nr)
{
    struct abi_domctl create = {
        .cmd = ABI_DOMCTL_createdomain,
        .u.createdomain = {
            .flags = ABI_CDF_hvm | ABI_CDF_hap,
            .max_vcpus = 1,
            .max_evtchn_port = 31,
            .max_grant_frames = 1,
            .max_maptrack_frames = 1,
            .grant_opts = 1,
            .emulation_flags = ABI_EMU_lapic,
        },
    };
    struct abi_domctl pool = {
        .cmd = ABI_DOMCTL_set_paging_mempool_size,
        .u.paging_mempool_size = 4U << 20,
    };
    struct abi_domctl max = {
        .cmd = ABI_DOMCTL_max_mem,
        .u.max_memkb = PAGES_KB((nr + 1) * CO_REGION_PAGES),
    };
    struct abi_domctl vcpus = { .cmd = ABI_DOMCTL_max_vcpus, .u.max_vcpus = 1 };
    struct abi_domctl unpause = { .cmd = ABI_DOMCTL_unpausedomain };
    int domid, rc = abi_domctl(0, &create);

    if ( rc )
        return rc;

    domid = create.domain;
    rc = abi_domctl(domid, &pool) ?: abi_domctl(domid, &max) ?:
         abi_domctl(domid, &vcpus) ?: populate(domid, nr) ?:
         abi_domctl(domid, &unpause) ?:
         co_set_mode_of(domid, CO_MODE_OFF);
    if ( rc )
    {
        co_doll_destroy(domid);
        return rc;
    }

    return domid;
}

int co_doll_destroy(int domid)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_destroydomain };

    return abi_domctl(domid, &op);
}

static int dm_op(int domid, struct abi_dm_op *op, void *more,
                 unsigned long bytes)
{
    struct abi_dm_op_buf bufs[] = {
        { .h = op, .size = sizeof(*op) },
        { .h = more, .size = bytes },
    };

    return HYPERCALL3(int, ABI_HYPERVISOR_dm_op, domid, more ? 2 : 1, bufs);
}

int co_doll_set_ro(int domid, unsigned long gfn, bool ro)
{
    struct abi_dm_op op = {
        .op = ABI_DMOP_set_mem_type,
        .u.set_mem_type = {
            .nr = 1,
            .mem_type = ro ? ABI_HVMMEM_ram_ro : ABI_HVMMEM_ram_rw,
            .first_pfn = gfn,
        },
    };

    return dm_op(domid, &op, NULL, 0);
}

int co_doll_track_dirty(int domid, unsigned long gfn, unsigned int nr)
{
    static uint8_t bitmap[CO_REGION_PAGES / 8];
    struct abi_dm_op op = {
        .op = ABI_DMOP_track_dirty_vram,
        .u.track_dirty_vram = { .nr = nr, .first_pfn = gfn },
    };

    if ( nr > CO_REGION_PAGES )
        return -EINVAL;

    return dm_op(domid, &op, bitmap, sizeof(bitmap));
}

unsigned long co_doll_balloon_out(int domid, unsigned long *gfns,
                                  unsigned long nr)
{
    struct xen_memory_reservation r = {
        .extent_start = gfns,
        .nr_extents = nr,
        .domid = domid,
    };
    long rc = hypercall_memory_op(XENMEM_decrease_reservation, &r);

    return rc < 0 ? 0 : rc;
}
