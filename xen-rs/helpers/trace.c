/* SPDX-License-Identifier: GPL-2.0-only */
/* What is said of our doings, and the end of them. */
#include <xen/bug.h>
#include <xen/trace.h>
#include <xen-rs.h>

bool xrs_trace_on(void)
{
    return tb_init_done;
}

void xrs_trace(uint32_t event, const void *words, unsigned int bytes)
{
    trace_time(event, bytes, words);
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
