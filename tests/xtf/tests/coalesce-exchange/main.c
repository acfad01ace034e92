/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XENMEM_exchange of a HAP guest: what it does to the pages that are named,
 * that it does nothing to any other, what it says about bad arguments, and that
 * nothing is changed then.
 *
 * The test works on a world of a few regions of 2M and keeps a model of it:
 * which gfn is a hole, and with which seed each other page was filled.  After
 * every call each page is compared with the model, a part of its words at a
 * time, and after every group of calls all of them.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "XENMEM_exchange on HAP";

#define REGIONS     12
#define PAGES       (REGIONS * CO_REGION_PAGES)

/* Regions with a role; the others hold scattered single pages. */
#define REGION_A    8
#define REGION_B    9
#define REGION_C    10
#define SINGLES     (8 * CO_REGION_PAGES)

/* Seeds of the model that are none. */
#define HOLE        0
#define UNKNOWN     0xffffffffU /* RAM that Xen writes to, or a mapping */

/*
 * What each kind of bad argument gives; for what a PV guest can get wrong too,
 * the same as for a PV guest.
 */
#define ERR_TOTALS        EINVAL
#define ERR_DOMIDS        EINVAL
#define ERR_NO_DOMAIN     ESRCH
#define ERR_POINTER       EFAULT
#define ERR_ORDER         EPERM      /* above what the domain may use at all */
#define ERR_MID_CHUNK     EINVAL     /* nr_exchanged within a chunk */
#define ERR_IN_HOLE       EINVAL
#define ERR_IN_SPECIAL    EINVAL     /* shared info, grant frames, MMIO */
#define ERR_IN_PINNED     EBUSY
#define ERR_IN_TWICE      EINVAL     /* within one chunk */
#define ERR_OUT_TAKEN     EEXIST     /* RAM, but no input of the same chunk */
#define ERR_OUT_TWICE     EEXIST     /* within one chunk */
#define ERR_OUT_OTHER     EINVAL     /* neither a hole nor RAM */
#define ERR_OUT_BEYOND    EINVAL     /* no such gfn can exist */

static unsigned long regions[REGIONS];
static uint32_t world[PAGES];
static uint32_t next_seed = 1;

/* A static page each: the image's pages are RAM that is in use, and known. */
static uint8_t grant_frame[PAGE_SIZE] __page_aligned_bss;
static uint8_t straddle[2 * PAGE_SIZE] __page_aligned_bss;

static unsigned long in[2 * CO_REGION_PAGES], out[2 * CO_REGION_PAGES];

static unsigned long gfn_of(unsigned int page)
{
    return regions[page / CO_REGION_PAGES] + page % CO_REGION_PAGES;
}

static int page_of(unsigned long gfn)
{
    unsigned int r;

    for ( r = 0; r < REGIONS; r++ )
        if ( gfn >= regions[r] && gfn < regions[r] + CO_REGION_PAGES )
            return r * CO_REGION_PAGES + gfn - regions[r];

    return -1;
}

static void fill(unsigned int page)
{
    world[page] = next_seed++;
    co_fill(gfn_of(page), world[page]);
}

/* Compare each page of the world with the model: all words of it, or some. */
static void check_pages(const char *what, bool all)
{
    static unsigned int turn;
    unsigned int page, wrong = 0;

    turn++;

    for ( page = 0; page < PAGES; page++ )
    {
        unsigned long gfn = gfn_of(page);

        if ( world[page] == HOLE )
        {
            /* What is a hole cannot be given back. */
            if ( co_decrease(&gfn, 1, 0) )
            {
                printk("gfn %#lx should be a hole, but there was something\n",
                       gfn_of(page));
                wrong++;
            }
        }
        else if ( world[page] != UNKNOWN &&
                  !(all ? co_check(gfn, world[page])
                        : co_check_some(gfn, world[page], turn)) )
            wrong++;
    }

    if ( !co_expect("wrong pages in the world", wrong, 0) )
        printk("... after: %s\n", what);
}

static void check_world(const char *what)
{
    check_pages(what, true);
}

static void balloon_out(unsigned long *gfns, unsigned long nr,
                        unsigned int order)
{
    unsigned long i, k;

    co_expect("extents ballooned out", co_balloon_out(gfns, nr, order), nr);

    for ( i = 0; i < nr; i++ )
        for ( k = 0; k < 1UL << order; k++ )
            world[page_of(gfns[i]) + k] = HOLE;
}

static void balloon_in(unsigned long *gfns, unsigned long nr,
                       unsigned int order)
{
    unsigned long i, k;

    co_expect("extents ballooned in", co_populate(gfns, nr, order), nr);

    for ( i = 0; i < nr; i++ )
        for ( k = 0; k < 1UL << order; k++ )
            fill(page_of(gfns[i]) + k);
}

/* Holes are filled, order 9 where that is possible. */
static void restore_world(void)
{
    unsigned int page;

    for ( page = 0; page < PAGES; page++ )
    {
        unsigned long gfn = gfn_of(page);
        unsigned int k;

        if ( world[page] != HOLE )
            continue;

        for ( k = page; IS_ALIGNED(page, CO_REGION_PAGES) &&
                        k < page + CO_REGION_PAGES; k++ )
            if ( world[k] != HOLE )
                break;

        if ( k == page + CO_REGION_PAGES )
            balloon_in(&gfn, 1, 9);
        else
            balloon_in(&gfn, 1, 0);
    }
}

/* Choose nr pages of those that are RAM below SINGLES, in random order. */
static void choose(unsigned long *gfns, unsigned int nr)
{
    static unsigned long all[SINGLES];
    unsigned int page, count = 0;

    for ( page = 0; page < SINGLES; page++ )
        if ( world[page] != HOLE && world[page] != UNKNOWN )
            all[count++] = gfn_of(page);

    ASSERT(nr <= count);
    co_shuffle(all, count);
    memcpy(gfns, all, nr * sizeof(*gfns));
}

/* A call, and what it should give. */
struct call {
    const char *what;
    unsigned long nr_in, nr_out;
    unsigned int in_order, out_order;
    unsigned long start;        /* nr_exchanged before */
    int rc;
    unsigned long done;         /* nr_exchanged after */
    domid_t in_domid, out_domid; /* 0: this domain */
    unsigned long *in_list, *out_list; /* NULL: in[] and out[] */
};

/* Let the model follow what Xen says that it did. */
static void apply(const struct call *c, unsigned long done)
{
    unsigned long first = c->start << c->in_order;
    unsigned long last = done << c->in_order;
    unsigned long p;

    for ( p = first; p < last; p++ )
    {
        int page = page_of(in[p >> c->in_order] +
                           (p & ((1UL << c->in_order) - 1)));

        if ( page < 0 || world[page] == HOLE || world[page] == UNKNOWN )
            panic("%s: what cannot be exchanged was exchanged\n", c->what);
        world[page] = HOLE;
    }

    for ( p = first; p < last; p++ )
    {
        unsigned long gfn = out[p >> c->out_order] +
                            (p & ((1UL << c->out_order) - 1));
        int page = page_of(gfn);

        if ( page < 0 || world[page] != HOLE )
            panic("%s: pages came in where there is no room\n", c->what);

        co_expect_true("a page exchanged in holds nobody's old contents",
                       co_check_fresh(gfn));
        fill(page);
    }
}

static uint64_t first_word(unsigned long gfn)
{
    return *(volatile uint64_t *)pfn_to_virt(gfn);
}

/* Have the TLB know the pages that are about to go. */
static void touch_inputs(const struct call *c)
{
    unsigned long i;

    for ( i = c->start; i < c->nr_in && i < ARRAY_SIZE(in); i++ )
        if ( page_of(in[i]) >= 0 )
            first_word(in[i]);
}

/*
 * An input that no output has taken the place of: nothing answers there any
 * more, which reads as all ones.  An old page would show through a TLB that was
 * not flushed.
 */
static void check_gone(unsigned long gfn, const struct call *c)
{
    unsigned long i;

    for ( i = 0; i < c->nr_out; i++ )
        if ( gfn >= out[i] && gfn < out[i] + (1UL << c->out_order) )
            return;

    co_expect("the old gfn reads as", first_word(gfn), -1);
}

static void exchange(const struct call *c)
{
    struct xen_memory_exchange x = {
        .in = {
            .extent_start = c->in_list ?: in,
            .nr_extents = c->nr_in,
            .extent_order = c->in_order,
            .domid = c->in_domid ?: DOMID_SELF,
        },
        .out = {
            .extent_start = c->out_list ?: out,
            .nr_extents = c->nr_out,
            .extent_order = c->out_order,
            .domid = c->out_domid ?: DOMID_SELF,
        },
        .nr_exchanged = c->start,
    };
    uint64_t pages = co_dom_pages();
    unsigned int failures = co_failures;
    long rc;

    touch_inputs(c);
    rc = hypercall_memory_op(XENMEM_exchange, &x);

    co_expect("result", rc, c->rc);
    co_expect("nr_exchanged", x.nr_exchanged, c->done);
    co_expect("pages of the domain", co_dom_pages(), pages);

    if ( x.nr_exchanged > c->start )
    {
        if ( x.nr_exchanged > ARRAY_SIZE(in) )
            panic("%s: more was exchanged than there is\n", c->what);
        check_gone(in[c->start], c);
        check_gone(in[x.nr_exchanged - 1], c);
        apply(c, x.nr_exchanged);
    }
    check_pages(c->what, false);

    printk("%s: %s\n", co_failures == failures ? "ok" : "FAILED", c->what);
}

static void expect_state(const char *what, unsigned int region,
                         unsigned int want)
{
    if ( co_feature == CO_FEATURE_PRESENT )
        co_expect(what, co_region_state(regions[region]), want);
}

/* ---- What works ---- */

static void scattered(unsigned int nr)
{
    unsigned long gfn;

    choose(out, nr);
    balloon_out(out, nr, 0);
    choose(in, nr);
    exchange(&(struct call){ "scattered pages for holes",
                             .nr_in = nr, .nr_out = nr, .done = nr });

    /* The old gfns are holes for Xen too. */
    gfn = in[nr - 1];
    co_expect("balloon an old gfn out", co_decrease(&gfn, 1, 0), 0);

    restore_world();
    check_world("scattered pages restored");
}

static void in_place(unsigned int nr)
{
    choose(in, nr);
    memcpy(out, in, sizeof(out));
    exchange(&(struct call){ "scattered pages for themselves",
                             .nr_in = nr, .nr_out = nr, .done = nr });
}

static void test_pages(void)
{
    static const unsigned int nrs[] = { 1, 511, 512, 513 };
    unsigned int i;
    unsigned long spare;

    for ( i = 0; i < ARRAY_SIZE(nrs); i++ )
    {
        scattered(nrs[i]);
        in_place(nrs[i]);
    }

    /* The second output is what the first chunk has just made a hole. */
    choose(in, 3);
    out[0] = in[2];
    out[1] = in[0];
    balloon_out(&out[0], 1, 0);
    exchange(&(struct call){ "an old gfn used again in the same call",
                             .nr_in = 2, .nr_out = 2, .done = 2 });
    restore_world();

    /* Go on where an earlier call stopped. */
    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    exchange(&(struct call){ "the last three of eight",
                             .nr_in = 8, .nr_out = 8, .start = 5, .done = 8 });
    exchange(&(struct call){ "nothing left to do",
                             .nr_in = 8, .nr_out = 8, .start = 8, .done = 8 });
    restore_world();

    exchange(&(struct call){ "nothing at all", .nr_in = 0 });

    /* Holes and own gfns in one call. */
    choose(in, 8);
    for ( i = 0; i < 4; i++ )
    {
        out[i] = in[4 + i];
        spare = out[i];
        balloon_out(&spare, 1, 0);
    }
    exchange(&(struct call){ "four pages for four holes",
                             .nr_in = 4, .nr_out = 4, .done = 4 });
    restore_world();
}

static void test_orders(void)
{
    static unsigned long scattered_gfns[CO_REGION_PAGES];
    unsigned long a = regions[REGION_A], b = regions[REGION_B];
    unsigned long c = regions[REGION_C];
    unsigned int i, nr;

    expect_state("region A before", REGION_A, CO_REGION_WHOLE);
    balloon_out(&b, 1, 9);
    expect_state("region B ballooned out", REGION_B, CO_REGION_EMPTY);

    in[0] = a;
    out[0] = b;
    exchange(&(struct call){ "one order-9 extent for another",
                             .nr_in = 1, .in_order = 9,
                             .nr_out = 1, .out_order = 9, .done = 1 });
    expect_state("region A exchanged out", REGION_A, CO_REGION_EMPTY);
    expect_state("region B exchanged in", REGION_B, CO_REGION_WHOLE);

    choose(scattered_gfns, CO_REGION_PAGES);
    memcpy(in, scattered_gfns, sizeof(scattered_gfns));
    out[0] = a;
    exchange(&(struct call){ "512 pages for one order-9 extent",
                             .nr_in = 512,
                             .nr_out = 1, .out_order = 9, .done = 512 });
    expect_state("region A exchanged in", REGION_A, CO_REGION_WHOLE);

    in[0] = a;
    memcpy(out, scattered_gfns, sizeof(scattered_gfns));
    co_shuffle(out, CO_REGION_PAGES);
    exchange(&(struct call){ "one order-9 extent for 512 pages",
                             .nr_in = 1, .in_order = 9,
                             .nr_out = 512, .done = 1 });
    expect_state("region A exchanged out again", REGION_A, CO_REGION_EMPTY);
    restore_world();

    in[0] = out[0] = b;
    exchange(&(struct call){ "one order-9 extent for itself",
                             .nr_in = 1, .in_order = 9,
                             .nr_out = 1, .out_order = 9, .done = 1 });
    expect_state("region B exchanged in place", REGION_B, CO_REGION_WHOLE);

    in[0] = b;
    for ( i = 0; i < CO_REGION_PAGES; i++ )
        out[i] = b + CO_REGION_PAGES - 1 - i;
    exchange(&(struct call){ "one order-9 extent for its own pages, backwards",
                             .nr_in = 1, .in_order = 9,
                             .nr_out = 512, .done = 1 });

    for ( i = 0; i < CO_REGION_PAGES; i++ )
        in[i] = b + i;
    co_shuffle(in, CO_REGION_PAGES);
    out[0] = b;
    exchange(&(struct call){ "all pages of a region for one order-9 extent",
                             .nr_in = 512,
                             .nr_out = 1, .out_order = 9, .done = 512 });
    expect_state("region B in one piece again", REGION_B, CO_REGION_WHOLE);

    /* Two chunks each. */
    balloon_out(&a, 1, 9);
    balloon_out(&c, 1, 9);
    choose(in, 2 * CO_REGION_PAGES);
    out[0] = c;
    out[1] = a;
    exchange(&(struct call){ "1024 pages for two order-9 extents",
                             .nr_in = 1024,
                             .nr_out = 2, .out_order = 9, .done = 1024 });
    in[0] = a;
    in[1] = c;
    /* Back into the holes that those have left. */
    for ( i = nr = 0; i < SINGLES && nr < 2 * CO_REGION_PAGES; i++ )
        if ( world[i] == HOLE )
            out[nr++] = gfn_of(i);
    ASSERT(nr == 2 * CO_REGION_PAGES);
    exchange(&(struct call){ "two order-9 extents for 1024 pages",
                             .nr_in = 2, .in_order = 9,
                             .nr_out = 1024, .done = 2 });
    restore_world();

    /* Other orders: a quarter of a region into the holes of another. */
    for ( i = 0; i < 8; i++ )
        out[i] = c + 128 + i * 16;
    balloon_out(out, 8, 4);
    for ( i = 0; i < 4; i++ )
        in[i] = a + 256 + i * 32;
    exchange(&(struct call){ "four order-5 extents for eight order-4 ones",
                             .nr_in = 4, .in_order = 5,
                             .nr_out = 8, .out_order = 4, .done = 4 });
    for ( i = 0; i < 64; i++ )
        in[i] = c + 128 + i * 2;
    for ( i = 0; i < 16; i++ )
        out[i] = a + 256 + i * 8;
    exchange(&(struct call){ "64 order-1 extents for 16 order-3 ones",
                             .nr_in = 64, .in_order = 1,
                             .nr_out = 16, .out_order = 3, .done = 64 });
    restore_world();

    /* Extents need not be aligned: half of one region and half of the next. */
    if ( b == a + CO_REGION_PAGES && c == b + CO_REGION_PAGES )
    {
        choose(out, CO_REGION_PAGES);
        balloon_out(out, CO_REGION_PAGES, 0);
        in[0] = a + 256;
        exchange(&(struct call){ "order-9 extent across two regions for 512 pages",
                                 .nr_in = 1, .in_order = 9,
                                 .nr_out = 512, .done = 1 });
        in[0] = c;
        out[0] = a + 256;
        exchange(&(struct call){ "order-9 extent for one across two regions",
                                 .nr_in = 1, .in_order = 9,
                                 .nr_out = 1, .out_order = 9, .done = 1 });
        restore_world();
    }
    check_world("orders restored");
}

/* ---- What does not ---- */

static void test_sizes(void)
{
    struct xen_memory_exchange x;
    uint64_t pages;
    long rc;

    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);

    exchange(&(struct call){ "totals differ, more in", .rc = -ERR_TOTALS,
                             .nr_in = 2, .nr_out = 1 });
    exchange(&(struct call){ "totals differ, more out", .rc = -ERR_TOTALS,
                             .nr_in = 1, .nr_out = 2 });
    exchange(&(struct call){ "totals differ by order", .rc = -ERR_TOTALS,
                             .nr_in = 8, .nr_out = 8, .out_order = 1 });
    exchange(&(struct call){ "nr_exchanged above the number of extents",
                             .rc = -ERR_TOTALS, .nr_in = 2, .nr_out = 2,
                             .start = 3, .done = 3 });
    exchange(&(struct call){ "nr_exchanged far above", .rc = -ERR_TOTALS,
                             .nr_in = 2, .nr_out = 2,
                             .start = ~0UL, .done = ~0UL });
    exchange(&(struct call){ "sizes overflow", .rc = -ERR_TOTALS,
                             .nr_in = ~0UL, .in_order = 9,
                             .nr_out = ~0UL, .out_order = 9 });
    exchange(&(struct call){ "sizes overflow to the same total",
                             .rc = -ERR_TOTALS, .nr_in = 512,
                             .nr_out = (1UL << 55) + 1, .out_order = 9 });
    exchange(&(struct call){ "lists far out of reach", .rc = -ERR_POINTER,
                             .nr_in = 1UL << 44, .nr_out = 1UL << 44,
                             .start = 1UL << 43, .done = 1UL << 43 });

    exchange(&(struct call){ "nr_exchanged in the middle of a chunk",
                             .rc = -ERR_MID_CHUNK, .nr_in = 8,
                             .nr_out = 1, .out_order = 3,
                             .start = 3, .done = 3 });

    exchange(&(struct call){ "input order above all bounds", .rc = -ERR_ORDER,
                             .nr_in = 1, .in_order = 64,
                             .nr_out = 1, .out_order = 64 });
    exchange(&(struct call){ "output order above all bounds", .rc = -ERR_ORDER,
                             .nr_in = 1, .nr_out = 1, .out_order = ~0U });
    /* By default: 2M for a guest, 1G for a toolstack. */
    exchange(&(struct call){ "an order above its own bounds", .rc = -ERR_ORDER,
                             .nr_in = 1, .in_order = co_domid ? 10 : 19,
                             .nr_out = 1, .out_order = co_domid ? 10 : 19 });

    exchange(&(struct call){ "domids differ", .rc = -ERR_DOMIDS,
                             .nr_in = 1, .nr_out = 1,
                             .out_domid = 0x1234 });
    exchange(&(struct call){ "no such domain", .rc = -ERR_NO_DOMAIN,
                             .nr_in = 1, .nr_out = 1,
                             .in_domid = 0x1234, .out_domid = 0x1234 });

    /* Pointers.  Page 0 is not mapped, nor is anything so high up. */
    exchange(&(struct call){ "unmapped list of inputs", .rc = -ERR_POINTER,
                             .nr_in = 1, .nr_out = 1, .in_list = _p(64) });
    exchange(&(struct call){ "unmapped list of outputs", .rc = -ERR_POINTER,
                             .nr_in = 1, .nr_out = 1, .out_list = _p(64) });
    exchange(&(struct call){ "list of inputs far up", .rc = -ERR_POINTER,
                             .nr_in = 1, .nr_out = 1, .in_list = _p(1UL << 46) });

    pages = co_dom_pages();
    rc = hypercall_memory_op(XENMEM_exchange, _p(64));
    co_expect("unmapped argument", rc, -ERR_POINTER);
    co_expect("pages of the domain", co_dom_pages(), pages);

    /* The argument runs into a page that is not there. */
    memset(&x, 0, sizeof(x));
    l1_identmap[virt_to_pfn(straddle + PAGE_SIZE)] &= ~(intpte_t)_PAGE_PRESENT;
    write_cr3(read_cr3());
    memcpy(straddle + PAGE_SIZE - 16, &x, 16);
    rc = hypercall_memory_op(XENMEM_exchange, straddle + PAGE_SIZE - 16);
    co_expect("half an argument", rc, -ERR_POINTER);

    /* The lists do, after four of eight extents: the four are done. */
    memcpy(straddle + PAGE_SIZE - 4 * sizeof(*in), in, 4 * sizeof(*in));
    exchange(&(struct call){ "list of inputs ends early", .rc = -ERR_POINTER,
                             .nr_in = 8, .nr_out = 8, .done = 4,
                             .in_list = _p(straddle + PAGE_SIZE -
                                           4 * sizeof(*in)) });
    restore_world();
    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    memcpy(straddle + PAGE_SIZE - 4 * sizeof(*out), out, 4 * sizeof(*out));
    exchange(&(struct call){ "list of outputs ends early", .rc = -ERR_POINTER,
                             .nr_in = 8, .nr_out = 8, .done = 4,
                             .out_list = _p(straddle + PAGE_SIZE -
                                            4 * sizeof(*out)) });

    l1_identmap[virt_to_pfn(straddle + PAGE_SIZE)] |= _PAGE_PRESENT;

    restore_world();
}

/* One chunk of one page each; the bad one is the fourth of eight. */
#define BAD 3

static void bad_input(const char *what, unsigned long gfn, int err)
{
    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    in[BAD] = gfn;
    exchange(&(struct call){ what, .rc = -err,
                             .nr_in = 8, .nr_out = 8, .done = BAD });
    restore_world();
}

static void bad_output(const char *what, unsigned long gfn, int err)
{
    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    out[BAD] = gfn;
    exchange(&(struct call){ what, .rc = -err,
                             .nr_in = 8, .nr_out = 8, .done = BAD });
    restore_world();
}

/* One chunk of 512 pages, one of which is bad: nothing may happen. */
static void bad_input_of_512(const char *what, unsigned long gfn, int err)
{
    unsigned long a = regions[REGION_A];

    balloon_out(&a, 1, 9);
    choose(in, CO_REGION_PAGES);
    in[300] = gfn;
    out[0] = a;
    exchange(&(struct call){ what, .rc = -err, .nr_in = 512,
                             .nr_out = 1, .out_order = 9 });
    restore_world();
}

static void bad_output_of_512(const char *what, unsigned long gfn, int err)
{
    choose(out, CO_REGION_PAGES);
    balloon_out(out, CO_REGION_PAGES, 0);
    in[0] = regions[REGION_A];
    out[300] = gfn;
    exchange(&(struct call){ what, .rc = -err, .nr_in = 1, .in_order = 9,
                             .nr_out = 512 });
    restore_world();
}

static void test_gfns(void)
{
    unsigned long hole, taken;

    choose(&hole, 1);
    balloon_out(&hole, 1, 0);
    /* restore_world() would fill it. */
    world[page_of(hole)] = UNKNOWN;
    bad_input("input is a hole", hole, ERR_IN_HOLE);
    bad_input_of_512("one of 512 inputs is a hole", hole, ERR_IN_HOLE);
    world[page_of(hole)] = HOLE;
    restore_world();

    bad_input("input beyond all memory", ~0UL, ERR_IN_HOLE);
    bad_input("input beyond 52 bits", 1UL << 40, ERR_IN_HOLE);
    bad_input("input is the shared info page", virt_to_gfn(&shared_info),
              ERR_IN_SPECIAL);
    bad_input("input is a grant table frame", virt_to_gfn(grant_frame),
              ERR_IN_SPECIAL);
    bad_input_of_512("one of 512 inputs is the shared info page",
                     virt_to_gfn(&shared_info), ERR_IN_SPECIAL);

    bad_output("output is the shared info page", virt_to_gfn(&shared_info),
               ERR_OUT_TAKEN);
    bad_output("output is a grant table frame", virt_to_gfn(grant_frame),
               ERR_OUT_TAKEN);
    taken = regions[REGION_C] + 77;
    bad_output("output is RAM that is no input", taken, ERR_OUT_TAKEN);
    bad_output_of_512("one of 512 outputs is RAM that is no input", taken,
                      ERR_OUT_TAKEN);
    bad_output_of_512("one of 512 outputs is the shared info page",
                      virt_to_gfn(&shared_info), ERR_OUT_TAKEN);
    bad_output("output beyond all memory", ~0UL, ERR_OUT_BEYOND);
    bad_output("output beyond 52 bits", 1UL << 40, ERR_OUT_BEYOND);

    /* The hardware domain sees the VGA memory where it always was. */
    if ( !co_domid )
    {
        bad_input("input is MMIO", 0xb8, ERR_IN_SPECIAL);
        bad_output("output is MMIO", 0xb8, ERR_OUT_OTHER);
    }

    /* Twice in different chunks: the second time, things have changed. */
    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    in[BAD] = in[1];
    exchange(&(struct call){ "input twice", .rc = -ERR_IN_HOLE,
                             .nr_in = 8, .nr_out = 8, .done = BAD });
    restore_world();

    choose(out, 8);
    balloon_out(out, 8, 0);
    choose(in, 8);
    out[BAD] = out[1];
    exchange(&(struct call){ "output twice", .rc = -ERR_OUT_TAKEN,
                             .nr_in = 8, .nr_out = 8, .done = BAD });
    restore_world();

    /* Twice in one chunk. */
    choose(&taken, 1);
    world[page_of(taken)] = UNKNOWN;    /* not to be chosen a third time */
    co_fill(taken, 4711);
    {
        unsigned long a = regions[REGION_A];

        balloon_out(&a, 1, 9);
        choose(in, CO_REGION_PAGES);
        in[17] = in[400] = taken;
        out[0] = a;
        exchange(&(struct call){ "input twice among 512", .rc = -ERR_IN_TWICE,
                                 .nr_in = 512, .nr_out = 1, .out_order = 9 });
        co_expect_true("the page named twice is unchanged",
                       co_check(taken, 4711));
    }
    fill(page_of(taken));
    restore_world();

    choose(out, CO_REGION_PAGES);
    balloon_out(out, CO_REGION_PAGES, 0);
    in[0] = regions[REGION_A];
    out[400] = out[17];
    exchange(&(struct call){ "output twice among 512", .rc = -ERR_OUT_TWICE,
                             .nr_in = 1, .in_order = 9, .nr_out = 512 });
    restore_world();
}

/* ---- Pages that somebody holds ---- */

static void test_pinned(void)
{
    unsigned long pinned = regions[REGION_B] + 123;
    int rc = co_pin(pinned);

    if ( rc )
    {
        xtf_skip("Skip: VCPUOP_register_vcpu_time_phys_area gives %d\n", rc);
        return;
    }
    world[page_of(pinned)] = UNKNOWN;

    bad_input("input is pinned", pinned, ERR_IN_PINNED);
    bad_input_of_512("one of 512 inputs is pinned", pinned, ERR_IN_PINNED);

    choose(out, CO_REGION_PAGES);
    balloon_out(out, CO_REGION_PAGES, 0);
    in[0] = regions[REGION_B];
    exchange(&(struct call){ "order-9 input with a pinned page",
                             .rc = -ERR_IN_PINNED, .nr_in = 1, .in_order = 9,
                             .nr_out = 512 });
    restore_world();

    co_expect("let go of the pinned page", co_pin(~0UL), 0);
    fill(page_of(pinned));

    /* Now it can go. */
    in[0] = pinned;
    choose(out, 1);
    balloon_out(out, 1, 0);
    exchange(&(struct call){ "input was pinned before", .nr_in = 1,
                             .nr_out = 1, .done = 1 });
    restore_world();
}

/* ---- A Xen without it ---- */

static void test_unsupported(void)
{
    choose(out, 2);
    balloon_out(&out[1], 1, 0);
    choose(in, 2);
    out[0] = in[0];

    exchange(&(struct call){ "in place, without support", .rc = -EOPNOTSUPP,
                             .nr_in = 1, .nr_out = 1 });
    out[0] = out[1];
    exchange(&(struct call){ "for a hole, without support", .rc = -EOPNOTSUPP,
                             .nr_in = 1, .nr_out = 1 });
    restore_world();
}

/* Without the privilege to ask, see what a call with good arguments gives. */
static bool supported(void)
{
    struct xen_memory_exchange x = {
        .in = { .extent_start = in, .nr_extents = 1, .domid = DOMID_SELF },
        .out = { .extent_start = out, .nr_extents = 1, .domid = DOMID_SELF },
    };

    if ( co_feature != CO_FEATURE_UNKNOWN )
        return co_feature == CO_FEATURE_PRESENT;

    choose(in, 1);
    out[0] = in[0];
    if ( hypercall_memory_op(XENMEM_exchange, &x) == -EOPNOTSUPP )
        return false;

    fill(page_of(in[0]));

    return true;
}

/* Do once what makes Xen allocate something that it keeps. */
static void warm_up(void)
{
    unsigned long gfn;

    co_expect("map a grant table frame",
              co_map_space(XENMAPSPACE_grant_table, 0, virt_to_gfn(grant_frame)),
              0);

    choose(&gfn, 1);
    balloon_out(&gfn, 1, 0);
    restore_world();

    co_pin(gfn);
    co_pin(~0UL);
    fill(page_of(gfn));

    if ( supported() )
        in_place(3);
}

void test_main(void)
{
    struct co_pages before;
    static struct co_info info;
    unsigned int page, nr;

    co_init();

    nr = co_find_regions(regions, REGIONS, true);
    if ( nr < REGIONS )
        return xtf_error("Error: %u usable regions of 2M, %u are needed: give the domain more memory\n",
                         nr, REGIONS);

    co_print_map("start", regions, REGIONS);
    for ( page = 0; page < PAGES; page++ )
        fill(page);
    check_world("filling it");

    warm_up();
    co_settle(regions, REGIONS);
    co_pages_now(&before);

    if ( !supported() )
    {
        test_unsupported();
        co_check_leak(&before, REGIONS);
        if ( !co_failures )
            printk("@count exchange_eopnotsupp 1\n");
        return xtf_failure("Fail: XENMEM_exchange gives -EOPNOTSUPP on this Xen\n");
    }

    co_phase("pages");
    test_pages();
    check_world("all pages");
    co_phase("orders");
    test_orders();
    check_world("all orders");
    co_phase("sizes");
    test_sizes();
    check_world("all sizes");
    co_phase("gfns");
    test_gfns();
    check_world("all gfns");
    co_phase("pinned");
    test_pinned();

    co_phase("end");
    check_world("everything");
    co_print_map("end", regions, REGIONS);
    co_check_leak(&before, REGIONS);

    if ( co_feature == CO_FEATURE_PRESENT )
    {
        co_expect("get_info", co_get_info(&info), 0);
        co_print_counts(&info);
        co_check_law(&info);
        co_expect_true("exchanges are counted",
                       info.count[CO_EXCHANGE_CALLS] &&
                       info.count[CO_EXCHANGED_PAGES]);
    }
    else
        xtf_skip("Skip: no privilege to see free pages, region states and counters\n");

    co_finish();
}
