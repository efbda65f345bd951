//! The configured models as a repository: its index, and the requests to load and to unload.

use shoal_proto::inference::repository_index_response::ModelIndex;
use shoal_proto::inference::{
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};

use super::quote::Quoted;
use super::{invalid, not_offered};
use crate::call::CallError;
use crate::registry::{ModelState, ModelView};

/// The index over `models`, in their order, or over those that are ready if that is asked.
///
/// # Errors
/// [`CallError::InvalidArgument`] when a repository is named: there is one, without a name.
pub fn repository_index<'a>(
    request: &RepositoryIndexRequest,
    models: impl IntoIterator<Item = &'a ModelView>,
) -> Result<RepositoryIndexResponse, CallError> {
    check_repository(&request.repository_name)?;
    let models = models.into_iter().filter(|model| !request.ready || model.state == ModelState::Ready);
    let rows = models.map(|model| {
        let (state, reason) = state_and_reason(&model.state);
        ModelIndex {
            name: model.name.to_string(),
            version: model.version().to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
        }
    });
    Ok(RepositoryIndexResponse { models: rows.collect() })
}

/// The model that a load names. Whether it may be loaded is for the caller to know.
///
/// # Errors
/// [`CallError::InvalidArgument`] when a repository is named; [`CallError::Unimplemented`] when the request brings a
/// configuration or files of its own.
pub fn load_request(request: &RepositoryModelLoadRequest) -> Result<&str, CallError> {
    check_repository(&request.repository_name)?;
    let mut names: Vec<&String> = request.parameters.keys().collect();
    names.sort_unstable();
    match names.first() {
        None => Ok(&request.model_name),
        Some(name) if *name == "config" || name.starts_with("file:") => {
            Err(not_offered("loading with a configuration or files from the request"))
        }
        Some(name) => Err(invalid("parameters", format!("{} is not known", Quoted(name)))),
    }
}

/// The model that an unload names. No model depends on another here, so that `unload_dependents`, which clients always
/// send, changes nothing.
///
/// # Errors
/// [`CallError::InvalidArgument`] when a repository or any other parameter is named.
pub fn unload_request(request: &RepositoryModelUnloadRequest) -> Result<&str, CallError> {
    check_repository(&request.repository_name)?;
    let mut names: Vec<&String> = request.parameters.keys().filter(|name| *name != "unload_dependents").collect();
    names.sort_unstable();
    match names.first() {
        None => Ok(&request.model_name),
        Some(name) => Err(invalid("parameters", format!("{} is not known", Quoted(name)))),
    }
}

/// As Triton names it, and why.
fn state_and_reason(state: &ModelState) -> (&'static str, &str) {
    match state {
        ModelState::Ready => ("READY", ""),
        ModelState::Loading => ("LOADING", ""),
        ModelState::Unloaded => ("UNAVAILABLE", "unloaded"),
        ModelState::Failed(reason) => ("UNAVAILABLE", reason),
    }
}

fn check_repository(name: &str) -> Result<(), CallError> {
    if name.is_empty() {
        return Ok(());
    }
    Err(invalid("repository_name", format!("there is no repository {}; leave it empty", Quoted(name))))
}

#[cfg(test)]
mod tests;
