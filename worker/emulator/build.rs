//! Compiles the kernels for the host, as C++ against the emulator's headers.

use std::path::Path;

/// Folders with kernels and headers, from here.
const FOLDERS: [&str; 12] = [
    "cuda",
    "../src/cuda",
    "../src/ops/activate",
    "../src/ops/attend",
    "../src/ops/embed",
    "../src/ops/gate",
    "../src/ops/gemm",
    "../src/ops/normalize",
    "../src/ops/pick",
    "../src/ops/pool",
    "../src/ops/rotate",
    "../src/ops/top",
];

fn main() {
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
    }
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ARCH") != "x86_64" || target("OS") != "linux" {
        return;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .includes(FOLDERS.map(Path::new))
        .flag("-Wno-unknown-pragmas")
        .file("cuda/launch.cpp")
        .compile("shoal_emulator");
}
