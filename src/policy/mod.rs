//! Who may do what. Pure: no IO, no clock, no async, nothing but the standard library and the `http` types.
//!
//! One decision: only [`decide`] can make a [`Permit`], and only a [`Permit`] can be forwarded. Authorization is a type,
//! not a habit. This room does not know where identities come from nor what happens to a permit.

mod access;
mod asked;
mod decide;
mod destination;
mod explain;
mod fields;
mod head;
mod host;
mod identity;
mod identity_headers;
mod load;
mod names;
mod options;
mod path;
mod readings;
mod role;
mod route;
mod told;

pub use access::AccessRule;
pub use asked::Asked;
pub use decide::{Decision, Permit, Reason, decide};
pub use destination::{NotThere, destination};
pub use explain::{Explained, Miss, explain};
pub use fields::{Field, Fields};
pub use head::{HeadError, RequestHead, is_plainly_framed};
pub use host::{Host, HostError, HostPattern};
pub use identity::{Authentication, BadToken, Caller, Identity, Proof, Rejection, SignedIn};
pub use identity_headers::{HeaderNameError, IdentityHeaders, SIGNED_IDENTITY_PRESETS, alias, is_alias};
pub use load::Load;
pub use names::Names;
pub use options::{Cors, HeaderEdits, HostHeader, Preflight, RouteOptions, SignInRule, SignedIdentity};
pub use path::{CanonicalPath, PathError, PathPrefix, RESERVED_PREFIX, is_reserved};
pub use readings::readings;
pub use role::{RoleId, RoleNames, RoleSet};
pub use route::{Accept, Clash, Found, Matched, Route, RouteTable, UpstreamId, methods};
pub use told::Told;
