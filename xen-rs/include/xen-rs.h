/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What C and Rust call of each other. xrs_* are C, called by Rust (declared
 * there in src/ffi.rs); rs_* are Rust, called by helpers/entry.c only, which
 * aligns the stack as Rust needs it.
 */
#ifndef XEN_RS_H
#define XEN_RS_H

#include <xen/coalesce.h>
#include <xen/mm.h>
#include <xen/sched.h>
#include <public/domctl.h>
#include <public/memory.h>

/* Facts about a domain, as p2m/src/machine.rs: Facts has them. */
#define XRS_FACT_HAP_2MB    (1UL << 0)
#define XRS_FACT_CREATED    (1UL << 1)
#define XRS_FACT_DYING      (1UL << 2)
#define XRS_FACT_IOMMU      (1UL << 3)
#define XRS_FACT_ALTP2M     (1UL << 4)
#define XRS_FACT_NESTED     (1UL << 5)
#define XRS_FACT_POD        (1UL << 6)
#define XRS_FACT_SHARING    (1UL << 7)
#define XRS_FACT_LOG_DIRTY  (1UL << 8)
#define XRS_FACT_HAP        (1UL << 9)
#define XRS_FACT_HAP_1GB    (1UL << 10)

/* domain.c */
bool xrs_domain_translated(const struct domain *d);
uint64_t xrs_domain_facts(const struct domain *d);
uint16_t xrs_domain_id(const struct domain *d);
bool xrs_domain_dying(const struct domain *d);
void *xrs_domain_state(const struct domain *d);
void xrs_domain_set_state(struct domain *d, void *state);
void xrs_domain_set_events(struct domain *d, bool on);
struct domain *xrs_domain_lock(unsigned int domid);
struct domain *xrs_domain_lock_from(unsigned int domid);
struct domain *xrs_domain_lock_owner(const struct page_info *pg);
void xrs_domain_unlock(struct domain *d);
void xrs_domain_crash(struct domain *d);

/* guest.c */
int xrs_guest_read_extents(const struct xen_memory_exchange *exch, bool out,
                           unsigned long first, unsigned long count,
                           xen_pfn_t *gfns);
int xrs_guest_write_extents(const struct xen_memory_exchange *exch,
                            unsigned long first, unsigned long count,
                            const xen_pfn_t *frames);
int xrs_guest_write(const struct xen_domctl_coalesce *op, unsigned long offset,
                    const void *from, unsigned long bytes);

/* heap.c */
unsigned long xrs_heap_alloc(struct domain *d, unsigned int order,
                             unsigned int memflags);
unsigned long xrs_heap_alloc_at(struct domain *d, unsigned long mfn,
                                unsigned int memflags);
void xrs_heap_free(unsigned long mfn, unsigned int order);
void xrs_heap_free_frozen(unsigned long mfn, unsigned int order);
void xrs_heap_free_frozen_list(struct domain *d,
                               const struct coalesce_pair *pages,
                               unsigned int nr);
int xrs_heap_assign(struct domain *d, unsigned long mfn, unsigned int order);
int xrs_heap_assign_places(struct domain *d, unsigned long home,
                           const unsigned long *slots, unsigned int words);
void xrs_heap_account(struct domain *d, unsigned long pages);
unsigned long xrs_heap_available(void);
unsigned int xrs_heap_node_flags(unsigned long mfn);
void *xrs_xzalloc(unsigned long size, unsigned long align);
void xrs_xfree(void *p);

/* iommu.c */
unsigned long xrs_iommu_root(const struct domain *d, unsigned int *level,
                             bool *amd);

/* p2m.c */
void xrs_p2m_lock(struct domain *d);
void xrs_p2m_unlock(struct domain *d);
void xrs_p2m_flush_sync(struct domain *d);
void xrs_p2m_want_flush(struct domain *d);
void xrs_p2m_free_table(struct domain *d, unsigned long table);
unsigned long xrs_p2m_get(struct domain *d, unsigned long gfn, uint8_t *type,
                          uint8_t *access, uint8_t *order);
int xrs_p2m_set(struct domain *d, unsigned long gfn, unsigned long mfn,
                unsigned int order, uint8_t type, uint8_t access);
int xrs_p2m_recalc(struct domain *d, unsigned long gfn);
bool xrs_p2m_log_dirty_range(struct domain *d, unsigned long first,
                             unsigned long last);
bool xrs_p2m_one_memory_type(struct domain *d, unsigned long gfn,
                             unsigned long mfn, unsigned int order);
uint8_t xrs_p2m_default_access(const struct domain *d);
unsigned long xrs_p2m_max_gfn(const struct domain *d);
unsigned long xrs_p2m_root(const struct domain *d);
bool xrs_p2m_is_ept(void);
bool xrs_p2m_exec_superpages(const struct domain *d);
void xrs_p2m_mark_dirty(struct domain *d, unsigned long gfn);
void xrs_p2m_invalidate_mapcache(struct domain *d);
int xrs_p2m_audit(struct domain *d, uint64_t bad[3]);

/* knobs.c */
struct xrs_knobs {
    uint32_t mode;              /* XEN_DOMCTL_COALESCE_MODE_*, but default */
    uint32_t budget;            /* us, then the idle loop is returned to */
    uint32_t batch;             /* pages copied in one hold of the p2m lock */
    uint32_t watermark;         /* KiB of free memory that are left to others */
    uint32_t cool_down;         /* ms, doubles each time a region breaks again */
    uint32_t share;             /* percent of a CPU's time if none is idle */
    uint32_t room;              /* pages that are moved to empty a block of 2M */
};
extern struct xrs_knobs xrs_knobs;

#define XRS_BUDGET_DEFAULT      1000
#define XRS_BUDGET_MIN          50
#define XRS_BUDGET_MAX          100000
#define XRS_BATCH_DEFAULT       128
#define XRS_BATCH_MIN           8
#define XRS_BATCH_MAX           512
#define XRS_WATERMARK_DEFAULT   8192
#define XRS_WATERMARK_MAX       (1U << 30)
#define XRS_COOL_DOWN_DEFAULT   16
#define XRS_COOL_DOWN_MIN       1
#define XRS_COOL_DOWN_MAX       60000
#define XRS_SHARE_DEFAULT       0
#define XRS_SHARE_MAX           50
#define XRS_ROOM_DEFAULT        0
#define XRS_ROOM_MAX            511

struct xrs_knob {
    const char *name;
    uint32_t *value, min, max;
    bool size;                  /* may have a unit; in KiB */
};

#define XRS_KNOBS 6
extern const struct xrs_knob xrs_knob_table[XRS_KNOBS];
#define XRS_MODES (XEN_DOMCTL_COALESCE_MODE_full + 1)
extern const char *const xrs_mode_names[XRS_MODES];

int xrs_knob_set(const struct xrs_knob *knob, uint64_t value);

/* names.c: what Rust has more of needs a name there. */
#define XRS_COUNTS  (XEN_DOMCTL_COALESCE_COUNT_blocks_made + 1)
#define XRS_REASONS (XEN_DOMCTL_COALESCE_REASON_deferred + 1)
#define XRS_CAUSES  (XEN_DOMCTL_COALESCE_CAUSE_exec + 1)
extern const char *const xrs_count_names[XRS_COUNTS];
extern const char *const xrs_reason_names[XRS_REASONS];
extern const char *const xrs_cause_names[XRS_CAUSES];

/* page.c */
struct page_info *xrs_page(unsigned long mfn);
struct page_info *xrs_page_of(const struct domain *d, unsigned long mfn,
                              unsigned long gfn);
unsigned long xrs_page_end(void);
const struct domain *xrs_page_owner(const struct page_info *pg);
void xrs_page_put(struct page_info *pg);
void xrs_page_put_alloc_ref(struct page_info *pg);
unsigned long xrs_page_m2p(unsigned long mfn);
void xrs_page_set_m2p(unsigned long mfn, unsigned long gfn);
unsigned int xrs_page_freeze_all(const struct domain *d,
                                 const struct coalesce_pair *pages,
                                 unsigned int nr);
unsigned int xrs_page_movable(const struct domain *d,
                              const struct coalesce_pair *pages,
                              unsigned int nr);
void xrs_page_write_m2p(const struct coalesce_pair *pages, unsigned int nr);
void xrs_page_clear_m2p(const struct coalesce_pair *pages, unsigned int nr);
void xrs_page_copy(unsigned long to, unsigned long from);
void xrs_page_copy_to_places(unsigned long home,
                             const struct coalesce_pair *pages,
                             unsigned int nr);
const void *xrs_page_map(unsigned long mfn);
void xrs_page_unmap(const void *va);

/* pv.c */
struct xrs_pv {
    struct page_list_head stolen, fresh;
};

int xrs_pv_steal(struct domain *d, struct xrs_pv *x, unsigned long mfn);
void xrs_pv_restore(struct domain *d, struct xrs_pv *x);
void xrs_pv_release(struct domain *d, struct xrs_pv *x);
bool xrs_pv_alloc(struct domain *d, struct xrs_pv *x, unsigned int order,
                  unsigned int memflags);
void xrs_pv_free(struct xrs_pv *x, unsigned int order);
unsigned long xrs_pv_next(const struct xrs_pv *x, unsigned long mfn);
unsigned long xrs_pv_name_next(const struct xrs_pv *x, unsigned long mfn,
                               unsigned long gpfn);
int xrs_pv_assign(struct domain *d, struct xrs_pv *x, unsigned int order);
void xrs_pv_died(struct domain *d, struct xrs_pv *x, unsigned long pages);

/* sched.c */
bool xrs_sched_preempt(void);
bool xrs_sched_softirq_pending(void);
uint64_t xrs_sched_us(void);
uint64_t xrs_sched_ticks(void);
void xrs_sched_set_pending(bool pending);
bool xrs_sched_is_pending(void);
void xrs_sched_wake(uint64_t ms);
void xrs_sched_sleep(void);
void xrs_sched_work_busy(void);
bool xrs_sched_disturbs(void);

/* trace.c */
void xrs_check(bool holds);
void xrs_perfc(unsigned int event, unsigned int copied);
bool xrs_trace_on(void);
void xrs_trace(uint32_t event, const void *words, unsigned int bytes);
void noreturn xrs_bug(void);

/* Rust. */
void rs_start(void);
bool rs_work(void);
void rs_work_busy(void);
bool rs_disturbs(void);
void rs_domain_start(struct domain *d);
void rs_domain_destroy(void *state);
void rs_event(void *state, unsigned long gfn, unsigned int order,
              unsigned int p2mt);
void rs_split(struct domain *d, void *state, unsigned long gfn,
              unsigned int level, unsigned int cause);
unsigned long rs_place(struct domain *d, unsigned long gfn);
int rs_exchange(struct domain *d, struct xen_memory_exchange *exch,
                unsigned int memflags, unsigned int max_order);
int rs_domctl(struct domain *d, struct xen_domctl_coalesce *op);
uint64_t rs_count(const struct domain *d, const void *state,
                  unsigned int index);
unsigned int rs_get_mode(const void *state);
int rs_set_mode(struct domain *d, void *state, unsigned int mode);
void rs_mode_changed(void);

/* entry.c, for the others here. A domain without state has nothing. */
uint64_t coalesce_count(const struct domain *d, unsigned int index);
unsigned int coalesce_get_mode(const struct domain *d);
int coalesce_set_mode(struct domain *d, unsigned int mode);
void coalesce_mode_changed(void);

#endif /* XEN_RS_H */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
