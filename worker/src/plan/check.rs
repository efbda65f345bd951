//! What makes a list of ops a plan that can run.

use super::{BufferId, Heads, Norm, Op, Plan, Rows, Tensor, Weight, WeightId};

/// Why a list of ops is no plan. A mistake of whoever wrote the architecture, never of a model's files.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("op {op} ({name}): {problem}")]
    Op { op: usize, name: &'static str, problem: String },
    #[error("buffer `{0}` is written by no op")]
    Unwritten(String),
    #[error("buffer `{0}` is read by no op and is not the output")]
    Unread(String),
    #[error("weight `{0}` is read by no op")]
    Idle(String),
    #[error("tensors of weight `{0}` do not fit below each other")]
    Uneven(String),
}

impl Plan {
    /// Checks ids, shapes and the order of writes and reads.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let mut written = vec![false; self.buffers.len()];
        let mut read = vec![false; self.buffers.len()];
        let mut used = vec![false; self.weights.len()];
        // Vectors go behind each other, matrices below each other.
        let columns = |tensor: &Tensor| tensor.shape.get(1).copied();
        let is_even = |weight: &Weight| {
            let first = columns(&weight.tensors[0]);
            weight.tensors.iter().all(|tensor| columns(tensor) == first && matches!(tensor.shape.len(), 1 | 2))
        };
        if let Some(uneven) = self.weights.iter().find(|weight| !is_even(weight)) {
            return Err(PlanError::Uneven(names(uneven)));
        }
        for (index, op) in self.ops.iter().enumerate() {
            let failed = |problem| PlanError::Op { op: index, name: op.name(), problem };
            for BufferId(buffer) in op.inputs() {
                match written.get(buffer) {
                    Some(true) => read[buffer] = true,
                    Some(false) => {
                        return Err(failed(format!("reads `{}` before it is written", self.buffers[buffer].name)));
                    }
                    None => return Err(failed(format!("reads buffer {buffer} of {}", written.len()))),
                }
            }
            for WeightId(weight) in op.weights() {
                *used
                    .get_mut(weight)
                    .ok_or_else(|| failed(format!("reads weight {weight} of {}", self.weights.len())))? = true;
            }
            let BufferId(output) = op.output();
            match written.get_mut(output) {
                Some(written @ false) => *written = true,
                Some(true) => return Err(failed(format!("writes `{}` again", self.buffers[output].name))),
                None => return Err(failed(format!("writes buffer {output} of {}", self.buffers.len()))),
            }
            self.check_shapes(op).map_err(failed)?;
        }
        if let Some(unwritten) = written.iter().position(|written| !written) {
            return Err(PlanError::Unwritten(self.buffers[unwritten].name.clone()));
        }
        read[self.output.0] = true;
        if let Some(unread) = read.iter().position(|read| !read) {
            return Err(PlanError::Unread(self.buffers[unread].name.clone()));
        }
        match used.iter().position(|used| !used) {
            Some(idle) => Err(PlanError::Idle(names(&self.weights[idle]))),
            None => Ok(()),
        }
    }

    fn check_shapes(&self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Embed { words, positions, types, norm, output } => {
                let width = self.expect(output, Rows::Tokens, None)?;
                self.expect_table("words", words, width)?;
                positions.map_or(Ok(()), |positions| self.expect_table("positions", positions, width))?;
                types.map_or(Ok(()), |types| self.expect_table("types", types, width))?;
                norm.map_or(Ok(()), |norm| self.expect_norm(norm, width))
            }
            Op::Gemm { input, weight, bias, residual, output, .. } => {
                let (rows, inputs) = (self[input].rows, self[input].width);
                let outputs = self.expect(output, rows, None)?;
                let found = self[weight].size();
                if found != (outputs, inputs) {
                    return Err(format!("the weight is {found:?}, not {:?}", (outputs, inputs)));
                }
                residual.map_or(Ok(0), |residual| self.expect(residual, rows, Some(outputs)))?;
                bias.map_or(Ok(()), |bias| self.expect_vector("bias", bias, outputs))
            }
            Op::Gate { input, output, .. } => {
                let rows = self[input].rows;
                let width = self.expect(output, rows, None)?;
                self.expect(input, rows, Some(2 * width)).map(drop)
            }
            Op::Rotate { qkv, heads, norms, output, .. } => {
                self.expect_heads(heads)?;
                if !heads.width.is_multiple_of(2) {
                    return Err(format!("heads of {} have no halves", heads.width));
                }
                norms.into_iter().flatten().try_for_each(|norm| self.expect_norm(norm, heads.width))?;
                self.expect(qkv, Rows::Tokens, Some(heads.row()))?;
                self.expect(output, Rows::Tokens, Some(heads.row())).map(drop)
            }
            Op::Attend { qkv, heads, output, .. } => {
                self.expect_heads(heads)?;
                let turned = self.ops.iter().find_map(|op| match op {
                    Op::Rotate { heads, output, .. } if *output == qkv => Some(*heads),
                    _ => None,
                });
                if let Some(turned) = turned.filter(|turned| *turned != heads) {
                    return Err(format!("looks with {heads:?}, but {turned:?} were turned"));
                }
                self.expect(qkv, Rows::Tokens, Some(heads.row()))?;
                self.expect(output, Rows::Tokens, Some(heads.queries())).map(drop)
            }
            Op::AddNorm { input, residual, norm, output } => {
                let (rows, width) = (self[input].rows, self[input].width);
                self.expect(output, rows, Some(width))?;
                residual.map_or(Ok(width), |residual| self.expect(residual, rows, Some(width)))?;
                self.expect_norm(norm, width)
            }
            Op::Pool { input, output, .. } => {
                let width = self.expect(input, Rows::Tokens, None)?;
                self.expect(output, Rows::Sequences, Some(width)).map(drop)
            }
            Op::Pick { input, output } => {
                let width = self.expect(input, Rows::Tokens, None)?;
                self.expect(output, Rows::Marks, Some(width)).map(drop)
            }
        }
    }

    /// A buffer of these rows and, if given, this width; says its width.
    fn expect(&self, id: BufferId, rows: Rows, width: Option<usize>) -> Result<usize, String> {
        let buffer = &self[id];
        if buffer.rows != rows || buffer.width == 0 || width.is_some_and(|width| width != buffer.width) {
            let wanted = width.map_or("any".to_owned(), |width| width.to_string());
            let (name, found, has) = (&buffer.name, buffer.width, buffer.rows);
            return Err(format!("`{name}` is [{has:?}, {found}], not [{rows:?}, {wanted}]"));
        }
        Ok(buffer.width)
    }

    fn expect_table(&self, what: &str, id: WeightId, width: usize) -> Result<(), String> {
        match self[id].size() {
            (rows, columns) if rows > 0 && columns == width => Ok(()),
            found => Err(format!("{what} are {found:?}, but rows are {width} wide")),
        }
    }

    fn expect_vector(&self, what: &str, id: WeightId, width: usize) -> Result<(), String> {
        match self[id].size() {
            (1, columns) if columns == width => Ok(()),
            found => Err(format!("the {what} is {found:?}, not {width} long")),
        }
    }

    fn expect_norm(&self, norm: Norm, width: usize) -> Result<(), String> {
        self.expect_vector("gain", norm.gain, width)?;
        norm.shift.map_or(Ok(()), |shift| self.expect_vector("shift", shift, width))
    }

    fn expect_heads(&self, heads: Heads) -> Result<(), String> {
        let Heads { count, shared, width } = heads;
        if count == 0 || width == 0 || shared == 0 || !count.is_multiple_of(shared) {
            return Err(format!("{count} heads of {width} cannot share {shared} of keys and values"));
        }
        Ok(())
    }
}

/// What a weight is made of.
fn names(weight: &Weight) -> String {
    weight.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(" + ")
}
