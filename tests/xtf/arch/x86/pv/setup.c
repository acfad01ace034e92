/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A PV guest.  It has no exception handlers: an exception that nothing handles
 * makes Xen crash the domain, and say where.
 */
#include <xtf/console.h>
#include <xtf/framework.h>
#include <xtf/hypercall.h>
#include <xtf/lib.h>
#include <xtf/report.h>
#include <xtf/traps.h>

#include <arch/lib.h>
#include <arch/mm.h>

const char environment_description[] = ENVIRONMENT_DESCRIPTION;

shared_info_t shared_info __page_aligned_bss;

/* Filled in by the entry code. */
struct start_info *pv_start_info;

/* There is none: what looks for it finds out so. */
xen_pvh_start_info_t *pvh_start_info;

int arch_get_domid(void)
{
    return (pv_start_info->flags & SIF_INITDOMAIN) ? 0 : -1;
}

static void xen_console_write(const char *buf, size_t len)
{
    hypercall_console_write(buf, len);
}

unsigned long pfn_to_mfn(unsigned long pfn)
{
    const unsigned long *list = _p(pv_start_info->mfn_list);

    return list[pfn];
}

int pv_map(void *va, unsigned long mfn, unsigned int flags)
{
    uint64_t pte = mfn == ~0UL ? 0 : ((uint64_t)mfn << PAGE_SHIFT) | flags;

    return HYPERCALL3(int, __HYPERVISOR_update_va_mapping, va, pte,
                      UVMF_INVLPG);
}

void arch_setup(void)
{
    int rc;

    register_console_callback(xen_console_write);

    rc = pv_map(&shared_info, pv_start_info->shared_info >> PAGE_SHIFT,
                _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_AD);
    if ( rc )
        panic("Cannot map the shared info page: %d\n", rc);
}

void arch_crash_hard(void)
{
    for ( ;; )
        hypercall_yield();
}
