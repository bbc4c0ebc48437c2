//! Configured plugins in the order in which they run.

use std::sync::Arc;

use protocol::resource::plugin_place;
use protocol::resource::scope::check;
use protocol::{Report, Text};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use super::answer::Answer;
use super::host::Host;
use super::list;
use super::meta::Meta;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// A plugin with its configuration.
#[derive(Debug)]
pub struct Instance {
    /// The plugin.
    pub plugin: &'static Plugin,
    /// The resource that it stands in: `routes/<id>`.
    owner: Text,
    /// Its configuration, as it is stored.
    configuration: Value,
    /// The SHA-256 of the configuration with secrets in their places, where that is another one.
    opened: Option<[u8; 32]>,
    meta: Meta,
    behaviour: Box<dyn Behaviour>,
}

/// The plugins of one resource, first to last. Without any it is nothing but a null pointer.
#[derive(Clone, Debug, Default)]
pub struct Chain(Option<Arc<[Arc<Instance>]>>);

/// The plugins of one request, from all resources that have a say, first to last.
pub type Merged<'t> = SmallVec<[&'t Instance; 8]>;

impl Instance {
    /// Reads a configuration in which secrets are open. `stored` is the same as it is stored.
    ///
    /// # Errors
    /// A [`Report`] of everything that is wrong, with places inside the configuration.
    pub(crate) fn read(plugin: &'static Plugin, owner: Text, open: &Value, stored: &Value) -> Result<Self, Report> {
        check(open, |scope| {
            let fields = scope.object()?;
            let meta = fields.optional("_meta", Meta::read).unwrap_or_default();
            let behaviour = (plugin.read)(&fields)?;
            let configuration = stored.clone();
            Some(Self { plugin, owner, configuration, opened: opened(open, stored), meta, behaviour })
        })
    }

    /// The resource that it stands in, as `routes/<id>`.
    #[must_use]
    pub fn owner(&self) -> &Text {
        &self.owner
    }

    /// The plugin's, or the configuration's own.
    #[must_use]
    pub fn priority(&self) -> i64 {
        self.meta.priority.unwrap_or(self.plugin.priority)
    }

    /// Whether it is run for this request.
    #[must_use]
    pub fn applies(&self, request: &Request, host: &dyn Host) -> bool {
        self.meta.filter.as_ref().is_none_or(|filter| filter.holds(&request.seen(host)))
    }

    /// What it does.
    #[must_use]
    pub fn behaviour(&self) -> &(dyn Behaviour + 'static) {
        &*self.behaviour
    }

    /// What came of a phase, with the body that the configuration has for answers.
    #[must_use]
    pub fn settle(&self, step: Step) -> Step {
        let answer = match step {
            Step::Answer(answer) => answer,
            Step::WaitThen(time, then) => return Step::WaitThen(time, Box::new(self.settle(*then))),
            Step::Go | Step::Wait(_) | Step::Call(_) | Step::Check(_) => return step,
        };
        Step::Answer(match &self.meta.error_response {
            Some(Value::String(text)) if answer.status.as_u16() >= 400 => {
                Answer { body: text.clone().into(), ..answer }
            }
            Some(value) if answer.status.as_u16() >= 400 => Answer { body: format!("{value}\n").into(), ..answer },
            _ => answer,
        })
    }
}

impl Chain {
    /// Compiles the plugins of a resource, `owner`. `open` are their configurations with secrets opened, `stored` as they are
    /// stored. What `before` has in the same form is taken over with all that it remembers.
    ///
    /// # Errors
    /// A [`Report`] of everything that this build cannot run.
    pub fn compile(
        owner: &str,
        open: &Map<String, Value>,
        stored: &Map<String, Value>,
        before: &Self,
    ) -> Result<Self, Report> {
        let owner = Text::from(owner);
        let mut instances = Vec::with_capacity(open.len());
        let mut report = Report::default();
        for (name, configuration) in open {
            let stored = stored.get(name).unwrap_or(configuration);
            let is_same = |old: &&Arc<Instance>| {
                old.plugin.name == name && old.configuration == *stored && old.opened == opened(configuration, stored)
            };
            if let Some(same) = before.iter().find(is_same) {
                instances.push(same.clone());
                continue;
            }
            let read = match list::find(name) {
                Some(plugin) => Instance::read(plugin, owner.clone(), configuration, stored),
                None => Err(list::unknown(name)),
            };
            match read {
                Ok(instance) => instances.push(Arc::new(instance)),
                Err(wrong) => report.problems.extend(wrong.within(&plugin_place(name), "").problems),
            }
        }
        if !report.problems.is_empty() {
            return Err(report);
        }
        instances.sort_by_key(|instance| order(instance));
        Ok(Self((!instances.is_empty()).then(|| instances.into())))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The plugins, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.0.iter().flat_map(|instances| instances.iter())
    }
}

/// Equal when they are configured alike: what they remember does not count.
impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        let key = |chain: &Self| -> Vec<_> {
            chain.iter().map(|instance| (instance.plugin.name, instance.configuration.to_string())).collect()
        };
        key(self) == key(other)
    }
}

/// One plugin a line, as it is stored.
impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for instance in self.iter() {
            write!(f, "{} {} ", instance.plugin.name, instance.configuration)?;
        }
        Ok(())
    }
}

/// Tells apart what one stored configuration becomes when secrets change that are kept elsewhere.
fn opened(open: &Value, stored: &Value) -> Option<[u8; 32]> {
    (open != stored).then(|| Sha256::digest(open.to_string()).into())
}

fn order(instance: &Instance) -> (std::cmp::Reverse<i64>, &'static str) {
    (std::cmp::Reverse(instance.priority()), instance.plugin.name)
}

/// The plugins of a request. Of one that several resources configure, the first of them has its way: also where that is
/// to switch it off.
#[must_use]
pub fn merge<'t>(chains: &[&'t Chain]) -> Merged<'t> {
    let mut merged = Merged::new();
    let mut sources = 0;
    for chain in chains.iter().filter(|chain| !chain.is_empty()) {
        sources += 1;
        let known = merged.len();
        for instance in chain.iter() {
            if !merged[..known].iter().any(|other| std::ptr::eq(other.plugin, instance.plugin)) {
                merged.push(instance);
            }
        }
    }
    merged.retain(|instance| !instance.meta.disable);
    if sources > 1 {
        merged.sort_by_key(|instance| order(instance));
    }
    merged
}

/// The plugins of resources that hold all of them for a request: none in place of another, and in one order over all of them.
/// What the resources are called counts for nothing, unless one plugin stands in several.
#[must_use]
pub fn gather<'t>(chains: impl IntoIterator<Item = &'t Chain>) -> Merged<'t> {
    let all = chains.into_iter().flat_map(Chain::iter).map(|instance| &**instance);
    let mut gathered: Merged<'t> = all.filter(|instance| !instance.meta.disable).collect();
    gathered.sort_by_key(|instance| order(instance));
    gathered
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::super::testing::{TestHost, chain, request};
    use super::*;

    fn names(merged: &Merged<'_>) -> Vec<String> {
        merged.iter().map(|i| format!("{} {}", i.plugin.name, i.configuration)).collect()
    }

    #[test]
    fn a_plugin_is_switched_off_for_whatever_stands_behind() {
        let route = chain(json!({"redirect": {"uri": "/x", "_meta": {"disable": true}}, "cors": {}}));
        let service = chain(json!({"redirect": {"uri": "/y"}}));
        assert_eq!(names(&merge(&[&route, &service])), ["cors {}"]);
        assert_eq!(names(&merge(&[&service, &route])), ["cors {}", "redirect {\"uri\":\"/y\"}"]);
        assert_eq!(names(&merge(&[&route])), ["cors {}"]);
    }

    #[test]
    fn the_first_resource_has_its_way_and_priorities_give_the_order() {
        let consumer = chain(json!({"limit-count": {"count": 1, "time_window": 1}}));
        let route = chain(json!({
            "limit-count": {"count": 2, "time_window": 1}, "key-auth": {},
            "redirect": {"uri": "/x", "_meta": {"priority": 9000}},
        }));
        let service = chain(json!({"key-auth": {"header": "k"}, "cors": {}}));
        let none = Chain::default();
        let merged = merge(&[&consumer, &none, &route, &service]);
        assert_eq!(
            names(&merged),
            [
                "redirect {\"_meta\":{\"priority\":9000},\"uri\":\"/x\"}",
                "cors {}",
                "key-auth {}",
                "limit-count {\"count\":1,\"time_window\":1}",
            ]
        );
        assert!(merge(&[&none, &none]).is_empty());
    }

    #[test]
    fn resources_that_all_hold_are_run_in_one_order() {
        let addresses =
            chain(json!({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}, "cors": {"_meta": {"disable": true}}}));
        let real = chain(json!({"real-ip": {"source": "http_x"}, "limit-count": {"count": 1, "time_window": 1}}));
        let again = chain(json!({"ip-restriction": {"whitelist": ["9.0.0.0/8"]}}));
        let names = |chains: [&Chain; 4]| names(&gather(chains)).join(" ");
        let none = Chain::default();
        let expected = "real-ip {\"source\":\"http_x\"} ip-restriction {\"whitelist\":[\"10.0.0.0/8\"]} \
            ip-restriction {\"whitelist\":[\"9.0.0.0/8\"]} limit-count {\"count\":1,\"time_window\":1}";
        assert_eq!(names([&addresses, &real, &none, &again]), expected);
        assert_eq!(names([&real, &addresses, &again, &none]), expected);
    }

    #[test]
    fn what_is_configured_alike_is_taken_over_and_what_is_disabled_is_not_run() {
        let conf = json!({"limit-count": {"count": 1, "time_window": 1}, "key-auth": {"_meta": {"disable": true}}});
        let Value::Object(conf) = conf else { unreachable!("an object") };
        let first = Chain::compile("routes/r", &conf, &conf, &Chain::default()).unwrap();
        assert_eq!(merge(&[&first]).len(), 1);
        let again = Chain::compile("routes/r", &conf, &conf, &first).unwrap();
        assert!(first.iter().zip(again.iter()).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert_eq!(first, again);
        // The same as it is stored, and another secret behind it.
        let Value::Object(stored) = json!({"limit-count": {"count": 1, "time_window": 1, "rejected_msg": "$env://M"}})
        else {
            unreachable!("an object")
        };
        let open = |message: &str| {
            let mut open = stored.clone();
            open["limit-count"]["rejected_msg"] = json!(message);
            open
        };
        let one = Chain::compile("routes/r", &open("one"), &stored, &Chain::default()).unwrap();
        let same = Chain::compile("routes/r", &open("one"), &stored, &one).unwrap();
        let other = Chain::compile("routes/r", &open("two"), &stored, &one).unwrap();
        assert!(Arc::ptr_eq(one.iter().next().unwrap(), same.iter().next().unwrap()));
        assert!(!Arc::ptr_eq(one.iter().next().unwrap(), other.iter().next().unwrap()));
    }

    #[test]
    fn what_cannot_be_run_is_named_by_its_place() {
        let Value::Object(conf) = json!({"nosuch": {}, "limit-count": {"count": 1, "time_window": 0}}) else {
            unreachable!("an object")
        };
        let report = Chain::compile("routes/r", &conf, &conf, &Chain::default()).unwrap_err();
        let places: Vec<_> = report.problems.iter().map(|p| p.path.to_string()).collect();
        assert_eq!(places, ["$.plugins[\"limit-count\"].time_window", "$.plugins.nosuch"]);
    }

    #[test]
    fn meta_filters_requests_and_words_answers() {
        let of = |meta: Value| chain(json!({"key-auth": {"_meta": meta}}));
        let only = of(json!({"filter": [["uri", "==", "/a"]]}));
        let host = |path: &str| TestHost { path: path.to_owned(), ..TestHost::default() };
        for (path, applies) in [("/a", true), ("/b", false)] {
            assert_eq!(merge(&[&only])[0].applies(&request("GET", path), &host(path)), applies, "{path}");
        }
        let refuse = || Step::Answer(Answer::message(StatusCode::UNAUTHORIZED, "no"));
        for (meta, body) in [
            (json!({"error_response": "go away"}), "go away"),
            (json!({"error_response": {"e": 1}}), "{\"e\":1}\n"),
            (json!({}), "{\"message\":\"no\"}\n"),
        ] {
            let worded = of(meta);
            let Step::Answer(answer) = merge(&[&worded])[0].settle(refuse()) else { panic!("an answer") };
            assert_eq!(answer.body, body.as_bytes());
        }
    }
}
