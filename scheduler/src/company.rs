//! What other schedulers are going to put into the same batch.

use crate::cost::Size;

/// How much the others have waiting of the model a batch is formed of, beside what waits here.
///
/// A worker that serves several schedulers runs what each of them sends in one turn as one batch. Calls come to them at
/// random, so that what one of them has is a sample of what all have: who takes a part of its own queue may take it that
/// the others take the same part of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Company {
    own: Size,
    others: Size,
}

impl Company {
    /// Nobody else's.
    pub(crate) const NONE: Self =
        Self { own: Size { rows: 0, tokens: 0, squares: 0 }, others: Size { rows: 0, tokens: 0, squares: 0 } };

    /// Of so much of one's own there is so much of others'.
    pub(crate) fn new(own: Size, others: Size) -> Self {
        Self { own, others }
    }

    /// Whether nobody else puts anything into it.
    pub(crate) fn is_none(&self) -> bool {
        self.others.rows == 0
    }

    /// The whole batch of which `size` is one's own.
    pub(crate) fn with(&self, size: Size) -> Size {
        if self.is_none() {
            return size;
        }
        let part = |of: u64, own: u64, others: u64| {
            // Nobody's rows are known by their tokens alone.
            let (of, own) = if own == 0 { (size.rows, self.own.rows.max(1)) } else { (of, own) };
            u64::try_from(u128::from(others) * u128::from(of) / u128::from(own)).unwrap_or(u64::MAX)
        };
        let mut whole = size;
        whole.add(Size {
            rows: part(size.rows, self.own.rows, self.others.rows),
            tokens: part(size.tokens, self.own.tokens, self.others.tokens),
            squares: part(size.squares, self.own.squares, self.others.squares),
        });
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_take_the_same_part_of_theirs() {
        let size = |rows, tokens| Size { rows, tokens, squares: tokens * 10 };
        let company = Company::new(size(10, 100), size(30, 600));
        assert_eq!(company.with(size(10, 100)), size(40, 700));
        assert_eq!(company.with(size(5, 50)), size(20, 350));
        assert_eq!(company.with(size(0, 0)), size(0, 0));
    }

    #[test]
    fn one_alone_takes_what_it_takes() {
        let size = Size { rows: 3, tokens: 7, squares: 9 };
        assert_eq!(Company::NONE.with(size), size);
        assert_eq!(Company::new(size, Size::default()).with(size), size);
    }
}
