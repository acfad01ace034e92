/* SPDX-License-Identifier: GPL-2.0-only */
/* IOMMUs: where the tables are that devices see a domain's memory through. */
#include <xen/iommu.h>
#include <xen/list.h>
#include <asm/iommu.h>
#include <asm/page.h>
#include <xen-rs.h>

#ifdef CONFIG_INTEL_IOMMU
#include "../../../drivers/passthrough/vtd/iommu.h"
#endif

/*
 * The topmost table, its level and its kind; INVALID_MFN if there is none, or if
 * it is the p2m's own.
 */
unsigned long xrs_iommu_root(const struct domain *d, unsigned int *level,
                             bool *amd)
{
    const struct domain_iommu *hd = dom_iommu(d);

    if ( !is_iommu_enabled(d) || !need_iommu_pt_sync(d) )
        return mfn_x(INVALID_MFN);

#ifdef CONFIG_INTEL_IOMMU
    if ( !list_empty(&acpi_drhd_units) )
    {
        *amd = false;
        *level = agaw_to_level(hd->arch.vtd.agaw);

        return hd->arch.vtd.pgd_maddr ? PFN_DOWN(hd->arch.vtd.pgd_maddr)
                                      : mfn_x(INVALID_MFN);
    }
#endif

    *amd = true;
    *level = hd->arch.amd.paging_mode;

    return mfn_x(hd->arch.amd.root_table
                 ? page_to_mfn(hd->arch.amd.root_table) : INVALID_MFN);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
