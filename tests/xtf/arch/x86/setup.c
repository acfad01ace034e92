/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/framework.h>
#include <xtf/hypercall.h>
#include <xtf/lib.h>
#include <xtf/libc.h>
#include <xtf/report.h>
#include <xtf/traps.h>

#include <arch/barrier.h>
#include <arch/lib.h>
#include <arch/mm.h>

#include <xen/io/console.h>

#define XEN_CPUID_FIRST    0x40000000U
#define XEN_CPUID_STEP     0x100U
#define XEN_CPUID_LAST     0x4000ff00U

const char environment_description[] = ENVIRONMENT_DESCRIPTION;

shared_info_t shared_info __page_aligned_bss;

static unsigned int xen_cpuid_base;

/*
 * Xen's leaves sit at the first multiple of 0x100 that carries its name:
 * another interface may be offered before them.
 */
static void find_xen_cpuid(void)
{
    unsigned int base;

    for ( base = XEN_CPUID_FIRST; base <= XEN_CPUID_LAST;
          base += XEN_CPUID_STEP )
    {
        uint32_t id[3], max_leaf;

        cpuid(base, &max_leaf, &id[0], &id[1], &id[2]);

        if ( !memcmp(id, "XenVMMXenVMM", sizeof(id)) && max_leaf >= base + 2 )
        {
            xen_cpuid_base = base;
            return;
        }
    }

    panic("No Xen CPUID leaves: this is a Xen guest, run it on Xen\n");
}

static void init_hypercalls(void)
{
    uint32_t pages, msr, tmp;

    cpuid(xen_cpuid_base + 2, &pages, &msr, &tmp, &tmp);
    wrmsr(msr, _u(hypercall_page));
    barrier();

    if ( hypercall_page[0] == 0xc3 )
        panic("Xen did not fill the hypercall page\n");
}

int arch_get_domid(void)
{
    uint32_t flags, domid, max_leaf, tmp;

    cpuid(xen_cpuid_base, &max_leaf, &tmp, &tmp, &tmp);
    if ( max_leaf < xen_cpuid_base + 4 )
        return -1;

    cpuid(xen_cpuid_base + 4, &flags, &tmp, &domid, &tmp);

    return (flags & (1U << 4)) ? (int)domid : -1;
}

static void xen_console_write(const char *buf, size_t len)
{
    hypercall_console_write(buf, len);
}

/*
 * The console ring of a domain that is not the first one.  Xen's own console
 * takes such a domain's text only in debug builds.
 */
static struct xencons_interface *cons_ring;
static evtchn_port_t cons_port;

static void ring_console_write(const char *buf, size_t len)
{
    while ( cons_ring && len )
    {
        uint32_t prod = cons_ring->out_prod;
        uint32_t room = sizeof(cons_ring->out) -
                        (prod - ACCESS_ONCE(cons_ring->out_cons));
        unsigned int spins;

        smp_mb();   /* The other end is done with the bytes it released. */

        for ( ; room && len; room--, len-- )
            cons_ring->out[prod++ % sizeof(cons_ring->out)] = *buf++;

        smp_wmb();  /* Bytes before the index that publishes them. */
        ACCESS_ONCE(cons_ring->out_prod) = prod;
        hypercall_evtchn_send(cons_port);

        /* Nobody may be reading.  Text is not worth hanging for. */
        for ( spins = 0; len && cons_ring; spins++ )
        {
            if ( prod - ACCESS_ONCE(cons_ring->out_cons) <
                 sizeof(cons_ring->out) )
                break;

            if ( spins == 1000000 )
                cons_ring = NULL;

            hypercall_yield();
        }
    }
}

static void init_ring_console(void)
{
    uint64_t gfn, port;

    if ( hvm_get_param(HVM_PARAM_CONSOLE_PFN, &gfn) ||
         hvm_get_param(HVM_PARAM_CONSOLE_EVTCHN, &port) || !gfn )
        return;

    cons_ring = gfn_to_virt(gfn);
    cons_port = port;
    register_console_callback(ring_console_write);
}

static void map_shared_info(void)
{
    struct xen_add_to_physmap xatp = {
        .domid = DOMID_SELF,
        .space = XENMAPSPACE_shared_info,
        .gfn = virt_to_gfn(&shared_info),
    };
    long rc = hypercall_memory_op(XENMEM_add_to_physmap, &xatp);

    if ( rc )
        panic("Cannot map the shared info page: %ld\n", rc);
}

void arch_setup(void)
{
    arch_init_traps();
    find_xen_cpuid();
    init_hypercalls();
    register_console_callback(xen_console_write);

    if ( pvh_start_info && pvh_start_info->magic != XEN_HVM_START_MAGIC_VALUE )
        panic("Bad magic in the start info: %#x\n", pvh_start_info->magic);

    if ( !pvh_start_info || !(pvh_start_info->flags & SIF_INITDOMAIN) )
        init_ring_console();

    init_pagetables();
    map_shared_info();
}

void arch_crash_hard(void)
{
    for ( ;; )
        __asm__ __volatile__ ( "cli; hlt" ::: "memory" );
}
