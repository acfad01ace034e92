// SPDX-License-Identifier: GPL-2.0-only
#![no_std]

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
