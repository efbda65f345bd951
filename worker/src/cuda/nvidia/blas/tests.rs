use super::*;
use crate::cuda::driver::Span;

/// `[8, 32] · [64, 32]ᵀ` of memory that is nowhere.
fn product() -> Product {
    let span = |address, bytes| Span { address, bytes };
    Product {
        rows: 8,
        outputs: 64,
        inputs: 32,
        of: Element::Bf16,
        input: span(0x1000, 8 * 32 * 2),
        weight: span(0x2000, 64 * 32 * 2),
        bias: Some(span(0x3000, 64 * 2)),
        residual: None,
        epilogue: Epilogue::Identity,
        output: span(0x4000, 8 * 64 * 2),
        into: Element::Bf16,
    }
}

fn shorter(span: Span) -> Span {
    span.part(0..span.bytes - 1)
}

#[test]
fn cuda_products_with_operands_that_are_too_short_are_refused() {
    let whole = product();
    let line = |product: Product| product.check().unwrap_err();
    assert_eq!(whole.check(), Ok(()));
    assert_eq!(Product { bias: None, ..whole }.check(), Ok(()));
    assert_eq!(line(Product { input: shorter(whole.input), ..whole }), "a product's input has 511 bytes of 512");
    assert_eq!(line(Product { weight: shorter(whole.weight), ..whole }), "a product's weight has 4095 bytes of 4096");
    assert_eq!(line(Product { bias: whole.bias.map(shorter), ..whole }), "a product's bias has 127 bytes of 128");
    assert_eq!(line(Product { output: shorter(whole.output), ..whole }), "a product's output has 1023 bytes of 1024");
    let line = line(Product { bias: whole.bias.map(|bias| bias.part(8..128)), outputs: 60, ..whole });
    assert_eq!(line, "a product's bias must begin at a multiple of 16 bytes");
}

#[test]
fn cuda_products_into_float_have_a_bias_in_float() {
    let output = Span { address: 0x4000, bytes: 8 * 64 * 4 };
    let product = Product { into: Element::F32, output, ..product() };
    assert_eq!(product.check().unwrap_err(), "a product's bias has 128 bytes of 256");
    let bias = Some(Span { address: 0x3000, bytes: 64 * 4 });
    assert_eq!(Product { bias, ..product }.check(), Ok(()));
}

#[test]
fn cuda_products_add_a_residual_that_is_their_output_or_apart_from_it() {
    let whole = product();
    let with = |address, bytes| Product { residual: Some(Span { address, bytes }), ..whole };
    assert_eq!(with(0x5000, 1024).check(), Ok(()));
    assert_eq!(Product { residual: Some(whole.output), ..whole }.check(), Ok(()));
    assert_eq!(with(0x5000, 1023).check().unwrap_err(), "a product's residual has 1023 bytes of 1024");
    for address in [0x4000 - 1022, 0x4000 + 1022] {
        let line = with(address, 1024).check().unwrap_err();
        assert_eq!(line, "a product's residual must be its output or apart from it");
    }
}

#[test]
fn cuda_products_of_any_rows_are_of_one_form() {
    let one = Form::of(&product());
    assert_eq!(one.alignment, 256);
    assert_eq!(Form::of(&Product { rows: 7, ..product() }), one);
    assert_ne!(Form::of(&Product { bias: None, ..product() }), one);
    assert_ne!(Form::of(&Product { residual: Some(product().output), ..product() }), one);
    assert_ne!(Form::of(&Product { into: Element::F32, ..product() }), one);
    assert_ne!(Form::of(&Product { of: Element::F16, into: Element::F16, ..product() }), one);
    assert_ne!(Form::of(&Product { epilogue: Epilogue::Relu, ..product() }), one);
    assert_ne!(Form::of(&Product { outputs: 32, ..product() }), one);
    assert_ne!(Form::of(&Product { inputs: 16, ..product() }), one);
}

#[test]
fn cuda_products_promise_no_more_alignment_than_their_matrices_have() {
    let whole = product();
    let input = Span { address: 0x1000 + 32, bytes: 512 };
    assert_eq!(Form::of(&Product { input, ..whole }).alignment, 32);
    let weight = Span { address: 0x2000 + 2, bytes: 4096 };
    assert_eq!(Form::of(&Product { input, weight, ..whole }).alignment, 2);
    let output = Span { address: 0x4000 + 512, bytes: 1024 };
    assert_eq!(Form::of(&Product { output, ..whole }).alignment, 256);
    let residual = Some(Span { address: 0x5000 + 64, bytes: 1024 });
    assert_eq!(Form::of(&Product { residual, ..whole }).alignment, 64);
}

#[test]
fn cuda_epilogues_are_the_librarys() {
    assert_eq!(epilogue(Epilogue::Identity, false), LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT);
    for (ours, without, with) in [
        (Epilogue::Relu, LtEpilogue::CUBLASLT_EPILOGUE_RELU, LtEpilogue::CUBLASLT_EPILOGUE_RELU_BIAS),
        (Epilogue::GeluTanh, LtEpilogue::CUBLASLT_EPILOGUE_GELU, LtEpilogue::CUBLASLT_EPILOGUE_GELU_BIAS),
    ] {
        assert_eq!((epilogue(ours, false), epilogue(ours, true)), (without, with));
        assert_eq!(without as u32 | LtEpilogue::CUBLASLT_EPILOGUE_BIAS as u32, with as u32);
    }
}

#[test]
fn cuda_refusals_of_products_say_what_was_being_done() {
    let refusal = done(Status::CUBLAS_STATUS_NOT_SUPPORTED, "multiplying").unwrap_err();
    let line = "while multiplying: cublasLt answers CUBLAS_STATUS_NOT_SUPPORTED";
    assert_eq!(refusal.error(), DriverError::Failed(line.into()));
    let refusal = done(Status::CUBLAS_STATUS_ALLOC_FAILED, "opening cublasLt").unwrap_err();
    assert_eq!(refusal.error(), DriverError::OutOfMemory { bytes: 0 });
}
