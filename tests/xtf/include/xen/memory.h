/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_MEMORY_H
#define XEN_PUBLIC_MEMORY_H

#include <xen/xen.h>

#define XENMEM_increase_reservation 0
#define XENMEM_decrease_reservation 1
#define XENMEM_populate_physmap     6

struct xen_memory_reservation {
    unsigned long *extent_start;
    unsigned long nr_extents;
    unsigned int extent_order;
    unsigned int mem_flags;
    domid_t domid;
};

#define XENMEM_add_to_physmap       7

struct xen_add_to_physmap {
    domid_t domid;
    uint16_t size;
    unsigned int space;
#define XENMAPSPACE_shared_info 0
#define XENMAPSPACE_grant_table 1
#define XENMAPSPACE_gmfn        2
    unsigned long idx;
    unsigned long gfn;
};

#define XENMEM_exchange             11

struct xen_memory_exchange {
    struct xen_memory_reservation in;
    struct xen_memory_reservation out;
    unsigned long nr_exchanged;
};

#endif /* XEN_PUBLIC_MEMORY_H */
