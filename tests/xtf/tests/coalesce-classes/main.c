/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What keeps a region from being made whole: each class is brought about for a
 * region of another domain. While it lasts the region is left, when it is asked
 * for and in idle time, and the reason is counted; when it is gone, the region
 * becomes whole in idle time.
 *
 * Two classes exist with EPT only (mem_access, cacheability), and one only where
 * superpages must not be executed (XSA-304): how often each was seen is counted,
 * and the scenario says on which machine it has to be.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "What keeps a region from being made whole";

enum { CODE, DATA, WATCHED, PLAIN, CACHED, ODD, REGIONS };

#define FIRST(r)    ((r) * CO_REGION_PAGES)
#define PAGE(r, nr) (FIRST(r) + (nr))
#define ON_DEMAND   (1U << 16)      /* XENMEMF_populate_on_demand */

/* What is read of the other domain's memory appears here. */
static unsigned long window;
static int doll;
static struct co_info before, now;

static uint64_t grown(unsigned int index)
{
    return now.count[index] - before.count[index];
}

static uint64_t made_whole(void)
{
    return grown(CO_PROMOTED) + grown(CO_COMPLETED) + grown(CO_MIGRATED);
}

static void remember(void)
{
    co_expect("get_info", co_get_info_of(doll, &before), 0);
}

static void look(void)
{
    co_expect("get_info", co_get_info_of(doll, &now), 0);
    co_check_law(&now);
}

static void set_mode(unsigned int mode)
{
    co_expect("set_mode", co_set_mode_of(doll, mode), 0);
}

/* A page goes, and comes back. */
static void renew(unsigned long gfn)
{
    co_expect("take a page away", co_target_decrease(doll, &gfn, 1, 0), 1);
    co_expect("give it back", co_target_populate(doll, &gfn, 1, 0, 0), 1);
}

/* For this reason, whoever asks, and as it was. */
static void is_left(unsigned int r, unsigned int reason)
{
    unsigned int state = co_region_state_of(doll, FIRST(r));

    uint64_t asked;

    remember();
    co_expect("asked for", co_coalesce_one_of(doll, FIRST(r), CO_MODE_FULL),
              CO_REFUSED + reason);
    look();
    asked = grown(CO_REFUSED + reason);
    co_expect("counted", asked, 1);

    /*
     * That it is listened to anew has it looked for, but forget what was executed;
     * that a page comes back, too.
     */
    if ( reason != CO_REASON_EXEC_SP )
        set_mode(CO_MODE_FULL);
    else
        renew(PAGE(r, 9));
    co_sleep(60 * CO_MS);
    look();
    co_expect_true("counted in idle time",
                   grown(CO_REFUSED + reason) > asked);
    co_expect("regions made whole", made_whole(), 0);
    co_expect("pages copied", grown(CO_PAGES_COPIED), 0);
    co_expect("the region", co_region_state_of(doll, FIRST(r)), state);
}

static void becomes_whole(unsigned int r)
{
    uint64_t end = co_now() + 20 * CO_S;

    while ( co_region_state_of(doll, FIRST(r)) != CO_REGION_WHOLE &&
            co_now() < end )
        co_sleep(2 * CO_MS);

    co_expect("the region", co_region_state_of(doll, FIRST(r)),
              CO_REGION_WHOLE);
    look();
    co_expect_true("it was made so", made_whole());
    set_mode(CO_MODE_OFF);
}

/* One page of it gets another frame. */
static void scatter(unsigned int r)
{
    unsigned long gfn = PAGE(r, 77);
    struct xen_memory_exchange x = {
        .in = { &gfn, 1, 0, 0, doll },
        .out = { &gfn, 1, 0, 0, doll },
    };

    co_expect("exchange", hypercall_memory_op(XENMEM_exchange, &x), 0);
    co_expect("the region", co_region_state_of(doll, FIRST(r)),
              CO_REGION_BROKEN);
}

static uint64_t splits(unsigned int cause)
{
    look();
    co_expect("splits by this cause", grown(CO_SPLITS_BY + cause),
              grown(CO_SPLITS));

    return grown(CO_SPLITS);
}

static void pinned(void)
{
    co_phase("pinned");
    scatter(PLAIN);
    co_expect("map a page", co_foreign_map(doll, PAGE(PLAIN, 77), window), 0);
    is_left(PLAIN, CO_REASON_PINNED);
    co_expect("unmap it", co_foreign_unmap(window), 0);
    becomes_whole(PLAIN);
}

static void on_demand(void)
{
    unsigned long gfn = FIRST(REGIONS + 1);

    co_phase("populate-on-demand");
    scatter(PLAIN);
    co_expect("memory on demand",
              co_target_populate(doll, &gfn, 1, 9, ON_DEMAND), 1);
    is_left(PLAIN, CO_REASON_POD);
    co_expect("not any more", co_target_decrease(doll, &gfn, 1, 9), 1);
    becomes_whole(PLAIN);
}

static void log_dirty(void)
{
    co_phase("log-dirty");
    scatter(PLAIN);
    co_expect("track writes", co_doll_log_dirty(doll, true), 0);
    is_left(PLAIN, CO_REASON_LOGDIRTY);
    co_expect("do not", co_doll_log_dirty(doll, false), 0);
    becomes_whole(PLAIN);
}

static void mem_access(void)
{
    unsigned long first = FIRST(WATCHED);
    int rc;

    co_phase("mem_access");
    co_expect("somebody watches", co_doll_watch(doll, PAGE(ODD, 1)), 0);

    remember();
    rc = co_doll_set_access(doll, first, CO_REGION_PAGES, CO_ACCESS_RX);
    if ( rc == -EINVAL )
    {
        printk("Accesses cannot be watched on this machine\n");
        co_expect("the region", co_region_state_of(doll, first),
                  CO_REGION_WHOLE);
    }
    else
    {
        co_expect("writes are watched", rc, 0);
        co_expect("splits", splits(CO_CAUSE_TYPE), 1);
        is_left(WATCHED, CO_REASON_MEM_ACCESS);
        printk("@count left_mem_access %" PRIu64 "\n",
               grown(CO_REFUSED + CO_REASON_MEM_ACCESS));

        co_expect("to half of it they are not",
                  co_doll_set_access(doll, first, CO_REGION_PAGES / 2,
                                     CO_ACCESS_RWX), 0);
        is_left(WATCHED, CO_REASON_ACCESS);
        co_expect("to none of it",
                  co_doll_set_access(doll, first, CO_REGION_PAGES,
                                     CO_ACCESS_RWX), 0);
        becomes_whole(WATCHED);
    }
    co_expect("nobody watches", co_doll_unwatch(doll), 0);
}

#define X86_MT_WB 6

static void cacheability(void)
{
    unsigned long first = FIRST(CACHED), last = first + CO_REGION_PAGES - 1;

    co_phase("cacheability");
    co_expect("all of it is cached alike",
              co_doll_pin_cache(doll, first, last, X86_MT_WB), 0);
    co_expect("a device's memory", co_doll_give_iomem(doll), 0);
    co_expect("the region", co_region_state_of(doll, first), CO_REGION_WHOLE);

    remember();
    co_expect("forget that", co_doll_pin_cache(doll, first, last,
                                               CO_CACHE_UNPIN), 0);
    co_expect("pages", co_doll_pin_cache(doll, first, first + 15, X86_MT_WB),
              0);
    co_expect("of it are not cached",
              co_doll_pin_cache(doll, first + 16, last, CO_CACHE_UC), 0);
    if ( co_region_state_of(doll, first) == CO_REGION_WHOLE )
        printk("On this machine the guest says how memory is cached\n");
    else
    {
        co_expect("splits", splits(CO_CAUSE_TYPE), 1);
        is_left(CACHED, CO_REASON_CACHEABILITY);
        printk("@count left_cacheability %" PRIu64 "\n",
               grown(CO_REFUSED + CO_REASON_CACHEABILITY));
    }

    co_expect("forget it", co_doll_pin_cache(doll, first, first + 15,
                                             CO_CACHE_UNPIN), 0);
    co_expect("forget it", co_doll_pin_cache(doll, first + 16, last,
                                             CO_CACHE_UNPIN), 0);
    co_expect("all of it is cached alike",
              co_doll_pin_cache(doll, first, last, X86_MT_WB), 0);
    if ( grown(CO_SPLITS) )
        becomes_whole(CACHED);
}

static volatile uint32_t *counter(void)
{
    return (void *)pfn_to_virt(window);
}

static void write_program(void)
{
    /* again: incl counter; jmp again */
    static const uint8_t program[] = { 0xff, 0x05, 0, 0, 0, 0, 0xeb, 0xf8 };
    uint32_t where = PAGE(DATA, 3) << PAGE_SHIFT;
    uint8_t *page = pfn_to_virt(window);

    co_expect("map the code", co_foreign_map(doll, PAGE(CODE, 5), window), 0);
    memcpy(page, program, sizeof(program));
    memcpy(page + 2, &where, sizeof(where));
    co_expect("unmap it", co_foreign_unmap(window), 0);
}

/* Let it run, until it has done something. */
static void run(void)
{
    uint64_t end = co_now() + 20 * CO_S;
    uint32_t start;

    co_expect("map the counter", co_foreign_map(doll, PAGE(DATA, 3), window),
              0);
    start = *counter();
    co_expect("it runs", co_doll_unpause(doll), 0);
    while ( *counter() == start && co_now() < end )
        co_sleep(CO_MS);
    co_expect("it stops", co_doll_pause(doll), 0);
    co_expect_true("it has done something", *counter() != start);
    co_expect("unmap it", co_foreign_unmap(window), 0);
}

static void executed(void)
{
    unsigned long first = FIRST(CODE);
    unsigned int tries, outcome = 0;

    co_phase("executed");
    write_program();
    /* What is broken before the domain was looked at is made whole once. */
    set_mode(CO_MODE_FULL);
    remember();
    co_expect("stopped", co_doll_pause(doll), 0);
    co_expect("begin here", co_doll_run(doll, (PAGE(CODE, 5)) << PAGE_SHIFT), 0);
    run();
    look();
    printk("@count splits_by_exec %" PRIu64 "\n",
           grown(CO_SPLITS_BY + CO_CAUSE_EXEC));
    co_expect("the data", co_region_state_of(doll, FIRST(DATA)),
              CO_REGION_WHOLE);
    if ( !grown(CO_SPLITS_BY + CO_CAUSE_EXEC) )
    {
        co_expect("the code", co_region_state_of(doll, first), CO_REGION_WHOLE);
        set_mode(CO_MODE_OFF);
        return;
    }

    co_expect("splits", splits(CO_CAUSE_EXEC), 1);
    for ( tries = 0; tries < 3; tries++ )
    {
        co_sleep(60 * CO_MS);
        outcome = co_coalesce_one_of(doll, first, CO_MODE_FULL);
        if ( outcome == CO_REFUSED + CO_REASON_EXEC_SP )
            break;
        run();
    }
    co_expect("what came of the code in the end", outcome,
              CO_REFUSED + CO_REASON_EXEC_SP);
    is_left(CODE, CO_REASON_EXEC_SP);
    printk("@count left_exec_sp %" PRIu64 "\n",
           grown(CO_REFUSED + CO_REASON_EXEC_SP));

    /* Other memory comes to be there, of which nothing was executed. */
    co_expect("take all of it away", co_target_decrease(doll, &first, 1, 9), 1);
    co_expect("give it back", co_target_populate(doll, &first, 1, 9, 0), 1);
    co_expect("the region", co_region_state_of(doll, first), CO_REGION_WHOLE);
    remember();
    renew(PAGE(CODE, 9));
    becomes_whole(CODE);
}

void test_main(void)
{
    struct co_pages pages;
    unsigned long region;

    co_init();
    if ( !co_require_feature() )
        return;

    if ( !co_find_regions(&region, 1, true) )
        return xtf_error("Error: no whole region of 2M: give the domain more memory\n");
    co_doll_warm_up();
    /* What is remembered of this domain is as it will be in the end: nothing. */
    co_expect("set_mode full", co_set_mode(CO_MODE_FULL), 0);
    co_settle(&region, 1);
    co_expect("set_mode off", co_set_mode(CO_MODE_OFF), 0);
    co_pages_now(&pages);
    window = region + 1;
    co_expect("make a hole", co_balloon_out(&window, 1, 0), 1);

    doll = co_doll_create(REGIONS);
    if ( !co_expect_true("there is another domain", doll > 0) )
    {
        printk("... but %d\n", doll);
        return;
    }

    executed();
    pinned();
    on_demand();
    log_dirty();
    mem_access();
    cacheability();

    co_phase("end");
    co_expect("destroy it", co_target_destroy(doll), 0);
    co_expect("fill the hole", co_populate(&window, 1, 0), 1);
    co_expect("set_mode full", co_set_mode(CO_MODE_FULL), 0);
    co_mend(&pages, &region, 1);
    co_expect("set_mode default", co_set_mode(CO_MODE_DEFAULT), 0);
    co_finish();
}
