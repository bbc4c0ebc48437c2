//! Connections to a node, and by which name it is believed.

use rustls::pki_types::ServerName;

use super::Outbound;
use crate::proxy::error::Refusal;
use crate::proxy::host;
use crate::proxy::link::{Link, Secured};
use crate::proxy::upstream::dial::{DialError, dial};
use crate::table::Node;

impl Outbound<'_> {
    /// How TLS is made to a node, where it is spoken. As with APISIX, the name in the handshake is the `Host` that the node
    /// sees, which `pass_host` decides on.
    pub(super) fn secured(&self, node: &Node) -> Result<Option<Secured>, Refusal> {
        let Some(config) = self.tls else { return Ok(None) };
        let host = self.host_for(node);
        let name = host::name_of(host).unwrap_or_default();
        // An IPv6 address has brackets in a host, and none in a certificate.
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Refusal::Tls(format!("{host:?} is no name that TLS can ask for")))?;
        Ok(Some(Secured { config: config.clone(), name }))
    }

    /// A new connection, with its handshake made.
    pub(super) async fn connect(&self, node: &Node, secured: Option<&Secured>) -> Result<Link, Refusal> {
        let dialled = dial(&self.worker.names, node, &[], secured, self.timeouts.connect).await;
        dialled.map_err(|error| match error {
            DialError::Unreachable(reason) => Refusal::Connection(reason),
            DialError::Late(limit) => Refusal::ConnectTimeout(limit),
            DialError::Tls(reason) => Refusal::Tls(reason),
        })
    }
}
