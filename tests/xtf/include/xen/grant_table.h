/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_GRANT_TABLE_H
#define XEN_PUBLIC_GRANT_TABLE_H

#include <xen/xen.h>

typedef uint32_t grant_ref_t;
typedef uint32_t grant_handle_t;

#define GTF_invalid       0
#define GTF_permit_access 1

typedef struct {
    uint16_t flags;             /* GTF_* */
    domid_t  domid;             /* who is let in */
    uint32_t frame;             /* the gfn granted */
} grant_entry_v1_t;

#define GNTST_okay 0

#define GNTMAP_host_map (1 << 1)

#define GNTTABOP_map_grant_ref 0
struct gnttab_map_grant_ref {
    uint64_t host_addr;
    uint32_t flags;             /* GNTMAP_* */
    grant_ref_t ref;
    domid_t  dom;
    int16_t  status;            /* out, GNTST_* */
    grant_handle_t handle;      /* out */
    uint64_t dev_bus_addr;      /* out */
};

#define GNTTABOP_unmap_grant_ref 1
struct gnttab_unmap_grant_ref {
    uint64_t host_addr;
    uint64_t dev_bus_addr;
    grant_handle_t handle;
    int16_t  status;            /* out, GNTST_* */
};

#define GNTTABOP_set_version 8
struct gnttab_set_version {
    uint32_t version;
};

#endif /* XEN_PUBLIC_GRANT_TABLE_H */
