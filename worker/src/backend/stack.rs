//! The backends of one worker behind one face: each model runs on the backend its source asks for, and one with weights on
//! the GPU where there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::cuda::Cuda;
use super::echo::Echo;
use super::engine::Engine;
use super::planned::Planned;
use super::synthetic::Synthetic;
use super::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{BatchError, HostBatch, ItemResult, PageIn};
use crate::card::ModelCard;
use crate::source::ModelSource;

/// Every backend of this build.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    gpu: Option<Cuda>,
    models: Planned<Engine>,
    echo: Echo,
    synthetic: Synthetic,
    homes: BTreeMap<Arc<str>, Home>,
}

/// Which backend holds a model.
#[derive(Clone, Copy, Debug)]
enum Home {
    Gpu,
    Model,
    Echo,
    Synthetic,
}

/// A model prepared for one of the backends.
#[derive(Debug)]
pub(crate) enum Prepared {
    Gpu(Box<<Cuda as Backend>::Prepared>),
    Model(<Planned<Engine> as Backend>::Prepared),
    Echo(<Echo as Backend>::Prepared),
    Synthetic(<Synthetic as Backend>::Prepared),
}

/// A batch launched on one of the backends.
#[derive(Debug)]
pub(crate) enum Ticket {
    Gpu(<Cuda as Backend>::Ticket),
    Model(<Planned<Engine> as Backend>::Ticket),
    Echo(<Echo as Backend>::Ticket),
    Synthetic(<Synthetic as Backend>::Ticket),
}

impl Stack {
    /// With what the compute has.
    pub(crate) fn new(compute: &Compute) -> Self {
        Self { gpu: compute.gpu.clone().map(Cuda::new), ..Self::default() }
    }

    fn depth_of(&self, home: Home) -> usize {
        match home {
            Home::Gpu => self.gpu.as_ref().map_or(1, Backend::depth),
            Home::Model => self.models.depth(),
            Home::Echo => self.echo.depth(),
            Home::Synthetic => self.synthetic.depth(),
        }
    }
}

impl Backend for Stack {
    type Prepared = Prepared;
    type Ticket = Ticket;

    fn prepare(
        request: &PrepareRequest,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(Prepared, ModelCard), LoadError> {
        Ok(match &request.source {
            ModelSource::Echo => {
                let (prepared, card) = Echo::prepare(request, compute, progress)?;
                (Prepared::Echo(prepared), card)
            }
            ModelSource::Synthetic(_) => {
                let (prepared, card) = Synthetic::prepare(request, compute, progress)?;
                (Prepared::Synthetic(prepared), card)
            }
            ModelSource::Folder(_) => {
                let mut on_gpu = None;
                if compute.gpu.is_some() {
                    match Cuda::prepare(request, compute, progress) {
                        Ok((prepared, card)) => return Ok((Prepared::Gpu(Box::new(prepared)), card)),
                        Err(error) if compute.falls_back && error.is_for_another_device() => on_gpu = Some(error),
                        Err(error) => return Err(error),
                    }
                }
                match (Planned::<Engine>::prepare(request, compute, progress), on_gpu) {
                    (Ok((prepared, card)), on_gpu) => {
                        if let Some(error) = on_gpu {
                            tracing::warn!(model = %request.name, %error, "runs on the processor");
                        }
                        (Prepared::Model(prepared), card)
                    }
                    (Err(on_processor), Some(on_gpu)) => {
                        return Err(LoadError::Nowhere { gpu: on_gpu.into(), processor: on_processor.into() });
                    }
                    (Err(error), None) => return Err(error),
                }
            }
        })
    }

    /// As deep as the shallowest that holds a model: their batches are counted together.
    fn depth(&self) -> usize {
        self.homes.values().map(|home| self.depth_of(*home)).min().unwrap_or(1)
    }

    fn is_brief(&self, batch: &HostBatch) -> bool {
        match self.homes.get(&batch.model) {
            Some(Home::Gpu) => self.gpu.as_ref().is_some_and(|gpu| gpu.is_brief(batch)),
            Some(Home::Model) => self.models.is_brief(batch),
            Some(Home::Echo) => self.echo.is_brief(batch),
            Some(Home::Synthetic) => self.synthetic.is_brief(batch),
            None => false,
        }
    }

    fn install(&mut self, name: &Arc<str>, prepared: Prepared) -> Result<(), LoadError> {
        self.evict(name);
        let home = match prepared {
            Prepared::Gpu(prepared) => {
                self.gpu.as_mut().ok_or(LoadError::NoGpu)?.install(name, *prepared)?;
                Home::Gpu
            }
            Prepared::Model(prepared) => {
                self.models.install(name, prepared)?;
                Home::Model
            }
            Prepared::Echo(prepared) => {
                self.echo.install(name, prepared)?;
                Home::Echo
            }
            Prepared::Synthetic(prepared) => {
                self.synthetic.install(name, prepared)?;
                Home::Synthetic
            }
        };
        self.homes.insert(name.clone(), home);
        Ok(())
    }

    fn evict(&mut self, name: &str) {
        match self.homes.remove(name) {
            Some(Home::Gpu) => self.gpu.iter_mut().for_each(|gpu| gpu.evict(name)),
            Some(Home::Model) => self.models.evict(name),
            Some(Home::Echo) => self.echo.evict(name),
            Some(Home::Synthetic) => self.synthetic.evict(name),
            None => {}
        }
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Ticket, BatchError> {
        let missing = || Err(BatchError::Device(format!("model `{}` is not in memory", batch.model)));
        match (self.homes.get(&batch.model), &mut self.gpu) {
            (Some(Home::Gpu), Some(gpu)) => gpu.launch(batch, live).map(Ticket::Gpu),
            (Some(Home::Model), _) => self.models.launch(batch, live).map(Ticket::Model),
            (Some(Home::Echo), _) => self.echo.launch(batch, live).map(Ticket::Echo),
            (Some(Home::Synthetic), _) => self.synthetic.launch(batch, live).map(Ticket::Synthetic),
            (Some(Home::Gpu), None) | (None, _) => missing(),
        }
    }

    fn poll(&mut self, ticket: &mut Ticket) -> Option<Result<Vec<ItemResult>, BatchError>> {
        match ticket {
            Ticket::Gpu(ticket) => self.gpu.as_mut()?.poll(ticket),
            Ticket::Model(ticket) => self.models.poll(ticket),
            Ticket::Echo(ticket) => self.echo.poll(ticket),
            Ticket::Synthetic(ticket) => self.synthetic.poll(ticket),
        }
    }

    fn absent(&self, seen: &mut u64) -> Option<Vec<Arc<str>>> {
        self.gpu.as_ref()?.absent(seen)
    }

    fn page_in(&self, ticket: &Ticket, since: Instant) -> Option<PageIn> {
        match ticket {
            Ticket::Gpu(ticket) => self.gpu.as_ref()?.page_in(ticket, since),
            Ticket::Model(_) | Ticket::Echo(_) | Ticket::Synthetic(_) => None,
        }
    }
}
