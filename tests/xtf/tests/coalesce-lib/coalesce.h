/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of superpage coalescing and XENMEM_exchange share: the parts
 * of Xen's interface that XTF's headers lack, memory with contents that can be
 * checked, time, and the lines ("@map", "@count" …) that are read from the
 * console.
 */
#ifndef COALESCE_LIB_H
#define COALESCE_LIB_H

#include <xtf.h>

/* ---- XEN_DOMCTL_coalesce ---- */

enum {
    CO_MODE_DEFAULT,
    CO_MODE_OFF,
    CO_MODE_IN_PLACE,
    CO_MODE_FULL,
};

enum {
    CO_REGION_EMPTY,
    CO_REGION_WHOLE,
    CO_REGION_BROKEN,
    CO_REGION_HOLES,
    CO_REGION_OTHER,
};

enum {
    CO_LOOKED_AT,
    CO_PROMOTED,
    CO_COMPLETED,
    CO_MIGRATED,
    CO_PAGES_COPIED,
    CO_SPLITS,
    CO_SPLITS_AVOIDED,
    CO_EXCHANGE_CALLS,
    CO_EXCHANGED_PAGES,
    CO_LONGEST_HOLD,
    CO_QUEUED,
    CO_HOLD_TICKS,
    CO_COPY_TICKS,
    CO_PROMOTED_1G,
    CO_BLOCKS_MADE,
    CO_REFUSED = 16,            /* + reason */
    CO_SPLITS_BY = 48,          /* + cause */
    CO_COUNTS = 64,
};

enum {
    CO_CAUSE_OTHER,
    CO_CAUSE_BALLOON,
    CO_CAUSE_EXCHANGE,
    CO_CAUSE_MAP,
    CO_CAUSE_TYPE,
    CO_CAUSE_LOGDIRTY,
    CO_CAUSE_EXEC,
    CO_CAUSES,
};

enum {
    CO_REASON_WHOLE_ALREADY,
    CO_REASON_EMPTY,
    CO_REASON_HOLE,
    CO_REASON_PINNED,
    CO_REASON_MEM_TYPE,
    CO_REASON_ACCESS,
    CO_REASON_SPECIAL,
    CO_REASON_NO_MEMORY,
    CO_REASON_DYING,
    CO_REASON_IOMMU,
    CO_REASON_ALTP2M,
    CO_REASON_NESTED,
    CO_REASON_POD,
    CO_REASON_SHARING,
    CO_REASON_LOGDIRTY,
    CO_REASON_RECALC,
    CO_REASON_COOLING,
    CO_REASON_MODE,
    CO_REASON_NOT_READY,
    CO_REASON_VANISHED,
    CO_REASON_INTERRUPTED,
    CO_REASON_TYPE_PINNED,
    CO_REASON_CACHEABILITY,
    CO_REASON_MEM_ACCESS,
    CO_REASON_EXEC_SP,
};

struct co_info {
    uint32_t mode;
    uint64_t count[CO_COUNTS];
};

/* What is known about the Xen underneath. */
enum co_feature {
    CO_FEATURE_UNKNOWN,         /* no privilege to ask */
    CO_FEATURE_ABSENT,
    CO_FEATURE_PRESENT,
};

extern enum co_feature co_feature;
extern int co_domid;

/* To be called first. */
void co_init(void);

/* 0 or -errno, as the hypercalls. */
int co_set_mode(unsigned int mode);
int co_get_info(struct co_info *info);

/* The same of any domain. */
int co_set_mode_of(int domid, unsigned int mode);
int co_get_info_of(int domid, struct co_info *info);
int co_get_map(unsigned long first_gfn, unsigned int nr, uint8_t *map);

/*
 * Have regions coalesced now, as far as mode allows; outcomes, one for each, are
 * CO_PROMOTED, CO_COMPLETED, CO_MIGRATED, or CO_REFUSED + reason.
 */
int co_coalesce(unsigned long first_gfn, unsigned int nr, unsigned int mode,
                uint8_t *outcomes);

/* The same for one region. */
unsigned int co_coalesce_one(unsigned long first_gfn, unsigned int mode);

/*
 * The audit of this domain: what its page table maps against the M2P, owners
 * and reference counts, and against what an IOMMU maps. Elements are those of
 * XEN_DOMCTL_COALESCE_AUDIT_*; the last three are Xen's own audit, all ones if
 * it cannot be had.
 */
enum {
    CO_AUDIT_PAGES,
    CO_AUDIT_XEN_PAGES,
    CO_AUDIT_OTHERS,
    CO_AUDIT_COMPARED,
    CO_AUDIT_WRONG,             /* the first of what should not be there */
    CO_AUDIT_XEN_ORPHANS = 10,
    CO_AUDIT_XEN_M2P_BAD,
    CO_AUDIT_XEN_P2M_BAD,
    CO_AUDITS,
};

int co_audit(uint64_t found[CO_AUDITS]);
int co_audit_of(domid_t domid, uint64_t found[CO_AUDITS]);

/* The state of one region, CO_REGION_*. */
unsigned int co_region_state(unsigned long first_gfn);

/* The same of any domain. */
unsigned int co_region_state_of(int domid, unsigned long first_gfn);
unsigned int co_coalesce_one_of(int domid, unsigned long first_gfn,
                                unsigned int mode);

/* ---- The hypervisor's file system, its debug keys and its counters ---- */

/*
 * 0 or -errno; got: how long the contents are, of which as much is in buf as
 * there is room for.
 */
int co_hypfs_read(const char *path, void *buf, unsigned int len,
                  unsigned int *got);
int co_hypfs_write(const char *path, const void *buf, unsigned int len);

int co_debug_key(char key);

/* A performance counter, summed over CPUs; -ENOSYS: this Xen has none. */
int co_perf_counter(const char *name, uint64_t *value);

/* ---- A domain that does not run, unless it is told to ---- */

/*
 * HVM, with nr regions of memory (first_gfns: 0, 512, …) that are whole, a vCPU
 * that is down, and its mode is off. Its number, or -errno. What can be done to
 * any other domain (co_target_*) can be done to it.
 */
int co_doll_create(unsigned int nr);

/*
 * Have one looked after for a while: what Xen keeps of the memory that it takes for
 * that the first time, is taken.
 */
void co_doll_warm_up(void);

/* What a device model may do to it. */
int co_doll_set_ro(int domid, unsigned long gfn, bool ro);
int co_doll_track_dirty(int domid, unsigned long gfn, unsigned int nr);

/*
 * It may get at memory of devices: from then on it matters how its pages are to
 * be cached.  That is said for gfns from first to last: X86_MT_*, or
 * CO_CACHE_UNPIN for what was said before.
 */
#define CO_CACHE_UC     0U
#define CO_CACHE_UNPIN  (~0U)
int co_doll_give_iomem(int domid);
int co_doll_pin_cache(int domid, unsigned long first, unsigned long last,
                      unsigned int type);

/*
 * Somebody watches how its pages are accessed, with a ring in one of them; then
 * what may be done to pages can be said.  -EINVAL: this machine cannot do that.
 */
#define CO_ACCESS_RX    5U
#define CO_ACCESS_RWX   7U
int co_doll_watch(int domid, unsigned long ring_gfn);
int co_doll_unwatch(int domid);
int co_doll_set_access(int domid, unsigned long gfn, unsigned int nr,
                       unsigned int access);

/* All writes to it are tracked, as for a migration. */
int co_doll_log_dirty(int domid, bool on);

/*
 * Its vCPU begins to run, without paging, at an address below 4G; it can be
 * stopped, and goes on where it was.
 */
int co_doll_run(int domid, uint32_t addr);
int co_doll_pause(int domid);
int co_doll_unpause(int domid);

/* ---- Memory operations, on the domain itself ---- */

#define CO_REGION_PAGES 512UL

/*
 * These two return how many extents were done.  Xen does not clear a page that
 * a guest gives back, and may hand it out again as it is; a guest that cares
 * clears it first, which co_balloon_out() does.
 */
unsigned long co_balloon_out(unsigned long *gfns, unsigned long nr,
                             unsigned int order);
unsigned long co_decrease(unsigned long *gfns, unsigned long nr,
                          unsigned int order);
unsigned long co_populate(unsigned long *gfns, unsigned long nr,
                          unsigned int order);

/* Move the frame behind one gfn to another gfn, which should be a hole. */
int co_move(unsigned long from, unsigned long to);

/*
 * Make Xen hold a reference to a page, which it then writes to (the first 64
 * bytes), until the next call; ~0UL: let go.
 */
int co_pin(unsigned long gfn);

int co_map_space(unsigned int space, unsigned long idx, unsigned long gfn);

/*
 * XENMEM_exchange of extents; done, unless it is NULL: how many of the first list
 * were exchanged.
 */
long co_exchange(unsigned long *in, unsigned long nr_in, unsigned int in_order,
                 unsigned long *out, unsigned long nr_out,
                 unsigned int out_order, unsigned long *done);

/*
 * A memory operation as a 32-bit guest asks for it, with the structures of such
 * a guest; what is pointed at lies below 4 GiB.
 */
long co_memory_op32(unsigned int cmd, void *arg);

struct co_reservation32 {
    uint32_t extent_start, nr_extents, extent_order, mem_flags;
    domid_t domid;
    uint16_t pad;
};

struct co_exchange32 {
    struct co_reservation32 in, out;
    uint32_t nr_exchanged;
};

/* Pages of this domain. */
uint64_t co_dom_pages(void);
/*
 * Free pages of the host, and whether it has an IOMMU; 0 without the privilege
 * to know.
 */
uint64_t co_free_pages(bool *iommu);

/*
 * Free pages of each node of the host, as far as max; the number of nodes, 0
 * without the privilege to know.
 */
unsigned int co_node_free(uint64_t *pages, unsigned int max);

/* CPUs of the host; 1 without the privilege to know. */
unsigned int co_host_cpus(void);

/*
 * Regions of 2M (their first gfns) that are RAM all over, apart from the first
 * 2M and whatever the domain was started with.  With want_whole, only those
 * that one second-stage entry maps now, as far as that can be asked.
 */
unsigned int co_find_regions(unsigned long *first_gfns, unsigned int max,
                             bool want_whole);

/* The memory map, as text. */
void co_print_ram(void);

/* ---- Another domain ---- */

/*
 * Build an HVM domain that never runs, with so much memory for page tables; 0 or
 * -errno, as all of these. Only a toolstack may.
 */
int co_target_create(domid_t *domid, unsigned long pool_kb,
                     unsigned long max_pages);
int co_target_set_pool(domid_t domid, unsigned long kb);
int co_target_set_max(domid_t domid, unsigned long pages);
/* The vCPU that it may have, down. */
int co_target_add_vcpu(domid_t domid);
int co_target_destroy(domid_t domid);
int co_target_pages(domid_t domid, uint64_t *pages);
/* Have so many pages set aside for it (XENMEM_claim_pages); 0: none. */
int co_target_claim(domid_t domid, unsigned long pages);
/* Extents done; flags are XENMEMF_*. */
unsigned long co_target_populate(domid_t domid, unsigned long *gfns,
                                 unsigned long nr, unsigned int order,
                                 unsigned int flags);
unsigned long co_target_decrease(domid_t domid, unsigned long *gfns,
                                 unsigned long nr, unsigned int order);

/* Map a page of it into a hole of this domain, and take it away again. */
int co_foreign_map(domid_t domid, unsigned long theirs, unsigned long ours);
int co_foreign_unmap(unsigned long ours);

/* The same with a page of its own, which it keeps. */
int co_target_unmap(domid_t domid, unsigned long gfn);

/* ---- Contents ---- */

/*
 * Every word of a page depends on its gfn, its place and the seed (not 0), and
 * carries a tag, by which leftovers of such a page are known anywhere.
 */
void co_fill(unsigned long gfn, uint32_t seed);

/* Compares the whole page; says what is wrong. */
bool co_check(unsigned long gfn, uint32_t seed);

/* The same for one word of CO_TURNS; which ones is turn's to say. */
#define CO_TURNS 8
bool co_check_some(unsigned long gfn, uint32_t seed, unsigned int turn);

/* No word of the page is one of co_fill()'s. */
bool co_check_fresh(unsigned long gfn);

uint64_t co_rand(void);
void co_srand(uint64_t seed);
void co_shuffle(unsigned long *v, unsigned int nr);

/* "name=number" on the guest's command line, or else the default. */
uint64_t co_param(const char *name, uint64_t def);

/* ---- Time ---- */

#define CO_MS ((uint64_t)1000000)
#define CO_S  ((uint64_t)1000000000)

/* XTF has none. */
static inline uint64_t co_rdtsc(void)
{
    uint32_t lo, hi;

    __asm__ __volatile__ ( "rdtsc" : "=a" (lo), "=d" (hi) );

    return lo | ((uint64_t)hi << 32);
}

uint64_t co_now(void);          /* ns since boot */
void co_sleep(uint64_t ns);     /* blocked, so that the CPU is idle */

/*
 * How long somebody who never sleeps was kept from its work, as a histogram: how
 * often for 2^n to 2^(n+1) of a unit.
 */
struct co_gaps {
    uint64_t longest, nr[64];
};

static inline void co_gap(struct co_gaps *gaps, uint64_t gap)
{
    gaps->nr[gap ? 63 - __builtin_clzll(gap) : 0]++;
    gaps->longest = max(gaps->longest, gap);
}

void co_print_gaps(const char *name, const char *unit,
                   const struct co_gaps *gaps);

/* ---- Several vCPUs ---- */

#define CO_MAX_CPUS 16U

/* vCPUs that this domain has, as far as CO_MAX_CPUS. This code runs on vCPU 0. */
unsigned int co_nr_cpus(void);

/*
 * Let a vCPU (not 0) run fn(cpu, arg), on a stack of 16 KiB of its own and
 * without interrupts. When fn returns it sleeps, and may be started again. Only
 * vCPU 0 may start others, print, and check: co_expect(), printk() and co_rand()
 * know of no others. co_now(), co_sleep(), co_fill() and co_check() of good
 * contents may be used by all. 0 or -errno; -ENOENT: there is no such vCPU.
 */
int co_cpu_start(unsigned int cpu, void (*fn)(unsigned int cpu, void *arg),
                 void *arg);

/* fn has not returned yet. */
bool co_cpu_busy(unsigned int cpu);

/* Wait for it; false after ns. */
bool co_cpu_wait(unsigned int cpu, uint64_t ns);

/* Nobody goes on before nr vCPUs have come here. Starts as all zeros. */
struct co_barrier {
    unsigned int arrived, turn;
};

void co_barrier_wait(struct co_barrier *b, unsigned int nr);

/* ---- Reporting ---- */

/* Compare; what is not as it should be is printed and fails the test. */
bool co_expect(const char *what, long got, long want);
bool co_expect_true(const char *what, bool ok);
extern unsigned int co_checks, co_failures;

void co_phase(const char *name);
void co_print_map(const char *name, const unsigned long *first_gfns,
                  unsigned int nr);
void co_print_counts(const struct co_info *info);

/*
 * looked_at is the sum of all outcomes, and splits that of all causes; info may
 * be read anew.
 */
void co_check_law(struct co_info *info);

struct co_pages {
    uint64_t dom, free;
    uint64_t audit[CO_AUDITS];  /* all ones: there is none */
    bool iommu;
};

void co_pages_now(struct co_pages *p);

/*
 * Wait, but not long, until these regions are whole, no work is waiting, and
 * the number of free pages stands still: a region that is being moved has 512
 * pages of the host besides its own, and they are given back one by one.
 */
void co_settle(const unsigned long *first_gfns, unsigned int nr);

/*
 * Break a region of each GiB that these whole regions are in, and wait until it is
 * whole again: the memory that Xen needs to look after a GiB is taken with its first
 * event, and kept, so this comes before free pages are counted. Contents are lost.
 */
void co_warm(const unsigned long *first_gfns, unsigned int nr);

/*
 * Nothing was lost or won.  Free pages may lag behind (work in flight): they
 * are waited for, but not long.  An IOMMU has page tables of its own, which
 * come from the same pages: one for each of the nr_regions that were worked on
 * may be there now and not before, or the reverse.
 */
void co_check_leak(const struct co_pages *before, unsigned int nr_regions);

/*
 * Have these regions made whole now, and see that they are, and that nothing was
 * lost since then.
 */
void co_mend(const struct co_pages *before, const unsigned long *first_gfns,
             unsigned int nr);

/* True if the feature is there; otherwise the result is already reported. */
bool co_require_feature(void);

/* Report success if there were checks, and none failed. */
void co_finish(void);

#endif /* COALESCE_LIB_H */
