/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Does what the other tests stand on work: formatting, traps, time, finding
 * memory, contents, ballooning, pinning, vCPUs?  Needs nothing of Xen that a stock one
 * does not have.
 *
 * Command line: crash=1 ends in an unexpected trap, to see how that looks.
 */
#include "../coalesce-lib/coalesce.h"

const char test_title[] = "Runtime selftest";

static void __printf(2, 3) check_format(const char *want, const char *fmt, ...)
{
    char buf[64];
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(buf, sizeof(buf), fmt, args);
    va_end(args);

    if ( !co_expect_true("formatting", !strcmp(buf, want)) )
        printk("expected '%s', got '%s'\n", want, buf);
    co_expect("length of formatted text", len, strlen(want));
}

static void test_format(void)
{
    char buf[4] = "xxx";

    check_format("-5 5 00042 42   |", "%d %u %05d %-5d|", -5, 5U, 42, 42);
    check_format("ff 00FF 0x1f", "%x %04X %#x", 255U, 255U, 31U);
    check_format("-9223372036854775808", "%ld", -0x7fffffffffffffffL - 1);
    check_format("18446744073709551615", "%" PRIu64, ~(uint64_t)0);
    check_format("ab  c|  x|%", "%s  %c|%3s|%%", "ab", 'c', "x");
    check_format("abc", "%.*s", 3, "abcdef");

    co_expect("length of cut text", snprintf(buf, sizeof(buf), "%u", 12345U), 5);
    co_expect_true("cut text is terminated", !strcmp(buf, "123"));
}

static void test_traps(void)
{
    unsigned long fault = 0;

    /* Page 0 is not mapped: reading it must end up in the fixup. */
    __asm__ __volatile__ ( "1: mov (%[nul]), %[fault]\n\t"
                           "jmp 3f\n\t"
                           "2: mov $0x600d, %[fault]\n\t"
                           "3:\n\t"
                           _ASM_EXTABLE(1b, 2b)
                           : [fault] "=&r" (fault) : [nul] "r" (8UL) );
    co_expect("fixup of a page fault", fault, 0x600d);

    __asm__ __volatile__ ( "1: ud2\n\t"
                           "jmp 3f\n\t"
                           "2: mov $0x600d, %[fault]\n\t"
                           "3:\n\t"
                           _ASM_EXTABLE(1b, 2b)
                           : [fault] "=&r" (fault) );
    co_expect("fixup of an invalid opcode", fault, 0x600d);
}

static void test_time(void)
{
    uint64_t t = co_now(), took;

    co_sleep(20 * CO_MS);
    took = co_now() - t;

    printk("A sleep of 20 ms took %" PRIu64 " us\n", took / 1000);
    co_expect_true("a sleep is not short", took >= 20 * CO_MS);
    co_expect_true("a sleep is not ten times too long", took < 200 * CO_MS);
}

/* What the vCPUs of one run write; only the sum is theirs together. */
static struct {
    struct co_barrier barrier;
    unsigned int nr, sum;
    uint64_t stack[CO_MAX_CPUS];
    bool late[CO_MAX_CPUS], trapped[CO_MAX_CPUS];
    unsigned int before[CO_MAX_CPUS];
} meeting;

static void meet(unsigned int cpu, void *arg)
{
    unsigned int i, fault = 0;

    meeting.stack[cpu] = _u(__builtin_frame_address(0));

    for ( i = 0; i < 1000; i++ )
        __atomic_add_fetch(&meeting.sum, 1, __ATOMIC_RELAXED);
    co_barrier_wait(&meeting.barrier, meeting.nr);
    meeting.late[cpu] = ACCESS_ONCE(meeting.sum) != meeting.nr * 1000;
    co_barrier_wait(&meeting.barrier, meeting.nr);

    /* Traps end up where the first vCPU's do. */
    __asm__ __volatile__ ( "1: ud2\n\t"
                           "jmp 3f\n\t"
                           "2: mov $1, %[fault]\n\t"
                           "3:\n\t"
                           _ASM_EXTABLE(1b, 2b)
                           : [fault] "+r" (fault) );
    meeting.trapped[cpu] = fault;
    meeting.before[cpu] = *(unsigned int *)arg;
}

static void test_cpus(void)
{
    unsigned int nr = co_nr_cpus(), turn, i, j;

    printk("@count vcpus %u\n", nr);
    co_expect("a vCPU that is not there",
              co_cpu_start(CO_MAX_CPUS - 1, meet, &turn),
              nr == CO_MAX_CPUS ? 0 : -ENOENT);
    co_expect("the first vCPU runs already", co_cpu_start(0, meet, &turn),
              -EINVAL);

    /* Again and again: they sleep in between. */
    for ( turn = 1; turn <= 20; turn++ )
    {
        meeting.nr = nr;
        meeting.sum = 0;
        for ( i = 1; i < nr; i++ )
            co_expect("a vCPU starts", co_cpu_start(i, meet, &turn), 0);
        if ( nr > 1 )
            co_expect("while it is busy", co_cpu_start(1, meet, &turn), -EBUSY);
        meet(0, &turn);
        for ( i = 1; i < nr; i++ )
            co_expect_true("a vCPU is done", co_cpu_wait(i, 10 * CO_S));

        for ( i = 0; i < nr; i++ )
        {
            co_expect_true("the barrier held everybody", !meeting.late[i]);
            co_expect_true("traps are handled", meeting.trapped[i]);
            co_expect("it was given this turn's argument", meeting.before[i],
                      turn);
            for ( j = 0; j < i; j++ )
                co_expect_true("each has its own stack",
                               meeting.stack[i] != meeting.stack[j]);
        }
    }
}

static void test_memory(void)
{
    static unsigned long regions[2048];
    unsigned int nr = co_find_regions(regions, ARRAY_SIZE(regions), false);
    unsigned long gfn, other, gfns[8];
    struct co_pages before;
    unsigned int i;

    co_print_ram();
    printk("%u regions of 2M, the first at %#lx, the last at %#lx\n",
           nr, regions[0], nr ? regions[nr - 1] : 0);
    if ( !co_expect_true("at least 12 regions of 2M", nr >= 12) )
        return;

    gfn = regions[1] + 5;
    other = regions[2] + 7;

    co_fill(gfn, 1);
    co_fill(other, 2);
    co_expect_true("contents are as written", co_check(gfn, 1));
    co_expect_true("written contents are not fresh", !co_check_fresh(gfn));
    printk("(One complaint about old contents is part of the test)\n");

    co_pages_now(&before);
    printk("%" PRIu64 " pages here, %" PRIu64 " free\n", before.dom, before.free);

    /* A hole reads as all ones, and cannot be given back again. */
    co_expect("balloon one page out", co_balloon_out(&gfn, 1, 0), 1);
    co_expect("one page less", co_dom_pages(), before.dom - 1);
    co_expect("a hole reads as", *(volatile long *)pfn_to_virt(gfn), -1);
    co_expect("balloon a hole out", co_decrease(&gfn, 1, 0), 0);

    /* The frame of other goes to the hole and back. */
    co_expect("move a page", co_move(other, gfn), 0);
    co_expect("its old place reads as", *(volatile long *)pfn_to_virt(other), -1);
    co_expect("move it back", co_move(gfn, other), 0);
    co_expect_true("its contents came along", co_check(other, 2));

    co_expect("balloon it in", co_populate(&gfn, 1, 0), 1);
    co_expect_true("it is fresh", co_check_fresh(gfn));

    /* More than one; and a whole region. */
    for ( i = 0; i < ARRAY_SIZE(gfns); i++ )
        gfns[i] = regions[3] + i * 60;
    co_expect("balloon eight out", co_balloon_out(gfns, 8, 0), 8);
    co_shuffle(gfns, 8);
    co_expect("balloon eight in", co_populate(gfns, 8, 0), 8);
    co_expect("balloon a region out", co_balloon_out(&regions[4], 1, 9), 1);
    co_expect("a region less", co_dom_pages(), before.dom - 512);
    co_expect("balloon a region in", co_populate(&regions[4], 1, 9), 1);

    co_expect("pin", co_pin(gfn), 0);
    co_expect("unpin", co_pin(~0UL), 0);

    co_check_leak(&before, 4);
}

void test_main(void)
{
    co_init();

    if ( co_param("crash", 0) )
        __asm__ __volatile__ ( "ud2" );

    test_format();
    test_traps();
    test_time();
    test_memory();
    test_cpus();

    co_finish();
}
