//! What is logged: the logging extension's settings. Applying them to the log itself is for the service.
//!
//! Triton switches each level by itself. The log here has one threshold, so a request that would leave a gap, such as
//! warnings off and infos on, is refused rather than half done.

use shoal_proto::inference::log_settings_request::SettingValue;
use shoal_proto::inference::log_settings_request::setting_value::ParameterChoice;
use shoal_proto::inference::{LogSettingsRequest, LogSettingsResponse, log_settings_response};
use tracing::level_filters::LevelFilter;

use super::quote::Short;
use super::{invalid, not_offered};
use crate::call::CallError;

const KNOWN: &str = "log_verbose_level, log_info, log_warning, log_error, log_format";
/// Lines are stamped with date and time of day, and nothing else is offered.
const FORMAT: &str = "ISO8601";

/// The log settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// 1 is debug, 2 and more are debug and trace.
    verbose_level: u32,
    info: bool,
    warning: bool,
    error: bool,
}

impl LogSettings {
    /// The settings at start: every level up to `level_max`.
    pub fn new(level_max: LevelFilter) -> Self {
        let verbose_level = match level_max {
            LevelFilter::TRACE => 2,
            LevelFilter::DEBUG => 1,
            _ => 0,
        };
        Self {
            verbose_level,
            info: level_max >= LevelFilter::INFO,
            warning: level_max >= LevelFilter::WARN,
            error: level_max >= LevelFilter::ERROR,
        }
    }

    /// Does what `request` asks, all of it or nothing. Returns the new threshold when it is another than before; requests
    /// that name no setting change nothing. Whether settings may be changed is for the caller to know.
    ///
    /// # Errors
    /// [`CallError::InvalidArgument`] naming the setting; [`CallError::Unimplemented`] for `log_file`: no client says
    /// where this server writes.
    pub fn apply(&mut self, request: &LogSettingsRequest) -> Result<Option<LevelFilter>, CallError> {
        let mut next = *self;
        let mut names: Vec<&String> = request.settings.keys().collect();
        // In order, so that of several mistakes always the same one is named.
        names.sort_unstable();
        for name in names {
            next.set(name, &request.settings[name])?;
        }
        next.check_gaps()?;
        let before = std::mem::replace(self, next).level_max();
        Ok((before != next.level_max()).then(|| next.level_max()))
    }

    /// All settings.
    pub fn response(&self) -> LogSettingsResponse {
        use log_settings_response::SettingValue;
        use log_settings_response::setting_value::ParameterChoice;
        let rows = [
            // The log goes to the process's standard error.
            ("log_file", ParameterChoice::StringParam(String::new())),
            ("log_verbose_level", ParameterChoice::Uint32Param(self.verbose_level)),
            ("log_info", ParameterChoice::BoolParam(self.info)),
            ("log_warning", ParameterChoice::BoolParam(self.warning)),
            ("log_error", ParameterChoice::BoolParam(self.error)),
            ("log_format", ParameterChoice::StringParam(FORMAT.to_owned())),
        ];
        let row = |(name, value): (&str, _)| (name.to_owned(), SettingValue { parameter_choice: Some(value) });
        LogSettingsResponse { settings: rows.into_iter().map(row).collect() }
    }

    /// The least urgent level that is logged.
    pub fn level_max(&self) -> LevelFilter {
        match self {
            Self { verbose_level: 2.., .. } => LevelFilter::TRACE,
            Self { verbose_level: 1, .. } => LevelFilter::DEBUG,
            Self { info: true, .. } => LevelFilter::INFO,
            Self { warning: true, .. } => LevelFilter::WARN,
            Self { error: true, .. } => LevelFilter::ERROR,
            _ => LevelFilter::OFF,
        }
    }

    fn set(&mut self, name: &str, value: &SettingValue) -> Result<(), CallError> {
        match (name, &value.parameter_choice) {
            ("log_info", Some(ParameterChoice::BoolParam(on))) => self.info = *on,
            ("log_warning", Some(ParameterChoice::BoolParam(on))) => self.warning = *on,
            ("log_error", Some(ParameterChoice::BoolParam(on))) => self.error = *on,
            ("log_info" | "log_warning" | "log_error", _) => return Err(setting(name, "must be a bool_param")),
            ("log_verbose_level", Some(ParameterChoice::Uint32Param(level))) => self.verbose_level = *level,
            ("log_verbose_level", _) => return Err(setting(name, "must be a uint32_param")),
            ("log_format", Some(ParameterChoice::StringParam(format))) if format == FORMAT => {}
            ("log_format", _) => return Err(setting(name, "can only be ISO8601 here")),
            ("log_file", _) => return Err(not_offered("setting the log file over the network")),
            _ => return Err(setting(name, &format!("cannot be set; there are {KNOWN}"))),
        }
        Ok(())
    }

    /// Refuses a level that is off while a less urgent one is on.
    fn check_gaps(&self) -> Result<(), CallError> {
        let ladder = [
            ("log_error", self.error),
            ("log_warning", self.warning),
            ("log_info", self.info),
            ("log_verbose_level", self.verbose_level > 0),
        ];
        for pair in ladder.windows(2) {
            if let [(upper, false), (lower, true)] = pair {
                return Err(setting(upper, &format!("cannot be off while {lower} is on")));
            }
        }
        Ok(())
    }
}

fn setting(name: &str, problem: &str) -> CallError {
    invalid(format!("settings.{}", Short(name)), problem)
}

#[cfg(test)]
mod tests;
