//! From the first table to the last: the listeners are opened when there is something to serve, and given to a successor.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::Life;
use crate::handover::{Door, HandoverError, Leaving, Link};
use crate::settings::Handover;
use crate::status::{self, Readiness, Site, Sources};

/// The tasks that answer operators.
pub(super) type Servers = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// Ends them.
pub(super) fn end_all(servers: &Servers) {
    servers.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|server| server.abort());
}

/// Where operators are answered.
pub(super) struct Sites {
    pub(super) listeners: [(Arc<TcpListener>, Site); 3],
    pub(super) sources: Arc<Sources>,
}

impl Sites {
    pub(super) fn serve(&self, servers: &Servers) {
        let serve = |(listener, site): &(Arc<TcpListener>, Site)| {
            tokio::spawn(status::serve(listener.clone(), *site, self.sources.clone()))
        };
        servers.lock().unwrap_or_else(PoisonError::into_inner).extend(self.listeners.iter().map(serve));
    }
}

/// Everything that opening needs.
pub(super) struct Opening {
    /// Lets the workers listen.
    pub(super) listen: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    /// What a successor is handed; `None`: nothing can be.
    pub(super) leaving: Option<Leaving>,
    /// Where clients connect, without TLS and with it.
    pub(super) shown: (Vec<SocketAddr>, Vec<SocketAddr>),
    /// Turns true when there is a table.
    pub(super) live: watch::Receiver<bool>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) sites: Sites,
    pub(super) servers: Servers,
    pub(super) handover: Handover,
    /// The predecessor, where there is one.
    pub(super) link: Option<Link>,
    pub(super) life: watch::Sender<Life>,
}

impl Opening {
    pub(super) async fn run(mut self) {
        if let Err(reason) = self.open().await {
            error!(reason, "this process cannot serve");
            self.life.send_replace(Life::Failed(reason));
            return;
        }
        self.life.send_replace(Life::Serving);
        let Some(leaving) = self.leaving.take() else { return };
        let door = match Door::open(&self.handover) {
            Ok(door) => door,
            Err(e) => return warn!(reason = %e, "there will be no hot restart of this process"),
        };
        let succeeded = door.succeeded(&leaving).await;
        info!(successor = succeeded.pid, "another process serves in this one's place");
        self.life.send_replace(Life::Succeeded(succeeded.pid));
        // Until this task is ended, the feed stands aside.
        std::future::pending::<()>().await;
        drop(succeeded);
    }

    /// Waits for the first table, and accepts.
    async fn open(&mut self) -> Result<(), String> {
        let live = async |live: &mut watch::Receiver<bool>| live.wait_for(|live| *live).await.is_ok();
        let is_live = match &self.link {
            None => live(&mut self.live).await,
            Some(link) => tokio::select! {
                is_live = live(&mut self.live) => is_live,
                e = link.broken_off() => return Err(e.to_string()),
            },
        };
        if !is_live {
            return Err("the feed has ended".to_owned());
        }
        if let Some(link) = &mut self.link {
            link.ready().await.map_err(|e: HandoverError| e.to_string())?;
        }
        self.listen.as_mut().await.map_err(|e| format!("the listeners cannot be opened: {e}"))?;
        self.readiness.set_listening();
        if self.link.is_some() {
            // Not before: the process before this one answers there too, and is ready.
            self.sites.serve(&self.servers);
        }
        info!(addresses = ?self.shown.0, tls_addresses = ?self.shown.1, "serving");
        if let Some(link) = self.link.take() {
            link.serving().await;
        }
        Ok(())
    }
}
