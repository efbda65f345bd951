//! What cublasLt is told: what is computed, of which matrices, by what kind of algorithm.

use std::ptr;

use cudarc::cublaslt::sys::{
    self as lt, cublasLtMatmulDescAttributes_t as DescriptionAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasStatus_t as Status,
};

use super::{Refusal, done};
use crate::cuda::driver::Product;
use crate::cuda::element::Element;

/// What is computed.
#[derive(Debug)]
pub(super) struct Description(pub(super) lt::cublasLtMatmulDesc_t);

impl Description {
    /// With sums in f32: of numbers that are f32 all digits count, which tensor cores would not read.
    pub(super) fn new() -> Result<Self, Refusal> {
        let mut raw = ptr::null_mut();
        let (compute, scale) = (lt::cublasComputeType_t::CUBLAS_COMPUTE_32F, lt::cudaDataType::CUDA_R_32F);
        // SAFETY: it is written during the call only.
        done(unsafe { lt::cublasLtMatmulDescCreate(&raw mut raw, compute, scale) }, "describing a product")?;
        Ok(Self(raw))
    }

    pub(super) fn set<T: Copy>(&self, attribute: DescriptionAttribute, value: T) -> Result<(), Refusal> {
        // SAFETY: it is alive. The value is read during the call only, and the library refuses one of another size than
        // it wants.
        let set =
            unsafe { lt::cublasLtMatmulDescSetAttribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) };
        done(set, "describing a product")
    }

    pub(super) fn set_bias(&self, product: &Product) -> Result<(), Refusal> {
        match product.bias {
            Some(bias) => self.set(DescriptionAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.address),
            None => Ok(()),
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it was made in `new`, and calls that used it are over.
        let _: Status = unsafe { lt::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// What a matrix is like, column after column.
#[derive(Debug)]
pub(super) struct Layout(pub(super) lt::cublasLtMatrixLayout_t);

impl Layout {
    pub(super) fn new(element: Element, rows: usize, columns: usize) -> Result<Self, Refusal> {
        let kind = match element {
            Element::Bf16 => lt::cudaDataType::CUDA_R_16BF,
            Element::F16 => lt::cudaDataType::CUDA_R_16F,
            Element::F32 => lt::cudaDataType::CUDA_R_32F,
        };
        let mut raw = ptr::null_mut();
        // SAFETY: it is written during the call only.
        let made =
            unsafe { lt::cublasLtMatrixLayoutCreate(&raw mut raw, kind, rows as u64, columns as u64, rows as i64) };
        done(made, "describing a matrix")?;
        Ok(Self(raw))
    }

    pub(super) fn set_columns(&self, columns: usize) -> Result<(), Refusal> {
        let columns = columns as u64;
        let attribute = lt::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS;
        // SAFETY: it is alive, and this attribute is a number of 64 bits, which is read during the call only.
        let set = unsafe {
            lt::cublasLtMatrixLayoutSetAttribute(self.0, attribute, (&raw const columns).cast(), size_of::<u64>())
        };
        done(set, "describing a matrix")
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it was made in `new`, and calls that used it are over.
        let _: Status = unsafe { lt::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// What an algorithm must be like.
#[derive(Debug)]
pub(super) struct Preference(pub(super) lt::cublasLtMatmulPreference_t);

impl Preference {
    pub(super) fn new() -> Result<Self, Refusal> {
        let mut raw = ptr::null_mut();
        // SAFETY: it is written during the call only.
        done(unsafe { lt::cublasLtMatmulPreferenceCreate(&raw mut raw) }, "choosing how to multiply")?;
        Ok(Self(raw))
    }

    pub(super) fn set<T: Copy>(&self, attribute: PreferenceAttribute, value: T) -> Result<(), Refusal> {
        // SAFETY: as for a description.
        let set = unsafe {
            lt::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, (&raw const value).cast(), size_of::<T>())
        };
        done(set, "choosing how to multiply")
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made in `new`, and calls that used it are over.
        let _: Status = unsafe { lt::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}
