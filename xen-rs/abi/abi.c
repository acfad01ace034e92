/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between Xen's C and our Rust, measured by the C compiler. Not
 * linked: the build turns the assembly into constants for src/contract.rs,
 * which compares them with what the Rust code was written for. A name that has
 * gone from Xen fails here, a value that has changed fails there; what Rust need
 * not know fails in the BUILD_BUG_ONs.
 */
#include <xen/mm.h>
#include <xen/sched.h>
#include <asm/p2m.h>
#include <asm/hvm/vmx/vmx.h>
#include <public/domctl.h>
#include <public/errno.h>
#include <public/memory.h>
#include <public/trace.h>
#include <xen-rs.h>

#include "../../../drivers/passthrough/amd/iommu-defs.h"
#include "../../../drivers/passthrough/vtd/iommu.h"

#define XEN_ABI(name, value) \
    asm volatile ( "\n.ascii\"==>#define " #name " %0 <==\"" :: "i" (value) )
#define XEN_ABI_SIZE(name, type) XEN_ABI(SIZE_##name, sizeof(type))
#define XEN_ABI_OFFSET(name, type, field) \
    XEN_ABI(OFFSET_##name##_##field, offsetof(type, field))

void xrs_abi(void);
void xrs_abi(void)
{
    XEN_ABI_SIZE(page_info, struct page_info);
    XEN_ABI_OFFSET(page_info, struct page_info, count_info);
    XEN_ABI(OFFSET_page_info_type_info,
            offsetof(struct page_info, u.inuse.type_info));
    XEN_ABI(PGC_allocated, PGC_allocated);
    XEN_ABI(PGC_xen_heap, PGC_xen_heap);
    XEN_ABI(PGC_extra, PGC_extra);
    XEN_ABI(PGC_state, PGC_state);
    XEN_ABI(PGC_state_free, PGC_state_free);
    XEN_ABI(PGC_count_mask, PGC_count_mask);
    XEN_ABI(PGT_count_mask, PGT_count_mask);

    XEN_ABI_SIZE(coalesce_pair, struct coalesce_pair);
    XEN_ABI_OFFSET(coalesce_pair, struct coalesce_pair, mfn);

    XEN_ABI_SIZE(xen_memory_exchange, struct xen_memory_exchange);
    XEN_ABI_OFFSET(xen_memory_exchange, struct xen_memory_exchange, in);
    XEN_ABI_OFFSET(xen_memory_exchange, struct xen_memory_exchange, out);
    XEN_ABI_OFFSET(xen_memory_exchange, struct xen_memory_exchange,
                   nr_exchanged);
    XEN_ABI_OFFSET(xen_memory_reservation, struct xen_memory_reservation,
                   nr_extents);
    XEN_ABI_OFFSET(xen_memory_reservation, struct xen_memory_reservation,
                   extent_order);

    XEN_ABI_SIZE(xen_domctl_coalesce, struct xen_domctl_coalesce);
    XEN_ABI_OFFSET(xen_domctl_coalesce, struct xen_domctl_coalesce, mode);
    XEN_ABI_OFFSET(xen_domctl_coalesce, struct xen_domctl_coalesce, first_gfn);
    XEN_ABI_OFFSET(xen_domctl_coalesce, struct xen_domctl_coalesce, nr);
    XEN_ABI_OFFSET(xen_domctl_coalesce, struct xen_domctl_coalesce, pad);
    XEN_ABI_OFFSET(xen_domctl_coalesce, struct xen_domctl_coalesce, buffer);

    XEN_ABI_SIZE(xrs_knobs, struct xrs_knobs);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, budget);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, batch);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, watermark);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, cool_down);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, share);
    XEN_ABI_OFFSET(xrs_knobs, struct xrs_knobs, room);
    XEN_ABI(BUDGET_default, XRS_BUDGET_DEFAULT);
    XEN_ABI(BUDGET_min, XRS_BUDGET_MIN);
    XEN_ABI(BUDGET_max, XRS_BUDGET_MAX);
    XEN_ABI(BATCH_default, XRS_BATCH_DEFAULT);
    XEN_ABI(BATCH_min, XRS_BATCH_MIN);
    XEN_ABI(BATCH_max, XRS_BATCH_MAX);
    XEN_ABI(WATERMARK_default, XRS_WATERMARK_DEFAULT);
    XEN_ABI(COOL_DOWN_default, XRS_COOL_DOWN_DEFAULT);
    XEN_ABI(COOL_DOWN_min, XRS_COOL_DOWN_MIN);
    XEN_ABI(COOL_DOWN_max, XRS_COOL_DOWN_MAX);
    XEN_ABI(SHARE_default, XRS_SHARE_DEFAULT);
    XEN_ABI(SHARE_max, XRS_SHARE_MAX);
    XEN_ABI(ROOM_default, XRS_ROOM_DEFAULT);
    XEN_ABI(ROOM_max, XRS_ROOM_MAX);

    XEN_ABI(p2m_ram_rw, p2m_ram_rw);
    XEN_ABI(p2m_invalid, p2m_invalid);
    XEN_ABI(p2m_ram_logdirty, p2m_ram_logdirty);
    XEN_ABI(p2m_ram_ro, p2m_ram_ro);
    XEN_ABI(p2m_mmio_dm, p2m_mmio_dm);
    XEN_ABI(p2m_populate_on_demand, p2m_populate_on_demand);
    XEN_ABI(PAGE_ORDER_2M, PAGE_ORDER_2M);
    XEN_ABI(INVALID_M2P_ENTRY, INVALID_M2P_ENTRY);
    XEN_ABI(MEMF_no_owner, MEMF_no_owner);
    XEN_ABI(MEMF_no_scrub, MEMF_no_scrub);
    XEN_ABI(MEMF_no_dma, MEMF_no_dma);
    XEN_ABI(MEMF_bits, _MEMF_bits);

    XEN_ABI(TRC_MEM_COALESCE_SPLIT, TRC_MEM_COALESCE_SPLIT);
    XEN_ABI(TRC_MEM_COALESCE_PROMOTE, TRC_MEM_COALESCE_PROMOTE);
    XEN_ABI(TRC_MEM_COALESCE_COMPLETE, TRC_MEM_COALESCE_COMPLETE);
    XEN_ABI(TRC_MEM_COALESCE_MIGRATE, TRC_MEM_COALESCE_MIGRATE);
    XEN_ABI(TRC_MEM_COALESCE_REFUSE, TRC_MEM_COALESCE_REFUSE);
    XEN_ABI(TRC_MEM_EXCHANGE, TRC_MEM_EXCHANGE);

    XEN_ABI(EPERM, XEN_EPERM);
    XEN_ABI(ENOENT, XEN_ENOENT);
    XEN_ABI(ENOMEM, XEN_ENOMEM);
    XEN_ABI(EFAULT, XEN_EFAULT);
    XEN_ABI(EBUSY, XEN_EBUSY);
    XEN_ABI(EEXIST, XEN_EEXIST);
    XEN_ABI(ENODEV, XEN_ENODEV);
    XEN_ABI(ESRCH, XEN_ESRCH);
    XEN_ABI(EINVAL, XEN_EINVAL);
    XEN_ABI(EOPNOTSUPP, XEN_EOPNOTSUPP);
    XEN_ABI(ERESTART, XEN_ERESTART);
    XEN_ABI(MODE_default, XEN_DOMCTL_COALESCE_MODE_default);
    XEN_ABI(MODE_off, XEN_DOMCTL_COALESCE_MODE_off);
    XEN_ABI(MODE_in_place, XEN_DOMCTL_COALESCE_MODE_in_place);
    XEN_ABI(MODE_full, XEN_DOMCTL_COALESCE_MODE_full);
    XEN_ABI(OP_set_mode, XEN_DOMCTL_COALESCE_set_mode);
    XEN_ABI(OP_get_info, XEN_DOMCTL_COALESCE_get_info);
    XEN_ABI(OP_get_map, XEN_DOMCTL_COALESCE_get_map);
    XEN_ABI(OP_audit, XEN_DOMCTL_COALESCE_audit);
    XEN_ABI(AUDIT_pages, XEN_DOMCTL_COALESCE_AUDIT_pages);
    XEN_ABI(AUDIT_compared, XEN_DOMCTL_COALESCE_AUDIT_compared);
    XEN_ABI(AUDIT_wrong_frame, XEN_DOMCTL_COALESCE_AUDIT_wrong_frame);
    XEN_ABI(AUDIT_wrong_device, XEN_DOMCTL_COALESCE_AUDIT_wrong_device);
    XEN_ABI(AUDIT_xen_orphans, XEN_DOMCTL_COALESCE_AUDIT_xen_orphans);
    XEN_ABI(OP_now, XEN_DOMCTL_COALESCE_now);
    XEN_ABI(COUNT_reasons, XEN_DOMCTL_COALESCE_COUNT_reasons);
    XEN_ABI(COUNT_splits_by, XEN_DOMCTL_COALESCE_COUNT_splits_by);
    XEN_ABI(NAMED_counts, XRS_COUNTS);
    XEN_ABI(NAMED_reasons, XRS_REASONS);
    XEN_ABI(NAMED_causes, XRS_CAUSES);
    XEN_ABI(CAUSE_balloon, XEN_DOMCTL_COALESCE_CAUSE_balloon);
    XEN_ABI(CAUSE_exchange, XEN_DOMCTL_COALESCE_CAUSE_exchange);
    XEN_ABI(CAUSE_map, XEN_DOMCTL_COALESCE_CAUSE_map);
    XEN_ABI(CAUSE_type, XEN_DOMCTL_COALESCE_CAUSE_type);
    XEN_ABI(CAUSE_logdirty, XEN_DOMCTL_COALESCE_CAUSE_logdirty);
    XEN_ABI(CAUSE_exec, XEN_DOMCTL_COALESCE_CAUSE_exec);

    XEN_ABI(p2m_access_rwx, p2m_access_rwx);
    XEN_ABI(NPT_type, put_pte_flags(0x7fU << 12));
    XEN_ABI(EPT_recalc, ((ept_entry_t){ .recalc = 1 }).epte);
    XEN_ABI(EPT_sp, ((ept_entry_t){ .sp = 1 }).epte);
    XEN_ABI(EPT_emt, ((ept_entry_t){ .emt = 7 }).epte);
    XEN_ABI(EPT_sa_p2mt, ((ept_entry_t){ .sa_p2mt = 0x3f }).epte);
    XEN_ABI(EPT_access, ((ept_entry_t){ .access = 0xf }).epte);
    XEN_ABI(EPT_suppress_ve, ((ept_entry_t){ .suppress_ve = 1 }).epte);
    XEN_ABI(AMD_next_level, ((union amd_iommu_pte){ .next_level = 7 }).raw);
    XEN_ABI(AMD_read, ((union amd_iommu_pte){ .ir = true }).raw);
    XEN_ABI(AMD_write, ((union amd_iommu_pte){ .iw = true }).raw);
    XEN_ABI(VTD_leaf, DMA_PTE_SP);

    BUILD_BUG_ON((int)coalesce_by_other != XEN_DOMCTL_COALESCE_CAUSE_other);
    BUILD_BUG_ON((int)coalesce_by_balloon != XEN_DOMCTL_COALESCE_CAUSE_balloon);
    BUILD_BUG_ON((int)coalesce_by_exchange != XEN_DOMCTL_COALESCE_CAUSE_exchange);
    BUILD_BUG_ON((int)coalesce_by_map != XEN_DOMCTL_COALESCE_CAUSE_map);
    BUILD_BUG_ON((int)coalesce_by_type != XEN_DOMCTL_COALESCE_CAUSE_type);
    BUILD_BUG_ON((int)coalesce_by_logdirty != XEN_DOMCTL_COALESCE_CAUSE_logdirty);
    BUILD_BUG_ON((int)coalesce_by_exec != XEN_DOMCTL_COALESCE_CAUSE_exec);
    /* An unsigned long is a register, a frame number and a pointer. */
    BUILD_BUG_ON(sizeof(unsigned long) != 8 || sizeof(void *) != 8);
    BUILD_BUG_ON(sizeof(xen_pfn_t) != sizeof(uint64_t));
    BUILD_BUG_ON(sizeof(xen_ulong_t) != sizeof(uint64_t));
    /* The bits of a page table entry that arch/src/lib.rs looks at. */
    BUILD_BUG_ON(_PAGE_PRESENT != 1 || _PAGE_RW != 2 || _PAGE_USER != 4);
    BUILD_BUG_ON(_PAGE_PSE != 1 << 7 || _PAGE_PAT != 1 << 7);
    BUILD_BUG_ON(_PAGE_PSE_PAT != 1 << 12);
    BUILD_BUG_ON(DMA_PTE_READ != 1 || DMA_PTE_WRITE != 2);
    BUILD_BUG_ON(MTRR_NUM_TYPES != 7 || X86_MT_WB != 6);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
