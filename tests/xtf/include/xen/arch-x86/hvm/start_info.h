/* SPDX-License-Identifier: GPL-2.0-only */
/* What a PVH guest is handed in %ebx. */
#ifndef XEN_PUBLIC_ARCH_X86_HVM_START_INFO_H
#define XEN_PUBLIC_ARCH_X86_HVM_START_INFO_H

#include <xtf/types.h>

#define XEN_HVM_START_MAGIC_VALUE 0x336ec578

struct xen_hvm_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;             /* SIF_* */
    uint32_t nr_modules;
    uint64_t modlist_paddr;
    uint64_t cmdline_paddr;
    uint64_t rsdp_paddr;
    /* From version 1 on. */
    uint64_t memmap_paddr;
    uint32_t memmap_entries;
    uint32_t reserved;
};
typedef struct xen_hvm_start_info xen_pvh_start_info_t;

struct xen_hvm_modlist_entry {
    uint64_t paddr;
    uint64_t size;
    uint64_t cmdline_paddr;
    uint64_t reserved;
};

#define XEN_HVM_MEMMAP_TYPE_RAM 1

struct xen_hvm_memmap_table_entry {
    uint64_t addr;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
};

#endif /* XEN_PUBLIC_ARCH_X86_HVM_START_INFO_H */
