//! How architectures write their plans: one call an op, from the input to the output.

use super::{
    Activation, Buffer, BufferId, Heads, Mask, Norm, NormKind, Op, Plan, Pooling, Rows, Tensor, Weight, WeightId,
};

/// A plan being written.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    buffers: Vec<Buffer>,
    weights: Vec<Weight>,
    ops: Vec<Op>,
}

/// A dense layer: `activation(x · weightᵀ + bias)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense {
    pub(crate) weight: WeightId,
    pub(crate) bias: Option<WeightId>,
    pub(crate) activation: Activation,
}

impl Builder {
    /// A weight by its tensors, each of the same shape, one below the other. The same weight again has the same id.
    pub(crate) fn weight(&mut self, names: &[String], shape: &[usize], skip: usize) -> WeightId {
        let tensor = |name: &String| Tensor { name: name.clone(), shape: shape.to_vec() };
        self.add(Weight { tensors: names.iter().map(tensor).collect(), skip })
    }

    fn add(&mut self, weight: Weight) -> WeightId {
        let known = self.weights.iter().position(|known| *known == weight);
        WeightId(known.unwrap_or_else(|| {
            self.weights.push(weight);
            self.weights.len() - 1
        }))
    }

    /// `NAME.weight` and `NAME.bias` of a dense layer.
    pub(crate) fn dense(&mut self, name: &str, (outputs, inputs): (usize, usize), activation: Activation) -> Dense {
        self.stacked(&[name.to_owned()], (outputs, inputs), activation)
    }

    /// A dense layer that may have no bias, and does nothing behind its product: of one or several with the same input, each
    /// by its name and outputs.
    pub(crate) fn linear(&mut self, parts: &[(String, usize)], inputs: usize, has_bias: bool) -> Dense {
        let mut add = |kind: &str, shape: fn(usize, usize) -> Vec<usize>| {
            let tensor = |(name, outputs): &(String, usize)| Tensor {
                name: format!("{name}.{kind}"),
                shape: shape(*outputs, inputs),
            };
            self.add(Weight { tensors: parts.iter().map(tensor).collect(), skip: 0 })
        };
        let weight = add("weight", |outputs, inputs| vec![outputs, inputs]);
        let bias = has_bias.then(|| add("bias", |outputs, _| vec![outputs]));
        Dense { weight, bias, activation: Activation::Identity }
    }

    /// Several dense layers of the same shape and input as one.
    pub(crate) fn stacked(&mut self, names: &[String], shape: (usize, usize), activation: Activation) -> Dense {
        let parts: Vec<_> = names.iter().map(|name| (name.clone(), shape.0)).collect();
        Dense { activation, ..self.linear(&parts, shape.1, true) }
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm.
    pub(crate) fn norm(&mut self, name: &str, width: usize, epsilon: f32) -> Norm {
        let norm = self.gain(name, width, NormKind::Layer, epsilon);
        Norm { shift: Some(self.weight(&[format!("{name}.bias")], &[width], 0)), ..norm }
    }

    /// `NAME.weight` of a norm without a shift.
    pub(crate) fn gain(&mut self, name: &str, width: usize, kind: NormKind, epsilon: f32) -> Norm {
        Norm { kind, gain: self.weight(&[format!("{name}.weight")], &[width], 0), shift: None, epsilon }
    }

    /// The vectors of all tokens.
    pub(crate) fn embed(
        &mut self,
        words: WeightId,
        positions: Option<WeightId>,
        types: Option<WeightId>,
        norm: Option<Norm>,
    ) -> BufferId {
        let width = self.weights[words.0].size().1;
        let output = self.buffer("embeddings", Rows::Tokens, width);
        self.ops.push(Op::Embed { words, positions, types, norm, output });
        output
    }

    pub(crate) fn gemm(&mut self, name: &str, input: BufferId, dense: Dense) -> BufferId {
        self.gemm_onto(name, input, dense, None)
    }

    /// A dense layer, added to what there was.
    pub(crate) fn gemm_onto(
        &mut self,
        name: &str,
        input: BufferId,
        dense: Dense,
        residual: Option<BufferId>,
    ) -> BufferId {
        let Dense { weight, bias, activation } = dense;
        let output = self.buffer(name, self.buffers[input.0].rows, self.weights[weight.0].size().0);
        self.ops.push(Op::Gemm { input, weight, bias, activation, residual, output });
        output
    }

    pub(crate) fn gate(&mut self, name: &str, input: BufferId, activation: Activation) -> BufferId {
        let Buffer { rows, width, .. } = self.buffers[input.0];
        let output = self.buffer(name, rows, width / 2);
        self.ops.push(Op::Gate { input, activation, output });
        output
    }

    pub(crate) fn rotate(
        &mut self,
        name: &str,
        qkv: BufferId,
        heads: Heads,
        norms: Option<[Norm; 2]>,
        base: f32,
    ) -> BufferId {
        let output = self.buffer(name, Rows::Tokens, self.buffers[qkv.0].width);
        self.ops.push(Op::Rotate { qkv, heads, norms, base, output });
        output
    }

    /// Attention with scores divided by the square root of a head's width.
    pub(crate) fn attend(&mut self, name: &str, qkv: BufferId, heads: Heads, mask: Mask) -> BufferId {
        let output = self.buffer(name, Rows::Tokens, heads.queries());
        self.ops.push(Op::Attend { qkv, heads, mask, scale: 1.0 / (heads.width as f32).sqrt(), output });
        output
    }

    pub(crate) fn add_norm(&mut self, name: &str, input: BufferId, residual: Option<BufferId>, norm: Norm) -> BufferId {
        let Buffer { rows, width, .. } = self.buffers[input.0];
        let output = self.buffer(name, rows, width);
        self.ops.push(Op::AddNorm { input, residual, norm, output });
        output
    }

    pub(crate) fn pool(&mut self, input: BufferId, pooling: Pooling) -> BufferId {
        let output = self.buffer("pooled", Rows::Sequences, self.buffers[input.0].width);
        self.ops.push(Op::Pool { input, pooling, output });
        output
    }

    pub(crate) fn pick(&mut self, input: BufferId) -> BufferId {
        let output = self.buffer("picked", Rows::Marks, self.buffers[input.0].width);
        self.ops.push(Op::Pick { input, output });
        output
    }

    pub(crate) fn finish(self, output: BufferId) -> Plan {
        let Self { buffers, weights, ops } = self;
        Plan { buffers, weights, ops, output }
    }

    fn buffer(&mut self, name: &str, rows: Rows, width: usize) -> BufferId {
        self.buffers.push(Buffer { name: name.to_owned(), rows, width });
        BufferId(self.buffers.len() - 1)
    }
}
