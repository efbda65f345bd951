//! Who may attach: each local child with a token of its own, everybody else with one they share, or by the certificate
//! that they showed.

use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;
use tracing::{error, info};

use crate::access::{Digest, read_tokens, same};
use crate::tls::{Fingerprint, follow, whole};

/// Who may attach.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Token of each local child, by worker name.
    children: Arc<DashMap<String, Digest>>,
    /// What all other workers show.
    shared: SharedTokens,
}

/// What workers show that are no children of this server.
#[derive(Clone, Debug)]
pub struct SharedTokens {
    /// Tokens that are good now; any of them will do.
    known: watch::Sender<Arc<[Digest]>>,
    /// Where they are read, and what was there.
    file: Option<(PathBuf, Fingerprint)>,
    /// A certificate that the link's authority signed is enough.
    certificates: bool,
}

impl Default for SharedTokens {
    fn default() -> Self {
        Self { known: watch::Sender::new(Arc::default()), file: None, certificates: false }
    }
}

impl SharedTokens {
    /// This token; nobody has an empty one.
    pub fn of(token: &str) -> Self {
        let digest = (!token.is_empty()).then(|| Digest::of(token.as_bytes()));
        Self { known: watch::Sender::new(digest.into_iter().collect()), ..Self::default() }
    }

    /// The tokens of a file, whatever they come to be.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of_file(path: PathBuf) -> Result<Self, String> {
        // First: what changes while the file is read is found again.
        let seen = Fingerprint::of(std::slice::from_ref(&path));
        let known = read_tokens(&path)?.into();
        Ok(Self { known: watch::Sender::new(known), file: Some((path, seen)), certificates: false })
    }

    /// No token: a certificate that the link has checked is enough.
    pub fn of_certificates() -> Self {
        Self { certificates: true, ..Self::default() }
    }

    /// Whether nobody could attach.
    pub fn is_empty(&self) -> bool {
        !self.certificates && self.known.borrow().is_empty()
    }

    /// Whether they are tokens, which whoever reads the network can take.
    pub fn are_tokens(&self) -> bool {
        !self.known.borrow().is_empty()
    }

    /// Follows their file for as long as it runs.
    pub(crate) async fn follow(self) {
        let Some((path, seen)) = self.file else { return std::future::pending().await };
        let at = path.clone();
        follow(
            vec![path.clone()],
            seen,
            move || whole(read_tokens(&at)),
            |(new, problem)| {
                if let Some(tokens) = new {
                    info!(tokens = tokens.len(), file = %path.display(), "new tokens of workers are in use");
                    self.known.send_replace(tokens.into());
                }
                if let Some(problem) = problem {
                    error!("the workers' tokens in use stay, since the new ones cannot be used: {problem}");
                }
            },
        )
        .await;
    }

    /// Takes as long for a wrong token as for a right one.
    fn admit(&self, token: &Digest, has_certificate: bool) -> bool {
        let known = self.known.borrow().iter().fold(false, |found, known| found | same(known, token));
        known || (self.certificates && has_certificate)
    }
}

impl Tokens {
    /// Lets workers in that show one of these, beside local children.
    pub fn new(shared: SharedTokens) -> Self {
        Self { children: Arc::default(), shared }
    }

    /// Lets workers with this token in; with an empty one, only local children.
    pub fn shared(token: &str) -> Self {
        Self::new(SharedTokens::of(token))
    }

    /// Lets a child in under its own name, with its own token.
    pub fn admit_child(&self, name: &str, token: &str) {
        self.children.insert(name.to_owned(), Digest::of(token.as_bytes()));
    }

    /// Whether a worker may attach, and whether it is a child of this server. It showed a certificate that the link has
    /// checked, or none.
    pub(super) fn check(&self, name: &str, token: &str, has_certificate: bool) -> Option<Origin> {
        let token = Digest::of(token.as_bytes());
        // Copied out at once: a guard of the map is never held.
        match self.children.get(name).map(|entry| *entry.value()) {
            Some(expected) => same(&expected, &token).then_some(Origin::Child),
            None => self.shared.admit(&token, has_certificate).then_some(Origin::Elsewhere),
        }
    }
}

#[cfg(test)]
impl Tokens {
    pub(super) fn admits(&self, name: &str, token: &str) -> bool {
        self.check(name, token, false).is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Child,
    Elsewhere,
}
