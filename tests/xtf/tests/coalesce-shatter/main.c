/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All memory of a domain is broken into 4K pages and made whole again, and what
 * that takes is counted.
 *
 * holes: some pages of each region are ballooned out and in, in no order, while
 *   the coalescer listens: each page gets its place again.
 * scattered: all pages of all regions are, while it does not: each frame ends up
 *   behind some other page. When it is switched on, all has to be moved; but no
 *   page needs more than one copy, if the heap has as many pages free as the domain
 *   has. If it has less, pages of regions that have not had their turn make room for
 *   others; that is a twentieth more at most.
 * again and again: some pages of a few regions trade places with pages of others, a
 *   hundred times. A region that breaks as often as it is healed is healed less
 *   and less often.
 *
 * Command line: seed=N, regions=N (all there are), rounds=N (100),
 * limit_ms=N (120000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "All of a domain shattered and made whole";

#define MAX_REGIONS 256U
#define HOLES       16U         /* most pages of a region that are away */
#define FEW         4U          /* regions that break again and again */
#define ASTRAY      32U         /* pages of each that trade places */

static unsigned long regions[MAX_REGIONS];
static unsigned int nr_regions;
/* Pages, by number: 512 a region. They take up half of a region of their own. */
static uint32_t *pages;
static uint64_t limit;

/* Each page holds what depends on its gfn, and on how often it was away. */
static uint8_t seeds[MAX_REGIONS][CO_REGION_PAGES];

static void fill(unsigned long gfn, uint8_t *seed)
{
    *seed = *seed + 1 ?: 1;
    co_fill(gfn, *seed);
}

static void check_all(void)
{
    unsigned int r, i, wrong = 0;

    for ( r = 0; r < nr_regions; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            wrong += !co_check(regions[r] + i, seeds[r][i]);

    co_expect("pages whose contents are wrong", wrong, 0);
}

static unsigned int count(unsigned int state)
{
    unsigned int r, nr = 0;

    for ( r = 0; r < nr_regions; r++ )
        nr += co_region_state(regions[r]) == state;

    return nr;
}

static uint64_t copied(void)
{
    static struct co_info info;

    co_expect("get_info", co_get_info(&info), 0);

    return info.count[CO_PAGES_COPIED];
}

/* Wait until all is whole; what was copied since it was @before. */
static uint64_t heal(const char *phase, uint64_t before)
{
    uint64_t end = co_now() + limit;

    co_phase(phase);
    while ( count(CO_REGION_WHOLE) < nr_regions && co_now() < end )
    {
        co_print_map(phase, regions, nr_regions);
        co_sleep(50 * CO_MS);
    }
    co_expect("regions that are whole", count(CO_REGION_WHOLE), nr_regions);
    check_all();

    return copied() - before;
}

/* So many pages of each region, in no order. */
static unsigned long choose(unsigned int per_region)
{
    static unsigned long page[CO_REGION_PAGES];
    unsigned long nr = 0;
    unsigned int r, i, take;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
        page[i] = i;

    for ( r = 0; r < nr_regions; r++ )
    {
        take = per_region;
        if ( take < CO_REGION_PAGES )
        {
            take = 1 + co_rand() % per_region;
            co_shuffle(page, CO_REGION_PAGES);
        }
        for ( i = 0; i < take; i++ )
            pages[nr++] = r * CO_REGION_PAGES + page[i];
    }

    return nr;
}

/* All of the first nr, in no order. */
static void each(unsigned long nr, const char *what,
                 unsigned long (*call)(unsigned long *, unsigned long,
                                       unsigned int))
{
    static unsigned long gfns[CO_REGION_PAGES];
    unsigned long i, done, take;

    for ( i = nr; i > 1; i-- )
    {
        unsigned long j = co_rand() % i;
        uint32_t tmp = pages[i - 1];

        pages[i - 1] = pages[j];
        pages[j] = tmp;
    }

    for ( done = 0; done < nr; done += take )
    {
        take = min(nr - done, CO_REGION_PAGES);
        for ( i = 0; i < take; i++ )
            gfns[i] = regions[pages[done + i] / CO_REGION_PAGES] +
                      pages[done + i] % CO_REGION_PAGES;
        co_expect(what, call(gfns, take, 0), take);
    }
}

static void out_and_in(unsigned long nr)
{
    unsigned long i;

    each(nr, "pages out", co_balloon_out);
    co_expect("regions that are whole", count(CO_REGION_WHOLE), 0);
    each(nr, "pages in", co_populate);
    for ( i = 0; i < nr; i++ )
    {
        unsigned int r = pages[i] / CO_REGION_PAGES;
        unsigned int page = pages[i] % CO_REGION_PAGES;

        fill(regions[r] + page, &seeds[r][page]);
    }
}

static void holes(void)
{
    uint64_t all = (uint64_t)nr_regions * CO_REGION_PAGES, before = copied();

    co_phase("holes");
    out_and_in(choose(HOLES));
    before = heal("holes_healing", before);
    printk("@count shatter_regions %u\n@count shatter_holes_copied %" PRIu64 "\n",
           nr_regions, before);
    co_expect_true("a twentieth of all pages is copied at most",
                   before * 20 <= all);
}

static void scattered(void)
{
    uint64_t all = (uint64_t)nr_regions * CO_REGION_PAGES, before = copied();
    uint64_t most = all, free;
    bool iommu;

    free = co_free_pages(&iommu);
    if ( free < all + all / 8 )
        most += all / 20;

    /* Xen does not look while they are out, for it would put them back. */
    co_phase("scattered");
    co_expect("set_mode", co_set_mode(CO_MODE_OFF), 0);
    out_and_in(choose(CO_REGION_PAGES));
    co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
    before = heal("scattered_healing", before);
    printk("@count shatter_free_pages %" PRIu64 "\n@count shatter_scattered_copied %" PRIu64 "\n",
           free, before);
    co_expect_true(most == all ? "each page is copied once at most"
                               : "a twentieth is copied twice at most",
                   before <= most);
    co_expect_true("pages were scattered", before);
}

/*
 * Pages of the first regions get frames of others, which get new ones; nothing that
 * is free is where it should be.
 */
static void mix(void)
{
    unsigned int f, i;

    for ( f = 0; f < FEW; f++ )
        for ( i = 0; i < ASTRAY; i++ )
        {
            unsigned int in_a = (i * 16 + f) % CO_REGION_PAGES;
            unsigned int in_b = (i * 13 + f) % CO_REGION_PAGES;
            unsigned long a = regions[f] + in_a, b = regions[FEW + f] + in_b;

            co_expect("a page out", co_balloon_out(&a, 1, 0), 1);
            co_expect("its frame", co_move(b, a), 0);
            co_expect("a page in", co_populate(&b, 1, 0), 1);
            fill(a, &seeds[f][in_a]);
            fill(b, &seeds[FEW + f][in_b]);
        }
}

static void again_and_again(void)
{
    unsigned int i, rounds = co_param("rounds", 100);
    uint64_t before = copied(), first = 0, all;

    for ( i = 0; i < rounds; i++ )
    {
        mix();
        if ( !i )
            first = heal("first_round", before);
        co_sleep(10 * CO_MS);
    }
    all = heal("again_and_again", before);
    printk("@count again_first_copied %" PRIu64 "\n@count again_all_copied %" PRIu64 "\n",
           first, all);
    co_expect_true("pages are copied in the first round", first);
    co_expect_true("all rounds copy no more than 16 times as much as the first",
                   all <= 16 * first);
}

void test_main(void)
{
    static struct co_info info;
    struct co_pages before;
    unsigned int r, i;

    co_init();
    if ( !co_require_feature() )
        return;

    limit = co_param("limit_ms", 120000) * CO_MS;
    nr_regions = co_find_regions(regions,
                                 min((unsigned int)co_param("regions",
                                                            MAX_REGIONS),
                                     MAX_REGIONS), true);
    if ( nr_regions < 4 * FEW )
        return xtf_error("Error: %u whole regions of 2M are too few\n",
                         nr_regions);
    pages = pfn_to_virt(regions[--nr_regions]);
    co_warm(regions, nr_regions);

    for ( r = 0; r < nr_regions; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            fill(regions[r] + i, &seeds[r][i]);
    co_pages_now(&before);

    holes();
    scattered();
    again_and_again();

    co_settle(regions, nr_regions);
    co_check_leak(&before, nr_regions);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    co_finish();
}
