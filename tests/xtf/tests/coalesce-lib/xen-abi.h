/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parts of Xen's interface that XTF's headers do not have.  All names are our
 * own, so that they stay out of the way should XTF gain them.
 */
#ifndef COALESCE_XEN_ABI_H
#define COALESCE_XEN_ABI_H

#include <xtf.h>

#define ABI_XENMEM_current_reservation 3
#define ABI_XENMEM_memory_map          9

struct abi_memory_domain {
    domid_t domid;
};

struct abi_memory_map {
    unsigned int nr_entries;
    void *buffer;
};

#define ABI_E820_RAM 1
struct abi_e820_entry {
    uint64_t addr;
    uint64_t size;
    uint32_t type;
} __packed;

#define ABI_VCPUOP_initialise                   0
#define ABI_VCPUOP_up                           1
#define ABI_VCPUOP_down                         2
#define ABI_VCPUOP_is_up                        3
#define ABI_VCPUOP_register_vcpu_time_phys_area 15

/* What VCPUOP_initialise takes for an HVM guest. */
#define ABI_VCPU_HVM_MODE_64B 1

struct abi_vcpu_hvm_x86_64 {
    uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags;
    uint64_t cr0, cr3, cr4, efer;
};

struct abi_vcpu_hvm_context {
    uint32_t mode;
    uint32_t pad;
    union {
        struct abi_vcpu_hvm_x86_64 x86_64;
        uint8_t pad[120];       /* the other one is larger */
    } cpu_regs;
};

/* ---- domctl ---- */

#define ABI_DOMCTL_getdomaininfo 5
#define ABI_DOMCTL_coalesce      90

struct abi_getdomaininfo {
    domid_t  domain;
    uint16_t pad1;
    uint32_t flags;
    uint64_t tot_pages;
    uint64_t max_pages;
    /* More follows, which is of no interest here. */
};

struct abi_coalesce {
    uint32_t op;
#define ABI_COALESCE_set_mode 0
#define ABI_COALESCE_get_info 1
#define ABI_COALESCE_get_map  2
#define ABI_COALESCE_audit    3
#define ABI_COALESCE_now      4
    uint32_t mode;
    uint64_t first_gfn;
    uint32_t nr;
    uint32_t pad;
    uint64_t buffer;
};

struct abi_domctl {
    uint32_t cmd;
    uint32_t interface_version;
    domid_t  domain;
    uint16_t pad[3];
    union {
        struct abi_getdomaininfo getdomaininfo;
        struct abi_coalesce coalesce;
        uint8_t pad[128];
    } u;
};

/* ---- sysctl ---- */

#define ABI_SYSCTL_physinfo 3

struct abi_physinfo {
    uint32_t threads_per_core;
    uint32_t cores_per_socket;
    uint32_t nr_cpus;
    uint32_t max_cpu_id;
    uint32_t nr_nodes;
    uint32_t max_node_id;
    uint32_t cpu_khz;
    uint32_t capabilities;
#define ABI_PHYSCAP_directio (1U << 2)
    uint32_t arch_capabilities;
    uint32_t pad;
    uint64_t total_pages;
    uint64_t free_pages;
    uint64_t scrub_pages;
    uint64_t outstanding_pages;
    uint64_t max_mfn;
    uint32_t hw_cap[8];
};

#define ABI_SYSCTL_numainfo 17

struct abi_meminfo {
    uint64_t size, free;        /* bytes */
};

struct abi_numainfo {
    uint32_t num_nodes;
    uint32_t pad;
    uint64_t meminfo;
    uint64_t distance;
};

struct abi_sysctl {
    uint32_t cmd;
    uint32_t interface_version;
    union {
        struct abi_physinfo physinfo;
        struct abi_numainfo numainfo;
        uint8_t pad[128];
    } u;
};

#endif /* COALESCE_XEN_ABI_H */
