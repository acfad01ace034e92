// SPDX-License-Identifier: GPL-2.0-only
//! Xen's structures and constants, as the C compiler measured them
//! (`abi/abi.c`), against what this crate was written for. A difference stops
//! the build at the line that names it.

#[cfg(xen_abi)]
mod xen {
    #![allow(non_upper_case_globals)]
    include!(env!("XEN_RS_ABI"));
}

/// Bits of `count_info` that count; Xen's configuration decides how many.
#[cfg(xen_abi)]
pub const PGC_COUNT_MASK: u64 = xen::PGC_count_mask;
#[cfg(not(xen_abi))]
pub const PGC_COUNT_MASK: u64 = (1 << 57) - 1;

/// The bits of `count_info` that say what state a page is in; all are set if it
/// is free.
#[cfg(xen_abi)]
pub const PGC_STATE: u64 = xen::PGC_state;
#[cfg(not(xen_abi))]
pub const PGC_STATE: u64 = 3 << 58;

#[cfg(xen_abi)]
mod checks {
    use super::xen;
    use crate::domain::{
        INVALID_M2P, MEMF_BITS, MEMF_NO_DMA, MEMF_NO_SCRUB, P2M_INVALID, P2M_MMIO_DM, P2M_POD,
        P2M_RAM_RW, PGT_COUNT_MASK, PageCount,
    };
    use crate::ffi::{Knobs, PageInfo};
    use crate::hypercall::{
        DomctlCoalesce, EFAULT, EINVAL, ENODEV, ENOMEM, ERESTART, ESRCH, MODE_DEFAULT, MODE_FULL,
        MODE_IN_PLACE, MODE_OFF, MemoryExchange, OP_AUDIT, OP_GET_INFO, OP_GET_MAP, OP_NOW,
        OP_SET_MODE, Reservation,
    };
    use arch::device::{Amd, Vtd};
    use arch::{Ept, Npt, SW_TYPE_RAM_LOGDIRTY, SW_TYPE_RAM_RO};
    use memoffset::offset_of;
    use p2m::account::{CAUSE_BASE, Cause, Counter, REASON_BASE, Reason};
    use p2m::addr::Order;
    use p2m::audit::{FINDINGS, Finding};
    use p2m::coalesce::{BATCH_MAX, BATCH_MIN};
    use p2m::frames::Pair;
    use p2m::machine::Errno;
    use p2m::pace::{BUDGET_MAX, BUDGET_MIN, COOLDOWN_MAX, ROOM_MAX, SHARE_MAX, Tunables};
    use p2m::trace::{Event, TRC_MEM_BASE};
    use static_assertions::const_assert_eq;

    macro_rules! same {
        ($($xen:ident = $ours:expr;)*) => {
            $(const_assert_eq!(xen::$xen, $ours as u64);)*
        };
    }
    macro_rules! layout {
        ($size:ident: $ours:ty { $($offset:ident: $field:ident,)* }) => {
            const_assert_eq!(xen::$size, core::mem::size_of::<$ours>() as u64);
            $(const_assert_eq!(xen::$offset, offset_of!($ours, $field) as u64);)*
        };
    }

    layout!(SIZE_page_info: PageInfo {
        OFFSET_page_info_count_info: count_info,
        OFFSET_page_info_type_info: type_info,
    });
    const_assert_eq!(xen::SIZE_coalesce_pair, core::mem::size_of::<Pair>() as u64);
    const_assert_eq!(xen::OFFSET_coalesce_pair_mfn, Pair::MFN_OFFSET as u64);
    layout!(SIZE_xen_memory_exchange: MemoryExchange {
        OFFSET_xen_memory_exchange_in: input,
        OFFSET_xen_memory_exchange_out: output,
        OFFSET_xen_memory_exchange_nr_exchanged: nr_exchanged,
    });
    const_assert_eq!(
        xen::OFFSET_xen_memory_reservation_nr_extents,
        offset_of!(Reservation, nr_extents) as u64
    );
    const_assert_eq!(
        xen::OFFSET_xen_memory_reservation_extent_order,
        offset_of!(Reservation, extent_order) as u64
    );
    layout!(SIZE_xen_domctl_coalesce: DomctlCoalesce {
        OFFSET_xen_domctl_coalesce_mode: mode,
        OFFSET_xen_domctl_coalesce_first_gfn: first_gfn,
        OFFSET_xen_domctl_coalesce_nr: nr,
        OFFSET_xen_domctl_coalesce_pad: pad,
        OFFSET_xen_domctl_coalesce_buffer: buffer,
    });
    layout!(SIZE_xrs_knobs: Knobs {
        OFFSET_xrs_knobs_budget: budget,
        OFFSET_xrs_knobs_batch: batch,
        OFFSET_xrs_knobs_watermark: watermark,
        OFFSET_xrs_knobs_cool_down: cool_down,
        OFFSET_xrs_knobs_share: share,
        OFFSET_xrs_knobs_room: room,
    });
    same! {
        PGC_allocated = PageCount::ALLOCATED.bits();
        PGC_xen_heap = PageCount::XEN_HEAP.bits();
        PGC_extra = PageCount::EXTRA.bits();
        PGC_state_free = PageCount::STATE.bits();
        PGT_count_mask = PGT_COUNT_MASK;
        p2m_ram_rw = P2M_RAM_RW;
        p2m_invalid = P2M_INVALID;
        p2m_ram_logdirty = SW_TYPE_RAM_LOGDIRTY;
        p2m_ram_ro = SW_TYPE_RAM_RO;
        p2m_mmio_dm = P2M_MMIO_DM;
        p2m_populate_on_demand = P2M_POD;
        p2m_populate_on_demand = arch::SW_TYPE_POD;
        PAGE_ORDER_2M = Order::REGION.log2();
        INVALID_M2P_ENTRY = INVALID_M2P;
        MEMF_no_scrub = MEMF_NO_SCRUB;
        MEMF_no_dma = MEMF_NO_DMA;
        MEMF_bits = MEMF_BITS;
        TRC_MEM_COALESCE_SPLIT = TRC_MEM_BASE + Event::Split as u32;
        TRC_MEM_COALESCE_PROMOTE = TRC_MEM_BASE + Event::Promote as u32;
        TRC_MEM_COALESCE_COMPLETE = TRC_MEM_BASE + Event::Complete as u32;
        TRC_MEM_COALESCE_MIGRATE = TRC_MEM_BASE + Event::Migrate as u32;
        TRC_MEM_COALESCE_REFUSE = TRC_MEM_BASE + Event::Refuse as u32;
        TRC_MEM_EXCHANGE = TRC_MEM_BASE + Event::Exchange as u32;
        EPERM = Errno::Perm;
        ENOENT = Errno::Noent;
        ENOMEM = Errno::Nomem;
        EFAULT = Errno::Fault;
        EBUSY = Errno::Busy;
        EEXIST = Errno::Exist;
        EINVAL = Errno::Inval;
        EOPNOTSUPP = Errno::Opnotsupp;
        MODE_default = MODE_DEFAULT;
        MODE_off = MODE_OFF;
        MODE_in_place = MODE_IN_PLACE;
        MODE_full = MODE_FULL;
        OP_set_mode = OP_SET_MODE;
        OP_get_info = OP_GET_INFO;
        OP_get_map = OP_GET_MAP;
        OP_audit = OP_AUDIT;
        AUDIT_pages = Finding::Pages;
        AUDIT_compared = Finding::Compared;
        AUDIT_wrong_frame = Finding::WrongFrame;
        AUDIT_wrong_device = Finding::WrongDevice;
        AUDIT_xen_orphans = FINDINGS;
        OP_now = OP_NOW;
        COUNT_reasons = REASON_BASE;
        COUNT_splits_by = CAUSE_BASE;
        NAMED_counts = Counter::BlocksMade as usize + 1;
        NAMED_reasons = Reason::COUNT;
        NAMED_causes = Cause::ALL.len();
        CAUSE_balloon = Cause::Balloon;
        CAUSE_exchange = Cause::Exchange;
        CAUSE_map = Cause::Map;
        CAUSE_type = Cause::Type;
        CAUSE_logdirty = Cause::LogDirty;
        CAUSE_exec = Cause::Exec;
        BUDGET_default = Tunables::DEFAULT.budget_us;
        BUDGET_min = BUDGET_MIN;
        BUDGET_max = BUDGET_MAX;
        BATCH_default = Tunables::DEFAULT.batch;
        BATCH_min = BATCH_MIN;
        BATCH_max = BATCH_MAX;
        WATERMARK_default = Tunables::DEFAULT.watermark_pages * 4;
        COOL_DOWN_default = Tunables::DEFAULT.cooldown_ms;
        COOL_DOWN_min = 1;
        COOL_DOWN_max = COOLDOWN_MAX;
        SHARE_default = Tunables::DEFAULT.busy_share_percent;
        SHARE_max = SHARE_MAX;
        ROOM_default = Tunables::DEFAULT.room_pages;
        ROOM_max = ROOM_MAX;
        NPT_type = Npt::SW_TYPE.bits();
        EPT_recalc = Ept::RECALC.bits();
        EPT_sp = Ept::LEAF.bits();
        EPT_emt = Ept::MEMORY_TYPE.bits();
        EPT_sa_p2mt = Ept::SW_TYPE.bits();
        EPT_access = Ept::SW_ACCESS.bits();
        p2m_access_rwx = arch::ACCESS_RWX;
        EPT_suppress_ve = Ept::SUPPRESS_VE.bits();
        AMD_next_level = Amd::NEXT_LEVEL.bits();
        AMD_read = Amd::READ.bits();
        AMD_write = Amd::WRITE.bits();
        VTD_leaf = Vtd::LEAF.bits();
    }
    const_assert_eq!(xen::ENODEV as i32, -ENODEV);
    const_assert_eq!(xen::ESRCH as i32, -ESRCH);
    const_assert_eq!(xen::ERESTART as i32, -ERESTART);
    const_assert_eq!(xen::EINVAL as i32, -EINVAL);
    const_assert_eq!(xen::EFAULT as i32, -EFAULT);
    const_assert_eq!(xen::ENOMEM as i32, -ENOMEM);
}
