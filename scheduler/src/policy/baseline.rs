//! What others do, to be measured against. Each is as its paper or its source has it, under our late binding and our
//! order; none is meant to serve anybody.

mod aimd;
mod bento;
mod last_moment;
mod nexus;

use alloc::boxed::Box;

use super::BatchPolicy;
use crate::Baseline;

pub(super) fn from_config(baseline: Baseline) -> Box<dyn BatchPolicy> {
    match baseline {
        Baseline::Aimd => Box::new(aimd::Aimd::default()),
        Baseline::Bento => Box::new(bento::Bento::default()),
        Baseline::LastMoment => Box::new(last_moment::LastMoment),
        Baseline::Nexus { rows } => Box::new(nexus::Nexus { rows: rows.get() }),
    }
}
