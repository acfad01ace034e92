/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_ARCH_X86_XEN_H
#define XEN_PUBLIC_ARCH_X86_XEN_H

#ifndef __ASSEMBLY__

#include <xtf/types.h>

typedef unsigned long xen_pfn_t;

struct arch_vcpu_info {
    unsigned long cr2;
    unsigned long pad;
};

/* Only there for its size: nothing of it is used by a translated guest. */
struct arch_shared_info {
    unsigned long max_pfn;
    xen_pfn_t     pfn_to_mfn_frame_list_list;
    unsigned long nmi_reason;
    unsigned long p2m_cr3;
    unsigned long p2m_vaddr;
    unsigned long p2m_generation;
};

#endif /* !__ASSEMBLY__ */

#endif /* XEN_PUBLIC_ARCH_X86_XEN_H */
