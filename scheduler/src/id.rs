//! Names of things. All are made by the server or by the core; none is ever taken from a caller.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// One request: one row of one call.
    RequestId(u64)
);
id!(
    /// All requests of one call. They are admitted together, refused together, cancelled together, and fail together.
    GroupId(u64)
);
id!(
    /// One dispatch to one worker. Never reused: a retried batch has a new id.
    BatchId(u64)
);
id!(
    /// A configured model.
    ModelId(u32)
);
id!(
    /// A tenant, as the server interned it.
    TenantId(u32)
);
id!(
    /// A worker process, stable across its reconnects.
    WorkerId(u32)
);
id!(
    /// What a worker computes on, as the server interned it. Workers that share one have the same.
    DeviceId(u32)
);
id!(
    /// One life of a worker's connection. Replies from an earlier life are dropped.
    Epoch(u64)
);
id!(
    /// A place in a worker's queue of batches, named by the worker when it grants the credit.
    Slot(u32)
);
id!(
    /// How many times a request was sent to a worker, counted from 1.
    Attempt(u16)
);
