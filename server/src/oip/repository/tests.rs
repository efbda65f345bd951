use shoal_proto::inference::ModelRepositoryParameter;

use super::super::testing::{not_offered, refusal};
use super::*;

fn views() -> [ModelView; 4] {
    [
        ModelView::of_test("a", ModelState::Ready),
        ModelView::of_test("b", ModelState::Loading),
        ModelView::of_test("c", ModelState::Unloaded),
        ModelView::of_test("d", ModelState::Failed("no weights".into())),
    ]
}

#[test]
fn the_index_tells_every_state_and_its_reason() {
    let index = repository_index(&RepositoryIndexRequest::default(), &views()).unwrap();
    let rows: Vec<_> =
        index.models.iter().map(|row| (row.name.as_str(), row.state.as_str(), row.reason.as_str())).collect();
    let expected = [
        ("a", "READY", ""),
        ("b", "LOADING", ""),
        ("c", "UNAVAILABLE", "unloaded"),
        ("d", "UNAVAILABLE", "no weights"),
    ];
    assert_eq!(rows, expected);
    assert!(index.models.iter().all(|row| row.version == "1"));
}

#[test]
fn the_index_can_be_of_ready_models_only() {
    let request = RepositoryIndexRequest { ready: true, ..Default::default() };
    let index = repository_index(&request, &views()).unwrap();
    assert_eq!(index.models.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn there_is_one_repository_without_a_name() {
    let index = RepositoryIndexRequest { repository_name: "main".into(), ..Default::default() };
    assert_eq!(refusal(repository_index(&index, &views())).0, "repository_name");
    let load = RepositoryModelLoadRequest { repository_name: "main".into(), ..Default::default() };
    assert_eq!(refusal(load_request(&load)).0, "repository_name");
    let unload = RepositoryModelUnloadRequest { repository_name: "main".into(), ..Default::default() };
    assert_eq!(refusal(unload_request(&unload)).0, "repository_name");
}

#[test]
fn a_load_brings_nothing_of_its_own() {
    let load = |name: Option<&str>| RepositoryModelLoadRequest {
        model_name: "a".into(),
        parameters: name.into_iter().map(|name| (name.to_owned(), ModelRepositoryParameter::default())).collect(),
        ..Default::default()
    };
    assert_eq!(load_request(&load(None)), Ok("a"));
    assert!(not_offered(load_request(&load(Some("config"))).map(str::to_owned)).contains("configuration"));
    assert!(not_offered(load_request(&load(Some("file:1/model.onnx"))).map(str::to_owned)).contains("files"));
    assert_eq!(refusal(load_request(&load(Some("other"))).map(str::to_owned)).0, "parameters");
}

#[test]
fn an_unload_may_say_what_clients_always_say() {
    let unload = |name: &str| RepositoryModelUnloadRequest {
        model_name: "a".into(),
        parameters: [(name.to_owned(), ModelRepositoryParameter::default())].into(),
        ..Default::default()
    };
    assert_eq!(unload_request(&unload("unload_dependents")), Ok("a"));
    assert_eq!(refusal(unload_request(&unload("other")).map(str::to_owned)).0, "parameters");
}
