/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is rebuilt stays on its node: regions whose frames are so mixed up that
 * they have to be moved to fresh memory come from, and go to, the node that they
 * are on. A migration to another node would leave 512 free pages too many here,
 * and too few there.
 *
 * To be run with all of the domain's memory on one node, each node in its turn:
 * dom0_nodes=N on Xen's command line. Whoever cares for no node passes on one of
 * them by chance, and not on the other.
 *
 * Command line: seed=N, limit_ms=N (20000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing on several nodes";

#define REGIONS 8
#define NODES   8

static unsigned long regions[REGIONS];

static void swap(unsigned long a, unsigned long b, unsigned long hole)
{
    co_expect("a frame moves", co_move(a, hole), 0);
    co_expect("a frame moves", co_move(b, a), 0);
    co_expect("a frame moves", co_move(hole, b), 0);
}

void test_main(void)
{
    static struct co_info start, now;
    uint64_t before[NODES], after[NODES], slack = 8, limit;
    unsigned long hole;
    struct co_pages pages;
    unsigned int r, i, nr;

    co_init();
    if ( !co_require_feature() )
        return;

    limit = co_param("limit_ms", 20000) * CO_MS;
    r = co_find_regions(regions, REGIONS, true);
    if ( r < REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS);

    nr = co_node_free(before, NODES);
    if ( nr < 2 )
        return xtf_error("Error: one node is too few\n");

    co_settle(regions, REGIONS);
    co_expect("get_info", co_get_info(&start), 0);
    co_pages_now(&pages);
    co_node_free(before, NODES);

    co_phase("mixing");
    co_expect("set_mode", co_set_mode(CO_MODE_OFF), 0);
    for ( r = 0; r < REGIONS; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            co_fill(regions[r] + i, r + 1);
    /* Half of each region changes places with half of its neighbour. */
    hole = regions[0];
    co_expect("pages ballooned out", co_balloon_out(&hole, 1, 0), 1);
    for ( r = 0; r < REGIONS; r += 2 )
        for ( i = 1; i < CO_REGION_PAGES; i += 2 )
        {
            swap(regions[r] + i, regions[r + 1] + i, hole);
            co_fill(regions[r] + i, r + 1);
            co_fill(regions[r + 1] + i, r + 2);
        }
    co_expect("pages ballooned in", co_populate(&hole, 1, 0), 1);
    co_fill(hole, 1);
    co_print_map("mixed", regions, REGIONS);

    co_phase("healing");
    co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
    for ( uint64_t end = co_now() + limit; co_now() < end; co_sleep(CO_MS) )
    {
        for ( r = 0; r < REGIONS; r++ )
            if ( co_region_state(regions[r]) != CO_REGION_WHOLE )
                break;
        if ( r == REGIONS )
            break;
    }
    co_settle(regions, REGIONS);
    co_print_map("healed", regions, REGIONS);
    for ( r = 0; r < REGIONS; r++ )
    {
        unsigned int wrong = 0;

        co_expect("a region is whole", co_region_state(regions[r]),
                  CO_REGION_WHOLE);
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            wrong += !co_check(regions[r] + i, r + 1);
        co_expect("wrong pages in a region", wrong, 0);
    }

    co_check_leak(&pages, REGIONS);
    co_node_free(after, NODES);
    co_expect("get_info", co_get_info(&now), 0);
    /* A migration that was interrupted ends as the completion of its block. */
    co_expect_true("regions were moved",
                   now.count[CO_PAGES_COPIED] > start.count[CO_PAGES_COPIED]);
    for ( i = 0; i < nr; i++ )
    {
        printk("Node %u: %" PRIu64 " free pages, and then %" PRIu64 "\n", i,
               before[i], after[i]);
        /* A page or two may have been put back to another node's list. */
        co_expect_true("each node has as many free pages as before",
                       after[i] + slack >= before[i] &&
                       after[i] <= before[i] + slack);
    }
    co_print_counts(&now);
    co_check_law(&now);

    co_finish();
}
