/* SPDX-License-Identifier: GPL-2.0-only */
/* What a debug key prints: a table of domains. */
#include <xen/init.h>
#include <xen/keyhandler.h>
#include <xen/lib.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen-rs.h>

#define COUNT(name) XEN_DOMCTL_COALESCE_COUNT_ ## name

/* "what: hole 2, pinned 1" for those that are not 0; nothing if all are. */
static void print_some(const char *what, const struct domain *d,
                       const char *const *names, unsigned int nr,
                       unsigned int base)
{
    const char *before = what;
    unsigned int i;

    for ( i = 0; i < nr; i++ )
    {
        uint64_t count = coalesce_count(d, base + i);

        if ( !count || !names[i] )
            continue;

        printk("%s %s %"PRIu64, before, names[i], count);
        before = ",";
    }

    if ( before != what )
        printk("\n");
}

static void print_domain(const struct domain *d)
{
    char name[8];

    snprintf(name, sizeof(name), "d%u", d->domain_id);
    printk("%7s %8s %9"PRIu64" %8"PRIu64" %9"PRIu64" %8"PRIu64" %12"PRIu64
           " %8"PRIu64" %7"PRIu64" %12"PRIu64"\n",
           name, xrs_mode_names[coalesce_get_mode(d)],
           coalesce_count(d, COUNT(looked_at)),
           coalesce_count(d, COUNT(promoted)),
           coalesce_count(d, COUNT(completed)),
           coalesce_count(d, COUNT(migrated)),
           coalesce_count(d, COUNT(pages_copied)),
           coalesce_count(d, COUNT(splits)),
           coalesce_count(d, COUNT(queued)),
           coalesce_count(d, COUNT(longest_hold)));
    print_some("        left:", d, xrs_reason_names, XRS_REASONS,
               COUNT(reasons));
    print_some("        split by:", d, xrs_cause_names, XRS_CAUSES,
               COUNT(splits_by));
}

static void cf_check dump_coalesce(unsigned char key)
{
    struct domain *d;
    unsigned int domid = 0;

    printk("'%c' pressed -> dumping superpage coalescing\n", key);
    printk("coalesce=%s,budget=%u,batch=%u,watermark=%uK,cool-down=%u,share=%u,room=%u\n",
           xrs_mode_names[xrs_knobs.mode], xrs_knobs.budget, xrs_knobs.batch,
           xrs_knobs.watermark, xrs_knobs.cool_down, xrs_knobs.share,
           xrs_knobs.room);
    printk("%7s %8s %9s %8s %9s %8s %12s %8s %7s %12s\n", "domain", "mode",
           "looked at", "promoted", "completed", "migrated", "pages copied",
           "splits", "queued", "longest hold");

    while ( (d = xrs_domain_lock_from(domid)) )
    {
        process_pending_softirqs();
        print_domain(d);
        domid = d->domain_id + 1;
        xrs_domain_unlock(d);
    }
}

static int __init cf_check keyhandler_init(void)
{
    register_keyhandler('B', dump_coalesce, "dump superpage coalescing", 1);

    return 0;
}
__initcall(keyhandler_init);

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
