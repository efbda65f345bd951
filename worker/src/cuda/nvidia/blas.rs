//! Matrix products, which are cublasLt's.
//!
//! cublasLt counts columns first, so what is row-major here is transposed to it: with the weight as its first operand,
//! transposed back, and the input as its second, its `outputs × rows` result is our `[rows, outputs]`.
//!
//! A row of a product must not depend on what else is in its batch. So one algorithm is chosen for each product of a
//! plan, whatever its rows, and none that splits sums among blocks.

mod describe;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::sys::{
    self as lt, cublasLtEpilogue_t as LtEpilogue, cublasLtMatmulAlgo_t as Algorithm,
    cublasLtMatmulAlgoConfigAttributes_t as Setting, cublasLtMatmulDescAttributes_t as DescriptionAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasStatus_t as Status,
};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use self::describe::{Description, Layout, Preference};
use super::DriverError;
use crate::cuda::driver::{Epilogue, Product};
use crate::cuda::element::Element;

/// What algorithms are chosen for: about what a busy worker's batch has.
const TYPICAL_ROWS: usize = 2048;
/// Algorithms that are looked at, the fastest by the library's reckoning first.
const CANDIDATES: usize = 16;
/// The library's word for an operand that is used transposed.
const TRANSPOSED: i32 = 1;
/// More than this is of no use to it.
const ALIGNMENT_MAX: u64 = 256;

/// cublasLt, and all it was asked to compute so far.
#[derive(Debug)]
pub(super) struct Products {
    handle: lt::cublasLtHandle_t,
    /// Bytes that a stream lends to each product.
    workspace_bytes: usize,
    prepared: HashMap<Form, Prepared>,
}

/// A call that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: Status,
    doing: &'static str,
}

/// All of a product but its rows and where its operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    outputs: usize,
    inputs: usize,
    epilogue: Epilogue,
    has_bias: bool,
    has_residual: bool,
    of: Element,
    into: Element,
    /// Of all matrices, bytes.
    alignment: u32,
}

/// A form, as cublasLt has it.
#[derive(Debug)]
struct Prepared {
    description: Description,
    weight: Layout,
    input: Layout,
    output: Layout,
    algorithm: Algorithm,
    /// Rows that it can be used for.
    checked: HashSet<usize>,
    /// What is used instead for rows that it cannot be used for.
    others: HashMap<usize, Algorithm>,
}

impl Refusal {
    pub(super) fn error(self) -> DriverError {
        match self.status {
            Status::CUBLAS_STATUS_ALLOC_FAILED => DriverError::OutOfMemory { bytes: 0 },
            status => DriverError::Failed(format!("while {}: cublasLt answers {status:?}", self.doing)),
        }
    }
}

impl Products {
    /// In the context that is this thread's, as in all that follows.
    pub(super) fn new(workspace_bytes: usize) -> Result<Self, Refusal> {
        let mut handle = ptr::null_mut();
        // SAFETY: the library is there, and the handle is written during the call only.
        done(unsafe { lt::cublasLtCreate(&raw mut handle) }, "opening cublasLt")?;
        Ok(Self { handle, workspace_bytes, prepared: HashMap::new() })
    }

    /// Gives a product to a stream. Its operands were checked, and it has rows.
    ///
    /// While the stream is captured as little as possible is asked of the library: from 13.3 on it does not choose
    /// algorithms then.
    ///
    /// # Safety
    /// Operands and workspace stay until the stream is done with it, and nobody else uses the workspace meanwhile.
    pub(super) unsafe fn multiply(
        &mut self,
        stream: CUstream,
        workspace: CUdeviceptr,
        is_captured: bool,
        product: &Product,
    ) -> Result<(), Refusal> {
        let form = Form::of(product);
        if !self.prepared.contains_key(&form) {
            let prepared = Prepared::new(self.handle, form, product, self.workspace_bytes)?;
            self.prepared.insert(form, prepared);
        }
        let prepared = self.prepared.get_mut(&form).expect("it was just put there");
        prepared.description.set_bias(product)?;
        prepared.set_rows(product.rows)?;
        let algorithm = prepared.algorithm(self.handle, form, product.rows, self.workspace_bytes, is_captured)?;
        // A residual is of the same layout as the output, which stands in for one that is multiplied by 0 and not read.
        let (one, of_residual) = (1.0f32, if form.has_residual { 1.0f32 } else { 0.0 });
        let output = product.output.address as *mut c_void;
        let residual = product.residual.unwrap_or(product.output).address as *const c_void;
        // SAFETY: all handles are alive, and layouts say what the operands were checked to be; that these stay is the
        // caller's promise. The two factors are read during the call only.
        let given = unsafe {
            lt::cublasLtMatmul(
                self.handle,
                prepared.description.0,
                (&raw const one).cast(),
                product.weight.address as *const c_void,
                prepared.weight.0,
                product.input.address as *const c_void,
                prepared.input.0,
                (&raw const of_residual).cast(),
                residual,
                prepared.output.0,
                output,
                prepared.output.0,
                &raw const algorithm,
                workspace as *mut c_void,
                self.workspace_bytes,
                stream.cast(),
            )
        };
        done(given, "multiplying")
    }

    /// Lets go of a broken context's products without a word to the library.
    pub(super) fn abandon(&mut self) {
        std::mem::forget(std::mem::take(&mut self.prepared));
        self.handle = ptr::null_mut();
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            self.prepared.clear();
            // SAFETY: it was made in `new`, and all streams are done with what was computed by it.
            let destroyed = done(unsafe { lt::cublasLtDestroy(self.handle) }, "closing cublasLt");
            super::warn_of(destroyed.map_err(Refusal::error));
        }
    }
}

impl Form {
    fn of(product: &Product) -> Self {
        let residual = product.residual.map_or(0, |residual| residual.address);
        let addresses = product.input.address | product.weight.address | residual | product.output.address;
        // The lowest bit that any of them has.
        let alignment = 1 << (addresses | ALIGNMENT_MAX).trailing_zeros();
        Self {
            outputs: product.outputs,
            inputs: product.inputs,
            epilogue: product.epilogue,
            has_bias: product.bias.is_some(),
            has_residual: product.residual.is_some(),
            of: product.of,
            into: product.into,
            alignment,
        }
    }
}

impl Prepared {
    /// `product` is one of this form: with a bias, cublasLt wants to see one before it answers.
    fn new(handle: lt::cublasLtHandle_t, form: Form, product: &Product, workspace: usize) -> Result<Self, Refusal> {
        let Form { outputs, inputs, of, into, .. } = form;
        let description = Description::new()?;
        description.set(DescriptionAttribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
        let epilogue = epilogue(form.epilogue, form.has_bias) as u32;
        description.set(DescriptionAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        // A bias is of the output's kind unless something else is said, and for these operands nothing else can be.
        description.set_bias(product)?;
        let mut this = Self {
            description,
            weight: Layout::new(of, inputs, outputs)?,
            input: Layout::new(of, inputs, TYPICAL_ROWS)?,
            output: Layout::new(into, outputs, TYPICAL_ROWS)?,
            algorithm: Algorithm { data: [0; 8] },
            checked: HashSet::new(),
            others: HashMap::new(),
        };
        this.algorithm = this.search(handle, form, workspace)?;
        Ok(this)
    }

    fn set_rows(&self, rows: usize) -> Result<(), Refusal> {
        self.input.set_columns(rows)?;
        self.output.set_columns(rows)
    }

    /// What is used for so many rows, which were just set.
    fn algorithm(
        &mut self,
        handle: lt::cublasLtHandle_t,
        form: Form,
        rows: usize,
        workspace: usize,
        is_captured: bool,
    ) -> Result<Algorithm, Refusal> {
        if let Some(other) = self.others.get(&rows) {
            return Ok(*other);
        }
        // If it is captured unchecked and impossible, the product is refused.
        if is_captured || self.checked.contains(&rows) {
            return Ok(self.algorithm);
        }
        if self.is_possible(handle, workspace) {
            self.checked.insert(rows);
            return Ok(self.algorithm);
        }
        let other = self.search(handle, form, workspace)?;
        tracing::debug!(?form, rows, "another algorithm than for other batches");
        self.others.insert(rows, other);
        Ok(other)
    }

    /// Whether the form's algorithm can be used for the rows that are set.
    fn is_possible(&self, handle: lt::cublasLtHandle_t, workspace: usize) -> bool {
        let mut found = no_result();
        // SAFETY: all handles are alive, and the result is written during the call only.
        let checked = unsafe {
            lt::cublasLtMatmulAlgoCheck(
                handle,
                self.description.0,
                self.weight.0,
                self.input.0,
                self.output.0,
                self.output.0,
                &raw const self.algorithm,
                &raw mut found,
            )
        };
        checked == Status::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= workspace
    }

    /// The fastest algorithm, by the library's reckoning, for the rows that are set, of those that add up a sum in one
    /// block.
    fn search(&self, handle: lt::cublasLtHandle_t, form: Form, workspace: usize) -> Result<Algorithm, Refusal> {
        let preference = Preference::new()?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace as u64)?;
        let none = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, none)?;
        for attribute in [
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(attribute, form.alignment)?;
        }
        let mut found = [no_result(); CANDIDATES];
        let mut count = 0;
        // SAFETY: all handles are alive; there is room for as many results as said, and all is written during the call
        // only.
        let asked = unsafe {
            lt::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.description.0,
                self.weight.0,
                self.input.0,
                self.output.0,
                self.output.0,
                preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        let doing = "choosing how to multiply";
        done(asked, doing)?;
        let found = found.iter().take(usize::try_from(count).unwrap_or_default());
        let mut possible = found.filter(|result| {
            result.state == Status::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace && is_whole(&result.algo)
        });
        let algorithm = possible.next().map(|result| result.algo);
        algorithm.ok_or(Refusal { status: Status::CUBLAS_STATUS_NOT_SUPPORTED, doing })
    }
}

/// Whether an algorithm adds up each sum in one block.
fn is_whole(algorithm: &Algorithm) -> bool {
    let read = |setting| {
        let (mut number, mut written) = (0i32, 0usize);
        // SAFETY: these settings are numbers of 32 bits, and all is written during the call only.
        let read = unsafe {
            lt::cublasLtMatmulAlgoConfigGetAttribute(
                &raw const *algorithm,
                setting,
                (&raw mut number).cast(),
                size_of::<i32>(),
                &raw mut written,
            )
        };
        (read == Status::CUBLAS_STATUS_SUCCESS).then_some(number)
    };
    read(Setting::CUBLASLT_ALGO_CONFIG_SPLITK_NUM).is_some_and(|pieces| pieces <= 1)
        && read(Setting::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)
            == Some(lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as i32)
}

/// The library's GELU is the one with a tanh.
fn epilogue(epilogue: Epilogue, has_bias: bool) -> LtEpilogue {
    match (epilogue, has_bias) {
        (Epilogue::Identity, false) => LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT,
        (Epilogue::Identity, true) => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
        (Epilogue::Relu, false) => LtEpilogue::CUBLASLT_EPILOGUE_RELU,
        (Epilogue::Relu, true) => LtEpilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
        (Epilogue::GeluTanh, false) => LtEpilogue::CUBLASLT_EPILOGUE_GELU,
        (Epilogue::GeluTanh, true) => LtEpilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
    }
}

fn no_result() -> lt::cublasLtMatmulHeuristicResult_t {
    lt::cublasLtMatmulHeuristicResult_t {
        algo: Algorithm { data: [0; 8] },
        workspaceSize: 0,
        state: Status::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

fn done(status: Status, doing: &'static str) -> Result<(), Refusal> {
    if status == Status::CUBLAS_STATUS_SUCCESS { Ok(()) } else { Err(Refusal { status, doing }) }
}
