/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All vCPUs use the same memory while it is broken and made whole again.
 *
 * Each word of each page belongs to one vCPU, in turn. A vCPU that comes to a
 * page finds there what it wrote last and writes something new; a word that is
 * lost, old, or another page's is seen. Meanwhile vCPU 0 balloons pages out and
 * in, and moves frames about, so that regions need every kind of act; of a page
 * that it takes away the others keep off, of the rest of its region they do not.
 *
 * If there are CPUs enough, one vCPU never sleeps and measures how long it was
 * kept from its work: the longest stalls are those in which Xen hid a region.
 *
 * Command line: seed=N, regions=N (16), rounds=N (15), limit_ms=N (60000, guest
 * time), moves=N (0): go on until so many regions were made whole by moving frames,
 * and do not wait for that to be done in time, but ask for it.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Coalescing under several vCPUs";

#define MAX_REGIONS 32
#define MAX_LANES   8U
#define NR_PAGES    (MAX_REGIONS * CO_REGION_PAGES)
#define WORDS       (PAGE_SIZE / sizeof(uint64_t))

static unsigned long regions[MAX_REGIONS];
static unsigned int nr_regions, nr_lanes;

/* How often a vCPU has written a page; 0: what is there is not its own. */
static uint16_t written[MAX_LANES][NR_PAGES];
/* Pages that are not to be touched. */
static uint8_t away[NR_PAGES];

/* vCPUs say which epoch they have seen when they do not hold on to any page. */
static unsigned int epoch, seen[MAX_LANES];
static bool stop;

static struct lane {
    uint64_t passes, pages, wrong, got, want;
    unsigned long gfn;
    unsigned int word;
    bool spins;
} lanes[MAX_LANES];

/* Of the vCPU that spins, in ticks. */
static struct co_gaps stalls;

static unsigned long gfn_of(unsigned int page)
{
    return regions[page / CO_REGION_PAGES] + page % CO_REGION_PAGES;
}

static uint64_t pattern(unsigned long gfn, unsigned int word, unsigned int nr)
{
    return ((uint64_t)nr << 48) ^ (gfn * 0x9e3779b97f4a7c15ULL) ^
           (word * 0xd6e8feb86659fd93ULL);
}

/* Check and write some words of this vCPU's in one page, from word first on. */
static void use(unsigned int me, unsigned int page, unsigned int first,
                unsigned int last)
{
    struct lane *l = &lanes[me];
    unsigned long gfn = gfn_of(page);
    volatile uint64_t *p = pfn_to_virt(gfn);
    unsigned int nr = written[me][page], i;

    for ( i = first + me; i < last; i += nr_lanes )
    {
        uint64_t got = p[i], want = pattern(gfn, i, nr);

        if ( nr && got != want && !l->wrong++ )
        {
            l->gfn = gfn;
            l->word = i;
            l->got = got;
            l->want = want;
        }
        p[i] = pattern(gfn, i, (uint16_t)(nr + 1) ?: 1);
    }
    l->pages++;
}

static bool use_page(unsigned int me, unsigned int page)
{
    ACCESS_ONCE(seen[me]) = ACCESS_ONCE(epoch);

    if ( ACCESS_ONCE(away[page]) )
        return false;

    use(me, page, 0, WORDS);
    written[me][page] = (uint16_t)(written[me][page] + 1) ?: 1;

    return true;
}

static void write_region(unsigned int me, unsigned int r)
{
    unsigned int i;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
        use_page(me, r * CO_REGION_PAGES + i);
}

static void writer(unsigned int me, void *lane)
{
    struct lane *l = lane;
    unsigned int r;

    while ( !ACCESS_ONCE(stop) )
    {
        for ( r = 0; r < nr_regions && !ACCESS_ONCE(stop); r++ )
        {
            write_region(me, r);
            co_sleep(CO_MS);    /* Xen works in idle time */
        }
        l->passes++;
    }
    ACCESS_ONCE(seen[me]) = ~0U;
}

static void spinner(unsigned int me, void *lane)
{
    struct lane *l = lane;
    unsigned int page = 0;
    uint64_t last = co_rdtsc();

    while ( !ACCESS_ONCE(stop) )
    {
        bool used = use_page(me, page);
        uint64_t now = co_rdtsc(), gap = now - last;

        last = now;
        if ( used )
            co_gap(&stalls, gap);

        /* Far from the page before, and yet all of them in turn. */
        page = (page + CO_REGION_PAGES + 1) % (nr_regions * CO_REGION_PAGES);
        if ( !page )
            l->passes++;
    }
    ACCESS_ONCE(seen[me]) = ~0U;
}

static void set_away(const unsigned int *pages, unsigned int nr)
{
    uint64_t end = co_now() + 30 * CO_S;
    unsigned int i, now;

    for ( i = 0; i < nr; i++ )
        away[pages[i]] = 1;
    smp_mb();
    now = ACCESS_ONCE(epoch) + 1;
    ACCESS_ONCE(epoch) = now;

    for ( i = 1; i < nr_lanes; i++ )
    {
        while ( ACCESS_ONCE(seen[i]) != now && co_now() < end )
            hypercall_yield();

        if ( ACCESS_ONCE(seen[i]) != now )
        {
            /* Where all CPUs are, what runs, and what every vCPU waits for. */
            co_debug_key('d');
            co_debug_key('r');
            co_debug_key('q');
            panic("vCPU %u does not come round: after %" PRIu64 " pages it has seen %u of %u\n",
                  i, ACCESS_ONCE(lanes[i].pages), ACCESS_ONCE(seen[i]), now);
        }
    }
}

static void set_back(const unsigned int *pages, unsigned int nr)
{
    unsigned int i, l;

    for ( i = 0; i < nr; i++ )
        for ( l = 0; l < nr_lanes; l++ )
            written[l][pages[i]] = 0;
    smp_mb();
    for ( i = 0; i < nr; i++ )
        ACCESS_ONCE(away[pages[i]]) = 0;
}

/* Out, and in again in another order. */
static void balloon(unsigned int a, unsigned int b)
{
    unsigned int pages[2] = { a, b };
    unsigned long gfns[2] = { gfn_of(a), gfn_of(b) };

    set_away(pages, 2);
    co_expect("pages ballooned out", co_balloon_out(gfns, 2, 0), 2);
    co_shuffle(gfns, 2);
    co_expect("pages ballooned in", co_populate(gfns, 2, 0), 2);
    set_back(pages, 2);
}

/* The frames of b's pages go to a's, and b gets new ones. */
static void move(unsigned int a, unsigned int b, unsigned int nr,
                 unsigned int step)
{
    static unsigned int pages[2 * CO_REGION_PAGES];
    static unsigned long to[CO_REGION_PAGES], from[CO_REGION_PAGES];
    static uint8_t copy[PAGE_SIZE];
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        pages[i] = a + i * step;
        pages[nr + i] = b + i * step;
        to[i] = gfn_of(pages[i]);
        from[i] = gfn_of(pages[nr + i]);
    }

    set_away(pages, 2 * nr);
    memcpy(copy, pfn_to_virt(from[0]), PAGE_SIZE);
    co_expect("pages ballooned out", co_balloon_out(to, nr, 0), nr);
    for ( i = 0; i < nr; i++ )
        co_expect("frame moved", co_move(from[i], to[i]), 0);
    co_expect_true("what was in a moved frame is in it still",
                   !memcmp(copy, pfn_to_virt(to[0]), PAGE_SIZE));
    co_shuffle(from, nr);
    co_expect("pages ballooned in", co_populate(from, nr, 0), nr);
    set_back(pages, 2 * nr);
}

/*
 * Half of the pages of each of two regions, or all of one, get new frames, in no
 * order, with one hypercall.
 */
static void replace(unsigned int a, unsigned int b)
{
    static unsigned int pages[CO_REGION_PAGES];
    static unsigned long gfns[CO_REGION_PAGES];
    unsigned int i;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
    {
        pages[i] = (i % 2 ? a : b) + i;
        gfns[i] = gfn_of(pages[i]);
    }

    set_away(pages, CO_REGION_PAGES);
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        memset(pfn_to_virt(gfns[i]), 0, PAGE_SIZE);
    co_shuffle(gfns, CO_REGION_PAGES);
    co_expect("pages exchanged",
              co_exchange(gfns, CO_REGION_PAGES, 0, gfns, CO_REGION_PAGES, 0,
                          NULL), 0);
    set_back(pages, CO_REGION_PAGES);
}

static void break_two(unsigned int kind, unsigned int r1, unsigned int r2)
{
    unsigned int a = r1 * CO_REGION_PAGES, b = r2 * CO_REGION_PAGES;

    if ( kind == 0 )
        balloon(a + co_rand() % CO_REGION_PAGES,
                b + co_rand() % CO_REGION_PAGES);
    else if ( kind == 1 )
        move(a + co_rand() % CO_REGION_PAGES,
             b + co_rand() % CO_REGION_PAGES, 1, 1);
    else if ( kind == 2 )
        replace(a, co_rand() % 2 ? a : b);
    else
        move(a + 1, b + 1, CO_REGION_PAGES / 2, 2);
}

static unsigned int count_whole(void)
{
    unsigned int r, nr = 0;

    for ( r = 0; r < nr_regions; r++ )
        nr += co_region_state(regions[r]) == CO_REGION_WHOLE;

    return nr;
}

/* Regions that were made whole by moving frames. */
static unsigned long count_moved(void)
{
    static struct co_info info;

    co_expect("get_info", co_get_info(&info), 0);

    return info.count[CO_COMPLETED] + info.count[CO_MIGRATED];
}

static void start_others(void)
{
    unsigned int i, cpus = co_host_cpus();

    for ( i = 1; i < nr_lanes; i++ )
    {
        /* Were there no CPU besides, Xen would have no idle time. */
        lanes[i].spins = i == nr_lanes - 1 && cpus >= nr_lanes && cpus > 1;
        co_expect("a vCPU starts",
                  co_cpu_start(i, lanes[i].spins ? spinner : writer,
                               &lanes[i]), 0);
    }
    printk("%u vCPUs on %u CPUs%s\n", nr_lanes, cpus,
           lanes[nr_lanes - 1].spins ? ", of which one never sleeps" : "");
}

/* One wrong word is found, and whose it is. */
static void check_the_check(void)
{
    volatile uint64_t *p = pfn_to_virt(gfn_of(77));

    p[nr_lanes + 1] ^= 1;
    use(0, 77, 0, WORDS);
    co_expect("words of the others that vCPU 0 finds wrong", lanes[0].wrong, 0);
    use(1, 77, 0, WORDS);
    co_expect("words of its own that are wrong", lanes[1].wrong, 1);
    co_expect("where", lanes[1].word, nr_lanes + 1);
}

static void report_lanes(void)
{
    uint64_t pages = 0, passes = ~(uint64_t)0;
    unsigned int i;

    for ( i = 0; i < nr_lanes; i++ )
    {
        const struct lane *l = &lanes[i];

        if ( !co_expect("words that a vCPU found wrong", l->wrong, 0) )
            printk("... vCPU %u: gfn %#lx word %u first: expected %#" PRIx64 ", got %#" PRIx64 "\n",
                   i, l->gfn, l->word, l->want, l->got);
        pages += l->pages;
        passes = min(passes, l->passes);
    }
    co_expect_true("each vCPU came round at least once", passes);
    printk("@count vcpus %u\n@count pages_used %" PRIu64 "\n@count fewest_passes %" PRIu64 "\n",
           nr_lanes, pages, passes);

    if ( lanes[nr_lanes - 1].spins )
        co_print_gaps("stall", "ticks", &stalls);
}

void test_main(void)
{
    static struct co_info before, after;
    struct co_pages pages;
    uint64_t end, limit, acts;
    unsigned int i, r, rounds;
    unsigned long moves, moved = 0;

    co_init();
    if ( !co_require_feature() )
        return;

    nr_lanes = min(co_nr_cpus(), MAX_LANES);
    if ( nr_lanes < 2 )
        return xtf_error("Error: one vCPU is too few: dom0_max_vcpus=4\n");

    nr_regions = co_param("regions", 16);
    rounds = co_param("rounds", 15);
    moves = co_param("moves", 0);
    limit = co_param("limit_ms", 60000) * CO_MS;
    if ( nr_regions < 2 || nr_regions > MAX_REGIONS )
        return xtf_error("Error: regions= has to be 2 to %u\n", MAX_REGIONS);

    r = co_find_regions(regions, nr_regions, true);
    if ( r < nr_regions )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, nr_regions);

    co_expect("get_info", co_get_info(&before), 0);
    co_pages_now(&pages);

    co_phase("start");
    start_others();

    co_phase("breaking");
    for ( i = 0; i < rounds || moved < moves; i++ )
    {
        unsigned int r1 = co_rand() % nr_regions;
        unsigned int r2 = (r1 + 1 + co_rand() % (nr_regions - 1)) % nr_regions;

        break_two(i % (moves ? 3 : 4), r1, r2);
        write_region(0, r1);
        write_region(0, r2);
        if ( moves )
        {
            co_coalesce_one(regions[r1], CO_MODE_FULL);
            co_coalesce_one(regions[r2], CO_MODE_FULL);
            moved = count_moved();
            if ( i % 256 == 0 )
                printk("%lu regions were moved in %u rounds\n", moved, i + 1);
            continue;
        }
        co_sleep(5 * CO_MS);
        if ( i % 4 == 0 )
            co_print_map("breaking", regions, nr_regions);
    }

    if ( moves )
        printk("@count moved %lu\n", moved);

    co_phase("healing");
    end = co_now() + limit;
    while ( count_whole() < nr_regions && co_now() < end )
    {
        for ( r = 0; r < nr_regions; r++ )
        {
            write_region(0, r);
            co_sleep(CO_MS);
        }
        lanes[0].passes++;
        co_print_map("healing", regions, nr_regions);
    }
    co_expect("regions that are whole", count_whole(), nr_regions);

    /* Whatever was moved last is read once more by everybody. */
    co_phase("end");
    for ( i = 1; i < nr_lanes; i++ )
    {
        uint64_t passes = ACCESS_ONCE(lanes[i].passes);

        end = co_now() + limit;
        while ( ACCESS_ONCE(lanes[i].passes) < passes + 2 && co_now() < end )
            co_sleep(CO_MS);
    }
    for ( r = 0; r < nr_regions; r++ )
        write_region(0, r);
    lanes[0].passes++;

    ACCESS_ONCE(stop) = true;
    for ( i = 1; i < nr_lanes; i++ )
        co_expect_true("a vCPU stops", co_cpu_wait(i, 10 * CO_S));
    report_lanes();
    check_the_check();

    co_settle(regions, nr_regions);
    co_check_leak(&pages, nr_regions);

    co_expect("get_info", co_get_info(&after), 0);
    co_print_counts(&after);
    co_check_law(&after);
    acts = after.count[CO_PROMOTED] - before.count[CO_PROMOTED] +
           after.count[CO_COMPLETED] - before.count[CO_COMPLETED] +
           after.count[CO_MIGRATED] - before.count[CO_MIGRATED];
    co_expect_true("regions were made whole while they were in use", acts);
    co_expect_true("and frames were moved",
                   after.count[CO_PAGES_COPIED] >
                   before.count[CO_PAGES_COPIED]);

    co_finish();
}
