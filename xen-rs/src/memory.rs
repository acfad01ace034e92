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
