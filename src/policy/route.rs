//! Routes, and the one that a request falls under. One decision: the most specific route wins whatever the order in the
//! file – host before path, the longer path before the shorter – and where it does not list the method the answer is 405,
//! never a less specific route (a `POST` must not slip past `/admin`'s rule to `/`'s). Knows nothing of callers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, Method};

use super::access::AccessRule;
use super::head::RequestHead;
use super::host::HostPattern;
use super::identity::Proof;
use super::options::{Preflight, RouteOptions, SignInRule};
use super::path::{CanonicalPath, PathError, PathPrefix, is_reserved};
use super::readings::readings;

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

impl Accept {
    /// Whether what was proven by this is read.
    pub fn reads(self, proof: Proof) -> bool {
        match proof {
            Proof::Session => self.session,
            Proof::Token => self.token,
        }
    }
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name in logs and explanations.
    pub name: String,
    /// The line of the file it begins on.
    pub line: usize,
    /// Its place among the routes of the file, as [`RouteTable::new`] counts them.
    pub index: usize,
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
    /// What else is done.
    pub options: RouteOptions,
    /// What it asks of the sign-in.
    pub sign_in: SignInRule,
}

impl Route {
    /// Whether the method is one of the route's. Methods are case-sensitive (RFC 9110 §9.1).
    pub fn allows(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }

    /// The same for a request: a preflight is about the method that it announces, where the route has anything to say to one.
    fn takes(&self, head: &RequestHead<'_>) -> bool {
        let announced = head.preflight.as_ref().filter(|_| self.options.preflight != Preflight::Ask);
        self.allows(head.method) || announced.is_some_and(|method| self.allows(method))
    }
}

/// A route that was found, and what its rewrite leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched<'t> {
    /// The route.
    pub route: &'t Arc<Route>,
    /// The path that the application receives, where it is not the one that was asked for.
    pub rewritten: Option<String>,
    /// The route that the rewritten path falls under at the same application: its rule holds as well, or `/v1/admin` would
    /// lead around the rule of `/admin`.
    pub also: Option<&'t Arc<Route>>,
}

/// What [`RouteTable::find`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'t> {
    /// The route.
    Route(Matched<'t>),
    /// None covers host and path.
    Nothing,
    /// The routes of the most specific place list other methods.
    Method(Vec<&'t Arc<Route>>),
    /// A lenient reading of the path falls under another route; see [`super::CanonicalPath::lenient`].
    Ambiguous,
    /// A path with several readings, to a route that does not take those, or not this one: see [`super::CanonicalPath::doubt`].
    Doubtful(PathError),
}

impl Paths {
    /// The place that covers a path most closely, of those that are looked for.
    fn strict(&self, path: &str, fits: &impl Fn(&Place) -> bool) -> Option<&Place> {
        longest(path, self.longest, |prefix| self.places.get(prefix).filter(|place| fits(place)))
    }

    /// The same as a lenient server reads prefixes.
    fn folded(&self, path: &str, fits: &impl Fn(&Place) -> bool) -> Option<&Place> {
        longest(path, self.longest, |prefix| self.places.get(self.folded.get(prefix)?).filter(|place| fits(place)))
    }
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

/// By a text that the file wrote: no request adds one, so nobody can make them collide, and the cheapest hash will do.
type Written<T> = HashMap<String, T, BuildHasherDefault<Fnv>>;

/// FNV-1a.
#[derive(Clone)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The places of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    places: Written<Place>,
    /// Bytes of the longest of their prefixes: of a longer path only its beginning is looked for.
    longest: usize,
    /// The prefixes as a lenient server reads them, and how they are written.
    folded: Written<String>,
}

/// All routes, arranged for finding.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: Written<Paths>,
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
    /// Each route that clashes with an earlier one: same host, path and a shared method, or paths that a lenient server takes for one.
    pub fn new(mut routes: Vec<Route>) -> Result<RouteTable, Vec<Clash>> {
        let (mut table, mut clashes) = (RouteTable::default(), Vec::new());
        tell_methods_apart(&mut routes);
        withhold_tokens(&mut routes);
        for (index, route) in routes.into_iter().enumerate() {
            let route = Arc::new(Route { index, ..route });
            let written = route.path.as_str();
            let folded = route.path.lenient();
            let bytes = written.len().max(folded.len());
            table.mixed |= folded != written;
            let paths = table.paths_mut(&route.host);
            let clash = |twin: &Route, lenient| Clash { one: twin.clone(), other: Route::clone(&route), lenient };
            let other = paths.folded.entry(folded).or_insert_with(|| written.to_owned());
            if other != written {
                clashes.push(clash(&paths.places[other][0], true));
                continue;
            }
            paths.longest = paths.longest.max(bytes);
            let place = paths.places.entry(written.to_owned()).or_default();
            if let Some(twin) = place.iter().find(|other| overlap(other, &route)) {
                clashes.push(clash(twin, false));
            }
            // A route that lists methods is more specific than its neighbour that takes every one.
            let specific = place.partition_point(|other| other.methods.is_some());
            place.insert(if route.methods.is_some() { specific } else { place.len() }, route.clone());
            table.all.push(route);
        }
        table.under.sort_unstable_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        if clashes.is_empty() { Ok(table) } else { Err(clashes) }
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
        let takes = |route: &Arc<Route>| route.options.encoded_slashes;
        let (place, doubt) = (self.place(head, &any), head.path.doubt());
        if let Some(doubt) = doubt
            && !place.is_some_and(|place| place.iter().any(takes))
        {
            return Found::Doubtful(doubt);
        }
        if !self.is_certain(head, &any, place) {
            return doubt.map_or(Found::Ambiguous, Found::Doubtful);
        }
        let Some(place) = place else { return Found::Nothing };
        let Some(route) = place.iter().find(|route| route.takes(head)) else {
            return Found::Method(place.iter().collect());
        };
        let found = self.rewritten(head, route);
        match (doubt, &found) {
            (Some(doubt), Found::Route(matched)) if !takes(matched.route) || !matched.also.is_none_or(takes) => {
                Found::Doubtful(doubt)
            }
            _ => found,
        }
    }

    /// Whether there is something at the start page of the host that this was asked of.
    pub fn has_start(&self, head: &RequestHead<'_>) -> bool {
        let start = CanonicalPath::read("/").map(|path| RequestHead { path, query: None, ..head.clone() });
        start.is_ok_and(|start| !matches!(self.find(&start), Found::Nothing))
    }

    /// Carry out the rewrite and match again.
    fn rewritten<'t>(&'t self, head: &RequestHead<'_>, route: &'t Arc<Route>) -> Found<'t> {
        let Some(prefix) = &route.options.prefix else {
            return Found::Route(Matched { route, rewritten: None, also: None });
        };
        let path = route.path.replaced(&head.path, prefix);
        let Ok(canonical) = CanonicalPath::read(&path) else { return Found::Ambiguous };
        let again = RequestHead { path: canonical, ..head.clone() };
        // What another application has there does not matter, wherever it stands: neither `/` nor `/admin/metrics` of that one may
        // hide this one's rule of `/admin`, and no letter case may.
        let ours = |other: &Route| other.upstream == route.upstream;
        let with_ours = |place: &Place| place.iter().any(|other| ours(other));
        let place = self.place(&again, &with_ours);
        if !self.is_certain(&again, &with_ours, place) {
            return Found::Ambiguous;
        }
        let Some(place) = place else { return Found::Route(Matched { route, rewritten: Some(path), also: None }) };
        let here = place.iter().filter(|other| ours(other));
        match here.clone().find(|other| other.takes(head)) {
            Some(other) => {
                let also = (!Arc::ptr_eq(other, route)).then_some(other);
                Found::Route(Matched { route, also, rewritten: Some(path) })
            }
            None => Found::Method(here.collect()),
        }
    }

    /// The place that a path falls under, read strictly.
    fn place(&self, head: &RequestHead<'_>, fits: &impl Fn(&Place) -> bool) -> Option<&Place> {
        self.levels(head.host.as_str()).find_map(|paths| paths.strict(head.path.decoded(), fits))
    }

    /// Whether the path falls under this place in every other reading too. None of them may be the gateway's own.
    fn is_certain(&self, head: &RequestHead<'_>, fits: &impl Fn(&Place) -> bool, place: Option<&Place>) -> bool {
        let levels = || self.levels(head.host.as_str());
        let lenient = |path: &str| is_same(place, levels().find_map(|paths| paths.folded(path, fits)));
        let both = |path: &String| is_same(place, levels().find_map(|paths| paths.strict(path, fits))) && lenient(path);
        match head.path.doubt() {
            Some(_) => readings(head.path.raw())
                .is_ok_and(|readings| readings.iter().all(|path| !is_reserved(path) && both(path))),
            None => head.path.lenient().or(self.mixed.then_some(head.path.decoded())).is_none_or(lenient),
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

/// Walk the segment boundaries from the whole path to the root; no prefix of more than `most` bytes is there.
fn longest<T>(path: &str, most: usize, at: impl Fn(&str) -> Option<T>) -> Option<T> {
    let mut prefix = path;
    loop {
        if prefix.len() <= most
            && let Some(found) = at(prefix)
        {
            return Some(found);
        }
        match prefix.bytes().rposition(|byte| byte == b'/')? {
            0 => return at("/"),
            slash => prefix = &prefix[..slash],
        }
    }
}

fn is_same(one: Option<&Place>, other: Option<&Place>) -> bool {
    one.map(std::ptr::from_ref) == other.map(std::ptr::from_ref)
}

fn any(_: &Place) -> bool {
    true
}

/// Every method that these list.
pub fn methods(routes: &[&Arc<Route>]) -> Vec<Method> {
    routes.iter().flat_map(|route| route.methods.iter().flatten().cloned()).collect()
}

/// A method that leads around a rule does so at the rule's own place, or, where a path was rewritten, in its application.
fn tell_methods_apart(routes: &mut [Route]) {
    let is_near = |one: &Route, other: &Route| {
        one.upstream == other.upstream || (one.host == other.host && one.path == other.path)
    };
    let by_method = |one: &Route| routes.iter().any(|other| other.methods.is_some() && is_near(one, other));
    let found: Vec<bool> = routes.iter().map(by_method).collect();
    routes.iter_mut().zip(found).for_each(|(route, found)| route.options.by_method = found);
}

/// An application that is handed access tokens at one place may believe the header that they stand in at any other: no client writes it there
/// either. `Authorization` is for clients as well.
fn withhold_tokens(routes: &mut [Route]) {
    let handed = |route: &Route| route.sign_in.access_token.clone().filter(|name| *name != AUTHORIZATION);
    let names = |one: &Route| routes.iter().filter(|other| other.upstream == one.upstream).filter_map(handed).collect();
    let found: Vec<Vec<HeaderName>> = routes.iter().map(names).collect();
    routes.iter_mut().zip(found).for_each(|(route, found)| route.options.withheld = found);
}

fn overlap(one: &Route, other: &Route) -> bool {
    match (&one.methods, &other.methods) {
        (Some(one), Some(other)) => one.iter().any(|method| other.contains(method)),
        (None, None) => true,
        _ => false,
    }
}
