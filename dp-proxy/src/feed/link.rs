//! One gRPC stream to a control-plane node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::{FeedDown, FeedUp};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint as Target;

use crate::net::{Dial, Duplex};
use crate::settings::Endpoint;

/// A ping after so long, also while nothing is sent: a half-open connection gives no error by itself.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A ping that is not answered for so long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message: a node cuts payloads into parts, and an edit's is far smaller.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Acks that a node has not taken yet. One that takes none of so many is of no use.
const UP_QUEUE: usize = 64;
/// The stream's window: a full configuration should not wait for a round trip per 64 KiB.
const WINDOW_BYTES: u32 = 4 << 20;

/// An open stream.
#[derive(Debug)]
pub(super) struct Link {
    up: mpsc::Sender<FeedUp>,
    /// What was taken and put back.
    unread: VecDeque<FeedDown>,
    down: Streaming<FeedDown>,
}

/// Why a stream could not be opened, or ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the node answers {code:?}: {message}")]
    Status { code: tonic::Code, message: String },
    #[error("the node ended the stream")]
    Ended,
    #[error("the node does not take what it is sent")]
    Stuck,
}

impl Link {
    /// Dials a node and opens the stream with `hello`.
    pub(super) async fn open(
        dial: Arc<dyn Dial>,
        endpoint: &Endpoint,
        hello: FeedUp,
        within: Duration,
    ) -> Result<Self, LinkError> {
        let open = async {
            let target = Target::from_shared(format!("http://{}", endpoint.authority()))
                .map_err(|e| LinkError::Connect(e.to_string()))?
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES);
            let connector = Connector { dial, authority: endpoint.authority().into() };
            let channel = target.connect_with_connector(connector).await;
            let channel = channel.map_err(|e| LinkError::Connect(with_causes(&e)))?;
            let (up, queue) = mpsc::channel(UP_QUEUE);
            up.try_send(hello).map_err(|_| LinkError::Stuck)?;
            let mut client = FeedClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let down = client.subscribe(ReceiverStream::new(queue)).await.map_err(status)?.into_inner();
            Ok(Self { up, unread: VecDeque::new(), down })
        };
        timeout(within, open).await.unwrap_or(Err(LinkError::Timeout(within)))
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<FeedDown, LinkError> {
        match self.unread.pop_front() {
            Some(message) => Ok(message),
            None => self.down.message().await.map_err(status)?.ok_or(LinkError::Ended),
        }
    }

    /// Puts back what was taken first, in its order: it comes again before anything else.
    pub(super) fn put_back(&mut self, messages: Vec<FeedDown>) {
        messages.into_iter().rev().for_each(|message| self.unread.push_front(message));
    }

    /// Sends a message, or says that the node does not take any.
    pub(super) fn send(&self, message: FeedUp) -> Result<(), LinkError> {
        self.up.try_send(message).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => LinkError::Stuck,
            mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
        })
    }
}

fn status(status: tonic::Status) -> LinkError {
    LinkError::Status { code: status.code(), message: status.message().to_owned() }
}

/// An error with everything that led to it: the outermost one says little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some say their cause's words as their own.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Lets the channel dial as everything here does.
#[derive(Clone, Debug)]
struct Connector {
    dial: Arc<dyn Dial>,
    authority: Arc<str>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Duplex>>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dial, authority } = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dial.dial(&authority).await?)) })
    }
}
