/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XENMEM_exchange with arguments as an enemy would choose them, a hundred
 * thousand calls of it, among pages that are ballooned out and in, pinned, and
 * other domains' own.
 *
 * The guest knows what each call has to give: it follows the calls in a model of
 * its memory (which gfn is a hole, which is RAM and with what in it, which is
 * held by somebody, which is no RAM), written down from the public header, one
 * chunk after another.  The result and nr_exchanged are compared after each
 * call, contents for some pages after each and for all every now and then, and
 * at the end the books of Xen.  Memory that is short is the one thing that the
 * model does not know: -ENOMEM is believed where contiguous memory was asked for,
 * and what had been done then is followed.
 *
 * Some calls are made as a 32-bit guest would.
 *
 * Command line: seed=N (1), calls=N (100000).
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "XENMEM_exchange under hostile arguments";

#define REGIONS   14
#define PAGES     (REGIONS * CO_REGION_PAGES)
#define LIST      1024U

enum state { HOLE, RAM, PINNED, MAPPED };

/* gfns first .. first + PAGES - 1 are the model's. */
static unsigned long first;
static uint8_t state[PAGES];
static uint32_t seed[PAGES], next_seed = 1;
static unsigned int holes;

/* In which chunk a page was given, or asked for, last. */
static uint32_t given[PAGES], got[PAGES], chunk_nr;

static unsigned long in[LIST], out[LIST];
static uint32_t list32[2][LIST];

/* A list that ends here ends at memory that is not mapped. */
static uint8_t edge[2][2 * PAGE_SIZE] __page_aligned_bss;

/* Pages that somebody holds, and that are somebody else's; -1: none. */
static long pinned = -1, mapped = -1;

/* Places that are not the model's, and what they give. */
static struct oddity {
    unsigned long gfn;
    int in, out;
} odd[8];
static unsigned int nr_odd;

static uint8_t grant_frame[PAGE_SIZE] __page_aligned_bss;

static struct {
    unsigned int calls, calls32, done, whole, refused, short_of_memory;
    unsigned int errors[128];
    uint64_t pages;
} count;

/* ---- Pages and what is in them ---- */

static bool is_ours(unsigned long gfn)
{
    return gfn - first < PAGES;
}

static uint64_t *words(unsigned int page)
{
    return pfn_to_virt(first + page);
}

/* The tag is that of co_fill(). */
static uint64_t word(unsigned int page, unsigned int i)
{
    return 0xc0a1000000000000ULL | ((uint64_t)seed[page] << 16) |
           ((page * 7 + i) & 0xffff);
}

static const unsigned int places[] = { 0, 77, 511 };

static void stamp(unsigned int page)
{
    unsigned int i;

    seed[page] = next_seed++;
    for ( i = 0; i < ARRAY_SIZE(places); i++ )
        words(page)[places[i]] = word(page, places[i]);
}

static void wipe(unsigned int page)
{
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(places); i++ )
        words(page)[places[i]] = 0;
}

static void check(unsigned int page)
{
    unsigned int i;

    if ( state[page] != RAM )
        return;

    for ( i = 0; i < ARRAY_SIZE(places); i++ )
        if ( words(page)[places[i]] != word(page, places[i]) )
        {
            printk("call %u: gfn %#lx, word %u: %#" PRIx64 " instead of %#" PRIx64 "\n",
                   count.calls, first + page, places[i],
                   words(page)[places[i]], word(page, places[i]));
            co_expect_true("a page that was not given is unchanged", false);
        }
}

/* Somebody's old page would show here, through a TLB or for want of a scrub. */
static void check_hole(unsigned int page)
{
    uint64_t got = *(volatile uint64_t *)words(page);

    if ( state[page] == HOLE && ~got )
        co_expect("what a hole reads as", got, -1);
}

static void check_all(void)
{
    unsigned int page;

    for ( page = 0; page < PAGES; page++ )
        check(page);
    co_checks++;
}

static void look_at_new(unsigned int page)
{
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(places); i++ )
        if ( words(page)[places[i]] >> 48 == 0xc0a1 )
        {
            printk("call %u: gfn %#lx, word %u: %#" PRIx64 "\n", count.calls,
                   first + page, places[i], words(page)[places[i]]);
            co_expect_true("a page that came in holds nothing old", false);
        }

    stamp(page);
}

/* Chunks that follow may give it away again: it is looked at when all are done. */
static void will_come_in(unsigned int page)
{
    state[page] = RAM;
    holes--;
    seed[page] = 0;
}

static void came_in(unsigned int page)
{
    will_come_in(page);
    look_at_new(page);
}

static void went_out(unsigned int page)
{
    state[page] = HOLE;
    holes++;
}

/* ---- A call and what has to come of it ---- */

static struct call {
    unsigned long nr_in, nr_out, start;
    unsigned int in_order, out_order;
    unsigned int len_in, len_out;   /* entries that can be read */
    bool odd_args;                  /* refused before the lists matter */
    int error;                      /* then: this */
} call;

/* One chunk of the model: 0, or what it gives; carried out if `really`. */
static int one_chunk(unsigned long chunk, bool really)
{
    unsigned int order = max(call.in_order, call.out_order);
    unsigned long n_in = 1UL << (order - call.in_order);
    unsigned long n_out = 1UL << (order - call.out_order);
    unsigned long i, k;

    if ( (chunk + 1) * n_in > call.len_in || (chunk + 1) * n_out > call.len_out )
        return -EFAULT;

    chunk_nr++;
    for ( i = chunk * n_in; i < (chunk + 1) * n_in; i++ )
        for ( k = 0; k < 1UL << call.in_order; k++ )
        {
            unsigned long gfn = in[i] + k;
            unsigned int page = gfn - first;

            if ( !is_ours(gfn) )
            {
                for ( page = 0; page < nr_odd; page++ )
                    if ( odd[page].gfn == in[i] )
                        return -odd[page].in;
                panic("gfn %#lx is not known\n", gfn);
            }
            if ( state[page] == PINNED )
                return -EBUSY;
            if ( state[page] != RAM || given[page] == chunk_nr )
                return -EINVAL;
            given[page] = chunk_nr;
        }

    for ( i = chunk * n_out; i < (chunk + 1) * n_out; i++ )
        for ( k = 0; k < 1UL << call.out_order; k++ )
        {
            unsigned long gfn = out[i] + k;
            unsigned int page = gfn - first;

            if ( !is_ours(gfn) )
            {
                for ( page = 0; page < nr_odd; page++ )
                    if ( odd[page].gfn == out[i] )
                        return -odd[page].out;
                panic("gfn %#lx is not known\n", gfn);
            }
            if ( state[page] == MAPPED )
                return -EINVAL;
            if ( (state[page] != HOLE && given[page] != chunk_nr) ||
                 got[page] == chunk_nr )
                return -EEXIST;
            got[page] = chunk_nr;
        }

    if ( !really )
        return 0;

    for ( i = chunk * n_in; i < (chunk + 1) * n_in; i++ )
        for ( k = 0; k < 1UL << call.in_order; k++ )
            went_out(in[i] + k - first);
    for ( i = chunk * n_out; i < (chunk + 1) * n_out; i++ )
        for ( k = 0; k < 1UL << call.out_order; k++ )
            will_come_in(out[i] + k - first);

    return 0;
}

static void describe(long rc, unsigned long done)
{
    printk("call %u: %lu of order %u for %lu of order %u, %lu done before; gave %ld after %lu\n",
           count.calls, call.nr_in, call.in_order, call.nr_out, call.out_order,
           call.start, rc, done);
}

/* Compare what Xen says with the model, and let the model follow. */
static void follow(long rc, unsigned long done)
{
    unsigned int order = max(call.in_order, call.out_order);
    unsigned long n_in = 1UL << (order - call.in_order), chunk, i, k;
    int expected = 0;

    if ( rc < 0 && rc > -128 )
        count.errors[-rc]++;
    count.whole += !rc && done > call.start;
    count.refused += rc && done == call.start;

    if ( call.odd_args )
    {
        if ( rc != call.error || done != call.start )
        {
            describe(rc, done);
            co_expect("what bad arguments give", rc, call.error);
            co_expect("nr_exchanged", done, call.start);
        }
        return;
    }

    if ( done < call.start || done > call.nr_in || done % n_in )
    {
        describe(rc, done);
        panic("nr_exchanged is %lu\n", done);
    }
    for ( chunk = call.start / n_in; chunk < done / n_in; chunk++ )
    {
        expected = one_chunk(chunk, true);
        if ( expected )
        {
            describe(rc, done);
            panic("chunk %lu was exchanged, and had to give %d\n", chunk,
                  expected);
        }
        count.pages += 1UL << order;
        count.done++;
    }
    for ( i = call.start << call.in_order >> call.out_order;
          i < done << call.in_order >> call.out_order; i++ )
        for ( k = 0; k < 1UL << call.out_order; k++ )
            if ( state[out[i] + k - first] == RAM && !seed[out[i] + k - first] )
                look_at_new(out[i] + k - first);
    if ( done < call.nr_in )
    {
        expected = one_chunk(chunk, false);
        if ( rc == -ENOMEM && !expected && call.out_order )
        {
            count.short_of_memory++;
            return;
        }
        if ( !expected )
        {
            describe(rc, done);
            co_expect("a chunk that is as it should be gives", rc, 0);
            return;
        }
    }
    if ( rc != expected )
    {
        describe(rc, done);
        co_expect("the result", rc, expected);
    }
}

/* ---- How it is chosen ---- */

static unsigned int below(unsigned int n)
{
    return co_rand() % n;
}

static unsigned int an_order(void)
{
    static const uint8_t orders[] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 7, 9 };

    return orders[below(ARRAY_SIZE(orders))];
}

/* An extent all of which is in that state, if one is found soon. */
static unsigned long an_extent(unsigned int order, enum state want)
{
    unsigned int size = 1U << order, tries, page = 0, i;

    for ( tries = 0; tries < 24; tries++ )
    {
        page = below(PAGES);
        if ( below(16) )
            page &= -size;
        if ( page + size > PAGES )
            page = PAGES - size;
        for ( i = 0; i < size && state[page + i] == want; i++ )
            ;
        if ( i == size )
            break;
    }

    return first + page;
}

static void choose_lists(unsigned int nr_in, unsigned int nr_out)
{
    unsigned int i, order = max(call.in_order, call.out_order);

    for ( i = 0; i < nr_in; i++ )
        in[i] = an_extent(call.in_order, RAM);

    switch ( below(4) )
    {
    case 0:     /* in one run, if there is one */
        in[0] = an_extent(min(order + 3, 9U), RAM);
        for ( i = 1; i < nr_in; i++ )
        {
            in[i] = in[i - 1] + (1UL << call.in_order);
            if ( in[i] + (1UL << call.in_order) > first + PAGES )
                in[i] = first;
        }
        break;
    }

    switch ( below(4) )
    {
    case 0:     /* for themselves */
        for ( i = 0; i < nr_out; i++ )
        {
            unsigned long page = (unsigned long)i << call.out_order;

            out[i] = in[page >> call.in_order] +
                     (page & ((1UL << call.in_order) - 1));
            if ( out[i] + (1UL << call.out_order) > first + PAGES )
                out[i] = first;
        }
        break;
    case 1:     /* a hole and onwards from there */
        out[0] = an_extent(min(order, 9U), HOLE);
        for ( i = 1; i < nr_out; i++ )
        {
            out[i] = out[i - 1] + (1UL << call.out_order);
            if ( out[i] + (1UL << call.out_order) > first + PAGES )
                out[i] = first;
        }
        break;
    default:
        for ( i = 0; i < nr_out; i++ )
            out[i] = an_extent(call.out_order, HOLE);
        break;
    }
}

/* Something in the lists is not as it should be; not all of it is noticed. */
static void spoil_lists(unsigned int nr_in, unsigned int nr_out, bool narrow)
{
    unsigned long *list = co_rand() & 1 ? in : out;
    unsigned int nr = list == in ? nr_in : nr_out, i = below(nr);
    unsigned int order = list == in ? call.in_order : call.out_order;
    unsigned long gfn;

    switch ( below(4) )
    {
    case 0:
        gfn = odd[below(nr_odd)].gfn;
        if ( narrow && gfn >> 32 )
            break;
        list[i] = gfn;
        break;
    case 1:
        list[i] = list[below(nr)];
        break;
    case 2:
        list[i] = an_extent(order, below(2));
        if ( pinned >= 0 && mapped >= 0 && !below(3) )
            list[i] = first + (co_rand() & 1 ? pinned : mapped);
        if ( list[i] + (1UL << order) > first + PAGES )
            list[i] = first;
        break;
    case 3:
        /* One that overlaps its neighbour, where it has more than a page. */
        gfn = list[below(nr)] + below(1U << order);
        if ( is_ours(gfn) && gfn + (1UL << order) <= first + PAGES )
            list[i] = gfn;
        break;
    }
}

static struct xen_memory_exchange x;

/* The structure itself is bad. */
static void spoil_arguments(void)
{
    static const unsigned long far[] = {
        64, 1UL << 46, 1UL << 63, ~0UL, ~0UL - 4095, 0xffff830000000000UL,
        0xffff82d040200000UL, 0xffff800000000000UL - 8,
    };

    call.odd_args = true;
    call.error = -EINVAL;
    switch ( below(9) )
    {
    case 0:
        x.nr_exchanged = x.in.nr_extents + 1 + (co_rand() >> below(64));
        if ( x.nr_exchanged <= x.in.nr_extents )
            x.nr_exchanged = ~0UL;
        call.start = x.nr_exchanged;
        break;
    case 1:
        x.in.nr_extents += 1 + below(1000);
        break;
    case 2:     /* as many pages as an unsigned long can count, and the rest */
        x.in.extent_order = 1 + below(9);
        x.in.nr_extents = 1UL << (64 - x.in.extent_order);
        x.out.nr_extents = 0;
        break;
    case 3:
        x.out.nr_extents = x.in.nr_extents << x.in.extent_order >>
                           x.out.extent_order ?: 1;
        x.out.nr_extents += 1UL << (63 - x.out.extent_order);
        break;
    case 4:
        x.in.extent_order = 19 + (co_rand() >> below(64)) % 1000000007;
        call.error = -EPERM;
        break;
    case 5:
        x.out.extent_order = ~0U >> below(26);
        call.error = -EPERM;
        break;
    case 6:
        x.out.domid ^= 1 + below(0x7000);
        break;
    case 7:
        x.in.domid = x.out.domid = 0x1234 + below(0x4000);
        call.error = -ESRCH;
        call.start = x.nr_exchanged = 0;
        break;
    case 8:
        call.error = -EFAULT;
        call.start = x.nr_exchanged = 0;
        if ( co_rand() & 1 )
            x.in.extent_start = _p(far[below(ARRAY_SIZE(far))]);
        else
            x.out.extent_start = _p(far[below(ARRAY_SIZE(far))]);
        break;
    }
}

/* The list, or as much of it as can be read, where it breaks off after that. */
static unsigned long *on_the_edge(unsigned int side, const unsigned long *list,
                                  unsigned int len)
{
    uint8_t *end = edge[side] + PAGE_SIZE;
    unsigned int n = min(len, (unsigned int)(PAGE_SIZE / sizeof(*list)));
    unsigned long *p = (unsigned long *)end - n;

    memcpy(p, list, n * sizeof(*list));

    return p;
}

static long exchange32(unsigned long *done)
{
    struct co_exchange32 y = {
        .in = { _u(list32[0]), x.in.nr_extents, x.in.extent_order,
                x.in.mem_flags, x.in.domid, 0 },
        .out = { _u(list32[1]), x.out.nr_extents, x.out.extent_order,
                 x.out.mem_flags, x.out.domid, 0 },
        .nr_exchanged = x.nr_exchanged,
    };
    unsigned int i;
    long rc;

    for ( i = 0; i < LIST; i++ )
    {
        list32[0][i] = in[i];
        list32[1][i] = out[i];
    }
    count.calls32++;
    rc = co_memory_op32(XENMEM_exchange, &y);
    *done = y.nr_exchanged;

    return rc;
}

static void random_exchange(void)
{
    unsigned int order, chunks, nr_in, nr_out, what = below(16), i;
    bool narrow = !below(8);
    unsigned long done;
    long rc;

    call = (struct call){ .in_order = an_order() };
    /* An order of its own only now and then. */
    call.out_order = below(3) ? call.in_order : an_order();
    order = max(call.in_order, call.out_order);
    chunks = order >= 7 ? 1 + below(2) : 1 + below(order > 3 ? 2 : 6);
    nr_in = chunks << (order - call.in_order);
    nr_out = chunks << (order - call.out_order);

    choose_lists(nr_in, nr_out);
    if ( what < 4 )
        spoil_lists(nr_in, nr_out, narrow);

    call.nr_in = nr_in;
    call.nr_out = nr_out;
    call.len_in = nr_in;
    call.len_out = nr_out;
    if ( !below(16) )
        call.start = below(chunks + 1) << (order - call.in_order);

    x = (struct xen_memory_exchange){
        .in = { in, nr_in, call.in_order, 0, DOMID_SELF },
        .out = { out, nr_out, call.out_order, 0, DOMID_SELF },
        .nr_exchanged = call.start,
    };
    if ( narrow )
    {
        rc = exchange32(&done);
        follow(rc, done);
        return;
    }
    switch ( what )
    {
    case 5:
        spoil_arguments();
        break;
    case 6:     /* Lists that break off, far longer than they are. */
        call.len_in = below(nr_in + 1);
        call.len_out = below(nr_out + 1);
        call.len_in = min(call.len_in, 512U);
        call.len_out = min(call.len_out, 512U);
        x.in.extent_start = on_the_edge(0, in, call.len_in);
        x.out.extent_start = on_the_edge(1, out, call.len_out);
        if ( co_rand() & 1 )
        {
            i = 1 + below(30);
            call.nr_in = x.in.nr_extents <<= i;
            call.nr_out = x.out.nr_extents <<= i;
        }
        break;
    case 7:     /* Somewhere within a chunk. */
        if ( nr_in > chunks )
        {
            call.start = x.nr_exchanged = below(nr_in / chunks - 1) + 1;
            call.odd_args = true;
            call.error = -EINVAL;
        }
        break;
    }
    rc = hypercall_memory_op(XENMEM_exchange, &x);
    follow(rc, x.nr_exchanged);

    /* What the caller's TLB may have known is gone. */
    if ( !call.odd_args && x.nr_exchanged > call.start && !below(8) &&
         is_ours(in[call.start]) )
        check_hole(in[call.start] - first);
    if ( is_ours(in[0]) )
        check(in[0] - first);
    if ( is_ours(out[nr_out - 1]) )
        check(out[nr_out - 1] - first);
    check(below(PAGES));
}

/* ---- What happens besides ---- */

static void random_balloon_out(void)
{
    static unsigned long gfns[64];
    unsigned int nr = 1 + below(ARRAY_SIZE(gfns)), i, k, order = 0;
    unsigned long done;

    if ( !below(8) )
    {
        order = 9;
        nr = 1;
    }
    for ( i = 0; i < nr; i++ )
        gfns[i] = an_extent(order, RAM);
    for ( i = 0; i < nr; i++ )
        for ( k = 0; k < 1U << order; k++ )
            if ( state[gfns[i] + k - first] != RAM )
                return;
    for ( i = 0; i < nr; i++ )
        for ( k = 0; k < 1U << order; k++ )
            wipe(gfns[i] + k - first);

    done = co_decrease(gfns, nr, order);
    for ( i = 0; i < done; i++ )
        for ( k = 0; k < 1U << order; k++ )
            if ( state[gfns[i] + k - first] == RAM )
                went_out(gfns[i] + k - first);
            else
                panic("A hole was ballooned out\n");
    /* One that is named twice is a hole by then, and ends it. */
    if ( done < nr && state[gfns[done] - first] == RAM )
        co_expect("extents ballooned out", done, nr);
    for ( i = done; i < nr; i++ )
        if ( state[gfns[i] - first] == RAM )
            stamp(gfns[i] - first);
}

static void random_balloon_in(void)
{
    unsigned int i, k, order = below(8) ? 0 : 9;
    unsigned int nr = order ? 1 : 1 + below(64);

    for ( i = 0; i < nr; i++ )
    {
        unsigned long gfn = an_extent(order, HOLE);

        for ( k = 0; k < 1U << order; k++ )
            if ( state[gfn + k - first] != HOLE )
                return;
        if ( co_populate(&gfn, 1, order) != 1 )
        {
            if ( !order )
                co_expect_true("a page is ballooned in", false);
            count.short_of_memory++;
            return;
        }
        for ( k = 0; k < 1U << order; k++ )
            came_in(gfn + k - first);
    }
}

/* Somebody holds a page, and later another. */
static void random_pin(void)
{
    unsigned long gfn = an_extent(0, RAM);

    if ( state[gfn - first] != RAM || co_pin(gfn) )
        return;
    if ( pinned >= 0 )
    {
        state[pinned] = RAM;
        stamp(pinned);
    }
    pinned = gfn - first;
    state[pinned] = PINNED;
}

/* A page of another domain is mapped over a hole, if there is another domain. */
static bool foreign;
static domid_t target;

static void end_foreign(void)
{
    co_expect("unmap a foreign page", co_foreign_unmap(first + mapped), 0);
    went_out(mapped);
    mapped = -1;
}

static void random_foreign(void)
{
    unsigned long hole = an_extent(0, HOLE);

    if ( mapped >= 0 )
        end_foreign();
    if ( !foreign || state[hole - first] != HOLE )
        return;

    co_expect("map a foreign page", co_foreign_map(target, 7, hole), 0);
    mapped = hole - first;
    state[mapped] = MAPPED;
    holes--;
}

static void start_foreign(void)
{
    unsigned long gfn = 7;
    int rc = co_target_create(&target, 256, 16);

    if ( rc == -EPERM || rc == -EACCES || co_domid )
        return;
    co_expect("create a domain", rc, 0);
    co_expect("populate it", co_target_populate(target, &gfn, 1, 0, 0), 1);
    foreign = true;
}

static void step(void)
{
    switch ( below(64) )
    {
    case 0 ... 3:
        if ( holes < PAGES / 3 )
            random_balloon_out();
        break;
    case 4 ... 7:
        if ( holes > PAGES / 8 )
            random_balloon_in();
        break;
    case 8:
        random_pin();
        break;
    case 9:
        random_foreign();
        break;
    default:
        count.calls++;
        random_exchange();
        break;
    }
}

static void add_odd(unsigned long gfn, int in_error, int out_error)
{
    odd[nr_odd++] = (struct oddity){ gfn, in_error, out_error };
}

static void find_world(void)
{
    static unsigned long found[512];
    unsigned int nr = co_find_regions(found, ARRAY_SIZE(found), true), i, run;

    for ( i = run = 0; i < nr; i++ )
    {
        run = i && found[i] == found[i - 1] + CO_REGION_PAGES ? run + 1 : 1;
        if ( run == REGIONS )
        {
            first = found[i + 1 - REGIONS];
            return;
        }
    }
    panic("No %u regions of 2M in a row: give the domain more memory\n", REGIONS);
}

static void prepare(void)
{
    unsigned int i, page;

    co_expect("map a grant table frame",
              co_map_space(XENMAPSPACE_grant_table, 0, virt_to_gfn(grant_frame)),
              0);
    for ( i = 0; i < 2; i++ )
        l1_identmap[virt_to_pfn(edge[i] + PAGE_SIZE)] &=
            ~(intpte_t)_PAGE_PRESENT;
    write_cr3(read_cr3());

    add_odd(~0UL, EINVAL, EINVAL);
    add_odd(1UL << 40, EINVAL, EINVAL);
    add_odd(virt_to_gfn(&shared_info), EINVAL, EEXIST);
    add_odd(virt_to_gfn(grant_frame), EINVAL, EEXIST);
    /* The hardware domain sees the VGA memory where it always was. */
    if ( !co_domid )
        add_odd(0xb8, EINVAL, EINVAL);

    for ( page = 0; page < PAGES; page++ )
    {
        state[page] = RAM;
        stamp(page);
    }
}

/* All that was ballooned out comes back, so that the books can be compared. */
static void restore(void)
{
    unsigned int page;

    if ( mapped >= 0 )
        end_foreign();
    if ( pinned >= 0 )
    {
        co_expect("let go of the pinned page", co_pin(~0UL), 0);
        state[pinned] = RAM;
        stamp(pinned);
    }
    for ( page = 0; page < PAGES; page++ )
        if ( state[page] == HOLE )
        {
            unsigned long gfn = first + page;

            /* A hole for Xen, too. */
            co_expect("a hole ballooned out", co_decrease(&gfn, 1, 0), 0);
            co_expect("a page ballooned in", co_populate(&gfn, 1, 0), 1);
            came_in(page);
        }
    check_all();
}

void test_main(void)
{
    unsigned int calls = co_param("calls", 100000), i;
    struct co_pages before;
    unsigned long gfn;
    static struct co_info info;

    co_init();
    find_world();
    prepare();

    /* What Xen keeps once it was used, it is to have now. */
    start_foreign();
    gfn = first + 5;
    wipe(5);
    co_expect("decrease", co_decrease(&gfn, 1, 0), 1);
    went_out(5);
    random_foreign();
    if ( mapped >= 0 )
        end_foreign();
    random_pin();
    co_expect("populate", co_populate(&gfn, 1, 0), 1);
    came_in(5);
    co_settle(&first, 0);
    co_pages_now(&before);

    while ( count.calls < calls )
    {
        unsigned int last = count.calls;

        step();
        if ( count.calls == last )
            continue;
        if ( !(count.calls % 1000) )
            check_all();
        if ( !(count.calls % 64) )
            co_expect("pages of the domain", co_dom_pages(),
                      before.dom - holes - (mapped >= 0));
        if ( !(count.calls % (calls / 5)) )
            printk("%u calls, %u chunks, %u holes\n", count.calls, count.done,
                   holes);
    }
    restore();

    printk("@count exchange_calls_made %u\n", count.calls);
    printk("@count exchange_calls_32bit %u\n", count.calls32);
    printk("@count exchange_calls_whole %u\n", count.whole);
    printk("@count exchange_calls_refused %u\n", count.refused);
    printk("@count exchange_chunks %u\n", count.done);
    printk("@count exchange_pages %" PRIu64 "\n", count.pages);
    printk("@count short_of_memory %u\n", count.short_of_memory);
    for ( i = 0; i < ARRAY_SIZE(count.errors); i++ )
        if ( count.errors[i] )
            printk("@count errno_%u %u\n", i, count.errors[i]);

    /* Each kind of refusal was met, and most calls were none. */
    co_expect_true("calls that were refused",
                   count.errors[EINVAL] && count.errors[EBUSY] &&
                   count.errors[EEXIST] && count.errors[EFAULT] &&
                   count.errors[EPERM] && count.errors[ESRCH]);
    co_expect_true("calls that were not", count.whole > calls / 4);

    co_settle(&first, 1);
    co_check_leak(&before, REGIONS);
    if ( co_feature == CO_FEATURE_PRESENT )
    {
        co_expect("get_info", co_get_info(&info), 0);
        co_check_law(&info);
    }
    co_finish();
}
