#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
//! Real processes, disks and sockets: what Holdfast promises, with the faults that it promises it against.

mod admin_load;
mod archive;
mod behind;
mod certificates;
mod coming_back;
mod crash;
mod demo;
mod failing;
mod failpoints;
mod fleet;
mod golden;
mod golden_outside;
mod hfctl;
mod hfctl_verbs;
mod leader_kills;
mod members;
mod namespaces;
mod power_cut;
mod proxy_disk;
mod quorum;
mod record;
mod record_bodies;
mod record_embedded;
mod record_faults;
mod record_limits;
mod record_verify;
mod scenarios;
mod slow_link;
mod stopping;
mod store;
mod wait;
