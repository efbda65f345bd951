//! Tensors of a safetensors file, by name and shape. The file is mapped, so that only what is asked for is read; every
//! tensor is copied out, and the mapping is gone when reading is done.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};

use super::ReadError;

/// A mapped file.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    path: PathBuf,
    map: Mmap,
}

impl WeightsFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        // SAFETY: the bytes must not change while they are mapped. They are read once, at load, from a model's folder,
        // which nobody writes to while it is served; the mapping is private and read-only. A file cut short meanwhile
        // ends the process by a signal, which a worker's parent answers by starting another.
        let map = unsafe { Mmap::map(&file) }.map_err(ReadError::io(path))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// The tensors in it. `probe` is a tensor every model of the kind has: names may all carry one of `prefixes`.
    pub(crate) fn tensors(&self, probe: &str, prefixes: &'static [&'static str]) -> Result<Weights<'_>, ReadError> {
        let failed = |source| ReadError::Safetensors { path: self.path.clone(), source };
        let tensors = SafeTensors::deserialize(&self.map).map_err(failed)?;
        let prefix = prefixes.iter().find(|prefix| tensors.tensor(&format!("{prefix}{probe}")).is_ok());
        let Some(prefix) = prefix else {
            return Err(ReadError::MissingTensor { path: self.path.clone(), name: probe.to_owned() });
        };
        Ok(Weights { path: &self.path, tensors, prefix })
    }
}

/// The tensors of a mapped file.
#[derive(Debug)]
pub(crate) struct Weights<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    prefix: &'static str,
}

impl Weights<'_> {
    /// A tensor of exactly this shape, as f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ReadError> {
        let name = format!("{}{name}", self.prefix);
        let path = || self.path.to_owned();
        let Ok(view) = self.tensors.tensor(&name) else {
            return Err(ReadError::MissingTensor { path: path(), name });
        };
        if view.shape() != shape {
            let (found, expected) = (view.shape().to_vec(), shape.to_vec());
            return Err(ReadError::Shape { path: path(), name, found, expected });
        }
        let Some(dtype) = candle_dtype(&view) else {
            return Err(ReadError::TensorType { path: path(), name, found: format!("{:?}", view.dtype()) });
        };
        Ok(Tensor::from_raw_buffer(view.data(), dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?)
    }

    /// The same as plain numbers.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ReadError> {
        Ok(self.tensor(name, shape)?.flatten_all()?.to_vec1()?)
    }
}

fn candle_dtype(view: &TensorView<'_>) -> Option<DType> {
    match view.dtype() {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// SHA-256 of a file, lower-case hex, read piece by piece. `progress` is told the part that is done.
pub(crate) fn sha256(path: &Path, progress: &mut dyn FnMut(f32)) -> Result<String, ReadError> {
    let mut file = File::open(path).map_err(ReadError::io(path))?;
    let size = file.metadata().map_err(ReadError::io(path))?.len().max(1);
    let (mut hasher, mut piece, mut done) = (Sha256::new(), vec![0; 1 << 20], 0u64);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&piece[..read]);
                done += read as u64;
                progress(done as f32 / size as f32);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::io(path)(error)),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
