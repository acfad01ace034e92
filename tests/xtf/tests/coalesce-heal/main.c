/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Regions of 2M are broken as ballooning breaks them, one page each, and have
 * to become whole again while the guest goes on using that memory: in short
 * bursts, each of which compares a region with what was last written there and
 * writes something new, with about a millisecond of sleep between them.
 *
 * Where an IOMMU maps the domain's memory, a device may be writing to it, and
 * nothing may be copied: then that is what is checked.
 *
 * Command line: seed=N, regions=N (64), limit_ms=N (20000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing of ballooned regions";

#define MAX_REGIONS 256

static unsigned long regions[MAX_REGIONS];
static uint32_t generation[MAX_REGIONS];
static unsigned int nr_regions;
static struct co_info before;

static void fill_region(unsigned int r)
{
    unsigned int i;

    generation[r]++;
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        co_fill(regions[r] + i, generation[r]);
}

/* No count of pages: one line per region is enough to read. */
static void check_region(unsigned int r)
{
    unsigned int i, wrong = 0;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
        wrong += !co_check(regions[r] + i, generation[r]);

    if ( !co_expect("wrong pages in a region", wrong, 0) )
        printk("... the region at %#lx\n", regions[r]);
}

/* How often a region was left because of the IOMMU since the start. */
static uint64_t left_for_iommu(void)
{
    static struct co_info now;

    co_expect("get_info", co_get_info(&now), 0);

    return now.count[CO_REFUSED + CO_REASON_IOMMU] -
           before.count[CO_REFUSED + CO_REASON_IOMMU];
}

static unsigned int count_state(unsigned int state)
{
    unsigned int r, nr = 0;

    for ( r = 0; r < nr_regions; r++ )
        nr += co_region_state(regions[r]) == state;

    return nr;
}

void test_main(void)
{
    static unsigned long out[MAX_REGIONS];
    static struct co_info after;
    struct co_pages pages;
    uint64_t start, limit, done_at = 0;
    bool healed = false;
    unsigned int r, broken, broken_now, passes = 0, bursts = 0;
    uint64_t acts;

    co_init();
    if ( !co_require_feature() )
        return;

    nr_regions = co_param("regions", 64);
    limit = co_param("limit_ms", 20000) * CO_MS;
    if ( !nr_regions || nr_regions > MAX_REGIONS )
        return xtf_error("Error: regions= has to be 1 to %u\n", MAX_REGIONS);

    r = co_find_regions(regions, nr_regions, true);
    if ( r < nr_regions )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, nr_regions);

    co_warm(regions, nr_regions);
    co_phase("start");
    co_print_map("start", regions, nr_regions);
    for ( r = 0; r < nr_regions; r++ )
        fill_region(r);

    co_expect("get_info", co_get_info(&before), 0);
    co_pages_now(&pages);

    co_phase("balloon-out");
    for ( r = 0; r < nr_regions; r++ )
        out[r] = regions[r] + co_rand() % CO_REGION_PAGES;
    co_shuffle(out, nr_regions);
    co_expect("pages ballooned out",
              co_balloon_out(out, nr_regions, 0), nr_regions);
    co_expect("regions with a hole", count_state(CO_REGION_HOLES), nr_regions);
    co_print_map("balloon-out", regions, nr_regions);

    co_phase("balloon-in");
    co_shuffle(out, nr_regions);
    co_expect("pages ballooned in", co_populate(out, nr_regions, 0), nr_regions);
    broken = count_state(CO_REGION_BROKEN);
    co_print_map("balloon-in", regions, nr_regions);
    for ( r = 0; r < nr_regions; r++ )
        co_fill(out[r], generation[0]);

    co_phase("healing");
    start = co_now();
    for ( ;; )
    {
        for ( r = 0; r < nr_regions; r++, bursts++ )
        {
            check_region(r);
            fill_region(r);
            co_sleep(CO_MS);
        }
        passes++;

        if ( done_at || co_now() - start > limit )
            break;      /* a whole pass was done since it healed */

        broken_now = nr_regions - count_state(CO_REGION_WHOLE);
        healed = !broken_now;
        if ( healed || (pages.iommu && left_for_iommu() >= broken_now) )
            done_at = co_now();
        co_print_map("healing", regions, nr_regions);
    }

    co_phase("end");
    for ( r = 0; r < nr_regions; r++ )
        check_region(r);
    co_print_map("end", regions, nr_regions);
    if ( !pages.iommu )
        co_expect("regions that are whole", count_state(CO_REGION_WHOLE),
                  nr_regions);
    if ( healed )
        printk("@count healed_us %" PRIu64 "\n", (done_at - start) / 1000);
    else
        printk("Not all regions were whole after %" PRIu64 " ms\n",
               (co_now() - start) / CO_MS);
    printk("@count regions %u\n@count seen_broken %u\n@count passes %u\n@count bursts %u\n",
           nr_regions, broken, passes, bursts);

    co_check_leak(&pages, nr_regions);

    co_expect("get_info", co_get_info(&after), 0);
    co_print_counts(&after);
    co_check_law(&after);

    /* What was seen to be broken, and is whole, has been made whole by an act. */
    acts = after.count[CO_PROMOTED] - before.count[CO_PROMOTED] +
           after.count[CO_COMPLETED] - before.count[CO_COMPLETED] +
           after.count[CO_MIGRATED] - before.count[CO_MIGRATED];
    if ( pages.iommu )
    {
        co_expect("pages copied under an IOMMU",
                  after.count[CO_PAGES_COPIED], 0);
        co_expect_true("what is still broken was left because of the IOMMU",
                       left_for_iommu() >=
                       nr_regions - count_state(CO_REGION_WHOLE));
    }
    else
        co_expect_true("as many acts as regions that were seen broken",
                       acts >= broken);
    co_expect_true("each region that was broken counts as a split",
                   after.count[CO_SPLITS] - before.count[CO_SPLITS] >=
                   nr_regions);

    co_finish();
}
