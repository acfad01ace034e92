/* SPDX-License-Identifier: GPL-2.0-only */
/* What counters, reasons and causes are called where an operator sees them. */
#include <xen-rs.h>

const char *const xrs_count_names[XRS_COUNTS] = {
    [XEN_DOMCTL_COALESCE_COUNT_looked_at] = "looked-at",
    [XEN_DOMCTL_COALESCE_COUNT_promoted] = "promoted",
    [XEN_DOMCTL_COALESCE_COUNT_completed] = "completed",
    [XEN_DOMCTL_COALESCE_COUNT_migrated] = "migrated",
    [XEN_DOMCTL_COALESCE_COUNT_pages_copied] = "pages-copied",
    [XEN_DOMCTL_COALESCE_COUNT_splits] = "splits",
    [XEN_DOMCTL_COALESCE_COUNT_splits_avoided] = "splits-avoided",
    [XEN_DOMCTL_COALESCE_COUNT_exchange_calls] = "exchange-calls",
    [XEN_DOMCTL_COALESCE_COUNT_exchanged_pages] = "exchanged-pages",
    [XEN_DOMCTL_COALESCE_COUNT_longest_hold] = "longest-hold",
    [XEN_DOMCTL_COALESCE_COUNT_queued] = "queued",
    [XEN_DOMCTL_COALESCE_COUNT_hold_ticks] = "hold-ticks",
    [XEN_DOMCTL_COALESCE_COUNT_copy_ticks] = "copy-ticks",
    [XEN_DOMCTL_COALESCE_COUNT_promoted_1g] = "promoted-1g",
    [XEN_DOMCTL_COALESCE_COUNT_blocks_made] = "blocks-made",
};

const char *const xrs_reason_names[XRS_REASONS] = {
    [XEN_DOMCTL_COALESCE_REASON_whole_already] = "whole-already",
    [XEN_DOMCTL_COALESCE_REASON_empty] = "empty",
    [XEN_DOMCTL_COALESCE_REASON_hole] = "hole",
    [XEN_DOMCTL_COALESCE_REASON_pinned] = "pinned",
    [XEN_DOMCTL_COALESCE_REASON_mem_type] = "mem-type",
    [XEN_DOMCTL_COALESCE_REASON_access] = "access",
    [XEN_DOMCTL_COALESCE_REASON_special] = "special",
    [XEN_DOMCTL_COALESCE_REASON_no_memory] = "no-memory",
    [XEN_DOMCTL_COALESCE_REASON_dying] = "dying",
    [XEN_DOMCTL_COALESCE_REASON_iommu] = "iommu",
    [XEN_DOMCTL_COALESCE_REASON_altp2m] = "altp2m",
    [XEN_DOMCTL_COALESCE_REASON_nested] = "nested",
    [XEN_DOMCTL_COALESCE_REASON_pod] = "pod",
    [XEN_DOMCTL_COALESCE_REASON_sharing] = "sharing",
    [XEN_DOMCTL_COALESCE_REASON_logdirty] = "logdirty",
    [XEN_DOMCTL_COALESCE_REASON_recalc] = "recalc",
    [XEN_DOMCTL_COALESCE_REASON_cooling] = "cooling",
    [XEN_DOMCTL_COALESCE_REASON_mode] = "mode",
    [XEN_DOMCTL_COALESCE_REASON_not_ready] = "not-ready",
    [XEN_DOMCTL_COALESCE_REASON_vanished] = "vanished",
    [XEN_DOMCTL_COALESCE_REASON_interrupted] = "interrupted",
    [XEN_DOMCTL_COALESCE_REASON_type_pinned] = "type-pinned",
    [XEN_DOMCTL_COALESCE_REASON_cacheability] = "cacheability",
    [XEN_DOMCTL_COALESCE_REASON_mem_access] = "mem-access",
    [XEN_DOMCTL_COALESCE_REASON_exec_sp] = "exec-sp",
    [XEN_DOMCTL_COALESCE_REASON_deferred] = "deferred",
};

const char *const xrs_cause_names[XRS_CAUSES] = {
    [XEN_DOMCTL_COALESCE_CAUSE_other] = "other",
    [XEN_DOMCTL_COALESCE_CAUSE_balloon] = "balloon",
    [XEN_DOMCTL_COALESCE_CAUSE_exchange] = "exchange",
    [XEN_DOMCTL_COALESCE_CAUSE_map] = "map",
    [XEN_DOMCTL_COALESCE_CAUSE_type] = "type",
    [XEN_DOMCTL_COALESCE_CAUSE_logdirty] = "logdirty",
    [XEN_DOMCTL_COALESCE_CAUSE_exec] = "exec",
};

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
