//! Requests made wrong: field by field, whatever the message, and byte by byte.

use proptest::prelude::*;
use proptest::sample::Index;

/// A message as its wire format shows it, which is enough to put anything anywhere.
#[derive(Clone, Debug)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Varint(u64),
    Fixed(u64, Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// What is done to one field, wherever in the message it is.
#[derive(Clone, Debug)]
pub(super) enum FieldChange {
    Remove,
    Repeat(usize),
    Number(u64),
    Bytes(Vec<u8>),
    Renumber(u64),
}

/// What is done to some bytes, wherever they are.
#[derive(Clone, Debug)]
pub(super) enum ByteChange {
    Set(u8),
    Flip(u8),
    Cut(usize),
    Repeat(usize),
    Insert(Vec<u8>),
    End,
}

/// Fields changed, each at a place that is found in the message at hand.
pub(super) fn field_changes() -> impl Strategy<Value = Vec<(Index, FieldChange)>> {
    let number = prop_oneof![
        prop::sample::select(vec![0, 1, 2, 3, 7, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 62, 1 << 63, u64::MAX - 1]),
        Just(u64::MAX),
        any::<u64>(),
    ];
    let change = prop_oneof![
        1 => Just(FieldChange::Remove),
        1 => (2..5_usize).prop_map(FieldChange::Repeat),
        3 => number.prop_map(FieldChange::Number),
        4 => bytes().prop_map(FieldChange::Bytes),
        1 => (1..12_u64).prop_map(FieldChange::Renumber),
    ];
    prop::collection::vec((any::<Index>(), change), 1..4)
}

/// Bytes changed, each at a place that is found in the message at hand.
pub(super) fn byte_changes() -> impl Strategy<Value = Vec<(Index, ByteChange)>> {
    let change = prop_oneof![
        any::<u8>().prop_map(ByteChange::Set),
        (0..8_u8).prop_map(ByteChange::Flip),
        (1..9_usize).prop_map(ByteChange::Cut),
        (1..9_usize).prop_map(ByteChange::Repeat),
        prop::collection::vec(any::<u8>(), 1..9).prop_map(ByteChange::Insert),
        Just(ByteChange::End),
    ];
    prop::collection::vec((any::<Index>(), change), 1..4)
}

/// Contents that somebody once forgot about.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "",
        "\0",
        " ",
        "\n\t ",
        "\u{301}\u{301}",
        "\u{202e}",
        "e",
        "echo",
        "several",
        "1",
        "01",
        "-1",
        "NaN",
        "INT64",
        "text",
        "input_ids",
        "text_pair",
        "[MASK]",
        "c",
        "f",
        "../../etc/passwd",
        "sequence_id",
        "triton_x",
        "shared_memory_region",
        "OFF",
        "🦑",
    ];
    prop_oneof![
        4 => prop::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => (1..5000_usize).prop_map(|length| vec![b'a'; length]),
        1 => any::<String>().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, -0.0]).prop_map(|value| value.to_le_bytes().to_vec()),
        1 => prop::sample::select(vec![f64::NAN, f64::NEG_INFINITY]).prop_map(|value| value.to_le_bytes().to_vec()),
        // Packed numbers, such as a shape: 2^31 times 2^31, 2^62 times 4, minus one.
        1 => prop::sample::select(vec![vec![1 << 31, 1 << 31], vec![1 << 62, 4], vec![u64::MAX], vec![u64::MAX >> 1, 2]])
            .prop_map(|numbers| numbers.into_iter().flat_map(varint).collect()),
    ]
}

/// The message with its fields changed.
pub(super) fn change_fields(message: &[u8], changes: &[(Index, FieldChange)]) -> Vec<u8> {
    let mut fields = parse(message).unwrap_or_default();
    for (place, change) in changes {
        let count = count(&fields);
        if count > 0 {
            change_field(&mut fields, &mut place.index(count), change);
        }
    }
    encode(&fields)
}

/// The bytes changed.
pub(super) fn change_bytes(bytes: &[u8], changes: &[(Index, ByteChange)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, change) in changes {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = place.index(bytes.len());
        match change {
            ByteChange::Set(byte) => bytes[at] = *byte,
            ByteChange::Flip(bit) => bytes[at] ^= 1 << bit,
            ByteChange::Cut(length) => drop(bytes.drain(at..bytes.len().min(at + length))),
            ByteChange::Repeat(length) => {
                let part = bytes[at..bytes.len().min(at + length)].to_vec();
                drop(bytes.splice(at..at, part));
            }
            ByteChange::Insert(part) => drop(bytes.splice(at..at, part.iter().copied())),
            ByteChange::End => bytes.truncate(at),
        }
    }
    bytes
}

/// Applies `change` to the field that is `left` fields on, those inside fields counted.
fn change_field(fields: &mut Vec<Field>, left: &mut usize, change: &FieldChange) -> bool {
    for at in 0..fields.len() {
        if *left == 0 {
            match change {
                FieldChange::Remove => drop(fields.remove(at)),
                FieldChange::Repeat(times) => {
                    let field = fields[at].clone();
                    drop(fields.splice(at..at, vec![field; *times]));
                }
                FieldChange::Number(number) => match &mut fields[at].value {
                    Value::Varint(value) => *value = *number,
                    Value::Fixed(_, bytes) => *bytes = number.to_le_bytes()[..bytes.len()].to_vec(),
                    value @ (Value::Bytes(_) | Value::Message(_)) => *value = Value::Bytes(varint(*number)),
                },
                FieldChange::Bytes(bytes) => fields[at].value = Value::Bytes(bytes.clone()),
                FieldChange::Renumber(number) => fields[at].number = *number,
            }
            return true;
        }
        *left -= 1;
        if let Value::Message(inner) = &mut fields[at].value
            && change_field(inner, left, change)
        {
            return true;
        }
    }
    false
}

fn count(fields: &[Field]) -> usize {
    let inside = |field: &Field| if let Value::Message(inner) = &field.value { count(inner) } else { 0 };
    fields.iter().map(|field| 1 + inside(field)).sum()
}

fn parse(mut message: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message)?;
        let mut take = |length: usize| {
            let (taken, rest) = message.split_at_checked(length)?;
            message = rest;
            Some(taken.to_vec())
        };
        let value = match key & 7 {
            0 => Value::Varint(read_varint(&mut message)?),
            1 => Value::Fixed(1, take(8)?),
            5 => Value::Fixed(5, take(4)?),
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                match parse(bytes).filter(|fields| !fields.is_empty()) {
                    Some(inner) => Value::Message(inner),
                    None => Value::Bytes(bytes.to_vec()),
                }
            }
            _ => return None,
        };
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut message = Vec::new();
    for Field { number, value } in fields {
        let (kind, bytes) = match value {
            Value::Varint(value) => (0, varint(*value)),
            Value::Fixed(kind, bytes) => (*kind, bytes.clone()),
            Value::Bytes(bytes) => (2, [varint(bytes.len() as u64), bytes.clone()].concat()),
            Value::Message(inner) => {
                let bytes = encode(inner);
                (2, [varint(bytes.len() as u64), bytes].concat())
            }
        };
        message.extend(varint(number << 3 | kind));
        message.extend(bytes);
    }
    message
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
