/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A domain that does not run, or runs a few instructions: what only a control
 * domain or a device model can do to a domain is done to it.
 */
#include "coalesce.h"
#include "xen-abi.h"

static int populate(int domid, unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        unsigned long gfn = i * CO_REGION_PAGES;

        if ( co_target_populate(domid, &gfn, 1, 9, 0) != 1 )
            return -ENOMEM;
    }

    return 0;
}

int co_doll_create(unsigned int nr)
{
    domid_t domid;
    int rc = co_target_create(&domid, 4096, (nr + 1) * CO_REGION_PAGES);

    if ( rc )
        return rc;

    rc = co_set_mode_of(domid, CO_MODE_OFF) ?: co_target_add_vcpu(domid) ?:
         populate(domid, nr);
    if ( rc )
    {
        co_target_destroy(domid);
        return rc;
    }

    return domid;
}

/* Xen keeps some of what it takes for the first domain that it looks after. */
void co_doll_warm_up(void)
{
    unsigned long page = 7;
    int doll = co_doll_create(1);

    co_expect_true("there is another domain", doll > 0);
    if ( doll <= 0 )
        return;

    co_expect("it is looked after", co_set_mode_of(doll, CO_MODE_FULL), 0);
    co_expect("a page less", co_target_decrease(doll, &page, 1, 0), 1);
    co_expect("a page more", co_target_populate(doll, &page, 1, 0, 0), 1);
    co_sleep(50 * CO_MS);
    co_expect("destroy it", co_target_destroy(doll), 0);
    /* The last of it goes when no CPU can have it in use any more. */
    co_sleep(200 * CO_MS);
    co_settle(NULL, 0);
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

int co_doll_give_iomem(int domid)
{
    /* The video memory of old: there is always some. */
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_iomem_permission,
        .u.iomem_permission = { .first_mfn = 0xa0, .nr_mfns = 1, .allow = 1 },
    };

    return abi_domctl(domid, &op);
}

int co_doll_pin_cache(int domid, unsigned long first, unsigned long last,
                      unsigned int type)
{
    struct abi_dm_op op = {
        .op = ABI_DMOP_pin_memory_cacheattr,
        .u.pin_memory_cacheattr = { .start = first, .end = last, .type = type },
    };

    return dm_op(domid, &op, NULL, 0);
}

static int vm_event(int domid, unsigned int what)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_vm_event_op,
        .u.vm_event_op = { .op = what, .mode = ABI_VM_EVENT_OP_MONITOR },
    };

    return abi_domctl(domid, &op);
}

int co_doll_watch(int domid, unsigned long ring_gfn)
{
    struct xen_hvm_param p = {
        .domid = domid,
        .index = ABI_HVM_PARAM_MONITOR_RING_PFN,
        .value = ring_gfn,
    };

    return hypercall_hvm_op(HVMOP_set_param, &p) ?:
           vm_event(domid, ABI_VM_EVENT_ENABLE);
}

int co_doll_unwatch(int domid)
{
    return vm_event(domid, ABI_VM_EVENT_DISABLE);
}

int co_doll_set_access(int domid, unsigned long gfn, unsigned int nr,
                       unsigned int access)
{
    struct abi_mem_access_op op = {
        .op = ABI_XENMEM_access_op_set_access,
        .access = access,
        .domid = domid,
        .nr = nr,
        .pfn = gfn,
    };

    return hypercall_memory_op(ABI_XENMEM_access_op, &op);
}

int co_doll_log_dirty(int domid, bool on)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_shadow_op,
        .u.shadow_op.op = on ? ABI_SHADOW_OP_ENABLE_LOGDIRTY
                             : ABI_SHADOW_OP_OFF,
    };

    return abi_domctl(domid, &op);
}

/*
 * A vCPU that was never told otherwise is in flat 32-bit mode. Interrupts are not
 * masked: there are none for it, and Bochs would hold back those of Xen, too.
 */
int co_doll_run(int domid, uint32_t addr)
{
    static struct abi_vcpu_guest_context ctxt;
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_setvcpucontext,
        .u.vcpucontext.ctxt = _u(&ctxt),
    };

    BUILD_BUG_ON(sizeof(ctxt) != 5168);

    ctxt = (struct abi_vcpu_guest_context){
        .flags = ABI_VGCF_online,
        .user_regs = { .rip = addr, .rflags = 0x202 },
    };

    return abi_domctl(domid, &op);
}

int co_doll_pause(int domid)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_pausedomain };

    return abi_domctl(domid, &op);
}

int co_doll_unpause(int domid)
{
    struct abi_domctl op = { .cmd = ABI_DOMCTL_unpausedomain };

    return abi_domctl(domid, &op);
}
