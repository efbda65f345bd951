//! Why connections end.

use std::time::Duration;

use shoal_proto::link::limits::{PROTOCOL, PROTOCOL_MIN};

use super::REGISTER_MAX;
use super::dial::DialError;
use super::frames::Violation;
use super::peer::Place;
use crate::AuthError;
use crate::run::Exit;

/// Why a connection ended, or never came to be. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the server broke the stream")]
    Stream(#[source] Box<tonic::Status>),
    #[error("the server ended the {0} stream")]
    Ended(&'static str),
    #[error("the server sent no welcome within {} s", REGISTER_MAX.as_secs())]
    NoWelcome,
    #[error("the server sent something else than a welcome first")]
    NotWelcome,
    #[error("the server chose protocol {0}, and this worker speaks {PROTOCOL_MIN} to {PROTOCOL}")]
    Protocol(u32),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the server does not read what is sent to it")]
    Clogged,
    #[error("the server broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the server broke the protocol: {0}")]
    NoCredit(#[from] crate::session::NoCredit),
    #[error(
        "this server does not share its workers, and this worker serves others: start every server with \
         --share-workers, or let the worker connect to one"
    )]
    NotShared,
    #[error(
        "this server shares its workers, and this worker serves one that does not: start every server with \
         --share-workers, or let the worker connect to one"
    )]
    NotAlone,
    #[error("it is the server at {0}, to which this worker is attached")]
    Twice(Place),
    #[error("the server asked this worker to drain")]
    Drained,
}

/// How a state of the link was left, other than forwards.
#[derive(Debug)]
pub(super) enum Leave {
    /// Back off and dial again.
    Lost(LinkError),
    /// The worker's life is over, as far as this server has a say in it.
    Exit(Exit),
}

impl From<LinkError> for Leave {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}
