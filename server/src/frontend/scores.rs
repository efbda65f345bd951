//! What heads return: outputs read by name, and put in order.

use crate::call::{CallError, DataType, Tensor};

/// The numbers of the output `scores` of a row, as many as `count`.
pub(super) fn scores(tensors: &[Tensor], count: usize) -> Result<Vec<f32>, CallError> {
    let bytes = output(tensors, "scores", DataType::F32, count)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// The numbers of the output `token_ids` of a row, as many as `count`.
pub(super) fn token_ids(tensors: &[Tensor], count: usize) -> Result<Vec<u32>, CallError> {
    let bytes = output(tensors, "token_ids", DataType::I64, count)?;
    let ids = bytes.as_chunks::<8>().0.iter().map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)));
    ids.collect::<Result<_, _>>().map_err(|_| fault("a token id that is none"))
}

/// Positions of the scores, the highest first; those that are equal keep their order.
pub(super) fn falling(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The worker and this server disagree.
pub(super) fn fault(what: &str) -> CallError {
    CallError::Internal { what: format!("the worker returned {what}") }
}

fn output<'a>(tensors: &'a [Tensor], name: &str, data_type: DataType, count: usize) -> Result<&'a [u8], CallError> {
    let element = if data_type == DataType::I64 { 8 } else { 4 };
    let fits = |tensor: &&Tensor| {
        *tensor.name == *name && tensor.data_type == data_type && tensor.data.len() == count * element
    };
    let tensor = tensors.iter().find(fits).ok_or_else(|| fault(&format!("no `{name}` of {count} numbers")))?;
    Ok(&tensor.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, data_type: DataType, data: Vec<u8>) -> Tensor {
        Tensor { name: name.into(), data_type, shape: vec![-1], data: data.into() }
    }

    #[test]
    fn the_highest_come_first_and_equals_keep_their_order() {
        assert_eq!(falling(&[0.1, 0.7, 0.1, f32::NEG_INFINITY, 0.7]), [1, 4, 0, 2, 3]);
    }

    #[test]
    fn outputs_of_another_name_type_or_size_are_the_workers_fault() {
        let good = tensor("scores", DataType::F32, 1.5_f32.to_le_bytes().into());
        assert_eq!(scores(std::slice::from_ref(&good), 1), Ok(vec![1.5]));
        let others = [
            Tensor { name: "logits".into(), ..good.clone() },
            Tensor { data_type: DataType::I32, ..good.clone() },
            Tensor { data: vec![0; 5].into(), ..good },
        ];
        for other in others {
            assert!(matches!(scores(&[other], 1), Err(CallError::Internal { .. })));
        }
        let ids = |id: i64| token_ids(&[tensor("token_ids", DataType::I64, id.to_le_bytes().into())], 1);
        assert_eq!(ids(7), Ok(vec![7]));
        assert!(matches!(ids(-1), Err(CallError::Internal { .. })));
    }
}
