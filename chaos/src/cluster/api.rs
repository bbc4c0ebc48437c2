//! A client of one node's Admin API.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::KEY;
use crate::http::{Client, Reply};

/// A client of one node's Admin API.
#[derive(Debug)]
pub struct Api {
    client: Client,
}

/// A control-plane node as it describes itself, or as another one shows it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its id.
    pub node_id: u64,
    /// leader, follower, learner, candidate, stopped; empty when it does not answer.
    pub role: String,
    /// Whether it votes; only in a list of members.
    pub voter: bool,
    /// The leader that it knows.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// The epoch of its position.
    pub epoch: u64,
    /// The revision of its position.
    pub revision: u64,
    /// The digest of its configuration.
    pub digest: String,
    /// How long the oldest change waits that the record does not have, in milliseconds; 0 in a list of members.
    pub record_lag_ms: u64,
}

impl Api {
    /// A client of the Admin API at this address.
    #[must_use]
    pub fn at(address: &str) -> Self {
        Self { client: Client::new(address) }
    }

    /// The same with another bound on each request.
    #[must_use]
    pub fn patient(self, within: Duration) -> Self {
        Self { client: self.client.patient(within) }
    }

    /// A request with the key and more headers.
    ///
    /// # Errors
    /// When no answer came; it may have been carried out.
    pub async fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Result<Reply> {
        let mut all = vec![("x-api-key", KEY)];
        all.extend_from_slice(headers);
        self.client.send(method, path, &all, body).await
    }

    /// Puts a resource, and wants a 200 or 201.
    ///
    /// # Errors
    /// What came instead.
    pub async fn put(&mut self, kind: &str, id: &str, body: &Value) -> Result<Reply> {
        let path = format!("/apisix/admin/{kind}/{id}");
        self.call("PUT", &path, &[], body.to_string()).await?.expect(&[200, 201])
    }

    /// The value of a resource; `None` when there is none.
    ///
    /// # Errors
    /// When neither is answered.
    pub async fn get(&mut self, kind: &str, id: &str) -> Result<Option<Value>> {
        let reply = self.call("GET", &format!("/apisix/admin/{kind}/{id}"), &[], String::new()).await?;
        let reply = reply.expect(&[200, 404])?;
        Ok(if reply.status == 404 { None } else { Some(reply.json()?["value"].take()) })
    }

    /// How the node is doing.
    ///
    /// # Errors
    /// When it does not say so.
    pub async fn status(&mut self) -> Result<NodeView> {
        let reply = self.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?;
        NodeView::read(&reply.json()?)
    }

    /// Every member, as this node sees it.
    ///
    /// # Errors
    /// When it does not say so.
    pub async fn members(&mut self) -> Result<Vec<NodeView>> {
        let reply = self.call("GET", "/v1/cluster", &[], String::new()).await?.expect(&[200])?.json()?;
        reply["members"].as_array().context("no members")?.iter().map(NodeView::read).collect()
    }

    /// The proxies, as this node knows them and has heard of them: name, whom it follows, and revision.
    ///
    /// # Errors
    /// When it does not say so.
    pub async fn fleet(&mut self) -> Result<Vec<(String, u64, Option<u64>)>> {
        let reply = self.call("GET", "/v1/fleet", &[], String::new()).await?.expect(&[200])?.json()?;
        let proxies = reply["proxies"].as_array().context("no proxies")?;
        let read = |p: &Value| Some((p["name"].as_str()?.to_owned(), p["node_id"].as_u64()?, p["revision"].as_u64()));
        proxies.iter().map(|p| read(p).context("a proxy without a name")).collect()
    }
}

impl NodeView {
    fn read(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64();
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            node_id: number("node_id").with_context(|| format!("no node_id in {value}"))?,
            role: text("role"),
            voter: value["voter"].as_bool().unwrap_or_default(),
            leader: number("leader").filter(|leader| *leader > 0),
            term: number("term").unwrap_or_default(),
            epoch: number("epoch").unwrap_or_default(),
            revision: number("revision").unwrap_or_default(),
            digest: text("digest"),
            record_lag_ms: value["record"]["lag_age_ms"].as_u64().unwrap_or_default(),
        })
    }
}
