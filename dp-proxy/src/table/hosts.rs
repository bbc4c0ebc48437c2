//! Which paths count for a host: those of the host itself, then those of wildcards from the longest, then those of no
//! host. Where nothing in a more specific host takes a request, the next is asked.

use protocol::Text;
use protocol::resource::HostPattern;
use smallvec::SmallVec;

use super::paths::Paths;
use super::radix::Radix;

/// The longest host name, in bytes (RFC 1035 §2.3.4, with room for brackets).
pub(crate) const HOST_BYTES_MAX: usize = 255;

/// Wildcards that one host falls under; more than that move to the heap.
const DEPTH_INLINE: usize = 4;

/// The paths of every host. Hosts stand backwards in the tree, so that one walk finds a host and all wildcards over it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    named: Radix<HostPaths>,
    any: Paths,
}

#[derive(Clone, Debug, Default)]
struct HostPaths {
    exact: Paths,
    suffix: Paths,
}

impl Hosts {
    /// Asks the paths that count for `host`, the most specific first, until one has an answer. The number says how many
    /// bytes of the host a wildcard fixed, `None` that no pattern of hosts took part.
    pub(crate) fn find<'t, T>(
        &'t self,
        host: &str,
        mut ask: impl FnMut(&'t Paths) -> Option<T>,
    ) -> Option<(T, MatchedHost)> {
        if !self.named.is_empty() {
            let mut backwards: SmallVec<[u8; HOST_BYTES_MAX]> = SmallVec::from_slice(host.as_bytes());
            backwards.reverse();
            let mut passed: SmallVec<[(&HostPaths, usize); DEPTH_INLINE]> = SmallVec::new();
            self.named.each_prefix(&backwards, |paths, used| passed.push((paths, used)));
            if let Some((paths, _)) = passed.last().filter(|(_, used)| *used == host.len())
                && let Some(found) = ask(&paths.exact)
            {
                return Some((found, MatchedHost::Exact));
            }
            for (paths, used) in passed.iter().rev() {
                if let Some(found) = ask(&paths.suffix) {
                    return Some((found, MatchedHost::Suffix(*used)));
                }
            }
        }
        ask(&self.any).map(|found| (found, MatchedHost::Any))
    }

    /// Changes the paths everywhere where a route stands.
    pub(super) fn update(&mut self, standing: Standing<'_>, mut change: impl FnMut(&mut Paths)) {
        match standing {
            Standing::Nowhere => {}
            Standing::Anywhere => change(&mut self.any),
            Standing::Under(hosts) => hosts.iter().for_each(|host| self.update_one(host, &mut change)),
        }
    }

    fn update_one(&mut self, pattern: &HostPattern, change: impl FnOnce(&mut Paths)) {
        let (text, is_exact) = match pattern {
            HostPattern::Exact(host) => (host, true),
            HostPattern::Suffix(suffix) => (suffix, false),
        };
        let backwards: SmallVec<[u8; HOST_BYTES_MAX]> = text.bytes().rev().collect();
        self.named.update(&backwards, |slot| {
            let paths = slot.get_or_insert_default();
            change(if is_exact { &mut paths.exact } else { &mut paths.suffix });
            if paths.exact.is_empty() && paths.suffix.is_empty() {
                *slot = None;
            }
        });
    }

    /// Every pattern of hosts with its paths, for comparing two tables.
    pub(crate) fn dump(&self) -> impl Iterator<Item = (String, &Paths)> {
        let named = self.named.iter().flat_map(|(backwards, paths)| {
            let host: String = String::from_utf8_lossy(&backwards).chars().rev().collect();
            [(host.clone(), &paths.exact), (format!("*{host}"), &paths.suffix)]
        });
        named.filter(|(_, paths)| !paths.is_empty()).chain([("(any)".to_owned(), &self.any)])
    }
}

/// Under which hosts a route stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing<'h> {
    /// It takes nothing.
    Nowhere,
    /// Under none: it takes all.
    Anywhere,
    /// Under these.
    Under(&'h [HostPattern]),
}

/// By which pattern of hosts a request was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchedHost {
    /// The route takes every host.
    Any,
    /// The host itself.
    Exact,
    /// A wildcard over so many bytes of the host's end.
    Suffix(usize),
}

impl MatchedHost {
    /// The pattern that took `host`; empty for "any".
    #[must_use]
    pub fn pattern(self, host: &str) -> Text {
        match self {
            Self::Any => Text::default(),
            Self::Exact => host.into(),
            Self::Suffix(bytes) => {
                let suffix = host.len().checked_sub(bytes).and_then(|at| host.get(at..)).unwrap_or(host);
                format!("*{suffix}").into()
            }
        }
    }
}
