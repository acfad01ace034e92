/* SPDX-License-Identifier: GPL-2.0-only */
/* Xen's hypercall ABI: numbers and structures that the runtime needs. */
#ifndef XEN_PUBLIC_XEN_H
#define XEN_PUBLIC_XEN_H

#include <xen/arch-x86/xen.h>

#define __HYPERVISOR_memory_op        12
#define __HYPERVISOR_update_va_mapping 14
#define __HYPERVISOR_xen_version      17
#define __HYPERVISOR_console_io       18
#define __HYPERVISOR_grant_table_op   20
#define __HYPERVISOR_vcpu_op          24
#define __HYPERVISOR_sched_op         29
#define __HYPERVISOR_event_channel_op 32
#define __HYPERVISOR_hvm_op           34
#define __HYPERVISOR_sysctl           35
#define __HYPERVISOR_domctl           36

#define CONSOLEIO_write 0

#define UVMF_INVLPG 2

#define DOMID_FIRST_RESERVED 0x7ff0U
#define DOMID_SELF           0x7ff0U

#define SIF_PRIVILEGED (1U << 0)
#define SIF_INITDOMAIN (1U << 1)

#ifndef __ASSEMBLY__

typedef uint16_t domid_t;

/* Time: valid while version is even and unchanged around the reads. */
struct vcpu_time_info {
    uint32_t version;
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;       /* ns */
    uint32_t tsc_to_system_mul; /* 32.32 fixed point */
    int8_t   tsc_shift;         /* applied to the TSC delta first */
    uint8_t  flags;
    uint8_t  pad1[2];
};
typedef struct vcpu_time_info vcpu_time_info_t;

struct vcpu_info {
    uint8_t evtchn_upcall_pending;
    uint8_t evtchn_upcall_mask;
    unsigned long evtchn_pending_sel;
    struct arch_vcpu_info arch;
    struct vcpu_time_info time;
};

struct shared_info {
    struct vcpu_info vcpu_info[32];
    unsigned long evtchn_pending[sizeof(unsigned long) * 8];
    unsigned long evtchn_mask[sizeof(unsigned long) * 8];
    uint32_t wc_version;
    uint32_t wc_sec;
    uint32_t wc_nsec;
    uint32_t wc_sec_hi;
    struct arch_shared_info arch;
};
typedef struct shared_info shared_info_t;

/* What a PV domain is started with. */
struct start_info {
    char          magic[32];
    unsigned long nr_pages;
    unsigned long shared_info;  /* machine address */
    uint32_t      flags;        /* SIF_* */
    xen_pfn_t     store_mfn;
    uint32_t      store_evtchn;
    union {
        struct {
            xen_pfn_t mfn;
            uint32_t  evtchn;
        } domU;
        struct {
            uint32_t info_off;
            uint32_t info_size;
        } dom0;
    } console;
    unsigned long pt_base;      /* virtual address */
    unsigned long nr_pt_frames;
    unsigned long mfn_list;     /* virtual address */
    unsigned long mod_start;
    unsigned long mod_len;
    char          cmd_line[1024];
    unsigned long first_p2m_pfn;
    unsigned long nr_p2m_frames;
};

#endif /* !__ASSEMBLY__ */

#endif /* XEN_PUBLIC_XEN_H */
