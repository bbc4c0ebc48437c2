//! A new connection to a node: to one of its addresses, with what it must be told first and its handshake made.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::names::Names;
use crate::net;
use crate::proxy::link::{Link, Secured};
use crate::table::Node;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no connection to any node: {0}")]
    Unreachable(String),
    #[error("no connection to any node within {0:?}")]
    Late(Duration),
    #[error("no TLS with the node: {0}")]
    Tls(String),
}

/// Connects within a time. `preface` is sent before anything else, also before the handshake of TLS.
///
/// # Errors
/// [`DialError`], of the address that was tried last.
pub(crate) async fn dial(
    names: &Rc<Names>,
    node: &Node,
    preface: &[u8],
    secured: Option<&Secured>,
    limit: Duration,
) -> Result<Link, DialError> {
    let connect = async {
        let addresses = names.addresses(node).await.map_err(|e| DialError::Unreachable(e.to_string()))?;
        let mut last = String::new();
        for address in addresses {
            let told = match net::connect(address).await {
                Ok(stream) if preface.is_empty() => Ok(stream),
                Ok(mut stream) => stream.write_all(preface).await.map(|()| stream),
                Err(e) => Err(e),
            };
            match told {
                Ok(stream) => {
                    let Some(secured) = secured else { return Ok(Link::Plain(stream)) };
                    let link = Box::pin(secured.shake(stream)).await;
                    return link.map_err(|e| DialError::Tls(format!("{address}: {e}")));
                }
                Err(e) => last = format!("{address}: {e}"),
            }
        }
        Err(DialError::Unreachable(last))
    };
    timeout(limit, connect).await.unwrap_or(Err(DialError::Late(limit)))
}
