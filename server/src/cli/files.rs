//! From the models of a configuration to their files.

use anyhow::Context as _;

use crate::config::{Config, ModelConfig, Workers};
use crate::driver::ModelSettings;
use crate::models::Store;

/// The models as the driver wants them, with their files found, and pulled where they were not.
pub(super) fn model_settings(config: &Config, store: &Store) -> anyhow::Result<Vec<ModelSettings>> {
    let local = config.workers != Workers::External;
    config.models.iter().map(|model| settings_of(model, store, local)).collect()
}

fn settings_of(model: &ModelConfig, store: &Store, local: bool) -> anyhow::Result<ModelSettings> {
    // Workers elsewhere read their own sources; this machine needs no files then.
    let place = match local {
        true => Some(super::find(store, &model.source).with_context(|| format!("model `{}`", model.name))?.place),
        false => None,
    };
    Ok(model.settings(place))
}
