//! Names that come from several places. One decision: what stands before the first `:` says which place a name is of, so that no place can
//! give one that is another's; a name with blanks around it is none, because applications take them off. Knows nothing of who gives names.

/// How the names of one place are kept apart from those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    others: Vec<String>,
}

impl Names {
    /// Of a place with this prefix, which ends with a `:`, or none; beside these of other places.
    pub fn new(prefix: &str, others: impl IntoIterator<Item = String>) -> Names {
        // What stands behind a prefix may look like anything.
        let others = others.into_iter().filter(|other| prefix.is_empty() && !other.is_empty()).collect();
        Names { prefix: prefix.to_owned(), others }
    }

    /// What applications are told of whom this place calls so; `None` where nobody can be called so there.
    pub fn told(&self, name: &str) -> Option<String> {
        let starts = |prefix: &String| {
            name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let fine = !name.is_empty() && name.trim() == name && !self.others.iter().any(starts);
        fine.then(|| format!("{}{name}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn no_place_gives_a_name_of_another() {
        let others = || ["corp:".to_owned(), String::new()];
        let (plain, prefixed) = (Names::new("", others()), Names::new("svc:", others()));
        for (name, alone, behind) in [
            ("alice", Some("alice"), Some("svc:alice")),
            ("corp:alice", None, Some("svc:corp:alice")),
            ("CORP:alice", None, Some("svc:CORP:alice")),
            ("corps:alice", Some("corps:alice"), Some("svc:corps:alice")),
            ("system:node", Some("system:node"), Some("svc:system:node")),
            ("", None, None),
            ("  ", None, None),
            (" alice", None, None),
            ("alice\u{a0}", None, None),
            ("a b", Some("a b"), Some("svc:a b")),
            ("né:x", Some("né:x"), Some("svc:né:x")),
        ] {
            assert_eq!((plain.told(name).as_deref(), prefixed.told(name).as_deref()), (alone, behind), "{name:?}");
        }
    }
}
