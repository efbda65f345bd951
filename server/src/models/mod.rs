//! Where weights come from: named sources, a catalogue with pinned hashes, and a store on disk that mirrors are pulled
//! into.
//!
//! [`resolve`] turns a [`Source`] into what a worker is told to load. Nothing here reads weights into memory or knows
//! how to run a model; what of that people ask, the worker answers ([`Inspect`]). All of it blocks: call it before the runtime starts,
//! or on a thread for blocking work.

mod arg;
pub mod catalogue;
pub mod check;
pub mod command;
mod digest;
mod hub;
mod inspect;
mod name;
mod part;
mod progress;
mod pull;
mod resolve;
mod shelf;
mod source;
mod store;
mod synthetic;
mod weights;
mod wheel;

pub use arg::{Dtype, LoadWhen, ModelArg, ModelArgError, Preset};
pub use digest::{Digest, DigestError};
pub use inspect::{Inspect, Inspection};
pub use name::{ModelName, NameError};
pub use progress::{OnProgress, Progress, Renderer};
pub use pull::{PullError, PullSettings, Token, Tried};
pub use resolve::{Place, ResolveError, Resolved, resolve};
pub use shelf::{Manifest, ManifestFile};
pub use source::{HubRepository, Source, SourceError};
pub use store::{HomeError, Store};
pub use synthetic::{Synthetic, SyntheticError};
pub use weights::sha256_of;

/// The file with the network's settings.
pub(crate) const CONFIG: &str = "config.json";
/// The file with the weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Files no model is without.
pub(crate) const REQUIRED: [&str; 3] = [CONFIG, "tokenizer.json", WEIGHTS];
/// Files that say more, where a model has them.
pub(crate) const OPTIONAL: [&str; 9] = [
    "modules.json",
    "sentence_bert_config.json",
    // Older repositories have one of these in its place.
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// The known word that is nearest to `found`, to be named in an error. `known` must not be empty.
pub(crate) fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known.into_iter().min_by_key(|word| strsim::damerau_levenshtein(found, word)).unwrap_or_default().to_owned()
}
