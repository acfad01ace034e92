/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The modes of a domain: off does nothing, in_place makes whole what lies in
 * order and copies nothing, full makes everything whole.
 *
 * Pages are moved to a hole and back, so that it is known where each frame is:
 * regions of one half lie in order but are broken, those of the other half have
 * two frames in each other's place.
 *
 * Command line: seed=N, limit_ms=N (20000), quiet_ms=N (2000): how long nothing
 * has to happen where nothing should.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing: modes off, in_place and full";

#define REGIONS 16
#define HALF    (REGIONS / 2)

/* In order come first; one more to have holes in. */
static unsigned long regions[REGIONS + 1];

#define SEED 1

static struct co_info last;

static void check_contents(void)
{
    unsigned int r, i, wrong = 0;

    for ( r = 0; r < REGIONS; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            wrong += !co_check(regions[r] + i, SEED + r);

    co_expect("wrong pages", wrong, 0);
}

static unsigned int count_state(unsigned int first, unsigned int nr,
                                unsigned int state)
{
    unsigned int r, count = 0;

    for ( r = first; r < first + nr; r++ )
        count += co_region_state(regions[r]) == state;

    return count;
}

/* How much a counter has grown since the last remember(). */
static void remember(void)
{
    co_expect("get_info", co_get_info(&last), 0);
}

static uint64_t grown(unsigned int count)
{
    static struct co_info now;

    co_expect("get_info", co_get_info(&now), 0);

    return now.count[count] - last.count[count];
}

/* Wait until so many of the regions are whole, but not for ever. */
static void wait_whole(unsigned int first, unsigned int nr, uint64_t limit)
{
    uint64_t end = co_now() + limit;

    while ( count_state(first, nr, CO_REGION_WHOLE) != nr && co_now() < end )
        co_sleep(5 * CO_MS);

    co_expect("regions made whole",
              count_state(first, nr, CO_REGION_WHOLE), nr);
}

static void break_regions(unsigned long hole)
{
    unsigned int r;

    for ( r = 0; r < REGIONS; r++ )
    {
        unsigned int i = co_rand() % CO_REGION_PAGES;
        unsigned long one = regions[r] + i;
        unsigned long two = regions[r] + (i + 1 + co_rand() % 510) % 512;

        co_expect("move a page out", co_move(one, hole), 0);
        if ( r < HALF )
            co_expect("move it back", co_move(hole, one), 0);
        else
        {
            co_expect("move another there", co_move(two, one), 0);
            co_expect("move the first to its place", co_move(hole, two), 0);
            /* The contents went with the frames. */
            co_fill(one, SEED + r);
            co_fill(two, SEED + r);
        }
    }
}

void test_main(void)
{
    uint64_t limit, quiet;
    unsigned long hole;
    struct co_pages pages;
    unsigned int r, i;

    co_init();
    if ( !co_require_feature() )
        return;

    limit = co_param("limit_ms", 20000) * CO_MS;
    quiet = co_param("quiet_ms", 2000) * CO_MS;

    r = co_find_regions(regions, REGIONS + 1, true);
    if ( r <= REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS + 1);

    for ( r = 0; r < REGIONS; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            co_fill(regions[r] + i, SEED + r);

    /* Bad modes are no modes. */
    co_expect("set_mode to one that does not exist", co_set_mode(4), -EINVAL);

    co_phase("off");
    co_expect("set_mode off", co_set_mode(CO_MODE_OFF), 0);
    hole = regions[REGIONS] + 100;
    co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
    co_pages_now(&pages);
    remember();
    co_expect("mode", last.mode, CO_MODE_OFF);

    break_regions(hole);
    co_print_map("broken", regions, REGIONS + 1);
    co_expect("regions broken", count_state(0, REGIONS, CO_REGION_BROKEN),
              REGIONS);

    co_sleep(quiet);
    co_print_map("off", regions, REGIONS + 1);
    co_expect("regions still broken",
              count_state(0, REGIONS, CO_REGION_BROKEN), REGIONS);
    co_expect("promoted while off", grown(CO_PROMOTED), 0);
    co_expect("completed while off", grown(CO_COMPLETED), 0);
    co_expect("migrated while off", grown(CO_MIGRATED), 0);
    co_expect("pages copied while off", grown(CO_PAGES_COPIED), 0);
    co_expect("looked at while off", grown(CO_LOOKED_AT), 0);
    check_contents();

    co_phase("in_place");
    remember();
    co_expect("set_mode in_place", co_set_mode(CO_MODE_IN_PLACE), 0);
    wait_whole(0, HALF, limit);
    /* Long enough for what should not happen. */
    co_sleep(quiet);
    co_print_map("in_place", regions, REGIONS + 1);
    co_expect("regions in order that are whole",
              count_state(0, HALF, CO_REGION_WHOLE), HALF);
    co_expect("regions out of order that are still broken",
              count_state(HALF, HALF, CO_REGION_BROKEN), HALF);
    co_expect_true("the promotions were counted", grown(CO_PROMOTED) >= HALF);
    co_expect("completed in place", grown(CO_COMPLETED), 0);
    co_expect("migrated in place", grown(CO_MIGRATED), 0);
    co_expect("pages copied in place", grown(CO_PAGES_COPIED), 0);
    co_expect_true("the others were left because of the mode",
                   grown(CO_REFUSED + CO_REASON_MODE) >= HALF);
    remember();
    co_expect("mode", last.mode, CO_MODE_IN_PLACE);
    check_contents();

    co_phase("full");
    co_expect("set_mode full", co_set_mode(CO_MODE_FULL), 0);
    if ( pages.iommu )
    {
        /* A device may be writing to it: even full copies nothing. */
        co_sleep(quiet);
        co_expect("regions out of order that are still broken",
                  count_state(HALF, HALF, CO_REGION_BROKEN), HALF);
        co_expect("pages copied under an IOMMU", grown(CO_PAGES_COPIED), 0);
        co_expect_true("they were left because of the IOMMU",
                       grown(CO_REFUSED + CO_REASON_IOMMU) >= HALF);
    }
    else
    {
        wait_whole(0, REGIONS, limit);
        co_expect_true("pages were copied", grown(CO_PAGES_COPIED) > 0);
        co_expect_true("each region out of order took an act",
                       grown(CO_COMPLETED) + grown(CO_MIGRATED) >= HALF);
    }
    co_print_map("full", regions, REGIONS + 1);
    check_contents();

    co_phase("end");
    co_check_leak(&pages, REGIONS + 1);
    co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
    if ( !pages.iommu )
        wait_whole(REGIONS, 1, limit);
    co_expect("set_mode default", co_set_mode(CO_MODE_DEFAULT), 0);
    co_print_map("end", regions, REGIONS + 1);
    check_contents();

    remember();
    co_print_counts(&last);
    co_check_law(&last);

    co_finish();
}
