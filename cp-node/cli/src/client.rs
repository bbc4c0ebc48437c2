//! Asks one node after the other until one answers for good.
//!
//! Every write carries an idempotency key. So a write whose answer was lost is sent again under the same key, to the next
//! node, and is carried out once however often it arrives.

use std::time::{Duration, Instant};

use protocol::seam::Random;
use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use crate::failure::Failure;
use crate::tls::TlsFiles;

/// How long one node may take, so that there is time for the others.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);

/// The pause before all nodes are asked once more.
const PAUSE: Duration = Duration::from_millis(300);

/// How long a node may take to say that it cannot write: its own bound is 2 s. A write that is cut off sooner would leave
/// its outcome unknown for no reason.
const REFUSAL_MAX: Duration = Duration::from_millis(2500);

/// The largest answer that is read: a list of everything.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A client of the Admin API.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    servers: Vec<String>,
    key: String,
    deadline: Instant,
    /// The id of the write that this command is.
    request: String,
}

/// An answer for good.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The position that it speaks of.
    pub(crate) position: Option<String>,
    /// What the node thought worth a word.
    pub(crate) warning: Option<String>,
    pub(crate) body: Value,
}

/// What became of one attempt.
enum Attempt {
    /// An answer for good.
    Answered(Answer),
    /// The node cannot serve it now; it was not carried out.
    NotApplied(String),
    /// It may have been carried out.
    Unknown(String),
}

impl Client {
    pub(crate) fn new(
        servers: &[String],
        key: String,
        timeout: Duration,
        tls: &TlsFiles,
        random: &dyn Random,
    ) -> Result<Self, Failure> {
        for server in servers {
            if !server.starts_with("http://") && !server.starts_with("https://") {
                let problem = "must be http://<host>:<port> or https://<host>:<port>";
                return Err(Failure::Usage(format!("--server {server:?}: {problem}")));
            }
        }
        let mut agent =
            Agent::config_builder().http_status_as_error(false).timeout_connect(Some(Duration::from_secs(2)));
        if servers.iter().any(|server| server.starts_with("https://")) {
            agent = agent.tls_config(tls.config()?);
        }
        Ok(Self {
            agent: agent.build().into(),
            servers: servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect(),
            key,
            deadline: Instant::now() + timeout,
            request: random.bytes16().iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// The write is to be the one that an earlier command was, under this id.
    pub(crate) fn repeat(&mut self, request: &str) {
        request.clone_into(&mut self.request);
    }

    /// Gives everything so much more time.
    pub(crate) fn extend(&mut self, by: Duration) {
        self.deadline += by;
    }

    /// Reads.
    pub(crate) fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.send(&Method::GET, path, &[], None)
    }

    /// Fetches a file: its position and its bytes. Asking twice is no harm.
    pub(crate) fn download(&mut self, path: &str) -> Result<(Option<String>, Vec<u8>), Failure> {
        let mut reasons = Vec::new();
        for server in &self.servers {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let request = Request::builder()
                .method(Method::POST)
                .uri(format!("{server}{path}"))
                .header("x-api-key", &self.key)
                .body(())
                .map_err(|e| Failure::Usage(e.to_string()))?;
            let request = self.agent.configure_request(request).timeout_global(Some(left));
            let mut response = match self.agent.run(request.build()) {
                Ok(response) => response,
                Err(e) => {
                    reasons.push(format!("{server}: {e}"));
                    continue;
                }
            };
            if response.status().as_u16() != 200 {
                match read(response) {
                    Attempt::Answered(answer) => {
                        refused_or(answer)?;
                        reasons.push(format!("{server}: an answer that is no file"));
                    }
                    Attempt::NotApplied(reason) | Attempt::Unknown(reason) => {
                        reasons.push(format!("{server}: {reason}"));
                    }
                }
                continue;
            }
            let position = response.headers().get("x-holdfast-position").and_then(|p| p.to_str().ok());
            let position = position.map(ToOwned::to_owned);
            match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec() {
                Ok(bytes) => return Ok((position, bytes)),
                Err(e) => reasons.push(format!("{server}: {e}")),
            }
        }
        Err(Failure::Unreachable(reasons))
    }

    /// Sends a file until a node answers it for good.
    pub(crate) fn upload(&mut self, path: &str, file: &[u8]) -> Result<Answer, Failure> {
        self.send_bytes(&Method::POST, path, &[], Some(file), "application/octet-stream")
    }

    /// Sends a request until a node answers it for good.
    pub(crate) fn send(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&str>,
    ) -> Result<Answer, Failure> {
        self.send_bytes(method, path, headers, body.map(str::as_bytes), "application/json")
    }

    fn send_bytes(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&[u8]>,
        media_type: &str,
    ) -> Result<Answer, Failure> {
        let mut unknown = None;
        let mut asked = false;
        // The first attempt is made however little time was given.
        let needs = if method == Method::GET { Duration::ZERO } else { REFUSAL_MAX };
        loop {
            let mut reasons = Vec::new();
            for server in &self.servers {
                if asked && Instant::now() + needs >= self.deadline {
                    reasons.push(format!("{server}: there was no time left to ask it"));
                    continue;
                }
                asked = true;
                match self.attempt(server, method, path, headers, body, media_type) {
                    Attempt::Answered(answer) => {
                        return match (refused_or(answer), unknown) {
                            (Err(Failure::Refused(why)), Some(_)) => Err(self.in_doubt(&why)),
                            (settled, _) => settled,
                        };
                    }
                    Attempt::NotApplied(reason) => reasons.push(format!("{server}: {reason}")),
                    Attempt::Unknown(reason) if method == Method::GET => reasons.push(format!("{server}: {reason}")),
                    Attempt::Unknown(reason) => unknown = Some(format!("{server}: {reason}")),
                }
            }
            if Instant::now() + PAUSE + needs >= self.deadline {
                return Err(match unknown {
                    Some(reason) => Failure::Unknown { reason, request: self.request.clone() },
                    None => Failure::Unreachable(reasons),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A refusal after an attempt whose outcome is unknown: that one may have been carried out, and may be the reason.
    fn in_doubt(&self, refusal: &str) -> Failure {
        let reason = format!("{refusal}\nan earlier attempt got no answer and may have been carried out: look first");
        Failure::Unknown { reason, request: self.request.clone() }
    }

    fn attempt(
        &self,
        server: &str,
        method: &Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&[u8]>,
        media_type: &str,
    ) -> Attempt {
        let left = self.deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_MAX.max(large(body)));
        let mut request =
            Request::builder().method(method).uri(format!("{server}{path}")).header("x-api-key", &self.key);
        if method != Method::GET {
            request = request.header("idempotency-key", &self.request).header("content-type", media_type);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = match request.body(body.unwrap_or_default()) {
            Ok(request) => request,
            Err(e) => return Attempt::NotApplied(e.to_string()),
        };
        let request = self.agent.configure_request(request).timeout_global(Some(left)).allow_non_standard_methods(true);
        match self.agent.run(request.build()) {
            Ok(response) => read(response),
            Err(e @ (ureq::Error::ConnectionFailed | ureq::Error::HostNotFound | ureq::Error::BadUri(_))) => {
                Attempt::NotApplied(e.to_string())
            }
            Err(ureq::Error::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Attempt::NotApplied(e.to_string())
            }
            Err(ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)) => {
                Attempt::NotApplied("no connection in time".to_owned())
            }
            Err(ureq::Error::Timeout(_)) => Attempt::Unknown(format!("no answer within {:.1} s", left.as_secs_f64())),
            Err(e) => Attempt::Unknown(e.to_string()),
        }
    }
}

/// A large transaction takes its time, mostly in crossing the links between nodes.
fn large(body: Option<&[u8]>) -> Duration {
    Duration::from_secs(body.map_or(0, <[u8]>::len) as u64 / (1 << 20) * 2)
}

fn read(mut response: Response<Body>) -> Attempt {
    let status = response.status().as_u16();
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (position, warning) = (header("x-holdfast-position"), header("x-holdfast-warning"));
    let text = match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string() {
        Ok(text) => text,
        Err(e) => return Attempt::Unknown(e.to_string()),
    };
    let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.trim().to_owned()));
    match status {
        503 => Attempt::NotApplied(sentence(status, &body)),
        504 => Attempt::Unknown(sentence(status, &body)),
        _ => Attempt::Answered(Answer { status, position, warning, body }),
    }
}

/// The reason that an answer gives.
fn sentence(status: u16, body: &Value) -> String {
    let words: Vec<&str> = ["error_msg", "message", "description"]
        .iter()
        .filter_map(|name| body[*name].as_str())
        .chain(body.as_str())
        .collect();
    if words.is_empty() { format!("{status}: {body}") } else { format!("{status}: {}", words.join(": ")) }
}

/// An answer for good, or the refusal that it is.
fn refused_or(answer: Answer) -> Result<Answer, Failure> {
    if answer.status < 400 {
        return Ok(answer);
    }
    let mut lines = vec![sentence(answer.status, &answer.body)];
    for error in answer.body["errors"].as_array().into_iter().flatten() {
        let part = |name: &str| error[name].as_str().unwrap_or_default();
        lines.push(format!("  {}: {}", part("path"), part("message")));
    }
    Err(Failure::Refused(lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use daemon::seams::SystemRandom;

    use super::*;

    /// A node that gives these answers, one to each connection; an empty one is none.
    fn node(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn put(answers: &'static [&'static str]) -> Result<Answer, Failure> {
        let within = Duration::from_secs(10);
        let mut client =
            Client::new(&[node(answers)], "k".into(), within, &TlsFiles::default(), &SystemRandom).unwrap();
        client.repeat("job");
        client.send(&Method::PUT, "/apisix/admin/routes/r", &[], None)
    }

    const CREATED: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    const MISMATCH: &str =
        "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 17\r\nconnection: close\r\n\r\n{\"error_msg\":\"x\"}";

    #[test]
    fn a_refusal_after_an_attempt_without_an_answer_leaves_its_outcome_unknown() {
        assert_eq!(put(&[MISMATCH]).unwrap_err(), Failure::Refused("412: x".into()));
        assert_eq!(put(&["", CREATED]).unwrap().status, 201);
        let failure = put(&["", MISMATCH]).unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        let text = failure.to_string();
        assert!(text.starts_with("412: x\nan earlier attempt got no answer"), "{text}");
        assert!(text.ends_with("--request-id job"), "{text}");
    }
}
