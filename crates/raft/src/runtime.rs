//! Everything that makes two runs of a replica differ: tasks, time, threads, random numbers and the way to
//! other nodes. The crate takes them from here alone, so that a simulation can replay a run from its seed
//! (`docs/decisions/0019-simulation-below-the-replica.md`). `select!` is `biased` for the same reason.

#[cfg(test)]
pub(crate) use crate::tests::simulation::runtime::{
    Channel, Instant, JoinError, JoinHandle, Runtime, fill_random, sleep, spawn, spawn_blocking,
    timeout, timeout_at,
};
#[cfg(not(test))]
pub(crate) use {
    getrandom::fill as fill_random,
    openraft::TokioRuntime as Runtime,
    tokio::{
        spawn,
        task::{JoinError, JoinHandle, spawn_blocking},
        time::{Instant, sleep, timeout, timeout_at},
    },
    tonic::transport::Channel,
};
