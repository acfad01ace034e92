/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest does that compacts its balloon: a quarter of its memory is ballooned
 * out here and there, and then the holes are brought together, one page at a time,
 * ten thousand times: a page near the end of memory is given, and the lowest hole
 * filled.  This is what Linux's compaction would ask a balloon driver for.
 *
 * Counted is how many regions one 2M entry maps before that and after it, when
 * nothing looks after them (off), when frames are put back where they were (in
 * place, without a copy), and with all there is (full).
 *
 * Command line: seed=N (1), exchanges=N (10000).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Compacting a balloon";

#define REGIONS 64
#define PAGES   (REGIONS * CO_REGION_PAGES)
#define RUN     256U            /* pages that are ballooned out in a row, at most */

static unsigned long regions[REGIONS];
static uint8_t hole[PAGES];
static uint32_t seed[PAGES], next_seed = 1;
static unsigned int holes;

static unsigned long gfn_of(unsigned int page)
{
    return regions[page / CO_REGION_PAGES] + page % CO_REGION_PAGES;
}

static void mark(unsigned int page)
{
    uint64_t *p = pfn_to_virt(gfn_of(page));

    seed[page] = next_seed++;
    p[0] = p[511] = ((uint64_t)seed[page] << 32) | page;
}

static void check_all(void)
{
    unsigned int page, wrong = 0;

    for ( page = 0; page < PAGES; page++ )
    {
        const uint64_t *p = pfn_to_virt(gfn_of(page));
        uint64_t want = ((uint64_t)seed[page] << 32) | page;

        if ( !hole[page] && (p[0] != want || p[511] != want) )
            wrong++;
    }
    co_expect("pages with wrong contents", wrong, 0);
}

static unsigned int whole(void)
{
    static uint8_t map[REGIONS];
    unsigned int i, nr = 0;

    for ( i = 0; i < REGIONS; i++ )
    {
        co_expect("get_map", co_get_map(regions[i], 1, &map[i]), 0);
        nr += map[i] == CO_REGION_WHOLE;
    }

    return nr;
}

static void give(unsigned int page)
{
    unsigned long gfn = gfn_of(page);

    co_expect("balloon out", co_decrease(&gfn, 1, 0), 1);
    hole[page] = 1;
    holes++;
}

static void take(unsigned int page)
{
    unsigned long gfn = gfn_of(page);

    co_expect("balloon in", co_populate(&gfn, 1, 0), 1);
    hole[page] = 0;
    holes--;
    mark(page);
}

/* Until a quarter is gone. */
static void balloon(void)
{
    while ( holes < PAGES / 4 )
    {
        unsigned int page = co_rand() % PAGES, run = 1 + co_rand() % RUN;

        for ( ; run && page < PAGES && holes < PAGES / 4; run--, page++ )
            if ( !hole[page] )
                give(page);
    }
}

/* Two scanners that walk towards each other, until they meet. */
static void compact(unsigned int *moved, unsigned int most)
{
    unsigned int low = 0, high = PAGES;

    while ( *moved < most )
    {
        unsigned long in, out;

        while ( low < PAGES && !hole[low] )
            low++;
        while ( high && hole[high - 1] )
            high--;
        if ( !high || low >= high - 1 )
            return;

        out = gfn_of(low);
        in = gfn_of(high - 1);
        co_expect("exchange", co_exchange(&in, 1, 0, &out, 1, 0, NULL), 0);
        hole[low] = 0;
        hole[high - 1] = 1;
        mark(low);
        ++*moved;
    }
}

/* What is going on in the background comes to its end. */
static void rest(void)
{
    static struct co_info info;
    uint64_t end = co_now() + 60 * CO_S, copied = ~0UL;
    unsigned int still = 0;

    while ( still < 20 && co_now() < end )
    {
        co_sleep(20 * CO_MS);
        co_expect("get_info", co_get_info(&info), 0);
        still = info.count[CO_PAGES_COPIED] + info.count[CO_PROMOTED] == copied
                ? still + 1 : 0;
        copied = info.count[CO_PAGES_COPIED] + info.count[CO_PROMOTED];
    }
}

static void run(const char *name, unsigned int mode, unsigned int exchanges)
{
    unsigned int page, moved = 0, before, after, rounds = 0;

    co_phase(name);
    co_expect("set_mode", co_set_mode(mode), 0);
    co_srand(co_param("seed", 1));

    /* One round is done when all holes lie together: then they are spread anew. */
    do {
        for ( page = 0; page < PAGES; page++ )
            if ( hole[page] )
                take(page);
        co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
        rest();
        co_expect("regions that are whole at first", whole(), REGIONS);
        co_expect("set_mode", co_set_mode(mode), 0);

        balloon();
        rest();
        before = whole();
        compact(&moved, exchanges);
        rest();
        after = whole();
        printk("round %u: %u whole before, %u after, %u exchanges\n", rounds,
               before, after, moved);
        if ( mode != CO_MODE_OFF )
            co_expect_true("no fewer than before", after >= before);
        if ( !rounds++ )
        {
            printk("@count compact_%s_before %u\n", name, before);
            printk("@count compact_%s_after %u\n", name, after);
        }
        check_all();
    } while ( moved < exchanges );
    printk("@count compact_%s_exchanges %u\n", name, moved);
}

void test_main(void)
{
    unsigned int exchanges = co_param("exchanges", 10000), page;
    struct co_pages before;
    static struct co_info info;

    co_init();
    if ( !co_require_feature() )
        return;
    if ( co_find_regions(regions, REGIONS, true) < REGIONS )
        return xtf_error("Error: too little memory in 2M pages\n");

    for ( page = 0; page < PAGES; page++ )
        mark(page);
    co_pages_now(&before);

    run("off", CO_MODE_OFF, exchanges);
    run("in_place", CO_MODE_IN_PLACE, exchanges);
    run("full", CO_MODE_FULL, exchanges);

    co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
    for ( page = 0; page < PAGES; page++ )
        if ( hole[page] )
            take(page);
    rest();
    check_all();
    co_check_leak(&before, REGIONS);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    co_finish();
}
