//! Where a model comes from. Reading it is the backends' business.

use std::path::PathBuf;
use std::time::Duration;

/// Where a worker reads a model.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// A folder in Hugging Face layout on this machine.
    Folder(PathBuf),
    /// The built-in model that returns what it is given.
    Echo,
    /// The built-in model that only takes time.
    Synthetic(SyntheticCurve),
}

/// How long a synthetic batch of n rows with T tokens takes, and what else it does.
///
/// `t = max(floor, base + per_row·n + per_token·T + nanos_per_token_squared·ΣL²) · noise`, with ΣL² the sum of the
/// squared row lengths. Tokens of a row are its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyntheticCurve {
    /// No batch takes less.
    pub floor: Duration,
    /// What any batch costs.
    pub base: Duration,
    /// What each row costs.
    pub per_row: Duration,
    /// What each token costs.
    pub per_token: Duration,
    /// Nanoseconds each squared token costs.
    pub nanos_per_token_squared: f64,
    /// Standard deviation of the log of the noise factor; 0 for none.
    pub noise: f64,
    /// What the noise is drawn from.
    pub seed: u64,
    /// Obey the commands in inputs, such as `!fail`.
    pub faults: bool,
    /// Report out of memory for batches of more rows; 0 for never.
    pub memory_rows: u32,
}

/// What a model's weights are held and multiplied in, as asked for by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Whatever is fastest on this device without visible loss.
    #[default]
    Auto,
    F32,
    /// On GPUs.
    F16,
    Bf16,
    Int8,
    /// Int8 where that costs next to nothing, else bf16.
    Int8Mixed,
}

impl Precision {
    const ALL: [Self; 6] = [Self::Auto, Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int8Mixed];

    /// By its name; nothing is `auto`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_named = |precision: &Self| precision.name() == name;
        if name.is_empty() { Some(Self::Auto) } else { Self::ALL.into_iter().find(is_named) }
    }

    /// All names, for people.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8Mixed => "int8-mixed",
        }
    }
}
