//! Tensors of a safetensors file, as a plan wants them. The file is mapped; its tensors are read row by row, once, and
//! their pages given back, so that a model is never in memory twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};

use super::ReadError;
use crate::plan::{self, Plan, WeightId};

#[cfg(test)]
mod tests;

/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Tensors without a place that an error names.
const NAMED_MAX: usize = 3;

/// How checkpoints of one model may name and carry more than its plan does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// What the names of an encoder's tensors begin with beside a head, such as `bert.`; a plan's names go without.
    pub(crate) prefix: &'static str,
    /// Two names of the same tensor, of which a file may have either.
    pub(crate) aliases: Vec<(&'static str, &'static str)>,
    /// Tensors without effect: whole names, or beginnings of names that end in a dot.
    pub(crate) ignored: Vec<&'static str>,
}

impl Names {
    /// The other name of a tensor that has two.
    fn other(&self, name: &str) -> Option<&'static str> {
        self.aliases.iter().find_map(|&(first, second)| {
            let other = if name == first { second } else { first };
            (name == first || name == second).then_some(other)
        })
    }

    fn is_ignored(&self, name: &str) -> bool {
        let is_one = |ignored: &&str| name == *ignored || (ignored.ends_with('.') && name.starts_with(*ignored));
        self.ignored.iter().any(is_one)
    }
}

/// A mapped file and where its tensors are.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    file: File,
    map: Mmap,
    tensors: BTreeMap<String, Entry>,
}

/// One tensor of the file.
#[derive(Clone, Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes in the mapping.
    bytes: Range<usize>,
}

/// Tensors and their names in the file, by the names a plan has for them.
type Known<'a> = BTreeMap<String, (&'a str, &'a Entry)>;

/// A checkpoint that has every weight of a plan, in shape and type, and nothing else of effect.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    checkpoint: &'a Checkpoint,
    weights: Vec<Parts<'a>>,
}

/// A weight's tensors.
#[derive(Debug)]
struct Parts<'a> {
    tensors: Vec<(&'a str, &'a Entry)>,
    rows: usize,
    columns: usize,
    skip: usize,
    is_vector: bool,
}

/// One weight's numbers. Rows may be read by several threads, and more than once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    checkpoint: &'a Checkpoint,
    parts: &'a Parts<'a>,
}

impl<'a> Parts<'a> {
    /// The tensors of a matrix, with which of its rows each has.
    fn by_rows(&self) -> impl Iterator<Item = (Range<usize>, &'a str, &'a Entry)> {
        self.tensors.iter().scan(0, |end, (name, entry)| {
            let start = *end;
            *end += entry.shape[0] - self.skip;
            Some((start..*end, *name, *entry))
        })
    }
}

impl Checkpoint {
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        // SAFETY: the bytes must not change while they are mapped. They are read once, at load, from a model's folder,
        // which nobody writes to while it is served; the mapping is private and read-only. A file cut short meanwhile
        // ends the process by a signal, which a worker's parent answers by starting another.
        let map = unsafe { Mmap::map(&file) }.map_err(ReadError::io(path))?;
        let failed = |source| ReadError::Safetensors { path: path.to_owned(), source };
        let tensors = SafeTensors::deserialize(&map).map_err(failed)?;
        let start = map.as_ptr() as usize;
        let entries = tensors.iter().map(|(name, view)| {
            let first = view.data().as_ptr() as usize - start;
            let bytes = first..first + view.data().len();
            (name.to_owned(), Entry { dtype: view.dtype(), shape: view.shape().to_vec(), bytes })
        });
        Ok(Self { path: path.to_owned(), tensors: entries.collect(), file, map })
    }

    /// Finds every weight of a plan.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or is not of floating-point numbers; tensors that nothing would read.
    pub(crate) fn bind(&self, plan: &Plan, names: &Names) -> Result<Bound<'_>, ReadError> {
        // There is one at least.
        self.find(plan, names).map_err(|mut problems| problems.swap_remove(0))
    }

    /// As [`Self::bind`], but with everything that is wrong.
    pub(crate) fn find(&self, plan: &Plan, names: &Names) -> Result<Bound<'_>, Vec<ReadError>> {
        let known = self.by_plan_name(names.prefix);
        let (mut read, mut problems) = (BTreeSet::new(), Vec::new());
        let mut weights = Vec::with_capacity(plan.weights.len());
        for weight in &plan.weights {
            let mut tensors = Vec::with_capacity(weight.tensors.len());
            for tensor in &weight.tensors {
                let name = &tensor.name;
                let found = known.get(name.as_str()).or_else(|| known.get(names.other(name)?));
                let Some(&(name, entry)) = found else {
                    problems.push(ReadError::MissingTensor { path: self.path.clone(), name: name.clone() });
                    continue;
                };
                problems.extend(self.check(name, entry, tensor).err());
                read.insert(name);
                tensors.push((name, entry));
            }
            let ((rows, columns), is_vector) = (weight.size(), weight.is_vector());
            weights.push(Parts { tensors, rows, columns, skip: weight.skip, is_vector });
        }
        problems.extend(self.unread(&known, &read, names));
        if problems.is_empty() { Ok(Bound { checkpoint: self, weights }) } else { Err(problems) }
    }

    /// The error for tensors that would not be read, though they have an effect.
    fn unread(&self, known: &Known<'_>, read: &BTreeSet<&str>, names: &Names) -> Option<ReadError> {
        let surplus = known
            .iter()
            .filter(|(plan_name, (name, _))| !read.contains(name) && !names.is_ignored(plan_name))
            .map(|(_, (name, _))| *name);
        // Two of one name by the plan's rules: `known` holds only one of them.
        let kept: BTreeSet<&str> = known.values().map(|(name, _)| *name).collect();
        let twice = self.tensors.keys().map(String::as_str).filter(|name| !kept.contains(name));
        let unread: Vec<&str> = surplus.chain(twice).collect();
        (!unread.is_empty()).then(|| self.surplus(&unread))
    }

    /// The tensors by the names a plan has for them: without prefix, and norms as they are called today.
    fn by_plan_name(&self, prefix: &str) -> Known<'_> {
        let mut known = BTreeMap::new();
        for (name, entry) in &self.tensors {
            let bare = name.strip_prefix(prefix).unwrap_or(name);
            let plan_name = match bare.rsplit_once('.') {
                Some((norm, "gamma")) => format!("{norm}.weight"),
                Some((norm, "beta")) => format!("{norm}.bias"),
                _ => bare.to_owned(),
            };
            known.insert(plan_name, (name.as_str(), entry));
        }
        known
    }

    fn check(&self, name: &str, entry: &Entry, tensor: &plan::Tensor) -> Result<(), ReadError> {
        let (path, name) = (|| self.path.clone(), || name.to_owned());
        if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(ReadError::TensorType { path: path(), name: name(), found: format!("{:?}", entry.dtype) });
        }
        if entry.shape != tensor.shape {
            let (found, expected) = (entry.shape.clone(), tensor.shape.clone());
            return Err(ReadError::Shape { path: path(), name: name(), found, expected });
        }
        Ok(())
    }

    fn surplus(&self, names: &[&str]) -> ReadError {
        let named: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > NAMED_MAX { " and others" } else { "" };
        ReadError::Surplus { path: self.path.clone(), count: names.len(), names: named.join(", ") + more }
    }

    /// SHA-256 of the file. It is read apart from the mapping, whose pages stay as few as they are.
    pub(crate) fn sha256(&self) -> Result<String, ReadError> {
        sha256(&self.file).map_err(ReadError::io(&self.path))
    }
}

impl Bound<'_> {
    pub(crate) fn weight(&self, id: WeightId) -> Source<'_> {
        Source { checkpoint: self.checkpoint, parts: &self.weights[id.0] }
    }

    /// How many tensors are read, and what types their numbers have, such as `F32`.
    pub(crate) fn tensors(&self) -> (usize, Vec<String>) {
        let read: BTreeMap<&str, &Entry> =
            self.weights.iter().flat_map(|parts| parts.tensors.iter().copied()).collect();
        let types: BTreeSet<String> = read.values().map(|entry| format!("{:?}", entry.dtype)).collect();
        (read.len(), types.into_iter().collect())
    }
}

impl Source<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.parts.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.parts.columns
    }

    /// The tensors that it is made of, for people.
    pub(crate) fn names(&self) -> String {
        self.parts.tensors.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    /// Writes a row's numbers. `to` is as long as a row.
    ///
    /// # Errors
    /// A number that is infinite or none.
    pub(crate) fn read_row(&self, row: usize, to: &mut [f32]) -> Result<(), ReadError> {
        assert!(row < self.parts.rows && to.len() == self.parts.columns, "row {row} of {}", self.parts.rows);
        if self.parts.is_vector {
            let mut rest = to;
            return self.parts.tensors.iter().try_for_each(|(name, entry)| {
                let (to, after) = std::mem::take(&mut rest).split_at_mut(entry.shape[0]);
                rest = after;
                self.read(name, entry, 0, to)
            });
        }
        let mut tensors = self.parts.by_rows();
        let (rows, name, entry) = tensors.find(|(rows, ..)| rows.contains(&row)).expect("rows are those of tensors");
        self.read(name, entry, self.parts.skip + row - rows.start, to)
    }

    /// All numbers, row after row.
    pub(crate) fn read_all(&self) -> Result<Vec<f32>, ReadError> {
        let mut values = vec![0.0; self.rows() * self.columns()];
        let mut rows = values.chunks_exact_mut(self.columns()).enumerate();
        rows.try_for_each(|(row, to)| self.read_row(row, to))?;
        Ok(values)
    }

    /// Reads all numbers and keeps none.
    ///
    /// # Errors
    /// As [`Self::read_row`].
    pub(crate) fn check(&self) -> Result<(), ReadError> {
        let mut values = vec![0.0; self.columns()];
        (0..self.rows()).try_for_each(|row| self.read_row(row, &mut values))
    }

    /// Gives back the mapping's pages for these rows, those that lie wholly within. A row may still be read again.
    pub(crate) fn release(&self, rows: Range<usize>) {
        if self.parts.is_vector {
            return self.parts.tensors.iter().for_each(|(_, entry)| self.checkpoint.give_back(entry.bytes.clone()));
        }
        for (own, _, entry) in self.parts.by_rows() {
            let (first, end) = (rows.start.max(own.start), rows.end.min(own.end));
            if first < end {
                let row_bytes = self.parts.columns * size_of_number(entry.dtype);
                let at = |row: usize| entry.bytes.start + (self.parts.skip + row - own.start) * row_bytes;
                self.checkpoint.give_back(at(first)..at(end));
            }
        }
    }

    /// Gives back all of its pages.
    pub(crate) fn done(self) {
        self.release(0..self.parts.rows);
    }

    /// Row `row` of a tensor.
    fn read(&self, name: &str, entry: &Entry, row: usize, to: &mut [f32]) -> Result<(), ReadError> {
        let row_bytes = to.len() * size_of_number(entry.dtype);
        let bytes = &self.checkpoint.map[entry.bytes.start + row * row_bytes..][..row_bytes];
        let is_finite = match entry.dtype {
            Dtype::F32 => read_f32(bytes, to),
            Dtype::F16 => read_f16(bytes, to),
            _ => read_bf16(bytes, to),
        };
        if is_finite {
            return Ok(());
        }
        let column = to.iter().position(|x| !x.is_finite()).unwrap_or_default();
        let (path, name, value) = (self.checkpoint.path.clone(), name.to_owned(), to[column]);
        let at = if entry.shape.len() == 1 { vec![column] } else { vec![row, column] };
        Err(ReadError::NotFinite { path, name, at, value })
    }
}

impl Checkpoint {
    /// Gives the whole pages within a range of the mapping back to the system.
    fn give_back(&self, bytes: Range<usize>) {
        let page = rustix::param::page_size();
        let (first, end) = (bytes.start.next_multiple_of(page), bytes.end / page * page);
        if first < end {
            // SAFETY: the mapping is of a file, private, and never written to: what is read from a page that was given
            // back comes from the file again. Failing to give back costs memory and nothing else.
            let _: io::Result<()> =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, end - first) };
        }
    }
}

fn size_of_number(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// The three of them say whether all numbers are finite. Loops without branches, which become vector code.
fn read_f32(bytes: &[u8], to: &mut [f32]) -> bool {
    let mut is_finite = true;
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
        let bits = u32::from_le_bytes(*bytes);
        is_finite &= bits & 0x7f80_0000 != 0x7f80_0000;
        *to = f32::from_bits(bits);
    }
    is_finite
}

fn read_bf16(bytes: &[u8], to: &mut [f32]) -> bool {
    let mut is_finite = true;
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let bits = u32::from(u16::from_le_bytes(*bytes)) << 16;
        is_finite &= bits & 0x7f80_0000 != 0x7f80_0000;
        *to = f32::from_bits(bits);
    }
    is_finite
}

fn read_f16(bytes: &[u8], to: &mut [f32]) -> bool {
    // Exponents are 15 off in one format and 127 in the other.
    const REBASE: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let mut is_finite = true;
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let bits = u32::from(u16::from_le_bytes(*bytes));
        let is_number = bits & 0x7c00 != 0x7c00;
        is_finite &= is_number;
        let sign = (bits & 0x8000) << 16;
        // Small numbers without a leading one come out right as well, since the product is exact.
        let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * REBASE).to_bits();
        let special = if is_number { 0 } else { 0x7f80_0000 };
        *to = f32::from_bits(sign | magnitude | special);
    }
    is_finite
}

/// SHA-256 of a file, lower-case hex, read piece by piece from its beginning.
pub(crate) fn sha256(file: &File) -> io::Result<String> {
    let (mut hasher, mut piece, mut done) = (Sha256::new(), vec![0; PIECE_BYTES], 0);
    loop {
        match file.read_at(&mut piece, done) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&piece[..read]);
                done += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
