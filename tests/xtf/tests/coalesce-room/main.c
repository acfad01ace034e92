/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * No block of 2M is free, and a region needs one.  Another domain has taken all
 * memory and given back all but a few pages of one block, and pages here and
 * there: then that block is emptied of those few, if the operator allows it and
 * that domain's pages may be moved, and the region is moved there.
 *
 * The scenario has Xen leave no memory to others (watermark=0).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Room for a region";

#define MAX_BLOCKS 1024
#define ROOM       64U
#define KEPT       12U          /* pages in the block that is nearly free */
#define SPREAD     100U         /* free pages elsewhere */
#define SEED       1

enum { REGION, WINDOW, REGIONS };

static unsigned long regions[REGIONS], window;
static unsigned long gfns[CO_REGION_PAGES];
static struct co_info before, now;
static int doll;

static void set_room(uint32_t pages)
{
    co_expect("write room", co_hypfs_write("/coalesce/room", &pages,
                                           sizeof(pages)), 0);
}

static void look(void)
{
    co_expect("get_info", co_get_info(&now), 0);
    co_check_law(&now);
}

static uint64_t grown(unsigned int index)
{
    return now.count[index] - before.count[index];
}

/* What it holds is what was written there. */
static void other_page(unsigned int i, bool write)
{
    co_expect("map a page", co_foreign_map(doll, i * 40, window), 0);
    if ( write )
        co_fill(window, SEED + i);
    else
        co_expect_true("a page of the other domain", co_check(window, SEED + i));
    co_expect("unmap it", co_foreign_unmap(window), 0);
}

/* All of it, in blocks of 2M and then in pages. */
static unsigned int take_memory(void)
{
    unsigned int blocks = 0;
    unsigned long gfn, done, i;

    for ( ; blocks < MAX_BLOCKS; blocks++ )
    {
        gfn = blocks * CO_REGION_PAGES;
        if ( co_target_populate(doll, &gfn, 1, 9, 0) != 1 )
            break;
    }

    gfn = (blocks + 1) * CO_REGION_PAGES;
    do {
        for ( i = 0; i < CO_REGION_PAGES; i++ )
            gfns[i] = gfn + i;
        done = co_target_populate(doll, gfns, CO_REGION_PAGES, 0, 0);
        gfn += done;
    } while ( done == CO_REGION_PAGES );

    return blocks;
}

/* Some pages of each block but the first. */
static void give_back_some(unsigned int blocks)
{
    unsigned long i;

    for ( i = 0; i < SPREAD; i++ )
        gfns[i] = (1 + i % (blocks - 1)) * CO_REGION_PAGES + 7 +
                  i / (blocks - 1) * 3;
    co_expect("pages elsewhere", co_target_decrease(doll, gfns, SPREAD, 0),
              SPREAD);
}

/* All but a few pages of the first block. */
static void give_back_block(void)
{
    unsigned long nr = 0, i;

    for ( i = 0; i < CO_REGION_PAGES; i++ )
        if ( i % 40 || i / 40 >= KEPT )
            gfns[nr++] = i;
    co_expect("the block", co_target_decrease(doll, gfns, nr, 0), nr);
}

/* What was tried before is forgotten when the mode is set. */
static void begin(void)
{
    co_expect("set_mode off", co_set_mode(CO_MODE_OFF), 0);
    co_expect("get_info", co_get_info(&before), 0);
    co_expect("set_mode full", co_set_mode(CO_MODE_FULL), 0);
}

static void is_left(const char *phase)
{
    co_phase(phase);
    begin();
    co_sleep(100 * CO_MS);
    look();
    co_expect_true("no memory was the reason",
                   grown(CO_REFUSED + CO_REASON_NO_MEMORY));
    co_expect("blocks made", grown(CO_BLOCKS_MADE), 0);
    co_expect("pages copied", grown(CO_PAGES_COPIED), 0);
    co_expect("the region", co_region_state(regions[REGION]), CO_REGION_BROKEN);
}

static void is_moved(void)
{
    uint64_t end = co_now() + 20 * CO_S;

    co_phase("room");
    begin();
    while ( co_region_state(regions[REGION]) != CO_REGION_WHOLE &&
            co_now() < end )
        co_sleep(2 * CO_MS);
    co_expect("the region", co_region_state(regions[REGION]), CO_REGION_WHOLE);
    look();
    co_print_counts(&now);
    printk("@count room_pages_copied %" PRIu64 "\n", grown(CO_PAGES_COPIED));
    co_expect("blocks made", grown(CO_BLOCKS_MADE), 1);
    co_expect("regions moved", grown(CO_MIGRATED) + grown(CO_COMPLETED), 1);
    co_expect("the few pages and the region's were copied",
              grown(CO_PAGES_COPIED), CO_REGION_PAGES + KEPT);
}

void test_main(void)
{
    struct co_pages pages;
    unsigned long page;
    unsigned int r, i, blocks;
    uint64_t found[CO_AUDITS];
    domid_t domid;

    co_init();
    if ( !co_require_feature() )
        return;

    r = co_find_regions(regions, REGIONS, true);
    if ( r < REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS);
    set_room(0);
    co_doll_warm_up();
    page = regions[REGION] + 9;
    co_expect("a page less", co_balloon_out(&page, 1, 0), 1);
    co_expect("a page more", co_populate(&page, 1, 0), 1);
    co_settle(regions, REGIONS);
    co_expect("set_mode off", co_set_mode(CO_MODE_OFF), 0);
    co_pages_now(&pages);

    co_phase("filled");
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        co_fill(regions[REGION] + i, SEED);
    page = regions[REGION] + 100;
    window = regions[WINDOW] + 1;
    co_expect("a page less", co_balloon_out(&page, 1, 0), 1);
    co_expect("another", co_balloon_out(&window, 1, 0), 1);

    if ( !co_expect("another domain", co_target_create(&domid, 8192, 1UL << 30),
                    0) )
        return;
    doll = domid;
    co_expect("it is left alone", co_set_mode_of(doll, CO_MODE_OFF), 0);
    blocks = take_memory();
    printk("@count blocks %u\n", blocks);
    if ( !co_expect_true("blocks of 2M", blocks > 1) )
        return;
    for ( i = 0; i < KEPT; i++ )
        other_page(i, true);
    give_back_some(blocks);
    co_expect("a page again", co_populate(&page, 1, 0), 1);
    co_fill(page, SEED);
    give_back_block();

    is_left("not allowed");
    set_room(ROOM);
    is_left("of a domain that is left alone");
    co_expect("it is looked after", co_set_mode_of(doll, CO_MODE_FULL), 0);
    set_room(KEPT - 1);
    is_left("too many pages");
    set_room(ROOM);
    is_moved();

    co_phase("end");
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        co_expect_true("a page of the region",
                       co_check(regions[REGION] + i, SEED));
    for ( i = 0; i < KEPT; i++ )
        other_page(i, false);
    co_expect("audit the other domain", co_audit_of(doll, found), 0);
    for ( i = CO_AUDIT_WRONG; i < CO_AUDIT_XEN_ORPHANS; i++ )
        co_expect("wrong pages found by the audit", found[i], 0);
    co_expect("destroy it", co_target_destroy(doll), 0);
    co_expect("fill the hole", co_populate(&window, 1, 0), 1);
    co_mend(&pages, regions, REGIONS);
    co_expect("set_mode default", co_set_mode(CO_MODE_DEFAULT), 0);
    co_finish();
}
