//! The emulator catches what it says it does, and NVRTC compiles what it runs.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod cubin;
mod mistakes;
mod nvrtc;
mod rules;
