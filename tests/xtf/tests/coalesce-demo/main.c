/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of a guest's superpages, to watch: whole at first, broken by
 * ballooning and by exchanging pages, and made whole again, all but two for
 * which there is a good reason; when the reason goes, they heal too.
 *
 * Command line: seed=N, regions=N (48), limit_ms=N (20000).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Superpages: broken, and made whole again";

#define MAX_REGIONS 64

/* What is to be done to a region, by its place in the list. */
#define HOLED   0               /* keeps a hole for a while */
#define HELD    1               /* has a page that Xen holds on to */
#define OTHERS  2

static unsigned long regions[MAX_REGIONS];
static unsigned int nr_regions;
static uint64_t limit;

#define SEED 7

/* The page that Xen writes to, or a hole: nothing to compare there. */
static unsigned long except[2] = { ~0UL, ~0UL };

static void check_contents(void)
{
    unsigned int r, i, wrong = 0;

    for ( r = 0; r < nr_regions; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
        {
            unsigned long gfn = regions[r] + i;

            if ( gfn != except[0] && gfn != except[1] )
                wrong += !co_check(gfn, SEED);
        }

    co_expect("wrong pages", wrong, 0);
}

static unsigned int count_whole(unsigned int first)
{
    unsigned int r, nr = 0;

    for ( r = first; r < nr_regions; r++ )
        nr += co_region_state(regions[r]) == CO_REGION_WHOLE;

    return nr;
}

static void show(const char *name)
{
    static struct co_info info;

    co_print_map(name, regions, nr_regions);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
}

/* Until all regions from first on are whole; a map for every change. */
static void watch(const char *name, unsigned int first)
{
    uint64_t start = co_now();
    unsigned int whole = count_whole(0);

    co_print_map(name, regions, nr_regions);
    while ( count_whole(first) != nr_regions - first &&
            co_now() - start < limit )
    {
        unsigned int now;

        co_sleep(3 * CO_MS);
        now = count_whole(0);
        if ( now != whole )
            co_print_map(name, regions, nr_regions);
        whole = now;
    }

    printk("@count %s_us %" PRIu64 "\n", name, (co_now() - start) / 1000);
    co_expect("regions that could be made whole", count_whole(first),
              nr_regions - first);
}

void test_main(void)
{
    static unsigned long gfns[MAX_REGIONS * 2], exch[MAX_REGIONS * 4];
    static struct co_info info;
    unsigned long done;
    struct co_pages pages;
    unsigned int r, i, nr = 0, half;

    co_init();
    if ( !co_require_feature() )
        return;

    nr_regions = co_param("regions", 48);
    limit = co_param("limit_ms", 20000) * CO_MS;
    if ( nr_regions < 8 || nr_regions > MAX_REGIONS )
        return xtf_error("Error: regions= has to be 8 to %u\n", MAX_REGIONS);

    r = co_find_regions(regions, nr_regions, true);
    if ( r < nr_regions )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, nr_regions);
    half = nr_regions / 2;

    co_phase("start");
    for ( r = 0; r < nr_regions; r++ )
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            co_fill(regions[r] + i, SEED);
    co_pages_now(&pages);
    if ( pages.iommu )
        return xtf_skip("Skip: with an IOMMU no page may be moved, and little heals\n");
    show("start");

    co_phase("balloon-out");
    for ( r = 0; r < half; r++ )
        for ( i = 0; i < 2; i++ )
            gfns[nr++] = regions[r] + i * 256 + co_rand() % 256;
    co_expect("pages ballooned out", co_balloon_out(gfns, nr, 0), nr);
    show("balloon-out");

    /* All but the first, which is in region HOLED; in another order. */
    co_phase("balloon-in");
    co_expect_true("the first page is in the first region",
                   gfns[0] - regions[HOLED] < CO_REGION_PAGES);
    except[0] = gfns[0];
    co_shuffle(gfns + 1, nr - 1);
    co_expect("pages ballooned in", co_populate(gfns + 1, nr - 1, 0), nr - 1);

    /* One that came back into region HELD is not to be moved from now on. */
    for ( i = 1; i < nr; i++ )
    {
        co_fill(gfns[i], SEED);
        if ( gfns[i] - regions[HELD] < CO_REGION_PAGES )
            except[1] = gfns[i];
    }
    co_expect("pin a page", co_pin(except[1]), 0);
    show("balloon-in");

    /* Two whole regions for fresh ones: nothing has to break for that. */
    co_phase("exchange-whole");
    co_expect("exchange",
              co_exchange(&regions[half], 2, 9, &regions[half], 2, 9, &done), 0);
    co_expect("regions exchanged", done, 2);
    for ( r = half; r < half + 2; r++ )
    {
        co_expect("an exchanged region", co_region_state(regions[r]),
                  CO_REGION_WHOLE);
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            co_fill(regions[r] + i, SEED);
    }
    show("exchange-whole");

    co_phase("exchange");
    for ( nr = 0, r = half; r < nr_regions; r++ )
        for ( i = 0; i < 4; i++ )
            exch[nr++] = regions[r] + i * 128 + co_rand() % 128;
    co_shuffle(exch, nr);
    co_expect("exchange", co_exchange(exch, nr, 0, exch, nr, 0, &done), 0);
    co_expect("pages exchanged", done, nr);
    for ( i = 0; i < nr; i++ )
        co_fill(exch[i], SEED);
    show("exchange");
    check_contents();

    co_phase("healing");
    watch("healing", OTHERS);
    check_contents();
    show("healed");

    /* Why the first two are as they are. */
    co_expect("the region with a hole", co_region_state(regions[HOLED]),
              CO_REGION_HOLES);
    if ( co_region_state(regions[HELD]) == CO_REGION_WHOLE )
        printk("The page that is held happened to be in its place\n");

    co_phase("release");
    co_expect("unpin", co_pin(~0UL), 0);
    co_expect("fill the hole", co_populate(&except[0], 1, 0), 1);
    co_fill(except[0], SEED);
    co_fill(except[1], SEED);
    except[0] = except[1] = ~0UL;
    watch("release", 0);

    co_phase("end");
    check_contents();
    show("end");
    co_check_leak(&pages, nr_regions);
    co_expect("get_info", co_get_info(&info), 0);
    co_check_law(&info);

    co_finish();
}
