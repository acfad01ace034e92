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

#define ABI_XENMEM_remove_from_physmap     15
#define ABI_XENMEM_add_to_physmap_batch    23
#define ABI_XENMEM_claim_pages             24
#define ABI_XENMEM_access_op               21
#define ABI_XENMAPSPACE_gmfn_foreign       4

struct abi_remove_from_physmap {
    domid_t domid;
    unsigned long gfn;
};

struct abi_add_to_physmap_batch {
    domid_t domid;
    uint16_t space, size;
    domid_t foreign_domid;
    unsigned long *idxs, *gpfns;
    int *errs;
};

struct abi_mem_access_op {
    uint8_t op;
#define ABI_XENMEM_access_op_set_access 0
    uint8_t access;
    domid_t domid;
    uint32_t nr;
    uint64_t pfn;
    void *pfn_list, *access_list;
};

#define ABI_HVM_PARAM_MONITOR_RING_PFN 28

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

#define ABI_HYPERVISOR_dm_op    41
#define ABI_HYPERVISOR_hypfs_op 42

/* ---- hypfs ---- */

#define ABI_HYPFS_read  1
#define ABI_HYPFS_write 2

struct abi_hypfs_direntry {
    uint8_t type;
    uint8_t encoding;
    uint16_t pad;
    uint32_t content_len;
    uint32_t max_write_len;
};

/* ---- dm_op ---- */

#define ABI_DMOP_track_dirty_vram     7
#define ABI_DMOP_set_mem_type         12
#define ABI_DMOP_pin_memory_cacheattr 18

struct abi_dm_op {
    uint32_t op;
    uint32_t pad;
    union {
        struct {
            uint32_t nr;
            uint32_t pad;
            uint64_t first_pfn;
        } track_dirty_vram;
        struct {
            uint32_t nr;
            uint16_t mem_type;
#define ABI_HVMMEM_ram_rw 0
#define ABI_HVMMEM_ram_ro 1
            uint16_t pad;
            uint64_t first_pfn;
        } set_mem_type;
        struct {
            uint64_t start, end;
            uint32_t type;
            uint32_t pad;
        } pin_memory_cacheattr;
        uint8_t pad[40];
    } u;
};

struct abi_dm_op_buf {
    void *h;
    unsigned long size;
};

/* ---- domctl ---- */

#define ABI_DOMCTL_createdomain  1
#define ABI_DOMCTL_destroydomain 2
#define ABI_DOMCTL_pausedomain   3
#define ABI_DOMCTL_unpausedomain 4
#define ABI_DOMCTL_max_mem       11
#define ABI_DOMCTL_shadow_op      10
#define ABI_DOMCTL_setvcpucontext 12
#define ABI_DOMCTL_max_vcpus     15
#define ABI_DOMCTL_iomem_permission 20
#define ABI_DOMCTL_vm_event_op      56
#define ABI_DOMCTL_set_paging_mempool_size 86
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

struct abi_createdomain {
    uint32_t ssidref;
    uint8_t handle[16];
    uint32_t flags;
#define ABI_CDF_hvm (1U << 0)
#define ABI_CDF_hap (1U << 1)
    uint32_t iommu_opts;
    uint32_t max_vcpus;
    uint32_t max_evtchn_port;
    int32_t max_grant_frames;
    int32_t max_maptrack_frames;
    uint32_t grant_opts;
    uint32_t altp2m_opts;
    uint32_t vmtrace_size;
    uint32_t cpupool_id;
    uint32_t emulation_flags;
#define ABI_EMU_lapic (1U << 0)
    uint32_t misc_flags;
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

struct abi_vcpucontext {
    uint32_t vcpu;
    uint32_t pad;
    uint64_t ctxt;
};

/* What of it matters to an HVM vCPU has a name. */
struct abi_vcpu_guest_context {
    uint8_t fpu[512];
    uint64_t flags;
#define ABI_VGCF_online (1U << 5)
    struct {
        uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx,
                 rsi, rdi, error, rip, cs, rflags, rsp, ss, es, ds, fs, gs;
    } user_regs;
    uint8_t rest[4448];
};

struct abi_shadow_op {
    uint32_t op;
#define ABI_SHADOW_OP_OFF             0
#define ABI_SHADOW_OP_ENABLE_LOGDIRTY 2
    uint32_t mode;
    uint32_t mb;
    uint32_t pad;
    uint64_t dirty_bitmap, pages;
    uint32_t stats[2];
};

struct abi_iomem_permission {
    uint64_t first_mfn, nr_mfns;
    uint8_t allow;
};

struct abi_vm_event_op {
    uint32_t op;
#define ABI_VM_EVENT_ENABLE  0
#define ABI_VM_EVENT_DISABLE 1
    uint32_t mode;
#define ABI_VM_EVENT_OP_MONITOR 2
    uint32_t port;
};

struct abi_domctl {
    uint32_t cmd;
    uint32_t interface_version;
    domid_t  domain;
    uint16_t pad[3];
    union {
        struct abi_createdomain createdomain;
        struct abi_getdomaininfo getdomaininfo;
        struct abi_coalesce coalesce;
        struct abi_vcpucontext vcpucontext;
        struct abi_shadow_op shadow_op;
        struct abi_iomem_permission iomem_permission;
        struct abi_vm_event_op vm_event_op;
        uint64_t max_memkb;
        uint32_t max_vcpus;
        uint64_t paging_mempool_size;
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

#define ABI_SYSCTL_perfc_op 5

struct abi_perfc_desc {
    char name[80];
    uint32_t nr_vals;
};

struct abi_perfc_op {
    uint32_t cmd;
#define ABI_PERFCOP_query 2
    uint32_t nr_counters;
    uint32_t nr_vals;
    uint64_t desc;
    uint64_t val;
};

#define ABI_SYSCTL_debug_keys 7

struct abi_debug_keys {
    uint64_t keys;
    uint32_t nr_keys;
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
        struct abi_perfc_op perfc_op;
        struct abi_debug_keys debug_keys;
        uint8_t pad[128];
    } u;
};

/* ---- What xen.c does for the others here ---- */

int abi_domctl(int domid, struct abi_domctl *op);

#endif /* COALESCE_XEN_ABI_H */
