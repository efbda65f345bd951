//! Token ids that a caller made itself: what they must obey, whatever wire they came by.

use bytes::{BufMut as _, BytesMut};

/// What the ids of one row must obey.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdRules {
    /// Ids in a row at most.
    pub(crate) tokens_max: u32,
    /// Ids are in `[0, vocabulary)`.
    pub(crate) vocabulary: u32,
}

impl IdRules {
    /// The tokens of a row of so many ids.
    ///
    /// # Errors
    /// Says what is wrong with that number.
    pub(crate) fn tokens(&self, count: usize) -> Result<u32, String> {
        match u32::try_from(count) {
            Ok(0) => Err("has no tokens".to_owned()),
            Ok(tokens) if tokens <= self.tokens_max => Ok(tokens),
            _ => Err(format!("has {count} tokens, and the model takes {}", self.tokens_max)),
        }
    }

    /// Puts an id, which came at `position`, at the end of a row's column.
    ///
    /// # Errors
    /// Says which id is out of range.
    pub(crate) fn put(&self, column: &mut BytesMut, position: usize, id: i64) -> Result<(), String> {
        match u32::try_from(id) {
            // A vocabulary is below `i32::MAX`, so that the bytes are those of an I32.
            Ok(id) if id < self.vocabulary => {
                column.put_u32_le(id);
                Ok(())
            }
            _ => Err(format!("position {position}: {id} is not in [0, {})", self.vocabulary)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: IdRules = IdRules { tokens_max: 2, vocabulary: 10 };

    #[test]
    fn a_row_has_a_token_and_no_more_than_the_model_takes() {
        assert_eq!(RULES.tokens(0), Err("has no tokens".into()));
        assert_eq!(RULES.tokens(2), Ok(2));
        assert_eq!(RULES.tokens(3), Err("has 3 tokens, and the model takes 2".into()));
        assert!(RULES.tokens(usize::MAX).is_err());
    }

    #[test]
    fn ids_are_packed_as_i32_and_those_out_of_range_are_named() {
        let mut column = BytesMut::new();
        RULES.put(&mut column, 0, 9).expect("in range");
        assert_eq!(column[..], 9_i32.to_le_bytes());
        for id in [-1, 10, i64::MAX] {
            assert_eq!(RULES.put(&mut column, 4, id), Err(format!("position 4: {id} is not in [0, 10)")));
        }
        assert_eq!(column.len(), 4);
    }
}
