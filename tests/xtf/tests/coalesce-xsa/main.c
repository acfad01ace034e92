/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest, or the toolstack of another, can do of what Xen's advisories about
 * memory that changes hands are about: each under its number.  docs/xsa.md says
 * what each of them teaches.
 *
 * With memop-max-order below 9 on Xen's command line XSA-158 alone is tried.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Advisories about XENMEM_exchange";

#define REGIONS 4

/* The first two are broken into pages of their own accord, the others are not. */
static unsigned long regions[REGIONS];
static unsigned long in[2 * CO_REGION_PAGES], out[2 * CO_REGION_PAGES];
static unsigned int most, nr_cpus;
static struct xen_memory_exchange x;

static long exchange_of(domid_t domid, unsigned long nr_in,
                        unsigned int in_order, unsigned long nr_out,
                        unsigned int out_order)
{
    x = (struct xen_memory_exchange){
        .in = { in, nr_in, in_order, 0, domid },
        .out = { out, nr_out, out_order, 0, domid },
    };

    return hypercall_memory_op(XENMEM_exchange, &x);
}

static long exchange(unsigned long nr_in, unsigned int in_order,
                     unsigned long nr_out, unsigned int out_order)
{
    return exchange_of(DOMID_SELF, nr_in, in_order, nr_out, out_order);
}

/* One page for itself: it works, whatever was tried before. */
static void works(void)
{
    in[0] = out[0] = regions[3] + 40;
    co_expect("an exchange as it should be", exchange(1, 0, 1, 0), 0);
    co_expect("nr_exchanged", x.nr_exchanged, 1);
}

static void refused(const char *what, long rc, long errno, unsigned long done)
{
    co_expect(what, rc, -errno);
    co_expect("nr_exchanged", x.nr_exchanged, done);
}

/* ---- 29: whose memory a list lies in ---- */

static const unsigned long far[] = {
    0xffff830000000000UL, 0xffff82d040200000UL, 0xffff800000000000UL,
    0x0000800000000000UL, 0x8000000000000000UL, 1UL << 46, 64, ~0UL - 7, ~0UL,
};

static void xsa_29(void)
{
    unsigned int i;

    in[0] = out[0] = regions[3] + 41;
    for ( i = 0; i < ARRAY_SIZE(far); i++ )
    {
        x = (struct xen_memory_exchange){
            .in = { _p(far[i]), 1, 0, 0, DOMID_SELF },
            .out = { out, 1, 0, 0, DOMID_SELF },
        };
        refused("inputs that are not the guest's",
                hypercall_memory_op(XENMEM_exchange, &x), EFAULT, 0);
        x.in.extent_start = in;
        x.out.extent_start = _p(far[i]);
        refused("outputs that are not the guest's",
                hypercall_memory_op(XENMEM_exchange, &x), EFAULT, 0);
        co_expect("arguments that are not the guest's",
                  hypercall_memory_op(XENMEM_exchange, _p(far[i])), -EFAULT);
    }
    works();
}

/* ---- 212: how far the caller says that it is ---- */

static void xsa_212(void)
{
    struct co_exchange32 y;
    unsigned int i;

    in[0] = out[0] = regions[3] + 42;
    for ( i = 0; i < ARRAY_SIZE(far); i++ )
    {
        unsigned long start = (far[i] - _u(in)) / sizeof(*in);

        /* The first entry that is looked at lies there. */
        x = (struct xen_memory_exchange){
            .in = { in, start + 8, 0, 0, DOMID_SELF },
            .out = { out, start + 8, 0, 0, DOMID_SELF },
            .nr_exchanged = start,
        };
        refused("a start that makes a list reach elsewhere",
                hypercall_memory_op(XENMEM_exchange, &x), EFAULT, start);
    }

    /*
     * Once around all addresses, and to the list again: that is the guest's own
     * memory, and one page of it is exchanged.
     */
    x = (struct xen_memory_exchange){
        .in = { in, (1UL << 61) + 1, 0, 0, DOMID_SELF },
        .out = { out, (1UL << 61) + 1, 0, 0, DOMID_SELF },
        .nr_exchanged = 1UL << 61,
    };
    co_expect("a start that goes around",
              hypercall_memory_op(XENMEM_exchange, &x), 0);
    co_expect("nr_exchanged", x.nr_exchanged, (1UL << 61) + 1);

    /* More than there is, by one and by all. */
    for ( i = 0; i < 2; i++ )
    {
        unsigned long start = i ? ~0UL : 2;

        x = (struct xen_memory_exchange){
            .in = { in, 1, 0, 0, DOMID_SELF },
            .out = { out, 1, 0, 0, DOMID_SELF },
            .nr_exchanged = start,
        };
        refused("more done than asked for",
                hypercall_memory_op(XENMEM_exchange, &x), EINVAL, start);
    }

    /* As a 32-bit guest. */
    for ( i = 0; i < 5; i++ )
    {
        static const uint32_t starts[] = { 2, 0x20000001, 0x3fffffff,
                                           0x7fffffff, ~0U };
        uint32_t nr = i ? starts[i] : 1;
        long rc;

        y = (struct co_exchange32){
            .in = { _u(in), nr, 0, 0, DOMID_SELF, 0 },
            .out = { _u(out), nr, 0, 0, DOMID_SELF, 0 },
            .nr_exchanged = starts[i],
        };
        rc = co_memory_op32(XENMEM_exchange, &y);
        /* Nothing is left to do, or more is done than there is, or can be. */
        co_expect_true("32 bits: a start far away",
                       rc == -EINVAL || (i && !rc));
        if ( i )
        {
            y.nr_exchanged = starts[i] - 2;
            y.in.extent_start = y.out.extent_start = ~0U - 15;
            rc = co_memory_op32(XENMEM_exchange, &y);
            co_expect_true("32 bits: a list that wraps",
                           rc == -EFAULT || rc == -EINVAL);
        }
    }

    /* And one that is as it should be: exact, when a part of it fails. */
    {
        static uint32_t ins[4], outs[4];

        for ( i = 0; i < 4; i++ )
            ins[i] = outs[i] = regions[3] + 50 + i;
        ins[2] = outs[2] = virt_to_gfn(&shared_info);
        y = (struct co_exchange32){
            .in = { _u(ins), 4, 0, 0, DOMID_SELF, 0 },
            .out = { _u(outs), 4, 0, 0, DOMID_SELF, 0 },
        };
        co_expect("32 bits: the third is bad",
                  co_memory_op32(XENMEM_exchange, &y), -EINVAL);
        co_expect("32 bits: nr_exchanged", y.nr_exchanged, 2);
        ins[2] = outs[2] = regions[3] + 52;
        co_expect("32 bits: the other two",
                  co_memory_op32(XENMEM_exchange, &y), 0);
        co_expect("32 bits: nr_exchanged", y.nr_exchanged, 4);
    }
    works();
}

/* ---- 158: how large an extent may be ---- */

static unsigned int find_most(void)
{
    unsigned int order;

    for ( order = 0; order < 64; order++ )
    {
        /* Nothing to do, so nothing is done. */
        if ( exchange(0, order, 0, order) == -EPERM )
            break;
    }

    return order - 1;
}

static void xsa_158(void)
{
    unsigned long gfn = regions[2], i;

    co_expect_true("there is a limit", most < 64);
    printk("Extents of up to order %u\n", most);
    in[0] = out[0] = regions[2];
    refused("an input that is too large", exchange(1, most + 1, 1, most + 1),
            EPERM, 0);
    if ( most < 9 )
        refused("an output that is too large",
                exchange(1UL << (most + 1), 0, 1, most + 1), EPERM, 0);

    /* Nor is a large one had by asking for all of its pages. */
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        in[i] = out[i] = gfn + i;
    co_expect("all pages of a region for themselves",
              exchange(CO_REGION_PAGES, 0, CO_REGION_PAGES, 0), 0);
    if ( co_feature == CO_FEATURE_PRESENT )
        co_expect("the region is in one piece",
                  co_region_state(gfn) == CO_REGION_WHOLE, most >= 9);
}

/* ---- With a second domain ---- */

#define THEIRS  0x1000UL
#define SPARE   0x4000UL        /* nothing is there */

static domid_t target;

/* Two regions of one piece each, and 64 single pages. */
static void build(void)
{
    unsigned long gfns[64], i;

    co_expect("create a domain", co_target_create(&target, 1024, 2048), 0);
    for ( i = 0; i < 2; i++ )
        gfns[i] = THEIRS + i * CO_REGION_PAGES;
    co_expect("populate its regions", co_target_populate(target, gfns, 2, 9, 0),
              2);
    for ( i = 0; i < 64; i++ )
        gfns[i] = THEIRS + 2 * CO_REGION_PAGES + 2 * i;
    co_expect("populate its pages", co_target_populate(target, gfns, 64, 0, 0),
              64);
}

#define PAGES_BUILT (2 * CO_REGION_PAGES + 64)

static void check_target(void)
{
    uint64_t pages = 0, found[CO_AUDITS];
    unsigned int i;

    co_expect("ask for its pages", co_target_pages(target, &pages), 0);
    co_expect("pages of the other domain", pages, PAGES_BUILT);
    if ( co_feature != CO_FEATURE_PRESENT )
        return;
    co_expect("audit it", co_audit_of(target, found), 0);
    co_expect("pages that it has mapped", found[CO_AUDIT_PAGES], PAGES_BUILT);
    for ( i = CO_AUDIT_WRONG; i < CO_AUDIT_XEN_ORPHANS; i++ )
        co_expect("wrong pages found by the audit", found[i], 0);
}

static void destroy(void)
{
    int rc;

    do {
        rc = co_target_destroy(target);
    } while ( rc == -ERESTART || rc == -EAGAIN );
    co_expect("destroy the other domain", rc, 0);
}

/* ---- 159: a domain that dies ---- */

static bool stop;
static unsigned long tried, went;

static void exchange_on(unsigned int cpu, void *arg)
{
    static unsigned long ins[64], outs[64];
    unsigned int i;

    (void)cpu;
    (void)arg;
    for ( i = 0; i < 64; i++ )
        ins[i] = outs[i] = THEIRS + 2 * CO_REGION_PAGES + 2 * i;

    while ( !ACCESS_ONCE(stop) )
    {
        struct xen_memory_exchange y = {
            .in = { ins, 64, 0, 0, target },
            .out = { outs, 64, 0, 0, target },
        };

        went += !hypercall_memory_op(XENMEM_exchange, &y);
        tried++;
    }
}

static void xsa_159(void)
{
    unsigned long hole = regions[0] + 9;
    unsigned int round;

    /* It dies, and is not gone as long as somebody has one of its pages. */
    build();
    co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
    co_expect("map a page of it", co_foreign_map(target, THEIRS + 5, hole), 0);
    destroy();
    in[0] = out[0] = THEIRS + 7;
    refused("a page of a domain that is dead", exchange_of(target, 1, 0, 1, 0),
            EINVAL, 0);
    in[0] = out[0] = THEIRS;
    refused("a region of a domain that is dead",
            exchange_of(target, 1, 9, 1, 9), EINVAL, 0);
    co_expect("let go of its page", co_foreign_unmap(hole), 0);
    co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
    refused("a page of a domain that is gone", exchange_of(target, 1, 0, 1, 0),
            ESRCH, 0);

    /* It dies in the middle. */
    for ( round = 0; nr_cpus > 1 && round < 8; round++ )
    {
        build();
        stop = false;
        tried = went = 0;
        co_expect("start a vCPU", co_cpu_start(1, exchange_on, NULL), 0);
        while ( ACCESS_ONCE(went) < 3 + round )
            hypercall_yield();
        destroy();
        ACCESS_ONCE(stop) = true;
        co_expect_true("the vCPU comes to an end", co_cpu_wait(1, 10 * CO_S));
    }
    printk("@count xsa_159_rounds %u\n", nr_cpus > 1 ? round : 0);
}

/* ---- 217: who had a page mapped ---- */

static void xsa_217(void)
{
    unsigned long hole = regions[0] + 10, pages[64];
    unsigned int i;

    build();
    co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
    co_expect("map a page of another domain",
              co_foreign_map(target, THEIRS + 17, hole), 0);
    co_fill(hole, 217);

    in[0] = out[0] = THEIRS + 17;
    refused("a page that is mapped elsewhere", exchange_of(target, 1, 0, 1, 0),
            EBUSY, 0);
    in[0] = out[0] = THEIRS;
    refused("a region with such a page", exchange_of(target, 1, 9, 1, 9),
            EBUSY, 0);
    co_expect_true("it is unchanged", co_check(hole, 217));

    co_expect("unmap it", co_foreign_unmap(hole), 0);
    in[0] = out[0] = THEIRS + 17;
    co_expect("now it goes", exchange_of(target, 1, 0, 1, 0), 0);
    co_expect("the old gfn reads as", *(volatile uint64_t *)pfn_to_virt(hole),
              -1);
    co_expect("map what came", co_foreign_map(target, THEIRS + 17, hole), 0);
    co_expect_true("it holds nothing old", co_check_fresh(hole));
    co_expect("unmap it", co_foreign_unmap(hole), 0);

    /* Nor does what others get next. */
    co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
    co_expect_true("a page ballooned in holds nothing old",
                   co_check_fresh(hole));
    for ( i = 0; i < 64; i++ )
        pages[i] = in[i] = out[i] = regions[0] + 100 + i;
    co_expect("pages for themselves", exchange(64, 0, 64, 0), 0);
    for ( i = 0; i < 64; i++ )
        co_expect_true("a page exchanged in holds nothing old",
                       co_check_fresh(pages[i]));
    check_target();
    destroy();
}

/* ---- 222: no table to break a leaf with ---- */

static void xsa_222(void)
{
    unsigned int i;

    build();
    co_expect("take its pool away", co_target_set_pool(target, 0), 0);

    in[0] = out[0] = THEIRS + 100;
    refused("a page of a leaf, with no memory for a table",
            exchange_of(target, 1, 0, 1, 0), ENOMEM, 0);
    in[0] = THEIRS;
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        out[i] = THEIRS + CO_REGION_PAGES - 1 - i;
    out[CO_REGION_PAGES - 1] = THEIRS + 2 * CO_REGION_PAGES + 1;
    refused("a leaf for all but one of its pages, likewise",
            exchange_of(target, 1, 9, CO_REGION_PAGES, 0), ENOMEM, 0);
    in[0] = THEIRS + 2 * CO_REGION_PAGES;
    out[0] = SPARE;
    refused("a page to where no table is", exchange_of(target, 1, 0, 1, 0),
            ENOMEM, 0);
    check_target();

    in[0] = out[0] = THEIRS;
    co_expect("a leaf for itself needs none", exchange_of(target, 1, 9, 1, 9), 0);

    co_expect("give it back", co_target_set_pool(target, 1024), 0);
    in[0] = out[0] = THEIRS + 100;
    co_expect("now it goes", exchange_of(target, 1, 0, 1, 0), 0);
    check_target();
    destroy();
}

/* ---- 287: references that come and go ---- */

static unsigned long contended;

static void pin_and_let_go(unsigned int cpu, void *arg)
{
    (void)cpu;
    (void)arg;
    while ( !ACCESS_ONCE(stop) )
    {
        tried += !co_pin(contended);
        co_pin(~0UL);
    }
}

static void xsa_287(void)
{
    unsigned int i, done = 0, busy = 0;

    contended = regions[1] + 77;
    in[0] = out[0] = contended;
    co_expect("pin a page", co_pin(contended), 0);
    refused("a page that is held", exchange(1, 0, 1, 0), EBUSY, 0);
    co_expect("let go of it", co_pin(~0UL), 0);
    co_expect("now it goes", exchange(1, 0, 1, 0), 0);

    if ( nr_cpus < 2 )
        return;

    stop = false;
    tried = 0;
    co_expect("start a vCPU", co_cpu_start(1, pin_and_let_go, NULL), 0);
    for ( i = 0; i < 100000 && (i < 500 || !done || !busy); i++ )
    {
        long rc = exchange(1, 0, 1, 0);

        if ( !rc )
            done++;
        else if ( rc == -EBUSY )
            busy++;
        else
            co_expect("a page that is held now and then", rc, 0);
    }
    ACCESS_ONCE(stop) = true;
    co_expect_true("the vCPU comes to an end", co_cpu_wait(1, 10 * CO_S));
    printk("@count xsa_287_exchanged %u\n", done);
    printk("@count xsa_287_busy %u\n", busy);
    printk("@count xsa_287_pinned %lu\n", tried);
    co_expect_true("it was exchanged", done);

    co_expect("let go of it", co_pin(~0UL), 0);
    co_expect("all references are gone", exchange(1, 0, 1, 0), 0);
}

/* ---- 389: what was done of an extent when the rest fails ---- */

static void xsa_389(void)
{
    unsigned long a = regions[0] + 128, b = regions[1] + 128, hole;
    unsigned int order;

    for ( order = 1; order <= 6; order++ )
    {
        unsigned long size = 1UL << order, last = size - 1, i;

        /* Room for the output, but for its last page. */
        for ( i = 0; i < size; i++ )
        {
            co_fill(a + i, 300 + order);
            hole = b + i;
            if ( i < last )
                co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
            else
                co_fill(hole, 389);
        }
        in[0] = a;
        out[0] = b;
        refused("an output whose last page is taken",
                exchange(1, order, 1, order), EEXIST, 0);
        for ( i = 0; i < size; i++ )
            co_expect_true("inputs are unchanged", co_check(a + i, 300 + order));
        co_expect_true("what was in the way is unchanged",
                       co_check(b + last, 389));
        for ( i = 0; i < last; i++ )
            co_expect("it is a hole again",
                      *(volatile uint64_t *)pfn_to_virt(b + i), -1);

        /* Now with room, but the input lacks its last page. */
        hole = b + last;
        co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
        hole = a + last;
        co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
        refused("an input that lacks its last page",
                exchange(1, order, 1, order), EINVAL, 0);
        for ( i = 0; i < last; i++ )
            co_expect_true("inputs are unchanged", co_check(a + i, 300 + order));
        co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
        co_expect("now it goes", exchange(1, order, 1, order), 0);
        in[0] = b;
        out[0] = a;
        co_expect("and back", exchange(1, order, 1, order), 0);
        for ( i = 0; i < size; i++ )
        {
            hole = b + i;
            co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
        }
    }
    works();
}

static const struct {
    unsigned int number;
    void (*run)(void);
    bool other;                 /* needs another domain */
} sections[] = {
    { 158, xsa_158, false },
    { 29,  xsa_29,  false },
    { 212, xsa_212, false },
    { 287, xsa_287, false },
    { 389, xsa_389, false },
    { 159, xsa_159, true },
    { 217, xsa_217, true },
    { 222, xsa_222, true },
};

void test_main(void)
{
    struct co_pages before;
    unsigned int i;
    unsigned long page;

    co_init();
    nr_cpus = co_nr_cpus();
    if ( co_find_regions(regions, REGIONS, true) < REGIONS )
        return xtf_error("Error: too little memory in 2M pages\n");
    most = find_most();

    /* What is made once, by Xen or here, is made now. */
    for ( i = 0; i < 2; i++ )
    {
        page = regions[i] + 3;
        co_expect("decrease", co_balloon_out(&page, 1, 0), 1);
        co_expect("populate", co_populate(&page, 1, 0), 1);
    }
    page = regions[3] + 40;
    co_expect("decrease", co_balloon_out(&page, 1, 0), 1);
    co_expect("populate", co_populate(&page, 1, 0), 1);
    co_pin(page);
    co_pin(~0UL);
    if ( most < 9 )
    {
        page = regions[2];
        co_expect("decrease", co_balloon_out(&page, 1, 0), 1);
        co_expect("populate", co_populate(&page, 1, 0), 1);
    }
    co_pages_now(&before);

    for ( i = 0; i < ARRAY_SIZE(sections); i++ )
    {
        unsigned int checks = co_checks, failures = co_failures;

        if ( most < 9 && sections[i].number != 158 )
            continue;
        if ( sections[i].other && co_domid )
        {
            xtf_skip("Skip: XSA-%u needs a toolstack\n", sections[i].number);
            continue;
        }
        printk("@phase xsa-%u\n", sections[i].number);
        sections[i].run();
        printk("@count xsa_%u %u\n", sections[i].number, co_checks - checks);
        printk("%s: XSA-%u\n", co_failures == failures ? "ok" : "FAILED",
               sections[i].number);
    }
    co_settle(regions, 0);
    co_check_leak(&before, REGIONS);
    co_finish();
}
