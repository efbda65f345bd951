//! Who may call what: each caller is nobody, or one of the configured identities, and each method needs one right.
//!
//! Without an entry in the configuration everybody who reaches a port may call it. With one, whatever is not in
//! `table` is denied. A call is judged by its headers and its connection, before anything of its body is read, and in
//! one place for each wire; what an identity may see of the models is judged where they are looked up, by [`Scope`].

mod secret;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, header};
use tokio::sync::watch;
use tracing::{error, info};

use crate::tls::{Fingerprint, Peer, Reading, follow};

pub(crate) use secret::{Digest, read_tokens, same};
pub(crate) use table::{Need, of_grpc, of_http};

/// What an identity may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Run models.
    Infer,
    /// See which models there are, what they are and what was counted of them.
    Inspect,
    /// Load and unload models, and change settings.
    Control,
    /// See what every tenant waits for.
    Admin,
}

impl Right {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Inspect => "inspect",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }
}

/// A caller with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What logs and errors call it.
    pub name: String,
    /// The only tenant it calls as; as it likes when unset.
    pub tenant: Option<Arc<str>>,
    /// What it may do.
    pub rights: BTreeSet<Right>,
    /// The models there are for it; all when unset.
    pub models: Option<BTreeSet<String>>,
}

/// What proves that a caller is an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A token that this file holds, which is read again when it changes; it may hold several, one a line.
    TokenFile(PathBuf),
    /// A token with this SHA-256.
    TokenSha256(Digest),
    /// A certificate with this subject alternative name.
    Certificate(String),
}

/// One entry of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What proves it.
    pub proof: Proof,
    /// Who that is.
    pub identity: Arc<Identity>,
}

/// Who may call. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Access(Option<Arc<Guard>>);

#[derive(Debug)]
struct Guard {
    entries: Vec<Entry>,
    tokens: watch::Sender<Arc<Tokens>>,
    /// What the files of tokens held at the start.
    seen: Fingerprint,
}

/// Tokens that are good now, and whose they are.
#[derive(Debug, Default)]
struct Tokens {
    known: Vec<(Digest, Arc<Identity>)>,
}

/// What a caller sees of the models, and as whom it calls; everything and anybody where callers are not told apart.
#[derive(Clone, Debug, Default)]
pub struct Scope(Option<Arc<Identity>>);

/// Why a call is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// Nobody knows who calls.
    #[error("{0}")]
    Unknown(&'static str),
    /// The caller is known, and may not.
    #[error("`{who}` may not call this: {why}")]
    Forbidden { who: String, why: String },
}

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`access.{name}.{key}`: {problem}")]
pub struct AccessError {
    /// The entry's name.
    pub name: String,
    /// Which of its keys.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl Access {
    /// With these entries; open to everybody where there are none.
    ///
    /// # Errors
    /// The first token file that cannot be used.
    pub fn new(entries: Vec<Entry>) -> Result<Self, AccessError> {
        if entries.is_empty() {
            return Ok(Self::default());
        }
        // First: what changes while the files are read is found again.
        let seen = Fingerprint::of(&files(&entries));
        let (tokens, problems) = Tokens::read(&entries, &Tokens::default());
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(Self(Some(Arc::new(Guard { entries, tokens: watch::Sender::new(Arc::new(tokens)), seen })))),
        }
    }

    /// Whether callers are told apart.
    pub fn is_guarded(&self) -> bool {
        self.0.is_some()
    }

    /// Whether some are known by tokens, which whoever reads the network can take.
    pub(crate) fn has_tokens(&self) -> bool {
        let is_token = |entry: &Entry| !matches!(entry.proof, Proof::Certificate(_));
        self.0.as_ref().is_some_and(|guard| guard.entries.iter().any(is_token))
    }

    /// Judges a call that needs this, by its headers and the certificate of its connection. A call that needs nothing
    /// known is denied.
    pub(crate) fn admit(&self, need: Option<Need>, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Scope, Denied> {
        let Some(guard) = &self.0 else { return Ok(Scope::default()) };
        if need == Some(Need::Nothing) {
            return Ok(Scope::default());
        }
        let identity = guard.identify(headers, peer)?;
        let why = match need {
            Some(Need::Nothing | Need::Identity) => return Ok(Scope(Some(identity))),
            Some(Need::Right(right)) if identity.rights.contains(&right) => return Ok(Scope(Some(identity))),
            Some(Need::Right(right)) => format!("it needs the right `{}`", right.name()),
            None => "there is no such method".to_owned(),
        };
        Err(Denied::Forbidden { who: identity.name.clone(), why })
    }

    /// Follows the files of tokens for as long as it runs.
    pub(crate) async fn follow(self) {
        let Some(guard) = self.0 else { return std::future::pending().await };
        let reader = guard.clone();
        follow(files(&guard.entries), guard.seen, move || reader.read(), |(new, problems)| guard.take(new, problems))
            .await;
    }
}

#[cfg(test)]
impl Access {
    /// Whoever shows this token has these rights, and nobody else any.
    pub(crate) fn of_token(token: &str, rights: &[Right]) -> Self {
        let rights = rights.iter().copied().collect();
        let identity = Identity { name: "known".into(), tenant: None, rights, models: None };
        let proof = Proof::TokenSha256(Digest::of(token.as_bytes()));
        Self::new(vec![Entry { proof, identity: Arc::new(identity) }]).expect("an entry")
    }
}

impl Guard {
    /// One file that is broken does not keep alive what others no longer have.
    fn read(&self) -> Reading<Tokens, Vec<AccessError>> {
        let before = self.tokens.borrow().clone();
        let (tokens, problems) = Tokens::read(&self.entries, &before);
        (Some(tokens), (!problems.is_empty()).then_some(problems))
    }

    fn take(&self, new: Option<Tokens>, problems: Option<Vec<AccessError>>) {
        for problem in problems.into_iter().flatten() {
            error!("of this entry some tokens cannot be used, and those of before stay: {problem}");
        }
        if let Some(tokens) = new
            && !tokens.are(&self.tokens.borrow())
        {
            info!(tokens = tokens.known.len(), "new tokens of callers are in use");
            self.tokens.send_replace(Arc::new(tokens));
        }
    }

    /// Who calls. A token that is shown must be good, whatever certificate comes with it.
    fn identify(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Arc<Identity>, Denied> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let found = match (shown.next(), shown.next()) {
            (Some(_), Some(_)) => return Err(Denied::Unknown("`authorization` must be given once")),
            (Some(value), None) => {
                let token = bearer(value.as_bytes())
                    .ok_or(Denied::Unknown("`authorization` must be `Bearer`, a space and a token"))?;
                return self.tokens.borrow().owner(token).ok_or(Denied::Unknown("the token is not known here"));
            }
            (None, _) => peer.and_then(|peer| self.of_certificate(peer)),
        };
        found.ok_or(match peer {
            Some(_) => Denied::Unknown("no `[[access]]` entry has a name of this certificate, and no token was sent"),
            None => Denied::Unknown("who calls is not known: send `authorization: Bearer` and a token"),
        })
    }

    fn of_certificate(&self, peer: &Peer) -> Option<Arc<Identity>> {
        let is = |entry: &&Entry| matches!(&entry.proof, Proof::Certificate(name) if peer.names.contains(name));
        self.entries.iter().find(is).map(|entry| entry.identity.clone())
    }
}

/// The token behind `Bearer`, in whatever case that is (RFC 7235, 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

impl Tokens {
    /// Those of now, and what is wrong with them. An entry whose file is broken has those that it had `before`, and a
    /// token that two entries have stays whose it was.
    fn read(entries: &[Entry], before: &Self) -> (Self, Vec<AccessError>) {
        let mut problems = Vec::new();
        let mut wrong = |of: &Identity, key, problem| {
            problems.push(AccessError { name: of.name.clone(), key, problem });
        };
        let mut claims: Vec<(Digest, &'static str, &Arc<Identity>)> = Vec::new();
        for Entry { proof, identity } in entries {
            let (key, digests) = match proof {
                Proof::TokenFile(path) => {
                    let read = read_tokens(path).unwrap_or_else(|problem| {
                        wrong(identity, "token_file", problem);
                        before.of(identity)
                    });
                    ("token_file", read)
                }
                Proof::TokenSha256(digest) => ("token_sha256", vec![*digest]),
                Proof::Certificate(_) => continue,
            };
            claims.extend(digests.into_iter().map(|digest| (digest, key, identity)));
        }
        // First come those who have it already, and then the order of the entries.
        claims.sort_by_key(|(digest, _, identity)| !before.has(digest, identity));
        let mut tokens = Self::default();
        for (digest, key, identity) in claims {
            match tokens.known.iter().find(|(known, _)| *known == digest) {
                Some((_, other)) => wrong(identity, key, format!("is a token of `{}` already", other.name)),
                None => tokens.known.push((digest, identity.clone())),
            }
        }
        (tokens, problems)
    }

    fn of(&self, identity: &Arc<Identity>) -> Vec<Digest> {
        let own = self.known.iter().filter(|(_, owner)| Arc::ptr_eq(owner, identity));
        own.map(|(digest, _)| *digest).collect()
    }

    fn has(&self, digest: &Digest, identity: &Arc<Identity>) -> bool {
        self.known.iter().any(|(known, owner)| known == digest && Arc::ptr_eq(owner, identity))
    }

    /// The same tokens, in whatever order.
    fn are(&self, other: &Self) -> bool {
        self.known.len() == other.known.len() && self.known.iter().all(|(digest, owner)| other.has(digest, owner))
    }

    /// Whose token it is. Takes as long for a wrong one as for a right one.
    fn owner(&self, token: &[u8]) -> Option<Arc<Identity>> {
        let digest = Digest::of(token);
        let owners = self.known.iter().filter(|(known, _)| same(known, &digest));
        owners.fold(None, |_, (_, owner)| Some(owner)).cloned()
    }
}

fn files(entries: &[Entry]) -> Vec<PathBuf> {
    let file = |entry: &Entry| match &entry.proof {
        Proof::TokenFile(path) => Some(path.clone()),
        Proof::TokenSha256(_) | Proof::Certificate(_) => None,
    };
    entries.iter().filter_map(file).collect()
}

impl Scope {
    /// Of this identity.
    #[cfg(test)]
    pub(crate) fn of(identity: Identity) -> Self {
        Self(Some(Arc::new(identity)))
    }

    /// Whether there is a model of that name for the caller.
    pub(crate) fn sees(&self, model: &str) -> bool {
        self.0.as_ref().is_none_or(|identity| identity.models.as_ref().is_none_or(|models| models.contains(model)))
    }

    /// The tenant that the caller is, whatever it says.
    pub(crate) fn tenant(&self) -> Option<&Arc<str>> {
        self.0.as_ref()?.tenant.as_ref()
    }
}
