/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A script of tests/machine (tests/machine/src/replay.rs), replayed on Xen: the
 * guest plays with eight regions, and after each step every page of them is
 * compared with what was last written there (some of its words).  Each exchange has to do and to say
 * what the reference model said when the script was made.  In the end all that was
 * given back is filled again, every region has to become whole, and nothing may be
 * lost.
 *
 * A property of tests/machine that fails leaves its smallest script in a file: put
 * that in the place of script.inc.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "A script, replayed";

#define REGIONS 8
#define PAGES   (REGIONS * CO_REGION_PAGES)
#define HOLE    0

enum { POPULATE, FILL, OUT, SCATTER, SWAP, EXCHANGE, PIN, UNPIN, HEAL };

static const unsigned long script[] = {
#include "script.inc"
};

/* The last one lends a gfn that is empty. */
static unsigned long regions[REGIONS + 1];
static uint32_t world[PAGES], next_seed = 1;
/* Xen writes to it: what it holds is not known. */
static unsigned long pinned = ~0UL;

static unsigned long gfn_of(unsigned long page)
{
    return regions[page / CO_REGION_PAGES] + page % CO_REGION_PAGES;
}

static void fill(unsigned long page)
{
    world[page] = next_seed++;
    co_fill(gfn_of(page), world[page]);
}

/* It has come from Xen. */
static void fresh(unsigned long page)
{
    if ( !co_check_fresh(gfn_of(page)) )
        co_expect_true("a page holds nobody's old contents", false);
    fill(page);
}

/* Some words of each page after a step, all of them in the end. */
static void check_world(unsigned long step, bool all)
{
    unsigned long page;
    unsigned int wrong = 0;

    for ( page = 0; page < PAGES; page++ )
        if ( world[page] != HOLE && page != pinned )
            wrong += !(all ? co_check(gfn_of(page), world[page])
                           : co_check_some(gfn_of(page), world[page], step));

    if ( !co_expect("wrong pages", wrong, 0) )
        printk("... after step %lu\n", step);
}

static bool give(unsigned long page)
{
    unsigned long gfn = gfn_of(page);

    if ( world[page] == HOLE )
        return false;

    if ( co_balloon_out(&gfn, 1, 0) != 1 )
        co_expect_true("a page is ballooned out", false);
    world[page] = HOLE;

    return true;
}

static void get(unsigned long page)
{
    unsigned long gfn = gfn_of(page);

    if ( world[page] != HOLE )
        return;

    if ( co_populate(&gfn, 1, 0) != 1 )
        panic("No page for gfn %#lx\n", gfn);
    fresh(page);
}

static void populate(unsigned long region, bool one_by_one)
{
    unsigned long first = region * CO_REGION_PAGES, i;

    if ( !one_by_one &&
         !co_expect("regions populated",
                    co_populate(&regions[region], 1, 9), 1) )
        one_by_one = true;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
    {
        if ( one_by_one )
            get(first + i);
        else
            fresh(first + i);
    }
}

static uint64_t sum(unsigned long page)
{
    const volatile uint64_t *p = pfn_to_virt(gfn_of(page));
    uint64_t s = 0;
    unsigned int i;

    for ( i = 0; i < PAGE_SIZE / sizeof(*p); i++ )
        s = s * 31 + p[i];

    return s;
}

static void swap(unsigned long a, unsigned long b)
{
    unsigned long spare = regions[REGIONS];
    uint64_t sum_a, sum_b;

    if ( a == b || world[a] == HOLE || world[b] == HOLE )
        return;

    sum_a = sum(a);
    sum_b = sum(b);
    if ( co_move(gfn_of(a), spare) || co_move(gfn_of(b), gfn_of(a)) ||
         co_move(spare, gfn_of(b)) )
        panic("Pages %lu and %lu cannot trade places\n", a, b);
    if ( sum(a) != sum_b || sum(b) != sum_a )
        co_expect_true("contents move with their pages", false);
    fill(a);
    fill(b);
}

static void exchange(const unsigned long *args)
{
    static unsigned long in[2 * PAGES], out[2 * PAGES];
    unsigned long in_order = args[0], out_order = args[1];
    unsigned long nr_in = args[2], nr_out = args[3], i, p, first, done;
    unsigned long chunk = 1UL << (in_order > out_order ? in_order : out_order);
    long rc;

    if ( nr_in > ARRAY_SIZE(in) || nr_out > ARRAY_SIZE(out) )
        panic("An exchange of %lu for %lu extents is too long\n", nr_in, nr_out);

    for ( i = 0; i < nr_in; i++ )
        in[i] = gfn_of(args[6 + i]);
    for ( i = 0; i < nr_out; i++ )
        out[i] = gfn_of(args[6 + nr_in + i]);

    rc = co_exchange(in, nr_in, in_order, out, nr_out, out_order, &done);
    co_expect("result", rc, -(long)args[5]);
    if ( !co_expect("nr_exchanged", done, args[4]) )
        panic("What is where is not known any more\n");

    /* A chunk's outputs may be inputs of the next. */
    for ( first = 0; first < done << in_order; first += chunk )
    {
        for ( p = first; p < first + chunk; p++ )
            world[args[6 + (p >> in_order)] +
                  (p & ((1UL << in_order) - 1))] = HOLE;
        for ( p = first; p < first + chunk; p++ )
            fresh(args[6 + nr_in + (p >> out_order)] +
                  (p & ((1UL << out_order) - 1)));
    }
}

static void unpin(void)
{
    unsigned long page = pinned;

    if ( page == ~0UL )
        return;

    co_expect("let go", co_pin(~0UL), 0);
    pinned = ~0UL;
    if ( world[page] != HOLE )
        fill(page);
}

static void heal(void)
{
    unsigned int r;

    for ( r = 0; r < REGIONS; r++ )
        co_coalesce_one(regions[r], CO_MODE_FULL);
}

static void play(unsigned long what, const unsigned long *args)
{
    static bool gone[CO_REGION_PAGES];
    unsigned long i, n;

    switch ( what )
    {
    case POPULATE:
        populate(args[0], args[1]);
        break;

    case FILL:
        for ( i = 0; i < args[1]; i++ )
            get((args[0] + i) % PAGES);
        break;

    case OUT:
        for ( i = 0; i < args[1]; i++ )
            give((args[0] + i * (args[2] + 1)) % PAGES);
        break;

    case SCATTER:
        memset(gone, 0, sizeof(gone));
        for ( i = 0; i < args[1]; i++ )
        {
            n = i * (args[2] + 1) % CO_REGION_PAGES;
            if ( give(args[0] + n) )
                gone[n] = true;
        }
        for ( i = CO_REGION_PAGES; i-- > 0; )
            if ( gone[i] )
                get(args[0] + i);
        break;

    case SWAP:
        for ( i = 0; i < args[2]; i++ )
            swap((args[0] + i) % PAGES, (args[1] + i * (args[3] + 1)) % PAGES);
        break;

    case EXCHANGE:
        exchange(args);
        break;

    case PIN:
        pinned = args[0];
        co_expect("pinned", co_pin(gfn_of(pinned)), 0);
        break;

    case UNPIN:
        unpin();
        break;

    case HEAL:
        heal();
        break;

    default:
        panic("There is no step %lu\n", what);
    }
}

/* Extents may begin in one and end in the next: they have to be neighbours. */
static bool choose_regions(void)
{
    static unsigned long found[64];
    unsigned int nr = co_find_regions(found, ARRAY_SIZE(found), true);
    unsigned int i, run = 0;

    for ( i = 0; i < nr; i++ )
    {
        if ( run && found[i] != found[i - 1] + CO_REGION_PAGES )
            run = 0;
        if ( ++run == ARRAY_SIZE(regions) )
        {
            memcpy(regions, &found[i + 1 - run], sizeof(regions));
            return true;
        }
    }

    return false;
}

void test_main(void)
{
    static struct co_info info;
    struct co_pages pages;
    unsigned long at, page, steps = 0;
    unsigned int r, whole = 0;

    co_init();
    if ( !co_require_feature() )
        return;

    if ( !choose_regions() )
        return xtf_error("Error: no %u whole regions of 2M that follow each other: give the domain more memory\n",
                         REGIONS + 1);

    /* Do once what makes Xen allocate something that it keeps. */
    for ( page = 0; page < PAGES; page++ )
        fill(page);
    pinned = 0;
    co_expect("pinned", co_pin(gfn_of(0)), 0);
    unpin();
    give(0);
    get(0);
    co_settle(regions, REGIONS);
    co_pages_now(&pages);

    co_phase("start");
    co_expect("a spare gfn", co_balloon_out(&regions[REGIONS], 1, 0), 1);
    for ( r = 0; r < REGIONS; r++ )
        co_expect("regions given back", co_balloon_out(&regions[r], 1, 9), 1);
    memset(world, 0, sizeof(world));

    co_phase("script");
    for ( at = 0; at + 1 < ARRAY_SIZE(script); at += 2 + script[at + 1] )
    {
        play(script[at], &script[at + 2]);
        check_world(++steps, false);
    }
    co_expect("words of the script", at, ARRAY_SIZE(script));
    co_print_map("script", regions, REGIONS);

    co_phase("end");
    unpin();
    for ( page = 0; page < PAGES; page++ )
        get(page);
    co_expect("the spare gfn", co_populate(&regions[REGIONS], 1, 0), 1);
    heal();
    co_settle(regions, REGIONS);
    for ( r = 0; r < REGIONS; r++ )
        whole += co_region_state(regions[r]) == CO_REGION_WHOLE;
    co_print_map("end", regions, REGIONS);
    co_expect("regions that are whole", whole, REGIONS);
    check_world(steps, true);
    co_check_leak(&pages, REGIONS + 1);

    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    printk("@count steps %lu\n", steps);

    co_finish();
}
