//! What a request gives to a text model: texts, pairs of texts, or ids that the caller made itself.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::input::{Elements, Input};
use super::invalid;
use super::quote::Shape;
use super::request::{Limits, Payload, by_name, check_rows, pieces};
use super::signature::text_inputs;
use crate::call::{CallError, DataType, Row, RowOptions};
use crate::card::{Card, TYPE_IDS, Task};
use crate::ids::IdRules;
use crate::tokenize::Text;

/// The payload of a text model, and the position of its input.
pub(super) fn text_payload(
    inputs: Vec<Input>,
    card: &Card,
    options: &RowOptions,
    limits: &Limits,
) -> Result<(Payload, usize), CallError> {
    let texts = text_inputs(card.task);
    let takes_type_ids = card.inputs.iter().any(|input| *input.name == *TYPE_IDS);
    let mut names: Vec<&str> = texts.iter().map(|text| text.name).collect();
    names.extend(["input_ids", "attention_mask"]);
    names.extend(takes_type_ids.then_some(TYPE_IDS));
    let mut found = by_name(inputs, &names)?;
    let mut ids = found.split_off(texts.len()).into_iter();
    let (ids, mask, types) = (ids.next().flatten(), ids.next().flatten(), ids.next().flatten());
    if found.iter().all(Option::is_none) {
        let Some(ids) = ids else {
            return Err(invalid("inputs", "neither `text` nor `input_ids` is given"));
        };
        let (at, rules) = (ids.at, IdRules { tokens_max: card.tokens_max, vocabulary: card.vocabulary });
        let types = takes_type_ids.then_some(types);
        return Ok((Payload::Rows(id_rows(ids, mask, types, rules, options, limits)?), at));
    }
    if let Some(other) = [ids, mask, types].into_iter().flatten().next() {
        return Err(invalid(other.field("name"), "texts are given already; give either `text` or `input_ids`"));
    }
    for (input, text) in found.iter().zip(texts) {
        if input.is_none() && !text.is_optional {
            return Err(invalid("inputs", format!("`{}` is missing", text.name)));
        }
    }
    let mut found = found.into_iter();
    // One that is not optional is there, and the first never is.
    let Some(text) = found.next().flatten() else { return Err(invalid("inputs", "`text` is missing")) };
    let at = text.at;
    let texts = strings(text, limits)?.values;
    let texts = match found.next().flatten() {
        None => texts.into_iter().map(Text::Single).collect(),
        Some(other) if card.task == Task::Rerank => of_query(other, texts, limits)?,
        Some(other) => with_pairs(other, texts, limits)?,
    };
    Ok((Payload::Texts(texts), at))
}

/// Texts, each behind its query; one query may be that of all.
fn of_query(query: Input, texts: Vec<String>, limits: &Limits) -> Result<Vec<Text>, CallError> {
    let shape_field = query.field("shape");
    let queries: Vec<Arc<str>> = not_empty(strings(query, limits)?)?.into_iter().map(Arc::from).collect();
    if let [query] = &queries[..] {
        return Ok(texts.into_iter().map(|text| Text::Pair(query.clone(), text)).collect());
    }
    if queries.len() != texts.len() {
        let problem =
            format!("has {} rows, and `text` has {}; give one query, or one for each", queries.len(), texts.len());
        return Err(invalid(shape_field, problem));
    }
    Ok(queries.into_iter().zip(texts).map(|(query, text)| Text::Pair(query, text)).collect())
}

/// Texts, each with its pair.
fn with_pairs(pairs: Input, texts: Vec<String>, limits: &Limits) -> Result<Vec<Text>, CallError> {
    let shape_field = pairs.field("shape");
    let pairs = not_empty(strings(pairs, limits)?)?;
    if pairs.len() != texts.len() {
        return Err(invalid(shape_field, format!("has {} rows, and `text` has {}", pairs.len(), texts.len())));
    }
    Ok(texts.into_iter().zip(pairs).map(|(text, pair)| Text::Pair(text.into(), pair)).collect())
}

/// Texts that are not the first of a row, and so not those that an error of the tokenizer names.
fn not_empty(texts: Elements<Vec<String>>) -> Result<Vec<String>, CallError> {
    match texts.values.iter().position(String::is_empty) {
        Some(row) => Err(invalid(texts.path, format!("row {row} is an empty text"))),
        None => Ok(texts.values),
    }
}

fn strings(input: Input, limits: &Limits) -> Result<Elements<Vec<String>>, CallError> {
    let Elements { path, values } = pieces(input, limits.texts_max, limits)?;
    let texts = values.into_iter().enumerate().map(|(row, value)| {
        String::from_utf8(value.into()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            invalid(path.clone(), format!("row {row} is not UTF-8 from byte {at} on"))
        })
    });
    let values = texts.collect::<Result<_, _>>()?;
    Ok(Elements { path, values })
}

/// Rows of ids, cut to what the mask keeps, and what segment each is of where `types` says that the model takes that: the
/// first, unless it is given.
fn id_rows(
    ids: Input,
    mask: Option<Input>,
    types: Option<Option<Input>>,
    rules: IdRules,
    options: &RowOptions,
    limits: &Limits,
) -> Result<Vec<Row>, CallError> {
    ids.check_data_type(DataType::I64)?;
    let (rows, length) = ids.check_shape(&[-1], limits.elements_max)?;
    check_rows(&ids, rows, limits.rows_max)?;
    let (shape, shape_field) = (ids.tensor.shape.clone(), ids.field("shape"));
    let kept = match mask {
        None => vec![length; rows],
        Some(mask) => mask_lengths(mask, &shape, rows, length)?,
    };
    // Before the ids are read, so that a whole batch that is too long costs nothing.
    let tokens: Vec<u32> = kept
        .iter()
        .enumerate()
        .map(|(row, kept)| {
            rules.tokens(*kept).map_err(|problem| invalid(shape_field.clone(), format!("row {row} {problem}")))
        })
        .collect::<Result<_, _>>()?;
    let put = |column: &mut BytesMut, position, id| rules.put(column, position, id);
    let mut columns = vec![numbers(ids, length, &tokens, put)?];
    match types {
        None => {}
        Some(None) => columns.push(tokens.iter().map(|tokens| Bytes::from(vec![0; 4 * *tokens as usize])).collect()),
        Some(Some(types)) => {
            types.check_data_type(DataType::I64)?;
            check_like_ids(&types, &shape)?;
            columns.push(numbers(types, length, &tokens, put_segment)?);
        }
    }
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    let row = |tokens| Row {
        columns: columns.iter_mut().filter_map(Iterator::next).collect(),
        tokens,
        truncated: false,
        options: options.clone(),
    };
    Ok(tokens.into_iter().map(row).collect())
}

/// The numbers of an input, row by row, so many of each as it has tokens.
fn numbers(
    input: Input,
    length: usize,
    tokens: &[u32],
    put: impl Fn(&mut BytesMut, usize, i64) -> Result<(), String>,
) -> Result<Vec<Bytes>, CallError> {
    let Elements { path, values } = input.into_values(DataType::I64, tokens.len() * length)?;
    // `into_values` has checked that there are 8 bytes to each element.
    let (values, _) = values.as_chunks::<8>();
    let mut column = BytesMut::with_capacity(4 * tokens.iter().map(|tokens| *tokens as usize).sum::<usize>());
    let mut rows = Vec::with_capacity(tokens.len());
    for (row, (values, tokens)) in values.chunks_exact(length).zip(tokens).enumerate() {
        for (position, value) in values[..*tokens as usize].iter().enumerate() {
            let put = put(&mut column, position, i64::from_le_bytes(*value));
            put.map_err(|problem| invalid(path.clone(), format!("row {row}, {problem}")))?;
        }
        rows.push(column.split().freeze());
    }
    Ok(rows)
}

/// How many segments there are is for the model to say.
fn put_segment(column: &mut BytesMut, position: usize, segment: i64) -> Result<(), String> {
    match i32::try_from(segment) {
        Ok(segment) if segment >= 0 => {
            column.put_i32_le(segment);
            Ok(())
        }
        _ => Err(format!("position {position}: {segment} is no segment")),
    }
}

/// How many positions of each row a mask keeps: at least one, all at the front.
fn mask_lengths(mask: Input, shape: &[i64], rows: usize, length: usize) -> Result<Vec<usize>, CallError> {
    mask.check_data_type(DataType::I64)?;
    check_like_ids(&mask, shape)?;
    let Elements { path, values } = mask.into_values(DataType::I64, rows * length)?;
    // `into_values` has checked that there are 8 bytes to each element.
    let (values, _) = values.as_chunks::<8>();
    let rows = values.chunks_exact(length).enumerate().map(|(row, values)| {
        let kept = values.iter().take_while(|value| i64::from_le_bytes(**value) == 1).count();
        if kept == 0 || values[kept..].iter().any(|value| i64::from_le_bytes(*value) != 0) {
            return Err(invalid(path.clone(), format!("row {row} is not one or more 1 followed by 0 only")));
        }
        Ok(kept)
    });
    rows.collect()
}

/// Refuses a tensor of another shape than the ids have.
fn check_like_ids(input: &Input, shape: &[i64]) -> Result<(), CallError> {
    if input.tensor.shape == shape {
        return Ok(());
    }
    let problem = format!("{} is not that of `input_ids`, {}", Shape(&input.tensor.shape), Shape(shape));
    Err(invalid(input.field("shape"), problem))
}

#[cfg(test)]
mod tests;
