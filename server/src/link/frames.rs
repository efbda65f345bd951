//! Payloads larger than a frame: cut on the way out, put together on the way in.

use bytes::{Bytes, BytesMut};
use prost::Message;
use shoal_proto::link::limits::{FRAME_BYTES, PAYLOAD_BYTES_MAX};
use shoal_proto::link::{Artifact, Results, Run};

/// A run that fits a frame together with what is said of its rows, and what was cut off, in order. Trace states are given
/// up before they fill the frame.
pub(super) fn cut(mut run: Run) -> (Run, Vec<Bytes>) {
    let payload: usize = run.columns.iter().map(|column| column.data.len()).sum();
    let mut said = run.encoded_len() - payload;
    if said > FRAME_BYTES {
        for item in &mut run.items {
            said -= item.tracestate.len();
            item.tracestate.clear();
        }
    }
    let mut room = FRAME_BYTES.saturating_sub(said);
    let mut fragments = Vec::new();
    for column in &mut run.columns {
        column.size = column.data.len() as u64;
        let mut rest = column.data.split_off(room.min(column.data.len()));
        room -= column.data.len();
        while !rest.is_empty() {
            let next = rest.split_off(FRAME_BYTES.min(rest.len()));
            fragments.push(rest);
            rest = next;
        }
    }
    (run, fragments)
}

/// A payload on its way in.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    message: Whole,
    size: usize,
    data: BytesMut,
}

/// A message whose payload is all there.
#[derive(Debug)]
pub(super) enum Whole {
    Results(Results),
    Artifact(Artifact),
}

/// Why a payload cannot be put together. The connection ends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FrameError {
    #[error("a message came in the middle of a payload")]
    Interrupted,
    #[error("a fragment came without a payload to continue")]
    Stray,
    #[error("a payload of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge(u64),
    #[error("a payload is longer than the {0} bytes it was said to have")]
    Overrun(u64),
    #[error("only the last tensor of a message may be cut")]
    CutInside,
}

impl Assembly {
    /// A results message arrived; it is returned once it is whole.
    pub(super) fn results(&mut self, results: Results) -> Result<Option<Whole>, FrameError> {
        let mut tensors = results.items.iter().flat_map(|item| &item.tensors).peekable();
        let mut last = None;
        while let Some(tensor) = tensors.next() {
            if tensors.peek().is_some() && tensor.size != tensor.data.len() as u64 {
                return Err(FrameError::CutInside);
            }
            last = Some((tensor.size, tensor.data.clone()));
        }
        let (size, data) = last.unwrap_or_default();
        self.begin(Whole::Results(results), size, &data)
    }

    /// An artifact arrived; it is returned once it is whole.
    pub(super) fn artifact(&mut self, artifact: Artifact) -> Result<Option<Whole>, FrameError> {
        let (size, data) = (artifact.size, artifact.data.clone());
        self.begin(Whole::Artifact(artifact), size, &data)
    }

    /// More of the payload that was begun.
    pub(super) fn fragment(&mut self, data: &Bytes) -> Result<Option<Whole>, FrameError> {
        let Some(mut partial) = self.partial.take() else { return Err(FrameError::Stray) };
        if partial.data.len() + data.len() > partial.size {
            return Err(FrameError::Overrun(partial.size as u64));
        }
        partial.data.extend_from_slice(data);
        if partial.data.len() < partial.size {
            self.partial = Some(partial);
            return Ok(None);
        }
        Ok(Some(partial.finish()))
    }

    /// Something other than a fragment arrived: fine unless a payload is open.
    pub(super) fn check_closed(&self) -> Result<(), FrameError> {
        if self.partial.is_some() { Err(FrameError::Interrupted) } else { Ok(()) }
    }

    fn begin(&mut self, message: Whole, size: u64, data: &Bytes) -> Result<Option<Whole>, FrameError> {
        self.check_closed()?;
        if size > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLarge(size));
        }
        if data.len() as u64 > size {
            return Err(FrameError::Overrun(size));
        }
        if data.len() as u64 == size {
            return Ok(Some(message));
        }
        // PAYLOAD_BYTES_MAX fits a usize on every platform with a 32-bit address space or more.
        let size = size as usize;
        // Room is made as bytes arrive, not on the word of whoever sends them.
        let data = BytesMut::from(data.as_ref());
        self.partial = Some(Partial { message, size, data });
        Ok(None)
    }
}

impl Partial {
    fn finish(self) -> Whole {
        let data = self.data.freeze();
        let mut message = self.message;
        match &mut message {
            Whole::Artifact(artifact) => artifact.data = data,
            Whole::Results(results) => {
                let tensors = results.items.iter_mut().flat_map(|item| &mut item.tensors);
                if let Some(tensor) = tensors.last() {
                    tensor.data = data;
                }
            }
        }
        message
    }
}
