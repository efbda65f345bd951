//! A GPU that is none: memory of the host, kernels on the emulator, products by a plain loop. Streams do nothing until
//! somebody waits for them, as late as a device may, so that work which is not ordered shows. Errors come when they are
//! told to.

use std::alloc::{self, Layout};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use shoal_emulator as emulator;

use super::driver::{
    ALIGNMENT, Argument, DeviceInfo, Driver, DriverError, Epilogue, Event, Graph, Launch, Memory, PinnedSpan, Product,
    Span, Stream,
};
use super::element::Element;
use super::lock;

/// The double of one GPU.
pub(crate) struct Double {
    info: DeviceInfo,
    /// Whoever finds a file here when a kernel is launched takes it away, and the GPU is broken.
    fault: Option<PathBuf>,
    state: Mutex<State>,
}

/// What a call was, for tests that count them or have one fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    Allocate,
    Pin,
    CopyIn,
    CopyOut,
    Copy,
    Launch,
    Multiply,
    Capture,
    Replay,
    IsDone,
    Synchronize,
}

/// A failure to come.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// So many of these go well before.
    pub(crate) after: usize,
    pub(crate) error: DriverError,
}

#[derive(Debug, Default)]
struct State {
    seed: u64,
    /// Device memory by address. What is allocated is at least as long as was asked for, and begins at a multiple of
    /// [`ALIGNMENT`].
    device: BTreeMap<u64, Block>,
    pinned: BTreeMap<usize, Block>,
    used: u64,
    /// What it says that it takes for each stream.
    workspace: u64,
    streams: Vec<Lane>,
    events: Vec<Noted>,
    graphs: BTreeMap<usize, Vec<Work>>,
    /// Which of them are replayed, and not to the end.
    replayed: Vec<Graph>,
    graphs_made: usize,
    calls: BTreeMap<Call, usize>,
    copied_out: u64,
    faults: Vec<Fault>,
    broken: Option<DriverError>,
    /// Nothing that was handed over is ever done.
    hangs: bool,
}

#[derive(Debug, Default)]
struct Lane {
    tasks: VecDeque<Task>,
    captured: Option<Vec<Work>>,
}

/// How often an event was recorded, and how many of these are done.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    recorded: u64,
    done: u64,
    stream: usize,
}

#[derive(Clone, Debug)]
enum Task {
    Work(Work),
    Replayed(Graph),
    Record(Event, u64),
    Wait(Event, u64),
    Release(u64),
}

#[derive(Clone, Debug)]
enum Work {
    CopyIn(PinnedSpan, Span),
    CopyOut(Span, PinnedSpan),
    Copy(Span, Span),
    Launch(Launch),
    Multiply(Product),
}

/// Memory of the host that stands for the device's, or is pinned.
struct Block {
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: it is memory that belongs to whoever has the block.
unsafe impl Send for Block {}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Double").field("info", &self.info).finish_non_exhaustive()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl Double {
    /// With so many bytes of memory. The seed decides in which order threads of kernels run.
    pub(crate) fn new(seed: u64, memory: u64) -> Arc<Self> {
        let info = DeviceInfo {
            name: "emulated".to_owned(),
            capability: (8, 0),
            multiprocessors: 1,
            memory,
            uuid: "GPU-00000000-0000-0000-0000-000000000000".to_owned(),
            address: "0000:00:00.0".to_owned(),
        };
        Arc::new(Self { info, fault: None, state: Mutex::new(State { seed, ..State::default() }) })
    }

    /// Of this GPU, which breaks when there is a file of this path.
    #[cfg(feature = "emulator")]
    pub(crate) fn of(info: DeviceInfo, fault: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { info, fault, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What only tests ask for.
#[cfg(test)]
impl Double {
    /// Makes a call fail.
    pub(crate) fn fail(&self, call: Call, after: usize, error: DriverError) {
        self.state().faults.push(Fault { call, after, error });
    }

    /// Whether a failure is still to come.
    pub(crate) fn is_armed(&self) -> bool {
        !self.state().faults.is_empty()
    }

    /// From now on nothing that is handed over is ever done.
    pub(crate) fn hang(&self) {
        self.state().hangs = true;
    }

    /// How often it was called so.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Bytes that were to be copied to the host.
    pub(crate) fn copied_out(&self) -> u64 {
        self.state().copied_out
    }

    /// Says from now on that it takes so much for each stream.
    pub(crate) fn set_workspace(&self, bytes: u64) {
        self.state().workspace = bytes;
    }

    /// Graphs that are not destroyed.
    pub(crate) fn graphs(&self) -> usize {
        self.state().graphs.len()
    }

    /// Bytes of device memory that are allocated.
    pub(crate) fn used(&self) -> u64 {
        self.state().used
    }
}

impl Double {
    /// Notes a call down, which may be told to fail.
    fn called(&self, call: Call) -> Result<MutexGuard<'_, State>, DriverError> {
        let mut state = self.state();
        if let Some(broken) = &state.broken {
            return Err(broken.clone());
        }
        if matches!(call, Call::Launch | Call::Replay) && self.takes_fault() {
            let broken = DriverError::Broken("a test ordered an illegal address".to_owned());
            state.broken = Some(broken.clone());
            return Err(broken);
        }
        *state.calls.entry(call).or_default() += 1;
        if let Some(index) = state.faults.iter().position(|fault| fault.call == call && fault.after == 0) {
            let fault = state.faults.remove(index);
            if matches!(fault.error, DriverError::Broken(_)) {
                state.broken = Some(fault.error.clone());
            }
            return Err(fault.error);
        }
        state.faults.iter_mut().filter(|fault| fault.call == call).for_each(|fault| fault.after -= 1);
        Ok(state)
    }

    /// Whether a fault was left for whoever comes first, which is this one.
    fn takes_fault(&self) -> bool {
        self.fault.as_ref().is_some_and(|file| std::fs::remove_file(file).is_ok())
    }

    fn give(&self, call: Call, stream: Stream, work: Work) -> Result<(), DriverError> {
        let mut state = self.called(call)?;
        let lane = &mut state.streams[stream.0];
        match &mut lane.captured {
            Some(captured) => captured.push(work),
            None => lane.tasks.push_back(Task::Work(work)),
        }
        Ok(())
    }
}

impl Driver for Double {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<Memory, DriverError> {
        Ok(Memory { free: self.info.memory - self.state().used, total: self.info.memory })
    }

    fn workspace(&self) -> u64 {
        self.state().workspace
    }

    fn stream(&self) -> Result<Stream, DriverError> {
        let mut state = self.state();
        state.streams.push(Lane::default());
        Ok(Stream(state.streams.len() - 1))
    }

    fn event(&self) -> Result<Event, DriverError> {
        let mut state = self.state();
        state.events.push(Noted::default());
        Ok(Event(state.events.len() - 1))
    }

    fn destroy_event(&self, _: Event) {}

    fn allocate(&self, _: Stream, bytes: usize) -> Result<Span, DriverError> {
        let mut state = self.called(Call::Allocate)?;
        if state.used + bytes as u64 > self.info.memory {
            return Err(DriverError::OutOfMemory { bytes });
        }
        state.used += bytes as u64;
        let block = Block::new(bytes);
        let address = block.pointer as u64;
        state.device.insert(address, block);
        Ok(Span { address, bytes })
    }

    unsafe fn release(&self, stream: Stream, span: Span) {
        self.state().streams[stream.0].tasks.push_back(Task::Release(span.address));
    }

    fn pin(&self, bytes: usize) -> Result<PinnedSpan, DriverError> {
        let mut state = self.called(Call::Pin)?;
        let block = Block::new(bytes);
        let pointer = block.pointer;
        state.pinned.insert(pointer as usize, block);
        Ok(PinnedSpan { pointer, bytes })
    }

    unsafe fn unpin(&self, pinned: PinnedSpan) {
        let mut state = self.state();
        assert!(!state.hangs || std::thread::panicking(), "waits for a device that hangs");
        if state.broken.is_none() {
            // What goes wrong is told to who waits for it.
            (0..state.streams.len()).for_each(|stream| while state.step(stream).unwrap_or(false) {});
        }
        let is_there = state.pinned.remove(&(pinned.pointer as usize)).is_some();
        assert!(is_there || std::thread::panicking(), "{pinned:?} is not pinned");
    }

    unsafe fn copy_in(&self, stream: Stream, from: PinnedSpan, to: Span) -> Result<(), DriverError> {
        self.give(Call::CopyIn, stream, Work::CopyIn(from, to))
    }

    unsafe fn copy_out(&self, stream: Stream, from: Span, to: PinnedSpan) -> Result<(), DriverError> {
        self.give(Call::CopyOut, stream, Work::CopyOut(from, to))?;
        self.state().copied_out += from.bytes as u64;
        Ok(())
    }

    unsafe fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<(), DriverError> {
        self.give(Call::Copy, stream, Work::Copy(from, to))
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<(), DriverError> {
        self.give(Call::Launch, stream, Work::Launch(launch.clone()))
    }

    unsafe fn multiply(&self, stream: Stream, product: &Product) -> Result<(), DriverError> {
        self.give(Call::Multiply, stream, Work::Multiply(*product))
    }

    fn begin_capture(&self, stream: Stream) -> Result<(), DriverError> {
        let mut state = self.called(Call::Capture)?;
        let before = state.streams[stream.0].captured.replace(Vec::new());
        assert!(before.is_none(), "{stream:?} is being captured");
        Ok(())
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph, DriverError> {
        let mut state = self.state();
        let work = state.streams[stream.0].captured.take().expect("a capture was begun");
        let graph = state.graphs_made;
        state.graphs_made += 1;
        state.graphs.insert(graph, work);
        Ok(Graph(graph))
    }

    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), DriverError> {
        let mut state = self.called(Call::Replay)?;
        let work = state.graphs.get(&graph.0).expect("the graph is there").clone();
        state.replayed.push(graph);
        let tasks = &mut state.streams[stream.0].tasks;
        tasks.extend(work.into_iter().map(Task::Work));
        tasks.push_back(Task::Replayed(graph));
        Ok(())
    }

    unsafe fn destroy_graph(&self, graph: Graph) {
        let mut state = self.state();
        assert!(state.graphs.remove(&graph.0).is_some(), "{graph:?} is not there");
        let is_unfinished = state.replayed.contains(&graph) && state.broken.is_none();
        assert!(!is_unfinished || std::thread::panicking(), "{graph:?} is being replayed");
    }

    fn record(&self, event: Event, stream: Stream) -> Result<(), DriverError> {
        let mut state = self.state();
        let noted = &mut state.events[event.0];
        noted.recorded += 1;
        noted.stream = stream.0;
        let count = noted.recorded;
        state.streams[stream.0].tasks.push_back(Task::Record(event, count));
        Ok(())
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<(), DriverError> {
        let mut state = self.state();
        let count = state.events[event.0].recorded;
        state.streams[stream.0].tasks.push_back(Task::Wait(event, count));
        Ok(())
    }

    fn is_done(&self, event: Event) -> Result<bool, DriverError> {
        let mut state = self.called(Call::IsDone)?;
        if state.hangs {
            return Ok(false);
        }
        let count = state.events[event.0].recorded;
        state.reach(event, count)?;
        Ok(true)
    }

    fn synchronize(&self, stream: Stream) -> Result<(), DriverError> {
        let mut state = self.called(Call::Synchronize)?;
        assert!(!state.hangs || std::thread::panicking(), "waits for a device that hangs");
        while state.step(stream.0)? {}
        Ok(())
    }
}

impl State {
    /// Goes on until the event was recorded so often.
    fn reach(&mut self, event: Event, count: u64) -> Result<(), DriverError> {
        while self.events[event.0].done < count {
            let is_going = self.step(self.events[event.0].stream)?;
            assert!(is_going, "{event:?} comes in no stream");
        }
        Ok(())
    }

    /// Does the next thing of a stream, if there is one.
    fn step(&mut self, stream: usize) -> Result<bool, DriverError> {
        let Some(task) = self.streams[stream].tasks.pop_front() else { return Ok(false) };
        match task {
            Task::Work(work) => self.work(&work)?,
            Task::Replayed(graph) => {
                let first = self.replayed.iter().position(|replayed| *replayed == graph).expect("it was replayed");
                self.replayed.remove(first);
            }
            Task::Record(event, count) => self.events[event.0].done = count,
            Task::Wait(event, count) => self.reach(event, count)?,
            Task::Release(address) => {
                let block = self.device.remove(&address).expect("it is allocated");
                self.used -= block.bytes as u64;
            }
        }
        Ok(true)
    }

    /// What goes wrong in here goes wrong on the device: nothing can be done with it after.
    fn work(&mut self, work: &Work) -> Result<(), DriverError> {
        let done = match work {
            Work::CopyIn(from, to) => self.copy(from.pointer, self.at(*to), to.bytes),
            Work::CopyOut(from, to) => self.copy(self.at(*from), to.pointer, from.bytes),
            Work::Copy(from, to) => self.copy(self.at(*from), self.at(*to), from.bytes.min(to.bytes)),
            Work::Launch(launch) => self.launch(launch),
            Work::Multiply(product) => self.multiply(product),
        };
        done.map_err(|what| {
            let broken = DriverError::Broken(what);
            self.broken = Some(broken.clone());
            broken
        })
    }

    fn copy(&self, from: *mut u8, to: *mut u8, bytes: usize) -> Result<(), String> {
        if from.is_null() || to.is_null() {
            return Err("illegal address in a copy".to_owned());
        }
        // SAFETY: `at` found both ends allocated, or they are pinned memory, which is unpinned only when no stream uses it.
        // Nobody else is at them: streams run under the lock, and the host waits for the stream.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), String> {
        let argument = |argument: &Argument| match *argument {
            Argument::Nothing => emulator::Argument::nothing(),
            Argument::Input(span) => emulator::Argument::input_at(self.at(span), span.bytes),
            Argument::Output(span) => emulator::Argument::output_at(self.at(span), span.bytes),
            Argument::Integer(value) => emulator::Argument::integer(usize::try_from(value).unwrap_or(usize::MAX)),
            Argument::Real(value) => emulator::Argument::real(value),
        };
        let is_there = |argument: &Argument| argument.span().is_none_or(|span| !self.at(span).is_null());
        if !launch.arguments.iter().all(is_there) {
            return Err(format!("illegal address given to {}", launch.kernel));
        }
        let (kernel, grid, block) = (&launch.kernel.to_string(), launch.grid, launch.block);
        let arguments = launch.arguments.iter().map(argument).collect();
        let launch = emulator::Launch { kernel, grid, block, arguments };
        // SAFETY: all memory is allocated here, and used by this stream alone while it runs.
        unsafe { emulator::Emulator::new(self.seed).launch(&launch) }.map_err(|fault| fault.to_string())
    }

    fn multiply(&self, product: &Product) -> Result<(), String> {
        product.check()?;
        let Product { rows, outputs, inputs, of, input, weight, bias, residual, epilogue, output, into } = *product;
        if let Some(span) = [Some(input), Some(weight), bias, residual, Some(output)]
            .into_iter()
            .flatten()
            .find(|span| self.at(*span).is_null())
        {
            return Err(format!("illegal address: a product is given {span:?}"));
        }
        let bytes = |span: Span, count: usize| -> &[u8] {
            // SAFETY: it is allocated, long enough, and nobody writes to it now.
            unsafe { std::slice::from_raw_parts(self.at(span), count) }
        };
        let read = |span, element: Element, count| element.read(bytes(span, count * element.bytes()));
        let (input, weight) = (read(input, of, rows * inputs), read(weight, of, outputs * inputs));
        let added = |span: Option<Span>, count| span.map_or_else(|| vec![0.0; count], |span| read(span, into, count));
        let (bias, residual) = (added(bias, outputs), added(residual, rows * outputs));
        let mut values = Vec::with_capacity(rows * outputs);
        for (row, residual) in input.chunks_exact(inputs).zip(residual.chunks_exact(outputs)) {
            for ((weight, bias), residual) in weight.chunks_exact(inputs).zip(&bias).zip(residual) {
                let sum: f64 = row.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                values.push(finish(sum + f64::from(*bias) + f64::from(*residual), epilogue) as f32);
            }
        }
        let count = values.len() * into.bytes();
        // SAFETY: it is allocated, long enough, and nobody else is at it now.
        let output = unsafe { std::slice::from_raw_parts_mut(self.at(output), count) };
        into.write(values.into_iter(), output);
        Ok(())
    }

    /// Where a span lies on the host; null if not all of it is allocated.
    fn at(&self, span: Span) -> *mut u8 {
        let holder = self.device.range(..=span.address).next_back();
        let is_within =
            |(address, block): &(&u64, &Block)| span.address + span.bytes as u64 <= **address + block.bytes as u64;
        match holder.filter(is_within) {
            Some((address, block)) => block.pointer.wrapping_add((span.address - address) as usize),
            None => std::ptr::null_mut(),
        }
    }
}

impl Block {
    /// All bits set: no number, as any kind of float.
    fn new(bytes: usize) -> Self {
        // SAFETY: it is not empty.
        let pointer = unsafe { alloc::alloc(Self::layout(bytes)) };
        assert!(!pointer.is_null(), "no memory for {bytes} bytes");
        // SAFETY: it was just allocated, as long as that at least.
        unsafe { pointer.write_bytes(0xff, bytes) };
        Self { pointer, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("the alignment is a power of two")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, with this layout, and freed only here.
        unsafe { alloc::dealloc(self.pointer, Self::layout(self.bytes)) }
    }
}

fn finish(x: f64, epilogue: Epilogue) -> f64 {
    match epilogue {
        Epilogue::Identity => x,
        Epilogue::Relu => x.max(0.0),
        Epilogue::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
    }
}
