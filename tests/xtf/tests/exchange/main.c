/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XENMEM_exchange of a PV domain.  What it gives are machine frames, what it
 * gets are machine frames, written over the list of what it asked for.
 *
 * Works on an unpatched Xen too: what a PV domain sees is the same, but for the
 * defects of the old code, which are told apart by name below.  The figures are
 * TSC ticks.
 *
 * calls=N: random calls at the end (100000), as far as seconds=N (10) are enough.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "XENMEM_exchange, PV";

#define PAGES   2048            /* frames that take part */
#define LIST    4096
#define NONE    (~0UL)
#define FLAGS   (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_AD)

#define M2P     ((const unsigned long *)0xffff800000000000UL)

/* frame[i] stands behind pseudo-physical frame first + i; nothing maps it. */
static unsigned long frame[PAGES], tag[PAGES], first;

static unsigned long in[LIST] __page_aligned_bss;
static unsigned long out[LIST] __page_aligned_bss;
static unsigned char window[PAGE_SIZE] __page_aligned_bss;
static unsigned char hole[2 * PAGE_SIZE] __page_aligned_bss;
static unsigned int pick[PAGES];

/* The old code's -EFAULT comes after the pages are gone. */
static bool rust;

static struct xen_memory_exchange last;

static long exchange(unsigned long *ins, unsigned long nr_in,
                     unsigned int in_order, unsigned long *outs,
                     unsigned long nr_out, unsigned int out_order,
                     unsigned int flags)
{
    last = (struct xen_memory_exchange){
        .in = { ins, nr_in, in_order, 0, DOMID_SELF },
        .out = { outs, nr_out, out_order, flags, DOMID_SELF },
    };

    return hypercall_memory_op(XENMEM_exchange, &last);
}

static unsigned long *map(unsigned long mfn)
{
    int rc = pv_map(window, mfn, FLAGS);

    if ( rc )
        panic("Cannot map machine frame %#lx: %d\n", mfn, rc);

    return (unsigned long *)window;
}

static void unmap(void)
{
    if ( pv_map(window, NONE, 0) )
        panic("Cannot unmap the window\n");
}

/* Write what is told apart into frame i. */
static void mark(unsigned int i)
{
    unsigned long *p = map(frame[i]);

    tag[i] = co_rand() | 1;
    p[0] = p[511] = tag[i];
    unmap();
}

/* Frame i is ours, and as it was left. */
static void check(unsigned int i)
{
    unsigned long *p = map(frame[i]);

    if ( p[0] != tag[i] || p[511] != tag[i] )
        co_expect_true("a frame that was not given is unchanged", false);
    unmap();
}

/* What is in a frame that is new is nobody's. */
static void check_new(unsigned int i)
{
    const unsigned long *p = map(frame[i]);
    unsigned int k;

    for ( k = 0; k < PAGES; k++ )
        if ( tag[k] && p[0] == tag[k] )
            co_expect_true("a frame that is new holds nothing old", false);
    unmap();
    if ( M2P[frame[i]] != first + i )
        co_expect("the M2P entry of a new frame", M2P[frame[i]], first + i);
}

static void check_all(void)
{
    unsigned int i;

    for ( i = 0; i < PAGES; i++ )
        if ( frame[i] != NONE )
            check(i);
}

/* nr different frames, in no order, or in order from the start on. */
static void choose(unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < PAGES; i++ )
        pick[i] = i;
    for ( i = 0; i < nr; i++ )
    {
        unsigned int k = i + co_rand() % (PAGES - i), t = pick[i];

        pick[i] = pick[k];
        pick[k] = t;
    }
}

/* Single pages for single pages, all of which is to succeed. */
static void one_for_one(const char *what, unsigned int nr, unsigned int bits)
{
    unsigned int i;

    choose(nr);
    for ( i = 0; i < nr; i++ )
    {
        in[i] = frame[pick[i]];
        out[i] = first + pick[i];
    }
    co_expect(what, exchange(in, nr, 0, out, nr, 0, bits), 0);
    co_expect("nr_exchanged", last.nr_exchanged, nr);
    for ( i = 0; i < nr; i++ )
    {
        co_expect_true("another frame", out[i] != in[i]);
        if ( bits )
            co_expect_true("within the address bits",
                           out[i] >> (bits - PAGE_SHIFT) == 0);
        frame[pick[i]] = out[i];
        check_new(pick[i]);
        mark(pick[i]);
    }
    check_all();
}

/* Small extents for large ones, and back. */
static void orders(unsigned int in_order, unsigned int out_order)
{
    unsigned int order = in_order > out_order ? in_order : out_order;
    unsigned int nr = 1U << order, i, k;
    unsigned int nr_in = nr >> in_order, nr_out = nr >> out_order;
    static unsigned long mfn[LIST];
    unsigned long base = (PAGES - nr) & -nr;
    long rc;

    /* The inputs have to be contiguous; so exchange for contiguous ones first. */
    for ( i = 0; i < nr; i++ )
        in[i] = frame[base + i];
    if ( in_order )
    {
        for ( i = 0; i < nr_in; i++ )
            out[i] = first + base + (i << in_order);
        rc = exchange(in, nr, 0, out, nr_in, in_order, 0);
        co_expect("single pages for contiguous ones", rc, 0);
        if ( rc )
            return;
        for ( i = 0; i < nr_in; i++ )
            in[i] = out[i];
    }
    for ( i = 0; i < nr_out; i++ )
        out[i] = first + base + (i << out_order);

    rc = exchange(in, nr_in, in_order, out, nr_out, out_order, 0);
    if ( !co_expect("an exchange of different orders", rc, 0) )
        return;
    co_expect("nr_exchanged", last.nr_exchanged, nr_in);
    for ( i = 0; i < nr_out; i++ )
    {
        co_expect("alignment of what came", out[i] & ((1UL << out_order) - 1),
                  0);
        for ( k = 0; k < 1U << out_order; k++ )
            mfn[(i << out_order) + k] = out[i] + k;
    }
    for ( i = 0; i < nr; i++ )
    {
        frame[base + i] = mfn[i];
        check_new(base + i);
        mark(base + i);
    }
    check_all();
}

/* Eight pages, the sixth of which is bad. */
#define BAD 5
static void prepare(void)
{
    unsigned int i;

    choose(8);
    for ( i = 0; i < 8; i++ )
    {
        in[i] = frame[pick[i]];
        out[i] = first + pick[i];
    }
}

/* The first nr are exchanged, the others are not. */
static void check_partial(unsigned long nr)
{
    unsigned int i;

    co_expect("nr_exchanged", last.nr_exchanged, nr);
    for ( i = 0; i < 8; i++ )
    {
        if ( i < nr )
        {
            frame[pick[i]] = out[i];
            check_new(pick[i]);
            mark(pick[i]);
        }
        else
            co_expect("an entry of the list that was not reached", out[i],
                      first + pick[i]);
    }
    check_all();
}

static void bad_input(const char *what, unsigned long mfn)
{
    prepare();
    in[BAD] = mfn;
    co_expect(what, exchange(in, 8, 0, out, 8, 0, 0), -EINVAL);
    check_partial(BAD);
}

static void test_bad_inputs(void)
{
    bad_input("an input beyond all memory", NONE);
    bad_input("an input beyond 52 bits", 1UL << 40);
    bad_input("frame 0, which is Xen's", 0);
    bad_input("a frame that is mapped", virt_to_mfn(in));
    bad_input("a page table", virt_to_mfn(_p(pv_start_info->pt_base)));
    bad_input("the shared info page", pv_start_info->shared_info >> PAGE_SHIFT);

    prepare();
    in[BAD] = in[0];
    co_expect("an input twice", exchange(in, 8, 0, out, 8, 0, 0), -EINVAL);
    check_partial(BAD);
}

static void test_bad_arguments(void)
{
    unsigned long tables[] = { 0xffff830000000000UL, 0xffff82d040200000UL };
    unsigned int i;

    prepare();
    co_expect("sizes that differ", exchange(in, 8, 0, out, 7, 0, 0), -EINVAL);
    co_expect("sizes that wrap", exchange(in, 1UL << 63, 1, out, 0, 0, 0),
              -EINVAL);
    co_expect("an order beyond all bounds", exchange(in, 1, 64, out, 1, 64, 0),
              -EPERM);
    co_expect("sizes that do not make a chunk",
              exchange(in, 1, 0, out, 1UL << 63, 1, 0), -EINVAL);
    co_expect("nothing to do", exchange(in, 0, 0, out, 0, 0, 0), 0);

    /* The domains differ; the domain does not exist. */
    last = (struct xen_memory_exchange){
        .in = { in, 8, 0, 0, DOMID_SELF }, .out = { out, 8, 0, 0, 1 },
    };
    co_expect("domids that differ", hypercall_memory_op(XENMEM_exchange, &last),
              -EINVAL);
    last.in.domid = 77;
    last.out.domid = 77;
    co_expect("no such domain", hypercall_memory_op(XENMEM_exchange, &last),
              -ESRCH);
    /* XSA-29, XSA-212: more done than there is to do, or a huge start. */
    last = (struct xen_memory_exchange){
        .in = { in, 8, 0, 0, DOMID_SELF }, .out = { out, 8, 0, 0, DOMID_SELF },
        .nr_exchanged = 9,
    };
    co_expect("more done than asked for",
              hypercall_memory_op(XENMEM_exchange, &last), -EINVAL);
    for ( i = 0; i < ARRAY_SIZE(tables); i++ )
    {
        /* The entry that would be read or written lies in Xen. */
        last = (struct xen_memory_exchange){
            .in = { in, 1UL << 62, 0, 0, DOMID_SELF },
            .out = { out, 1UL << 62, 0, 0, DOMID_SELF },
            .nr_exchanged = (tables[i] - _u(out)) / 8,
        };
        co_expect("a start that makes the list reach into Xen",
                  hypercall_memory_op(XENMEM_exchange, &last), -EFAULT);
        co_expect("a list in Xen",
                  exchange(_p(tables[i]), 8, 0, out, 8, 0, 0), -EFAULT);
        co_expect("a list to be written in Xen",
                  exchange(in, 8, 0, _p(tables[i]), 8, 0, 0), -EFAULT);
        co_expect("arguments in Xen",
                  hypercall_memory_op(XENMEM_exchange, _p(tables[i])), -EFAULT);
    }
    check_all();
}

/* A list that ends within the third entry of eight, for want of a page. */
static void test_bad_pointers(void)
{
    unsigned long *edge = (unsigned long *)(hole + PAGE_SIZE) - BAD;
    unsigned long second = virt_to_mfn(hole + PAGE_SIZE);
    unsigned int i;

    if ( pv_map(hole + PAGE_SIZE, NONE, 0) )
        panic("Cannot unmap a page\n");

    prepare();
    for ( i = 0; i < BAD; i++ )
        edge[i] = in[i];
    co_expect("a list of inputs that breaks off",
              exchange(edge, 8, 0, out, 8, 0, 0), -EFAULT);
    check_partial(BAD);

    prepare();
    for ( i = 0; i < BAD; i++ )
        edge[i] = out[i];
    co_expect("a list of outputs that breaks off",
              exchange(in, 8, 0, edge, 8, 0, 0), -EFAULT);
    if ( rust )
    {
        for ( i = 0; i < BAD; i++ )
            out[i] = edge[i];
        check_partial(BAD);
    }
    else
    {
        /* The old code reads it when the page that was given is gone. */
        printk("@count defect_lost_page 1\n");
        for ( i = 0; i < BAD; i++ )
            frame[pick[i]] = edge[i];
        for ( i = 0; i < BAD; i++ )
            mark(pick[i]);
        frame[pick[BAD]] = NONE;
    }

    /* It can be read, but not written. */
    if ( pv_map(hole + PAGE_SIZE, second, FLAGS & ~_PAGE_RW) )
        panic("Cannot map a page read-only\n");
    if ( rust )
    {
        prepare();
        if ( pv_map(hole + PAGE_SIZE, second, FLAGS) )
            panic("Cannot map a page\n");
        for ( i = 0; i < 8; i++ )
            edge[i] = out[i];
        if ( pv_map(hole + PAGE_SIZE, second, FLAGS & ~_PAGE_RW) )
            panic("Cannot map a page read-only\n");
        co_expect("a list of outputs of which a part is read-only",
                  exchange(in, 8, 0, edge, 8, 0, 0), -EFAULT);
        for ( i = 0; i < 8; i++ )
            out[i] = edge[i];
        check_partial(BAD);

        /* All of one chunk, half of whose list is read-only. */
        for ( i = 0; i < 8; i++ )
            in[i] = frame[i];
        for ( i = 0; i < 8; i++ )
            out[i] = first + i;
        co_expect("eight for one", exchange(in, 8, 0, out, 1, 3, 0), 0);
        for ( i = 0; i < 8; i++ )
        {
            frame[i] = out[0] + i;
            mark(i);
        }
        if ( pv_map(hole + PAGE_SIZE, second, FLAGS) )
            panic("Cannot map a page\n");
        for ( i = 0; i < 8; i++ )
            edge[i] = first + i;
        if ( pv_map(hole + PAGE_SIZE, second, FLAGS & ~_PAGE_RW) )
            panic("Cannot map a page read-only\n");
        in[0] = frame[0];
        co_expect("one for eight, the list of which is read-only in part",
                  exchange(in, 1, 3, edge, 8, 0, 0), -EFAULT);
        co_expect("nr_exchanged", last.nr_exchanged, 0);
        for ( i = 0; i < 8; i++ )
            co_expect("the list is as it was", edge[i], first + i);
        check_all();
    }
    if ( pv_map(hole + PAGE_SIZE, second, FLAGS) )
        panic("Cannot map a page\n");
}

/* Arguments as an enemy would choose them; whatever is done is followed. */
static void random_call(void)
{
    static const unsigned int few[] = { 0, 0, 0, 1, 2, 3, 9, 12, 13, 31, 64 };
    unsigned int nr = 1 + co_rand() % 24, i, k, bad = 0;
    unsigned int in_order = 0, out_order = 0;
    long rc;

    choose(nr);
    for ( i = 0; i < nr; i++ )
    {
        in[i] = frame[pick[i]];
        out[i] = first + pick[i];
    }
    switch ( co_rand() % 8 )
    {
    case 0:
        in[co_rand() % nr] = co_rand() >> (co_rand() % 64);
        bad = 1;
        break;
    case 1:
        in[co_rand() % nr] = in[co_rand() % nr];
        break;
    case 2:
        in[co_rand() % nr] = co_rand() % (1UL << 17);
        break;
    case 3:
        in_order = few[co_rand() % ARRAY_SIZE(few)];
        out_order = few[co_rand() % ARRAY_SIZE(few)];
        break;
    }
    last = (struct xen_memory_exchange){
        .in = { in, nr, in_order, 0, DOMID_SELF },
        .out = { out, nr, out_order, 0, DOMID_SELF },
    };
    switch ( co_rand() % 16 )
    {
    case 0:
        last.nr_exchanged = co_rand() >> (co_rand() % 64);
        break;
    case 1:
        last.in.nr_extents = co_rand() >> (co_rand() % 64);
        break;
    case 2:
        last.out.nr_extents = co_rand() >> (co_rand() % 64);
        break;
    case 3:
        last.out.mem_flags = co_rand();
        break;
    case 4:
        last.in.domid = co_rand();
        break;
    case 5:
        last.in.extent_start = _p(co_rand());
        break;
    }
    if ( in_order || out_order || last.in.nr_extents != nr ||
         last.out.nr_extents != nr || last.nr_exchanged )
    {
        /* Nothing of that may come to anything, or it is not followed. */
        last.in.extent_start = co_rand() & 1 ? in : _p(co_rand());
        for ( i = 0; i < nr; i++ )
            in[i] = NONE - i;
        bad = 2;
    }
    rc = hypercall_memory_op(XENMEM_exchange, &last);
    if ( bad == 2 )
        return;
    if ( last.nr_exchanged > nr )
        panic("%lu of %u extents exchanged\n", last.nr_exchanged, nr);
    if ( !rc && last.nr_exchanged != nr )
        co_expect("nr_exchanged", last.nr_exchanged, nr);
    if ( rc && rc != -EINVAL && rc != -EFAULT && rc != -EPERM &&
         rc != -ENOMEM && rc != -ESRCH )
        co_expect("the error", rc, -EINVAL);

    /*
     * One frame may have been named in the place of another, or may have come
     * back and been given again, so that contents are for the end; and the
     * domain has more frames than take part here.
     */
    for ( i = 0; i < last.nr_exchanged; i++ )
        for ( k = 0; k < PAGES; k++ )
            if ( frame[k] == in[i] )
            {
                frame[k] = out[i];
                pick[i] = k;
                break;
            }
    for ( i = 0; i < last.nr_exchanged; i++ )
        mark(pick[i]);
}

static void bench(unsigned int nr, const char *name)
{
    uint64_t best = ~0ULL;
    unsigned int round, i;

    for ( round = 0; round < 6; round++ )
    {
        uint64_t t;

        for ( i = 0; i < nr; i++ )
        {
            in[i] = frame[i];
            out[i] = first + i;
        }
        t = co_rdtsc();
        co_expect("exchange", exchange(in, nr, 0, out, nr, 0, 0), 0);
        t = co_rdtsc() - t;
        for ( i = 0; i < nr; i++ )
            frame[i] = out[i];
        best = t < best ? t : best;
    }
    printk("@count %s %" PRIu64 "\n", name, best);
}

static void test_own_frames(void)
{
    unsigned int i;

    first = pv_start_info->nr_pages - PAGES;
    for ( i = 0; i < PAGES; i++ )
        frame[i] = pfn_to_mfn(first + i);
}

void test_main(void)
{
    static const unsigned int pairs[][2] = {
        { 0, 3 }, { 3, 0 }, { 0, 9 }, { 9, 0 }, { 9, 9 }, { 1, 4 }, { 4, 1 },
        { 0, 10 }, { 10, 0 }, { 10, 10 }, { 2, 10 },
    };
    struct co_pages before;
    unsigned int i, calls = co_param("calls", 100000);
    uint64_t end;

    co_init();
    rust = co_feature != CO_FEATURE_ABSENT;
    test_own_frames();
    co_pages_now(&before);

    co_phase("figures");
    bench(1, "pv_exchange_1");
    bench(512, "pv_exchange_512");

    for ( i = 0; i < PAGES; i++ )
        mark(i);

    co_phase("single pages");
    one_for_one("one page", 1, 0);
    one_for_one("8 pages", 8, 0);
    one_for_one("512 pages", 512, 0);
    one_for_one("1000 pages", 1000, 0);
    one_for_one("with address bits", 100, 28);

    co_phase("orders");
    for ( i = 0; i < ARRAY_SIZE(pairs); i++ )
        orders(pairs[i][0], pairs[i][1]);

    co_phase("bad arguments");
    test_bad_inputs();
    test_bad_arguments();
    test_bad_pointers();

    co_phase("random calls");
    end = co_now() + co_param("seconds", 10) * CO_S;
    for ( i = 0; rust && i < calls && (i % 100 || co_now() < end); i++ )
        random_call();
    check_all();
    printk("@count random_calls %u\n", i);

    co_check_leak(&before, 0);
    co_finish();
}
