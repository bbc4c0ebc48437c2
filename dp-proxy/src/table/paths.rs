//! The paths of one host: which routes may take a path, the most specific first.

use std::cmp::Reverse;
use std::slice;
use std::sync::Arc;

use imbl::Vector;
use protocol::Text;
use protocol::resource::{MethodSet, UriPattern};
use smallvec::SmallVec;

use super::radix::Radix;
use super::route::Route;
use super::template::{self, Segment};
use super::{Ask, Handle};
use crate::path::canonical_pattern;

/// A route's path pattern in canonical spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PathPattern {
    /// This path.
    Exact(Text),
    /// Every path that starts so.
    Prefix(Text),
    /// Every path that starts so and goes on as the segments say.
    Template(Box<(Text, Box<[Segment]>)>),
}

impl PathPattern {
    /// Without `parameters`, what looks like one stands for itself, as in APISIX's routers without them.
    pub(crate) fn compile(pattern: &UriPattern, parameters: bool) -> Self {
        match pattern {
            UriPattern::Template { .. } if !parameters => {
                let text = pattern.to_string();
                match text.strip_suffix('*') {
                    Some(prefix) => Self::Prefix(spelt(prefix)),
                    None => Self::Exact(spelt(&text)),
                }
            }
            UriPattern::Exact(path) => Self::Exact(spelt(path)),
            UriPattern::Prefix(prefix) => Self::Prefix(spelt(prefix)),
            UriPattern::Template { literal, parts } => {
                Self::Template(Box::new((spelt(literal), template::compile(parts))))
            }
        }
    }

    /// Whether it says nothing about a path.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty() || &**prefix == "/")
    }

    fn literal(&self) -> &str {
        match self {
            Self::Exact(literal) | Self::Prefix(literal) => literal,
            Self::Template(template) => &template.0,
        }
    }

    /// How much it says, among patterns with one literal.
    fn segments(&self) -> usize {
        match self {
            Self::Exact(_) | Self::Prefix(_) => 0,
            Self::Template(template) => template.1.len(),
        }
    }
}

/// In the one spelling of paths.
fn spelt(text: &str) -> Text {
    Text::from(&*canonical_pattern(text))
}

/// One pattern of one route: what a path leads to. What most requests are turned away by is held here, so that a
/// mismatch need not look at the route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    priority: i64,
    route: Handle,
    /// Which of the route's patterns.
    pattern: u16,
    methods: MethodSet,
}

/// The candidates under one literal, each part in the order in which they are asked.
#[derive(Clone, PartialEq, Debug)]
enum Candidates {
    /// Under most literals there is one, which needs no allocation.
    One {
        candidate: Candidate,
        /// Whether it takes only the literal itself.
        exact: bool,
    },
    /// First those that take only the literal itself, so many, then those that take more.
    Many { all: Arc<[Candidate]>, exact: u32 },
}

/// Every path pattern of one host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    tree: Radix<Candidates>,
}

/// Candidates that a path passes on its way down; more than that move to the heap.
const DEPTH_INLINE: usize = 12;

impl Paths {
    pub(crate) fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// The route that takes the request, with the number of its pattern: exact paths first, then the longest literal,
    /// each by priority; a route that does not take it is passed over.
    pub(crate) fn find<'t>(
        &'t self,
        routes: &'t Vector<Option<Arc<Route>>>,
        ask: &Ask<'_>,
    ) -> Option<(&'t Arc<Route>, u16)> {
        let mut passed: SmallVec<[(&Candidates, usize); DEPTH_INLINE]> = SmallVec::new();
        self.tree.each_prefix(ask.path.as_bytes(), |candidates, used| passed.push((candidates, used)));
        let takes = |candidate: &Candidate, used: usize| {
            if !candidate.methods.takes(ask.method) {
                return None;
            }
            let route = routes.get(candidate.route.index())?.as_ref()?;
            let pattern = &route.paths[usize::from(candidate.pattern)];
            let fits = match pattern {
                PathPattern::Template(template) => template::matches(&template.1, &ask.path[used..]),
                PathPattern::Exact(_) | PathPattern::Prefix(_) => true,
            };
            (fits && route.takes(ask)).then_some((route, candidate.pattern))
        };
        if let Some((candidates, used)) = passed.last().filter(|(_, used)| *used == ask.path.len())
            && let Some(found) = candidates.exact().iter().find_map(|candidate| takes(candidate, *used))
        {
            return Some(found);
        }
        passed.iter().rev().find_map(|(candidates, used)| candidates.open().iter().find_map(|c| takes(c, *used)))
    }

    /// Enters all patterns of a route. `name` gives the id and the paths of any route here, the new one included.
    pub(crate) fn insert(&mut self, handle: Handle, route: &Route, routes: &Vector<Option<Arc<Route>>>) {
        for (number, pattern) in (0u16..).zip(&*route.paths) {
            let new = Candidate { priority: route.priority, route: handle, pattern: number, methods: route.methods };
            let is_exact = matches!(pattern, PathPattern::Exact(_));
            self.tree.update(pattern.literal().as_bytes(), |slot| {
                let Some(old) = slot else {
                    *slot = Some(Candidates::One { candidate: new, exact: is_exact });
                    return;
                };
                let (mut exact, mut open) = (old.exact().to_vec(), old.open().to_vec());
                let part = if is_exact { &mut exact } else { &mut open };
                let rank = |candidate: &Candidate| {
                    let route = routes.get(candidate.route.index()).and_then(Option::as_ref);
                    let route = route.expect("a candidate's route is in the table");
                    let pattern = &route.paths[usize::from(candidate.pattern)];
                    (Reverse(candidate.priority), Reverse(pattern.segments()), &route.id, candidate.pattern)
                };
                let at = part.partition_point(|other| rank(other) < rank(&new));
                part.insert(at, new);
                *slot = Candidates::of(&exact, &open);
            });
        }
    }

    /// Takes all patterns of a route out.
    pub(crate) fn remove(&mut self, handle: Handle, route: &Route) {
        for pattern in &*route.paths {
            self.tree.update(pattern.literal().as_bytes(), |slot| {
                let Some(old) = slot else { return };
                let without = |part: &[Candidate]| -> Vec<Candidate> {
                    part.iter().filter(|candidate| candidate.route != handle).copied().collect()
                };
                *slot = Candidates::of(&without(old.exact()), &without(old.open()));
            });
        }
    }

    /// Every literal with the routes under it in their order, for comparing two tables.
    pub(crate) fn dump(&self) -> impl Iterator<Item = (String, Vec<(Handle, u16)>)> {
        self.tree.iter().map(|(literal, candidates)| {
            let (exact, open) = (candidates.exact(), candidates.open());
            let all = exact.iter().chain(open).map(|candidate| (candidate.route, candidate.pattern)).collect();
            (format!("{} ({} exact)", String::from_utf8_lossy(&literal), exact.len()), all)
        })
    }
}

impl Candidates {
    fn of(exact: &[Candidate], open: &[Candidate]) -> Option<Self> {
        match (exact, open) {
            ([], []) => None,
            ([candidate], []) => Some(Self::One { candidate: *candidate, exact: true }),
            ([], [candidate]) => Some(Self::One { candidate: *candidate, exact: false }),
            _ => {
                let count = u32::try_from(exact.len()).expect("a table holds fewer than 2^32 routes");
                Some(Self::Many { all: [exact, open].concat().into(), exact: count })
            }
        }
    }

    /// Those that take only the literal itself.
    fn exact(&self) -> &[Candidate] {
        match self {
            Self::One { candidate, exact: true } => slice::from_ref(candidate),
            Self::One { .. } => &[],
            Self::Many { all, exact } => &all[..*exact as usize],
        }
    }

    /// Those that take more.
    fn open(&self) -> &[Candidate] {
        match self {
            Self::One { candidate, exact: false } => slice::from_ref(candidate),
            Self::One { .. } => &[],
            Self::Many { all, exact } => &all[*exact as usize..],
        }
    }
}
