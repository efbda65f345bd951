//! Threads that tokenise, so that no async thread ever blocks on it.

use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use super::{Cut, Text, Tokenizer, Tokens};
use crate::call::CallError;

/// Texts handed to one thread at a time, so that a large call uses all of them.
const TEXTS_PER_JOB: usize = 64;
/// Jobs waiting for a thread; callers wait for a place beyond that.
const JOBS_MAX: usize = 1024;

/// Threads that tokenise. Cheap to clone; they end with the last clone.
#[derive(Clone, Debug)]
pub struct TokenizerPool {
    jobs: flume::Sender<Job>,
}

struct Job {
    tokenizer: Arc<Tokenizer>,
    texts: Vec<Text>,
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
        texts: Vec<Text>,
        cut: Cut,
    ) -> Result<Vec<Tokens>, CallError> {
        let lost = || CallError::Internal { what: "the tokenizer failed on these texts".into() };
        let mut answers = Vec::with_capacity(texts.len().div_ceil(TEXTS_PER_JOB));
        let mut texts = texts.into_iter();
        let mut first = 0;
        loop {
            let part: Vec<Text> = texts.by_ref().take(TEXTS_PER_JOB).collect();
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
