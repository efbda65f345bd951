//! What a batch is to the device: a list of commands, as data. Whoever makes it touches no device.

use std::sync::Arc;

use super::driver::{Driver, DriverError, Event, Launch, Product, Span, Stream};
use super::ledger::Reservation;
use super::memory::{Captured, DeviceMemory, Dropped, Part, PinnedMemory};

/// One step of what a stream does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Launch(Launch),
    Multiply(Product),
}

/// A stream and what is given to it.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    driver: Arc<dyn Driver>,
    stream: Stream,
    /// Of what was captured.
    dropped: Arc<Dropped>,
}

impl Queue {
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Result<Self, DriverError> {
        let stream = driver.stream()?;
        Ok(Self { driver: driver.clone(), stream, dropped: Dropped::new(driver, stream) })
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Hands commands over, which use nothing but this memory. It may be dropped after: it is given back behind them.
    ///
    /// # Panics
    /// If a command is given anything else.
    pub(crate) fn run(&self, commands: &[Command], memory: &[&DeviceMemory]) -> Result<(), DriverError> {
        check(commands, memory);
        self.dropped.clear();
        self.give(commands)
    }

    /// Hands over commands that were checked.
    fn give(&self, commands: &[Command]) -> Result<(), DriverError> {
        for command in commands {
            // SAFETY: all spans are within memory that is there, and stays until this stream has done what it is given now.
            // That each stream's work on the same memory is in order is what whoever owns the streams sees to.
            unsafe {
                match command {
                    Command::Launch(launch) => self.driver.launch(self.stream, launch)?,
                    Command::Multiply(product) => self.driver.multiply(self.stream, product)?,
                }
            }
        }
        Ok(())
    }

    /// Does again what was captured, all of which uses nothing but this memory.
    ///
    /// # Panics
    /// If it uses anything else.
    pub(crate) fn replay(&self, captured: &Captured, memory: &[&DeviceMemory]) -> Result<(), DriverError> {
        for span in captured.memory() {
            assert!(memory.iter().any(|memory| memory.span() == *span), "{span:?} is none of what is kept");
        }
        self.dropped.clear();
        // SAFETY: as in `run`.
        unsafe { self.driver.replay(self.stream, captured.graph) }
    }

    /// Notes commands down instead of doing them. What that takes of the device is what was reserved for it, if
    /// anybody keeps count.
    pub(crate) fn capture(
        &self,
        commands: &[Command],
        memory: &[&DeviceMemory],
        reservation: Option<Reservation>,
    ) -> Result<Captured, DriverError> {
        // Before it begins: a capture that is left by a panic never ends.
        check(commands, memory);
        self.dropped.clear();
        let spans = memory.iter().map(|memory| memory.span()).collect();
        Captured::of(&self.driver, self.stream, &self.dropped, spans, reservation, || self.give(commands))
    }

    /// Copies the first bytes of what is on the host. Nobody writes them until it is done.
    ///
    /// # Panics
    /// If there are not so many, as in all copies.
    pub(crate) fn copy_in(&self, from: &PinnedMemory, to: Part<'_>) -> Result<(), DriverError> {
        let to = to.span();
        // SAFETY: as in `run`; pinned memory outlives what is done with it, as `PinnedMemory` says.
        unsafe { self.driver.copy_in(self.stream, from.span().part(0..to.bytes), to) }
    }

    /// Copies to the first bytes of what is on the host. Nobody reads them until it is done.
    pub(crate) fn copy_out(&self, from: Part<'_>, to: &PinnedMemory) -> Result<(), DriverError> {
        let from = from.span();
        // SAFETY: as above.
        unsafe { self.driver.copy_out(self.stream, from, to.span().part(0..from.bytes)) }
    }

    /// Copies to the first bytes of another place on the device.
    pub(crate) fn copy(&self, from: Part<'_>, to: Part<'_>) -> Result<(), DriverError> {
        let (from, to) = (from.span(), to.span());
        // SAFETY: as in `run`.
        unsafe { self.driver.copy(self.stream, from, to.part(0..from.bytes)) }
    }

    /// Notes in `event` what was handed over so far.
    pub(crate) fn record(&self, event: &Mark) -> Result<(), DriverError> {
        self.driver.record(event.event, self.stream)
    }

    /// Goes on only when what was noted is done.
    pub(crate) fn wait(&self, event: &Mark) -> Result<(), DriverError> {
        self.driver.wait(self.stream, event.event)
    }

    pub(crate) fn synchronize(&self) -> Result<(), DriverError> {
        self.driver.synchronize(self.stream)
    }
}

/// # Panics
/// If a command uses anything but this memory.
fn check(commands: &[Command], memory: &[&DeviceMemory]) {
    for span in commands.iter().flat_map(Command::spans) {
        assert!(memory.iter().any(|memory| memory.span().holds(span)), "{span:?} is none of what is kept");
    }
}

/// A place in a stream's work.
#[derive(Debug)]
pub(crate) struct Mark {
    driver: Arc<dyn Driver>,
    event: Event,
}

impl Mark {
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Result<Self, DriverError> {
        Ok(Self { driver: driver.clone(), event: driver.event()? })
    }

    pub(super) fn event(&self) -> Event {
        self.event
    }

    /// Whether the stream is past it.
    pub(crate) fn is_past(&self) -> Result<bool, DriverError> {
        self.driver.is_done(self.event)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.driver.destroy_event(self.event);
    }
}

impl Command {
    /// The memory it uses.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let (arguments, product) = match self {
            Self::Launch(launch) => (&launch.arguments[..], None),
            Self::Multiply(product) => (&[][..], Some(product)),
        };
        let of_product = |product: &Product| {
            let Product { input, weight, bias, residual, output, .. } = *product;
            [Some(input), Some(weight), bias, residual, Some(output)]
        };
        arguments
            .iter()
            .filter_map(super::driver::Argument::span)
            .chain(product.into_iter().flat_map(of_product).flatten())
    }
}
