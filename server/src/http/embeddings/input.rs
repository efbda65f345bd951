//! The input of a call to embed, in the four forms that OpenAI has for it. Of a list that is too long, no more is kept
//! than a call may have.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::call::CallError;
use crate::frontend::EmbedInput;

use super::INPUTS_MAX;
use super::request::invalid;

/// What is wrong with an input that is none.
pub(super) const PROBLEM: &str = "must be a text, a list of texts, a list of token ids, or a list of such lists";
const ELEMENT: &str = "must be a text, a token id or a list of token ids";
const MIXED: &str = "is not of the kind of those before it";
const ID: &str = "must be a token id, a whole number from 0";

/// The input, and whether it is bare.
pub(super) fn read(raw: &RawValue) -> Result<(EmbedInput, bool), CallError> {
    let read: Result<Input, _> = serde_json::from_str(raw.get());
    match read.map_err(|_| invalid("input", PROBLEM))?.0? {
        Rows::None => Ok((EmbedInput::Texts(Vec::new()), false)),
        Rows::Text(text) => Ok((EmbedInput::Texts(vec![text]), true)),
        Rows::Ids(ids) => Ok((EmbedInput::Ids(vec![ids]), true)),
        Rows::Texts { count, .. } | Rows::IdLists { count, .. } if count > INPUTS_MAX => {
            Err(invalid("input", format!("has {count} entries, at most {INPUTS_MAX} fit one call")))
        }
        Rows::Texts { kept, .. } => Ok((EmbedInput::Texts(kept), false)),
        Rows::IdLists { kept, .. } => Ok((EmbedInput::Ids(kept), false)),
    }
}

/// An input as it is read: what it holds, or the first thing wrong with it.
struct Input(Result<Rows, CallError>);

/// Of a list, no more is kept than a call may have.
enum Rows {
    None,
    Text(String),
    Ids(Vec<u32>),
    Texts { kept: Vec<String>, count: usize },
    IdLists { kept: Vec<Vec<u32>>, count: usize },
}

impl Rows {
    /// Takes the next element of a list.
    fn push(&mut self, element: Element) -> Result<(), &'static str> {
        match (element, &mut *self) {
            (Element::Text(text), Self::Texts { kept, count }) => keep(kept, count, text),
            (Element::Ids(ids), Self::IdLists { kept, count }) => keep(kept, count, ids),
            (Element::Id(id), Self::Ids(ids)) => ids.push(id),
            (Element::Text(text), Self::None) => *self = Self::Texts { kept: vec![text], count: 1 },
            (Element::Ids(ids), Self::None) => *self = Self::IdLists { kept: vec![ids], count: 1 },
            (Element::Id(id), Self::None) => *self = Self::Ids(vec![id]),
            (Element::NoId, _) => return Err(ID),
            (Element::Other, _) => return Err(ELEMENT),
            (Element::Text(_) | Element::Ids(_) | Element::Id(_) | Element::NoIds { .. }, _) => return Err(MIXED),
        }
        Ok(())
    }
}

fn keep<T>(kept: &mut Vec<T>, count: &mut usize, value: T) {
    *count += 1;
    if kept.len() < INPUTS_MAX {
        kept.push(value);
    }
}

/// One element of a list, of any kind: what is wrong with it is said where its place is known.
enum Element {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
    /// A number that is no token id.
    NoId,
    /// A list whose element at `position` is no token id.
    NoIds {
        position: usize,
    },
    Other,
}

struct InputVisitor;

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PROBLEM)
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        Ok(Input(Ok(Rows::Text(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
        let mut rows = Rows::None;
        let mut index = 0_usize;
        while let Some(element) = list.next_element()? {
            let pushed = match element {
                Element::NoIds { position } => Err(invalid(format!("input[{index}][{position}]"), ID)),
                element => rows.push(element).map_err(|problem| invalid(format!("input[{index}]"), problem)),
            };
            if let Err(error) = pushed {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Input(Err(error)));
            }
            index += 1;
        }
        Ok(Input(Ok(rows)))
    }
}

struct ElementVisitor;

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ELEMENT)
    }

    fn visit_str<E>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, id: u64) -> Result<Element, E> {
        Ok(u32::try_from(id).map_or(Element::NoId, Element::Id))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Element, E> {
        Ok(Element::NoId)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Element, E> {
        Ok(Element::NoId)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Element, E> {
        Ok(Element::Other)
    }

    fn visit_unit<E>(self) -> Result<Element, E> {
        Ok(Element::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Element::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut ids = Vec::new();
        while let Some(element) = list.next_element()? {
            match element {
                Element::Id(id) => ids.push(id),
                _ => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Element::NoIds { position: ids.len() });
                }
            }
        }
        Ok(Element::Ids(ids))
    }
}
