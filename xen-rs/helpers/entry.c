/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where C calls Rust. This file alone is compiled to align the stack to the 16
 * bytes that Rust's code relies on and that C in Xen does not keep.
 */
#include <xen/errno.h>
#include <xen/init.h>
#include <xen-rs.h>

bool __read_mostly coalesce_pending;

static int __init cf_check start(void)
{
    rs_start();

    return 0;
}
presmp_initcall(start);

bool coalesce_work(void)
{
    return rs_work();
}

void xrs_sched_work_busy(void)
{
    rs_work_busy();
}

bool xrs_sched_disturbs(void)
{
    return rs_disturbs();
}

void coalesce_domain_start(struct domain *d)
{
    rs_domain_start(d);
}

void coalesce_domain_destroy(struct domain *d)
{
    if ( d->arch.coalesce )
        rs_domain_destroy(d->arch.coalesce);
    d->arch.coalesce = NULL;
}

void coalesce_event(struct domain *d, unsigned long gfn, unsigned int order,
                    unsigned int p2mt)
{
    rs_event(d->arch.coalesce, gfn, order, p2mt);
}

void coalesce_split(struct domain *d, unsigned long gfn, unsigned int level)
{
    if ( unlikely(d->arch.coalesce) )
        rs_split(d, d->arch.coalesce, gfn, level,
                 current->arch.coalesce_cause);
}

mfn_t coalesce_place(struct domain *d, gfn_t gfn)
{
    return _mfn(rs_place(d, gfn_x(gfn)));
}

int coalesce_exchange(struct domain *d, struct xen_memory_exchange *exch,
                      unsigned int memflags, unsigned int max_order)
{
    enum coalesce_cause cause = coalesce_because(coalesce_by_exchange);
    int rc = rs_exchange(d, exch, memflags, max_order);

    coalesce_because(cause);

    return rc;
}

int coalesce_domctl(struct domain *d, struct xen_domctl_coalesce *op)
{
    return rs_domctl(d, op);
}

uint64_t coalesce_count(const struct domain *d, unsigned int index)
{
    return d->arch.coalesce ? rs_count(d, d->arch.coalesce, index) : 0;
}

unsigned int coalesce_get_mode(const struct domain *d)
{
    return d->arch.coalesce ? rs_get_mode(d->arch.coalesce)
                            : XEN_DOMCTL_COALESCE_MODE_off;
}

int coalesce_set_mode(struct domain *d, unsigned int mode)
{
    return d->arch.coalesce ? rs_set_mode(d, d->arch.coalesce, mode) : -ENODEV;
}

void coalesce_mode_changed(void)
{
    rs_mode_changed();
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
