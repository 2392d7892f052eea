//! Routes, and the one that a request falls under. One decision: the most specific route wins whatever the order in the
//! file – host before path, the longer path before the shorter – and where it does not list the method the answer is 405,
//! never a less specific route (a `POST` must not slip past `/admin`'s rule to `/`'s). Knows nothing of callers.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::access::AccessRule;
use super::head::RequestHead;
use super::host::HostPattern;
use super::path::PathPrefix;

/// An index into the configured upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Which credentials a route reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The session cookie.
    pub session: bool,
    /// A bearer token.
    pub token: bool,
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name in logs and explanations.
    pub name: String,
    /// The line of the file it begins on.
    pub line: usize,
    /// Hosts it answers for.
    pub host: HostPattern,
    /// Paths it answers for.
    pub path: PathPrefix,
    /// Methods it answers for; `None` is every one (but CONNECT and TRACE, which no request reaches a route with).
    pub methods: Option<Vec<Method>>,
    /// Who may pass.
    pub access: AccessRule,
    /// Which credentials are read.
    pub accept: Accept,
    /// Where it leads.
    pub upstream: UpstreamId,
}

impl Route {
    /// Whether the method is one of the route's. Methods are case-sensitive (RFC 9110 §9.1).
    pub fn allows(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

/// What [`RouteTable::find`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'t> {
    /// The route.
    Route(&'t Arc<Route>),
    /// None covers host and path.
    Nothing,
    /// The most specific place lists other methods.
    Method(Vec<Method>),
    /// A lenient reading of the path falls under another route; see [`super::CanonicalPath::lenient`].
    Ambiguous,
}

/// Two routes of which nobody could say which one wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The earlier one.
    pub one: Route,
    /// The later one.
    pub other: Route,
    /// Their paths differ, but not to a server that ignores letter case or trailing dots.
    pub lenient: bool,
}

/// Routes that stand at the same host and path and differ by method.
type Place = Vec<Arc<Route>>;

/// The places of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    places: HashMap<String, Place>,
    /// The prefixes as a lenient server reads them, and how they are written.
    folded: HashMap<String, String>,
}

/// All routes, arranged for finding.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, Paths>,
    /// Longest suffix first.
    under: Vec<(String, Paths)>,
    any: Paths,
    all: Vec<Arc<Route>>,
    /// Some prefix is written as a lenient server would not read it (`/Reports`): then every path is read both ways, for
    /// `/reports` is that prefix too to such a server.
    mixed: bool,
}

impl RouteTable {
    /// Arrange.
    ///
    /// # Errors
    /// The first two routes that clash: same host, path and a shared method, or paths that a lenient server takes for one.
    pub fn new(routes: Vec<Route>) -> Result<RouteTable, Box<Clash>> {
        let mut table = RouteTable::default();
        for route in routes {
            let route = Arc::new(route);
            let written = route.path.as_str();
            let folded = route.path.lenient();
            table.mixed |= folded != written;
            let paths = table.paths_mut(&route.host);
            let clash =
                |twin: &Route, lenient| Box::new(Clash { one: twin.clone(), other: Route::clone(&route), lenient });
            let other = paths.folded.entry(folded).or_insert_with(|| written.to_owned());
            if other != written {
                return Err(clash(&paths.places[other][0], true));
            }
            let place = paths.places.entry(written.to_owned()).or_default();
            if let Some(twin) = place.iter().find(|other| overlap(other, &route)) {
                return Err(clash(twin, false));
            }
            place.push(route.clone());
            // A route that lists methods is more specific than its neighbour that takes every one.
            place.sort_by_key(|route| route.methods.is_none());
            table.all.push(route);
        }
        table.under.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Ok(table)
    }

    fn paths_mut(&mut self, host: &HostPattern) -> &mut Paths {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Under(suffix) => {
                let at = self.under.iter().position(|(other, _)| other == suffix).unwrap_or_else(|| {
                    self.under.push((suffix.clone(), Paths::default()));
                    self.under.len() - 1
                });
                &mut self.under[at].1
            }
        }
    }

    /// The route a request falls under.
    pub fn find<'t>(&'t self, head: &RequestHead<'_>) -> Found<'t> {
        let (host, path) = (head.host.as_str(), head.path.decoded());
        let place = self.levels(host).find_map(|paths| longest(path, |prefix| paths.places.get(prefix)));
        let lenient = head.path.lenient().or(self.mixed.then_some(path));
        if let Some(lenient) = lenient {
            let read = |paths: &'t Paths| longest(lenient, |prefix| paths.places.get(paths.folded.get(prefix)?));
            let other = self.levels(host).find_map(read);
            if place.map(std::ptr::from_ref) != other.map(std::ptr::from_ref) {
                return Found::Ambiguous;
            }
        }
        let Some(place) = place else { return Found::Nothing };
        match place.iter().find(|route| route.allows(head.method)) {
            Some(route) => Found::Route(route),
            None => Found::Method(place.iter().flat_map(|route| route.methods.iter().flatten().cloned()).collect()),
        }
    }

    /// Every route, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.all
    }

    /// The most specific host first: one that knows no such path leaves it to the next.
    fn levels(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let exact = self.exact.get(host).into_iter();
        let under =
            self.under.iter().filter(move |(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix.as_str()));
        exact.chain(under.map(|(_, paths)| paths)).chain([&self.any])
    }
}

/// Walk the segment boundaries from the whole path to the root.
fn longest<T>(path: &str, at: impl Fn(&str) -> Option<T>) -> Option<T> {
    let mut prefix = path;
    loop {
        if let Some(found) = at(prefix) {
            return Some(found);
        }
        match prefix.rfind('/')? {
            0 => return at("/"),
            slash => prefix = &prefix[..slash],
        }
    }
}

fn overlap(one: &Route, other: &Route) -> bool {
    match (&one.methods, &other.methods) {
        (Some(one), Some(other)) => one.iter().any(|method| other.contains(method)),
        (None, None) => true,
        _ => false,
    }
}
