//! A host for the tests of plugins.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use protocol::resource::{Known, Values, Variable};
use serde_json::Value;

use super::{
    Answer, Behaviour, Chain, Credential, Host, Identity, Instance, Login, Metadata, Request, Response, Step, find,
};

/// Knows what a test tells it.
#[derive(Debug)]
pub(crate) struct TestHost {
    /// As it came.
    pub(crate) method: Method,
    /// The target that was asked for.
    pub(crate) path: String,
    /// As they came.
    pub(crate) headers: HeaderMap,
    /// Arguments beside those in the target.
    pub(crate) arguments: Vec<(String, String)>,
    pub(crate) cookies: Vec<(String, String)>,
    pub(crate) now: Duration,
    pub(crate) wall_seconds: u64,
    pub(crate) random: [u8; 16],
    pub(crate) identity: Identity,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) credentials: Vec<(&'static str, Credential)>,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::knowing("nobody", &[])
    }
}

impl TestHost {
    /// One that knows a consumer by these configurations.
    pub(crate) fn knowing(consumer: &str, by: &[(&'static str, Value)]) -> Self {
        let credential =
            |(plugin, conf): &(&'static str, Value)| (*plugin, find(plugin).unwrap().credential(conf).unwrap());
        Self {
            method: Method::GET,
            path: "/a".to_owned(),
            headers: HeaderMap::new(),
            arguments: Vec::new(),
            cookies: Vec::new(),
            now: Duration::ZERO,
            wall_seconds: 0,
            random: [7; 16],
            identity: Identity { consumer: consumer.into(), credential: None, custom_id: None, group: None },
            metadata: None,
            credentials: by.iter().map(credential).collect(),
        }
    }
}

impl Values for TestHost {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let text = match variable {
            Variable::Known(Known::RemoteAddr) => "127.0.0.1".to_owned(),
            Variable::Known(Known::Host) => "a.example".to_owned(),
            Variable::Known(Known::RequestMethod) => self.method.to_string(),
            Variable::Cookie(name) => self.cookies.iter().find(|(key, _)| *key == name.as_str())?.1.clone(),
            Variable::Known(Known::RequestUri) => self.path.clone(),
            Variable::Known(Known::QueryString) => self.path.split_once('?')?.1.to_owned(),
            Variable::Known(Known::Uri) => self.path.split('?').next()?.to_owned(),
            Variable::Argument(name) => {
                let query = self.path.split_once('?').map_or("", |(_, query)| query);
                let in_query = query.split('&').filter_map(|part| part.split_once('='));
                let all = in_query.chain(self.arguments.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                all.into_iter().find(|(key, _)| *key == name.as_str())?.1.to_owned()
            }
            _ => return None,
        };
        Some(Cow::Owned(text.into_bytes()))
    }
}

impl Host for TestHost {
    fn values(&self) -> &dyn Values {
        self
    }

    fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn wall_seconds(&self) -> u64 {
        self.wall_seconds
    }

    fn random(&self) -> [u8; 16] {
        self.random
    }

    fn metadata(&self, _: &str) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    fn login(&self, plugin: &'static str, identity: &str) -> Option<Login<'_>> {
        let (_, found) = self.credentials.iter().find(|(name, c)| *name == plugin && *c.identity == *identity)?;
        Some(Login { identity: &self.identity, credential: None, proof: &found.proof })
    }

    fn consumer(&self, name: &str) -> Option<&Identity> {
        (self.identity.consumer == *name).then_some(&self.identity)
    }
}

/// A request without headers.
pub(crate) fn request(method: &str, target: &str) -> Request {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Request {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        headers: HeaderMap::new(),
        authority: None,
        remote: "127.0.0.1".parse().unwrap(),
        remote_port: 5,
        secure: false,
        body_bytes_max: None,
        route_id: "r".into(),
        service_id: None,
        identity: None,
        heading: None,
        answer_headers: HeaderMap::new(),
        held: Vec::new(),
    }
}

/// A configured plugin.
#[derive(Debug)]
pub(crate) struct Configured(Instance);

impl std::ops::Deref for Configured {
    type Target = dyn Behaviour;

    fn deref(&self) -> &Self::Target {
        self.0.behaviour()
    }
}

pub(crate) fn behaviour(name: &str, configuration: Value) -> Configured {
    Configured(Instance::read(find(name).unwrap(), "routes/r".into(), &configuration, &configuration).unwrap())
}

pub(crate) fn chain(plugins: Value) -> Chain {
    let Value::Object(plugins) = plugins else { panic!("plugins by name") };
    Chain::compile("routes/r", &plugins, &plugins, &Chain::default()).unwrap()
}

pub(crate) fn answer(step: &Step) -> Option<&Answer> {
    match step {
        Step::Go | Step::Wait(_) | Step::WaitThen(..) | Step::Call(_) | Step::Check(_) => None,
        Step::Answer(answer) => Some(answer),
    }
}

/// What a plugin says of a request and its body in the end; and whether it wanted the body to say so.
pub(crate) fn rewritten(plugin: &dyn Behaviour, request: &mut Request, host: &TestHost, body: &str) -> (Step, bool) {
    match plugin.rewrite(request, host) {
        Step::Check(check) => (plugin.checked(request, host, check.run(body.as_bytes())), true),
        step => (step, false),
    }
}

/// What a plugin makes of an answer.
pub(crate) fn filtered(
    plugin: &dyn Behaviour,
    request: &Request,
    host: &TestHost,
    status: u16,
    headers: &[(&'static str, &'static str)],
) -> (u16, HeaderMap, Option<Bytes>) {
    let mut status = StatusCode::from_u16(status).unwrap();
    let pairs = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    let mut headers: HeaderMap = pairs.collect();
    let mut response = Response::new(&mut status, &mut headers);
    plugin.header_filter(request, &mut response, host);
    let body = response.body.take();
    (status.as_u16(), headers, body)
}

/// Lets a plugin see what an upstream answered.
pub(crate) fn answered_by_upstream(plugin: &dyn Behaviour, request: &Request, host: &TestHost, status: u16) {
    let (mut code, mut headers) = (StatusCode::from_u16(status).unwrap(), HeaderMap::new());
    let mut response = Response::new(&mut code, &mut headers);
    response.upstream_status = Some(status);
    plugin.header_filter(request, &mut response, host);
}
