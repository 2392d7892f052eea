//! What stores hold: bytes that nobody wrote make no session, and what is read is what is written again; a session ends whatever its
//! record says.

use crate::session::Part;
use crate::session::store::probe;
use crate::startup::transfer::is_line_kept;

/// The whole of a store.
const PART: Part = Part { index: 0, of: 1 };

/// `data` is a record, a line of an export, or what a script of the shared store answers.
pub fn hold(data: &[u8]) {
    if let Ok(session) = probe::decode(data) {
        let again = probe::encode(&session).expect("it was read");
        assert_eq!(probe::decode(&again).expect("it was written"), session);
        assert!(session.due() <= session.ends, "{session:?}");
        assert_eq!(session.limits().ends, session.ends);
        assert_eq!(session.who().subject, session.subject);
    }
    let Ok(text) = str::from_utf8(data) else { return };
    assert_ne!(is_line_kept(text), Some(false), "another line is written than was read");
    if let Ok(event) = probe::event(text, PART) {
        let told = probe::told(&event);
        assert_eq!(probe::event(&told, PART).expect("it was written"), event, "{text:?}");
    }
    probe::answers(text);
}
