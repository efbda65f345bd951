use std::fs;

use super::{Place, ResolveError, resolve};
use crate::models::{PullSettings, REQUIRED, Source, Store};

fn resolve_in(home: &std::path::Path, text: &str) -> Result<super::Resolved, ResolveError> {
    let store = Store::new(home, PullSettings::default());
    resolve(&text.parse::<Source>().unwrap(), &store, &mut |event| panic!("nothing is to be pulled: {event:?}"))
}

#[test]
fn a_folder_is_given_to_the_worker_as_an_absolute_path() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("a folder");
    fs::create_dir(&folder).unwrap();
    for file in REQUIRED {
        fs::write(folder.join(file), "x").unwrap();
    }
    let written = format!("{}/../a folder/.", folder.display());
    let resolved = resolve_in(home.path(), &written).unwrap();
    let expected = folder.canonicalize().unwrap();
    assert!(resolved.description.contains(expected.to_str().unwrap()));
    assert_eq!(resolved.place, Place::Folder(expected));
}

#[test]
fn a_folder_without_the_files_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("config.json"), "{}").unwrap();
    let error = resolve_in(home.path(), &format!("{}/", home.path().display())).unwrap_err();
    assert!(
        matches!(&error, ResolveError::Lacks { missing, .. } if missing == "tokenizer.json, model.safetensors"),
        "{error}"
    );
    let error = resolve_in(home.path(), "/no/such/folder").unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
    let file = home.path().join("config.json");
    assert!(matches!(resolve_in(home.path(), file.to_str().unwrap()), Err(ResolveError::NoFolder { .. })));
}

#[test]
fn built_in_models_need_no_files() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(resolve_in(home.path(), "echo").unwrap().place, Place::Echo));
    let resolved = resolve_in(home.path(), "synthetic:memory_rows=64").unwrap();
    let Place::Synthetic(options) = resolved.place else { panic!("{resolved:?}") };
    assert_eq!(options.memory_rows, 64);
    assert!(fs::read_dir(home.path()).unwrap().next().is_none(), "nothing was written");
}
