//! The backends of one worker behind one face: each model runs on the backend its source asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::echo::Echo;
use super::engine::Engine;
use super::planned::Planned;
use super::synthetic::Synthetic;
use super::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{BatchError, HostBatch, ItemResult};
use crate::card::ModelCard;
use crate::source::ModelSource;

/// Every backend of this build.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    models: Planned<Engine>,
    echo: Echo,
    synthetic: Synthetic,
    homes: BTreeMap<Arc<str>, Home>,
}

/// Which backend holds a model.
#[derive(Clone, Copy, Debug)]
enum Home {
    Model,
    Echo,
    Synthetic,
}

/// A model prepared for one of the backends.
#[derive(Debug)]
pub(crate) enum Prepared {
    Model(<Planned<Engine> as Backend>::Prepared),
    Echo(<Echo as Backend>::Prepared),
    Synthetic(<Synthetic as Backend>::Prepared),
}

/// A batch launched on one of the backends.
#[derive(Debug)]
pub(crate) enum Ticket {
    Model(<Planned<Engine> as Backend>::Ticket),
    Echo(<Echo as Backend>::Ticket),
    Synthetic(<Synthetic as Backend>::Ticket),
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
                let (prepared, card) = Planned::<Engine>::prepare(request, compute, progress)?;
                (Prepared::Model(prepared), card)
            }
        })
    }

    /// As deep as the shallowest: a device is shared by all models, so its batches are counted together.
    fn depth(&self) -> usize {
        self.models.depth().min(self.echo.depth()).min(self.synthetic.depth())
    }

    fn is_brief(&self, batch: &HostBatch) -> bool {
        match self.homes.get(&batch.model) {
            Some(Home::Model) => self.models.is_brief(batch),
            Some(Home::Echo) => self.echo.is_brief(batch),
            Some(Home::Synthetic) => self.synthetic.is_brief(batch),
            None => false,
        }
    }

    fn install(&mut self, name: &Arc<str>, prepared: Prepared) -> Result<(), LoadError> {
        self.evict(name);
        let home = match prepared {
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
            Some(Home::Model) => self.models.evict(name),
            Some(Home::Echo) => self.echo.evict(name),
            Some(Home::Synthetic) => self.synthetic.evict(name),
            None => {}
        }
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Ticket, BatchError> {
        match self.homes.get(&batch.model) {
            Some(Home::Model) => self.models.launch(batch, live).map(Ticket::Model),
            Some(Home::Echo) => self.echo.launch(batch, live).map(Ticket::Echo),
            Some(Home::Synthetic) => self.synthetic.launch(batch, live).map(Ticket::Synthetic),
            None => Err(BatchError::Device(format!("model `{}` is not in memory", batch.model))),
        }
    }

    fn poll(&mut self, ticket: &mut Ticket) -> Option<Result<Vec<ItemResult>, BatchError>> {
        match ticket {
            Ticket::Model(ticket) => self.models.poll(ticket),
            Ticket::Echo(ticket) => self.echo.poll(ticket),
            Ticket::Synthetic(ticket) => self.synthetic.poll(ticket),
        }
    }
}
