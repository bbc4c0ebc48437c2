//! An S3 server in this process over a directory, which checks signatures, with faults in front of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::check::Breach;
use crate::leftovers;
use crate::pointers::Pointers;

/// Who may use it.
pub const ACCESS_KEY: &str = "AKIACHAOS";
/// The secret to that.
pub const SECRET_KEY: &str = "chaos-secret-key";
/// The one bucket.
pub const BUCKET: &str = "archive";

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// An object is put.
    Put,
    /// An object is got.
    Get,
    /// Objects are listed.
    List,
    /// Anything else.
    Other,
}

/// What goes wrong with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Every one is answered with this status, and is not carried out.
    Status(u16),
    /// Every one is carried out, and answered with this status all the same.
    LostAnswer(u16),
    /// The connection breaks when half of what is sent has come.
    TornUpload,
    /// No answer comes.
    Silence,
    /// Bodies of answers come a byte a second.
    SlowBody,
    /// Bodies of objects end half way, as if that were all.
    CutBody,
    /// A bit of each object is flipped on its way.
    FlippedBit,
    /// Listings show nothing that was put after this fault began.
    StaleList,
}

type Body = BoxBody<Bytes, std::io::Error>;

/// The server. It ends with the runtime.
#[derive(Debug)]
pub struct S3 {
    endpoint: String,
    root: TempDir,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Where the objects are.
    objects: PathBuf,
    /// Pointers of an archive that are put here are held against its laws.
    pointers: Mutex<Option<Pointers>>,
    /// Puts of pointers come one after the other: the server behind looks at a condition first, and then writes.
    moving: tokio::sync::Mutex<()>,
    fault: Mutex<Option<(Option<Call>, Fault)>>,
    /// The last listing of each query, for a stale one.
    listings: Mutex<std::collections::BTreeMap<String, (StatusCode, Bytes)>>,
    hit: std::sync::atomic::AtomicU64,
}

impl S3 {
    /// Starts it at an address, which may have port 0.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(address: &str) -> Result<Self> {
        let root = leftovers::directory("s3-")?;
        std::fs::create_dir(root.path().join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(root.path()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State {
            objects: root.path().join(BUCKET),
            pointers: Mutex::default(),
            moving: tokio::sync::Mutex::default(),
            fault: Mutex::default(),
            listings: Mutex::default(),
            hit: std::sync::atomic::AtomicU64::new(0),
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, state) = (service.clone(), shared.clone());
                tokio::spawn(async move {
                    let answer = service_fn(move |request| answer(service.clone(), state.clone(), request));
                    // A client that goes away is its own affair.
                    let _ = Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(Self { endpoint, root, state })
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    /// The settings `archive.*` of whoever uses it.
    #[must_use]
    pub fn settings(&self) -> Vec<String> {
        vec![
            format!("archive.s3.bucket={BUCKET}"),
            format!("archive.s3.endpoint={}", self.endpoint),
            "archive.s3.region=us-east-1".to_owned(),
            "archive.s3.path_style=true".to_owned(),
            format!("archive.s3.access_key_id={ACCESS_KEY}"),
            format!("archive.s3.secret_access_key={SECRET_KEY}"),
            "archive.s3.timeout=2s".to_owned(),
        ]
    }

    /// From now on every pointer that is put here is held against the laws of an archive.
    pub fn watch(&self, pointers: Pointers) {
        *self.state.pointers.lock().expect("no code panics while it holds it") = Some(pointers);
    }

    /// What was wrong with pointers that were put here.
    #[must_use]
    pub fn breaches(&self) -> Vec<Breach> {
        let pointers = self.state.pointers.lock().expect("no code panics while it holds it");
        pointers.as_ref().map(|pointers| pointers.breaches().to_vec()).unwrap_or_default()
    }

    /// Where the objects are.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Where everything is.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// From now on this goes wrong; `None`: nothing.
    pub fn set(&self, fault: Option<Fault>) {
        self.set_for(None, fault);
    }

    /// The same with requests of one kind alone.
    pub fn set_for(&self, call: Option<Call>, fault: Option<Fault>) {
        *self.state.fault.lock().expect("no code panics while it holds it") = fault.map(|fault| (call, fault));
    }

    /// How many requests a fault has met.
    #[must_use]
    pub fn hit(&self) -> u64 {
        self.state.hit.load(std::sync::atomic::Ordering::Relaxed)
    }
}

async fn answer(service: S3Service, state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>> {
    let is_get = request.method() == Method::GET;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_list = is_get && query.contains("list-type");
    let call = match *request.method() {
        Method::GET if is_list => Call::List,
        Method::GET => Call::Get,
        Method::PUT => Call::Put,
        _ => Call::Other,
    };
    let fault = *state.fault.lock().expect("no code panics while it holds it");
    let fault = fault.filter(|(wanted, _)| wanted.is_none_or(|wanted| wanted == call)).map(|(_, fault)| fault);
    if fault.is_some() {
        state.hit.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    match fault {
        Some(Fault::Status(status)) => {
            let mut response = Response::new(full(Bytes::new()));
            *response.status_mut() = StatusCode::from_u16(status)?;
            return Ok(response);
        }
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::TornUpload) if call == Call::Put => {
            let mut body = request.into_body();
            let _ = body.frame().await;
            anyhow::bail!("the connection is broken");
        }
        _ => {}
    }
    let key = request.uri().path().trim_start_matches('/').split_once('/').map(|(_, key)| key.to_owned());
    let pointer = key.filter(|key| call == Call::Put && Pointers::is_one(key));
    let moving = match pointer {
        Some(_) => Some(state.moving.lock().await),
        None => None,
    };
    let response = Service::call(&service, request).await.map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let (mut parts, body) = response.into_parts();
    if let Some(key) = pointer.filter(|_| parts.status.is_success()) {
        let lies = std::fs::read(state.objects.join(&key))?;
        if let Some(pointers) = &mut *state.pointers.lock().expect("no code panics while it holds it") {
            pointers.put(&state.objects, &key, &lies);
        }
    }
    drop(moving);
    let mut bytes = body.collect().await.map_err(|e| anyhow::anyhow!("{e:?}"))?.to_bytes();
    if is_list {
        let mut listings = state.listings.lock().expect("no code panics while it holds it");
        match (fault, listings.get(&query)) {
            (Some(Fault::StaleList), Some((status, old))) => (parts.status, bytes) = (*status, old.clone()),
            (Some(Fault::StaleList), None) => {}
            _ => drop(listings.insert(query, (parts.status, bytes.clone()))),
        }
    }
    let is_object = is_get && !is_list && parts.status == StatusCode::OK;
    match fault {
        Some(Fault::LostAnswer(status)) => {
            parts.status = StatusCode::from_u16(status)?;
            bytes = Bytes::new();
        }
        Some(Fault::CutBody) if is_object => bytes.truncate(bytes.len() / 2),
        Some(Fault::FlippedBit) if is_object && !bytes.is_empty() => {
            let mut flipped = bytes.to_vec();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 4;
            bytes = flipped.into();
        }
        _ => {}
    }
    if parts.status != StatusCode::NOT_MODIFIED {
        parts.headers.insert(hyper::header::CONTENT_LENGTH, bytes.len().into());
    }
    let body = match fault {
        Some(Fault::SlowBody) if is_get => slowly(bytes),
        _ => full(bytes),
    };
    Ok(Response::from_parts(parts, body))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn slowly(bytes: Bytes) -> Body {
    let stream = futures_util::stream::unfold((bytes, 0), |(bytes, at)| async move {
        if at >= bytes.len() {
            return None;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let frame = Frame::data(bytes.slice(at..=at));
        Some((Ok(frame), (bytes, at + 1)))
    });
    BodyExt::boxed(StreamBody::new(stream))
}
