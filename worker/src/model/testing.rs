//! The tiny checkpoints beside the tests, to be changed and written elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use tempfile::TempDir;

/// Where the checkpoints are, one in each folder.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny")
}

/// Names of all checkpoints.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().join("config.json").is_file());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 34, "{names:?}");
    names
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Stored {
    pub(crate) fn f32(shape: &[usize], value: f32) -> Self {
        let count: usize = shape.iter().product();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), data: value.to_le_bytes().repeat(count) }
    }
}

/// A model's files.
#[derive(Clone, Debug)]
pub(crate) struct Tiny {
    files: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

impl Tiny {
    pub(crate) fn read(name: &str) -> Self {
        let root = fixtures().join(name);
        let mut files = BTreeMap::new();
        let mut open = vec![root.clone()];
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.insert(path.strip_prefix(&root).unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
        let bytes = files.remove(Path::new("model.safetensors")).unwrap();
        let stored = |view: TensorView<'_>| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let stored_tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = stored_tensors.iter().map(|(name, view)| (name.to_owned(), stored(view))).collect();
        Self { tensors, files }
    }

    /// Changes a settings file; one that is not there begins as null.
    pub(crate) fn edit(mut self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let known = self.files.get(Path::new(file));
        let mut value = known.map_or(Value::Null, |text| serde_json::from_slice(text).unwrap());
        change(&mut value);
        self.files.insert(file.into(), value.to_string().into_bytes());
        self
    }

    /// Changes a field of `config.json`.
    pub(crate) fn set(self, field: &str, value: impl Into<Value>) -> Self {
        self.edit("config.json", |config| config[field] = value.into())
    }

    pub(crate) fn without(mut self, file: &str) -> Self {
        self.files.remove(Path::new(file)).unwrap();
        self
    }

    pub(crate) fn write(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (path, bytes) in &self.files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let views = self.tensors.iter().map(|(name, stored)| {
            (name.clone(), TensorView::new(stored.dtype, stored.shape.clone(), &stored.data).unwrap())
        });
        serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        folder
    }
}
