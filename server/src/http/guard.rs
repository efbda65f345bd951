//! Who may have which page.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};

use crate::access::of_http;
use crate::listen::{Connection, Gate};

use super::error::ApiError;
use super::request_id;

/// The pages behind a gate, each call with an id.
pub(super) fn guarded(routes: Router, gate: Gate) -> Router {
    routes.layer(from_fn_with_state(gate, judge)).layer(axum::middleware::from_fn(request_id::stamp))
}

/// By what the router found, so that there is no other way to spell a page; what it did not find nobody may have. The
/// body of a call that is denied is not read.
async fn judge(
    State(gate): State<Gate>,
    Extension(connection): Extension<Arc<Connection>>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let need = route.and_then(|route| of_http(request.method().as_str(), route.as_str()));
    match gate.admit(need, request.headers(), &connection) {
        Ok(scope) => {
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(denied) => ApiError::from(denied).into_response(),
    }
}
