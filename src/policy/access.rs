//! What a route asks of its caller. One decision: there is no default and no empty rule; "everybody" has to be said.

use super::role::RoleSet;

/// Who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessRule {
    /// Anybody; no credential is read.
    Public,
    /// Anybody who is signed in.
    Authenticated,
    /// Who holds at least one of these. Never empty: the configuration refuses an empty list.
    Roles(RoleSet),
}
