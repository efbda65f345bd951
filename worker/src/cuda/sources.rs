//! The kernels' source files, as they are compiled. The one list of them.

/// A file of kernels, which lies beside its op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFile {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    /// Entry points, by their names in C.
    pub(crate) kernels: &'static [&'static str],
}

/// What files include, by name and text.
pub(crate) const HEADERS: [(&str, &str); 3] = [
    ("gpu.cuh", include_str!("gpu.cuh")),
    ("activation.cuh", include_str!("../ops/activate/activation.cuh")),
    ("norm.cuh", include_str!("../ops/normalize/norm.cuh")),
];

pub(crate) const FILES: [KernelFile; 9] = [
    KernelFile {
        name: "activate.cu",
        source: include_str!("../ops/activate/activate.cu"),
        kernels: &[
            "activate_identity",
            "activate_gelu",
            "activate_gelu_tanh",
            "activate_silu",
            "activate_relu",
            "activate_tanh",
        ],
    },
    KernelFile {
        name: "add_norm.cu",
        source: include_str!("../ops/normalize/add_norm.cu"),
        kernels: &["add_norm_256", "add_norm_512", "add_norm_768", "add_norm_1024", "add_norm_2048"],
    },
    KernelFile {
        name: "attend.cu",
        source: include_str!("../ops/attend/attend.cu"),
        kernels: &["attend_16", "attend_32", "attend_48", "attend_64", "attend_80", "attend_96", "attend_128"],
    },
    KernelFile {
        name: "embed.cu",
        source: include_str!("../ops/embed/embed.cu"),
        kernels: &["embed_256", "embed_512", "embed_768", "embed_1024", "embed_2048"],
    },
    KernelFile {
        name: "gate.cu",
        source: include_str!("../ops/gate/gate.cu"),
        kernels: &["gate_identity", "gate_gelu", "gate_gelu_tanh", "gate_silu", "gate_relu", "gate_tanh"],
    },
    KernelFile { name: "pick.cu", source: include_str!("../ops/pick/pick.cu"), kernels: &["pick"] },
    KernelFile { name: "pool.cu", source: include_str!("../ops/pool/pool.cu"), kernels: &["pool_bf16", "pool_f32"] },
    KernelFile { name: "rotate.cu", source: include_str!("../ops/rotate/rotate.cu"), kernels: &["rotate"] },
    KernelFile { name: "top.cu", source: include_str!("../ops/top/top.cu"), kernels: &["top"] },
];
