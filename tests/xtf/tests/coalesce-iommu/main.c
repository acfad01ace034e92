/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A domain whose memory devices may write to at any time: what needs no copy is
 * done, nothing else, and what the IOMMU maps is what the domain has.
 *
 * Frames that lie in their places are promoted in place. Frames that do not are
 * left where they are, for that reason; and once the guest has put them back
 * itself, that region is promoted, too.
 *
 * Command line: seed=N, limit_ms=N (20000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing under an IOMMU";

#define REGIONS 16
#define ASTRAY  4               /* the first ones; in pairs */

static unsigned long regions[REGIONS];
static uint64_t limit;

static void fill(void)
{
    unsigned int r, i;

    for ( r = 0; r < REGIONS; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            co_fill(regions[r] + i, r + 1);
}

static void check(const char *when)
{
    unsigned int r, i, wrong = 0;

    for ( r = 0; r < REGIONS; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            wrong += !co_check(regions[r] + i, r + 1);

    if ( !co_expect("wrong pages", wrong, 0) )
        printk("... %s\n", when);
}

static unsigned int count_whole(unsigned int from, unsigned int to)
{
    unsigned int r, nr = 0;

    for ( r = from; r < to; r++ )
        nr += co_region_state(regions[r]) == CO_REGION_WHOLE;

    return nr;
}

static void wait_whole(unsigned int from, unsigned int to)
{
    uint64_t end = co_now() + limit;

    while ( count_whole(from, to) < to - from && co_now() < end )
        co_sleep(CO_MS);

    co_expect("regions that are whole", count_whole(from, to), to - from);
}

static void info(struct co_info *now)
{
    co_expect("get_info", co_get_info(now), 0);
}

/* The frames of two pages change places, by way of a hole. */
static void swap(unsigned long a, unsigned long b, unsigned long hole)
{
    co_expect("a frame moves", co_move(a, hole), 0);
    co_expect("a frame moves", co_move(b, a), 0);
    co_expect("a frame moves", co_move(hole, b), 0);
}

void test_main(void)
{
    static struct co_info start, now, later;
    unsigned long hole;
    struct co_pages pages;
    uint64_t end;
    unsigned int r;

    co_init();
    if ( !co_require_feature() )
        return;

    limit = co_param("limit_ms", 20000) * CO_MS;
    r = co_find_regions(regions, REGIONS, true);
    if ( r < REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS);

    info(&start);
    co_pages_now(&pages);
    if ( !pages.iommu )
        return xtf_error("Error: there is no IOMMU here\n");
    printk("@count compared_with_iommu %" PRIu64 "\n",
           pages.audit[CO_AUDIT_COMPARED]);

    co_phase("in-place");
    /*
     * One after the other: an IOMMU with tables of its own needs a page for each
     * of its superpages that breaks, and would get the one just given up.
     */
    for ( r = 0; r < REGIONS; r++ )
    {
        unsigned long gfn = regions[r] + co_rand() % CO_REGION_PAGES;

        co_expect("pages ballooned out", co_balloon_out(&gfn, 1, 0), 1);
        co_expect("region with a hole", co_region_state(regions[r]),
                  CO_REGION_HOLES);
        co_expect("pages ballooned in", co_populate(&gfn, 1, 0), 1);
    }
    fill();
    wait_whole(0, REGIONS);
    co_print_map("in", regions, REGIONS);
    check("promoted in place");
    info(&now);
    co_expect_true("each region was promoted in place",
                   now.count[CO_PROMOTED] - start.count[CO_PROMOTED] >=
                   REGIONS);

    co_phase("astray");
    hole = regions[REGIONS - 1] + 200;
    co_expect("pages ballooned out", co_balloon_out(&hole, 1, 0), 1);
    for ( r = 0; r < ASTRAY; r += 2 )
    {
        swap(regions[r] + 7, regions[r + 1] + 9, hole);
        co_fill(regions[r] + 7, r + 1);
        co_fill(regions[r + 1] + 9, r + 2);
    }
    co_expect("pages ballooned in", co_populate(&hole, 1, 0), 1);
    co_fill(hole, REGIONS);

    /* They are looked at, and left. */
    end = co_now() + limit;
    do {
        co_sleep(CO_MS);
        info(&later);
    } while ( later.count[CO_REFUSED + CO_REASON_IOMMU] <
              now.count[CO_REFUSED + CO_REASON_IOMMU] + ASTRAY &&
              co_now() < end );
    /* The hole's frame may have become a table of the IOMMU's: not the last one. */
    wait_whole(ASTRAY, REGIONS - 1);
    co_print_map("left", regions, REGIONS);
    co_expect_true("each region astray was left because of the IOMMU",
                   later.count[CO_REFUSED + CO_REASON_IOMMU] >=
                   now.count[CO_REFUSED + CO_REASON_IOMMU] + ASTRAY);
    for ( r = 0; r < ASTRAY; r++ )
        co_expect("a region astray", co_region_state(regions[r]),
                  CO_REGION_BROKEN);
    check("left");

    co_phase("put back");
    co_expect("pages ballooned out", co_balloon_out(&hole, 1, 0), 1);
    for ( r = 0; r < ASTRAY; r += 2 )
    {
        swap(regions[r] + 7, regions[r + 1] + 9, hole);
        co_fill(regions[r] + 7, r + 1);
        co_fill(regions[r + 1] + 9, r + 2);
    }
    co_expect("pages ballooned in", co_populate(&hole, 1, 0), 1);
    co_fill(hole, REGIONS);
    wait_whole(0, REGIONS);
    co_print_map("end", regions, REGIONS);
    check("put back");

    info(&later);
    co_expect("pages copied", later.count[CO_PAGES_COPIED], 0);
    co_expect("regions completed", later.count[CO_COMPLETED], 0);
    co_expect("regions migrated", later.count[CO_MIGRATED], 0);
    co_check_leak(&pages, REGIONS);
    co_print_counts(&later);
    co_check_law(&later);

    co_finish();
}
