//! A new connection to a node: to the first of its addresses that takes one, with what it must be told first and its
//! handshake made.

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
/// [`DialError`], of the address that failed last.
pub(crate) async fn dial(
    names: &Rc<Names>,
    node: &Node,
    preface: &[u8],
    secured: Option<&Secured>,
    limit: Duration,
) -> Result<Link, DialError> {
    let connect = async {
        let addresses = names.addresses(node).await.map_err(|e| DialError::Unreachable(e.to_string()))?;
        let mut stream = net::connect_any(&addresses).await.map_err(|e| DialError::Unreachable(e.to_string()))?;
        if !preface.is_empty() {
            let told = stream.write_all(preface).await;
            told.map_err(|e| DialError::Unreachable(format!("{}: {e}", node.address())))?;
        }
        let Some(secured) = secured else { return Ok(Link::Plain(stream)) };
        let address = stream.peer_addr().map_or_else(|_| node.address(), |address| address.to_string());
        let link = Box::pin(secured.shake(stream)).await;
        link.map_err(|e| DialError::Tls(format!("{address}: {e}")))
    };
    timeout(limit, connect).await.unwrap_or(Err(DialError::Late(limit)))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::table::Ticket;

    /// Connections that a listener whose backlog is one takes before it answers nobody any more.
    const FILLING: usize = 4;

    /// A listener that is full: whoever connects waits for ever. With what fills it.
    fn full_listener(address: SocketAddr) -> Vec<Socket> {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&address.into()).unwrap();
        listener.listen(1).unwrap();
        let mut sockets = vec![listener];
        for _ in 0..FILLING {
            let filling = socket();
            filling.set_nonblocking(true).unwrap();
            // It is under way: nobody waits for it.
            let _ = filling.connect(&address.into());
            sockets.push(filling);
        }
        sockets
    }

    #[test]
    fn a_dead_address_of_a_name_costs_no_connection() {
        let options = tokio::runtime::LocalOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
        runtime.block_on(async {
            let live = net::listen(net::bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
            let port = live.local_addr().unwrap().port();
            let _full = full_listener(SocketAddr::from(([127, 0, 0, 2], port)));
            let names = Rc::new(Names::with(Duration::from_secs(60), |_| {
                Box::pin(async {
                    let both = ["127.0.0.2", "127.0.0.1"].map(|address| address.parse().unwrap());
                    Ok((both.into_iter().collect(), None))
                })
            }));
            let listed =
                protocol::resource::Node { host: "a.example".into(), port: Some(port), weight: 1, priority: 0 };
            let node = Node::compile(&listed, 80, |_, _| Ticket::default());
            // Whichever address has its turn.
            for _ in 0..2 {
                let link = dial(&names, &node, &[], None, Duration::from_secs(20)).await.unwrap();
                let Link::Plain(stream) = link else { panic!("nobody asked for TLS") };
                assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
            }
        });
    }
}
