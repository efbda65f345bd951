//! Runs the worker's CUDA kernels on the host, so that they are tested where there is no GPU. For tests only.
//!
//! The kernels are compiled as C++ against `cuda/emulator.hpp`, which has the names of `gpu.cuh`. Each thread of a block
//! is a fiber; the seed decides who runs when. A launch fails, and says where, when a kernel touches memory outside its
//! buffers, misaligned, or not yet written; when two threads touch the same shared memory with no barrier between; when
//! it reads what an asynchronous copy has not brought yet; when threads part at a barrier; and when none can go on.
//!
//! Not modelled: the order in which tensor cores add, how well `ex2.approx` rounds, wgmma and TMA, races in global
//! memory between blocks, and speed. A kernel that passes here still has to be compiled by NVRTC, which accepts less than
//! a C++ compiler does; the worker's tests do that.
//!
//! Only on x86-64 Linux; elsewhere this crate is empty, and what would use it says that it was skipped.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod launch;

pub use launch::{Argument, Emulator, Fault, Launch};
