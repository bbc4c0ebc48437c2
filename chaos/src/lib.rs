//! Proves on real processes, disks and sockets that Holdfast holds fast.
//!
//! A [`cluster::Cluster`] is real programs on loopback addresses; a scenario does something to it, and checks what its
//! users were promised. Everything here is bounded in count and time, talks only to 127.0.0.0/8 or within namespaces of its
//! own, and takes its processes with it when it ends.

pub mod archive;
pub mod arena;
pub mod binaries;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod demo;
pub mod failpoints;
pub mod fault;
pub mod golden;
pub mod herd;
pub mod history;
pub mod http;
pub mod layout;
pub mod leftovers;
pub mod link;
pub mod load;
pub mod luck;
pub mod mutants;
pub mod namespaces;
pub mod network;
pub mod patience;
pub mod pointers;
pub mod postgres;
pub mod power_cut;
pub mod process;
pub mod rewinds;
pub mod s3;
pub mod sample;
pub mod scenario;
pub mod subscriber;
pub mod summary;
pub mod sweep;
pub mod upstream;
pub mod wide_fleet;
pub mod wires;
pub mod workload;
