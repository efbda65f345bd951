//! The header of `model.safetensors`, held against `config.json`. The weights themselves are not read.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};
use safetensors::{SafeTensorError, SafeTensors};

use super::config::Config;
use super::{Folder, Problem};
use crate::models::WEIGHTS;

/// The format's own limit on headers.
const HEADER_MAX: u64 = 100_000_000;
/// At most so many tensors are named; with one wrong size in the configuration every one would be.
pub(super) const NAMED_MAX: usize = 5;

/// Checks the header, and the tensors a BERT encoder needs if its sizes are known.
pub(super) fn check(folder: &mut Folder, config: Option<&Config>) {
    if !folder.has(WEIGHTS) {
        return;
    }
    let metadata = match header(&folder.path.join(WEIGHTS)) {
        Ok(metadata) => metadata,
        Err((expected, found)) => {
            let problem = Problem::new(WEIGHTS, "header", expected, found);
            folder.problems.push(problem.hint("the file is cut or is no safetensors file; fetch it again"));
            return;
        }
    };
    let tensors = metadata.tensors();
    let elements: usize = tensors
        .values()
        .filter(|tensor| is_float(tensor.dtype))
        .map(|tensor| tensor.shape.iter().product::<usize>())
        .sum();
    folder.facts.push(format!("{} tensors, {:.1} million parameters", tensors.len(), elements as f64 / 1e6));
    if let Some(config) = config {
        check_tensors(folder, &metadata, config);
    }
}

/// Reads and validates the header and the file's length; in case of error what was expected and found.
fn header(path: &Path) -> Result<Metadata, (String, String)> {
    let fail = |expected: &str, found: String| (expected.to_owned(), found);
    let readable = |error: std::io::Error| fail("a readable file", error.to_string());
    let mut file = File::open(path).map_err(readable)?;
    let size = file.metadata().map_err(readable)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| fail("at least 8 bytes", format!("{size}")))?;
    let header = u64::from_le_bytes(length);
    if header > HEADER_MAX || header + 8 > size {
        return Err(fail("a header inside the file", format!("{header} bytes of header in {size} bytes of file")));
    }
    let mut bytes = Vec::with_capacity(header as usize + 8);
    bytes.extend(length);
    file.take(header).read_to_end(&mut bytes).map_err(readable)?;
    let invalid = |error: String| fail("valid safetensors metadata", error);
    match SafeTensors::read_metadata(&bytes) {
        // What is left to complain about is that only the header was read; the length is held against the file below.
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
        Err(error) => return Err(invalid(error.to_string())),
    }
    let metadata: Metadata = serde_json::from_slice(&bytes[8..]).map_err(|error| invalid(error.to_string()))?;
    let whole = 8 + header + metadata.data_len() as u64;
    if whole != size {
        return Err(fail(&format!("{whole} bytes of file"), format!("{size}")));
    }
    Ok(metadata)
}

fn check_tensors(folder: &mut Folder, metadata: &Metadata, config: &Config) {
    // Saved alone an encoder's names begin with `embeddings`; saved with a head on top, with `bert.embeddings`.
    let bare = metadata.info("embeddings.word_embeddings.weight").is_some();
    let prefix = if bare { "" } else { "bert." };
    let mut named = 0;
    let mut left_out = 0;
    for (name, shape) in needed(config) {
        let name = format!("{prefix}{name}");
        let expected = format!("a float tensor of shape {shape:?}");
        let found = match metadata.info(&name) {
            None => "none".to_owned(),
            Some(tensor)
                if is_float(tensor.dtype) && tensor.shape.iter().map(|&n| n as u64).eq(shape.iter().copied()) =>
            {
                continue;
            }
            Some(tensor) => format!("{:?} of shape {:?}", tensor.dtype, tensor.shape),
        };
        if named < NAMED_MAX {
            folder.problems.push(Problem::new(WEIGHTS, &name, expected, found));
            named += 1;
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let found = format!("{left_out} more that are missing or of another shape");
        folder.problems.push(Problem::new(WEIGHTS, "tensors", "those of config.json", found));
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Every tensor of a BERT encoder without its pooler, in the order data flows.
fn needed(config: &Config) -> impl Iterator<Item = (String, Vec<u64>)> {
    let Config { hidden, layers, intermediate, vocabulary, positions, types } = *config;
    let embeddings = [
        ("word_embeddings.weight", vec![vocabulary, hidden]),
        ("position_embeddings.weight", vec![positions, hidden]),
        ("token_type_embeddings.weight", vec![types, hidden]),
        ("LayerNorm.weight", vec![hidden]),
        ("LayerNorm.bias", vec![hidden]),
    ];
    let layer = move || {
        let square = || vec![hidden, hidden];
        [
            ("attention.self.query", square()),
            ("attention.self.key", square()),
            ("attention.self.value", square()),
            ("attention.output.dense", square()),
            ("attention.output.LayerNorm", vec![hidden]),
            ("intermediate.dense", vec![intermediate, hidden]),
            ("output.dense", vec![hidden, intermediate]),
            ("output.LayerNorm", vec![hidden]),
        ]
    };
    let in_layer = move |n: u64| {
        layer().into_iter().flat_map(move |(name, shape)| {
            // A bias is as long as its weight has rows.
            let bias = vec![shape[0]];
            [(format!("encoder.layer.{n}.{name}.weight"), shape), (format!("encoder.layer.{n}.{name}.bias"), bias)]
        })
    };
    embeddings
        .into_iter()
        .map(|(name, shape)| (format!("embeddings.{name}"), shape))
        .chain((0..layers).flat_map(in_layer))
}
