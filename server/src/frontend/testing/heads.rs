//! Models that score, as simple as can be: what they return can be said from what they were given.

use bytes::{BufMut as _, BytesMut};

use super::super::scores::falling;
use crate::call::{DataType, Tensor};
use crate::card::{Card, TYPE_IDS, Task, TensorSpec};
use crate::driver::BatchRow;

/// Words of one token each, `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.
pub(crate) const TOKENIZER: &[u8] = br###"{"version":"1.0","pre_tokenizer":{"type":"Whitespace"},
    "added_tokens":[
        {"id":1,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
        {"id":2,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
        {"id":3,"content":"[MASK]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},
    "model":{"type":"WordLevel","unk_token":"[UNK]",
        "vocab":{"[UNK]":0,"[CLS]":1,"[SEP]":2,"[MASK]":3,"a":4,"b":5,"c":6,"d":7}}}"###;

/// `c` tells segments apart and has three labels, `r` tells segments apart, `f` does not. All take 12 tokens.
pub(crate) fn cards() -> [Card; 3] {
    let tensor =
        |name: &str, data_type, shape: &[i64]| TensorSpec { name: name.into(), data_type, shape: shape.into() };
    let segments = || [("input_ids"), TYPE_IDS].map(|name| tensor(name, DataType::I32, &[-1])).to_vec();
    let card = |name: &str, task, inputs, outputs| Card {
        task,
        tokens_max: 12,
        vocabulary: 8,
        tokenizer_sha256: "ab".into(),
        inputs,
        outputs,
        ..Card::testing(name)
    };
    let candidates = vec![tensor("token_ids", DataType::I64, &[-1, -1]), tensor("scores", DataType::F32, &[-1, -1])];
    let labels = ["tokens", "second", "raw"].map(str::to_owned).into();
    [
        Card { labels, ..card("c", Task::Classify, segments(), vec![tensor("scores", DataType::F32, &[3])]) },
        card("r", Task::Rerank, segments(), vec![tensor("scores", DataType::F32, &[1])]),
        Card {
            mask_token: "[MASK]".into(),
            mask_token_id: 3,
            ..card("f", Task::FillMask, segments()[..1].to_vec(), candidates)
        },
    ]
}

/// Of `c`: how many tokens, how many of them in the second segment, whether logits are wanted. Of `r`: the sum of ids in
/// the second segment, negative for logits. Of `f`: ids by rising number, with scores 0, -1, -2.
pub(crate) fn compute(card: &Card, row: &BatchRow) -> Vec<Tensor> {
    let column = |index: usize| -> Vec<i32> {
        row.columns[index].as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    };
    let (ids, options) = (column(0), &row.options);
    let second = |ids: &[i32]| -> Vec<i32> {
        std::iter::zip(ids, column(1)).filter(|(_, segment)| *segment == 1).map(|(id, _)| *id).collect()
    };
    match card.task {
        Task::Classify => {
            vec![floats(&[3], &[ids.len() as f32, second(&ids).len() as f32, f32::from(u8::from(options.raw))])]
        }
        Task::Rerank => {
            let sum = second(&ids).iter().sum::<i32>() as f32;
            vec![floats(&[1], &[if options.raw { -sum } else { sum }])]
        }
        _ => {
            let masks = ids.iter().filter(|id| **id == card.mask_token_id.cast_signed()).count();
            let all: Vec<u32> =
                if options.targets.is_empty() { (0..card.vocabulary).collect() } else { options.targets.to_vec() };
            let most = match options.top_k as usize {
                0 if options.targets.is_empty() => 5,
                0 => all.len(),
                top_k => top_k.min(all.len()),
            };
            let mut best = falling(&all.iter().map(|id| -(*id as f32)).collect::<Vec<_>>());
            best.truncate(most);
            let shape = [masks as i64, most as i64];
            let mut data = BytesMut::new();
            for _ in 0..masks {
                best.iter().for_each(|at| data.put_i64_le(all[*at].into()));
            }
            let ids =
                Tensor { name: "token_ids".into(), data_type: DataType::I64, shape: shape.into(), data: data.into() };
            let scores: Vec<f32> = (0..masks).flat_map(|_| (0..most).map(|at| -(at as f32))).collect();
            vec![ids, floats(&shape, &scores)]
        }
    }
}

fn floats(shape: &[i64], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: "scores".into(), data_type: DataType::F32, shape: shape.into(), data }
}
