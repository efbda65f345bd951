//! What the executor plans, without running it; and that it computes what transformers does, whatever the instructions.

mod memory;
