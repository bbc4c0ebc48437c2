//! Reads from a HashiCorp Vault: `GET <uri>/v1/<prefix>/<path>`, of a KV secrets engine of version 1 or 2.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use protocol::resource::{Vault, VaultPlace};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::FieldsOf;
use super::book::{Fetched, Order, text};
use crate::net::{Dial, Duplex, Tcp};
use crate::table::{Alpn, ClientTls};

/// How long one answer may take, the connection included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer, in bytes: Vault's own bound of a request is 32 MiB, of what Consul keeps for it 512 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of what a vault says in place of an answer is repeated, in characters.
const SAID_CHARS_MAX: usize = 200;

/// Sends for what is due, and has what came back.
#[derive(Debug)]
pub(crate) struct Errands {
    tls: Arc<ClientTls>,
    sender: mpsc::UnboundedSender<Fetched>,
    pub(crate) fetched: mpsc::UnboundedReceiver<Fetched>,
}

/// Why nothing could be read.
enum Failed {
    /// The vault cannot be reached: to ask for more would take as long.
    Unreachable(String),
    Answered(String),
}

impl Errands {
    /// `tls` is what vaults are reached by over HTTPS: whoever has a certificate of somebody whom it trusts is believed.
    pub(crate) fn new(tls: Arc<ClientTls>) -> Self {
        let (sender, fetched) = mpsc::unbounded_channel();
        Self { tls, sender, fetched }
    }

    /// Carries out an order beside everything else. Each of its places is answered.
    pub(crate) fn send(&self, order: Order) {
        tokio::spawn(carry_out(order, self.tls.clone(), self.sender.clone()));
    }
}

async fn carry_out(order: Order, tls: Arc<ClientTls>, answers: mpsc::UnboundedSender<Fetched>) {
    let Order { manager, vault, paths } = order;
    let mut unreachable = None;
    for path in paths {
        let fields = match &unreachable {
            Some(why) => Err(String::clone(why)),
            None => read(&vault, &path, &tls).await.map_err(|failed| match failed {
                Failed::Unreachable(why) => unreachable.insert(why).clone(),
                Failed::Answered(why) => why,
            }),
        };
        let place = VaultPlace { manager: manager.clone(), path };
        // Should the feed have ended, nobody wants to know.
        let _ = answers.send(Fetched { place, vault: vault.clone(), fields });
    }
}

async fn read(vault: &Vault, path: &str, tls: &ClientTls) -> Result<FieldsOf, Failed> {
    let asked = timeout(ANSWER_WITHIN, ask(vault, path, tls)).await;
    let no_answer =
        || Failed::Unreachable(format!("the vault at {} does not answer within {ANSWER_WITHIN:?}", vault.uri));
    let (status, body) = asked.map_err(|_| no_answer())??;
    fields_of(status, &body).map_err(Failed::Answered)
}

async fn ask(vault: &Vault, path: &str, tls: &ClientTls) -> Result<(StatusCode, Bytes), Failed> {
    let at = &vault.uri;
    let unreachable = |e: String| Failed::Unreachable(format!("the vault at {at} cannot be reached: {e}"));
    let refused = |e: String| Failed::Answered(format!("the vault at {at}: {e}"));
    let uri: Uri = format!("{at}/v1/{}/{path}", vault.prefix).parse().map_err(|e| refused(format!("{e}")))?;
    let host = uri.host().ok_or_else(|| refused("the uri names no host".to_owned()))?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(refused("the uri is neither http:// nor https://".to_owned())),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = Tcp.dial(&format!("{host}:{port}")).await.map_err(|e| unreachable(e.to_string()))?;
    let stream: Box<dyn Duplex> = if is_tls {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|e| refused(e.to_string()))?;
        let connector = TlsConnector::from(tls.config(true, Alpn::Http1).clone());
        Box::new(connector.connect(name, stream).await.map_err(|e| unreachable(e.to_string()))?)
    } else {
        stream
    };
    let mut request = Request::builder().method(Method::GET).uri(uri.path());
    request = request.header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()));
    request = request.header("x-vault-token", &*vault.token);
    if let Some(namespace) = &vault.namespace {
        request = request.header("x-vault-namespace", &**namespace);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| refused(e.to_string()))?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| unreachable(e.to_string()))?;
    // It ends with the sender.
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| unreachable(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|e| refused(e.to_string()))?.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// The fields in an answer. Version 2 of the engine puts them one level deeper, beside what it knows of their version.
fn fields_of(status: StatusCode, body: &[u8]) -> Result<FieldsOf, String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if status == StatusCode::NOT_FOUND {
        return Err("the vault has nothing there".to_owned());
    }
    if status != StatusCode::OK {
        let said: String = body["errors"].to_string().chars().take(SAID_CHARS_MAX).collect();
        return Err(format!("the vault answers {}: {said}", status.as_u16()));
    }
    let data = match &body["data"] {
        Value::Object(outer) => match (outer.get("data"), outer.get("metadata")) {
            (Some(Value::Object(inner)), Some(Value::Object(_))) => inner,
            _ => outer,
        },
        _ => return Err("the vault answers no fields".to_owned()),
    };
    let known = data.iter().filter(|(_, value)| !value.is_null());
    Ok(FieldsOf(known.map(|(name, value)| (name.clone(), text(value))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_the_engine_are_read() {
        let read = |status: u16, body: &str| {
            fields_of(StatusCode::from_u16(status).unwrap(), body.as_bytes()).map(|fields| format!("{:?}", fields.0))
        };
        for (status, body, expected) in [
            (200, r#"{"data": {"a": "x", "n": 7, "gone": null}}"#, Ok(r#"{"a": "x", "n": "7"}"#)),
            (200, r#"{"data": {"data": {"a": "x"}, "metadata": {"version": 3}}}"#, Ok(r#"{"a": "x"}"#)),
            (200, r#"{"data": {"data": "x"}}"#, Ok(r#"{"data": "x"}"#)),
            (200, "<html>", Err("the vault answers no fields")),
            (404, r#"{"errors": []}"#, Err("the vault has nothing there")),
            (403, r#"{"errors": ["permission denied"]}"#, Err(r#"the vault answers 403: ["permission denied"]"#)),
        ] {
            assert_eq!(read(status, body).as_deref().map_err(String::as_str), expected, "{body}");
        }
    }
}
