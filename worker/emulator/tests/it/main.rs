//! The emulator catches what it says it does.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod mistakes;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod rules;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod sanitizers;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[test]
#[ignore = "kernels are emulated on x86-64 Linux only"]
fn kernels_are_emulated() {}
