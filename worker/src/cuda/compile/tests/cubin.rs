//! Every kernel compiles for every capability, and needs no local memory there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use super::*;

const CAPABILITIES: [&str; 7] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"];

/// Entry points of all files.
const KERNELS: usize = 3 * (6 + 5 + 5 + 6 + 1 + 2) + 2 * 7 + 4 + 1 + 1 + 1 + 3;

const DOCS: &str = include_str!("../../../../docs/cuda-kernels.md");

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    registers: u32,
    shared_bytes: u32,
    /// Local memory: what does not fit into registers, or is indexed by what the compiler does not know.
    stack_bytes: u32,
    spill_bytes: u32,
}

/// By a kernel's name, what it is compiled for, and capability.
type Usages = BTreeMap<(&'static str, Option<Element>, &'static str), Usage>;

/// Compiled once for all tests, on all cores.
fn usages() -> Option<&'static Usages> {
    static USAGES: LazyLock<Option<Usages>> = LazyLock::new(|| nvrtc().map(|_| compile_all()));
    USAGES.as_ref()
}

/// Machine code for one capability, and what ptxas says of it.
fn cubin(name: &str, source: &str, element: Option<Element>, capability: &str) -> Result<(Vec<u8>, String), String> {
    let program = Program::new(name, source, &HEADERS)?;
    let options: Vec<_> = ["--ptxas-options=-v".to_owned()].into_iter().chain(definition(element)).collect();
    program.compile(capability, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok((program.read(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?, program.log()))
}

fn compile_all() -> Usages {
    let versions = FILES.iter().flat_map(|file| file.versions().map(move |element| (file, element)));
    let jobs: Vec<_> = versions.flat_map(|version| CAPABILITIES.map(|capability| (version, capability))).collect();
    let (next, usages) = (AtomicUsize::new(0), Mutex::new(Usages::new()));
    let work = || {
        while let Some(&((file, element), capability)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = version_name(file, element);
            let (code, log) = cubin(file.name, file.source, element, capability)
                .unwrap_or_else(|error| panic!("{name} for {capability}: {error}"));
            assert!(code.starts_with(b"\x7fELF"), "{name} for {capability} is no cubin");
            let found = parse(&log).into_iter().map(|(kernel, usage)| {
                let name = *file.kernels.iter().find(|name| **name == kernel).expect("all are listed");
                ((name, element, capability), usage)
            });
            usages.lock().expect("no test panics with it").extend(found);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    usages.into_inner().expect("no test panics with it")
}

/// Reads what ptxas says of each entry function.
fn parse(log: &str) -> BTreeMap<String, Usage> {
    let before = |line: &str, what: &str| -> u32 {
        let number = line.split(what).next().and_then(|head| head.rsplit([' ', ',']).find(|word| !word.is_empty()));
        if line.contains(what) { number.and_then(|number| number.parse().ok()).unwrap_or(u32::MAX) } else { 0 }
    };
    let mut usages = BTreeMap::<String, Usage>::new();
    let mut kernel = String::new();
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("entry function '") {
            kernel = name.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("stack frame") {
            let usage = usages.entry(kernel.clone()).or_default();
            usage.stack_bytes += before(line, " bytes stack frame");
            usage.spill_bytes += before(line, " bytes spill stores") + before(line, " bytes spill loads");
        } else if line.contains("Used ") {
            let usage = usages.entry(kernel.clone()).or_default();
            usage.registers = before(line, " registers");
            usage.shared_bytes = before(line, " bytes smem");
        }
    }
    usages
}

/// One line for each kernel: shared bytes, then registers by capability, once where all kinds of numbers take the same.
fn table(usages: &Usages) -> String {
    let mut lines = vec![
        format!("| kernel | shared bytes | {} |", CAPABILITIES.join(" | ")),
        format!("|---|---|{}", "---|".repeat(CAPABILITIES.len())),
    ];
    for kernel in usages.keys().map(|(name, ..)| *name).collect::<BTreeSet<_>>() {
        let cell = |capability, of: fn(&Usage) -> u32| {
            let own = usages.iter().filter(|((name, _, other), _)| *name == kernel && *other == capability);
            let mut numbers: Vec<_> = own.map(|(_, usage)| of(usage).to_string()).collect();
            if numbers.iter().all(|number| *number == numbers[0]) {
                numbers.truncate(1);
            }
            numbers.join(", ")
        };
        let registers = CAPABILITIES.map(|capability| cell(capability, |usage| usage.registers)).join(" | ");
        lines.push(format!("| {kernel} | {} | {registers} |", cell(CAPABILITIES[0], |usage| usage.shared_bytes)));
    }
    lines.join("\n")
}

#[test]
fn cubin_of_every_kernel_for_every_capability_needs_no_stack_and_spills_nothing() {
    let Some(usages) = usages() else { return };
    assert_eq!(usages.len(), KERNELS * CAPABILITIES.len(), "{:?}", usages.keys());
    let bad: Vec<_> = usages.iter().filter(|(_, usage)| usage.stack_bytes + usage.spill_bytes > 0).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    // What the emulator gives a block, which is what any GPU does unasked.
    assert!(usages.values().all(|usage| usage.registers > 0 && usage.shared_bytes <= 48 << 10), "{usages:#?}");
}

#[test]
fn cubin_table_is_the_one_in_the_docs() {
    let Some(usages) = usages() else { return };
    let table = table(usages);
    assert!(DOCS.contains(&table), "worker/docs/cuda-kernels.md does not have\n{table}");
}

#[test]
fn cubin_of_a_kernel_that_indexes_registers_is_seen_to_need_a_stack() {
    if nvrtc().is_none() {
        return;
    }
    let source = "
        extern \"C\" __global__ void wanders(const int* from, int* to) {
            int x[32];
            for (int i = 0; i < 32; i++) x[i] = from[i];
            for (int i = 0; i < 32; i++) x[x[i] & 31] += i;
            for (int i = 0; i < 32; i++) to[i] = x[i];
        }";
    let (_, log) = cubin("wanders.cu", source, None, "sm_80").unwrap();
    let usage = parse(&log)["wanders"];
    assert!(usage.stack_bytes >= 128, "{usage:?} of {log}");
}

#[test]
fn cubin_of_a_file_with_a_mistake_is_refused_with_the_compilers_words() {
    if nvrtc().is_none() {
        return;
    }
    let error =
        cubin("wrong.cu", "#include \"gpu.cuh\"\nKERNEL(32) wrong() { nothing(); }", None, "sm_90").unwrap_err();
    assert!(error.contains("wrong.cu(2)") && error.contains("nothing"), "{error}");
}
