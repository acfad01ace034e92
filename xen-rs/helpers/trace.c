/* SPDX-License-Identifier: GPL-2.0-only */
/* What is said of our doings, and the end of them. */
#include <xen/bug.h>
#include <xen/perfc.h>
#include <xen/trace.h>
#include <xen-rs.h>

/* Counters of the whole host, where Xen has any. */
void xrs_perfc(unsigned int event, unsigned int copied)
{
    switch ( TRC_MEM_COALESCE_SPLIT + event )
    {
    case TRC_MEM_COALESCE_SPLIT:
        perfc_incr(coalesce_split);
        break;

    case TRC_MEM_COALESCE_PROMOTE:
        perfc_incr(coalesce_promote);
        break;

    case TRC_MEM_COALESCE_COMPLETE:
        perfc_incr(coalesce_complete);
        break;

    case TRC_MEM_COALESCE_MIGRATE:
        perfc_incr(coalesce_migrate);
        break;

    case TRC_MEM_COALESCE_REFUSE:
        perfc_incr(coalesce_refuse);
        break;

    case TRC_MEM_EXCHANGE:
        perfc_incr(coalesce_exchange);
        break;
    }

    perfc_add(coalesce_copied, copied);
}

bool xrs_trace_on(void)
{
    return tb_init_done;
}

void xrs_trace(uint32_t event, const void *words, unsigned int bytes)
{
    trace_time(event, bytes, words);
}

/* What Rust found to hold, or not, in debug builds. */
void xrs_check(bool holds)
{
    ASSERT(holds);
}

/* Rust's panic handler: not reachable, and the build proves it. */
void noreturn xrs_bug(void)
{
    BUG();
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
