//! On a GPU, if there is one. A test without it says that it was skipped, and fails where `SHOAL_TEST_GPU=required`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use half::bf16;
use tempfile::TempDir;

use super::*;
use crate::cuda::driver::{Epilogue, Kernel};
use crate::cuda::element::Element;
use crate::cuda::sources::KernelFile;

/// The first GPU and a stream.
struct Gpu {
    driver: Arc<dyn Driver>,
    stream: Stream,
    /// Of compiled kernels.
    _folder: TempDir,
}

impl Gpu {
    fn open() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        match open(0, Some(folder.path())) {
            Ok(driver) => {
                let stream = driver.stream().unwrap();
                Some(Self { driver, stream, _folder: folder })
            }
            Err(error) => {
                let required = std::env::var("SHOAL_TEST_GPU").is_ok_and(|value| value == "required");
                assert!(!required, "a GPU is required: {error}");
                // Past the test harness, which would keep it from being seen.
                let _ = writeln!(std::io::stderr(), "SKIPPED for want of a GPU: {error}");
                None
            }
        }
    }

    fn allocate(&self, bytes: usize) -> Span {
        self.driver.allocate(self.stream, bytes).unwrap()
    }

    /// Device memory with this in it.
    fn upload(&self, bytes: &[u8]) -> Span {
        let (pinned, span) = (self.driver.pin(bytes.len()).unwrap(), self.allocate(bytes.len()));
        // SAFETY: it was just pinned, as long as that, and the driver waits before it is unpinned.
        unsafe {
            pinned.pointer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.driver.copy_in(self.stream, pinned, span).unwrap();
            self.driver.unpin(pinned);
        }
        span
    }

    fn upload_bf16(&self, numbers: &[bf16]) -> Span {
        self.upload(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
    }

    fn download(&self, span: Span) -> Vec<u8> {
        let pinned = self.driver.pin(span.bytes).unwrap();
        let mut bytes = vec![0; span.bytes];
        // SAFETY: it was just pinned, as long as that, and read only when the stream is done.
        unsafe {
            self.driver.copy_out(self.stream, span, pinned).unwrap();
            self.driver.synchronize(self.stream).unwrap();
            pinned.pointer.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
            self.driver.unpin(pinned);
        }
        bytes
    }

    fn release(&self, span: Span) {
        // SAFETY: tests release each once, after the work of their one stream.
        unsafe { self.driver.release(self.stream, span) }
    }

    fn launch(&self, launch: &Launch) -> Result<(), DriverError> {
        // SAFETY: the kernels of tests are given what they take, and its memory stays until it is released in this
        // stream.
        unsafe { self.driver.launch(self.stream, launch) }
    }

    fn multiply(&self, product: &Product) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { self.driver.multiply(self.stream, product) }
    }
}

/// Rows of `pieces` of 16 bytes, those that `marks` says.
fn pick(input: Span, marks: Span, output: Span, rows: u32, pieces: i32) -> Launch {
    let arguments =
        vec![Argument::Input(input), Argument::Input(marks), Argument::Output(output), Argument::Integer(pieces)];
    Launch { kernel: Kernel::plain("pick"), grid: [rows, 1, 1], block: 64, arguments }
}

/// Numbers in about -1 to 1, the same in every run.
fn numbers(seed: u32, count: usize) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn bytes_of(marks: &[u32]) -> Vec<u8> {
    marks.iter().flat_map(|mark| mark.to_le_bytes()).collect()
}

#[test]
fn cuda_gpu_copies_there_and_back() {
    let Some(gpu) = Gpu::open() else { return };
    let bytes: Vec<u8> = (0..10_007u32).map(|at| (at % 251) as u8).collect();
    let (from, to) = (gpu.upload(&bytes), gpu.allocate(bytes.len()));
    // SAFETY: both stay until they are released in this stream.
    unsafe { gpu.driver.copy(gpu.stream, from, to) }.unwrap();
    let event = gpu.driver.event().unwrap();
    gpu.driver.record(event, gpu.stream).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while !gpu.driver.is_done(event).unwrap() {
        assert!(Instant::now() < end, "ten seconds are enough for a copy");
    }
    gpu.driver.destroy_event(event);
    assert_eq!(gpu.download(to), bytes);
    gpu.release(from);
    gpu.release(to);
}

#[test]
fn cuda_gpu_gives_a_stream_what_another_made() {
    let Some(gpu) = Gpu::open() else { return };
    let other = gpu.driver.stream().unwrap();
    let numbers = numbers(1, 64 * 1024);
    let input = gpu.upload_bf16(&numbers);
    let event = gpu.driver.event().unwrap();
    gpu.driver.record(event, gpu.stream).unwrap();
    gpu.driver.wait(other, event).unwrap();
    let output = gpu.driver.allocate(other, input.bytes).unwrap();
    // SAFETY: both stay until they are released, and the other stream waits for the first.
    unsafe { gpu.driver.copy(other, input, output) }.unwrap();
    gpu.driver.synchronize(other).unwrap();
    assert_eq!(gpu.download(output), gpu.download(input));
    gpu.driver.destroy_event(event);
    gpu.release(input);
    gpu.release(output);
}

#[test]
fn cuda_gpu_runs_a_kernel() {
    let Some(gpu) = Gpu::open() else { return };
    let (rows, width, marks) = (50, 768, [49u32, 0, 7, 7]);
    let matrix = numbers(2, rows * width);
    let (input, marked) = (gpu.upload_bf16(&matrix), gpu.upload(&bytes_of(&marks)));
    let output = gpu.allocate(marks.len() * width * 2);
    gpu.launch(&pick(input, marked, output, marks.len() as u32, (width * 2 / 16) as i32)).unwrap();
    let expected: Vec<u8> = marks
        .iter()
        .flat_map(|mark| &matrix[*mark as usize * width..][..width])
        .flat_map(|number| number.to_le_bytes())
        .collect();
    assert_eq!(gpu.download(output), expected);
    let unknown = Launch { kernel: Kernel::plain("none"), grid: [1; 3], block: 32, arguments: Vec::new() };
    assert_eq!(gpu.launch(&unknown), Err(DriverError::Failed("there is no kernel none".into())));
    for span in [input, marked, output] {
        gpu.release(span);
    }
}

#[test]
fn cuda_gpu_loads_every_kernel() {
    let Some(gpu) = Gpu::open() else { return };
    for kernel in crate::cuda::sources::FILES.iter().flat_map(KernelFile::kernels) {
        // Of no blocks, which is loaded and not run.
        gpu.launch(&Launch { kernel, grid: [0, 1, 1], block: 32, arguments: Vec::new() }).unwrap();
    }
}

/// A product of `rows` rows, by a plain loop.
fn expected(input: &[bf16], weight: &[bf16], bias: &[bf16], inputs: usize, epilogue: Epilogue) -> Vec<f64> {
    let mut expected = Vec::new();
    for row in input.chunks_exact(inputs) {
        for (weight, bias) in weight.chunks_exact(inputs).zip(bias) {
            let sum: f64 = row.iter().zip(weight).map(|(x, w)| x.to_f64() * w.to_f64()).sum();
            let sum = sum + bias.to_f64();
            expected.push(match epilogue {
                Epilogue::Identity => sum,
                Epilogue::Relu => sum.max(0.0),
                Epilogue::GeluTanh => 0.5 * sum * (1.0 + (0.797_884_560_8 * (sum + 0.044_715 * sum.powi(3))).tanh()),
            });
        }
    }
    expected
}

#[test]
fn cuda_gpu_multiplies_as_a_plain_loop_does() {
    let Some(gpu) = Gpu::open() else { return };
    // The second is a head of three classes.
    for (rows, outputs, inputs) in [(77, 256, 384), (9, 3, 64), (1, 1024, 1024)] {
        let (x, w) = (numbers(3, rows * inputs), numbers(4, outputs * inputs));
        let b = numbers(5, outputs);
        let (input, weight) = (gpu.upload_bf16(&x), gpu.upload_bf16(&w));
        for into in [Element::Bf16, Element::F32] {
            let mut bias = vec![0; outputs * into.bytes()];
            into.write(b.iter().map(|b| b.to_f32()), &mut bias);
            let bias = gpu.upload(&bias);
            for epilogue in [Epilogue::Identity, Epilogue::Relu, Epilogue::GeluTanh] {
                for bias in [Some(bias), None] {
                    let output = gpu.allocate(rows * outputs * into.bytes());
                    let (of, residual) = (Element::Bf16, None);
                    let product =
                        Product { rows, outputs, inputs, of, input, weight, bias, residual, epilogue, output, into };
                    gpu.multiply(&product).unwrap_or_else(|error| panic!("{error} of {product:?}"));
                    let got = gpu.download(output);
                    let got: Vec<f64> = into.read(&got).into_iter().map(f64::from).collect();
                    let zeros = vec![bf16::ZERO; outputs];
                    let expected = expected(&x, &w, if bias.is_some() { &b } else { &zeros }, inputs, epilogue);
                    for (got, expected) in got.iter().zip(&expected) {
                        let room = 1e-2 + expected.abs() / 100.0;
                        assert!((got - expected).abs() <= room, "{got}, not {expected}, of {product:?}");
                    }
                    gpu.release(output);
                }
            }
            gpu.release(bias);
        }
        gpu.release(input);
        gpu.release(weight);
    }
}

#[test]
fn cuda_gpu_multiplies_a_row_to_the_same_bits_in_any_batch() {
    let Some(gpu) = Gpu::open() else { return };
    for (outputs, inputs) in [(768, 768), (3072, 768), (768, 3072), (1024, 4096)] {
        let rows_max = 8192;
        let input = gpu.upload_bf16(&numbers(6, rows_max * inputs));
        let weight = gpu.upload_bf16(&numbers(7, outputs * inputs));
        let bias = Some(gpu.upload_bf16(&numbers(8, outputs)));
        let output = gpu.allocate(rows_max * outputs * 2);
        let mut first: Option<Vec<u8>> = None;
        for rows in [rows_max, 1, 2, 3, 8, 17, 64, 100, 128, 300, 512, 1000, 2048, 4095] {
            let (epilogue, into) = (Epilogue::Identity, Element::Bf16);
            let (of, residual) = (Element::Bf16, None);
            let product = Product { rows, outputs, inputs, of, input, weight, bias, residual, epilogue, output, into };
            gpu.multiply(&product).unwrap();
            let got = gpu.download(output.part(0..rows * outputs * 2));
            let first = first.get_or_insert_with(|| got.clone());
            assert!(got == first[..got.len()], "rows of {rows} differ from those of {rows_max}: {outputs}, {inputs}");
        }
        for span in [input, weight, output].into_iter().chain(bias) {
            gpu.release(span);
        }
    }
}

#[test]
fn cuda_gpu_adds_a_residual_to_a_product_there_or_elsewhere_and_to_the_same_bits_in_any_batch() {
    let Some(gpu) = Gpu::open() else { return };
    for (outputs, inputs) in [(768, 1152), (1024, 2048), (1024, 3072)] {
        let rows_max = 1000;
        let (x, w, more) =
            (numbers(11, rows_max * inputs), numbers(12, outputs * inputs), numbers(13, rows_max * outputs));
        let (input, weight, residual) = (gpu.upload_bf16(&x), gpu.upload_bf16(&w), gpu.upload_bf16(&more));
        let apart = gpu.allocate(rows_max * outputs * 2);
        let zeros = vec![bf16::ZERO; outputs];
        let sums = expected(&x[..3 * inputs], &w, &zeros, inputs, Epilogue::Identity);
        let mut first: Option<Vec<u8>> = None;
        for rows in [rows_max, 1, 3, 64, 129] {
            let product = Product {
                rows,
                outputs,
                inputs,
                of: Element::Bf16,
                input,
                weight,
                bias: None,
                residual: Some(residual),
                epilogue: Epilogue::Identity,
                output: apart,
                into: Element::Bf16,
            };
            gpu.multiply(&product).unwrap();
            let got = gpu.download(apart.part(0..rows * outputs * 2));
            let there = gpu.upload_bf16(&more);
            gpu.multiply(&Product { residual: Some(there), output: there, ..product }).unwrap();
            assert!(gpu.download(there.part(0..got.len())) == got, "{rows} rows onto themselves, {outputs}, {inputs}");
            gpu.release(there);
            let first = first.get_or_insert_with(|| got.clone());
            assert!(got == first[..got.len()], "rows of {rows} differ from those of {rows_max}: {outputs}, {inputs}");
        }
        let first: Vec<_> =
            first.unwrap().as_chunks::<2>().0.iter().map(|x| bf16::from_le_bytes(*x).to_f64()).collect();
        for ((got, sum), more) in first.iter().zip(&sums).zip(&more) {
            let expected = sum + more.to_f64();
            assert!((got - expected).abs() <= 1e-2 + expected.abs() / 100.0, "{got}, not {expected}");
        }
        for span in [input, weight, residual, apart] {
            gpu.release(span);
        }
    }
}

#[test]
fn cuda_gpu_replays_what_was_captured() {
    let Some(gpu) = Gpu::open() else { return };
    let (rows, width) = (16, 64);
    let (x, w) = (numbers(9, rows * width), numbers(10, width * width));
    let (input, weight) = (gpu.upload_bf16(&x), gpu.upload_bf16(&w));
    let marks = gpu.upload(&bytes_of(&[3]));
    let (between, output) = (gpu.allocate(rows * width * 2), gpu.allocate(width * 2));
    let product = Product {
        rows,
        outputs: width,
        inputs: width,
        of: Element::Bf16,
        input,
        weight,
        bias: None,
        residual: None,
        epilogue: Epilogue::Identity,
        output: between,
        into: Element::Bf16,
    };
    gpu.multiply(&Product { rows: 1, ..product }).unwrap();
    let released = gpu.allocate(1 << 20);
    gpu.driver.begin_capture(gpu.stream).unwrap();
    gpu.multiply(&product).unwrap();
    // This kernel was never loaded before.
    gpu.launch(&pick(between, marks, output, 1, (width * 2 / 16) as i32)).unwrap();
    assert!(matches!(gpu.driver.allocate(gpu.stream, 1), Err(DriverError::Failed(_))));
    gpu.release(released);
    let graph = gpu.driver.end_capture(gpu.stream).unwrap();
    for _ in 0..3 {
        // SAFETY: what it uses stays until it is released in this stream.
        unsafe { gpu.driver.replay(gpu.stream, graph) }.unwrap();
    }
    let replayed = (gpu.download(between), gpu.download(output));
    assert_eq!(replayed.1, replayed.0[3 * width * 2..][..width * 2]);
    gpu.multiply(&product).unwrap();
    assert_eq!(gpu.download(between), replayed.0);
    // SAFETY: it is destroyed once, and its replays are done.
    unsafe { gpu.driver.destroy_graph(graph) };
    for span in [input, weight, marks, between, output] {
        gpu.release(span);
    }
}

#[test]
fn cuda_gpu_says_when_there_is_no_room_and_goes_on() {
    let Some(gpu) = Gpu::open() else { return };
    let bytes = 1usize << 50;
    assert_eq!(gpu.driver.allocate(gpu.stream, bytes), Err(DriverError::OutOfMemory { bytes }));
    let span = gpu.allocate(1000);
    assert_eq!(gpu.download(span).len(), 1000);
    assert_eq!(span.address % crate::cuda::driver::ALIGNMENT as u64, 0);
    gpu.release(span);
}

#[test]
#[ignore = "by itself: others allocate meanwhile"]
fn cuda_gpu_counts_as_free_what_was_given_back() {
    let Some(gpu) = Gpu::open() else { return };
    let before = gpu.driver.memory().unwrap();
    let span = gpu.allocate(1 << 30);
    let between = gpu.driver.memory().unwrap();
    gpu.release(span);
    gpu.driver.synchronize(gpu.stream).unwrap();
    let after = gpu.driver.memory().unwrap();
    assert!(between.free <= before.free - (1 << 30), "{before:?}, {between:?}");
    assert!(after.free >= before.free - (64 << 20), "{before:?}, {after:?}");
}

#[test]
#[ignore = "by itself: it breaks what all tests of a process share"]
fn cuda_gpu_is_broken_for_good_by_a_kernel_that_goes_astray() {
    let Some(gpu) = Gpu::open() else { return };
    let (input, output) = (gpu.allocate(1024), gpu.allocate(1024));
    let marks = gpu.upload(&bytes_of(&[u32::MAX]));
    gpu.launch(&pick(input, marks, output, 1, 512)).unwrap();
    let error = gpu.driver.synchronize(gpu.stream).unwrap_err();
    assert!(
        matches!(&error, DriverError::Broken(reason) if reason.contains("CUDA_ERROR_ILLEGAL_ADDRESS")),
        "{error:?}"
    );
    assert_eq!(gpu.driver.stream(), Err(error.clone()));
    assert_eq!(gpu.driver.allocate(gpu.stream, 1), Err(error));
}

#[test]
fn cuda_gpu_is_described() {
    let Some(gpu) = Gpu::open() else { return };
    let info = gpu.driver.device();
    assert_eq!(devices().unwrap().first(), Some(&(info.clone(), None)));
    assert!(info.capability >= CAPABILITY_MIN && info.multiprocessors > 0 && info.memory > 0, "{info:?}");
    let memory = gpu.driver.memory().unwrap();
    assert!(memory.free > 0 && memory.free <= memory.total, "{memory:?}");
    if let Some(nvml) = Nvml::open() {
        let health = nvml.health(&info.uuid).unwrap();
        assert!(health.memory.is_some_and(|bytes| bytes > 0), "{health:?}");
    }
}
