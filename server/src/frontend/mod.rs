//! What every client-facing service does alike, whatever wire it speaks: read who calls, find the model, tokenise,
//! submit.
//!
//! Nothing here names a wire; of a request it sees the headers, which both have.

mod caller;
mod embed;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::{Answer, Call, CallError, Caller, Row, RowOptions};
use crate::card::{Card, Task};
use crate::driver::Handle;
use crate::registry::{ModelState, ModelView, Registry};
use crate::tokenize::{Cut, Tokenizer, TokenizerPool, Tokens};

pub(crate) use caller::by_deadline;
pub(crate) use embed::{Embed, EmbedInput, Embedded, embedding};

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
}

impl Frontend {
    /// Services that read `registry` and submit to `driver`.
    pub fn new(driver: Handle, registry: Registry, tokenizers: TokenizerPool, options: FrontendOptions) -> Self {
        Self { driver, registry, tokenizers, options: Arc::new(options) }
    }

    /// Who calls, by the request's headers; `deadline` is when the client stops waiting.
    ///
    /// # Errors
    /// `InvalidArgument` naming the header.
    pub(crate) fn caller(&self, headers: &HeaderMap, deadline: Option<Instant>) -> Result<Caller, CallError> {
        caller::caller(headers, deadline, &self.options.tenant_key)
    }

    /// The model of that name; an empty name means the only model of that task.
    pub(crate) fn model(&self, name: &str, task: Task) -> Result<Arc<ModelView>, CallError> {
        if !name.is_empty() {
            return self.registry.model(name);
        }
        let all = self.registry.all();
        let mut fitting = all.clone();
        fitting.retain(|view| view.card.as_ref().is_some_and(|card| card.task == task));
        // What a model can do is known once a worker has loaded it.
        if fitting.is_empty()
            && let Some(unknown) = all.iter().find(|view| view.wanted && view.card.is_none())
        {
            unknown.ready_card()?;
        }
        match fitting.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(CallError::InvalidArgument {
                field: "model".into(),
                problem: format!("must be named: {} models can {}", fitting.len(), task.name()),
            }),
        }
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
        texts: Vec<String>,
        truncate: bool,
        options: RowOptions,
    ) -> Result<Vec<Row>, CallError> {
        let tokens = self.tokens(model, deadline, texts, Cut { truncate, pieces: false }).await?;
        let row = |tokens: Tokens| Row {
            columns: vec![tokens.ids],
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
        texts: Vec<String>,
        cut: Cut,
    ) -> Result<Vec<Tokens>, CallError> {
        let tokenizer = tokenizer(model)?;
        by_deadline(deadline, self.tokenizers.encode(tokenizer, texts, cut)).await
    }

    /// Has a model loaded, and returns when it can be served or the server drains.
    pub(crate) async fn load(&self, name: &str, draining: &CancellationToken) -> Result<(), CallError> {
        let mut changes = self.registry.changes();
        self.registry.model(name)?;
        self.driver.want(name, true).await;
        loop {
            let view = self.registry.model(name)?;
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
                () = draining.cancelled() => return Err(CallError::Draining),
            }
        }
    }

    /// Runs rows on a model.
    pub(crate) async fn submit(&self, model: &ModelView, caller: Caller, rows: Vec<Row>) -> Result<Answer, CallError> {
        self.driver.submit(Call { model: model.name.clone(), caller, rows }).await
    }
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
    let missing =
        || CallError::ModelNotReady { model: model.name.to_string(), reason: "its tokenizer is on its way".into() };
    model.tokenizer.as_ref().ok_or_else(missing)
}
