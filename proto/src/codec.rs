//! How messages between clients and servers are read: as tonic's codec does it, and with a bound on what a message may
//! be made of.
//!
//! A field of two bytes on the wire becomes a structure of hundreds in memory, so that a message of a few megabytes,
//! and fewer when it is compressed, could take gigabytes. Counting the fields first costs nothing beside reading them.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Fields in one message at most, those inside its fields not counted. Each text of an Embed call is one.
pub const FIELDS_MAX: usize = 1 << 16;

/// What a message is read into and written to at first; it grows as it must. A call keeps what its bytes were read into
/// for as long as it is open, so that the library's 8 KiB would be most of what a small one takes.
const BUFFER_BYTES: usize = 1 << 10;
/// Bytes of a stream's messages that are sent together, as the library has it.
const YIELD_BYTES: usize = 32 << 10;

/// The codec of the client-facing services.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for BoundedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Reads messages of at most [`FIELDS_MAX`] fields.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Of one piece: tonic gathers a message before it has it decoded.
        if has_more_fields(buf.chunk(), FIELDS_MAX) {
            return Err(Status::invalid_argument(format!("the message has more than {FIELDS_MAX} fields")));
        }
        U::decode(buf).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// Whether more than `max` fields can be told apart. What cannot be read ends the count: the decoder will say why.
fn has_more_fields(mut message: &[u8], max: usize) -> bool {
    let mut fields = 0;
    while let Some(key) = varint(&mut message) {
        let skipped = match key & 7 {
            0 => varint(&mut message).map(|_| ()),
            1 => skip(&mut message, 8),
            2 => varint(&mut message).and_then(|length| skip(&mut message, usize::try_from(length).ok()?)),
            // Groups are no fields of these messages, but their ends count like them.
            3 | 4 => Some(()),
            5 => skip(&mut message, 4),
            _ => None,
        };
        fields += 1;
        if fields > max {
            return true;
        }
        if skipped.is_none() {
            return false;
        }
    }
    false
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn skip(message: &mut &[u8], bytes: usize) -> Option<()> {
    *message = message.get(bytes..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::ModelInferRequest;
    use crate::inference::model_infer_request::InferInputTensor;
    use crate::v1::EmbedRequest;

    #[test]
    fn fields_are_counted_whatever_they_hold() {
        let texts = |count: usize| EmbedRequest { texts: vec!["some text".into(); count], ..Default::default() };
        assert!(!has_more_fields(&texts(5).encode_to_vec(), 5));
        assert!(has_more_fields(&texts(6).encode_to_vec(), 5));
        let full =
            EmbedRequest { model: "m".into(), truncate: true, normalize: Some(true), dimensions: 300, ..texts(1) };
        assert!(!has_more_fields(&full.encode_to_vec(), 5));
        assert!(has_more_fields(&full.encode_to_vec(), 4));
    }

    #[test]
    fn what_is_inside_a_field_does_not_count() {
        let input = InferInputTensor { shape: vec![1; 1000], name: "x".repeat(1000), ..Default::default() };
        let request = ModelInferRequest { inputs: vec![input], ..Default::default() };
        assert!(!has_more_fields(&request.encode_to_vec(), 1));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for broken in [&[0x0a, 200, 1][..], &[0xff; 12], &[0x0f], &[0x09, 1], &[0x0d, 1], &[0x0a]] {
            assert!(!has_more_fields(broken, 100), "{broken:?}");
        }
    }

    #[test]
    fn groups_end_by_themselves() {
        assert!(has_more_fields(&[0x0b; 101], 100));
    }
}
