/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that never leaves its CPU, on a host that has no other: there is no idle
 * time to make anything whole in, unless the operator lets some of the guest's be
 * taken (share=).
 *
 * Command line: regions=N (16), limit_ms=N (60000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing where a guest never sleeps";

#define MAX_REGIONS 64U

static unsigned long regions[MAX_REGIONS];
static unsigned int nr_regions;
static struct co_gaps stalls;
static uint64_t taken;

static void set_share(uint32_t percent)
{
    co_expect("share", co_hypfs_write("/coalesce/share", &percent,
                                      sizeof(percent)), 0);
}

static unsigned int count_whole(void)
{
    unsigned int r, nr = 0;

    for ( r = 0; r < nr_regions; r++ )
        nr += co_region_state(regions[r]) == CO_REGION_WHOLE;

    return nr;
}

/* A page of each region goes, and comes back. */
static void break_all(void)
{
    unsigned int r;

    for ( r = 0; r < nr_regions; r++ )
    {
        unsigned long page = regions[r] + co_rand() % CO_REGION_PAGES;

        co_expect("a page out", co_balloon_out(&page, 1, 0), 1);
        co_expect("a page in", co_populate(&page, 1, 0), 1);
    }
}

/* So long, awake; what is not ours of that time is measured. */
static void spin(uint64_t ns)
{
    uint64_t end = co_now() + ns, last = co_now(), now;

    while ( last < end )
    {
        now = co_now();
        co_gap(&stalls, (now - last) / 1000);
        if ( now - last > CO_MS / 10 )
            taken += now - last;
        last = now;
    }
}

void test_main(void)
{
    static struct co_info info;
    struct co_pages before;
    uint64_t start, limit;
    unsigned int r;

    co_init();
    if ( !co_require_feature() )
        return;

    limit = co_param("limit_ms", 60000) * CO_MS;
    nr_regions = min((unsigned int)co_param("regions", 16), MAX_REGIONS);
    r = co_find_regions(regions, nr_regions, true);
    if ( r < nr_regions )
        return xtf_error("Error: %u whole regions of 2M, %u are needed\n", r,
                         nr_regions);
    if ( co_host_cpus() > 1 )
        return xtf_error("Error: this is about a host of one CPU\n");
    co_pages_now(&before);

    co_phase("no_share");
    set_share(0);
    break_all();
    spin(300 * CO_MS);
    co_print_map("no_share", regions, nr_regions);
    co_expect("regions that are whole", count_whole(), 0);

    co_phase("share");
    co_print_gaps("no_share_stall", "us", &stalls);
    stalls = (struct co_gaps){};
    taken = 0;
    start = co_now();
    set_share(10);
    while ( count_whole() < nr_regions && co_now() < start + limit )
        spin(20 * CO_MS);
    co_print_map("share", regions, nr_regions);
    co_expect("regions that are whole", count_whole(), nr_regions);
    co_print_gaps("share_stall", "us", &stalls);
    printk("@count share_taken_us %" PRIu64 "\n@count share_of_us %" PRIu64 "\n",
           taken / 1000, (co_now() - start) / 1000);

    /* And again, now that it is allowed. */
    co_phase("again");
    break_all();
    start = co_now();
    while ( count_whole() < nr_regions && co_now() < start + limit )
        spin(20 * CO_MS);
    co_expect("regions that are whole", count_whole(), nr_regions);
    set_share(0);

    co_settle(regions, nr_regions);
    co_check_leak(&before, nr_regions);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    co_finish();
}
