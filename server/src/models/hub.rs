//! Fetches files of a Hugging Face repository over HTTPS.
//!
//! Understands what the hub's own tools do: `HF_ENDPOINT` names another hub, `HF_TOKEN` opens private repositories, and
//! `HTTPS_PROXY` and `NO_PROXY` apply. Knows no API but the address of a file.

use std::path::Path;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, StatusCode};

use super::part::{Part, PartError, Received, WantedFile};
use super::pull::{Meter, PullSettings};
use super::source::HubRepository;

/// How often a transfer that broke off is taken up again; each time it must have brought something.
const RESUMES_MAX: u32 = 8;

/// A hub.
#[derive(Debug)]
pub(super) struct Hub<'a> {
    agent: Agent,
    settings: &'a PullSettings,
}

/// A file that came, and the commit the hub said it is of.
#[derive(Debug)]
pub(super) struct Fetched {
    pub received: Received,
    pub commit: Option<String>,
}

impl<'a> Hub<'a> {
    pub(super) fn new(settings: &'a PullSettings) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(settings.connect_time_max))
            .timeout_connect(Some(settings.connect_time_max))
            .timeout_recv_response(Some(settings.answer_time_max))
            .timeout_per_read(Some(settings.stall_time_max))
            .timeout_global(Some(settings.file_time_max))
            .http_status_as_error(false)
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), settings }
    }

    /// Where people would look the repository up.
    pub(super) fn address(&self, repository: &str) -> String {
        format!("{}/{repository}", self.settings.hub_endpoint)
    }

    /// Fetches one file to `target`; `None` if the repository has no such file.
    pub(super) fn fetch(
        &self,
        repository: &str,
        revision: &str,
        wanted: &WantedFile,
        target: &Path,
        meter: &mut Meter<'_>,
    ) -> Result<Option<Fetched>, HubError> {
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/{repository}/resolve/{revision}/{}", self.settings.hub_endpoint, wanted.path);
        let mut resumes = 0;
        loop {
            let mut part = Part::open(target, wanted).map_err(PartError::Disk)?;
            let before = part.length();
            meter.advance(before);
            let attempt = self.attempt(&url, wanted, &mut part, meter);
            let length = part.length();
            match attempt {
                Ok(None) => {
                    part.discard().map_err(PartError::Disk)?;
                    return Ok(None);
                }
                Ok(Some(commit)) => match part.finish(target, wanted.pin) {
                    Ok(received) => return Ok(Some(Fetched { received, commit })),
                    // What an earlier pull left may be at fault; once more from the start.
                    Err(PartError::Hash { .. } | PartError::Size { .. }) if before > 0 && resumes < RESUMES_MAX => {
                        meter.retreat(length);
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(HubError::Part(PartError::Cut(_))) if length > before && resumes < RESUMES_MAX => {
                    meter.retreat(length);
                }
                Err(error) => return Err(error),
            }
            resumes += 1;
        }
    }

    /// Asks for what is missing and appends it. `None`: no such file.
    fn attempt(
        &self,
        url: &str,
        wanted: &WantedFile,
        part: &mut Part,
        meter: &mut Meter<'_>,
    ) -> Result<Option<Option<String>>, HubError> {
        let have = part.length();
        if have > 0 && wanted.pin.is_some_and(|pin| pin.size == have) {
            // Broke off between the last byte and the verification.
            return Ok(Some(None));
        }
        let mut response = self.request(url, have)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // The file is shorter than what an earlier pull left of it.
            response = self.request(url, 0)?;
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(have) => {}
            StatusCode::OK => {
                meter.retreat(have);
                part.restart().map_err(PartError::Disk)?;
            }
            StatusCode::NOT_FOUND => {
                meter.retreat(have);
                return Ok(None);
            }
            status => return Err(HubError::Status { status, token: self.settings.hub_token.is_some() }),
        }
        let commit =
            header(response.headers(), "x-repo-commit").filter(|c| HubRepository::is_commit(c)).map(str::to_owned);
        if let Some(rest) = response.body().content_length() {
            let size = part.length() + rest;
            match wanted.pin {
                Some(pin) if pin.size != size => return Err(PartError::Size { expected: pin.size, found: size }.into()),
                Some(_) => {}
                None => meter.expect(size),
            }
        }
        part.append(response.into_body().into_reader(), |n| meter.advance(n))?;
        Ok(Some(commit))
    }

    fn request(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.settings.hub_token {
            request = request.header("Authorization", format!("Bearer {}", token.reveal()));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| HubError::Unreachable(Box::new(error)))
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let (start, _) = header(headers, "content-range")?.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    #[error("cannot be reached ({0})")]
    Unreachable(#[source] Box<ureq::Error>),
    #[error("answered {status}{}", hint(*status, *token))]
    Status { status: StatusCode, token: bool },
    #[error(transparent)]
    Part(#[from] PartError),
}

fn hint(status: StatusCode, token: bool) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if token => {
            "; no such repository, or HF_TOKEN does not open it"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; no such repository, or it is private: set HF_TOKEN to a token that opens it"
        }
        StatusCode::TOO_MANY_REQUESTS => "; try again later, or set HF_TOKEN",
        _ => "",
    }
}
