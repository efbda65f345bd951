//! `/v1/models`: what can be asked for.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;

use crate::access::Scope;
use crate::registry::ModelView;

use super::error::ApiError;
use super::{Api, json};

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// When it came to be; here, when the server started.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn new(api: &Api, view: &'a ModelView) -> Self {
        Self { id: &view.name, object: "model", created: api.started, owned_by: "shoal" }
    }
}

/// As the port found; everything where it asks nobody.
fn of(scope: Option<Extension<Scope>>) -> Scope {
    scope.map_or_else(Scope::default, |Extension(scope)| scope)
}

/// `GET /v1/models`.
pub(super) async fn list(State(api): State<Arc<Api>>, scope: Option<Extension<Scope>>) -> Response {
    let views = api.frontend.registry.all_seen(&of(scope));
    let data = views.iter().map(|view| Model::new(&api, view)).collect();
    json(&List { object: "list", data })
}

/// `GET /v1/models/{model}`.
pub(super) async fn retrieve(
    State(api): State<Arc<Api>>,
    scope: Option<Extension<Scope>>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // A path that is not text names no model.
    let name = model.map_or_else(|_| String::new(), |Path(name)| name);
    let view = api.frontend.registry.seen(&name, &of(scope))?;
    Ok(json(&Model::new(&api, &view)))
}
