//! What every client-facing service does alike, whatever wire it speaks: read who calls, find the model, tokenise,
//! submit.
//!
//! Nothing here names a wire; of a request it sees the headers, which both have.

mod caller;
mod classify;
mod embed;
mod fill_mask;
mod rerank;
mod scores;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use shoal_scheduler::QueueLimit;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::Scope;
use crate::call::{Answer, Call, CallError, Caller, Row, RowOptions};
use crate::card::{Card, TYPE_IDS, Task, TensorSpec};
use crate::driver::Handle;
use crate::registry::{ModelState, ModelView, Registry};
use crate::tokenize::{Cut, Text, Tokenizer, TokenizerPool, Tokens};
use crate::traces::Tracer;

pub(crate) use caller::{TENANT_BYTES_MAX, by_deadline};
pub(crate) use classify::{Classified, Classify};
pub(crate) use embed::{Embed, EmbedInput, embedding};
pub(crate) use fill_mask::{Candidate, FillMask, Filled, FilledMask, check_lone_masks};
pub(crate) use rerank::{Ranked, Rerank};

/// Limits on one call.
#[derive(Clone, Debug)]
pub struct FrontendOptions {
    /// Metadata key, and HTTP header, that names the tenant.
    pub tenant_key: String,
    /// Texts of one call at most.
    pub call_texts_max: usize,
    /// Rows of tensors of one call at most.
    pub call_rows_max: usize,
    /// Bytes of one call's message at most.
    pub call_bytes_max: usize,
}

impl Default for FrontendOptions {
    fn default() -> Self {
        let tenant_key = "x-shoal-tenant".into();
        Self { tenant_key, call_texts_max: 2048, call_rows_max: 8192, call_bytes_max: 16 << 20 }
    }
}

/// The shared half of the services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frontend {
    pub(crate) driver: Handle,
    pub(crate) registry: Registry,
    pub(crate) tokenizers: TokenizerPool,
    pub(crate) options: Arc<FrontendOptions>,
    /// Cancelled when the server stops taking calls.
    draining: CancellationToken,
    pub(crate) tracer: Tracer,
}

/// A call's rows, computed.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) model: Arc<ModelView>,
    pub(crate) card: Arc<Card>,
    /// One row per input.
    pub(crate) answer: Answer,
    /// Tokens computed, after truncation.
    pub(crate) tokens: u32,
    /// Texts that were cut.
    pub(crate) truncated: u32,
}

impl Frontend {
    /// Services that read `registry` and submit to `driver`.
    pub fn new(
        driver: Handle,
        registry: Registry,
        tokenizers: TokenizerPool,
        options: FrontendOptions,
        draining: CancellationToken,
    ) -> Self {
        Self { driver, registry, tokenizers, options: Arc::new(options), draining, tracer: Tracer::default() }
    }

    /// Shows calls by this.
    #[must_use]
    pub fn shown_by(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Who calls, by the request's headers; `deadline` is when the client stops waiting, `scope` what the port found.
    ///
    /// # Errors
    /// `InvalidArgument` naming the header.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        deadline: Option<Instant>,
        scope: Scope,
    ) -> Result<Caller, CallError> {
        caller::caller(headers, deadline, &self.options.tenant_key, scope)
    }

    /// The model of that name; an empty name means the only model of that task. Those beyond `scope` are not there.
    pub(crate) fn model(&self, name: &str, task: Task, scope: &Scope) -> Result<Arc<ModelView>, CallError> {
        if !name.is_empty() {
            return self.registry.seen(name, scope);
        }
        let all = self.registry.all_seen(scope);
        let mut fitting = all.clone();
        // Who is tried in another one's place is there for that one's calls.
        fitting.retain(|view| !view.is_canary && view.card.as_ref().is_some_and(|card| card.task == task));
        // What a model can do is known once a worker has loaded it.
        let is_unknown = |view: &&Arc<ModelView>| (view.wanted || view.on_demand) && view.card.is_none();
        let mut unknown = all.iter().filter(|view| !view.is_canary).filter(is_unknown);
        if let (true, Some(first), None) = (fitting.is_empty(), unknown.next(), unknown.next()) {
            return Ok(first.clone());
        }
        match fitting.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(CallError::InvalidArgument {
                field: "model".into(),
                problem: format!("must be named: {} models can {}", fitting.len(), task.name()),
            }),
        }
    }

    /// The same, once it can be asked: one that is on its way into memory, or is loaded when it is called, is waited for.
    pub(crate) async fn asked(&self, name: &str, task: Task, caller: &Caller) -> Result<Arc<ModelView>, CallError> {
        let model = self.model(name, task, &caller.scope)?;
        Ok(self.to_answer(self.ready_to_ask(model, caller.deadline).await?))
    }

    /// A model once it can be asked. Calls that end here are counted as those are that end in its queue.
    pub(crate) async fn ready_to_ask(
        &self,
        model: Arc<ModelView>,
        deadline: Option<Instant>,
    ) -> Result<Arc<ModelView>, CallError> {
        if model.can_be_asked() {
            return Ok(model);
        }
        let name = model.name.clone();
        let missing = |model: Arc<ModelView>| model.ready_card().map(|_| model.clone());
        let found = self.once_known(model, deadline).await.and_then(missing);
        if let Err(error) = &found {
            self.driver.gave_up(&name, error).await;
        }
        found
    }

    /// A model once it is known what it takes and gives, or as it is when that will not be. Waits as long as a row of it
    /// may, and its client does.
    pub(crate) async fn once_known(
        &self,
        model: Arc<ModelView>,
        deadline: Option<Instant>,
    ) -> Result<Arc<ModelView>, CallError> {
        if model.can_be_asked() || !model.can_be_awaited() {
            return Ok(model);
        }
        // As many may wait for it to be loaded as for a worker once it is.
        let most = model.queue_requests_max;
        if model.awaited.count() >= most.into() {
            let retry_after = Duration::from_secs(1);
            return Err(CallError::QueueFull { limit: QueueLimit::Model, retry_after });
        }
        let waits = model.awaited.one();
        let mut changes = self.registry.changes();
        self.driver.awaited(&model.name).await;
        let changed = async {
            loop {
                let model = self.registry.model(&model.name)?;
                if model.can_be_asked() || !model.can_be_awaited() {
                    return Ok(model);
                }
                if !model.wanted {
                    // Somebody had it unloaded.
                    self.driver.awaited(&model.name).await;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return Err(CallError::Draining) },
                    () = self.draining.cancelled() => return Err(CallError::Draining),
                }
            }
        };
        let found = timeout(model.queue_time_max, by_deadline(deadline, changed)).await;
        drop(waits);
        // From now on it counts as called, and no longer as awaited.
        self.driver.awaited(&model.name).await;
        // Whoever waited for too long is told what is missing.
        found.unwrap_or_else(|_| self.registry.model(&model.name))
    }

    /// Who is to answer a call for a model: itself, or one that is tried on a part of its calls.
    pub(crate) fn to_answer(&self, model: Arc<ModelView>) -> Arc<ModelView> {
        if model.canaries.is_empty() {
            return model;
        }
        self.registry.drawn(model, rand::random())
    }

    /// Checks how many inputs a call has that are texts, or stand for one each.
    pub(crate) fn check_texts(&self, field: &str, given: usize) -> Result<(), CallError> {
        let max = self.options.call_texts_max;
        let problem = match given {
            0 => "must not be empty".to_owned(),
            _ if given > max => format!("has {given} entries, and one call takes {max} (`call_texts_max`)"),
            _ => return Ok(()),
        };
        Err(CallError::InvalidArgument { field: field.to_owned(), problem })
    }

    /// Tokenises the texts of a call into rows.
    pub(crate) async fn text_rows(
        &self,
        model: &ModelView,
        deadline: Option<Instant>,
        texts: Vec<Text>,
        truncate: bool,
        options: &RowOptions,
    ) -> Result<Vec<Row>, CallError> {
        let inputs = &model.ready_card()?.inputs;
        let takes_type_ids = |input: &TensorSpec| *input.name == *TYPE_IDS;
        let cut = Cut { truncate, type_ids: inputs.iter().any(takes_type_ids), pieces: false };
        let tokens = self.tokens(model, deadline, texts, cut).await?;
        let row = |tokens: Tokens| Row {
            columns: inputs
                .iter()
                .map(|input| if takes_type_ids(input) { tokens.type_ids.clone() } else { tokens.ids.clone() })
                .collect(),
            tokens: tokens.count,
            truncated: tokens.truncated,
            options: options.clone(),
        };
        Ok(tokens.into_iter().map(row).collect())
    }

    /// Tokenises texts, waiting for its turn no longer than the client waits.
    pub(crate) async fn tokens(
        &self,
        model: &ModelView,
        deadline: Option<Instant>,
        texts: Vec<Text>,
        cut: Cut,
    ) -> Result<Vec<Tokens>, CallError> {
        let tokenizer = tokenizer(model)?;
        by_deadline(deadline, self.tokenizers.encode(tokenizer, texts, cut)).await
    }

    /// Has a model loaded, and returns when it can be served or the server drains.
    pub(crate) async fn load(&self, name: &str) -> Result<(), CallError> {
        let mut changes = self.registry.changes();
        let _waits = self.registry.model(name)?.awaited.one();
        self.driver.want(name, true).await;
        loop {
            let view = self.registry.model(name)?;
            if !view.wanted {
                let reason = "it was unloaded before it was there".to_owned();
                return Err(CallError::ModelNotReady { model: name.to_owned(), reason });
            }
            match &view.state {
                ModelState::Ready => return Ok(()),
                ModelState::Failed(reason) => {
                    let reason = reason.clone();
                    return Err(CallError::ModelNotReady { model: name.to_owned(), reason });
                }
                ModelState::Unloaded | ModelState::Loading => {}
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Err(CallError::Draining) },
                () = self.draining.cancelled() => return Err(CallError::Draining),
            }
        }
    }

    /// Runs the rows of a call. `field` is what the wire calls its inputs.
    pub(crate) async fn compute(
        &self,
        model: Arc<ModelView>,
        caller: Caller,
        rows: Vec<Row>,
        field: &str,
    ) -> Result<Computed, CallError> {
        let card = model.ready_card()?.clone();
        let tokens = rows.iter().map(|row| row.tokens).sum();
        let truncated = rows.iter().filter(|row| row.truncated).count() as u32;
        let answer = self.submit(&model, caller, rows).await.map_err(|error| error.within(field))?;
        let model = self.who_answered(model, &answer);
        Ok(Computed { model, card, answer, tokens, truncated })
    }

    /// Whose answer it is: one that was tried in another one's place may have gone after it was drawn.
    pub(crate) fn who_answered(&self, asked: Arc<ModelView>, answer: &Answer) -> Arc<ModelView> {
        if answer.model == asked.name {
            return asked;
        }
        self.registry.model(&answer.model).unwrap_or(asked)
    }

    /// Runs rows on a model.
    pub(crate) async fn submit(&self, model: &ModelView, caller: Caller, rows: Vec<Row>) -> Result<Answer, CallError> {
        let (name, stands_in_for) = (model.name.clone(), model.stands_in_for.clone());
        self.driver.submit(Call { model: name, stands_in_for, caller, rows }).await
    }
}

/// Does work that computes and does not wait: here if it is brief, else where it holds nobody up.
pub(crate) async fn elsewhere<T: Send + 'static>(
    is_brief: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CallError> {
    if is_brief {
        return Ok(work());
    }
    let lost = |_| CallError::Internal { what: "what this call carries could not be worked on".into() };
    tokio::task::spawn_blocking(work).await.map_err(lost)
}

/// The card of a model that can be asked for `task`.
pub(crate) fn card_for(model: &ModelView, task: Task) -> Result<&Arc<Card>, CallError> {
    let card = model.ready_card()?;
    if card.task == task {
        return Ok(card);
    }
    let problem = format!("`{}` is a model to {}, not to {}", model.name, card.task.name(), task.name());
    Err(CallError::InvalidArgument { field: "model".into(), problem })
}

fn tokenizer(model: &ModelView) -> Result<&Arc<Tokenizer>, CallError> {
    let card = model.ready_card()?;
    if card.tokenizer_sha256.is_empty() {
        let problem = format!("`{}` takes no text", model.name);
        return Err(CallError::InvalidArgument { field: "model".into(), problem });
    }
    let missing = || CallError::ModelNotReady {
        model: model.name.to_string(),
        reason: match &model.state {
            ModelState::Failed(reason) => reason.clone(),
            _ => "its tokenizer is on its way".into(),
        },
    };
    model.tokenizer.as_ref().ok_or_else(missing)
}
