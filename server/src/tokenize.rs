//! Cutting texts into tokens, on threads of its own so that no async thread ever blocks on it.
//!
//! Tokenising happens before queueing: a request's cost is known in tokens, and bad input never reaches a worker.

use std::fmt;
use std::sync::Arc;
use std::thread;

use bytes::{BufMut, Bytes, BytesMut};
use tokenizers::Tokenizer as HuggingFaceTokenizer;
use tokio::sync::oneshot;

use crate::call::CallError;

/// Texts handed to one thread at a time, so that a large call uses all of them.
const TEXTS_PER_JOB: usize = 64;
/// Jobs waiting for a thread; callers wait for a place beyond that.
const JOBS_MAX: usize = 1024;
/// A text of more bytes than this per allowed token cannot fit, whatever is in it: refused before it is tokenised.
/// The longest entries of common vocabularies are under 200 bytes.
const BYTES_PER_TOKEN_MAX: usize = 1024;

/// A model's tokenizer, with padding and truncation of its own switched off.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    tokens_max: u32,
}

/// A tokenizer's file, read. Cheap to clone: models that share it differ only in their limit.
#[derive(Clone)]
pub struct Vocabulary {
    sha256: Arc<str>,
    inner: Arc<HuggingFaceTokenizer>,
    /// The highest id it can give.
    id_max: Option<u32>,
}

/// One tokenised text.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Token ids as little-endian `i32`, special tokens included.
    pub ids: Bytes,
    /// How many there are.
    pub count: u32,
    /// The text was cut.
    pub truncated: bool,
    /// What each token stands for; only when asked for.
    pub pieces: Vec<Piece>,
}

/// One token and where in the text it came from.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The vocabulary's entry.
    pub token: String,
    /// Byte offsets in the text, start and end.
    pub span: (u32, u32),
}

/// How texts are to be cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Shorten texts over the limit instead of refusing them.
    pub truncate: bool,
    /// Also say what each token stands for.
    pub pieces: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary", &self.vocabulary).field("tokens_max", &self.tokens_max).finish()
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Reads a `tokenizer.json` of that SHA-256. Takes up to seconds for large ones.
    ///
    /// # Errors
    /// What the file's parser says.
    pub fn parse(sha256: &str, json: &[u8]) -> Result<Self, String> {
        let mut inner = HuggingFaceTokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        // The file carries settings of whoever trained the model; ours are per call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let with_added = true;
        let id_max = inner.get_vocab(with_added).into_values().max();
        Ok(Self { sha256: sha256.into(), inner: Arc::new(inner), id_max })
    }

    /// Refuses a tokenizer with ids that a model of `vocabulary` tokens does not have: it is another model's.
    ///
    /// # Errors
    /// Says so.
    pub fn check(&self, vocabulary: u32) -> Result<(), String> {
        match self.id_max {
            // Of 0, nobody said.
            Some(id) if vocabulary > 0 && id >= vocabulary => {
                Err(format!("it has ids up to {id}, and the model a vocabulary of {vocabulary}; it is another model's"))
            }
            _ => Ok(()),
        }
    }
}

impl Tokenizer {
    /// Cuts texts into at most `tokens_max` tokens, special tokens included.
    pub fn new(vocabulary: Vocabulary, tokens_max: u32) -> Self {
        Self { vocabulary, tokens_max }
    }

    /// Whether this is the tokenizer a model with that hash and limit needs.
    pub fn is(&self, sha256: &str, tokens_max: u32) -> bool {
        *self.vocabulary.sha256 == *sha256 && self.tokens_max == tokens_max
    }

    /// Tokenises one text.
    ///
    /// # Errors
    /// Says why the text cannot be an input.
    pub fn encode(&self, text: &str, cut: Cut) -> Result<Tokens, String> {
        if text.is_empty() {
            return Err("is an empty text".to_owned());
        }
        let tokens_max = self.tokens_max as usize;
        let bytes_max = tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX);
        let (text, cut_early) = match text.len() > bytes_max {
            true if cut.truncate => (&text[..text.floor_char_boundary(bytes_max)], true),
            true => return Err(format!("{} bytes cannot fit {} tokens", text.len(), self.tokens_max)),
            false => (text, false),
        };
        let mut encoding = self.vocabulary.inner.encode(text, true).map_err(|error| error.to_string())?;
        let length = encoding.len();
        let over = length > tokens_max;
        if over {
            if !cut.truncate {
                return Err(format!(
                    "has {length} tokens, the model takes at most {}; shorten it or set `truncate`",
                    self.tokens_max
                ));
            }
            encoding = self.truncated(text)?;
        }
        // Of a tokenizer that drops what it does not know and adds nothing. No model computes on nothing.
        if encoding.is_empty() {
            return Err("has no tokens".to_owned());
        }
        let mut ids = BytesMut::with_capacity(encoding.len() * 4);
        for &id in encoding.get_ids() {
            ids.put_u32_le(id);
        }
        let pieces = if cut.pieces { pieces_of(&encoding) } else { Vec::new() };
        // A tokenizer's output is bounded by tokens_max, itself a u32.
        let count = encoding.len() as u32;
        Ok(Tokens { ids: ids.freeze(), count, truncated: over || cut_early, pieces })
    }

    /// The first tokens of a text, with the special tokens still in their places.
    fn truncated(&self, text: &str) -> Result<tokenizers::Encoding, String> {
        let inner = &self.vocabulary.inner;
        let mut bare = inner.encode(text, false).map_err(|error| error.to_string())?;
        let special = inner.get_post_processor().map_or(0, |processor| {
            use tokenizers::PostProcessor as _;
            processor.added_tokens(false)
        });
        let keep = (self.tokens_max as usize).saturating_sub(special);
        bare.truncate(keep, 0, tokenizers::TruncationDirection::Right);
        inner.post_process(bare, None, true).map_err(|error| error.to_string())
    }
}

fn pieces_of(encoding: &tokenizers::Encoding) -> Vec<Piece> {
    let ids = encoding.get_ids().iter();
    let rest = encoding.get_tokens().iter().zip(encoding.get_offsets());
    ids.zip(rest)
        .map(|(&id, (token, &(start, end)))| Piece { id, token: token.clone(), span: (start as u32, end as u32) })
        .collect()
}

/// Threads that tokenise. Cheap to clone; they end with the last clone.
#[derive(Clone, Debug)]
pub struct TokenizerPool {
    jobs: flume::Sender<Job>,
}

struct Job {
    tokenizer: Arc<Tokenizer>,
    texts: Vec<String>,
    /// Index of the first text in its call.
    first: usize,
    cut: Cut,
    done: oneshot::Sender<Result<Vec<Tokens>, CallError>>,
}

impl TokenizerPool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, waiting) = flume::bounded::<Job>(JOBS_MAX);
        for index in 0..threads.max(1) {
            let waiting = waiting.clone();
            thread::Builder::new().name(format!("tokenize-{index}")).spawn(move || {
                while let Ok(job) = waiting.recv() {
                    // A text that makes the library panic fails its own call; the thread goes on with the next.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.run()));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Tokenises `texts`, in order.
    ///
    /// # Errors
    /// `InvalidArgument` with the field `[i]` of the first text that cannot be an input.
    pub async fn encode(
        &self,
        tokenizer: &Arc<Tokenizer>,
        texts: Vec<String>,
        cut: Cut,
    ) -> Result<Vec<Tokens>, CallError> {
        let lost = || CallError::Internal { what: "the tokenizer failed on these texts".into() };
        let mut answers = Vec::with_capacity(texts.len().div_ceil(TEXTS_PER_JOB));
        let mut texts = texts.into_iter();
        let mut first = 0;
        loop {
            let part: Vec<String> = texts.by_ref().take(TEXTS_PER_JOB).collect();
            if part.is_empty() {
                break;
            }
            let (done, answer) = oneshot::channel();
            let count = part.len();
            let job = Job { tokenizer: tokenizer.clone(), texts: part, first, cut, done };
            self.jobs.send_async(job).await.map_err(|_| lost())?;
            answers.push(answer);
            first += count;
        }
        let mut tokens = Vec::with_capacity(first);
        for answer in answers {
            tokens.extend(answer.await.map_err(|_| lost())??);
        }
        Ok(tokens)
    }
}

impl Job {
    fn run(self) {
        if self.done.is_closed() {
            return;
        }
        let texts = self.texts.iter().enumerate();
        let result = texts
            .map(|(offset, text)| {
                self.tokenizer.encode(text, self.cut).map_err(|problem| CallError::InvalidArgument {
                    field: format!("[{}]", self.first + offset),
                    problem,
                })
            })
            .collect();
        // The caller may have gone; nobody misses the answer then.
        let _ = self.done.send(result);
    }
}
