mod gpu;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::*;

/// Every function of the driver that is called, with the CUDA that first had it. cudarc knows newer ones, which would
/// be missing in a driver that is old enough to be used.
const DRIVER_FUNCTIONS: [(&str, (u32, u32)); 46] = [
    ("cuCtxSetCurrent", (4, 0)),
    ("cuDeviceGet", (2, 0)),
    ("cuDeviceGetAttribute", (2, 0)),
    ("cuDeviceGetCount", (2, 0)),
    ("cuDeviceGetDefaultMemPool", (11, 2)),
    ("cuDeviceGetName", (2, 0)),
    ("cuDeviceGetPCIBusId", (4, 1)),
    ("cuDeviceGetUuid_v2", (11, 4)),
    ("cuDevicePrimaryCtxRelease_v2", (11, 0)),
    ("cuDevicePrimaryCtxRetain", (7, 0)),
    ("cuDevicePrimaryCtxSetFlags_v2", (11, 0)),
    ("cuDeviceTotalMem_v2", (3, 2)),
    ("cuDriverGetVersion", (2, 2)),
    ("cuEventCreate", (2, 0)),
    ("cuEventDestroy_v2", (4, 0)),
    ("cuEventQuery", (2, 0)),
    ("cuEventRecord", (2, 0)),
    ("cuGetErrorString", (6, 0)),
    ("cuGraphDestroy", (10, 0)),
    ("cuGraphExecDestroy", (10, 0)),
    ("cuGraphInstantiateWithFlags", (11, 4)),
    ("cuGraphLaunch", (10, 0)),
    ("cuGraphUpload", (11, 1)),
    ("cuInit", (2, 0)),
    ("cuLaunchKernel", (4, 0)),
    ("cuMemAllocAsync", (11, 2)),
    ("cuMemAlloc_v2", (3, 2)),
    ("cuMemFreeAsync", (11, 2)),
    ("cuMemFreeHost", (2, 0)),
    ("cuMemFree_v2", (3, 2)),
    ("cuMemGetInfo_v2", (3, 2)),
    ("cuMemHostAlloc", (2, 2)),
    ("cuMemPoolGetAttribute", (11, 2)),
    ("cuMemPoolSetAttribute", (11, 2)),
    ("cuMemcpyDtoDAsync_v2", (3, 2)),
    ("cuMemcpyDtoHAsync_v2", (3, 2)),
    ("cuMemcpyHtoDAsync_v2", (3, 2)),
    ("cuModuleGetFunction", (2, 0)),
    ("cuModuleLoadData", (2, 0)),
    ("cuModuleUnload", (2, 0)),
    ("cuStreamBeginCapture_v2", (10, 1)),
    ("cuStreamCreate", (2, 0)),
    ("cuStreamDestroy_v2", (4, 0)),
    ("cuStreamEndCapture", (10, 0)),
    ("cuStreamSynchronize", (2, 0)),
    ("cuStreamWaitEvent", (3, 2)),
];

/// The oldest driver that is used.
const OLDEST: (u32, u32) = (12, 8);

/// Our sources that speak to the driver.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                if text.contains(&["cudarc", "::driver"].concat()) {
                    sources.push((path, text));
                }
            }
        }
    }
    sources
}

/// Functions of the driver in a text: `sys::cu` and a capital.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("sys::").skip(1).filter_map(|rest| {
        let name = rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next()?;
        name.strip_prefix("cu")?.starts_with(|letter: char| letter.is_ascii_uppercase()).then_some(name)
    })
}

#[test]
fn cuda_functions_of_the_driver_are_those_that_the_oldest_one_has() {
    let sources = sources();
    assert!(sources.len() >= 4, "{:?}", sources.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let called: BTreeSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let known: BTreeSet<_> = DRIVER_FUNCTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(called, known, "each must be looked up, and stand in the list");
    assert!(DRIVER_FUNCTIONS.iter().all(|(_, since)| *since <= OLDEST));
    // Layers above call what this list does not see.
    for (path, text) in &sources {
        for layer in ["result", "safe", "CudaContext"] {
            assert!(!text.contains(&["driver", layer].join("::")), "{} in {}", layer, path.display());
        }
    }
}

#[test]
fn cuda_functions_are_found_in_a_text_by_their_names() {
    let text = "sys::cuInit(0); sys::CUresult::CUDA_SUCCESS; lt::cublasLtCreate; check(sys::cuMemFree_v2(x))";
    assert_eq!(functions(text).collect::<Vec<_>>(), ["cuInit", "cuMemFree_v2"]);
}

#[test]
fn cuda_that_is_not_there_is_one_line_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    // There may be a GPU, only not so many.
    assert!(open(u32::MAX, Some(folder.path())).is_err());
    let errors = [devices().err(), open(0, Some(folder.path())).err(), open(u32::MAX, Some(folder.path())).err()];
    for line in errors.iter().flatten().map(NoCuda::to_string) {
        assert!(!line.is_empty() && !line.contains('\n'), "{line}");
    }
}

#[test]
fn cuda_gpus_are_found_by_their_uuids() {
    let all = ["GPU-a", "GPU-b"].map(|uuid| DeviceInfo { uuid: uuid.to_owned(), ..DeviceInfo::default() });
    assert_eq!(ordinal_among(&all, "GPU-b"), Ok(1));
    assert_eq!(ordinal_among(&all[..1], "GPU-b"), Err(NoCuda::NoSuchUuid { uuid: "GPU-b".to_owned(), count: 1 }));
}

#[test]
fn cuda_errors_that_stay_break_the_context_and_others_do_not() {
    use sys::CUresult as Error;
    let all = |errors: &[Error], expected| errors.iter().all(|error| fault::kind(*error) == expected);
    assert!(all(&[Error::CUDA_SUCCESS], None));
    assert!(all(&[Error::CUDA_ERROR_OUT_OF_MEMORY], Some(Kind::OutOfMemory)));
    let broken = [
        Error::CUDA_ERROR_ILLEGAL_ADDRESS,
        Error::CUDA_ERROR_ECC_UNCORRECTABLE,
        Error::CUDA_ERROR_LAUNCH_FAILED,
        Error::CUDA_ERROR_LAUNCH_TIMEOUT,
        Error::CUDA_ERROR_HARDWARE_STACK_ERROR,
        Error::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        Error::CUDA_ERROR_MISALIGNED_ADDRESS,
        Error::CUDA_ERROR_DEVICE_UNAVAILABLE,
        Error::CUDA_ERROR_UNKNOWN,
    ];
    assert!(all(&broken, Some(Kind::Broken)));
    let failed = [
        Error::CUDA_ERROR_INVALID_VALUE,
        Error::CUDA_ERROR_INVALID_HANDLE,
        Error::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        Error::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        Error::CUDA_ERROR_NOT_SUPPORTED,
        Error::CUDA_ERROR_NO_BINARY_FOR_GPU,
    ];
    assert!(all(&failed, Some(Kind::Failed)));
}

#[test]
fn cuda_arguments_lie_where_a_kernel_reads_them() {
    let span = Span { address: 0x7f00_1234_5600, bytes: 16 };
    let bytes = |argument| value(&argument).to_ne_bytes();
    assert_eq!(bytes(Argument::Nothing), [0; 8]);
    assert_eq!(bytes(Argument::Input(span)), 0x7f00_1234_5600u64.to_ne_bytes());
    assert_eq!(bytes(Argument::Output(span)), 0x7f00_1234_5600u64.to_ne_bytes());
    assert_eq!(bytes(Argument::Integer(-2))[..4], (-2i32).to_ne_bytes());
    assert_eq!(bytes(Argument::Real(0.125))[..4], 0.125f32.to_ne_bytes());
}

#[test]
fn cuda_copies_are_of_equal_lengths() {
    assert_eq!(same(3, 3), Ok(3));
    assert_eq!(same(3, 4), Err(DriverError::Failed("3 bytes cannot be copied to 4".into())));
}
