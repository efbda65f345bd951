//! The kernels' source files, as they are compiled. The one list of them.

use super::driver::Kernel;
use super::element::Element;

/// A file of kernels, which lies beside its op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFile {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    /// Entry points, by their names in C.
    pub(crate) kernels: &'static [&'static str],
    /// What it is compiled for, if it is written for any kind of number.
    pub(crate) elements: &'static [Element],
}

/// All there are.
const ANY: &[Element] = &Element::ALL;
/// Those that tensor cores take as they are.
const NARROW: &[Element] = &[Element::Bf16, Element::F16];

/// What files include, by name and text.
pub(crate) const HEADERS: [(&str, &str); 4] = [
    ("gpu.cuh", include_str!("gpu.cuh")),
    ("activation.cuh", include_str!("../ops/activate/activation.cuh")),
    ("attend.cuh", include_str!("../ops/attend/attend.cuh")),
    ("norm.cuh", include_str!("../ops/normalize/norm.cuh")),
];

pub(crate) const FILES: [KernelFile; 12] = [
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
        elements: ANY,
    },
    KernelFile {
        name: "add_norm.cu",
        source: include_str!("../ops/normalize/add_norm.cu"),
        kernels: &["add_norm_256", "add_norm_512", "add_norm_768", "add_norm_1024", "add_norm_2048"],
        elements: ANY,
    },
    KernelFile {
        name: "attend.cu",
        source: include_str!("../ops/attend/attend.cu"),
        kernels: &["attend_16", "attend_32", "attend_48", "attend_64", "attend_80", "attend_96", "attend_128"],
        elements: NARROW,
    },
    KernelFile {
        name: "attend_f32.cu",
        source: include_str!("../ops/attend/attend_f32.cu"),
        kernels: &["attend_f32_32", "attend_f32_64", "attend_f32_96", "attend_f32_128"],
        elements: &[],
    },
    KernelFile {
        name: "embed.cu",
        source: include_str!("../ops/embed/embed.cu"),
        kernels: &["embed_256", "embed_512", "embed_768", "embed_1024", "embed_2048"],
        elements: ANY,
    },
    KernelFile {
        name: "gate.cu",
        source: include_str!("../ops/gate/gate.cu"),
        kernels: &["gate_identity", "gate_gelu", "gate_gelu_tanh", "gate_silu", "gate_relu", "gate_tanh"],
        elements: ANY,
    },
    KernelFile {
        name: "multiply.cu",
        source: include_str!("../ops/gemm/multiply.cu"),
        kernels: &["multiply_int8_128", "multiply_int8_64", "multiply_int8_32"],
        elements: &[],
    },
    KernelFile { name: "pick.cu", source: include_str!("../ops/pick/pick.cu"), kernels: &["pick"], elements: &[] },
    KernelFile {
        name: "pool.cu",
        source: include_str!("../ops/pool/pool.cu"),
        kernels: &["pool_number", "pool_f32"],
        elements: ANY,
    },
    KernelFile {
        name: "quantise.cu",
        source: include_str!("../ops/gemm/quantise.cu"),
        kernels: &["quantise"],
        elements: &[],
    },
    KernelFile {
        name: "rotate.cu",
        source: include_str!("../ops/rotate/rotate.cu"),
        kernels: &["rotate"],
        elements: ANY,
    },
    KernelFile { name: "top.cu", source: include_str!("../ops/top/top.cu"), kernels: &["top"], elements: &[] },
];

impl KernelFile {
    /// What it is compiled for; once for nothing if it is written for what it is written for.
    pub(crate) fn versions(&self) -> impl Iterator<Item = Option<Element>> {
        let plain = self.elements.is_empty().then_some(None);
        plain.into_iter().chain(self.elements.iter().copied().map(Some))
    }

    /// All that are in it.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = Kernel> {
        self.versions().flat_map(|element| self.kernels.iter().map(move |name| Kernel { name, element }))
    }
}
