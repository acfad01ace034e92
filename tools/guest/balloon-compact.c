// SPDX-License-Identifier: GPL-2.0-only
/*
 * Moves the holes of a ballooned-down guest together.
 *
 * A balloon driver gives up single pages, wherever they are free. Each 2 MiB region that has lost
 * one page is a region that the host cannot map by one entry, and in which the guest cannot have a
 * huge page. XENMEM_exchange gives up one page and fills a hole in the same call, so that the guest
 * has as much memory before, meanwhile and after: this moves holes out of regions that have few of
 * them, into regions of which nothing is in use.
 *
 * What happens to a page, and whose it is:
 *
 *   a hole that is filled    the balloon's -> ours (xen_alloc_ballooned_pages) -> free memory
 *   a free page given up     free memory -> ours -> the balloon's (xen_free_ballooned_pages)
 *
 * Only what Linux exports is used, so the kernel's own balloon driver goes on as if it had chosen
 * those pages itself. Nothing that is in use is moved: Linux does that, when it is asked to
 * (/proc/sys/vm/compact_memory), which is best done before.
 *
 *   echo 1 >/sys/module/balloon_compact/parameters/compact
 *   cat /sys/module/balloon_compact/parameters/compact
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>

#include <xen/xen.h>
#include <xen/page.h>
#include <xen/balloon.h>
#include <xen/interface/xen.h>
#include <xen/interface/memory.h>

#include <asm/xen/hypercall.h>

/* What the host maps by one entry. */
#define REGION_PAGES 512UL
#define REGION_SHIFT 9

/* Pages of one call. */
#define BATCH 512UL

/* A page that nobody uses. */
struct spot {
	struct page *page;
	/* Is it a hole; was it one before? */
	bool hole;
	bool was;
};

struct region {
	/* Its spots: the first, how many, and how many of them are holes. */
	unsigned long first;
	unsigned int nr;
	unsigned int holes;
	/* Its free pages are given up; else its holes are filled. */
	bool gives;
};

/* What came of a pass. */
struct result {
	unsigned long holes;
	unsigned long free;
	/* Regions with holes and with something else too. */
	unsigned long before;
	unsigned long after;
	unsigned long moved;
	long error;
};

static struct result last;
static DEFINE_MUTEX(pass_lock);

static int by_pfn(const void *a, const void *b)
{
	const struct spot *x = a, *y = b;

	if (x->page == y->page)
		return 0;
	return page_to_pfn(x->page) < page_to_pfn(y->page) ? -1 : 1;
}

static bool unused(const struct region *region)
{
	return region->nr == REGION_PAGES;
}

/* Where holes are moved to, if they have to be anywhere. */
enum kind {
	UNUSED,    /* nothing is in use: the guest has another 2 MiB if its holes go */
	USED,      /* it cannot be free as a whole */
	NO_HOLES,  /* never */
};

static enum kind kind(const struct region *region)
{
	if (!region->holes)
		return NO_HOLES;
	return unused(region) ? UNUSED : USED;
}

/* Of those of a kind: where least is to be moved for most. */
static int by_room(const void *a, const void *b)
{
	const struct region *x = a, *y = b;

	if (kind(x) != kind(y))
		return kind(x) < kind(y) ? -1 : 1;
	if (x->nr != y->nr)
		return x->nr > y->nr ? -1 : 1;
	return x->holes == y->holes ? 0 : x->holes > y->holes ? -1 : 1;
}

/* Those that give; then those of which the guest has most, and in which there is least to fill. */
static int by_turn(const void *a, const void *b)
{
	const struct region *x = a, *y = b;

	if (x->gives != y->gives)
		return x->gives ? -1 : 1;
	if (kind(x) != kind(y))
		return kind(x) < kind(y) ? -1 : 1;
	return x->holes == y->holes ? 0 : x->holes < y->holes ? -1 : 1;
}

/* Chooses which regions give, and puts them first. Returns how many. */
static unsigned long choose(struct region *regions, unsigned long nr, unsigned long holes)
{
	unsigned long u = 0, r, used, end, n = 0;

	sort(regions, nr, sizeof(*regions), by_room, NULL);
	for (used = 0; used < nr && kind(&regions[used]) == UNUSED; used++)
		;
	for (end = used; end < nr && kind(&regions[end]) == USED; end++)
		;
	for (r = used; holes; n++) {
		struct region *region;

		/* The last ones may have room in one that cannot be free anyway. */
		if (u < used && (holes >= REGION_PAGES || r == end || regions[r].nr < holes))
			region = &regions[u++];
		else if (r < end)
			region = &regions[r++];
		else
			break;
		region->gives = true;
		holes -= min_t(unsigned long, holes, region->nr);
	}
	sort(regions, nr, sizeof(*regions), by_turn, NULL);
	return n;
}

static unsigned long partial(const struct region *regions, unsigned long nr)
{
	unsigned long i, n = 0;

	for (i = 0; i < nr; i++)
		n += regions[i].holes != 0 && regions[i].holes != REGION_PAGES;
	return n;
}

/*
 * Gives up the pages of `in`, and has memory put at `out`. Returns for how many this was done: the
 * first ones of both.
 */
static unsigned long exchange(xen_pfn_t *in, xen_pfn_t *out, unsigned long nr, long *error)
{
	struct xen_memory_exchange call = {
		.in = { .nr_extents = nr, .domid = DOMID_SELF },
		.out = { .nr_extents = nr, .domid = DOMID_SELF },
	};

	set_xen_guest_handle(call.in.extent_start, in);
	set_xen_guest_handle(call.out.extent_start, out);
	*error = HYPERVISOR_memory_op(XENMEM_exchange, &call);
	return min_t(unsigned long, call.nr_exchanged, nr);
}

/*
 * All pages of the balloon. If somebody takes some at the same time, its driver makes up for it by
 * ballooning more out, and takes that back when it gets them back.
 */
static unsigned long take_holes(struct page **pages, unsigned long most)
{
	unsigned long nr = READ_ONCE(balloon_stats.balloon_low) + READ_ONCE(balloon_stats.balloon_high);

	nr = min(nr, most);
	return nr && !xen_alloc_ballooned_pages(nr, pages) ? nr : 0;
}

/* Free pages, for which nobody has to give up any: no direct reclaim, and a rest stays. */
static unsigned long take_free(struct page **pages, unsigned long most)
{
	unsigned long rest = totalram_pages() / 32, nr = 0;

	while (nr < most && global_zone_page_state(NR_FREE_PAGES) > rest) {
		struct page *page = alloc_page(__GFP_HIGHMEM | __GFP_NOWARN);

		if (!page)
			break;
		pages[nr++] = page;
		cond_resched();
	}
	return nr;
}

/* The regions in which there are spots; without a place to write to, how many they are. */
static unsigned long survey(const struct spot *spots, unsigned long nr, struct region *regions)
{
	unsigned long i, n = 0, number = ULONG_MAX;

	for (i = 0; i < nr; i++) {
		unsigned long of = page_to_pfn(spots[i].page) / REGION_PAGES;

		n += of != number;
		if (regions && of != number)
			regions[n - 1] = (struct region){ .first = i };
		number = of;
		if (regions) {
			regions[n - 1].nr++;
			regions[n - 1].holes += spots[i].hole;
		}
	}
	return n;
}

/* Gives everything to whom it belongs. */
static void give_back(const struct spot *spots, unsigned long nr, struct page **pages)
{
	unsigned long i, holes = 0;

	for (i = 0; i < nr; i++) {
		struct page *page = spots[i].page;

		if (spots[i].hole)
			pages[holes++] = page;
		/* The balloon driver counts, and frees, in the same way. */
		if (spots[i].hole && !spots[i].was)
			adjust_managed_page_count(page, -1);
		else if (!spots[i].hole && spots[i].was)
			free_reserved_page(page);
		else if (!spots[i].hole)
			__free_page(page);
	}
	if (holes)
		xen_free_ballooned_pages(holes, pages);
}

/* The next spot of a kind, in regions [*at, end) from *spot on. */
static struct spot *next(struct spot *spots, const struct region *regions, unsigned long end, bool hole,
			 unsigned long *at, unsigned long *spot)
{
	for (; *at < end; ++*at, *spot = 0) {
		const struct region *region = &regions[*at];

		while (*spot < region->nr) {
			struct spot *found = &spots[region->first + (*spot)++];

			if (found->hole == hole)
				return found;
		}
	}
	return NULL;
}

/*
 * The regions are in order: the first `givers` of them give up what is free in them, and the holes
 * of the others are filled, from the first on.
 */
static void move(struct spot *spots, const struct region *regions, unsigned long nr, unsigned long givers,
		 xen_pfn_t *in, xen_pfn_t *out, struct spot **pair)
{
	unsigned long from = 0, from_spot = 0, to = givers, to_spot = 0;
	bool more = true;

	while (more && !last.error) {
		unsigned long n = 0, i, done;

		while (n < BATCH) {
			struct spot *give = next(spots, regions, givers, false, &from, &from_spot);
			struct spot *fill = give ? next(spots, regions, nr, true, &to, &to_spot) : NULL;

			more = fill;
			if (!fill)
				break;
			/* It may be another domain's in a moment. */
			clear_highpage(give->page);
			in[n] = page_to_pfn(give->page);
			out[n] = page_to_pfn(fill->page);
			pair[2 * n] = give;
			pair[2 * n + 1] = fill;
			n++;
		}
		if (!n)
			break;
		done = exchange(in, out, n, &last.error);
		for (i = 0; i < done; i++) {
			pair[2 * i]->hole = true;
			pair[2 * i + 1]->hole = false;
		}
		last.moved += done;
		cond_resched();
	}
}

static int compact(void)
{
	unsigned long most = totalram_pages() + READ_ONCE(balloon_stats.balloon_low) +
			     READ_ONCE(balloon_stats.balloon_high);
	struct page **pages = kvmalloc_array(most, sizeof(*pages), GFP_KERNEL);
	struct spot *spots = kvmalloc_array(most, sizeof(*spots), GFP_KERNEL);
	struct spot **pair = kvmalloc_array(2 * BATCH, sizeof(*pair), GFP_KERNEL);
	xen_pfn_t *in = kmalloc_array(BATCH, sizeof(*in), GFP_KERNEL);
	xen_pfn_t *out = kmalloc_array(BATCH, sizeof(*out), GFP_KERNEL);
	struct region *regions = NULL;
	unsigned long i, n = 0, nr, givers;

	last = (struct result){ .error = -ENOMEM };
	if (!pages || !spots || !pair || !in || !out)
		goto out;

	last.holes = take_holes(pages, most);
	last.free = take_free(pages + last.holes, most - last.holes);
	n = last.holes + last.free;
	for (i = 0; i < n; i++) {
		bool hole = i < last.holes;

		spots[i] = (struct spot){ .page = pages[i], .hole = hole, .was = hole };
	}
	sort(spots, n, sizeof(*spots), by_pfn, NULL);
	nr = survey(spots, n, NULL);
	regions = kvmalloc_array(nr, sizeof(*regions), GFP_KERNEL);
	if (!regions)
		goto out;
	last.error = 0;
	survey(spots, n, regions);
	last.before = partial(regions, nr);

	givers = choose(regions, nr, last.holes);
	move(spots, regions, nr, givers, in, out, pair);

	survey(spots, n, regions);
	last.after = partial(regions, nr);
	pr_info("%lu of %lu holes moved; regions of holes and other pages: %lu before, %lu after; error %ld\n",
		last.moved, last.holes, last.before, last.after, last.error);
out:
	if (n)
		give_back(spots, n, pages);
	kvfree(regions);
	kfree(out);
	kfree(in);
	kvfree(pair);
	kvfree(spots);
	kvfree(pages);
	return last.error;
}

static int set_compact(const char *value, const struct kernel_param *kp)
{
	int error;

	mutex_lock(&pass_lock);
	error = compact();
	mutex_unlock(&pass_lock);
	return error;
}

static int get_compact(char *buffer, const struct kernel_param *kp)
{
	int length;

	mutex_lock(&pass_lock);
	length = sysfs_emit(buffer, "holes %lu free %lu moved %lu before %lu after %lu error %ld\n", last.holes,
			    last.free, last.moved, last.before, last.after, last.error);
	mutex_unlock(&pass_lock);
	return length;
}

static const struct kernel_param_ops compact_ops = {
	.set = set_compact,
	.get = get_compact,
};
module_param_cb(compact, &compact_ops, NULL, 0600);
MODULE_PARM_DESC(compact, "write: move the holes together; read: what came of it");

static int __init balloon_compact_init(void)
{
	return xen_hvm_domain() ? 0 : -ENODEV;
}
module_init(balloon_compact_init);

static void __exit balloon_compact_exit(void)
{
}
module_exit(balloon_compact_exit);

MODULE_DESCRIPTION("Moves the holes of a ballooned-down Xen guest together");
MODULE_LICENSE("GPL");
