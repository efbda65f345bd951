//! NVIDIA's driver and cublasLt behind the seam.

mod blas;
mod context;
mod device;
mod fault;
mod health;
mod kernels;
mod lanes;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::fmt::Arguments;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use cudarc::driver::sys;

use self::blas::{Products, Refusal};
use self::context::Context;
use self::fault::Kind;
use self::health::Nvml;
use self::kernels::Kernels;
use self::lanes::{Lane, Lanes, Leftover};
use super::cache::KernelCache;
use super::compile::{Compiler, Nvrtc};
use super::driver::{
    Argument, DeviceInfo, Driver, DriverError, Event, Graph, Launch, Memory, PinnedSpan, Product, Span, Stream,
};
use super::health::Meter;
use super::library::{self, NoCuda, Version};
use super::lock;

/// The oldest GPUs with bfloat16 in their tensor cores, and with copies that go on by themselves.
const CAPABILITY_MIN: (u32, u32) = (8, 0);

/// One GPU, through its primary context, which is what cublasLt computes in as well.
#[derive(Debug)]
pub(crate) struct Nvidia {
    info: DeviceInfo,
    /// Where memory comes from, in a stream's order; none where the GPU has no such thing.
    pool: Option<sys::CUmemoryPool>,
    compiler: Compiler,
    kernels: RwLock<Kernels>,
    lanes: Mutex<Lanes>,
    /// What each stream lends to products.
    workspace_bytes: usize,
    products: Mutex<Products>,
    /// Held while a graph is used: one may not be by two threads at once.
    graphs: Mutex<()>,
    /// Why nothing is possible any more.
    broken: OnceLock<String>,
    /// Last, so that it goes after all that is in it.
    context: Context,
}

// SAFETY: the driver may be called from any thread, whose context each call sets first. What it does not allow to two
// threads at once, graphs and what cublasLt describes products by, is behind locks.
unsafe impl Send for Nvidia {}
// SAFETY: as above.
unsafe impl Sync for Nvidia {}

/// A GPU, and what keeps a worker from computing on it.
pub(crate) type Found = (DeviceInfo, Option<NoCuda>);

/// All GPUs that the driver shows, in the order of their numbers. Leaves no context on any.
pub(crate) fn devices() -> Result<Vec<Found>, NoCuda> {
    let version = library::driver()?;
    let judged = |info: DeviceInfo| {
        let missing = compiler_for(&info, version).err();
        (info, missing)
    };
    Ok(device::all()?.into_iter().map(judged).collect())
}

/// The number of the GPU with this UUID.
pub(crate) fn ordinal(uuid: &str) -> Result<u32, NoCuda> {
    library::driver()?;
    ordinal_among(&device::all()?, uuid)
}

/// Its number among these.
pub(crate) fn ordinal_among(all: &[DeviceInfo], uuid: &str) -> Result<u32, NoCuda> {
    let found = (0..).zip(all).find(|(_, info)| info.uuid == uuid).map(|(ordinal, _)| ordinal);
    found.ok_or_else(|| NoCuda::NoSuchUuid { uuid: uuid.to_owned(), count: all.len() })
}

/// Reads the health of the GPU that this is, whose driver it does not touch.
pub(crate) fn meter(info: &DeviceInfo) -> Meter {
    let (uuid, mut library) = (info.uuid.clone(), None);
    // Opened by whoever reads first, and tried once: a library that is not there does not come.
    Meter::new(info, move || library.get_or_insert_with(Nvml::open).as_ref()?.health(&uuid))
}

/// Opens a GPU by its number among those that the driver shows, keeping compiled kernels in a folder if there is one.
pub(crate) fn open(ordinal: u32, kernels: Option<&Path>) -> Result<Arc<dyn Driver>, NoCuda> {
    let version = library::driver()?;
    let (device, info) = device::find(ordinal)?;
    let nvrtc = compiler_for(&info, version)?;
    let compiler = Compiler::new(nvrtc, info.capability, kernels.map(KernelCache::new));
    match Nvidia::new(device, info, compiler) {
        Ok(nvidia) => Ok(Arc::new(nvidia)),
        Err(error) => Err(NoCuda::Driver(error.to_string())),
    }
}

/// Looks whether there is all it takes to compute on a GPU, and answers the compiler.
fn compiler_for(info: &DeviceInfo, version: Version) -> Result<Nvrtc, NoCuda> {
    if info.capability < CAPABILITY_MIN {
        return Err(NoCuda::OldDevice { name: info.name.clone(), capability: info.capability });
    }
    let nvrtc = library::nvrtc(version)?;
    library::cublas_lt(version)?;
    Ok(nvrtc)
}

impl Nvidia {
    /// All libraries must be open.
    fn new(device: sys::CUdevice, info: DeviceInfo, compiler: Compiler) -> Result<Self, DriverError> {
        let context = Context::hold(device)?;
        let pool = device::pool(device)?;
        let workspace_bytes = if info.capability >= (9, 0) { 32 << 20 } else { 8 << 20 };
        let products = Products::new(workspace_bytes).map_err(Refusal::error)?;
        Ok(Self {
            info,
            pool,
            compiler,
            kernels: RwLock::default(),
            lanes: Mutex::default(),
            workspace_bytes,
            products: Mutex::new(products),
            graphs: Mutex::default(),
            broken: OnceLock::new(),
            context,
        })
    }

    /// Before every call: makes the context this thread's, unless it is broken.
    fn enter(&self) -> Result<(), DriverError> {
        match self.broken.get() {
            Some(reason) => Err(DriverError::Broken(reason.clone())),
            None => self.check(self.context.set(), format_args!("choosing the context")),
        }
    }

    fn check(&self, result: sys::CUresult, doing: Arguments<'_>) -> Result<(), DriverError> {
        self.check_room(result, 0, doing)
    }

    /// Of a call that needs so many bytes of device memory.
    fn check_room(&self, result: sys::CUresult, bytes: usize, doing: Arguments<'_>) -> Result<(), DriverError> {
        match fault::kind(result) {
            None => Ok(()),
            Some(Kind::OutOfMemory) => Err(DriverError::OutOfMemory { bytes }),
            Some(Kind::Failed) => Err(DriverError::Failed(fault::line(result, doing))),
            Some(Kind::Broken) => {
                let reason = self.broken.get_or_init(|| fault::line(result, doing));
                Err(DriverError::Broken(reason.clone()))
            }
        }
    }

    /// Ends a capture and makes its graph ready to be replayed.
    fn graph(&self, stream: Stream) -> Result<Graph, DriverError> {
        let mut graph = ptr::null_mut();
        // SAFETY: the graph is written during the call only.
        let ended = unsafe { sys::cuStreamEndCapture(raw(stream), &raw mut graph) };
        self.check(ended, format_args!("ending a capture"))?;
        let mut ready = ptr::null_mut();
        // SAFETY: the graph was just made.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0) };
        // SAFETY: as above; what was made of it needs it no more.
        let destroyed = unsafe { sys::cuGraphDestroy(graph) };
        self.check(made, format_args!("making a graph ready"))?;
        // SAFETY: it was just made. Uploading is of what replays need, and runs none of it.
        let uploaded = unsafe { sys::cuGraphUpload(ready, raw(stream)) };
        let checked = self
            .check(destroyed, format_args!("destroying a graph"))
            .and_then(|()| self.check(uploaded, format_args!("uploading a graph")));
        if let Err(error) = checked {
            // SAFETY: it was just made, and nobody else knows of it.
            let destroyed = unsafe { sys::cuGraphExecDestroy(ready) };
            warn_of(self.check(destroyed, format_args!("destroying a graph")));
            return Err(error);
        }
        Ok(Graph(ready as usize))
    }
}

impl Driver for Nvidia {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<Memory, DriverError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written during the call only.
        let asked = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        self.check(asked, format_args!("asking for free memory"))?;
        // What the pool keeps and nobody uses is as good as free.
        let mut kept = 0;
        if let Some(pool) = self.pool {
            self.check(device::pool_unused(pool, &mut kept), format_args!("asking for unused memory"))?;
        }
        Ok(Memory { free: (free as u64 + kept).min(total as u64), total: total as u64 })
    }

    fn workspace(&self) -> u64 {
        self.workspace_bytes as u64
    }

    fn stream(&self) -> Result<Stream, DriverError> {
        self.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: the stream is written during the call only.
        let made =
            unsafe { sys::cuStreamCreate(&raw mut stream, sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32) };
        self.check(made, format_args!("making a stream"))?;
        let stream = Stream(stream as usize);
        self.lanes().lanes.insert(stream, Lane::default());
        Ok(stream)
    }

    fn event(&self) -> Result<Event, DriverError> {
        self.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: the event is written during the call only.
        let made =
            unsafe { sys::cuEventCreate(&raw mut event, sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32) };
        self.check(made, format_args!("making an event"))?;
        Ok(Event(event as usize))
    }

    fn destroy_event(&self, event: Event) {
        if self.enter().is_ok() {
            // SAFETY: it was made here, and whoever had it has it no more. The driver waits for what is under way.
            let destroyed = unsafe { sys::cuEventDestroy_v2(event.0 as sys::CUevent) };
            warn_of(self.check(destroyed, format_args!("destroying an event")));
        }
    }

    fn allocate(&self, stream: Stream, bytes: usize) -> Result<Span, DriverError> {
        self.enter()?;
        if self.lanes().lanes.get(&stream).is_some_and(|lane| lane.is_captured) {
            return Err(DriverError::Failed("no memory can be allocated by a stream that is being captured".into()));
        }
        let mut address = 0;
        // None at all cannot be asked for.
        let asked = bytes.max(1);
        // Both begin at multiples of 256 by CUDA's programming guide.
        let allocated = match self.pool {
            // SAFETY: the address is written during the call only.
            Some(_) => unsafe { sys::cuMemAllocAsync(&raw mut address, asked, raw(stream)) },
            // SAFETY: as above.
            None => unsafe { sys::cuMemAlloc_v2(&raw mut address, asked) },
        };
        self.check_room(allocated, bytes, format_args!("allocating {bytes} bytes"))?;
        Ok(Span { address, bytes })
    }

    unsafe fn release(&self, stream: Stream, span: Span) {
        if self.enter().is_err() {
            return;
        }
        {
            let mut lanes = self.lanes();
            if lanes.lanes.get(&stream).is_some_and(|lane| lane.is_captured) {
                lanes.left.push(Leftover::Device(stream, span));
                return;
            }
        }
        warn_of(self.give_back(stream, span));
    }

    fn pin(&self, bytes: usize) -> Result<PinnedSpan, DriverError> {
        self.enter()?;
        let mut pointer = ptr::null_mut();
        // Without flags: memory that is written combined is slow to read.
        // SAFETY: the pointer is written during the call only.
        let pinned = unsafe { sys::cuMemHostAlloc(&raw mut pointer, bytes.max(1), 0) };
        match self.check(pinned, format_args!("pinning {bytes} bytes")) {
            Ok(()) => {}
            Err(DriverError::OutOfMemory { .. }) => {
                return Err(DriverError::Failed(format!("no room for {bytes} pinned bytes of the host's memory")));
            }
            Err(error) => return Err(error),
        }
        self.lanes().users.insert(pointer as usize, Vec::new());
        Ok(PinnedSpan { pointer: pointer.cast(), bytes })
    }

    unsafe fn unpin(&self, pinned: PinnedSpan) {
        if self.enter().is_err() {
            return;
        }
        let users = {
            let mut lanes = self.lanes();
            let users = lanes.users.remove(&(pinned.pointer as usize)).unwrap_or_default();
            // A stream cannot be waited for while it is being captured.
            if users.iter().any(|stream| lanes.lanes.get(stream).is_some_and(|lane| lane.is_captured)) {
                lanes.left.push(Leftover::Pinned(users, pinned));
                return;
            }
            users
        };
        warn_of(self.give_back_pinned(&users, pinned));
    }

    unsafe fn copy_in(&self, stream: Stream, from: PinnedSpan, to: Span) -> Result<(), DriverError> {
        self.enter()?;
        let bytes = same(from.bytes, to.bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.note_user(stream, from);
        // SAFETY: both are as long as they say, and stay until it is done, as the caller promises.
        let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, from.pointer.cast(), bytes, raw(stream)) };
        self.check(copied, format_args!("copying {bytes} bytes to the device"))
    }

    unsafe fn copy_out(&self, stream: Stream, from: Span, to: PinnedSpan) -> Result<(), DriverError> {
        self.enter()?;
        let bytes = same(from.bytes, to.bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.note_user(stream, to);
        // SAFETY: as above.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(to.pointer.cast(), from.address, bytes, raw(stream)) };
        self.check(copied, format_args!("copying {bytes} bytes from the device"))
    }

    unsafe fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<(), DriverError> {
        self.enter()?;
        let bytes = same(from.bytes, to.bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        let copied = unsafe { sys::cuMemcpyDtoDAsync_v2(to.address, from.address, bytes, raw(stream)) };
        self.check(copied, format_args!("copying {bytes} bytes within the device"))
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<(), DriverError> {
        self.enter()?;
        let function = self.function(launch.kernel)?;
        let [x, y, z] = launch.grid;
        if x.min(y).min(z) == 0 {
            return Ok(());
        }
        let mut values: Vec<u64> = launch.arguments.iter().map(value).collect();
        let mut arguments: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        // SAFETY: the function is loaded. The arguments are the kernel's, as the caller promises; the driver copies
        // them during the call. What they point to stays until the kernel is done, as the caller promises too.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                0,
                raw(stream),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check(launched, format_args!("launching {}", launch.kernel))
    }

    unsafe fn multiply(&self, stream: Stream, product: &Product) -> Result<(), DriverError> {
        self.enter()?;
        product.check().map_err(DriverError::Failed)?;
        if product.rows == 0 {
            return Ok(());
        }
        let mut products = lock(&self.products);
        let (workspace, is_captured) = self.workspace_of(stream)?;
        // SAFETY: the operands were just seen to be long enough, and stay until it is done, as the caller promises. The
        // workspace is this stream's alone.
        unsafe { products.multiply(raw(stream), workspace, is_captured, product) }.map_err(Refusal::error)
    }

    fn begin_capture(&self, stream: Stream) -> Result<(), DriverError> {
        self.enter()?;
        // Relaxed: kernels, ours and cublasLt's, may be loaded when they are first captured. What other modes forbid of
        // this would guard work in the legacy stream, which nobody uses.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let mut lanes = self.lanes();
        // SAFETY: the stream was made here.
        let began = unsafe { sys::cuStreamBeginCapture_v2(raw(stream), mode) };
        self.check(began, format_args!("beginning a capture"))?;
        lanes.lanes.entry(stream).or_default().is_captured = true;
        Ok(())
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph, DriverError> {
        self.enter()?;
        let graph = self.graph(stream);
        self.lanes().lanes.entry(stream).or_default().is_captured = false;
        self.give_back_left();
        graph
    }

    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), DriverError> {
        self.enter()?;
        let _alone = lock(&self.graphs);
        // SAFETY: it was made here, and what it uses stays until it is done, as the caller promises.
        let launched = unsafe { sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, raw(stream)) };
        self.check(launched, format_args!("replaying a graph"))
    }

    unsafe fn destroy_graph(&self, graph: Graph) {
        if self.enter().is_ok() {
            let _alone = lock(&self.graphs);
            // SAFETY: the caller's promise.
            let destroyed = unsafe { sys::cuGraphExecDestroy(graph.0 as sys::CUgraphExec) };
            warn_of(self.check(destroyed, format_args!("destroying a graph")));
        }
    }

    fn record(&self, event: Event, stream: Stream) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: both were made here.
        let recorded = unsafe { sys::cuEventRecord(event.0 as sys::CUevent, raw(stream)) };
        self.check(recorded, format_args!("recording an event"))
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: both were made here.
        let waits = unsafe { sys::cuStreamWaitEvent(raw(stream), event.0 as sys::CUevent, 0) };
        self.check(waits, format_args!("having a stream wait"))
    }

    fn is_done(&self, event: Event) -> Result<bool, DriverError> {
        self.enter()?;
        // SAFETY: it was made here.
        match unsafe { sys::cuEventQuery(event.0 as sys::CUevent) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            asked => self.check(asked, format_args!("asking whether work is done")).map(|()| true),
        }
    }

    fn synchronize(&self, stream: Stream) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: it was made here.
        let waited = unsafe { sys::cuStreamSynchronize(raw(stream)) };
        self.check(waited, format_args!("waiting for a stream"))
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        let lanes = self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (lanes, kernels) = (std::mem::take(lanes), std::mem::take(&mut self.kernels));
        if self.enter().is_err() {
            // It all goes with the context.
            self.products.get_mut().unwrap_or_else(PoisonError::into_inner).abandon();
            return;
        }
        for (stream, lane) in lanes.lanes {
            warn_of(self.synchronize(stream));
            if let Some(workspace) = lane.workspace {
                // SAFETY: it was allocated for this stream, which is done.
                let freed = unsafe { sys::cuMemFree_v2(workspace) };
                warn_of(self.check(freed, format_args!("giving a workspace back")));
            }
            // SAFETY: it was made here, and whoever could name it is gone.
            let destroyed = unsafe { sys::cuStreamDestroy_v2(raw(stream)) };
            warn_of(self.check(destroyed, format_args!("destroying a stream")));
        }
        for module in kernels.into_inner().unwrap_or_else(PoisonError::into_inner).modules {
            // SAFETY: it was loaded here, and no kernel of it runs any more.
            let unloaded = unsafe { sys::cuModuleUnload(module) };
            warn_of(self.check(unloaded, format_args!("unloading kernels")));
        }
    }
}

fn raw(stream: Stream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

/// What a kernel's parameter is, in as many of its first bytes as the parameter has.
fn value(argument: &Argument) -> u64 {
    let four = |[a, b, c, d]: [u8; 4]| u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
    match argument {
        Argument::Nothing => 0,
        Argument::Input(span) | Argument::Output(span) => span.address,
        Argument::Integer(number) => four(number.to_ne_bytes()),
        Argument::Real(number) => four(number.to_ne_bytes()),
    }
}

/// How much is copied.
fn same(from: usize, to: usize) -> Result<usize, DriverError> {
    if from == to { Ok(from) } else { Err(DriverError::Failed(format!("{from} bytes cannot be copied to {to}"))) }
}

/// Of what nobody can be told.
fn warn_of(result: Result<(), DriverError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the GPU's driver");
    }
}
