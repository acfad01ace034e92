/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /coalesce in the hypervisor's file system: the knobs, and for each domain its
 * mode and what was done for it.
 */
#include <xen/err.h>
#include <xen/errno.h>
#include <xen/guest_access.h>
#include <xen/hypfs.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/sched.h>
#include <xen-rs.h>

#ifdef CONFIG_HYPFS

/* Leaves differ in how they are read and written. */
#define LEAF_FUNCS(read_fn, write_fn)        \
    {                                        \
        .enter = hypfs_node_enter,           \
        .exit = hypfs_node_exit,             \
        .read = read_fn,                     \
        .write = write_fn,                   \
        .getsize = hypfs_getsize,            \
        .findentry = hypfs_leaf_findentry,   \
    }

/* ---- The knobs ---- */

static struct knob_leaf {
    struct hypfs_entry_leaf leaf;
    const struct xrs_knob *knob;
} knob_leaves[XRS_KNOBS];

static int cf_check knob_write(struct hypfs_entry_leaf *leaf,
                               XEN_GUEST_HANDLE_PARAM(const_void) uaddr,
                               unsigned int ulen)
{
    const struct knob_leaf *this = container_of(leaf, struct knob_leaf, leaf);
    uint32_t value;
    int rc;

    if ( ulen != sizeof(value) )
        return -EDOM;

    if ( copy_from_guest(&value, uaddr, 1) )
        return -EFAULT;

    rc = xrs_knob_set(this->knob, value);

    /* What waits for idle time may not have to any more. */
    if ( !rc && xrs_sched_is_pending() )
        xrs_sched_wake(1);

    return rc;
}

static const struct hypfs_funcs knob_funcs =
    LEAF_FUNCS(hypfs_read_leaf, knob_write);

/* ---- Modes: of all domains, and of one ---- */

#define MODE_LEN 9 /* "in-place" */

/* Always of the same length: it may change while it is looked at. */
static int read_mode(unsigned int mode, XEN_GUEST_HANDLE_PARAM(void) uaddr)
{
    char name[MODE_LEN] = {};

    strlcpy(name, xrs_mode_names[mode], sizeof(name));

    return copy_to_guest(uaddr, name, sizeof(name)) ? -EFAULT : 0;
}

static int get_mode(unsigned int *mode,
                    XEN_GUEST_HANDLE_PARAM(const_void) uaddr, unsigned int ulen)
{
    char name[MODE_LEN];

    if ( !ulen || ulen > sizeof(name) )
        return -ENOSPC;

    if ( copy_from_guest(name, uaddr, ulen) )
        return -EFAULT;

    if ( memchr(name, 0, ulen) != name + ulen - 1 )
        return -EINVAL;

    for ( *mode = 0; *mode < XRS_MODES; ++*mode )
        if ( !strcmp(name, xrs_mode_names[*mode]) )
            return 0;

    return -EINVAL;
}

static int cf_check mode_read(const struct hypfs_entry *entry,
                              XEN_GUEST_HANDLE_PARAM(void) uaddr)
{
    return read_mode(xrs_knobs.mode, uaddr);
}

static int cf_check mode_write(struct hypfs_entry_leaf *leaf,
                               XEN_GUEST_HANDLE_PARAM(const_void) uaddr,
                               unsigned int ulen)
{
    unsigned int mode;
    int rc = get_mode(&mode, uaddr, ulen);

    if ( rc )
        return rc;

    if ( mode == XEN_DOMCTL_COALESCE_MODE_default )
        return -EINVAL;

    ACCESS_ONCE(xrs_knobs.mode) = mode;
    coalesce_mode_changed();

    return 0;
}

static const struct hypfs_funcs mode_funcs =
    LEAF_FUNCS(mode_read, mode_write);

/* The domain whose directory was entered; it cannot go away until it is left. */
static struct domain *this_domain(void)
{
    const struct hypfs_dyndir_id *data = hypfs_get_dyndata();

    return data->data;
}

static int cf_check domain_mode_read(const struct hypfs_entry *entry,
                                     XEN_GUEST_HANDLE_PARAM(void) uaddr)
{
    return read_mode(coalesce_get_mode(this_domain()), uaddr);
}

static int cf_check domain_mode_write(
    struct hypfs_entry_leaf *leaf, XEN_GUEST_HANDLE_PARAM(const_void) uaddr,
    unsigned int ulen)
{
    unsigned int mode;

    return get_mode(&mode, uaddr, ulen) ?:
           coalesce_set_mode(this_domain(), mode);
}

static const struct hypfs_funcs domain_mode_funcs =
    LEAF_FUNCS(domain_mode_read, domain_mode_write);

/* ---- Counters of a domain ---- */

static struct count_leaf {
    struct hypfs_entry_leaf leaf;
    unsigned int index;
} count_leaves[XRS_COUNTS], reason_leaves[XRS_REASONS],
  cause_leaves[XRS_CAUSES];

static int cf_check count_read(const struct hypfs_entry *entry,
                               XEN_GUEST_HANDLE_PARAM(void) uaddr)
{
    const struct count_leaf *this =
        container_of(entry, const struct count_leaf, leaf.e);
    uint64_t count = coalesce_count(this_domain(), this->index);

    return copy_to_guest(uaddr, &count, 1) ? -EFAULT : 0;
}

static const struct hypfs_funcs count_funcs =
    LEAF_FUNCS(count_read, hypfs_write_deny);

/* ---- Domains ---- */

static HYPFS_DIR_INIT(dir, "coalesce");
static HYPFS_DIR_INIT(domain_dir, "%u");
static HYPFS_DIR_INIT(count_dir, "counters");
static HYPFS_DIR_INIT(reason_dir, "left");
static HYPFS_DIR_INIT(cause_dir, "splits-by");

/* The domains that there were when the directory was entered. */
struct listing {
    struct hypfs_dyndir_id id;  /* Has to come first. */
    unsigned int nr;
    domid_t domids[];
};

static const struct hypfs_entry *cf_check domains_enter(
    const struct hypfs_entry *entry)
{
    const struct domain *d;
    struct listing *list;
    unsigned int nr = 0;

    rcu_read_lock(&domlist_read_lock);

    for_each_domain ( d )
        nr += !!d->arch.coalesce;

    /* The function, not the macro of that name. */
    list = (hypfs_alloc_dyndata)(sizeof(*list) + nr * sizeof(*list->domids));
    if ( !list )
    {
        rcu_read_unlock(&domlist_read_lock);
        return ERR_PTR(-ENOMEM);
    }

    for_each_domain ( d )
        if ( d->arch.coalesce && list->nr < nr )
            list->domids[list->nr++] = d->domain_id;

    return entry;
}

static void cf_check domains_exit(const struct hypfs_entry *entry)
{
    hypfs_free_dyndata();
    rcu_read_unlock(&domlist_read_lock);
}

static unsigned int cf_check domains_getsize(const struct hypfs_entry *entry)
{
    const struct listing *list = hypfs_get_dyndata();
    unsigned int i, size = 0;

    for ( i = 0; i < list->nr; i++ )
        size += hypfs_dynid_entry_size(&domain_dir.e, list->domids[i]);

    return size;
}

static int cf_check domains_read(const struct hypfs_entry *entry,
                                 XEN_GUEST_HANDLE_PARAM(void) uaddr)
{
    const struct listing *list = hypfs_get_dyndata();
    unsigned int i;
    int rc = 0;

    for ( i = 0; i < list->nr && !rc; i++ )
        rc = hypfs_read_dyndir_id_entry(&domain_dir, list->domids[i],
                                        i + 1 == list->nr, &uaddr);

    return rc;
}

static struct hypfs_entry *cf_check domains_findentry(
    const struct hypfs_entry_dir *parent, const char *name,
    unsigned int name_len)
{
    const char *end;
    unsigned long id = simple_strtoul(name, &end, 10);
    struct domain *d;

    /* More digits than a domain has could be any number. */
    if ( !name_len || name_len > 5 || end != name + name_len ||
         id >= DOMID_FIRST_RESERVED )
        return ERR_PTR(-ENOENT);

    for_each_domain ( d )
        if ( d->domain_id == id && d->arch.coalesce )
            return hypfs_gen_dyndir_id_entry(&domain_dir, id, d);

    return ERR_PTR(-ENOENT);
}

static const struct hypfs_funcs domains_funcs = {
    .enter = domains_enter,
    .exit = domains_exit,
    .read = domains_read,
    .write = hypfs_write_deny,
    .getsize = domains_getsize,
    .findentry = domains_findentry,
};

static HYPFS_DIR_INIT_FUNC(domains_dir, "domain", &domains_funcs);

/* ---- All of it ---- */

static void __init add(struct hypfs_entry_dir *parent,
                       struct hypfs_entry_leaf *leaf, unsigned int type,
                       const char *name, unsigned int size,
                       unsigned int max_size, const struct hypfs_funcs *funcs,
                       const void *content)
{
    *leaf = (struct hypfs_entry_leaf){
        .e.type = type,
        .e.encoding = XEN_HYPFS_ENC_PLAIN,
        .e.name = name,
        .e.size = size,
        .e.max_size = max_size,
        .e.list = LIST_HEAD_INIT(leaf->e.list),
        .e.funcs = funcs,
        .u.content = content,
    };
    hypfs_add_leaf(parent, leaf, true);
}

static void __init add_counts(struct hypfs_entry_dir *parent,
                              struct count_leaf *leaves,
                              const char *const *names, unsigned int nr,
                              unsigned int base)
{
    unsigned int i;

    hypfs_add_dir(&domain_dir, parent, true);
    for ( i = 0; i < nr; i++ )
    {
        /* Numbers that are not used have no name. */
        if ( !names[i] )
            continue;

        leaves[i].index = base + i;
        /* The content is made when it is read, but has to be something. */
        add(parent, &leaves[i].leaf, XEN_HYPFS_TYPE_UINT, names[i],
            sizeof(uint64_t), 0, &count_funcs, names);
    }
}

static struct hypfs_entry_leaf __read_mostly mode_leaf, domain_mode_leaf;

static int __init cf_check hypfs_init(void)
{
    unsigned int i;

    hypfs_add_dir(&hypfs_root, &dir, true);
    add(&dir, &mode_leaf, XEN_HYPFS_TYPE_STRING, "mode", MODE_LEN, MODE_LEN,
        &mode_funcs, xrs_mode_names);
    for ( i = 0; i < XRS_KNOBS; i++ )
    {
        const struct xrs_knob *knob = &xrs_knob_table[i];

        knob_leaves[i].knob = knob;
        add(&dir, &knob_leaves[i].leaf, XEN_HYPFS_TYPE_UINT, knob->name,
            sizeof(*knob->value), sizeof(*knob->value), &knob_funcs,
            knob->value);
    }

    hypfs_add_dir(&dir, &domains_dir, true);
    hypfs_add_dyndir(&domains_dir, &domain_dir);
    add(&domain_dir, &domain_mode_leaf, XEN_HYPFS_TYPE_STRING, "mode",
        MODE_LEN, MODE_LEN, &domain_mode_funcs, xrs_mode_names);
    add_counts(&count_dir, count_leaves, xrs_count_names, XRS_COUNTS, 0);
    add_counts(&reason_dir, reason_leaves, xrs_reason_names, XRS_REASONS,
               XEN_DOMCTL_COALESCE_COUNT_reasons);
    add_counts(&cause_dir, cause_leaves, xrs_cause_names, XRS_CAUSES,
               XEN_DOMCTL_COALESCE_COUNT_splits_by);

    return 0;
}
__initcall(hypfs_init);

#endif /* CONFIG_HYPFS */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
