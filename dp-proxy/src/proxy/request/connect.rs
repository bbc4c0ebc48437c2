//! Connections to a node: to which of its addresses, and by which name it is believed.

use rustls::pki_types::ServerName;
use tokio::time::timeout;

use super::Outbound;
use crate::net;
use crate::proxy::error::Refusal;
use crate::proxy::host;
use crate::proxy::upstream::link::{Link, Secured};
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
        let limit = self.timeouts.connect;
        let connect = async {
            let addresses = self.worker.names.addresses(node).await;
            let addresses = addresses.map_err(|e| Refusal::Connection(e.to_string()))?;
            let mut last = String::new();
            for address in addresses {
                match net::connect(address).await {
                    Ok(stream) => {
                        let Some(secured) = secured else { return Ok(Link::Plain(stream)) };
                        let link = Box::pin(secured.shake(stream)).await;
                        return link.map_err(|e| Refusal::Tls(format!("{address}: {e}")));
                    }
                    Err(e) => last = format!("{address}: {e}"),
                }
            }
            Err(Refusal::Connection(last))
        };
        timeout(limit, connect).await.unwrap_or(Err(Refusal::ConnectTimeout(limit)))
    }
}
