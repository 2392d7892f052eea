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

impl AccessRule {
    /// Whether somebody who was let in may stay: still holds a role that is asked for.
    pub fn still_holds(self, roles: RoleSet) -> bool {
        match self {
            AccessRule::Public | AccessRule::Authenticated => true,
            AccessRule::Roles(wanted) => roles.intersects(wanted),
        }
    }
}
