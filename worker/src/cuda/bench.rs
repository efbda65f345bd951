//! Single commands, from numbers to numbers: for tests, and to examine a GPU.

use std::sync::Arc;

use half::bf16;

use super::driver::{Driver, DriverError, Span};
use super::memory::{DeviceMemory, Part, PinnedMemory};
use super::queue::{Command, Queue};

/// A device with memory of exactly the sizes that were asked for, and no numbers in it where none were put.
///
/// # Panics
/// In all that follows, if the device fails in anything but the command.
#[derive(Debug)]
pub(crate) struct Bench {
    driver: Arc<dyn Driver>,
    queue: Queue,
    kept: Vec<DeviceMemory>,
}

/// A number as kernels have it.
pub(crate) trait Number: Copy {
    fn write(self, to: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! number {
    ($($type:ty: $bytes:literal),*) => {$(
        impl Number for $type {
            fn write(self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks::<$bytes>().0.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect()
            }
        }
    )*};
}

number!(bf16: 2, f32: 4, u32: 4, u8: 1);

impl Bench {
    /// On the emulator, which runs threads of kernels in an order that the seed decides.
    #[cfg(test)]
    pub(crate) fn new(seed: u64) -> Self {
        let driver: Arc<dyn Driver> = super::double::Double::new(seed, 1 << 30);
        Self::on(&Queue::new(&driver).expect("the device works"))
    }

    pub(crate) fn on(queue: &Queue) -> Self {
        Self { driver: queue.driver().clone(), queue: queue.clone(), kept: Vec::new() }
    }

    /// These numbers on the device.
    pub(crate) fn put<T: Number>(&mut self, numbers: &[T]) -> Span {
        let mut bytes = Vec::with_capacity(size_of_val(numbers));
        numbers.iter().for_each(|number| number.write(&mut bytes));
        let fill = |to: &mut [u8]| {
            to.copy_from_slice(&bytes);
            Ok::<_, DriverError>(())
        };
        let host = PinnedMemory::filled(&self.driver, bytes.len(), fill).expect("the device works");
        let span = self.room::<u8>(bytes.len());
        self.queue.copy_in(&host, self.part(span)).expect("the device works");
        span
    }

    /// Room for so many numbers, none of them one yet.
    pub(crate) fn room<T>(&mut self, count: usize) -> Span {
        let (stream, bytes) = (self.queue.stream(), count * size_of::<T>());
        let memory = DeviceMemory::new(&self.driver, stream, stream, bytes).expect("the device works");
        // All bits set is no number, as any kind of float.
        let fill = |to: &mut [u8]| {
            to.fill(0xff);
            Ok::<_, DriverError>(())
        };
        let nothing = PinnedMemory::filled(&self.driver, bytes, fill).expect("the device works");
        self.queue.copy_in(&nothing, memory.whole()).expect("the device works");
        let span = memory.span();
        self.kept.push(memory);
        span
    }

    /// Runs a command to its end, or says what the device has against it.
    pub(crate) fn run(&self, command: Command) -> Result<(), String> {
        let memory: Vec<_> = self.kept.iter().collect();
        let run = self.queue.run(&[command], &memory).and_then(|()| self.queue.synchronize());
        run.map_err(|error| error.to_string())
    }

    pub(crate) fn read<T: Number>(&self, span: Span) -> Vec<T> {
        let host = PinnedMemory::new(&self.driver, span.bytes).expect("the device works");
        self.queue.copy_out(self.part(span), &host).expect("the device works");
        self.queue.synchronize().expect("the device works");
        // SAFETY: the stream is done with it.
        T::read(unsafe { host.bytes() })
    }

    fn part(&self, span: Span) -> Part<'_> {
        let memory = self.kept.iter().find(|memory| memory.span().holds(span));
        memory.expect("it was put here, or room was made for it").part(span)
    }
}
