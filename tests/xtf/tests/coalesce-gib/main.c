/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A GiB that one entry maps is broken in a few places; when all of these are whole
 * again, it is one entry again. What maps it is seen by what breaks: a page that is
 * ballooned out breaks an entry of 1G and one of 2M, or only the latter.
 *
 * Command line: rounds=N (3), limit_ms=N (60000, guest time).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "1G entries";

#define MAX_REGIONS 1536U
#define GIB_PAGES   (512 * CO_REGION_PAGES)
#define PLACES      5U

static unsigned long regions[MAX_REGIONS];

static uint64_t count(unsigned int which)
{
    static struct co_info info;

    co_expect("get_info", co_get_info(&info), 0);

    return info.count[which];
}

/* How many entries it takes. */
static unsigned int out_and_in(unsigned long gfn)
{
    uint64_t before = count(CO_SPLITS);

    co_expect("a page out", co_balloon_out(&gfn, 1, 0), 1);
    co_expect("a page in", co_populate(&gfn, 1, 0), 1);
    co_fill(gfn, 7);

    return count(CO_SPLITS) - before;
}

/* The first GiB that is RAM all over and that one entry maps; it is broken then. */
static unsigned long find_gib(unsigned int nr)
{
    unsigned int r;

    for ( r = 0; r + 511 < nr; r++ )
        if ( !(regions[r] % GIB_PAGES) &&
             regions[r + 511] - regions[r] == GIB_PAGES - CO_REGION_PAGES &&
             out_and_in(regions[r]) == 2 )
            return regions[r];

    return 0;
}

void test_main(void)
{
    static struct co_info info;
    struct co_pages before;
    uint64_t end, limit, gibs;
    unsigned long gib, place[PLACES];
    unsigned int i, round, rounds;

    co_init();
    if ( !co_require_feature() )
        return;

    rounds = co_param("rounds", 3);
    limit = co_param("limit_ms", 60000) * CO_MS;
    co_expect("set_mode", co_set_mode(CO_MODE_OFF), 0);
    gib = find_gib(co_find_regions(regions, MAX_REGIONS, false));
    if ( !gib )
        return xtf_error("Error: no GiB is mapped by one entry\n");
    printk("The GiB at gfn %#lx is mapped by one entry\n", gib);
    co_expect("entries that break where it is broken already",
              out_and_in(gib), 0);
    for ( i = 0; i < PLACES; i++ )
        place[i] = gib + i * (GIB_PAGES / PLACES);

    for ( round = 0; round < rounds; round++ )
    {
        co_phase("round");
        gibs = count(CO_PROMOTED_1G);
        co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
        end = co_now() + limit;
        while ( count(CO_PROMOTED_1G) == gibs && co_now() < end )
            co_sleep(10 * CO_MS);
        co_expect("GiB that are one entry again", count(CO_PROMOTED_1G) - gibs,
                  1);
        co_expect("set_mode", co_set_mode(CO_MODE_OFF), 0);
        /* What Xen keeps once it was used, it has now. */
        if ( !round )
            co_pages_now(&before);

        co_expect("entries that break", out_and_in(place[0]), 2);
        for ( i = 1; i < PLACES; i++ )
            co_expect("entries that break", out_and_in(place[i]), 1);
    }

    co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
    gibs = count(CO_PROMOTED_1G);
    end = co_now() + limit;
    while ( count(CO_PROMOTED_1G) == gibs && co_now() < end )
        co_sleep(10 * CO_MS);
    for ( i = 0; i < PLACES; i++ )
        co_expect_true("contents", co_check(place[i], 7));

    co_settle(regions, 0);
    co_check_leak(&before, PLACES);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    co_finish();
}
