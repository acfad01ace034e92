/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where C calls Rust. This file alone is compiled to align the stack to the 16
 * bytes that Rust's code relies on and that C in Xen does not keep.
 */
#include <xen/errno.h>
#include <xen/init.h>
#include <xen/param.h>
#include <xen-rs.h>

bool __read_mostly coalesce_pending;

/* Values are those of XEN_DOMCTL_COALESCE_MODE_*. */
static unsigned int __ro_after_init opt_mode = XEN_DOMCTL_COALESCE_MODE_full;

static int __init cf_check parse_coalesce(const char *s)
{
    if ( !strcmp(s, "off") )
        opt_mode = XEN_DOMCTL_COALESCE_MODE_off;
    else if ( !strcmp(s, "in-place") )
        opt_mode = XEN_DOMCTL_COALESCE_MODE_in_place;
    else if ( !strcmp(s, "full") )
        opt_mode = XEN_DOMCTL_COALESCE_MODE_full;
    else
        return -EINVAL;

    return 0;
}
custom_param("coalesce", parse_coalesce);

unsigned int xrs_sched_mode(void)
{
    return opt_mode;
}

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
        rs_split(d, d->arch.coalesce, gfn, level);
}

mfn_t coalesce_place(struct domain *d, gfn_t gfn)
{
    return _mfn(rs_place(d, gfn_x(gfn)));
}

int coalesce_exchange(struct domain *d, struct xen_memory_exchange *exch,
                      unsigned int memflags, unsigned int max_order)
{
    return rs_exchange(d, exch, memflags, max_order);
}

int coalesce_domctl(struct domain *d, struct xen_domctl_coalesce *op)
{
    return rs_domctl(d, op);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
