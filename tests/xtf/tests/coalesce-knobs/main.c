/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an operator can turn and see: /coalesce in the hypervisor's file system,
 * read, written, and written wrongly; what some knobs do; a debug key, of which
 * the scenario reads what Xen prints; and performance counters where Xen has any.
 *
 * The scenario has given Xen the values below on its command line, and some that
 * are refused.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Knobs and counters";

#define REGIONS 3
#define SEED    1

struct knob {
    const char *path;
    uint32_t booted, min, max;
};

static const struct knob knobs[] = {
    { "/coalesce/budget", 500, 50, 100000 },
    { "/coalesce/batch", 64, 8, 512 },
    { "/coalesce/watermark", 16384, 0, 1U << 30 },
    { "/coalesce/cool-down", 32, 1, 60000 },
    { "/coalesce/share", 5, 0, 50 },
    { "/coalesce/room", 7, 0, 511 },
};

static unsigned long regions[REGIONS];
static struct co_info info;

static uint64_t read_number(const char *path, unsigned int size)
{
    uint64_t value = 0;
    unsigned int got = 0;
    int rc = co_hypfs_read(path, &value, sizeof(value), &got);

    if ( !co_expect("read a number", rc, 0) ||
         !co_expect("its size", got, size) )
        printk("... %s\n", path);

    return value;
}

static void expect_number(const char *path, uint32_t want)
{
    if ( !co_expect("a knob's value", read_number(path, sizeof(want)), want) )
        printk("... %s\n", path);
}

static void expect_write(const char *path, const void *buf, unsigned int len,
                         int want)
{
    if ( !co_expect("write", co_hypfs_write(path, buf, len), want) )
        printk("... %s\n", path);
}

static void set_number(const char *path, uint32_t value, int want)
{
    expect_write(path, &value, sizeof(value), want);
}

static void set_mode(const char *path, const char *mode, int want)
{
    expect_write(path, mode, strlen(mode) + 1, want);
}

static void expect_mode(const char *path, const char *want)
{
    char mode[16] = {};
    unsigned int got = 0;

    co_expect("read a mode", co_hypfs_read(path, mode, sizeof(mode), &got), 0);
    if ( !co_expect_true("a mode", !strcmp(mode, want)) )
        printk("... %s is %s and not %s\n", path, mode, want);
}

static void check_knobs(void)
{
    unsigned int i;
    uint64_t wide = 100;
    uint16_t narrow = 100;

    for ( i = 0; i < ARRAY_SIZE(knobs); i++ )
    {
        const struct knob *k = &knobs[i];

        expect_number(k->path, k->booted);
        set_number(k->path, k->max + 1, -EINVAL);
        if ( k->min )
            set_number(k->path, k->min - 1, -EINVAL);
        set_number(k->path, ~0U, -EINVAL);
        expect_write(k->path, &wide, sizeof(wide), -EDOM);
        expect_write(k->path, &narrow, sizeof(narrow), -EDOM);
        expect_write(k->path, _p(~0UL << 47), 4, -EFAULT);
        expect_number(k->path, k->booted);
        set_number(k->path, k->min, 0);
        expect_number(k->path, k->min);
        set_number(k->path, k->max, 0);
        expect_number(k->path, k->max);
    }

    set_number("/coalesce/budget", 1000, 0);
    set_number("/coalesce/batch", 128, 0);
    set_number("/coalesce/watermark", 8192, 0);
    set_number("/coalesce/cool-down", 16, 0);
    set_number("/coalesce/share", 0, 0);
    set_number("/coalesce/room", 0, 0);
}

static void check_refusals(void)
{
    char byte;
    unsigned int got;

    expect_mode("/coalesce/mode", "in-place");
    set_mode("/coalesce/mode", "default", -EINVAL);
    set_mode("/coalesce/mode", "fast", -EINVAL);
    set_mode("/coalesce/mode", "", -EINVAL);
    set_mode("/coalesce/mode", "in-place and more", -ENOSPC);
    expect_write("/coalesce/mode", "off", 3, -EINVAL);
    expect_write("/coalesce/mode", _p(~0UL << 47), 4, -EFAULT);
    expect_mode("/coalesce/mode", "in-place");

    expect_write("/coalesce", "x", 2, -EACCES);
    expect_write("/coalesce/domain", "x", 2, -EACCES);
    expect_write("/coalesce/domain/0", "x", 2, -EACCES);
    expect_write("/coalesce/domain/0/counters/splits", &byte, 1, -EACCES);

    co_expect("a domain that is not there",
              co_hypfs_read("/coalesce/domain/77/mode", &byte, 1, &got),
              -ENOENT);
    co_expect("a number that is no domain",
              co_hypfs_read("/coalesce/domain/32752", &byte, 1, &got),
              -ENOENT);
    co_expect("more digits than a number has",
              co_hypfs_read("/coalesce/domain/18446744073709551616", &byte, 1,
                            &got), -ENOENT);
    co_expect("no number", co_hypfs_read("/coalesce/domain/0x", &byte, 1, &got),
              -ENOENT);
    co_expect("no such counter",
              co_hypfs_read("/coalesce/domain/0/counters/wins", &byte, 1, &got),
              -ENOENT);
    co_expect("below a counter",
              co_hypfs_read("/coalesce/domain/0/counters/splits/x", &byte, 1,
                            &got), -ENOENT);
}

/* The same by two ways, while nothing happens. */
static void check_domain(void)
{
    static const struct {
        const char *path;
        unsigned int index;
    } counts[] = {
        { "/coalesce/domain/0/counters/looked-at", CO_LOOKED_AT },
        { "/coalesce/domain/0/counters/promoted", CO_PROMOTED },
        { "/coalesce/domain/0/counters/pages-copied", CO_PAGES_COPIED },
        { "/coalesce/domain/0/counters/splits", CO_SPLITS },
        { "/coalesce/domain/0/counters/queued", CO_QUEUED },
        { "/coalesce/domain/0/left/hole", CO_REFUSED + CO_REASON_HOLE },
        { "/coalesce/domain/0/left/mode", CO_REFUSED + CO_REASON_MODE },
        { "/coalesce/domain/0/splits-by/balloon",
          CO_SPLITS_BY + CO_CAUSE_BALLOON },
        { "/coalesce/domain/0/splits-by/map", CO_SPLITS_BY + CO_CAUSE_MAP },
    };
    unsigned int i;

    expect_mode("/coalesce/domain/0/mode", "default");
    set_mode("/coalesce/domain/0/mode", "fast", -EINVAL);
    set_mode("/coalesce/domain/0/mode", "off", 0);
    expect_mode("/coalesce/domain/0/mode", "off");
    co_expect("get_info", co_get_info(&info), 0);
    co_expect("mode", info.mode, CO_MODE_OFF);

    for ( i = 0; i < ARRAY_SIZE(counts); i++ )
        if ( !co_expect("a counter",
                        read_number(counts[i].path, sizeof(uint64_t)),
                        info.count[counts[i].index]) )
            printk("... %s\n", counts[i].path);
    co_expect_true("something was split by a mapping",
                   info.count[CO_SPLITS_BY + CO_CAUSE_MAP]);

    set_mode("/coalesce/domain/0/mode", "default", 0);
}

/* Each with a name, in order, up to the last. */
static void check_directory(const char *path, unsigned int at_least)
{
    static uint8_t buf[3072];
    const struct entry {
        uint8_t type, encoding;
        uint16_t pad;
        uint32_t content_len, max_write_len;
        uint16_t off_next;
        char name[];
    } *e = _p(buf), *before = NULL;
    unsigned int got = 0, nr = 1;

    co_expect("list", co_hypfs_read(path, buf, sizeof(buf), &got), 0);
    co_expect_true("all of it", got > sizeof(*e) && got <= sizeof(buf));

    for ( ; e->off_next && nr < 100; nr++ )
    {
        before = e;
        e = _p(_u(e) + e->off_next);
        co_expect_true("names in order", strcmp(before->name, e->name) < 0);
    }

    if ( !co_expect_true("entries in a directory", nr >= at_least) )
        printk("... %u in %s\n", nr, path);
}

/* Domains come and go: the directory has those that are there. */
static void check_listing(void)
{
    static uint8_t buf[512];
    unsigned int with, without;
    int doll = co_doll_create(1);
    char path[] = "/coalesce/domain/00000/mode";

    co_expect_true("there is another domain", doll > 0);
    if ( doll <= 0 )
        return;

    co_expect("list", co_hypfs_read("/coalesce/domain", buf, sizeof(buf), &with),
              0);
    snprintf(path, sizeof(path), "/coalesce/domain/%d/mode", doll);
    expect_mode(path, "off");
    co_expect("destroy it", co_target_destroy(doll), 0);
    co_sleep(100 * CO_MS);
    co_expect("list",
              co_hypfs_read("/coalesce/domain", buf, sizeof(buf), &without), 0);
    co_expect_true("one less", without && without < with);
}

/* Put two frames in each other's place, or one out of its place and back. */
static void break_region(unsigned int r, unsigned long hole, bool in_order)
{
    unsigned long one = regions[r] + 3, two = regions[r] + 300;

    co_expect("move a page out", co_move(one, hole), 0);
    if ( !in_order )
    {
        co_expect("move another there", co_move(two, one), 0);
        one = two;
    }
    co_expect("move it to its place", co_move(hole, one), 0);
}

static bool whole_in(unsigned int r, uint64_t ns)
{
    uint64_t end = co_now() + ns;

    do {
        if ( co_region_state(regions[r]) == CO_REGION_WHOLE )
            return true;
        co_sleep(5 * CO_MS);
    } while ( co_now() < end );

    return false;
}

static void check_effects(unsigned long hole)
{
    uint64_t copied;

    co_phase("mode");
    set_mode("/coalesce/mode", "off", 0);
    break_region(0, hole, true);
    co_expect_true("off: stays broken", !whole_in(0, 300 * CO_MS));
    set_mode("/coalesce/mode", "in-place", 0);
    co_expect_true("in-place: what was broken meanwhile is found",
                   whole_in(0, 20 * CO_S));
    break_region(1, hole, false);
    co_expect_true("in-place: nothing is copied", !whole_in(1, 300 * CO_MS));

    /* For others, there is more free memory than this host has. */
    co_phase("watermark");
    set_number("/coalesce/watermark", 1U << 30, 0);
    set_mode("/coalesce/mode", "full", 0);
    co_expect_true("no memory is taken from others",
                   !whole_in(1, 300 * CO_MS));
    co_expect("get_info", co_get_info(&info), 0);
    co_expect_true("that was the reason",
                   info.count[CO_REFUSED + CO_REASON_NO_MEMORY]);
    copied = info.count[CO_PAGES_COPIED];
    set_number("/coalesce/watermark", 8192, 0);
    co_expect_true("now it is", whole_in(1, 20 * CO_S));
    co_expect("get_info", co_get_info(&info), 0);
    co_expect_true("pages were copied", info.count[CO_PAGES_COPIED] > copied);
}

static void check_perf_counters(void)
{
    static const struct {
        const char *name;
        unsigned int index;
    } counters[] = {
        { "coalesce: superpages broken", CO_SPLITS },
        { "coalesce: promoted in place", CO_PROMOTED },
        { "coalesce: completed", CO_COMPLETED },
        { "coalesce: migrated", CO_MIGRATED },
        { "coalesce: pages copied", CO_PAGES_COPIED },
    };
    unsigned int i;
    uint64_t value;
    int rc = co_perf_counter(counters[0].name, &value);

    printk("@count perf_counters %u\n", rc != -ENOSYS);
    if ( rc == -ENOSYS )
        return;

    /* Nothing but this domain was worked on, and nothing happens now. */
    set_mode("/coalesce/domain/0/mode", "off", 0);
    co_expect("get_info", co_get_info(&info), 0);
    for ( i = 0; i < ARRAY_SIZE(counters); i++ )
    {
        co_expect("read a performance counter",
                  co_perf_counter(counters[i].name, &value), 0);
        if ( !co_expect("its value", value, info.count[counters[i].index]) )
            printk("... %s\n", counters[i].name);
    }
    set_mode("/coalesce/domain/0/mode", "default", 0);
}

void test_main(void)
{
    struct co_pages pages;
    unsigned long hole;
    uint64_t value;
    unsigned int r;

    co_init();
    if ( !co_require_feature() )
        return;

    r = co_find_regions(regions, REGIONS, true);
    if ( r < REGIONS )
        return xtf_error("Error: %u whole regions of 2M, %u are needed: give the domain more memory\n",
                         r, REGIONS);
    /* Xen keeps the memory that it takes for these the first time. */
    co_perf_counter("", &value);
    co_pages_now(&pages);

    co_phase("knobs");
    check_knobs();
    check_refusals();

    hole = regions[REGIONS - 1] + 9;
    co_expect("make a hole", co_balloon_out(&hole, 1, 0), 1);
    check_effects(hole);

    co_phase("counters");
    check_domain();
    check_directory("/coalesce", 8);
    check_directory("/coalesce/domain/0", 4);
    check_directory("/coalesce/domain/0/counters", 14);
    check_directory("/coalesce/domain/0/left", 23);
    check_directory("/coalesce/domain/0/splits-by", CO_CAUSES);
    check_listing();
    co_expect("a debug key", co_debug_key('B'), 0);
    co_sleep(300 * CO_MS);      /* It is printed by a tasklet. */
    check_perf_counters();

    co_phase("end");
    set_mode("/coalesce/domain/0/mode", "off", 0);
    co_expect("fill the hole", co_populate(&hole, 1, 0), 1);
    co_mend(&pages, regions, REGIONS);
    co_expect("get_info", co_get_info(&info), 0);
    co_print_counts(&info);
    co_check_law(&info);
    co_finish();
}
