/* SPDX-License-Identifier: GPL-2.0-only */
/* Checks and console lines. */
#include "coalesce.h"

#define MAX_FAILURES 40

unsigned int co_checks, co_failures;

/* One cause can have many effects; the first few tell it. */
static void failed(void)
{
    if ( ++co_failures < MAX_FAILURES )
        return;

    printk("Too many failures, giving up\n");
    xtf_exit();
}

bool co_expect(const char *what, long got, long want)
{
    co_checks++;

    if ( got == want )
        return true;

    xtf_failure("Fail: %s: expected %ld, got %ld\n", what, want, got);
    failed();

    return false;
}

bool co_expect_true(const char *what, bool ok)
{
    co_checks++;

    if ( ok )
        return true;

    xtf_failure("Fail: %s\n", what);
    failed();

    return false;
}

void co_phase(const char *name)
{
    printk("@phase %s\n", name);
}

void co_print_map(const char *name, const unsigned long *first_gfns,
                  unsigned int nr)
{
    static const char letters[] = ".Wbho";
    static char line[257];
    static uint8_t map[256];
    unsigned int i, run;

    if ( co_feature != CO_FEATURE_PRESENT )
        return;

    if ( nr > ARRAY_SIZE(map) )
        nr = ARRAY_SIZE(map);

    /* Neighbours in one go. */
    for ( i = 0; i < nr; i += run )
    {
        int rc;

        for ( run = 1; i + run < nr; run++ )
            if ( first_gfns[i + run] != first_gfns[i] + run * CO_REGION_PAGES )
                break;

        rc = co_get_map(first_gfns[i], run, &map[i]);
        if ( rc )
            panic("get_map of %#lx gives %d\n", first_gfns[i], rc);
    }

    for ( i = 0; i < nr; i++ )
        line[i] = map[i] < sizeof(letters) - 1 ? letters[map[i]] : '?';
    line[nr] = '\0';

    printk("@map %s %s\n", name, line);
}

void co_print_counts(const struct co_info *info)
{
    static const char *const names[CO_COUNTS] = {
        [CO_LOOKED_AT] = "looked_at",
        [CO_PROMOTED] = "promoted",
        [CO_COMPLETED] = "completed",
        [CO_MIGRATED] = "migrated",
        [CO_PAGES_COPIED] = "pages_copied",
        [CO_SPLITS] = "splits",
        [CO_SPLITS_AVOIDED] = "splits_avoided",
        [CO_EXCHANGE_CALLS] = "exchange_calls",
        [CO_EXCHANGED_PAGES] = "exchanged_pages",
        [CO_LONGEST_HOLD] = "longest_hold",
        [CO_QUEUED] = "queued",
        [CO_HOLD_TICKS] = "hold_ticks",
        [CO_COPY_TICKS] = "copy_ticks",
        [CO_PROMOTED_1G] = "promoted_1g",
        [CO_BLOCKS_MADE] = "blocks_made",
    };
    static const char *const reasons[CO_SPLITS_BY - CO_REFUSED] = {
        "whole_already", "empty", "hole", "pinned", "mem_type", "access",
        "special", "no_memory", "dying", "iommu", "altp2m", "nested", "pod",
        "sharing", "logdirty", "recalc", "cooling", "mode", "not_ready",
        "vanished", "interrupted", "type_pinned", "cacheability",
        "mem_access", "exec_sp", "deferred",
    };
    static const char *const causes[CO_CAUSES] = {
        "other", "balloon", "exchange", "map", "type", "logdirty", "exec",
    };
    unsigned int i;

    for ( i = 0; i < CO_REFUSED; i++ )
        if ( names[i] )
            printk("@count %s %" PRIu64 "\n", names[i], info->count[i]);

    for ( i = 0; i < ARRAY_SIZE(reasons); i++ )
        if ( info->count[CO_REFUSED + i] )
            printk("@reason %s %" PRIu64 "\n", reasons[i] ?: "unnamed",
                   info->count[CO_REFUSED + i]);

    for ( i = 0; i < CO_CAUSES; i++ )
        if ( info->count[CO_SPLITS_BY + i] )
            printk("@count splits_by_%s %" PRIu64 "\n", causes[i],
                   info->count[CO_SPLITS_BY + i]);
}

static uint64_t outcomes(const struct co_info *info)
{
    uint64_t sum = info->count[CO_PROMOTED] + info->count[CO_COMPLETED] +
                   info->count[CO_MIGRATED];
    unsigned int i;

    for ( i = CO_REFUSED; i < CO_SPLITS_BY; i++ )
        sum += info->count[i];

    return sum;
}

void co_check_law(struct co_info *info)
{
    unsigned int tries, cause;
    uint64_t splits = 0;

    /* Another CPU may be between the two sides of it, but not for long. */
    for ( tries = 0; tries < 100; tries++ )
    {
        if ( outcomes(info) == info->count[CO_LOOKED_AT] )
            break;
        co_sleep(CO_MS);
        co_expect("get_info", co_get_info(info), 0);
    }

    co_expect("looked_at is the sum of all outcomes",
              info->count[CO_LOOKED_AT], outcomes(info));

    for ( cause = 0; cause < CO_CAUSES; cause++ )
        splits += info->count[CO_SPLITS_BY + cause];
    co_expect("splits is the sum of all causes", info->count[CO_SPLITS],
              splits);
}

static void audit_now(struct co_pages *p)
{
    if ( co_audit(p->audit) )
        memset(p->audit, 0xff, sizeof(p->audit));
}

void co_pages_now(struct co_pages *p)
{
    p->dom = co_dom_pages();
    p->free = co_free_pages(&p->iommu);
    audit_now(p);
}

void co_settle(const unsigned long *first_gfns, unsigned int nr)
{
    static struct co_info info;
    uint64_t end = co_now() + 5 * CO_S, free = 0;
    unsigned int still = 0;
    bool iommu;

    /* Under an IOMMU nothing is moved. */
    co_free_pages(&iommu);
    if ( co_feature != CO_FEATURE_PRESENT || iommu )
        return;

    do {
        uint64_t now = co_free_pages(&iommu);
        unsigned int i;

        for ( i = 0; i < nr; i++ )
            if ( co_region_state(first_gfns[i]) != CO_REGION_WHOLE )
                break;

        co_expect("get_info", co_get_info(&info), 0);
        if ( i < nr || info.count[CO_QUEUED] || now != free )
            still = 0;
        else if ( ++still == 10 )
            return;

        free = now;
        co_sleep(10 * CO_MS);
    } while ( co_now() < end );

    printk("Not all is whole, coalescing may be switched off\n");
}

void co_warm(const unsigned long *first_gfns, unsigned int nr)
{
    unsigned long gib = ~0UL;
    unsigned int i;
    bool iommu;

    co_free_pages(&iommu);
    if ( co_feature != CO_FEATURE_PRESENT || iommu )
        return;

    for ( i = 0; i < nr; i++ )
    {
        unsigned long gfn = first_gfns[i] + 7;

        if ( gfn >> 18 == gib )
            continue;
        gib = gfn >> 18;
        co_expect("decrease", co_decrease(&gfn, 1, 0), 1);
        co_expect("populate", co_populate(&gfn, 1, 0), 1);
    }
    co_settle(first_gfns, nr);
}

static void check_audit(const struct co_pages *before,
                        const struct co_pages *now)
{
    static const char *const names[CO_AUDITS] = {
        "pages", "xen_pages", "others", "compared", "wrong_frame",
        "wrong_owner", "wrong_count", "wrong_m2p", "wrong_table",
        "wrong_device", "xen_orphans", "xen_m2p_bad", "xen_p2m_bad",
    };
    unsigned int i;

    for ( i = CO_AUDIT_OTHERS; i < CO_AUDITS; i++ )
    {
        if ( !~now->audit[i] )
            continue;   /* Xen's own was not to be had */

        printk("@count audit_%s %" PRIu64 "\n", names[i], now->audit[i]);
        if ( i < CO_AUDIT_WRONG || i == CO_AUDIT_XEN_ORPHANS )
            continue;

        if ( !co_expect("wrong pages found by the audit", now->audit[i], 0) )
            printk("... audit_%s\n", names[i]);
    }

    /* Pages that are the domain's, and that its page table does not map. */
    printk("@leak pages_unmapped %" PRIu64 " %" PRIu64 "\n",
           before->dom - before->audit[CO_AUDIT_PAGES],
           now->dom - now->audit[CO_AUDIT_PAGES]);
    co_expect("pages not mapped", now->dom - now->audit[CO_AUDIT_PAGES],
              before->dom - before->audit[CO_AUDIT_PAGES]);
    printk("@leak xen_pages_mapped %" PRIu64 " %" PRIu64 "\n",
           before->audit[CO_AUDIT_XEN_PAGES], now->audit[CO_AUDIT_XEN_PAGES]);
    if ( ~now->audit[CO_AUDIT_XEN_ORPHANS] )
    {
        printk("@leak orphans %" PRIu64 " %" PRIu64 "\n",
               before->audit[CO_AUDIT_XEN_ORPHANS],
               now->audit[CO_AUDIT_XEN_ORPHANS]);
        co_expect("orphaned pages", now->audit[CO_AUDIT_XEN_ORPHANS],
                  before->audit[CO_AUDIT_XEN_ORPHANS]);
    }
}

void co_check_leak(const struct co_pages *before, unsigned int nr_regions)
{
    uint64_t end = co_now() + 5 * CO_S, slack = before->iommu ? nr_regions : 0;
    struct co_pages now;
    bool same;

    do {
        now.dom = co_dom_pages();
        now.free = co_free_pages(&now.iommu);
        same = now.free + slack >= before->free &&
               now.free <= before->free + slack;
        if ( same && now.dom == before->dom )
            break;
        co_sleep(10 * CO_MS);
    } while ( co_now() < end );

    audit_now(&now);
    if ( ~now.audit[0] )
        check_audit(before, &now);

    printk("@leak dom_pages %" PRIu64 " %" PRIu64 "\n", before->dom, now.dom);
    co_expect("pages of the domain", now.dom, before->dom);

    if ( !before->free )
        return;

    if ( now.free != before->free )
        printk("%" PRIu64 " free pages became %" PRIu64 "%s\n", before->free,
               now.free, same ? ", which the IOMMU's page tables explain" : "");
    if ( !same || now.free == before->free )
        printk("@leak free_pages %" PRIu64 " %" PRIu64 "\n",
               before->free, now.free);
    co_expect_true("the free pages of the host are as before", same);
}

void co_print_gaps(const char *name, const char *unit,
                   const struct co_gaps *gaps)
{
    unsigned int i;

    printk("@count %s_longest_%s %" PRIu64 "\n", name, unit, gaps->longest);
    for ( i = 0; i < ARRAY_SIZE(gaps->nr); i++ )
        if ( gaps->nr[i] )
            printk("@count %s_from_2^%u_%s %" PRIu64 "\n", name, i, unit,
                   gaps->nr[i]);
}

void co_mend(const struct co_pages *before, const unsigned long *first_gfns,
             unsigned int nr)
{
    unsigned int i;

    for ( i = 0; i < nr; i++ )
        co_coalesce_one(first_gfns[i], CO_MODE_FULL);
    co_settle(first_gfns, nr);
    for ( i = 0; i < nr; i++ )
        co_expect("whole at last", co_region_state(first_gfns[i]),
                  CO_REGION_WHOLE);
    co_check_leak(before, nr);
}

bool co_require_feature(void)
{
    if ( co_feature == CO_FEATURE_UNKNOWN )
        xtf_skip("Skip: this domain may not use the coalesce domctl; run as dom0\n");
    else if ( co_feature == CO_FEATURE_ABSENT )
        xtf_failure("Fail: this Xen has no superpage coalescing: its domctl gives -ENOSYS\n");

    return co_feature == CO_FEATURE_PRESENT;
}

void co_finish(void)
{
    printk("@count checks %u\n", co_checks);
    printk("@count failures %u\n", co_failures);

    if ( !co_checks )
        xtf_error("Error: nothing was checked\n");
    else if ( !co_failures )
        xtf_success(NULL);
}
