//! The texts that are sent.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::lengths::Lengths;
use super::mode::Load;
use super::options::LoadOptions;
use super::words;
use crate::client::sentences;

/// Largest file of texts.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Where texts come from. A call's number chooses its texts, so that the same calls have the same ones in every run.
#[derive(Debug)]
pub(super) enum Texts {
    /// Of a list that is not empty: call after call walks through all of it, again and again.
    Listed(Vec<String>),
    /// Made, with lengths that are drawn.
    Drawn { lengths: Lengths, seed: u64 },
    /// Made, as long as a trace says of each call.
    Traced { tokens: Arc<[u32]>, seed: u64 },
}

impl Texts {
    /// As the flags say: what they say of texts comes before what a trace does.
    pub(super) fn new(options: &LoadOptions, load: &Load) -> Result<Self, TextsError> {
        let seed = options.seed;
        let traced = load.trace().and_then(|trace| trace.tokens().cloned());
        match (&options.lengths, &options.texts, traced) {
            (Some(lengths), ..) => Ok(Self::Drawn { lengths: lengths.clone(), seed }),
            (None, None, Some(tokens)) => Ok(Self::Traced { tokens, seed }),
            (None, file, _) => read(file.as_deref()).map(Self::Listed),
        }
    }

    /// What is asked of lengths, if anything is.
    pub(super) fn lengths(&self) -> Option<String> {
        match self {
            Self::Listed(_) => None,
            Self::Drawn { lengths, .. } => Some(lengths.to_string()),
            Self::Traced { .. } => Some("trace".to_owned()),
        }
    }

    /// The texts of the call of this number, `rows` of them.
    pub(super) fn of_call(&self, number: u64, rows: u32) -> impl Iterator<Item = Cow<'_, str>> {
        let first = number.wrapping_mul(u64::from(rows));
        (0..u64::from(rows)).map(move |row| self.text(number, first.wrapping_add(row)))
    }

    /// A text of a call, the `at`th of all.
    fn text(&self, call: u64, at: u64) -> Cow<'_, str> {
        match self {
            // Both are below the length, which is a usize.
            Self::Listed(texts) => Cow::Borrowed(&texts[(at % texts.len() as u64) as usize]),
            Self::Drawn { lengths, seed } => {
                let mut random = random(*seed, at);
                let tokens = lengths.draw(&mut random);
                Cow::Owned(words::text(tokens, &mut random))
            }
            Self::Traced { tokens, seed } => {
                let tokens = tokens[(call % tokens.len() as u64) as usize];
                Cow::Owned(words::text(tokens, &mut random(*seed, at)))
            }
        }
    }
}

/// Numbers for one text, whichever were made before it.
fn random(seed: u64, at: u64) -> StdRng {
    // An odd factor sends no two texts to one seed, and few of them near the schedule's.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    StdRng::seed_from_u64(seed ^ at.wrapping_add(1).wrapping_mul(SPREAD))
}

/// Texts of a file, one a line, empty lines left out; or the sentences that come with the program. Never empty.
fn read(file: Option<&Path>) -> Result<Vec<String>, TextsError> {
    let Some(file) = file else {
        return Ok(sentences::all().into_iter().map(str::to_owned).collect());
    };
    let fail = |reason: String| TextsError { file: file.to_owned(), reason };
    let size = std::fs::metadata(file).map_err(|error| fail(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fail(format!("it has {size} bytes, {FILE_BYTES_MAX} are allowed")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    let texts: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if texts.is_empty() { Err(fail("it has no texts".to_owned())) } else { Ok(texts) }
}

/// A file that gave no texts.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot read texts from {}: {reason}", file.display())]
pub struct TextsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::{Texts, read};
    use crate::client::Address;
    use crate::client::load::LoadOptions;
    use crate::client::load::mode::Load;
    use crate::client::load::process::Process;
    use crate::client::load::trace::Trace;

    fn texts(options: &LoadOptions, trace: Option<&str>) -> Texts {
        let load = match trace {
            Some(trace) => Load::Open {
                rate: 1.0,
                process: Process::Replay(Trace::parse("t.csv", "seconds", trace).unwrap()),
                outstanding_max: 1,
                seed: 0,
            },
            None => Load::Closed { concurrency: 1 },
        };
        Texts::new(options, &load).unwrap()
    }

    fn options() -> LoadOptions {
        LoadOptions::new("127.0.0.1:1".parse::<Address>().unwrap())
    }

    /// Tokens of each text, for a model that counts words and two special tokens.
    fn tokens(texts: &Texts, number: u64, rows: u32) -> Vec<usize> {
        texts.of_call(number, rows).map(|text| text.split(' ').count() + 2).collect()
    }

    #[test]
    fn a_list_is_walked_through_again_and_again() {
        let texts = Texts::Listed(["a", "b", "c"].map(str::to_owned).into());
        let walk: Vec<_> = (0..3).flat_map(|number| texts.of_call(number, 2)).collect();
        assert_eq!(walk, ["a", "b", "c", "a", "b", "c"]);
        assert_eq!(texts.lengths(), None);
        assert_eq!(texts.of_call(u64::MAX, 2).count(), 2);
    }

    #[test]
    fn lengths_are_drawn_by_the_seed_and_the_number_alone() {
        let options = LoadOptions { lengths: Some("8-256".parse().unwrap()), ..options() };
        let (one, other) = (texts(&options, None), texts(&LoadOptions { seed: 1, ..options.clone() }, None));
        let all: Vec<_> = one.of_call(5, 3).collect();
        assert_eq!(one.of_call(5, 3).collect::<Vec<_>>(), all);
        assert_eq!(one.of_call(17, 1).next(), one.of_call(5, 3).nth(2), "the 18th text of all");
        assert_ne!(other.of_call(5, 3).collect::<Vec<_>>(), all);
        let drawn: Vec<_> = (0..5000).flat_map(|number| tokens(&one, number, 1)).collect();
        assert!(drawn.iter().all(|tokens| (8..=256).contains(tokens)));
        let mean = drawn.iter().sum::<usize>() as f64 / 5000.0;
        // One standard error is 1.
        assert!((mean - 132.0).abs() < 4.0, "{mean}");
        assert_eq!(one.lengths().as_deref(), Some("8-256"));
    }

    #[test]
    fn a_trace_says_how_long_the_texts_of_each_call_are() {
        const TRACE: &str = "seconds,tokens\n0,10\n1,20\n2,30\n";
        let traced = texts(&options(), Some(TRACE));
        assert_eq!([0, 1, 2].map(|number| tokens(&traced, number, 2)), [[10, 10], [20, 20], [30, 30]]);
        assert_eq!(traced.lengths().as_deref(), Some("trace"));
        let asked = LoadOptions { lengths: Some("5".parse().unwrap()), ..options() };
        assert_eq!(tokens(&texts(&asked, Some(TRACE)), 1, 1), [5]);
        assert_eq!(texts(&options(), Some("seconds\n0\n1\n")).lengths(), None);
    }

    #[test]
    fn reads_one_text_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n\n two \r\n").unwrap();
        assert_eq!(read(Some(file.path())).unwrap(), ["one", " two "]);
        std::fs::write(file.path(), "\n\n").unwrap();
        assert!(read(Some(file.path())).unwrap_err().to_string().ends_with("it has no texts"));
        assert!(read(Some("/no/such/file".as_ref())).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn has_sentences_of_its_own() {
        assert!(read(None).unwrap().len() >= 300);
    }
}
