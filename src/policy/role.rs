//! Roles. One decision: a role is declared once and is an index from then on, so that a misspelt one cannot exist in the
//! running gateway. Knows nothing of who holds a role.

/// An index into the declared roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleId(u8);

/// A set of declared roles. Empty means *no role*, never *any role*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RoleSet(u128);

impl RoleSet {
    /// Add one.
    pub fn insert(&mut self, role: RoleId) {
        self.0 |= 1 << role.0;
    }

    /// Whether the two share a role.
    pub fn intersects(self, other: RoleSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles of both.
    pub fn union(self, other: RoleSet) -> RoleSet {
        RoleSet(self.0 | other.0)
    }
}

impl FromIterator<RoleId> for RoleSet {
    fn from_iter<I: IntoIterator<Item = RoleId>>(roles: I) -> Self {
        let mut set = RoleSet::default();
        roles.into_iter().for_each(|role| set.insert(role));
        set
    }
}

/// The declared roles, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleNames(Vec<String>);

impl RoleNames {
    /// How many roles a configuration may declare; a set of them is one machine word pair.
    pub const MAX: usize = 128;

    /// The declared names. `None` when there are more than [`RoleNames::MAX`].
    pub fn new(names: Vec<String>) -> Option<RoleNames> {
        (names.len() <= Self::MAX).then_some(RoleNames(names))
    }

    /// The index of a name, if it is declared.
    pub fn id(&self, name: &str) -> Option<RoleId> {
        let position = self.0.iter().position(|declared| declared == name)?;
        u8::try_from(position).ok().map(RoleId)
    }

    /// All names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The set of those `names` that are declared; the others are dropped: an undeclared role grants nothing.
    pub fn set<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> RoleSet {
        names.into_iter().filter_map(|name| self.id(name)).collect()
    }

    /// The names of a set, in the order of declaration.
    pub fn names(&self, set: RoleSet) -> impl Iterator<Item = &str> {
        self.0.iter().enumerate().filter(move |(index, _)| set.0 >> index & 1 == 1).map(|(_, name)| name.as_str())
    }
}
