/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory of the calling guest. Handles were range checked by the caller. */
#include <xen/errno.h>
#include <xen/guest_access.h>
#include <xen-rs.h>

int xrs_guest_read_extents(const struct xen_memory_exchange *exch, bool out,
                           unsigned long first, unsigned long count,
                           xen_pfn_t *gfns)
{
    const struct xen_memory_reservation *side = out ? &exch->out : &exch->in;

    /* A single one costs less, where the compiler knows the size. */
    if ( count == 1 )
        return __copy_from_guest_offset(gfns, side->extent_start, first, 1)
               ? -EFAULT : 0;

    return __copy_from_guest_offset(gfns, side->extent_start, first, count)
           ? -EFAULT : 0;
}

int xrs_guest_write_extents(const struct xen_memory_exchange *exch,
                            unsigned long first, unsigned long count,
                            const xen_pfn_t *frames)
{
    if ( count == 1 )
        return __copy_to_guest_offset(exch->out.extent_start, first, frames, 1)
               ? -EFAULT : 0;

    return __copy_to_guest_offset(exch->out.extent_start, first, frames, count)
           ? -EFAULT : 0;
}

int xrs_guest_write(const struct xen_domctl_coalesce *op, unsigned long offset,
                    const void *from, unsigned long bytes)
{
    XEN_GUEST_HANDLE_PARAM(char) to = guest_handle_cast(op->buffer, char);

    return copy_to_guest_offset(to, offset, (const char *)from, bytes)
           ? -EFAULT : 0;
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
