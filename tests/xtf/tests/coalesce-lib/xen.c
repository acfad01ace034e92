/* SPDX-License-Identifier: GPL-2.0-only */
/* Hypercalls, time and the memory map. */
#include "coalesce.h"
#include "xen-abi.h"

enum co_feature co_feature;
int co_domid;

/* 0: this domain may not use them. */
static uint32_t domctl_version, sysctl_version;

int abi_domctl(int domid, struct abi_domctl *op)
{
    BUILD_BUG_ON(sizeof(*op) != 16 + 128);

    op->interface_version = domctl_version;
    op->domain = domid;

    return HYPERCALL1(int, __HYPERVISOR_domctl, op);
}

static int domctl(struct abi_domctl *op)
{
    return abi_domctl(co_domid, op);
}

static int sysctl(struct abi_sysctl *op)
{
    BUILD_BUG_ON(sizeof(*op) != 8 + 128);

    op->interface_version = sysctl_version;

    return HYPERCALL1(int, __HYPERVISOR_sysctl, op);
}

/*
 * Both interfaces come in versions, and Xen refuses all but its own with
 * -EACCES, before it looks at anything else.
 */
static void probe_versions(void)
{
    struct abi_domctl d = { .cmd = ABI_DOMCTL_getdomaininfo };
    struct abi_sysctl s = { .cmd = ABI_SYSCTL_physinfo };
    uint32_t v;

    for ( v = 1; v < 0x80 && !domctl_version; v++ )
    {
        d.interface_version = v;
        d.domain = co_domid;
        if ( !HYPERCALL1(int, __HYPERVISOR_domctl, &d) )
            domctl_version = v;
    }

    for ( v = 1; v < 0x80 && !sysctl_version; v++ )
    {
        s.interface_version = v;
        if ( !HYPERCALL1(int, __HYPERVISOR_sysctl, &s) )
            sysctl_version = v;
    }
}

void co_init(void)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_coalesce,
        .u.coalesce.op = ABI_COALESCE_get_info,
    };
    unsigned int version = hypercall_xen_version(XENVER_version, NULL);
    static const char *const features[] = { "unknown", "absent", "present" };
    int rc;

    co_domid = xtf_get_domid();
    if ( co_domid < 0 )
        panic("Cannot find out the domain's own id\n");

    probe_versions();

    if ( domctl_version )
    {
        rc = domctl(&op);
        if ( !rc )
            co_feature = CO_FEATURE_PRESENT;
        else if ( rc == -ENODEV )
            printk("Superpages of this domain are not looked after\n");
        else if ( rc == -ENOSYS )
            co_feature = CO_FEATURE_ABSENT;
        else
            panic("The coalesce domctl gives %d\n", rc);
    }

    co_srand(co_param("seed", 1));

    printk("Xen %u.%u, d%d, domctl %#x, sysctl %#x, coalescing %s\n",
           version >> 16, version & 0xffff, co_domid, domctl_version,
           sysctl_version, features[co_feature]);
}

int co_set_mode_of(int domid, unsigned int mode)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_coalesce,
        .u.coalesce = { .op = ABI_COALESCE_set_mode, .mode = mode },
    };

    return abi_domctl(domid, &op);
}

int co_set_mode(unsigned int mode)
{
    return co_set_mode_of(co_domid, mode);
}

int co_get_info(struct co_info *info)
{
    return co_get_info_of(co_domid, info);
}

int co_get_info_of(int domid, struct co_info *info)
{
    struct abi_domctl op = {
        .cmd = ABI_DOMCTL_coalesce,
        .u.coalesce = {
            .op = ABI_COALESCE_get_info,
            .nr = CO_COUNTS,
            .buffer = _u(info->count),
        },
    };
    int rc;

    memset(info, 0, sizeof(*info));
    rc = abi_domctl(domid, &op);
    info->mode = op.u.coalesce.mode;
    if ( !rc && op.u.coalesce.nr != CO_COUNTS )
        panic("get_info says that there are %u counters, not %u\n",
              op.u.coalesce.nr, CO_COUNTS);

    return rc;
}

int co_hypfs_read(const char *path, void *buf, unsigned int len,
                  unsigned int *got)
{
    static uint8_t all[PAGE_SIZE] __aligned(8);
    const struct abi_hypfs_direntry *entry = _p(all);
    int rc = HYPERCALL5(int, ABI_HYPERVISOR_hypfs_op, ABI_HYPFS_read, path,
                        strlen(path) + 1, all, sizeof(all));

    if ( rc )
        return rc;

    *got = entry->content_len;
    memcpy(buf, entry + 1, *got < len ? *got : len);

    return 0;
}

int co_hypfs_write(const char *path, const void *buf, unsigned int len)
{
    return HYPERCALL5(int, ABI_HYPERVISOR_hypfs_op, ABI_HYPFS_write, path,
                      strlen(path) + 1, buf, len);
}

int co_debug_key(char key)
{
    struct abi_sysctl op = {
        .cmd = ABI_SYSCTL_debug_keys,
        .u.debug_keys = { .keys = _u(&key), .nr_keys = 1 },
    };

    return sysctl(&op);
}

int co_perf_counter(const char *name, uint64_t *value)
{
    static struct abi_perfc_desc names[512];
    static uint32_t values[8192];
    struct abi_sysctl op = {
        .cmd = ABI_SYSCTL_perfc_op,
        .u.perfc_op.cmd = ABI_PERFCOP_query,
    };
    unsigned int i, j, at = 0;
    int rc = sysctl(&op);

    /* How many there are, at first. */
    if ( rc )
        return rc;
    if ( op.u.perfc_op.nr_counters > ARRAY_SIZE(names) ||
         op.u.perfc_op.nr_vals > ARRAY_SIZE(values) )
        panic("%u performance counters with %u values are too many\n",
              op.u.perfc_op.nr_counters, op.u.perfc_op.nr_vals);

    op.u.perfc_op.desc = _u(names);
    op.u.perfc_op.val = _u(values);
    rc = sysctl(&op);
    if ( rc )
        return rc;

    for ( i = 0; i < op.u.perfc_op.nr_counters; at += names[i++].nr_vals )
        if ( !strcmp(names[i].name, name) )
        {
            *value = 0;
            for ( j = 0; j < names[i].nr_vals; j++ )
                *value += values[at + j];

            return 0;
        }

    return -ENOENT;
}

int co_audit_of(domid_t domid, uint64_t found[CO_AUDITS])
{
    uint64_t part[CO_AUDITS], first_gfn = 0;
    unsigned int i;

    memset(found, 0, sizeof(part));

    while ( ~first_gfn )
    {
        struct abi_domctl op = {
            .cmd = ABI_DOMCTL_coalesce,
            .u.coalesce = {
                .op = ABI_COALESCE_audit,
                .first_gfn = first_gfn,
                .nr = CO_AUDITS,
                .buffer = _u(part),
            },
        };
        int rc = abi_domctl(domid, &op);

        if ( rc )
            return rc;

        if ( op.u.coalesce.nr != CO_AUDITS || op.u.coalesce.first_gfn <= first_gfn )
            panic("The audit gives %u elements, and goes on at %#" PRIx64 " after %#" PRIx64 "\n",
                  op.u.coalesce.nr, op.u.coalesce.first_gfn, first_gfn);

        for ( i = 0; i < CO_AUDIT_XEN_ORPHANS; i++ )
            found[i] += part[i];
        for ( ; i < CO_AUDITS; i++ )
            found[i] = part[i];
        first_gfn = op.u.coalesce.first_gfn;
    }

    return 0;
}

int co_audit(uint64_t found[CO_AUDITS])
{
    return co_audit_of(co_domid, found);
}

/* One byte for each region, of which Xen may do fewer than were asked for. */
static int each_region(int domid, unsigned int cmd, unsigned int mode,
                       unsigned long first_gfn, unsigned int nr, uint8_t *bytes)
{
    unsigned int done = 0;

    while ( done < nr )
    {
        struct abi_domctl op = {
            .cmd = ABI_DOMCTL_coalesce,
            .u.coalesce = {
                .op = cmd,
                .mode = mode,
                .first_gfn = first_gfn + done * CO_REGION_PAGES,
                .nr = nr - done,
                .buffer = _u(bytes + done),
            },
        };
        int rc = abi_domctl(domid, &op);

        if ( rc )
            return rc;

        if ( !op.u.coalesce.nr || op.u.coalesce.nr > nr - done )
            panic("coalesce operation %u did %u of %u regions from %#lx on\n",
                  cmd, op.u.coalesce.nr, nr - done, first_gfn);

        done += op.u.coalesce.nr;
    }

    return 0;
}

int co_get_map(unsigned long first_gfn, unsigned int nr, uint8_t *map)
{
    return each_region(co_domid, ABI_COALESCE_get_map, 0, first_gfn, nr, map);
}

int co_coalesce(unsigned long first_gfn, unsigned int nr, unsigned int mode,
                uint8_t *outcomes)
{
    return each_region(co_domid, ABI_COALESCE_now, mode, first_gfn, nr,
                       outcomes);
}

static unsigned int one_region(int domid, unsigned int cmd, unsigned int mode,
                               unsigned long first_gfn)
{
    uint8_t byte = 0;
    int rc = each_region(domid, cmd, mode, first_gfn, 1, &byte);

    if ( rc )
        panic("coalesce operation %u at %#lx of d%d gives %d\n", cmd, first_gfn,
              domid, rc);

    return byte;
}

unsigned int co_coalesce_one(unsigned long first_gfn, unsigned int mode)
{
    return co_coalesce_one_of(co_domid, first_gfn, mode);
}

unsigned int co_coalesce_one_of(int domid, unsigned long first_gfn,
                                unsigned int mode)
{
    return one_region(domid, ABI_COALESCE_now, mode, first_gfn);
}

unsigned int co_region_state(unsigned long first_gfn)
{
    return co_region_state_of(co_domid, first_gfn);
}

unsigned int co_region_state_of(int domid, unsigned long first_gfn)
{
    return one_region(domid, ABI_COALESCE_get_map, 0, first_gfn);
}

long co_exchange(unsigned long *in, unsigned long nr_in, unsigned int in_order,
                 unsigned long *out, unsigned long nr_out,
                 unsigned int out_order, unsigned long *done)
{
    struct xen_memory_exchange x = {
        .in = { in, nr_in, in_order, 0, DOMID_SELF },
        .out = { out, nr_out, out_order, 0, DOMID_SELF },
    };
    long rc = hypercall_memory_op(XENMEM_exchange, &x);

    if ( done )
        *done = x.nr_exchanged;

    return rc;
}

static unsigned long reservation(unsigned int cmd, unsigned long *gfns,
                                 unsigned long nr, unsigned int order)
{
    struct xen_memory_reservation r = {
        .extent_start = gfns,
        .nr_extents = nr,
        .extent_order = order,
        .domid = DOMID_SELF,
    };
    long rc = hypercall_memory_op(cmd, &r);

    return rc < 0 ? 0 : rc;
}

unsigned long co_decrease(unsigned long *gfns, unsigned long nr,
                          unsigned int order)
{
    return reservation(XENMEM_decrease_reservation, gfns, nr, order);
}

unsigned long co_balloon_out(unsigned long *gfns, unsigned long nr,
                             unsigned int order)
{
    unsigned long i;

    for ( i = 0; i < nr; i++ )
        memset(pfn_to_virt(gfns[i]), 0, (size_t)PAGE_SIZE << order);

    return co_decrease(gfns, nr, order);
}

unsigned long co_populate(unsigned long *gfns, unsigned long nr,
                          unsigned int order)
{
    return reservation(XENMEM_populate_physmap, gfns, nr, order);
}

int co_map_space(unsigned int space, unsigned long idx, unsigned long gfn)
{
    struct xen_add_to_physmap x = {
        .domid = DOMID_SELF,
        .space = space,
        .idx = idx,
        .gfn = gfn,
    };

    return hypercall_memory_op(XENMEM_add_to_physmap, &x);
}

int co_move(unsigned long from, unsigned long to)
{
    return co_map_space(XENMAPSPACE_gmfn, from, to);
}

int co_pin(unsigned long gfn)
{
    uint64_t addr = gfn == ~0UL ? ~0ULL : (uint64_t)gfn << PAGE_SHIFT;

    return hypercall_vcpu_op(ABI_VCPUOP_register_vcpu_time_phys_area, 0, &addr);
}

uint64_t co_dom_pages(void)
{
    struct abi_memory_domain dom = { .domid = DOMID_SELF };
    struct abi_domctl op = { .cmd = ABI_DOMCTL_getdomaininfo };
    long pages = hypercall_memory_op(ABI_XENMEM_current_reservation, &dom);
    int rc;

    if ( pages <= 0 )
        panic("XENMEM_current_reservation gives %ld\n", pages);

    /* Two ways to the same number had better agree. */
    if ( domctl_version )
    {
        rc = domctl(&op);
        if ( rc || op.u.getdomaininfo.tot_pages != (uint64_t)pages )
            panic("getdomaininfo gives %d and %" PRIu64 " pages, current_reservation %ld\n",
                  rc, op.u.getdomaininfo.tot_pages, pages);
    }

    return pages;
}

uint64_t co_free_pages(bool *iommu)
{
    struct abi_sysctl op = { .cmd = ABI_SYSCTL_physinfo };
    int rc;

    *iommu = false;
    if ( !sysctl_version )
        return 0;

    rc = sysctl(&op);
    if ( rc )
        panic("The physinfo sysctl gives %d\n", rc);

    *iommu = op.u.physinfo.capabilities & ABI_PHYSCAP_directio;

    return op.u.physinfo.free_pages;
}

unsigned int co_node_free(uint64_t *pages, unsigned int max)
{
    static struct abi_meminfo nodes[16];
    struct abi_sysctl op = {
        .cmd = ABI_SYSCTL_numainfo,
        .u.numainfo = {
            .num_nodes = ARRAY_SIZE(nodes),
            .meminfo = _u(nodes),
        },
    };
    unsigned int i;
    int rc;

    if ( !sysctl_version )
        return 0;

    rc = sysctl(&op);
    if ( rc )
        panic("The numainfo sysctl gives %d\n", rc);

    for ( i = 0; i < op.u.numainfo.num_nodes && i < max; i++ )
        pages[i] = nodes[i].free >> PAGE_SHIFT;

    return i;
}

unsigned int co_host_cpus(void)
{
    struct abi_sysctl op = { .cmd = ABI_SYSCTL_physinfo };
    int rc;

    if ( !sysctl_version )
        return 1;

    rc = sysctl(&op);
    if ( rc )
        panic("The physinfo sysctl gives %d\n", rc);

    return op.u.physinfo.nr_cpus;
}

/*
 * By vCPU 0's clock. Another vCPU may read it with a TSC that is a little behind
 * the one with which Xen has just set it.
 */
uint64_t co_now(void)
{
    const volatile struct vcpu_time_info *t = &shared_info.vcpu_info[0].time;
    uint32_t version;
    uint64_t ns;

    do {
        uint32_t lo, hi;
        uint64_t delta;

        version = t->version;
        smp_rmb();

        __asm__ __volatile__ ( "lfence; rdtsc" : "=a" (lo), "=d" (hi) );
        delta = (lo | ((uint64_t)hi << 32)) - t->tsc_timestamp;
        if ( (int64_t)delta < 0 )
            delta = 0;
        if ( t->tsc_shift < 0 )
            delta >>= -t->tsc_shift;
        else
            delta <<= t->tsc_shift;

        ns = t->system_time +
             (uint64_t)(((unsigned __int128)delta * t->tsc_to_system_mul) >> 32);

        smp_rmb();
    } while ( (version & 1) || version != t->version );

    return ns;
}

void co_sleep(uint64_t ns)
{
    uint64_t end = co_now() + ns;
    unsigned int tries;

    /* An event may wake the vCPU early. */
    for ( tries = 0; tries < 1000 && co_now() < end; tries++ )
    {
        struct sched_poll poll = { .timeout = end };
        long rc = hypercall_sched_op(SCHEDOP_poll, &poll);

        if ( rc )
            panic("SCHEDOP_poll gives %ld\n", rc);
    }
}

static bool overlaps(uint64_t addr, uint64_t size, uint64_t start, uint64_t len)
{
    return len && start < addr + size && addr < start + len;
}

/* What the guest was started with may lie anywhere in RAM. */
static bool in_use(uint64_t addr, uint64_t size)
{
    const struct xen_hvm_modlist_entry *mod;
    unsigned int i;

    if ( overlaps(addr, size, 0, MB(2)) ||
         overlaps(addr, size, _u(_start), _end - _start) )
        return true;

    if ( !pvh_start_info )
        return false;

    /* Pages for structures of unknown length are more than enough. */
    if ( overlaps(addr, size, _u(pvh_start_info), PAGE_SIZE) ||
         (pvh_start_info->cmdline_paddr &&
          overlaps(addr, size, pvh_start_info->cmdline_paddr, PAGE_SIZE)) ||
         (pvh_start_info->rsdp_paddr &&
          overlaps(addr, size, pvh_start_info->rsdp_paddr, PAGE_SIZE)) )
        return true;

    mod = _p(pvh_start_info->modlist_paddr);
    for ( i = 0; i < pvh_start_info->nr_modules; i++ )
        if ( overlaps(addr, size, _u(mod), PAGE_SIZE) ||
             overlaps(addr, size, mod[i].paddr, mod[i].size) ||
             (mod[i].cmdline_paddr &&
              overlaps(addr, size, mod[i].cmdline_paddr, PAGE_SIZE)) )
            return true;

    return false;
}

static struct abi_e820_entry e820[128];

static unsigned int get_memory_map(void)
{
    struct abi_memory_map map = {
        .nr_entries = ARRAY_SIZE(e820),
        .buffer = e820,
    };
    long rc = hypercall_memory_op(ABI_XENMEM_memory_map, &map);

    if ( rc )
        panic("XENMEM_memory_map gives %ld\n", rc);

    return map.nr_entries;
}

void co_print_ram(void)
{
    unsigned int i, nr = get_memory_map();

    for ( i = 0; i < nr; i++ )
        printk("  %#012" PRIx64 " - %#012" PRIx64 " type %u%s\n", e820[i].addr,
               e820[i].addr + e820[i].size - 1, e820[i].type,
               e820[i].type == ABI_E820_RAM ? " RAM" : "");
}

unsigned int co_find_regions(unsigned long *first_gfns, unsigned int max,
                             bool want_whole)
{
    unsigned int i, nr = 0, nr_entries = get_memory_map();

    for ( i = 0; i < nr_entries; i++ )
    {
        uint64_t size = MB(2), addr = ROUNDUP(e820[i].addr, size);
        uint64_t end = e820[i].addr + e820[i].size;

        if ( end > GB(4) )      /* as far as memory is mapped for sure */
            end = GB(4);

        if ( e820[i].type != ABI_E820_RAM )
            continue;

        for ( ; addr + size <= end && nr < max; addr += size )
        {
            unsigned long gfn = addr >> PAGE_SHIFT;

            if ( in_use(addr, size) ||
                 (want_whole && co_feature == CO_FEATURE_PRESENT &&
                  co_region_state(gfn) != CO_REGION_WHOLE) )
                continue;

            first_gfns[nr++] = gfn;
        }
    }

    return nr;
}

uint64_t co_param(const char *name, uint64_t def)
{
    const char *p;
    size_t len = strlen(name);

    if ( !pvh_start_info || !pvh_start_info->cmdline_paddr )
        return def;

    for ( p = _p(pvh_start_info->cmdline_paddr); *p; p++ )
    {
        uint64_t val = 0;

        if ( strncmp(p, name, len) || p[len] != '=' ||
             (p != _p(pvh_start_info->cmdline_paddr) && p[-1] != ' ') )
            continue;

        for ( p += len + 1; *p >= '0' && *p <= '9'; p++ )
            val = val * 10 + *p - '0';

        return val;
    }

    return def;
}
