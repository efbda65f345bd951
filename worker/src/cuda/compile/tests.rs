use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::cuda::library;

mod cubin;

/// The compiler that `.ci/tools` installs, or the system's own. A test without it says that it was skipped, and fails
/// where `SHOAL_TEST_TOOLS=required`.
fn nvrtc() -> Option<Nvrtc> {
    if let Some(tools) = std::env::var_os("SHOAL_TOOLS").map(PathBuf::from) {
        library::open_in(&[tools.join("nvrtc")]);
    }
    let nvrtc = Nvrtc::open();
    if nvrtc.is_none() {
        let required = std::env::var("SHOAL_TEST_TOOLS").is_ok_and(|value| value == "required");
        assert!(!required, "NVRTC is required and not installed; .ci/tools installs it");
        // Past the test harness, which would keep it from being seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED for want of NVRTC: .ci/tools installs it");
    }
    nvrtc
}

fn compiler(nvrtc: Nvrtc, capability: (u32, u32), folder: &Path) -> Compiler {
    Compiler::new(nvrtc, capability, Some(KernelCache::new(folder)))
}

/// Kernels by the lines of a PTX that declare them.
fn entries(ptx: &[u8]) -> BTreeSet<String> {
    let ptx = CStr::from_bytes_with_nul(ptx).expect("the driver looks for the zero at its end").to_str().unwrap();
    let names = ptx.split(".entry ").skip(1);
    names.map(|rest| rest.split('(').next().unwrap().trim().to_owned()).collect()
}

#[test]
fn cuda_kernels_are_compiled_for_the_gpus_own_capability_if_the_compiler_knows_it() {
    let known = [75, 80, 86, 89, 90, 100, 120];
    assert_eq!(Target::of((8, 0), &known), Target::Cubin(80));
    assert_eq!(Target::of((9, 0), &known).to_string(), "sm_90");
    assert_eq!(Target::of((12, 0), &known).to_string(), "sm_120");
    assert_eq!(Target::of((13, 0), &known).to_string(), "compute_80");
    assert_eq!(Target::of((8, 0), &[]), Target::Ptx(80));
}

#[test]
fn cuda_kernels_are_each_in_one_file() {
    let kernels: Vec<_> = FILES.iter().flat_map(KernelFile::kernels).collect();
    let different: HashSet<_> = kernels.iter().collect();
    assert_eq!(different.len(), kernels.len());
    for file in &FILES {
        assert!(file.kernels().all(|kernel| file_of(kernel).unwrap().name == file.name));
    }
    assert!(file_of(Kernel::plain("no_such_kernel")).is_none());
    assert!(file_of(Kernel::plain("rotate")).is_none(), "it is compiled for some kind of number");
}

#[test]
fn cuda_kernels_are_those_in_the_docs() {
    let docs = include_str!("../../../docs/cuda-kernels.md");
    let (_, table) = docs.split_once("| kernel | shared bytes |").unwrap();
    let in_docs: BTreeSet<_> = table.lines().skip(2).filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    assert_eq!(in_docs, FILES.iter().flat_map(|file| file.kernels).copied().collect());
}

#[test]
fn cuda_code_of_other_files_targets_and_compilers_is_kept_apart() {
    let version = Version::new(13, 0);
    let of = |file: &KernelFile, target, version| key(file, Some(Element::Bf16), target, version);
    let one = of(&FILES[0], Target::Cubin(90), version);
    let changed = KernelFile { source: "// nothing", ..FILES[0] };
    assert_ne!(of(&FILES[1], Target::Cubin(90), version), one);
    assert_ne!(of(&FILES[0], Target::Cubin(80), version), one);
    assert_ne!(of(&FILES[0], Target::Ptx(90), version), one);
    assert_ne!(of(&FILES[0], Target::Cubin(90), Version::new(12, 9)), one);
    assert_ne!(of(&changed, Target::Cubin(90), version), one);
    assert_ne!(key(&FILES[0], Some(Element::F16), Target::Cubin(90), version), one);
    assert_eq!(of(&FILES[0], Target::Cubin(90), version), one);
}

#[test]
fn cuda_compiler_knows_the_capabilities_that_kernels_are_for() {
    let Some(nvrtc) = nvrtc() else { return };
    let known = nvrtc.capabilities();
    assert!([80, 86, 89, 90, 100, 120].iter().all(|capability| known.contains(capability)), "{known:?}");
    assert!(nvrtc.version() >= Version::new(12, 8), "{:?}", nvrtc.version());
}

#[test]
fn cuda_compiler_makes_machine_code_once_and_keeps_it() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = file_of(Kernel::plain("pick")).unwrap();
    let code = compiler(nvrtc, (9, 0), folder.path()).compile(file, None).unwrap();
    assert!(code.starts_with(b"\x7fELF"));
    assert_eq!(Compiler::new(nvrtc, (9, 0), None).compile(file, None).unwrap(), code, "the same without a cache");
    let entry = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert!(entry.file_name().unwrap().to_str().unwrap().starts_with("pick.cu-sm_90-"), "{entry:?}");

    // It is really read again: what lies there, and is whole, is believed.
    let other = KernelCache::new(folder.path().join("other"));
    let key = key(file, None, Target::Cubin(90), nvrtc.version());
    other.find_or(&key, || Ok::<_, String>(b"other code".to_vec())).unwrap();
    fs::rename(folder.path().join("other").join(entry.file_name().unwrap()), &entry).unwrap();
    assert_eq!(compiler(nvrtc, (9, 0), folder.path()).compile(file, None).unwrap(), b"other code");

    fs::write(&entry, b"shoal").unwrap();
    assert_eq!(compiler(nvrtc, (9, 0), folder.path()).compile(file, None).unwrap(), code, "cut, and compiled anew");
}

#[test]
fn cuda_compiler_makes_ptx_with_every_kernel_for_a_gpu_it_does_not_know() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let compiler = compiler(nvrtc, (99, 0), folder.path());
    for (file, element) in FILES.iter().flat_map(|file| file.versions().map(move |element| (file, element))) {
        let ptx = compiler.compile(file, element).unwrap();
        assert_eq!(entries(&ptx), file.kernels.iter().map(|kernel| (*kernel).to_owned()).collect(), "{}", file.name);
    }
}

#[test]
fn cuda_compiler_says_what_is_wrong_with_a_file() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = "#include \"gpu.cuh\"\nKERNEL(32) wrong() { nothing(); }";
    let file = KernelFile { name: "wrong.cu", source, kernels: &["wrong"], elements: &[] };
    let error = compiler(nvrtc, (9, 0), folder.path()).compile(&file, None).unwrap_err().to_string();
    assert!(error.starts_with("wrong.cu does not compile for sm_90: "), "{error}");
    assert!(error.contains("wrong.cu(2)") && error.contains("nothing"), "{error}");
}
