//! What a proxy says of itself: to the control plane, and on the board.

use daemon::planted;
use protocol::grpc::feed_up::Kind as Up;
use protocol::grpc::{Ack, FeedUp, Hello, RejectedResource};
use protocol::resource::KINDS;
use protocol::{ConfigState, Position};

use super::{Follower, Identity};
use crate::feed::link::{Link, LinkError};
use crate::standing::Standing;

/// Rejected resources that one ack names; the rest is on the status page.
const ACK_REJECTED_MAX: usize = 1000;

impl Follower {
    pub(super) fn hello(&self) -> FeedUp {
        let Identity { node, instance } = &self.identity;
        let state = &self.holding.state;
        // One who needs everything says that it has nothing.
        let (position, changed_at, digest) = match self.need_full || planted!("proxy-goes-back") {
            true => (Position::default(), Position::default(), ConfigState::following().digest()),
            false => (state.position(), state.changed_at(), state.digest()),
        };
        let kinds = KINDS.iter().map(|kind| format!("kind/{}", kind.name));
        let capabilities = kinds.chain(plugins::PLUGINS.iter().map(|plugin| format!("plugin/{}", plugin.name)));
        let hello = Hello {
            cluster: self.holding.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            name: node.name.clone(),
            instance: instance.to_vec().into(),
            version: daemon::build::VERSION.to_owned(),
            capabilities: capabilities.collect(),
            labels: node.labels.clone().into_iter().collect(),
            region: node.region.clone(),
            group: node.group.clone(),
            position: Some(position.into()),
            changed_at: Some(changed_at.into()),
            digest: digest.0.to_vec().into(),
        };
        FeedUp { kind: Some(Up::Hello(hello)) }
    }

    pub(super) fn ack(&self, link: &Link) -> Result<(), LinkError> {
        let state = &self.holding.state;
        let rejected = self.compiler.rejected().iter().take(ACK_REJECTED_MAX).map(|(key, rejected)| RejectedResource {
            kind: key.kind.to_string(),
            id: key.id.to_string(),
            reason: rejected.reason.clone(),
            last_good: rejected.last_good,
        });
        let ack = Ack {
            position: Some(state.position().into()),
            digest: state.digest().0.to_vec().into(),
            rejected: rejected.collect(),
            volatile: self.volatile,
        };
        link.send(FeedUp { kind: Some(Up::Ack(ack)) })
    }

    pub(super) fn post(&self) {
        if let Some(archive) = &self.archive {
            archive.interest.send_replace(self.interest());
        }
        let state = &self.served;
        self.board.write(Standing {
            position: state.position(),
            changed_at: state.changed_at(),
            digest: state.digest(),
            resources: state.len(),
            cluster: self.holding.cluster,
            source: self.source,
            connected: self.connected.clone(),
            volatile: self.volatile,
            rejected: self.rejected.clone(),
            secrets: self.compiler.secrets().standing(),
            state: Some(state.clone()),
        });
    }
}
