//! The header names of a `[[route]]`, compared. One decision: a name has one meaning towards an application, in whatever spelling;
//! of two lines that a server folds into one nobody knows which it believes. Knows nothing of what stands in them.

use crate::policy::{IdentityHeaders, SIGNED_IDENTITY_PRESETS, is_alias};

use super::table::Table;

/// Keys that name a header which the gateway writes, and the one that keeps lines from the application.
const KEYS: [&str; 4] = ["signed_identity", "access_token_header", "set_headers", REMOVED];
const REMOVED: &str = "remove_headers";

/// Compare them with one another and with those that tell who calls. Takes nothing out of the table.
pub(super) fn meanings(table: &Table<'_, '_>, identity: &IdentityHeaders) {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for key in KEYS {
        for (written, span) in table.words(key) {
            let preset = SIGNED_IDENTITY_PRESETS.iter().find(|(name, _)| key == KEYS[0] && *name == written);
            let name = preset.map_or(written.as_str(), |(_, header)| header);
            // The names of presets are refused in any case, but for a signed identity.
            let is_refused = key != KEYS[0] && IdentityHeaders::reserves(name);
            let field = identity.fields_of(name).next().map(|field| format!("identity_headers.{field}"));
            // To set a name and to remove what clients send of it is one wish; the same name twice is told where it is read.
            let is_twin = |(other_key, other): &&(&str, String)| {
                let is_same = *other_key == key && other.eq_ignore_ascii_case(name);
                let is_one_wish = key == REMOVED && matches!(*other_key, "set_headers" | REMOVED);
                is_alias(other, name) && !is_same && !is_one_wish
            };
            let twin = field.or_else(|| seen.iter().find(is_twin).map(|(twin, _)| (*twin).to_owned()));
            if let Some(twin) = twin.filter(|_| !is_refused) {
                let wrong = format!("`{written}` is the header of `{twin}` too; each needs one of its own");
                table.problem(&span, key, wrong);
            }
            seen.push((key, name.to_owned()));
        }
    }
}
