/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A toolstack exchanges the memory of another domain: at its limit and beyond,
 * while others have claimed what is free, from a node of its choice, and until it
 * dies.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "XENMEM_exchange of another domain's memory";

#define BASE    0x1000UL
#define REGIONS 4
#define SPARE   (BASE + REGIONS * CO_REGION_PAGES)      /* nothing is there */
#define PAGES   (REGIONS * CO_REGION_PAGES)

#define NODE(n)         ((((n) + 1U) & 0xff) << 8)      /* XENMEMF_node() */
#define EXACT           (1U << 17)      /* XENMEMF_exact_node_request */
#define BITS(n)         (n)             /* XENMEMF_address_bits() */

static domid_t target;
static unsigned long in[2 * CO_REGION_PAGES], out[2 * CO_REGION_PAGES];
static struct xen_memory_exchange x;

static long exchange(unsigned long nr_in, unsigned int in_order,
                     unsigned long nr_out, unsigned int out_order,
                     unsigned int flags)
{
    x = (struct xen_memory_exchange){
        .in = { in, nr_in, in_order, 0, target },
        .out = { out, nr_out, out_order, flags, target },
    };

    return hypercall_memory_op(XENMEM_exchange, &x);
}

static void check(void)
{
    uint64_t pages = 0, found[CO_AUDITS];
    unsigned int i;

    co_expect("ask for its pages", co_target_pages(target, &pages), 0);
    co_expect("pages of the other domain", pages, PAGES);
    co_expect("audit it", co_audit_of(target, found), 0);
    co_expect("pages that it has mapped", found[CO_AUDIT_PAGES], PAGES);
    for ( i = CO_AUDIT_WRONG; i < CO_AUDIT_XEN_ORPHANS; i++ )
        co_expect("wrong pages found by the audit", found[i], 0);
}

/* Pages for holes, a region for a region, and both back again. */
static void there_and_back(const char *what, unsigned int flags)
{
    unsigned long i;

    for ( i = 0; i < 32; i++ )
    {
        in[i] = BASE + i * 7;
        out[i] = SPARE + i * 3;
    }
    co_expect(what, exchange(32, 0, 32, 0, flags), 0);
    for ( i = 0; i < 32; i++ )
    {
        in[i] = SPARE + i * 3;
        out[i] = BASE + i * 7;
    }
    co_expect(what, exchange(32, 0, 32, 0, flags), 0);

    in[0] = BASE + CO_REGION_PAGES;
    out[0] = SPARE + CO_REGION_PAGES;
    co_expect(what, exchange(1, 9, 1, 9, flags), 0);
    in[0] = SPARE + CO_REGION_PAGES;
    out[0] = BASE + CO_REGION_PAGES;
    co_expect(what, exchange(1, 9, 1, 9, flags), 0);
    check();
}

static void refused(const char *what, unsigned int flags, int errno)
{
    in[0] = out[0] = BASE + 5;
    co_expect(what, exchange(1, 0, 1, 0, flags), -errno);
    co_expect("nr_exchanged", x.nr_exchanged, 0);
    in[0] = out[0] = BASE + 2 * CO_REGION_PAGES;
    co_expect(what, exchange(1, 9, 1, 9, flags), -errno);
    co_expect("nr_exchanged", x.nr_exchanged, 0);
    check();
}

static void at_the_limit(void)
{
    unsigned long page = SPARE;

    co_expect("its limit is what it has", co_target_set_max(target, PAGES), 0);
    co_expect("it can have no more", co_target_populate(target, &page, 1, 0, 0),
              0);
    there_and_back("exchanged at its limit", 0);

    co_expect("its limit is below what it has",
              co_target_set_max(target, PAGES / 2), 0);
    there_and_back("exchanged beyond its limit", 0);
    co_expect("its limit is as before", co_target_set_max(target, 2 * PAGES), 0);
}

/* All that is free has been set aside for somebody. */
static void claimed(void)
{
    unsigned long gfn = BASE;
    domid_t other;
    bool iommu;
    uint64_t left;

    co_expect("create a third domain", co_target_create(&other, 1024, 1UL << 30),
              0);
    left = co_free_pages(&iommu);
    co_expect("claim all for it", co_target_claim(other, left), 0);
    refused("nothing is left for an exchange", 0, ENOMEM);

    /* What is claimed is not lost: its owner gets it. */
    co_expect("populate it", co_target_populate(other, &gfn, 1, 0, 0), 1);
    co_expect("claim nothing", co_target_claim(other, 0), 0);
    there_and_back("exchanged when the claim is gone", 0);
    co_expect("destroy the third domain", co_target_destroy(other), 0);
}

static void nodes(void)
{
    uint64_t pages[16], now[16];
    unsigned int nr = co_node_free(pages, ARRAY_SIZE(pages)), i;

    for ( i = 0; i < nr; i++ )
    {
        there_and_back("exchanged with memory of a node", NODE(i));
        co_node_free(pages, ARRAY_SIZE(pages));
        in[0] = out[0] = BASE + 3 * CO_REGION_PAGES;
        co_expect("a region from one node", exchange(1, 9, 1, 9, NODE(i) | EXACT),
                  0);
        /* It is counted there; it came from the node before. */
        co_node_free(now, ARRAY_SIZE(now));
        if ( i )
            co_expect("pages taken from it", pages[i] - now[i], CO_REGION_PAGES);
    }
    refused("there is no such node", NODE(70) | EXACT, EINVAL);
    refused("nothing is that low", BITS(13), ENOMEM);
    there_and_back("exchanged with memory that is low", BITS(40));
}

/* Extents above 2M, as far as a toolstack may have them. */
static void large(void)
{
    unsigned long i;

    in[0] = BASE;
    out[0] = SPARE;
    co_expect("8M for 8M", exchange(1, 11, 1, 11, 0), 0);
    check();
    for ( i = 0; i < 4; i++ )
    {
        in[i] = SPARE + i * CO_REGION_PAGES;
        out[i] = BASE + (3 - i) * CO_REGION_PAGES;
    }
    co_expect("8M for four regions, the other way round",
              exchange(1, 11, 4, 9, 0), 0);
    check();
    for ( i = 0; i < 2 * CO_REGION_PAGES; i++ )
        in[i] = BASE + (i * 37) % (2 * CO_REGION_PAGES);
    out[0] = BASE;
    co_expect("1024 pages for 4M in their place",
              exchange(2 * CO_REGION_PAGES, 0, 1, 10, 0), 0);
    check();

    /* All or nothing. */
    for ( i = 0; i < 2 * CO_REGION_PAGES; i++ )
        out[i] = SPARE + i;
    out[1000] = BASE + 3 * CO_REGION_PAGES + 1;
    in[0] = BASE;
    co_expect("4M for pages, one of which is taken",
              exchange(1, 10, 2 * CO_REGION_PAGES, 0, 0), -EEXIST);
    co_expect("nr_exchanged", x.nr_exchanged, 0);
    check();
    out[1000] = SPARE + 1000;
    co_expect("4M for pages", exchange(1, 10, 2 * CO_REGION_PAGES, 0, 0), 0);
    for ( i = 0; i < 2 * CO_REGION_PAGES; i++ )
        in[i] = SPARE + 2 * CO_REGION_PAGES - 1 - i;
    out[0] = BASE;
    co_expect("and back", exchange(2 * CO_REGION_PAGES, 0, 1, 10, 0), 0);
    co_expect("an extent that no heap has", exchange(1, 19, 1, 19, 0), -EPERM);
    check();
}

void test_main(void)
{
    struct co_pages before;
    unsigned long gfns[REGIONS];
    unsigned int i;

    co_init();
    if ( co_domid || !co_require_feature() )
        return xtf_skip("Skip: it takes a toolstack\n");

    for ( i = 0; i < REGIONS; i++ )
        gfns[i] = BASE + i * CO_REGION_PAGES;
    co_pages_now(&before);

    co_expect("create a domain", co_target_create(&target, 2048, 2 * PAGES), 0);
    co_expect("populate it", co_target_populate(target, gfns, REGIONS, 9, 0),
              REGIONS);

    co_phase("foreign");
    there_and_back("exchanged by another", 0);
    co_phase("large");
    large();
    co_phase("limit");
    at_the_limit();
    co_phase("claims");
    claimed();
    co_phase("nodes");
    nodes();
    check();
    co_expect("destroy it", co_target_destroy(target), 0);

    co_check_leak(&before, 0);
    co_finish();
}
