use std::fs;

use super::*;

#[test]
fn cuda_versions_are_read_as_the_libraries_count_them() {
    assert_eq!(Version::of_driver(12020), Version::new(12, 2));
    assert_eq!(Version::of_driver(13000).to_string(), "13.0");
    assert_eq!(Version::of_driver(11080), Version::new(11, 8));
    assert_eq!(Version::of_cublas(120_805), Version::new(12, 8));
    assert_eq!(Version::of_cublas(130_002).to_string(), "13.0");
    assert!(Version::new(12, 9) < Version::new(13, 0) && Version::new(12, 10) > Version::new(12, 9));
}

#[test]
fn cuda_drivers_older_than_ours_are_refused() {
    let check = |number| check_driver(sys::CUresult::CUDA_SUCCESS, Version::of_driver(number));
    assert_eq!(check(12080), Ok(Version::new(12, 8)));
    assert_eq!(check(13020), Ok(Version::new(13, 2)));
    let line = check(12020).unwrap_err().to_string();
    assert_eq!(line, "CUDA needs driver 12.8 or newer, and this one is 12.2");
    let line = check_driver(sys::CUresult::CUDA_ERROR_STUB_LIBRARY, Version::new(0, 0)).unwrap_err().to_string();
    assert_eq!(line, "no CUDA: the NVIDIA driver does not say its version: CUDA_ERROR_STUB_LIBRARY");
}

#[test]
fn cuda_libraries_newer_than_the_driver_are_refused() {
    let check = |version, driver| check_library("libnvrtc", version, driver);
    assert_eq!(check(Version::new(12, 9), Version::new(12, 8)), Ok(()), "minor versions go together");
    assert_eq!(check(Version::new(12, 0), Version::new(13, 0)), Ok(()));
    assert_eq!(check(Version::new(13, 1), Version::new(13, 0)), Ok(()));
    assert_eq!(
        check(Version::new(13, 0), Version::new(12, 8)).unwrap_err().to_string(),
        "libnvrtc of CUDA 13.0 does not go with this driver, which is for CUDA 12.8: one of CUDA 12 to 12 is needed"
    );
    assert_eq!(
        check(Version::new(11, 8), Version::new(13, 0)).unwrap_err().to_string(),
        "libnvrtc of CUDA 11.8 does not go with this driver, which is for CUDA 13.0: one of CUDA 12 to 13 is needed"
    );
}

#[test]
fn cuda_that_is_missing_is_said_in_one_line() {
    let all = [
        NoCuda::NoDriver,
        NoCuda::OldDriver { version: Version::new(12, 2) },
        NoCuda::Driver("the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_NOT_READY".into()),
        NoCuda::NoDevice,
        NoCuda::NoSuchDevice { ordinal: 2, count: 1 },
        NoCuda::OldDevice { name: "Tesla T4".into(), capability: (7, 5) },
        NoCuda::NoLibrary { library: "libcublasLt", package: "nvidia-cublas" },
        NoCuda::NoSuchUuid { uuid: "GPU-0".into(), count: 1 },
    ];
    let lines: Vec<_> = all.iter().map(NoCuda::to_string).collect();
    assert!(lines.iter().all(|line| !line.contains('\n') && !line.contains("  ")), "{lines:#?}");
    assert_eq!(lines[0], "no CUDA: libcuda.so.1 (the NVIDIA driver) is not found");
    assert_eq!(lines[4], "there is no GPU 2: the driver finds 1, counted from 0");
    assert_eq!(lines[5], "Tesla T4 has compute capability 7.5, and 8.0 or newer is needed");
    assert_eq!(
        lines[6],
        "libcublasLt is not found: install the CUDA 12 or 13 runtime libraries, or `pip install nvidia-cublas` and name \
         the folder it lies in by SHOAL_CUDA_LIBRARIES"
    );
    assert_eq!(lines[7], "there is no GPU GPU-0 among the 1 that the driver finds");
}

#[test]
fn cuda_libraries_are_found_in_a_folder_by_their_names_the_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let there = [
        "libnvrtc.so.12",
        "libnvrtc.so.13",
        "libnvrtc.alt.so.13",
        "libnvrtc-builtins.so.13.0",
        "libnvrtc-builtins.alt.so.13.0",
        "libcublasLt.so.13",
        "libcublas.so.13",
        "libcublasLt.so",
    ];
    for name in there {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let found = |library| -> Vec<_> {
        let paths = versions(folder.path(), library);
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found("libnvrtc.so"), ["libnvrtc.so.13", "libnvrtc.so.12"]);
    assert_eq!(found("libnvrtc-builtins.so"), ["libnvrtc-builtins.so.13.0"]);
    assert_eq!(found("libcublasLt.so"), ["libcublasLt.so.13", "libcublasLt.so"]);
    // None of them is a library, and none of these folders needs to be there.
    open_in(&[folder.path().to_owned(), folder.path().join("nowhere")]);
}
