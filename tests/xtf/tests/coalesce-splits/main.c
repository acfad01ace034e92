/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Superpages are counted by what broke them: each cause that a guest or its
 * control domain can reach is tried, on this domain or on one that does not run,
 * and has to be the only count that grows.  (For exec a domain has to run: that is
 * coalesce-classes.)
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Who breaks superpages";

#define REGIONS 6
#define SEED    1

static unsigned long regions[REGIONS];
static struct co_info before, after;

static void remember(int domid)
{
    co_expect("get_info", co_get_info_of(domid, &before), 0);
}

/* How many splits there were, and that all were by this cause. */
static uint64_t splits(int domid, unsigned int cause)
{
    uint64_t all, by;

    co_expect("get_info", co_get_info_of(domid, &after), 0);
    co_check_law(&after);
    all = after.count[CO_SPLITS] - before.count[CO_SPLITS];
    by = after.count[CO_SPLITS_BY + cause] -
         before.count[CO_SPLITS_BY + cause];
    co_expect("splits by this cause", by, all);

    return all;
}

static void own(void)
{
    unsigned long hole = regions[0] + 17, page;

    co_phase("balloon");
    remember(co_domid);
    co_expect("balloon out", co_balloon_out(&hole, 1, 0), 1);
    co_expect("splits", splits(co_domid, CO_CAUSE_BALLOON), 1);

    co_phase("exchange");
    remember(co_domid);
    page = regions[1] + 33;
    co_expect("exchange", co_exchange(&page, 1, 0, &hole, 1, 0, NULL), 0);
    co_expect("splits", splits(co_domid, CO_CAUSE_EXCHANGE), 1);

    co_phase("map");
    remember(co_domid);
    hole = regions[1] + 33;
    co_expect("move a page", co_move(regions[2] + 5, hole), 0);
    co_expect("splits", splits(co_domid, CO_CAUSE_MAP), 1);
    co_expect("move it back", co_move(hole, regions[2] + 5), 0);

    /* Page by page, as decrease_reservation does it. */
    co_phase("balloon of 2M");
    remember(co_domid);
    co_expect("balloon out 2M", co_balloon_out(&regions[4], 1, 9), 1);
    co_expect("balloon in 2M", co_populate(&regions[4], 1, 9), 1);
    co_expect("splits", splits(co_domid, CO_CAUSE_BALLOON), 1);

    co_phase("nothing");
    remember(co_domid);
    co_expect("look at a region", co_coalesce_one(regions[3], CO_MODE_FULL),
              CO_REFUSED + CO_REASON_WHOLE_ALREADY);
    co_expect("splits", splits(co_domid, CO_CAUSE_OTHER), 0);

    co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
}

/*
 * No entry is written by a hypercall when a range is tracked, nor when it no longer
 * is: the region is looked at because it broke.
 */
static void tracked(int domid)
{
    unsigned long first = 2 * CO_REGION_PAGES;
    uint64_t end = co_now() + 5 * CO_S;

    co_phase("tracked for a while");
    co_expect("set_mode full", co_set_mode_of(domid, CO_MODE_FULL), 0);
    do {
        co_sleep(10 * CO_MS);
        remember(domid);
    } while ( before.count[CO_QUEUED] && co_now() < end );
    co_expect("all was looked at", before.count[CO_QUEUED], 0);

    co_expect("track writes", co_doll_track_dirty(domid, first + 8, 16), 0);
    co_expect("splits", splits(domid, CO_CAUSE_LOGDIRTY), 1);
    co_sleep(20 * CO_MS);
    co_expect("do not", co_doll_track_dirty(domid, 0, 0), 0);

    end = co_now() + 5 * CO_S;
    do {
        co_sleep(10 * CO_MS);
        co_expect("get_info", co_get_info_of(domid, &after), 0);
    } while ( after.count[CO_PROMOTED] == before.count[CO_PROMOTED] &&
              co_now() < end );
    co_expect("regions whole again",
              after.count[CO_PROMOTED] - before.count[CO_PROMOTED], 1);
    co_expect("set_mode off", co_set_mode_of(domid, CO_MODE_OFF), 0);
}

static void others(void)
{
    unsigned long page = 3 * CO_REGION_PAGES + 3;
    int doll = co_doll_create(REGIONS);

    if ( !co_expect_true("there is another domain", doll > 0) )
    {
        printk("... but %d\n", doll);
        return;
    }

    co_phase("type");
    remember(doll);
    co_expect("make a page read-only", co_doll_set_ro(doll, 7, true), 0);
    co_expect("splits", splits(doll, CO_CAUSE_TYPE), 1);

    co_phase("logdirty");
    remember(doll);
    co_expect("track writes",
              co_doll_track_dirty(doll, CO_REGION_PAGES + 8, 16), 0);
    co_expect("splits", splits(doll, CO_CAUSE_LOGDIRTY), 1);
    co_expect("do not", co_doll_track_dirty(doll, 0, 0), 0);

    tracked(doll);

    co_phase("balloon of another");
    remember(doll);
    co_expect("take a page away", co_target_decrease(doll, &page, 1, 0), 1);
    co_expect("splits", splits(doll, CO_CAUSE_BALLOON), 1);

    /* It has the page still, but not in its page table. */
    co_phase("other");
    remember(doll);
    co_expect("unmap a page",
              co_target_unmap(doll, 4 * CO_REGION_PAGES + 4), 0);
    co_expect("splits", splits(doll, CO_CAUSE_OTHER), 1);

    co_phase("end of another");
    co_expect("destroy it", co_target_destroy(doll), 0);
}

void test_main(void)
{
    struct co_pages pages;
    unsigned int r;
    uint64_t free;
    bool iommu;

    co_init();
    if ( !co_require_feature() )
        return;

    r = co_find_regions(regions, REGIONS, true);
    if ( r < REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS);

    co_warm(regions, REGIONS);
    /* What is broken stays so. */
    co_expect("set_mode off", co_set_mode(CO_MODE_OFF), 0);
    /* Once before: Xen's allocator of small objects keeps what it has taken. */
    others();
    /* A domain that was destroyed is gone a little later. */
    do {
        free = co_free_pages(&iommu);
        co_sleep(200 * CO_MS);
    } while ( free != co_free_pages(&iommu) );
    co_pages_now(&pages);

    others();
    own();

    co_phase("end");
    co_expect("set_mode full", co_set_mode(CO_MODE_FULL), 0);
    co_mend(&pages, regions, REGIONS);
    co_expect("set_mode default", co_set_mode(CO_MODE_DEFAULT), 0);
    co_finish();
}
