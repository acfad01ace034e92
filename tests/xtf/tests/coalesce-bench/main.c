/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What memory operations cost, in TSC ticks: on an emulator that counts
 * instructions a figure that is the same to the last digit in every run.
 *
 * Each operation is done a few times in the same state, so that what it does
 * only once is done; the smallest figure is printed, for an interrupt of Xen's
 * own may come into any of them.  Works on an unpatched Xen too,
 * without what that does not have.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "What memory operations cost";

#define ROUNDS  4
#define REGIONS 8

static unsigned long regions[REGIONS];

/* Scattered pages: some of each region, in no order. */
static unsigned long a[CO_REGION_PAGES], b[CO_REGION_PAGES];

/* What reading the clock costs is taken off. */
static uint64_t start, overhead;

static void begin(void)
{
    start = co_rdtsc();
}

static uint64_t ticks(void)
{
    return co_rdtsc() - start - overhead;
}

static void print(const char *name, uint64_t value)
{
    printk("@count %s %" PRIu64 "\n", name, value);
}

static uint64_t least(uint64_t t)
{
    uint64_t now = ticks();

    return !t || now < t ? now : t;
}

/* The cost of an rdtsc itself, to be taken off. */
static void bench_nothing(void)
{
    unsigned int i;
    uint64_t t = 0;

    for ( i = 0; i < ROUNDS; i++ )
    {
        begin();
        t = least(t);
    }
    print("nothing", t);
    overhead = t;
}

static void bench_copy(void)
{
    unsigned int i;
    uint64_t t = 0;

    for ( i = 0; i < ROUNDS; i++ )
    {
        begin();
        memcpy(pfn_to_virt(regions[6]), pfn_to_virt(regions[7]),
               CO_REGION_PAGES << PAGE_SHIFT);
        t = least(t);
    }
    print("copy_2m", t);
}

/*
 * The instructions with which Xen copies a page (arch/x86/copy_page.S), for as
 * many: 13 for each 32 bytes.
 */
static void copy_as_xen(void *to, const void *from, unsigned long bytes)
{
    unsigned long n = bytes / 32, a0, a1, a2, a3;

    __asm__ __volatile__ (
        "1: prefetchnta 96(%[from])\n\t"
        "mov (%[from]), %[a0]\n\t"
        "mov 8(%[from]), %[a1]\n\t"
        "mov 16(%[from]), %[a2]\n\t"
        "mov 24(%[from]), %[a3]\n\t"
        "add $32, %[from]\n\t"
        "movnti %[a0], (%[to])\n\t"
        "movnti %[a1], 8(%[to])\n\t"
        "movnti %[a2], 16(%[to])\n\t"
        "movnti %[a3], 24(%[to])\n\t"
        "lea 32(%[to]), %[to]\n\t"
        "dec %[n]\n\t"
        "jnz 1b\n\t"
        "sfence"
        : [to] "+r" (to), [from] "+r" (from), [n] "+r" (n), [a0] "=&r" (a0),
          [a1] "=&r" (a1), [a2] "=&r" (a2), [a3] "=&r" (a3)
        :: "memory" );
}

static void bench_bare_copy(void)
{
    unsigned int i;
    uint64_t t = 0;

    for ( i = 0; i < ROUNDS; i++ )
    {
        begin();
        copy_as_xen(pfn_to_virt(regions[6]), pfn_to_virt(regions[7]),
                    CO_REGION_PAGES << PAGE_SHIFT);
        t = least(t);
    }
    print("bare_copy_2m", t);
}

static void bench_pages(unsigned long nr, const char *out, const char *in)
{
    unsigned int i;
    uint64_t t_out = 0, t_in = 0;

    for ( i = 0; i < ROUNDS; i++ )
    {
        begin();
        co_expect("decrease", co_decrease(a, nr, 0), nr);
        t_out = least(t_out);
        begin();
        co_expect("populate", co_populate(a, nr, 0), nr);
        t_in = least(t_in);
    }
    print(out, t_out);
    print(in, t_in);
}

static void bench_regions(void)
{
    unsigned int i;
    uint64_t t_out = 0, t_in = 0;

    for ( i = 0; i < ROUNDS; i++ )
    {
        begin();
        co_expect("decrease", co_decrease(&regions[4], 1, 9), 1);
        t_out = least(t_out);
        begin();
        co_expect("populate", co_populate(&regions[4], 1, 9), 1);
        t_in = least(t_in);
    }
    print("decrease_2m", t_out);
    print("populate_2m", t_in);
}

static void bench_split(void)
{
    unsigned long page = regions[4] + 77;

    begin();
    co_expect("decrease", co_decrease(&page, 1, 0), 1);
    print("decrease_first", ticks());
    co_expect("populate", co_populate(&page, 1, 0), 1);
}

static void bench_exchange(unsigned long nr, const char *name)
{
    unsigned int i;
    uint64_t t = 0;

    /* Pages of a for holes at b, and back again. */
    co_expect("decrease", co_decrease(b, nr, 0), nr);
    for ( i = 0; i < 2 * ROUNDS; i++ )
    {
        begin();
        co_expect("exchange",
                  co_exchange(i & 1 ? b : a, nr, 0, i & 1 ? a : b, nr, 0, NULL),
                  0);
        t = least(t);
    }
    co_expect("populate", co_populate(b, nr, 0), nr);
    print(name, t);
}

static void bench_exchange_region(void)
{
    unsigned int i;
    uint64_t t = 0;

    co_expect("decrease", co_decrease(&regions[5], 1, 9), 1);
    for ( i = 0; i < 2 * ROUNDS; i++ )
    {
        unsigned long *in = &regions[4 + (i & 1)], *out = &regions[5 - (i & 1)];

        begin();
        co_expect("exchange", co_exchange(in, 1, 9, out, 1, 9, NULL), 0);
        t = least(t);
    }
    co_expect("populate", co_populate(&regions[5], 1, 9), 1);
    print("exchange_2m", t);
}

/*
 * Swap the frames of two pages that both are RAM, by way of a hole: the tables
 * of both regions are broken by it.
 */
static void swap(unsigned long x, unsigned long y, unsigned long hole)
{
    if ( x == y )
        return;
    co_expect("move", co_move(x, hole), 0);
    co_expect("move", co_move(y, x), 0);
    co_expect("move", co_move(hole, y), 0);
}

/* What an act takes, its holds of the p2m lock, and the copying in them. */
struct took {
    uint64_t all, hold, copy;
};

static void print_took(const char *name, const struct took *took)
{
    printk("@count %s %" PRIu64 "\n", name, took->all);
    printk("@count %s_hold %" PRIu64 "\n", name, took->hold);
    printk("@count %s_copy %" PRIu64 "\n", name, took->copy);
}

/*
 * Ask for a region to be coalesced. What it takes is noted if it is less than
 * before: an interrupt may come into it.
 */
static void act_once(const char *name, unsigned long region,
                     unsigned int expected, unsigned int copied,
                     struct took *least)
{
    static struct co_info info[2];
    uint64_t t;

    co_expect("get_info", co_get_info(&info[0]), 0);
    begin();
    co_expect(name, co_coalesce_one(region, CO_MODE_FULL), expected);
    t = ticks();
    co_expect("get_info", co_get_info(&info[1]), 0);

    co_expect("pages copied",
              info[1].count[CO_PAGES_COPIED] - info[0].count[CO_PAGES_COPIED],
              copied);
    if ( least->all && least->all <= t )
        return;
    least->all = t;
    least->hold = info[1].count[CO_HOLD_TICKS] - info[0].count[CO_HOLD_TICKS];
    least->copy = info[1].count[CO_COPY_TICKS] - info[0].count[CO_COPY_TICKS];
}

static void act(const char *name, unsigned long region, unsigned int expected,
                unsigned int copied)
{
    struct took took = {};

    act_once(name, region, expected, copied, &took);
    print_took(name, &took);
}

/*
 * k pages of a region get other frames, and those that they had are free; where
 * these come from are holes, for the time being.
 */
static void lose(unsigned long region, unsigned long from, unsigned int k)
{
    unsigned int i;
    unsigned long page;

    for ( i = 0; i < k; i++ )
    {
        page = region + i * (CO_REGION_PAGES / k);
        co_expect("decrease", co_decrease(&page, 1, 0), 1);
    }
    for ( i = 0; i < k; i++ )
        co_expect("move", co_move(from + (i * 7 + 3) % CO_REGION_PAGES,
                                  region + i * (CO_REGION_PAGES / k)), 0);
}

static void refill(unsigned long from, unsigned int k)
{
    unsigned int i;
    unsigned long page;

    for ( i = 0; i < k; i++ )
    {
        page = from + (i * 7 + 3) % CO_REGION_PAGES;
        co_expect("populate", co_populate(&page, 1, 0), 1);
    }
}

/* What each act costs; "nothing" is a look at a region that is whole. */
static void bench_acts(void)
{
    static const unsigned int some[] = { 1, 8, 64 };
    static const char *const names[] = { "complete_1", "complete_8",
                                         "complete_64" };
    unsigned long hole = regions[7] + 5;
    unsigned int i, k, refused = CO_REFUSED + CO_REASON_WHOLE_ALREADY;
    uint8_t outcomes[REGIONS];
    struct took nothing = {}, most = {};

    /* What was left broken by the others. */
    for ( i = 0; i < REGIONS; i++ )
        co_expect_true("a region is whole",
                       co_coalesce_one(regions[i], CO_MODE_FULL) <= refused);

    /* Bad calls. */
    co_expect("a mode that does not exist",
              co_coalesce(regions[0], 1, 4, outcomes), -EINVAL);
    co_expect("a range that is not aligned",
              co_coalesce(regions[0] + 1, 1, CO_MODE_FULL, outcomes), -EINVAL);
    co_expect("a long range",
              co_coalesce(regions[0], 4097, CO_MODE_FULL, outcomes), -EINVAL);
    co_expect("a bad buffer",
              co_coalesce(regions[0], 1, CO_MODE_FULL, _p(~0UL << 47)), -EFAULT);

    co_expect("decrease", co_decrease(&hole, 1, 0), 1);
    for ( k = 0; k < ROUNDS; k++ )
        act_once("act_nothing", regions[0], refused, 0, &nothing);
    print_took("act_nothing", &nothing);

    co_expect("move", co_move(regions[0] + 9, hole), 0);
    co_expect("move", co_move(hole, regions[0] + 9), 0);
    act("promote", regions[0], CO_PROMOTED, 0);

    for ( i = 0; i < ARRAY_SIZE(some); i++ )
    {
        struct took took = {};

        for ( k = 0; k < ROUNDS; k++ )
        {
            lose(regions[0], regions[1], some[i]);
            act_once(names[i], regions[0], CO_COMPLETED, some[i], &took);
            refill(regions[1], some[i]);
            co_coalesce_one(regions[1], CO_MODE_FULL);
        }
        print_took(names[i], &took);
    }

    /*
     * All over two regions: it is best to copy them. What it takes to free the old
     * frames depends on their neighbours: the dearest of a few times.
     */
    for ( k = 0; k < ROUNDS; k++ )
    {
        struct took took = {};

        for ( i = 0; i < CO_REGION_PAGES; i++ )
            swap(regions[0] + i, regions[1] + co_rand() % CO_REGION_PAGES,
                 hole);
        act_once("migrate", regions[0], CO_MIGRATED, CO_REGION_PAGES, &took);
        if ( took.all > most.all )
            most = took;
        co_coalesce_one(regions[1], CO_MODE_FULL);
    }
    print_took("migrate", &most);

    /* Two pages in each other's place: a cycle. */
    swap(regions[0] + 8, regions[0] + 80, hole);
    act("complete_cycle_2", regions[0], CO_COMPLETED, 3);

    /* A page in the place of another region's, which has to make room. */
    swap(regions[0] + 8, regions[1] + 80, hole);
    act("complete_swap_1", regions[0], CO_COMPLETED, 2);
    act("complete_swapped_1", regions[1], CO_COMPLETED, 1);

    /* The same, as it is when the places are taken by others: none is free. */
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        swap(regions[0] + i, regions[1] + co_rand() % CO_REGION_PAGES, hole);
    co_coalesce_one(regions[1], CO_MODE_FULL);
    co_coalesce_one(regions[0], CO_MODE_FULL);

    co_expect("populate", co_populate(&hole, 1, 0), 1);
    co_coalesce_one(regions[7], CO_MODE_FULL);
}

void test_main(void)
{
    static struct co_info info;
    struct co_pages before;
    unsigned int i;

    co_init();
    if ( co_find_regions(regions, REGIONS, true) < REGIONS )
        return xtf_error("Error: too little memory in 2M pages\n");

    /* Only what the guest asks for: nothing is healed meanwhile. */
    if ( co_feature == CO_FEATURE_PRESENT )
        co_expect("set_mode", co_set_mode(CO_MODE_OFF), 0);

    for ( i = 0; i < CO_REGION_PAGES; i++ )
    {
        a[i] = regions[i % 2] + i;
        b[i] = regions[2 + i % 2] + i;
    }
    co_srand(1);
    co_shuffle(a, CO_REGION_PAGES);
    co_shuffle(b, CO_REGION_PAGES);
    co_pages_now(&before);

    bench_nothing();
    bench_copy();
    bench_bare_copy();
    bench_regions();
    bench_split();
    bench_regions();
    bench_pages(1, "decrease_1", "populate_1");
    bench_pages(CO_REGION_PAGES, "decrease_512", "populate_512");
    if ( co_feature == CO_FEATURE_PRESENT )
    {
        bench_exchange(1, "exchange_1");
        bench_exchange(CO_REGION_PAGES, "exchange_512");
        bench_exchange_region();
        bench_acts();

        /* The same with the coalescer listening. */
        co_expect("set_mode", co_set_mode(CO_MODE_FULL), 0);
        co_settle(regions, REGIONS);
        for ( i = 0; i < REGIONS; i++ )
            co_expect("whole", co_region_state(regions[i]), CO_REGION_WHOLE);
        bench_pages(1, "listening_decrease_1", "listening_populate_1");
        bench_pages(CO_REGION_PAGES, "listening_decrease_512",
                    "listening_populate_512");
        co_settle(regions, REGIONS);
        co_expect("get_info", co_get_info(&info), 0);
        co_print_counts(&info);
    }
    co_check_leak(&before, REGIONS);
    co_finish();
}
