// SPDX-License-Identifier: GPL-2.0-only
//! Owned memory from Xen's small-object allocator, zeroed. Not to be made under
//! the p2m lock (the types that are made of it are not reachable from there).

use crate::ffi;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::{mem, ptr, slice};
use zerocopy::FromZeros;

/// One `T` from `xzalloc()`.
///
/// # Invariants
/// The pointer came from `xrs_xzalloc`, points to a valid `T`, and nobody else
/// has it.
pub struct XBox<T>(NonNull<T>);

// SAFETY: it owns its `T`, wherever it goes.
unsafe impl<T: Send> Send for XBox<T> {}
// SAFETY: shared, it gives out shared references only.
unsafe impl<T: Sync> Sync for XBox<T> {}

impl<T> XBox<T> {
    /// Move `value` to the heap.
    pub fn new(value: T) -> Option<Self> {
        let p = NonNull::new(allocate::<T>(1))?;

        // SAFETY: memory for one `T`, aligned, ours alone.
        unsafe { p.write(value) };
        Some(XBox(p))
    }

    /// All bits zero; never on the stack.
    pub fn zeroed() -> Option<Self>
    where
        T: FromZeros,
    {
        NonNull::new(allocate::<T>(1)).map(XBox)
    }

    /// Give it to C.
    pub fn into_raw(self) -> *mut T {
        let p = self.0.as_ptr();

        mem::forget(self);
        p
    }

    /// Take it back from C.
    ///
    /// # Safety
    /// `p` came from [`into_raw`](Self::into_raw) and is not used otherwise
    /// again.
    pub unsafe fn from_raw(p: *mut T) -> Option<Self> {
        NonNull::new(p).map(XBox)
    }
}

fn allocate<T>(count: usize) -> *mut T {
    match mem::size_of::<T>().checked_mul(count) {
        Some(size) => ffi::xrs_xzalloc(size as u64, mem::align_of::<T>() as u64).cast(),
        None => ptr::null_mut(),
    }
}

impl<T> Deref for XBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the type's invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for XBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the type's invariants.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for XBox<T> {
    fn drop(&mut self) {
        // SAFETY: the type's invariants; the value is dropped once, and then
        // the memory is given back.
        unsafe {
            self.0.drop_in_place();
            ffi::xrs_xfree(self.0.as_ptr().cast());
        }
    }
}

/// Many `T` from `xzalloc()`.
///
/// # Invariants
/// As for [`XBox`], for `len` values; or there are none, and the pointer is nothing.
pub struct XSlice<T> {
    first: NonNull<T>,
    len: usize,
}

impl<T> XSlice<T> {
    /// None.
    pub const fn empty() -> Self {
        XSlice {
            first: NonNull::dangling(),
            len: 0,
        }
    }
}

impl<T: Default> XSlice<T> {
    /// `len` default values.
    pub fn new(len: usize) -> Option<Self> {
        let first = NonNull::new(allocate::<T>(len))?;

        for i in 0..len {
            // SAFETY: within the `len` values that were allocated.
            unsafe { first.add(i).write(T::default()) };
        }
        Some(XSlice { first, len })
    }
}

impl<T> Deref for XSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the type's invariants.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for XSlice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the type's invariants.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for XSlice<T> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the type's invariants; the values are dropped once, and then
        // the memory is given back.
        unsafe {
            ptr::drop_in_place::<[T]>(&mut **self);
            ffi::xrs_xfree(self.first.as_ptr().cast());
        }
    }
}

/// What is here needs of Xen two functions, which the C library has, too; so it
/// runs on the host, under an address sanitizer (`make -f build.mk verify`).
#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::{Cell, RefCell};
    use core::ffi::c_void;

    unsafe extern "C" {
        safe fn aligned_alloc(align: usize, size: usize) -> *mut c_void;
        fn free(p: *mut c_void);
    }

    std::thread_local! {
        /// Allocations that are still there.
        static LIVE: Cell<usize> = const { Cell::new(0) };
        static EMPTY: Cell<bool> = const { Cell::new(false) };
        /// Values that were dropped, in order.
        static DROPPED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }

    #[unsafe(no_mangle)]
    extern "C" fn xrs_xzalloc(size: u64, align: u64) -> *mut c_void {
        if EMPTY.get() {
            return ptr::null_mut();
        }
        let size = (size as usize).next_multiple_of(align as usize);
        let p = aligned_alloc(align as usize, size);

        assert!(!p.is_null() && size > 0);
        // SAFETY: so much was allocated just now.
        unsafe { p.write_bytes(0, size) };
        LIVE.set(LIVE.get() + 1);
        p
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn xrs_xfree(p: *mut c_void) {
        LIVE.set(LIVE.get() - 1);
        // SAFETY: it is from above, says the caller.
        unsafe { free(p) };
    }

    /// Says when it is dropped, and where it must lie.
    #[repr(align(64))]
    struct Told {
        number: u32,
    }

    impl Default for Told {
        fn default() -> Self {
            Told { number: 7 }
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            DROPPED.with_borrow_mut(|dropped| dropped.push(self.number));
        }
    }

    fn dropped() -> Vec<u32> {
        DROPPED.take()
    }

    #[test]
    fn a_box_owns_its_value() {
        let mut told = XBox::new(Told { number: 1 }).unwrap();

        assert_eq!((&raw const *told).addr() % 64, 0);
        told.number += 1;
        assert_eq!((told.number, LIVE.get(), dropped()), (2, 1, vec![]));
        drop(told);
        assert_eq!((LIVE.get(), dropped()), (0, vec![2]));
    }

    #[test]
    fn a_box_goes_to_c_and_comes_back() {
        let raw = XBox::new(Told { number: 3 }).unwrap().into_raw();
        assert_eq!((LIVE.get(), dropped()), (1, vec![]));

        // SAFETY: it came from there, and is not used again.
        let told = unsafe { XBox::from_raw(raw) };
        assert_eq!(told.as_ref().map(|told| told.number), Some(3));
        drop(told);
        assert_eq!((LIVE.get(), dropped()), (0, vec![3]));
        // SAFETY: nothing is there.
        assert!(unsafe { XBox::<Told>::from_raw(ptr::null_mut()) }.is_none());
    }

    #[test]
    fn what_is_zeroed_is_zero() {
        let zeroed = XBox::<[u64; 1000]>::zeroed().unwrap();

        assert!(zeroed.iter().all(|&word| word == 0));
        drop(zeroed);
        assert_eq!(LIVE.get(), 0);
    }

    #[test]
    fn a_slice_owns_each_of_its_values() {
        for len in [1, 2, 513] {
            let mut slice = XSlice::<Told>::new(len).unwrap();

            assert_eq!(slice.len(), len);
            assert!(slice.iter().all(|told| told.number == 7));
            for (i, told) in (0..).zip(slice.iter_mut()) {
                // What is written over is dropped.
                *told = Told { number: i };
            }
            assert_eq!(dropped(), vec![7; len]);
            drop(slice);
            assert_eq!((LIVE.get(), dropped()), (0, (0..len as u32).collect()));
        }
    }

    #[test]
    fn an_empty_slice_is_of_no_memory() {
        assert!(XSlice::<Told>::empty().is_empty());
        assert_eq!((LIVE.get(), dropped()), (0, vec![]));
    }

    #[test]
    fn where_there_is_no_memory_there_is_no_box() {
        EMPTY.set(true);
        assert!(XBox::<[u64; 4]>::zeroed().is_none());
        assert!(XSlice::<Told>::new(3).is_none());
        assert!(XBox::new(Told { number: 5 }).is_none());
        // Nobody has it, so it is gone.
        assert_eq!(dropped(), vec![5]);
        EMPTY.set(false);
        // So many bytes have no number.
        assert!(XSlice::<Told>::new(usize::MAX / 2).is_none());
        assert_eq!(LIVE.get(), 0);
    }
}
