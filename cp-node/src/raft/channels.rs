//! Connections to other nodes, kept and shared.
//!
//! Consensus asks for a client anew for every election and every read; so channels are cached by address. Bulk traffic
//! (snapshots, forwarded proposals) has connections of its own, so that a heartbeat never queues behind it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use protocol::codec;
use protocol::grpc::peer_client::PeerClient;
use tonic::transport::Channel;

use crate::links::Links;

/// Which connection a call goes over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum LinkClass {
    /// Heartbeats, entries, votes, read indexes.
    Consensus,
    /// Snapshots, proposals, and what people wait for.
    Bulk,
}

/// The connections. Clones share them.
#[derive(Clone)]
pub(crate) struct Channels {
    links: Links,
    open: Arc<Mutex<HashMap<(String, LinkClass), Channel>>>,
}

/// The largest message between nodes: an append or a reply, with room for its frame. Snapshots come in small parts.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 << 20;

impl Channels {
    pub(crate) fn new(links: Links) -> Self {
        Self { links, open: Arc::default() }
    }

    /// How connections are opened and taken.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// A client for the node at `address`. Connects when it is first used.
    pub(crate) fn peer(&self, address: &str, class: LinkClass) -> PeerClient<Channel> {
        let channel = {
            let mut open = self.open.lock().expect("no code panics while it holds the channels");
            let key = (address.to_owned(), class);
            open.entry(key).or_insert_with(|| self.links.channel(address)).clone()
        };
        PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX + codec::HEADER_BYTES)
    }
}
